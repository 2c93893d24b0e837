"""The one loop: gradient descent."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from torchgd.gradients import GradientSource, manual_gradient
from torchgd.models import Model
from torchgd.trajectory import Recorder, Trajectory, record_interval

# How to get the gradient, and the optimizer's class, called with (parameters, **options).
Update = tuple[GradientSource, Callable[..., Optimizer]]


class BatchesLike(Protocol):
    """An epoch's batches (x, y): `Batches`, a list of pairs, a DataLoader.

    `descend` calls its `set_epoch`, if it has one, with the epoch; not that of a DataLoader's
    sampler.
    """

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Start an epoch."""


# min_w loss(w) by going downhill: w ← w − α · ∂loss/∂w, again and again.
#
# The loss here is the mean over a batch. With batch size 1 this is the lesson's program, with the
# full batch its formula: two different descents.
def descend(
    model: Model,
    batches: BatchesLike,
    optimizer: Optimizer,
    gradient: GradientSource = manual_gradient,
    epochs: int = 50,
    *,
    scheduler: LRScheduler | None = None,
    start: int = 0,
) -> Iterator[tuple[int, int, Tensor]]:
    """Descend: for each batch compute the gradient, then take one step of the optimizer.

    Yields (step, epoch, loss) when the loss and each `.grad` are computed and before the optimizer
    steps; the caller's `for` may record, save or stop there. Read `.grad` there, too: by Nesterov's
    rule torch.optim.SGD, where it is `foreach` as on CUDA, overwrites it. A `scheduler` steps after
    each epoch.
    To go on after `start` steps, restore model, optimizer and scheduler and pass `start`: the bits
    are the same if the batches depend on the epoch alone.

    Raises, when the first step is asked for:
        TypeError: epochs is no integer.
        ValueError: epochs is below 1, or start beyond the end, or there is no batch, or model,
            optimizer, shapes or gradients do not fit (see `gradient`).
    """
    steps = count_steps(epochs, len(batches))
    if not 0 <= start <= steps:
        raise ValueError(f"start is {start}: the descent has {steps} steps; give 0 to {steps}")
    held = {id(w) for group in optimizer.param_groups for w in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise ValueError("the optimizer has none of the model's parameters: give it those")
    set_epoch = getattr(batches, "set_epoch", None)
    first, skipped = divmod(start, len(batches))
    step = start
    for epoch in range(first, epochs):
        if set_epoch is not None:
            set_epoch(epoch)
        for x, y in islice(batches, skipped, None):
            loss = gradient(model, x, y)  # sets each w.grad anew: there is no zero_grad
            yield step, epoch, loss
            optimizer.step()
            step += 1
        skipped = 0
        if scheduler is not None:
            scheduler.step()


def train(
    model: Model,
    batches: BatchesLike,
    optimizer: Optimizer,
    gradient: GradientSource = manual_gradient,
    epochs: int = 50,
    *,
    scheduler: LRScheduler | None = None,
    record_every: int | None = None,
) -> Trajectory:
    """Descend (see `descend`), and return where it went.

    Any gradient source goes with any optimizer. `manual_gradient` with `ManualSGD` is the descent
    by hand, `autograd_gradient` with `torch.optim.SGD` the usual one; the two mixed pairs show
    which half a difference comes from.

    Every `record_every`-th step is recorded, and the last one; by default at most 10,000 in all,
    evenly spaced. On CUDA the recorded steps are copied in blocks (see `Recorder`), and no other
    operation of a step was seen to wait for the device: torch's sync guard looks at the calls that
    ask for a value, not at how the driver stages a copy.

    The trajectory ends at the first recorded step whose loss or weights are not finite. The model
    then has the weights of that step (the optimizer keeps its later state).

    Raises:
        TypeError: epochs or record_every is no integer.
        ValueError: record_every is below 1, or as `descend` and `Recorder` say.
    """
    steps = count_steps(epochs, len(batches), record_every)
    recorder = Recorder(model, steps, record_every or record_interval(steps))
    descent = descend(model, batches, optimizer, gradient, epochs, scheduler=scheduler)
    for step, epoch, loss in descent:
        recorder.record(step, epoch, loss)
        if recorder.due:
            recorder.hand_over()
            if recorder.diverged:
                break
    return recorder.finish(steps, epochs)  # which, if it diverged, puts the weights back


def count_steps(epochs: int, batches: int, record_every: int | None = None) -> int:
    """Return the number of steps; raise TypeError or ValueError if there are none."""
    for name, value in (("epochs", epochs), ("record_every", record_every)):
        if value is not None and type(value) is not int:
            raise TypeError(f"{name} is {value!r}: give an integer")
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if batches == 0:
        raise ValueError("batches is empty: give at least one (x, y)")
    if epochs * batches >= 2**63:
        raise ValueError(
            f"{epochs} epochs of {batches} batches are {epochs * batches} steps: give fewer than "
            "2⁶³, as many as torch counts"
        )
    return epochs * batches
