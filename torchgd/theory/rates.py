"""At which learning rates an epoch of descent shrinks the error, and at which it does so most.

An epoch multiplies the error, the difference of w from where the epochs lead, by M(α), the product
of its steps' matrices (see `theory.affine`): of I − αH without momentum. Each is a polynomial in α,
and ρ, the largest |eigenvalue| of M, is the factor of an epoch in the end. A rate is stable if
ρ ≤ 1. Such rates need not be one interval: of one weight ρ = |(1 − αλ₁)(1 − αλ₂)…| is 0 at each
1/λ, however large its other factors are there.

A bound. Let H be a batch's Hessian, with the weight decay added, and α so large that αH(1 − τ) has
no eigenvalue within (0, 2(1 + μ)). By SGD's rule with the momentum μ and the dampening τ

    w_t+1 = Bw_t − μw_t−1        B = (1 + μ)I − α(1 − τ)H        |Bw| ≥ (1 + μ)|w|

for each eigenvalue of B is at least 1 + μ or at most −(1 + μ). So |w_t+1| − |w_t| is at least
μ(|w_t| − |w_t−1|): what grows at first never shrinks. With Nesterov's rule w_t + μu_t takes the
place of w_t, and B = (1 + μ)(I − αH). So above 2(1 + μ)/((1 − τ)λ), where λ is the least positive
eigenvalue of any batch, no rate is stable.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchgd.theory.affine import compose, step_maps

Interval = tuple[float, float]
TIE = 1e-9  # factors that differ by less are taken for equal
RATIO = 1.01  # of two rates that follow each other in the scan
POINTS = 4000  # rates in a scan, up to RATIO**POINTS = 2e17 times its first one
MOST = 300  # numbers in the matrices of an epoch's steps; of more a scan takes seconds
HIGH = 1e4  # ρ: a minimum between two rates of the scan, where both are above, is not looked at
GOLDEN = (math.sqrt(5) - 1) / 2
SIZE = 10**6  # numbers in memory at a time


@dataclass(frozen=True)
class Rates:
    """The `stable` learning rates, in intervals, and the `best` ones, where ρ is least.

    No other rate up to `end` is stable, but for what a scan does not see: of two intervals, or two
    gaps, less than a hundredth of their rate apart it may see one, and none that is narrower than
    about a millionth. The ends are known to nine digits where ρ passes 1 at a slope; where it only
    touches 1, a factor up to 1 + 10⁻⁹ is taken for 1. `best` is the interval of the smallest rates
    where ρ is least, to 10⁻⁹; None if it is not known or if no rate shrinks all errors.
    """

    stable: list[Interval]
    end: float = math.inf
    best: Interval | None = None

    def __str__(self) -> str:
        """Say what rates are: stable in the first three intervals, and in how many more."""
        if not self.stable:
            return "not stable"
        (low, high), *others = self.stable
        if high == math.inf:
            return "all stable"
        first = f"up to {high:.6g}" if low == 0 else f"from {low:.6g} to {high:.6g}"
        named = [f"from {low:.6g} to {high:.6g}" for low, high in others[:2]]
        again = ", and again " * bool(named) + " and ".join(named)
        more = f", and in {len(others) - 2} more intervals, the last up to {self.stable[-1][1]:.6g}"
        unseen = f" (above {self.end:.6g} none is looked for)" * (self.end < math.inf)
        return f"stable {first}{again}{more * (len(others) > 2)}{unseen}"


def in_digits(interval: Interval) -> str:
    """Write the interval as one number, in the three to six digits that its ends share, or two."""
    low, high = interval
    for digits in (6, 5, 4, 3):
        if f"{low:.{digits}g}" == f"{high:.{digits}g}":
            return f"{low:.{digits}g}"
    return f"from {low:.4g} to {high:.4g}"


def contraction(maps: Tensor, rates: Tensor, **options: Any) -> Tensor:
    """ρ at each of the rates (G,), of the gradients [H −h] (n, P, P + 1); ∞ beyond float64."""
    found = []
    for some in rates.split(max(1, SIZE // maps.numel())):
        epoch = compose(step_maps(maps[:, None], some[:, None, None], **options))[..., :-1]
        finite = epoch.isfinite().flatten(1).all(dim=1)
        eigenvalues = torch.linalg.eigvals(epoch.where(finite[:, None, None], 0.0))
        found.append(eigenvalues.abs().amax(dim=1).where(finite, torch.inf))
    return torch.cat(found)


def find_rates(maps: Tensor, **options: Any) -> Rates:
    """Return the rates of an epoch with the gradients [H −h] (n, P, P + 1) and SGD's options.

    Of more than 300 batches of one weight, 75 of two, 33 of three, or a quarter of that with
    momentum, it looks for the first interval alone. For maximize it looks for none.
    """
    momentum = options.get("momentum", 0.0)
    undamped = 1 - options.get("dampening", 0.0) if momentum else 1.0
    curvatures = torch.linalg.eigvalsh(maps[..., :-1]) + options.get("weight_decay", 0.0)
    rounding = 8 * maps.shape[1] * torch.finfo(maps.dtype).eps
    known = curvatures.abs() > rounding * curvatures.abs().amax(dim=1, keepdim=True)
    positive = curvatures[known & (curvatures > 0)]
    if options.get("maximize") or undamped < 0 or (known.any() and not len(positive)):
        return Rates([])
    if len(positive) == 0 or undamped == 0:  # no rate moves w, but for the momentum it has
        return Rates([(0.0, math.inf)] if momentum <= 1 else [])

    def rho(rates: Tensor) -> Tensor:
        return contraction(maps, rates, **options)

    steepest = undamped * positive.max().item()
    if len(maps) * (maps.shape[1] * (2 if momentum else 1)) ** 2 > MOST:
        return first_interval(rho, (0.01 if momentum else 2.0) / steepest)
    # Of one weight, and equal batches, ρ is least from (1 − √μ)²/λ to (1 + √μ)²/λ.
    low = 0.01 * max((1 - math.sqrt(momentum)) ** 2, 1e-12) / steepest
    bound = 2 * (1 + momentum) / (undamped * positive.min().item())
    count = math.ceil(math.log(bound / low) / math.log(RATIO)) + 1
    scanned = low * RATIO ** torch.arange(min(count, POINTS), dtype=maps.dtype)
    rates, factors = with_extremes(rho, scanned)
    stable = below(rho, rates, factors, 1 + TIE)
    least = factors.min().item()
    best = below(rho, rates, factors, least + TIE)[0] if least < 1 - TIE else None
    return Rates(stable, math.inf if count <= POINTS else scanned[-1].item(), best)


def first_interval(rho: Callable[[Tensor], Tensor], start: float) -> Rates:
    """The stable rates from 0 up to the first that is not, by steps of a tenth and bisection."""

    def stable(rate: float) -> bool:
        return rho(torch.tensor([rate], dtype=torch.float64)).item() <= 1 + TIE

    low = start
    while not stable(low):
        low /= 10
        if low < 1e-12 * start:
            return Rates([], start)
    high = 1.1 * low
    while stable(high):
        low, high = high, 1.1 * high
    end = high
    for _ in range(30):  # 0.1 · 2⁻³⁰ < 10⁻¹⁰
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return Rates([(0.0, low)], end)


# A minimum may lie between two rates of the scan, as may a maximum that ends an interval.
def with_extremes(rho: Callable[[Tensor], Tensor], rates: Tensor) -> tuple[Tensor, Tensor]:
    """The rates and their ρ, with those where ρ is least, or largest below 1, among neighbours."""
    factors = rho(rates)
    before, here, after = factors[:-2], factors[1:-1], factors[2:]
    for sign, seen in ((1.0, here <= HIGH), (-1.0, here <= 1 + TIE)):
        # Of equal factors, which differ by rounding, none is an extreme.
        extreme = (sign * (before - here) >= 0) & (sign * (after - here) >= 0)
        extreme &= (sign * (before + after - 2 * here) > TIE) & seen
        (at,) = extreme.nonzero(as_tuple=True)
        a, b = rates[at], rates[at + 2]
        for _ in range(50):  # golden section: 0.618⁵⁰ < 10⁻¹⁰
            x, y = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
            left = sign * rho(x) < sign * rho(y) if len(at) else at > 0
            a, b = a.where(left, x), y.where(left, b)
        rates = torch.cat([rates, (a + b) / 2])
    rates = rates.sort().values
    return rates, rho(rates)


def below(
    rho: Callable[[Tensor], Tensor], rates: Tensor, factors: Tensor, level: float
) -> list[Interval]:
    """The intervals of the rates where ρ is at most the level, their ends bisected."""
    inside = factors <= level
    (at,) = (inside[1:] != inside[:-1]).nonzero(as_tuple=True)
    enters = inside[at + 1]
    into, out = rates[at + 1].where(enters, rates[at]), rates[at].where(enters, rates[at + 1])
    for _ in range(40 if len(at) else 0):  # 0.01 · 2⁻⁴⁰ < 10⁻¹⁴
        middle = (into + out) / 2
        within = rho(middle) <= level
        into, out = middle.where(within, into), out.where(within, middle)
    ends = [0.0] * bool(inside[0]) + into.tolist() + [rates[-1].item()] * bool(inside[-1])
    found = zip(ends[0::2], ends[1::2], strict=True)
    return [(low, high) for low, high in found if high - low > 1e-6 * high or level < 1]
