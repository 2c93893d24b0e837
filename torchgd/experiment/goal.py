"""Least squares, to which a descent leads, and how far it still is."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from torch import Tensor

from torchgd.data import Batches
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.outcome import Values, model_at, values_of
from torchgd.gradients import is_linear_in_parameters
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.landscape import Landscape
from torchgd.trajectory import Trajectory

CLOSE = 0.01  # of the first distance: what is closer needs no help
MOST, STEPS = 10_000, 10**6  # epochs and steps that are tried
SHUFFLED = 50  # of which none is like another, so that each takes its time


@dataclass(frozen=True)
class Goal:
    """The `weights` (P,), in float64, with the least loss over all data, and what they come to."""

    weights: Tensor
    values: Values
    landscape: Landscape


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
        landscape = Landscape(model, [(batches.x, batches.y)])
    except ValueError:
        return None
    if not landscape.unique:
        return None
    weights = landscape.minimiser
    return Goal(weights, values_of(experiment, model_at(experiment, weights), predict), landscape)


# The distance is √(loss − minimum), the same however x is scaled: the root mean square of that from
# the best predictions. No rate alone says how many epochs halve it, for each batch pulls to
# its own minimum, and weight decay to 0. So the epochs are taken: as affine maps, at little cost.
def what_would_help(experiment: Experiment, goal: Goal, trajectory: Trajectory) -> str:
    """Say of a descent that ends far from its goal how slow it is, and what is faster; else ""."""
    weights = trajectory.table[[0, -1], 1 : 1 + len(goal.weights)].double()
    first, last = goal.landscape.excess(weights).tolist()
    if trajectory.stopped != "finished" or not 0 < CLOSE**2 * first < last:
        return ""
    ratio = math.sqrt(last / first)
    far = f"{100 * ratio:.3g}% of the first distance to least squares is left"
    if ratio > 1:
        far = f"It is {ratio:.3g} times as far from least squares as at its start"
    more, tried, settles = epochs_until(experiment, last / 4, weights[1])
    halves = "1 more epoch halves it" if more == 1 else f"{more} more epochs halve it"
    if more is None:
        halves = f"{tried} more epochs do not halve it{why_not(experiment) * settles}"
    best = math.inf if more is None else experiment.configuration.epochs + more
    ways: list[str] = []
    for flags, other in other_ways(experiment):
        epochs, _, _ = epochs_until(other, last / 4)
        if epochs is not None and epochs < best:
            best = epochs
            noun = "" if ways else " epoch" if epochs == 1 else " epochs"
            ways.append(f"{flags}{'' if ways else ' gets there'} in {epochs}{noun}")
    return f"{far}; {halves}{'; from the start ' * bool(ways)}{', '.join(ways)}."


def why_not(experiment: Experiment) -> str:
    """Say what keeps a descent from its goal, if that is known."""
    if experiment.options["lr"] == 0:
        return ", for the learning rate is 0"
    if experiment.options["weight_decay"]:
        return ": weight decay keeps the weights there"
    return ": each batch has its own minimum" if len(experiment.batches) > 1 else ""


def epochs_until(
    experiment: Experiment, excess: float, start: Tensor | None = None
) -> tuple[int | None, int, bool]:
    """Return the epochs until loss − minimum is at most that, how many were tried, if it settles.

    The first is None if none of those tried gets there. They begin at `start` (P,), or at the
    model's own weights, and at rest. It settles if the second half of them changes nothing.
    """
    asked = experiment.batches
    model = experiment.new_model() if start is None else model_at(experiment, start)
    model = model.cpu()  # where such small maps are faster
    size, shuffle, seed = asked.batch_size, asked.shuffle, asked.seed
    batches = Batches(asked.x.cpu(), asked.y.cpu(), size, shuffle, seed)
    count = len(batches)
    most = SHUFFLED if batches.shuffle and count > 1 else MOST
    path = affine_trajectory(
        model, batches, epochs=max(1, min(most, STEPS // count)), record_every=count,
        **experiment.options,
    )  # fmt: skip
    ends = path.step % count == 0
    weights = path.table[ends, 1 : 1 + len(path.names)].double()
    steps = path.step[ends]
    found = Landscape(model, [(batches.x, batches.y)]).excess(weights)
    there = steps[(found <= excess) & (steps > 0)]
    settles = bool((found[-1] - found[len(found) // 2]).abs() <= 0.01 * found[-1])
    return int(there[0]) // count if len(there) else None, len(steps) - 1, settles


def other_ways(experiment: Experiment) -> Iterator[tuple[str, Experiment]]:
    """Yield the flags of other descents that end where this one should."""
    c = experiment.configuration
    for full, scaled in ((False, False), (False, True), (True, False), (True, True)):
        if (full and len(experiment.batches) == 1) or (scaled and c.standardize):
            continue
        asked = replace(
            c, lr="auto", compile=False, standardize=scaled or c.standardize,
            batch_size="full" if full else c.batch_size,
        )  # fmt: skip
        flags = "--batch-size full " * full + "--standardize " * scaled + "--lr auto"
        # Not every model or data set can have it, nor can momentum.
        with suppress(ValueError):
            yield flags, Experiment(asked, experiment.folder)
