"""Is a backward pass right that someone wrote by hand? Several oracles answer, at many places."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchgd.proof.compare import difference
from torchgd.proof.diagnosis import diagnosis
from torchgd.proof.domain import Domain, Intervals
from torchgd.proof.passes import (
    Passes,
    Shape,
    first_line,
    own_forward,
    ready,
    require_same_outputs,
)
from torchgd.proof.rounding import ALLOWED
from torchgd.proof.rules import changes, rules, unlike
from torchgd.proof.trials import EPS, Trial, along, along_entry, directions, largest, trials
from torchgd.proof.verdicts import BackwardCheck, BackwardFinding

LOW = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ORACLES = ("differences", "reference", "rules", *LOW)
MOST_ULPS = 1024  # as in check_gradient, of which a right gradient written otherwise may be off
SOME = 4  # times what is seen of rounding in a few tries; and so many units of the largest entry
FIRST = 2  # places at which the rules and lower precision are looked at


Told = Iterator[BackwardFinding]


def check_backward(
    function: Callable[..., Any],
    *inputs: Any,
    reference: Callable[..., Any] | None = None,
    domain: Intervals | None = None,
    shapes: Sequence[Sequence[Shape | None]] = (),
) -> BackwardCheck:
    """Ask whether the backward pass of a function of tensors is right.

    A backward pass returns g = Jᵀv, where J is the outputs' Jacobian and v, "grad_output", the
    gradient that comes from above. `function` is any callable: the apply of an autograd.Function,
    an nn.Module, whose parameters are inputs, too, an operator. Asked are, in float64 first,

    differences: ⟨g, d⟩ is the slope of ⟨v, outputs⟩ along d, for random d and for single entries,
        where central differences converge (see `proof.differences.slopes`); a kink is no fault.
    reference: g is autograd's through the `reference`, another way to compute the same from the
        same inputs, and through a Function's own forward.
    rules: what every right backward pass keeps (see `proof.rules`).
    float32, bfloat16, float16: g is that of float64 within SOME times what is seen of rounding,
        where each result is shaken in its last places (see `proof.rounding`).

    They are asked at the inputs, at random ones of sizes 1e-3 to 1e3, at zeros, ties and one large
    entry; the last two at the inputs and random ones of size 1. All are inside the `domain`, open
    intervals by name, as {"x": (0, inf)}. Each of the `shapes` has the shapes of other inputs to
    look at, None for one that stays.

    Shapes: any. Where no input asks for a gradient, all of floating-point numbers do.

    Example: the mean's 1/N is forgotten.

        >>> class Mean(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x.mean()
        ...     @staticmethod
        ...     def backward(ctx, grad_output):
        ...         return grad_output * torch.ones_like(ctx.saved_tensors[0])
        >>> check = check_backward(Mean.apply, torch.arange(5.0))
        >>> check.passed, check.faults["x"]
        (False, "5 times too large everywhere: N = 5, a mean's 1/N?")

    Raises:
        TypeError: see `proof.passes.ready`.
        ValueError: the function takes none of some `shapes`; or see `proof.passes`' ready,
            require_same_outputs and of_shapes, and `Domain.of`.
    """
    passes = ready(function, inputs)
    others = own_forward(function)
    if reference is not None:
        require_same_outputs(passes, Passes(reference, inputs))
        others.append(reference)
    inside, found = Domain.of(passes.names, domain), _Found(passes.names)
    found.ask(trials(passes, inside), [Passes(other, inputs) for other in others])
    for shape in shapes:
        each = passes.of_shapes(shape)
        if not (tried := trials(each, inside, f", of shapes {list(shape)}")):
            raise ValueError(f"the function takes no inputs of shapes {list(shape)}: give others")
        found.ask(tried, [Passes(other, each.inputs) for other in others])
    return found.check(str(inside))


class _Found:
    """What the oracles have found so far about the gradients of inputs of these names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.findings: list[BackwardFinding] = []
        self.wrong: dict[str, Trial] = {}  # the first place at which each wrong gradient is
        self.usual: Trial

    def check(self, domain: str) -> BackwardCheck:
        """Return the worst finding of each oracle about each gradient, and what is wrong."""
        rows = [self._worst(name, oracle) for name in self.names for oracle in ORACLES]
        check = BackwardCheck(rows, {}, domain)
        check.faults.update({name: self._fault(name, check.failures) for name in check.wrong})
        return check

    def _worst(self, name: str, oracle: str) -> BackwardFinding:
        said = [f for f in self.findings if (f.parameter, f.oracle) == (name, oracle)]
        skipped = BackwardFinding(name, oracle, None)
        return max(said, key=lambda f: (f.passed is False, f.off), default=skipped)

    def _fault(self, name: str, failures: list[BackwardFinding]) -> str:
        said = {row.oracle: row.reason for row in failures if row.parameter == name}
        if said.keys() <= LOW.keys():
            return f"only in {' and '.join(said)}"
        rule = said.get("rules", "")
        if name in self.wrong:
            return diagnosis(self.wrong[name], self.names.index(name), self.usual) or rule
        return rule.replace("it is another", "only")

    def ask(self, tried: list[Trial], references: list[Passes]) -> None:
        """Ask the oracles at these places; the rules and lower precision at the first ones."""
        self.usual = tried[:FIRST][-1]
        for place, trial in enumerate(tried):
            try:
                changed = [*changes(trial)]
                gradients = trial.by_hand
            except Exception as error:  # whatever a user's code raises
                what = f"the backward pass fails at {trial.where}: {first_line(error)}"
                self.findings += _all_wrong(trial, "differences", what)
                continue
            if changed:  # then nothing else can be asked
                self.findings += _all_wrong(trial, "rules", changed[0])
                return
            for k in range(len(gradients)):
                if self.names[k] in self.wrong:
                    continue
                found = [*_by_differences(trial, k)]
                for reference in references:
                    found += _by_reference(trial, replace(trial, passes=reference), k)
                if any(f.passed is False for f in found):
                    self.wrong[self.names[k]] = trial
                self.findings += found
            if place < FIRST:
                self.findings += _by_rules(trial, tried[(1 - place) % len(tried)])
                for name in LOW:
                    self.findings += _in_low(trial, name)


def _all_wrong(trial: Trial, oracle: str, reason: str) -> Told:
    """Yield that an oracle says no to each gradient."""
    for name in trial.passes.names:
        yield BackwardFinding(name, oracle, False, torch.inf, reason)


def _by_differences(trial: Trial, k: int) -> Told:
    chance = torch.Generator().manual_seed(1)
    for found in (along(trial, k, d) for d in directions(trial, k, chance)):
        values = f"{found.by_hand:.8g} by hand, {found.expected:.8g} expected"
        reason, name = f"⟨g, d⟩ is {values}, at {trial.where}", trial.passes.names[k]
        if found.right is not None:
            yield BackwardFinding(name, "differences", found.right, found.off, reason)
        if found.right is False:
            return


def _by_reference(trial: Trial, held: Trial, k: int) -> Told:
    try:
        apart = difference(trial.by_hand[k], held.by_hand[k]).nan_to_num(torch.inf, torch.inf)
    except Exception:  # it cannot be differentiated
        return
    name, off = trial.passes.names[k], largest(apart) / (trial.usual(k) or 1.0)
    wrong = _beyond_rounding(trial, held, k)
    if not wrong.any():
        yield BackwardFinding(name, "reference", True, off)
    elif _to_blame(trial, held, k, int(torch.where(wrong, apart, -1.0).argmax())):
        reason = f"an entry is {largest(apart):.8g} off the reference's, at {trial.where}"
        yield BackwardFinding(name, "reference", False, off, reason)


def _beyond_rounding(trial: Trial, held: Trial, k: int) -> Tensor:
    """Return where two gradients differ by more than rounding, entry by entry."""
    g, r = trial.by_hand[k], held.by_hand[k]
    allowed = EPS * (MOST_ULPS * torch.maximum(g.abs(), r.abs()) + 16 * trial.usual(k))
    wrong = ~((g - r).abs() <= allowed) & r.isfinite()
    if wrong.any():
        seen = trial.shaken(torch.float64)[k] + held.shaken(torch.float64)[k]
        wrong &= ~((g - r).abs() <= allowed + ALLOWED * seen)
    return wrong


def _to_blame(trial: Trial, held: Trial, k: int, entry: int) -> bool:
    """Whether it is not the reference that is wrong at an entry, and there is no kink."""
    d = along_entry(trial.values[k], entry)
    return along(held, k, d).right is not False and not along(trial, k, d).kink


def _by_rules(trial: Trial, other: Trial) -> Told:
    for said, compute in rules(trial, other):
        reason = f"it {said}, at {trial.where}"
        try:
            pairs = [*zip(*compute(), strict=True)]
        except Exception as error:  # whatever a user's code raises
            yield from _all_wrong(trial, "rules", f"{reason}: {first_line(error)}")
            continue
        for k, (found, expected) in enumerate(pairs):
            apart = difference(found, expected).nan_to_num(torch.inf, torch.inf)
            off = largest(apart) / (trial.usual(k) or 1.0)
            yield BackwardFinding(trial.passes.names[k], "rules", off <= 1e-9, off, reason)
    for k, said in unlike(trial):
        yield BackwardFinding(trial.passes.names[k], "rules", False, torch.inf, said)


# The values are numbers of the lower precision, and so is v: what differs comes from the passes.
def _in_low(trial: Trial, name: str) -> Told:
    low, passes = LOW[name], trial.passes
    values = [t.to(low) for t in trial.values]
    if not passes.takes(values):
        return
    v = [t.to(o.dtype) for t, o in zip(trial.cotangents, passes.outputs(values), strict=True)]
    exact = replace(
        trial, values=[*map(Tensor.double, values)], cotangents=[*map(Tensor.double, v)]
    )
    try:
        found = passes.gradients(values, v)
    except Exception as error:  # whatever a user's code raises
        yield from _all_wrong(trial, name, f"the backward pass fails: {first_line(error)}")
        return
    seen, eps = exact.shaken(low), torch.finfo(low).eps
    for k, (g, right) in enumerate(zip(found, exact.by_hand, strict=True)):
        size = largest(right) or 1.0
        within = right.abs() < torch.finfo(low).max
        off = (
            largest(
                torch.where(within, difference(g.double(), right), 0).nan_to_num(
                    torch.inf, torch.inf
                )
            )
            / size
        )
        bound = SOME * (largest(seen[k]) + eps * exact.usual(k)) / size
        reason = (
            f"{off:.1e} of the largest entry off, and {bound:.1e} is rounding, at {trial.where}"
        )
        yield BackwardFinding(passes.names[k], name, off <= bound, off, reason, bound)
