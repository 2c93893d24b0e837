"""Models by name, and what else is in a user's own file."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchgd.data import Standardization
from torchgd.gradients import partial_derivatives, require_dense
from torchgd.models import Linear, Model, Quadratic, scalars

MODELS: dict[str, type[Model]] = {"linear": Linear, "quadratic": Quadratic}


def find_model(name: str, bias: bool = False) -> Callable[..., Model]:
    """Return what makes, of `device` and `dtype`, the model of that name.

    That is linear (with a `bias` if asked for), quadratic, or CLASS of FILE.py:CLASS.

    Raises:
        ValueError: the file is missing or does not run, CLASS is no `Model` in it, or a model
            takes no bias; and, from what is returned, that making one fails.
    """
    found = MODELS.get(name) or _own_model(name)
    if bias and found is not Linear:
        raise ValueError(f"model {name!r} takes no --bias: it is the linear model's option")
    return partial(call_user_code, name, found, **({"bias": True} if bias else {}))


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
        ValueError: the file is missing or does not run, or CLASS is no `torch.optim.Optimizer`.
    """
    found = _own_class("optimizer", name, "give FILE.py:CLASS")
    if found is None or not issubclass(found, torch.optim.Optimizer):
        file, _, class_name = name.rpartition(":")
        raise ValueError(
            f"optimizer {name!r}: {file} has no class {class_name!r} derived from "
            "torch.optim.Optimizer"
        )
    return found


def _own_class(what: str, name: str, otherwise: str) -> type | None:
    """Run a user's file and return the class in it, None if it has no such class."""
    file, _, class_name = name.rpartition(":")
    if not Path(file).is_file() or Path(file).suffix != ".py":
        raise ValueError(f"{what} {name!r}: {otherwise} of a file that is there")
    spec = importlib.util.spec_from_file_location(file, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file] = importlib.util.module_from_spec(spec)
    _call(f"{what} {name!r}", spec.loader.exec_module, module)
    found = getattr(module, class_name, None)
    return found if isinstance(found, type) else None


def in_original_units(model: Model, z: Standardization) -> dict[str, float]:
    """Return the parameters over x of a model trained over z.

    Raises:
        ValueError: the model does not say how they map, as no plain `nn.Module` does.
    """
    convert = getattr(type(model), "in_original_units", Model.in_original_units)
    return dict(convert(model, z.mean, z.deviation))


def model_sha256(name: str) -> str:
    """Return the SHA-256 of a model's class, by name, and of the file that a user's is in."""
    file, _, class_name = name.rpartition(":")
    source = Path(file).read_bytes() if file else b""
    return hashlib.sha256(source + class_name.encode()).hexdigest()


def call_user_code(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the code of a user's model; raise ValueError, in one line, whatever it raises."""
    return _call(f"model {name!r}", call, *arguments, **options)


def _call(whose: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit among them
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception:
            text = f"{type(error).__name__}, whose message fails in its turn"
        raise ValueError(f"{whose} fails with {' '.join(text.split())}") from error


def refuse_model(name: str, model: Model, x: Tensor) -> None:
    """Refuse a user's model whose ŷ or ∂ŷ/∂w are no tensors, NaN, or others each time."""
    scalars(model)

    def returned() -> dict[str, Tensor]:
        prediction = call_user_code(name, model, x)
        if not isinstance(prediction, Tensor) or prediction.shape != x.shape:
            kind = f"a {type(prediction).__name__}"
            if isinstance(prediction, Tensor):
                kind = f"of shape {tuple(prediction.shape)}"
            raise ValueError(
                f"model {name!r}: forward(x) is {kind}; give a tensor of x's shape, "
                f"{tuple(x.shape)}"
            )
        call_user_code(name, require_dense, "forward(x)", prediction, x)
        partials = call_user_code(name, partial_derivatives, model, x, prediction)
        derivatives = {f"partials(x)[{w!r}]": partial for w, partial in partials.items()}
        return {"forward(x)": prediction, **derivatives}

    before = x.clone()
    again = returned()
    if not torch.equal(x, before):
        raise ValueError(f"model {name!r}: forward(x) or partials(x) changes x; let x be as it is")
    for what, value in returned().items():
        if value.shape == x.shape and value.isnan().any():
            at = x[value.isnan()][0].item()
            raise ValueError(f"model {name!r}: {what} is NaN at x = {at:g}; give a number")
        if not torch.equal(value, again[what]):
            raise ValueError(
                f"model {name!r}: {what} is another each time; let it depend on x, parameters and "
                "buffers alone"
            )
