"""Where a derivative is checked: samples and weights of all sizes, and ŷ and its slopes there."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from torchgd.data import require_finite
from torchgd.gradients import partial_derivatives
from torchgd.models import Model, scalars
from torchgd.proof.findings import Point

# Sizes of x and of weights: three in each decade, and some beyond.
DECADES = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
BEYOND = [1e-12, 1e-6, 1e4, 1e6, 1e12]
GENERIC = 7  # rows of weights: the model's own and random ones


def real_numbers(name: str, t: Tensor) -> Tensor:
    """Return real numbers of any kind and shape in float64, (N,)."""
    if not isinstance(t, Tensor) or t.is_complex() or t.dtype == torch.bool:
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} is {kind}: give a tensor of real numbers")
    numbers = t.detach().flatten().double()
    if len(numbers):
        require_finite(name, numbers)
    return numbers


def numbers_to_look_at(dtype: torch.dtype, device: torch.types.Device = None) -> Tensor:
    """Return 0, numbers of all sizes and either sign, and random ones.

    The largest is the eighth root of the largest number, so that x⁴·w⁴ is one; the smallest its
    counterpart.
    """
    info = torch.finfo(dtype)
    tiny, huge = info.tiny ** (1 / 8), info.max ** (1 / 8)
    sizes = [tiny, *(size for size in [*BEYOND, *DECADES] if tiny < size < huge), huge]
    random = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = [0.0, *sizes, *(-size for size in sizes), *random.tolist()]
    return torch.tensor(numbers, dtype=dtype, device=device)


def weights_to_look_at(model: Model) -> Iterator[dict[str, float]]:
    """Yield the model's own weights and random ones; then all of them, and each, at all sizes."""
    own = {name: w.item() for name, w in scalars(model).items()}
    dtype, generator = next(model.parameters()).dtype, torch.Generator().manual_seed(1)
    yield own
    for _ in range(GENERIC // 3):
        random = torch.randn(len(own), generator=generator, dtype=torch.float64).to(dtype)
        for row in (random, 3 * random.abs(), -random):
            yield dict(zip(own, row.tolist(), strict=True))
    numbers = numbers_to_look_at(dtype).tolist()
    yield from (dict.fromkeys(own, number) for number in numbers)
    yield from ({**own, name: number} for name in own for number in numbers)


@dataclass(frozen=True)
class Place:
    """A model with `weights`, at samples x, (N,).

    `generic` weights are the model's own or random, so that no term is 0 or cancels by accident.
    """

    model: Model
    weights: dict[str, float]
    x: Tensor
    generic: bool = True

    @torch.no_grad()
    def predict(self, **weights: float) -> Tensor:
        """Return ŷ, (N,), where some weights may be others."""
        for name, w in self.model.named_parameters():
            w.fill_(weights.get(name, self.weights[name]))
        prediction: Tensor = self.model(self.x)
        return prediction.clone()  # it may be a view of a weight, which is filled again

    @cached_property
    def by_hand(self) -> dict[str, Tensor]:
        """Each ∂ŷ/∂w, (N,), by hand."""
        prediction = self.predict()
        with torch.no_grad():
            partials = partial_derivatives(self.model, self.x, prediction)
            return {name: partial.clone() for name, partial in partials.items()}

    # Reverse mode gives Jᵀv for any v of shape (N,), and Jᵀv is linear in v: its own derivative is
    # J, which has each sample's slope by itself. That takes two passes, where J by rows takes N.
    @cached_property
    def by_autograd(self) -> dict[str, Tensor]:
        """Each ∂ŷ/∂w, (N,), by autograd in reverse mode; NaN where ŷ is not finite."""
        prediction, weights = self.predict(), [*self.model.parameters()]
        inside = prediction.isfinite()
        found = prediction.new_full((len(weights), len(self.x)), torch.nan)
        if inside.any():
            prediction = self.model(self.x[inside])
            v = torch.ones_like(prediction, requires_grad=True)
            try:
                sums = torch.autograd.grad(prediction, weights, v, create_graph=True)
                rows = [torch.autograd.grad(total, v, retain_graph=True)[0] for total in sums]
            except RuntimeError:  # a backward pass of the user's own may have no derivative
                slopes = [torch.autograd.grad(p, weights, retain_graph=True) for p in prediction]
                rows = [torch.stack(row) for row in zip(*slopes, strict=True)]
            found[:, inside] = torch.stack(rows)
        return dict(zip(self.weights, found, strict=True))

    @cached_property
    def size(self) -> float:
        """The usual size of ŷ, beside which rounding is measured."""
        sizes = self.predict().abs()
        return sizes[sizes.isfinite()].double().median().nan_to_num().item()

    def alone(self, k: int) -> "Place":
        """Return the same with one sample alone."""
        return replace(self, x=self.x[k : k + 1])

    def point(self, k: int = 0, among: int = 1) -> Point:
        """Return where one of the samples is."""
        return Point(self.x[k].item(), self.weights, self.x.dtype, among)

    def nearby(self, roundings: int) -> "tuple[Place, Place]":
        """Return the place with x changed by so many roundings, and that with the weights changed.

        Each weight is changed by a different number of them: equal changes may cancel.
        """
        eps = torch.finfo(self.x.dtype).eps
        weights = {
            name: w * (1 + (-1) ** k * (k + roundings) * eps)
            for k, (name, w) in enumerate(self.weights.items())
        }
        x = self.x * (1 + roundings * eps)
        return replace(self, x=x), replace(self, weights=weights)


def is_rounding(name: str, place: Place) -> bool:
    """Whether rounding explains the difference of the two derivatives at a sample.

    It does if a few roundings of x or of the weights change autograd's slope by about as much, or
    if the difference varies from neighbour to neighbour: a wrong derivative is off by about the
    same at all of them, a rounding error varies.
    """
    here = place.by_autograd[name]
    apart = (place.by_hand[name] - here).abs()
    near = [*place.nearby(-4), *place.nearby(4)]
    effect = torch.stack([(place.by_autograd[name] - here).abs() for place in near]).amax()
    if apart <= 100 * effect:
        return True
    for some in zip(*(place.nearby(4 * k) for k in range(-8, 9)), strict=True):
        differences = torch.cat([near.by_hand[name] - near.by_autograd[name] for near in some])
        spread = differences.max() - differences.min()
        largest, usual = differences.abs().max(), differences.abs().median()
        if spread > 0.3 * largest and usual > 0.01 * largest:
            return True
    return False
