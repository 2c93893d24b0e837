"""A model in symbols: its prediction and partial derivatives as formulas.

torch.fx traces what `forward` and `partials` compute; we run the trace on sympy's symbols in the
place of tensors. Where x has several columns, or a parameter is no scalar, they are NumPy's arrays
of symbols, x[0], x[1], … of one sample, (1, F).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import mpmath
import numpy as np
import sympy
from sympy import Expr
from torch import Tensor, fx, nn

from torchgd.entries import entries
from torchgd.models import Model
from torchgd.proof.functions import ALIASES, ARRAYS, BOTH, COSTLY, FUNCTIONS, bounded, exact, where

X, Y = sympy.symbols("x y", real=True)  # the data
YHAT = sympy.Symbol("ŷ", real=True)  # the prediction, where it is not written out
# Signs of the longest formula that is derived. One step of Newton's method repeats what came
# before it four times, and the time that sympy takes grows faster than that.
LONGEST = 400


@dataclass(frozen=True)
class Precise:
    """A derivative `by_hand` and the `expected` one, in 200 digits; NaN where there is none.

    `size` is the larger of them and ŷ/w, beside which a difference is large or small.
    """

    by_hand: Any
    expected: Any
    size: Any

    @property
    def agree(self) -> bool | None:
        """Whether they agree in 12 digits; None where one of them is not finite.

        More is not possible: a constant in a formula, such as π, has 16.
        """
        if not (mpmath.isfinite(self.by_hand) and mpmath.isfinite(self.expected)):
            return None
        apart = abs(self.by_hand - self.expected)
        return bool(apart <= self.size * 1e-12 or apart < 1e-40)


@dataclass(frozen=True)
class Derivation:
    """ŷ and each ∂ŷ/∂w of a model, as expressions in x and the parameters; y is the target.

    `prediction` is ŷ in the order in which `forward` writes it, `partials` are the model's own
    ∂ŷ/∂w, by the names of the entries of the parameters. The rest is derived from them, for one
    sample, with a symbol `x` for each column: loss = (ŷ − y)².
    """

    weights: dict[str, Expr]
    prediction: Expr
    partials: dict[str, Expr]
    x: tuple[Expr, ...] = (X,)

    @cached_property
    def symbols(self) -> dict[str, Expr]:
        """x, y and the parameters, by name."""
        return {**{x.name: x for x in self.x}, "y": Y, **self.weights}

    @cached_property
    def residual(self) -> Expr:
        """ŷ − y."""
        return _flat(sympy.Add(self.prediction, -Y, evaluate=False))

    @cached_property
    def true_partials(self) -> dict[str, Expr]:
        """∂ŷ/∂w by sympy's own differentiation."""
        prediction = self.prediction.doit()
        return {name: sympy.diff(prediction, w) for name, w in self.weights.items()}

    @cached_property
    def functions(self) -> dict[str, Callable[[Expr], Expr]]:
        """By name, the functions that occur in ŷ and its derivatives."""
        formulas = sympy.Tuple(self.prediction, *self.true_partials.values())
        found = {f.func.__name__: f.func for f in formulas.atoms(sympy.Function)}
        powers = (power.exp for power in formulas.atoms(sympy.Pow) if power.exp.is_Rational)
        return {**found, "sqrt": sympy.sqrt} if any(exp.q == 2 for exp in powers) else found

    @cached_property
    def _precise(self) -> dict[str, list[Callable[..., Any]]]:
        """By name, mpmath functions of x and the parameters: ∂ŷ/∂w by hand and by sympy, and ŷ."""
        own = {"floor": mpmath.floor, "sign": mpmath.sign}
        own |= {name: partial(bounded, getattr(mpmath, name)) for name in COSTLY}
        symbols = [*self.x, *self.weights.values()]
        return {
            name: [
                sympy.lambdify(symbols, formula, [own, "mpmath"])
                for formula in (by_hand, self.true_partials[name], self.prediction.doit())
            ]
            for name, by_hand in self.partials.items()
        }

    def at(self, name: str, x: Sequence[float], weights: Mapping[str, float]) -> Precise:
        """∂ŷ/∂`name` by hand and by sympy at a point, in 200 digits."""
        values = []
        with mpmath.workdps(200):
            point = [mpmath.mpf(value) for value in (*x, *weights.values())]
            for compute in self._precise[name]:
                try:
                    values.append(mpmath.mpf(compute(*point)))
                except (ArithmeticError, ValueError, TypeError):  # a pole, or no real number
                    values.append(mpmath.nan)
            by_hand, expected, prediction = values
            sizes = [abs(by_hand), abs(expected), abs(prediction / (weights[name] or 1))]
            return Precise(by_hand, expected, max(filter(mpmath.isfinite, sizes), default=0))

    def loss_derivative(self, partial: Expr, residual: Expr | None = None) -> Expr:
        """∂loss/∂w = 2 · ∂ŷ/∂w · (ŷ − y), in this order, from ∂ŷ/∂w and, as written, ŷ − y."""
        factors = sympy.Mul.make_args(2 * partial)
        return sympy.Mul(*factors, residual or self.residual, evaluate=False)


def derive(model: Model, features: int = 1) -> Derivation:
    """Run a model on symbols, a sample of so many columns.

    Raises:
        ValueError: its code needs numbers (`if x > 0`), or calls a function that is not in
            FUNCTIONS, or one of its parameters has the name of the data, x or y.
    """
    parameters = dict(model.named_parameters())
    columns = (features,) if features > 1 else ()
    x, values = _symbols("x", columns), {n: _symbols(n, w.shape) for n, w in parameters.items()}
    weights = {symbol.name: symbol for value in values.values() for symbol in np.ravel(value)}
    arrays = columns or any(w.ndim for w in parameters.values())
    sample = np.reshape(x, (1, *columns)) if arrays else x
    try:
        if taken := parameters.keys() & {"x", "y"}:
            raise ValueError(f"the parameter {min(taken)!r} has the name of the data")
        with sympy.evaluate(False):
            (prediction,) = _formulas(_Symbolic(model, values).run(sample), ())
        found = _Symbolic(_Partials(model), values).run(sample)
        partials = [f for n, w in parameters.items() for f in _formulas(found[n], w.shape)]
    except Exception as error:  # whatever a user's code raises when x is no tensor
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{type(model).__name__} cannot run on symbols: {reason}") from error
    named = dict(zip(weights, partials, strict=True))
    return Derivation(weights, _flat(prediction), named, tuple(np.ravel(x)))


def _symbols(name: str, shape: Sequence[int]) -> Any:
    """Return a symbol for each entry of an array, or one alone of shape ()."""
    own = [sympy.Symbol(entry, real=True) for entry in entries(name, shape)]
    return np.array(own).reshape(shape) if shape else own[0]


def _formulas(found: Any, shape: Sequence[int]) -> list[Expr]:
    """Return the formulas of one sample's result (1, *shape), or of a constant, one by one."""
    several = [found] * math.prod(shape)
    if isinstance(found, np.ndarray):
        several = list(np.broadcast_to(found, (1, *shape)).reshape(-1))
    formulas = [sympy.sympify(exact(one)) for one in several]
    if not all(isinstance(one, Expr) for one in formulas):
        raise ValueError(f"{formulas[0]} is no formula")
    return formulas


class _Partials(nn.Module):
    """`model.partials` as a module, so that torch.fx traces it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Mapping[str, Tensor | float]:
        return self.model.partials(x)


class _Symbolic(fx.Interpreter):
    """Runs a module's trace with a symbol for each parameter, or an array of them."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Any]) -> None:
        module = deepcopy(module)  # for it may keep what it is given
        super().__init__(module, graph=fx.Tracer().trace(module))
        self.extra_traceback = False
        self.weights = weights
        self.sizes: dict[int, tuple[Any, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation; refuse a formula that sympy would work on for long."""
        found = super().run_node(n)
        formulas = found.reshape(-1) if isinstance(found, np.ndarray) else [found]
        if any(isinstance(f, Expr) and self._size(f) > LONGEST for f in formulas):
            raise ValueError(f"its formula is too long, of more than {LONGEST} signs")
        return found

    def _size(self, e: Expr) -> int:
        """Count the symbols, numbers and operations of a formula as it is written out."""
        if id(e) not in self.sizes:
            self.sizes[id(e)] = e, 1 + sum(map(self._size, e.args))  # e stays, and so does its id
        return self.sizes[id(e)][1]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = target.removeprefix("model.")
        return self.weights[name] if name in self.weights else exact(self.fetch_attr(target))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = target.__name__
        if target is getattr:
            return self.attribute(*args)
        if name in BOTH:
            return BOTH[name](*args)
        if target.__module__ == "_operator" and ALIASES.get(name, name) not in FUNCTIONS:
            return target(*map(exact, args))
        return self.call_method(name, args, kwargs)

    def attribute(self, value: Any, name: str) -> Any:
        """Return an attribute of what stands for a tensor."""
        if name in ("T", "mT") and isinstance(value, np.ndarray):
            return np.swapaxes(value, -1, -2) if value.ndim > 1 else value
        if name not in ("dtype", "device"):
            raise ValueError(f"{name} has no symbolic counterpart here")
        return None

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = target.removeprefix("special_")  # of torch.special
        name = ALIASES.get(name, name)
        if name in ARRAYS:
            return ARRAYS[name](*args, **kwargs)
        if name not in FUNCTIONS:
            raise ValueError(f"{target} has no symbolic counterpart here")
        if any(isinstance(value, np.ndarray) for value in args):
            count = len(args)
            return np.frompyfunc(lambda *one: self.call_method(name, one, kwargs), count, 1)(*args)
        options = {key: exact(value) for key, value in kwargs.items() if key != "inplace"}
        if name == "where":
            condition, *both = args
            return where(condition, *map(exact, both))
        return FUNCTIONS[name](*map(exact, args), **options)


def _flat(expression: Expr) -> Expr:
    """Return an expression with nested sums and nested products flattened, in their order."""
    if not expression.args:
        return expression
    if isinstance(expression, sympy.Piecewise):
        pieces = [(_flat(value), condition) for value, condition in expression.args]
        return sympy.Piecewise(*pieces, evaluate=False)
    kind, args = expression.func, [_flat(arg) for arg in expression.args]
    if kind in (sympy.Add, sympy.Mul):
        args = [inner for arg in args for inner in (arg.args if arg.func == kind else [arg])]
    return kind(*args, evaluate=False)
