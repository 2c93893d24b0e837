"""What all figures look like: colours, fonts and sizes, and the line and colours of each run."""

from typing import Any

import matplotlib
from matplotlib.colors import PowerNorm
from matplotlib.rcsetup import cycler

from torchgd.figures.runs import DrawnRun, Runs

Style = dict[str, Any]

# Okabe and Ito's palette, and cividis for the steps: every kind of colour vision tells them apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
RED, GREEN, GREY, BLACK = COLOURS[5], COLOURS[2], "#999999", "#000000"
STEPS = matplotlib.colormaps["cividis"]
HIGHEST = 1e100  # matplotlib squares what it draws, and this square is still finite
STYLE: Any = {
    "font.size": 12,
    "figure.figsize": (10.5, 5.6),
    "figure.dpi": 80,  # in TensorBoard and the animation; files have 150
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "axes.titlesize": 12.5,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "torchgd",  # the same picture is the same file
}


def line_of(runs: Runs, number: int, alone: float = 1.8) -> Style:
    """Return a run's colour and width: the first is wide, for the others lie on it."""
    width = (5.0, 2.2, 1.6)[min(number, 2)] if len(runs) > 1 else alone
    return {"color": COLOURS[number % len(COLOURS)], "linewidth": width}


def scale_of(run: DrawnRun) -> PowerNorm:
    """Return the scale of a run's steps' colours: by the root, for the first steps go farthest."""
    return PowerNorm(0.5, vmin=0, vmax=max(1, int(run.trajectory.step[-1])))
