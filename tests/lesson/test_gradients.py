from typing import Any

import pytest
import torch
from helpers import MODELS, same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchgd import Linear, Model, Quadratic, autograd_gradient, manual_gradient
from torchgd.loss import mean_squared_error, mean_squared_error_and_derivative

BOTH = pytest.mark.parametrize("gradient", [manual_gradient, autograd_gradient])


def grads(model: torch.nn.Module) -> list[Tensor]:
    return [w.grad for w in model.parameters() if w.grad is not None]


@BOTH
def test_the_lessons_numbers(gradient: Any) -> None:
    """For one sample ∂loss/∂w = 2x(w·x − y): at w = 1, 2·3·(3 − 6) = −18."""
    model = Linear(dtype=torch.float64)
    x, y = torch.tensor([3.0]).double(), torch.tensor([6.0]).double()
    assert gradient(model, x, y).item() == 9.0
    assert [g.item() for g in grads(model)] == [-18.0]


@BOTH
def test_a_batch_takes_the_mean(gradient: Any) -> None:
    """(2/N) Σ x(w·x − y) on the lesson's data at w = 1: (2/3)·(−1 − 4 − 9) = −28/3."""
    model = Linear(dtype=torch.float64)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert gradient(model, x, 2 * x).item() == pytest.approx(14 / 3, rel=1e-15)
    assert grads(model)[0].item() == pytest.approx(-28 / 3, rel=1e-15)


@BOTH
def test_exercise_3_1_in_numbers(gradient: Any) -> None:
    """x = 2, y = 17, ŷ = 4 + 2 + 0: residual −11, so −88, −44 and −22."""
    model = Quadratic(dtype=torch.float64)
    x, y = torch.tensor([2.0]).double(), torch.tensor([17.0]).double()
    gradient(model, x, y)
    assert [g.item() for g in grads(model)] == [-88.0, -44.0, -22.0]


@BOTH
def test_replaces_the_gradient_and_returns_no_graph(gradient: Any) -> None:
    model = Quadratic()
    x = torch.ones(2)
    first = [g.clone() for g in (gradient(model, x, x), *grads(model))]
    loss = gradient(model, x, x)
    assert all(torch.equal(a, b) for a, b in zip(first, (loss, *grads(model)), strict=True))
    assert not loss.requires_grad
    assert loss.shape == ()
    assert not any(g.requires_grad for g in grads(model))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_central_differences_agree(make: Any) -> None:
    """(L(w + h) − L(w − h))/2h. L is a parabola in w, so the formula has no truncation error.

    What is left is rounding: each loss takes some ten, so is off by up to 10ε·L, which the division
    makes 10ε·L/h; twice that allows for the rounding of the gradient by hand.
    """
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 7, dtype=torch.float64, generator=generator).unbind()
    model, h = make(dtype=torch.float64), 2.0**-3
    loss = manual_gradient(model, x, y)
    for w in model.parameters():
        expected = w.grad.item()
        with torch.no_grad():
            w.add_(h)
            above = mean_squared_error(model(x), y).item()
            w.sub_(2 * h)
            below = mean_squared_error(model(x), y).item()
            w.add_(h)
        tolerance = 20 * torch.finfo(torch.float64).eps * max(above, below, loss.item()) / h
        assert abs((above - below) / (2 * h) - expected) <= tolerance


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@given(data=st.data())
def test_manual_equals_autograd_and_mse_loss_to_the_bit(make: Any, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    count = data.draw(st.one_of(st.integers(1, 70), st.sampled_from([1000, 4099, 100_003])))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    scale = 10.0 ** data.draw(st.integers(-3, 3))
    x, y = scale * torch.randn(2, count, dtype=dtype, generator=generator)
    model = make(dtype=dtype)
    loss = manual_gradient(model, x, y)
    by_hand = grads(model)
    assert same_bits(loss, autograd_gradient(model, x, y))
    by_autograd = grads(model)
    model.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]
    for manual, autograd, mse in zip(by_hand, by_autograd, grads(model), strict=True):
        assert same_bits(manual, autograd)
        assert same_bits(manual, mse)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (2, 3, 5)])
def test_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    model = Quadratic(dtype=dtype)
    manual_gradient(model, x, y)
    by_hand = grads(model)
    autograd_gradient(model, x, y)
    assert all(same_bits(a, b) for a, b in zip(by_hand, grads(model), strict=True))


@BOTH
@pytest.mark.parametrize(("x", "y"), [((3,), (3, 1)), ((3, 1), (3,)), ((1,), (3,)), ((3,), ())])
def test_shapes_that_differ_are_named(gradient: Any, x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match="the same; reshape") as error:
        gradient(Linear(), torch.ones(x), torch.ones(y))
    assert str(error.value).startswith(f"prediction has shape {x} and target {y}: ")


@BOTH
def test_no_sample(gradient: Any) -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\): a mean over no sample does not exist"):
        gradient(Linear(), torch.ones(0), torch.ones(0))


@pytest.mark.parametrize("loss", [mean_squared_error, mean_squared_error_and_derivative])
def test_the_loss_refuses_to_broadcast(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"^prediction has shape \(2,\) and target \(2, 1\)"):
        loss(torch.ones(2), torch.ones(2, 1))


def test_the_derivative_of_the_loss() -> None:
    prediction, target = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 2.0])
    assert mean_squared_error(prediction, target).item() == 5.0
    loss, derivative = mean_squared_error_and_derivative(prediction, target)
    assert (loss.item(), derivative.tolist()) == (5.0, [1.0, 3.0])


class Faulty(Model):
    """ŷ = w·x with partials that a test gives."""

    def __init__(self, partials: dict[str, Tensor]) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0))
        self.given = partials

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        return self.given


def test_a_partial_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"^partials\(x\) returns \['v'\] and lacks 'w': give"):
        manual_gradient(Faulty({"v": torch.ones(3)}), torch.ones(3), torch.ones(3))


def test_a_partial_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"^partials\(x\)\['w'\] has shape \(3, 1\): it must have"):
        manual_gradient(Faulty({"w": torch.ones(3, 1)}), torch.ones(3), torch.ones(3))


def test_a_parameter_without_a_part_in_the_prediction_is_named() -> None:
    model = Faulty({})
    model.v = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^parameter 'v' has no part in forward\(x\)"):
        autograd_gradient(model, torch.ones(3), torch.ones(3))
