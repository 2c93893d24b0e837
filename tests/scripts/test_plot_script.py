"""scripts/plot.py as its users meet it."""

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import plot
import pytest
import train
from helpers import EXPONENTIAL, ROOT, Shell, shell_of
from PIL import Image

NAMES = ["loss", "fit", "curves", "rates"]
LESSON, RUN = Path("runs/lesson"), Path("runs/lesson/autograd")
shell = shell_of(plot.main)


def trained(name: str, *words: str) -> Path:
    train.main(["--device", "cpu", "--no-figures", "--name", name, *words])
    return Path("runs") / name


def pictures(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.suffix in (".gif", ".png", ".svg")}


@pytest.fixture
def lesson(shell: Shell) -> Shell:
    """In a folder with the lesson's run, and an older picture of it."""
    without = shutil.ignore_patterns("*.svg", "*.png", "*.html")
    shutil.copytree(ROOT / "runs" / "reference", LESSON, ignore=without)
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
    files = [*(f"{name}.png" for name in NAMES), "descent.gif"]
    assert shell.out.splitlines() == [f"runs/lesson/manual/{file}" for file in files]
    assert pictures(run / "manual") == {*files}
    assert pictures(run / "autograd") == pictures(run) == set()


def test_for_print(lesson: Shell) -> None:
    assert lesson(str(RUN), "--format", "pdf") == 0
    assert all((RUN / f"{name}.pdf").read_bytes().startswith(b"%PDF") for name in NAMES)


def test_runs_of_several_rates(shell: Shell) -> None:
    for lr in ("0.01", "0.1"):
        trained(f"at{lr}", "--lr", lr, "--update", "manual")
    assert shell("runs/at0.01", "runs/at0.1") == 0
    assert pictures(Path("runs")) == {f"{name}.png" for name in NAMES}
    both = ["runs/at0.01/manual", "runs/at0.1/manual"]
    assert shell(*both) == 2
    assert shell.err == "plot.py: 2 runs in 2 directories: say where to write with --output\n"
    assert shell(*both, "--output", "new/folder", "--format", "svg") == 0
    assert pictures(Path("new/folder")) == {f"{name}.svg" for name in NAMES}
    labels = [f"at{lr}/manual" for lr in ("0.01", "0.1")]  # what tells the two apart
    drawn = Path("new/folder/loss.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {label}: end, step 150 -->" in drawn for label in labels)


def test_the_plane_is_chosen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = []
    monkeypatch.setattr(plot, "animate", lambda runs, file, plane: planes.append(plane))
    run = trained("q", "--model", "quadratic", "--epochs", "2")
    assert shell(str(run), "--plane", "b,w2", "--format", "svg", "--animate") == 0
    drawn = (run / "contour.svg").read_text(encoding="utf-8")
    assert 0 < drawn.index("<!-- b   -->") < drawn.index("<!-- w2   -->")
    assert planes == [["b", "w2"]]
    assert shell(str(run), "--plane", "b") == 2
    assert shell.err.startswith("plot.py: plane 'b': give two of the parameters w2, w1, b")


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


def edit(name: str, before: str, after: str) -> None:
    """Replace what a pattern matches, once, in a file of the run."""
    text, count = re.subn(before, after, (RUN / name).read_text(encoding="utf-8"))
    assert count == 1
    (RUN / name).write_text(text, encoding="utf-8")


SPOILT = {
    ("trajectory.csv", r".{4}\n\Z", ""): f"{RUN} holds a damaged run (the last line of "
        "trajectory.csv is cut off); run it again",
    ("trajectory.csv", r".*\n\Z", ""): f"{RUN}: trajectory.csv ends at step 149, and the run did "
        "at 150: the file is truncated; run it again",
    ("result.json", '"steps"', '"step"'): f"{RUN}/result.json is damaged (no 'steps'); run it "
        "again",
    ("trajectory.csv", "/w,gradient/w", "/v,gradient/v"): f"{RUN} holds a damaged run "
        "(trajectory.csv is of ('v',), and config.json of ('w',)); run it again",
    ("result.json", '"finished"', '"weird"'): f"{RUN}/result.json is damaged (stopped 'weird'); "
        "run it again",
    ("config.json", '"lr"', '"rate"'): f"{RUN}: config.json lacks 'lr'; run it again",
    ("config.json", '"data": "lesson"', '"data": "hubble"'): f"{RUN}: its first loss is 1, and "
        "model and data now give 28889.1: they have changed since; run it again",
    ("config.json", '"bias": false', '"bias": true'): f"{RUN}: trajectory.csv is of w, and the "
        "model has w, b; run it again",
    ("config.json", '"chunk_size": null', '"chunk_size": 2'): f"{RUN}: its data were read in "
        "chunks, and are too many to draw",
}  # fmt: skip


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", SPOILT)
def test_a_spoilt_run_is_one_line_and_nothing_is_overwritten(
    lesson: Shell, change: tuple[str, str, str]
) -> None:
    edit(*change)
    before = contents(Path("runs"))
    assert lesson("runs/lesson", "--animate") == 2
    assert lesson.err == f"plot.py: {SPOILT[change]}\n"
    assert lesson.out == ""
    assert contents(Path("runs")) == before


@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_what_is_no_run(shell: Shell, path: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("text", encoding="utf-8")
    assert shell(path) == 2
    assert shell.err == (
        f"plot.py: {path} holds no run: give a run's directory, such as runs/NAME/manual\n"
    )
    assert not Path("nowhere").exists()


def test_a_run_that_has_not_ended(lesson: Shell) -> None:
    (RUN / "result.json").unlink()
    assert lesson(str(RUN)) == 2
    said = f"plot.py: {RUN} has no result.json: the run is still being written, or was killed; wait"
    assert lesson.err.startswith(said)


def test_a_folder_that_cannot_be_written(lesson: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").write_text("a file", encoding="utf-8")
    assert lesson(str(LESSON), "--output", "taken") == 2
    assert lesson.err == "plot.py: taken: File exists\n"

    def half(self: object, file: Path, **options: Any) -> None:
        file.write_text("half a picture", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    before = contents(LESSON)
    assert lesson(str(LESSON)) == 2
    assert lesson.err == "plot.py: runs/lesson/loss.png: No space left on device\n"
    assert contents(LESSON) == before  # the older picture, too


def test_a_diverged_and_an_interrupted_run(lesson: Shell) -> None:
    run = trained("far", "--lr", "1", "--epochs", "100")
    result = json.loads((run / "manual/result.json").read_text(encoding="utf-8"))
    assert result["stopped"] == "diverged"
    assert lesson(str(run), "--format", "svg") == 0
    assert "<!-- manual, step 2:" in (run / "fit.svg").read_text(encoding="utf-8")
    edit("config.json", '"device": "cpu"', '"device": "cuda:0"')  # drawn where there is none, too
    edit("result.json", '"finished"', '"interrupted"')
    assert lesson("runs/lesson", "--format", "svg") == 0
