import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Before torch starts its threads: workers of pytest-xdist share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import derive
import plot
import pretend
import pytest
import torch
from helpers import ACCELERATORS, may_wait, wait_for
from hypothesis import settings
from pages import REFERENCE
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from torchgd.experiment import resolve

collect_ignore = ["compare_oracles.py"]  # a program, which needs jax

# A process in the background of a shell ignores SIGINT, and so would those that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every run, and no example is too slow on a busy machine.
settings.register_profile("torchgd", derandomize=True, deadline=None)
settings.register_profile("many", max_examples=3000, deadline=None)  # --hypothesis-profile=many
settings.load_profile("torchgd")

DTYPES = [torch.float32, torch.float64]


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "run each test marked processes N times: none may depend on the clock"
    parser.addoption("--times", type=int, default=1, metavar="N", help=what)
    what = "take --device auto for the pretended device: no test may need it to be the CPU"
    parser.addoption("--pretend-auto", action="store_true", help=what)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--pretend-auto"):
        for module in (derive, resolve):
            vars(module)["find_device"] = pretend.find_device


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = metafunc.config.getoption("--times")
    if times > 1 and metafunc.definition.get_closest_marker("processes"):
        metafunc.fixturenames.append("time")
        metafunc.parametrize("time", range(times))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if pretend.CUDA:
        return
    skip = pytest.mark.skip(reason=f"no CUDA device (torch {torch.__version__})")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture(params=ACCELERATORS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device that is not the CPU."""
    yield request.param
    may_wait(request.param, True)  # a generator that an exception left may not be closed yet


@pytest.fixture
def named_device(device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, that a script's --device takes too."""
    if device == pretend.NAME:  # which no script knows
        monkeypatch.setattr("torchgd.experiment.resolve.find_device", pretend.find_device)
    return device


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """A real browser, without a window."""
    program, driver = next(filter(None, map(shutil.which, BROWSERS)), None), "chromedriver"
    if program is None or shutil.which(driver) is None:
        pytest.skip(f"no chromedriver with one of {', '.join(BROWSERS)}")
    options = ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1600,1400"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(shutil.which(driver)))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def lessons_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the page to play with, of the lesson's run."""
    folder = tmp_path_factory.mktemp("page")
    assert plot.main([str(REFERENCE), "--format", "html", "--output", str(folder)]) == 0
    return folder / "lesson.html"


@pytest.fixture
def page(
    browser: Chrome, lessons_page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Chrome:
    """That page, opened, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(lessons_page, "lesson.html")
    browser.get(Path("lesson.html").absolute().as_uri())
    return browser


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real TensorBoard on a runs directory with one run of both updates."""
    import train

    runs = tmp_path_factory.mktemp("served")
    assert train.main(["--log-dir", str(runs), "--name", "lesson"]) == 0
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0",
               "--host", "127.0.0.1", "--samples_per_plugin", "scalars=10001"]  # fmt: skip
    log = runs.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, text=True)
    address = re.compile(r"http://127\.0\.0\.1:\d+")
    try:
        found = wait_for(process, lambda: address.search(log.read_text(encoding="utf-8")))
        assert found is not None
        yield found.group(), runs
    finally:
        process.terminate()
        process.wait(timeout=20)
