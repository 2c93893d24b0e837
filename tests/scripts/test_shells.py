"""The scripts in shells that are not as usual: streams, environments, words, limits."""

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import compare
import derive
import plot
import pytest
import torch
import train
from helpers import ENVIRONMENT, SCRIPT, Forked, Shell, ended, read_csv, shell_of

from torchgd.experiment.command_line import Parser

shell = shell_of(train.main, "--no-figures")


def in_bash(folder: Path, words: str, **more: str) -> tuple[int, str, str]:
    """Run a command of bash, in which $train is train.py and $derive derive.py."""
    scripts = {name: f"{sys.executable} {SCRIPT.with_name(f'{name}.py')}" for name in
               ("train", "derive")}  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", words], cwd=folder, env={**ENVIRONMENT, **scripts, **more},
        capture_output=True, encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("words", "status", "out", "err"), [
    # Both updates are carried out though nobody can be told.
    ("$train --no-figures --name a >&- 2>&-", 0, "", ""),
    ("$train --no-figures --name a 2>/dev/full", 0, "bit for bit", ""),
    ("$train --no-figures --name a >/dev/full", 2, "", "train.py: standard output: No space left "
     "on device; what is printed is in the runs, too\n"),
    ("$derive linear >/dev/full", 2, "", "derive.py: standard output: No space left on device\n"),
])  # fmt: skip
@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_streams_that_are_closed_or_full(
    tmp_path: Path, words: str, status: int, out: str, err: str
) -> None:
    found = in_bash(tmp_path, words)
    assert found[0] == status
    assert out in found[1]
    assert found[2].endswith(err)
    assert "Traceback" not in found[2]
    if "train" in words:
        for update in ("manual", "autograd"):
            assert len(read_csv(tmp_path / "runs" / "a" / update / "trajectory.csv")[1]) == 151


@pytest.mark.processes
@pytest.mark.parametrize(("name", "value"), [("TQDM_MININTERVAL", "x"), ("TORCH_LOGS", "no-log")])
def test_what_a_library_refuses_as_it_is_imported_is_one_line(
    tmp_path: Path, name: str, value: str
) -> None:
    status, out, err = in_bash(tmp_path, "$train", **{name: value})
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("train.py: ValueError: ")
    assert not any(tmp_path.iterdir())


@pytest.mark.processes
def test_a_path_that_is_safe_and_a_backend_that_is_none(tmp_path: Path) -> None:
    """PYTHONSAFEPATH leaves out the scripts' folder; MPLBACKEND is of windows."""
    more = {"PYTHONSAFEPATH": "1", "MPLBACKEND": "nonsense"}
    status, _, err = in_bash(tmp_path, "$train --name a", **more)
    assert (status, err) == (0, "written to runs/a; tensorboard --logdir runs\n")


def limit_memory(more: int) -> None:
    """Let this process have so many bytes more of address space than it has."""
    import resource

    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = used * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


# 320 MB of data: they cannot be had, or cannot be trained on.
@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("more", [200 * 2**20, 500 * 2**20])
def test_memory_that_is_not_there_is_one_line(tmp_path: Path, more: int) -> None:
    words = "--no-figures --data synthetic:20000000 --batch-size full".split()
    status, out, err = ended(Forked(tmp_path, *words, before=partial(limit_memory, more)))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("train.py: out of memory (")
    assert err.endswith("; take fewer rows, or --chunk-size\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("name", ["config.json", "run.pt"])
def test_a_file_that_no_memory_holds_is_one_line(shell: Shell, name: str) -> None:
    """A hole of 1 TB takes no place on the disk."""
    assert shell("--epochs", "1", "--device", "cpu", "--name", "a") == 0
    file = Path("runs", "a", "manual", name)
    file.write_bytes(b"")
    os.truncate(file, 2**40)
    limit = partial(limit_memory, 2**30)
    process = Forked(shell.folder, "--resume", "runs/a", "--epochs", "2", before=limit)
    assert ended(process) == (
        2, "", f"train.py: {file} has {2**40} bytes, which the memory does not hold; give a file\n"
    )  # fmt: skip


def test_memory_that_ends_without_a_word_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own MemoryError has no text, as where a list cannot grow."""

    def ends(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(train, "carry_out_all", ends)
    assert shell() == 2
    assert shell.err == (
        "train.py: out of memory (no more can be had); take fewer rows, or --chunk-size\n"
    )


PARSERS = (train.make_parser, compare.make_parser, derive.make_parser, plot.make_parser)


@pytest.mark.parametrize("make", PARSERS, ids=lambda make: make.__module__)
def test_two_dashes_are_no_value(
    make: Callable[[], Parser], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = make()
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--"):
                with pytest.raises(SystemExit) as end:
                    parser.parse_args([f"{option}=--"])
                assert end.value.code == 2
                said = f"{parser.prog}: argument {option}: '--' is no value\n"
                assert capsys.readouterr().err == said


@pytest.mark.parametrize(("words", "message"), [
    ("--dtype float32 --lr 1e39", "lr 1e+39 is beyond float32; give a smaller number"),
    ("--update affine --epochs 4611686018427387904", "4611686018427387904 epochs of 3 batches"),
    ("--update compiled --epochs 9223372036854775807", "9223372036854775807 epochs of 3 batches "),
    ("--data synthetic:9223372036854775807", "data 'synthetic:92...2036854775807': give a numbe"),
    (f"--data synthetic:{'9' * 5000}", "data 'synthetic:99...9999999999999': give a number of row"),
])  # fmt: skip
def test_numbers_at_the_limits_leave_nothing(shell: Shell, words: str, message: str) -> None:
    assert shell(*words.split()) == 2
    assert shell.err.startswith(f"train.py: {message}")
    assert not Path("runs").exists()


CHANGES = {
    "torch's default device": "import torch; torch.set_default_device('meta')",
    "torch's default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "the working directory": "import os; os.chdir('/')",
    "print": "import builtins; builtins.print = lambda *words, **options: None",
    "json.dumps": "import json; json.dumps = None",
}
MODEL = "\nfrom torchgd import Linear\n\nclass Mine(Linear):\n    pass\n"


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_changes_what_a_run_depends_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    Path("own.py").write_text(CHANGES[what] + MODEL, encoding="utf-8")
    before = os.getcwd()
    for owner, name in ((builtins, "print"), (json, "dumps")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    try:
        status = shell("--model", "own.py:Mine")
    finally:
        os.chdir(before)
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert status == 2
    assert shell.err == f"train.py: own.py changes {what}, on which a run depends; let it be\n"
    assert not Path("runs").exists()
