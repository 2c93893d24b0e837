"""Least squares in the data's own units, their standard errors, and how many digits are known."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchgd.experiment.experiment import Experiment
from torchgd.gradients import jacobian
from torchgd.models import DTYPES, rounded
from torchgd.theory.exact import exact_minimum, is_exact
from torchgd.theory.landscape import Landscape
from torchgd.theory.linear import BLOCK
from torchgd.trajectory import Stopped

MOST = {torch.float32: 9, torch.float64: 17}  # digits that tell any two numbers of the type apart
ONE = 1e-9  # of the length of 1, to which it is in a span
SOME_EPS = 4 * torch.finfo(torch.float64).eps  # by which φ·w is rounded, and x and y before it


def answer(experiment: Experiment) -> Tensor | None:
    """Return least squares' parameters, loss and ŷ at `predict_at`, as an interval (2, P + 2).

    Of a line or a parabola, of not too many samples, both ends are the exact numbers, rounded.
    None if no one point is known to be the lowest.
    """
    landscape, data, z = experiment.least_squares, experiment.data, experiment.standardization
    if landscape is None:
        return None
    if not is_exact(landscape.model, data.x):
        return _within_rounding(experiment, landscape)
    given = experiment.batches if z is None else data
    xs, ys = (t.cpu().double() for t in (given.x, given.y))
    found = exact_minimum(landscape.model, xs, ys)
    prediction = found.predict(experiment.predict_at)
    values = [rounded(v) for v in (*found.parameters.values(), found.loss, prediction)]
    return torch.tensor([values, values], dtype=DTYPES[experiment.configuration.dtype])


# Floats round Φ and y by ε of themselves, and so the residual by δ = ε(Σ |φ||w| + |y|), and the
# normal equations Φᵀr = 0 by ε|φ||r|. The minimiser moves by Φ⁺ of the one, (ΦᵀΦ)⁻¹ of the other,
# the minimum by (r + δ)² − r². R stands for Φ, with columns of one length, as in `Landscape`.
def _within_rounding(experiment: Experiment, landscape: Landscape) -> Tensor:
    """Return the interval in which floats leave least squares."""
    w, root, r = landscape.minimiser, landscape.root, landscape.minimum**0.5
    length, inverse = root.norm(dim=0), _inverse(root)
    delta = SOME_EPS * (2 * length @ w.abs() + r).item()
    turned = (inverse @ inverse.mT).abs() @ length * SOME_EPS * r

    def column(w: Tensor) -> Tensor:
        model = experiment.new_model(w)
        loss = torch.tensor(landscape.minimum, dtype=DTYPES[experiment.configuration.dtype])
        parameters = experiment.parameters(model).values()
        return torch.stack([*parameters, loss, experiment.predict(model)])

    best = column(w)
    moved = [column(w + d) - best for d in (inverse.norm(dim=1) * delta + turned).diag()]
    far = torch.stack(moved).abs().sum(dim=0)
    far[-2] = delta * (2 * r + delta)
    far += torch.finfo(best.dtype).eps * best.abs()  # by which the column itself is rounded
    return torch.stack([best - far, best + far])


def _inverse(root: Tensor) -> Tensor:
    """Return R⁻¹, for which R's columns are first brought to one length."""
    length = root.norm(dim=0)
    return torch.linalg.pinv(root / length, rtol=0.0) / length[:, None]


# An error e of y moves the minimiser by Φ⁺e. If the errors have one variance s² and nothing in
# common, its covariance is s²(ΦᵀΦ)⁻¹ = (s²/N)·R⁻¹R⁻ᵀ, where s² = ‖Φw* − y‖²/(N − P): the standard
# errors are the lengths of the rows of (s/√N)·R⁻¹, and of T·R⁻¹ in units that make Tw + t of w.
def standard_errors(experiment: Experiment, landscape: Landscape, minimum: float) -> Tensor | None:
    """Return the standard error of each parameter in the data's own units, (P,).

    None where there are no more samples than parameters.
    """
    free = len(landscape.x) - len(landscape.names)
    if free <= 0:
        return None

    def in_units(w: Tensor) -> Tensor:
        return torch.stack([*experiment.parameters(experiment.new_model(w)).values()]).double()

    unit = torch.eye(len(landscape.names), dtype=torch.float64)
    t = in_units(torch.zeros_like(unit[0]))
    T = torch.stack([in_units(w) - t for w in unit], dim=1)
    return (T @ _inverse(landscape.root)).norm(dim=1) * (minimum / free) ** 0.5


# R² = 1 − loss/total compares with the best constant ŷ or, where the model has no intercept, with
# ŷ = 0. It has one if some weights make ŷ = 1 at all samples: then 1 is in the span of Φ, and its
# projection Φ(ΦᵀΦ)⁻¹Φᵀ1, of the length ‖R⁻ᵀm‖√N with the means m of Φ's columns, is as long as 1.
@torch.no_grad()
def total_variance(landscape: Landscape) -> float:
    """(1/N) Σ (yₙ − ȳ)², without an intercept with ȳ = 0; 0 where that is rounding alone."""

    def mean(t: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        sums = [of(part.double()).sum(dim=0) for part in t.split(BLOCK["cpu"])]
        return torch.stack(sums).sum(dim=0) / len(t)

    first = jacobian(landscape.model, landscape.x[:1].double())

    def columns(x: Tensor) -> Tensor:
        phi = jacobian(landscape.model, x)
        return torch.cat([phi, (phi == first).double()], dim=1)

    means, alike = mean(landscape.x, columns).chunk(2)
    intercept = bool(
        ((alike == 1) & (first[0] != 0)).any()
    )  # most have a column of their own for it
    intercept |= bool((_inverse(landscape.root).T @ means).square().sum() > 1 - ONE)
    constant = mean(landscape.y, lambda y: y) * intercept
    square = mean(landscape.y, lambda y: y**2)
    total = mean(landscape.y, lambda y: (y - constant) ** 2)
    return total.item() if total > SOME_EPS**2 * square else 0.0


def shared(a: float, b: float, most: int) -> int:
    """Return how many digits two numbers have in common, both rounded to so many."""
    counts = range(most, 0, -1)
    return next((n for n in counts if format(a, f".{n - 1}e") == format(b, f".{n - 1}e")), 0)


# A descent on its way is shown where it is, with all digits. Once only rounding keeps it from least
# squares, digits that are not those of least squares say nothing.
def known(outcome: Any) -> dict[str, int]:
    """Return how many digits of an outcome's column are least squares', by the rows' names.

    Only of a standardised descent that has arrived: its parameters in the data's own units are
    differences of large numbers where x is far from 0. Of another one it is empty.
    """
    experiment, path, column = outcome.experiment, outcome.trajectory, outcome.column
    landscape = experiment.least_squares
    if landscape is None or experiment.standardization is None or path.stopped != Stopped.FINISHED:
        return {}
    first, last = landscape.excess(path.weights_at([0, -1]).double()).tolist()
    found = answer(experiment)
    if found is None or not last <= torch.finfo(column.dtype).eps * first:
        return {}
    names = [*outcome.parameters, "loss", "prediction"]
    rows = zip(names, column.tolist(), *found.tolist(), strict=True)
    most = MOST[column.dtype]
    return {
        n: min(shared(value, low, most), shared(value, high, most)) for n, value, low, high in rows
    }


def written(value: Tensor, count: int | None = None) -> str:
    """Write a number with `count` digits, by default as many as tell it from all of its type.

    Of a number without a known digit its size is told.
    """
    if count is None or count == MOST[value.dtype]:
        return str(value.numpy()[()])
    return format(value.item(), f"#.{count}g").rstrip(".") if count else f"≈{value.item():.0e}"
