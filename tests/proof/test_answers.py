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
from answers import DERIVATIONS, FOREIGN, HEADS, HOSTILE, LEARNERS, RIGHT, SIDES, SUMS, WRONG
from hypothesis import given
from hypothesis import strategies as st

from torchgd.proof.answers import judge, judge_each, parse
from torchgd.proof.notations import assignment
from torchgd.proof.symbols import Derivation


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


@pytest.mark.parametrize("answer", LEARNERS)
def test_names_that_learners_use(answer: str) -> None:
    derivation = DERIVATIONS["line"]
    assert judge(derivation, "w", parse(answer, derivation)) == ""


@pytest.mark.parametrize(("answer", "hint"), SIDES.items())
def test_each_side_of_an_answer_is_judged(answer: str, hint: str) -> None:
    assert judge_each(DERIVATIONS["line"], "w", answer) == hint


def test_a_side_that_is_missing_is_no_formula() -> None:
    with pytest.raises(ValueError, match="^it is no formula"):
        judge_each(DERIVATIONS["line"], "w", "2x(ŷ − y) =")


@pytest.mark.parametrize("answer", SUMS)
def test_a_sum_over_samples_is_not_asked_for(answer: str) -> None:
    with pytest.raises(ValueError, match="^give it for one sample, without a sum and without 1/N"):
        parse(answer, DERIVATIONS["line"])


@pytest.mark.parametrize("head", HEADS)
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
