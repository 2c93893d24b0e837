"""∂loss/∂w in two ways: the chain rule by hand, and autograd.

Both take (model, x, y), replace each parameter's `.grad` and return the loss at the current
weights, a tensor of shape () without a graph. For the built-in models both give the same bits: the
factors below are multiplied in the order in which autograd multiplies them. (A model of your
own can be right and differ in the last bit.)
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from torchgd.loss import mean_squared_error, mean_squared_error_and_derivative
from torchgd.models import Model

# (model, x, y) → loss, after setting each w.grad
GradientSource = Callable[[Model, Tensor, Tensor], Tensor]


# loss is a function of ŷ₁ … ŷ_N, each of which is a function of w. By the chain rule
#
#   ∂loss/∂w = Σ ∂loss/∂ŷₙ · ∂ŷₙ/∂w = Σ (2/N)(ŷₙ − yₙ) · ∂ŷₙ/∂w
#
# The algebraically equal mean(2(ŷ − y) · ∂ŷ/∂w) divides after the sum and rounds differently.
@torch.no_grad()
def manual_gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Set w.grad = Σ ∂loss/∂ŷₙ · ∂ŷₙ/∂w for every parameter w, from `model.partials`.

    Shapes: x and y alike, any; every gradient and the returned loss ().

    Raises:
        ValueError: prediction and target differ in shape, parameters and loss in dtype, or
            `partials` lacks a parameter or returns one in a shape that is not the prediction's.
    """
    loss, derivative = mean_squared_error_and_derivative(model(x), y)
    partials = model.partials(x)
    for name, w in model.named_parameters():
        same_dtype(name, w, loss)
        w.grad = (derivative * named_partial(partials, name, derivative)).sum()
    return loss


def named_partial(partials: Mapping[str, Tensor], name: str, derivative: Tensor) -> Tensor:
    """Return ∂ŷ/∂`name`, checked."""
    if name not in partials:
        raise ValueError(
            f"partials(x) returns {sorted(partials)} and lacks {name!r}: "
            "give ∂ŷ/∂w for each named parameter"
        )
    partial = partials[name]
    if partial.shape != derivative.shape:
        raise ValueError(
            f"partials(x)[{name!r}] has shape {tuple(partial.shape)}: it must have the "
            f"prediction's, {tuple(derivative.shape)}; x**0 is a 1 of x's shape"
        )
    return partial


def autograd_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Set w.grad = ∂loss/∂w for every parameter w by reverse-mode automatic differentiation.

    Shapes: x and y alike, any; every gradient and the returned loss ().

    Raises:
        ValueError: prediction and target differ in shape, parameters and loss in dtype, or a
            parameter has no part in ŷ.
    """
    parameters = dict(model.named_parameters())
    for w in parameters.values():
        w.grad = None
    loss = mean_squared_error(model(x), y)
    value = loss.detach()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    for name, w in parameters.items():
        same_dtype(name, w, value)
        if w.grad is None:
            raise ValueError(
                f"parameter {name!r} has no part in forward(x): autograd finds no gradient for "
                "it; use it or remove it"
            )
    return value


def same_dtype(name: str, w: Tensor, loss: Tensor) -> None:
    """Refuse a mix of dtypes, which arithmetic with a scalar weight lets pass unnoticed."""
    if w.dtype != loss.dtype:
        raise ValueError(
            f"parameter {name!r} is {w.dtype} and the loss {loss.dtype}: "
            "make model and data of one dtype"
        )
