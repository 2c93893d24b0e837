"""Least squares of a line or a parabola without any rounding: floats are fractions.

Where the loss is least its derivatives are 0. With φᵢ = x to the power of wᵢ they are

    ∂loss/∂wᵢ = (2/N) Σ φᵢ(Σⱼ wⱼφⱼ − y) = 0    so    Σⱼ (Σ φᵢφⱼ)·wⱼ = Σ φᵢy

the normal equations. In floats they square the condition number; in fractions there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

from torch import Tensor

from torchgd.models import Linear, Model, Quadratic, scalars

POWERS = {"w2": 2, "w1": 1, "w": 1, "b": 0}  # of x, with which a parameter is multiplied
MOST = 2**16  # samples: they take about half a second


@dataclass(frozen=True)
class Minimum:
    """The parameters at which the loss is least, and the loss there."""

    parameters: Mapping[str, Fraction]
    loss: Fraction

    def predict(self, x: float) -> Fraction:
        """ŷ at x."""
        terms = (w * Fraction(x) ** POWERS[name] for name, w in self.parameters.items())
        return sum(terms, Fraction(0))


def is_exact(model: Model, x: Tensor) -> bool:
    """Whether the model's minimum on data x (N,) can be had as fractions."""
    return type(model) in (Linear, Quadratic) and len(x) <= MOST


# The sums are of integers, which is faster: x = X/d and y = Y/e. In them ŷ = Σ vⱼ·Xᵖ is Y where
# vⱼ = wⱼ·e/dᵖ. At the minimum the residual is orthogonal to each φ, so Σ (ŷ − y)² = Σ y(y − ŷ).
def exact_minimum(model: Model, x: Tensor, y: Tensor) -> Minimum:
    """Return where the loss of the data x and y (N,) in float64 is least, which is one point."""
    (xs, d), (ys, e) = _integers(x), _integers(y)
    powers = {name: POWERS[name] for name in scalars(model)}
    columns = [*([value**p for value in xs] for p in powers.values()), ys]
    equations = [[Fraction(sum(map(mul, f, g))) for g in columns] for f in columns]
    *normal, (*products, square) = equations
    solution = _solved(normal)
    weights = {n: v * d**p / e for (n, p), v in zip(powers.items(), solution, strict=True)}
    return Minimum(weights, (square - sum(map(mul, solution, products))) / (e**2 * len(xs)))


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
