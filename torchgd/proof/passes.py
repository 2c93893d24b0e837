"""A user's function of tensors: its passes forward and backward, at any values, layout or dtype."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

Shape = Sequence[int]


def is_floating(x: object) -> bool:
    """Whether x is a tensor of floating-point numbers."""
    return isinstance(x, Tensor) and x.is_floating_point()


class Passes:
    """A function of some of its inputs: of those that ask for gradients, and of parameters.

    Where no input asks for gradients, all floating ones do. The others stay as they are given.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self.function, self.inputs = function, inputs
        floating = [k for k, x in enumerate(inputs) if is_floating(x)]
        self.asked = [k for k in floating if inputs[k].requires_grad] or floating
        self.constant = [k for k in floating if k not in self.asked]
        owned = function.named_parameters() if isinstance(function, nn.Module) else ()
        self.parameters = {name: w for name, w in owned if w.requires_grad}
        names = dict(enumerate(_names(function)))
        self.names = [names.get(k, f"input {k}") for k in self.asked] + [*self.parameters]
        tensors = *(inputs[k] for k in self.asked), *self.parameters.values()
        self.given = [t.detach().double() for t in tensors]
        self.modules: dict[torch.dtype, nn.Module] = {}

    def of_shapes(self, shapes: Sequence[Shape | None]) -> "Passes":
        """Return the same function of random inputs of these shapes, None to leave one as it is.

        The integers among them are drawn from those that are given.

        Raises:
            ValueError: there is not one shape, or None, for each input.
        """
        if len(shapes) != len(self.inputs):
            raise ValueError(
                f"the shapes {list(shapes)} are {len(shapes)}, and the inputs {len(self.inputs)}: "
                "give each input's, None for one that stays"
            )
        chance = torch.Generator().manual_seed(1)

        def drawn(x: Any, shape: Shape | None) -> Any:
            if shape is None:
                return x
            if is_floating(x):
                new = torch.randn(tuple(shape), generator=chance, dtype=torch.float64).to(x)
                return new.requires_grad_(x.requires_grad)
            some = torch.randint(x.numel(), tuple(shape), generator=chance)
            return x.flatten()[some.to(x.device)]

        pairs = zip(self.inputs, shapes, strict=True)
        return Passes(self.function, [drawn(x, shape) for x, shape in pairs])

    def outputs(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the floating outputs at these values, which are all of one dtype."""
        dtype = values[0].dtype
        arguments = [*self.inputs]
        for k in self.constant:
            arguments[k] = arguments[k].to(dtype)
        for k, value in zip(self.asked, values, strict=False):
            arguments[k] = value
        if isinstance(self.function, nn.Module):
            owned = dict(zip(self.parameters, values[len(self.asked) :], strict=True))
            found = functional_call(self._module(self.function, dtype), owned, tuple(arguments))
        else:
            found = self.function(*arguments)
        several = found if isinstance(found, (tuple, list)) else [found]
        return [t for t in several if is_floating(t)]

    def _module(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Return a copy of the module, which may change its buffers."""
        if dtype not in self.modules:
            self.modules[dtype] = deepcopy(module).to(dtype)
        return self.modules[dtype]

    def flat(self, values: Sequence[Tensor]) -> Tensor:
        """Return all outputs in one vector of float64."""
        with torch.no_grad():
            return torch.cat([t.flatten().double() for t in self.outputs(values)])

    def takes(self, values: Sequence[Tensor]) -> bool:
        """Whether the forward pass runs at these values, and all outputs are finite."""
        try:
            return bool(self.flat(values).isfinite().all())
        except Exception:  # whatever a user's code raises where it refuses them
            return False

    def gradients(
        self,
        values: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        asking: int | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> list[Tensor]:
        """Return Jᵀ·cotangents by the backward pass, for each value; J is the outputs' Jacobian.

        With `asking`, that value alone asks for a gradient; the others' are zeros. `between` is
        called after the forward pass, and before the backward.
        """
        leaves = [t.detach().requires_grad_(asking in (None, k)) for k, t in enumerate(values)]
        pairs = [*zip(self.outputs(leaves), cotangents, strict=True)]
        between()
        reached = [t for t, _ in pairs if t.requires_grad]
        v = [v for t, v in pairs if t.requires_grad]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(
            torch.autograd.grad(reached, wanted, v, materialize_grads=True)
            if reached
            else map(torch.zeros_like, wanted)
        )
        return [next(found) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves]


def function_class(function: object) -> Any:
    """Return the autograd.Function whose apply this is, None of anything else."""
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, type) and issubclass(owner, Function) else None


def _sets_up_apart(owner: type[Function]) -> bool:
    """Whether a Function's forward takes no ctx, but leaves that to setup_context."""
    return owner.setup_context is not Function.setup_context


def _names(function: Callable[..., Any]) -> list[str]:
    """Return what a function calls its inputs, as far as Python knows."""
    owner = function_class(function)
    called = owner.forward if owner else getattr(function, "forward", function)
    try:
        named = inspect.signature(called).parameters.values()
    except ValueError:  # it is written in C
        return []
    names = [p.name for p in named if p.kind == p.POSITIONAL_OR_KEYWORD]
    return names[1:] if owner and not _sets_up_apart(owner) else names


class _Context:
    """What a Function's forward needs of ctx, if nobody goes back."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (True,) * count

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def own_forward(function: object) -> list[Callable[..., Any]]:
    """Return a Function's own forward, of which autograd records each operation, if it is one."""
    owner = function_class(function)

    def forward(*inputs: Any) -> Any:
        context = () if _sets_up_apart(owner) else (_Context(len(inputs)),)
        return owner.forward(*context, *inputs)

    return [forward] if owner else []


def require_function(function: Any) -> None:
    """Raise TypeError for what cannot be called, or for a class, such as a Function itself."""
    if isinstance(function, type):
        called = ".apply" if issubclass(function, Function) else "(…), an object of it"
        raise TypeError(f"the function is a class: give {function.__name__}{called}")
    if not callable(function):
        raise TypeError(f"the function is {function!r}: give a callable, such as Function.apply")


def ready(function: Any, inputs: Sequence[Any]) -> Passes:
    """Return a function's passes, if its backward pass can be asked about.

    Raises:
        TypeError: see `require_function`.
        ValueError: no input is of floating-point numbers, or one is not finite; or in float64 the
            function fails at the inputs, or returns no such number, or another at each call.
    """
    require_function(function)
    passes = Passes(function, inputs)
    if not passes.given:
        raise ValueError("no input is a tensor of floating-point numbers: give at least one")
    for name, t in zip(passes.names, passes.given, strict=True):
        if not t.isfinite().all():
            raise ValueError(
                f"{name} holds what is not finite: give numbers, or let the other inputs alone ask "
                "for gradients"
            )
    try:
        found, again = passes.flat(passes.given), passes.flat(passes.given)
    except Exception as error:  # whatever a user's code raises
        raise ValueError(
            f"the function fails at the inputs in float64 ({first_line(error)}): it must take them"
        ) from error
    if not found.isfinite().all() or not len(found):
        raise ValueError("the outputs at the inputs are not finite: give inputs where they are")
    if not torch.equal(found, again):
        raise ValueError("the outputs are others at each call: let the function seed what it draws")
    return passes


def require_same_outputs(passes: Passes, reference: Passes) -> None:
    """Raise ValueError unless a reference returns at the inputs what the function returns."""
    found, apart = passes.flat(passes.given), torch.inf
    if reference.names[len(reference.asked) :] == [*passes.parameters]:
        with suppress(Exception):  # whatever a user's code raises
            apart = (reference.flat(passes.given) - found).abs().max().item()
    if not apart <= 1e-6 * found.abs().max().item():
        raise ValueError(
            "the reference does not return what the function returns: give another way to compute "
            "the same from the same inputs, of a module's own parameters, too"
        )


def first_line(error: Exception) -> str:
    """Return an error's kind, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
