"""scripts/plot.py as its users meet it."""

import hashlib
import json
import shutil
from pathlib import Path

import matplotlib
import plot
import pytest
import train
from helpers import EXPONENTIAL, Shell
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

NAMES = ["loss", "fit", "curves", "rates"]


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(plot.main, tmp_path, capsys)


def trained(name: str, *words: str) -> Path:
    train.main(["--device", "cpu", "--no-figures", "--name", name, *words])
    return Path("runs") / name


def names(directory: Path, suffix: str = ".*") -> list[str]:
    return sorted(path.name for path in directory.glob(f"*{suffix}") if path.is_file())


def test_both_updates_of_a_run(shell: Shell) -> None:
    run = trained("lesson")
    assert shell(str(run)) == 0
    assert shell.out.splitlines() == [f"runs/lesson/{name}.png" for name in NAMES]
    assert shell.err == ""
    for name in NAMES:
        with Image.open(run / f"{name}.png") as image:
            assert image.size[0] >= 1500  # a slide's width
            assert len(image.convert("RGB").getcolors(2**24) or []) > 100


def test_one_update_is_drawn_into_its_own_directory(shell: Shell) -> None:
    run = trained("lesson", "--epochs", "3")
    assert shell(str(run / "manual"), "--animate") == 0
    drawn = sorted([*(f"{name}.png" for name in NAMES), "descent.gif"])
    assert names(run / "manual", ".png") + names(run / "manual", ".gif") == sorted(
        drawn, key=lambda name: (name == "descent.gif", name)
    )
    assert names(run / "autograd", ".png") == names(run, ".png") == []


@pytest.mark.parametrize(("suffix", "starts"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_for_print(shell: Shell, suffix: str, starts: bytes) -> None:
    run = trained("lesson", "--update", "manual", "--epochs", "2")
    assert shell(str(run), "--format", suffix) == 0
    for name in NAMES:
        assert (run / f"{name}.{suffix}").read_bytes().startswith(starts)


def test_runs_of_several_rates(shell: Shell) -> None:
    for lr in ("0.01", "0.1"):
        trained(f"at{lr}", "--lr", lr, "--update", "manual")
    assert shell("runs/at0.01", "runs/at0.1") == 0
    assert names(Path("runs"), ".png") == sorted(f"{name}.png" for name in NAMES)
    assert shell("runs/at0.01/manual", "runs/at0.1/manual") == 2
    assert shell.err == "plot.py: 2 runs in 2 directories: say where to write with --output\n"
    assert shell("runs/at0.01/manual", "runs/at0.1/manual", "--output", "new/folder") == 0
    assert names(Path("new/folder")) == sorted(f"{name}.png" for name in NAMES)
    assert plot.labels([Path("runs/at0.01/manual"), Path("runs/at0.1/manual")]) == [
        "at0.01/manual", "at0.1/manual"
    ]  # fmt: skip


def test_the_plane_is_chosen(shell: Shell) -> None:
    run = trained("q", "--model", "quadratic", "--epochs", "2")
    assert shell(str(run), "--plane", "b,w2") == 0
    assert "contour.png" in names(run)
    assert shell(str(run), "--plane", "b") == 2
    assert shell.err == (
        "plot.py: plane 'b': give two of the parameters w2, w1, b, separated by a comma\n"
    )


def test_data_are_found_from_another_folder(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("points.csv").write_text("1,2\n2,4.5\n3,6\n", encoding="utf-8")
    run = trained("own", "--data", "points.csv", "--epochs", "2").resolve()
    (shell.folder / "elsewhere").mkdir()
    monkeypatch.chdir(shell.folder / "elsewhere")
    assert shell(str(run)) == 0


def test_a_users_model_runs_only_when_it_is_named(shell: Shell) -> None:
    Path("own.py").write_text(EXPONENTIAL + "\nopen('canary', 'w').close()\n", encoding="utf-8")
    run = trained("own", "--model", "own.py:Exponential", "--lr", "0.002", "--epochs", "2")
    Path("canary").unlink()
    assert shell(str(run)) == 2
    assert shell.err == (
        "plot.py: the run's model is own.py:Exponential, whose code is not run unasked: name it "
        "with --model FILE.py:CLASS\n"
    )
    assert not Path("canary").exists()
    assert shell(str(run), "--model", "own.py:Exponential") == 0
    assert Path("canary").exists()


def test_a_window_needs_a_display(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("lesson", "--epochs", "2")
    matplotlib.use("agg")
    assert shell(str(run), "--show") == 2
    assert shell.err == (
        "plot.py: matplotlib's backend agg opens no window: leave out --show, or run where there "
        "is a display\n"
    )
    assert names(run, ".png") == []
    assert pyplot.get_fignums() == []
    shown = []
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "some")
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    assert shell(str(run), "--show") == 0
    assert len(shown) == len(names(run, ".png")) == 4
    pyplot.close("all")


def edit(name: str, before: str, after: str) -> None:
    path = Path("runs/lesson/autograd") / name
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def cut(count: int | None = None) -> None:
    """Cut bytes off the end, or else the last row."""
    path = Path("runs/lesson/autograd/trajectory.csv")
    content = path.read_bytes()
    path.write_bytes(content[: -(count or len(content.splitlines(keepends=True)[-1]))])


RUN = "runs/lesson/autograd"
SPOILT = {
    "cut within the last number": (
        lambda: cut(5),
        f"{RUN} holds a damaged run (the last line of trajectory.csv is cut off); run it again",
    ),
    "cut within a row": (lambda: cut(60), f"{RUN} holds a damaged run (the last line of "),
    "cut after a row": (
        cut,
        f"{RUN}: trajectory.csv ends at step 149, and the run did at 150: the file is truncated",
    ),
    "cut to nothing": (
        lambda: Path(RUN, "trajectory.csv").write_text("", encoding="utf-8"),
        f"{RUN} holds a dam",
    ),
    "no trajectory": (
        lambda: Path(RUN, "trajectory.csv").unlink(),
        f"{RUN} holds no trajectory.csv: give a run's directory, such as runs/NAME/manual",
    ),
    "still being written": (
        lambda: Path(RUN, "result.json").unlink(),
        f"{RUN} has no result.json: the run is still being written, or was killed; wait for",
    ),
    "half a result": (
        lambda: Path(RUN, "result.json").write_text('{"steps": 1', encoding="utf-8"),
        f"{RUN}/result.json is damaged (",
    ),
    "a result without its steps": (
        lambda: edit("result.json", '"steps"', '"step"'),
        f"{RUN}/result.json is damaged (no 'steps'); run it again",
    ),
    "half a configuration": (
        lambda: Path(RUN, "config.json").write_text("{", encoding="utf-8"),
        f"{RUN}/config.json is damaged (Expecting property name",
    ),
    "a configuration without its rate": (
        lambda: edit("config.json", '"lr"', '"rate"'),
        "config.json lacks 'lr'; run it again",
    ),
    "other data": (
        lambda: edit("config.json", '"data": "lesson"', '"data": "hubble"'),
        f"{RUN}: its first loss is 1, and model and data now give ",
    ),
    "data that are gone": (
        lambda: edit("config.json", '"data": "lesson"', '"data": "gone.csv"'),
        "data 'gone.csv': no such file and no built-in data set",
    ),
}  # fmt: skip


def contents(folder: Path) -> dict[Path, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    words = ["--device", "cpu", "--no-figures", "--log-dir", str(folder), "--name", "lesson"]
    assert train.main(words) == 0
    return folder / "lesson"


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_run_is_one_line_and_nothing_is_overwritten(
    shell: Shell, pristine: Path, how: str
) -> None:
    shutil.copytree(pristine, "runs/lesson")
    Path("runs/lesson/loss.png").write_text("an older picture", encoding="utf-8")
    spoil, message = SPOILT[how]
    spoil()
    before = contents(Path("runs"))
    assert shell("runs/lesson", "--animate") == 2
    assert shell.err.startswith(f"plot.py: {message}")
    assert shell.err.count("\n") == 1
    assert shell.out == ""
    assert contents(Path("runs")) == before


@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_what_is_no_run(shell: Shell, path: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("text", encoding="utf-8")
    assert shell(path) == 2
    assert shell.err == (
        f"plot.py: {path} holds no trajectory.csv: give a run's directory, such as "
        "runs/NAME/manual\n"
    )
    assert not Path("nowhere").exists()


def test_a_folder_that_cannot_be_written(shell: Shell, pristine: Path) -> None:
    Path("taken").write_text("a file", encoding="utf-8")
    assert shell(str(pristine), "--output", "taken") == 2
    assert shell.err == "plot.py: taken: File exists\n"
    Path("full").mkdir()
    Path("full/loss.png").mkdir()
    assert shell(str(pristine), "--output", "full") == 2
    assert shell.err.startswith("plot.py: full/")
    assert shell.err.count("\n") == 1
    assert [path.name for path in Path("full").iterdir()] == ["loss.png"]


def test_a_diverged_and_an_interrupted_run(shell: Shell, pristine: Path) -> None:
    run = trained("far", "--lr", "1", "--epochs", "100")
    assert (
        json.loads((run / "manual/result.json").read_text(encoding="utf-8"))["stopped"]
        == "diverged"
    )
    assert shell(str(run)) == 0
    shutil.copytree(pristine, "runs/lesson")
    edit("result.json", '"finished"', '"interrupted"')
    assert shell("runs/lesson") == 0
