"""The pictures. The only folder that imports matplotlib."""

import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ["MPLBACKEND"] = "agg"  # no window is opened, whatever the user's own says
import matplotlib
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from torchgd.experiment.files import replacing
from torchgd.figures.curves import curves, rates
from torchgd.figures.descent import descent
from torchgd.figures.fit import fit
from torchgd.figures.runs import Runs
from torchgd.figures.style import STYLE


def draw(runs: Runs, plane: list[str] | None = None) -> dict[str, Figure]:
    """Return every figure of these runs, by name, each with all runs in it.

    They are `loss` (of one parameter) or `contour`, `fit`, `curves` and, where some learning rate
    is stable and some is not, `rates`.

    Raises:
        ValueError: the plane is not of two of the parameters.
    """
    landscape, options = runs[0].landscape, dict(runs[0].experiment.options)
    del options["lr"]
    known = landscape.rates(**options)
    graph = "loss" if len(landscape.names) == 1 else "contour"
    kinds: dict[str, Any] = {graph: partial(descent, plane=plane), "fit": fit, "curves": curves}
    if known.stable and known.stable[-1][1] < math.inf:
        kinds["rates"] = partial(rates, known=known)
    with matplotlib.rc_context(STYLE):
        figures = {name: Figure() for name in kinds}
        for name, kind in kinds.items():
            kind(figures[name], runs)
            take_words_literally(figures[name])
    return figures


def take_words_literally(figure: Figure) -> None:
    """Show the user's names and units as they are: matplotlib takes $…$ for mathematics."""
    texts = [text for legend in figure.findobj(Legend) for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    for text in texts:
        text.set_parse_math(False)


def save(figures: dict[str, Figure], directory: Path, suffix: str) -> Iterator[Path]:
    """Write each figure as directory/NAME.SUFFIX, whole or not at all; yield the files."""
    for name, figure in figures.items():
        file = directory / f"{name}.{suffix}"
        with replacing(file) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, dpi=150)
        yield file


def animate(runs: Runs, file: Path, plane: list[str] | None = None) -> None:
    """Write a GIF of the descent, on its loss graph or contour plot, beside the fit.

    It has at most 48 frames, 10 a second. The later rows are spaced more widely, for the descent
    slows down. The last frame stays for a second. The file is written whole or not at all.

    Raises:
        ValueError: the plane is not of two of the parameters.
    """
    last = max(run.inside for run in runs)
    rows = (np.unique(np.geomspace(1, last, 48).round().astype(int)) - 1).tolist()
    writer = PillowWriter(fps=10)
    with replacing(file) as temporary, matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.2))
        writer.setup(figure, str(temporary), dpi=70)
        for row in rows:
            figure.clear()
            left, right = cast(Any, figure.subfigures(1, 2))
            descent(left, runs, row, plane)
            fit(right, runs, row)
            take_words_literally(figure)
            writer.grab_frame()
        for _ in range(10):
            writer.grab_frame()
        writer.finish()
