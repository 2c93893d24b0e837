"""The page to play with, on a phone and a screen, by keyboard and screen reader: what is seen."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import train
from helpers import Shell, shell_of
from pages import ONE_RUN, boxes, click, of, opened, said, screen, state, steps, type_in
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.support.select import Select

pytestmark = pytest.mark.processes
trained = shell_of(train.main, *ONE_RUN)


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
        everything = "svg, svg text, button, input, select, #said div, p, h1"
        assert all(b["right"] <= 390 and b["left"] >= 0 for b in boxes(browser, everything))
        assert state(browser, "document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", ["weight", "sample-1"])
def test_a_touch_drags_a_dot_and_does_not_scroll(page: Chrome, name: str) -> None:
    with screen(page, 390, 800):
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})  # type: ignore[no-untyped-call]
        state(page, f"at('{name}').scrollIntoView({{block: 'center'}})")
        dot, scrolled = boxes(page, f"#{name}")[0], state(page, "window.scrollY")
        x, y = (dot["left"] + dot["right"]) / 2, (dot["top"] + dot["bottom"]) / 2
        for kind, by in [("touchStart", 0), *(("touchMove", k) for k in range(5, 45, 5))]:
            touch = {"type": kind, "touchPoints": [{"x": x + by, "y": y - by}]}
            page.execute_cdp_cmd("Input.dispatchTouchEvent", touch)  # type: ignore[no-untyped-call]
        end = {"type": "touchEnd", "touchPoints": []}
        page.execute_cdp_cmd("Input.dispatchTouchEvent", end)  # type: ignore[no-untyped-call]
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})  # type: ignore[no-untyped-call]
        moved = boxes(page, f"#{name}")[0]
        assert (moved["left"] + moved["right"]) / 2 == pytest.approx(x + 40, abs=2)
        assert state(page, "window.scrollY") == scrolled


def test_another_descent_that_is_no_number_is_no_good_one(page: Chrome) -> None:
    """It lies at the upper edge, where a loss is large, and not at the minimum."""
    type_in(page, "own", "2x(wx - y)/(w-1)")
    click(page, "use-own", "step", "step")
    path = state(page, "document.querySelector('#curve path.other').getAttribute('d')")
    assert path.split("L")[-1].split()[-1] == "12.00"
    assert "it has diverged" in said(page)


def test_a_long_answer_is_broken_on_a_phone(page: Chrome) -> None:
    with screen(page, 390, 800):
        state(page, "void (at('own').value = 'x'.repeat(90), at('own').oninput())")
        click(page, "use-own", "step")
        assert 90 * "x" in said(page)
        assert state(page, "document.documentElement.scrollWidth") <= 390


def test_what_is_dragged_or_moved_does_not_move_the_page(page: Chrome) -> None:
    """By a finger or by an arrow key."""
    touch = "[...document.querySelectorAll('.handle')].map((n) => getComputedStyle(n).touchAction)"
    assert set(state(page, touch)) == {"none"}
    with screen(page, 390, 500):
        of(page, "weight").send_keys(Keys.ARROW_DOWN)
        at = state(page, "scrollY")
        of(page, "weight").send_keys(*3 * [Keys.ARROW_DOWN])
        assert state(page, "new Promise((done) => setTimeout(() => done(scrollY), 300))") == at


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_and_drawn_stands_out(page: Chrome, scheme: str) -> None:
    """By the contrast of WCAG: of texts 4.5 and of lines 3 times; and each descent's is its own."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)  # type: ignore[no-untyped-call]
    try:
        Select(of(page, "mistake")).select_by_visible_text("half")
        click(page, "step")
        styles = "getComputedStyle(document.querySelector('SELECTOR')).PROPERTY"
        paper = [styles.replace("SELECTOR", name).replace("PROPERTY", "backgroundColor")
                 for name in ("body", "section")]  # fmt: skip
        found = {}
        for what, selector, least in (
            ("color", "#said", 4.5), ("color", "figcaption", 4.5), ("fill", "#loss text", 4.5),
            ("stroke", "#fit path.model", 3),
            ("stroke", "#fit path.other", 3), ("stroke", "#fit path.turn", 3),
            ("stroke", "#fit circle.data", 3),
        ):  # fmt: skip
            colour = state(page, styles.replace("SELECTOR", selector).replace("PROPERTY", what))
            found[selector] = colour
            for behind in paper:
                assert contrast(colour, state(page, behind)) >= least, selector
        lines = [colour for selector, colour in found.items() if selector.startswith("#fit ")]
        assert len(set(lines)) == 4
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})  # type: ignore[no-untyped-call]


def contrast(one: str, other: str) -> float:
    """Of two colours, rgb(17, 17, 17); 21 of black on white."""

    def light(colour: str) -> float:
        parts = [int(text) / 255 for text in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(light, (one, other)))
    return (high + 0.05) / (low + 0.05)


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
            for dot in boxes(page, f"#{name} circle:not(.reach), #{name} path.other.mark")
        )  # fmt: skip

    assert within()
    ActionChains(page).drag_and_drop_by_offset(of(page, "weight"), -60, -90).perform()
    assert within()
    of(page, "weight").send_keys(*120 * [Keys.ARROW_RIGHT])
    assert within()
    ActionChains(page).drag_and_drop_by_offset(of(page, "sample-2"), 120, -80).perform()
    assert within()
    of(page, "sample-2").send_keys(*30 * [Keys.ARROW_UP])
    assert within()
    low, value, high = (float(attributes(page, "sample-2")[k]) for k in (2, 1, 3))
    assert low <= value <= high
    before = state(page, "view.i[1]")
    type_in(page, "rate-number", "3")
    Select(of(page, "mistake")).select_by_visible_text("sign")
    for count in (1, 2, 5, 20, 100, 300):
        steps(page, count)
        assert within()
    assert said(page, "warning").startswith("The descent has diverged: press Back, or Reset.")
    assert state(page, "view.i[1]") > 1e100 * before


TEXTS = "[...document.querySelectorAll('#NAME text')].map((node) => node.textContent)"


def test_the_axes_keep_still_while_it_descends(page: Chrome) -> None:
    """All 150 steps of the lesson; the axis of steps grows five times, in round numbers."""
    texts = "['loss', 'fit'].map((name) => at(name).textContent).join()"
    walked = f"Array.from({{length: 150}}, () => (at('step').click(), [view.steps, {texts}]))"
    before, seen = state(page, texts), state(page, walked)
    assert {shown for _, shown in seen} == {before}
    assert sorted({count for count, _ in seen}) == [10, 20, 50, 100, 200]


def test_the_arrow_ends_where_the_next_step_leads(page: Chrome) -> None:
    """Also with a momentum, by which it is longer than α·∂loss/∂w."""
    type_in(page, "momentum", "0.9" + Keys.TAB)
    steps(page, 2)
    low, high = state(page, "view.i")
    tip = state(page, "document.querySelector('#loss path.turn.mark').getAttribute('d')")
    steps(page, 1)
    there = 62 + (state(page, "now().w[0]") - low) / (high - low) * (384 - 62)
    assert float(tip[1:].split()[0]) == pytest.approx(there, abs=0.01)


def numbers(page: Chrome, selector: str) -> list[float]:
    """The coordinates of a path that is drawn."""
    path = state(page, f"document.querySelector({selector!r}).getAttribute('d')")
    return [float(text) for text in re.findall(r"-?[0-9.]+", path)]


def test_the_tangent_has_the_slope_of_the_next_steps_loss(page: Chrome) -> None:
    """On the sample (1, 2) the loss at w = 1 is 1, and its slope −2."""
    (low, high), (_, top) = state(page, "[view.i, view.loss]")
    x, y, to_x, to_y = numbers(page, "#tangent")
    rise = (y - to_y) / (216 - 12) * top
    assert rise / ((to_x - x) / (384 - 62) * (high - low)) == pytest.approx(-2, rel=1e-3)
    assert (216 - (y + to_y) / 2) / (216 - 12) * top == pytest.approx(1, abs=0.01)


def test_the_arrows_head_is_on_its_shaft(page: Chrome) -> None:
    """Both of its ends lie before its tip."""
    type_in(page, "rate-number", "0.1")
    tip, side, other = numbers(page, "#loss path.turn.mark")[::2]
    shaft = numbers(page, "#loss path.turn:has(+ path.turn.mark)")[0]
    assert shaft < side < tip
    assert shaft < other < tip


def test_on_a_level_line_the_loss_is_the_same(trained: Shell, browser: Chrome) -> None:
    """An oblique ellipse, for all x are positive."""
    trained("--data", "hubble", "--bias", "--epochs", "1")
    opened(browser, "runs/a/manual")
    moved = "view.best.map((v, p) => v + (p === i ? a : p === j ? b : 0))"
    losses = f"([a, b]) => meanLoss({moved}) - meanLoss(view.best)"
    each = f"rings(i, j).map((ring) => ring.map({losses}))"
    found = state(browser, f"(([i, j]) => {each})(run.plane)")
    for ring in found:
        assert ring == pytest.approx([ring[0]] * len(ring))


def test_the_curve_is_of_the_loss_above_its_minimum(trained: Shell, browser: Chrome) -> None:
    """Which is not 0 on these data."""
    trained("--data", "hubble", "--bias", "--lr", "0.3", "--batch-size", "full", "--epochs", "1")
    opened(browser, "runs/a/manual")
    steps(browser, 5)
    above = "Math.log10(s.mean - meanLoss(leastSquares()))"
    left = state(browser, f"state.history.map((s) => {above})")
    drawn = numbers(browser, "#curve path.model")[1::2]
    unit = (drawn[-1] - drawn[0]) / (left[-1] - left[0])
    assert drawn == pytest.approx([drawn[0] + (y - left[0]) * unit for y in left], abs=0.02)


def test_powers_of_ten_on_an_axis(page: Chrome) -> None:
    """Seven at most."""
    for ends, found in {
        "-2, 2": "10⁻² 10⁻¹ 1 10¹ 10²", "-12, 4": "10⁻¹² 10⁻⁹ 10⁻⁶ 10⁻³ 1 10³",
    }.items():  # fmt: skip
        assert " ".join(state(page, f"tensOf({ends}).map(tenTo)")) == found


def test_the_next_steps_sample_is_green(page: Chrome) -> None:
    """And its ŷ − y, a line between them."""
    kinds = "[0, 1, 2].map((n) => at(`sample-${n}`).lastChild.getAttribute('class'))"
    for green in (0, 1, 2, 0):
        expected = ["data turn" if n == green else "data" for n in range(3)]
        assert state(page, kinds) == expected
        x, y, to_x, to_y = numbers(page, "#fit path.turn")
        cx, cy = (float(t) for t in state(page, f"['cx', 'cy'].map((c) => at('sample-{green}')"
                                                ".lastChild.getAttribute(c))"))  # fmt: skip
        assert (x, to_x, to_y) == pytest.approx((cx, cx, cy), abs=0.01)
        assert y > to_y
        click(page, "step")


def test_no_two_numbers_of_an_axis_overlap(trained: Shell, browser: Chrome) -> None:
    """Where they are long some of them are left out."""
    Path("long.csv").write_text("1000000,2\n1000001,4\n1000002,6\n", encoding="utf-8")
    trained("--data", "long.csv", "--lr", "1e-14")
    opened(browser, "runs/a/manual")
    texts = boxes(browser, "#fit text[y='233']")
    assert len(texts) > 1
    assert all(a["right"] < b["left"] for a, b in itertools.pairwise(texts))


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
    assert of(page, "status").aria_role == "status"
    assert of(page, "own-said").get_attribute("aria-live") == "polite"
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


def test_the_chain_rule_of_another_weight(trained: Shell, browser: Chrome) -> None:
    """Whose ∂ŷ/∂w is another, and follows the choice."""
    trained("--model", "quadratic", "--epochs", "1")
    opened(browser, "runs/a/manual")
    click(browser, "step", "formulas")
    for name, factor in {"w2": "x² = 3.24", "w1": "x = −1.8", "b": "1 = 1"}.items():
        Select(of(browser, "nudged")).select_by_visible_text(name)
        texts = state(browser, TEXTS.replace("NAME", "chain"))
        assert texts[0] == name
        assert texts[6] == f"× ∂ŷ/∂{name} = {factor}"
