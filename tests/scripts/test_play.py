"""The page to play with, in a real browser: its bits, and each control as a person uses it."""

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import plot
import pytest
import torch
import train
from helpers import Shell, shell_of
from pages import ONE_RUN, boxes, click, of, opened, said, state, steps, type_in
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from torchgd.experiment.folder import read_run
from torchgd.figures import play
from torchgd.figures.runs import read_runs
from torchgd.machine_code import WAYS, add_up
from torchgd.theory.rates import in_digits

pytestmark = pytest.mark.processes
trained = shell_of(train.main, *ONE_RUN)
shell = shell_of(plot.main)


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


def test_ulps_are_counted_across_zero(page: Chrome) -> None:
    pairs = "[[1, 1 + 2 ** -52], [-1, -1 - 2 ** -51], [-5e-324, 5e-324], [-2, -2]]"
    assert state(page, f"{pairs}.map(([a, b]) => ulpsApart(a, b))") == [1, 2, 2, 0]


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


def test_reset_resets_every_choice_while_it_runs(page: Chrome) -> None:
    shown = "[...document.querySelectorAll('input, select')].map((n) => [n.id, n.value, n.checked])"
    kept = "[state.rate, state.momentum, state.batch, state.other, state.running, now().k]"
    words = "['own-said', 'mistake-said', 'run'].map((name) => at(name).textContent)"
    everything = f"[{shown}, {kept}, {words}]"
    before = state(page, everything)
    type_in(page, "rate-number", "0.1")
    type_in(page, "momentum", "0.5" + Keys.TAB)
    Select(of(page, "batch")).select_by_visible_text("all 3")
    type_in(page, "own", "2(w·x − y)")
    click(page, "use-own", "run", "reset")
    assert state(page, everything) == before


def test_a_key_that_is_typed_or_held_with_another_presses_no_button(page: Chrome) -> None:
    click(page, "step")
    type_in(page, "own", "b")
    of(page, "batch").send_keys("s")
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.CONTROL, "b")
    assert said(page, "number") == "1"


def test_the_slider_and_the_number_are_of_one_rate(page: Chrome) -> None:
    top = state(page, "sliderTop()")
    type_in(page, "rate-number", "0.1")
    place = int(of(page, "rate").get_attribute("value"))
    assert place == round(1000 * 0.1 / top)
    of(page, "rate").send_keys(Keys.ARROW_RIGHT)
    number = float(of(page, "rate-number").get_attribute("value"))
    assert number == state(page, "state.rate") == pytest.approx((place + 1) * top / 1000, rel=1e-3)


def test_what_a_parabolas_step_says(trained: Shell, browser: Chrome) -> None:
    """Its residual once, each factor with its power of x, and v where there is a momentum."""
    Path("two.csv").write_text("1,2\n-2,3\n", encoding="utf-8")
    flags = ["--momentum", "0.5", "--lr", "0.5", "--epochs", "1"]
    trained("--model", "quadratic", "--data", "two.csv", *flags, "--initial", "w2=1", "w1=1", "b=1")
    opened(browser, "runs/a/manual")
    click(browser, "step", "step", "formulas")
    assert said(browser).splitlines() == [
        "ŷ − y = 0·(−2)² + 0·(−2) + 0 − 3 = −3",
        "∂loss/∂w2 = 2x²(ŷ − y) = 2·(−2)²·(−3) = −24",
        "v ← μ·v + ∂loss/∂w2 = 0.5·2 + (−24) = −23",
        "w2 ← w2 − α·v = 0 − 0.5·(−23) = 11.5",
        "∂loss/∂w1 = 2x(ŷ − y) = 2·(−2)·(−3) = 12",
        "v ← μ·v + ∂loss/∂w1 = 0.5·2 + 12 = 13",
        "w1 ← w1 − α·v = 0 − 0.5·13 = −6.5",
        "∂loss/∂b = 2(ŷ − y) = 2·(−3) = −6",
        "v ← μ·v + ∂loss/∂b = 0.5·2 + (−6) = −5",
        "b ← b − α·v = 0 − 0.5·(−5) = 2.5",
        "the loss of sample 2 was 9",
    ]


def test_the_weight_is_dragged_and_moved_by_keys(page: Chrome) -> None:
    before = state(page, "now().w[0]")
    ActionChains(page).drag_and_drop_by_offset(of(page, "weight"), 60, 0).perform()
    dragged = state(page, "now().w[0]")
    assert dragged > before + 0.2
    assert state(page, "document.activeElement.id") == "weight"
    of(page, "weight").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert before < state(page, "now().w[0]") < dragged
    assert state(page, "document.activeElement.id") == "weight"


def test_two_weights_are_dragged_and_moved_by_keys(trained: Shell, browser: Chrome) -> None:
    """One by the pointer's way across and by ← and →, the other by ↑ and ↓; the third stays."""
    trained("--model", "quadratic", "--epochs", "1")
    opened(browser, "runs/a/manual")
    steps(browser, 3)
    third = "now().w.filter((_, p) => !run.plane.includes(p))"
    weights, kept = "run.plane.map((p) => now().w[p])", state(browser, third)

    def changes(across: int, up: int) -> None:
        after = state(browser, weights)
        assert [(a > b) - (a < b) for a, b in zip(after, before, strict=True)] == [across, up]

    for key, (across, up) in {
        Keys.ARROW_LEFT: (-1, 0), Keys.ARROW_RIGHT: (1, 0), Keys.ARROW_UP: (0, 1),
        Keys.ARROW_DOWN: (0, -1),
    }.items():  # fmt: skip
        before = state(browser, weights)
        of(browser, "weight").send_keys(key)
        changes(across, up)
    dot = boxes(browser, "#weight .model")[0]
    ActionChains(browser).drag_and_drop_by_offset(of(browser, "weight"), -30, -20).perform()
    moved = boxes(browser, "#weight .model")[0]
    assert [moved[side] - dot[side] for side in ("left", "top")] == pytest.approx([-30, -20], abs=1)
    assert state(browser, third) == kept


def test_of_samples_that_overlap_the_nearest_is_dragged(trained: Shell, browser: Chrome) -> None:
    Path("near.csv").write_text("1,2\n1.1,2.1\n3,6\n", encoding="utf-8")
    trained("--data", "near.csv")
    opened(browser, "runs/a/manual")
    ActionChains(browser).drag_and_drop_by_offset(of(browser, "sample-0"), 0, 60).perform()
    first, second, _ = state(browser, "run.y")
    assert first < 1.9
    assert second == 2.1


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
    known = "(rated(), [run.x[2], run.y[2], state.known.stable[0][1]])"
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
    assert said(page).endswith("the loss of these 3 samples was 4.666666666666667")
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
    diverged = "The descent has diverged: press Back, or Reset. The charts show step 0."
    assert said(page, "warning") == diverged
    assert said(page, "status").endswith(said(page, "warning"))
    assert not of(page, "step").is_enabled()
    assert not of(page, "run").is_enabled()
    count = said(page, "number")
    page.find_element(By.TAG_NAME, "body").send_keys("s")
    assert said(page, "number") == count
    click(page, "back")
    assert said(page, "warning").startswith("The loss grows: it is ")
    assert of(page, "step").is_enabled()
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
    click(page, "reset")
    assert said(page, "rate-said").startswith("α = 0.01. In the end an epoch multiplies w's ")


def test_with_a_momentum_v_has_a_line_of_its_own(page: Chrome) -> None:
    type_in(page, "momentum", "0.5" + Keys.TAB)
    click(page, "step")
    assert said(page).splitlines()[1:3] == [
        "v ← ∂loss/∂w = −2", "w ← w − α·v = 1 − 0.01·(−2) = 1.02"
    ]  # fmt: skip
    click(page, "step")
    assert said(page).splitlines()[1:3] == [
        "v ← μ·v + ∂loss/∂w = 0.5·(−2) + (−7.84) = −8.84",
        "w ← w − α·v = 1.02 − 0.01·(−8.84) = 1.1084",
    ]
    for text in ("1", "-0.1", "x"):
        type_in(page, "momentum", text + Keys.TAB)
        assert said(page, "rate-said") == "Type a number from 0 to 0.99; μ stays 0.5."
        assert state(page, "state.momentum") == 0.5


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
    of(browser, "sample-1").send_keys(Keys.ARROW_RIGHT)
    state(browser, "rated()")
    assert found not in said(browser, "rate-said")


@pytest.mark.parametrize(("stable", "end", "top"), [
    ("[[0, 1], [3, 4]]", "Infinity", 4.4), ("[[0, 1], [30, 40]]", "Infinity", 1.5),
    ("[[0, 1]]", "2", 1.5), ("[]", "2", 3), ("[[0, Infinity]]", "Infinity", 1),
])  # fmt: skip
def test_the_slider_ends_beyond_the_stable_rates(
    page: Chrome, stable: str, end: str, top: float
) -> None:
    """Unless they are so far apart that the first ones would have no room."""
    state(page, f"void Object.assign(state.known, {{ stable: {stable}, end: {end} }})")
    assert state(page, "sliderTop()") == pytest.approx(top)


def test_it_is_one_small_file_that_asks_for_nothing(page: Chrome) -> None:
    assert Path("lesson.html").stat().st_size < 150_000
    assert state(page, "performance.getEntriesByType('resource').length") == 0
    logged = page.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in logged if "lesson.html" in entry["message"]] == []
    text = Path("lesson.html").read_text(encoding="utf-8")
    assert max(map(len, text.partition("<script")[0].splitlines())) <= 100
    links = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", text)
    assert links == ["../lesson.html"]  # which is there to be clicked


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
    ("--maximize --lr 0.001", "maximize True: the page knows momentum alone"),
    ("--momentum 0.5 --dampening 0.1", "dampening 0.1: the page knows momentum alone"),
    ("--data synthetic:1001 --epochs 1", "1001 samples: the page draws 1000 at most"),
])  # fmt: skip
def test_what_it_does_not_know_is_refused(
    trained: Shell, shell: Shell, flags: str, message: str
) -> None:
    assert trained(*flags.split()) == 0
    assert shell("runs/a/manual", "--format", "html") == 2
    assert shell.err == f"plot.py: {message}\n"
    assert not Path("runs/a/manual/lesson.html").exists()


def test_of_a_thousand_samples_each_is_drawn(trained: Shell, shell: Shell) -> None:
    assert trained("--data", "synthetic:1000", "--epochs", "1") == 0
    assert shell("runs/a/manual", "--format", "html") == 0


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
