"""Samples to calculate by hand: small integers for x, y and the parameters, and a rate α."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import TypeVar

import sympy
from sympy import Expr
from sympy.core.relational import Relational

from torchgd.proof.domain import Domain
from torchgd.proof.functions import sign
from torchgd.proof.symbols import Derivation, Y

T = TypeVar("T")
Point = dict[Expr, Expr]  # a number for each symbol: x, the parameters, y and the rate

X, W, RESIDUALS = ([s * size for size in range(1, most + 1) for s in (1, -1)] for most in (3, 5, 9))
RATES = [sympy.Rational(rate) for rate in ("0.1", "0.05", "0.01", "0.005", "0.001")]
LEAST = 0.01  # of a ∂ŷ/∂w that is not 0: of a smaller one, few decimals show little
MOST = 1000  # points: the line w·x has 1080
TRIED = 10_000  # points


def at(formula: Expr, point: Point) -> Expr:
    """Return a formula's value at a point: as a fraction where it is one, else in 30 digits."""
    found = formula.xreplace(point)
    return found if found.is_Rational else sympy.N(found, 30)


def samples(derivation: Derivation, domain: Domain, rate: Expr, count: int) -> list[Point]:
    """Return so many points in the domain; no two have the same x, y and parameters.

    ŷ has derivatives there, and ŷ − y is not 0. The points are drawn at random, but the same ones
    each time, and those of a smaller count come first.

    Raises:
        ValueError: of many points at random there are not so many.
    """
    found: dict[tuple[Expr, ...], Point] = {}
    for point in islice(_drawn(derivation, domain, rate), TRIED):
        if point:
            *numbers, _ = point.values()
            found.setdefault(tuple(numbers), point)
        if len(found) == count:
            return list(found.values())
    way_out = f"ask for at most {len(found)}" if found else "give a model in other units"
    raise ValueError(
        f"worksheets: {count} asked for, but of {TRIED} points of small integers only {len(found)} "
        f"differ and have finite derivatives of a size to calculate by hand; {way_out}"
    )


def _drawn(derivation: Derivation, domain: Domain, rate: Expr) -> Iterator[Point | None]:
    """Yield points at random without end, None for one that is not to calculate by hand."""
    chance = Random(0)

    def draw(values: Sequence[T]) -> T:
        # Of all that a Random draws, random() alone is the same in each release of Python.
        return values[int(chance.random() * len(values))]

    prediction = derivation.prediction.doit()
    edges = _edges(prediction)
    while True:
        x = [draw(X) for _ in derivation.x]
        weights = {name: draw(W) for name in derivation.weights}
        residual, which = draw(RESIDUALS), draw((0, -1))
        columns = dict(zip(derivation.x, map(sympy.Integer, x), strict=True))
        values = {derivation.weights[name]: sympy.Integer(w) for name, w in weights.items()}
        rates = _rates(derivation, x, weights) if _holds(domain, x, weights) else []
        if not rates or any(at(edge, columns | values).is_zero for edge in edges):
            yield None
            continue
        predicted = at(prediction, columns | values)
        # y is a whole number, by `residual` off the one next to ŷ: it is not ŷ.
        yield predicted.is_real and {
            **columns, Y: sympy.Integer(round(predicted)) - residual, **values, rate: rates[which]
        }  # fmt: skip


def _holds(domain: Domain, x: Sequence[int], weights: Mapping[str, int]) -> bool:
    """Whether a point is inside."""
    return domain.holds_all(weights) and all(domain.holds("x", value) for value in x)


def _edges(prediction: Expr) -> list[Expr]:
    """Return what is 0 where ŷ may have a kink or a jump: the edges of cases, and inside of |u|."""
    cases = [case.lhs - case.rhs for case in prediction.atoms(Relational)]
    return [*cases, *(u.args[0] for u in prediction.atoms(sympy.Abs, sign))]


# A step changes ŷ by about Σ ∂ŷ/∂w·(−α·∂loss/∂w) = −2α(ŷ − y)·Σ(∂ŷ/∂w)²: the residual becomes
# 1 − 2α·Σ(∂ŷ/∂w)² times what it was. It is closer to 0 if α·Σ(∂ŷ/∂w)² < 1.
def _rates(derivation: Derivation, x: Sequence[int], weights: Mapping[str, int]) -> list[Expr]:
    """Return the largest two rates whose steps bring ŷ closer to y; none of no such point."""
    found = [derivation.at(name, x, weights) for name in weights]
    if not all(partial.agree for partial in found):
        return []
    sizes = [abs(float(partial.by_hand)) for partial in found]
    steepness = sum(size**2 for size in sizes)
    if steepness == 0 or any(0 < size < LEAST for size in sizes):
        return []
    return [rate for rate in RATES if float(rate) * steepness < 1][:2]
