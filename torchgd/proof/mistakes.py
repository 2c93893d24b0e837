"""Classic mistakes in gradient descent, most of them g ← change(g): a right gradient made wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchgd.gradients import manual_gradient
from torchgd.models import Model
from torchgd.optim import ManualSGD
from torchgd.training import Update

# Makes an update of the learning rate and the number of batches in an epoch, a fresh one each time.
MakeUpdate = Callable[[float, int], Update]


class Before(NamedTuple):
    """The gradient of the step before: the `right` one, and the one `taken`; at first zeros."""

    right: Tensor
    taken: Tensor


# (the right g, those of the step before, the step, N) → the g that the step takes
Change = Callable[[Tensor, Before, int, int], Tensor]
OfLoss = Callable[[Tensor, int], Tensor]  # (the right loss, N) → the loss that is reported


@dataclass
class Changed:
    """`manual_gradient`, whose gradients and loss are then changed."""

    change: Change
    of_loss: OfLoss
    step: int = 0
    before: dict[str, Before] = field(default_factory=dict)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss; set each w.grad. Shapes: as in `manual_gradient`."""
        loss, n = manual_gradient(model, x, y), y.numel()
        for name, w in model.named_parameters():
            g, none = w.grad, torch.zeros_like(w)
            assert g is not None
            w.grad = self.change(g, self.before.get(name, Before(none, none)), self.step, n)
            self.before[name] = Before(g, w.grad)
        self.step += 1
        return self.of_loss(loss, n)


def changed(change: Change, of_loss: OfLoss = lambda loss, n: loss) -> MakeUpdate:
    """Return what makes the update by hand with this change of its gradient and loss."""
    return lambda lr, batches: (Changed(change, of_loss), ManualSGD)


# ŷ of shape (N, 1) less y of shape (N,) is (N, N). With ȳ = (1/N) Σ yₘ
#
#   loss = (1/N²) Σₙ Σₘ (ŷₙ − yₘ)² = (1/N) Σ (ŷₙ − ȳ)² + (1/N) Σ (yₘ − ȳ)²
#
# whose second term has no w: the gradient is that of the right loss with ȳ in the place of each y.
def broadcast(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The mean over all pairs of a prediction and a target; as `manual_gradient`."""
    mean = y.mean()
    return manual_gradient(model, x, mean.expand_as(y)) + (y - mean).square().mean()


# w2 ← w2 − α·∂loss/∂w2 at (w2, w1, b), then w1 ← w1 − α·∂loss/∂w1 at (new w2, w1, b), and so on.
@torch.no_grad()
def sequential(model: Model, x: Tensor, y: Tensor, lr: float) -> Tensor:
    """Each derivative where the updates of the weights before it lead; as `manual_gradient`."""
    loss, taken = manual_gradient(model, x, y), []
    for w in model.parameters():
        manual_gradient(model, x, y)
        assert w.grad is not None
        taken.append((w, w.clone(), w.grad))
        w.sub_(w.grad, alpha=lr)
    for w, before, gradient in taken:
        w.copy_(before)
        w.grad = gradient
    return loss


class EpochLoss:
    """`manual_gradient`, which reports the mean of the losses of an epoch's batches so far."""

    def __init__(self, batches: int) -> None:
        self.batches, self.count, self.total = batches, 0, torch.tensor(0.0)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return that mean; set each w.grad of the batch. Shapes: as in `manual_gradient`."""
        loss = manual_gradient(model, x, y)
        self.count = self.count % self.batches + 1
        self.total = loss if self.count == 1 else self.total + loss
        return self.total / self.count


class TwoRoundings(ManualSGD):
    """w ← w − α·g as it is written: the product is rounded, and then the difference."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        w.copy_(w - group["lr"] * g)


@dataclass(frozen=True)
class Mistake:
    """A mistake: what is wrong, where people `met` it, and the `update` that makes it.

    It shows at `batch_size` in a built-in `model`, against the update called `right`: "manual" or
    another of `WAYS`.
    """

    explanation: str
    met: str
    update: MakeUpdate
    batch_size: int | str = "full"
    right: str = "manual"
    model: str = "linear"


MISTAKES: dict[str, Mistake] = {
    "no-zero-grad": Mistake(
        "Without zero_grad() every gradient is added to the sum of all before it: a momentum of 1, "
        "which never fades.",
        "in training loops that lack the line, as that of wekws did (wenet-e2e/wekws#73)",
        changed(lambda g, before, step, n: before.taken + g),
    ),
    "double-backward": Mistake(
        "With zero_grad() after every second backward() only, every second step takes the "
        "gradients of two batches, one of which was taken already.",
        "in llm.c, whose first step took a gradient twice and so parted from PyTorch's "
        "(karpathy/llm.c#548)",
        changed(lambda g, before, step, n: before.taken + g if step % 2 else g),
        batch_size=1,
    ),
    "stale-grad": Mistake(
        "With step() before backward() each step takes the gradient of the step before: plain "
        "descent is then stable to half the learning rate only.",
        "where learners ask for the order of the three lines (pytorch/tutorials#2693 and #2799)",
        changed(lambda g, before, step, n: before.right),
    ),
    "half": Mistake(
        "The loss with a ½ has half the gradient: the same as half the learning rate.",
        "in courses whose loss is 1/(2N) Σ (ŷ − y)², beside programs whose loss is the mean",
        changed(lambda g, before, step, n: g / 2, of_loss=lambda loss, n: loss / 2),
    ),
    "sum": Mistake(
        "The sum in the place of the mean has N times the gradient: the same as N times the "
        "learning rate, which may be too large.",
        "with MSELoss(reduction='sum'), in old programs MSELoss(size_average=False)",
        changed(lambda g, before, step, n: n * g, of_loss=lambda loss, n: n * loss),
    ),
    "mean-of-a-scalar": Mistake(
        "np.dot(2x, ŷ − y) is a sum already, and .mean() of one number is that number: the "
        "gradient is N times too large, though the loss beside it is the mean.",
        "in the fifth lesson of a well-known course as it first was, and in its many copies "
        "(patrickloeber/pytorchTutorial, 05_1_gradientdescent_manually.py)",
        changed(lambda g, before, step, n: n * g),
    ),
    "broadcast": Mistake(
        "ŷ of shape (N, 1) less y of shape (N,) is (N, N), each prediction less each target: the "
        "descent fits the mean of y at every x, for no target keeps to its own sample.",
        "by so many that PyTorch warns of it now (pytorch/pytorch#16045)",
        lambda lr, batches: (broadcast, ManualSGD),
    ),
    "last-batch-loss": Mistake(
        "The loss of an epoch's last batch is not the epoch's, which is the mean over its batches: "
        "the descent is right, and the figure beside it is not.",
        "in the lesson's own program, which prints the last sample's",
        lambda lr, batches: (manual_gradient, ManualSGD),
        batch_size=1,
        right="epoch-loss",
    ),
    "sign": Mistake(
        "With its sign reversed, w ← w + α·∂loss/∂w climbs: the loss grows from the first step on.",
        "where a reward is to grow, and the optimizer that makes it shrink is given no minus",
        changed(lambda g, before, step, n: -g),
    ),
    "sequential": Mistake(
        "The rule takes all derivatives at one point and then updates all weights. Updated one "
        "after another, each is taken where the updates before it lead: another descent.",
        "in programs with a line for each weight; courses ask for a simultaneous update",
        lambda lr, batches: (partial(sequential, lr=lr), ManualSGD),
        model="quadratic",
    ),
    "two-roundings": Mistake(
        "w − α·g as it is written rounds the product and then the difference; torch's "
        "add_(g, alpha=−α) rounds once. The two part in the last bit.",
        "where w = w − α·g is compared with torch.optim.SGD for equality",
        lambda lr, batches: (manual_gradient, TwoRoundings),
    ),
}

# Each mistake, and what one of them is held against.
WAYS: dict[str, MakeUpdate] = {name: mistake.update for name, mistake in MISTAKES.items()}
WAYS["epoch-loss"] = lambda lr, batches: (EpochLoss(batches), ManualSGD)
