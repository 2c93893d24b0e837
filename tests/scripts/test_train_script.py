"""scripts/train.py as its users meet it."""

import errno
import math
import os
import re
import signal
import sys
import time
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import plot
import pretend
import pytest
import torch
import train
from helpers import (
    CERTIFIED,
    EXPONENTIAL,
    ROOT,
    Forked,
    ended,
    events,
    needs_compiler,
    read_csv,
    script,
    shell_of,
    wait_for,
    wait_for_rows,
)

from torchgd import Batches, Linear, ManualSGD, manual_gradient
from torchgd import train as descend
from torchgd.experiment.advice import climbed
from torchgd.experiment.command_line import Parser, Progress, Stop, refusing
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.events import Events
from torchgd.experiment.files import read_json
from torchgd.experiment.folder import read_run
from torchgd.experiment.parallel import in_chunks
from torchgd.experiment.report import verdict
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import Run, outcome_of
from torchgd.experiment.sources import load
from torchgd.experiment.state import State
from torchgd.gradients import GradientSource
from torchgd.machine_code import machine_code
from torchgd.proof.compare import Comparison
from torchgd.theory.landscape import Landscape

LESSON = (ROOT / "tests" / "data" / "transcript.txt").read_text(encoding="utf-8")
UPDATES = ("manual", "autograd")

# While it traces, torch's compiler meets what torch itself warns of.
tracing = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:The .grad attribute",
    "ignore:Guards may run slower on Python 3.13.0",
)  # fmt: skip


def compiles(test: Any) -> Any:
    return needs_compiler(tracing(test))


WRONG = """
from torchgd import Linear

class Doubled(Linear):
    def partials(self, x):
        return {"w": 2 * x}

class Beyond2(Linear):
    def partials(self, x):
        return {"w": x + (x > 2) * x * 2**-20}
"""
ONCE = """
import torch
from torchgd import Linear

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return w * w * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        x, w = ctx.saved_tensors
        return None, (upstream * 2 * w * x).sum()

class Mine(Linear):
    def forward(self, x):
        return Square.apply(x, self.w)

    def partials(self, x):
        return {"w": 2 * self.w * x}
"""
STEEP = """
from torchgd import Linear

class Square(Linear):  # starts at w = 2, so ŷ = 4x
    def __init__(self, **options):
        super().__init__(w=2, **options)

    def forward(self, x):
        return self.w * self.w * x

    def partials(self, x):
        return {"w": 2 * self.w * x}

class Steep(Linear):
    def partials(self, x):
        return {"w": 1000 * x}
"""
BOX = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
FILES = {
    "mine.py": EXPONENTIAL,
    "box.py": f"{BOX}\n@dataclass\nclass Box:\n    n: int\n{EXPONENTIAL}",
    "wrong.py": WRONG,
    "once.py": ONCE,
    "mine.csv": "x,y\n1,3\n2,5\n4,8\n7,15\n",
    "large.csv": "1e160,1\n2e160,1\n",
    # Sorted so that the sample that overflows, 1e155², comes second.
    "steep.csv": "1,1\n1,1e155\n",
    # The second sample's Hessian, 2·1e160², is beyond float64, so there is no rate to name.
    "far.csv": "1,1\n1e160,1\n",
}


class Shell(helpers.Shell):
    """Runs train.py, and finds what it left."""

    @property
    def run(self) -> Path:
        (directory,) = (self.folder / "runs").iterdir()
        return directory

    def result(self, update: str = "manual") -> dict[str, Any]:
        return read_json(self.run / update / "result.json")

    def config(self) -> dict[str, Any]:
        return read_json(self.run / "manual" / "config.json")

    def rows(self, update: str = "manual") -> list[list[str]]:
        return read_csv(self.run / update / "trajectory.csv")[1]


shell = shell_of(train.main, "--no-figures", files=FILES, kind=Shell)


def test_the_lesson_to_the_letter(shell: Shell) -> None:
    assert LESSON.count("\n") == 156
    assert shell("--update", "manual", "--show-steps") == 0
    assert shell.out.startswith(LESSON)
    assert shell("--show-steps", "--name", "both") == 0
    assert shell.out.startswith(f"manual:\n{LESSON}autograd:\n{LESSON}linear-lesson: ")


def test_no_flag_at_all_runs_the_lesson_both_ways(shell: Shell) -> None:
    """Its table is proven with the README, its numbers with runs/reference."""
    assert shell() == 0
    assert shell.err == f"written to runs/{shell.run.name}; tensorboard --logdir runs\n"
    assert shell.run.name == "linear-lesson-lr0.01-batch1"
    assert sorted(p.name for p in shell.run.iterdir()) == ["autograd", "comparison.json", "manual"]


@pytest.mark.parametrize(("flags", "name"), [
    ("--lr auto --batch-size full --epochs 3", "linear-lesson-lr0.107143-batch3"),
    ("--model quadratic --momentum 0.5 --epochs 2", "quadratic-parabola-lr0.01-batch1-momentum0.5"),
    ("--lr 0.01 0.02 --epochs 2 --batch-size 2", "linear-lesson-batch2"),
])  # fmt: skip
def test_a_run_is_named_by_what_is_run(shell: Shell, flags: str, name: str) -> None:
    """And by the time, too, where that name is taken."""
    assert shell(*flags.split(), "--update", "manual") == 0
    assert shell.run.name == name
    assert shell(*flags.split(), "--update", "manual") == 0
    first, second = sorted(path.name for path in Path("runs").iterdir())
    assert first == name
    assert re.fullmatch(re.escape(name) + r"-\d{8}-\d{6}", second)


def relative_errors(shell: Shell, name: str) -> dict[str, float]:
    exact = CERTIFIED[name]["exact_30_digits"]
    found = shell.result()["parameters"]
    assert set(found) == set(exact)
    return {
        key: float(abs(Fraction(value) / Fraction(exact[key]) - 1)) for key, value in found.items()
    }


@pytest.mark.parametrize(
    ("name", "flags", "digits"),
    [
        ("noint1", "--epochs 100", 14),
        ("hubble", "--epochs 100", 14),
        ("norris", "--bias --standardize --epochs 100", 12.5),
        ("pontius", "--model quadratic --standardize --epochs 2000", 12),
        ("cars", "--model quadratic --standardize --epochs 2000", 11),
        ("co2", "--model quadratic --standardize --epochs 2000", 11),
    ],
)
def test_real_data_to_the_certified_digits(
    shell: Shell, name: str, flags: str, digits: float
) -> None:
    assert shell("--data", name, "--lr", "auto", "--batch-size", "full", *flags.split()) == 0
    assert "steps are identical, bit for bit" in shell.out
    for error in relative_errors(shell, name).values():
        assert -math.log10(error or 1e-20) >= digits


def test_standardised_predictions_are_in_original_units(shell: Shell) -> None:
    flags = "--model quadratic --data co2 --standardize --lr auto --batch-size full --epochs 2000"
    assert shell(*flags.split(), "--predict", "480") == 0
    row = re.search(r"^ŷ\(480 months\) +(\S+)", shell.out, re.MULTILINE)
    assert row is not None
    exact = {k: float(v) for k, v in CERTIFIED["co2"]["exact_30_digits"].items()}
    expected = exact["w2"] * 480**2 + exact["w1"] * 480 + exact["b"]
    assert float(row.group(1)) == pytest.approx(expected, rel=1e-13)


@compiles
def test_every_flag_reaches_the_run(shell: Shell) -> None:
    flags = (
        "--model quadratic --data parabola --update manual --device cpu --dtype float32 "
        "--lr 0.002 --momentum 0.9 --dampening 0.25 --weight-decay 0.125 --maximize --epochs 3 "
        "--batch-size 7 --shuffle --seed 5 --standardize --initial w2=2 b=-1 --record-every 4"
    )
    assert shell(*flags.split(), "--compile", *"--log-dir elsewhere --name mine".split()) == 0
    config = read_json(Path("elsewhere/mine/manual/config.json"))
    expected = {
        "model": "quadratic", "data": "parabola", "columns": None, "update": "manual",
        "device": "cpu", "dtype": "float32", "lr": 0.002, "momentum": 0.9, "dampening": 0.25,
        "weight_decay": 0.125, "nesterov": False, "maximize": True, "epochs": 3, "batch_size": 7,
        "shuffle": True, "seed": 5, "standardize": True, "bias": False,
        "initial": {"w2": 2.0, "w1": 1.0, "b": -1.0}, "record_every": 4, "compile": True,
        "chunk_size": None,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert set(Configuration.__dataclass_fields__) <= set(expected)
    _, rows = read_csv(Path("elsewhere/mine/manual/trajectory.csv"))
    assert [int(row[0]) for row in rows] == [0, 4, 8, 9]
    assert not Path("runs").exists()


def test_the_script_trains_as_the_library_does(shell: Shell) -> None:
    flags = "--data mine.csv --bias --momentum 0.5 --nesterov --batch-size 3 --shuffle --seed 3"
    assert shell(*flags.split()) == 0
    x = torch.tensor([1, 2, 4, 7], dtype=torch.float64)
    y = torch.tensor([3, 5, 8, 15], dtype=torch.float64)
    model = Linear(bias=True, dtype=torch.float64)
    optimizer = ManualSGD(model.parameters(), lr=0.01, momentum=0.5, nesterov=True)
    descend(model, Batches(x, y, 3, shuffle=True, seed=3), optimizer, epochs=50)
    assert shell.result()["parameters"] == {"w": model.w.item(), "b": model.b.item()}  # type: ignore[union-attr]


def test_show_steps_of_batches_and_several_parameters(shell: Shell) -> None:
    flags = "--model quadratic --data lesson --batch-size 2 --epochs 11 --update autograd"
    assert shell(*flags.split(), "--show-steps") == 0
    lines = shell.out.splitlines()
    rows = shell.rows("autograd")
    gradients = " ".join(str(round(float(text), 6)) for text in rows[0][6:])
    assert lines[0] == f"\t grad: [1, 2] [2, 4] {gradients}"
    assert lines[1].startswith("\t grad: 3 6 ")
    w2, w1, b = (float(text) for text in rows[2][3:6])
    loss = (9 * w2 + 3 * w1 + b - 6) ** 2
    weights = f"w2 = {round(w2, 2)} w1 = {round(w1, 2)} b = {round(b, 2)}"
    assert lines[2] == f"progress: 0 {weights} loss = {round(loss, 6)}"
    assert [line.split()[0] for line in lines].count("progress:") == 2
    assert lines[24].startswith("predict (after training) 4 hours ")


def test_show_steps_of_a_shuffled_run_shows_the_batches_it_took(shell: Shell) -> None:
    """Each line by itself: gradient = 2x(w·x − y) with the x and y that it shows."""
    assert shell("--show-steps", "--shuffle", "--update", "manual", "--epochs", "12") == 0
    lines = [line.split()[1:] for line in shell.out.splitlines() if "grad:" in line]
    assert len(lines) == 36
    for (x, y, gradient), row in zip(lines, shell.rows()[:-1], strict=True):
        assert float(gradient) == round(2 * int(x) * (float(row[3]) * int(x) - int(y)), 6)


def test_show_steps_of_a_sparse_record_shows_the_recorded_ones(shell: Shell) -> None:
    assert shell("--show-steps", "--update", "manual", "--record-every", "60") == 0
    grads = [line for line in shell.out.splitlines() if "grad:" in line]
    steps = [line for line in LESSON.splitlines() if "grad:" in line]
    assert grads == [steps[0], steps[60], steps[120], steps[149]]


def test_starting_values_are_exact(shell: Shell) -> None:
    assert shell("--initial", "w=0.1", "--bias", "--epochs", "1", "--update", "manual") == 0
    assert [float(text) for text in shell.rows()[0][3:5]] == [0.1, 0.0]


def test_a_run_of_one_step(shell: Shell) -> None:
    assert shell("--batch-size", "full", "--epochs", "1") == 0
    assert "3 samples, batch size 3, 1 epoch, 1 step, learning rate 0.01" in shell.out
    assert "\nThe only step is identical, bit for bit: weights, gradients and loss.\n" in shell.out


def test_the_header_of_a_file_names_what_is_learned(shell: Shell) -> None:
    Path("study.csv").write_text("sleep;hours;score ($)\n8;1;2\n7;2;4\n6;3;6\n", encoding="utf-8")
    shell.always = ()  # with figures
    words = "--data study.csv --columns hours,3 --update manual --show-steps --name s"
    assert shell(*words.split()) == 0
    assert shell.out.startswith(LESSON)
    assert "\nŷ(4 hours)  7.999998894782476 " in shell.out
    config = read_json(Path("runs/s/manual/config.json"))
    assert [config[key] for key in ("columns", "x_name", "y_name", "y_unit")] == [
        "hours,3", "hours", "score", "$",
    ]  # fmt: skip
    plot_shell = Shell(plot.main, shell.folder, shell.capsys)
    assert plot_shell("runs/s", "--format", "svg") == 0
    drawn = Path("runs/s/fit.svg").read_text(encoding="utf-8")
    assert "<!-- hours -->" in drawn
    assert "<!-- score  [$] -->" in drawn


def test_npy_data(shell: Shell, tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", np.array([[1, 2], [2, 4], [3, 6]]))
    assert shell("--data", "points.npy") == 0
    assert shell.result()["parameters"] == {"w": 1.999999723695619}
    assert shell.run.name.startswith("linear-points-")


def test_a_users_own_model(shell: Shell) -> None:
    """Right to rounding: (d·e) summed and autograd's order of the same product differ by ULPs."""
    flags = "--model mine.py:Exponential --data parabola --epochs 1 --lr 0.001"
    assert shell(*flags.split()) == 0
    assert shell.run.name.startswith("Exponential-parabola-")
    assert set(shell.result()["parameters"]) == {"a", "k"}
    comparison = read_json(shell.run / "comparison.json")
    assert 0 < comparison["max_ulp"] < 1000
    *_, parting, why, _ = shell.out.splitlines()
    assert parting.startswith("The updates part at step ")
    assert re.fullmatch(
        "That is rounding: 3 of 3 oracles confirm ∂ŷ/∂a and ∂ŷ/∂k; your formula rounds in another "
        r"order \(at most \S+ (ULPs|off)\)\.",
        why,
    )


# y = 5x, from w = 1 by ŷ = w·w·x: known to be there, and not known of the first steps.
@pytest.mark.parametrize(("epochs", "arrived"), [("3", False), ("200", True)])
def test_a_nonlinear_descent_that_has_not_arrived_says_so(
    shell: Shell, epochs: str, arrived: bool
) -> None:
    Path("steep.py").write_text(STEEP, encoding="utf-8")
    Path("five.csv").write_text("1,5\n2,10\n", encoding="utf-8")
    words = "--model steep.py:Square --data five.csv --batch-size full --lr 0.001 --update manual"
    assert shell(*words.split(), "--epochs", epochs) == 0
    last = shell.out.splitlines()[-1]
    found = re.fullmatch(
        r"It has not arrived: over the last tenth of its steps the loss fell by (\S+)%, from (\S+) "
        r"to (\S+)\.", last
    )  # fmt: skip
    assert (found is None) == arrived
    if found is not None:
        w = [float(row[3]) for row in shell.rows()][-2:]
        before, after = (2.5 * (v * v - 5) ** 2 for v in w)
        expected = [100 * (1 - after / before), before, after]
        assert [float(text) for text in found.groups()] == pytest.approx(expected, rel=1e-3)


def test_a_users_file_may_hold_a_dataclass(shell: Shell) -> None:
    assert shell("--model", "box.py:Exponential", "--update", "manual") == 0


@pytest.mark.parametrize(
    ("words", "step", "said"),
    [
        # At lr = 0 the weights stay, so a wrong partial shows in the gradient alone.
        ("wrong.py:Doubled --lr 0", 0, "The gradients part in w at step 0; the weights never do."),
        # A partial that is 1 part in 2²⁰ too large beyond x = 2 shows at step 2, in w.
        ("wrong.py:Beyond2", 2, "The updates part at step 2, in w; the weights differ by "),
    ],
)
def test_updates_that_part(shell: Shell, words: str, step: int, said: str) -> None:
    assert shell("--model", *words.split()) == 1
    *_, parting, why = shell.out.splitlines()
    assert parting.startswith(said)
    assert why == f"By hand, ∂ŷ/∂w is wrong: see derive.py {words.split()[0]}"
    comparison = read_json(shell.run / "comparison.json")
    assert comparison["first_difference"] == {"step": step, "parameter": "w"}
    assert (comparison["max_ulp"] > 0) == (step > 0)


def test_a_line_through_the_origin_is_scaled_alone(shell: Shell) -> None:
    """x/rms, without a mean: so it stays a line through the origin, and hubble's is exact."""
    flags = "--data hubble --standardize --lr auto --batch-size full --epochs 20"
    assert shell(*flags.split()) == 0
    rms = load("hubble").x.square().mean().sqrt().item()
    assert shell.config()["standardization"] == {"mean": 0.0, "deviation": rms, "offset": 0.0}
    assert relative_errors(shell, "hubble")["w"] < 1e-14


def above(lr: float, rho: float, stable: float | str, where: str = "here") -> str:
    rates = stable if isinstance(stable, str) else f"{stable:.6g}"
    error = f"at the learning rate {lr:g} an epoch multiplies the error by {rho:.6g}"
    return f"{error}; {where} rates are stable up to {rates}"


LESSONS = "0.204018, and again from 0.476538 to 0.519014"


@pytest.mark.parametrize(
    ("flags", "step", "rates"),
    [
        # Before x = 3 the error is 7·119ᵉ; (3·7·119ᵉ)² overflows from e = 74 on, so at 3e + 2.
        ("--lr 1", 224, above(1, 119, LESSONS)),
        # The last batch recorded, x = 3 of epoch 73, has a finite loss; then 14·119¹⁴⁸ overflows.
        ("--lr 1 --epochs 74", 222, above(1, 119, LESSONS)),
        ("--lr 1 --update affine", 224, above(1, 119, LESSONS)),
        # The error is 1.8ᵏ; the sum 14·1.8²ᵏ overflows from k = 602 on.
        ("--lr 0.3 --batch-size 3", 602, above(0.3, 1.8, 3 / 14)),
        ("--lr 0.3 --batch-size 3 --shuffle", 602, above(0.3, 1.8, 3 / 14)),
        ("--lr 0.5 --batch-size 3 --momentum 0.5 --weight-decay 0.25", None,
         above(0.5, 3.13203, 2 * 1.5 / (28 / 3 + 0.25))),
        ("--batch-size 3 --momentum 1.5", None,
         "no learning rate is stable here: lower momentum or dampening"),
        # Before x = 1 the error is 513ᵉ, whose square overflows from e = 57 on.
        ("--lr 1 --maximize", 171, "maximising has no end, for this loss has no top"),
        ("--data steep.csv", 1,
         "the learning rate 0.01 is stable here, but the numbers overflow: scale the data"),
        ("--data steep.csv --shuffle", None, "the learning rate 0.01 is stable in the first epoch's"
         " order, but may not be in others: try a smaller one, or scale the data"),
        ("--data far.csv", 1, "no learning rate fits: x is too large for its powers; scale x"),
        ("--model mine.py:Exponential --lr 1 --data parabola --epochs 50", None,
         "the learning rate is 1; try a smaller one"),
    ],
)  # fmt: skip
def test_numbers_that_overflow(shell: Shell, flags: str, step: int | None, rates: str) -> None:
    assert shell("--epochs", "3000", *flags.split()) == 1
    updates = ["affine"] if "affine" in flags else UPDATES
    who = "the descent diverged" + ", by hand and by autograd alike" * (updates == UPDATES)
    last = shell.err.splitlines()[-1]
    found = re.fullmatch(
        rf"train\.py: {who}; the loss or a weight is not finite at step (\d+) \(epoch (\d+)\): "
        rf"{re.escape(rates)}", last
    )  # fmt: skip
    assert found is not None, last
    assert step in (None, int(found.group(1)))
    step = int(found.group(1))
    for update in updates:
        result = shell.result(update)
        assert (result["stopped"], result["steps"], result["loss"]) == ("diverged", step, None)
        head, rows = read_csv(shell.run / update / "trajectory.csv")
        assert [int(row[0]) for row in rows] == list(range(step + 1))
        assert rows[-1][1] == found.group(2)
        values = np.abs([float(row[3]) for row in rows])
        single = np.finfo(np.float32).max  # beyond which TensorBoard has none
        shown = [k for k, value in enumerate(values) if value <= single or not np.isfinite(value)]
        assert [k for k, _ in events(shell.run / update)[head[3]]] == shown


def test_a_start_that_overflows(shell: Shell) -> None:
    assert shell("--initial", "w=1e200", "--update", "manual") == 1
    assert shell.err.splitlines()[-1] == (
        "train.py: the descent diverged; the loss is not finite at the start: scale x or start "
        "elsewhere"
    )


@pytest.mark.parametrize(
    ("flags", "grew", "rates"),
    [
        # An epoch multiplies the error by (−1)(−7)(−17) = −119, and the mean of x² is 14/3.
        ("--lr 1", (14 / 3, 14 / 3 * 119.0**100), above(1, 119, LESSONS)),
        ("--lr 1 --update affine", (14 / 3, 14 / 3 * 119.0**100), above(1, 119, LESSONS)),
        ("--lr 0.3 --batch-size full", (14 / 3, 14 / 3 * 1.8**100), above(0.3, 1.8, 3 / 14)),
        # Not known of a model that is not linear in w; this one starts at ŷ = 4x, and y = 2x.
        ("--model steep.py:Square --lr 0.3 --epochs 1", (14 / 3 * 4, None),
         "the learning rate is 0.3; try a smaller one"),
        # ŷ = a·exp(k·x) leaves the data, to ŷ = 0, whose loss is the mean of y².
        ("--model mine.py:Exponential --lr 1", (10.05, 56 / 3), "the learning rate is 1; try a "
         "smaller one"),
        ("--lr 0.3 --batch-size full --chunk-size 2", (14 / 3, 14 / 3 * 1.8**100),
         above(0.3, 1.8, 3 / 14)),
    ],
)  # fmt: skip
def test_a_descent_that_climbs(
    shell: Shell, flags: str, grew: tuple[float, float | None], rates: str
) -> None:
    Path("steep.py").write_text(STEEP, encoding="utf-8")
    assert shell(*flags.split()) == 1
    last = shell.err.splitlines()[-1]
    found = re.search(r"; the loss grew from (\S+) to (\S+): (.*)", last)
    assert found is not None, last
    assert found.group(3) == rates
    for text, value in zip(found.groups(), grew, strict=False):
        assert value is None or float(text) == pytest.approx(value, rel=1e-3)
    update = "affine" if "affine" in flags else "autograd"
    assert shell.result(update)["stopped"] == "climbed"
    assert shell.result(update)["loss"] == pytest.approx(float(found.group(2)), rel=1e-3)
    assert "steps are identical" in shell.out or update == "affine"


def test_of_shuffled_batches_it_is_the_first_epochs_order_that_counts(shell: Shell) -> None:
    """With two parameters the steps' maps do not commute; the last order has another rate."""
    assert shell(*"--data cars --bias --standardize --shuffle --lr 0.99".split()) == 1
    found = re.search(r"in the first epoch's order rates are stable up to (\S+)$", shell.err)
    assert found is not None, shell.err
    (experiment,) = resolve([Configuration.from_config(shell.config())])
    rates = []
    for epoch in (0, 49):
        experiment.batches.set_epoch(epoch)
        landscape = Landscape(experiment.new_model(), experiment.batches)
        rates.append(landscape.rates().stable[0][1])
    assert f"{rates[0]:.6g}" == found.group(1) != f"{rates[1]:.6g}"


@pytest.mark.parametrize("flags", [
    "--lr 0.2",  # just below the end of the first stable interval
    "--lr 0.5", "--lr 0.51",  # within the second; between them "--lr 0.3" climbs
    "--lr 0.25 --momentum 0.9", "--lr 1.05 --momentum 0.9",
    "--lr 0.3 --maximize",
    "--lr 0.3 --epochs 1 --initial w=2",  # at the minimum nothing moves
    "--weight-decay 1 --initial w=2",  # pulled off the minimum
    "--data hubble --lr 0.001 --initial w=423.93",  # nor does noise about it make a divergence
    "--model steep.py:Square --data noisy.csv --initial w=1.41926",
])  # fmt: skip
def test_what_is_no_divergence(shell: Shell, flags: str) -> None:
    Path("steep.py").write_text(STEEP, encoding="utf-8")
    Path("noisy.csv").write_text("1,2.3\n2,3.8\n3,6.1\n", encoding="utf-8")
    assert shell(*flags.split()) == 0
    assert shell.result()["stopped"] == "finished"


def test_where_no_rate_is_known_it_climbed_if_it_ends_above_the_variance_of_y(shell: Shell) -> None:
    """Of y = 2, 4, 6 that is (4 + 0 + 4)/3, the loss of ŷ = 4."""
    Path("steep.py").write_text(STEEP, encoding="utf-8")
    (experiment,) = resolve([Configuration(model="steep.py:Square", initial={"w": 1.4})])
    path = Run(experiment).carry_out().trajectory
    ends = torch.tensor([2.6, 2.7])
    assert [climbed(experiment, path, end) for end in ends] == [False, True]


def test_one_that_diverges_is_told_from_the_other(shell: Shell) -> None:
    """By hand the gradient is 1000 times too large."""
    Path("steep.py").write_text(STEEP, encoding="utf-8")
    assert shell("--model", "steep.py:Steep") == 1
    assert shell.err.splitlines()[-1].startswith(
        "train.py: the descent diverged, by hand alone; the loss "
    )


def left(percent: float) -> str:
    return f"{percent:.3g}% of the loss's first distance to least squares is left; "


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        # An epoch leaves 0.98 · 0.92 · 0.82 = 0.739312 of w − 2, and of the loss 0.546582.
        ("--epochs 14", left(100 * 0.739312**28) + "2 more epochs halve it; from the start --lr "
         "auto gets there in 3 epochs, --batch-size full --lr auto in 1."),
        ("--epochs 50", ""),
        # A step of the full batch leaves (1 − 0.01 · 28/3)² = 0.82204, to the 4th 0.457.
        ("--batch-size full --epochs 1", left(82.204) + "4 more epochs halve it; from the start "
         "--lr auto gets there in 1 epoch."),
        ("--epochs 10 --momentum 0.1", left(0.112) + "2 more epochs halve it."),
        ("--weight-decay 0.5", left(0.88) + "10000 more epochs do not halve it: weight decay keeps "
         "the weights there."),
        ("--data hubble --lr 0.01 --epochs 200", left(0.0124) + "10000 more epochs do not halve "
         "it: each batch has its own minimum; from the start --batch-size full --lr auto gets "
         "there in 1 epoch."),
        ("--data cars --model quadratic --lr 7.38e-6 --epochs 200", "The loss is 1.56 times as far "
         "from least squares as at the start; 10000 more epochs do not halve it; from the start "
         "--lr auto gets there in 1 epoch."),
        ("--lr 0", left(100) + "10000 more epochs do not halve it, for the learning rate is 0; "
         "from the start --lr auto gets there in 1 epoch."),
    ],
)  # fmt: skip
def test_what_would_help(shell: Shell, flags: str, advice: str) -> None:
    assert shell(*flags.split(), "--update", "manual") == 0
    said = shell.out.splitlines()[-1]
    assert said == advice if advice else said.startswith("R² ")


def test_the_advice_to_standardize_takes_the_mean_of_y_off(shell: Shell) -> None:
    """Of y = 1000 + x ± ½ it is 1004.5, of which one epoch of single samples would leave much."""
    rows = [f"{x},{1000 + x + (0.5 if x % 2 else -0.5)}" for x in range(10)]
    Path("far.csv").write_text("\n".join(rows), encoding="utf-8")
    words = "--data far.csv --bias --lr 0.001 --epochs 3 --update manual"
    assert shell(*words.split()) == 0
    assert shell.out.endswith(" epochs, --standardize --lr auto in 1.\n")


@pytest.mark.parametrize("flags", [
    "--data cars --bias --lr 0.002 --epochs 9", "--model quadratic --batch-size full",
    "--data hubble --lr 0.0001", "--data co2 --bias --lr auto --epochs 5",
    "--model quadratic --data cars --standardize --lr 0.001 --shuffle --epochs 9",
])  # fmt: skip
def test_who_follows_the_advice_gets_there(shell: Shell, flags: str) -> None:
    """Half of the distance in the loss's line of the table, and what is promised is what comes."""

    def distance(*words: str) -> float:
        assert shell(*words, "--update", "affine") == 0
        line = next(line for line in shell.out.splitlines() if line.startswith("loss"))
        return float(line.split()[-1])

    far, advice = distance(*flags.split()), shell.out.splitlines()[-1]
    epochs = int((re.findall(r"--epochs (\d+)", flags) or ["50"])[0])
    base = re.sub(r" --epochs \d+", "", flags).split()
    if more := re.search(r"(\d+) more epochs? halves? it", advice):
        exact = "--shuffle" not in flags  # else the orders of more epochs are others
        assert distance(*base, "--epochs", str(epochs + int(more[1]))) < far * (
            0.51 + 0.2 * (not exact)
        )
    ways = re.findall(r"(--[-a-z ]+?)(?: gets there)? in (\d+)", advice)
    assert more or ways
    for words, count in ways:  # each has a learning rate of its own
        base = re.sub(r" --lr \S+", "", " ".join(base)).split()
        assert distance(*base, *words.split(), "--epochs", count) < 0.51 * far


@pytest.mark.parametrize("flags", [
    "", "--dtype float32", "--data norris --bias --standardize", "--model quadratic",
])  # fmt: skip
def test_the_table_has_least_squares_and_the_distance(shell: Shell, flags: str) -> None:
    """By NumPy's own, from the columns of x's powers."""
    assert shell(*flags.split(), "--update", "manual") == 0
    number = np.dtype(shell.config()["dtype"]).type
    data = load(shell.config()["data"])
    names = list(shell.result()["parameters"])
    powers = {"w2": 2, "w1": 1, "w": 1, "b": 0}
    phi = np.stack([data.x.numpy() ** powers[name] for name in names], axis=1)
    expected = np.linalg.lstsq(phi, data.y.numpy(), rcond=None)[0]
    lines = shell.out.splitlines()
    assert lines[1].split() == ["manual", "least", "squares", "std.", "error", "distance"]
    for line, name, exact in zip(lines[2:], names, expected, strict=False):
        label, here, least, _, distance = line.split()
        assert label == name
        assert float(least) == pytest.approx(exact, rel=1e-6, abs=1e-9)
        assert float(distance) == pytest.approx(abs(number(here) - number(least)), rel=0.05)


@pytest.mark.parametrize("flags", [
    "--model mine.py:Exponential", "--maximize",
    "--data one.csv --bias",  # many lines go through one point
])  # fmt: skip
def test_without_one_goal_the_table_has_none(shell: Shell, flags: str) -> None:
    Path("one.csv").write_text("1,2\n", encoding="utf-8")
    assert shell(*flags.split(), "--update", "manual") == 0
    assert shell.out.splitlines()[1].split() == ["manual"]


@pytest.mark.parametrize("size", ["1", "2", "3", "7"])
@pytest.mark.parametrize("data", ["norris", "parabola"])
def test_lr_auto_is_stable_in_any_shuffled_order(shell: Shell, size: str, data: str) -> None:
    """2/(λ_min + the steepest sample's): so no batch, whatever meets in it, is above 2/α."""
    flags = f"--data {data} --bias --lr auto --shuffle --batch-size {size} --update manual"
    assert shell(*flags.split()) == 0
    x = load(data).x.numpy()
    phi = np.stack([x, np.ones_like(x)], axis=1)
    smallest = np.linalg.eigvalsh(2 / len(x) * phi.T @ phi)[0]
    expected = 2 / (smallest + 2 * (1 + (x**2).max()))
    assert shell.config()["lr"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "max_ulp", "text"),
    [
        (None, 0, "All 3 steps are identical, bit for bit: weights, gradients and loss."),
        ((7, None), 0, "The updates are identical up to step 7, which only one of them reaches."),
        ((7, "loss"), 0, "The loss parts at step 7; the weights never do."),
        ((7, "w"), 0, "The gradients part in w at step 7; the weights never do."),
        ((7, "w"), 3, "The updates part at step 7, in w; the weights differ by 0.5 (3 ULPs) at"),
    ],
)
def test_the_verdict_says_what_parts(first: Any, max_ulp: int, text: str) -> None:
    t = outcome_of(Configuration(epochs=1)).trajectory
    comparison = Comparison(False, 0.5, max_ulp, first)
    assert verdict(comparison, t, t).startswith(text)


def test_the_verdict_on_a_sparse_record_is_of_the_steps_in_it() -> None:
    t = outcome_of(Configuration(epochs=2, record_every=4)).trajectory
    said = verdict(Comparison(True, 0.0, 0, None), t, t)
    assert said.startswith("All 3 recorded of 6 steps are identical, bit for bit: ")


def test_a_disk_that_fails_is_one_line_and_keeps_what_was_written(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of the first block are events, and the state after it is there to go on from."""
    record = Events.record
    steps: list[int] = []

    def full(self: Events, tags: Any, rows: Any) -> None:
        rows = list(rows)
        if rows[0][0] > 0:
            raise OSError(errno.ENOSPC, "No space left on device", "events.out.tfevents.1")
        record(self, tags, rows)
        steps.extend(step for step, _ in rows)

    monkeypatch.setattr(Events, "record", full)
    monkeypatch.setattr("torchgd.trajectory.time.monotonic", lambda: 0.0)  # no block is too old
    assert shell("--epochs", "600", "--checkpoint-every", "1000steps") == 2
    assert shell.err == (
        "train.py: events.out.tfevents.1: No space left on device; mend that and go on with "
        f"--resume runs/{shell.run.name}\n"
    )
    assert steps == list(range(1000))
    assert [step for step, _ in events(shell.run / "manual")["loss"]] == steps
    assert State.load(shell.run / "manual" / "run.pt").path.step.tolist() == steps


def test_the_affine_update(shell: Shell) -> None:
    """4ε a step or less, each of which shrinks errors: see `affine_trajectory`."""
    flags = "--model quadratic --data cars --standardize --lr 0.001 --momentum 0.5 --epochs 3"
    assert shell(*flags.split(), "--update", "affine") == 0
    assert [path.name for path in shell.run.iterdir()] == ["affine"]
    config, affine = read_run(shell.run / "affine")
    assert not config["compile"]
    assert config["update"] == shell.result("affine")["update"] == "affine"
    asked = replace(Configuration.from_config(config), update="manual")
    manual = outcome_of(asked).trajectory
    assert torch.equal(affine.step, manual.step)
    for name, w in manual.weights.items():
        torch.testing.assert_close(affine.weights[name], w, rtol=1e-13, atol=1e-13)
    assert events(shell.run / "affine")["weight/w2"][-1][0] == 150


@compiles
def test_compiled_gradients_are_summed_in_another_order(shell: Shell) -> None:
    """A gradient of 300 terms below 10⁴ is off by 300 ulps of that, and 9 steps by 9·α of it."""
    flags = "--model quadratic --data co2 --standardize --lr 0.05 --batch-size 300 --epochs 3"
    assert shell(*flags.split(), "--compile", "--device", "cpu") == 0
    assert re.search(r"steps are identical|the weights differ by \S+ \(\d+ ULPs\)", shell.out)
    config, compiled = read_run(shell.run / "manual")
    assert config["compile"]
    eager = outcome_of(replace(Configuration.from_config(config), compile=False))
    for name, w in eager.trajectory.weights.items():
        off = 9 * 0.05 * 300 * 1e4 * torch.finfo(torch.float64).eps
        torch.testing.assert_close(compiled.weights[name], w, rtol=0, atol=off)


@pytest.mark.parametrize(("words", "reason"), [
    ("--data large.csv --lr 0", "the data are beyond float64: x or y is too large or too small; "
     "scale it"),
    ("--model once.py:Mine --lr 0.001", "Output 0 of the user-provided function is "),
])  # fmt: skip
def test_what_cannot_be_drawn_is_said_and_nothing_is_lost(
    shell: Shell, words: str, reason: str
) -> None:
    shell.always = ()  # with figures
    shell(*words.split())
    assert shell.err.splitlines()[-1].startswith(f"no figures: {reason}")
    assert shell.result("manual")["loss"] == shell.result("autograd")["loss"]


def test_compiled_gradients_need_not_agree_to_the_bit(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the one by hand is summed in another order; but a wrong one is not excused."""

    def compiled(gradient: GradientSource, _: Any) -> GradientSource:
        return in_chunks(gradient, 2) if gradient is manual_gradient else gradient

    for module in ("experiment", "resolve"):
        monkeypatch.setattr(f"torchgd.experiment.{module}.compiled", compiled)
    flags = "--model quadratic --data co2 --standardize --batch-size full".split()
    assert shell(*flags, "--compile") == 0
    assert "The updates part at step " in shell.out
    assert shell("--model", "wrong.py:Beyond2", "--compile") == 1


@pytest.mark.parametrize("flags", [
    "", "--model quadratic --data cars --standardize --shuffle --momentum 0.9 --dtype float32",
    "--lr 1 --epochs 100", "--bias --data norris --standardize --lr auto --record-every 7",
    "--model quadratic --data cars --standardize --batch-size full --lr auto",
    "--data co2 --standardize --batch-size 100 --momentum 0.5 --nesterov --dtype float32",
])  # fmt: skip
def test_the_compiled_update_has_the_same_bits(shell: Shell, flags: str) -> None:
    pytest.importorskip("numba")
    shell(*flags.split(), *"--name a --update manual compiled --device cpu".split())
    assert "identical, bit for bit: weights, gradients and loss." in shell.out
    rows = [Path("runs/a", u, "trajectory.csv").read_bytes() for u in ("manual", "compiled")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("flags", "message"), [
    ("", "the compiled loop needs numba: pip install 'torchgd[fast]'"),
    ("--batch-size 300 --data co2", "batch size 300: the compiled loop takes at most 256"),
    ("--model mine.py:Exponential", "Exponential is not linear in its parameters: the compiled "),
    ("--compile", "--compile goes with manual and autograd, not with compiled"),
    ("--chunk-size 2", "--update compiled takes one process and no --chunk-size; take manual or"),
])  # fmt: skip
def test_what_the_compiled_update_cannot_take(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, flags: str, message: str
) -> None:
    if not flags:
        machine_code.cache_clear()
        monkeypatch.setitem(sys.modules, "numba", None)
    words = "--update manual compiled --device cpu".split()
    assert shell(*words, *flags.split()) == 2
    assert shell.err.startswith(f"train.py: {message}")
    assert not Path("runs").exists()
    machine_code.cache_clear()


def test_several_rates_are_a_run_each_and_one_figure(shell: Shell) -> None:
    shell.always = ()  # with figures
    words = "--update manual --lr 0.01 0.05 --lr auto --batch-size full --name sweep --epochs 5"
    assert shell(*words.split()) == 0
    sweep = Path("runs/sweep")
    names = ["lr-0.01", "lr-0.05", "lr-auto"]
    assert sorted(path.name for path in sweep.iterdir()) == [
        "curves.png", "fit.png", "loss.png", *names, "rates.png"
    ]  # fmt: skip
    assert [read_run(sweep / name / "manual")[0]["lr"] for name in names] == [
        0.01, 0.05, pytest.approx(3 / 28)
    ]  # fmt: skip
    for name in names:  # each as if it had been asked for alone
        alone = f"--update manual --batch-size full --epochs 5 --name {name} --no-figures --lr"
        assert shell(*alone.split(), name.removeprefix("lr-")) == 0
        files = [run / "manual" / "trajectory.csv" for run in (sweep / name, Path("runs", name))]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert shell("--resume", "runs/sweep/lr-0.05", "--epochs", "6") == 0


def test_a_sweep_that_cannot_be_drawn_says_so(shell: Shell) -> None:
    shell.always = ()
    words = "--model once.py:Mine --lr 0.001 0.002 --epochs 2 --name sweep"
    assert shell(*words.split()) == 0
    assert shell.err.splitlines()[-1].startswith("no figures: Output 0 of the user-provided")
    assert sorted(path.name for path in Path("runs/sweep").iterdir()) == ["lr-0.001", "lr-0.002"]


def test_a_sweep_in_which_one_diverges(shell: Shell) -> None:
    rates = ["0.01", "1.0", "0.02"]
    assert shell("--lr", *rates, "--epochs", "200", "--name", "sweep") == 1
    files = [Path(f"runs/sweep/lr-{lr}/manual/result.json") for lr in rates]
    stopped = [read_json(file)["stopped"] for file in files]
    assert stopped == ["finished", "diverged", "finished"]


@pytest.mark.parametrize(("words", "message"), [
    ("--lr 0.1 0.10", "lr 0.1 is given twice"),
    ("--lr 0.1 x", "argument --lr: 'x' is not a finite number of at least 0, nor auto"),
    ("--lr 0.1 0.2 --update affine --compile", "--compile goes with manual and autograd, not with"),
    ("--update manual affine manual", "update manual is given twice"),
])  # fmt: skip
def test_what_no_sweep_can_be_leaves_nothing(shell: Shell, words: str, message: str) -> None:
    assert shell(*words.split()) == 2
    assert shell.err.startswith(f"train.py: {message}")
    assert not Path("runs").exists()


@pytest.mark.parametrize(("flags", "faster"), [
    ("", "; --update compiled takes the same steps as machine code"),
    ("--model quadratic --data co2 --standardize --batch-size 300",
     "; --update affine takes them all at once, within rounding"),
    ("--model mine.py:Exponential --data synthetic:66000 --batch-size full --lr 1e-9",
     "; --compile fuses the gradient"),
    ("--model mine.py:Exponential --data lesson --lr 0.001", ""),
    ("--data synthetic:300 --chunk-size 10", ""),
])  # fmt: skip
def test_a_long_run_says_how_long_it_takes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, flags: str, faster: str
) -> None:
    """And without a terminal, a line a minute; here all minutes are 0 s, and each run long."""
    for name in ("SOON", "OFTEN", "LONG"):
        monkeypatch.setattr(f"torchgd.experiment.command_line.{name}", -1.0)
    for module in ("experiment", "resolve"):
        monkeypatch.setattr(f"torchgd.experiment.{module}.compiled", lambda gradient, x: gradient)
    words = "--update manual --epochs 3 --checkpoint-every 1steps --name a --device cpu".split()
    assert shell(*flags.split(), *words) == 0
    first, *lines, last = shell.err.splitlines()
    unit, count = ("row", 1200) if "chunk" in flags else ("step", shell.result()["steps"])
    assert re.fullmatch(rf"manual: {count} {unit}s take about \d+ s{re.escape(faster)}", first)
    told = rf"manual: {unit} \d+ of {count}, loss \S+, about \d+ s left"
    assert lines
    assert all(re.fullmatch(told, line) for line in lines)
    assert last == "written to runs/a; tensorboard --logdir runs"


def test_how_long_a_run_takes_is_told_from_the_steps_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 1000 steps 500 were taken before: the 10 that come first, in 20 s, leave 490."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with closing(Progress("manual", 1000, 500, "step", "")) as progress:
        progress.reach(500)
        clock[0] = 20.0
        progress.reach(510)
    assert capsys.readouterr().err == "manual: 1000 steps take about 16 min\n"


def test_an_error_that_names_no_file_is_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^2$"), refusing(Parser(prog="train.py"), OSError):
        raise OSError("nothing is known of it")
    assert capsys.readouterr().err == "train.py: nothing is known of it\n"


def test_without_a_compiler(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    assert shell("--compile", "--data", "synthetic:300", "--batch-size", "full") == 2
    assert shell.err == (
        "train.py: compile: torch.compile fails on this machine (no working C++ compiler); "
        "install a C++ compiler, for CUDA Triton, or do without\n"
    )
    assert not Path("runs").exists()


@pytest.mark.skipif(pretend.CUDA, reason="there is a CUDA device")
def test_cuda_without_a_gpu(shell: Shell) -> None:
    assert shell("--device", "cuda") == 2
    assert shell.err == (
        f"train.py: device 'cuda': torch {torch.__version__} finds 0 CUDA devices on this machine; "
        "use cpu or auto\n"
    )


@pytest.mark.cuda
@compiles
def test_compiled_on_cuda(shell: Shell) -> None:
    """The lesson's sums have one term, so that compiling changes no order, only roundings."""
    assert shell("--device", "cuda", "--compile") == 0
    assert shell.result()["parameters"]["w"] == pytest.approx(1.999999723695619, rel=1e-14)


def test_the_lesson_on_a_device(shell: Shell, named_device: str) -> None:
    assert shell("--device", named_device) == 0
    assert "All 150 steps are identical, bit for bit" in shell.out
    # 3 roundings of w a step, shrunk by 0.82 or more with each further one, as on the CPU.
    bound = 3 * torch.finfo(torch.float64).eps / (1 - 0.82)
    assert abs(shell.result()["parameters"]["w"] - 1.999999723695619) <= 2 * bound


@pytest.mark.processes
def test_a_fresh_process_refuses_without_a_traceback(tmp_path: Path) -> None:
    status, out, err = ended(script(tmp_path, "--data", "nofile"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_keeps_it(tmp_path: Path, sent: int, status: int) -> None:
    words = "--epochs 100000000 --momentum 0.5 --record-every 100 --name long".split()
    process = Forked(tmp_path, *words)
    csv = tmp_path / "runs" / "long" / "manual" / "trajectory.csv"
    wait_for_rows(process, csv.parent)
    process.send_signal(sent)
    found, out, err = ended(process)
    assert found == status, err
    result = read_json(csv.parent / "result.json")
    assert result["stopped"] == "interrupted"
    unfinished = f"Unfinished, at step {result['steps']} of 300000000 (manual):"
    assert out.splitlines()[0] == unfinished
    where = f"manual at step {result['steps']}"
    assert err.splitlines()[-1] == f"train.py: interrupted, {where}; go on with --resume runs/long"
    _, rows = read_csv(csv)
    assert int(rows[-1][0]) == result["steps"]
    assert float(rows[-1][3]) == result["parameters"]["w"]
    assert [int(row[0]) for row in rows[:-1]] == list(range(0, result["steps"], 100))
    assert events(csv.parent)["weight/w"][-1][0] == result["steps"]
    # The other has not begun.
    assert sorted(os.listdir(csv.parents[1] / "autograd")) == [".lock", "config.json"]


SLOW = """
import pathlib
import signal
import time
from torchgd import Linear

class Slow(Linear):
    def partials(self, x):
        while self.w.item() != 1.0:
            heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            pathlib.Path("heard" if heard else "asleep").touch()
            time.sleep(0.01)
        return super().partials(x)
"""


@pytest.mark.processes
def test_a_second_signal_ends_a_step_that_does_not_end(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    process = script(tmp_path, *"--model slow.py:Slow --name s".split())
    for sign in ("asleep", "heard"):  # it is in its second step; the first signal has come
        wait_for(process, (tmp_path / sign).exists)
        process.send_signal(signal.SIGINT)
    status, _, err = ended(process)
    assert status == 130
    assert "Traceback" not in err
    assert not (tmp_path / "runs" / "s" / "manual" / "result.json").exists()


def test_a_signal_that_comes_at_once_leaves_a_run_of_no_step(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stop, "__call__", lambda self: True)
    monkeypatch.setattr(Stop, "signal", signal.SIGINT, raising=False)
    shell()
    assert shell.result()["stopped"] == "interrupted"
    assert shell.result()["steps"] == 0
    assert "train.py: interrupted, manual at step 0; go on with --resume runs/" in shell.err


@pytest.mark.processes
def test_sigkill_leaves_the_blocks_that_were_written(tmp_path: Path) -> None:
    process = Forked(tmp_path, *"--epochs 100000000 --record-every 50 --name k".split())
    run = tmp_path / "runs" / "k" / "manual"
    wait_for_rows(process, run)
    process.send_signal(signal.SIGKILL)
    ended(process)
    steps = [step for step, _ in events(run)["loss"]]
    assert len(steps) >= 3
    assert steps == list(range(0, 50 * len(steps), 50))


@pytest.mark.processes
def test_the_reader_may_leave_early(tmp_path: Path) -> None:
    process = script(tmp_path, *"--show-steps --epochs 3000 --name p --update manual".split())
    assert process.stdout is not None
    assert process.stdout.readline() == "\t grad: 1 2 -2.0\n"
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)
    assert (tmp_path / "runs" / "p" / "manual" / "result.json").exists()


@pytest.mark.processes
def test_a_terminal_whose_encoding_lacks_characters(tmp_path: Path) -> None:
    """What it cannot show is written as Python writes it."""
    process = script(
        tmp_path, "--no-figures", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0",
        PYTHONIOENCODING="ascii",
    )  # fmt: skip
    status, out, err = ended(process)
    assert status == 0, err
    assert "\\u0177(4 hours)" in out


LONG = """
import time
from torchgd import Linear

class Long(Linear):
    def partials(self, x):
        if self.w.item() == 1.02:  # at the second step
            time.sleep(1.1)
        return super().partials(x)
"""


@pytest.mark.processes
def test_progress_shows_on_a_terminal_alone(shell: Shell) -> None:
    """On a terminal a run of over a second has a bar on standard error; in a file it has none."""
    import pty

    Path("long.py").write_text(LONG, encoding="utf-8")
    words = "--model long.py:Long --epochs 2 --update manual --name".split()
    assert shell(*words, "f") == 0
    assert shell.err == "written to runs/f; tensorboard --logdir runs\n"
    reader, terminal = pty.openpty()  # this end stays open, so that what was shown stays to be read
    words = [*words, "t", "--no-figures"]
    status, _, _ = ended(
        script(shell.folder, *words, stderr=terminal, TQDM_NCOLS="100", TQDM_NROWS="24")
    )
    shown = os.read(reader, 65536)
    os.close(terminal)
    os.close(reader)
    assert status == 0
    assert b"manual: " in shown
    assert b"step/s" in shown
