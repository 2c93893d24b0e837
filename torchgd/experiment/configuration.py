"""What a run is asked to do: one dataclass, of which flags, checks and config.json are made."""

import argparse
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any

from torchgd.experiment.sources import NAMES
from torchgd.models import DTYPES
from torchgd.proof.mistakes import WAYS

# Every way to take the steps, in the order in which they are named.
UPDATES = ("manual", "autograd", "affine", "compiled", *WAYS)
DEFAULT_UPDATES = ("manual", "autograd")


def number(
    least: float = -math.inf, kind: type = float, or_word: str | None = None
) -> Callable[[str], Any]:
    """Return an argparse type: a finite number of at least `least`, or `or_word` itself.

    Of `kind` int it is an integer, and below 2⁶³, as torch's integers are.
    """
    what = "an integer" if kind is int else "a finite number"
    rule = what if least == -math.inf else f"{what} of at least {least}"

    def parse(text: str) -> Any:
        if text == or_word:
            return text
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least <= value and abs(value) < math.inf):
            reason = f"is not {rule}"
        elif kind is int and value >= 2**63:
            reason = "is too large: it must be below 2⁶³"
        else:
            return value
        nor = "" if or_word is None else f", nor {or_word}"
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise argparse.ArgumentTypeError(f"{shown!r} {reason}{nor}")

    return parse


integer = partial(number, kind=int)
finite = number()
not_negative = number(0)


def numbers(text: str) -> list[float]:
    """Parse numbers that are separated by commas."""
    return [finite(part) for part in text.split(",")]


def assignment(text: str) -> tuple[str, float]:
    """Parse NAME=VALUE."""
    name, equals, value = text.rpartition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as w=1.0")
    return name, finite(value)


def flag(default: Any, meaning: str, metavar: str | None, **how: Any) -> Any:
    """Return a field that is a flag, too: what argparse is told of it is in its metadata."""
    return field(default=default, metadata={"help": meaning, "metavar": metavar, **how})


def switch(meaning: str) -> Any:
    """Return a field that is a flag without a value: off where it is not given."""
    return field(default=False, metadata={"help": meaning, "action": "store_true"})


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
    columns: str | None = flag(
        None, "of a .csv file with more than two, by name or number, such as hours,score; of "
        "several x the last is y, such as size,rooms,price", "X,Y", type=str,
    )  # fmt: skip
    update: str = flag(
        "manual",
        "how the steps are taken: manual, autograd (default: both), affine (all at once, within "
        "rounding), compiled (by hand as machine code, of one column the same bits), or a mistake "
        "of compare.py; several make a run each",
        "U",
        choices=UPDATES,
        type=str,
        several=True,
    )
    device: str = flag(
        "auto",
        "auto (default: cuda where there is one, from 65536 samples a step on; for fewer a CPU is "
        "faster), cpu, cuda, cuda:N",
        "D",
        type=str,
    )
    dtype: str = flag("float64", "default: float64", None, choices=tuple(DTYPES), type=str)
    lr: float | str = flag(
        0.01,
        "learning rate: 0.01 (default), a number, or auto, from the Hessian: the best of the full "
        "batch, for smaller batches a safe one, at which no step enlarges an error; several make a "
        "run each, drawn together",
        "α",
        type=number(0, or_word="auto"),
        several=True,
    )
    momentum: float = flag(0.0, "default: 0, none", "μ", type=not_negative)
    dampening: float = flag(0.0, "of the momentum; default: 0", "τ", type=finite)
    weight_decay: float = flag(0.0, "default: 0, none", "λ", type=not_negative)
    nesterov: bool = switch("Nesterov's momentum")
    maximize: bool = switch("climb instead of descend")
    epochs: int = flag(50, "default: 50", "E", type=integer(1))
    batch_size: int | str = flag(
        1, "samples a step: 1 (default), N, full", "B", type=integer(1, or_word="full")
    )
    shuffle: bool = switch("a new order each epoch")
    seed: int = flag(0, "of the order; default: 0", "S", type=integer(0))
    standardize: bool = switch(
        "train on (x − mean)/deviation, a line without a bias on x/rms; report in the data's own "
        "units",
    )
    bias: bool = switch("give the linear model a bias")
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
    compile: bool = switch("torch.compile the gradients, which then agree to rounding")
    chunk_size: int | None = flag(
        None,
        "go through the data R rows at a time, so that they need not fit into memory; default: "
        "all, above 1 GiB 65536, on CUDA 2²² or what fits",
        "R",
        type=integer(1),
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            try:
                fits = _fits(one, value)
            except argparse.ArgumentTypeError as error:
                raise ValueError(f"{one.name} {error}") from None
            if not fits:
                shown = reprlib.repr(value)
                raise ValueError(f"{one.name} {shown} is not what the flag takes")

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


def _fits(one: "Field[Any]", value: Any) -> bool:
    """Whether this very value is what the flag makes of the value's text."""
    how = one.metadata
    if value is None and one.default is None:
        return True
    if "action" in how:
        return isinstance(value, bool)
    if "nargs" in how and isinstance(value, dict):
        return value == dict(how["type"](f"{name}={w}") for name, w in value.items())
    text = value if isinstance(value, str) else repr(value)
    return value in how.get("choices", [value]) and how["type"](text) == value


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags of a `Configuration`; of those not typed nothing is there to see."""
    for one in fields(Configuration):
        name, how = f"--{one.name.replace('_', '-')}", dict(one.metadata)
        if how.pop("several", False):
            how |= {"nargs": "+", "action": "extend"}
        parser.add_argument(name, default=argparse.SUPPRESS, **how)


def product(given: Mapping[str, Any]) -> list[Configuration]:
    """Return a configuration for each learning rate and each update that the command line gives.

    Raises:
        ValueError: a value is given twice.
    """
    asked = {one.name: given[one.name] for one in fields(Configuration) if one.name in given}
    rates, updates = asked.pop("lr", [Configuration.lr]), asked.pop("update", DEFAULT_UPDATES)
    if "initial" in asked:
        asked["initial"] = _once("initial", asked["initial"])
    for name, values in (("lr", rates), ("update", updates)):
        _once(name, [(value, value) for value in values])
    return [Configuration(**asked, lr=lr, update=u) for lr in rates for u in updates]


def _once(name: str, assignments: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return the values by name, none of which is given twice."""
    values: dict[Any, Any] = {}
    for key, value in assignments:
        if key in values:
            twice = f": {values[key]:g} and {value:g}" if name == "initial" else ""
            raise ValueError(f"{name} {key} is given twice{twice}")
        values[key] = value
    return values
