"""The lesson's points, batches and standardisation."""

import math
from typing import Any

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


@given(count=st.integers(1, 40), data=st.data(), shuffle=st.booleans())
def test_an_epoch_visits_every_sample_once(count: int, data: st.DataObject, shuffle: bool) -> None:
    size = data.draw(st.integers(1, count))
    batches = Batches(*values(count), batch_size=size, shuffle=shuffle)
    epoch = list(batches)
    assert len(epoch) == len(batches) == -(-count // size)
    assert [len(x) for x, _ in epoch[:-1]] == [size] * (len(epoch) - 1)
    assert all(torch.equal(y, 2 * x) for x, y in epoch)
    seen = torch.cat([x for x, _ in epoch])
    assert torch.equal(seen.sort().values if shuffle else seen, values(count)[0])


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


def test_in_order_unless_shuffled() -> None:
    batches = Batches(*values(5), batch_size=2)
    assert [x.tolist() for x, _ in batches] == [[0, 1], [2, 3], [4]]
    assert [x.tolist() for x, _ in batches] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("size", [0, -1, 4])
def test_batch_size_out_of_range(size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^batch size {size}: it must be between 1 and the number"
    ):
        Batches(*values(3), batch_size=size)


@pytest.mark.parametrize(("x", "y"), [((3,), (2,)), ((3, 1), (3, 1)), ((0,), (0,)), ((), ())])
def test_batches_of_a_wrong_shape(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give both as") as error:
        Batches(torch.ones(x), torch.ones(y))
    assert str(error.value).startswith(f"x has shape {x} and y {y}: ")


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


@pytest.mark.parametrize(
    ("x", "deviation"),
    [([2.0, 2.0], "0"), ([1e200, 3e200], "inf"), ([0.1, 0.1, 0.1], "1.38778e-17")],
)
def test_what_cannot_be_standardised(x: list[float], deviation: str) -> None:
    with pytest.raises(
        ValueError, match=f"^the deviation of x is {deviation}: standardising divides"
    ):
        Standardization.of(torch.tensor(x, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "more", "message"),
    [
        ([1.0, 2.0], {}, "x is list: give a tensor of floating-point numbers"),
        (torch.tensor([1, 2]), {}, "x is torch.int64: give a tensor of floating-point numbers"),
        (torch.ones(2), {"batch_size": 1.5}, "batch size 1.5: give an integer"),
        (torch.ones(2), {"seed": True}, "seed True: give an integer"),
    ],
)
def test_what_is_of_a_wrong_kind(x: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        Batches(x, torch.ones(2), **more)


@pytest.mark.parametrize(
    ("x", "y", "more", "message"),
    [
        ([1.0, math.nan], [1.0, 1.0], {}, r"x\[1\] is nan: remove the sample"),
        ([1.0, 2.0], [-math.inf, 1.0], {}, r"y\[0\] is -inf: remove the sample"),
        ([1.0, 2.0], [1.0, 1.0], {"seed": -1}, "seed -1: it must be at least 0"),
    ],
)
def test_what_is_no_number(x: Any, y: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Batches(torch.tensor(x), torch.tensor(y), **more)


def test_what_has_no_deviation() -> None:
    with pytest.raises(ValueError, match=r"^x has shape \(0,\): give \(N,\) with at least one"):
        Standardization.of(torch.tensor([]))
    with pytest.raises(TypeError, match=r"^x is torch\.int64: give a tensor of floating-point"):
        Standardization.of(torch.tensor([1, 2]))


@pytest.mark.parametrize("z", [(0.0, 0.0), (math.nan, 1.0), (0.0, -1.0), (0.0, math.inf)])
def test_what_is_no_standardization(z: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="^mean .* and deviation .*: give finite numbers, the sec"):
        Standardization(*z)


@pytest.mark.parametrize("epoch", [-1, 1.5, "1"])
def test_what_is_no_epoch(epoch: Any) -> None:
    with pytest.raises(ValueError, match="^epoch .*: give an integer of at least 0$"):
        Batches(*values(3)).set_epoch(epoch)
