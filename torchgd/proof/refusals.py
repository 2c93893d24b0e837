"""What no oracle can be asked about, and why."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from torchgd.data import require_finite
from torchgd.entries import parameters_of
from torchgd.gradients import autograd_gradient, manual_gradient
from torchgd.models import Model


def ready(model: Model, x: Tensor, y: Tensor) -> tuple[Model, Tensor]:
    """Return a copy of the model in float64, and the samples x, (N,) or (N, F).

    Raises:
        TypeError: x or y is no tensor of real numbers, or the model is a class or lacks partials.
        ValueError: x and y differ in shape, or hold what is not finite; the model's methods fail,
            also on one sample alone; autograd cannot differentiate ŷ; or what `parameters_of` and
            the two gradients refuse.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is {model!r}: give a torch.nn.Module, made")
    kind = type(model).__name__
    if not callable(getattr(model, "partials", None)):
        raise TypeError(f"{kind} has no partials(x): define it, to return ∂ŷ/∂w by name")
    parameters_of(model)
    numbers, targets = (_real_numbers(name, t) for name, t in (("x", x), ("y", y)))
    if x.ndim == 2 and y.shape == x.shape[:1]:
        numbers = numbers.view(x.shape)
    elif x.shape != y.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: a sample is one number x and "
            "one y; give both in one shape, or of F columns x as (N, F) and y as (N,)"
        )
    exact = deepcopy(model).to(torch.float64)
    for samples in (numbers, numbers[:1], torch.cat([numbers, numbers])):
        for method in (exact, exact.partials):
            _run(f"{kind}.{'forward' if method is exact else 'partials'}", method, samples)
    manual_gradient(exact, numbers, targets)  # which has more to refuse
    _require_autograd(exact, numbers)
    autograd_gradient(exact, numbers, targets)
    return exact, numbers


def _real_numbers(name: str, t: Any) -> Tensor:
    """Return real numbers of any kind and shape in float64, (N,)."""
    if not isinstance(t, Tensor) or t.is_complex() or t.dtype == torch.bool:
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} is {kind}: give a tensor of real numbers")
    numbers = t.detach().double()
    if numbers.numel() and numbers.ndim:
        require_finite(name, numbers)
    return numbers.flatten()


def _run(name: str, method: Callable[[Tensor], object], x: Tensor) -> None:
    try:
        method(x)
    except (RuntimeError, IndexError) as error:  # what torch raises where shapes do not fit
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{name}(x) fails with x of shape {tuple(x.shape)} ({reason}): it must take any number "
            "of samples such as these, and hold nothing of another length"
        ) from error


def _require_autograd(model: Model, x: Tensor) -> None:
    """Refuse a ŷ that changes with a weight, where autograd finds no derivative."""
    weights = list(model.parameters())
    prediction = model(x)
    found: list[Tensor | None] = [None] * len(weights)
    if prediction.requires_grad:
        found = list(torch.autograd.grad(prediction.sum(), weights, allow_unused=True))
    for (name, w), slope in zip(model.named_parameters(), found, strict=True):
        before = w.detach().clone()
        with torch.no_grad():
            w.add_(0.1)
            changes = not torch.equal(model(x).nan_to_num(), prediction.nan_to_num())
            w.copy_(before)
        if slope is None and changes:
            raise ValueError(
                f"autograd has no ∂ŷ/∂{name}, though ŷ changes with {name}: forward(x) detaches it "
                "or calls what torch cannot differentiate, as torch.special.bessel_j0; give that "
                "a backward, by torch.autograd.Function"
            )
