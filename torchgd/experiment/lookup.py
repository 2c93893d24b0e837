"""From names to things: devices, and models in a user's own file."""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchgd.models import Linear, Model, Quadratic

MODELS: dict[str, type[Model]] = {"linear": Linear, "quadratic": Quadratic}


def find_device(name: str) -> torch.device:
    """Return the device of that name: auto (cuda where there is one), cpu, cuda or cuda:N.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (name == "cuda" or number.isdecimal())):
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(number or 0) >= count:
        raise ValueError(
            f"device {name!r}: torch {torch.__version__} finds {count} CUDA devices on this "
            "machine; use cpu or auto"
        )
    return torch.device(name)


def torchrun(name: str, alone: int) -> int:
    """Return what torchrun tells this process, by name, as RANK; without torchrun, `alone`."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def processes() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return torchrun("WORLD_SIZE", 1)


def find_model(name: str, bias: bool = False) -> Callable[..., Model]:
    """Return what makes, of `device` and `dtype`, the model of that name.

    That is linear (with a `bias` if asked for), quadratic, or CLASS of FILE.py:CLASS.

    Raises:
        ValueError: the file is missing or does not run, CLASS is no `Model` in it, or a model
            takes no bias; and, from what is returned, that making one fails.
    """
    found = MODELS.get(name) or _own_model(name)
    if not bias:
        return partial(guarded, name, found)
    if found is not Linear:
        raise ValueError(f"model {name!r} takes no --bias: it is the linear model's option")
    return partial(guarded, name, found, bias=True)


def _own_model(name: str) -> type[Model]:
    file, _, class_name = name.rpartition(":")
    if not Path(file).is_file() or Path(file).suffix != ".py":
        raise ValueError(
            f"model {name!r}: choose linear or quadratic, or give FILE.py:CLASS of a file that is "
            "there"
        )
    spec = importlib.util.spec_from_file_location(file, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file] = importlib.util.module_from_spec(spec)
    guarded(name, spec.loader.exec_module, module)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise ValueError(
            f"model {name!r}: {file} has no class {class_name!r} derived from torchgd.Model"
        )
    return found


def model_sha256(name: str) -> str:
    """Return the SHA-256 of a model's class, by name, and of the file that a user's is in."""
    file, _, class_name = name.rpartition(":")
    source = Path(file).read_bytes() if file else b""
    return hashlib.sha256(source + class_name.encode()).hexdigest()


def guarded(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a user's code; raise ValueError, in one line, whatever it raises."""
    try:
        return call(*arguments, **options)
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"model {name!r} fails with {text}") from error
