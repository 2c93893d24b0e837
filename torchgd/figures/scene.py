"""What a picture of descents shows: the runs, the landscape under them, and how they are named."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgd.experiment.experiment import UPDATES, Experiment
from torchgd.models import Linear, Quadratic
from torchgd.proof.compare import ulps
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.landscape import Landscape
from torchgd.trajectory import Trajectory

FAR = 100.0  # times the first excess: a path that climbs higher leaves the picture
MOST_TRAINED = 20_000  # steps, for a sweep of learning rates that no closed form gives


@dataclass(frozen=True)
class Run:
    """A descent to be drawn: what was asked for, and the path it took."""

    label: str
    experiment: Experiment
    trajectory: Trajectory

    @property
    def path(self) -> Tensor:
        """The weights at each row, (K+1, P), in float64."""
        return torch.stack(list(self.trajectory.weights.values()), dim=1).double()

    @property
    def lr(self) -> float:
        """The learning rate α."""
        return float(self.experiment.options["lr"])

    @property
    def options(self) -> dict[str, Any]:
        """SGD's other options."""
        return {name: value for name, value in self.experiment.options.items() if name != "lr"}


class Scene:
    """Runs of one model on one data set, and the landscape on which all of them descend.

    `excess` holds each run's loss − minimum over all data at each row, (K+1,), and `inside` how
    many of the rows come before the path leaves the picture: before the excess passes FAR times
    the largest one at a start. Where all start at the minimum, every finite row is inside. Shuffled
    batches are those of the first epoch.

    Raises:
        ValueError: the runs are not of one model, one data set and one standardisation, or the
            data are beyond float64.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs, self.experiment = runs, runs[0].experiment
        for run in runs[1:]:
            _on_one_landscape(runs[0], run)
        ends = torch.cat([run.path[[0, -1]] for run in runs])
        near = ends[ends.isfinite().all(dim=1)]
        self.experiment.batches.set_epoch(0)
        self.landscape = Landscape(self.experiment.new_model(), self.experiment.batches, near)
        self.excess = [self.landscape.excess(run.path) for run in runs]
        limit = FAR * max(excess[0].item() for excess in self.excess) or torch.inf
        self.inside = [_before(~(e <= limit) | ~e.isfinite()) for e in self.excess]
        self.stable = self.landscape.largest_stable_learning_rate(**runs[0].options)

    @property
    def names(self) -> list[str]:
        """The parameters."""
        return self.landscape.names

    def reach(self, k: int) -> tuple[float, float]:
        """From where to where parameter k goes, inside of the picture; with the minimiser."""
        paths = [run.path[:rows, k] for run, rows in zip(self.runs, self.inside, strict=True)]
        values = torch.cat([*paths, self.landscape.minimiser[k, None]])
        low, high = values.min().item(), values.max().item()
        margin = 0.0 if high - low > 1e-12 * abs(high) else 0.5 * abs(high) or 1.0
        return low - margin, high + margin

    def plane(self, chosen: Sequence[str] | None = None) -> tuple[int, int]:
        """The two parameters of a contour plot.

        Unless chosen, those whose own way costs most: H_kk·(w_k − w*_k)², at its largest on the
        path, is twice what parameter k alone adds to the loss.

        Raises:
            ValueError: the chosen ones are not two of the parameters.
        """
        if chosen is None:
            paths = [run.path[:rows] for run, rows in zip(self.runs, self.inside, strict=True)]
            way = (torch.cat(paths) - self.landscape.minimiser).square().amax(dim=0)
            costs = self.landscape.hessian.diagonal() * way
            i, j = sorted(costs.argsort(descending=True, stable=True)[:2].tolist())
            return i, j
        if len(chosen) != 2 or len({*chosen} & {*self.names}) != 2:
            raise ValueError(
                f"plane {','.join(chosen)!r}: give two of the parameters "
                f"{', '.join(self.names)}, separated by a comma"
            )
        return self.names.index(chosen[0]), self.names.index(chosen[1])

    def rate(self, run: Run) -> float:
        """ρ² of an epoch, spread over its steps: what theory multiplies the excess by a step."""
        rho = self.landscape.contraction(run.lr, **run.options)
        return float(rho ** (2 / len(run.experiment.batches)))

    def parted(self) -> dict[str, NDArray[np.float64]]:
        """How many ULPs the first two runs' weights are apart, if they differ in update alone."""
        asked = [asdict(run.experiment.configuration) for run in self.runs[:2]]
        if len(asked) < 2 or asked[0] != asked[1]:
            return {}
        a, b = (run.trajectory for run in self.runs[:2])
        rows = min(len(a.step), len(b.step))
        return {n: ulps(w[:rows], b.weights[n][:rows]).astype(float) for n, w in a.weights.items()}

    def excess_after(self, rates: Sequence[float]) -> Tensor | None:
        """loss − minimum after the first run's epochs, from its start, at other learning rates.

        Of a model that is not linear in its parameters the descents have to be trained; None if
        that would take more than MOST_TRAINED steps.
        """
        experiment, options = self.experiment, self.runs[0].options
        if not self.landscape.linear and len(rates) * experiment.steps > MOST_TRAINED:
            return None
        descend = self._affine if self.landscape.linear else self._trained
        ends = [Run("", experiment, descend(experiment, lr, options)).path[-1] for lr in rates]
        return self.landscape.excess(torch.stack(ends))

    @staticmethod
    def _affine(experiment: Experiment, lr: float, options: dict[str, Any]) -> Trajectory:
        model, epochs = experiment.new_model(), experiment.configuration.epochs
        every = experiment.steps  # the two ends alone
        return affine_trajectory(
            model, experiment.batches, lr, epochs, record_every=every, **options
        )

    @staticmethod
    def _trained(experiment: Experiment, lr: float, options: dict[str, Any]) -> Trajectory:
        update = UPDATES["manual"]
        return experiment.descend(experiment.new_model(), update, {**options, "lr": lr})

    @property
    def title(self) -> str:
        """MODEL-DATA and the batch size."""
        c = self.experiment.configuration
        full = c.batch_size == len(self.experiment.data.x)
        return f"{self.experiment.name}, {'full batch' if full else f'batch size {c.batch_size}'}"

    @property
    def title_with_rates(self) -> str:
        """The title and each run's learning rate."""
        rates = dict.fromkeys(f"{run.lr:g}" for run in self.runs)
        return f"{self.title}, α = {', '.join(rates)}"

    def weight_unit(self, name: str) -> str:
        """A built-in model's unit of a weight, if the data have units: ŷ = w·x is in y's."""
        data, power = self.experiment.data, {"b": 0, "w": 1, "w1": 1, "w2": 2}.get(name)
        if not data.y_unit or not isinstance(self.landscape.model, Linear | Quadratic):
            return ""
        if power == 0 or self.experiment.standardization is not None:  # z has no unit
            return f"[{data.y_unit}]"
        per = data.x_unit.removesuffix("s")
        return f"[{data.y_unit}/{per}{'²' if power == 2 else ''}]"

    @property
    def loss_unit(self) -> str:
        """The square of y's unit."""
        unit = self.experiment.data.y_unit
        return f"[({unit})²]" if "/" in unit else f"[{unit}²]" if unit else ""


def _on_one_landscape(a: Run, b: Run) -> None:
    for what in ("model", "data", "bias", "standardize"):
        p, q = (getattr(run.experiment.configuration, what) for run in (a, b))
        if p != q:
            raise ValueError(
                f"{a.label} has {what} {p}, and {b.label} {q}: only runs of one model on one data "
                "set lie over each other; draw them one by one"
            )


def _before(outside: Tensor) -> int:
    """How many rows come before the first one outside; the start is always one of them."""
    return max(1, int(outside.int().argmax())) if outside.any() else len(outside)
