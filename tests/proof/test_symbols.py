"""Models in symbols: what sympy is told is what torch computes."""

import math
from typing import Any

import mpmath
import pytest
import sympy
import torch
from torch import Tensor, nn, special
from torch.nn import functional

from torchgd import Model, Quadratic
from torchgd.proof.functions import FUNCTIONS
from torchgd.proof.notations import notation
from torchgd.proof.oracles import is_identity
from torchgd.proof.symbols import Precise, X, derive


def test_exercise_3_1() -> None:
    """∂loss/∂w2 = 2x²(ŷ − y), ∂loss/∂w1 = 2x(ŷ − y) as given, ∂loss/∂b = 2(ŷ − y)."""
    derivation = derive(Quadratic())
    x, y, w2, w1, b = derivation.symbols.values()
    assert [str(symbol) for symbol in (x, y, w2, w1, b)] == ["x", "y", "w2", "w1", "b"]
    r = x**2 * w2 + x * w1 + b - y
    for name, expected in (("w2", 2 * x**2 * r), ("w1", 2 * x * r), ("b", 2 * r)):
        found = derivation.loss_derivative(derivation.partials[name])
        assert sympy.expand(found - expected) == 0
        assert sympy.expand(sympy.diff(r**2, derivation.weights[name]) - expected) == 0


class Composed(Model):
    """ŷ = p·f(x) + q/2 with a buffer c = 1/4 and a parameter of a module within."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.p = nn.Parameter(torch.tensor(1.5))
        self.inner = nn.ParameterDict({"q": torch.tensor(0.5)})
        self.register_buffer("c", torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.p * self.function(x) + 0.5 * self.inner["q"] * x**0 - self.c + 0.1

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        return {"p": self.function(x), "inner.q": torch.ones_like(x) / 2}


# What else they take; of some more than one.
THREE = "add sub mul div pow gt ge lt le eq ne".split()
TENSOR = "hypot logaddexp maximum minimum xlogy".split()
ARGUMENTS: dict[str, list[Any]] = {
    **{name: [(3,)] for name in THREE},
    **{name: [(torch.tensor(0.75),)] for name in TENSOR},
    "clamp": [(0.5,), (0.5, 1.25), (None, 1.25)],
    "elu": [(), (0.5,)],
    "gelu": [{}, {"approximate": "tanh"}],
    "softplus": [(), (3.0,), {"beta": 2.0, "threshold": 1.0}],
}
INSIDE = {"asin": 0.5, "acos": 0.5, "atanh": 0.5, "acosh": 5.0}  # times x lies where it has a value


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (name, place)
        for name in sorted(FUNCTIONS.keys() - {"where", "to"})
        for place in (torch, Tensor, functional, special)
        if hasattr(place, name)
    ],
)
def test_each_function_is_torchs(name: str, place: Any) -> None:
    for arguments in ARGUMENTS.get(name, [()]):

        def function(x: Any, given: Any = arguments) -> Any:
            words, named = ((), given) if isinstance(given, dict) else (given, {})
            x = INSIDE.get(name, 1) * x
            if place is Tensor:
                return getattr(x, name)(*words, **named)
            return getattr(place, name)(x, *words, **named)

        computes_as_torch_does(Composed(lambda x, f=function: 1 * f(x)))


def test_where_takes_either() -> None:
    computes_as_torch_does(Composed(lambda x: torch.where(x > 1, 2 * x, x**3)))
    computes_as_torch_does(Composed(lambda x: (x > 1) * x))


@pytest.mark.parametrize("numbers", [
    lambda truth, x: truth.to(x.dtype), lambda truth, x: truth.to(dtype=x.dtype),
    lambda truth, x: truth.to(x), lambda truth, x: truth.type_as(x),
])  # fmt: skip
def test_a_comparison_as_a_number(numbers: Any) -> None:
    computes_as_torch_does(Composed(lambda x: numbers(x > 1, x) * x))
    computes_as_torch_does(Composed(lambda x: numbers((x > 0.1) & (x < 1), x) * x))


def computes_as_torch_does(model: Composed) -> None:
    derivation = derive(model)
    for value in (0.25, 1.5):
        assert derivation.at("p", [value], {"p": 1.5, "inner.q": 0.5}).agree
    half = sympy.Rational(1, 2)
    assert derivation.partials["inner.q"] == derivation.true_partials["inner.q"] == half
    x, (p, q) = torch.tensor([0.25, 1.5]), derivation.weights.values()
    prediction = derivation.prediction.doit().subs({p: 1.5, q: 0.5})
    expected = [float(prediction.subs({X: v})) for v in x.tolist()]
    torch.testing.assert_close(model(x).tolist(), expected, rtol=1e-6, atol=1e-6)


class Given(Model):
    """A model whose methods and parameter are given."""

    def __init__(self, forward: Any, partials: Any = None, name: str = "w") -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.tensor(1.0)))
        self.given = forward, partials

    def forward(self, x: Tensor) -> Tensor:
        return self.given[0](self, x)

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        return self.given[1](self, x)


def test_constants_are_taken_at_their_digits() -> None:
    """0.1·3 is 0.3, which it is not in binary."""
    derivation = derive(Given(lambda m, x: 0.1 * x * (3 * m.w), lambda m, x: {"w": 0.3 * x}))
    assert derivation.partials == derivation.true_partials


@pytest.mark.parametrize(
    ("forward", "name", "reason"),
    [
        (lambda m, x: m.w * x if x.sum() > 0 else x, "w", "symbolically traced variables cannot"),
        (lambda m, x: m.w * torch.erfinv(x), "w", "erfinv has no symbolic counterpart here"),
        (lambda m, x: m.w * x.erfinv(), "w", "erfinv has no symbolic counterpart here"),
        (
            lambda m, x: m.w * x.to(torch.float32),
            "w",
            "a dtype by name has no symbolic counterpart",
        ),
        (lambda m, x: 1 / 0, "w", "division by zero"),
        (None, "x", "the parameter 'x' has the name of the data$"),
        (None, "y", "the parameter 'y' has the name of the data$"),
    ],
)
def test_what_cannot_run_on_symbols(forward: Any, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^Given cannot run on symbols: {reason}"):
        derive(Given(forward, name=name))


@pytest.mark.parametrize(("apart", "agree"), [(5e-13, True), (2e-12, False), (math.nan, None)])
def test_two_formulas_agree_in_12_digits_of_the_larger(apart: float, agree: bool | None) -> None:
    one, other = mpmath.mpf(1000), mpmath.mpf(1000) * (1 + mpmath.mpf(apart))
    assert Precise(one, other, mpmath.mpf(1000)).agree is agree
    assert Precise(other, one, mpmath.mpf(1000)).agree is agree


def test_an_identity_or_not() -> None:
    x = sympy.Symbol("x", real=True)
    assert is_identity(((x + 1) ** 2 - x**2 - 1) / 2 - x)
    assert not is_identity(x - x**2 / x + sympy.Rational(1, 10**9))
    assert not is_identity(sympy.sin(x) ** 2 + sympy.cos(x) ** 2 - 1)  # it is, and not said to be


class Layer(Model):
    """ŷ = x·Wᵀ of one output, as a layer writes it."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.W, self.how = torch.nn.Parameter(torch.ones(1, 3, dtype=torch.float64)), how

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = (x @ self.how(self.W)).squeeze(-1)
        return prediction

    def partials(self, x: Tensor) -> dict[str, Tensor | float]:
        return {"W": x.unsqueeze(1)}


@pytest.mark.parametrize("how", [
    lambda W: W.T, lambda W: W.mT, lambda W: W.t(), lambda W: W.transpose(0, 1),
])  # fmt: skip
def test_a_layers_transpose(how: Any) -> None:
    derivation = derive(Layer(how), 3)
    assert notation(derivation.prediction) == "x[0]·W[0][0] + x[1]·W[0][1] + x[2]·W[0][2]"
    assert derivation.partials == derivation.true_partials
    assert list(derivation.partials) == ["W[0][0]", "W[0][1]", "W[0][2]"]


def test_an_attribute_without_a_counterpart_is_named() -> None:
    with pytest.raises(ValueError, match="cannot run on symbols: real has no symbolic counterpart"):
        derive(Layer(lambda W: W.real.T), 3)
