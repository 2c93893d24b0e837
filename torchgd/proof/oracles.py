"""Is a gradient right? Four oracles, none of which knows of another."""

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck

from torchgd.gradients import GradientSource, autograd_gradient, manual_gradient
from torchgd.loss import mean_squared_error, mean_squared_error_and_derivative, residual
from torchgd.models import DTYPES, Model, scalars
from torchgd.proof.compare import ulps

ORACLES = ("symbolic", "autograd", "finite differences", "gradcheck")
# A right derivative, written otherwise, rounds otherwise, each operation by half a unit. This
# leaves room for a long formula, and is still a part in 10¹³ of float64 and in 10⁴ of float32.
MOST_ULPS = 1024
STEP, ATOL, RTOL = 1e-6, 1e-5, 1e-3  # gradcheck's defaults


@dataclass(frozen=True)
class Point:
    """Where a gradient is taken: samples x and y, of shape (N,), and weights."""

    x: Tensor
    y: Tensor
    weights: dict[str, float]

    @property
    def moderate(self) -> bool:
        """Whether no number is above 10, where the losses around leave digits to subtract."""
        largest = max(self.x.abs().max().item(), self.y.abs().max().item())
        return max(largest, *map(abs, self.weights.values())) <= 10

    def __str__(self) -> str:
        named = {"x": self.x, "y": self.y}
        samples = {n: t.item() if len(t) == 1 else t.tolist() for n, t in named.items()}
        values = {**samples, **self.weights} if len(self.x) == 1 else self.weights
        text = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        many = f"the mean over {len(self.x)} samples, " if len(self.x) > 1 else ""
        return f"{many}{text} ({str(self.x.dtype).removeprefix('torch.')})"


@dataclass(frozen=True)
class Finding:
    """What one oracle says of ∂loss/∂`parameter`, at the worst of the points that it looked at.

    `passed` is None where it could say nothing, for the `reason` given. `by_hand` and `expected`
    are the two values there, `error` is their distance in units of what rounding and truncation
    may make of it, and so at most 1 where it passed. The symbolic oracle has two formulas of
    ∂ŷ/∂`parameter` instead, and no point.
    """

    parameter: str
    oracle: str
    passed: bool | None
    by_hand: float | str = math.nan
    expected: float | str = math.nan
    error: float = 0.0
    point: Point | None = None
    reason: str = ""

    @property
    def ulps(self) -> int | None:
        """How far the two numbers are apart in units in the last place; None of formulas."""
        if self.point is None:
            return None
        pair = (self.point.x.new_tensor([v]).cpu() for v in (self.by_hand, self.expected))
        return int(ulps(*pair)[0])


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradient` found: a row per parameter and oracle. True if it `passed`."""

    rows: list[Finding]

    @property
    def failures(self) -> list[Finding]:
        """The rows in which an oracle says no."""
        return [row for row in self.rows if row.passed is False]

    @property
    def passed(self) -> bool:
        """Whether no oracle says no, and for each parameter at least one says yes."""
        confirmed = {row.parameter for row in self.rows if row.passed}
        return not self.failures and confirmed == {row.parameter for row in self.rows}

    def __bool__(self) -> bool:
        return self.passed


def check_gradient(model: Model, x: Tensor, y: Tensor) -> GradientCheck:
    """Ask four oracles, none of which knows of another, whether `model.partials` is right.

    symbolic: `forward` and `partials` run on symbols; sympy's ∂forward/∂w less the partial
        simplifies to 0. It alone speaks for every x; a model that cannot run on symbols (see
        `proof.symbols.derive`) goes without.
    autograd: the gradient by hand is that of reverse-mode differentiation, in float32 and in
        float64, within MOST_ULPS units in the last place of Σ |∂loss/∂ŷₙ · ∂ŷₙ/∂w|.
    finite differences: D(h) = (L(w + h) − L(w − h))/2h = L′ + (h²/6)·L‴ + …, in float64. Losses
        that are each off by δ make it off by δ/h, so that h ≈ ∛ε · max(1, |w|) makes the two
        errors alike. D(2h) − D(h) = (h²/2)·L‴ is three times the truncation; δ is taken as 100
        roundings of the mean of ŷ² + y². Their sum is the tolerance.
    gradcheck: `torch.autograd.gradcheck` on a function whose backward pass is the gradient by
        hand, with torch's own step and tolerances.

    They look at the samples of x and y (at most 16, and the whole as one batch), at x = 0, ±1,
    ±tiny and ±huge and at random ones, each with the model's weights, with random ones of either
    sign and with 0, tiny and huge. (Huge is the eighth root of the largest number, so that x⁴·w⁴
    is one; tiny its counterpart.) The last two look at no number above 10, beyond which
    subtraction leaves too few digits. Where the loss or autograd's gradient is not finite, a point
    is outside the model's domain and passed over. The model stays as it is.

    Shapes: x and y alike, any, with at least one sample.

    Raises:
        ValueError: x and y differ in shape, or what `scalars` or the two gradients refuse.
    """
    residual(x, y)
    scalars(model)
    found = list(_symbolic(model))
    for dtype in DTYPES.values():
        copy = deepcopy(model).to(dtype)
        for point in _points(copy, x.flatten().to(dtype), y.flatten().to(dtype)):
            found += _numeric(copy, point)
    return GradientCheck([_worst(found, p, o) for p in scalars(model) for o in ORACLES])


def _numeric(model: Model, point: Point) -> Iterator[Finding]:
    """Yield what the three numeric oracles find at a point, if it is in the model's domain."""
    asked: dict[str, Iterable[Values]] = {"autograd": list(_autograd(model, point))}
    with torch.no_grad():
        loss = mean_squared_error(model(point.x), point.y).item()
    if not all(map(math.isfinite, [loss, *(expected for _, _, expected, _ in asked["autograd"])])):
        return
    if point.moderate and point.x.dtype == torch.float64:
        asked["finite differences"] = _finite_differences(model, point)
        asked["gradcheck"] = _gradcheck(model, point)
    for oracle, values in asked.items():
        for name, by_hand, expected, tolerance in values:
            error = abs(by_hand - expected) / tolerance if tolerance > 0 else math.inf
            error = math.inf if math.isnan(error) else error
            yield Finding(name, oracle, error <= 1, by_hand, expected, error, point)


def _worst(found: list[Finding], parameter: str, oracle: str) -> Finding:
    """Return the finding of one oracle that speaks most against a parameter's derivative."""
    return max(
        (f for f in found if (f.parameter, f.oracle) == (parameter, oracle)),
        key=lambda f: (f.passed is False, f.error),
        default=Finding(parameter, oracle, None, reason="at no point are loss and gradient finite"),
    )


def _points(model: Model, x: Tensor, y: Tensor) -> list[Point]:
    """Return the points to look at, on the model's device and in its dtype."""
    names, dtype = list(scalars(model)), x.dtype
    generator = torch.Generator().manual_seed(0)

    def random(count: int) -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64).to(x)

    tiny, huge = torch.finfo(dtype).tiny ** (1 / 8), torch.finfo(dtype).max ** (1 / 8)
    some = torch.linspace(0, len(x) - 1, min(len(x), 16)).round().long().to(x.device)
    special = x.new_tensor([0.0, 1.0, -1.0, tiny, -tiny, huge, -huge])
    xs = torch.cat([x[some], random(4), special])
    ys = torch.cat([y[some], random(4 + len(special))])
    samples = [(xs[n : n + 1], ys[n : n + 1]) for n in range(len(xs))]
    near = xs.abs() <= 10
    batches = [(x, y), (xs[near], ys[near])]
    own = [w.item() for w in scalars(model).values()]
    one = random(len(names))
    rows = [own, one.tolist(), (-one).tolist()]
    rows += [[value] * len(names) for value in (0.0, tiny, huge, -huge)]
    return [
        Point(x, y, dict(zip(names, row, strict=True)))
        for row in rows
        for x, y in samples + batches
    ]


def _place(model: Model, point: Point) -> None:
    """Give the model the point's weights."""
    with torch.no_grad():
        for name, w in model.named_parameters():
            w.fill_(point.weights[name])


def _gradient(source: GradientSource, model: Model, point: Point) -> dict[str, float]:
    """Return ∂loss/∂w by name at a point, and leave the model there."""
    _place(model, point)
    source(model, point.x, point.y)
    return {name: w.grad.item() for name, w in model.named_parameters() if w.grad is not None}


def _symbolic(model: Model) -> Iterator[Finding]:
    from torchgd.proof.symbols import (  # sympy: a second that compare spares
        derive,
        is_zero,
        notation,
    )

    try:
        derivation = derive(model)
    except ValueError as error:
        for name in scalars(model):
            yield Finding(name, "symbolic", None, reason=str(error))
        return
    for name, by_hand in derivation.partials.items():
        expected = derivation.true_partials[name]
        zero = is_zero(by_hand - expected)
        reason = "sympy cannot tell whether the two formulas are one" if zero is None else ""
        texts = notation(by_hand), notation(expected)
        yield Finding(name, "symbolic", zero, *texts, error=float(not zero), reason=reason)


# (parameter, value by hand, value expected, tolerance)
Values = tuple[str, float, float, float]


def _autograd(model: Model, point: Point) -> Iterator[Values]:
    by_hand, expected = (_gradient(s, model, point) for s in (manual_gradient, autograd_gradient))
    info = torch.finfo(point.x.dtype)
    with torch.no_grad():
        _, derivative = mean_squared_error_and_derivative(model(point.x), point.y)
        partials = model.partials(point.x)
    for name, value in by_hand.items():
        size = (derivative * partials[name]).abs().sum().item() + abs(expected[name])
        yield name, value, expected[name], MOST_ULPS * info.eps * size + info.tiny


def _finite_differences(model: Model, point: Point) -> Iterator[Values]:
    info = torch.finfo(point.x.dtype)
    for name, value in _gradient(manual_gradient, model, point).items():
        h = info.eps ** (1 / 3) * max(1.0, abs(point.weights[name]))
        near, size = _central_difference(model, point, name, h)
        far, _ = _central_difference(model, point, name, 2 * h)
        yield name, value, near, abs(far - near) + 100 * info.eps * size / h + info.tiny


@torch.no_grad()
def _central_difference(model: Model, point: Point, name: str, h: float) -> tuple[float, float]:
    """(L(w + h) − L(w − h))/2h, and the larger mean of ŷ² + y² of the two."""
    w = dict(model.named_parameters())[name]
    losses, sizes = [], []
    for value in (point.weights[name] + h, point.weights[name] - h):
        w.fill_(value)
        prediction = model(point.x)
        losses.append(mean_squared_error(prediction, point.y).item())
        sizes.append((prediction**2 + point.y**2).mean().item())
    w.fill_(point.weights[name])
    return (losses[0] - losses[1]) / (2 * h), max(sizes)


class _ByHand(torch.autograd.Function):
    """The loss as a function of the weights whose backward pass is the gradient by hand."""

    @staticmethod
    def forward(ctx: Any, model: Model, point: Point, *weights: Tensor) -> Tensor:
        values = dict(zip(point.weights, (w.item() for w in weights), strict=True))
        gradients = _gradient(manual_gradient, model, replace(point, weights=values))
        ctx.gradients = list(gradients.values())
        return mean_squared_error(model(point.x), point.y)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return None, None, *(upstream * g for g in ctx.gradients)


def _gradcheck(model: Model, point: Point) -> Iterator[Values]:
    for name, value in _gradient(manual_gradient, model, point).items():
        weights = [
            point.x.new_tensor(w, requires_grad=other == name) for other, w in point.weights.items()
        ]
        by_hand: Any = partial(_ByHand.apply, model, point)
        agrees = gradcheck(by_hand, weights, eps=STEP, atol=ATOL, rtol=RTOL, raise_exception=False)
        expected, _ = _central_difference(model, point, name, STEP)
        tolerance = ATOL + RTOL * abs(expected)
        yield name, value, expected, tolerance if agrees else 0.0
