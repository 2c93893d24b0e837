"""Where a derivative is checked: samples and weights of all sizes, and ŷ and its slopes there."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from torchgd.entries import names_of, weights_of
from torchgd.gradients import jacobian
from torchgd.models import Model
from torchgd.proof.domain import Domain
from torchgd.proof.findings import Point
from torchgd.proof.rounding import rounding

# Sizes of x and of weights: three in each decade, and some beyond.
DECADES = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
BEYOND = [1e-12, 1e-6, 1e4, 1e6, 1e12]
GENERIC = 7  # rows of weights: the model's own and random ones
RANDOM = 16  # rows of weights of random sizes, and samples at each row
ROWS = 8  # samples, where autograd takes one after the other
MANY = 4  # weights that take all of the numbers one by one


@cache
def numbers_to_look_at(dtype: torch.dtype) -> Tensor:
    """Return 0, numbers of all sizes and either sign, and random ones.

    The largest is the eighth root of the largest number, so that x⁴·w⁴ is one; the smallest its
    counterpart.
    """
    info = torch.finfo(dtype)
    tiny, huge = info.tiny ** (1 / 8), info.max ** (1 / 8)
    sizes = [tiny, *(size for size in [*BEYOND, *DECADES] if tiny < size < huge), huge]
    some = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = [0.0, *sizes, *(-size for size in sizes), *some.tolist()]
    return torch.tensor(numbers, dtype=dtype)


def of_random_sizes(count: int, generator: torch.Generator) -> Tensor:
    """Return numbers of either sign, as many in each decade from 10⁻³ to 10⁴."""
    size = 10 ** (7 * torch.rand(count, generator=generator, dtype=torch.float64) - 3)
    return torch.where(torch.rand(count, generator=generator) < 0.5, -size, size)


def weights_to_look_at(model: Model, domain: Domain) -> list[dict[str, float]]:
    """Return rows of weights, all inside the domain.

    The first are the model's own and random ones; then come all of them, and each, at all sizes.
    """
    own = dict(zip(names_of(model), weights_of(model).tolist(), strict=True))
    dtype, generator = next(model.parameters()).dtype, torch.Generator().manual_seed(1)

    def rows() -> Iterator[dict[str, float]]:
        for _ in range(GENERIC // 3):
            some = torch.randn(len(own), generator=generator, dtype=torch.float64)
            for row in (some, 3 * some.abs(), -some):
                yield dict(zip(own, row.tolist(), strict=True))
        numbers = numbers_to_look_at(dtype).tolist()
        yield from (dict.fromkeys(own, number) for number in numbers)
        few = -(-len(own) // MANY)  # of many weights each takes some of the numbers
        for k, name in enumerate(own):
            yield from ({**own, name: number} for number in numbers[k % few :: few])
        for _ in range(RANDOM):
            row = of_random_sizes(len(own), generator)
            yield dict(zip(own, row.tolist(), strict=True))

    def moved(name: str, value: float) -> float:
        return domain.moved(name, torch.tensor(value, dtype=torch.float64)).to(dtype).item()

    all_rows = (own, *({n: moved(n, w) for n, w in row.items()} for row in rows()))
    return [row for row in all_rows if domain.holds_all(row)]


@dataclass(frozen=True)
class Place:
    """A model with `weights`, by the names of the entries, at samples x, (N,) or (N, F).

    `generic` weights are the model's own or random, so that no term is 0 or cancels by accident.
    """

    model: Model
    weights: dict[str, float]
    x: Tensor
    generic: bool = True

    @torch.no_grad()
    def predict(self, **weights: float) -> Tensor:
        """Return ŷ, (N,), where some weights may be others."""
        values = iter({**self.weights, **weights}.values())
        for w in self.model.parameters():
            own = [*islice(values, w.numel())]
            if w.ndim == 0:
                w.fill_(own[0])
            else:
                w.copy_(torch.tensor(own, dtype=torch.float64).view(w.shape))
        prediction: Tensor = self.model(self.x)
        return prediction.clone()  # it may be a view of a weight, which is filled again

    @cached_property
    def by_hand(self) -> dict[str, Tensor]:
        """Each ∂ŷ/∂w, (N,), by hand."""
        prediction = self.predict()
        with torch.no_grad():
            columns = jacobian(self.model, self.x, prediction)
        return dict(zip(self.weights, columns.unbind(dim=1), strict=True))

    # Reverse mode gives Jᵀv for any v of shape (N,), and Jᵀv is linear in v: its own derivative is
    # J, which has each sample's slope by itself. That takes two passes, where J by rows takes N.
    @cached_property
    def by_autograd(self) -> dict[str, Tensor]:
        """Each ∂ŷ/∂w, (N,), by autograd in reverse mode; NaN where ŷ is not finite."""
        prediction, weights = self.predict(), [*self.model.parameters()]
        inside = prediction.isfinite()
        found = prediction.new_full((len(self.weights), len(self.x)), torch.nan)
        if inside.any():
            prediction = self.model(self.x[inside])
            v = torch.ones_like(prediction, requires_grad=True)
            try:
                sums = torch.autograd.grad(prediction, weights, v, create_graph=True)
                totals = [entry for t in sums for entry in (t.flatten() if t.ndim else [t])]
                rows = [torch.autograd.grad(total, v, retain_graph=True)[0] for total in totals]
            except RuntimeError:  # a backward pass may have no derivative
                rows = [*_row_by_row(prediction, weights, self.x[inside])]
            found[:, inside] = torch.stack(rows)
        return dict(zip(self.weights, found, strict=True))

    @cached_property
    def rounding(self) -> dict[str, Tensor]:
        """How far rounding may carry each ∂ŷ/∂w, by hand and by autograd together, (N,)."""

        def both(x: Tensor) -> dict[str, Tensor]:
            again = replace(self, x=x)
            by_hand = {f"by hand {name}": t for name, t in again.by_hand.items()}
            return by_hand | {f"by autograd {name}": t for name, t in again.by_autograd.items()}

        found = rounding(both, self.x)
        return {n: found[f"by hand {n}"] + found[f"by autograd {n}"] for n in self.weights}

    @cached_property
    def rounding_of_prediction(self) -> Tensor:
        """How far rounding may carry ŷ, (N,)."""
        return rounding(lambda x: {"ŷ": replace(self, x=x).predict()}, self.x)["ŷ"]

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
        return Point(tuple(self.x[k].flatten().tolist()), self.weights, self.x.dtype, among)

    def beside(self, name: str, step: float) -> "Place":
        """Return the same with one weight changed by a step."""
        return replace(self, weights={**self.weights, name: self.weights[name] + step})


def _row_by_row(prediction: Tensor, weights: list[nn.Parameter], x: Tensor) -> Sequence[Tensor]:
    """Return ∂ŷ/∂w of each weight, (N,), of one ŷ after the other; NaN at all x but some.

    torch can take all rows at once, unless a backward pass is the user's own.
    """
    one = torch.eye(len(x)).to(prediction)
    try:
        slopes = torch.autograd.grad(
            prediction, weights, one, is_grads_batched=True, retain_graph=True
        )
        return [c for slope in slopes for c in slope.reshape(len(x), -1).unbind(dim=1)]
    except RuntimeError:
        found = prediction.new_full((sum(w.numel() for w in weights), len(x)), torch.nan)
        samples = [*map(tuple, x.reshape(len(x), -1).tolist())]
        each = sorted(set(samples))
        some = set(random.Random(0).sample(each, min(ROWS, len(each))))
        for k in (k for k, sample in enumerate(samples) if sample in some):
            slopes = torch.autograd.grad(prediction[k], weights, retain_graph=True)
            found[:, k] = parameters_to_vector(slopes)
        return [*found]
