"""Is an optimizer SGD? It takes torch.optim.SGD's steps, to the bit, whatever its options."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torchgd.models import DTYPES
from torchgd.proof.compare import differs, ulps
from torchgd.proof.findings import aligned

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
SHAPES = ((), (7,), (50, 9), (1,))  # of so many weights some tell two roundings from one
STEPS, LOADED = 10, 5  # there a new optimizer goes on from the old one's state_dict
WITHOUT = {(1, 0), (1, 1), (2, 6), (2, 7)}  # a weight and a step at which it has no gradient


@dataclass(frozen=True)
class OptimizerFinding:
    """The result of an option set: whether all steps `passed`, None if it is not taken.

    `first` is the first step whose weights differ from those of torch.optim.SGD, `max_ulp` how far
    apart they get, over float32 and float64. Options `without_effect` change torch's steps but not
    this optimizer's. The `reason` is the error that was raised, if one was.
    """

    options: dict[str, Any]
    passed: bool | None
    first: int | None = None
    max_ulp: int = 0
    without_effect: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        """The result, as the table has it."""
        if self.passed is None:
            return f"not taken: {self.reason}"
        if self.reason:
            return self.reason
        if self.passed:
            return "identical"
        without = "".join(f"; {name} has no effect" for name in self.without_effect)
        return f"part at step {self.first}, at most {self.max_ulp:.6g} ULPs{without}"


@dataclass(frozen=True)
class OptimizerCheck:
    """What `check_optimizer` found: a row per option set. True if all that are taken passed."""

    rows: list[OptimizerFinding]

    def __bool__(self) -> bool:
        said = [row.passed for row in self.rows if row.passed is not None]
        return bool(said) and all(said)

    def __str__(self) -> str:
        """The table, and how many are identical."""
        lines = aligned([[in_words(row.options), str(row)] for row in self.rows])
        said = [row.passed for row in self.rows]
        skipped = f", {said.count(None)} are not taken" if None in said else ""
        last = f"{said.count(True)} of {len(said)} option sets are identical, bit for bit{skipped}."
        return "\n".join([*lines, last])


def in_words(options: Mapping[str, Any]) -> str:
    """Write options as momentum=0.9 nesterov."""
    words = []
    for name, value in options.items():
        number = f"{float(value):g}"
        shown = f"tensor({number})" if isinstance(value, Tensor) else number
        words += [name if value is True else f"{name}={shown}"] if value else []
    return " ".join(words) or "defaults"


def check_optimizer(
    kind: Callable[..., Optimizer], device: torch.types.Device = None
) -> OptimizerCheck:
    """Compare any optimizer that claims to be SGD with torch.optim.SGD, step by step.

    Both take the same steps along random gradients, in float32 and in float64, with every option
    set of torch's own tests and every combination of the options: two groups of parameters, each
    with a learning rate of its own, of shapes () to (50, 9); weights that have no gradient at
    first, or for some steps; and halfway on from a state_dict.

    `kind` is called as torch.optim.SGD is, kind(params, lr=…, momentum=…, …). An option set that
    it refuses with TypeError or ValueError does not count.

    Example: with Nesterov's rule this one takes the step of plain momentum.

        >>> from torchgd import ManualSGD
        >>> class Forgetful(ManualSGD):
        ...     def _update(self, w, g, group):
        ...         super()._update(w, g, {**group, "nesterov": False})
        >>> check = check_optimizer(Forgetful)
        >>> print(str(check).splitlines()[-1])
        23 of 28 option sets are identical, bit for bit.
        >>> print(next(row for row in check.rows if not row.passed).without_effect)
        ('nesterov',)

    Raises:
        TypeError: `kind` cannot be called.
    """
    if not callable(kind):
        raise TypeError(f"the optimizer is {kind!r}: give its class")
    checked = _Checked(kind, device)
    return OptimizerCheck([checked.finding(options) for options in option_sets()])


def option_sets() -> list[dict[str, Any]]:
    """Return torch's own option sets, and all combinations of VALUES that SGD takes."""
    sets = list(OPTION_SETS)
    for values in itertools.product(*VALUES.values()):
        options = dict(zip(VALUES, values, strict=True))
        if not options["nesterov"] or (options["momentum"] and not options["dampening"]):
            sets.append({name: value for name, value in options.items() if value})
    return list({in_words(options): options for options in sets}.values())  # each once


class _Checked:
    """One kind of optimizer, and the paths that it and torch.optim.SGD take."""

    def __init__(self, kind: Callable[..., Optimizer], device: torch.types.Device) -> None:
        self.kind, self.device = kind, device

    def finding(self, options: dict[str, Any]) -> OptimizerFinding:
        """Compare all steps with one option set."""
        try:
            self.kind(self._groups(torch.float64, options), **options)
        except (TypeError, ValueError) as error:
            return OptimizerFinding(options, None, reason=_first_line(error))
        firsts, largest, without = [], 0, set(options) - {"lr"}
        try:
            for dtype in DTYPES.values():
                ours, theirs = self._paths(dtype, options)
                firsts += differs(ours, theirs).any(dim=1).nonzero()[:1, 0].tolist()
                largest = max(largest, int(ulps(ours, theirs).max()))
                without &= set(self._without_effect(dtype, options, ours, theirs))
        except Exception as error:  # whatever a user's code raises
            reason = f"{type(error).__name__}: {_first_line(error)}"
            return OptimizerFinding(options, False, reason=reason)
        named = tuple(name for name in options if name in without)
        return OptimizerFinding(options, not firsts, min(firsts, default=None), largest, named)

    def _without_effect(
        self, dtype: torch.dtype, options: dict[str, Any], ours: Tensor, theirs: Tensor
    ) -> Iterator[str]:
        if not differs(ours, theirs).any():
            return
        for name in options.keys() - {"lr"}:
            # Nesterov's rule needs a momentum.
            gone = {name, "nesterov"} if name == "momentum" else {name}
            rest = {n: v for n, v in options.items() if n not in gone}
            same, differ = self._paths(dtype, rest)
            if not differs(same, ours).any() and differs(differ, theirs).any():
                yield name

    def _paths(self, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the weights after each step of both, (STEPS, n)."""
        return self._path(self.kind, dtype, options), self._path(torch.optim.SGD, dtype, options)

    def _groups(self, dtype: torch.dtype, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(0)
        starts = (torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES)
        weights = [torch.nn.Parameter(w.to(self.device)) for w in starts]
        lr = options.get("lr", 1e-3)
        return [{"params": weights[:2]}, {"params": weights[2:], "lr": 3 * lr}]

    def _path(
        self, kind: Callable[..., Optimizer], dtype: torch.dtype, options: dict[str, Any]
    ) -> Tensor:
        groups = self._groups(dtype, options)
        optimizer, rows = kind(groups, **options), []
        weights: Sequence[Tensor] = [w for group in groups for w in group["params"]]
        generator = torch.Generator().manual_seed(1)
        for step in range(STEPS):
            if step == LOADED:
                old = copy.deepcopy(optimizer.state_dict())
                optimizer = kind([{"params": group["params"]} for group in groups], lr=5.0)
                optimizer.load_state_dict(old)
            for k, w in enumerate(weights):
                noise = torch.randn(w.shape, dtype=dtype, generator=generator)
                w.grad = None if (k, step) in WITHOUT else noise.to(self.device)
            optimizer.step()
            rows.append(torch.cat([w.detach().flatten() for w in weights]).cpu())
        return torch.stack(rows)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
