"""The data, and the curve that a descent fits to them; of several columns, ŷ beside y.

It draws on the figure that it is given. In a frame of an animation, `upto` is the last row drawn.
"""

import math
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from torch import Tensor

from torchgd.figures.paths import rows_shown
from torchgd.figures.runs import DrawnRun, Runs, title_of
from torchgd.figures.style import BLACK, GREY, RED, STEPS, Style, line_of, scale_of
from torchgd.trajectory import UNSTABLE

MARKERS = "osDv^PX<>"  # that tell runs of one colour apart


def fit(figure: FigureBase, runs: Runs, upto: int | None = None) -> None:
    """The data, ŷ at several steps and at the end, and least squares' ŷ; in original units."""
    axes, first = figure.add_subplot(), runs[0]
    if first.experiment.data.features > 1:
        _predicted_against_measured(axes, runs, upto)
    else:
        _curves(axes, runs, upto)
    if upto is None:
        axes.set_title(title_of(runs))
        figure.legend(loc="outside right upper")


def _predicted_against_measured(axes: Axes, runs: Runs, upto: int | None) -> None:
    """Draw ŷ over y, of the first step, the last ones and least squares; on the line is ŷ = y."""
    first, data = runs[0], runs[0].experiment.data
    some = _some(len(data.x))
    z, y = first.experiment.standardized(data.x[some]), data.y[some]

    def draw(w: Tensor, label: str, **style: Any) -> None:
        prediction = first.landscape.predict(w, z) + first.experiment.offset
        kind: Style = {"marker": "o", "markersize": 4, "linestyle": ""}
        axes.plot(y, prediction, label=label, **{**kind, **style})

    low, high = y.aminmax()
    axes.plot([low, high], [low, high], color=BLACK, linewidth=1, label="ŷ = y", gid="equal")
    if upto is None:
        draw(first.path[0], _step(first, 0, len(runs) > 1), color=GREY, gid="early")
    for number, run in enumerate(runs):
        end = _fitted(run, upto) - 1
        # What lies on top is smaller, so that what is under it is seen.
        style: Style = {"color": line_of(runs, number)["color"], "markersize": 4 + 5 / (1 + number)}
        style["marker"] = MARKERS[number % len(MARKERS)]
        draw(run.path[end], _label(run, end, len(runs) > 1, upto), gid="end", **style)
    draw(first.landscape.minimiser, "least squares", color=RED, markersize=2, zorder=5, gid="best")
    unit = f"  [{data.y_unit}]" * bool(data.y_unit)
    axes.set_xlabel(f"{data.y_name}, measured{unit}")
    axes.set_ylabel(f"{data.y_name}, predicted{unit}")


def _some(count: int) -> Tensor:
    """Return the numbers of at most 2000 samples, spread over all of them."""
    return torch.linspace(0, count - 1, min(count, 2000)).long()


def _label(run: DrawnRun, row: int, many: bool, upto: int | None) -> str:
    """Name a row and, but in an animation, how far it is from the minimum."""
    label = _step(run, row, many)
    if upto is None and (left := run.excess[row].item()) < math.inf:
        label += f":\nloss − minimum = {left:.2g}"
    return label


def _curves(axes: Axes, runs: Runs, upto: int | None) -> None:
    """Draw the data and the curves ŷ over x."""
    first = runs[0]
    landscape, data = first.landscape, first.experiment.data
    some = _some(len(data.x))
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
        label = _label(run, end, len(runs) > 1, upto)
        prediction = landscape.predict(run.path[end], z) + first.experiment.offset
        axes.plot(x, prediction, label=label, gid="end", **line_of(runs, number, 2.5))
    best = landscape.predict(landscape.minimiser, z) + first.experiment.offset
    axes.plot(x, best, "--", color=RED, label="least squares", zorder=5, gid="best")
    axes.set(xlim=(x[0].item(), x[-1].item()), ylim=_heights(first, best, z))
    axes.set_xlabel(data.x_name + f"  [{data.x_unit}]" * bool(data.x_unit))
    axes.set_ylabel(data.y_name + f"  [{data.y_unit}]" * bool(data.y_unit))


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
