"""What every right backward pass keeps, whatever it computes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torchgd.proof.compare import differs
from torchgd.proof.passes import function_class
from torchgd.proof.trials import Trial

# What a gradient is where the rule is broken, in words; and what computes the gradients that must
# be equal: those that are looked at, and those that are expected.
Rule = tuple[str, Callable[[], tuple[list[Tensor], list[Tensor]]]]

# How the same values, or some of them again and again, may lie in memory.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded, of stride 0": lambda t: t[:1].expand(t.shape) if t.dim() else t,
    "transposed": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0) if t.dim() else t,
    "sliced": lambda t: torch.stack([t, t + 1], dim=-1)[..., 0],
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
}
# The backward pass of .sum() gives the same number everywhere.
LAYOUTS_OF_COTANGENTS = {
    "that of a sum": lambda t: t.new_ones(()).expand(t.shape),
    **{f"not contiguous ({name})": layout for name, layout in LAYOUTS.items()},
}


def rules(trial: Trial, other: Trial) -> Iterator[Rule]:
    """Yield the rules for a function at one place; it is called at the `other` in between."""
    x, v = trial.values, trial.cotangents
    yield "is not linear in grad_output", partial(_linear, trial)
    yield "is another at a second call", lambda: (trial.passes.gradients(x, v), trial.by_hand)
    yield "is another where another call comes between", partial(_interrupted, trial, other)
    for name, layout in LAYOUTS_OF_COTANGENTS.items():
        laid = replace(trial, cotangents=[*map(layout, v)])
        yield f"is another where grad_output is {name}", partial(_laid, laid)
    for name, layout in LAYOUTS.items():
        laid = replace(trial, values=[*map(layout, x)])
        if trial.passes.takes(laid.values):
            yield f"is another where the inputs are {name}", partial(_laid, laid)
    for k, name in enumerate(trial.passes.names):
        yield f"is another where {name} alone asks for one", partial(_alone, trial, k)


# g is Jᵀv, which is linear in v: g(2v + w) = 2·g(v) + g(w).
def _linear(trial: Trial) -> tuple[list[Tensor], list[Tensor]]:
    w = [t.flip(0) if t.dim() else -3 * t for t in trial.cotangents]
    both = [2 * s + t for s, t in zip(trial.cotangents, w, strict=True)]
    apart = zip(trial.by_hand, replace(trial, cotangents=w).by_hand, strict=True)
    return replace(trial, cotangents=both).by_hand, [2 * g + h for g, h in apart]


def _interrupted(trial: Trial, other: Trial) -> tuple[list[Tensor], list[Tensor]]:
    def between() -> None:
        other.passes.gradients(other.values, other.cotangents)

    found = trial.passes.gradients(trial.values, trial.cotangents, between=between)
    return found, trial.by_hand


def _laid(trial: Trial) -> tuple[list[Tensor], list[Tensor]]:
    x, v = ([t.clone(memory_format=torch.contiguous_format) for t in tensors]
            for tensors in (trial.values, trial.cotangents))  # fmt: skip
    return trial.by_hand, trial.passes.gradients(x, v)


def _alone(trial: Trial, k: int) -> tuple[list[Tensor], list[Tensor]]:
    found = trial.passes.gradients(trial.values, trial.cotangents, asking=k)
    return found, [g if j == k else torch.zeros_like(g) for j, g in enumerate(trial.by_hand)]


def changes(trial: Trial) -> Iterator[str]:
    """Yield what a backward pass changes of that which is not its own."""
    values, cotangents = ([t.clone() for t in ts] for ts in (trial.values, trial.cotangents))
    saved: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    watched = {"its inputs": values, "grad_output": cotangents, "what it saved": saved}
    before: dict[str, list[tuple[int, Tensor]]] = {}

    def note() -> None:
        before.update({what: [(t._version, t.clone()) for t in ts] for what, ts in watched.items()})

    with saved_tensors_hooks(pack, lambda t: t):
        trial.passes.gradients(values, cotangents, between=note)
    for what, tensors in watched.items():
        pairs = zip(tensors, before[what], strict=False)
        if any(t._version != version or differs(t, old).any() for t, (version, old) in pairs):
            yield f"the backward pass changes {what}: let it be as it is"


# torch sums a gradient of another shape and casts one of another dtype, without a word.
def unlike(trial: Trial) -> Iterator[tuple[int, str]]:
    """Yield, by the number of the value, what a Function's own gradient has unlike the value."""
    owner = function_class(trial.passes.function)
    if owner is None:
        return
    leaves = [t.detach().requires_grad_() for t in trial.values]
    node = trial.passes.outputs(leaves)[0].grad_fn
    if type(node).__name__ != f"{owner.__name__}Backward":
        return
    found = owner.backward(node, *trial.cotangents)
    several = found if isinstance(found, tuple) else (found,)
    for k, place in enumerate(trial.passes.asked):
        for what in ("shape", "dtype", "device"):
            if several[place] is not None:
                mine, its = getattr(several[place], what), getattr(leaves[k], what)
                if mine != its:
                    yield k, f"its gradient has {what} {_short(mine)}, and the input {_short(its)}"


def _short(thing: object) -> str:
    return str(tuple(thing) if isinstance(thing, torch.Size) else thing)
