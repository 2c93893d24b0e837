"""Where do two trajectories part, and how far?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgd.training import Update
from torchgd.trajectory import Stopped, Trajectory


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    `identical`: weights, gradients and loss agree at every recorded step, to the last bit.
    `max_abs` and `max_ulp`: the largest difference between two weights, as a number and in units
    in the last place. `first_difference`: the first step at which anything differs, and in which
    parameter ("loss" if in the loss alone, None if only one of the two has that step, or diverged).
    """

    identical: bool
    max_abs: float
    max_ulp: int
    first_difference: tuple[int, str | None] | None

    def within(self, max_ulp: int) -> bool:
        """Whether the weights are at most `max_ulp` apart, step by step; for 0, all is identical.

        Where only one of the two has a step, or diverged, they are not.
        """
        if self.first_difference is None:
            return True
        _, parameter = self.first_difference
        return parameter is not None and self.max_ulp <= max_ulp and max_ulp > 0

    def as_dict(self) -> dict[str, Any]:
        """Return what comparison.json holds."""
        first = self.first_difference
        named = first and {"step": first[0], "parameter": first[1]}
        return {**asdict(self), "first_difference": named}


def ulps(a: Tensor, b: Tensor) -> NDArray[np.uint64]:
    """|a − b| in units in the last place: how many floating-point numbers lie between them.

    The bits of a float, read as an integer, count the floats from 0 up; negative ones count
    down. −0 and 0 are 0 apart, and so are two NaNs. Shapes: a, b and the result alike, any.

    Raises:
        ValueError: a and b differ in dtype, or are neither float32 nor float64.
    """
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}.get(a.dtype)
    if a.dtype != b.dtype or bits is None:
        raise ValueError(f"dtypes {a.dtype} and {b.dtype}: give two float32 or two float64")

    def position(t: Tensor) -> Tensor:
        integer = t.contiguous().view(bits).to(torch.int64)
        magnitude = integer & torch.iinfo(bits).max
        return torch.where(integer < 0, -magnitude, magnitude)

    p, q = position(a), position(b)
    # Between numbers of opposite signs this wraps around 63 bits, but into the right 64.
    distance = torch.maximum(p, q) - torch.minimum(p, q)
    return torch.where(a.isnan() & b.isnan(), 0, distance).numpy().view(np.uint64)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """|a − b|, which is 0 also between infinities of one sign and between two NaNs."""
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0, a - b).abs()


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Whether the bits are not the same, elementwise; any NaN is like any other."""
    same = (a == b) & (a.signbit() == b.signbit())
    return ~(same | (a.isnan() & b.isnan()))


def compare(a: Trajectory, b: Trajectory) -> Comparison:
    """Return how far apart two trajectories are, and where they first differ.

    Compared is all that both have: the weights at each step that both recorded, the loss and the
    gradients unless one of them has none there. Within a step the weights come first, because the
    gradients and the loss follow from them.

    Raises:
        ValueError: they are not of the same parameters and dtype, or have no step in common.
    """
    if a.names != b.names:
        given = f"{list(a.names)} and {list(b.names)}"
        raise ValueError(f"parameters {given}: compare runs of one model")
    in_a, in_b = torch.isin(a.step, b.step), torch.isin(b.step, a.step)
    if not in_a.any():
        raise ValueError(
            f"steps {_span(a)} and {_span(b)}: no step is in both; record the same ones"
        )
    step, p, q = a.step[in_a], a.table[in_a], b.table[in_b]
    weights = slice(1, 1 + len(a.names))
    columns = [*a.names, *a.names, "loss"]
    parted = differs(p, q).roll(-1, dims=1)  # the loss comes last
    final = torch.cat([_final(a), _final(b)])
    parted[torch.isin(step, final), len(a.names) :] = False  # there is neither loss nor gradient
    alone = torch.cat([a.step[~in_a], b.step[~in_b]])
    first: tuple[int, str | None] | None = None
    if parted.any():
        row, column = parted.nonzero()[0].tolist()
        first = int(step[row]), columns[column]
    elif len(alone):
        first = int(alone.min()), None
    elif (a.stopped is Stopped.DIVERGED) != (b.stopped is Stopped.DIVERGED):
        first = int(step[-1]), None
    return Comparison(
        identical=first is None,
        max_abs=difference(p[:, weights], q[:, weights]).max().item(),
        max_ulp=int(ulps(p[:, weights], q[:, weights]).max()),
        first_difference=first,
    )


def _final(t: Trajectory) -> Tensor:
    """The step (1,) at which there are the final weights alone, and zeros; (0,) if there is none.

    Where a loss is not finite, the last row is that of a step, with all that it recorded.
    """
    others = t.table[t.recorded :].clone()
    others[:, 1 : 1 + len(t.names)] = 0
    return t.step[t.recorded :][(others == 0).all(dim=1)]


def _span(t: Trajectory) -> str:
    return f"{int(t.step[0])} to {int(t.step[-1])}" if len(t.step) else "none"


def which_half_differs(descend: Callable[[Update], Trajectory], a: Update, b: Update) -> str:
    """Name the half in which `a` differs from `b`: its gradient or its update of the weights.

    `descend` trains anew with an update. We train with the two mixed pairs: `a`'s gradient with
    `b`'s optimizer, and the reverse.
    """
    reference, halves = descend(b), {"gradient": (a[0], b[1]), "update": (b[0], a[1])}
    guilty = [n for n, mixed in halves.items() if not compare(descend(mixed), reference).identical]
    return " and ".join(guilty) or "gradient and update together"
