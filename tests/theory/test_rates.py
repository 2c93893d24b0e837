"""The stable rates and the best ones: against polynomials, closed forms and descents."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import stacked
from numpy.polynomial import Polynomial
from torch import Tensor

from torchgd import Batches, Linear, ManualSGD, Quadratic, train
from torchgd.experiment.sources import load
from torchgd.theory.landscape import Landscape
from torchgd.theory.rates import TIE, Rates, contraction, find_rates, in_digits

F64 = torch.float64
LESSON = [2.0, 8.0, 18.0]  # H = 2x² of x = 1, 2, 3
OPTIONS: list[dict[str, Any]] = [
    {}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.5}, {"weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.3, "nesterov": True},
    {"dampening": 0.5},
]  # fmt: skip


def maps_of(hessians: Tensor) -> Tensor:
    """[H −h] of data whose least squares are 0."""
    return torch.nn.functional.pad(hessians, (0, 1))


def of_curvatures(*curvatures: float) -> Tensor:
    return maps_of(torch.tensor(curvatures, dtype=F64)[:, None, None])


def exactly(curvatures: list[float], momentum: float = 0.0) -> list[tuple[float, float]]:
    """Where |T(α)| ≤ 1 + μⁿ, between the real roots of T = ±(1 + μⁿ), T the trace of an epoch.

    So are both eigenvalues of a 2×2 matrix of determinant μⁿ at most 1 in size. Without momentum
    the second is 0 and T = Π(1 − αλ).
    """
    unit = Polynomial([1.0])
    epoch = [[unit, 0 * unit], [0 * unit, unit]]
    for H in curvatures:
        step = [[Polynomial([1.0, -H]), -momentum * unit], [Polynomial([0.0, H]), momentum * unit]]
        epoch = [
            [step[i][0] * epoch[0][j] + step[i][1] * epoch[1][j] for j in (0, 1)] for i in (0, 1)
        ]
    trace, most = epoch[0][0] + epoch[1][1], 1 + momentum ** len(curvatures)
    roots = np.concatenate([(trace - most).roots(), (trace + most).roots()])
    ends = np.sort(roots[abs(roots.imag) < 1e-9].real)
    ends = ends[ends > 1e-9]  # at α = 0 ρ is 1
    pieces = list(zip([0.0, *ends[:-1]], ends, strict=True))
    stable = [(float(a), float(b)) for a, b in pieces if abs(trace((a + b) / 2)) <= most]
    return [(a, b) for a, b in stable if b - a > 1e-6 * b]  # six digits tell its ends apart


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "curvatures", [LESSON, [18.0, 2.0], [1.0], [1.0, 1.1, 1.3, 40.0], [5.0, 1.0, 25.0, 0.2, 125.0]]
)
def test_all_stable_intervals_of_one_weight(curvatures: list[float], momentum: float) -> None:
    """Of the lesson they are two without momentum, and three with momentum 0.9."""
    options = {"momentum": momentum} if momentum else {}
    found = find_rates(of_curvatures(*curvatures), **options)
    expected = exactly(curvatures, momentum)
    assert len(found.stable) == len(expected)
    for interval, exact in zip(found.stable, expected, strict=True):
        assert interval == pytest.approx(exact, rel=1e-8)
    assert found.end == math.inf


def test_the_lesson_has_two_stable_intervals_and_its_best_rate_is_the_smallest_of_three() -> None:
    """ρ = |(1 − 2α)(1 − 8α)(1 − 18α)| is 0 at 1/18, 1/8 and 1/2."""
    found = find_rates(of_curvatures(*LESSON))
    assert str(found) == "stable up to 0.204018, and again from 0.476538 to 0.519014"
    assert found.best is not None
    assert in_digits(found.best) == "0.0555556"


# Between neighbouring 1/λ the logarithm of Π|1 − αλ| is concave, so it has one maximum there.
def test_all_stable_intervals_of_many_samples() -> None:
    """Of hubble's 24 those that are wider than a millionth of their rate."""
    data = load("hubble")
    zeros, steep = torch.sort(1 / (2 * data.x**2)).values.unique(), 2 * data.x**2

    def log(rate: Tensor) -> Tensor:
        return (1 - rate[:, None] * steep).abs().log().sum(dim=1)

    gaps = [torch.linspace(0, 1, 100_001, dtype=F64)[1:-1] * (b - a) + a
            for a, b in pairwise(zeros)]  # fmt: skip
    first = torch.linspace(0, 1, 1001, dtype=F64)[1:-1] * zeros[0]
    last = zeros[-1] * (1 + torch.logspace(-6, 0, 100_000, dtype=F64))
    rates = torch.cat([first, *gaps, last, zeros]).sort().values
    inside = (log(rates) <= 0).int()
    starts = rates[1:][inside.diff() == 1].tolist()
    ends = rates[:-1][inside.diff() == -1].tolist()
    expected = [(a, b) for a, b in zip([0.0, *starts], ends, strict=True) if b - a > 2e-5 * b]
    found = Landscape(Linear(), Batches(data.x, data.y)).rates().stable
    assert len(expected) >= 3
    wide = [(a, b) for a, b in found if b - a > 2e-5 * b]
    assert len(wide) == len(expected)
    for interval, exact in zip(wide, expected, strict=True):
        assert interval == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("make", "size"), [(Linear, 1), (Linear, 3), (Quadratic, 1), (Quadratic, 2)]
)
def test_descents_shrink_within_each_interval_and_grow_beside_it(
    make: Any, size: int, options: Any
) -> None:
    """Runs of ManualSGD itself, near each end, on y = 0 so that w should shrink."""
    batches = Batches(load("lesson").x, torch.zeros(3, dtype=F64), size)
    known = Landscape(make(), batches).rates(**options)

    def growth(lr: float) -> float:
        model = make(dtype=F64)
        with torch.no_grad():
            for w in model.parameters():
                w.fill_(1.0)
        optimizer = ManualSGD(model.parameters(), lr=lr, **options)
        t = train(model, batches, optimizer, epochs=200)
        w = stacked(t).abs().amax(dim=1)
        # An interval of large rates is left by growth in an epoch: we look at the epochs' ends.
        ends = w[:: len(batches)]
        return (ends[-1] / ends[len(ends) // 2]).item() if t.stopped == "finished" else math.inf

    for low, high in known.stable:
        margin = min(0.01 * high, 0.2 * (high - low))
        assert growth(high - margin) < 1 < growth(high + margin)
        if low:
            assert growth(low + margin) < 1 < growth(low - margin)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rows", [1, 4])
def test_above_the_bound_no_rate_is_stable(options: dict[str, Any], rows: int) -> None:
    """2(1 + μ)/((1 − τ)λ), with the least positive λ of any batch: of 40 epochs of 5 batches."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        phi = torch.randn(5, rows, 3, generator=generator, dtype=F64)
        hessians = 2 * phi.mT @ phi / rows
        values = torch.linalg.eigvalsh(hessians) + options.get("weight_decay", 0.0)
        undamped = 1 - options.get("dampening", 0.0) if options.get("momentum") else 1
        least = values[values > 1e-10].min()
        bound = 2 * (1 + options.get("momentum", 0.0)) / (undamped * least)
        rates = bound * torch.logspace(1e-6, 3, 30, dtype=F64)
        assert (contraction(maps_of(hessians), rates, **options) > 1 + TIE).all()


@pytest.mark.parametrize(
    ("curvatures", "options", "rate"),
    [
        # Of 20,000 equal steps |1 − α|²⁰⁰⁰⁰ passes every float soon above α = 2.
        (torch.ones(20_000, dtype=F64), {}, 2),
        # A million steps are composed at once: (1 − α)(1 − 2α) = 1, though 2/λ_max is 1.
        (torch.tensor([1.0, 2.0], dtype=F64).repeat(500_000), {}, 1.5),
        # Dampening above 1 climbs at any rate; of 1 it lets no gradient but the first one in.
        (torch.ones(1, dtype=F64), {"momentum": 0.5, "dampening": 3.0}, None),
        (torch.ones(1, dtype=F64), {"momentum": 0.5, "dampening": 1.0}, math.inf),
        (torch.ones(1, dtype=F64), {"momentum": 1.5}, None),
        # A velocity of 1 that no gradient changes goes on for ever, and a larger one grows.
        (torch.ones(1, dtype=F64), {"momentum": 1.0, "dampening": 1.0}, math.inf),
        (torch.ones(1, dtype=F64), {"momentum": 1.5, "dampening": 1.0}, None),
        # Where there is nothing to learn from, all is stable.
        (torch.zeros(3, dtype=F64), {}, math.inf),
    ],
)
def test_the_first_interval(curvatures: Tensor, options: Any, rate: float | None) -> None:
    """Of one sample a step H = 2x². Of many batches, what is above is not known."""
    x = (curvatures / 2).sqrt()
    found = Landscape(Linear(), Batches(x, x)).rates(**options)
    expected = [] if rate is None else [0, rate]
    assert [end for ends in found.stable for end in ends] == pytest.approx(expected, rel=1e-8)
    assert (found.end < math.inf) == (len(x) > 300)
    assert found.best is None


@pytest.mark.parametrize(("curvature", "decay"), [(0.0, 4.0), (1.0, 1e4 - 1)])
def test_weight_decay_is_a_curvature_too(curvature: float, decay: float) -> None:
    """Also where the data have none, or one so small that its own rates are far above."""
    found = find_rates(of_curvatures(curvature), weight_decay=decay)
    (ends,) = found.stable
    assert ends == pytest.approx((0, 2 / (curvature + decay)), rel=1e-8)
    assert found.best == pytest.approx([1 / (curvature + decay)] * 2, rel=1e-8)


@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.999])
def test_the_best_rates_with_momentum_are_an_interval(momentum: float) -> None:
    """ρ = √μ wherever a step's two eigenvalues are complex: from (1 − √μ)²/λ to (1 + √μ)²/λ."""
    found = find_rates(of_curvatures(28 / 3), momentum=momentum)
    ends = [(1 + sign * math.sqrt(momentum)) ** 2 * 3 / 28 for sign in (-1, 1)]
    assert found.best == pytest.approx(ends, rel=1e-8)


def test_no_rate_is_best_where_a_direction_is_open() -> None:
    """Both samples have one φ = (1, 1): nothing moves w across it, and 2/λ = 2/(2·2)."""
    hessians = torch.full((2, 2, 2), 2.0, dtype=F64)
    found = find_rates(maps_of(hessians))
    assert found.stable[0] == pytest.approx((0, 0.5), rel=1e-9)
    assert (len(found.stable), found.end, found.best) == (1, math.inf, None)


def test_a_bound_too_far_to_scan_is_not_claimed() -> None:
    """x = 10⁻¹⁰ beside x = 1: an epoch is |1 − α||1 − 10⁻²⁰α|, and stable up to about 2."""
    found = find_rates(of_curvatures(1.0, 1e-20))
    assert found.stable[0] == pytest.approx((0, 2), rel=1e-8)
    assert 1e15 < found.end < 2e20
    assert str(found) == f"stable up to 2 (above {found.end:.6g} none is looked for)"


@pytest.mark.parametrize(("stable", "text"), [
    ([], "not stable"), ([(0, math.inf)], "all stable"), ([(0, 0.5)], "stable up to 0.5"),
    ([(1, 2)], "stable from 1 to 2"),
    ([(0, 1), (2, 3), (4, 5)], "stable up to 1, and again from 2 to 3 and from 4 to 5"),
    ([(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)],
     "stable up to 1, and again from 2 to 3 and from 4 to 5, and in 2 more intervals, the last up "
     "to 9"),
])  # fmt: skip
def test_how_intervals_are_said(stable: list[tuple[float, float]], text: str) -> None:
    assert str(Rates(stable)) == text


@pytest.mark.parametrize(("interval", "text"), [
    ((0.12345649, 0.12345651), "0.12346"), ((1 / 18, 1 / 18), "0.0555556"),
    ((0.134221, 0.134229), "0.1342"), ((0.000282, 0.4068), "from 0.000282 to 0.4068"),
])  # fmt: skip
def test_a_rate_is_said_to_the_digits_that_are_known(
    interval: tuple[float, float], text: str
) -> None:
    assert in_digits(interval) == text
