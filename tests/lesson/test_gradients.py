import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers import MODELS, same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from torchgd import Linear, Quadratic, autograd_gradient, manual_gradient
from torchgd.gradients import few, is_linear_in_parameters
from torchgd.loss import mean_squared_error, mean_squared_error_and_derivative

BOTH = pytest.mark.parametrize("gradient", [manual_gradient, autograd_gradient])


def grads(model: torch.nn.Module) -> list[Tensor]:
    return [w.grad for w in model.parameters() if w.grad is not None]


@BOTH
@pytest.mark.parametrize(("model", "x", "y", "loss", "expected"), [
    # For one sample ∂loss/∂w = 2x(w·x − y): at w = 1, 2·3·(3 − 6) = −18.
    (Linear, [3.0], [6.0], 9, [-18]),
    # (2/N) Σ x(w·x − y) on the lesson's data at w = 1: (2/3)·(−1 − 4 − 9) = −28/3.
    (Linear, [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 14 / 3, [-28 / 3]),
    # Exercise 3.1: ŷ = 4 + 2 + 0 and the residual is −11.
    (Quadratic, [2.0], [17.0], 121, [-88, -44, -22]),
])  # fmt: skip
def test_hand_numbers(
    gradient: Any, model: Any, x: Any, y: Any, loss: float, expected: list[float]
) -> None:
    """Those of one sample are exact, a mean of three is rounded."""
    model, rel = model(dtype=torch.float64), 0 if len(x) == 1 else 1e-15
    found = gradient(model, *torch.tensor([x, y], dtype=torch.float64))
    assert found.item() == pytest.approx(loss, rel=rel, abs=0)
    assert [g.item() for g in grads(model)] == pytest.approx(expected, rel=rel, abs=0)


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
@given(data=st.data())
def test_manual_equals_autograd_and_mse_loss_to_the_bit(make: Any, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    several = st.sampled_from([(), (4, 1), (2, 3, 5), (1000,), (4099,), (100_003,)])
    shape = data.draw(st.one_of(st.tuples(st.integers(1, 70)), several))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    scale = 10.0 ** data.draw(st.integers(-3, 3))
    x, y = scale * torch.randn(2, *shape, dtype=dtype, generator=generator)
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


@BOTH
@pytest.mark.parametrize(("x", "y"), [((3,), (3, 1)), ((3, 1), (3,)), ((1,), (3,)), ((3,), ())])
def test_shapes_that_differ_are_named(gradient: Any, x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match="the same; reshape") as error:
        gradient(Linear(), torch.ones(x), torch.ones(y))
    assert str(error.value).startswith(f"prediction has shape {x} and target {y}: ")


@BOTH
@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_no_sample(gradient: Any, shape: tuple[int, ...]) -> None:
    message = f"{re.escape(str(shape))}: a mean over no sample does not exist"
    with pytest.raises(ValueError, match=message):
        gradient(Linear(), torch.ones(shape), torch.ones(shape))


def test_the_derivative_of_the_loss() -> None:
    prediction, target = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 2.0])
    assert mean_squared_error(prediction, target).item() == 5.0
    loss, derivative = mean_squared_error_and_derivative(prediction, target)
    assert (loss.item(), derivative.tolist()) == (5.0, [1.0, 3.0])


@BOTH
def test_twice_the_residual_may_overflow_before_it_is_divided(gradient: Any) -> None:
    """(2/N)·r is 1.5e308 here, and times x = 1e-300 finite; (1/N)·2r is infinite."""
    model = Linear(dtype=torch.float64)
    x, y = torch.tensor([[1e-300, 1e-300], [1.5e308, 1.5e308]], dtype=torch.float64)
    gradient(model, x, y)
    assert grads(model)[0].item() == -math.inf


def test_float32_rounds_the_number_of_samples_above_2_to_the_24() -> None:
    """Of one more than 2²⁴ it makes 2²⁴, so that ∂loss/∂ŷ at r = 1 is 2/2²⁴."""
    for dtype, expected in ((torch.float32, 2.0**-23), (torch.float64, 2 / (2**24 + 1))):
        ones, zeros = torch.eye(2, dtype=dtype)[0, :, None].expand(2, 2**24 + 1)
        _, derivative = mean_squared_error_and_derivative(ones, zeros)
        assert derivative[0].item() == expected


def test_above_2_to_the_24_samples_manual_equals_autograd() -> None:
    x = torch.linspace(-1, 1, 20_000_001)
    model = Linear()
    loss = manual_gradient(model, x, x.sin())
    (by_hand,) = grads(model)
    assert same_bits(loss, autograd_gradient(model, x, x.sin()))
    assert same_bits(by_hand, *grads(model))


class Given(nn.Module):
    """ŷ = w·x with partials that a test gives; no more than a module."""

    def __init__(self, partials: Any) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.given = partials

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x

    def partials(self, x: Tensor) -> Any:
        return self.given


@pytest.mark.parametrize(("partials", "message"), [
    ([torch.ones(3)], r"partials\(x\) is a list; give a dict of ∂ŷ/∂w by name"),
    ({"v": torch.ones(3)}, r"partials\(x\) returns \['v'\] and lacks 'w': give"),
    ({"w": torch.ones(3, 1)}, r"partials\(x\)\['w'\] has shape \(3, 1\): it must have"),
    ({"w": torch.ones(1)}, r"partials\(x\)\['w'\] has shape \(1,\): it must have"),
    ({"w": "1"}, r"partials\(x\)\['w'\] is a str; give a tensor"),
    ({"w": True}, r"partials\(x\)\['w'\] is a bool; give a tensor"),
    ({"w": torch.ones(3) > 0}, r"partials\(x\)\['w'\] is of torch.strided and torch.bool on cpu"),
    ({"w": torch.ones(3).to_sparse()}, r"partials\(x\)\['w'\] is of torch.sparse_coo and torch.f"),
    ({"w": torch.ones(3, device="meta")}, r"partials\(x\)\['w'\] is of .* on meta; give a dense"),
])  # fmt: skip
def test_a_faulty_partial_is_named(partials: Any, message: str) -> None:
    model: Any = Given(partials)
    with pytest.raises(ValueError, match=f"^{message}"):
        manual_gradient(model, torch.ones(3), torch.ones(3))


@pytest.mark.parametrize("constant", [2, 2.0, np.float32(2), torch.tensor(2), torch.tensor(2.0)])
def test_a_constant_stands_for_every_sample(constant: Any, device: str) -> None:
    constants: Any = Given({"w": constant}).to(device, torch.float64)
    spelled: Any = Given({"w": torch.full((3,), 2.0, dtype=torch.float64, device=device)})
    spelled = spelled.to(device, torch.float64)
    x, y = torch.randn(2, 3, dtype=torch.float64).to(device)
    assert same_bits(manual_gradient(constants, x, y).cpu(), manual_gradient(spelled, x, y).cpu())
    assert same_bits(constants.w.grad.cpu(), spelled.w.grad.cpu())
    assert constants.w.grad.dtype == torch.float64


def test_a_parameter_without_a_part_in_the_prediction_is_named() -> None:
    model: Any = Given({})
    model.v = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^parameter 'v' has no part in forward\(x\)"):
        autograd_gradient(model, torch.ones(3), torch.ones(3))


def test_data_with_a_graph_are_refused_by_autograd_alone() -> None:
    """It would go through their graph, and at the second time there is none any more."""
    x = torch.ones(3) * torch.tensor(2.0, requires_grad=True)
    for data in ((x, torch.ones(3)), (torch.ones(3), x)):
        manual_gradient(Linear(), *data)
        with pytest.raises(ValueError, match="^x or y is part of a graph, through which autograd"):
            autograd_gradient(Linear(), *data)


def test_a_partial_that_is_nan_is_no_sign_of_a_curve() -> None:
    """It stays the same, to the bit, whatever the weights are."""
    x = torch.tensor([1.0, math.inf, math.nan])
    assert is_linear_in_parameters(Given({"w": x}), torch.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 4096, 4097, 8191, 8192])
def test_few_samples_are_never_more_than_4096(count: int) -> None:
    assert 0 < len(few(torch.ones(count))) <= 4096
