"""The runs that one figure shows: read back from the disk, and laid on the landscape they share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.folder import read_result, read_run, runs_in
from torchgd.experiment.resolve import from_config, resolve
from torchgd.loss import mean_squared_error
from torchgd.models import Linear, Quadratic
from torchgd.proof.mistakes import MISTAKES
from torchgd.theory.landscape import Landscape
from torchgd.trajectory import Stopped, Trajectory

FAR = 100.0  # times the first excess: a path that climbs higher leaves the picture,
NEAR = 2.0  # beside those of runs that do not climb

Recorded = tuple[str, Experiment, Trajectory]  # its label, what was asked for, and the path it took


@dataclass(frozen=True)
class DrawnRun:
    """A run on the landscape that all runs of a figure descend.

    `path` holds the weights at each row, (K+1, P), and `excess` loss − minimum over all data
    there, (K+1,), both in float64. `inside` is how many of the rows come before the path leaves
    the picture: before the excess passes FAR times, or NEAR times, the largest one at a start.
    Where all start at the minimum, every finite row is inside.
    """

    label: str
    experiment: Experiment
    trajectory: Trajectory
    landscape: Landscape
    path: Tensor
    excess: Tensor
    inside: int

    @property
    def title(self) -> str:
        """MODEL-DATA and the batch size."""
        size = self.experiment.configuration.batch_size
        full = size == len(self.experiment.data.x)
        return f"{self.experiment.name}, {'full batch' if full else f'batch size {size}'}"

    def weight_unit(self, name: str) -> str:
        """A built-in model's unit of a weight, if the data have units: ŷ = w·x is in y's."""
        data = self.experiment.data
        known = isinstance(self.landscape.model, Linear | Quadratic) and data.features == 1
        if not data.y_unit or not known:
            return ""
        if name == "b" or self.experiment.standardization is not None:  # z has no unit
            return f"[{data.y_unit}]"
        return f"[{data.y_unit}/{data.x_unit.removesuffix('s')}{'²' if name == 'w2' else ''}]"

    @property
    def loss_unit(self) -> str:
        """The square of y's unit."""
        unit = self.experiment.data.y_unit
        return f"[({unit})²]" if "/" in unit else f"[{unit}²]" if unit else ""


Runs = Sequence[DrawnRun]


def lay_together(runs: Sequence[Recorded]) -> list[DrawnRun]:
    """Return the runs on one landscape; shuffled batches are those of the first epoch.

    Raises:
        ValueError: the runs are not of one model, one data set and one standardisation, or the
            data are beyond float64.
    """
    label, experiment, _ = runs[0]
    for other, its, _ in runs[1:]:
        for what in ("model", "data", "bias", "standardize"):
            p, q = (getattr(one.configuration, what) for one in (experiment, its))
            if p != q:
                raise ValueError(
                    f"{label} has {what} {p}, and {other} {q}: only runs of one model on one data "
                    "set lie over each other; draw them one by one"
                )
    paths = [path_of(trajectory) for _, _, trajectory in runs]
    ends = torch.cat([path[[0, -1]] for path in paths])
    near = ends[ends.isfinite().all(dim=1)]
    experiment.batches.set_epoch(0)
    landscape = Landscape(experiment.new_model(), experiment.batches, near)
    excesses = [landscape.excess(path) for path in paths]
    highest = max(excess[0].item() for excess in excesses)
    stay = [excess[-1] <= highest for excess in excesses]
    laid = []
    for run, path, excess in zip(runs, paths, excesses, strict=True):
        limit = (NEAR if any(stay) and not all(stay) else FAR) * highest or torch.inf
        seen = excess.isfinite() & (excess <= limit)
        inside = max(1, int(seen.cumprod(0).sum()))  # the start is always one of them
        laid.append(DrawnRun(*run, landscape, path, excess, inside))
    return laid


def title_of(runs: Runs) -> str:
    """The title, with each run's learning rate."""
    rates = dict.fromkeys(f"{run.experiment.options['lr']:g}" for run in runs)
    alike = len({run.title for run in runs}) == 1
    title = runs[0].title if alike else runs[0].experiment.name
    scaled = ", standardized" * (runs[0].experiment.standardization is not None)
    return f"{title}{scaled}, α = {', '.join(rates)}"


def path_of(trajectory: Trajectory) -> Tensor:
    """Return the weights at each row, (K+1, P), in float64."""
    return trajectory.weights_at(slice(None)).double()


def read_runs(paths: Sequence[Path], model: str | None) -> list[Recorded]:
    """Read runs that have ended, of runs/NAME all its updates; each label tells it from the rest.

    Raises:
        ValueError: one has not ended, or is damaged, or its model or data are not what they were.
        OSError: a file cannot be read.
    """
    found = [directory for path in paths for directory in runs_in(path)]
    labels = [directory.resolve().name for directory in found]
    if len(set(labels)) < len(labels):
        labels = [f"{d.resolve().parent.name}/{d.resolve().name}" for d in found]
    return [(label, *_read(d, model)) for label, d in zip(labels, found, strict=True)]


def _read(directory: Path, model: str | None) -> tuple[Experiment, Trajectory]:
    config, trajectory = read_run(directory)
    result = read_result(directory)
    end = int(trajectory.step[-1])
    if result["steps"] != end:
        raise ValueError(
            f"{directory}: trajectory.csv ends at step {end}, and the run did at "
            f"{result['steps']}: the file is truncated; run it again"
        )
    if config.get("chunk_size") is not None:
        raise ValueError(f"{directory}: its data were read in chunks, and are too many to draw")
    changes: dict[str, Any] = {"device": "cpu", "compile": False}
    if config.get("update") == "compiled":  # the same steps, which need no compiler to be drawn
        changes["update"] = "manual"
    asked, folder = from_config(config, model, **changes)
    (experiment,) = resolve([asked], folder)
    if trajectory.names != (names := tuple(experiment.configuration.initial)):
        raise ValueError(
            f"{directory}: trajectory.csv is of {', '.join(trajectory.names)}, and the model has "
            f"{', '.join(names)}; run it again"
        )
    if asked.update not in MISTAKES:  # a mistake may be in the loss itself
        _refuse_changes(directory, experiment, trajectory)
    return experiment, replace(trajectory, stopped=Stopped(result["stopped"]))


def _refuse_changes(directory: Path, experiment: Experiment, trajectory: Trajectory) -> None:
    """Refuse a model or data that no longer give the first loss that was recorded."""
    x, y = next(iter(experiment.batches))
    now = mean_squared_error(experiment.new_model()(x), y).detach()
    # Another device rounds otherwise, in the last digits alone.
    rounding = torch.finfo(now.dtype).eps ** 0.5
    for then in trajectory.loss[:1]:  # of a run without a step there is none
        if not torch.allclose(now, then, rtol=rounding, atol=0, equal_nan=True):
            raise ValueError(
                f"{directory}: its first loss is {then.item():g}, and model and data now give "
                f"{now.item():g}: they have changed since; run it again"
            )
