"""Models by name, and what else is in a user's own file; and the errors that come out of it."""

import hashlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from torchgd.data import Standardization, offset_of
from torchgd.entries import parameters_of
from torchgd.gradients import partial_derivatives, require_dense
from torchgd.models import Linear, Model, Quadratic

MODELS: dict[str, type[Model]] = {"linear": Linear, "quadratic": Quadratic}
OWN_FILES: dict[str, str] = {}  # that were run: as the user named each, by its full path


def where_in_own_file(error: BaseException) -> str:
    """Return FILE:LINE: ERROR of an error that came through a user's file, "" of any other."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(f.filename, f.lineno) for f in frames if f.filename in OWN_FILES]
    if isinstance(error, SyntaxError) and error.filename in OWN_FILES:
        places = [(error.filename, error.lineno)]  # which did not come to run
    if not places:
        return ""
    file, line = places[-1]
    try:
        said = " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:
        said = f"{type(error).__name__}, whose message fails in its turn"
    return f"{OWN_FILES[file]}:{line}: {said}"


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the model in an error that comes of how it is called, and not of a line in its file."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        if name in MODELS or where_in_own_file(error):
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"model {name!r} fails with {said}") from error


def find_model(name: str, bias: bool = False, features: int = 1) -> Callable[..., Model]:
    """Return what makes, of `device` and `dtype`, the model of that name.

    That is linear (with a `bias` if asked for, of so many `features`), quadratic, or CLASS of
    FILE.py:CLASS.

    Raises:
        ValueError: the file is missing, CLASS is no `Model` in it, or a model takes no bias or
            not so many features.
    """
    found = MODELS.get(name) or _own_model(name)
    if found is Linear:
        return partial(Linear, bias=bias, features=features)
    if bias:
        raise ValueError(f"model {name!r} takes no --bias: it is the linear model's option")
    if found is Quadratic and features > 1:
        raise ValueError(
            f"model {name!r} takes one column, and x has {features}: take linear, or a model of "
            "your own"
        )
    return found


def _own_model(name: str) -> Any:
    found = _own_class("model", name, "choose linear or quadratic, or give FILE.py:CLASS")
    if found is None or not (issubclass(found, nn.Module) and hasattr(found, "partials")):
        file, _, class_name = name.rpartition(":")
        raise ValueError(
            f"model {name!r}: {file} has no class {class_name!r} that is a torch.nn.Module with "
            "forward(x) and partials(x)"
        )
    return found  # which need not be a subclass of Model


def find_optimizer(name: str) -> type[torch.optim.Optimizer]:
    """Return CLASS of FILE.py:CLASS, an optimizer.

    Raises:
        ValueError: the file is missing, or CLASS is no `torch.optim.Optimizer`.
    """
    found = _own_class("optimizer", name, "give FILE.py:CLASS")
    if found is None or not issubclass(found, torch.optim.Optimizer):
        file, _, class_name = name.rpartition(":")
        raise ValueError(
            f"optimizer {name!r}: {file} has no class {class_name!r} derived from "
            "torch.optim.Optimizer"
        )
    return found


def find_backward(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return NAME of FILE.py:NAME, a function of tensors, and what `inputs()` in it returns.

    Of an autograd.Function it is the apply, of a class of modules one made without arguments.

    Raises:
        ValueError: the file is missing, or has no such name, or no inputs() that returns tensors.
    """
    file, _, own = name.rpartition(":")
    module = _own_module("backward", name, "give FILE.py:NAME")
    found, inputs = getattr(module, own, None), getattr(module, "inputs", None)
    if isinstance(found, type) and issubclass(found, torch.autograd.Function):
        found = found.apply
    elif isinstance(found, type) and issubclass(found, nn.Module):
        found = found()
    if not callable(found):
        raise ValueError(f"backward {name!r}: {file} has no function {own!r}; name one that it has")
    given = inputs() if callable(inputs) else None
    several = given if isinstance(given, (tuple, list)) else (given,)
    if not any(isinstance(x, Tensor) for x in several):
        raise ValueError(
            f"backward {name!r}: {file} has no inputs() that returns tensors; define it, to return "
            f"what {own} takes"
        )
    return found, tuple(several)


def _own_class(what: str, name: str, otherwise: str) -> type | None:
    """Run a user's file and return the class in it, None if it has no such class."""
    found = getattr(_own_module(what, name, otherwise), name.rpartition(":")[2], None)
    return found if isinstance(found, type) else None


def _own_module(what: str, name: str, otherwise: str) -> ModuleType:
    """Run a user's file and return its module."""
    file = name.rpartition(":")[0]
    if not Path(file).is_file() or Path(file).suffix != ".py":
        raise ValueError(f"{what} {name!r}: {otherwise} of a file that is there")
    spec = importlib.util.spec_from_file_location(file, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file] = importlib.util.module_from_spec(spec)
    OWN_FILES[str(spec.origin)] = file
    before = _surroundings()
    spec.loader.exec_module(module)
    changed = [thing for thing, value in _surroundings().items() if value != before[thing]]
    if changed:
        raise ValueError(f"{file} changes {changed[0]}, on which a run depends; let it be")
    return module


def _surroundings() -> dict[str, object]:
    """Return what a file must leave as it is."""
    return {
        "torch's default device": torch.get_default_device(),
        "torch's default dtype": torch.get_default_dtype(),
        "the working directory": os.getcwd(),
        "print": print,
        "json.dumps": json.dumps,
    }


def model_sha256(name: str) -> str:
    """Return the SHA-256 of a model's class, by name, and of the file that a user's is in."""
    file, _, class_name = name.rpartition(":")
    source = Path(file).read_bytes() if file else b""
    return hashlib.sha256(source + class_name.encode()).hexdigest()


def refuse_model(name: str, model: Model, x: Tensor) -> None:
    """Refuse a user's model whose ŷ or ∂ŷ/∂w are NaN, or others each time, or that changes x."""
    parameters_of(model)

    def returned() -> dict[str, Tensor]:
        prediction = model(x)
        if not isinstance(prediction, Tensor) or prediction.shape != x.shape[:1]:
            kind = f"a {type(prediction).__name__}"
            if isinstance(prediction, Tensor):
                kind = f"of shape {tuple(prediction.shape)}"
            raise ValueError(
                f"model {name!r}: forward(x) is {kind}; give a tensor of a number for each "
                f"sample, {tuple(x.shape[:1])}"
            )
        require_dense("forward(x)", prediction, x)
        partials = partial_derivatives(model, x, prediction)
        derivatives = {f"partials(x)[{w!r}]": partial for w, partial in partials.items()}
        return {"forward(x)": prediction, **derivatives}

    before = x.clone()
    again = returned()
    if not torch.equal(x, before):
        raise ValueError(f"model {name!r}: forward(x) or partials(x) changes x; let x be as it is")
    for what, value in returned().items():
        if value.isnan().any():
            rows = value.reshape(len(x), -1).isnan().any(dim=1)
            at = ", ".join(f"{number:g}" for number in x[rows][0].reshape(-1).tolist())
            raise ValueError(f"model {name!r}: {what} is NaN at x = {at}; give a number")
        if not torch.equal(value, again[what]):
            raise ValueError(
                f"model {name!r}: {what} is another each time; let it depend on x, parameters and "
                "buffers alone"
            )


def standardization(name: str, model: Model, x: Tensor, y: Tensor) -> Standardization:
    """Return z of the data (x/rms for a line without a bias), if the model can map it back.

    A built-in model's bias takes up an offset of y, too.
    """
    through_origin = isinstance(model, Linear) and model.b is None
    z = Standardization.of(x, center=not through_origin)
    if type(model) in MODELS.values() and not through_origin:
        z = replace(z, offset=offset_of(y))
    in_original_units(name, model, z)
    return z


def in_original_units(name: str, model: Model, z: Standardization) -> Tensor:
    """Return the weights (P,) over x and y of a model trained over z and y − offset.

    Raises:
        ValueError: the model does not say how they map, as no plain `nn.Module` does, or not each.
    """
    convert = getattr(type(model), "in_original_units", Model.in_original_units)
    offset = {"offset": z.offset} if z.offset else {}  # which a user's model does not know
    mapped = dict(convert(model, z.mean, z.deviation, **offset))
    try:
        values = {n: torch.as_tensor(v, dtype=torch.float64) for n, v in mapped.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        said = f"model {name!r}: in_original_units returns what is no number or list of numbers"
        raise ValueError(f"{said} ({error}); give a number for each entry") from None
    shapes, given = (
        {n: tuple(w.shape) for n, w in own.items()}
        for own in (dict(model.named_parameters()), values)
    )
    if given != shapes:
        raise ValueError(
            f"model {name!r}: in_original_units returns the shapes {given}; give {shapes}"
        )
    return parameters_to_vector([values[n] for n in shapes])
