"""The symbolic counterparts of what torch computes."""

import operator
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import sympy
import torch
from sympy import Expr
from sympy.logic.boolalg import Boolean
from torch import Tensor


def exact(value: Any) -> Any:
    """Return a decimal constant as a fraction, 0.1 as 1/10, and a truth value as 1 or 0."""
    if isinstance(value, Tensor) and value.ndim:
        return np.frompyfunc(exact, 1, 1)(np.array(value.tolist(), dtype=object))
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


def gelu(u: Any, approximate: str = "none") -> Expr:
    """u·Φ(u), with the normal distribution Φ or its approximation by tanh."""
    if approximate == "tanh":
        inner = sympy.sqrt(2 / sympy.pi) * (u + exact(0.044715) * u**3)
        return u * (1 + sympy.tanh(inner)) / 2
    return u * ndtr(u)


def ndtr(u: Any) -> Expr:
    """Φ(u), the normal distribution."""
    return erfc(-u / sympy.sqrt(2)) / 2


class erfc(sympy.Function):  # noqa: N801
    """1 − erf(u), which sympy would rewrite as erf wherever it can."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """−2·e^(−u²)/√π."""
        return -2 * sympy.exp(-(self.args[0] ** 2)) / sympy.sqrt(sympy.pi)


def softplus(u: Any, beta: Any = 1, threshold: Any = 20) -> Expr:
    """log(1 + e^(βu))/β, and u itself where βu is above the threshold.

    Above 20, torch's own threshold, the two are one to 8 digits, and we leave it out.
    """
    beta = exact(beta)
    smooth = sympy.log(1 + sympy.exp(beta * u)) / beta
    return smooth if threshold >= 20 else where(beta * u > exact(threshold), u, smooth)


def to(u: Any, like: Any = None, **words: Any) -> Any:
    """u in the dtype of x or of a parameter, which changes no number; a truth value as 1 or 0.

    Raises:
        ValueError: it is to a dtype by name, which rounds.
    """
    if any(isinstance(value, torch.dtype) for value in (like, *words.values())):
        raise ValueError("a dtype by name has no symbolic counterpart here: write x.dtype")
    return u


# Functions that have torch's names in sympy and in Python; the others have their formulas here.
SYMPYS = ("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
          "asinh", "acosh", "atanh", "erf")  # fmt: skip
COSTLY = ("exp", "sin", "cos", "tan", "sinh", "cosh", "tanh", "erf", "erfc")
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
    "elu": lambda u, alpha=1: where(u > 0, u, exact(alpha) * (sympy.exp(u) - 1)),
    "erfc": erfc,
    "gelu": gelu,
    "hypot": lambda u, v: sympy.sqrt(u**2 + v**2),
    "leaky_relu": lambda u, negative_slope=0.01: where(u > 0, u, exact(negative_slope) * u),
    "logaddexp": lambda u, v: sympy.log(sympy.exp(u) + sympy.exp(v)),
    "log_ndtr": lambda u: sympy.log(ndtr(u)),
    "log1p": lambda u: sympy.log(1 + u),
    "maximum": lambda u, v: where(u > v, u, v),
    "minimum": lambda u, v: where(u < v, u, v),
    "mish": lambda u: u * sympy.tanh(sympy.log(1 + sympy.exp(u))),
    "ndtr": ndtr,
    "ne": sympy.Ne,
    "ones_like": lambda u: sympy.Integer(1),
    "reciprocal": lambda u: 1 / u,
    "relu": lambda u: where(u > 0, u, 0),
    "rsqrt": lambda u: 1 / sympy.sqrt(u),
    "sigmoid": lambda u: 1 / (1 + sympy.exp(-u)),
    "sign": sign,
    "silu": lambda u: u / (1 + sympy.exp(-u)),
    "softplus": softplus,
    "square": lambda u: u**2,
    "to": to,
    "where": where,
    "xlogy": lambda u, v: u * sympy.log(v),
    "zeros_like": lambda u: sympy.Integer(0),
}


# What is done with several columns, or with a parameter that is no scalar.
ARRAYS: dict[str, Callable[..., Any]] = {
    "matmul": np.dot,
    "mv": np.dot,
    "stack": lambda parts, dim=0: np.stack(parts, axis=dim),
    "squeeze": lambda u, dim: np.squeeze(u, axis=dim),
    "sum": lambda u, dim: u.sum(axis=dim),
    "t": lambda u: u.T,
    "transpose": lambda u, dim0, dim1: np.swapaxes(u, dim0, dim1),
    "unsqueeze": lambda u, dim: np.expand_dims(u, dim),
}
# What makes one condition of others.
BOTH: dict[str, Callable[..., Any]] = {
    "and_": sympy.And, "logical_and": sympy.And, "or_": sympy.Or, "logical_or": sympy.Or,
    "invert": sympy.Not, "logical_not": sympy.Not,
}  # fmt: skip
# Other names that torch or Python has for the same.
ALIASES = {
    "truediv": "div", "divide": "div", "true_divide": "div", "multiply": "mul", "subtract": "sub",
    "negative": "neg", "absolute": "abs", "clip": "clamp", "clamp_min": "clamp", "sgn": "sign",
    "expit": "sigmoid", "type_as": "to",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
}  # fmt: skip


def bounded(function: Callable[[Any], Any], u: Any) -> Any:
    """Return function(u), by its limit where |u| is so large that 200 digits would take long."""
    if abs(u) > mpmath.mpf(10) ** 30:
        limits = {mpmath.exp: (0, mpmath.inf), mpmath.tanh: (-1, 1), mpmath.erf: (-1, 1),
                  mpmath.erfc: (2, 0)}  # fmt: skip
        return limits.get(function, (mpmath.nan, mpmath.nan))[u > 0]
    return function(u)
