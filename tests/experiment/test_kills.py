"""Real processes that are really killed, on disks that are really full."""

import errno
import itertools
import os
import random
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import train
from helpers import (
    Forked,
    Shell,
    contents,
    ended,
    forks,
    left,
    read_csv,
    refuse_other_than,
    saved,
    shell_of,
    wait_for,
)
from killed import killed

from torchgd.experiment import files, sources
from torchgd.experiment.files import locked, read_json
from torchgd.experiment.folder import read_run
from torchgd.experiment.state import State

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signals"),
]
QUIET = "--no-figures --checkpoint-every 100steps".split()
# What is not killed needs no process of its own.
shell = shell_of(train.main, *QUIET)
# 117 batches of 4 samples an epoch, in another order each.
LONG = (
    "--model quadratic --data co2 --standardize --momentum 0.9 --lr 0.001 --batch-size 4 --shuffle "
    "--device cpu"
).split()
PARTS, WHOLE = Path("runs", "parts"), Path("runs", "whole")


def refuse_half_written(folder: Path) -> None:
    """Each file in a run's directory that bears its name is all of it, whenever one looks."""
    for path in folder.rglob("[!.]*.json"):
        read_json(path)
    for path in folder.rglob("run.pt"):
        State.load(path)
    for path in folder.rglob("trajectory.csv"):
        read_run(path.parent)


Stop = tuple[int, str, int]


def same_bits_though_killed(shell: Shell, flags: list[str], stops: Sequence[Stop]) -> None:
    """A run that is stopped so often, and resumed each time, ends as one that is not."""
    assert shell(*flags, "--name", "whole") == 0
    words = [*flags, "--name", "parts"]
    for sent, what, count in stops:
        status, err = killed(shell.folder, sent, what, count, *words, *QUIET)
        # SIGTERM is heard and answered by exit status 143.
        assert status == (143 if sent == signal.SIGTERM else -sent), (what, err)
        refuse_half_written(PARTS)
        words = ["--resume", "runs/parts"]
    assert shell(*words) == 0
    refuse_other_than(WHOLE, PARTS)


def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_is_not(shell: Shell) -> None:
    """1,170 steps by each update, a checkpoint after each 100."""
    stops = [
        (signal.SIGKILL, "step", 250),
        (signal.SIGTERM, "open:.run.*.tmp.pt", 5),
        (signal.SIGKILL, "os.rename:run.pt", 6),
        (signal.SIGKILL, "os.rename:trajectory.csv", 1),  # of the second update: the first is over
        (signal.SIGKILL, "os.rename:result.json", 1),
        (signal.SIGKILL, "os.rename:comparison.json", 1),
    ]
    same_bits_though_killed(shell, [*LONG, "--epochs", "10"], stops)


def test_a_run_that_is_killed_wherever_it_writes(shell: Shell) -> None:
    """At each file that it makes, removes or gives its name, from the first one to the last.

    It is not there, or it goes on: nothing is there by its name before all of it is.
    """
    flags = "--epochs 1 --device cpu --update manual affine --checkpoint-every 2steps".split()
    flags.append("--no-figures")
    assert shell(*flags, "--name", "whole") == 0
    for count in itertools.count(1):
        name = f"parts-{count}"
        parts = Path("runs", name)
        words = [*flags, "--name", name]
        status, err = killed(shell.folder, signal.SIGKILL, "*:*", count, *words)
        if status == 0:
            break
        assert (status, err.count("\n")) == (-signal.SIGKILL, err.count("written to"))
        refuse_half_written(Path("runs"))
        assert shell(*(["--resume", str(parts)] if parts.exists() else words)) == 0
        refuse_other_than(WHOLE, parts)
    assert count > 30
    assert shell("--resume", "runs") == 0  # what was killed before it had its name is none
    assert shell.out.count("is finished, after 3 steps") >= 30


def test_a_run_that_is_killed_as_its_figures_are_drawn(shell: Shell) -> None:
    """All else is there: it is finished, and plot.py draws them."""
    status, err = killed(
        shell.folder, signal.SIGKILL, "figure", 1, *"--device cpu --name parts".split()
    )
    assert status == -signal.SIGKILL
    assert err == "written to runs/parts; tensorboard --logdir runs\n"
    assert shell("--resume", "runs/parts") == 0
    assert shell.out == "runs/parts is finished, after 150 steps; --epochs can be raised\n"
    assert shell("--device", "cpu", "--name", "whole") == 0
    assert left(PARTS) == left(WHOLE)


def test_a_sweep_that_is_killed_as_its_figures_are_written_leaves_no_part_of_one(
    shell: Shell,
) -> None:
    """They are beside the rates, where no run is; what it goes on to writes them anew."""
    words = "--epochs 2 --lr 0.01 0.02 --name parts".split()
    status, err = killed(shell.folder, signal.SIGKILL, "os.rename:loss.png", 1, *words)
    assert status == -signal.SIGKILL, err
    assert list(PARTS.glob(".loss.*.tmp.png"))
    shell.always = ()
    assert shell("--resume", "runs/parts") == 0
    assert not list(PARTS.rglob(".*.tmp.*"))
    assert (PARTS / "loss.png").exists()


def test_a_sweep_that_is_killed_goes_on_as_a_whole(shell: Shell) -> None:
    """In the first rate's second run, and in the second rate's first, with one to come."""
    flags = [*LONG, "--epochs", "2", "--lr", "0.002", "0.003"]
    stops = [(signal.SIGKILL, "step", 300), (signal.SIGKILL, "step", 251)]
    same_bits_though_killed(shell, flags, stops)


def test_more_epochs_that_are_killed_between_two_runs_are_both_runs(shell: Shell) -> None:
    """The first run's config.json has them already, the second's not yet."""
    flags = [*LONG, "--epochs", "2"]
    assert shell(*flags, "--name", "parts") == 0
    words = ["--resume", "runs/parts", "--epochs", "3"]
    status, err = killed(shell.folder, signal.SIGKILL, "os.rename:config.json", 2, *words, *QUIET)
    assert status == -signal.SIGKILL, err
    flags[-1] = "3"
    assert shell(*flags, "--name", "whole") == 0
    assert shell("--resume", "runs/parts") == 0
    refuse_other_than(WHOLE, PARTS)


def hold(directory: Path, held: Any) -> None:
    with locked(directory):
        held.set()
        signal.pause()


def test_a_run_has_one_writer(shell: Shell) -> None:
    """A second one touches nothing, and goes on when the first is no more."""
    flags = [*LONG, "--epochs", "2"]
    words = [*flags, "--name", "parts", *QUIET]
    assert killed(shell.folder, signal.SIGKILL, "step", 150, *words)[0] == -signal.SIGKILL
    before, held = contents(PARTS), forks().Event()
    process = forks().Process(target=hold, args=(PARTS.absolute() / "autograd", held))
    process.start()
    assert held.wait(120)
    assert shell("--resume", "runs/parts") == 2
    assert shell.err == (
        "train.py: runs/parts/autograd: another process is writing this run; wait for its end or "
        "stop it\n"
    )
    assert contents(PARTS) == before
    process.kill()
    process.join()
    assert shell("--resume", "runs/parts") == 0
    assert shell(*flags, "--name", "whole") == 0
    refuse_other_than(WHOLE, PARTS)


# Where a run is stopped: in a step; when its state is begun, and when it is whole but has not taken
# its place; when it is saved for the last time, and the table is not there; between two runs.
POINTS = {
    "step": 1200, "open:.run.*.tmp.pt": 12, "os.rename:run.pt": 12, "os.rename:trajectory.csv": 1,
    "os.rename:result.json": 1,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_killed_25_times(shell: Shell, dtype: str) -> None:
    """23,400 steps by each update, of which the 25 starts take 25 × 1,200 at the most."""
    chance = random.Random(2)
    points = ["step", *chance.choices([*POINTS], k=24)]
    stops = [(signal.SIGKILL, what, chance.randint(1, POINTS[what])) for what in points]
    same_bits_though_killed(shell, [*LONG, "--epochs", "200", "--dtype", dtype], stops)


# It ends by a fault, or by the signal that follows its state, never by itself.
ENDLESS = [*LONG, "--epochs", "1000000", "--record-every", "1", "--name", "parts"]


def limited(folder: Path, kilobytes: int, *words: str) -> tuple[int, str, str]:
    """Run train.py where no file can grow beyond so many kilobytes."""
    import resource

    most = (1024 * kilobytes, 1024 * kilobytes)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, most)
    return ended(Forked(folder, *words, before=limit))


def said(err: str) -> str:
    """The last line, before which there may be how long the run takes."""
    *before, last = err.splitlines()
    assert all(line.startswith("manual: ") for line in before), err
    return last


def goes_on(shell: Shell, run: Path) -> None:
    """A run that met a fault goes on to the bits of one that did not, up to where it is stopped."""
    step = saved(run / "manual")
    assert step > 0
    process = Forked(shell.folder, "--resume", str(run), *QUIET)
    wait_for(process, lambda: saved(run / "manual", step + 300))
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    count = saved(run / "manual")
    words = [*LONG, "--epochs", str(count // 117 + 1), "--record-every", "1", "--log-dir", "again"]
    assert shell(*words, "--name", "again", "--update", "manual") == 0
    both = (run / "manual", shell.folder / "again" / "again" / "manual")
    rows, expected = (read_csv(one / "trajectory.csv")[1] for one in both)
    assert rows[:-1] == expected[:count]


@pytest.mark.parametrize("kilobytes", [60, 300])
def test_a_file_that_cannot_grow_is_one_line(tmp_path: Path, kilobytes: int) -> None:
    status, _, err = limited(tmp_path, kilobytes, *ENDLESS, *QUIET)
    assert status == 2
    assert said(err).startswith("train.py: runs/parts/manual")
    assert said(err).endswith("File too large; mend that and go on with --resume runs/parts")
    run = tmp_path / "runs" / "parts"
    assert not list(run.rglob(".*.tmp*"))
    assert saved(run / "manual") > 0
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
        assert said(shell.err).startswith(f"train.py: {run}/manual")
        assert said(shell.err).endswith(
            f"No space left on device; mend that and go on with --resume {run}"
        )
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


def test_a_disk_that_is_full_of_data(
    shell: Shell, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are too many for the memory are made in a file; a hole in it would kill."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    monkeypatch.setattr(sources, "LARGE", 2**20)
    assert shell("--data", "synthetic:100000") == 2
    assert "No space left on device" in shell.err
    assert shell.err.count("\n") == 1
    assert not any(disk.iterdir())
    assert not Path("runs").exists()


def fails(number: int) -> Any:
    """A call of the system that fails; which file it was about, the system does not say."""

    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_sector_that_cannot_be_read_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("--name", "parts") == 0
    before = contents(PARTS)
    for name, at in (("config.json", 0), ("run.pt", 2)):
        there = itertools.count()

        def opened(*words: Any, at: int = at, there: Iterator[int] = there) -> Any:
            file = open(*words)  # noqa: SIM115
            return BadSector(file) if next(there) == at else file

        with monkeypatch.context() as patch:
            patch.setattr(files, "open", opened, raising=False)
            assert shell("--resume", "runs/parts", "--epochs", "60") == 2
        assert re.fullmatch(
            rf"train\.py: runs/parts/\w+/{name}: Input/output error\n", shell.err
        ), shell.err
        assert contents(PARTS) == before


class BadSector:
    """A file that is there, and cannot be read."""

    def __init__(self, file: Any) -> None:
        self.file, self.fileno, self.read = file, file.fileno, fails(errno.EIO)

    def __enter__(self) -> "BadSector":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_a_disk_that_does_not_keep_what_it_was_given_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    assert shell("--name", "parts") == 2
    hidden = rf"runs/\.parts\.{os.getpid()}/manual/config\.json"
    assert re.fullmatch(rf"train\.py: {hidden}: Input/output error\n", shell.err), shell.err
    assert not any(Path("runs").iterdir())


def fails_at(what: str, number: int, plain: Any, path: Any, *words: Any, **more: Any) -> Any:
    """A call of the system that fails for files of this name alone."""
    if Path(str(path)).name == what:
        raise OSError(number, os.strerror(number), os.fspath(path))
    return plain(path, *words, **more)


@pytest.mark.parametrize(("call", "what", "number"), [
    ("scandir", "lr-0.02", errno.EACCES), ("scandir", "autograd", errno.EIO),
    ("stat lstat", "run.pt", errno.EIO),
])  # fmt: skip
def test_what_cannot_be_looked_at_is_not_taken_for_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, call: str, what: str, number: int
) -> None:
    """Else a run of a sweep would be left out, and one with a state would start again."""
    assert shell("--name", "parts", "--lr", "0.01", "0.02", "--epochs", "2") == 0
    before = contents(PARTS)
    with monkeypatch.context() as patch:
        for name in call.split():
            patch.setattr(os, name, partial(fails_at, what, number, getattr(os, name)))
        assert shell("--resume", "runs/parts", "--epochs", "3") == 2
    assert re.fullmatch(rf"train\.py: runs/parts/\S*{what}: \w+[^\n]*\n", shell.err), shell.err
    assert contents(PARTS) == before


def test_a_file_system_without_locks_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("--name", "parts") == 0
    before = contents(PARTS)
    monkeypatch.setattr("fcntl.flock", fails(errno.ENOLCK))
    assert shell("--resume", "runs/parts", "--epochs", "60") == 2
    assert re.fullmatch(r"train\.py: runs/parts/\w+/\.lock: No locks available\n", shell.err), (
        shell.err
    )
    assert contents(PARTS) == before


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


def test_a_directory_that_vanishes_is_one_line(tmp_path: Path) -> None:
    process, run = Forked(tmp_path, *ENDLESS, *QUIET), tmp_path / PARTS / "manual"
    wait_for(process, lambda: saved(run))
    run.rename(tmp_path / "elsewhere")
    status, _, err = ended(process)
    assert status == 2
    assert said(err).startswith("train.py: runs/parts/manual")
    assert said(err).endswith(
        "No such file or directory; mend that and go on with --resume runs/parts"
    )
    assert saved(tmp_path / "elsewhere") > 0
