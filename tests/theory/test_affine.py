import math
from typing import Any

import pytest
import torch
from helpers import CERTIFIED, MODELS, Exponential
from torch import Tensor

from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, train
from torchgd.data import FILES, Standardization, load
from torchgd.theory.affine import step_maps
from torchgd.theory.landscape import (
    best_learning_rate,
    compose,
    contraction,
    largest_stable_learning_rate,
    minimiser,
)
from torchgd.theory.linear import hessian, is_linear_in_parameters, jacobians

F64 = torch.float64
EPS = torch.finfo(F64).eps


def hessians(model: Model, batches: Batches) -> Tensor:
    return torch.stack([hessian(phi) for phi in jacobians(model, batches)])


def lesson(size: int) -> Batches:
    data = load("lesson")
    return Batches(data.x, data.y, size)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_built_in_models_are_linear_in_their_parameters(make: Any) -> None:
    assert is_linear_in_parameters(make(), torch.linspace(-2, 2, 5))


def test_an_exponential_is_not() -> None:
    x = torch.linspace(-2, 2, 5)
    assert not is_linear_in_parameters(Exponential(), x)
    with pytest.raises(ValueError, match="^Exponential is not linear in its parameters: its Hess"):
        jacobians(Exponential(), [(x, x)])


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_hessian_is_autograds(make: Any) -> None:
    x = torch.randn(7, dtype=F64, generator=torch.Generator().manual_seed(3))
    model = make(dtype=F64)
    names = [name for name, _ in model.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        return (torch.func.functional_call(model, parameters, x) ** 2).mean()

    point = tuple(w.detach() for w in model.parameters())
    rows = torch.autograd.functional.hessian(loss, point)  # type: ignore[no-untyped-call]
    expected = torch.stack([torch.stack(row) for row in rows])
    # Sums of 7 products below 10², each rounded a few times.
    torch.testing.assert_close(
        hessian(*jacobians(model, [(x, x)])), expected, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize(
    ("name", "standardise"),
    [(name, False) for name in FILES]
    + [(name, True) for name in ("norris", "pontius", "cars", "co2")],
)
def test_full_batch_rates_are_the_certified_ones(name: str, standardise: bool) -> None:
    facts, data = CERTIFIED[name], load(name)
    limits = facts["full_batch_standardised" if standardise else "full_batch_raw"]
    model = Quadratic() if facts["model"] == "quadratic" else Linear(bias=facts["bias"])
    x = Standardization.of(data.x)(data.x) if standardise else data.x
    batches = Batches(x, data.y, len(x))
    assert best_learning_rate(model, batches) == pytest.approx(limits["opt_lr_mse"], rel=1e-12)
    largest = largest_stable_learning_rate(hessians(model, batches))
    assert largest == pytest.approx(limits["max_lr_mse"], rel=3e-9)


def test_the_lessons_largest_stable_rate_is_a_root_of_its_cubic() -> None:
    """(1 − 2α)(1 − 8α)(1 − 18α) = 1 at α = 0.204018: above, an epoch enlarges the error."""
    largest = largest_stable_learning_rate(hessians(Linear(), lesson(1)))
    factor = math.prod(1 - 2 * largest * x * x for x in (1, 2, 3))
    assert factor == pytest.approx(1, abs=1e-7)
    assert largest == pytest.approx(0.204018, abs=5e-7)


@pytest.mark.parametrize("size", [1, None])
@pytest.mark.parametrize("name", FILES)
def test_the_minimiser_is_the_certified_one(name: str, size: int | None) -> None:
    """On raw data: columns of one length have a condition number below 10⁴, which takes 4 of 16."""
    facts, data = CERTIFIED[name], load(name)
    model = Quadratic() if facts["model"] == "quadratic" else Linear(bias=facts["bias"])
    found = minimiser(model, Batches(data.x, data.y, size or len(data.x)))
    for (parameter, _), w in zip(model.named_parameters(), found, strict=True):
        assert w.item() == pytest.approx(float(facts["exact_30_digits"][parameter]), rel=1e-12)


def test_of_many_minimisers_it_is_one() -> None:
    x, y = torch.tensor([2.0, 2.0], dtype=F64), torch.tensor([1.0, 3.0], dtype=F64)
    w2, w1, b = minimiser(Quadratic(), Batches(x, y)).tolist()
    assert 4 * w2 + 2 * w1 + b == pytest.approx(2, rel=1e-14)
    assert minimiser(Linear(), Batches(0 * x, y)).tolist() == [0]


def test_data_beyond_float64_have_no_minimiser() -> None:
    data = torch.tensor([1e200], dtype=F64), torch.tensor([1.0], dtype=F64)
    with pytest.raises(ValueError, match="^the data are beyond float64: x or y is too large"):
        minimiser(Quadratic(), Batches(*data))


def test_the_lesson_contracts_by_its_factor() -> None:
    rho = contraction(hessians(Linear(), lesson(1)), 0.01)
    assert rho == pytest.approx((1 - 0.02) * (1 - 0.08) * (1 - 0.18), rel=1e-15)
    assert contraction(hessians(Linear(), lesson(1)), 1e200) == math.inf


@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.5}, {"weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.3, "nesterov": True},
    {"dampening": 0.5},
])  # fmt: skip
@pytest.mark.parametrize(
    ("make", "size"), [(Linear, 1), (Linear, 3), (Quadratic, 1), (Quadratic, 2)]
)
def test_descent_is_stable_just_below_and_not_above(make: Any, size: int, options: Any) -> None:
    """Runs of ManualSGD itself, 1% below and above the rate, on y = 0 so that w should shrink."""
    batches = Batches(load("lesson").x, torch.zeros(3, dtype=F64), size)
    largest = largest_stable_learning_rate(hessians(make(), batches), **options)

    def growth(lr: float) -> float:
        model = make(dtype=F64)
        with torch.no_grad():
            for w in model.parameters():
                w.fill_(1.0)
        optimizer = ManualSGD(model.parameters(), lr=lr, **options)
        t = train(model, batches, optimizer, epochs=600)
        w = torch.stack(list(t.weights.values())).abs().amax(dim=0)
        return (w[-1] / w[len(w) // 2]).item() if t.stopped == "finished" else math.inf

    assert growth(0.99 * largest) < 1
    assert growth(1.01 * largest) > 1


@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.5}, {"weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True}, {"dampening": 0.5},
])  # fmt: skip
def test_the_step_map_is_what_sgd_does(options: dict[str, Any]) -> None:
    """Differences of two runs from near starts obey w ← M·w, whatever y."""
    batches, lr = lesson(2), 0.01
    runs = []
    for w2 in (1.0, 2.0):
        model = Quadratic(w2=w2, dtype=F64)
        t = train(model, batches, ManualSGD(model.parameters(), lr=lr, **options), epochs=1)
        runs.append(torch.stack(list(t.weights.values()), dim=1))
    difference = runs[1] - runs[0]
    maps = step_maps(hessians(Quadratic(), batches), lr, **options)
    state = torch.cat([difference[0], torch.zeros(len(maps[0]) - 3, dtype=F64)])
    for k, step in enumerate(maps, start=1):
        if k == 1 and options.get("momentum"):  # the first step sets v ← g, undamped
            undamped = {**options, "dampening": 0.0}
            step = step_maps(hessians(Quadratic(), batches), lr, **undamped)[0]
        state = step @ state
        # Weights, and the entries of H, are below 10²; a step takes some ten operations on them.
        torch.testing.assert_close(state[:3], difference[k], rtol=0, atol=2 * 10 * 100 * EPS)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 13])
def test_compose_applies_the_first_map_first(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    maps = torch.randn(count, 2, 2, dtype=F64, generator=generator)
    expected = torch.eye(2, dtype=F64)
    for M in maps:
        expected = M @ expected
    torch.testing.assert_close(compose(maps), expected, rtol=1e-12, atol=1e-12)


def test_a_long_epoch_that_overflows_is_not_stable() -> None:
    """Of 20,000 equal steps |1 − α|²⁰⁰⁰⁰ passes every float soon above α = 2."""
    largest = largest_stable_learning_rate(torch.ones(20_000, 1, 1, dtype=F64))
    assert largest == pytest.approx(2, rel=1e-9)


def test_dampening_above_one_climbs_at_any_rate() -> None:
    hessians = torch.ones(1, 1, 1, dtype=F64)
    assert largest_stable_learning_rate(hessians, momentum=0.5, dampening=3.0) == 0


def test_hessians_that_are_not_finite_have_no_rate() -> None:
    with pytest.raises(ValueError, match="^a Hessian is not finite: x is too large for its powers"):
        largest_stable_learning_rate(torch.full((1, 1, 1), math.inf, dtype=F64))


def test_a_million_steps_an_epoch_are_composed_at_once() -> None:
    """(1 − α)ⁿ(1 − 2α)ⁿ for n = 500,000 is bounded up to α = 1, by the steeper half alone."""
    steps = torch.tensor([1.0, 2.0], dtype=F64).repeat(500_000)[:, None, None]
    largest = largest_stable_learning_rate(steps)
    assert 1 < largest < 2
    assert (1 - largest) * (1 - 2 * largest) == pytest.approx(1, rel=1e-6)


def test_nothing_to_learn_from_is_always_stable() -> None:
    assert largest_stable_learning_rate(torch.zeros(3, 1, 1, dtype=F64)) == math.inf


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_best_rate_for_batches_enlarges_no_error(size: int) -> None:
    data = load("norris")
    batches = Batches(data.x, data.y, size)
    model = Linear(bias=True)
    lr = best_learning_rate(model, batches)
    factors = 1 - lr * torch.linalg.eigvalsh(hessians(model, batches))
    assert factors.abs().max().item() <= 1 + 1e-12
    assert factors.min().item() < -0.99


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (Quadratic(), [1.0], "the Hessian is singular: the data determine 1 of 3 parameters, so"),
        (
            Quadratic(),
            [1.0, 1.0, 2.0],
            "the Hessian is singular: the data determine 2 of 3 parameters, so",
        ),
        (
            Linear(bias=True),
            [3.0, 3.0],
            "the Hessian is singular: the data determine 1 of 2 parameters, so",
        ),
        (Linear(), [0.0, 0.0], "the Hessian is singular: the data determine 0 of 1 parameters, so"),
        (
            Quadratic(),
            [1e200, 1.0, 2.0],
            "the Hessian is beyond float64: x is too large or too small",
        ),
        (Linear(), [1e160, 1e160], "the Hessian is beyond float64: x is too large or too small"),
        (Linear(), [1e-200, 1e-200], "the Hessian is beyond float64: x is too large or too small"),
        (Exponential(), [1.0, 2.0, 3.0], "Exponential is not linear in its parameters: its Hess"),
    ],
)
def test_no_best_rate(model: Model, x: list[float], message: str) -> None:
    values = torch.tensor(x, dtype=F64)
    with pytest.raises(ValueError, match=f"^{message}"):
        best_learning_rate(model, Batches(values, values, len(x)))
