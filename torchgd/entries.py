"""A model's parameters by name, and the numbers in them: w[0], w[1], … are the entries of w."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parameters_to_vector

M = TypeVar("M", bound=nn.Module)


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's parameters by name.

    Raises:
        ValueError: the model has no parameter, or one that is frozen, empty or lazy, or whose name
            cannot be printed or has a bracket, as the names of entries do.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameters: there is nothing to train; "
            "make them nn.Parameters"
        )
    for name, w in parameters.items():
        if not name.isprintable() or "[" in name:
            raise ValueError(
                f"parameter {name!r}: give it a name that can be printed, without a bracket"
            )
        if is_lazy(w):
            raise ValueError(f"parameter {name!r} is not initialized: give it a shape and a value")
        if w.numel() == 0:
            raise ValueError(
                f"parameter {name!r} has shape {tuple(w.shape)}: nothing in it can be trained; "
                "give it at least one entry"
            )
        if not w.requires_grad:
            raise ValueError(
                f"parameter {name!r} does not require gradients: what stays fixed is not "
                "trained; make it a buffer"
            )
    return parameters


def entries(name: str, shape: Sequence[int]) -> list[str]:
    """Return the names of a parameter's entries, w[0][0], w[0][1], …; of shape () its own, w."""
    places = product(*map(range, shape))
    return [name + "".join(f"[{k}]" for k in place) for place in places]


def names_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of all entries of the model's parameters."""
    parameters = parameters_of(model).items()
    return tuple(entry for name, w in parameters for entry in entries(name, w.shape))


def weights_of(model: nn.Module) -> Tensor:
    """Return a copy of all entries of the model's parameters, (P,)."""
    return parameters_to_vector(model.parameters()).detach().clone()


def split(model: nn.Module, flat: Tensor) -> list[Tensor]:
    """Return numbers (P,), one for each entry, in the shapes of the model's parameters."""
    parameters = list(model.parameters())
    parts = flat.split([w.numel() for w in parameters])
    return [part.view(w.shape) for part, w in zip(parts, parameters, strict=True)]


@torch.no_grad()
def set_weights(model: nn.Module, weights: Tensor) -> None:
    """Give the entries of the model's parameters the values (P,)."""
    for w, values in zip(model.parameters(), split(model, weights), strict=True):
        w.copy_(values)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return numbers and parameters as one row of a table: their entries side by side."""
    return torch.cat([part.flatten() for part in parts])


def at_zero(model: M) -> M:
    """Return a copy of a model whose weights are all 0: its ŷ is ŷ₀, the part without a weight."""
    copy = deepcopy(model)
    set_weights(copy, torch.zeros_like(weights_of(copy)))
    return copy
