"""Whether a descent was stable, how far from least squares it ended, and what would help."""

import math
from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor

from torchgd.compiled import numba_is_there, why_not_compiled
from torchgd.data import Batches
from torchgd.entries import weights_of
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.own_model import standardization
from torchgd.experiment.parallel import processes
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.landscape import Landscape, automatic_rate
from torchgd.trajectory import Stopped, Trajectory

CLOSE = 1e-4  # of the first distance: what is closer needs no help
MOST = 10_000  # epochs that are tried
SHUFFLED = 50  # epochs, where none is like another, so that each takes its time
MANY = 10**6  # batches, above which only the full batch is advised


def first_loss(experiment: Experiment, trajectory: Trajectory) -> Tensor:
    """Return the loss at the start; of data that are read in chunks, that of the first batch."""
    if experiment.configuration.chunk_size is not None:  # a pass takes as long as an epoch
        return trajectory.loss[0]
    return experiment.loss(experiment.new_model())


def climbed(experiment: Experiment, trajectory: Trajectory, loss: Tensor) -> bool:
    """Whether a descent to this loss over all data went up instead of down.

    The loss grew, and at this learning rate each epoch makes the error grow. Where that is not
    known, the loss is also above that of a constant ŷ, the variance of y: near a minimum it may
    grow.
    """
    options = experiment.options
    if options["maximize"] or not loss > first_loss(experiment, trajectory):
        return False
    if experiment.landscape is None:
        return loss.item() > experiment.batches.y.double().var(correction=0).item()
    return not experiment.landscape.stable(**options)


def why_unstable(experiment: Experiment, path: Trajectory, loss: Tensor) -> str:
    """Say how a descent diverged or climbed, and which learning rates would not have."""
    step, epoch = int(path.step[-1]), int(path.epoch[-1])
    if step == 0:
        return "the loss is not finite at the start: scale x or start elsewhere"
    what = f"the loss or a weight is not finite at step {step} (epoch {epoch})"
    if path.stopped == Stopped.CLIMBED:
        grew = first_loss(experiment, path)
        what = f"the loss grew from {grew:.4g} to {loss:.4g}"
    return f"{what}: {_rates(experiment)}"


def _rates(experiment: Experiment) -> str:
    options = experiment.options
    lr = options.pop("lr")
    if options["maximize"]:
        return "maximising has no end, for this loss has no top"
    if not experiment.linear:
        return f"the learning rate is {lr:g}; try a smaller one"
    landscape = experiment.landscape
    if landscape is None or not landscape.hessians.isfinite().all():
        return "no learning rate fits: x is too large for its powers; scale x"
    shuffled = experiment.batches.shuffle and len(experiment.batches) > 1
    here = "in the first epoch's order" if shuffled else "here"
    if not landscape.stable(lr, **options):
        known, rho = landscape.rates(**options), landscape.contraction(lr, **options)
        if not known.stable:
            return f"no learning rate is stable {here}: lower momentum or dampening"
        grows = f"multiplies the error by {rho:.6g}" if rho < math.inf else "leaves float64"
        return f"at the learning rate {lr:g} an epoch {grows}; {here} rates are {known}"
    if shuffled:
        others = "but may not be in others: try a smaller one, or scale the data"
        return f"the learning rate {lr:g} is stable {here}, {others}"
    return f"the learning rate {lr:g} is stable here, but the numbers overflow: scale the data"


# The distance is loss − minimum, as the table has it in its line of the loss: the same however x is
# scaled. No rate alone says how many epochs halve it, for each batch pulls to its own minimum, and
# weight decay to 0. So the epochs are taken: as affine maps, at little cost.
def what_would_help(experiment: Experiment, path: Trajectory) -> str:
    """Say of a descent that ends far from least squares how slow it is, and what is faster."""
    landscape = experiment.least_squares
    if path.stopped != Stopped.FINISHED:
        return ""
    if landscape is None:
        return "" if experiment.linear else not_arrived(experiment, path)
    weights = path.weights_at([0, -1]).double()
    first, last = landscape.excess(weights).tolist()
    if not 0 < CLOSE * first < last:
        return ""
    ratio = last / first
    far = f"{100 * ratio:.3g}% of the loss's first distance to least squares is left"
    if ratio > 1:
        far = f"The loss is {ratio:.3g} times as far from least squares as at the start"
    ends = epoch_ends(experiment, landscape, experiment.batches, weights[1], **experiment.options)
    more = epochs_until(landscape.excess(ends), last / 2)
    halves = "1 more epoch halves it" if more == 1 else f"{more} more epochs halve it"
    if more is None:
        halves = f"{len(ends) - 1} more epochs do not halve it"
        excess = landscape.excess(ends)
        if (excess[-1] - excess[len(excess) // 2]).abs() <= 0.01 * excess[-1]:
            halves += why_not(experiment)
    best = math.inf if more is None else experiment.configuration.epochs + more
    ways: list[str] = []
    for flags, excess in other_ways(experiment):
        epochs = epochs_until(excess, last / 2)
        if epochs is not None and epochs < best:
            best = epochs
            noun = "" if ways else " epoch" if epochs == 1 else " epochs"
            ways.append(f"{flags}{'' if ways else ' gets there'} in {epochs}{noun}")
    return f"{far}; {halves}{'; from the start ' * bool(ways)}{', '.join(ways)}."


def not_arrived(experiment: Experiment, path: Trajectory) -> str:
    """Say of a descent whose goal is not known that the loss over all data still falls."""
    if experiment.configuration.chunk_size is not None:  # a pass takes as long as an epoch
        return ""
    row = path.recorded - -(-path.recorded // 10)
    first, before, after = (
        experiment.loss(experiment.new_model(path.weights_at(k))).item() for k in (0, row, -1)
    )
    if not before - after > CLOSE * (first - after):
        return ""
    fell = f"fell by {100 * (1 - after / before):.3g}%, from {before:.4g} to {after:.4g}"
    return f"It has not arrived: over the last tenth of its steps the loss {fell}."


def why_not(experiment: Experiment) -> str:
    """Say what keeps a descent from least squares, if that is known."""
    if experiment.options["lr"] == 0:
        return ", for the learning rate is 0"
    if experiment.options["weight_decay"]:
        return ": weight decay keeps the weights there"
    return ": each batch has its own minimum" if len(experiment.batches) > 1 else ""


def epoch_ends(
    experiment: Experiment, landscape: Landscape, batches: Batches, start: Tensor, **options: float
) -> Tensor:
    """Return the weights (E + 1, P) at `start` and at the ends of many epochs, at rest at first."""
    if not batches.shuffle or len(batches) == 1:
        return landscape.epoch_ends(start=start, epochs=MOST, **options)
    model, every = experiment.new_model(start).cpu().double(), len(batches)
    own = Batches(batches.x.cpu().double(), batches.y.cpu().double(), batches.batch_size, True,
                  batches.seed)  # fmt: skip
    path = affine_trajectory(model, own, epochs=SHUFFLED, record_every=every, **options)
    return path.weights_at(path.step % every == 0)


def epochs_until(excess: Tensor, most: float) -> int | None:
    """Return after how many epochs, at least one, loss − minimum is at most that."""
    there = (excess[1:] <= most).nonzero()
    return int(there[0]) + 1 if len(there) else None


def other_ways(experiment: Experiment) -> Iterator[tuple[str, Tensor]]:
    """Yield the flags of other descents, and loss − minimum at the end of each of their epochs."""
    c, data, asked = experiment.configuration, experiment.data, experiment.batches
    if c.chunk_size is not None or any(v for n, v in experiment.options.items() if n != "lr"):
        return
    model = experiment.new_model().cpu().double()
    start = weights_of(model)
    y = asked.y.cpu().double()
    for full, scaled in ((False, False), (False, True), (True, False), (True, True)):
        alike = (full and len(asked) == 1) or (scaled and c.standardize)
        if alike or (len(asked) > MANY and not full):
            continue
        size = len(y) if full else asked.batch_size
        # Not every model or data set can be standardised, or has a best rate.
        with suppress(ValueError):
            x, offset = asked.x.cpu().double(), 0.0
            if scaled:
                z = standardization(c.model, model, data.x, data.y)
                x, offset = z(data.x), z.offset
            batches = Batches(x, y - offset, size, asked.shuffle and not full, asked.seed)
            landscape = Landscape(model, batches)
            lr = automatic_rate(model, batches)
            flags = "--batch-size full " * full + "--standardize " * scaled + "--lr auto"
            yield flags, landscape.excess(epoch_ends(experiment, landscape, batches, start, lr=lr))


def faster(experiment: Experiment) -> str:
    """Say which flags make a descent faster, if any do."""
    c, batches = experiment.configuration, experiment.batches
    if c.compile or c.chunk_size is not None or processes() > 1 or c.update == "compiled":
        return ""
    if experiment.linear and not why_not_compiled(batches):
        install = "" if numba_is_there() else " (pip install 'torchgd[fast]')"
        within = ", within rounding" * (experiment.data.features > 1)
        return f"--update compiled{install} takes the same steps as machine code{within}"
    if experiment.linear:
        return "--update affine takes them all at once, within rounding"
    return "--compile fuses the gradient" if batches.batch_size >= 2**16 else ""
