"""An optimizer's steps along random gradients, and what each step must leave as it is."""

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import Optimizer

SHAPES = ((), (7,), (50, 9), (1,))  # of so many weights some tell two roundings from one
STEPS, LOADED = 14, 5  # there a new optimizer goes on from the old one's state_dict
WITHOUT = {(1, 0), (1, 1), (2, 6), (2, 7)}  # a weight and a step at which it has no gradient
CLOSURES = (3, 9)  # steps that are given a closure
NOT_A_NUMBER = 12  # a step with a gradient that is NaN in one entry


def own_groups(
    options: Mapping[str, Any], dtype: torch.dtype, device: torch.types.Device
) -> list[dict[str, Any]]:
    """Return two groups of weights; the second has its own value of each option.

    Its learning rate is three times as high, what is true is false in it, and the other numbers
    are smaller by a part that is drawn at random.
    """
    generator = torch.Generator().manual_seed(0)
    starts = (torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES)
    weights = [Parameter(w.to(device)) for w in starts]

    def other(name: str, value: Any) -> Any:
        part = random.Random(name).uniform(0.5, 0.9)  # whatever other options there are
        return False if isinstance(value, bool) else scaled(value, part)

    fixed = ("lr", "foreach", "fused")
    own = {name: other(name, value) for name, value in options.items() if name not in fixed}
    return [
        {"params": weights[:2]},
        {"params": weights[2:], **own, "lr": 3 * options.get("lr", 1e-3)},
    ]


def path(
    kind: Callable[..., Optimizer],
    options: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.types.Device,
) -> tuple[Tensor, str]:
    """Return the weights after each step, (STEPS, n), and what a step does that it must not.

    Halfway a new optimizer goes on from a state_dict; then, at a random step, all rates and
    momenta change, as by a scheduler. The gradients are written to the same tensors in each step.
    """
    groups, rows, said = own_groups(options, dtype, device), [], ""
    optimizer, generator = kind(groups, **options), torch.Generator().manual_seed(1)
    weights = [w for group in groups for w in group["params"]]
    gradients = torch.zeros(sum(w.numel() for w in weights), dtype=dtype, device=device)
    changed = random.Random(2).randint(LOADED + 3, STEPS - 3)
    for step in range(STEPS):
        if step == LOADED:
            old = copy.deepcopy(optimizer.state_dict())
            optimizer = kind([{"params": group["params"]} for group in groups], lr=5.0)
            optimizer.load_state_dict(old)
        if step == changed:
            for group in optimizer.param_groups:
                new = {name: scaled(group[name], 0.7) for name in SCHEDULED if group.get(name)}
                group.update(new)
        noise = torch.randn(len(gradients), dtype=dtype, generator=generator).to(device)
        if step == NOT_A_NUMBER:
            noise[-5] = torch.nan
        broken = _take(optimizer, step, weights, gradients, noise)
        said = said or broken
        rows.append(torch.cat([w.detach().flatten() for w in weights]).cpu())
    return torch.stack(rows), said


SCHEDULED = ("lr", "momentum", "betas")


def scaled(value: Any, part: float) -> Any:
    """Return a part of an option, and of a pair that of each."""
    return tuple(part * v for v in value) if isinstance(value, tuple) else part * value


def _take(
    optimizer: Optimizer, step: int, weights: list[Parameter], gradients: Tensor, noise: Tensor
) -> str:
    """Take a step, at some with a closure; return what is wrong beside its result."""
    parts = gradients.split([w.numel() for w in weights])
    given = [
        None if (k, step) in WITHOUT else part.view(w.shape)
        for k, (w, part) in enumerate(zip(weights, parts, strict=True))
    ]
    places, said = [w.data_ptr() for w in weights], ""

    def give() -> None:
        gradients.copy_(noise)
        for w, g in zip(weights, given, strict=True):
            w.grad = g

    if step in CLOSURES:
        for w in weights:
            w.grad = None
        said = _with_closure(optimizer, give)
    else:
        give()
        optimizer.step()
    if said:
        return said
    if any(w.grad is not g for w, g in zip(weights, given, strict=True)):
        return "a step puts another tensor, or None, in the place of p.grad: let it be"
    if step != NOT_A_NUMBER and not torch.equal(gradients, noise):  # NaN equals nothing
        return "a step changes p.grad, which others may read: work on a copy"
    if [w.data_ptr() for w in weights] != places:
        return "a step puts another tensor in the place of p: change p in place"
    return ""


def _with_closure(optimizer: Optimizer, give: Callable[[], None]) -> str:
    """Take a step whose closure gives the gradients; return what is wrong with how it is called."""
    loss, called = torch.tensor(0.5), 0

    def closure() -> Any:
        nonlocal called
        called += 1
        give()
        return loss

    try:
        said: Any = optimizer.step(closure)
    except TypeError as error:
        give()
        optimizer.step()
        return f"step(closure) fails, {error}: write step(self, closure=None)"
    if called != 1:
        return f"step(closure) calls the closure {called} times: call it once"
    return "" if said is loss else "step(closure) does not return the closure's loss: return it"
