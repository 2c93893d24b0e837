"""A learner's derivative is judged rightly, and is never run."""

import re
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import sympy
from helpers import MODELS, Exponential
from hypothesis import given
from hypothesis import strategies as st

from torchgd.proof.answers import judge, parse
from torchgd.proof.symbols import Derivation, derive

x, y, w = sympy.symbols("x y w", real=True)
DERIVATIONS: dict[str, Derivation] = {
    "line": derive(MODELS["linear"]()),
    "bias": derive(MODELS["linear with bias"]()),
    "parabola": derive(MODELS["quadratic"]()),
    "exponential": derive(Exponential()),
    "root": Derivation(x, y, {"w": w}, w * sympy.sqrt(x), {"w": sympy.sqrt(x)}),
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
WRONG = [
    ("line", "w", "x(wx-y)", "a factor 2 is missing"),
    ("line", "w", "4x(wx-y)", "a factor 2 is too many"),
    ("line", "w", "2x(y-wx)", "the sign is reversed"),
    ("line", "w", "-x(wx-y)", "the sign is reversed; a factor 2 is missing"),
    ("line", "w", "3x(wx-y)", "a factor 3/2 is too many"),
    ("line", "w", "2(wx-y)", "the chain rule's factor x is missing: this is ∂loss/∂ŷ, without"),
    ("line", "w", "2x²(wx-y)", "a factor x is too many"),
    ("line", "w", "2w(wx-y)", "a factor x is missing; a factor w is too many"),
    ("line", "w", "2wx(wx-y)", "a factor w is too many"),
    ("line", "w", "wx-y", "the chain rule's factor x is missing; a factor 2 is missing"),
    ("line", "w", "x", "this is ∂ŷ/∂w, without the outer derivative 2(ŷ − y)"),
    ("line", "w", "(wx-y)^2", "this is the loss itself"),
    ("line", "w", "wx", "this is ŷ, the prediction"),
    ("line", "w", "0", "0 would say that the loss does not depend on w"),
    ("line", "w", "2x(wx)", "at x = 2, y = 3, w = 5 it is 40, and the right one 28"),
    ("line", "w", "2x(wx+y)", "at x = 2, y = 3, w = 5 it is 52, and the right one 28"),
    ("line", "w", "2xw-y", "at x = 2, y = 3, w = 5 it is 17, and the right one 28"),
    ("line", "w", "2x(w-y)", "at x = 2, y = 3, w = 5 it is 8, and the right one 28"),
    ("line", "w", "2x(wx-y)+1/1000", "at x = 2, y = 3, w = 5 it is 28001/1000, and the"),
    ("line", "w", "1/(x-2)", "at x = 3, y = 2, w = 5 it is 1, and the right one 78"),
    ("bias", "b", "2x(wx+b-y)", "a factor x is too many: this is ∂loss/∂w"),
    ("bias", "w", "2x(wx-y)", "at x = 2, y = 3, w = 5, b = 7 it is 28, and the right one 56"),
    ("parabola", "w2", "2x(x²w2+xw1+b-y)", "a factor x is missing: this is ∂loss/∂w1"),
    ("parabola", "w2", "2(x²w2+xw1+b-y)", "the chain rule's factor x² is missing: this is ∂loss"),
    ("parabola", "w2", "x²(x²w2+xw1+b-y)", "a factor 2 is missing"),
    ("parabola", "w2", "-2x²(x²w2+xw1+b-y)", "the sign is reversed"),
    ("parabola", "w2", "2x²", "at x = 2, y = 3, w2 = 5, w1 = 7, b = 11 it is 8, and the right"),
    ("parabola", "w2", "2x^4*w2", "at x = 2, y = 3, w2 = 5, w1 = 7, b = 11 it is 160, and"),
    ("parabola", "b", "2x²(x²w2+xw1+b-y)", "a factor x² is too many: this is ∂loss/∂w2"),
    ("parabola", "b", "x²w2+xw1+b-y", "a factor 2 is missing: this is ŷ − y, the residual"),
    ("parabola", "w1", "2w1(x²w2+xw1+b-y)", "a factor x is missing; a factor w1 is too many"),
    ("root", "w", "sqrt(-x^2)", "it is no number where the right one is"),
    ("exponential", "k", "2(a*exp(kx)-y)", "the chain rule's factor a·x·exp(k·x) is missing"),
    ("exponential", "k", "2a*exp(kx)*(a*exp(kx)-y)", "a factor x is missing"),
    ("exponential", "a", "exp(kx)", "this is ∂ŷ/∂a, without the outer derivative"),
    ("exponential", "a", "2exp(kx)(a*exp(x)-y)", "at x = 2, y = 3, a = 5, k = 7 it is "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name", "answer"), [(*of, a) for of, some in RIGHT.items() for a in some.split("|")]
)
def test_right_in_any_form(model: str, name: str, answer: str) -> None:
    derivation = DERIVATIONS[model]
    assert judge(derivation, name, parse(answer, derivation)) == (True, "")


@pytest.mark.parametrize(("model", "name", "answer", "hint"), WRONG)
def test_wrong_with_a_hint(model: str, name: str, answer: str, hint: str) -> None:
    derivation = DERIVATIONS[model]
    right, found = judge(derivation, name, parse(answer, derivation))
    assert not right
    assert found.startswith(hint)


NOT_UNDERSTOOD = [
    ("__import__", "__import__('os').system('touch pwned')"), ("eval", "eval('1')"),
    ("exec", "exec(x)"), ("open", "open(x)"), ("lambda", "lambda: x"), ("lambda", "(lambda: x)()"),
    (".", "x.__class__.__mro__"), (".", "x.real"), ("[", "x[0]"), ("[", "[x for x in (1,2)]"),
    ("{", "{x}"), ("if", "x if x else y"), (":", "x:=2"), ("=", "x==y"), (";", "x;y"),
    ("\\", "x\\ny"), ("'", "'x'"), ("f", "f(x)"), ("exp", "exp(x)"), ("e999", "1e999"),
    ("\x00", "x\x00"),
]  # fmt: skip
NAMED = {
    "х": "CYRILLIC SMALL LETTER HA", "ｘ": "FULLWIDTH LATIN SMALL LETTER X",
    "2∗x": "ASTERISK OPERATOR", "x\u200by": "ZERO WIDTH SPACE", "٢x": "ARABIC-INDIC DIGIT TWO",
    "🙂": "SLIGHTLY SMILING FACE",
}  # fmt: skip
HOSTILE: dict[str, str] = {
    **{answer: f"{word!r} is not understood" for word, answer in NOT_UNDERSTOOD},
    **{a: f"{a.strip('2xy')!r} ({name}) is not understood" for a, name in NAMED.items()},
    **dict.fromkeys(["9**9**9", "9^9^9^9"], "'^' is not expected there"),
    **dict.fromkeys(["x^-101", "x" * 200, "(x^0)^101"], "a degree of 101: the highest is 100"),
    **dict.fromkeys(["(" * 10_240, "(" * 5_120 + ")" * 5_120], "10240 characters: an answer has"),
    **dict.fromkeys(["", "2*"], "it ends too early"),
    **dict.fromkeys(["1/0", "1/(x-x)", "0/0"], "it divides by 0"),
    "x 2": "'2' follows without a sign",
    "2 3": "'3' follows without a sign",
    "0x10(y)": "'x10' is ambiguous",
    "(wx-y)2x": "'2' follows without a sign: write ^ or * before it",
    "x^999999999999": "a degree of 999999999999: the highest is 100",
    "((((9^9)^9)^9)^9)": "a degree of 729: the highest is 100",
    "(x^50)^50": "a degree of 2500: the highest is 100",
    "(" * 5 + "x^0+x^0" + ")^99" * 5: "a degree of 9801: the highest is 100",
    "x^y": "the power 'y' is no integer",
    "x^1.5": "the power '1.5' is no integer",
    "x^": "the power '' is no integer",
    "(" * 150 + "x" + ")" * 149: "more than 30 parentheses within each other",
    "-" * 10_000 + "x": "10001 characters: an answer has at most 300",
    "2(x": "a parenthesis is not closed",
    "2x)": "')' is not expected there",
    "*2": "'*' is not expected there",
    "x2": "'x2' is ambiguous: write x^2 for a power and 2*x for a product",
}


EVENTS: list[tuple[str, Any]] = []
sys.addaudithook(lambda event, details: EVENTS.append((event, details)))
RUNS = {"compile", "exec", "import", "open", "os.system", "subprocess.Popen", "marshal.loads"}
# All that Python's parser, whose event is compile too, is ever given; it runs nothing.
TOLD = re.compile(rb"(?:'(?:x|y|w|-?[0-9.]+)'|[-+*/()]|\*\*| )+")


def ran() -> set[str]:
    """What ran since EVENTS was cleared."""
    return {
        event
        for event, details in EVENTS
        if event in RUNS and not (event == "compile" and TOLD.fullmatch(details[0]))
    }


@pytest.mark.parametrize(("answer", "reason"), HOSTILE.items())
def test_hostile_strings_are_refused_and_nothing_runs(answer: str, reason: str) -> None:
    start = time.perf_counter()
    EVENTS.clear()
    try:
        parse(answer, DERIVATIONS["line"])
    except ValueError as error:
        events, message = ran(), str(error)
    assert time.perf_counter() - start < 1
    assert not events
    assert message.startswith(reason)
    assert "\n" not in message
    assert len(message) < 200


def test_the_audit_would_notice() -> None:
    EVENTS.clear()
    eval("1")
    assert ran() == {"compile", "exec"}


def test_functions_are_the_models_own() -> None:
    for name, model in (("exp", "root"), ("sqrt", "exponential"), ("sin", "exponential")):
        with pytest.raises(ValueError, match=f"^'{name}' is not understood"):
            parse(f"{name}(x)", DERIVATIONS[model])
    misplaced = "^'exp' is not expected there$"
    reasons = {"exp(exp(x))": "^exp of a function: ", "exp exp x": misplaced, "exp+x": misplaced}
    for answer, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            parse(answer, DERIVATIONS["exponential"])


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
    start = time.perf_counter()
    for answer in (
        "(x+y+w2+w1+b)^90/(x-y+w2-w1+b)^9",
        "((((x+y)^3+w2)^3+w1)^3+b)^3",
        "+".join(f"1/(x+{n}y+b)^9" for n in range(20)),
        "9" * 300,
        "(" * 30 + "x" + ")" * 30,
        "-" * 299 + "x",
    ):
        right, hint = judge(derivation, "w2", parse(answer, derivation))
        assert not right
        assert len(hint) < 200
    assert time.perf_counter() - start < 10


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
    point = {derivation.x: x, derivation.y: y, derivation.weights["w"]: w}
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
    assert judge(derivation, "w", same) == (True, "")
    assert not judge(derivation, "w", other)[0]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    derivation = DERIVATIONS["line"]
    try:
        answer = parse(text, derivation)
    except ValueError:
        return
    judge(derivation, "w", answer)
