"""The loss over all data; whether it climbed; and which learning rates would not have let it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.own_model import call_user_code
from torchgd.gradients import is_linear_in_parameters
from torchgd.loss import mean_squared_error
from torchgd.models import Model
from torchgd.theory.landscape import Landscape
from torchgd.trajectory import Trajectory

ROWS = 2**20  # that are looked at together


@torch.no_grad()
def loss_over_all(
    experiment: Experiment, model: Model, on_rows: Callable[[int], object] = lambda count: None
) -> Tensor:
    """Return the loss of a model over all data, on the CPU."""
    batches = experiment.batches
    if experiment.streams:  # no step follows, so that the gradients beside it do no harm
        return experiment.gradient("manual", on_rows)(model, batches.x, batches.y).cpu()
    prediction = call_user_code(experiment.configuration.model, model, batches.x)
    return mean_squared_error(prediction, batches.y).cpu()


def first_loss(experiment: Experiment, trajectory: Trajectory) -> Tensor:
    """Return the loss at the start; of data that are not in memory, that of the first batch."""
    if experiment.streams:  # another pass through them would take as long as an epoch
        return trajectory.loss[0]
    return loss_over_all(experiment, experiment.new_model())


def climbed(experiment: Experiment, trajectory: Trajectory, loss: Tensor) -> bool:
    """Whether a descent to this loss over all data was none.

    The loss grew, and the learning rate is above the largest stable one. Where that is not known,
    the loss is then also above that of a constant ŷ, the variance of y: near a minimum it may grow.
    """
    if experiment.options["maximize"] or not loss > first_loss(experiment, trajectory):
        return False
    lr, options = rate_and_options(experiment)
    with suppress(ValueError):  # it is beyond float64
        if landscape := epoch_landscape(experiment):
            return lr > landscape.largest_stable_learning_rate(**options)
    return loss.item() > variance(experiment.batches.y)


def variance(y: Tensor) -> float:
    """(1/N) Σ (y − mean)², in float64; y (N,) may be a column that is not in memory."""
    parts = [y[k : k + ROWS] for k in range(0, len(y), ROWS)]
    mean = sum(part.to("cpu", torch.float64).sum().item() for part in parts) / len(y)
    squares = ((part.to("cpu", torch.float64) - mean).square().sum().item() for part in parts)
    return sum(squares) / len(y)


def rate_and_options(experiment: Experiment) -> tuple[float, dict[str, Any]]:
    """Return the learning rate, and what else the optimizer is given but for maximize."""
    options = experiment.options
    del options["maximize"]
    return options.pop("lr"), options


def epoch_landscape(experiment: Experiment) -> Landscape | None:
    """Return the landscape, with batches in the first epoch's order; None where it is not known.

    It is known of a model that is linear in its parameters, on data that are in memory.

    Raises:
        ValueError: it is beyond float64.
    """
    model, batches = experiment.new_model(), experiment.batches
    if experiment.streams or not is_linear_in_parameters(model, batches.x):
        return None
    batches.set_epoch(0)
    return Landscape(model, batches)


def divergence(experiment: Experiment, trajectory: Trajectory, loss: Tensor) -> str:
    """Say how a descent to this loss diverged, and which learning rates would not have."""
    step, epoch = int(trajectory.step[-1]), int(trajectory.epoch[-1])
    if step == 0:
        return "the loss is not finite at the start: scale x or start elsewhere"
    if trajectory.table[-1].isfinite().all() and loss.isfinite():
        what = f"the loss grew from {first_loss(experiment, trajectory):.4g} to {loss:.4g}"
    else:
        what = f"the loss or a weight is not finite at step {step} (epoch {epoch})"
    return f"{what}: {_rates(experiment)}"


def _rates(experiment: Experiment) -> str:
    lr, options = rate_and_options(experiment)
    if experiment.options["maximize"]:
        return "maximising has no end, for this loss has no top"
    try:
        landscape = epoch_landscape(experiment)
        if landscape is None:
            return f"the learning rate is {lr:g}; try a smaller one"
        largest = landscape.largest_stable_learning_rate(**options)
    except ValueError:
        return "no learning rate fits: x is too large for its powers; scale x"
    stable = "stable in the first epoch's order" if experiment.batches.shuffle else "stable here"
    if largest == 0:
        return f"no learning rate is {stable}: lower momentum or dampening"
    if lr > largest:
        return f"the learning rate {lr:g} is above {largest:.6g}, the largest that is {stable}"
    return (
        f"the learning rate {lr:g} is {stable}, as any up to {largest:.6g}, but the numbers "
        "overflow: scale the data"
    )
