"""Runs that were interrupted, or met a fault, and go on with --resume.

Those that are killed are in test_kills.py, those that somebody has changed in test_forged.py.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
import train
from helpers import EXPONENTIAL, contents, events, left, refuse_other_than, saved
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import torchgd.experiment.runs
from torchgd.experiment.command_line import Stop
from torchgd.experiment.runs import resumed_runs

SHUFFLED = (
    "--model quadratic --data cars --standardize --momentum 0.9 --batch-size 7 --shuffle --seed 3 "
    "--epochs 12"
).split()
PARTS, WHOLE = Path("runs/parts"), Path("runs/whole")


class Shell(helpers.Shell):
    """Runs train.py, and may stop it after so many steps, as a signal does."""

    def stopped(self, after: int, *words: str) -> int:
        """Run it; SIGTERM comes after so many steps."""
        left = iter(range(after))

        def asked(stop: Stop) -> bool:
            if next(left, None) is None:
                stop.signal = signal.SIGTERM
            return stop.signal != 0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stop, "__call__", asked)
            return self(*words)

    def goes_on(self, after: int, *words: str, every: tuple[str, ...] = ()) -> None:
        """Stopped after so many steps, it goes on to all that one leaves and says that was not."""
        status, said = self(*words, *every, "--name", "whole"), self.out
        assert self.stopped(after, *words, *every, "--name", "parts") == 143
        assert self.err.splitlines()[-1].endswith("; go on with --resume runs/parts")
        assert self("--resume", "runs/parts", *every) == status
        assert self.out == said
        refuse_other_than(WHOLE, PARTS)


shell = helpers.shell_of(train.main, "--no-figures", kind=Shell)


@pytest.mark.parametrize("after", [0, 3, 8, 95, 96, 97, 100, 190, 191])
def test_an_interrupted_run_goes_on_to_the_same_files(shell: Shell, after: int) -> None:
    """12 epochs of 8 batches: before a step, within an epoch, between two, in either update."""
    shell.goes_on(after, *SHUFFLED)


def test_on_a_device_it_goes_on_to_the_same_files_too(shell: Shell, named_device: str) -> None:
    shell.goes_on(100, *SHUFFLED, "--device", named_device)


@pytest.mark.parametrize("after", [0, 2, 7, 13])
@pytest.mark.parametrize("more", [[], ["--momentum", "0"], ["--record-every", "77"]], ids=str)
def test_a_compiled_run_goes_on_to_the_same_files(
    shell: Shell, after: int, more: list[str]
) -> None:
    """600 steps in blocks of 40; asked after each whether to stop."""
    pytest.importorskip("numba")
    words = [*SHUFFLED, *"--batch-size 1 --update compiled --device cpu".split(), *more]
    shell.goes_on(after, *words, every=("--checkpoint-every", "40steps"))


def test_runs_go_on_in_the_commands_order(shell: Shell) -> None:
    """The first is the one that the others are compared with; a mistake begins again."""
    shell.goes_on(150, *SHUFFLED, "--update", "autograd", "no-zero-grad", "manual")


@pytest.mark.parametrize("lost", ["result.json", "trajectory.csv"])
def test_an_affine_run_is_taken_at_once_again(shell: Shell, lost: str) -> None:
    flags = "--update affine --lr 0.001 --epochs".split()
    assert shell(*flags, "9", "--name", "whole") == 0
    shutil.copytree(WHOLE, PARTS)
    (PARTS / "affine" / lost).unlink()
    assert shell("--resume", "runs/parts") == 0
    refuse_other_than(WHOLE, PARTS)
    assert shell("--resume", "runs/parts", "--epochs", "10") == 0
    assert shell(*flags, "10", "--name", "more") == 0
    assert left(PARTS) == left(Path("runs/more"))


def test_an_interrupted_sweep_goes_on_as_a_whole(shell: Shell) -> None:
    flags = ["--lr", "0.01", "0.02", "0.03", "--name"]
    assert shell(*flags, "whole") == 0
    tables = shell.out
    assert shell.stopped(320, *flags, "parts") == 143  # in the second rate's first run
    assert shell.err.endswith(
        "train.py: interrupted, manual at step 20; go on with --resume runs/parts\n"
    )
    assert shell("--resume", "runs/parts") == 0
    finished = "runs/parts/lr-0.01 is finished, after 150 steps; --epochs can be raised\n"
    assert shell.out == finished + tables[tables.index("linear-lesson", 1) :]
    refuse_other_than(WHOLE, PARTS)


def test_a_clock_that_goes_backwards(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a day, between a run's start and its end: TensorBoard shows the same steps, once each."""
    assert shell(*SHUFFLED, "--name", "whole") == 0
    assert shell.stopped(50, *SHUFFLED, "--name", "parts") == 143
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86400)
    assert shell("--resume", "runs/parts") == 0
    refuse_other_than(WHOLE, PARTS)


def test_epochs_may_be_raised_after_the_end(shell: Shell) -> None:
    """The row of step 95, recorded for being the last, goes."""
    more = [*SHUFFLED, "--record-every", "7"]
    assert shell(*more, "--name", "parts") == 0
    assert shell("--resume", "runs/parts", "--epochs", "20") == 0
    more[more.index("12")] = "20"
    assert shell(*more, "--name", "whole") == 0
    refuse_other_than(WHOLE, PARTS)


def test_a_run_that_lacks_its_result_alone_keeps_the_last_steps_row(shell: Shell) -> None:
    """That of step 95, which no seventh step is."""
    more = [*SHUFFLED, "--record-every", "7"]
    for name in ("whole", "parts"):
        assert shell(*more, "--name", name) == 0
    (PARTS / "manual" / "result.json").unlink()
    assert shell("--resume", "runs/parts") == 0
    refuse_other_than(WHOLE, PARTS)


def test_tensorboard_is_told_of_a_configuration_once(shell: Shell) -> None:
    def told() -> list[int]:
        files = Path("runs/a/manual").glob("events.out.tfevents.*")
        events = [event for file in files for event in EventFileLoader(str(file)).Load()]
        there = [(e.step, v.tag) for e in events for v in e.summary.value]
        return sorted(step for step, tag in there if tag.startswith("config"))

    assert shell.stopped(50, *SHUFFLED, "--name", "a") == 143
    assert shell("--resume", "runs/a") == 0
    assert told() == [0]
    assert shell("--resume", "runs/a", "--epochs", "20") == 0
    assert told() == [0, 96]  # it is another, with more epochs, from the step where they begin


def test_all_runs_are_locked_before_one_is_read(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read earlier, another process may still be writing."""
    done: list[str] = []

    def noted(name: str, real: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def call(path: Path) -> Any:
            done.append(name)
            return real(path)

        return call

    assert shell("--epochs", "1", "--name", "a") == 0
    for name in ("locked", "read_config"):
        real = getattr(torchgd.experiment.runs, name)
        monkeypatch.setattr(torchgd.experiment.runs, name, noted(name, real))
    with resumed_runs(Path("runs/a"), {}):
        assert done == ["locked"] * 2 + ["read_config"] * 2


def test_what_says_that_a_run_is_over_goes_before_it_goes_on(shell: Shell) -> None:
    """Else one that is killed then has the results of fewer epochs."""
    ends = [Path("runs/a", name) for name in ("manual/result.json", "comparison.json")]
    assert shell("--epochs", "2", "--name", "a") == 0
    assert all(end.is_file() for end in ends)
    with resumed_runs(Path("runs/a"), {"epochs": 3}) as runs, runs[0].events():
        assert not any(end.exists() for end in ends)


def test_a_run_that_is_over_says_so(shell: Shell) -> None:
    assert shell(*SHUFFLED, "--name", "a") == 0
    before = left(Path("runs/a"))
    for directory in ("runs/a", "runs/a/manual", "runs/a/autograd/"):
        assert shell("--resume", directory) == 0
        assert shell.out.endswith("runs/a is finished, after 96 steps; --epochs can be raised\n")
    assert left(Path("runs/a")) == before
    assert shell("--lr", "1", "--epochs", "200", "--name", "b") == 1
    assert shell("--resume", "runs/b") == 1
    assert shell.out == "runs/b diverged, and nothing goes on from there; start a new run\n"
    assert shell("--resume", "runs/b", "--epochs", "201") == 2
    assert shell.err == (
        "train.py: --epochs 201: runs/b/manual diverged at step 224, and more epochs change "
        "nothing; leave it out\n"
    )
    assert shell("--lr", "0.3", "--batch-size", "full", "--name", "c") == 1
    assert shell("--resume", "runs/c") == 1
    assert shell.out == "runs/c climbed, in 50 steps; start a new run with a smaller --lr\n"


@pytest.mark.parametrize("epochs", ["200", "74"])  # the 74th is the one that overflows
def test_a_diverged_run_and_one_that_had_not_begun(shell: Shell, epochs: str) -> None:
    assert shell("--lr", "1", "--epochs", epochs, "--name", "whole") == 1
    shutil.copytree(WHOLE, PARTS)
    for path in (*Path("runs/parts/autograd").glob("[!c]*"), PARTS / "comparison.json"):
        path.unlink()
    assert shell("--resume", "runs/parts") == 1
    refuse_other_than(WHOLE, PARTS)


def test_a_model_of_ones_own_is_named_again(shell: Shell) -> None:
    """config.json runs no code; the file must be what it was, wherever it lies now."""
    canary = "\nopen('canary', 'w').close()\n"
    other = "\nclass Other(Exponential):\n    pass\n"
    Path("own.py").write_text(EXPONENTIAL + other + canary, encoding="utf-8")
    words = "--model own.py:Exponential --update manual --lr 0.002 --epochs 9 --name".split()
    assert shell(*words, "whole") == 0
    assert shell.stopped(9, *words, "parts") == 143
    assert shell.err.endswith("go on with --resume runs/parts --model own.py:Exponential\n")
    Path("canary").unlink()
    assert shell("--resume", "runs/parts") == 2
    assert shell.err == (
        "train.py: runs/parts/manual: the run's model is own.py:Exponential, whose code is not "
        "run unasked: name it with --model FILE.py:CLASS\n"
    )
    assert not Path("canary").exists()
    Path("other.py").write_text(EXPONENTIAL, encoding="utf-8")
    for model in ("other.py:Exponential", "own.py:Other"):
        assert shell("--resume", "runs/parts", "--model", model) == 2
        assert shell.err == (
            f"train.py: model {model!r} is not the one that the run in runs/parts/manual "
            "was trained with (SHA-256); give that one back or start a new run\n"
        )
    assert shell("--resume", "runs/parts", "--model", "own.py:Exponential") == 0
    refuse_other_than(WHOLE, PARTS)


def test_data_of_ones_own_must_be_what_they_were(shell: Shell, tmp_path: Path) -> None:
    """They are found from where the run was started, wherever it goes on."""
    Path("mine.csv").write_text("x,y\n1,3\n2,5\n4,8\n", encoding="utf-8")
    flags = "--data mine.csv --update manual --epochs 9".split()
    assert shell(*flags, "--name", "whole") == 0
    assert shell.stopped(9, *flags, "--name", "parts") == 143
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    Path("mine.csv").write_text("x,y\n9,9\n", encoding="utf-8")
    for last in ("4,9", "5,8"):
        Path("../mine.csv").write_text(f"x,y\n1,3\n2,5\n{last}\n", encoding="utf-8")
        assert shell("--resume", "../runs/parts") == 2
        assert shell.err == (
            "train.py: data 'mine.csv' is not the one that the run in ../runs/parts/manual was "
            "trained with (SHA-256); give that one back or start a new run\n"
        )
    Path("../mine.csv").rename("moved.csv")
    assert shell("--resume", "../runs/parts") == 2
    assert shell.err.startswith(f"train.py: ../runs/parts/manual: data '{tmp_path}/mine.csv': no ")
    Path("moved.csv").write_text("1,3\n2,5\n4.0,8\n", encoding="utf-8")
    assert shell("--resume", "../runs/parts", "--data", "moved.csv") == 0
    ours, whole = (left(tmp_path / "runs" / name) for name in ("parts", "whole"))
    assert ours["manual/trajectory.csv"] == whole["manual/trajectory.csv"]
    assert ours["manual/result.json"] == whole["manual/result.json"] | {"data": "moved.csv"}


REFUSED = {
    "--resume runs/parts/manual/config.json": "runs/parts/manual/config.json holds no run: give",
    "--resume runs/parts --epochs 11": "--epochs 11: the run has 12, and can only get more; leave",
    "--resume runs/parts --model linear": "runs/parts/manual: initial w2=1.0: model 'linear' has",
    "--resume runs/parts --data co2": "data 'co2' is not the one that the run in runs/parts/man",
    **{
        f"--resume runs/parts {flag}": f"{flag.split()[0]}: the run has its own; --resume takes "
        for flag in ("--lr 0.01", "--update manual", "--nesterov", "--initial b=1", "--compile")
    },
}


def test_what_cannot_go_on_is_one_line_and_changes_nothing(shell: Shell) -> None:
    assert shell.stopped(20, *SHUFFLED, "--name", "parts") == 143
    before = contents(Path("runs"))
    for flags, message in REFUSED.items():
        assert shell(*flags.split()) == 2, flags
        assert shell.out == ""
        assert shell.err.startswith(f"train.py: {message}"), shell.err
        assert shell.err.count("\n") == 1
    assert contents(Path("runs")) == before


def test_another_torch_is_said(shell: Shell) -> None:
    assert shell.stopped(20, *SHUFFLED, "--name", "parts") == 143
    config = PARTS / "manual" / "config.json"
    text = config.read_text(encoding="utf-8").replace('"torch": "', '"torch": "0')
    config.write_text(text, encoding="utf-8")
    assert shell("--resume", "runs/parts") == 0
    assert "and the run began with 0" in shell.err.splitlines()[0]
    assert shell.err.splitlines()[0].endswith(": bits may differ from then on")


OWN = """
import torch
from torchgd.experiment.command_line import Stop
from torchgd import Linear

class Buffered(Linear):
    def __init__(self, device=None, dtype=None):
        super().__init__(device=device, dtype=dtype)
        self.register_buffer("scale", torch.tensor(2.0, device=device, dtype=dtype))
        self.register_buffer("count", torch.tensor([3]))
        self.twin = self.w

    def forward(self, x):
        return self.scale * self.w * x

    def partials(self, x):
        return {"w": self.scale * x}

class Late(Linear):
    calls = 0

    def partials(self, x):
        Late.calls += 1
        if Late.calls > 100:
            raise SystemExit(0)
        return super().partials(x)
"""


def test_buffers_and_shared_parameters_are_kept(shell: Shell) -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")
    own = ["--model", "own.py:Buffered", "--momentum", "0.5", "--lr", "0.001"]
    assert shell(*own, "--name", "whole") == 0
    assert shell.stopped(70, *own, "--name", "parts") == 143
    assert shell("--resume", "runs/parts", *own[:2]) == 0
    refuse_other_than(WHOLE, PARTS)


def test_a_model_that_fails_on_the_way_is_one_line_and_keeps_the_way(shell: Shell) -> None:
    """What was recorded is in the events, and the last state is there; a table is not yet."""
    Path("own.py").write_text(OWN, encoding="utf-8")
    line = 1 + OWN.splitlines().index("            raise SystemExit(0)")
    words = "--model own.py:Late --name a --checkpoint-every 10steps"
    assert shell(*words.split()) == 2
    assert shell.err == f"train.py: own.py:{line}: SystemExit: 0\n"
    run = Path("runs/a/manual")
    steps = [step for step, _ in events(run)["loss"]]
    assert steps == list(range(len(steps)))
    assert saved(run) == len(steps) // 10 * 10 >= 50
    assert not any((run / name).exists() for name in ("trajectory.csv", "result.json"))


def test_a_damaged_result_is_named(shell: Shell) -> None:
    assert shell(*SHUFFLED, "--name", "a") == 0
    result = Path("runs/a/manual/result.json")
    result.write_text('{"steps": [1], "stopped": {}}', encoding="utf-8")
    assert shell("--resume", "runs/a") == 2
    assert shell.err == f"train.py: {result} is damaged (no 'steps'); run it again\n"


def test_names_that_tensorboard_cannot_write(shell: Shell) -> None:
    assert shell("--log-dir", "caf\udce9", "--name", "a") == 2
    assert shell.err == (
        f"train.py: '{Path.cwd()}/caf\\udce9/a': TensorBoard needs names that are UTF-8; "
        "rename it, or set PYTHONUTF8=1\n"
    )
    assert os.listdir() == []


def test_how_to_go_on_can_be_pasted(shell: Shell) -> None:
    assert shell.stopped(3, "--name", "my run") == 143
    assert shell.err.endswith("; go on with --resume 'runs/my run'\n")
