"""Where two trajectories part."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgd.trajectory import Trajectory


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    `identical`: weights, gradients and loss agree at every recorded step, to the last bit.
    `max_abs` and `max_ulp`: the largest difference between two weights, as a number and in units
    in the last place. `first_difference`: the first step at which anything differs, and in which
    parameter ("loss" if in the loss alone, None if only one of the two has that step).
    """

    identical: bool
    max_abs: float
    max_ulp: int
    first_difference: tuple[int, str | None] | None

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

    def count(t: Tensor) -> NDArray[np.uint64]:
        integer = t.contiguous().view(bits).to(torch.int64)
        magnitude = (integer & torch.iinfo(bits).max).numpy().astype(np.uint64)
        zero = np.uint64(2**63)
        return np.where(integer.numpy() < 0, zero - magnitude, zero + magnitude)

    p, q = count(a), count(b)
    both_nan = (a.isnan() & b.isnan()).numpy()
    return np.where(both_nan, np.uint64(0), np.where(p > q, p - q, q - p))


def _differs(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise: are the bits not the same (any NaN being like any other)?"""
    same_sign = a.signbit() == b.signbit()
    return ~(((a == b) & same_sign) | (a.isnan() & b.isnan()))


def compare(a: Trajectory, b: Trajectory) -> Comparison:
    """Return how far apart two trajectories are, and where they first differ.

    Within a step, the weights are looked at first: they cause what follows. Trajectories of
    different lengths are compared as far as both go.

    Raises:
        ValueError: they are not of the same parameters, dtype and recorded steps.
    """
    if list(a.weights) != list(b.weights):
        raise ValueError(
            f"parameters {list(a.weights)} and {list(b.weights)}: compare runs of one model"
        )
    rows, losses = min(len(a.step), len(b.step)), min(len(a.loss), len(b.loss))
    if not torch.equal(a.step[:rows], b.step[:rows]):
        raise ValueError("the recorded steps differ: record both at the same interval")
    weights = [(name, w[:rows], b.weights[name][:rows]) for name, w in a.weights.items()]
    effects = [(name, g[:losses], b.gradients[name][:losses]) for name, g in a.gradients.items()]
    effects += [("loss", a.loss[:losses], b.loss[:losses])]
    first = _first_difference(weights + effects)
    if first is None and len(a.step) != len(b.step):
        first = rows, None
    return Comparison(
        identical=first is None,
        max_abs=max((p - q).abs().max().item() for _, p, q in weights),
        max_ulp=max(int(ulps(p, q).max()) for _, p, q in weights),
        first_difference=first and (int(max(a.step, b.step, key=len)[first[0]]), first[1]),
    )


def _first_difference(columns: list[tuple[str, Tensor, Tensor]]) -> tuple[int, str | None] | None:
    """Return the first row in which a column differs, and the column; of several, the first."""
    found = [
        (int(different.nonzero()[0]), name)
        for name, p, q in columns
        if (different := _differs(p, q)).any()
    ]
    return min(found, key=lambda row_and_name: row_and_name[0], default=None)
