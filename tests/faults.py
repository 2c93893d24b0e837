"""Hand-derived derivatives with one fault each: what `check_gradient` must not let pass.

A fault is a function of x, the right ∂ŷ/∂w of one parameter, and all of the partial derivatives.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchgd import Model

Fault = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


def only(where: Callable[[Tensor], Tensor]) -> Fault:
    """Off by 1 where `where` says so, and right elsewhere."""
    return lambda x, p, _: torch.where(where(x), p + 1, p)


def slightly(where: Callable[[Tensor], Tensor]) -> Fault:
    """Too large by a thousandth where `where` says so, and right elsewhere."""
    return lambda x, p, _: torch.where(where(x), 1.001 * p, p)


FAULTS: dict[str, Fault] = {
    "a factor 2 too many": lambda x, p, _: 2 * p,
    "a factor 2 missing": lambda x, p, _: p / 2,
    "a factor off by a millionth": lambda x, p, _: (
        p * (1 + 1e-6) if x.dtype == torch.float64 else p
    ),
    "the sign reversed": lambda x, p, _: -p,
    "the magnitude alone": lambda x, p, _: p.abs() if (p < 0).any() else -p.abs(),
    "zero": lambda x, p, _: torch.zeros_like(p),
    "a constant too many": lambda x, p, _: p + 1,
    "a power too high": lambda x, p, _: p * x,
    "a power too low": lambda x, p, _: torch.where(x == 0, 1, p / x),
    "multiplied by its neighbours' mean": lambda x, p, _: p * x.mean(),
    "a sum for the mean": lambda x, p, _: p * x.numel(),
    "the mean taken twice": lambda x, p, _: p / x.numel(),
    "centred": lambda x, p, _: p - p.mean() if x.numel() > 1 else p,
    "in the wrong order": lambda x, p, _: p.flip(0) + (p == p.flip(0)),
    "0/0 at x = 0": lambda x, p, _: p * x / x,
    "infinite at x = 0": lambda x, p, _: torch.where(x == 0, torch.inf, p),
    "off only at x = 0": only(lambda x: x == 0),
    "off only at x = 1": only(lambda x: x == 1),
    "off only for negative x": only(lambda x: x < 0),
    "off only for positive x": only(lambda x: x > 0),
    "off only for tiny x": slightly(lambda x: x.abs() < 1e-3),
    "off only for huge x": slightly(lambda x: x.abs() > 1e3),
    "off only for tiny negative x": slightly(lambda x: (x < 0) & (x > -1e-3)),
    "off only for huge negative x": slightly(lambda x: x < -1e3),
    "off only in float32": lambda x, p, _: p * 1.01 if x.dtype == torch.float32 else p,
    "off only in float64": lambda x, p, _: p * 1.01 if x.dtype == torch.float64 else p,
    "rounded to float32": lambda x, p, _: p.float().to(p.dtype) * (1 + 1e-9),
    "off only for a single sample": lambda x, p, _: p * 1.01 if x.numel() == 1 else p,
    "off only for a batch": lambda x, p, _: p * 1.01 if x.numel() > 1 else p,
    "divided by x and multiplied again": lambda x, p, _: p / x * x,
}


def faulty(make: Callable[..., Model], parameter: str, fault: Fault) -> Model:
    """Return a model whose derivative with respect to `parameter` has the fault."""
    model = make()
    right = model.partials

    def partials(x: Tensor) -> dict[str, Tensor]:
        found = {name: p * x**0 if isinstance(p, int) else p for name, p in right(x).items()}
        return {**found, parameter: fault(x, found[parameter], found)}  # type: ignore[dict-item, arg-type]

    model.partials = partials  # type: ignore[method-assign]
    return model


def swapped(make: Callable[..., Model], one: str, other: str) -> Model:
    """Return a model that takes two of its derivatives for each other."""
    model: Any = make()
    right = model.partials

    def partials(x: Tensor) -> dict[str, Tensor]:
        found = right(x)
        return {**found, one: found[other], other: found[one]}

    model.partials = partials
    return model
