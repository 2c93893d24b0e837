"""Real processes that are really killed, on disks that are really full."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import train
from helpers import (
    ENVIRONMENT,
    SCRIPT,
    Shell,
    ended,
    killed,
    left,
    script,
    shell_of,
    shown,
    wait_for_rows,
)

from torchgd.experiment.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signals"),
]
QUIET = "--no-figures --checkpoint-every 100steps".split()
# What is not killed needs no process of its own.
shell = shell_of(train.main, *QUIET)
# 117 batches of 4 samples an epoch, in another order each.
LONG = (
    "--model quadratic --data co2 --standardize --momentum 0.9 --lr 0.001 --batch-size 4 --shuffle"
).split()


# Where a run is stopped: in a step; when a checkpoint is begun and the rows before it are written;
# when it is whole but has not taken its place; when the rows after it are not yet cut off.
POINTS = (
    "step",
    "open:.checkpoint.tmp.pt",
    "os.rename:checkpoint.pt",
    "os.truncate:trajectory.csv",
    "os.rename:result.json",  # between the two updates
)

Stop = tuple[int, str, int]


def same_bits_though_killed(shell: Shell, flags: list[str], stops: Sequence[Stop]) -> None:
    """A run that is stopped so often, and resumed each time, ends as one that is not."""
    assert shell(*flags, "--name", "whole") == 0
    words = [*flags, "--name", "parts"]
    for sent, what, count in stops:
        status, _, err = ended(killed(shell.folder, sent, what, count, *words, *QUIET))
        # SIGTERM is heard and answered by exit status 143.
        assert status == (143 if sent == signal.SIGTERM else -sent), err
        words = ["--resume", "runs/parts"]
    assert shell(*words) == 0
    assert shell.err == "written to runs/parts; tensorboard --logdir runs\n"
    parts, whole = (shell.folder / "runs" / name for name in ("parts", "whole"))
    assert left(parts) == left(whole)
    for update in ("manual", "autograd"):
        assert shown(parts / update) == shown(whole / update)
        ends = [Checkpoint.load(run / update / "checkpoint.pt") for run in (parts, whole)]
        assert ends[0].step == ends[1].step
        assert {n: w.item() for n, w in ends[0].model.items()} == {
            n: w.item() for n, w in ends[1].model.items()
        }


def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_is_not(shell: Shell) -> None:
    """1,170 steps by each update, a checkpoint after each 100; the last stop is in the second."""
    stops = [
        (signal.SIGKILL, "step", 250),
        (signal.SIGTERM, "open:.checkpoint.tmp.pt", 3),
        (signal.SIGKILL, "os.truncate:trajectory.csv", 1),
        (signal.SIGKILL, "os.rename:checkpoint.pt", 9),
    ]
    same_bits_though_killed(shell, [*LONG, "--epochs", "10"], stops)


@pytest.mark.parametrize("what", [
    "os.rename:config.json", "os.rename:parts", "open:trajectory.csv", "open:.checkpoint.tmp.pt",
])  # fmt: skip
def test_a_run_that_is_killed_as_it_begins(shell: Shell, what: str) -> None:
    """It is not there, or it goes on: nothing is there by its name before all of it is."""
    flags = [*LONG, "--epochs", "2"]
    status, _, err = ended(killed(shell.folder, signal.SIGKILL, what, 1, *flags, "--name", "parts",
                                  *QUIET))  # fmt: skip
    assert (status, err) == (-signal.SIGKILL, "")
    parts = shell.folder / "runs" / "parts"
    assert parts.exists() == (what.startswith("open"))
    assert (
        shell(*(["--resume", "runs/parts"] if parts.exists() else [*flags, "--name", "parts"])) == 0
    )
    assert shell(*flags, "--name", "whole") == 0
    assert left(parts) == left(shell.folder / "runs" / "whole")


def test_a_run_that_is_killed_as_its_figures_are_drawn(shell: Shell) -> None:
    """All else is there: it is finished, and plot.py draws them."""
    process = killed(shell.folder, signal.SIGKILL, "figure", 1, "--name", "parts")
    status, _, err = ended(process)
    assert status == -signal.SIGKILL
    assert err == "written to runs/parts; tensorboard --logdir runs\n"
    assert shell("--resume", "runs/parts") == 0
    assert shell.out == "runs/parts is finished, after 150 steps; --epochs can be raised\n"
    assert shell("--name", "whole") == 0
    assert left(shell.folder / "runs" / "parts") == left(shell.folder / "runs" / "whole")


def test_between_the_two_updates(shell: Shell) -> None:
    stops = [(signal.SIGKILL, "os.rename:result.json", 1)]
    same_bits_though_killed(shell, [*LONG, "--epochs", "2"], stops)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_killed_25_times(shell: Shell, dtype: str) -> None:
    """23,400 steps by each update, of which the 25 starts take 25 × 1,200 at the most."""
    chance = random.Random(2)
    stops = [(signal.SIGKILL, "step", 1200)]  # there are checkpoints then
    for what in chance.choices(POINTS, k=24):
        once = {"os.truncate:trajectory.csv": 1, "os.rename:result.json": 1}
        highest = {"step": 1200, **once}.get(what, 12)
        stops.append((signal.SIGKILL, what, chance.randint(1, highest)))
    same_bits_though_killed(shell, [*LONG, "--epochs", "200", "--dtype", dtype], stops)


# It ends by a fault, or by the signal that follows its rows, never by itself.
ENDLESS = [*LONG, "--epochs", "1000000", "--record-every", "1", "--name", "parts"]


def limited(folder: Path, kilobytes: int, *words: str) -> tuple[int, str, str]:
    """Run train.py where no file can grow beyond so many kilobytes."""
    command = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", sys.executable]
    process = subprocess.Popen(
        [*command, str(SCRIPT), *words], cwd=folder, env=ENVIRONMENT, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return ended(process)


def goes_on(shell: Shell, run: Path) -> None:
    """A run that met a fault goes on to the bits of one that did not, up to where it is stopped."""
    before = Checkpoint.load(run / "manual" / "checkpoint.pt")
    assert before.step > 0
    count = before.step + 300
    process = script(shell.folder, "--resume", str(run), *QUIET)
    csv = run / "manual" / "trajectory.csv"
    wait_for_rows(process, csv, count)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    words = [*LONG, "--epochs", str(count // 117 + 1), "--record-every", "1", "--log-dir", "again"]
    assert shell(*words, "--name", "again", "--update", "manual") == 0
    again = shell.folder / "again" / "again" / "manual" / "trajectory.csv"
    rows, expected = (path.read_text(encoding="utf-8").splitlines() for path in (csv, again))
    assert rows[:count] == expected[:count]


@pytest.mark.parametrize("kilobytes", [60, 300])
def test_a_file_that_cannot_grow_is_one_line(tmp_path: Path, kilobytes: int) -> None:
    status, _, err = limited(tmp_path, kilobytes, *ENDLESS, *QUIET)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("train.py: ")
    assert "File too large; mend that and go on with --resume " in err
    run = tmp_path / "runs" / "parts"
    assert not list(run.rglob(".*.tmp*"))
    assert Checkpoint.load(run / "manual" / "checkpoint.pt").step > 0
    assert not (run / "manual" / "result.json").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk_and_then_a_larger_one(shell: Shell, disk: Path) -> None:
    run = str(disk / "parts")
    for words in ([*ENDLESS, "--log-dir", str(disk)], ["--resume", run]):
        assert shell(*words) == 2
        assert shell.err.startswith("train.py: ")
        assert shell.err.endswith(
            f"No space left on device; mend that and go on with --resume {run}\n"
        )
        assert shell.err.count("\n") == 1
        assert not list(disk.rglob(".*.tmp*"))
    remount(disk, "size=100m")
    goes_on(shell, disk / "parts")


@pytest.mark.parametrize("words", [[], ["--lr", "0.01", "0.02"]])
def test_a_disk_that_is_full_of_figures(shell: Shell, disk: Path, words: list[str]) -> None:
    """The run is whole, and they can be drawn elsewhere."""
    remount(disk, "size=160k")
    shell.always = ()
    assert shell("--log-dir", str(disk), "--name", "a", *words) == 2
    assert shell.err.splitlines()[-1].startswith("train.py: ")
    assert "No space left on device" in shell.err.splitlines()[-1]
    assert "Traceback" not in shell.err
    run = disk / "a" / ("lr-0.01" if words else "")
    assert shell("--name", "whole", "--no-figures") == 0
    assert left(run) == left(shell.folder / "runs" / "whole")
    assert shell("--resume", str(run)) == 0
    assert "is finished, after 150 steps" in shell.out


def test_a_read_only_disk_is_one_line(shell: Shell, disk: Path) -> None:
    assert shell("--log-dir", str(disk), "--name", "a") == 0
    remount(disk, "ro")
    for words, where in (
        (["--log-dir", str(disk)], f"{disk}/.linear-lesson-"),
        (["--resume", str(disk / "a"), "--epochs", "60"], f"{disk}/a/"),
    ):
        assert shell(*words) == 2
        assert shell.err.count("\n") == 1
        assert shell.err.startswith(f"train.py: {where}")
        assert "Read-only file system" in shell.err


def started(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process, run = script(folder, *ENDLESS, *QUIET), folder / "runs" / "parts" / "manual"
    wait_for_rows(process, run / "trajectory.csv", 2000)
    return process, run


def test_a_directory_that_vanishes_is_one_line(tmp_path: Path) -> None:
    process, run = started(tmp_path)
    run.rename(tmp_path / "elsewhere")
    status, _, err = ended(process)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("train.py: runs/parts/manual")
    assert "No such file or directory; mend that and go on with --resume runs/parts\n" in err
    assert Checkpoint.load(tmp_path / "elsewhere" / "checkpoint.pt").step > 0
