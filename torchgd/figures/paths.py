"""The paths that runs take, drawn on what they descend."""

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from torch import Tensor

from torchgd.figures.runs import DrawnRun, Runs
from torchgd.figures.style import BLACK, HIGHEST, STEPS, Style, line_of, scale_of

RING: Style = {"color": BLACK, "fillstyle": "none", "zorder": 9}


def rows_shown(run: DrawnRun, upto: int | None) -> int:
    """Return how many rows of a run are drawn."""
    return run.inside if upto is None else min(run.inside, upto + 1)


def draw_paths(axes: Axes, runs: Runs, points: list[Tensor], upto: int | None) -> None:
    """Draw each run's points (2, K+1), x and y of each row, the lines between, start and end.

    One run's points have the colours of their steps; of several, each run has a colour.
    """
    alone = len(runs) == 1
    for number, (run, (x, y)) in enumerate(zip(runs, points, strict=True)):
        rows, line = rows_shown(run, upto), line_of(runs, number, alone=1.2)
        joined = rows if upto is not None else rows + 1  # with the step that leaves the picture
        _lines(axes, torch.stack([x, y], dim=1)[:joined], line)
        colours: Style = {"c": run.trajectory.step[:rows], "norm": scale_of(run), "cmap": STEPS}
        size: Style = {"s": 30 / (1 + number), "linewidths": 0.3, "edgecolors": line["color"]}
        kind = {**size, **(colours if alone else {"color": line["color"]})}
        axes.scatter(x[:rows], y[:rows], zorder=3 + number, gid="points", **kind)
        ring: Style = RING if alone else {**RING, "color": line["color"]}
        axes.plot(x[0], y[0], "s", markersize=11 + 2 * number, gid="start", **ring)
        ends = run.inside == len(x) or upto is not None
        if ends:
            axes.plot(x[rows - 1], y[rows - 1], "o", markersize=13 + 2 * number, gid="end", **ring)
        last = f"{'end, ' if ends else 'leaves after '}step {run.trajectory.step[rows - 1]}"
        if alone:
            axes.plot([], [], label="descent", **line)
            axes.plot([], [], "s", markersize=11, label="start", **ring)
            axes.plot([], [], "o" if ends else " ", markersize=13, label=last, **ring)
        else:
            mark: Style = {"marker": "o" if ends else "", "fillstyle": "none"}
            axes.plot([], [], label=f"{run.label}: {last}", **mark, **line)


# The lines of a long zigzag would hide what is under them. So each step is drawn with the opacity
# 1/(1 + length/2), where length is that of the path before it, in widths of the picture.
def _lines(axes: Axes, points: Tensor, line: Style) -> None:
    """Draw the lines between a path's points (K, 2)."""
    points = points.clamp(-HIGHEST, HIGHEST)
    pairs = torch.stack([points[:-1], points[1:]], dim=1)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    window = torch.tensor([right - left, top - bottom], dtype=points.dtype)
    lengths = (points.diff(dim=0) / window).norm(dim=1)
    before = (lengths.cumsum(0) - lengths).nan_to_num(torch.inf)
    lines = LineCollection([*pairs.numpy()], gid="path", linewidths=line["linewidth"])
    faint = (1 / (1 + before / 2)).clamp(min=0.12)
    lines.set_color([to_rgba(line["color"], alpha) for alpha in faint.tolist()])
    axes.add_collection(lines, autolim=False)
