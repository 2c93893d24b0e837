"""Where POSIX's own modules, signals and functions are hidden, everything still runs."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import train
from helpers import PATHS, ROOT, ended, script

from torchgd.experiment.files import read_json

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc to pretend"),
]
WINDOWS = ROOT / "tests" / "windows.py"
REFERENCE = ROOT / "runs" / "reference"  # the lesson's own run


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run what the words say, of the scripts or of a module in the folder."""
    return ended(script(folder, *words, file=WINDOWS, PYTHONPATH=f"{folder}{os.pathsep}{PATHS}"))


def test_the_lesson_a_resume_and_the_figures(tmp_path: Path) -> None:
    commands = (
        "train --name a --epochs 40 --no-figures then train --resume runs/a --epochs 50 then "
        "plot runs/a --output pictures"
    )
    status, out, err = run(tmp_path, *commands.split())
    assert (status, err) == (0, 2 * "written to runs/a; tensorboard --logdir runs\n"), err
    assert "All 120 steps are identical, bit for bit" in out
    assert "All 150 steps are identical, bit for bit" in out
    for update in ("manual", "autograd"):
        rows = [run / update / "trajectory.csv" for run in (tmp_path / "runs/a", REFERENCE)]
        assert rows[0].read_bytes() == rows[1].read_bytes()
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["curves.png", "fit.png", "loss.png", "rates.png"]


def test_a_model_behind_backslashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C:\\mine.py has a colon of its own; elsewhere a file can bear that name, and stands in."""
    model = r"C:\mine.py:Mine"
    (tmp_path / r"C:\mine.py").write_text(
        "from torchgd import Linear\n\nclass Mine(Linear):\n    pass\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert train.main(["--model", model, "--name", "a", "--no-figures"]) == 0
    assert read_json(Path("runs/a/manual/config.json"))["model"] == model


LARGE = """
import train
from torchgd.experiment import resolve, sources

def main(words):
    resolve.LARGE = sources.LARGE = 100
    return train.main(words)
"""


def test_data_that_stay_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(LARGE, encoding="utf-8")
    np.save(tmp_path / "mine.npy", [[x, 2.0 * x] for x in range(20)])
    flags = "--lr auto --batch-size full --epochs 2 --no-figures"
    commands = f"large --data mine.npy {flags} then large --data synthetic:99 {flags}"
    status, out, err = run(tmp_path, *commands.split())
    assert status == 0, err
    assert out.count("identical, bit for bit") == 2


def test_the_pretence_would_tell(tmp_path: Path) -> None:
    """What Windows refuses is refused here: each line but the first ends the process."""
    for line, error in {
        "pass": "",
        "import fcntl": "ModuleNotFoundError",
        "import signal; signal.SIGKILL": "AttributeError",
        "import os; os.fork": "AttributeError",
        "import os; os.open('.', os.O_RDONLY)": "PermissionError",
        "import os; file = open('a', 'w'); os.replace('a', 'b')": "PermissionError",
        "import os; file = open('a', 'w'); os.unlink('a')": "PermissionError",
        "import os; open('a', 'w').close(); os.fsync(os.open('a', os.O_RDONLY))": "OSError",
    }.items():
        (tmp_path / "planted.py").write_text(
            f"def main(words):\n    {line}\n    return 0\n", encoding="utf-8"
        )
        status, _, err = run(tmp_path, "planted")
        assert status == bool(error), line
        assert f"\n{error}" in f"\n{err}", line
