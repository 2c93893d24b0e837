"""Two derivatives differ at a sample, by more than rounding: which of them is wrong?"""

import math
from dataclasses import replace

import mpmath
import torch
from torch import Tensor

from torchgd.models import Model
from torchgd.proof.differences import Slopes, slopes
from torchgd.proof.domain import Domain
from torchgd.proof.findings import Point
from torchgd.proof.places import Place
from torchgd.proof.symbols import Derivation, Precise

YOURS, AUTOGRADS = "by hand", "by autograd"
# Where the formula by hand is right, autograd is blamed for more than this part of it alone:
# torch's softplus(u) is u above 20, and its slope 1, which is off by 2e-9.
TORCHS_OWN = 1e-8


class Judge:
    """Judges one model, in float64, with the data x, by its symbols or else by differences."""

    def __init__(
        self, model: Model, x: Tensor, derivation: Derivation | None, domain: Domain
    ) -> None:
        self.model, self.x, self.derivation, self.domain = model, x, derivation, domain
        self.kinks: dict[str, str] = {}

    def slopes(self, name: str, place: Place) -> Slopes:
        """Return the slopes in a weight by differences, of the model in float64."""
        exact = replace(place, model=self.model, x=place.x.double())
        least = exact.rounding_of_prediction.clamp(min=4 * 2.0**-52 * place.size)

        def predict(w: float) -> Tensor:
            if self.domain.holds_all({name: w}):
                return exact.predict(**{name: w})
            return exact.x.new_full((len(exact.x),), torch.nan)

        return slopes(predict, place.weights[name], least)

    def wrong(self, oracle: str, name: str, place: Place, k: int, tolerance: float) -> str | None:
        """Return which derivative is wrong at a sample, None if there is an excuse.

        By hand, it is taken from the batch: it may be wrong where the sample's alone is right.
        """
        by_hand, point, alone = place.by_hand[name][k].item(), place.point(k), place.alone(k)
        precise = self.precise(name, point)
        if not math.isfinite(by_hand):
            return None if self._may_be_infinite(name, alone, precise) else YOURS
        if self._is_kink(name, alone, by_hand):
            return None
        formula_is_right = precise is not None and precise.agree
        if oracle != "autograd":
            return None if formula_is_right else YOURS
        truth = self._truth(name, alone, precise)
        if truth is not None:
            expected, error = truth
            right, autograds_right = (
                abs(value - expected) <= max(tolerance, error)
                for value in (by_hand, place.by_autograd[name][k].item())
            )
            if right and not autograds_right:
                exempt = formula_is_right and abs(place.by_autograd[name][k] - by_hand) <= (
                    TORCHS_OWN * abs(by_hand)
                )
                return AUTOGRADS if self._usual(alone) and not exempt else None
        return None if formula_is_right else YOURS

    def precise(self, name: str, point: Point) -> Precise | None:
        """Return the two formulas' values at a point, None without symbols."""
        if self.derivation is None:
            return None
        return self.derivation.at(name, point.x, point.weights)

    def _truth(
        self, name: str, place: Place, precise: Precise | None
    ) -> tuple[float, float] | None:
        """Return the slope at a sample, and how far it may be off; None if nobody knows."""
        if precise is not None and mpmath.isfinite(precise.expected):
            return float(precise.expected), 0.0
        found = self.slopes(name, place)
        return (found.slope.item(), 10 * found.error.item()) if found.trusted else None

    def _usual(self, place: Place) -> bool:
        """Whether a sample is where no result underflows: one of the data, or of a usual size."""
        return place.generic and (place.point().moderate or self._of_the_data(place))

    def _of_the_data(self, place: Place) -> bool:
        alike = self.x == place.x.double()
        return bool(alike.reshape(len(alike), -1).all(dim=1).any())

    # 0/0 at x = 0 is a fault, and so is 0·log 0 at one of the data. Three things are not: an
    # overflow far from the data, 0·log 0 where sympy has no derivative either, and ∞/∞ where the
    # same formula has a value in 200 digits.
    def _may_be_infinite(self, name: str, place: Place, precise: Precise | None) -> bool:
        exact = replace(place, model=self.model, x=place.x.double())
        if exact.by_hand[name].isfinite() or not (place.generic and place.point().moderate):
            return True
        if self._of_the_data(exact) or precise is None:
            return False
        overflows = bool(precise.agree and exact.x.any())
        return overflows or not mpmath.isfinite(precise.expected)

    def _is_kink(self, name: str, place: Place, by_hand: float) -> bool:
        """Whether the slope is not unique and the one by hand is from one side to the other's.

        Differences do not see a small kink of a large ŷ; there autograd's slopes tell.
        """
        found = self.slopes(name, place)
        left, right = found.left.item(), found.right.item()
        if not found.kink:
            left, right = self._sides(name, place)
        room = 1e-3 * abs(left - right)
        if not min(left, right) - room <= by_hand <= max(left, right) + room:
            return False
        text = (
            f"at {place.point()} the slope is not unique: by hand {by_hand:g}, from the left "
            f"{left:g}, from the right {right:g}"
        )
        self.kinks.setdefault(name, text)
        return True

    def _sides(self, name: str, place: Place) -> tuple[float, float]:
        """Return autograd's slopes beside a weight, left and right; NaN where there is no kink.

        A smooth slope changes little by little: as much from one step to two as from none to one.
        """
        exact = replace(place, model=self.model, x=place.x.double())
        w = place.weights[name]
        step = 8 * 2.0**-52 * abs(w) or torch.finfo(torch.float64).tiny ** 0.5
        if not all(self.domain.holds_all({name: w}) for w in (w - 2 * step, w + 2 * step)):
            return math.nan, math.nan
        further, left, right, beyond = (
            exact.beside(name, times * step).by_autograd[name].item() for times in (-2, -1, 1, 2)
        )
        change = max(abs(left - further), abs(right - beyond))
        settled = change < abs(right - left) / 100 < math.inf
        return (left, right) if settled else (math.nan, math.nan)
