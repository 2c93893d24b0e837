"""The slope of ŷ in one weight by finite differences, and where it may be trusted."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# The steps, as parts of |w|. A step that is too long crosses poles, kinks and the domain's edge;
# one that is too short leaves no digits.
STEPS = [10.0**-k for k in range(2, 9)]
COARSE, FINE = 1, 4  # 10⁻³ and 10⁻⁶, at which the two sides are compared
# The largest relative error at which a difference is trusted.
AGREE = 1e-3


@dataclass(frozen=True)
class Slopes:
    """∂ŷₙ/∂w for each sample, by differences: `slope`, off by `error` at most where `trusted`.

    At a `kink` the slopes from the `left` and from the `right` differ. All of shape (N,).
    """

    slope: Tensor
    error: Tensor
    trusted: Tensor
    kink: Tensor
    left: Tensor
    right: Tensor

    @property
    def tolerance(self) -> Tensor:
        """How far a right derivative may be off."""
        return 10 * self.error + 1e-9 * self.slope.abs()

    def decides(self, by_hand: Tensor) -> Tensor:
        """Whether the slope may be held against a derivative.

        If the tolerance is not small beside them, only equal values count.
        """
        sharp = self.tolerance <= 1e-3 * torch.maximum(by_hand.abs(), self.slope.abs())
        return self.trusted & (sharp | (by_hand == self.slope))


# With h → 0 the central difference
#
#   D(h) = (ŷ(w + h) − ŷ(w − h))/2h = ŷ′ + (h²/6)·ŷ‴ + …
#
# gains digits of ŷ′ as h shrinks, until the rounding error, about ε|ŷ|/h, outweighs them. We take
# D at two steps a decade apart, and their difference as the error of D; of all such pairs we take
# the one with the smallest relative error. Two zeros have no relative error, and come last: ŷ may
# seem flat only because its change is lost in rounding.
def slopes(predict: Callable[[float], Tensor], w: float, least: Tensor) -> Slopes:
    """Return the slopes of ŷ in a weight at `w`, from `predict`, which returns ŷ (N,) for any w.

    The rounding error of ŷ is taken to be at `least` so large, (N,): 1 − e⁻ᵘ of a tiny u is tiny,
    but has the rounding error of 1.
    """
    scale = abs(w) or 1.0
    here, eps = predict(w), torch.finfo(torch.float64).eps
    size = here.new_tensor([step * scale for step in STEPS])[:, None]
    above, below = w + size, w - size
    after, before = (
        torch.stack([predict(point) for point in points.flatten().tolist()])
        for points in (above, below)
    )
    d, up, down = (
        (after - before) / (above - below),
        (after - here) / (above - w),
        (here - before) / (w - below),
    )
    largest = torch.maximum(torch.maximum(after.abs(), before.abs()), here.abs())
    rho = torch.maximum(4 * eps * largest, least) / size
    error = (d[1:] - d[:-1]).abs() + rho[1:]
    larger = torch.maximum(d[1:].abs(), d[:-1].abs())
    relative = torch.where(larger > 0, error / larger, torch.inf).nan_to_num(torch.inf, torch.inf)
    best = relative.min(dim=0)
    flat = (d == 0).all(dim=0)
    slope, off = (t.gather(0, best.indices[None])[0] for t in (d[1:], error))
    # Along a staircase two long steps agree, and shorter ones do not.
    settles = ~((slope - d[FINE]).abs() > AGREE * slope.abs() + off + 10 * rho[FINE])
    apart = (up - down).abs()
    settled = torch.maximum((up[FINE] - up[FINE - 1]).abs(), (down[FINE] - down[FINE - 1]).abs())
    kink = (
        (apart[FINE] > apart[COARSE] / 2)
        & (apart[FINE] > AGREE * torch.maximum(up[FINE].abs(), down[FINE].abs()))
        & (apart[FINE] > 10 * rho[FINE])
        & (settled < apart[FINE] / 100)
    )
    return Slopes(
        slope=torch.where(flat, 0.0, slope),
        error=torch.where(flat, rho[-1], off),
        trusted=(flat | (best.values <= AGREE)) & settles & ~kink & here.isfinite(),
        kink=kink,
        left=down[FINE],
        right=up[FINE],
    )
