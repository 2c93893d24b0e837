"""Where a derivative is looked at: samples and weights far and wide, and what is computed there."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.func import functional_call

from torchgd.gradients import named_partial
from torchgd.models import Model, scalars
from torchgd.proof.findings import Point

# Sizes of x and of weights: three in each decade, and some beyond.
DECADES = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
BEYOND = [1e-12, 1e-6, 1e4, 1e6, 1e12]
GENERIC = 7  # rows of weights: the model's own and random ones


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

    `generic` weights are the model's own or random: nothing cancels or vanishes but by design.
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
            partials = self.model.partials(self.x)
            return {n: named_partial(partials, n, prediction).clone() for n in self.weights}

    @cached_property
    def by_autograd(self) -> dict[str, Tensor]:
        """Each ∂ŷ/∂w, (N,), by autograd in reverse mode; NaN where it is not finite."""
        # A sample without a slope spoils the others' (0·∞ is NaN), so these go without it.
        inside = self.predict().isfinite()
        found = self._reverse(self.x[inside])
        if not found.isfinite().all():
            inside &= self._has_slopes()
            found = self._reverse(self.x[inside])
        rows = found.new_full((len(found), len(self.x)), torch.nan)
        rows[:, inside] = found
        return dict(zip(self.weights, rows, strict=True))

    def _reverse(self, x: Tensor) -> Tensor:
        weights = [*self.model.parameters()]
        if len(x) == 0:
            return x.new_empty(len(weights), 0)
        prediction, one = self.model(x), torch.eye(len(x), dtype=x.dtype, device=x.device)
        try:
            found = torch.autograd.grad(
                prediction, weights, one, is_grads_batched=True, retain_graph=True
            )
        except RuntimeError:  # a backward pass of the user's own may not go in batches
            rows = [torch.autograd.grad(p, weights, retain_graph=True) for p in prediction]
            found = tuple(map(torch.stack, zip(*rows, strict=True)))
        return torch.stack(found)

    def _has_slopes(self) -> Tensor:
        """Whether ŷ and its slopes are finite, at each sample by itself."""
        # Where each sample has weights of its own, none can spoil another's slope.
        own = {
            name: w.detach().expand(len(self.x)).clone().requires_grad_()
            for name, w in self.model.named_parameters()
        }
        try:
            prediction = functional_call(self.model, own, (self.x,))
            slopes = torch.autograd.grad(prediction.sum(), [*own.values()])
        except (RuntimeError, TypeError, ValueError):  # not every model takes them
            alone = [self._reverse(x).isfinite().all() for x in self.x.split(1)]
            return torch.stack(alone)
        return torch.stack(slopes).isfinite().all(dim=0)

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
        """Return where x is other by so many roundings, and where the weights are.

        Each weight is so by another number of them: what all have in common may cancel.
        """
        eps = torch.finfo(self.x.dtype).eps
        weights = {
            name: w * (1 + (-1) ** k * (k + roundings) * eps)
            for k, (name, w) in enumerate(self.weights.items())
        }
        x = self.x * (1 + roundings * eps)
        return replace(self, x=x), replace(self, weights=weights)


def is_rounding(name: str, place: Place) -> bool:
    """Whether by hand and by autograd differ at a sample by what rounding may make of either.

    That is so where a few roundings of x or of the weights make about as much of autograd's
    slope, or where the two differ otherwise at each neighbour: a wrong derivative is off by about
    the same there, what rounding makes is another each time.
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
