"""Least squares of a line, a plane or a parabola without any rounding: floats are fractions.

Where the loss is least its derivatives are 0. With φᵢ = ∂ŷ/∂wᵢ, such as x², they are

    ∂loss/∂wᵢ = (2/N) Σ φᵢ(Σⱼ wⱼφⱼ − y) = 0    so    Σⱼ (Σ φᵢφⱼ)·wⱼ = Σ φᵢy

the normal equations. In floats they square the condition number; in fractions there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

from torch import Tensor

from torchgd.entries import names_of
from torchgd.models import Linear, Model, Quadratic

POWERS = {"w2": 2, "w1": 1, "w": 1, "b": 0}  # of x, with which a parameter is multiplied
MOST, WIDEST = 600_000, 16  # products NP² and columns P: in 0.2 s; P = 50 would take 4 s


@dataclass(frozen=True)
class Minimum:
    """The entries of the parameters at which the loss is least, by name, and the loss there."""

    parameters: Mapping[str, Fraction]
    loss: Fraction

    def predict(self, x: Sequence[float]) -> Fraction:
        """ŷ at x, a number of each column."""
        weights = self.parameters.values()
        features = (Fraction(x[j]) ** p for j, p in map(_feature, self.parameters))
        return sum(map(mul, weights, features), Fraction(0))


def is_exact(model: Model, x: Tensor) -> bool:
    """Whether the model's minimum on data x (N,) or (N, F) can be had as fractions."""
    columns = len(names_of(model))
    known = type(model) in (Linear, Quadratic)
    return known and columns <= WIDEST and len(x) * columns**2 <= MOST


def _feature(name: str) -> tuple[int, int]:
    """Return which column of x, to which power, an entry is multiplied with: w[2] with x[2]."""
    parameter, _, place = name.rstrip("]").partition("[")
    return int(place or 0), POWERS[parameter]


# The sums are of integers, which is faster: xⱼ = Xⱼ/dⱼ and y = Y/e. In them ŷ = Σ vᵢ·Xⱼᵖ is Y where
# vᵢ = wᵢ·e/dⱼᵖ. At the minimum the residual is orthogonal to each φ, so Σ (ŷ − y)² = Σ y(y − ŷ).
def exact_minimum(model: Model, x: Tensor, y: Tensor) -> Minimum:
    """Return where the loss of the data x (N,) or (N, F) and y (N,) in float64 is least.

    The data determine it.
    """
    xs, (ys, e) = [_integers(column) for column in x.reshape(len(x), -1).T], _integers(y)
    features = {name: _feature(name) for name in names_of(model)}
    columns = [*([value**p for value in xs[j][0]] for j, p in features.values()), ys]
    equations = [[Fraction(sum(map(mul, f, g))) for g in columns] for f in columns]
    *normal, (*products, square) = equations
    solution = _solved(normal)
    scales = (xs[j][1] ** p for j, p in features.values())
    weights = {n: v * d / e for n, v, d in zip(features, solution, scales, strict=True)}
    return Minimum(weights, (square - sum(map(mul, solution, products))) / (e**2 * len(x)))


def _integers(values: Tensor) -> tuple[list[int], int]:
    """Return floats as integers over one denominator: each has a power of 2, and it the largest."""
    ratios = [value.as_integer_ratio() for value in values.tolist()]
    common = max(below for _, below in ratios)
    return [above * (common // below) for above, below in ratios], common


# ΦᵀΦ is positive definite, and stays so: no pivot is 0.
def _solved(rows: list[list[Fraction]]) -> list[Fraction]:
    """Return v of [A c] with Av = c, by elimination."""
    for k in range(len(rows)):
        pivot = rows[k] = [a / rows[k][k] for a in rows[k]]
        for i in range(len(rows)):
            if i != k:
                factor = rows[i][k]
                rows[i] = [a - factor * p for a, p in zip(rows[i], pivot, strict=True)]
    return [row[-1] for row in rows]
