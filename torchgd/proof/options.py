"""The options with which an optimizer is asked about."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

# The option sets of torch's own tests of SGD.
OPTION_SETS: list[dict[str, Any]] = [
    {},
    {"lr": 1e-2},
    {"lr": torch.tensor(0.001)},
    {"weight_decay": 0.5},
    {"momentum": 0.9},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
]
# Their values, for all combinations that SGD takes.
VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (0.01,),
    "momentum": (0, 0.9),
    "dampening": (0, 0.5),
    "weight_decay": (0, 0.1),
    "nesterov": (False, True),
    "maximize": (False, True),
}
ADAM_SETS: list[dict[str, Any]] = [
    {},
    {"lr": 1e-2},
    # With a rate of float32 torch's own computes the step's size in float32.
    {"lr": torch.tensor(0.001, dtype=torch.float64)},
    {"betas": (0.7, 0.99), "eps": 1e-3},
    {"foreach": True},
    {"fused": True},
]
ADAM_VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (0.01,),
    "weight_decay": (0, 0.1),
    "amsgrad": (False, True),
    "maximize": (False, True),
}
KINDS: dict[type[Optimizer], tuple[list[dict[str, Any]], dict[str, tuple[Any, ...]]]] = {
    torch.optim.SGD: (OPTION_SETS, VALUES),
    torch.optim.Adam: (ADAM_SETS, ADAM_VALUES),
    torch.optim.AdamW: (ADAM_SETS, ADAM_VALUES),
}


def in_words(options: Mapping[str, Any]) -> str:
    """Write options as momentum=0.9 nesterov."""
    words = []
    for name, value in options.items():
        number = ",".join(
            f"{float(v):g}" for v in (value if isinstance(value, tuple) else (value,))
        )
        shown = f"tensor({number})" if isinstance(value, Tensor) else number
        words += [name if value is True else f"{name}={shown}"] if value else []
    return " ".join(words) or "defaults"


def option_sets(like: type[Optimizer] = torch.optim.SGD) -> list[dict[str, Any]]:
    """Return torch's own option sets, and all combinations of values that `like` takes."""
    sets, choices = list(KINDS[like][0]), KINDS[like][1]
    for values in itertools.product(*choices.values()):
        options = dict(zip(choices, values, strict=True))
        if not options.get("nesterov") or (options["momentum"] and not options["dampening"]):
            sets.append({name: value for name, value in options.items() if value})
    return list({in_words(options): options for options in sets}.values())  # each once
