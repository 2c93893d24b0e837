"""A gradient is wrong: in what way?"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torchgd.proof.trials import Trial, along, along_entry, directions, largest

MOST = 32  # entries of which each is found by differences
MOST_SAVED = 4  # tensors in whose place another may have been meant
SAME = 1e-6  # relative


def diagnosis(trial: Trial, k: int, usual: Trial) -> str:
    """Return what is wrong with a gradient at a place, "" if it is none of the usual faults.

    At the `usual` place the inputs are random, of size 1.
    """
    true = _by_differences(trial, k)
    hints = (_of_nothing(trial, k), _of_digits(trial, usual, k, true), _of_entries(trial, k, true),
             _of_saved(trial, k, true), _of_sizes(usual, k), _of_cotangents(trial, k))  # fmt: skip
    return next(itertools.chain(*hints), "")


def _by_differences(trial: Trial, k: int) -> Tensor:
    """Return the first entries of a gradient; NaN where differences cannot be trusted."""
    x, found = trial.values[k], []
    scale = largest(x) or 1.0
    for entry in range(min(x.numel(), MOST)):
        slope = trial.slope(k, scale * along_entry(x, entry))
        trusted = slope.trusted[0] & ~slope.kink.any()
        found.append(torch.where(trusted, slope.slope[0] / scale, torch.nan))
    return torch.stack(found)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two gradients agree where both are known."""
    known = (a - b).isfinite()
    size = max(largest(a[known]), largest(b[known]))
    return bool(known.any()) and largest((a - b)[known]) <= SAME * size


def _with_ones(trial: Trial) -> Trial:
    return replace(trial, cotangents=[torch.ones_like(t) for t in trial.cotangents])


def _of_nothing(trial: Trial, k: int) -> Iterator[str]:
    if not trial.by_hand[k].isfinite().all():
        yield f"it is not finite at {trial.where}"
    elif largest(trial.by_hand[k]) == 0:
        yield "it is 0: no gradient gets there"
    elif _same(_with_ones(trial).by_hand[k], trial.by_hand[k]):
        yield "it is the same whatever grad_output is"


def _of_digits(trial: Trial, usual: Trial, k: int, true: Tensor) -> Iterator[str]:
    here = _same(trial.by_hand[k].flatten()[: len(true)], true)
    if here and _same(usual.by_hand[k].flatten()[: len(true)], _by_differences(usual, k)):
        yield "it has the digits of float32 alone"


def _of_entries(trial: Trial, k: int, true: Tensor) -> Iterator[str]:
    g = trial.by_hand[k].flatten()[: len(true)]
    known = (g - true).isfinite()
    factor = ((g * true)[known].sum() / true[known].square().sum()).item()
    if factor and _same(g, factor * true):
        yield _in_words(factor, trial)
    for j, name in enumerate(trial.passes.names):
        alike = j != k and trial.values[j].shape == trial.values[k].shape
        if alike and _same(g, _by_differences(trial, j)):
            yield f"this is the gradient of {name}"
    yield from _of_axes(g, true, trial.values[k].shape)


def _in_words(factor: float, trial: Trial) -> str:
    times = abs(factor) if abs(factor) > 1 else 1 / abs(factor)
    lengths = {n for t in [*trial.values, *trial.cotangents] for n in (t.numel(), *t.shape)}
    mean = [f": N = {n}, a mean's 1/N?" for n in lengths if math.isclose(n, times, rel_tol=SAME)]
    size = f"{times:.6g} times too {'large' if abs(factor) > 1 else 'small'} everywhere"
    sign = ["the sign is reversed"] * (factor < 0)
    return " and ".join(sign + [size + "".join(mean[:1])] * (times > 1 + SAME))


def _of_axes(g: Tensor, true: Tensor, shape: torch.Size) -> Iterator[str]:
    """Yield along which axis the sum is not 0, or the same term is missing everywhere."""
    if len(g) < shape.numel():  # whole rows, or a part of one
        shape = torch.Size((len(g) // shape[-1] or 1, min(len(g), shape[-1])))
    g, true = (t[: shape.numel()].view(shape) for t in (g, true))
    for axis in (axis for axis in range(-1, -1 - len(shape), -1) if shape[axis] > 1):
        off = g - true
        constant = _same(off, off.mean(axis, keepdim=True).expand(shape))
        sums = largest(true.sum(axis)) <= SAME * largest(true) < largest(g.sum(axis))
        said = [f"its sums along axis {axis} are not 0"] * sums
        said += [f"a term that is constant along axis {axis} is missing"] * constant
        if said:
            yield ": ".join(said).replace("sums along axis -1 are not", "rows do not sum to")


# What unpacks a saved tensor may return another. If the gradient is right then, that was meant.
def _of_saved(trial: Trial, k: int, true: Tensor) -> Iterator[str]:
    output = trial.passes.outputs(trial.values)[0].detach()
    meant = {"the output": output, **dict(zip(trial.passes.names, trial.values, strict=True))}
    for which, (name, other) in itertools.product(range(MOST_SAVED), meant.items()):
        number = itertools.count()

        def pack(t: Tensor, which: int = which, other: Tensor = other) -> Tensor:
            alike = (t.shape, t.dtype) == (other.shape, other.dtype)
            return other if alike and next(number) == which else t  # noqa: B023

        with saved_tensors_hooks(pack, lambda t: t):
            found = trial.passes.gradients(trial.values, trial.cotangents)[k]
        if _same(found.flatten()[: len(true)], true):
            yield f"it would be right if the saved tensor were {name}"


def _of_sizes(trial: Trial, k: int) -> Iterator[str]:
    """Yield beyond which |x| a gradient is wrong, where it is right below."""
    names = trial.passes.names
    for which in [[j] for j in range(len(names))] + [[*range(len(names))]]:

        def fits(size: float, which: list[int] = which) -> bool:
            values = [*trial.values]
            for j in which:
                values[j] = values[j] * (size / (largest(values[j]) or 1.0))
            return _right(replace(trial, values=values), k)

        low, high = 1e-3, 1e3
        if fits(low) and not fits(high):
            for _ in range(10):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if fits(middle) else (low, middle)
            yield f"only beyond |{', '.join(names[j] for j in which)}| > {high:.2g}"


def _of_cotangents(trial: Trial, k: int) -> Iterator[str]:
    if _right(_with_ones(trial), k):
        yield "only where grad_output is not all ones"


def _right(trial: Trial, k: int) -> bool:
    """Whether differences confirm a gradient at a place, and find no fault."""
    chance = torch.Generator().manual_seed(2)
    found = [along(trial, k, d).right for d in directions(trial, k, chance)]
    return False not in found and True in found
