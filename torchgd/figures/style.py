"""What all figures look like: their colours, and how runs, axes and files are named."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.files import replacing
from torchgd.figures.runs import Descent
from torchgd.models import Linear, Quadratic

# Okabe and Ito's palette, told apart by every kind of colour vision, as is cividis for the steps.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
RED, GREEN, GREY, BLACK = COLOURS[5], COLOURS[2], "#999999", "#000000"
STEPS = matplotlib.colormaps["cividis"]
STYLE: Any = {
    "font.size": 12,
    "figure.figsize": (10.5, 5.6),
    "figure.dpi": 80,  # in TensorBoard and the animation; files have 150
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "axes.titlesize": 12.5,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "torchgd",  # the same picture is the same file
}


def line_of(descents: Sequence[Descent], number: int, alone: float = 1.8) -> dict[str, Any]:
    """A run's colour and width: the first lies, wide, under the others; one is `alone` wide."""
    width = (4.5, 1.6, 1.0)[min(number, 2)] if len(descents) > 1 else alone
    return {"color": COLOURS[number % len(COLOURS)], "linewidth": width}


def title(experiment: Experiment) -> str:
    """MODEL-DATA and the batch size."""
    size = experiment.configuration.batch_size
    full = size == len(experiment.data.x)
    return f"{experiment.name}, {'full batch' if full else f'batch size {size}'}"


def title_with_rates(descents: Sequence[Descent]) -> str:
    """The title and each run's learning rate."""
    rates = dict.fromkeys(f"{run.experiment.options['lr']:g}" for run in descents)
    return f"{title(descents[0].experiment)}, α = {', '.join(rates)}"


def weight_unit(experiment: Experiment, name: str) -> str:
    """A built-in model's unit of a weight, if the data have units: ŷ = w·x is in y's."""
    data, power = experiment.data, {"b": 0, "w": 1, "w1": 1, "w2": 2}.get(name)
    if not data.y_unit or not isinstance(experiment.new_model(), Linear | Quadratic):
        return ""
    if power == 0 or experiment.standardization is not None:  # z has no unit
        return f"[{data.y_unit}]"
    return f"[{data.y_unit}/{data.x_unit.removesuffix('s')}{'²' if power == 2 else ''}]"


def loss_unit(experiment: Experiment) -> str:
    """The square of y's unit."""
    unit = experiment.data.y_unit
    return f"[({unit})²]" if "/" in unit else f"[{unit}²]" if unit else ""


def save(figures: dict[str, Figure], directory: Path, suffix: str) -> Iterator[Path]:
    """Write each figure as directory/NAME.SUFFIX, whole or not at all; yield the files."""
    for name, figure in figures.items():
        file = directory / f"{name}.{suffix}"
        with replacing(file) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, dpi=150)
        yield file
