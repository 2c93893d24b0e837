"""What the models learn from: the lesson's points, batches and standardisation."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

FAR = 4.0  # deviations from 0, at which y has lost two bits
FEW = 1000  # batches that are split at once
PART = 2**22  # numbers that are looked at together: torch copies a column of a table to do so


@dataclass(frozen=True)
class DataSet:
    """N pairs (xₙ, yₙ) in float64 on the CPU, with names and units.

    Shapes: x (N,) or, of F > 1 columns, (N, F), and y (N,); tensors or, for data larger than
    memory, columns that are read in parts. `x_name` then has the columns' names.
    """

    name: str
    x: Any
    y: Any
    x_unit: str = ""
    y_unit: str = ""
    x_name: str = "x"
    y_name: str = "y"

    @property
    def features(self) -> int:
        """F, how many columns x has."""
        return 1 if self.x.ndim == 1 else int(self.x.shape[1])

    @property
    def x_word(self) -> str:
        """The word after a value of x: its unit, or else its name, if it has one."""
        return self.x_unit or ("" if self.x_name == "x" else self.x_name)


def lesson() -> DataSet:
    """y = 2x at x = 1, 2, 3: hours studied and points won."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    return DataSet("lesson", x, 2 * x, "hours", "points")


def parabola() -> DataSet:
    """y = 3x² + 2x + 1 at 21 points, evenly spaced on [−2, 2]."""
    x = torch.arange(-10, 11, dtype=torch.float64) / 5
    return DataSet("parabola", x, 3 * x**2 + 2 * x + 1)


def require_floats(name: str, t: Tensor) -> None:
    """Raise TypeError unless t is a tensor of floating-point numbers."""
    if not (isinstance(t, Tensor) and t.is_floating_point()):
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} is {kind}: give a tensor of floating-point numbers")


def require_finite(name: str, t: Tensor) -> None:
    """Raise ValueError if one of the numbers t (N,) or (N, F) is infinite or NaN."""
    for first, part in zip(range(0, len(t), PART), t.split(PART), strict=True):
        if not torch.stack(part.aminmax()).isfinite().all():  # both are NaN if one is
            where = (~part.isfinite()).nonzero()[0]
            value = part[tuple(where)].item()
            where[0] += first
            place = "][".join(map(str, where.tolist()))
            raise ValueError(f"{name}[{place}] is {value}: remove the sample")


class Batches:
    """The data in batches of (x, y): iterable again each epoch, in order or shuffled.

    An epoch visits every sample once, `batch_size` at a time; where N is no multiple of it, the
    last batch is the smaller rest. Shuffled, the order depends on `seed` and the epoch alone;
    `set_epoch` says which one comes next, as with torch's DistributedSampler.

    Shapes: x (N,) or (N, F) and y (N,); each batch's x (B,) or (B, F) and y (B,), on the data's
    device.

    Raises:
        TypeError: x or y is no tensor of floating-point numbers, batch_size or seed no integer.
        ValueError: x and y are not of these shapes, or empty, or hold what is not finite;
            batch_size is not between 1 and N, or seed is negative.
    """

    def __init__(
        self, x: Tensor, y: Tensor, batch_size: int = 1, shuffle: bool = False, seed: int = 0
    ) -> None:
        require_floats("x", x)
        require_floats("y", y)
        if x.ndim not in (1, 2) or y.shape != x.shape[:1] or 0 in x.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: give x as (N,), or of F "
                "columns as (N, F), and y as (N,), with the same N of at least 1"
            )
        require_finite("x", x)
        require_finite("y", y)
        for name, value in (("batch size", batch_size), ("seed", seed)):
            if type(value) is not int:
                raise TypeError(f"{name} {value!r}: give an integer")
        if not 1 <= batch_size <= len(x):
            raise ValueError(
                f"batch size {batch_size}: it must be between 1 and the number of samples, "
                f"{len(x)}; {len(x)} is the full batch"
            )
        if seed < 0:
            raise ValueError(f"seed {seed}: it must be at least 0")
        self.x, self.y = x, y
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch = 0

    def __len__(self) -> int:
        """The number of batches, and so of steps, in an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, counted from 0."""
        if type(epoch) is not int or epoch < 0:
            raise ValueError(f"epoch {epoch!r}: give an integer of at least 0")
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if len(self) <= FEW and not self.shuffle:
            yield from self._pairs
            return
        x, y = self.in_order()
        most = FEW * self.batch_size  # split is faster than slices, but makes all views at once
        for k in range(0, len(x), most):
            yield from self._split(x[k : k + most], y[k : k + most])

    @cached_property
    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(self._split(self.x, self.y))

    def _split(self, x: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(x.split(self.batch_size), y.split(self.batch_size), strict=True)

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Return all of x and y in the order in which the epoch visits them."""
        if not self.shuffle:
            return self.x, self.y
        order = self.order()
        return self.x[order], self.y[order]

    def order(self) -> Tensor:
        """Return the samples' numbers (N,) in the order in which a shuffled epoch visits them."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.x))
        there = torch.from_numpy(order)
        if self.x.is_cuda:
            there = there.pin_memory()  # else CUDA stages the copy, and the host waits for that
        return there.to(self.x.device, non_blocking=True)


@dataclass(frozen=True)
class Standardization:
    """z = (x − mean)/deviation, a pure number; descent on z is far better conditioned.

    One learning rate then suits all weights. `mean` and `deviation` are in x's unit; where x has F
    columns they are lists of F numbers. What is learned is y − offset, in y's unit (see
    `offset_of`).

    `Model.in_original_units` maps what is learned over z back to x.
    """

    mean: float | list[float]
    deviation: float | list[float]
    offset: float = 0.0

    def __post_init__(self) -> None:
        mean, deviation = self._tensors
        alike = mean.shape == deviation.shape
        if not (alike and (mean.isfinite() & (deviation > 0) & deviation.isfinite()).all()):
            raise ValueError(
                f"mean {self.mean} and deviation {self.deviation}: give finite numbers, the second "
                "above 0, and as many of each"
            )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(v, dtype=torch.float64) for v in (self.mean, self.deviation))

    @classmethod
    def of(cls, x: Tensor, center: bool = True) -> "Standardization":
        """mean = (1/N) Σ xₙ and deviation = √((1/N) Σ (xₙ − mean)²), of x (N,) or each column.

        Without `center` (a line through the origin must stay one) the mean is taken to be 0, and
        the deviation is the root mean square.

        Raises:
            ValueError: the deviation is 0, to the rounding of x, or not finite, or x is neither
                (N,) nor (N, F).
            TypeError: x has no floating-point numbers.
        """
        require_floats("x", x)
        if x.ndim not in (1, 2) or 0 in x.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: give (N,) or (N, F) with at least one sample"
            )
        mean = x.mean(dim=0) if center else x.new_zeros(x.shape[1:])
        deviation = (x - mean).square().mean(dim=0).sqrt()
        rounding = 4 * torch.finfo(x.dtype).eps * x.abs().amax(dim=0)
        good = (rounding < deviation) & deviation.isfinite()
        if not good.all():
            what = (
                "x" if x.ndim == 1 else f"column {int(good.int().argmin())} of x, counted from 0,"
            )
            raise ValueError(
                f"the deviation of {what} is {deviation[~good][0]:g}: standardising divides by it; "
                "train without"
            )
        return cls(mean.tolist(), deviation.tolist())

    def __call__(self, x: Tensor) -> Tensor:
        """Return z for x of any shape or, of several columns, (…, F)."""
        mean, deviation = (t.to(x) for t in self._tensors)
        return (x - mean) / deviation


# ŷ − y is rounded to ε·|y|, while what is learned of y is how it deviates: log₂(|mean|/deviation)
# bits are lost. An x far from 0 makes y so, too: y = 2x + 1 at 10⁶ ± 10⁻⁴ loses 33 of 53.
def offset_of(y: Tensor) -> float:
    """Return the mean of y (N,) if it is more than FAR of its deviations from 0, else 0.

    y less its mean is then exact, but for the last bit.
    """
    mean = y.mean().item()
    deviation = (y - mean).square().mean().sqrt().item()
    return mean if FAR * deviation < abs(mean) < math.inf else 0.0
