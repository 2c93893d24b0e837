"""Where two trajectories part, and how far: to the bit."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import with_columns
from hypothesis import given
from hypothesis import strategies as st

from torchgd import Batches, Linear, ManualSGD, Trajectory, compare, train
from torchgd.experiment.sources import load
from torchgd.proof.compare import difference, ulps
from torchgd.trajectory import Stopped

F64 = torch.float64


def t64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


@given(a=st.floats(allow_nan=False, allow_infinity=False), steps=st.integers(0, 50))
def test_ulps_count_floats(a: float, steps: int) -> None:
    b = a
    for _ in range(steps):
        b = math.nextafter(b, math.inf)
    if math.isfinite(b):
        assert ulps(t64(a), t64(b)).tolist() == ulps(t64(b), t64(a)).tolist() == [steps]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_ulps_in_single_precision(a: float) -> None:
    up = torch.nextafter(torch.tensor([a]), torch.tensor([math.inf]))
    if up.isfinite():
        assert ulps(torch.tensor([a]), up).tolist() == [1]


def test_ulps_at_the_ends() -> None:
    inf, nan, largest = math.inf, math.nan, torch.finfo(F64).max
    assert ulps(t64(0.0, nan, inf, largest), t64(-0.0, nan, inf, inf)).tolist() == [0, 0, 0, 1]
    assert ulps(t64(-inf), t64(inf)).tolist() == [2 * 0x7FF0000000000000]
    assert ulps(t64(1.0), t64(nan)).item() > 2**50
    assert ulps(t64(nan), -t64(nan)).item() == 0


@pytest.mark.parametrize("pair", [(torch.float32, F64), (torch.float16, torch.float16)])
def test_ulps_of_unlike_types(pair: tuple[torch.dtype, torch.dtype]) -> None:
    with pytest.raises(ValueError, match="^dtypes torch.float.* give two float32 or two float64$"):
        ulps(torch.ones(1, dtype=pair[0]), torch.ones(1, dtype=pair[1]))


def run(
    epochs: int = 3, lr: float = 0.01, every: int | None = None, bias: bool = False
) -> Trajectory:
    data, model = load("lesson"), Linear(bias=bias, dtype=F64)
    optimizer = ManualSGD(model.parameters(), lr=lr)
    return train(model, Batches(data.x, data.y), optimizer, epochs=epochs, record_every=every)


def nudged(values: torch.Tensor, row: int, ups: int = 1) -> torch.Tensor:
    changed = values.clone()
    for _ in range(ups):
        changed[row] = torch.nextafter(changed[row], t64(math.inf)[0])
    return changed


def test_identical() -> None:
    nothing: dict[str, Any] = {"max_abs": 0.0, "max_ulp": 0, "first_difference": None}
    assert compare(run(), run()).as_dict() == {"identical": True, **nothing}
    infinite = run(lr=1e200, epochs=50)
    assert infinite.stopped == "diverged"
    infinite = with_columns(infinite, weights={"w": infinite.weights["w"] * math.inf})
    assert compare(infinite, infinite).as_dict() == {"identical": True, **nothing}


def test_one_bit_in_one_weight_is_found() -> None:
    a = run(bias=True)
    b = with_columns(a, weights={**a.weights, "b": nudged(a.weights["b"], 5, ups=3)})
    found = compare(a, b)
    assert not found.identical
    assert found.max_ulp == 3
    assert found.max_abs == (b.weights["b"][5] - a.weights["b"][5]).item() > 0
    assert found.first_difference == (5, "b")
    assert found.as_dict()["first_difference"] == {"step": 5, "parameter": "b"}
    assert not found.within(0)
    assert not found.within(2)
    assert found.within(3)


def test_the_cause_comes_before_its_effects() -> None:
    """In one step a weight goes before a gradient, and a gradient before the loss."""
    a = run(bias=True)
    loss = with_columns(a, loss=nudged(a.loss, 4))
    gradient = with_columns(loss, gradients={"w": nudged(a.gradients["w"], 4)})
    weight = with_columns(gradient, weights={"b": nudged(a.weights["b"], 4)})
    earlier = with_columns(weight, loss=nudged(a.loss, 2))
    for changed, first, apart in (
        (loss, (4, "loss"), 0),
        (gradient, (4, "w"), 0),
        (weight, (4, "b"), 1),
        (earlier, (2, "loss"), 1),
    ):
        found = compare(a, changed)
        assert (found.first_difference, found.max_ulp) == (first, apart)
        assert not found.identical
        assert not found.within(0)  # not even where the weights are
        assert found.within(1)


def test_the_sign_of_zero_and_nan() -> None:
    a = run()
    zero = with_columns(a, gradients={"w": torch.zeros_like(a.gradients["w"])})
    minus = with_columns(a, gradients={"w": -torch.zeros_like(a.gradients["w"])})
    assert compare(zero, minus).first_difference == (0, "w")
    nan = with_columns(a, gradients={"w": zero.gradients["w"] * math.nan})
    assert compare(nan, nan).identical
    assert not compare(nan, a).identical


def test_infinities_of_one_sign_are_0_apart() -> None:
    far = [math.inf, -math.inf, math.nan, math.inf, 1.0]
    found = difference(t64(*far), t64(math.inf, -math.inf, math.nan, -math.inf, 3.0))
    assert found.tolist() == [0, 0, 0, math.inf, 2]


def test_a_last_row_that_diverged_has_a_loss_and_gradients() -> None:
    a = run(lr=1e200)
    assert (a.stopped, a.table[-1].tolist()) == ("diverged", [math.inf, 2e200, 1.6e201])
    for column, name in enumerate(("loss", "w", "w")):
        table = a.table.clone()
        table[-1, column] = 7.0
        found = compare(a, replace(a, table=table))
        assert (found.identical, found.first_difference) == (False, (1, name))


def test_one_that_diverged_where_the_other_ends() -> None:
    """The one has no finite loss there, the other no loss, and the weights are alike."""
    a = run(lr=1e200)
    table = torch.stack([a.table[0], t64(0, a.table[1, 1].item(), 0)])
    b = replace(a, table=table, stopped=Stopped.FINISHED)
    for found in (compare(a, b), compare(b, a)):
        assert (found.identical, found.first_difference) == (False, (1, None))
        assert (found.max_abs, found.max_ulp) == (0, 0)


@pytest.mark.parametrize("every", [(1, 1), (4, 4), (2, 3), (1, 4)])
def test_steps_that_both_recorded_are_compared(every: tuple[int, int]) -> None:
    """Where both go they agree, so they part at the first step that only one of them has."""
    a, b = run(epochs=2, every=every[0]), run(epochs=3, every=every[1])
    alone = set(a.step.tolist()) ^ set(b.step.tolist())
    assert every != (1, 1) or min(alone) == 7
    assert every != (4, 4) or b.step.tolist() == [0, 4, 8, 9]
    for found in (compare(a, b), compare(b, a)):
        assert not found.identical
        assert not found.within(2**63)
        assert (found.max_abs, found.max_ulp) == (0, 0)
        assert found.first_difference == (min(alone), None)
    row = b.step.tolist().index(4) if 4 in b.step else b.step.tolist().index(6)
    changed = with_columns(b, weights={"w": nudged(b.weights["w"], row, ups=2)})
    assert compare(a, changed).first_difference == (int(b.step[row]), "w")
    assert compare(b, changed).first_difference == (int(b.step[row]), "w")
    assert compare(changed, a).max_ulp == 2


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"^parameters \['w'\] and \['w', 'b'\]: compare runs of"):
        compare(run(), run(bias=True))
    with pytest.raises(ValueError, match=r"^steps 1 to 1 and 3 to 3: no step is in both; record"):
        compare(run()[1:2], run()[3:4])
    with pytest.raises(ValueError, match=r"^steps none and 3 to 3: no step is in both"):
        compare(run()[:0], run()[3:4])
