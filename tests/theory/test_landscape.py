"""The landscape's heights and shape against formulas, autograd and trained descents."""

from typing import Any

import pytest
import torch
from helpers import CERTIFIED, MODELS, Exponential, same_bits
from torch import Tensor
from torch.func import functional_call

from torchgd import Batches, Linear, Model, Quadratic
from torchgd.data import load
from torchgd.theory.landscape import Landscape

F64 = torch.float64
EPS = torch.finfo(F64).eps


def noisy(size: int) -> Batches:
    """Four samples that no model here fits, so that the batches disagree on the minimiser."""
    x = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=F64)
    return Batches(x, 2 * x + torch.tensor([0.1, -0.3, 0.2, 0.4], dtype=F64), size)


def start(model: Model) -> Tensor:
    return torch.stack([w.detach().double() for w in model.parameters()])


def landscape(model: Model, batches: Batches) -> Landscape:
    return Landscape(model, batches, start(model)[None])


def by_autograd(model: Model, x: Tensor, y: Tensor, w: Tensor, order: int) -> Tensor:
    names = [name for name, _ in model.named_parameters()]

    def loss(w: Tensor) -> Tensor:
        found = functional_call(model, dict(zip(names, w.unbind(), strict=True)), (x,))
        return ((found - y) ** 2).mean()

    if order == 1:
        return torch.autograd.functional.jacobian(loss, w)  # type: ignore[no-untyped-call]
    return torch.autograd.functional.hessian(loss, w)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_hessians_and_the_slope_at_the_minimiser_are_autograds(make: Any, size: int) -> None:
    """Numbers below 10³, sums of 4, each rounded some ten times."""
    model, batches = make(dtype=F64), noisy(size)
    found = landscape(make(dtype=F64), batches)
    w, close = found.minimiser, dict[str, Any](rtol=0.0, atol=40 * 1e3 * EPS)
    for (x, y), H in zip(batches, found.hessians, strict=True):
        torch.testing.assert_close(H, by_autograd(model, x, y, w, 2), **close)
    whole = by_autograd(model, batches.x, batches.y, w, 2)
    torch.testing.assert_close(found.hessian, whole, **close)
    flat = by_autograd(model, batches.x, batches.y, w, 1)
    torch.testing.assert_close(flat, torch.zeros_like(w), **close)


def test_a_curved_models_shape_is_its_formulas() -> None:
    """With p = a·exp(kx): H = 2·mean(∂ᵢp·∂ⱼp + (p − y)·∂ᵢⱼp). The search ends where the loss no
    longer falls, so that the slope there is about the root of rounding.
    """
    batches = noisy(4)
    found, x = landscape(Exponential(dtype=F64), batches), batches.x
    a, k = found.minimiser
    e, r = (k * x).exp(), a * (k * x).exp() - batches.y
    mixed = (a * x * e**2 + r * x * e).mean()
    H = [[(e**2).mean(), mixed], [mixed, (a**2 * x**2 * e**2 + r * a * x**2 * e).mean()]]
    torch.testing.assert_close(found.hessian, 2 * torch.tensor(H, dtype=F64), rtol=1e-13, atol=0)
    slope = 2 * torch.stack([(r * e).mean(), (r * a * x * e).mean()])
    assert slope.abs().max().item() < 1e-6


def test_the_excess_keeps_its_digits_near_the_minimum() -> None:
    """(14/3)(w − 2)² at w = 2 + 2⁻⁴⁰: of hubble's two losses the difference is 0."""
    lesson = landscape(Linear(dtype=F64), Batches(load("lesson").x, load("lesson").y))
    near = torch.tensor([[2 + 2.0**-40]], dtype=F64)
    assert lesson.excess(near).item() == pytest.approx(14 / 3 * 2.0**-80, rel=1e-14, abs=0)
    data = load("hubble")
    hubble = landscape(Linear(dtype=F64), Batches(data.x, data.y))
    near = hubble.minimiser[None] * (1 + 2.0**-40)
    expected = data.x.square().mean().item() * (near - hubble.minimiser).item() ** 2
    assert hubble.excess(near).item() == pytest.approx(expected, rel=1e-13, abs=0)
    assert hubble.loss(near).item() == hubble.minimum


@pytest.mark.parametrize("make", [*MODELS.values(), Exponential], ids=[*MODELS, "exponential"])
def test_heights_are_losses(make: Any) -> None:
    batches = noisy(3)
    found = landscape(make(dtype=F64), batches)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, len(found.names), dtype=F64, generator=generator)
    for w, loss, excess in zip(weights, found.loss(weights), found.excess(weights), strict=True):
        expected = ((found.predict(w, batches.x) - batches.y) ** 2).mean()
        assert loss.item() == expected.item()
        assert found.minimum + excess.item() == pytest.approx(expected.item(), rel=1e-12)
    x, y = next(iter(batches))
    one = found.loss(weights[:1], batch=0).item()
    assert one == ((found.predict(weights[0], x) - y) ** 2).mean().item()


def test_a_users_model_has_its_minimum_searched() -> None:
    """On data of the model itself the search finds the weights that made them."""
    x = torch.linspace(-1, 2, 7, dtype=F64)
    batches = Batches(x, 1.5 * (0.4 * x).exp(), 7)
    found = landscape(Exponential(dtype=F64), batches)
    assert not found.linear
    assert found.minimiser.tolist() == pytest.approx([1.5, 0.4], abs=1e-7)
    assert found.minimum < 1e-14
    assert found.contraction(0.01) < 1 < found.contraction(0.1)


def test_the_lowest_point_given_is_searched_from() -> None:
    """From k = 40 the loss is beyond float64 and flat; one usable point is enough."""
    batches = noisy(4)
    near = torch.tensor([[1.0, 400.0], [1.0, 0.1]], dtype=F64)
    found = Landscape(Exponential(dtype=F64), batches, near)
    expected = Landscape(Exponential(dtype=F64), batches, near[1:])
    assert found.minimiser.tolist() == expected.minimiser.tolist()


def test_ascent_has_no_stable_rate_and_grows() -> None:
    found = landscape(Linear(dtype=F64), noisy(4))
    assert found.largest_stable_learning_rate(maximize=True) == 0
    H = found.hessian.item()
    assert found.contraction(0.01, maximize=True) == pytest.approx(1 + 0.01 * H, rel=1e-14)
    assert found.largest_stable_learning_rate() == pytest.approx(2 / H, rel=1e-8)


@pytest.mark.parametrize("name", ["norris", "pontius", "cars", "co2"])
def test_minima_are_the_certified_ones(name: str) -> None:
    facts, data = CERTIFIED[name], load(name)
    model = Quadratic() if facts["model"] == "quadratic" else Linear(bias=facts["bias"])
    found = landscape(model, Batches(data.x, data.y, len(data.x)))
    assert found.minimum == pytest.approx(float(facts["mean_squared_error"]), rel=1e-9)


@pytest.mark.parametrize("make", [*MODELS.values(), Exponential], ids=[*MODELS, "exponential"])
def test_a_device_has_the_cpus_landscape(make: Any, device: str) -> None:
    """It is brought to the CPU, so that all of its bits are the same."""
    here, near = noisy(3), start(make(dtype=F64))[None]
    there = Batches(here.x.to(device), here.y.to(device), 3)
    expected = Landscape(make(dtype=F64), here, near)
    found = Landscape(make(device=device, dtype=F64), there, near)
    assert same_bits(found.minimiser, expected.minimiser)
    assert found.minimum == expected.minimum
    assert same_bits(found.hessians, expected.hessians)


def test_data_beyond_float64_are_refused() -> None:
    x = torch.tensor([1e200, 1.0], dtype=F64)
    with pytest.raises(ValueError, match="^the data are beyond float64"):
        landscape(Quadratic(), Batches(x, x))
