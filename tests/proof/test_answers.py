"""A learner's derivative is judged rightly, and is never run."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sympy
from helpers import MODELS, Exponential
from hypothesis import given
from hypothesis import strategies as st

from torchgd.proof.answers import judge, parse
from torchgd.proof.notations import assignment
from torchgd.proof.symbols import Derivation, derive

x, w = sympy.symbols("x w", real=True)
DERIVATIONS: dict[str, Derivation] = {
    "line": derive(MODELS["linear"]()),
    "bias": derive(MODELS["linear with bias"]()),
    "parabola": derive(MODELS["quadratic"]()),
    "exponential": derive(Exponential()),
    "root": Derivation({"w": w}, w * sympy.sqrt(x), {"w": sympy.sqrt(x)}),
}

# The lesson's own, in its notation and in others.
RIGHT = {
    ("line", "w"): "2x(w·x − y) | 2x(xw-y) | 2*x*(w*x - y) |  2 * x * ( x*w-y )   | -2x(y - wx) |"
    "2(wx-y)x | 2wx^2 - 2xy | 2wx**2-2yx | 2x²w − 2xy | x(wx-y)+(wx-y)x | 2x*--(wx-y) |"
    "+2x(wx-y) | 4x(wx-y)/2 | 0.5*4x(wx-y) | .5(8x)(wx-y)/2 | 2x^3(wx-y)/x^2 | 2x^3(wx-y)x^-2 |"
    "2((wx)^2-y^2)x/(wx+y) | ((wx-y+x)^2-(wx-y)^2-x^2) | x ( ( ( 2 ) ) ) ( w x - y ) |"
    "0x + 2x(wx-y) + 0^3 | 02x^01(wx-y)",
    ("bias", "w"): "2x(wx+b-y) | 2xb+2x(xw-y)",
    ("bias", "b"): "2(wx+b-y) | 2wx+2b-2y",
    ("parabola", "w2"): "2*x**2*(x**2*w2+x*w1+b-y) | 2x²(x²·w2 + x·w1 + b − y) |"
    "2x^2(x^2w2+xw1+b-y) | 2x^4w2+2x^3w1+2x^2b-2x^2y | -2xx(y-b-x(w1+w2x))",
    ("parabola", "w1"): "2x(x²w2 + xw1 + b − y)",
    ("parabola", "b"): "2(x(xw2+w1)+b-y)",
    ("exponential", "a"): "2exp(kx)(a*exp(kx)-y) | 2(exp x)^0exp(kx)(a*exp(kx)-y)",
    ("exponential", "k"): "2a*x*exp(2kx)*a - 2a*x*y*exp(x k) | 2ax(a-y*exp(-k*x))exp(k*x)^2",
    ("root", "w"): "2sqrt(x)(w*sqrt(x)-y) | 2wx-2y*sqrt(x) | 2sqrt x(w*sqrt x-y)",
}
WRONG = {
    ("line", "w"): {
        "x(wx-y)": "a factor 2 is missing",
        "4x(wx-y)": "a factor 2 is too many",
        "2x(y-wx)": "the sign is reversed",
        "-x(wx-y)": "the sign is reversed; a factor 2 is missing",
        "3x(wx-y)": "a factor 3/2 is too many",
        "2(wx-y)": "the chain rule's factor x is missing: this is ∂loss/∂ŷ, without the inner",
        "2x²(wx-y)": "a factor x is too many",
        "2w(wx-y)": "this is the derivative by x, which is given; what changes is w",
        "2x": "the factor (ŷ − y) is missing: the outer derivative is 2(ŷ − y)",
        "2x(wx-y)^2": "the square is kept: of (ŷ − y)² the outer derivative is 2(ŷ − y)",
        "2x*wx-y": "a bracket is lost: 2x multiplies all of ŷ − y",
        "wx-y": "the chain rule's factor x is missing; a factor 2 is missing",
        "x": "this is ∂ŷ/∂w, without the outer derivative 2(ŷ − y)",
        "(wx-y)^2": "this is the loss itself",
        "wx": "this is ŷ, the prediction",
        "0": "0 would say that the loss does not depend on w",
        "(x+1)^2-x^2-2x-1": "0 would say that the loss does not depend on w",
        "2x(wx+y)": "the residual is ŷ − y, and not ŷ + y",
        "x(wx+y)": "the residual is ŷ − y, and not ŷ + y",
        "x(wx-y)^2": "the square is kept",
        "2x(wx-y)+1/1000": "at x = 2, y = 3, w = 5 it is 28001/1000, and the right one 28",
        "1/(x-2)": "at x = 3, y = 2, w = 5 it is 1, and the right one 78",
    },
    ("bias", "w"): {
        "2x(wx-y)": "b is missing in ŷ = w·x + b",
        "2x(b-y)": "w·x is missing in ŷ = w·x + b",
        "2wx+b-y": "a bracket is lost: 2x multiplies all of ŷ − y",
        "2x*w*x+b-y": "a bracket is lost",
        "2x(wx+b)": "at x = 2, y = 3, w = 5, b = 7 it is 68, and the right one 56",
    },
    ("bias", "b"): {"2x(wx+b-y)": "a factor x is too many: this is ∂loss/∂w"},
    ("parabola", "w2"): {
        "2x(x²w2+xw1+b-y)": "a factor x is missing: this is ∂loss/∂w1",
        "2(x²w2+xw1+b-y)": "the chain rule's factor x² is missing: this is ∂loss/∂b",
        "2x²": "the factor (ŷ − y) is missing",
        "2x²w2+xw1+b-y": "a bracket is lost: 2x² multiplies all of ŷ − y",
        "2x²x²w2+xw1+b-y": "a bracket is lost: 2x² multiplies all of ŷ − y",
        "2x²(x²w2+xw1-y)": "b is missing in ŷ = x²·w2 + x·w1 + b",
        "2x²(xw1-y)": "b and w2·x² are missing in ŷ",
        "2x²(xw1+b-y)": "w2·x² is missing in ŷ",
        "2x²(x²w2+xw1+b-y)²": "the square is kept",
        "4x(x²w2+xw1+b-y)": "x² was differentiated by x, to 2x: for w2 it is a constant factor",
        "2(2xw2+w1)(x²w2+xw1+b-y)": "this is the derivative by x, which is given",
        "2x²(x²w2+xw1+b+y)": "the residual is ŷ − y, and not ŷ + y",
        "x²(ŷ-y)": "a factor 2 is missing",
        "w2": "at x = 2, ",
    },
    ("parabola", "w1"): {
        "2w1(x²w2+xw1+b-y)": "a factor x is missing; a factor w1 is too many",
        "2x(w1x-y)": "b and w2·x² are missing in ŷ",
        "2x": "the factor (ŷ − y) is missing",
        "2x(ŷ-y)²": "the square is kept",
    },
    ("parabola", "b"): {
        "2": "the factor (ŷ − y) is missing",
        "2(x²w2+xw1-y)": "b is missing in ŷ",
        "2x²(x²w2+xw1+b-y)": "a factor x² is too many: this is ∂loss/∂w2",
        "x²w2+xw1+b-y": "a factor 2 is missing: this is ŷ − y, the residual",
    },
    ("exponential", "a"): {
        "exp(kx)": "this is ∂ŷ/∂a, without the outer derivative",
        "2exp(kx)(a*exp(x)-y)": "at x = 2, y = 3, a = 5, k = 7 it is ",
    },
    ("exponential", "k"): {
        "2(a*exp(kx)-y)": "the chain rule's factor a·x·exp(k·x) is missing",
        "2a*exp(kx)*(a*exp(kx)-y)": "a factor x is missing",
    },
    ("root", "w"): {"sqrt(-x^2)": "it is no number where the right one is"},
}


@pytest.mark.parametrize(
    ("model", "name", "answer"), [(*of, a) for of, some in RIGHT.items() for a in some.split("|")]
)
def test_right_in_any_form(model: str, name: str, answer: str) -> None:
    derivation = DERIVATIONS[model]
    assert judge(derivation, name, parse(answer, derivation)) == ""


@pytest.mark.parametrize(
    ("model", "name", "answer", "hint"),
    [(*of, answer, hint) for of, hints in WRONG.items() for answer, hint in hints.items()],
)
def test_wrong_with_a_hint(model: str, name: str, answer: str, hint: str) -> None:
    derivation = DERIVATIONS[model]
    assert judge(derivation, name, parse(answer, derivation)).startswith(hint)


NOT_UNDERSTOOD = {
    "__import__": "__import__('os').system('touch pwned')", "eval": "eval('1')", "'": "'x'",
    "lambda": "(lambda: x)()", ".": "x.__class__.__mro__", ":": "x:=2",
    "if": "x if x else y", "=": "x==y", ";": "x;y", "f": "f(x)", "exp": "exp(x)", "e999": "1e999",
    "\x00": "x\x00",
}  # fmt: skip
NAMED = {
    "х": "CYRILLIC SMALL LETTER HA", "2∗x": "ASTERISK OPERATOR", "x\u200by": "ZERO WIDTH SPACE",
    "٢x": "ARABIC-INDIC DIGIT TWO",
}  # fmt: skip
HOSTILE: dict[str, str] = {
    **{answer: f"{word!r} is not understood" for word, answer in NOT_UNDERSTOOD.items()},
    **{a: f"{a.strip('2xy')!r} ({name}) is not understood" for a, name in NAMED.items()},
    **dict.fromkeys(["", "2*", "*2", "2(x", "2x)", "(" * 150 + "x" + ")" * 149], "it is no form"),
    **dict.fromkeys(["1/0", "1/(x-x)", "0/0"], "it divides by 0"),
    **dict.fromkeys(["x^-101", "(x^0)^101"], "a degree of 101: the highest is 100"),
    "9**9**9": "the power '9 ** 9' is no integer: write x^2",
    "x()": "'()' is not expected there",
    "2 2x": "'2' follows without a sign: write ^ or * before it",
    "x" * 101: "a degree of 101: the highest is 100",
    "x^999999999999": "a degree of 999999999999: the highest is 100",
    "((9^9)^9)^9": "a degree of 729: the highest is 100",
    "(" * 5 + "x^0+x^0" + ")^99" * 5: "a degree of 9509900499: the highest is 100",
    "x^y": "the power 'y' is no integer",
    "x^1.5": "the power '1.5' is no integer",
    "x^" + "0" * 30 + "101": "a degree of 101: the highest is 100",
    "-" * 10_000 + "x": "10001 characters: an answer has at most 300",
    "x2": "'x2' is ambiguous: write x^2 for a power and 2*x for a product",
}
# Functions are the model's own, and only of what has none.
FOREIGN = {
    ("root", "exp(x)"): "'exp' is not understood",
    ("exponential", "sqrt(x)"): "'sqrt' is not understood",
    ("exponential", "exp(exp(x))"): "exp of a function: ",
    ("exponential", "exp exp x"): "it is no formula",
    ("exponential", "exp+x"): "'exp' is not expected there",
}


RUNS = {"compile", "exec", "import", "open", "os.system", "subprocess.Popen", "marshal.loads"}
# All that Python's parser, whose event is compile too, is ever given; it runs nothing.
TOLD = re.compile(rb"(?:'(?:[a-z]|-?[0-9.]+)'|exp|[-+*/()]|\*\*| )*")


@dataclass
class Watch:
    """While it is `on`, what runs is noted: a hook of Python's own stays for good."""

    on: bool = False
    seen: set[str] = field(default_factory=set)

    def __call__(self, event: str, details: Any) -> None:
        if self.on and event in RUNS:
            told = event == "compile" and TOLD.fullmatch(details[0])
            self.seen |= set() if told else {event}


WATCH = Watch()
sys.addaudithook(WATCH)


@contextmanager
def watched() -> Iterator[set[str]]:
    """What runs within it."""
    WATCH.on, WATCH.seen = True, set()
    try:
        yield WATCH.seen
    finally:
        WATCH.on = False


@pytest.mark.parametrize(
    ("model", "answer", "reason"),
    [*(("line", *row) for row in HOSTILE.items()), *((*of, why) for of, why in FOREIGN.items())],
)
def test_what_is_no_answer_is_refused_and_nothing_runs(
    model: str, answer: str, reason: str
) -> None:
    with suppress(ValueError):  # sympy imports some of its parts at their first use
        parse(answer, DERIVATIONS[model])
    start = time.process_time()
    with watched() as ran:
        try:
            parse(answer, DERIVATIONS[model])
        except ValueError as error:
            message = str(error)
    assert time.process_time() - start < 1
    assert not ran
    assert message.startswith(reason)
    assert "\n" not in message
    assert len(message) < 200


def test_the_audit_would_notice() -> None:
    with watched() as ran:
        eval("1")
    assert ran == {"compile", "exec"}


def test_a_parameter_may_have_any_name() -> None:
    """A keyword of Python's, one with a point, one that Python would take for another."""
    names = ["lambda", "inner.q", "ﬁ", "e"]
    weights = {name: sympy.Symbol(name) for name in names}
    derivation = replace(DERIVATIONS["exponential"], weights=weights)
    for name in names:
        assert parse(f"2{name}", derivation) == 2 * weights[name]
    assert parse("exp(x)", derivation) == parse("exp(x)", DERIVATIONS["exponential"])


def test_the_largest_answers_are_judged_quickly() -> None:
    """What the grammar lets pass cannot be expanded, and need not be."""
    derivation = DERIVATIONS["parabola"]
    start = time.process_time()
    for answer in (
        "(x+y+w2+w1+b)^90/(x-y+w2-w1+b)^9",
        "((((x+y)^3+w2)^3+w1)^3+b)^3",
        "+".join(f"1/(x+{n}y+b)^9" for n in range(20)),
        "9" * 100,
        "(" * 149 + "x" + ")" * 149,
        "-" * 299 + "x",
    ):
        assert 0 < len(judge(derivation, "w2", parse(answer, derivation))) < 200
    assert time.process_time() - start < 10


NUMBERS = st.integers(0, 99).map(str)
FORMULAS = st.recursive(
    st.one_of(NUMBERS, st.sampled_from(["x", "y", "w"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(inner, st.integers(0, 3)).map(lambda t: f"({t[0]})^{t[1]}"),
        inner.map(lambda f: f"(-{f})"),
    ),
    max_leaves=8,
)


@given(FORMULAS, st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9))
def test_reads_what_python_reads(formula: str, x: int, y: int, w: int) -> None:
    """Where signs are explicit, the grammar is Python's; here it may evaluate what we wrote."""
    derivation = DERIVATIONS["line"]
    point = dict(zip(derivation.symbols.values(), (x, y, w), strict=True))
    try:
        found = parse(formula, derivation)
    except ValueError:  # of too high a degree
        assert "^" in formula
        return
    expected = eval(formula.replace("^", "**"), {"x": x, "y": y, "w": w})
    assert found.xreplace(point) == expected


@given(FORMULAS)
def test_a_formula_is_itself_and_not_its_double(formula: str) -> None:
    derivation = DERIVATIONS["line"]
    right = "2x(wx-y)"
    try:
        same = parse(f"{right}+({formula})-({formula})", derivation)
        other = parse(f"{right}+1+({formula})^2", derivation)
    except ValueError:
        return
    assert judge(derivation, "w", same) == ""
    assert judge(derivation, "w", other) != ""


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    derivation = DERIVATIONS["line"]
    try:
        answer = parse(text, derivation)
    except ValueError:
        return
    judge(derivation, "w", answer)


# Names that learners write, and what programs call x, y and ŷ.
NAMES = [
    "2*x*(y_pred-y)", "2x(y_hat-y)", "2*x_val*(forward(x_val)-y_val)",
    "2*x_data*(w*x_data-y_data)", "2X(w*X-y)", "2x_i(w x_i-y_i)", "2*x_n*(x_n*w-y_n)",
    r"2x_{i}\left(\hat{y}_i-y_i\right)", r"2 x_n (\hat{y}-y_n)", "2*x*(forward(x) - y),",
    "2x(wx−y).",
]  # fmt: skip


@pytest.mark.parametrize("answer", NAMES)
def test_names_that_learners_use(answer: str) -> None:
    derivation = DERIVATIONS["line"]
    assert judge(derivation, "w", parse(answer, derivation)) == ""


@pytest.mark.parametrize("answer", [
    "1/N Σ 2x(wx-y)", r"\frac{1}{N} \sum 2x(wx-y)", "(2x(wx-y)).mean()", "∑ 2x(wx-y)",
])  # fmt: skip
def test_a_sum_over_samples_is_not_asked_for(answer: str) -> None:
    with pytest.raises(ValueError, match="^give it for one sample, without a sum and without 1/N"):
        parse(answer, DERIVATIONS["line"])


@pytest.mark.parametrize("head", [
    "w = ", "∂loss/∂w = ", r"\frac{\partial \mathcal{L}}{\partial w} = ", "∇_w = ", "dL/dw = ",
])  # fmt: skip
def test_what_an_answer_begins_with(head: str) -> None:
    derivation = DERIVATIONS["line"]
    name, formula = assignment(f"{head}2x(ŷ-y)", derivation.weights)
    assert name == "w"
    assert judge(derivation, name, parse(formula, derivation)) == ""


def test_a_parameter_called_as_a_learner_calls_x_is_that_parameter() -> None:
    for name in ("X", "mean"):
        w, x = sympy.symbols(f"{name} x", real=True)
        derivation = Derivation({name: w}, w * x, {name: x})
        assert judge(derivation, name, parse(f"2x({name}*x-y)", derivation)) == ""
