"""Least squares, to which a descent leads, and how far it still is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.outcome import Values, values_of
from torchgd.experiment.stability import epoch_hessians, rate_and_options
from torchgd.gradients import is_linear_in_parameters
from torchgd.theory.landscape import Landscape, contraction
from torchgd.trajectory import Trajectory

CLOSE = 0.01  # of the first distance: what is closer needs no help


@dataclass(frozen=True)
class Goal:
    """The `weights` (P,), in float64, with the least loss over all data, and what they come to."""

    weights: Tensor
    values: Values


def least_squares(experiment: Experiment, predict: float) -> Goal | None:
    """Return where a descent leads; None where no one point is known to be its goal.

    That is so of a model that is not linear in its parameters, of data that are not in memory or
    do not determine the parameters or are beyond float64, and of a climb.
    """
    model, batches = experiment.new_model(), experiment.batches
    climbs = experiment.options["maximize"]
    if experiment.streams or climbs or not is_linear_in_parameters(model, batches.x):
        return None
    try:
        landscape = Landscape(model, [(batches.x, batches.y)], near=torch.empty(0))
    except ValueError:
        return None
    if not landscape.unique:
        return None
    weights = landscape.minimiser
    vector_to_parameters(weights.to(experiment.device, experiment.dtype), model.parameters())
    return Goal(weights, values_of(experiment, model, predict))


# An epoch multiplies what is left of the way by about ρ (see `contraction`), so that n epochs halve
# it where ρⁿ = 1/2. Where that should have left nothing and the weights are far off still, they
# went to another point: each batch pulls to its own minimum, and weight decay to 0.
def what_would_help(experiment: Experiment, goal: Goal, trajectory: Trajectory) -> str:
    """Say of a descent that ended far from its goal how slow it is, and what is faster; else ""."""
    weights = trajectory.table[[0, -1], 1 : 1 + len(goal.weights)].double()
    start, end = (weights - goal.weights).norm(dim=1).tolist()
    if trajectory.stopped != "finished" or not 0 < CLOSE * start < end:
        return ""
    left = f"{100 * end / start:.2g}% of the first distance to least squares is left"
    decays, rho = experiment.options["weight_decay"] > 0, epoch_contraction(experiment)
    if rho**experiment.configuration.epochs < CLOSE and (decays or len(experiment.batches) > 1):
        why = "weight decay keeps the weights there"
        if not decays:
            why = "each batch has its own minimum; a smaller --lr or --batch-size full leads nearer"
        return f"{left}, and more epochs change little: {why}."
    if rho >= 1:
        return ""
    now = epochs_to_halve(rho)
    faster = [f"{flags} in {epochs}" for flags, epochs in other_ways(experiment) if epochs < now]
    return ", ".join([f"{left}: {now} more epochs halve it", *faster]) + "."


def epoch_contraction(experiment: Experiment) -> float:
    """ρ of an epoch of this descent, of a model that is linear in its parameters."""
    lr, options = rate_and_options(experiment)
    hessians = epoch_hessians(experiment)
    assert hessians is not None
    return contraction(hessians, lr, **options)


def epochs_to_halve(rho: float) -> int:
    """The least n with ρⁿ ≤ 1/2."""
    return 1 if rho <= 0.5 else math.ceil(math.log(0.5) / math.log(rho))


def other_ways(experiment: Experiment) -> Iterator[tuple[str, int]]:
    """Yield flags that plain descent may take instead, with the epochs that then halve the way."""
    plain = replace(experiment.configuration, lr="auto", compile=False)
    scaled = replace(plain, standardize=True)
    for flags, other in (("--lr auto", plain), ("--standardize --lr auto", scaled)):
        try:
            yield flags, epochs_to_halve(epoch_contraction(Experiment(other, experiment.folder)))
        except ValueError:  # this model or these data cannot have it, nor can momentum
            continue
