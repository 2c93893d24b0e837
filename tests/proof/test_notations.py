"""What people write is read as they mean it, in whatever notation."""

import time
from typing import Any

import pytest
from answers import DERIVATIONS, NOTATIONS

from torchgd.proof.answers import judge, parse
from torchgd.proof.latex import latex
from torchgd.proof.notations import as_learners_write, assignment, notation, plain
from torchgd.proof.symbols import Derivation

LINE, EXPONENTIAL = DERIVATIONS["line"], DERIVATIONS["exponential"]
EACH = [
    pytest.param(DERIVATIONS[model], text.strip(), id=f"{kind}: {text.strip()}")
    for kind, (model, texts) in NOTATIONS.items()
    for text in texts.split("|")
]


def judged(derivation: Derivation, text: str) -> str:
    name, formula = assignment(text, derivation.weights)
    return judge(derivation, name, parse(formula, derivation))


@pytest.mark.parametrize(("derivation", "text"), EACH)
def test_a_right_answer_is_right_and_its_double_is_not(derivation: Derivation, text: str) -> None:
    name, formula = assignment(text, derivation.weights)
    answer = parse(formula, derivation)
    assert judge(derivation, name, answer) == ""
    assert judge(derivation, name, 2 * answer) == "a factor 2 is too many"


@pytest.mark.parametrize("derivation", [d for name, d in DERIVATIONS.items() if name != "root"])
@pytest.mark.parametrize(("write", "head"), [
    (notation, "∂loss/∂%s"), (latex, r"\frac{\partial\,\text{loss}}{\partial %s}"),
])  # fmt: skip
def test_what_is_printed_is_read(derivation: Derivation, write: Any, head: str) -> None:
    for name, w in derivation.weights.items():
        right = derivation.loss_derivative(derivation.partials[name])
        assert judged(derivation, f"{head % write(w)} = {write(right)}") == ""


def test_a_command_that_begins_as_a_fraction_does_is_a_name() -> None:
    assert plain(r"2\fractal x").split() == ["2fractal", "x"]
    assert plain(r"\frac ab") == "((a)/(b))"


def test_ln_is_log() -> None:
    assert as_learners_write(r"\ln(x) + 2ln x - lnx", ["x"]) == "log(x) + 2log x - lnx"


def test_of_two_names_the_longer_is_answered() -> None:
    assert assignment("a=b=2x", ["a", "a=b"]) == ("a=b", "2x")
    assert assignment("a=2x", ["a", "a=b"]) == ("a", "2x")


def test_a_mixed_number_is_a_sum() -> None:
    assert plain("2½x") == "(2+1/2)x"
    assert judged(LINE, "2½x(wx-y)") == "a factor 5/4 is too many"


NINES = "9" * 280
HOSTILE = {
    f"a=exp({NINES}^100)": "a degree of 28000: the highest is 100",
    f"a={NINES}^100": "a degree of 28000",
    f"a={NINES}": "a degree of 280",
    "a=exp(99^51)": "a degree of 102",
    "a=exp(x)^101": "a degree of 101",
    "a=exp(exp(x))": "exp of a function",
    "a=exp(ŷ)": "exp of a function",
    "a=ŷ^40": "a degree of 120",
    "a=((x+1)^9)^12": "a degree of 108",
    "a=" + "+".join(f"1/(x+{n})^90" for n in range(1, 22)): "a degree of 181",
    r"a=\frac{2}{": "after \\frac there is no whole group: '{'",
    r"a=\frac": "after \\frac there is no whole group: ''",
    "a=" + "\\frac{" * 40: "after \\frac there is no whole group",
    r"a=\input{/etc/passwd}": "'input' is not understood",
    r"a=\href{x}{y}": "'href' is not understood",
    "a=2x[ax-y)": "it is no formula (')' closes nothing): check its brackets",
    "a=2x(ax-y))": "it is no formula (')' closes nothing): check its brackets",
    "a=2x(ax-y": "it is no formula (')' is missing)",
    "a=" + "e^" * 100 + "x": "it is no formula",
    "a=x=x": "'=' is not understood",
    "a=e^": "'exp' is not expected there",
    "q=2x": "'q' is none of the parameters, a, k",
    "2x": "of which parameter? begin with one of a=, k=",
    "a=x{": "it is no formula ('}' is missing)",
}
# Each is small enough to be judged, and its numbers are not.
LARGE = ("exp(9^99)", "exp(-9^99)", "exp(x^99)", "exp(9^99)-exp(9^98)", "exp(1/(x-300/97))",
         "(exp(x)+exp(y)+exp(a)+exp(k))^20", "exp(9^40)/exp(9^39)")  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), HOSTILE.items(), ids=[t[:20] for t in HOSTILE])
def test_hostile_ones_are_refused_at_once(text: str, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=r"^") as refused:
        judged(EXPONENTIAL, text)
    assert time.process_time() - start < 1
    assert str(refused.value).startswith(reason)
    assert len(str(refused.value)) < 200


def test_a_factor_of_1_and_a_30th_digit_is_wrong() -> None:
    derivation = LINE
    for digits, right in (("2." + "0" * 30, True), ("2." + "0" * 29 + "1", False)):
        assert (judge(derivation, "w", parse(f"{digits}x(wx-y)", derivation)) == "") is right


@pytest.mark.parametrize("text", LARGE)
def test_huge_numbers_are_wrong_at_once(text: str) -> None:
    start = time.process_time()
    assert judged(EXPONENTIAL, f"a={text}") != ""
    assert time.process_time() - start < 10  # without a bound it took over 40, or all memory
