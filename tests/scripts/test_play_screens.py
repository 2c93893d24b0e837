"""The page to play with, on a phone and a screen, by keyboard and screen reader: what is seen."""

import re
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
