"""scripts/compare.py as its users meet it."""

import itertools
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import compare
import numpy as np
import plot
import pytest
import torch
import train
from helpers import EXPONENTIAL, ROOT, Shell, events, same_bits, same_trajectory, shell_of

from torchgd import ManualSGD, manual_gradient
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import AUTOGRAD, MANUAL
from torchgd.experiment.folder import read_run
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import outcome_of
from torchgd.proof.compare import which_half_differs
from torchgd.proof.mistakes import MISTAKES, TwoRoundings
from torchgd.training import Update

shell = shell_of(compare.main, files={"mine.py": EXPONENTIAL})


@pytest.fixture(autouse=True)
def _devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own devices are for the test marked cuda."""
    if request.node.get_closest_marker("cuda") is None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_the_whole_matrix_is_identical(shell: Shell) -> None:
    assert shell() == 0
    head, *rows, last = shell.out.splitlines()
    assert cells(head) == [
        "model", "data", "batch", "dtype", "device", "options",
        "steps", "max |Δw|", "ULPs", "part at", "verdict",
    ]  # fmt: skip
    steps = [int(cells(row)[6]) for row in rows]
    assert last == f"162 of 162 pairs are identical, bit for bit; {sum(steps)} steps compared."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert last in " ".join(readme.split())
    assert sum(steps) == 18 * (2 * (150 + 100 + 50) + (1050 + 550 + 50))
    assert {tuple(cells(row)[7:]) for row in rows} == {("0", "0", "never", "identical")}
    trained = {tuple(cells(row)[:6]) for row in rows}
    assert len(trained) == 162
    models, data, batches, dtypes, devices, options = map(set, zip(*trained, strict=True))
    assert models == {"linear", "linear with bias", "quadratic"}
    assert data == {"lesson", "parabola"}
    assert batches == {"1", "2", "3", "21"}
    assert dtypes == {"float32", "float64"}
    assert devices == {"cpu"}
    assert options == {
        "defaults", "lr=0.01", "lr=tensor(0.001)", "weight_decay=0.5", "momentum=0.9",
        "weight_decay=0.1 maximize", "momentum=0.9 dampening=0.5", "momentum=0.9 weight_decay=0.1",
        "momentum=0.9 weight_decay=0.1 nesterov",
    }  # fmt: skip


@pytest.mark.cuda
def test_the_matrix_on_every_device(shell: Shell) -> None:
    assert shell("--epochs", "5") == 0
    devices = {cells(row)[4] for row in shell.out.splitlines()[1:-1]}
    assert devices == {"cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))}


def test_data_and_epochs_are_as_asked(shell: Shell) -> None:
    (shell.folder / "two.csv").write_text("1,2\n2,4\n", encoding="utf-8")
    assert shell("--model", "linear", "--data", "two.csv", "--epochs", "3") == 0
    rows = [cells(row) for row in shell.out.splitlines()[1:-1]]
    assert {(row[1], row[2], row[6]) for row in rows} == {
        ("two.csv", "1", "6"),
        ("two.csv", "2", "3"),
    }


def test_of_several_columns_the_models_are_the_linear_ones(shell: Shell) -> None:
    np.save("plane.npy", np.random.default_rng(0).normal(size=(7, 4)))
    assert shell("--data", "plane.npy", "--epochs", "3") == 0
    assert shell.out.splitlines()[-1].startswith("108 of 108 pairs are identical, bit for bit; ")
    assert {cells(row)[0] for row in shell.out.splitlines()[1:-1]} == {"linear", "linear with bias"}
    np.savetxt("plane.csv", np.load("plane.npy"), delimiter=",", fmt="%.17g")
    assert shell("--data", "plane.csv", "--columns", "1,3,4", "--epochs", "1") == 0
    assert shell.out.splitlines()[-1].startswith("108 of 108 pairs are identical, bit for bit; ")
    assert shell("--model", "linear", "--data", "plane.npy", "--mistake", "sum") == 0
    assert "It first shows at step 0, in ∂loss/∂w[0]: " in shell.out


def test_diverging_together_is_said(shell: Shell) -> None:
    (shell.folder / "steep.csv").write_text("1e5,1\n", encoding="utf-8")
    assert shell("--model", "linear", "--data", "steep.csv") == 0
    assert "identical, diverged\n" in shell.out


def test_of_a_users_own_model_the_oracles_say_whether_it_is_rounding(shell: Shell) -> None:
    assert shell("--model", "mine.py:Exponential", "--epochs", "5") == 0
    rows = [cells(row) for row in shell.out.splitlines()[1:-1]]
    assert {row[0] for row in rows} == {"Exponential"}
    different = [row for row in rows if row[-1] != "identical"]
    assert {row[-1] for row in different} == {"rounding"}
    assert all(re.fullmatch(r"\d+ [ak]|\d+ loss", row[-2]) for row in different)
    count = len(different)
    assert shell.out.splitlines()[-1] == (
        f"{54 - count} of 54 pairs are identical, bit for bit, and {count} part by rounding alone: "
        "the oracles confirm the derivatives; 540 steps compared."
    )
    most = max(float(row[-3]) for row in rows)
    assert shell("--model", "mine.py:Exponential", "--epochs", "5", "--max-ulp", f"{most:.0f}") == 0
    assert f"\n54 of 54 pairs are within {most:.0f} ULPs; 540 steps compared.\n" in shell.out


def test_of_a_users_own_model_the_wrong_derivative_is_named(shell: Shell) -> None:
    """By hand ∂ŷ/∂k is 1 part in 2²⁰ too large."""
    Path("wrong.py").write_text(
        EXPONENTIAL.replace("self.a * x * e}", "self.a * x * e * (1 + 2**-20)}"), encoding="utf-8"
    )
    assert shell("--model", "wrong.py:Exponential", "--epochs", "5") == 1
    rows = [cells(row) for row in shell.out.splitlines()[1:-1]]
    assert {row[-1] for row in rows} == {"cause: gradient, ∂ŷ/∂k is wrong"}
    assert shell.out.splitlines()[-1] == (
        "0 of 54 pairs are identical, bit for bit; 540 steps compared."
    )
    most = max(float(row[-3]) for row in rows)
    assert shell("--model", "wrong.py:Exponential", "--epochs", "2", "--max-ulp", "9") == 1
    assert most > 1000


HALF, _ = MISTAKES["half"].update(0.01, 1)
CAUSES: dict[str, Update] = {
    "gradient": (HALF, ManualSGD),
    "update": (manual_gradient, TwoRoundings),
    "gradient and update": (HALF, TwoRoundings),
    "gradient and update together": MANUAL,
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_mixed_pairs_tell_the_cause(cause: str) -> None:
    (experiment,) = resolve([Configuration(model="quadratic", epochs=5)])
    descend = partial(compare.descend, experiment=experiment, options={"lr": 0.01})
    assert which_half_differs(descend, CAUSES[cause], AUTOGRAD) == cause


@pytest.mark.parametrize("cause", ["update", "gradient"])
def test_a_wrong_update_is_found_in_the_matrix(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.setattr(compare, "MANUAL", CAUSES[cause])
    assert shell("--model", "linear", "--epochs", "4") == 1
    assert f"cause: {cause}\n" in shell.out


def record(*words: str) -> Path:
    assert train.main([*words, "--no-figures"]) in (0, 1)
    return max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_recorded_run_is_read_back_to_the_bit(shell: Shell, dtype: str) -> None:
    run = record("--model", "quadratic", "--dtype", dtype, "--epochs", "7", "--name", "a")
    config, trajectory = read_run(run / "manual")
    assert config["dtype"] == dtype
    again = outcome_of(Configuration(model="quadratic", dtype=dtype, epochs=7)).trajectory
    assert same_trajectory(trajectory, again)
    assert torch.equal(trajectory.epoch, again.epoch)


def cut_off(run: Path) -> Path:
    """Return a copy of a run of which 30 steps are left."""
    cut = run.parent / "cut"
    shutil.copytree(run, cut)
    lines = (run / "trajectory.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (cut / "trajectory.csv").write_text("".join(lines[:31]), encoding="utf-8")
    return cut


def test_two_recorded_runs(shell: Shell) -> None:
    """One that was cut off, or has fewer epochs, is compared as far as it goes."""
    a = record("--name", "a")
    b = record("--name", "b", "--lr", "0.02", "--device", "cpu")
    short = record("--name", "short", "--epochs", "2")
    for other, options, steps, parts, verdict in (
        (a / "autograd", "lr=0.01", "150", "never", "identical"),
        (b / "manual", "lr=0.01|lr=0.02", "150", "1 w", "differ"),
        (short / "manual", "lr=0.01", "6", "7 end", "differ"),
        (cut_off(a / "manual"), "lr=0.01", "30", "30 end", "differ"),
    ):
        same = int(verdict == "identical")
        assert shell(str(a / "manual"), str(other)) == 1 - same
        row, last = shell.out.splitlines()[1:]
        assert cells(row)[5:7] == [options, steps]
        assert cells(row)[7:9] == ["0", "0"] or options == "lr=0.01|lr=0.02"
        assert cells(row)[9:] == [parts, verdict]
        assert last == f"{same} of 1 pairs are identical, bit for bit; {steps} steps compared."


FIRST_SHOWS = {
    "no-zero-grad": "It first shows at step 1, in ∂loss/∂w: -8.462222222222223 right, -17.7955555",
    "half": "It first shows at step 0, in ∂loss/∂w: -9.333333333333332 right, -4.666666666666666",
    "sum": "It first shows at step 0, in ∂loss/∂w: -9.333333333333332 right, -27.9999999999999",
    "sign": "It first shows at step 0, in ∂loss/∂w: -9.333333333333332 right, 9.333333333333332",
    "sequential": "It first shows at step 0, in ∂loss/∂w1: 14.666666666666666 right, 4.74666666666",
    "double-backward": "It first shows at step 1, in ∂loss/∂w: -7.84 right, -9.84 wrong, 2 apart",
    "stale-grad": "It first shows at step 0, in ∂loss/∂w: -9.333333333333332 right, 0.0 wrong",
    "mean-of-a-scalar": "It first shows at step 0, in ∂loss/∂w: -9.333333333333332 right, -27.9999",
    "broadcast": "It first shows at step 0, in ∂loss/∂w: -9.333333333333332 right, -6.66666666666",
    "last-batch-loss": "It first shows at step 1, in the loss: 2.4208 right, 3.841599999999999",
    "two-roundings": "It first shows at step 16, in w: 1.7914729549662793 right, 1.79147295496627",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_explains_itself(shell: Shell, name: str) -> None:
    assert shell("--mistake", name) == 0
    head, columns, *rows, explanation, met, shows = shell.out.splitlines()
    size = "batch size 1, 50 epochs, 150" if MISTAKES[name].batch_size == 1 else (
        "batch size 3, 50 epochs, 50"
    )  # fmt: skip
    model, w = ("quadratic", "w2") if name == "sequential" else ("linear", "w")
    assert head.startswith(f"{model}-lesson: 3 samples, {size} steps, ")
    heads = re.split(r" {2,}", columns)
    assert (heads[:3], heads[-1]) == (["step", f"{w} right", f"{w} wrong"], "shown as")
    steps = [int(line.split()[0]) for line in rows]
    assert steps[:3] == [0, 1, 2]
    assert steps[-1] == (150 if "size 1," in size else 50)
    why = [re.split(r" {2,}", line)[-1] for line in rows]
    assert why[:3] == ["one of the first"] * 3
    assert set(why[3:-1]) <= {"one that differs most"}
    assert why[-1] in ("the last", "one that differs most")
    assert 6 <= len(steps) <= 10
    assert explanation == MISTAKES[name].explanation
    assert 1 <= explanation.count(". ") + 1 <= 2
    assert met == f"Met {MISTAKES[name].met}."
    assert shows.startswith(FIRST_SHOWS[name])
    assert re.search(r" apart \(ULPs: [\d.e+]+\)\.$", shows)


def test_the_steps_shown_are_those_that_differ_most(shell: Shell) -> None:
    """Wrong, w grows with a sign that changes at each step: powers of two would hide it."""
    assert shell("--mistake", "sum", "--model", "linear", "--data", "cars", "--epochs", "9") == 0
    rows = [line.split() for line in shell.out.splitlines()[2:11]]
    assert [int(row[0]) for row in rows] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    signs = [float(row[2]) > 0 for row in rows[3:]]
    assert all(a != b for a, b in itertools.pairwise(signs))


def test_a_mistake_leaves_both_descents_as_runs(shell: Shell) -> None:
    assert shell("--mistake", "sum", "--log-dir", "runs", "--epochs", "5") == 0
    (run,) = Path("runs").iterdir()
    assert shell.err == f"written to {run}; tensorboard --logdir runs\n"
    assert run.name == "sum-linear-lesson"
    (right, a), (wrong, b) = (read_run(run / which) for which in ("manual", "sum"))
    assert (right["update"], wrong["update"]) == ("manual", "sum")
    assert same_bits(3 * a.loss[:1], b.loss[:1])
    plot_shell = Shell(plot.main, shell.folder, shell.capsys)
    assert plot_shell(str(run)) == 0
    assert {path.name for path in run.glob("*.png")} == {
        "loss.png", "fit.png", "curves.png", "rates.png",
    }  # fmt: skip
    assert events(run / "sum")["loss"][0][1] == pytest.approx(3 * a.loss[0].item(), rel=1e-6)


def test_a_mistake_that_makes_no_difference_says_so(shell: Shell) -> None:
    assert shell("--mistake", "sequential", "--model", "linear", "--epochs", "2") == 0
    none = "Here it makes no difference: all steps are identical, bit for bit.\n"
    assert shell.out.endswith(none)


def test_a_runs_directory_stands_for_its_two_updates(shell: Shell) -> None:
    run = record("--name", "a", "--epochs", "1")
    assert shell(str(run)) == 0
    assert shell.out.endswith("1 of 1 pairs are identical, bit for bit; 3 steps compared.\n")


HEADER = "step,epoch,loss,weight/w,gradient/w\n"
DAMAGED = {
    ("trajectory.csv", HEADER): " holds a damaged run (trajectory.csv has no row)",
    ("trajectory.csv", f"{HEADER}0,0,1,1\n"): " holds a damaged run (",
    ("trajectory.csv", f"{HEADER}0,0,one,1,1\n"): " holds a damaged run (could not convert string",
    ("trajectory.csv", "a,b\n1,2\n"): " holds a damaged run (trajectory.csv has the columns a,b",
    ("config.json", "{"): "/config.json is damaged (Expecting property name",
    ("config.json", "{}"): ": config.json lacks 'model'; run it again",
    ("trajectory.csv", "step,epoch,loss\n0,0,1\n"): " holds a damaged run "
        "(trajectory.csv is of (), and config.json of ('w',)); run it again",
    ("trajectory.csv", f"{HEADER}1,0,1,1,1\n0,0,1,1,1\n"): " holds a damaged run (trajectory.csv "
        "has its steps in another order); run it again",
}  # fmt: skip


@pytest.mark.parametrize(("file", "content", "reason"), [(*k, v) for k, v in DAMAGED.items()])
def test_a_damaged_run_is_one_line(shell: Shell, file: str, content: str, reason: str) -> None:
    run = record("--name", "a") / "manual"
    where = shell.folder / "damaged"
    shutil.copytree(run, where)
    (where / file).write_text(content, encoding="utf-8")
    shell.capsys.readouterr()
    assert shell(str(run), str(where)) == 2
    assert shell.err.startswith(f"compare.py: {where}{reason}")
    assert shell.err.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [
    ("bias", None), ("bias", 10**13), ("model", 5), ("momentum", [1]), ("batch_size", {}),
])  # fmt: skip
def test_a_forged_config_is_one_line(shell: Shell, name: str, value: Any) -> None:
    run = record("--name", "a", "--epochs", "1")
    change_config(run / "manual", name, value)
    shell.capsys.readouterr()
    assert shell(str(run)) == 2
    assert shell.err.startswith(f"compare.py: {run / 'manual'}: config.json is damaged: {name} ")
    assert shell.err.count("\n") == 1


def test_names_in_a_forged_config_are_texts(shell: Shell) -> None:
    run = record("--name", "a", "--epochs", "1")
    change_config(run / "manual", "data", "\x1b[2J\ud800\nforged")
    change_config(run / "manual", "model", "mine.py:\x1b[2J")
    assert shell(str(run)) == 0
    assert all(line.isprintable() for line in shell.out.splitlines())
    assert "\\x1b[2J\\ud800\\nforged|lesson" in shell.out


def change_config(run: Path, name: str, value: Any) -> None:
    """Change what a run's config.json says."""
    config = {**json.loads((run / "config.json").read_text(encoding="utf-8")), name: value}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")


OPTIMIZERS = """
import torch
from torchgd import ManualSGD

class Mine(ManualSGD):
    pass

class NoNesterov(ManualSGD):
    def _update(self, w, g, group):
        super()._update(w, g, {**group, "nesterov": False})

class Other:
    pass
"""


def test_an_optimizer_of_ones_own(shell: Shell) -> None:
    Path("sgd.py").write_text(OPTIMIZERS, encoding="utf-8")
    assert shell("--optimizer", "sgd.py:Mine") == 0
    assert shell.out.endswith("28 of 28 option sets are identical, bit for bit.\n")
    assert shell("--optimizer", "sgd.py:NoNesterov") == 1
    assert "; nesterov has no effect\n" in shell.out
    assert shell.out.endswith("23 of 28 option sets are identical, bit for bit.\n")
    for name, message in {
        "sgd.py:Other": "sgd.py has no class 'Other' derived from torch.optim.Optimizer",
        "sgd.py:None": "sgd.py has no class 'None' derived from torch.optim.Optimizer",
        "nofile.py:X": "give FILE.py:CLASS of a file that is there",
    }.items():
        assert shell("--optimizer", name) == 2
        assert shell.err == f"compare.py: optimizer {name!r}: {message}\n"


BACKWARDS = """
import torch

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]

class Half(Square):
    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]

class Scale(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

number = 5

def inputs():
    return torch.tensor([1.0, 2.0, 3.0])
"""


def test_a_backward_pass_of_ones_own(shell: Shell) -> None:
    Path("mine.py").write_text(BACKWARDS, encoding="utf-8")
    Path("bare.py").write_text("from torch import sin\n", encoding="utf-8")
    for right in ("Square", "Scale"):
        assert shell("--backward", f"mine.py:{right}") == 0
        assert shell.out.splitlines()[0].split()[:3] == ["differences", "reference", "rules"]
    assert shell("--backward", "mine.py:Half") == 1
    assert "\ndx: 2 times too small everywhere\ndx, differences: " in shell.out
    for name, message in {
        "mine.py:number": "mine.py has no function 'number'; name one that it has",
        "mine.py:none": "mine.py has no function 'none'; name one that it has",
        "nofile.py:x": "give FILE.py:NAME of a file that is there",
        "bare.py:sin": "bare.py has no inputs() that returns tensors; define it, to return what "
        "sin takes",
    }.items():
        assert shell("--backward", name) == 2
        assert shell.err == f"compare.py: backward {name!r}: {message}\n"


REFUSED = {
    ("--backward", "b.py:X", "--model", "linear"): "--backward goes without --model, --data",
    ("--backward", "b.py:X", "--optimizer", "o.py:X"): "--optimizer goes without --backward",
    ("--log-dir", "runs"): "--log-dir goes with --mistake: nothing else leaves runs",
    ("--optimizer", "sgd.py:X", "--model", "linear"): "--optimizer goes without --model, --data",
    ("nowhere",): "nowhere is no directory of a run; give runs/NAME, or runs/NAME/manual",
    ("runs/a/manual",): "1 runs: give two; runs/NAME stands for the updates in it",
    ("runs/a", "runs/b"): "4 runs: give two",
    ("runs/a", "--mistake", "half"): "two runs go without --model, --data",
    (".", "."): ". holds no run: give a run's directory, such as runs/NAME/manual",
    ("runs/a/manual", "runs/b/manual"): "parameters ['w'] and ['w2', 'w1', 'b']: compare runs of",
    ("runs/a/manual", "runs/c/manual"): "dtypes torch.float64 and torch.float32: give two",
    ("--model", "cubic"): "model 'cubic': choose linear or quadratic",
    ("--data", "none.csv"): "data 'none.csv': no such file",
    ("--max-ulp", "-1"): "argument --max-ulp: '-1' is not an integer of at least 0",
    ("--epochs", "0"): "argument --epochs: '0' is not an integer of at least 1",
    ("--mistake", "none"): "argument --mistake: invalid choice: 'none'",
    ("--mistake", "half", "--model", "cubic"): "model 'cubic': choose linear or quadratic",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=str)
def test_bad_requests_end_in_one_line(shell: Shell, words: tuple[str, ...], message: str) -> None:
    if words[0].startswith("runs/"):
        record("--name", "a", "--epochs", "1")
        record("--name", "b", "--epochs", "1", "--model", "quadratic")
        record("--name", "c", "--epochs", "1", "--dtype", "float32")
        shell.capsys.readouterr()
    assert shell(*words) == 2
    assert shell.out == ""
    assert shell.err.startswith(f"compare.py: {message}")
    assert shell.err.count("\n") == 1
