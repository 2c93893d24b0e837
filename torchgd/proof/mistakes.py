"""Classic mistakes in gradient descent, each an update to hold against the right one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchgd.gradients import manual_gradient
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


def scaled(model: Model, x: Tensor, y: Tensor, factor: Callable[[int], float]) -> Tensor:
    """The loss and gradient, times a factor that depends on N."""
    loss = manual_gradient(model, x, y)
    for w in model.parameters():
        assert w.grad is not None
        w.grad *= factor(x.numel())
    return loss * factor(x.numel())


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


# By name: what is wrong, and the update for a learning rate.
MISTAKES: dict[str, tuple[str, Callable[[float], Update]]] = {
    "no-zero-grad": (
        "Without zero_grad() every gradient is added to the sum of all before it: a momentum of 1, "
        "which never fades.",
        lambda lr: (accumulated, ManualSGD),
    ),
    "half": (
        "The loss with a ½ has half the gradient: the same as half the learning rate.",
        lambda lr: (partial(scaled, factor=lambda n: 0.5), ManualSGD),
    ),
    "sum": (
        "The sum in the place of the mean has N times the gradient: the same as N times the "
        "learning rate, which may be too large.",
        lambda lr: (partial(scaled, factor=lambda n: n), ManualSGD),
    ),
    "sign": (
        "With its sign reversed, w ← w + α·∂loss/∂w climbs: the loss grows from the first step on.",
        lambda lr: (manual_gradient, partial(ManualSGD, maximize=True)),
    ),
    "sequential": (
        "The rule takes all derivatives at one point and then updates all weights. Updated one "
        "after another, each is taken where the updates before it lead: another descent.",
        lambda lr: (partial(sequential, lr=lr), ManualSGD),
    ),
    "two-roundings": (
        "w − α·g as it is written rounds the product and then the difference; torch's "
        "add_(g, alpha=−α) rounds once. The two part in the last bit.",
        lambda lr: (manual_gradient, TwoRoundings),
    ),
}
