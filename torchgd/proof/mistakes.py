"""Classic mistakes in gradient descent, each an update to hold against the right one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchgd.gradients import GradientSource, manual_gradient, partial_derivatives
from torchgd.models import Model
from torchgd.optim import ManualSGD
from torchgd.training import Update


# g ← g_before + ∂loss/∂w instead of g ← ∂loss/∂w
def accumulated(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Add the gradient to the one that is there, as autograd does unless told otherwise."""
    before = [w.grad for w in model.parameters()]
    loss = manual_gradient(model, x, y)
    for w, g in zip(model.parameters(), before, strict=True):
        if g is not None and w.grad is not None:
            w.grad += g
    return loss


def scaled(
    model: Model, x: Tensor, y: Tensor, factor: Callable[[int], float], loss_too: bool = True
) -> Tensor:
    """The gradient, and the loss too or not, times a factor that depends on N."""
    loss = manual_gradient(model, x, y)
    for w in model.parameters():
        assert w.grad is not None
        w.grad *= factor(x.numel())
    return loss * factor(x.numel()) if loss_too else loss


# ŷ of shape (N, 1) less y of shape (N,) is (N, N), each prediction less each target:
#
#   loss = (1/N²) Σₙ Σₘ (ŷₙ − yₘ)²        ∂loss/∂w = (2/N²) Σₙ Σₘ (ŷₙ − yₘ) · ∂ŷₙ/∂w
@torch.no_grad()
def broadcast(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Take the mean over all pairs of a prediction and a target."""
    prediction = model(x)
    residuals = prediction[:, None] - y
    partials = partial_derivatives(model, x, prediction)
    for name, w in model.named_parameters():
        w.grad = (2 / residuals.numel() * residuals * partials[name][:, None]).sum()
    return residuals.square().mean()


class EverySecond:
    """g ← g_before + ∂loss/∂w at every second batch."""

    def __init__(self) -> None:
        self.second = False

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss; add the gradient to that of the batch before, or not."""
        gradient = accumulated if self.second else manual_gradient
        self.second = not self.second
        return gradient(model, x, y)


class Stale:
    """g ← the gradient of the step before, at first 0."""

    def __init__(self) -> None:
        self.fresh: list[Tensor] = []

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss; take the gradient that was there before this batch's."""
        loss, stale, self.fresh = manual_gradient(model, x, y), self.fresh, []
        for k, w in enumerate(model.parameters()):
            assert w.grad is not None
            self.fresh.append(w.grad)
            w.grad = stale[k] if stale else torch.zeros_like(w)
        return loss


class EpochLoss:
    """The mean of the losses of an epoch's batches so far, at its end the epoch's."""

    def __init__(self, batches: int) -> None:
        self.batches, self.losses = batches, 0
        self.total: Tensor | None = None

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return that mean; the gradient is the batch's."""
        loss = manual_gradient(model, x, y)
        begins = self.losses % self.batches == 0
        self.total = loss if begins or self.total is None else self.total + loss
        self.losses += 1
        return self.total / ((self.losses - 1) % self.batches + 1)


# w2 ← w2 − α·∂loss/∂w2 at (w2, w1, b), then w1 ← w1 − α·∂loss/∂w1 at (new w2, w1, b), and so on.
@torch.no_grad()
def sequential(model: Model, x: Tensor, y: Tensor, lr: float) -> Tensor:
    """Take each derivative where the updates of the weights before it lead."""
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


class TwoRoundings(ManualSGD):
    """w ← w − α·g as it is written: the product is rounded, and then the difference."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        w.copy_(w - group["lr"] * g)


@dataclass(frozen=True)
class Mistake:
    """A mistake: what is wrong, where people `met` it, and the updates with and without it.

    Each is made of the learning rate and the number of batches in an epoch. `batch_size` is one at
    which it shows.
    """

    explanation: str
    met: str
    wrong: Callable[[float, int], Update]
    right: Callable[[float, int], Update] = lambda lr, batches: (manual_gradient, ManualSGD)
    batch_size: int | str = "full"


def by_gradient(source: GradientSource) -> Callable[[float, int], Update]:
    """Return the update with another gradient."""
    return lambda lr, batches: (source, ManualSGD)


MISTAKES = {
    "no-zero-grad": Mistake(
        "Without zero_grad() every gradient is added to the sum of all before it: a momentum of 1, "
        "which never fades.",
        "in training loops that lack the line, as that of wekws did (wenet-e2e/wekws#73)",
        by_gradient(accumulated),
    ),
    "double-backward": Mistake(
        "With zero_grad() after every second backward() only, every second step takes the "
        "gradients of two batches, one of which was taken already.",
        "in llm.c, whose first step took a gradient twice and so parted from PyTorch's "
        "(karpathy/llm.c#548)",
        lambda lr, batches: (EverySecond(), ManualSGD),
        batch_size=1,
    ),
    "stale-grad": Mistake(
        "With step() before backward() each step takes the gradient of the step before: plain "
        "descent is then stable to half the learning rate only.",
        "where learners ask for the order of the three lines (pytorch/tutorials#2693 and #2799)",
        lambda lr, batches: (Stale(), ManualSGD),
    ),
    "half": Mistake(
        "The loss with a ½ has half the gradient: the same as half the learning rate.",
        "in courses whose loss is 1/(2N) Σ (ŷ − y)², beside programs whose loss is the mean",
        by_gradient(partial(scaled, factor=lambda n: 0.5)),
    ),
    "sum": Mistake(
        "The sum in the place of the mean has N times the gradient: the same as N times the "
        "learning rate, which may be too large.",
        "with MSELoss(reduction='sum'), in old programs MSELoss(size_average=False)",
        by_gradient(partial(scaled, factor=lambda n: n)),
    ),
    "mean-of-a-scalar": Mistake(
        "np.dot(2x, ŷ − y) is a sum already, and .mean() of one number is that number: the "
        "gradient is N times too large, though the loss beside it is the mean.",
        "in the fifth lesson of a well-known course as it first was, and in its many copies "
        "(patrickloeber/pytorchTutorial, 05_1_gradientdescent_manually.py)",
        by_gradient(partial(scaled, factor=lambda n: n, loss_too=False)),
    ),
    "broadcast": Mistake(
        "ŷ of shape (N, 1) less y of shape (N,) is (N, N), each prediction less each target: the "
        "descent leads to the mean of y, whatever x is.",
        "by so many that PyTorch warns of it now (pytorch/pytorch#16045)",
        by_gradient(broadcast),
    ),
    "last-batch-loss": Mistake(
        "The loss of an epoch's last batch is not the epoch's, which is the mean over its batches: "
        "the descent is right, and the figure beside it is not.",
        "in the lesson's own program, which prints the last sample's",
        by_gradient(manual_gradient),
        lambda lr, batches: (EpochLoss(batches), ManualSGD),
        batch_size=1,
    ),
    "sign": Mistake(
        "With its sign reversed, w ← w + α·∂loss/∂w climbs: the loss grows from the first step on.",
        "where a reward is to grow, and the optimizer that makes it shrink is given no minus",
        lambda lr, batches: (manual_gradient, partial(ManualSGD, maximize=True)),
    ),
    "sequential": Mistake(
        "The rule takes all derivatives at one point and then updates all weights. Updated one "
        "after another, each is taken where the updates before it lead: another descent.",
        "in programs with a line for each weight; courses ask for a simultaneous update",
        lambda lr, batches: (partial(sequential, lr=lr), ManualSGD),
    ),
    "two-roundings": Mistake(
        "w − α·g as it is written rounds the product and then the difference; torch's "
        "add_(g, alpha=−α) rounds once. The two part in the last bit.",
        "where w = w − α·g is compared with torch.optim.SGD for equality",
        lambda lr, batches: (manual_gradient, TwoRoundings),
    ),
}


WAYS: dict[str, Callable[[float, int], Update]] = {
    **{name: mistake.wrong for name, mistake in MISTAKES.items()},
    "epoch-loss": MISTAKES["last-batch-loss"].wrong,
}
