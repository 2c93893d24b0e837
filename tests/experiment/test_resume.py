"""Runs that were killed, interrupted, or met a fault, and go on with --resume."""

import errno
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
from helpers import EXPONENTIAL, contents, events, left, saved, shown
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from torchgd.experiment.files import read_json
from torchgd.experiment.run import Run

SHUFFLED = (
    "--model quadratic --data cars --standardize --momentum 0.9 --batch-size 7 --shuffle --seed 3 "
    "--epochs 12 --no-figures"
).split()


class Shell(helpers.Shell):
    """Runs train.py, and may stop it after so many steps, as a signal does."""

    def stopped(self, after: int, *words: str) -> int:
        """Run it; SIGTERM comes after so many steps."""
        left = iter(range(after))

        def asked(stop: train.Stop) -> bool:
            if next(left, None) is None:
                stop.signal = signal.SIGTERM
            return stop.signal != 0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.Stop, "__call__", asked)
            return self(*words)


shell = helpers.shell_of(train.main, kind=Shell)


@pytest.mark.parametrize("after", [0, 3, 8, 95, 96, 97, 100, 190, 191])
def test_an_interrupted_run_goes_on_to_the_same_files(shell: Shell, after: int) -> None:
    """12 epochs of 8 batches: before a step, within an epoch, between two, in either update."""
    assert shell(*SHUFFLED, "--name", "whole") == 0
    table = shell.out
    assert shell.stopped(after, *SHUFFLED, "--name", "parts") == 143
    assert shell.err.splitlines()[-1].endswith("; go on with --resume runs/parts")
    assert shell("--resume", "runs/parts", "--no-figures") == 0
    assert shell.out == table
    assert left(Path("runs/parts")) == left(Path("runs/whole"))
    for update in ("manual", "autograd"):
        assert shown(Path("runs/parts", update)) == shown(Path("runs/whole", update))


@pytest.mark.parametrize("after", [0, 2, 7, 13])
@pytest.mark.parametrize("more", [[], ["--momentum", "0"], ["--record-every", "77"]], ids=str)
def test_a_compiled_run_goes_on_to_the_same_files(
    shell: Shell, after: int, more: list[str]
) -> None:
    """600 steps in blocks of 40; asked after each whether to stop."""
    pytest.importorskip("numba")
    every = ["--checkpoint-every", "40steps"]
    flags = [*SHUFFLED, "--batch-size", "1", "--update", "compiled", *every, *more]
    assert shell(*flags, "--name", "whole") == 0
    assert shell.stopped(after, *flags, "--name", "parts") == 143
    assert shell("--resume", "runs/parts", "--no-figures", *every) == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


@pytest.mark.parametrize("update", ["affine", "no-zero-grad", "epoch-loss"])
def test_what_goes_on_from_no_step_begins_again(shell: Shell, update: str) -> None:
    """Affine maps take all steps at once, and a mistake may have a memory of its own."""
    flags = f"--update {update} --no-figures --lr 0.001 --epochs 9 --checkpoint-every 7steps"
    assert shell(*flags.split(), "--name", "whole") == 0
    assert shell.stopped(9, *flags.split(), "--name", "parts") == (143 if update != "affine" else 0)
    for lost in ("result.json", "trajectory.csv"):
        assert shell("--resume", "runs/parts", "--no-figures") == 0
        assert left(Path("runs/parts")) == left(Path("runs/whole"))
        assert shown(Path("runs/parts", update)) == shown(Path("runs/whole", update))
        Path("runs/parts", update, lost).unlink()
    assert shell("--resume", "runs/parts", "--epochs", "10", "--no-figures") == 0
    flags = flags.replace("--epochs 9", "--epochs 10")
    assert shell(*flags.split(), "--name", "more") == 0
    assert left(Path("runs/parts")) == left(Path("runs/more"))


def test_on_a_device_it_goes_on_to_the_same_files_too(shell: Shell, named_device: str) -> None:
    words = [*SHUFFLED, "--device", named_device]
    assert shell(*words, "--name", "whole") == 0
    assert shell.stopped(100, *words, "--name", "parts") == 143
    assert shell("--resume", "runs/parts", "--no-figures") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_an_interrupted_sweep_goes_on_as_a_whole(shell: Shell) -> None:
    flags = ["--lr", "0.01", "0.02", "0.03", "--no-figures", "--name"]
    assert shell(*flags, "whole") == 0
    tables = shell.out
    assert shell.stopped(320, *flags, "parts") == 143  # in the second rate's first run
    assert shell.err.endswith(
        "train.py: interrupted, manual at step 20; go on with --resume runs/parts\n"
    )
    assert shell("--resume", "runs/parts", "--no-figures") == 0
    finished = "runs/parts/lr-0.01 is finished, after 150 steps; --epochs can be raised\n"
    first = tables.index("linear-lesson", 1)
    assert shell.out == finished + tables[first:]
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_a_clock_that_goes_backwards(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a day, between a run's start and its end: TensorBoard shows the same steps, once each."""
    assert shell(*SHUFFLED, "--name", "whole") == 0
    assert shell.stopped(50, *SHUFFLED, "--name", "parts") == 143
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86400)
    assert shell("--resume", "runs/parts", "--no-figures") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))
    for update in ("manual", "autograd"):
        assert shown(Path("runs/parts", update)) == shown(Path("runs/whole", update))
        assert read_json(Path("runs/parts", update, "result.json"))["seconds"] > 0


def test_epochs_may_be_raised_after_the_end(shell: Shell) -> None:
    """The row of step 95, recorded for being the last, goes."""
    more = [*SHUFFLED, "--record-every", "7"]
    assert shell(*more, "--name", "parts") == 0
    assert shell("--resume", "runs/parts", "--epochs", "20", "--no-figures") == 0
    more[more.index("12")] = "20"
    assert shell(*more, "--name", "whole") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))
    assert shown(Path("runs/parts/autograd")) == shown(Path("runs/whole/autograd"))


def test_more_epochs_that_fail_at_once_can_be_asked_for_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then config.json says that there are more; or they are forgotten."""
    more = [*SHUFFLED, "--record-every", "7"]
    assert shell(*more, "--name", "parts") == 0

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", "disk")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "carry_out", fails)
        assert shell("--resume", "runs/parts", "--epochs", "20", "--no-figures") == 2
    assert shell.err.endswith("disk: Input/output error; mend that and go on with --resume runs/parts\n")
    assert shell("--resume", "runs/parts", "--epochs", "20", "--no-figures") == 0
    more[more.index("12")] = "20"
    assert shell(*more, "--name", "whole") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_tensorboard_is_told_of_a_configuration_once(shell: Shell) -> None:
    def told() -> int:
        files = Path("runs/a/manual").glob("events.out.tfevents.*")
        events = [event for file in files for event in EventFileLoader(str(file)).Load()]
        return sum(v.tag.startswith("config") for event in events for v in event.summary.value)

    assert shell.stopped(50, *SHUFFLED, "--name", "a") == 143
    assert shell("--resume", "runs/a", "--no-figures") == 0
    assert told() == 1
    assert shell("--resume", "runs/a", "--epochs", "20", "--no-figures") == 0
    assert told() == 2  # it is another, with more epochs


def test_a_finished_run_says_so(shell: Shell) -> None:
    assert shell(*SHUFFLED, "--name", "a") == 0
    before = left(Path("runs/a"))
    for directory in ("runs/a", "runs/a/manual", "runs/a/autograd/"):
        assert shell("--resume", directory) == 0
        assert shell.out.endswith("runs/a is finished, after 96 steps; --epochs can be raised\n")
    assert left(Path("runs/a")) == before
    assert shell("--lr", "1", "--epochs", "200", "--no-figures", "--name", "b") == 1
    assert shell("--resume", "runs/b") == 1
    assert shell.out == "runs/b diverged, and nothing goes on from there; start a new run\n"
    assert shell("--resume", "runs/b", "--epochs", "300") == 2
    assert shell.err == (
        "train.py: --epochs 300: runs/b/manual diverged at step 224, and more epochs change "
        "nothing; leave it out\n"
    )
    climbs = "--lr 0.3 --batch-size full --no-figures --name c".split()
    assert shell(*climbs) == 1
    assert shell("--resume", "runs/c") == 1
    assert shell.out == "runs/c climbed, in 50 steps; start a new run with a smaller --lr\n"


def test_what_is_lost_is_made_again(shell: Shell) -> None:
    assert shell(*SHUFFLED, "--name", "whole") == 0
    for lost in ("autograd/run.pt", "manual/result.json", "manual/trajectory.csv",
                 "comparison.json"):  # fmt: skip
        shutil.copytree("runs/whole", "runs/parts")
        Path("runs/parts", lost).unlink()
        assert shell("--resume", "runs/parts", "--no-figures") == 0
        assert left(Path("runs/parts")) == left(Path("runs/whole"))
        assert shown(Path("runs/parts/manual")) == shown(Path("runs/whole/manual"))
        shutil.rmtree("runs/parts")


@pytest.mark.parametrize("epochs", ["200", "74"])  # the 74th is the one that overflows
def test_a_diverged_run_and_one_that_had_not_begun(shell: Shell, epochs: str) -> None:
    flags = f"--lr 1 --epochs {epochs} --no-figures".split()
    assert shell(*flags, "--name", "whole") == 1
    shutil.copytree("runs/whole", "runs/parts")
    for path in (*Path("runs/parts/autograd").glob("[!c]*"), Path("runs/parts/comparison.json")):
        path.unlink()
    assert shell("--resume", "runs/parts", "--no-figures") == 1
    assert left(Path("runs/parts")) == left(Path("runs/whole"))
    for update in ("manual", "autograd"):
        assert shown(Path("runs/parts", update)) == shown(Path("runs/whole", update))


def test_a_model_of_ones_own_is_named_again(shell: Shell) -> None:
    """config.json runs no code; the file must be what it was, wherever it lies now."""
    canary = "\nopen('canary', 'w').close()\n"
    Path("own.py").write_text(EXPONENTIAL + canary, encoding="utf-8")
    flags = "--update manual --lr 0.002 --no-figures --epochs 9".split()
    assert shell("--model", "own.py:Exponential", *flags, "--name", "whole") == 0
    assert shell.stopped(9, "--model", "own.py:Exponential", *flags, "--name", "parts") == 143
    assert shell.err.endswith("go on with --resume runs/parts --model own.py:Exponential\n")
    Path("canary").unlink()
    assert shell("--resume", "runs/parts", "--no-figures") == 2
    assert shell.err == (
        "train.py: runs/parts/manual: the run's model is own.py:Exponential, whose code is not "
        "run unasked: name it with --model FILE.py:CLASS\n"
    )
    assert not Path("canary").exists()
    Path("other.py").write_text(EXPONENTIAL, encoding="utf-8")
    assert shell("--resume", "runs/parts", "--model", "other.py:Exponential") == 2
    assert shell.err == (
        "train.py: model 'other.py:Exponential' is not the one that the run in runs/parts/manual "
        "was trained with (SHA-256); give that one back or start a new run\n"
    )
    assert shell("--resume", "runs/parts", "--model", "own.py:Exponential", "--no-figures") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_data_of_ones_own_must_be_what_they_were(shell: Shell, tmp_path: Path) -> None:
    """They are found from where the run was started, wherever it goes on."""
    Path("mine.csv").write_text("x,y\n1,3\n2,5\n4,8\n", encoding="utf-8")
    flags = "--data mine.csv --update manual --no-figures --epochs 9".split()
    assert shell(*flags, "--name", "whole") == 0
    assert shell.stopped(9, *flags, "--name", "parts") == 143
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    Path("mine.csv").write_text("x,y\n9,9\n", encoding="utf-8")
    Path("../mine.csv").write_text("x,y\n1,3\n2,5\n4,9\n", encoding="utf-8")
    assert shell("--resume", "../runs/parts") == 2
    assert shell.err == (
        "train.py: data 'mine.csv' is not the one that the run in ../runs/parts/manual was trained "
        "with (SHA-256); give that one back or start a new run\n"
    )
    Path("../mine.csv").rename("moved.csv")
    assert shell("--resume", "../runs/parts") == 2
    assert shell.err.startswith(f"train.py: ../runs/parts/manual: data '{tmp_path}/mine.csv': no ")
    Path("moved.csv").write_text("1,3\n2,5\n4.0,8\n", encoding="utf-8")
    assert shell("--resume", "../runs/parts", "--data", "moved.csv", "--no-figures") == 0
    ours, whole = (left(tmp_path / "runs" / name) for name in ("parts", "whole"))
    assert ours["manual/trajectory.csv"] == whole["manual/trajectory.csv"]
    assert ours["manual/result.json"] == whole["manual/result.json"] | {"data": "moved.csv"}


def damage(path: str, change: Callable[[str], str]) -> None:
    file = Path(path)
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


def test_a_damaged_state_is_named_and_a_removed_one_is_a_start(shell: Shell) -> None:
    assert shell(*SHUFFLED, "--name", "whole") == 0
    assert shell.stopped(20, *SHUFFLED, "--name", "parts") == 143
    path, before = Path("runs/parts/manual/run.pt"), contents(Path("runs/parts"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 4
    path.write_bytes(content)
    before[path] = bytes(content)
    assert shell("--resume", "runs/parts") == 2
    assert shell.err == (
        f"train.py: {path} is damaged: its {len(content)} bytes do not fit their checksum; take "
        "an earlier copy, or remove it and the run starts again\n"
    )
    assert contents(Path("runs/parts")) == before
    path.unlink()
    assert shell("--resume", "runs/parts", "--no-figures") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


REFUSED = {
    "--resume nowhere": "nowhere holds no run: give its directory, such as runs/NAME",
    "--resume runs/parts/manual/config.json": "runs/parts/manual/config.json holds no run: give",
    "--resume runs/parts --epochs 11": "--epochs 11: the run has 12, and can only get more; leave",
    "--resume runs/parts --model linear": "runs/parts/manual: initial w2=1.0: model 'linear' has",
    "--resume runs/parts --data co2": "data 'co2' is not the one that the run in runs/parts/man",
    **{
        f"--resume runs/parts {flag}": f"{flag.split()[0]}: the run has its own; --resume takes "
        for flag in ("--lr 0.02", "--lr 0.01", "--seed 4", "--nesterov", "--batch-size full",
                     "--initial b=1", "--record-every 2", "--update manual", "--compile",
                     "--chunk-size 3")
    },
    "--resume runs/parts --name other": "--name is a new run's; --resume has its directory",
    "--resume runs/parts --log-dir x": "--log-dir is a new run's; --resume has its directory",
    "--checkpoint-every never": "argument --checkpoint-every: 'never' is neither seconds, such as "
    "60, nor steps, such as 500steps",
    "--checkpoint-every 0steps": "argument --checkpoint-every: '0steps' is neither seconds, such",
    "--checkpoint-every -1": "argument --checkpoint-every: '-1' is neither seconds, such as 60,",
    "--checkpoint-every nan": "argument --checkpoint-every: 'nan' is neither seconds, such as 60,",
}  # fmt: skip


def test_what_cannot_go_on_is_one_line_and_changes_nothing(shell: Shell) -> None:
    assert shell.stopped(20, *SHUFFLED, "--name", "parts") == 143
    before = contents(Path("runs/parts"))
    for flags, message in REFUSED.items():
        assert shell(*flags.split()) == 2, flags
        assert shell.out == ""
        assert shell.err.startswith(f"train.py: {message}"), shell.err
        assert shell.err.count("\n") == 1
    assert contents(Path("runs/parts")) == before
    assert os.listdir("runs") == ["parts"]


SPOILT: dict[str, tuple[str, str]] = {
    '"lr": 0.01': ('"lr": "fast"', ": config.json is damaged: lr 'fast' is not a finite"),
    '"epochs": 12': ('"epochs": 1e3', ": config.json is damaged: epochs '1000.0' is not"),
    '"batch_size": 7': ('"batch_size": -7', ": config.json is damaged: batch_size '-7' is not"),
    '"seed": 3': ('"seed": null', ": config.json is damaged: seed 'None' is not"),
    '"dtype": "float64"': ('"dtype": "int8"', ": config.json is damaged: dtype 'int8' is not"),
    '"nesterov": false': ('"nesterov": "no"', ": config.json is damaged: nesterov 'no' is not"),
    '"momentum": 0.9': ('"momentum": NaN', ": config.json is damaged: momentum 'nan' is not"),
    '"shuffle": true,': ("", ": config.json lacks 'shuffle'; run it again"),
    '"w2": 1.0': ('"w2": []', ": config.json is damaged: initial '[]' is not"),
    '"model": "quadratic"': ('"model": ["a"]', ": config.json is damaged: model ['a'] is not"),
    '"data": "cars"': ('"data": "co2"', " is not the one that the run in runs/parts/manual was"),
    '"device": "cpu"': ('"device": "tpu"', ": device 'tpu': choose auto, cpu, cuda or cuda:N"),
    '"data_sha256": "': ('"data_sha256": "0', " is not the one that the run in runs/parts/man"),
    '"update": "manual"': ('"update": "half"', " is of another run: update is 'manual' there, and"),
    '"update": "man': ('"update": "wom', ": config.json is damaged: update 'womual' is not"),
    '"lr": 0.01,': ('"lr": 0.02,', " is of another run: lr is 0.01 there, and 0.02 here; give "),
    '{': ("", "/config.json is damaged (Extra data: line 2 column"),
    "}": ("", "/config.json is damaged (Expecting"),
}  # fmt: skip


def test_a_damaged_configuration_is_one_line_and_changes_nothing(shell: Shell) -> None:
    assert shell.stopped(20, *SHUFFLED, "--name", "parts") == 143
    path = Path("runs/parts/manual/config.json")
    whole, before = path.read_text(encoding="utf-8"), contents(Path("runs/parts"))
    for text, (other, message) in SPOILT.items():
        assert text in whole
        path.write_text(whole.replace(text, other, 1), encoding="utf-8")
        assert shell("--resume", "runs/parts") == 2, text
        assert message in shell.err
        assert (shell.out, shell.err.count("\n")) == ("", 1)
    path.write_text(whole, encoding="utf-8")
    assert contents(Path("runs/parts")) == before


def test_another_torch_is_said(shell: Shell) -> None:
    assert shell.stopped(20, *SHUFFLED, "--name", "parts") == 143
    damage("runs/parts/manual/config.json", lambda t: t.replace('"torch": "', '"torch": "0'))
    assert shell("--resume", "runs/parts", "--no-figures") == 0
    assert "and the run began with 0" in shell.err.splitlines()[0]
    assert shell.err.splitlines()[0].endswith(": bits may differ from then on")


STATEFUL = """
import torch
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

class Noisy(Linear):
    def forward(self, x):
        return self.w * x + torch.rand_like(x)
"""


def test_buffers_and_shared_parameters_are_kept(shell: Shell) -> None:
    Path("own.py").write_text(STATEFUL, encoding="utf-8")
    own = ["--model", "own.py:Buffered", "--no-figures", "--momentum", "0.5", "--lr", "0.001"]
    assert shell(*own, "--name", "whole") == 0
    assert shell.stopped(70, *own, "--name", "parts") == 143
    assert shell("--resume", "runs/parts", *own[:3]) == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_a_model_that_fails_on_the_way_is_one_line_and_keeps_the_way(shell: Shell) -> None:
    """In the events all that was recorded, and the last state; what has not stopped has no table."""
    Path("own.py").write_text(STATEFUL, encoding="utf-8")
    line = 1 + STATEFUL.splitlines().index("            raise SystemExit(0)")
    words = "--model own.py:Late --no-figures --name a --checkpoint-every 10steps"
    assert shell(*words.split()) == 2
    assert shell.err == f"train.py: own.py:{line}: SystemExit: 0\n"
    run = Path("runs/a/manual")
    steps = [step for step, _ in events(run)["loss"]]
    assert steps == list(range(len(steps)))
    assert saved(run) == len(steps) // 10 * 10 >= 50
    assert not any((run / name).exists() for name in ("trajectory.csv", "result.json"))


def test_a_model_that_draws_lots_is_refused(shell: Shell) -> None:
    Path("own.py").write_text(STATEFUL, encoding="utf-8")
    assert shell("--model", "own.py:Noisy") == 2
    assert shell.err == (
        "train.py: model 'own.py:Noisy': forward(x) is another each time; let it depend on x, "
        "parameters and buffers alone\n"
    )


def test_a_state_beyond_the_end_is_refused_and_nothing_is_touched(shell: Shell) -> None:
    assert shell(*SHUFFLED, "--name", "a") == 0
    damage("runs/a/manual/config.json", lambda t: t.replace('"epochs": 12', '"epochs": 5'))
    before = contents(Path("runs/a"))
    assert shell("--resume", "runs/a") == 2
    assert shell.err == (
        "train.py: runs/a/manual/run.pt is 96 steps on, and this run has 40; give it its "
        "own, or remove it and the run starts again\n"
    )
    assert contents(Path("runs/a")) == before


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
