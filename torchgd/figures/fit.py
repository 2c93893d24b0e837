"""The data, and the curve that a descent fits to them.

It draws on the figure that it is given. In a frame of an animation, `upto` is the last row drawn.
"""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from torch import Tensor

from torchgd.figures.paths import rows_shown
from torchgd.figures.runs import DrawnRun, Runs, title_of
from torchgd.figures.style import BLACK, RED, STEPS, Style, line_of, scale_of
from torchgd.trajectory import UNSTABLE


def fit(figure: FigureBase, runs: Runs, upto: int | None = None) -> None:
    """The data, ŷ at several steps and at the end, and least squares' ŷ; in original units."""
    axes, first = figure.add_subplot(), runs[0]
    landscape, data = first.landscape, first.experiment.data
    some = torch.linspace(0, len(data.x) - 1, min(len(data.x), 2000)).long()
    dots: Style = {"color": BLACK, "markersize": 4, "zorder": 4, "label": "data", "gid": "data"}
    axes.plot(data.x[some], data.y[some], "o", **dots)
    low, high = data.x.min().item(), data.x.max().item()
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    x = torch.linspace(low - margin, high + margin, 201, dtype=torch.float64)
    z = first.experiment.standardized(x)
    if upto is None:
        _early(axes, first, x, z, many=len(runs) > 1)
    for number, run in enumerate(runs):
        end = _fitted(run, upto) - 1
        label = _step(run, end, many=len(runs) > 1)
        if upto is None and (left := run.excess[end].item()) < math.inf:
            label += f":\nloss − minimum = {left:.2g}"
        prediction = landscape.predict(run.path[end], z) + first.experiment.offset
        axes.plot(x, prediction, label=label, gid="end", **line_of(runs, number, 2.5))
    best = landscape.predict(landscape.minimiser, z) + first.experiment.offset
    axes.plot(x, best, "--", color=RED, label="least squares", zorder=5, gid="best")
    axes.set(xlim=(x[0].item(), x[-1].item()), ylim=_heights(first, best, z))
    axes.set_xlabel(data.x_name + f"  [{data.x_unit}]" * bool(data.x_unit))
    axes.set_ylabel(data.y_name + f"  [{data.y_unit}]" * bool(data.y_unit))
    if upto is None:
        axes.set_title(title_of(runs))
        figure.legend(loc="outside right upper")


def _fitted(run: DrawnRun, upto: int | None) -> int:
    """Return how many rows have a ŷ to draw; of a descent that diverged, those in the picture."""
    whole = upto is None and run.trajectory.stopped not in UNSTABLE
    return len(run.path) if whole else rows_shown(run, upto)


def _early(axes: Axes, run: DrawnRun, x: Tensor, z: Tensor, many: bool) -> None:
    """Draw ŷ at up to six rows before the last, closer together at first, where ŷ changes most."""
    norm = scale_of(run)
    for row in np.unique(np.geomspace(1, _fitted(run, None), 7).round()).astype(int)[:-1] - 1:
        colour = STEPS(norm(int(run.trajectory.step[row])))
        style: Style = {"color": colour, "linewidth": 1.2, "label": _step(run, row, many)}
        prediction = run.landscape.predict(run.path[row], z) + run.experiment.offset
        axes.plot(x, prediction, gid="early", **style)


def _step(run: DrawnRun, row: int, many: bool) -> str:
    """Name a row by its step and, of many runs, its run."""
    return f"{run.label}, " * many + f"step {run.trajectory.step[row]}"


def _heights(run: DrawnRun, best: Tensor, z: Tensor) -> tuple[float, float]:
    """Return the limits of ŷ's axis: around all data and the part of the first curve near them."""
    heights = torch.cat([run.experiment.data.y, best])
    bottom, top = heights.min().item(), heights.max().item()
    room = top - bottom or 0.5 * abs(top) or 1.0
    start = run.landscape.predict(run.path[0], z) + run.experiment.offset
    near = start.clamp(bottom - room, top + room)
    low, high = torch.cat([heights, near]).aminmax()
    return low.item() - 0.05 * room, high.item() + 0.05 * room
