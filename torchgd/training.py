"""The one loop: gradient descent."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from torchgd.gradients import GradientSource, manual_gradient
from torchgd.models import Model
from torchgd.trajectory import Recorder, Trajectory, record_interval

# An update is a gradient source with what makes an optimizer of parameters and options.
Update = tuple[GradientSource, Callable[..., Optimizer]]


class BatchesLike(Protocol):
    """An epoch's batches (x, y): `Batches`, a list of pairs, a DataLoader."""

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Start an epoch."""


# min_w loss(w) by going downhill: w ← w − α · ∂loss/∂w, again and again.
#
# With the batch in the place of the data, loss is the mean over the batch. Batch size 1 is the
# lesson's program, the full batch its formula, and they are two different descents.
def train(
    model: Model,
    batches: BatchesLike,
    optimizer: Optimizer,
    gradient: GradientSource = manual_gradient,
    epochs: int = 50,
    *,
    scheduler: LRScheduler | None = None,
    record_every: int | None = None,
    start: int = 0,
    on_block: Callable[[Trajectory], None] | None = None,
    block_rows: int | None = None,
    save: Callable[[int], None] = lambda step: None,
    save_every: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Trajectory:
    """Descend: at each batch take the gradient there, then one step of the optimizer.

    The gradient source and the optimizer are two free choices. `manual_gradient` with `ManualSGD`
    is the descent by hand, `autograd_gradient` with `torch.optim.SGD` the usual one, and the two
    mixed pairs tell which half a difference comes from. A `scheduler` steps after each epoch.

    Every `record_every`-th step is recorded, and the last one; unless told otherwise as many,
    evenly spaced, as make at most 10,000. On CUDA no step waits for the device; the recorded
    steps come over in blocks, each of which goes to `on_block`: 1000 recorded steps or those of a
    second or, whatever the clock says, `block_rows` of them (see `Recorder`).

    A loss or weight that is not finite stops the descent at the first recorded step that has it:
    the trajectory ends there, and the model's weights stand there. `stop`, asked before each
    step, ends it early.

    After each block, and after each `save_every`-th step, `save` is told how many steps are taken,
    so that it can keep model and optimizer. With those as they were then, and `start` that number,
    the descent goes on, to the same bits where batches depend on the epoch alone; the trajectory
    has the rest. (Where an epoch ended with that step, the scheduler's is then still to be taken.)

    Raises:
        TypeError: epochs, record_every or save_every is no integer.
        ValueError: epochs, record_every or save_every is below 1, or start beyond the end, or
            there is no batch, or model, optimizer, shapes or gradients do not fit (see `gradient`
            and `Recorder`).
    """
    steps = count_steps(epochs, len(batches), record_every=record_every, save_every=save_every)
    if not 0 <= start <= steps:
        raise ValueError(f"start is {start}: the descent has {steps} steps; give 0 to {steps}")
    every = record_every or record_interval(steps)
    held = {id(w) for group in optimizer.param_groups for w in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise ValueError("the optimizer has none of the model's parameters: give it those")
    set_epoch = getattr(batches, "set_epoch", None)
    # LBFGS asks for the loss at other weights within a step.
    needs_closure = isinstance(optimizer, torch.optim.LBFGS)
    first, skipped = divmod(start, len(batches))
    step = start
    seconds = 1.0 if block_rows is None else math.inf
    with Recorder(model, on_block, block_rows or 1000, seconds) as recorder:
        for epoch in range(first, epochs):
            if set_epoch is not None:
                set_epoch(epoch)
            for x, y in islice(batches, skipped, None):
                if stop():
                    return recorder.finish(step, epoch, "interrupted")
                loss = gradient(model, x, y)
                # Before the update: on CUDA, torch's Nesterov rule writes into the gradients.
                if step % every == 0 or step == steps - 1:
                    recorder.record(step, epoch, loss)
                closure: Any = partial(gradient, model, x, y) if needs_closure else None
                optimizer.step(closure)
                step += 1
                if recorder.due or (save_every is not None and step % save_every == 0):
                    recorder.hand_over()
                    if recorder.diverged:
                        return recorder.finish(step, epoch)
                    save(step)
            skipped = 0
            if scheduler is not None:
                scheduler.step()
        return recorder.finish(step, epochs)


def count_steps(epochs: int, batches: int, **every: int | None) -> int:
    """Return the number of steps; refuse what makes none, or more than 64 bits count."""
    for name, value in {"epochs": epochs, **every}.items():
        if value is not None and type(value) is not int:
            raise TypeError(f"{name} is {value!r}: give an integer")
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if batches == 0:
        raise ValueError("batches is empty: give at least one (x, y)")
    steps = epochs * batches
    if steps >= 2**63:
        raise ValueError(f"epochs is {epochs}: with {batches} batches each, the steps reach 2⁶³")
    return steps
