"""The page to play with: your own derivative, and classic mistakes, beside the right descent."""

import json
import re
from pathlib import Path

import pytest
import train
from answers import DERIVATIONS, HEADS, HOSTILE, LEARNERS, NOTATIONS, RIGHT, SIDES, SUMS, WRONG
from helpers import Shell, shell_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import ONE_RUN, click, of, opened, said, state, steps, type_in
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from torchgd import train as train_model
from torchgd.figures.runs import read_runs
from torchgd.proof.answers import judge_each
from torchgd.proof.mistakes import MISTAKES
from torchgd.proof.notations import assignment

pytestmark = pytest.mark.processes
trained = shell_of(train.main, *ONE_RUN)


def answers_to(model: str) -> list[str]:
    """Each answer of tests/answers.py that is about this model, after the weight's name."""
    tables = [(of, text.split("|")) for of, text in RIGHT.items()]
    tables += [(of, [*texts]) for of, texts in WRONG.items()]
    tables += [(("line", "w"), [*HOSTILE, *LEARNERS, *SIDES, *SUMS, "ŷ^50", "ŷ^51"])]
    given = [f"{w}={text}" for (of, w), texts in tables if of == model for text in texts]
    given += [f"{head}2x(ŷ-y)" for head in HEADS if model == "line"]
    notations = [texts.split("|") for of, texts in NOTATIONS.values() if of == model]
    return given + [t if "=" in t else f"w={t}" for texts in notations for t in texts]


def judged(model: str, answer: str) -> str:
    """What derive.py says of an answer, as the page says it."""
    derivation = DERIVATIONS[model]
    try:
        name, formula = assignment(answer, derivation.weights)
        hint = judge_each(derivation, name, formula)
    except ValueError as error:
        return f"✗ {error}"
    return f"✗ ∂loss/∂{name}: wrong: {hint}" if hint else f"✓ ∂loss/∂{name}: right"


PIECES = st.sampled_from([
    *"x y ŷ w w2 w_1 w₂ b 2 3 ½ x² x^2 ( ) + - − * · / ** ^ 2x wx x_i y_val X = 0 1.5 [ ]".split(),
    *"x-y (wx-y) forward(x) ^{2} ² q , ln -1 y_pred".split(),
    r"\frac{1}{2}", r"\cdot", r"\left(", " ",
])  # fmt: skip


@pytest.mark.parametrize(("model", "flags"), [
    ("line", ""), ("bias", "--bias"), ("parabola", "--model quadratic"),
])  # fmt: skip
def test_an_answer_is_judged_in_the_words_of_derive(
    trained: Shell, browser: Chrome, model: str, flags: str
) -> None:
    """Each of the table, and 100 put together at random; a character's name it has not."""
    trained(*flags.split(), "--epochs", "1")
    opened(browser, "runs/a/manual")
    names = st.sampled_from([*DERIVATIONS[model].weights])
    made: list[str] = []

    @settings(max_examples=100, database=None)
    @given(names, st.lists(PIECES, min_size=1, max_size=9))
    def make(name: str, pieces: list[str]) -> None:
        made.append(f"{name}={''.join(pieces)}")

    make()
    given_ones = answers_to(model) + made
    found = state(browser, f"{json.dumps(given_ones)}.map((text) => answered(text).said)")
    assert len(found) > 100
    for answer, words in zip(given_ones, found, strict=True):
        expected = judged(model, answer)
        assert nameless(words) == nameless(expected), answer


def nameless(words: str) -> str:
    """Without ('х' (CYRILLIC SMALL LETTER HA), of which the page says U+0445)."""
    return re.sub(r" \([^()]*\) is not understood", " is not understood", words)


def test_ones_own_derivative_beside_the_right_one(page: Chrome) -> None:
    type_in(page, "own", "2(w·x − y)")
    assert said(page, "own-said") == judged("line", "w=2(w·x − y)")
    click(page, "use-own", "step", "step")
    right, own = 1.02 + 0.0784, 1.02 - 0.01 * 2 * (1.02 * 2 - 4)
    assert state(page, "[now().w[0], otherNow().w[0]]") == pytest.approx([right, own])
    assert "yours: ∂loss/∂w = 2(w·x − y) = −3.92, w = 1.0592, 0.0392 apart" in said(page)
    for chart in ("loss", "fit", "curve"):
        assert page.find_elements(By.CSS_SELECTOR, f"#{chart} path.other")
    type_in(page, "own", "2(w·x")  # is no formula
    assert state(page, "state.other") is None
    type_in(page, "own", "2x(w·x − y)")
    click(page, "step")
    assert "the same bits" in said(page)
    click(page, "reset")
    assert not of(page, "use-own").is_selected()
    assert state(page, "state.other") is None


def test_an_answer_says_of_which_weight_it_is(trained: Shell, browser: Chrome) -> None:
    trained("--model", "quadratic", "--epochs", "1")
    opened(browser, "runs/a/manual")
    type_in(browser, "own", "2x(ŷ − y)")
    assert said(browser, "own-said") == judged("parabola", "w2 = 2x(ŷ − y)")
    type_in(browser, "own", "w1 = 2x(ŷ − y)")
    assert said(browser, "own-said") == "✓ ∂loss/∂w1: right"
    assert of(browser, "of").get_attribute("value") == "1"
    for name in ("quadratic", "constructor"):
        type_in(browser, "own", f"{name} = 2x(ŷ − y)")
        assert said(browser, "own-said") == f"✗ {name!r} is none of the parameters, w2, w1, b"


@pytest.mark.parametrize("answer", [
    "w2 = 2x²(ŷ − y)", "w1 = x/0.5·(ŷ − y)", "b = −(y − ŷ)·4/2", "w1 = 2x(x²w2 + xw1 + b − y)",
])  # fmt: skip
def test_a_right_derivative_descends_as_the_right_one(
    trained: Shell, browser: Chrome, answer: str
) -> None:
    """In batches, of which it is the mean; the other weights have their own."""
    trained("--model", "quadratic", "--batch-size", "4", "--epochs", "1")
    opened(browser, "runs/a/manual")
    type_in(browser, "own", answer)
    click(browser, "use-own")
    steps(browser, 6)
    assert state(browser, "otherNow().w") == pytest.approx(state(browser, "now().w"), rel=1e-9)


def test_there_is_one_other_descent_or_none(page: Chrome) -> None:
    """A mistake takes the place of your own derivative, and the other way round."""
    other = "state.other && state.other.title"
    type_in(page, "own", "2(w·x − y)")
    click(page, "use-own")
    assert state(page, other) == "yours"
    Select(of(page, "mistake")).select_by_visible_text("half")
    assert not of(page, "use-own").is_selected()
    assert state(page, other) == "half"
    click(page, "use-own")
    assert of(page, "mistake").get_attribute("value") == said(page, "mistake-said") == ""
    assert state(page, other) == "yours"
    click(page, "use-own")
    assert state(page, other) is None


def test_both_descents_go_back(page: Chrome) -> None:
    Select(of(page, "mistake")).select_by_visible_text("half")
    before = state(page, "otherNow().w")
    click(page, "step", "back")
    assert state(page, "otherNow().w") == before


def test_how_far_apart_two_weights_are(page: Chrome) -> None:
    Select(of(page, "mistake")).select_by_visible_text("half")
    click(page, "step")
    for by, words in {
        "0": "the same bits", "2 ** -52": "1 ULP apart", "2 ** -51": "2 ULPs apart",
        "0.5": "0.5 apart",
    }.items():  # fmt: skip
        state(page, f"otherNow().w[0] = now().w[0] + {by}")
        assert state(page, "otherSaid()")[0].endswith(f", {words}")


def test_the_loss_of_the_last_batch_has_a_curve_of_its_own(page: Chrome) -> None:
    """Each step's own, and not the mean over all samples."""
    Select(of(page, "mistake")).select_by_visible_text("last-batch-loss")
    steps(page, 4)
    drawn = "['other', 'model'].map((kind) => document.querySelector(`#curve path.${kind}`)"
    other, right = state(page, f"{drawn}.getAttribute('d'))")
    assert other != right
    reported = state(page, "state.others.slice(0, 4).map(state.other.change.reports)")
    assert reported == state(page, "state.history.slice(1).map((s) => s.before.loss)")


def test_the_triangle_is_where_the_other_descent_is(page: Chrome) -> None:
    Select(of(page, "mistake")).select_by_visible_text("sum")
    Select(of(page, "batch")).select_by_visible_text("all 3")
    click(page, "step")
    low, high = state(page, "view.i")
    tip = state(page, "document.querySelector('#loss path.other.mark').getAttribute('d')")
    there = 62 + (state(page, "otherNow().w[0]") - low) / (high - low) * (384 - 62)
    assert float(tip[1:].split()[0]) == pytest.approx(there, abs=0.01)


def test_the_answer_is_hidden_until_it_is_found_or_asked_for(page: Chrome) -> None:
    click(page, "step")
    hidden, shown = "∂loss/∂w = −2\n", "∂loss/∂w = 2x(w·x − y) = 2·1·(1·1 − 2) = −2\n"
    assert said(page).startswith(hidden)
    click(page, "formulas")
    assert said(page).startswith(shown)
    click(page, "formulas")
    assert said(page).startswith(hidden)
    type_in(page, "own", "x(wx − y)")
    assert said(page).startswith(hidden)
    type_in(page, "own", "w = 2x(ŷ − y)")
    assert said(page, "own-said") == "✓ ∂loss/∂w: right"
    assert said(page).startswith(shown)


@pytest.mark.parametrize("flags", ["", "--model quadratic", "--model quadratic --momentum 0.5"])
@pytest.mark.parametrize("size", ["1", "full"])
def test_each_mistake_has_the_bits_of_compares(
    trained: Shell, browser: Chrome, flags: str, size: str
) -> None:
    """All eleven, each step's weights and gradients, as proof.mistakes makes them."""
    trained(*flags.split(), "--batch-size", size, "--epochs", "4")
    opened(browser, "runs/a/manual")
    ((_, experiment, _),) = read_runs([Path("runs/a/manual")], None)
    c, batches = experiment.configuration, experiment.batches
    assert state(browser, "Object.keys(MISTAKES)") == list(MISTAKES)
    for name, mistake in MISTAKES.items():
        if name == "two-roundings" and c.momentum:
            continue  # compare.py's takes no momentum
        model = experiment.new_model()
        gradient, optimizer = mistake.update(float(c.lr), len(batches))
        made = optimizer(model.parameters(), lr=c.lr, momentum=c.momentum)
        path = train_model(model, batches, made, gradient, 4)
        *steps, last = state(browser, f"pathOf({4 * len(batches)}, {name!r})")
        assert [row[1:] for row in steps] == path.table[:-1, 1:].tolist(), name
        assert last == path.table[-1, 1 : 1 + len(path.names)].tolist(), name


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_beside_the_right_descent(page: Chrome, mistake: str) -> None:
    """In its own words; and where it changes nothing, what would make it seen."""
    type_in(page, "rate-number", "0.13")
    Select(of(page, "mistake")).select_by_visible_text(mistake)
    words, unseen = said(page, "mistake-said"), " It changes nothing with "
    told, rounded = words.partition(unseen)[0], " Many steps are rounded to the same bits."
    assert told == MISTAKES[mistake].explanation + rounded * (mistake == "two-roundings")
    steps(page, 60)
    apart = state(page, "state.others.some((s, k) => s.w[0] !== state.history[k].w[0])")
    lost = mistake == "last-batch-loss"  # whose weights are right
    assert apart is (unseen not in words and not lost)
    shown = page.find_elements(By.CSS_SELECTOR, "#loss path.other")
    assert shown
    Select(of(page, "batch")).select_by_visible_text("all 3")
    same = unseen in said(page, "mistake-said")
    assert same is (mistake in ("last-batch-loss", "sequential"))
