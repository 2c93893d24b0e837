"""What several test files share."""

import codecs
import functools
import inspect
import json
import locale
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import pretend
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from torch import Tensor
from torch.optim.optimizer import Optimizer
from tqdm import tqdm

from torchgd import Linear, ManualSGD, Model, Quadratic, autograd_gradient, manual_gradient
from torchgd.experiment.command_line import run_script
from torchgd.experiment.run import Outcome, Run, Watch
from torchgd.experiment.state import State
from torchgd.gradients import GradientSource
from torchgd.trajectory import Trajectory

T = TypeVar("T")
ROOT = Path(__file__).parent.parent

# NIST's certified answers, and others computed in rational arithmetic, with their sources.
CERTIFIED = json.loads(
    (Path(__file__).parent / "data" / "certified.json").read_text(encoding="utf-8")
)

MANUAL: tuple[GradientSource, Callable[..., Optimizer]] = (manual_gradient, ManualSGD)
AUTOGRAD: tuple[GradientSource, Callable[..., Optimizer]] = (autograd_gradient, torch.optim.SGD)

# torch's compiler reads its own files, which are UTF-8, in the encoding of the locale.
COMPILES = shutil.which("g++") and codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
needs_compiler = pytest.mark.skipif(not COMPILES, reason="no C++ compiler, or no UTF-8 locale")

# Beside the CPU: the pretended device wherever there is no CUDA (see tests/pretend.py), and CUDA.
BESIDE_CUDA = "this process has CUDA: test_pretend.py starts another for the pretended device"
PRETENDED = pytest.param(pretend.NAME, marks=pytest.mark.skipif(pretend.CUDA, reason=BESIDE_CUDA))
ACCELERATORS = [PRETENDED, pytest.param("cuda", marks=pytest.mark.cuda)]
DEVICES = ["cpu", *ACCELERATORS]

MODELS: dict[str, Callable[..., Model]] = {
    "linear": Linear,
    "linear with bias": lambda **options: Linear(bias=True, **options),
    "quadratic": Quadratic,
}


@contextmanager
def no_waits(device: str) -> Iterator[None]:
    """Within it, that the host waits for the device is a RuntimeError: "synchronizing"."""
    may_wait(device, False)
    try:
        yield
    finally:
        may_wait(device, True)


def may_wait(device: str, may: bool) -> None:
    """Say whether the host may wait for a device."""
    if device == "cuda":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("default" if may else "error")
    pretend.HOST.may_wait = may


def bits(t: Tensor) -> Tensor:
    """The bits of a float tensor as integers, so that NaN equals NaN and −0 differs from 0."""
    return t.detach().contiguous().view({4: torch.int32, 8: torch.int64}[t.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether all bits are the same, but for those of a NaN, which mean nothing."""
    nan = a.isnan() & b.isnan()
    return a.shape == b.shape and same_bits(a.masked_fill(nan, 0), b.masked_fill(nan, 0))


def same_trajectory(a: Trajectory, b: Trajectory) -> bool:
    """Whether they have the same rows, also a last one at which the descent diverged."""
    return a.names == b.names and torch.equal(a.step, b.step) and same_values(a.table, b.table)


class Shell:
    """Runs a script's main, in a folder and with some last words always, and keeps what it printed.

    The fixture of a test file is made by `shell_of`.
    """

    def __init__(
        self,
        main: Callable[[list[str]], int],
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        *always: str,
    ) -> None:
        self.main, self.folder, self.capsys, self.always = main, folder, capsys, always

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        try:
            status = self.main([*words, *self.always])
        except SystemExit as end:
            status = end.code  # type: ignore[assignment]
        self.out, self.err = self.capsys.readouterr()
        return status


def shell_of(
    main: Callable[[list[str]], int],
    *always: str,
    files: Mapping[str, str] = MappingProxyType({}),
    kind: type[Shell] = Shell,
) -> Any:
    """A fixture: the script of this main, in a folder of the test's own that holds these files.

    shell = shell_of(train.main, "--no-figures", files={"mine.py": EXPONENTIAL})
    """

    @pytest.fixture
    def shell(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Shell:
        monkeypatch.chdir(tmp_path)
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        return kind(main, tmp_path, capsys, *always)

    return shell


class Exponential(Model):
    """ŷ = a·exp(k·x): not linear in k."""

    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(1.0, device=device, dtype=dtype))
        self.k = torch.nn.Parameter(torch.tensor(0.1, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * torch.exp(self.k * x)

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        e = torch.exp(self.k * x)
        return {"a": e, "k": self.a * x * e}


# The same as a user's own file.
EXPONENTIAL = f"""
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchgd import Model

{inspect.getsource(Exponential)}"""


def events(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the scalars of a run's newest event file: tag to (step, value)."""
    file = max(directory.glob("events.out.tfevents.*"))
    found: dict[str, list[tuple[int, float]]] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    head, *rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    return head, rows


def stacked(trajectory: Trajectory) -> Tensor:
    """The weights at each row, (K+1, P)."""
    return torch.stack(list(trajectory.weights.values()), dim=1)


def with_columns(
    t: Trajectory,
    loss: Tensor | None = None,
    weights: dict[str, Tensor] | None = None,
    gradients: dict[str, Tensor] | None = None,
) -> Trajectory:
    """The same path, but with other numbers in these columns."""
    table = t.table.clone()
    if loss is not None:
        table[: t.recorded, 0] = loss
    for name, values in (weights or {}).items():
        table[:, 1 + t.names.index(name)] = values
    for name, values in (gradients or {}).items():
        table[: t.recorded, 1 + len(t.names) + t.names.index(name)] = values
    return replace(t, table=table)


SCRIPT = ROOT / "scripts" / "train.py"
KILLED = ROOT / "tests" / "killed.py"
# The package need not be installed to be tested.
OWN = map(str, (ROOT, ROOT / "scripts", ROOT / "tests"))
PATHS = os.pathsep.join(filter(None, [*OWN, os.environ.get("PYTHONPATH")]))
# What a child prints is read as UTF-8, whatever the terminal's own encoding may be.
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS, "PYTHONIOENCODING": "utf-8"}


def script(
    folder: Path, *words: str, file: Path = SCRIPT, stderr: int = subprocess.PIPE, **more: str
) -> subprocess.Popen[str]:
    """Start a script, train.py if no other, with `more` in its environment."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(file), *words],
        cwd=folder,
        env={**ENVIRONMENT, **more},
        stdout=subprocess.PIPE,
        stderr=stderr,
        encoding="utf-8",
    )


@functools.cache
def forks() -> Any:
    """What starts processes as forks of one that has imported what they need, and done no more.

    Beside CUDA it starts them anew: torch's imports ask for it, and then no fork can use it.
    """
    from multiprocessing import forkserver

    if pretend.CUDA:
        return multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        patch.setenv("PYTHONIOENCODING", "utf-8")
        multiprocessing.set_forkserver_preload(["killed", "helpers", "torch._dynamo"])
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


def run_in_fork(
    folder: Path, printed: Path, words: Sequence[str], more: Mapping[str, str], before: Any
) -> None:
    """What a fork does: all of it in a folder, where `printed` are its standard streams."""
    import train

    os.chdir(folder)
    os.environ.update(more)
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(printed / name, os.O_WRONLY | os.O_CREAT), number)
    warnings.simplefilter("error")
    tqdm.set_lock(threading.RLock())  # its own one would outlive a process that is killed
    sys.argv = ["train.py", *words]
    before()
    run_script(lambda: train.main([*words]))


class Forked:
    """train.py in a process of its own, which need not import torch again; as a Popen.

    `before` is called in it before it begins, and `more` is in its environment.
    """

    def __init__(
        self, folder: Path, *words: str, before: Callable[[], object] = int, **more: str
    ) -> None:
        self.printed = Path(tempfile.mkdtemp())
        asked = (folder, self.printed, words, more, before)
        self.process = forks().Process(target=run_in_fork, args=asked)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, sent: int) -> None:
        os.kill(self.process.pid, sent)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        found = [(self.printed / name).read_text(encoding="utf-8") for name in ("out", "err")]
        shutil.rmtree(self.printed)
        return found[0], found[1]


Started: TypeAlias = "subprocess.Popen[str] | Forked"


def ended(process: Started) -> tuple[int, str, str]:
    """Wait for its end; return its exit status and what it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode is not None
    return process.returncode, out, err


def wait_for(process: Started, happened: Callable[[], T]) -> T:
    """Wait until a process that runs on has done something; return what tells so."""
    deadline = time.monotonic() + 120
    while not (sign := happened()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return sign


def wait_for_rows(process: Started, run: Path, count: int = 3) -> None:
    """Wait until a run's newest event file has more than so many recorded steps."""
    wait_for(
        process,
        lambda: any(run.glob("events.*")) and len(events(run).get("loss", [])) > count,
    )


def saved(run: Path, after: int = 0) -> int:
    """The step of a run's state on the disk, if it is beyond that; else 0."""
    path = run / "run.pt"
    step = State.load(path).step if path.exists() else 0
    return step if step > after else 0


def carry_out(
    runs: AbstractContextManager[list[Run]], at: int | None = None, **watch: Any
) -> Outcome:
    """Carry out a run that is alone, up to step `at` more or to the end."""
    left = iter(range(at or 0))
    if at is not None:
        watch["stop"] = lambda: next(left, None) is None
    with runs as (run,), run.events() as open_events:
        return run.carry_out(watch=Watch(**watch), events=open_events)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(run: Path) -> dict[str, Any]:
    """What a run left, but for its times and events."""
    found: dict[str, Any] = {}
    for path in sorted(filter(Path.is_file, run.rglob("*.*"))):
        content: Any = path.read_bytes()
        if path.name == "result.json":
            content = json.loads(content)
            assert content.pop("seconds") > 0
        if path.name == "run.pt":
            content = plain(State.load(path))
            assert content.pop("seconds") > 0
        if path.suffix in (".json", ".csv", ".pt"):
            found[str(path.relative_to(run))] = content
    return found


def plain(value: Any) -> Any:
    """The same in what == compares, to the bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, State | Trajectory):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def shown(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """The points that TensorBoard shows of a run."""
    reader = EventAccumulator(str(directory), {"tensors": 0})
    reader.Reload()
    found = {tag: reader.Tensors(tag) for tag in reader.Tags()["tensors"]}
    return {
        tag: [(point.step, *point.tensor_proto.float_val) for point in points]
        for tag, points in found.items()
        if tag.startswith(("loss", "weight/", "gradient/", "result/"))
    }


def refuse_other_than(whole: Path, parts: Path) -> None:
    """A run that was stopped leaves what one leaves that was not; TensorBoard shows the same."""
    assert left(parts) == left(whole)
    assert not list(parts.rglob(".*.tmp.*"))
    for path in whole.rglob("run.pt"):
        run = path.parent.relative_to(whole)
        found, expected = shown(parts / run), shown(whole / run)
        assert found == expected, (parts / run, found, expected)
