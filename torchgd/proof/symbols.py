"""A model in symbols: its prediction and partial derivatives as formulas.

torch.fx traces what `forward` and `partials` compute, and the trace is then run on sympy's symbols
in the place of tensors.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
from sympy import Expr
from torch import Tensor, fx, nn

from torchgd.models import Model

X, Y = sympy.symbols("x y", real=True)  # the data

# What sympy and Python call as torch does; the others by their formulas.
SYMPYS = ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "atan")
PYTHONS = ("add", "sub", "mul", "pow", "neg", "abs")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in SYMPYS},
    **{name: getattr(operator, name) for name in PYTHONS},
    "div": operator.truediv,
    "square": lambda u: u**2,
    "reciprocal": lambda u: 1 / u,
    "sigmoid": lambda u: 1 / (1 + sympy.exp(-u)),
    "ones_like": lambda u: sympy.Integer(1),
    "zeros_like": lambda u: sympy.Integer(0),
}


@dataclass(frozen=True)
class Derivation:
    """ŷ and each ∂ŷ/∂w of a model, as expressions in x and the parameters; y is the target.

    `prediction` is ŷ as `forward` writes it, with nothing reordered, `partials` what the model
    says that ∂ŷ/∂w is. All else follows by the rules, for one sample: loss = (ŷ − y)².
    """

    weights: dict[str, Expr]
    prediction: Expr
    partials: dict[str, Expr]

    @cached_property
    def symbols(self) -> dict[str, Expr]:
        """x, y and the parameters, by name."""
        return {"x": X, "y": Y, **self.weights}

    @cached_property
    def residual(self) -> Expr:
        """ŷ − y."""
        return _flat(sympy.Add(self.prediction, -Y, evaluate=False))

    @cached_property
    def true_partials(self) -> dict[str, Expr]:
        """∂ŷ/∂w by sympy's own differentiation."""
        prediction = self.prediction.doit()
        return {name: sympy.diff(prediction, w) for name, w in self.weights.items()}

    def loss_derivative(self, partial: Expr) -> Expr:
        """∂loss/∂w = 2 · ∂ŷ/∂w · (ŷ − y), in this order, from ∂ŷ/∂w."""
        factors = sympy.Mul.make_args(2 * partial)
        return sympy.Mul(*factors, self.residual, evaluate=False)


def derive(model: Model) -> Derivation:
    """Run a model on symbols.

    Raises:
        ValueError: it cannot: its code asks for numbers (`if x > 0`), or calls a function that is
            not in FUNCTIONS, or one of its parameters bears the name of the data, x or y.
    """
    weights = {n: sympy.Symbol(n, real=True) for n, _ in model.named_parameters()}
    try:
        if taken := weights.keys() & {"x", "y"}:
            raise ValueError(f"the parameter {min(taken)!r} has the name of the data")
        with sympy.evaluate(False):
            prediction = _Symbolic(model, weights).run(X)
        partials = _Symbolic(_Partials(model), weights).run(X)
        partials = {name: sympy.sympify(partials[name]) for name in weights}
    except Exception as error:  # whatever a user's code raises when x is no tensor
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{type(model).__name__} cannot run on symbols: {reason}") from error
    return Derivation(weights, _flat(sympy.sympify(prediction)), partials)


class _Partials(nn.Module):
    """`model.partials` as a module, so that torch.fx traces it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.model.partials(x)


class _Symbolic(fx.Interpreter):
    """Runs a module's trace with a symbol for each parameter."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Expr]) -> None:
        super().__init__(fx.symbolic_trace(module))
        self.extra_traceback = False
        self.weights = weights

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = target.removeprefix("model.")
        return self.weights[name] if name in self.weights else _exact(self.fetch_attr(target))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target.__module__ == "_operator":
            return target(*map(_exact, args))
        return self.call_method(target.__name__, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target not in FUNCTIONS:
            raise ValueError(f"{target} has no symbolic counterpart here")
        return FUNCTIONS[target](*map(_exact, args), **kwargs)


def _exact(value: Any) -> Any:
    """Return a decimal constant as the fraction that its digits say; all else as it is."""
    value = value.item() if isinstance(value, Tensor) else value
    return sympy.Rational(str(value)) if isinstance(value, float) else value


def _flat(expression: Expr) -> Expr:
    """Return an expression with sums of sums and products of products made one, in their order."""
    if not expression.args:
        return expression
    kind, args = expression.func, [_flat(arg) for arg in expression.args]
    if kind in (sympy.Add, sympy.Mul):
        args = [inner for arg in args for inner in (arg.args if arg.func == kind else [arg])]
    return kind(*args, evaluate=False)


def is_zero(expression: Expr) -> bool | None:
    """Return whether an expression is 0 identically; None where sympy cannot tell."""
    simple = sympy.simplify(expression)
    return simple == 0 or simple.equals(0)


def latex(expression: Expr) -> str:
    """Write an expression as LaTeX, in its own order."""
    return str(sympy.latex(expression, order="none"))


def notation(expression: Expr) -> str:
    """Write an expression as the lesson does: 2x²(x²·w2 + x·w1 + b − y)."""
    text = sympy.StrPrinter({"order": "none"}).doprint(expression)
    superscripts = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    text = re.sub(r"\*\*(\d+)\b", lambda power: power.group(1).translate(superscripts), text)
    text = re.sub(r"(?<![\w.])(\d+)\*(?=x)", r"\1", text)
    text = text.replace("*(", "(").replace("-", "−")
    return re.sub(r"(?<!\*)\*(?!\*)", "·", text)
