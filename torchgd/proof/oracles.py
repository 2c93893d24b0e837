"""Is a derivative right? Three oracles answer, each where it can be trusted."""

import math
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice

import mpmath
import torch
from torch import Tensor, nn

from torchgd.gradients import autograd_gradient, manual_gradient
from torchgd.models import DTYPES, Model, scalars
from torchgd.proof.differences import Slopes, slopes
from torchgd.proof.findings import ORACLES, Finding, GradientCheck, Point
from torchgd.proof.places import (
    GENERIC,
    Place,
    is_rounding,
    numbers_to_look_at,
    real_numbers,
    weights_to_look_at,
)
from torchgd.proof.symbols import Derivation, Precise, derive, is_identity, notation

# A right derivative that is written in another way also rounds in another way, each operation by
# half a unit. This allows a long formula, and is still a part in 10¹² of float64, 10⁴ of float32.
MOST_ULPS = 1024
FEW = 3  # rows of weights for the symbolic oracle, and faults that are recorded
MOST_EXCUSED = 8  # samples at one place


def check_gradient(model: Model, x: Tensor, y: Tensor) -> GradientCheck:
    """Ask three independent oracles whether `model.partials` is right.

    symbolic: `forward` and `partials` run on symbols, and the partial is sympy's ∂ŷ/∂w: for every
        x (see `proof.symbols.is_identity`) or, if that is not known, in 12 digits of 200 at each
        point. It is skipped for a model that cannot run on symbols (see `proof.symbols.derive`).
    autograd: each ∂ŷₙ/∂w is that of reverse-mode differentiation, in float32 and in float64,
        within MOST_ULPS units in the last place of itself or of ŷ/w.
    finite differences: each ∂ŷₙ/∂w is the central difference, within ten times its error (see
        `proof.differences.slopes`).

    They compare at the samples of x, alone and together, and at numbers of all sizes and either
    sign; each with the model's own weights, with random ones, and with weights of all sizes (see
    `proof.places`).

    An oracle abstains where it cannot be trusted: where ŷ or autograd's derivative is not finite;
    at a kink, where the slope is not unique; where differences of two steps do not agree; and
    where only rounding differs, because the formula is right there in 200 digits, or by
    `proof.places.is_rounding`. The model is not changed.

    Shapes: x and y alike, any, with at least one sample.

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
        TypeError: x or y is no tensor of real numbers, or the model is a class.
        ValueError: x and y differ in shape, or hold what is not finite, or what `scalars` or the
            two gradients refuse.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is {model!r}: give a torch.nn.Module, made")
    scalars(model)
    x, y = (real_numbers(name, t) for name, t in (("x", x), ("y", y)))
    exact = deepcopy(model).to(torch.float64)
    found = _Findings(exact, x)
    manual_gradient(exact, x, y)  # these two raise the errors below
    autograd_gradient(exact, x, y)
    for dtype in DTYPES.values():
        found.compare_numbers(deepcopy(model).to(dtype), x.to(dtype))
    found.compare_formulas()
    return found.check()


class _Findings:
    """What the oracles have found so far about one model, in float64, with these data x."""

    def __init__(self, model: Model, x: Tensor) -> None:
        self.model, self.x = model, x
        self.few = list(islice(weights_to_look_at(model), FEW))
        self.findings: list[Finding] = []
        self.looked: Counter[tuple[str, str]] = Counter()
        self.abstained: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        self.kinks: dict[str, str] = {}
        self.derivation: Derivation | None = None
        self.reasons = dict.fromkeys(ORACLES, "it cannot be trusted at any point")
        try:
            self.derivation = derive(model)
        except ValueError as error:
            self.reasons["symbolic"] = str(error)

    def check(self) -> GradientCheck:
        """Return the worst finding of each oracle about each parameter's derivative."""
        rows = [self._worst(name, oracle) for name in scalars(self.model) for oracle in ORACLES]
        return GradientCheck(rows, self.kinks)

    def _worst(self, name: str, oracle: str) -> Finding:
        said = [f for f in self.findings if (f.parameter, f.oracle) == (name, oracle)]
        found = max(
            said,
            key=lambda finding: (finding.passed is False, finding.error),
            default=Finding(name, oracle, None, reason=self.reasons[oracle]),
        )
        looked, abstained = self.looked[name, oracle], self.abstained[name, oracle]
        return replace(found, looked=looked, abstained=abstained)

    def compare_numbers(self, model: Model, x: Tensor) -> None:
        """Compare by hand with autograd and differences at all points, in one dtype."""
        own, *others = weights_to_look_at(model)
        some = x[torch.linspace(0, len(x) - 1, min(len(x), 16)).round().long().to(x.device)]
        everywhere = torch.cat([some, numbers_to_look_at(x.dtype, x.device)])
        size = Place(model, own, everywhere).size
        for samples in (*some.split(1), x):
            self._compare_autograd(Place(model, own, samples), size)
        for row, weights in enumerate([own, *others]):
            place = Place(model, weights, everywhere, generic=row < GENERIC)
            self._compare_autograd(place, place.size)
            if place.generic and x.dtype == torch.float64:
                self._compare_differences(place)

    def _compare_autograd(self, place: Place, size: float) -> None:
        prediction, info = place.predict(), torch.finfo(place.x.dtype)
        for name, w in place.weights.items():
            by_hand, expected = place.by_hand[name], place.by_autograd[name]
            of_prediction = prediction.abs().clamp(min=size) / abs(w or 1.0)
            sizes = torch.stack([by_hand.abs(), expected.abs(), of_prediction])
            tolerance = MOST_ULPS * info.eps * sizes.amax(dim=0) + info.tiny
            trusted = prediction.isfinite() & expected.isfinite()
            self._keep("autograd", name, place, expected, tolerance, trusted)

    def _compare_differences(self, place: Place) -> None:
        for name in place.weights:
            found, by_hand = self._slopes(name, place), place.by_hand[name]
            tolerance = 10 * found.error + 1e-9 * found.slope.abs()
            # If the error is not small beside the slope, only equal values count.
            sharp = tolerance <= 1e-3 * torch.maximum(by_hand.abs(), found.slope.abs())
            trusted = found.trusted & (sharp | (by_hand == found.slope))
            tolerance = tolerance + torch.finfo(torch.float64).tiny
            self._keep("finite differences", name, place, found.slope, tolerance, trusted)

    def _slopes(self, name: str, place: Place) -> Slopes:
        """Return the slopes in a weight by differences, of the model in float64."""
        exact = replace(place, model=self.model, x=place.x.double())
        return slopes(lambda w: exact.predict(**{name: w}), place.weights[name], place.size)

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
        error = ((by_hand - expected).abs() / tolerance).nan_to_num(math.inf, math.inf)
        yes, no = trusted & (error <= 1), trusted & ~(error <= 1)
        for _ in range(MOST_EXCUSED):  # each sample needs an excuse of its own
            if not no.any() or not self._excuses(name, place, k := _worst_of(error, no)):
                break
            no[k] = False
        else:
            no = torch.zeros_like(no)
        self.failed[name, oracle] += int(no.any())
        self.looked[name, oracle] += int((yes | no).sum())
        self.abstained[name, oracle] += int((~(yes | no)).sum())
        for passed, said in ((True, yes), (False, no)):
            if said.any():
                k = _worst_of(error, said)
                alone = passed or bool(place.alone(k).by_hand[name] == by_hand[k])
                point = place.point(k, 1 if alone else len(place.x))
                values = by_hand[k].item(), expected[k].item(), error[k].item()
                self.findings.append(Finding(name, oracle, passed, *values, point))

    def _excuses(self, name: str, place: Place, k: int) -> bool:
        """Whether the derivative by hand is right at a sample although the two differ."""
        by_hand, point, place = place.by_hand[name][k].item(), place.point(k), place.alone(k)
        precise = self._precise(name, point)
        if not math.isfinite(by_hand):
            return self._may_be_infinite(name, place, precise)
        if precise is not None and precise.agree:
            return True
        found = self._slopes(name, place)
        if found.kink:
            text = (
                f"at {point} the slope is not unique: by hand {by_hand:g}, from the left "
                f"{found.left.item():g}, from the right {found.right.item():g}"
            )
            self.kinks.setdefault(name, text)
            return True
        # The batch's derivative may be wrong where the sample's alone is right.
        return place.by_hand[name].item() == by_hand and is_rounding(name, place)

    # 0/0 at x = 0 is a fault, and so is 0·log 0 at one of the data. Three things are not: an
    # overflow far from the data, 0·log 0 where sympy has no derivative either, and ∞/∞ where the
    # same formula has a value in 200 digits.
    def _may_be_infinite(self, name: str, place: Place, precise: Precise | None) -> bool:
        exact = replace(place, model=self.model, x=place.x.double())
        if exact.by_hand[name].isfinite() or not (place.generic and place.point().moderate):
            return True
        of_the_data = bool((self.x == exact.x).any())
        if of_the_data or precise is None:
            return False
        overflows = bool(precise.agree and exact.x.item() != 0)
        return overflows or not mpmath.isfinite(precise.expected)

    def _precise(self, name: str, point: Point) -> Precise | None:
        if self.derivation is None:
            return None
        return self.derivation.at(name, point.x, point.weights)

    def compare_formulas(self) -> None:
        """Compare the two formulas of each ∂ŷ/∂w."""
        if self.derivation is None:
            return
        xs = torch.cat([self.x[:16], numbers_to_look_at(self.x.dtype, self.x.device)])
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
        for value in x[~self._slopes(name, place).kink].tolist():
            yield self.derivation.at(name, value, weights).agree


def _worst_of(error: Tensor, which: Tensor) -> int:
    return int(torch.where(which, error, -1.0).argmax())
