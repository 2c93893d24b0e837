"""Φ, the rates, and the landscape's heights and shape: against formulas, autograd and descents."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CERTIFIED, MODELS, Exponential, same_bits, stacked
from torch import Tensor
from torch.func import functional_call

from torchgd import Batches, Linear, Model, Quadratic
from torchgd.data import Standardization
from torchgd.experiment.sources import FILES, load
from torchgd.theory import linear
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.landscape import Landscape

F64 = torch.float64
EPS = torch.finfo(F64).eps
WITH_EXPONENTIAL = {**MODELS, "exponential": Exponential}


def each(models: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", models.values(), ids=models)


def lesson() -> Batches:
    data = load("lesson")
    return Batches(data.x, data.y)


def certified(name: str) -> tuple[dict[str, Any], Model]:
    facts = CERTIFIED[name]
    quadratic = facts["model"] == "quadratic"
    return facts, Quadratic() if quadratic else Linear(bias=facts["bias"])


def noisy(size: int) -> Batches:
    """Four samples that no model here fits, so that the batches disagree on the minimiser."""
    x = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=F64)
    return Batches(x, 2 * x + torch.tensor([0.1, -0.3, 0.2, 0.4], dtype=F64), size)


def by_autograd(model: Model, x: Tensor, y: Tensor, w: Tensor, order: int) -> Tensor:
    names = [name for name, _ in model.named_parameters()]

    def loss(w: Tensor) -> Tensor:
        found = functional_call(model, dict(zip(names, w.unbind(), strict=True)), (x,))
        return ((found - y) ** 2).mean()

    if order == 1:
        return torch.autograd.functional.jacobian(loss, w)  # type: ignore[no-untyped-call]
    return torch.autograd.functional.hessian(loss, w)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("name", "standardise"),
    [(name, False) for name in FILES]
    + [(name, True) for name in ("norris", "pontius", "cars", "co2")],
)
def test_full_batch_rates_are_the_certified_ones(name: str, standardise: bool) -> None:
    (facts, model), data = certified(name), load(name)
    limits = facts["full_batch_standardised" if standardise else "full_batch_raw"]
    x = Standardization.of(data.x)(data.x) if standardise else data.x
    found = Landscape(model, Batches(x, data.y, len(x)))
    assert found.safe_learning_rate() == pytest.approx(limits["opt_lr_mse"], rel=1e-12)
    known = found.rates()
    ((low, high),) = known.stable
    assert (low, high) == pytest.approx((0, limits["max_lr_mse"]), rel=3e-9)
    if known.best is None:  # an epoch leaves all of an error but 10⁻⁹
        assert found.contraction(limits["opt_lr_mse"]) > 1 - 2e-9
    else:
        low, high = known.best
        assert low * (1 - 1e-9) <= limits["opt_lr_mse"] <= high * (1 + 1e-9)
        assert found.contraction(high) - found.contraction(limits["opt_lr_mse"]) < 2e-9


def test_the_lesson_contracts_by_its_factor() -> None:
    found = Landscape(Linear(), lesson())
    factor = (1 - 0.02) * (1 - 0.08) * (1 - 0.18)
    assert found.contraction(0.01) == pytest.approx(factor, rel=1e-15)
    assert found.contraction(1e200) == math.inf
    assert not found.stable(1e200)


@pytest.mark.parametrize("name", FILES)
def test_the_minimiser_is_the_certified_one(name: str) -> None:
    """On raw data: columns of one length have a condition number below 10⁴, which takes 4 of 16."""
    (facts, model), data = certified(name), load(name)
    found = Landscape(model, Batches(data.x, data.y))
    for name, w in zip(found.names, found.minimiser, strict=True):
        assert w.item() == pytest.approx(float(facts["exact_30_digits"][name]), rel=1e-12)
    assert found.minimum == pytest.approx(float(facts["mean_squared_error"]), rel=1e-9)


def test_of_many_minimisers_it_is_one() -> None:
    x, y = torch.tensor([2.0, 2.0], dtype=F64), torch.tensor([1.0, 3.0], dtype=F64)
    w2, w1, b = Landscape(Quadratic(), Batches(x, y)).minimiser.tolist()
    assert 4 * w2 + 2 * w1 + b == pytest.approx(2, rel=1e-14)
    assert Landscape(Linear(), Batches(0 * x, y)).minimiser.tolist() == [0]


@pytest.mark.parametrize(("power", "rank"), [(-46, 1), (-38, 2)])
def test_the_rank_is_numpys_of_columns_of_one_length(power: int, rank: int) -> None:
    """N·ε of the largest singular value is rounding: x that differ by less determine no line."""
    x = 1 + torch.arange(1000, dtype=F64) % 2 * 2.0**power
    found = Landscape(Linear(bias=True), Batches(x, 2 * x, 1000))
    columns = torch.stack([x, torch.ones_like(x)], dim=1)
    columns /= columns.norm(dim=0)
    assert found.rank == np.linalg.matrix_rank(columns.numpy()) == rank
    assert found.unique is (rank == 2)


@pytest.mark.parametrize("size", [1, 2])
def test_a_direction_that_the_data_leave_open_is_stable_though_it_is_rounded(size: int) -> None:
    """Along two of three its factor is 1, which eigenvalues have to the last bit only at times."""
    x, y = torch.tensor([[2.0, 2.0], [1.0, 3.0]], dtype=F64)
    found = Landscape(Quadratic(), Batches(x, y, size))
    assert all(found.stable(lr) for lr in torch.linspace(0.001, 0.04, 40, dtype=F64).tolist())


OPTIONS: list[dict[str, Any]] = [
    {}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.5}, {"weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.3, "nesterov": True},
    {"dampening": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_safe_rate_for_batches_enlarges_no_error(size: int) -> None:
    data, model = load("norris"), Linear(bias=True)
    batches = Batches(data.x, data.y, size)
    found = Landscape(model, batches)
    factors = 1 - found.safe_learning_rate() * torch.linalg.eigvalsh(found.hessians)
    assert factors.abs().max().item() <= 1 + 1e-12
    assert factors.min().item() < -0.99


SINGULAR = "the Hessian is singular: the data determine {} parameters, so"
BEYOND = "the data are beyond float64: x or y is too large or too small; scale it"


@pytest.mark.parametrize(("model", "x", "message"), [
    (Quadratic(), [1.0], SINGULAR.format("1 of 3")),
    (Quadratic(), [1.0, 1.0, 2.0], SINGULAR.format("2 of 3")),
    (Linear(bias=True), [3.0, 3.0], SINGULAR.format("1 of 2")),
    (Linear(), [0.0, 0.0], SINGULAR.format("0 of 1")),
    (Quadratic(), [1e200, 1.0, 2.0], BEYOND),
    (Linear(), [1e160, 1e160], BEYOND),
    (Linear(), [1e154, *[0.0] * 99], "a Hessian is not finite: x is too large for its powers"),
    (Linear(), [1e-200, 1e-200], "the Hessian is beyond float64: x is too small for its powers"),
    (Exponential(), [1.0, 2.0, 3.0], "Exponential is not linear in its parameters: its Hessian "
     "changes from step to step; choose the learning rate yourself$"),
])  # fmt: skip
def test_no_safe_rate(model: Model, x: list[float], message: str) -> None:
    values = torch.tensor(x, dtype=F64)
    size = 1 if len(x) > 3 else len(x)
    with pytest.raises(ValueError, match=f"^{message}"):
        Landscape(model, Batches(values, values, size)).safe_learning_rate()


@each(MODELS)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_hessians_and_the_slope_at_the_minimiser_are_autograds(make: Any, size: int) -> None:
    """Numbers below 10³, sums of 4, each rounded some ten times."""
    model, batches = make(dtype=F64), noisy(size)
    found = Landscape(make(dtype=F64), batches)
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
    found, x = Landscape(Exponential(dtype=F64), batches), batches.x
    a, k = found.minimiser
    e, r = (k * x).exp(), a * (k * x).exp() - batches.y
    mixed = (a * x * e**2 + r * x * e).mean()
    H = [[(e**2).mean(), mixed], [mixed, (a**2 * x**2 * e**2 + r * a * x**2 * e).mean()]]
    torch.testing.assert_close(found.hessian, 2 * torch.tensor(H, dtype=F64), rtol=1e-13, atol=0)
    slope = 2 * torch.stack([(r * e).mean(), (r * a * x * e).mean()])
    assert slope.abs().max().item() < 1e-6


def test_the_excess_keeps_its_digits_near_the_minimum() -> None:
    """(14/3)(w − 2)² at w = 2 + 2⁻⁴⁰. Of hubble's two losses the difference is 0."""
    found = Landscape(Linear(dtype=F64), lesson())
    near = torch.tensor([[2 + 2.0**-40]], dtype=F64)
    assert found.excess(near).item() == pytest.approx(14 / 3 * 2.0**-80, rel=1e-14, abs=0)
    data = load("hubble")
    hubble = Landscape(Linear(dtype=F64), Batches(data.x, data.y))
    near = hubble.minimiser[None] * (1 + 2.0**-40)
    expected = data.x.square().mean().item() * (near - hubble.minimiser).item() ** 2
    assert hubble.excess(near).item() == pytest.approx(expected, rel=1e-13, abs=0)
    assert torch.equal(hubble.loss(near), hubble.loss(hubble.minimiser[None]))


@each(WITH_EXPONENTIAL)
def test_heights_are_losses(make: Any) -> None:
    batches = noisy(3)
    found = Landscape(make(dtype=F64), batches)
    assert found.linear == (make is not Exponential)
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
    found = Landscape(Exponential(dtype=F64), batches)
    assert not found.linear
    assert found.minimiser.tolist() == pytest.approx([1.5, 0.4], abs=1e-7)
    assert found.minimum < 1e-14
    assert found.contraction(0.01) < 1 < found.contraction(0.1)


def test_the_lowest_point_given_is_searched_from() -> None:
    """From k = 40 the loss is beyond float64 and flat; one usable point is enough."""
    batches = noisy(4)
    near = torch.tensor([[1.0, 400.0], [0.0, 400.0], [1.0, 0.1]], dtype=F64)  # 0·∞ is NaN
    expected = Landscape(Exponential(dtype=F64), batches, near[2:])
    for one in near[:2]:
        found = Landscape(Exponential(dtype=F64), batches, torch.stack([one, near[2]]))
        assert found.minimiser.tolist() == expected.minimiser.tolist()


def test_no_excess_is_below_0_where_the_search_ends_above_the_minimum() -> None:
    found = Landscape(Exponential(dtype=F64), noisy(4))
    there = found.minimiser[None]
    assert found.excess(there).item() == 0
    found.minimum += 1
    assert found.excess(there).item() == 0


def test_for_ascent_no_stable_rate_is_looked_for_and_it_grows() -> None:
    found = Landscape(Linear(dtype=F64), noisy(4))
    H = found.hessian.item()
    for decay in (0.0, 2 * H):  # the second would bend the loss upward again
        assert found.rates(maximize=True, weight_decay=decay).stable == []
    assert found.contraction(0.01, maximize=True) == pytest.approx(1 + 0.01 * H, rel=1e-14)
    assert found.rates().stable[0] == pytest.approx((0, 2 / H), rel=1e-8)


@each(WITH_EXPONENTIAL)
def test_a_device_has_the_cpus_landscape(make: Any, device: str) -> None:
    """The data are brought to the CPU, so that all bits of the landscape are the same."""
    here = noisy(3)
    there = Batches(here.x.to(device), here.y.to(device), 3)
    expected = Landscape(make(dtype=F64), here)
    found = Landscape(make(device=device, dtype=F64), there)
    assert same_bits(found.minimiser, expected.minimiser)
    assert found.minimum == expected.minimum
    assert same_bits(found.hessians, expected.hessians)


@each(MODELS)
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_ends_of_epochs_are_those_of_the_path(make: Any, size: int, options: Any) -> None:
    """In another order of roundings, at a rate that enlarges no error by much: see the path's."""
    batches, model = noisy(size), make(dtype=F64)
    start = torch.stack([w.detach() for w in model.parameters()])
    ends = Landscape(model, batches).epoch_ends(0.004, start, 30, **options)
    path = stacked(affine_trajectory(model, batches, 0.004, 30, record_every=1, **options))
    torch.testing.assert_close(ends, path[:: len(batches)], rtol=1e-12, atol=1e-12)


@each(MODELS)
def test_blocks_and_float32_change_no_digit(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 1000 samples rounds a sum of squares by ε at most."""
    x, noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    batches = Batches(x, 2 * x + noise, 300)
    whole = Landscape(make(dtype=torch.float32), Batches(x.double(), batches.y.double(), 300))
    monkeypatch.setitem(linear.BLOCK, "cpu", 64)
    parts = Landscape(make(dtype=torch.float32), batches)
    torch.testing.assert_close(parts.hessians, whole.hessians, rtol=1000 * EPS, atol=1000 * EPS)
    torch.testing.assert_close(parts.minimiser, whole.minimiser, rtol=1e-12, atol=1e-12)
    w = torch.ones(1, len(whole.names), dtype=F64)
    torch.testing.assert_close(parts.excess(w), whole.excess(w), rtol=1000 * EPS, atol=0)
    torch.testing.assert_close(parts.loss(w), whole.loss(w), rtol=1000 * EPS, atol=0)
