"""The descent, step by step: a GIF."""

from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

from torchgd.experiment.files import replacing
from torchgd.figures.descent import descent, fit
from torchgd.figures.runs import Runs
from torchgd.figures.style import STYLE


def animate(runs: Runs, file: Path, plane: list[str] | None = None) -> None:
    """Write a GIF of the descent, on its loss graph or contour plot, beside the fit.

    At most 48 frames, 10 a second, of rows spaced more widely as the descent slows down; the last
    one stays for a second. The file is written whole or not at all.

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
            writer.grab_frame()
        for _ in range(10):
            writer.grab_frame()
        writer.finish()
