"""The commonest slips in ∂loss/∂w, each with a sentence that says what went wrong."""

import itertools
import random
from collections.abc import Iterator

import mpmath
import sympy
from sympy import Expr

from torchgd.proof.notations import notation
from torchgd.proof.symbols import Derivation

LARGEST = 4000  # bits before or after the point
EQUAL = sympy.Float("1e-40")  # relative


# Right is 2·p·r with the partial derivative p = ∂ŷ/∂w and the residual r = ŷ − y.
def slips(derivation: Derivation, name: str) -> Iterator[tuple[Expr, str]]:
    """Yield wrong formulas for ∂loss/∂`name`, and what was done to get there."""
    prediction, p = derivation.prediction.doit(), derivation.true_partials[name]
    y, r = derivation.symbols["y"], derivation.residual.doit()
    terms, outer = list(sympy.Add.make_args(prediction)), "the outer derivative is 2(ŷ − y)"
    yield 2 * p, f"the factor (ŷ − y) is missing: {outer}"
    for x in derivation.x:
        slope = sympy.diff(p, x)
        if slope.free_symbols & set(derivation.x):
            written = f"{notation(p)} was differentiated by {x}, to {notation(slope)}"
            yield 2 * slope * r, f"{written}: for {name} it is a constant factor"
        by_x = 2 * r * sympy.diff(prediction, x)
        yield by_x, f"this is the derivative by {x}, which is given; what changes is {name}"
    for factor in (2, 1):
        yield factor * p * r**2, f"the square is kept: of (ŷ − y)² {outer}"
        yield factor * p * (prediction + y), "the residual is ŷ − y, and not ŷ + y"
    for count in range(1, len(terms)):
        for some in itertools.combinations(terms, count):
            lost = " and ".join(map(notation, some))
            missing = f"{lost} {'is' if count == 1 else 'are'} missing in ŷ"
            yield 2 * p * (r - sum(some)), f"{missing} = {notation(derivation.prediction)}"
    for term, factor in itertools.product(terms, (2 * p, sympy.Integer(2), 2 * derivation.x[0])):
        lost = f"a bracket is lost: {notation(2 * p)} multiplies all of ŷ − y"
        yield factor * term + r - term, lost


def slip(derivation: Derivation, name: str, answer: Expr) -> str:
    """Say which slip a wrong answer for ∂loss/∂`name` comes of, "" if it is none of these."""
    return next((f for e, f in slips(derivation, name) if constant(answer - e) == 0), "")


def constant(formula: Expr) -> Expr | None:
    """Return a formula's value at random points if it is the same at all of them, else None.

    The values are exact if it is rational, and else have 50 digits. Points at which it has no
    value, or one beyond LARGEST, are outside its domain and do not count.
    """
    generator, values = random.Random(0), []
    symbols = sorted(formula.free_symbols, key=str)
    for _ in range(16):
        point = {
            symbol: sympy.Rational(generator.choice((-1, 1)) * generator.randint(50, 300), 97)
            for symbol in symbols
        }
        value = formula.xreplace(point)
        value = value if value.is_Rational else value.evalf(50)
        # Two numbers as far apart as 1 and exp(9⁹⁹) cannot be subtracted.
        if value.is_Rational or (value.is_Float and abs(mpmath.mag(value)) < LARGEST):
            values.append(value)
    if len(values) < 4 or any(abs(v - values[0]) > abs(values[0]) * EQUAL for v in values):
        return None
    near = sympy.Rational(values[0]).limit_denominator(1000)
    return near if abs(near - values[0]) <= abs(near) * EQUAL else values[0]
