"""TensorBoard's pages in a real browser, as a user sees them."""

import base64
import time
from pathlib import Path

import pytest
from helpers import ROOT, ended, script
from selenium.webdriver import Chrome

pytestmark = pytest.mark.processes

# The texts and the loaded images' addresses. TensorBoard's pages are made of web components, whose
# text innerText does not reach.
VISIBLE = """
const found = [];
const walk = (node) => {
    if (node.nodeType === 3) { found.push(node.textContent.trim()); return; }
    if (node.tagName === "STYLE" || node.tagName === "SCRIPT") return;
    if (node.nodeType === 1 && getComputedStyle(node).display === "none") return;
    if (node.tagName === "IMG" && node.naturalWidth > 0) found.push(node.src);
    if (node.shadowRoot) node.shadowRoot.childNodes.forEach(walk);
    node.childNodes.forEach(walk);
};
walk(document.body);
return found.filter((text) => text);
"""


def wait_for(browser: Chrome, address: str, page: str, *wanted: str) -> list[str]:
    """Open a page anew and wait until it shows each text, as many times as it is wanted."""
    browser.get("about:blank")
    browser.get(f"{address}/#{page}")
    deadline = time.monotonic() + 60
    while True:
        shown: list[str] = browser.execute_script(VISIBLE)  # type: ignore[no-untyped-call]
        missing = [t for t in wanted if sum(t in found for found in shown) < wanted.count(t)]
        if not missing:
            return shown
        assert time.monotonic() < deadline, f"{missing} not in {shown}"
        time.sleep(0.3)


RUNS = ("lesson/manual", "lesson/autograd")


def test_the_lessons_page(browser: Chrome, tmp_path: Path) -> None:
    """All of its pictures are in it, and nothing is asked for elsewhere."""
    process = script(tmp_path, "--html", "page.html", file=ROOT / "scripts" / "lesson.py")
    assert ended(process) == (0, "page.html\n", "")
    browser.get((tmp_path / "page.html").as_uri())
    widths = "return [...document.images].map((image) => image.complete && image.naturalWidth)"
    assert len(found := browser.execute_script(widths)) == 6  # type: ignore[no-untyped-call]
    assert all(found)
    asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    others: list[str] = browser.execute_script(asked)  # type: ignore[no-untyped-call]
    assert all(name.startswith("data:") for name in others)
    assert "Exercise 3.1, answered and proven" in browser.page_source


SMOOTHING = """
const all = (node) => [node, ...[...(node.shadowRoot ? node.shadowRoot.children : []),
                                 ...node.children].flatMap(all)];
return all(document.body).map((node) => node._smoothingWeight).filter((w) => w !== undefined);
"""


def test_by_the_readmes_address_nothing_is_smoothed(
    browser: Chrome, server: tuple[str, Path]
) -> None:
    address = "?smoothing=0#scalars&_smoothingWeight=0"
    assert f"http://localhost:6006/{address}" in (ROOT / "README.md").read_text(encoding="utf-8")
    wait_for(browser, server[0], "scalars&_smoothingWeight=0", *RUNS, "loss")
    weights = browser.execute_script(SMOOTHING)  # type: ignore[no-untyped-call]
    assert weights
    assert set(weights) == {0}
    wait_for(browser, server[0], "scalars", *RUNS, "loss")  # TensorBoard's own is 0.6
    assert set(browser.execute_script(SMOOTHING)) == {0.6}  # type: ignore[no-untyped-call]


def test_scalars(browser: Chrome, server: tuple[str, Path]) -> None:
    wait_for(browser, server[0], "scalars", *RUNS, "gradient/w", "loss", "weight", "result")


def test_custom_scalars_lay_both_updates_in_one_chart(
    browser: Chrome, server: tuple[str, Path]
) -> None:
    # Of two runs and one tag a chart has two matches: a curve per update.
    charts = ["loss", "weight/w", "Matches (2)", "Matches (2)"]
    wait_for(browser, server[0], "custom_scalars", *RUNS, *charts)


def test_hparams_show_options_and_results(browser: Chrome, server: tuple[str, Path]) -> None:
    """What runs differ in, and the final loss, without a box to tick, and no hashes."""
    told = ["batch_size", "lr", "momentum", "update", "0.010000", "manual", "autograd"]
    shown = wait_for(browser, server[0], "hparams", *RUNS, *told, "3.5627e-13")
    assert not any("sha256" in text for text in shown)


def test_images_show_every_figure_once(browser: Chrome, server: tuple[str, Path]) -> None:
    names = [f"whole descent/{name}" for name in ("loss", "fit", "curves", "rates")]
    wait_for(browser, server[0], "images", *names)
    # The page loads what is in view: the first tag's image at least.
    key = blob_key(RUNS[0], "curves")
    found = [text for text in wait_for(browser, server[0], "images", key) if key in text]
    assert all("/data/plugin/images/individualImage?" in source for source in found)
    assert not any(blob_key(RUNS[1], "curves") in source for source in found)


def test_figures_come_after_the_curves(browser: Chrome, server: tuple[str, Path]) -> None:
    groups = ("gradient", "loss", "result", "weight", "whole descent")
    shown = wait_for(browser, server[0], "timeseries", *RUNS, *groups)
    found = [text for text in shown if text in groups]
    assert sorted(groups, key=found.index) == [*groups]


def blob_key(run: str, figure: str) -> str:
    """The beginning of TensorBoard's name for an image, base64 of ["", RUN, TAG, …."""
    key = f'["","{run}","whole descent/{figure}"'.encode()
    return base64.urlsafe_b64encode(key[: len(key) // 3 * 3]).decode()
