"""What a run is asked to do: one dataclass, of which flags, checks and config.json are made."""

import argparse
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from torchgd.experiment.sources import NAMES
from torchgd.models import DTYPES

Parse = Callable[[str], Any]


def number(rule: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """Return an argparse type: a number that `accepts` takes; `rule` says in words which."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule}")
        return value

    return parse


def integer(least: int) -> Callable[[str], int]:
    """Return an argparse type: an integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        if value >= 2**63:
            raise argparse.ArgumentTypeError(f"{text!r} is too large: it must be below 2⁶³")
        return value

    return parse


def either(word: str, parse: Parse) -> Parse:
    """Return an argparse type: `word` itself, or what `parse` takes."""

    def parse_either(text: str) -> Any:
        try:
            return text if text == word else parse(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, nor {word}") from None

    return parse_either


finite = number("a finite number", math.isfinite)
not_negative = number("a finite number of at least 0", lambda value: 0 <= value < math.inf)


def assignment(text: str) -> tuple[str, float]:
    """Parse NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as w=1.0")
    return name, finite(value)


def flag(default: Any, meaning: str, metavar: str | None = None, **how: Any) -> Any:
    """Return a field that is a flag, too: what argparse is told of it is in its metadata."""
    return field(default=default, metadata={"help": meaning, "metavar": metavar, **how})


@dataclass(frozen=True)
class Configuration:
    """What a run is asked to do: the flags of scripts/train.py, by name.

    Raises:
        ValueError: a value is not of its flag's type, as in a config.json that was changed.
    """

    model: str = flag(
        "linear", "linear (default), quadratic, or FILE.py:CLASS, your own", "M", type=str
    )
    data: str | None = flag(
        None,
        f"{', '.join(NAMES)}, a .csv or .npy file, or synthetic:N, rows made when they are "
        "needed; default: lesson, for quadratic parabola",
        "D",
        type=str,
    )
    device: str = flag(
        "auto", "auto (default: cuda where there is one), cpu, cuda, cuda:N", "D", type=str
    )
    dtype: str = flag("float64", "default: float64", choices=tuple(DTYPES), type=str)
    lr: float | str = flag(
        0.01,
        "learning rate: 0.01 (default), a number, or auto, from the Hessian: the best, for "
        "batches a safe one",
        "α",
        type=either("auto", not_negative),
    )
    momentum: float = flag(0.0, "default: 0, none", "μ", type=not_negative)
    dampening: float = flag(0.0, "of the momentum; default: 0", "τ", type=finite)
    weight_decay: float = flag(0.0, "default: 0, none", "λ", type=not_negative)
    nesterov: bool = flag(False, "Nesterov's momentum")
    maximize: bool = flag(False, "climb instead of descend")
    epochs: int = flag(50, "default: 50", "E", type=integer(1))
    batch_size: int | str = flag(
        1, "samples a step: 1 (default), N, full", "B", type=either("full", integer(1))
    )
    shuffle: bool = flag(False, "a new order each epoch")
    seed: int = flag(0, "of the order; default: 0", "S", type=integer(0))
    standardize: bool = flag(
        False,
        "train on (x − mean)/deviation, a line without a bias on x/rms; report in the data's own "
        "units",
    )
    bias: bool = flag(False, "give the linear model a bias")
    initial: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "starting values of what is trained; default: weights 1, biases 0",
            "metavar": "NAME=W",
            "type": assignment,
            "nargs": "+",
        },
    )
    record_every: int | None = flag(
        None,
        "record each K-th step and the last; default: the least that makes at most 10,000",
        "K",
        type=integer(1),
    )
    compile: bool = flag(
        False,
        "torch.compile the gradients: fast on much data; they then agree to rounding, not to the "
        "bit, which is no failure",
    )
    chunk_size: int | None = flag(
        None,
        "go through the data R rows at a time, so that they need not fit into memory; default: "
        "all, above 1 GiB 65536, on CUDA 2²²",
        "R",
        type=integer(1),
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            try:
                fits = self._is_default(one, value) or _read(one, value) == value
                reason = f"{reprlib.repr(value)} is not what the flag takes"
            except argparse.ArgumentTypeError as error:
                fits, reason = False, str(error)
            if not fits:
                raise ValueError(f"{one.name} {reason}")

    @staticmethod
    def _is_default(one: "Field[Any]", value: Any) -> bool:
        return type(value) is type(one.default) and value == one.default

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Configuration":
        """Return what a run's config.json says that it was asked to do.

        Raises:
            ValueError: something is missing, or not what a run can be asked.
        """
        try:
            return cls(**{one.name: config[one.name] for one in fields(cls)})
        except KeyError as error:
            raise ValueError(f"config.json lacks {error}; run it again") from None
        except ValueError as error:
            raise ValueError(f"config.json is damaged: {error}; mend it, or run it again") from None


def _read(one: "Field[Any]", value: Any) -> Any:
    """Return what the flag would make of a value's text: the value itself, if it is of its kind."""
    how = one.metadata
    if isinstance(value, dict):
        return dict(assignment(f"{name}={number}") for name, number in value.items())
    if "type" not in how:
        return value if isinstance(value, bool) else None
    if how["type"] is str:
        known = value in how.get("choices", (value,))
        return value if isinstance(value, str) and known else None
    return how["type"](value if isinstance(value, str) else repr(value))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags of a `Configuration`; of those not typed nothing is there to see."""
    for one in fields(Configuration):
        how, name = dict(one.metadata), f"--{one.name.replace('_', '-')}"
        if "type" in how:
            parser.add_argument(name, default=argparse.SUPPRESS, **how)
        else:
            parser.add_argument(
                name, action="store_true", default=argparse.SUPPRESS, help=how["help"]
            )
