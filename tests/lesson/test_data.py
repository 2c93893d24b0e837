"""The lesson's points, batches and standardisation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CERTIFIED
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchgd import Batches
from torchgd.data import Standardization, lesson, parabola
from torchgd.experiment.sources import load


def test_the_lesson_and_the_parabola() -> None:
    hours, curve = lesson(), parabola()
    assert (hours.x.tolist(), hours.y.tolist()) == ([1, 2, 3], [2, 4, 6])
    assert (hours.x_unit, hours.y_unit) == ("hours", "points")
    assert len(curve.x) == 21
    assert curve.x[[0, 10, 20]].tolist() == [-2, 0, 2]
    assert curve.y[[0, 10, 20]].tolist() == [9, 1, 17]


def values(count: int) -> tuple[Tensor, Tensor]:
    x = torch.arange(count, dtype=torch.float64)
    return x, 2 * x


class OnCuda(Tensor):
    """Says that it is on CUDA, and is not."""

    is_cuda = True


def test_the_order_goes_to_cuda_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From other memory CUDA copies it to such memory first, and the host waits for that."""

    def pin(t: Tensor) -> Tensor:
        pinned.append(t)
        return t

    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    batches = Batches(*values(7), shuffle=True)
    expected = batches.order()
    assert pinned == []
    batches.x = batches.x.as_subclass(OnCuda)
    assert torch.equal(batches.order(), expected)
    assert [torch.equal(t, expected) for t in pinned] == [True]


@given(count=st.integers(1, 40), data=st.data(), shuffle=st.booleans())
def test_an_epoch_visits_every_sample_once(count: int, data: st.DataObject, shuffle: bool) -> None:
    size = data.draw(st.integers(1, count))
    batches = Batches(*values(count), batch_size=size, shuffle=shuffle)
    for _ in range(2):
        epoch = list(batches)
        assert len(epoch) == len(batches) == -(-count // size)
        assert [len(x) for x, _ in epoch[:-1]] == [size] * (len(epoch) - 1)
        assert all(torch.equal(y, 2 * x) for x, y in epoch)
        seen = torch.cat([x for x, _ in epoch])
        assert torch.equal(seen.sort().values if shuffle else seen, values(count)[0])


@pytest.mark.parametrize("shuffle", [False, True])
def test_many_batches_are_of_one_size_wherever_they_are_split(
    monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    monkeypatch.setattr("torchgd.data.FEW", 4)
    found = list(Batches(*values(32), batch_size=3, shuffle=shuffle))
    assert [len(x) for x, _ in found] == [3] * 10 + [2]
    assert torch.equal(torch.cat([x for x, _ in found]).sort().values, values(32)[0])


def order(batches: Batches, epoch: int) -> list[float]:
    batches.set_epoch(epoch)
    return [x.item() for x, _ in batches]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    batches = Batches(*values(50), shuffle=True, seed=7)
    first, second = order(batches, 0), order(batches, 1)
    assert first != second
    assert order(batches, 0) == first
    torch.manual_seed(99)
    assert order(Batches(*values(50), shuffle=True, seed=7), 1) == second
    orders = {
        tuple(order(Batches(*values(50), shuffle=True, seed=s), e))
        for s in range(9)
        for e in range(9)
    }
    assert len(orders) == 81


def test_standardization() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    z = Standardization.of(x)
    assert z == Standardization(mean=3.0, deviation=3.5**0.5)
    assert z(x).mean().item() == pytest.approx(0, abs=1e-15)
    assert z(x).square().mean().item() == pytest.approx(1, rel=1e-15)
    assert Standardization.of(x, center=False) == Standardization(mean=0.0, deviation=12.5**0.5)


@pytest.mark.parametrize("name", ["norris", "pontius", "cars", "co2"])
def test_standardization_has_the_certified_moments(name: str) -> None:
    facts, z = CERTIFIED[name]["full_batch_standardised"], Standardization.of(load(name).x)
    assert z.mean == pytest.approx(float(facts["mean_x"]), rel=4e-16)
    assert z.deviation == pytest.approx(float(facts["pop_sd_x"]), rel=4e-16)


X = torch.ones(3)
FLOATS = "give a tensor of floating-point numbers$"
BOTH = r"give x as \(N,\)"


@pytest.mark.parametrize(("x", "y", "more", "error", "message"), [
    (X, X, {"batch_size": 0}, ValueError, "batch size 0: it must be between 1 and the number of"),
    (X, X, {"batch_size": 4}, ValueError, "batch size 4: it must be between 1 and the number of"),
    (X, X, {"batch_size": 1.5}, TypeError, "batch size 1.5: give an integer$"),
    (X, X, {"seed": True}, TypeError, "seed True: give an integer$"),
    (X, X, {"seed": -1}, ValueError, "seed -1: it must be at least 0$"),
    (X, X[:2], {}, ValueError, rf"x has shape \(3,\) and y \(2,\): {BOTH}"),
    (X[None], X[None], {}, ValueError, rf"x has shape \(1, 3\) and y \(1, 3\): {BOTH}"),
    (X[:0], X[:0], {}, ValueError, rf"x has shape \(0,\) and y \(0,\): {BOTH}"),
    (X[0], X[0], {}, ValueError, rf"x has shape \(\) and y \(\): {BOTH}"),
    ([1.0], X, {}, TypeError, f"x is list: {FLOATS}"),
    (X, X.int(), {}, TypeError, f"y is torch.int32: {FLOATS}"),
    (X * math.nan, X, {}, ValueError, r"x\[0\] is nan: remove the sample$"),
    (X, torch.tensor([1.0, -math.inf, 1.0]), {}, ValueError, r"y\[1\] is -inf: remove the sample$"),
])  # fmt: skip
def test_what_makes_no_batches(x: Any, y: Any, more: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Batches(x, y, **more)


def test_a_bad_sample_is_named_wherever_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchgd.data.PART", 4)
    x = values(11)[0].index_fill(0, torch.tensor([6, 9]), math.inf)
    with pytest.raises(ValueError, match=r"^x\[6\] is inf: remove the sample$"):
        Batches(x, x)


@pytest.mark.parametrize(("x", "error", "message"), [
    ([2.0, 2.0], ValueError, "the deviation of x is 0: standardising divides"),
    ([1e200, 3e200], ValueError, "the deviation of x is inf: standardising divides"),
    ([0.1, 0.1, 0.1], ValueError, "the deviation of x is 1.38778e-17: standardising divides"),
    ([], ValueError, r"x has shape \(0,\): give \(N,\) or \(N, F\) with at least one"),
    ([1, 2], TypeError, f"x is torch.int64: {FLOATS}"),
])  # fmt: skip
def test_what_cannot_be_standardised(x: list[float], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Standardization.of(torch.from_numpy(np.array(x)))


@pytest.mark.parametrize("z", [(0.0, 0.0), (math.nan, 1.0), (0.0, -1.0), (0.0, math.inf)])
def test_what_is_no_standardization(z: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="^mean .* and deviation .*: give finite numbers, the sec"):
        Standardization(*z)


@pytest.mark.parametrize("epoch", [-1, 1.5, "1"])
def test_what_is_no_epoch(epoch: Any) -> None:
    with pytest.raises(ValueError, match="^epoch .*: give an integer of at least 0$"):
        Batches(*values(3)).set_epoch(epoch)
