"""Is a gradient right? Four oracles are asked, none of which knows of another."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

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

    def moved(self, name: str, w: float) -> "Point":
        """Return the point at which the weight `name` is w."""
        return replace(self, weights={**self.weights, name: w})

    def __str__(self) -> str:
        dtype = str(self.x.dtype).removeprefix("torch.")
        values, many = self.weights, f"the mean over {len(self.x)} samples, "
        if len(self.x) == 1:
            values, many = {"x": self.x.item(), "y": self.y.item(), **self.weights}, ""
        return f"{many}{', '.join(f'{name} = {v:g}' for name, v in values.items())} ({dtype})"


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
        by_hand, expected = self.point.x.new_tensor([self.by_hand, self.expected]).cpu()
        return int(ulps(by_hand, expected))


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
    names = list(scalars(model))
    found = list(_symbolic(model))
    for dtype in DTYPES.values():
        copy = deepcopy(model).to(dtype)
        for point in _points(copy, x.flatten().to(dtype), y.flatten().to(dtype)):
            found += _numeric(copy, point)
    return GradientCheck([_worst(found, name, oracle) for name in names for oracle in ORACLES])


def _worst(found: list[Finding], parameter: str, oracle: str) -> Finding:
    """Return the finding of one oracle that speaks most against a parameter's derivative."""
    return max(
        (f for f in found if (f.parameter, f.oracle) == (parameter, oracle)),
        key=lambda f: (f.passed is False, f.error),
        default=Finding(parameter, oracle, None, reason="at no point are loss and gradient finite"),
    )


def _points(model: Model, x: Tensor, y: Tensor) -> Iterator[Point]:
    """Yield the points to look at, on the model's device and in its dtype."""
    weights, generator = scalars(model), torch.Generator().manual_seed(0)

    def random(count: int) -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64).to(x)

    info = torch.finfo(x.dtype)
    tiny, huge = info.tiny ** (1 / 8), info.max ** (1 / 8)
    some = torch.linspace(0, len(x) - 1, min(len(x), 16)).round().long().to(x.device)
    special = x.new_tensor([0.0, 1.0, -1.0, tiny, -tiny, huge, -huge])
    xs = torch.cat([x[some], random(4), special])
    ys = torch.cat([y[some], random(4 + len(special))])
    near = xs.abs() <= 10
    samples = [*zip(xs.split(1), ys.split(1), strict=True), (x, y), (xs[near], ys[near])]
    one = random(len(weights))
    rows = [[w.item() for w in weights.values()], one.tolist(), (-one).tolist()]
    rows += [[value] * len(weights) for value in (0.0, tiny, huge, -huge)]
    for row in rows:
        for sample in samples:
            yield Point(*sample, dict(zip(weights, row, strict=True)))


def _symbolic(model: Model) -> Iterator[Finding]:
    # Here, for sympy takes a second to import, which all who only compare are spared.
    from torchgd.proof.symbols import derive, is_zero, notation

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
        formulas = notation(by_hand), notation(expected)
        yield Finding(name, "symbolic", zero, *formulas, error=float(not zero), reason=reason)


def _numeric(model: Model, point: Point) -> Iterator[Finding]:
    """Yield what the three numeric oracles find at a point, if it is in the model's domain."""
    _, gradient = _gradient(manual_gradient, model, point)
    loss, by_autograd = _gradient(autograd_gradient, model, point)
    if not all(map(math.isfinite, [loss, *by_autograd.values()])):
        return
    for name, by_hand in gradient.items():
        said = {"autograd": (by_autograd[name], _rounding(model, point, name, by_autograd[name]))}
        if point.moderate and point.x.dtype == torch.float64:
            said["finite differences"] = _finite_differences(model, point, name)
            said["gradcheck"] = _gradcheck(model, point, name)
        for oracle, (expected, tolerance) in said.items():
            error = abs(by_hand - expected) / tolerance if tolerance > 0 else math.inf
            error = math.inf if math.isnan(error) else error
            yield Finding(name, oracle, error <= 1, by_hand, expected, error, point)


def _gradient(source: GradientSource, model: Model, point: Point) -> tuple[float, dict[str, float]]:
    """Return the loss at a point, and ∂loss/∂w by name."""
    loss = source(_placed(model, point), point.x, point.y)
    gradients = {n: w.grad.item() for n, w in model.named_parameters() if w.grad is not None}
    return loss.item(), gradients


@torch.no_grad()
def _placed(model: Model, point: Point) -> Model:
    """Return the model, with the point's weights."""
    for name, w in model.named_parameters():
        w.fill_(point.weights[name])
    return model


@torch.no_grad()
def _rounding(model: Model, point: Point, name: str, expected: float) -> float:
    """Return what rounding may make of ∂loss/∂`name`, taken in two ways."""
    info = torch.finfo(point.x.dtype)
    _, derivative = mean_squared_error_and_derivative(_placed(model, point)(point.x), point.y)
    size = (derivative * model.partials(point.x)[name]).abs().sum().item() + abs(expected)
    return MOST_ULPS * info.eps * size + info.tiny


def _finite_differences(model: Model, point: Point, name: str) -> tuple[float, float]:
    """Return D(h) and its tolerance."""
    info = torch.finfo(point.x.dtype)
    h = info.eps ** (1 / 3) * max(1.0, abs(point.weights[name]))
    near, size = _central_difference(model, point, name, h)
    far, _ = _central_difference(model, point, name, 2 * h)
    return near, abs(far - near) + 100 * info.eps * size / h + info.tiny


@torch.no_grad()
def _central_difference(model: Model, point: Point, name: str, h: float) -> tuple[float, float]:
    """Return D(h) = (L(w + h) − L(w − h))/2h, and the larger mean of ŷ² + y² of the two."""
    losses, sizes = [], []
    for w in (point.weights[name] + h, point.weights[name] - h):
        prediction = _placed(model, point.moved(name, w))(point.x)
        losses.append(mean_squared_error(prediction, point.y).item())
        sizes.append((prediction**2 + point.y**2).mean().item())
    return (losses[0] - losses[1]) / (2 * h), max(sizes)


def _gradcheck(model: Model, point: Point, name: str) -> tuple[float, float]:
    """Return D(STEP) and gradcheck's tolerance, which is 0 where gradcheck says no."""

    # L + (w − w)·∂loss/∂w, the second w held: the loss, with the gradient by hand for its slope.
    def by_hand(w: Tensor) -> Tensor:
        loss, gradient = _gradient(manual_gradient, model, point.moved(name, w.item()))
        return loss + (w - w.detach()) * gradient[name]

    w = point.x.new_tensor(point.weights[name], requires_grad=True)
    agrees = gradcheck(by_hand, w, eps=STEP, atol=ATOL, rtol=RTOL, raise_exception=False)
    expected, _ = _central_difference(model, point, name, STEP)
    return expected, ATOL + RTOL * abs(expected) if agrees else 0.0
