"""The symbolic counterparts of what torch computes."""

import operator
from collections.abc import Callable
from typing import Any

import mpmath
import sympy
from sympy import Expr
from sympy.logic.boolalg import Boolean
from torch import Tensor


def exact(value: Any) -> Any:
    """Return a decimal constant as a fraction, 0.1 as 1/10, and a truth value as 1 or 0."""
    value = value.item() if isinstance(value, Tensor) else value
    if isinstance(value, Boolean | bool) and not isinstance(value, sympy.Symbol):
        return where(value, 1, 0)
    return sympy.Rational(str(value)) if isinstance(value, float) else value


class floor(sympy.Function):  # noqa: N801  # as sympy and torch call it
    """⌊u⌋, whose slope is 0 wherever it has one."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """0, where sympy's own has none."""
        return sympy.Integer(0)


class sign(sympy.Function):  # noqa: N801
    """The sign of u, whose slope is 0 wherever it has one."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """0, where sympy's own has an impulse."""
        return sympy.Integer(0)


def where(condition: Any, u: Any, v: Any) -> Expr:
    """u where a condition holds, and v elsewhere."""
    return sympy.Piecewise((u, condition), (v, True))


def clamp(u: Any, low: Any = None, high: Any = None, **limits: Any) -> Any:
    """u, but not below `low`, or `min`, and not above `high`, or `max`."""
    low, high = limits.get("min", low), limits.get("max", high)
    below = [] if low is None else [(low, u < low)]
    above = [] if high is None else [(high, u > high)]
    return sympy.Piecewise(*below, *above, (u, True))


# Functions that have torch's names in sympy and in Python; the others have their formulas here.
SYMPYS = ("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
          "asinh", "acosh", "atanh", "erf")  # fmt: skip
COSTLY = ("exp", "sin", "cos", "tan", "sinh", "cosh", "tanh", "erf")
PYTHONS = ("add", "sub", "mul", "pow", "neg", "gt", "ge", "lt", "le")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in SYMPYS},
    **{name: getattr(operator, name) for name in PYTHONS},
    "abs": sympy.Abs,
    "clamp": clamp,
    "div": operator.truediv,
    "eq": sympy.Eq,
    "exp2": lambda u: 2**u,
    "expm1": lambda u: sympy.exp(u) - 1,
    "floor": floor,
    "gelu": lambda u: u * (1 + sympy.erf(u / sympy.sqrt(2))) / 2,
    "hypot": lambda u, v: sympy.sqrt(u**2 + v**2),
    "leaky_relu": lambda u, negative_slope=0.01: where(u > 0, u, exact(negative_slope) * u),
    "logaddexp": lambda u, v: sympy.log(sympy.exp(u) + sympy.exp(v)),
    "log1p": lambda u: sympy.log(1 + u),
    "maximum": lambda u, v: where(u > v, u, v),
    "minimum": lambda u, v: where(u < v, u, v),
    "ne": sympy.Ne,
    "ones_like": lambda u: sympy.Integer(1),
    "reciprocal": lambda u: 1 / u,
    "relu": lambda u: where(u > 0, u, 0),
    "rsqrt": lambda u: 1 / sympy.sqrt(u),
    "sigmoid": lambda u: 1 / (1 + sympy.exp(-u)),
    "sign": sign,
    "silu": lambda u: u / (1 + sympy.exp(-u)),
    "softplus": lambda u: sympy.log(1 + sympy.exp(u)),
    "square": lambda u: u**2,
    "where": where,
    "xlogy": lambda u, v: u * sympy.log(v),
    "zeros_like": lambda u: sympy.Integer(0),
}


# Other names that torch or Python has for the same.
ALIASES = {
    "truediv": "div", "divide": "div", "true_divide": "div", "multiply": "mul", "subtract": "sub",
    "negative": "neg", "absolute": "abs", "clip": "clamp", "clamp_min": "clamp", "sgn": "sign",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
}  # fmt: skip


def bounded(function: Callable[[Any], Any], u: Any) -> Any:
    """Return function(u), by its limit where |u| is so large that 200 digits would take long."""
    if abs(u) > mpmath.mpf(10) ** 30:
        limits = {mpmath.exp: (0, mpmath.inf), mpmath.tanh: (-1, 1), mpmath.erf: (-1, 1)}
        return limits.get(function, (mpmath.nan, mpmath.nan))[u > 0]
    return function(u)
