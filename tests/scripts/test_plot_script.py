"""scripts/plot.py as its users meet it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import plot
import pytest
import train
from helpers import EXPONENTIAL, Shell
from PIL import Image

NAMES = ["loss", "fit", "curves", "rates"]
PNG = sorted(f"{name}.png" for name in NAMES)
LESSON, RUN = Path("runs/lesson"), Path("runs/lesson/autograd")


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


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lesson's run."""
    folder = tmp_path_factory.mktemp("pristine")
    words = ["--device", "cpu", "--no-figures", "--log-dir", str(folder), "--name", "lesson"]
    assert train.main(words) == 0
    return folder / "lesson"


@pytest.fixture
def lesson(shell: Shell, pristine: Path) -> Shell:
    """In a folder with the lesson's run, and an older picture of it."""
    shutil.copytree(pristine, LESSON)
    (LESSON / "loss.png").write_text("an older picture", encoding="utf-8")
    return shell


def test_both_updates_of_a_run(lesson: Shell) -> None:
    assert lesson(str(LESSON)) == 0
    assert lesson.out.splitlines() == [f"runs/lesson/{name}.png" for name in NAMES]
    assert lesson.err == ""
    for name in NAMES:
        with Image.open(LESSON / f"{name}.png") as image:
            assert image.size[0] >= 1500  # a slide's width
            assert len(image.convert("RGB").getcolors(2**24) or []) > 100


def test_one_update_is_drawn_into_its_own_directory(shell: Shell) -> None:
    run = trained("lesson", "--epochs", "1")
    assert shell(str(run / "manual"), "--animate") == 0
    files = [f"runs/lesson/manual/{name}" for name in (*(f"{n}.png" for n in NAMES), "descent.gif")]
    assert shell.out.splitlines() == files
    assert names(run / "manual", ".png") == PNG
    assert names(run / "manual", ".gif") == ["descent.gif"]
    assert names(run / "autograd", ".png") == names(run, ".png") == []


@pytest.mark.parametrize(("suffix", "starts"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_for_print(lesson: Shell, suffix: str, starts: bytes) -> None:
    assert lesson(str(RUN), "--format", suffix) == 0
    for name in NAMES:
        assert (RUN / f"{name}.{suffix}").read_bytes().startswith(starts)


def test_runs_of_several_rates(shell: Shell) -> None:
    for lr in ("0.01", "0.1"):
        trained(f"at{lr}", "--lr", lr, "--update", "manual")
    assert shell("runs/at0.01", "runs/at0.1") == 0
    assert names(Path("runs"), ".png") == PNG
    both = ["runs/at0.01/manual", "runs/at0.1/manual"]
    assert shell(*both) == 2
    assert shell.err == "plot.py: 2 runs in 2 directories: say where to write with --output\n"
    assert shell(*both, "--output", "new/folder", "--format", "svg") == 0
    assert names(Path("new/folder")) == sorted(f"{name}.svg" for name in NAMES)
    labels = [f"at{lr}/manual" for lr in ("0.01", "0.1")]  # what tells the two apart
    drawn = Path("new/folder/loss.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {label} -->" in drawn for label in labels)


def test_the_plane_is_chosen(shell: Shell) -> None:
    run = trained("q", "--model", "quadratic", "--epochs", "2")
    assert shell(str(run), "--plane", "b,w2", "--format", "svg") == 0
    drawn = (run / "contour.svg").read_text(encoding="utf-8")
    assert 0 < drawn.index("<!-- b   -->") < drawn.index("<!-- w2   -->")
    assert shell(str(run), "--plane", "b") == 2
    assert shell.err == (
        "plot.py: plane 'b': give two of the parameters w2, w1, b, separated by a comma\n"
    )


def test_data_are_found_from_another_folder(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("points.csv").write_text("1,2\n2,4.5\n3,6\n", encoding="utf-8")
    run = trained("own", "--data", "points.csv", "--epochs", "2").resolve()
    (shell.folder / "elsewhere").mkdir()
    monkeypatch.chdir(shell.folder / "elsewhere")
    assert shell(str(run), "--format", "svg") == 0


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
    assert shell(str(run), "--model", "own.py:Exponential", "--format", "svg") == 0
    assert Path("canary").exists()


def write(name: str, content: str) -> Callable[[], object]:
    return lambda: (RUN / name).write_text(content, encoding="utf-8")


def remove(name: str) -> Callable[[], object]:
    return lambda: (RUN / name).unlink()


def edit(name: str, before: str, after: str) -> Callable[[], object]:
    def spoil() -> None:
        text = (RUN / name).read_text(encoding="utf-8")
        assert before in text
        (RUN / name).write_text(text.replace(before, after), encoding="utf-8")

    return spoil


def cut(count: int | None = None) -> Callable[[], object]:
    """Cut bytes off the end, or else the last row."""

    def spoil() -> None:
        content = (RUN / "trajectory.csv").read_bytes()
        last = len(content.splitlines(keepends=True)[-1])
        (RUN / "trajectory.csv").write_bytes(content[: -(count or last)])

    return spoil


SPOILT = {
    "cut within the last number": (cut(5), f"{RUN} holds a damaged run (the last line of "
        "trajectory.csv is cut off); run it again"),
    "cut within a row": (cut(60), f"{RUN} holds a damaged run (the last line of "),
    "cut after a row": (cut(), f"{RUN}: trajectory.csv ends at step 149, and the run did at 150: "
        "the file is truncated"),
    "cut to nothing": (write("trajectory.csv", ""), f"{RUN} holds a dam"),
    "no trajectory": (remove("trajectory.csv"), f"{RUN} holds no trajectory.csv: give a run's "
        "directory, such as runs/NAME/manual"),
    "still being written": (remove("result.json"), f"{RUN} has no result.json: the run is still "
        "being written, or was killed; wait for"),
    "half a result": (write("result.json", '{"steps": 1'), f"{RUN}/result.json is damaged ("),
    "a result without its steps": (edit("result.json", '"steps"', '"step"'),
        f"{RUN}/result.json is damaged (no 'steps'); run it again"),
    "half a configuration": (write("config.json", "{"),
        f"{RUN}/config.json is damaged (Expecting property name"),
    "a configuration without its rate": (edit("config.json", '"lr"', '"rate"'),
        "config.json lacks 'lr'; run it again"),
    "other data": (edit("config.json", '"data": "lesson"', '"data": "hubble"'),
        f"{RUN}: its first loss is 1, and model and data now give "),
    "data that are gone": (edit("config.json", '"data": "lesson"', '"data": "gone.csv"'),
        "data 'gone.csv': no such file and no built-in data set"),
    "data in chunks": (edit("config.json", '"chunk_size": null', '"chunk_size": 2'),
        f"{RUN}: its data were read in chunks, and are too many to draw"),
}  # fmt: skip


def contents(folder: Path) -> dict[Path, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_run_is_one_line_and_nothing_is_overwritten(lesson: Shell, how: str) -> None:
    spoil, message = SPOILT[how]
    spoil()
    before = contents(Path("runs"))
    assert lesson("runs/lesson", "--animate") == 2
    assert lesson.err.startswith(f"plot.py: {message}")
    assert lesson.err.count("\n") == 1
    assert lesson.out == ""
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
    Path("full/loss.png").mkdir(parents=True)
    assert shell(str(pristine), "--output", "full") == 2
    assert shell.err.startswith("plot.py: full/")
    assert shell.err.count("\n") == 1
    assert [path.name for path in Path("full").iterdir()] == ["loss.png"]


def test_a_diverged_and_an_interrupted_run(lesson: Shell) -> None:
    run = trained("far", "--lr", "1", "--epochs", "100")
    result = json.loads((run / "manual/result.json").read_text(encoding="utf-8"))
    assert result["stopped"] == "diverged"
    assert lesson(str(run), "--format", "svg") == 0
    assert "<!-- manual, step 2 -->" in (run / "fit.svg").read_text(encoding="utf-8")
    edit("config.json", '"device": "cpu"', '"device": "cuda:0"')()  # drawn where there is none, too
    edit("result.json", '"finished"', '"interrupted"')()
    assert lesson("runs/lesson", "--format", "svg") == 0
