"""∂loss/∂w in two ways: the chain rule by hand, and autograd.

Both take (model, x, y), replace each parameter's `.grad` and return the loss at the current
weights, a tensor of shape () without a graph. For the built-in models both give the same bits,
because we multiply the factors in autograd's order. (A model of your own can be right and differ
in the last bit.)

That holds in float32 and in float64, for x and y of any layout in memory, infinite results
included, of which only a NaN's own bits may differ. It holds on one machine and for one
number of threads: torch shares a sum over more than 32,768 samples between its threads, and so
takes it in another order with another number of them.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from numbers import Real
from typing import Any

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
#
# For the entries wⱼ of a parameter these are D sums over the same factors ∂loss/∂ŷₙ. With the rows
# ∂ŷₙ/∂w stacked into the Jacobian J (N, D),
#
#   ∂loss/∂wⱼ = Σ ∂loss/∂ŷₙ · Jₙⱼ    so    ∂loss/∂w = Jᵀ·∂loss/∂ŷ
#
# one product of a matrix and a vector. Autograd's gradient of X·w is the same product, Xᵀ·∂loss/∂ŷ,
# and the same routine of BLAS takes its sums in the same order.
@torch.no_grad()
def manual_gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Set w.grad = Σ ∂loss/∂ŷₙ · ∂ŷₙ/∂w for every parameter w, from `model.partials`.

    Shapes: x (N,) or (N, F), y (N,), or, where ŷ has its shape, any; each gradient as its
    parameter, the returned loss ().

    Raises:
        ValueError: prediction and target differ in shape, parameters and loss in dtype, or
            `partials` returns what `partial_derivatives` refuses.
    """
    loss, derivative = mean_squared_error_and_derivative(model(x), y)
    parameters = dict(model.named_parameters())
    for name, partial in partial_derivatives(model, x, derivative, parameters).items():
        w = parameters[name]
        same_dtype(name, w, loss)
        if w.ndim == 0:
            w.grad = (derivative * partial).sum()
        else:
            jacobian = partial.reshape(derivative.numel(), w.numel())
            w.grad = (jacobian.T @ derivative.view(-1)).view(w.shape)
    return loss


def partial_derivatives(
    model: Model,
    x: Tensor,
    prediction: Tensor,
    parameters: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return each ∂ŷ/∂w, (N, *w.shape) for a prediction (N,), from `model.partials(x)`.

    A constant there, a number or a tensor of shape () or w.shape, stands for every sample.
    `parameters` are the model's by name, if the caller has them at hand.

    Raises:
        ValueError: `partials` returns no dict, or lacks a parameter, or has one that is neither a
            constant nor a dense tensor of floating-point numbers, of that shape and on the
            prediction's device.
    """
    partials = model.partials(x)
    if not isinstance(partials, Mapping):
        kind = type(partials).__name__
        raise ValueError(f"partials(x) is a {kind}; give a dict of ∂ŷ/∂w by name")
    if parameters is None:
        parameters = dict(model.named_parameters())
    return {name: _in_shape(name, w, partials, prediction) for name, w in parameters.items()}


def _in_shape(name: str, w: Tensor, partials: Mapping[str, Any], prediction: Tensor) -> Tensor:
    partial = partials.get(name)
    shape = prediction.shape + w.shape if w.ndim else prediction.shape
    if isinstance(partial, Tensor) and partial.shape == shape:
        require_dense(f"partials(x)[{name!r}]", partial, prediction)
        return partial
    if isinstance(partial, Tensor) and partial.shape in ((), w.shape):
        return partial.to(prediction).expand(shape)
    if isinstance(partial, Real) and not isinstance(partial, bool):
        return prediction.new_full(shape, float(partial))
    if name not in partials:
        raise ValueError(
            f"partials(x) returns {sorted(partials)} and lacks {name!r}: "
            "give ∂ŷ/∂w for each named parameter"
        )
    its = f"the prediction's, {tuple(prediction.shape)}"
    if w.ndim:
        its += f", and the parameter's, {tuple(w.shape)}: {tuple(shape)}"
    if isinstance(partial, Tensor):
        raise ValueError(
            f"partials(x)[{name!r}] has shape {tuple(partial.shape)}: it must have {its}, or be a "
            "constant"
        )
    raise ValueError(
        f"partials(x)[{name!r}] is a {type(partial).__name__}; give a tensor of the prediction's "
        "shape, or a number"
    )


def jacobian(
    model: Model, x: Tensor, prediction: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Return ∂ŷ/∂w of each sample (N, P), a column for each entry of the parameters.

    The caller may have the prediction at hand.
    """
    prediction = model(x) if prediction is None else prediction
    if prediction.shape != x.shape[:1]:
        raise ValueError(
            f"forward(x) has shape {tuple(prediction.shape)} with x of {tuple(x.shape)}: it is to "
            "have one number for each sample; does the model take so many columns?"
        )
    partials = partial_derivatives(model, x, prediction).values()
    return torch.cat([partial.reshape(len(x), -1) for partial in partials], dim=1, out=out)


def require_dense(what: str, t: Tensor, like: Tensor) -> None:
    """Raise ValueError unless t is a dense tensor of floating-point numbers, on `like`'s device."""
    if t.dtype == like.dtype and t.layout == like.layout and t.device == like.device:
        return
    if t.layout != torch.strided or t.device != like.device or not t.is_floating_point():
        raise ValueError(
            f"{what} is of {t.layout} and {t.dtype} on {t.device}; give a dense tensor of "
            "floating-point numbers on x's device"
        )


def autograd_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Set w.grad = ∂loss/∂w for every parameter w by reverse-mode automatic differentiation.

    Shapes: as of `manual_gradient`.

    Raises:
        ValueError: prediction and target differ in shape, parameters and loss in dtype, x or y is
            part of a graph, or a parameter has no part in ŷ.
    """
    if x.grad_fn is not None or y.grad_fn is not None:
        raise ValueError(
            "x or y is part of a graph, through which autograd would go: give it detached"
        )
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
    """Raise ValueError at a mix of dtypes, which torch's arithmetic with scalars accepts."""
    if w.dtype != loss.dtype:
        raise ValueError(
            f"parameter {name!r} is {w.dtype} and the loss {loss.dtype}: "
            "make model and data of one dtype"
        )


def few(x: Tensor) -> Tensor:
    """Return at most 4096 of the samples x (N, …): enough to see if ŷ is linear in the weights."""
    return x[:: 1 + len(x) // 4096]


def is_linear_in_parameters(model: Model, x: Tensor) -> bool:
    """Return whether ∂ŷ/∂w at x stays the same, to the bit, when the weights are changed."""
    other = deepcopy(model)
    with torch.no_grad():
        prediction = model(x)
        before = partial_derivatives(model, x, prediction)
        for w in other.parameters():
            w.mul_(1.1).add_(0.37)
        after = partial_derivatives(other, x, prediction)
    return all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def require_linear(
    model: Model,
    x: Tensor,
    otherwise: str = "its steps are no affine maps; take the update manual or autograd",
) -> None:
    """Raise ValueError unless the model is linear in its parameters."""
    if not is_linear_in_parameters(model, x):
        raise ValueError(f"{type(model).__name__} is not linear in its parameters: {otherwise}")
