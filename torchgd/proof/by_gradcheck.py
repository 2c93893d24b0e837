"""What torch's own `gradcheck` says of a gradient by hand."""

import math
from dataclasses import replace

from torch import Tensor
from torch.autograd import gradcheck

from torchgd.loss import mean_squared_error
from torchgd.proof.differences import Slopes
from torchgd.proof.findings import Finding
from torchgd.proof.places import Place

STEP, ATOL, RTOL = 1e-6, 1e-5, 1e-3  # its defaults


def by_gradcheck(name: str, place: Place, y: Tensor, found: Slopes) -> Finding | None:
    """Return what it says of ∂loss/∂`name` at a place, with targets y, (N,).

    It may not be trusted, and so is not asked, where its one step reaches over a pole or a kink
    that the shorter ones of `found` do not.
    """

    def loss(place: Place) -> Tensor:
        return mean_squared_error(place.predict(), y)

    def slope(place: Place, partial: Tensor) -> Tensor:
        return 2 / len(y) * ((place.predict() - y) * partial).sum()

    def moved(w: float) -> Place:
        return replace(place, weights={**place.weights, name: w})

    # L + (w − w)·∂loss/∂w, the second w held: the loss, with the slope by hand for its slope.
    def with_slope_by_hand(w: Tensor) -> Tensor:
        there = moved(w.item())
        return loss(there) + (w - w.detach()) * slope(there, there.by_hand[name])

    w, by_hand = place.weights[name], slope(place, place.by_hand[name]).item()
    expected = ((loss(moved(w + STEP)) - loss(moved(w - STEP))) / (2 * STEP)).item()
    tolerance = ATOL + RTOL * abs(expected)
    reaches = abs(slope(place, found.slope).item() - expected) > tolerance / 10
    inside = found.trusted.all() and place.by_autograd[name].isfinite().all()
    if reaches or not (inside and math.isfinite(by_hand) and math.isfinite(expected)):
        return None
    at = place.x.new_tensor(w, requires_grad=True)
    agrees = gradcheck(
        with_slope_by_hand, at, eps=STEP, atol=ATOL, rtol=RTOL, raise_exception=False
    )
    error = abs(by_hand - expected) / tolerance if agrees else math.inf
    point = place.point()
    if len(y) > 1:
        point = replace(point, x=None, among=len(y))
    return Finding(name, "gradcheck", agrees, by_hand, expected, error, point)
