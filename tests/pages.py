"""The page to play with, opened in a browser and used by a person's means."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plot
from helpers import ROOT
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

ONE_RUN = ["--update", "manual", "--no-figures", "--name", "a"]  # what train.py is told


REFERENCE = ROOT / "runs" / "reference"


def opened(browser: Chrome, run: str = str(REFERENCE / "manual")) -> Chrome:
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
