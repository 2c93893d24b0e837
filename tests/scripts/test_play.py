"""The page to play with, in a real browser: its bits, and each control as a person uses it."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import plot
import pytest
import torch
import train
from answers import DERIVATIONS, HEADS, HOSTILE, LEARNERS, NOTATIONS, RIGHT, SUMS, WRONG
from helpers import ROOT, Shell, shell_of
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from torchgd import train as train_model
from torchgd.experiment.folder import read_run
from torchgd.figures import play
from torchgd.figures.runs import read_runs
from torchgd.machine_code import WAYS, add_up
from torchgd.proof.answers import judge, parse
from torchgd.proof.mistakes import MISTAKES
from torchgd.proof.notations import assignment
from torchgd.theory.rates import in_digits

pytestmark = pytest.mark.processes
shell = shell_of(plot.main)
trained = shell_of(train.main, "--update", "manual", "--no-figures", "--name", "a")


def opened(browser: Chrome, run: str = str(ROOT / "runs" / "reference" / "manual")) -> Chrome:
    """Write the page of a run and open it."""
    assert plot.main([run, "--format", "html", "--output", "."]) == 0
    browser.get(Path("lesson.html").absolute().as_uri())
    return browser


def of(browser: Chrome, name: str) -> Any:
    return browser.find_element(By.ID, name)


def said(browser: Chrome, name: str = "said") -> str:
    return str(of(browser, name).text)


def click(browser: Chrome, *names: str) -> None:
    for name in names:
        of(browser, name).click()


def type_in(browser: Chrome, name: str, text: str) -> None:
    """In the place of what is there."""
    of(browser, name).send_keys(Keys.CONTROL, "a", Keys.NULL, text)


def state(browser: Chrome, what: str) -> Any:
    return browser.execute_script(f"return {what}")  # type: ignore[no-untyped-call]


def steps(browser: Chrome, count: int) -> None:
    """Press Step so often, faster than a pointer does."""
    state(browser, f"void Array.from({{length: {count}}}, () => at('step').click())")


@pytest.fixture
def page(browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chrome:
    """The lesson's."""
    monkeypatch.chdir(tmp_path)
    return opened(browser)


CASES = {
    "": 150,
    "--momentum 0.9": 150,
    "--model quadratic --epochs 5": 100,
    "--model quadratic --batch-size full --epochs 100": 100,
    **{f"--model quadratic --batch-size {size} --epochs 20": 60 for size in (4, 6, 7)},
    "--data minus.csv --initial w=2": 100,  # where 2(0/1)·(−1) = −0, and torch's sum of it is 0
    "--model quadratic --data cars --standardize --epochs 2": 100,
    "--model quadratic --data cars --standardize --batch-size full --epochs 100 --lr auto": 100,
    "--data hubble --bias --lr 0.05 --batch-size full --epochs 100 --momentum 0.5": 100,
    "--lr 1 --epochs 40": 120,
}


@pytest.mark.parametrize("flags", CASES)
def test_its_steps_have_the_bits_of_the_runs(trained: Shell, browser: Chrome, flags: str) -> None:
    """Loss, weights and gradients at each step, and the last weights; a zero's sign, too."""
    count = CASES[flags]
    Path("minus.csv").write_text("-1,-2\n2,4\n", encoding="utf-8")
    trained(*flags.split())
    opened(browser, "runs/a/manual")
    bits = "(v) => String(new BigInt64Array(new Float64Array([v]).buffer)[0])"
    *steps, last = state(browser, f"pathOf({count}).map((row) => row.map({bits}))")
    _, path = read_run(Path("runs/a/manual"))
    expected = path.table.view(torch.int64)
    assert [[int(text) for text in row] for row in steps] == expected[:count].tolist()
    assert [int(text) for text in last] == expected[count, 1 : 1 + len(path.names)].tolist()


def terms_to_add() -> list[torch.Tensor]:
    """Of each length; the short ones often, for another order may give the same bits."""
    generator = torch.Generator().manual_seed(0)
    lengths = [*range(1, 257), *40 * list(range(2, 20))]
    return [torch.randn(n, generator=generator, dtype=torch.float64) for n in lengths]


def test_a_sum_of_any_length_has_torchs_bits(page: Chrome) -> None:
    lots = terms_to_add()
    found = state(page, f"{json.dumps([terms.tolist() for terms in lots])}.map((t) => addUp(t))")
    assert found == [terms.sum().item() for terms in lots]


@pytest.mark.parametrize("length", [2, 4, 8])
def test_a_sum_in_vectors_of_another_length_is_that_of_the_machine_code(
    page: Chrome, length: int
) -> None:
    """Of machines whose vectors are not this one's."""
    lots = terms_to_add()
    text = json.dumps([terms.tolist() for terms in lots])
    sums = np.empty((WAYS, length))
    expected = [add_up(terms.numpy(), len(terms), sums) for terms in lots]
    assert state(page, f"{text}.map((t) => addUp(t, {length}))") == expected


def test_a_product_and_a_sum_are_rounded_once(page: Chrome) -> None:
    """Against Python's fractions: cancellation, ties, subnormal numbers, overflow."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    scales = torch.randint(-1060, 1000, (400, 3), generator=generator).double()
    wild = torch.ldexp(drawn, (scales * torch.tensor([0.5, 0.5, 1.0])).int())
    near = torch.stack([drawn[:, 0], drawn[:, 1], -drawn[:, 0] * drawn[:, 1]], dim=1)
    tie, tiny = [1 + 2**-52, 1 + 2**-52, 0.0], [2.0**-537, 2.0**-538, 5e-324]
    ends = [tie, tiny, [2.0**-600, 2.0**-474, 0.0], [1e200, 1e200, 0.0], [1e200, -1e200, 1e300]]
    some = [*wild.tolist(), *near.tolist(), *ends]
    found = state(page, f"{json.dumps(some)}.map(([a, b, c]) => String(fma(a, b, c)))")
    for (a, b, c), text in zip(some, found, strict=True):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        try:
            expected = float(exact)
        except OverflowError:
            expected = math.inf if exact > 0 else -math.inf
        assert float(text.replace("Infinity", "inf")) == expected


def test_step_back_run_and_reset(page: Chrome) -> None:
    assert said(page) == "Press Step."
    assert not of(page, "back").is_enabled()
    click(page, "step", "step", "formulas")
    assert said(page).splitlines() == [
        "∂loss/∂w = 2x(w·x − y) = 2·2·(1.02·2 − 4) = −7.84",
        "w ← w − α·∂loss/∂w = 1.02 − 0.01·(−7.84) = 1.0984",
        "the loss of sample 2 was 3.8415999999999997",
    ]
    click(page, "back")
    assert "2·1·(1·1 − 2) = −2" in said(page)
    for key, number in ("s", "2"), ("b", "1"):  # keys do the same
        page.find_element(By.TAG_NAME, "body").send_keys(key)
        assert said(page, "number") == number
    click(page, "run")
    while int(said(page, "number")) < 5:
        pass
    click(page, "run")
    assert said(page, "run") == "Run"
    click(page, "reset")
    assert said(page, "number") == "0"


def test_the_weight_is_dragged_and_moved_by_keys(page: Chrome) -> None:
    before = state(page, "now().w[0]")
    ActionChains(page).drag_and_drop_by_offset(of(page, "weight"), 60, 0).perform()
    dragged = state(page, "now().w[0]")
    assert dragged > before + 0.2
    of(page, "weight").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert before < state(page, "now().w[0]") < dragged
    assert state(page, "document.activeElement.id") == "weight"


@pytest.mark.parametrize("end", ["pointerup", "pointercancel"])
def test_a_drag_ends_where_the_pointer_is_lifted_or_taken_away(page: Chrome, end: str) -> None:
    """The browser takes it away where a touch becomes a scroll."""
    seen = page.execute_script(  # type: ignore[no-untyped-call]
        """
        const to = (name, x) => new PointerEvent(name, { clientX: x, clientY: 100, bubbles: true });
        const left = at("loss").getBoundingClientRect().left, seen = [];
        at("weight").dispatchEvent(to("pointerdown", left + 100));
        for (const [name, x] of [["pointermove", 150], [arguments[0], 150], ["pointermove", 250]]) {
          window.dispatchEvent(to(name, left + x));
          seen.push(now().w[0]);
        }
        return seen;
        """,
        end,
    )
    assert seen[0] == seen[1] == seen[2] != 1.0


def test_a_sample_is_dragged_and_moved_by_keys(page: Chrome) -> None:
    """And least squares follow, and the largest stable rate."""
    sample = By.ID, "sample-2"
    known = "[run.x[2], run.y[2], state.known.stable[0][1]]"
    before = state(page, known)
    ActionChains(page).drag_and_drop_by_offset(page.find_element(*sample), -30, 40).perform()
    after = state(page, known)
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert after[2] > before[2]
    page.find_element(*sample).send_keys(Keys.ARROW_UP)
    assert state(page, "run.y[2]") > after[1]
    assert state(page, "document.activeElement.id") == "sample-2"
    x, y = (torch.tensor(state(page, f"run.{name}"), dtype=torch.float64) for name in "xy")
    assert state(page, "view.best[0]") == pytest.approx((x @ y / (x @ x)).item())
    click(page, "reset")
    assert state(page, known) == before


def test_rates_are_named(page: Chrome) -> None:
    rates = (
        "Rates are stable up to 0.204018, and again from 0.476538 to 0.519014; it shrinks fastest "
        "at 0.0555556."
    )
    for rate, does, far in [("0.5", "0: it shrinks", 0), ("0.21", "1.09643: it grows", 1)]:
        click(page, "reset")
        type_in(page, "rate-number", rate)
        assert said(page, "rate-said") == (
            f"α = {rate}. In the end an epoch multiplies w's distance from where it leads by "
            f"ρ = {does}. {rates}"
        )
        steps(page, 60)
        assert (abs(state(page, "now().w[0]") - 2) > 1) == far
    known = "[state.known.stable[0][1], state.known.best[0]]"
    of(page, "rate").send_keys(Keys.ARROW_LEFT)
    assert "0.21." not in said(page, "rate-said")
    Select(of(page, "batch")).select_by_visible_text("all 3")
    assert state(page, known) == pytest.approx([3 / 14, 3 / 28])
    click(page, "step")
    assert said(page).startswith("∂loss/∂w = −9.333333333333332\n")
    click(page, "formulas")
    assert said(page).startswith("∂loss/∂w = (2/3) Σ x(w·x − y) = −9.333333333333332")
    type_in(page, "momentum", "0.5" + Keys.TAB)
    assert state(page, "state.known.stable[0][1]") == pytest.approx(1.5 * 3 / 14, rel=1e-6)


@pytest.mark.parametrize("flags", [
    "", "--momentum 0.9", "--batch-size 3 --momentum 0.9", "--batch-size 2", "--data hubble",
    "--model quadratic", "--model quadratic --batch-size 4 --momentum 0.5", "--data norris --bias",
    "--model quadratic --data cars --standardize --momentum 0.9", "--data cars --bias",
    "--data synthetic:101 --bias", "--data two.csv --bias", "--data zero.csv",
])  # fmt: skip
def test_the_rates_are_those_of_the_theory(trained: Shell, browser: Chrome, flags: str) -> None:
    """In the same words, to the last digit that is said."""
    Path("two.csv").write_text("1,2\n1,2\n", encoding="utf-8")
    Path("zero.csv").write_text("0,2\n0,1\n", encoding="utf-8")
    trained(*flags.split(), "--epochs", "1", "--lr", "1e-9")
    opened(browser, "runs/a/manual")
    ((_, experiment, _),) = read_runs([Path("runs/a/manual")], None)
    assert experiment.landscape is not None
    known = experiment.landscape.rates(momentum=experiment.configuration.momentum)
    assert words(state(browser, "stableSaid(state.known)")) == words(str(known))
    best = state(browser, "state.known.best && inDigits(state.known.best)")
    assert words(best or "") == words(in_digits(known.best) if known.best else "")


def words(text: str) -> list[str | float]:
    """Words and numbers, for JavaScript writes 0.000001 where Python writes 1e-06."""
    found = re.findall(r"\d[\d.]*(?:e-?\d+)?|[a-z]+", text.replace("−", "-"))
    return [float(word) if word[0].isdigit() else word for word in found]


def answers_to(model: str) -> list[str]:
    """Each answer of tests/answers.py that is about this model, after the weight's name."""
    tables = [(of, text.split("|")) for of, text in RIGHT.items()]
    tables += [(of, [*texts]) for of, texts in WRONG.items()]
    tables += [(("line", "w"), [*HOSTILE, *LEARNERS, *SUMS])]
    given = [f"{w}={text}" for (of, w), texts in tables if of == model for text in texts]
    given += [f"{head}2x(ŷ-y)" for head in HEADS if model == "line"]
    notations = [texts.split("|") for of, texts in NOTATIONS.values() if of == model]
    return given + [t if "=" in t else f"w={t}" for texts in notations for t in texts]


def judged(model: str, answer: str) -> str:
    """What derive.py says of an answer, as the page says it."""
    derivation = DERIVATIONS[model]
    try:
        name, formula = assignment(answer, derivation.weights)
        hint = judge(derivation, name, parse(formula, derivation))
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
    """Each of the table, and 300 put together at random; a character's name it has not."""
    trained(*flags.split(), "--epochs", "1")
    opened(browser, "runs/a/manual")
    names = st.sampled_from([*DERIVATIONS[model].weights])
    made: list[str] = []

    @settings(max_examples=300, database=None)
    @given(names, st.lists(PIECES, min_size=1, max_size=9))
    def make(name: str, pieces: list[str]) -> None:
        made.append(f"{name}={''.join(pieces)}")

    make()
    given_ones = answers_to(model) + made
    found = state(browser, f"{json.dumps(given_ones)}.map((text) => answered(text).said)")
    assert len(found) > 300
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
    assert "yours: ∂loss/∂w = 2(w·x − y) = −3.92, w = 1.0592, −0.0392 apart" in said(page)
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
    type_in(browser, "own", "q = 2x(ŷ − y)")
    assert said(browser, "own-said") == "✗ 'q' is none of the parameters, w2, w1, b"


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


def test_what_is_written_is_of_the_step_that_was_taken(page: Chrome) -> None:
    """Whatever is changed after it."""
    click(page, "step")
    before = said(page)
    type_in(page, "rate-number", "0.1")
    assert said(page) == before
    type_in(page, "momentum", "0.5" + Keys.TAB)
    click(page, "step")
    before = said(page)
    type_in(page, "rate-number", "0.2")
    assert said(page) == before


def test_a_descent_that_diverges_says_so_and_stops(page: Chrome) -> None:
    page.get_log("browser")  # type: ignore[no-untyped-call]
    type_in(page, "rate-number", "1e150")
    click(page, "run")
    while said(page, "run") != "Run":
        pass
    assert said(page, "warning") == "The descent has diverged: press Back, or Reset."
    assert said(page, "status").endswith(said(page, "warning"))
    assert not of(page, "step").is_enabled()
    count = said(page, "number")
    page.find_element(By.TAG_NAME, "body").send_keys("s")
    assert said(page, "number") == count
    click(page, "back")
    assert said(page, "warning").startswith("The loss grows: it is ")
    assert of(page, "step").is_enabled()
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
    click(page, "reset")
    assert said(page, "rate-said").startswith("α = 0.01. In the end an epoch multiplies w's ")


def test_what_is_no_rate_is_said(page: Chrome) -> None:
    for text, found in {
        "-1": "Type a number, 0 or more; α stays 0.01.",
        "1e": "Type a number, 0 or more; α stays 1.",  # 1 is one, on the way
        "0": "α = 0. It stands still. Rates are ",
    }.items():
        type_in(page, "rate-number", text)
        assert said(page, "rate-said").startswith(found)


def test_data_that_do_not_determine_the_weights(trained: Shell, browser: Chrome) -> None:
    Path("two.csv").write_text("x,y\n1,2\n1,2\n", encoding="utf-8")
    assert trained("--data", "two.csv", "--bias") == 0
    opened(browser, "runs/a/manual")
    found = "The data do not determine the weights: there is no one minimum."
    assert said(browser, "rate-said").endswith(found)


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
    assert words.partition(unseen)[0] == MISTAKES[mistake].explanation
    steps(page, 60)
    apart = state(page, "state.others.some((s, k) => s.w[0] !== state.history[k].w[0])")
    lost = mistake == "last-batch-loss"  # whose weights are right
    assert apart is (unseen not in words and not lost)
    shown = page.find_elements(By.CSS_SELECTOR, "#loss path.other")
    assert shown
    Select(of(page, "batch")).select_by_visible_text("all 3")
    same = unseen in said(page, "mistake-said")
    assert same is (mistake in ("last-batch-loss", "sequential"))


def test_it_is_one_small_file_that_asks_for_nothing(page: Chrome) -> None:
    assert Path("lesson.html").stat().st_size < 150_000
    assert state(page, "performance.getEntriesByType('resource').length") == 0
    logged = page.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in logged if "lesson.html" in entry["message"]] == []
    text = Path("lesson.html").read_text(encoding="utf-8")
    assert max(map(len, text.partition("<script")[0].splitlines())) <= 100
    links = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", text)
    assert links == ["../lesson.html"]  # which is there to be clicked


@contextmanager
def screen(browser: Chrome, width: int, height: int) -> Iterator[None]:
    """A screen of that size, for a window has a least width."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})  # type: ignore[no-untyped-call]


BOXES = """
return [...document.querySelectorAll(arguments[0])].map((node) => {
  const { left, right, top, bottom, width, height } = node.getBoundingClientRect();
  return { left, right, top, bottom, width, height };
});
"""


def boxes(browser: Chrome, selector: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = browser.execute_script(BOXES, selector)  # type: ignore[no-untyped-call]
    assert found
    return found


@pytest.mark.parametrize("flags", ["", "--model quadratic"])
def test_on_a_phone(trained: Shell, browser: Chrome, flags: str) -> None:
    """The first chart and Step on one screen, what is touched 44 pixels large, nothing too wide."""
    trained(*flags.split())
    opened(browser, "runs/a/manual")
    with screen(browser, 390, 800):
        click(browser, "step", "formulas")
        assert boxes(browser, "#loss")[0]["top"] >= 0
        assert boxes(browser, "#step")[0]["bottom"] <= 800
        assert all(min(b["width"], b["height"]) >= 44 for b in boxes(browser, ".handle"))
        touched = "button, select, input:not([type=checkbox]), label:has([type=checkbox])"
        assert all(b["height"] >= 44 for b in boxes(browser, touched))
        everything = "svg, svg text, button, input, select, pre, p, h1"
        assert all(b["right"] <= 390 and b["left"] >= 0 for b in boxes(browser, everything))
        assert state(browser, "document.documentElement.scrollWidth") <= 390


def test_on_a_screen_the_six_panels_are_two_rows(page: Chrome) -> None:
    with screen(page, 1280, 800):
        panels = boxes(page, "section")
        assert len({b["top"] for b in panels[:3]}) == len({b["top"] for b in panels[3:6]}) == 1
        assert boxes(page, "#curve")[0]["bottom"] <= 800


def test_no_dot_leaves_its_chart(page: Chrome) -> None:
    """Dragged beyond the edge, moved beyond it by keys, and as the descent diverges."""

    def within() -> bool:
        return all(
            chart["left"] <= dot["left"] and dot["right"] <= chart["right"]
            and chart["top"] <= dot["top"] and dot["bottom"] <= chart["bottom"]
            for name in ("loss", "fit", "curve", "rho")
            for chart in boxes(page, f"#{name}")
            for dot in boxes(page, f"#{name} circle:not(.reach)")
        )  # fmt: skip

    assert within()
    ActionChains(page).drag_and_drop_by_offset(of(page, "weight"), -60, -90).perform()
    assert within()
    for _ in range(120):
        of(page, "weight").send_keys(Keys.ARROW_RIGHT)
    assert within()
    ActionChains(page).drag_and_drop_by_offset(of(page, "sample-2"), 120, -80).perform()
    assert within()
    for _ in range(30):
        of(page, "sample-2").send_keys(Keys.ARROW_UP)
    assert within()
    before = state(page, "view.i[1]")
    type_in(page, "rate-number", "3")
    Select(of(page, "mistake")).select_by_visible_text("sign")
    for count in (1, 2, 5, 20, 100, 300):
        steps(page, count)
        assert within()
    assert said(page, "warning") == "The descent has diverged: press Back, or Reset."
    assert state(page, "view.i[1]") > 1e100 * before


TEXTS = "[...document.querySelectorAll('#NAME text')].map((node) => node.textContent)"


def test_the_axes_keep_still_while_it_descends(page: Chrome) -> None:
    """All 150 steps of the lesson; the axis of steps grows five times, in round numbers."""
    charts = ("loss", "fit")
    before = {name: state(page, TEXTS.replace("NAME", name)) for name in charts}
    seen: list[Any] = []
    for _ in range(150):
        steps(page, 1)
        if (shown := state(page, "view.steps")) not in seen:
            seen.append(shown)
    assert {name: state(page, TEXTS.replace("NAME", name)) for name in charts} == before
    assert seen == [10, 20, 50, 100, 200]


@pytest.mark.parametrize(("low", "high"), [
    (0, 9.9), (0.7, 3.3), (-2.3, 2.3), (-7e-9, 4e-9), (0, 3.1e7), (999999.9, 1000000.4), (0, 0.57),
])  # fmt: skip
def test_ticks_are_round_numbers(page: Chrome, low: float, high: float) -> None:
    """Multiples of 1, 2 or 5 times a power of ten, four at least, each with a text of its own."""
    found = state(page, f"ticks({low}, {high}).map((tick) => [...tick, tickText(tick)])")
    assert 4 <= len(found) <= 10
    for value, by, _ in found:
        assert low - 1e-9 * by <= value <= high + 1e-9 * by
        assert f"{by:.6e}"[0] in "125"
        assert float(f"{by:.0e}") == pytest.approx(by, rel=1e-12)
        assert value / by == pytest.approx(round(value / by), abs=1e-6)
    assert len({text for _, _, text in found}) == len(found)


def attributes(browser: Chrome, name: str) -> list[Any]:
    said = ("label", "valuenow", "valuemin", "valuemax", "valuetext")
    return [of(browser, name).get_attribute(f"aria-{what}") for what in said]


def test_what_a_screen_reader_reads(page: Chrome) -> None:
    """Values in the data's units, and nothing while the descent runs."""
    label, *numbers, words = attributes(page, "weight")
    assert (label, words) == ("the weight w", "w = 1, loss 4.66667")
    low, value, high = (float(numbers[k]) for k in (1, 0, 2))
    assert low < value == 1 < 2 < high
    label, *numbers, words = attributes(page, "sample-2")
    assert (label, words) == ("sample 3", "x = 3 hours, y = 6 points")
    assert float(numbers[0]) == 6
    of(page, "sample-2").send_keys(Keys.ARROW_UP)
    assert float(attributes(page, "sample-2")[1]) > 6
    click(page, "reset", "step")
    assert said(page, "status") == "Step 1. w = 1.02. The mean loss is 4.48187."
    assert "∂loss" in said(page)
    for name in ("said", "rate-said", "warning"):  # which would be read at each step
        assert of(page, name).get_attribute("aria-live") is None
    before = [said(page, "status"), *attributes(page, "weight"), *attributes(page, "sample-2")]
    click(page, "run")
    while int(said(page, "number")) < 10:
        now = [said(page, "status"), *attributes(page, "weight"), *attributes(page, "sample-2")]
        assert now == before
    click(page, "run")
    assert said(page, "status").startswith(f"Step {said(page, 'number')}. w = ")
    assert attributes(page, "weight")[1] != before[2]
    of(page, "rate").send_keys(Keys.ARROW_RIGHT)
    assert re.fullmatch(
        "α = .*, ρ = .*: it shrinks", of(page, "rate").get_attribute("aria-valuetext")
    )


def test_each_control_has_a_name_and_a_role(page: Chrome) -> None:
    """In the tree that the browser gives to a screen reader; and each is reached by Tab."""
    page.execute_cdp_cmd("Accessibility.enable", {})  # type: ignore[no-untyped-call]
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]  # type: ignore[no-untyped-call]
    named = set()
    for node in tree:
        role, name = (node.get(key, {}).get("value", "") for key in ("role", "name"))
        kinds = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
        if kinds.get("focusable") and role != "RootWebArea":
            assert name, f"a {role} without a name"
            named.add((role, name.strip()))
    assert {"Step", "Run", "Reset"} <= {name for role, name in named if role == "button"}
    sliders = {"the weight w", "sample 1", "sample 2", "sample 3", "learning rate α", "by how much"}
    assert sliders == {name for role, name in named if role == "slider"}
    page.execute_script("document.activeElement.blur()")  # type: ignore[no-untyped-call]
    reached = set()
    for _ in range(30):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.add(state(page, "document.activeElement.id"))
    controls = "step run reset formulas rate rate-number momentum batch nudged nudge of own use-own"
    assert {"weight", "sample-0", "sample-1", "sample-2", "mistake", *controls.split()} <= reached


def test_the_factor_of_an_epoch_is_drawn_over_the_rates(page: Chrome) -> None:
    """Under the slider, at the same places; the dot is at today's rate, and follows it."""
    rate, width = boxes(page, "#rate")[0], boxes(page, "#rho")[0]["width"]
    axis = boxes(page, "#rho clipPath rect, #rho .axis")[0]
    assert rate["bottom"] <= boxes(page, "#rho")[0]["top"]
    thumb = 16
    assert rate["left"] + thumb / 2 == pytest.approx(axis["left"], abs=4)
    assert rate["right"] - thumb / 2 == pytest.approx(axis["right"], abs=4)
    dots = []
    for text in ("0.05", "0.1"):
        type_in(page, "rate-number", text)
        dot = boxes(page, "#rho-now")[0]
        dots.append((dot["left"] + dot["right"]) / 2)
        factor = abs((1 - 2 * float(text)) * (1 - 8 * float(text)) * (1 - 18 * float(text)))
        height = float(of(page, "rho-now").get_attribute("cy"))
        assert height == pytest.approx(102 - factor / 2 * (102 - 12))
    top = state(page, "sliderTop()")
    assert dots[1] - dots[0] == pytest.approx(0.05 / top * (384 - 62) / 400 * width, abs=1)
    stable = state(page, "[...document.querySelectorAll('#rho .stable')].map((n) => "
                         "[n.x.baseVal.value, n.width.baseVal.value])")  # fmt: skip
    ends = [[62 + (384 - 62) * rate / top for rate in pair] for pair in
            ((0, 0.204018), (0.476538, 0.519014))]  # fmt: skip
    assert [[x, x + w] for x, w in stable] == [pytest.approx(pair, abs=0.01) for pair in ends]


def test_the_chain_rule_in_numbers(page: Chrome) -> None:
    """A nudge of w by 0.2 at w = 1 on the sample (1, 2), and by −0.4 on (2, 4)."""
    assert state(page, TEXTS.replace("NAME", "chain")) == [
        "w", "1 → 1.2, that is +0.2", "ŷ", "1 → 1.2, that is +0.2",
        "loss", "1 → 0.64, that is −0.36", "× 1", "× −2",
        "∂loss/∂w = −2·1 = −2, of sample 1", "the slope says −0.4, the loss moves by −0.36",
    ]  # fmt: skip
    click(page, "step", "formulas")
    of(page, "nudge").send_keys(*3 * [Keys.ARROW_LEFT])
    texts = state(page, TEXTS.replace("NAME", "chain"))
    assert texts[1] == "1.02 → 0.62, that is −0.4"
    assert texts[6:8] == ["× ∂ŷ/∂w = x = 2", "× ∂loss/∂ŷ = 2(ŷ − y) = −3.92"]
    assert texts[8] == "∂loss/∂w = −3.92·2 = −7.84, of sample 2"


def test_names_that_are_html_are_texts(trained: Shell, browser: Chrome) -> None:
    """Of a file's columns and their units, and of the file."""
    hostile = "</script><img src=x onerror=alert(1)>"
    name = "a<b>&amp;.csv"
    Path(name).write_text(f"x ({hostile}),y <i>\n1,2\n2,4\n", encoding="utf-8")
    assert trained("--data", name) == 0
    opened(browser, "runs/a/manual")
    assert state(browser, "document.images.length + document.querySelectorAll('i').length") == 0
    assert "onerror" in state(browser, "document.querySelector('#fit').textContent")
    assert "a<b>&amp;" in said(browser, "about")
    click(browser, "step")
    assert said(browser, "number") == "1"


@pytest.mark.parametrize(("flags", "message"), [
    ("--weight-decay 0.1", "weight_decay 0.1: the page knows momentum alone"),
    ("--momentum 0.9 --nesterov", "nesterov True: the page knows momentum alone"),
    ("--data synthetic:1001 --epochs 1", "1001 samples: the page draws 1000 at most"),
])  # fmt: skip
def test_what_it_does_not_know_is_refused(
    trained: Shell, shell: Shell, flags: str, message: str
) -> None:
    assert trained(*flags.split()) == 0
    assert shell("runs/a/manual", "--format", "html") == 2
    assert shell.err == f"plot.py: {message}\n"
    assert not Path("runs/a/manual/lesson.html").exists()


@pytest.mark.parametrize(("flags", "why"), [
    ("--dtype float32", "the run was in float32"),
    ("--shuffle", "its batches were shuffled, and here they come in order"),
])  # fmt: skip
def test_where_the_runs_numbers_are_others_it_says_so(
    trained: Shell, browser: Chrome, flags: str, why: str
) -> None:
    assert trained(*flags.split()) == 0
    opened(browser, "runs/a/manual")
    assert f"Its numbers are not the run's: {why}." in said(browser, "bits")
    assert "same bits" not in said(browser, "bits")


def test_the_title_and_what_is_said_of_bits_follow_the_batch_size(
    trained: Shell, browser: Chrome
) -> None:
    """Above 256 samples torch adds in another order, and some numbers differ."""
    assert trained("--data", "synthetic:300", "--epochs", "1") == 0
    opened(browser, "runs/a/manual")
    same = "Every number here has the same bits as PyTorch's on the machine that wrote this page."
    other = (
        "Not every bit is PyTorch's on the machine that wrote this page: more than 256 terms torch "
        "adds in another order, n of them by at most n·ε·Σ|terms| apart."
    )
    for choice, batch, exact in [
        ("all 300", "full batch", other), ("one sample", "batch size 1", same)
    ]:  # fmt: skip
        Select(of(browser, "batch")).select_by_visible_text(choice)
        assert said(browser, "about").startswith(f"linear-synthetic, {batch}: ŷ = w·x")
        assert said(browser, "bits") == exact
    Select(of(browser, "batch")).select_by_visible_text("all 300")
    click(browser, "reset")
    assert "batch size 1" in said(browser, "about")


def test_on_a_machine_whose_sums_are_not_known_it_says_so(
    browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "lanes", lambda dtype: 0)
    opened(browser)
    assert "same bits" in said(browser, "bits")
    Select(of(browser, "batch")).select_by_visible_text("all 3")
    assert "in which order torch adds several terms there is not known" in said(browser, "bits")
    monkeypatch.setattr(play, "fuses", lambda dtype: False)
    opened(browser)
    assert "not the run's: torch rounds w − α·g twice where this page" in said(browser, "bits")
