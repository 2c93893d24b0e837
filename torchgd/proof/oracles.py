"""Is a derivative right? Three oracles answer, each where it can be trusted."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace

import sympy
import torch
from sympy import Expr
from torch import Tensor

from torchgd.entries import names_of, parameters_of
from torchgd.models import DTYPES, Model
from torchgd.proof.domain import Domain, Intervals
from torchgd.proof.findings import ORACLES, Finding, GradientCheck
from torchgd.proof.judgement import AUTOGRADS, YOURS, Judge
from torchgd.proof.notations import notation
from torchgd.proof.places import (
    GENERIC,
    RANDOM,
    Place,
    numbers_to_look_at,
    of_random_sizes,
    weights_to_look_at,
)
from torchgd.proof.refusals import ready
from torchgd.proof.symbols import Derivation, derive

# A right derivative that is written in another way also rounds in another way, each operation by
# half a unit. This allows a long formula, and is still a part in 10¹² of float64, 10⁴ of float32.
MOST_ULPS = 1024
SHIFT = 17  # places by which a column's numbers are before the next one's
FEW = 3  # rows of weights for the symbolic oracle, and faults that are recorded
MOST_EXCUSED = 8  # samples at one place


def check_gradient(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    domain: Intervals | None = None,
    on_progress: Callable[[float], None] = lambda part: None,
) -> GradientCheck:
    """Ask three independent oracles whether `model.partials` is right.

    symbolic: `forward` and `partials` run on symbols, and the partial is sympy's ∂ŷ/∂w: for every
        x (see `is_identity`) or, if that is not known, in 12 digits of 200 at each
        point. It is skipped for a model that cannot run on symbols (see `proof.symbols.derive`).
    autograd: each ∂ŷₙ/∂w is that of reverse-mode differentiation, in float32 and in float64,
        within MOST_ULPS units in the last place of itself or of ŷ/w.
    finite differences: each ∂ŷₙ/∂w is the central difference, within ten times its error (see
        `proof.differences.slopes`).

    They compare at the samples of x, alone and together, and at numbers of all sizes and either
    sign; each with the model's own weights, with random ones, and with weights of all sizes (see
    `proof.places`).

    An oracle abstains where it cannot be trusted: where ŷ or autograd's derivative is not finite;
    at a kink, where the slope is not unique; where differences of two steps do not agree; where
    the formula is right in 200 digits; and where rounding makes the difference. How much that may
    be is measured: each result is shaken in its last places (see `proof.rounding`). Where the
    derivative by hand is right by the symbols or by differences and autograd's is off by more,
    autograd is to blame: `forward` has a backward pass of its own that is wrong.

    Nothing is looked at outside of the `domain`, open intervals for x and parameters by name, as
    {"x": (0, inf), "k": (0, 1)}; without it, of the model's own attribute `domain`, if it has one.
    `on_progress` is told which part is done. The model is not changed.

    Shapes: x and y alike, any, or x (N, F) and y (N,), with at least one sample.

    Example: an outer derivative without the inner one.

        >>> from torchgd import Linear
        >>> class Wave(Linear):
        ...     def forward(self, x):
        ...         return (self.w * x).sin()
        ...     def partials(self, x):
        ...         return {"w": (self.w * x).cos()}
        >>> x = torch.tensor([1.0, 2.0, 3.0])
        >>> check = check_gradient(Wave(), x, 2 * x)
        >>> check.passed, check.wrong
        (False, ['w'])
        >>> print(check.failures[0].by_hand, "is not", check.failures[0].expected)
        cos(w·x) is not x·cos(w·x)

    Raises:
        TypeError, ValueError: see `proof.refusals.ready` and `Domain.of`.
    """
    exact, x = ready(model, x, y)
    given = domain if domain is not None else getattr(model, "domain", None)
    inside = Domain.of(["x", *parameters_of(model)], given)
    x = x[inside.holds("x", x)]
    found = _Findings(exact, x, inside)
    for k, dtype in enumerate(DTYPES.values()):
        for part in found.compare_numbers(deepcopy(model).to(dtype), x.to(dtype)):
            on_progress((k + part) / len(DTYPES))
    found.compare_formulas()
    return found.check()


class _Findings:
    """What the oracles have found so far about one model, in float64, with these data x."""

    def __init__(self, model: Model, x: Tensor, domain: Domain) -> None:
        self.model, self.x, self.domain = model, x, domain
        self.few = weights_to_look_at(model, domain)[:FEW]
        self.findings: list[Finding] = []
        self.looked: Counter[tuple[str, str]] = Counter()
        self.abstained: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        self.derivation: Derivation | None = None
        self.reasons = dict.fromkeys(ORACLES, "it cannot be trusted at any point")
        try:
            self.derivation = derive(model, 1 if x.ndim == 1 else x.shape[1])
        except ValueError as error:
            self.reasons["symbolic"] = str(error)
        self.judge = Judge(model, x, self.derivation, domain)

    def check(self) -> GradientCheck:
        """Return the worst finding of each oracle about each parameter's derivative."""
        rows = [self._worst(name, oracle) for name in names_of(self.model) for oracle in ORACLES]
        return GradientCheck(rows, self.judge.kinks, str(self.domain))

    def _worst(self, name: str, oracle: str) -> Finding:
        said = [f for f in self.findings if (f.parameter, f.oracle) == (name, oracle)]
        found = max(
            said,
            key=lambda finding: (finding.passed is False, not finding.to_blame, finding.error),
            default=Finding(name, oracle, None, reason=self.reasons[oracle]),
        )
        looked, abstained = self.looked[name, oracle], self.abstained[name, oracle]
        return replace(found, looked=looked, abstained=abstained)

    def compare_numbers(self, model: Model, x: Tensor) -> Iterator[float]:
        """Compare by hand with autograd and differences, in one dtype; yield the part done."""
        rows = weights_to_look_at(model, self.domain)
        some = x[torch.linspace(0, len(x) - 1, min(len(x), 16)).round().long().to(x.device)]
        for samples in (*some.split(1), x) if len(x) else ():
            self._compare_autograd(Place(model, rows[0], samples))
        for row, weights in enumerate(rows):
            place = Place(model, weights, self._everywhere(some, row), generic=row < GENERIC)
            self._compare_autograd(place)
            if place.generic and x.dtype == torch.float64:
                self._compare_differences(place)
            yield (row + 1) / len(rows)

    def _everywhere(self, some: Tensor, seed: int = 0) -> Tensor:
        """Return some samples, numbers of all sizes, and random ones, all inside the domain."""
        chance = torch.Generator().manual_seed(seed)
        numbers = numbers_to_look_at(some.dtype).double(), of_random_sizes(RANDOM, chance)
        x = self.domain.moved("x", torch.cat(numbers)).to(some)
        if some.ndim == 2:  # each column takes all of them, beside others of the other columns
            x = torch.stack([x.roll(SHIFT * j) for j in range(some.shape[1])], dim=1)
        return torch.cat([some, x[self.domain.holds("x", x)]])

    def _compare_autograd(self, place: Place) -> None:
        prediction, info = place.predict(), torch.finfo(place.x.dtype)
        for name in place.weights:
            by_hand, expected = place.by_hand[name], place.by_autograd[name]
            size = torch.maximum(by_hand.abs(), expected.abs())
            trusted = prediction.isfinite() & expected.isfinite()
            tolerance = MOST_ULPS * info.eps * size + info.tiny ** (1 / 3)  # a³ of less is 0
            self._keep("autograd", name, place, expected, tolerance, trusted)

    def _compare_differences(self, place: Place) -> None:
        for name in place.weights:
            found, by_hand = self.judge.slopes(name, place), place.by_hand[name]
            trusted = found.decides(by_hand)
            tolerance = found.tolerance + torch.finfo(torch.float64).tiny
            self._keep("finite differences", name, place, found.slope, tolerance, trusted)

    def _keep(
        self,
        oracle: str,
        name: str,
        place: Place,
        expected: Tensor,
        tolerance: Tensor,
        trusted: Tensor,
    ) -> None:
        """Keep an oracle's worst agreement and its worst disagreement at a place."""
        if self.failed[name, oracle] >= FEW:  # more of them would tell nothing new
            return
        by_hand = place.by_hand[name]
        apart = (by_hand - expected).abs()
        error = (apart / tolerance).nan_to_num(math.inf, math.inf)
        yes, no = trusted & (error <= 1), trusted & ~(error <= 1)
        wrong: dict[str, int] = {}
        if no.any():
            no &= ~(apart <= place.rounding[name])
            wrong = self._wrong(oracle, name, place, torch.where(no, error, -1.0), tolerance)
        self.failed[name, oracle] += len(wrong) > 0
        looked = int(yes.sum()) + len(wrong)
        self.looked[name, oracle] += looked
        self.abstained[name, oracle] += len(yes) - looked
        kept = [(_worst_of(error, yes), True, False)] if yes.any() else []
        kept += [(k, False, who == AUTOGRADS) for who, k in wrong.items()]
        for k, passed, to_blame in kept:
            alone = passed or bool(place.alone(k).by_hand[name] == by_hand[k])
            point = place.point(k, 1 if alone else len(place.x))
            values = by_hand[k].item(), expected[k].item(), error[k].item()
            self.findings.append(Finding(name, oracle, passed, *values, point, to_blame=to_blame))

    def _wrong(
        self, oracle: str, name: str, place: Place, error: Tensor, tolerance: Tensor
    ) -> dict[str, int]:
        """Return the worst sample for each derivative that is wrong, of those with an error ≥ 0."""
        found: dict[str, int] = {}
        worst = error.sort(descending=True, stable=True).indices
        for k in worst[:MOST_EXCUSED].tolist():
            if error[k] < 0 or YOURS in found:
                break
            if who := self.judge.wrong(oracle, name, place, k, tolerance[k].item()):
                found.setdefault(who, k)
        return found

    def compare_formulas(self) -> None:
        """Compare the two formulas of each ∂ŷ/∂w."""
        if self.derivation is None:
            return
        xs = self._everywhere(self.x[:16])
        for name, by_hand in self.derivation.partials.items():
            expected, said = self.derivation.true_partials[name], []
            if not is_identity(by_hand - expected):
                said = [answer for weights in self.few for answer in self._agree(name, weights, xs)]
            self.looked[name, "symbolic"] += len(said) - said.count(None)
            self.abstained[name, "symbolic"] += said.count(None)
            if not said or said.count(None) < len(said):
                passed, formulas = False not in said, (notation(by_hand), notation(expected))
                error = float(not passed)
                self.findings.append(Finding(name, "symbolic", passed, *formulas, error=error))

    def _agree(self, name: str, weights: dict[str, float], x: Tensor) -> Iterator[bool | None]:
        """Yield whether both formulas agree at each x but kinks; None where one has no value."""
        assert self.derivation is not None
        place = Place(self.model, weights, x)
        smooth = x[~self.judge.slopes(name, place).kink]
        for sample in smooth.reshape(len(smooth), -1).tolist():
            yield self.derivation.at(name, sample, weights).agree


def _worst_of(error: Tensor, which: Tensor) -> int:
    return int(torch.where(which, error, -1.0).argmax())


def is_identity(difference: Expr) -> bool:
    """Whether a difference of rational functions is 0 whatever x and the parameters are.

    For others False unless it is written as 0: sympy may take minutes to simplify them.
    """
    if difference == 0:
        return True
    return bool(difference.is_rational_function() and sympy.cancel(difference) == 0)
