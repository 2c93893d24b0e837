"""Would a test have noticed? Faults planted in a backward pass, each of which a test should see."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial, wraps
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from torchgd.proof.passes import is_floating, require_function

Gradients = list[Tensor]
# The right backward pass, of the cotangents v; and v. Returned are the gradients with a fault.
Plant = Callable[[Callable[..., Gradients], Sequence[Tensor]], Gradients]


def as_contiguous(v: Tensor) -> Tensor:
    """Return what is read in memory by who takes a tensor for contiguous."""
    stored = v.as_strided((v.untyped_storage().nbytes() // v.element_size(),), (1,), 0)
    entries = v.storage_offset() + torch.arange(v.numel(), device=v.device)
    return stored[entries % len(stored)].view(v.shape)


def swapped(gradients: Gradients) -> Gradients:
    """Return the gradients with two of one shape swapped; else the first one's entries reversed."""
    for j, k in combinations(range(len(gradients)), 2):
        if gradients[j].shape == gradients[k].shape:
            found = [*gradients]
            found[j], found[k] = gradients[k], gradients[j]
            return found
    return [gradients[0].flatten().flip(0).view(gradients[0].shape), *gradients[1:]]


class Stale:
    """Goes back through what the call before saved, if it was of the same shapes."""

    def __init__(self) -> None:
        self.before: Callable[..., Gradients] | None = None

    def __call__(self, backward: Callable[..., Gradients], v: Sequence[Tensor]) -> Gradients:
        """Return the gradients of the call before."""
        right, before, self.before = backward(*v), self.before, backward
        try:
            found = right if before is None else before(*v)
        except RuntimeError:  # of other shapes
            return right
        return found if [g.shape for g in found] == [g.shape for g in right] else right


def each(change: Callable[[Tensor], Tensor]) -> Plant:
    """Return what changes each gradient."""
    return lambda backward, v: [change(g) for g in backward(*v)]


def fed(change: Callable[[Tensor], Tensor]) -> Plant:
    """Return what changes each cotangent."""
    return lambda backward, v: backward(*map(change, v))


def without(k: int) -> Plant:
    """Return what leaves the gradient of that number out."""

    def plant(backward: Callable[..., Gradients], v: Sequence[Tensor]) -> Gradients:
        found = backward(*v)
        found[k] = 0 * found[k]
        return found

    return plant


def mean_for_sum(backward: Callable[..., Gradients], v: Sequence[Tensor]) -> Gradients:
    """Return the means over the cotangents, or of one over the entries, for the sums."""
    return [g / max(g.numel(), *(t.numel() for t in v)) for g in backward(*v)]


def plants() -> dict[str, Plant]:
    """Return the faults by name, made anew, since one of them remembers."""
    return {
        "a factor 2": each(lambda g: 2 * g),
        "the sign": each(torch.neg),
        "the first gradient zero": without(0),
        "the last gradient zero": without(-1),
        "two gradients swapped": lambda backward, v: swapped(backward(*v)),
        "grad_output ignored": fed(torch.ones_like),
        "grad_output read as contiguous": fed(as_contiguous),
        "a mean for a sum": mean_for_sum,
        "a small constant term dropped": each(lambda g: g - 1e-3 * g.abs().mean()),
        "float32 inside": each(lambda g: g.float().to(g.dtype)),
        "a stale saved tensor": Stale(),
    }


class _Planted(Function):
    """Runs a function, and its own backward pass with a fault."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], plant: Plant, *inputs: Any) -> Any:
        ctx.asked = [is_floating(x) and x.requires_grad for x in inputs]
        pairs = zip(inputs, ctx.asked, strict=True)
        with torch.enable_grad():
            copies = [x.detach().requires_grad_() if asked else x for x, asked in pairs]
            found = function(*copies)
        outputs = found if isinstance(found, tuple) else (found,)
        ctx.mark_non_differentiable(*(t for t in outputs if not t.requires_grad))
        leaves = [x for x, asked in zip(copies, ctx.asked, strict=True) if asked]

        def right(*v: Tensor) -> Gradients:
            ends = [t for t in outputs if t.requires_grad]
            return [
                *torch.autograd.grad(ends, leaves, v, retain_graph=True, materialize_grads=True)
            ]

        ctx.differentiable = [t.requires_grad for t in outputs]
        ctx.planted = partial(plant, right)
        alone = tuple(t.detach() for t in outputs)
        return alone if isinstance(found, tuple) else alone[0]

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> Any:
        pairs = zip(v, ctx.differentiable, strict=True)
        found = iter(ctx.planted([t for t, differentiable in pairs if differentiable]))
        return None, None, *(next(found) if asked else None for asked in ctx.asked)


def planted(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield functions that compute what a function computes, each with a fault going back.

    After its name comes the function, or a copy of the module. Each fault is one that people make,
    or that a library shipped; where two gradients are to be swapped and no two are of one shape,
    the first is reversed instead.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> name, sine = next(planted(torch.sin))
        >>> sine(x).sum().backward()
        >>> name, torch.equal(x.grad, 2 * x.cos())
        ('a factor 2', True)

    Raises:
        TypeError: see `proof.passes.require_function`.
    """
    require_function(function)
    for name, plant in plants().items():
        yield name, _with(function, plant)


def _with(function: Callable[..., Any], plant: Plant) -> Callable[..., Any]:
    if not isinstance(function, nn.Module):

        @wraps(function)  # so that its inputs keep their names
        def faulty(*inputs: Any, **options: Any) -> Any:
            return _Planted.apply(partial(function, **options), plant, *inputs)

        return faulty
    inner, module = deepcopy(function), deepcopy(function)

    def forward(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        owned, buffers = dict(self.named_parameters()), dict(self.named_buffers())
        inner.train(self.training)

        def called(*values: Any) -> Any:
            tensors = {**buffers, **dict(zip(owned, values[len(inputs) :], strict=True))}
            return functional_call(inner, tensors, values[: len(inputs)], options)

        return _Planted.apply(called, plant, *inputs, *owned.values())

    # A method, and no function of this one object, so that copies of it use their own parameters.
    module.__class__ = type(type(function).__name__, (type(function),), {"forward": forward})
    return module


def survivors(function: Callable[..., Any], test: Callable[[Any], object]) -> list[str]:
    """Return the names of the `planted` faults that a test of a function lets pass.

    A test fails if it raises or returns what is false, as an assertion or torch.allclose do. Of a
    function that returns one number, grad_output cannot be read wrongly: nothing can see that.

    Example: who adds up the outputs sees no fault of what else might come from above.

        >>> def test(sine):
        ...     x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        ...     sine(x).sum().backward()
        ...     return torch.allclose(x.grad, x.cos())
        >>> survivors(torch.sin, test)[0]
        'grad_output ignored'

    Raises:
        TypeError: see `proof.passes.require_function`.
        ValueError: the test fails with the function itself.
    """
    require_function(function)
    if not _passes(test, function):
        raise ValueError("the test fails with the function itself: give one that it passes")
    return [name for name, faulty in planted(function) if _passes(test, faulty)]


def _passes(test: Callable[[Any], object], function: Callable[..., Any]) -> bool:
    try:
        said = test(function)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # of which pytest's own failures are
        return False
    return said is None or bool(said)
