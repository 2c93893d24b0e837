"""The pictures. The only folder that imports matplotlib."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from torchgd.experiment.files import replacing
from torchgd.figures.curves import curves, rates
from torchgd.figures.descent import descent, fit
from torchgd.figures.runs import Runs
from torchgd.figures.style import STYLE


def draw(runs: Runs, plane: list[str] | None = None) -> dict[str, Figure]:
    """Return every figure of runs that are drawn together, by name.

    They are `loss` (of one parameter) or `contour`, `fit`, `curves` and, where some learning rate
    is stable and some is not, `rates`.

    Raises:
        ValueError: the plane is not of two of the parameters.
    """
    landscape, options = runs[0].landscape, dict(runs[0].experiment.options)
    del options["lr"]
    stable = landscape.largest_stable_learning_rate(**options)
    kinds: dict[str, Callable[..., None]] = {
        "loss" if len(landscape.names) == 1 else "contour": partial(descent, plane=plane),
        "fit": fit,
        "curves": curves,
    }
    if 0 < stable < math.inf:
        kinds["rates"] = partial(rates, stable=stable)
    with matplotlib.rc_context(STYLE):
        figures = {name: Figure() for name in kinds}
        for name, kind in kinds.items():
            kind(figures[name], runs)
    return figures


def save(figures: dict[str, Figure], directory: Path, suffix: str) -> Iterator[Path]:
    """Write each figure as directory/NAME.SUFFIX, whole or not at all; yield the files."""
    for name, figure in figures.items():
        file = directory / f"{name}.{suffix}"
        with replacing(file) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, dpi=150)
        yield file
