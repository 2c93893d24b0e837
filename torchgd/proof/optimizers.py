"""Is an optimizer SGD, or Adam? It takes torch's steps, to the bit, whatever its options."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torchgd.models import DTYPES
from torchgd.proof.compare import differs, ulps
from torchgd.proof.contract import own_groups, path
from torchgd.proof.findings import aligned
from torchgd.proof.options import KINDS, in_words, option_sets
from torchgd.proof.variants import VARIANTS

# The steps that were taken, by kind, dtype, device and options. Those of torch's own and of SGD's
# variants are kept, since each optimizer that is asked about is held against them.
Walked = dict[Any, tuple[Tensor, str]]
WALKED: Walked = {}


@dataclass(frozen=True)
class OptimizerFinding:
    """The result of an option set: whether all steps `passed`, None if it is not taken.

    `first` is the first step whose weights differ from torch's, `max_ulp` how far apart they get,
    over float32 and float64. Options `without_effect` change torch's steps but not this
    optimizer's. `known` names a variant of SGD whose steps these are, to the bit. The `reason` is
    the error that was raised, or what else a step does, if it does.
    """

    options: dict[str, Any]
    passed: bool | None
    first: int | None = None
    max_ulp: int = 0
    without_effect: tuple[str, ...] = ()
    reason: str = ""
    known: str = ""

    def __str__(self) -> str:
        """The result, as the table has it."""
        if self.passed is None:
            return f"not taken: {self.reason}"
        if self.reason:
            return self.reason
        if self.passed:
            return f"rounding, at most {self.max_ulp} ULPs" if self.max_ulp else "identical"
        said = "".join(f"; {name} has no effect" for name in self.without_effect)
        said += f"; these are the steps of SGD {self.known}" * bool(self.known)
        return f"part at step {self.first}, at most {self.max_ulp:.6g} ULPs{said}"


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
        rounded = any(row.passed and row.max_ulp for row in self.rows)
        how = "identical, or differ by rounding" if rounded else "identical, bit for bit"
        last = f"{said.count(True)} of {len(said)} option sets are {how}{skipped}."
        return "\n".join([*lines, last])


def check_optimizer(
    kind: Callable[..., Optimizer],
    device: torch.types.Device = None,
    *,
    like: type[Optimizer] = torch.optim.SGD,
    max_ulp: int = 0,
) -> OptimizerCheck:
    """Compare any optimizer that claims to be torch's SGD, Adam or AdamW with it, step by step.

    Both take the same steps along random gradients, in float32 and in float64, with every option
    set of torch's own tests and every combination of the options: two groups of parameters, each
    with values of its own for all options, of shapes () to (50, 9); weights that have no gradient
    at first, or for some steps; halfway on from a state_dict; with a rate and a momentum that
    change in between, as by a scheduler; with a closure; and with a NaN. A step must leave p.grad
    as it is, and p where it is in memory (see `proof.contract`).

    `kind` is called as `like` is, kind(params, lr=…, momentum=…, …). An option set that it refuses
    with TypeError, ValueError or RuntimeError does not count. Weights that are at most `max_ulp`
    units in the last place apart differ by rounding, and pass: w − α·g may be rounded twice.

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
        TypeError: `kind` cannot be called, or `like` is none of the three.
    """
    if not callable(kind):
        raise TypeError(f"the optimizer is {kind!r}: give its class")
    if like not in KINDS:
        raise TypeError(f"like is {like!r}: give torch.optim.SGD, Adam or AdamW")
    checked = _Checked(kind, like, max_ulp, device)
    return OptimizerCheck([checked.finding(options) for options in option_sets(like)])


class _Checked:
    """One kind of optimizer, and the paths that it and torch's take."""

    def __init__(
        self,
        kind: Callable[..., Optimizer],
        like: type[Optimizer],
        max_ulp: int,
        device: torch.types.Device,
    ) -> None:
        self.kind, self.like, self.max_ulp, self.device = kind, like, max_ulp, device
        self.walked: Walked = {}

    def finding(self, options: dict[str, Any]) -> OptimizerFinding:
        """Compare all steps with one option set."""
        try:
            made = self.kind(own_groups(options, torch.float64, self.device), **options)
        except (TypeError, ValueError, RuntimeError) as error:
            return OptimizerFinding(options, None, reason=_said(error))
        if reason := self._unlike(made, options):
            return OptimizerFinding(options, False, reason=reason)
        firsts, largest, without, said = [], 0, set(options) - {"lr"}, ""
        try:
            for dtype in DTYPES.values():
                ours, theirs = self._paths(dtype, options)
                firsts += differs(ours, theirs).any(dim=1).nonzero()[:1, 0].tolist()
                largest = max(largest, int(ulps(ours, theirs).max()))
                without &= set(self._without_effect(dtype, options, ours, theirs))
            said = self._breach(options)
        except Exception as error:  # whatever a user's code raises
            return OptimizerFinding(
                options, False, reason=f"{type(error).__name__}: {_said(error)}"
            )
        named = tuple(name for name in options if name in without)
        known = self._known(options) if firsts and not named else ""
        passed = not firsts or 0 < largest <= self.max_ulp
        first = min(firsts, default=None)
        return OptimizerFinding(options, passed and not said, first, largest, named, said, known)

    # torch.optim.SGD changes p.grad itself, by Nesterov's rule with foreach.
    def _breach(self, options: dict[str, Any]) -> str:
        """Return what a step does that it must not, and torch's does not."""
        said = self._walk(self.kind, torch.float64, options)[1]
        if said and self.like is torch.optim.SGD:
            theirs = path(partial(self.like, foreach=True), options, torch.float64, self.device)[1]
            return "" if said == theirs else said
        return said

    def _unlike(self, made: Optimizer, options: dict[str, Any]) -> str:
        """Return in words what keeps an optimizer from being asked, "" for nothing."""
        if not hasattr(made, "param_groups"):
            return "it has no param_groups: derive it from torch.optim.Optimizer"
        theirs = self.like(own_groups(options, torch.float64, self.device), **options)
        rate, right = (optimizer.param_groups[0].get("lr") for optimizer in (made, theirs))
        if "lr" not in options and rate != right:
            return f"its rate is {rate} where none is given, torch's {right}"
        return ""

    def _known(self, options: dict[str, Any]) -> str:
        """Return which variant of SGD takes the same steps, to the bit; "" if none does."""
        ours, given = self._path(self.kind, torch.float64, options), {*filter(options.get, options)}
        for name, (variant, needs) in VARIANTS.items():
            if not needs <= given or self.like is not torch.optim.SGD:
                continue
            if not differs(self._path(variant, torch.float64, options), ours).any():
                return name
        return ""

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
        """Return the weights after each step of both."""
        return self._path(self.kind, dtype, options), self._path(self.like, dtype, options)

    def _path(
        self, kind: Callable[..., Optimizer], dtype: torch.dtype, options: dict[str, Any]
    ) -> Tensor:
        return self._walk(kind, dtype, options)[0]

    def _walk(
        self, kind: Callable[..., Optimizer], dtype: torch.dtype, options: dict[str, Any]
    ) -> tuple[Tensor, str]:
        """Return what `proof.contract.path` does, once for all that ask for it."""
        walked = self.walked if kind is self.kind else WALKED
        key = kind, dtype, self.device, in_words(options)
        if key not in walked:
            walked[key] = path(kind, options, dtype, self.device)
        return walked[key]


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0]
