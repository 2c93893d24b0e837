"""A function at one place, and its gradients there, by hand and by differences."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from torchgd.proof.differences import Slopes, slopes
from torchgd.proof.domain import Domain
from torchgd.proof.passes import Passes
from torchgd.proof.rounding import ALLOWED, spread

EPS = torch.finfo(torch.float64).eps
SEEN = 64  # outputs that are looked at for a kink, each by itself
SIZES = (1.0, 1e-3, 30.0, 1e3)


@dataclass(frozen=True)
class Trial:
    """A function at one place, with the cotangents v of its outputs, all in float64.

    Nothing is computed outside of the `domain`.
    """

    passes: Passes
    where: str
    values: list[Tensor]
    cotangents: list[Tensor]
    domain: Domain

    @cached_property
    def by_hand(self) -> list[Tensor]:
        """g = Jᵀv by the backward pass, for each value."""
        return self.passes.gradients(self.values, self.cotangents)

    @cached_property
    def v(self) -> Tensor:
        """The cotangents in one vector."""
        return torch.cat([t.flatten() for t in self.cotangents])

    @cached_property
    def size(self) -> float:
        """The size of ⟨v, outputs⟩ if no two of its terms cancelled."""
        return (self.v * self.passes.flat(self.values)).abs().sum().item()

    def usual(self, k: int) -> float:
        """Return the usual size of a gradient's entries: their own and that of output/input."""
        return largest(self.by_hand[k]) + self.size / (self.values[k].abs().sum().item() or 1.0)

    # ⟨v, outputs⟩ at x + t·d has the slope ⟨g, d⟩ at t = 0. An output may have a kink there which
    # the sum hides, as |x| − |y| does along (1, 1); therefore some are looked at by themselves.
    def slope(self, k: int, d: Tensor, noise: float = 0.0) -> Slopes:
        """Return the slopes of ⟨v, outputs⟩ along d in one value, and those of some outputs.

        The rounding error of the first is taken to be `noise` beside a few units of its terms.
        """
        x, v = self.values[k], self.v
        some = torch.linspace(0, len(v) - 1, min(len(v), SEEN)).long().to(v.device)

        def predict(t: float) -> Tensor:
            moved = x + t * d
            if self.domain.intervals and not self.domain.holds(self.passes.names[k], moved).all():
                return v.new_full((1 + len(some),), torch.nan)
            found = self.passes.flat([*self.values[:k], moved, *self.values[k + 1 :]])
            return torch.cat([(v * found).sum()[None], found[some]])

        least = v.new_zeros(1 + len(some))
        least[0] = 4 * EPS * self.size + noise
        return slopes(predict, 0.0, least)

    @cached_property
    def noise(self) -> float:
        """How far rounding may carry ⟨v, outputs⟩."""
        again = [t.clone for t in self.values]
        found = spread(lambda: self.v @ self.passes.flat([t() for t in again]), torch.float64)
        return ALLOWED * found.item()

    def shaken(self, dtype: torch.dtype) -> list[Tensor]:
        """Return how far apart a few results of each gradient are, rounded at random to a dtype."""

        def compute() -> Tensor:
            found = self.passes.gradients([t.clone() for t in self.values], self.cotangents)
            return torch.cat([g.flatten() for g in found])

        parts = spread(compute, dtype).split([t.numel() for t in self.values])
        return [part.view(t.shape) for part, t in zip(parts, self.values, strict=True)]


def largest(x: Tensor) -> float:
    """Return the largest |x|, 0 where there is none."""
    return x.abs().nan_to_num().max().item() if x.numel() else 0.0


def trials(passes: Passes, domain: Domain, shapes: str = "") -> list[Trial]:
    """Return a function's trials: at the inputs, unless it is about other shapes, and elsewhere.

    Where the function does not take the values, it is tried with their magnitudes.
    """
    chance, found = torch.Generator().manual_seed(0), []
    for where, values in places(passes, domain, chance, shapes):
        for tried in (values, [t.abs() for t in values]):
            if passes.takes(tried):
                found.append(
                    Trial(passes, where, tried, _cotangents(passes, tried, chance), domain)
                )
                break
    return found


def _cotangents(passes: Passes, values: list[Tensor], chance: torch.Generator) -> list[Tensor]:
    """Return random cotangents; zeros of an output that is marked as not differentiable."""
    outputs = passes.outputs([t.detach().requires_grad_() for t in values])
    cut = not any(t.requires_grad for t in outputs)
    return [_normal(t, chance) * (cut or t.requires_grad) for t in outputs]


def _normal(t: Tensor, chance: torch.Generator) -> Tensor:
    return torch.randn(t.shape, generator=chance, dtype=torch.float64).to(t.device)


def places(
    passes: Passes, domain: Domain, chance: torch.Generator, shapes: str
) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield where to look, in words, and the values there."""

    def made(make: Callable[[Tensor], Tensor], size: float = 1.0) -> list[Tensor]:
        values = [make(size * _normal(t, chance)) for t in passes.given]
        return [domain.moved(n, t) for n, t in zip(passes.names, values, strict=True)]

    def with_one_large(t: Tensor) -> Tensor:
        t.view(-1)[t.numel() // 2 :][:1] = 1e3
        return t

    if not shapes:
        yield "the inputs", passes.given
    for size in SIZES:
        yield f"random inputs of size {size:g}{shapes}", made(torch.clone, size)
    yield f"zeros{shapes}", made(torch.zeros_like)
    yield f"ties{shapes}", made(torch.round)
    yield f"one large entry{shapes}", made(with_one_large)


def directions(trial: Trial, k: int, chance: torch.Generator) -> Iterator[Tensor]:
    """Yield directions in one value: a random one, and single entries, the largest among them."""
    x, g = trial.values[k], trial.by_hand[k]
    if x.numel():
        yield _normal(x, chance)
        entries = [int(t.abs().nan_to_num().argmax()) for t in (x, g)]
        some = int(torch.randint(x.numel(), (), generator=chance))
        yield from (along_entry(x, entry) for entry in dict.fromkeys([*entries, some]))


def along_entry(x: Tensor, entry: int) -> Tensor:
    """Return the direction of one entry of x."""
    d = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
    d[entry] = 1
    return d.view(x.shape)


@dataclass(frozen=True)
class Along:
    """⟨g, d⟩ `by_hand` and by differences, `expected`: `right`, or None if they cannot tell."""

    right: bool | None
    by_hand: float
    expected: float
    kink: bool

    @property
    def off(self) -> float:
        """How far the two are apart, as a part of the larger."""
        size = max(abs(self.by_hand), abs(self.expected)) or 1.0
        return abs(self.by_hand - self.expected) / size


# What differs by more than this part of all terms' size is no rounding.
def along(trial: Trial, k: int, d: Tensor) -> Along:
    """Judge a gradient by hand along a direction; what rounding may do is no fault."""
    d = d * ((largest(trial.values[k]) or 1.0) / largest(d))
    found = _judged(trial, k, d, trial.slope(k, d))
    apart, terms = abs(found.by_hand - found.expected), (trial.by_hand[k] * d).abs().sum().item()
    if found.right is False and apart < 1e-3 * (trial.size + terms):
        slack = ALLOWED * (trial.shaken(torch.float64)[k] * d.abs()).sum().item()
        found = _judged(trial, k, d, trial.slope(k, d, trial.noise), slack)
    finite = abs(found.by_hand) < torch.inf
    if found.right is False and finite and not _is_differentiable(trial, k, d, found.expected):
        return replace(found, right=None, kink=True)
    return found


def _judged(trial: Trial, k: int, d: Tensor, found: Slopes, slack: float = 0.0) -> Along:
    by_hand, slope = (trial.by_hand[k] * d)[d != 0].sum(), found.slope[0]
    kink, right = bool(found.kink.any()), None
    sides = torch.stack([by_hand, found.left[0], found.right[0]]).abs()
    if not by_hand.isfinite():  # no slope is
        right = False if kink or found.trusted[0] else None
    elif found.decides(by_hand)[0] and not kink:
        right = bool((by_hand - slope).abs() <= found.tolerance[0] + slack)
    elif (sides <= 1e-6 * trial.size).all():  # 0 but for rounding
        right, slope = True, by_hand
    return Along(right, by_hand.item(), slope.item(), kink)


# A median has a slope along each direction where all entries are alike, but no g gives all of them:
# that along d + e is not the sum of those along d and e.
def _is_differentiable(trial: Trial, k: int, d: Tensor, slope: float) -> bool:
    chance = torch.Generator().manual_seed(3)
    for e in (_normal(d, chance) * largest(d) / 3 for _ in range(2)):
        alone, both = trial.slope(k, e), trial.slope(k, d + e)
        error = (alone.error[0] + both.error[0]).item() + 1e-6 * (trial.size + abs(slope))
        if abs(both.slope[0].item() - alone.slope[0].item() - slope) > 10 * error:
            return False
    return True
