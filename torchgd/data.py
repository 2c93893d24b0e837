"""What the models learn from: data sets, batches and standardisation."""

import csv
import hashlib
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor


class Column:
    """Numbers that are read, or made, when they are asked for: it has a length, slices, and `to`.

    `read(a, b)` returns those from a up to b, (b − a,) in float64 on the CPU.
    """

    def __init__(self, read: Callable[[int, int], Tensor], start: int, stop: int) -> None:
        self.read, self.start, self.stop = read, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "Column":
        start, stop, _ = part.indices(len(self))
        return Column(self.read, self.start + start, self.start + max(start, stop))

    def to(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Read it all."""
        return self.read(self.start, self.stop).to(device, dtype)


Rows = Tensor | Column


@dataclass(frozen=True)
class DataSet:
    """N pairs (xₙ, yₙ) in float64 on the CPU, and the units that they are in.

    Shapes: x and y (N,). They are tensors or, where those would fill more than LARGE bytes,
    Columns, which leave the numbers where they are.
    """

    name: str
    x: Any
    y: Any
    x_unit: str = ""
    y_unit: str = ""

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all x and then all y; of Columns their length and 1000 stretches."""
        digest = hashlib.sha256(str(len(self.x)).encode())
        parts = [slice(0, len(self.x))]
        if isinstance(self.x, Column):
            every = -(-len(self.x) // 1000)
            parts = [slice(k, k + 8) for k in range(0, len(self.x), every)]
        for column in (self.x, self.y):
            for part in parts:
                piece = column[part].to(torch.device("cpu"), torch.float64)
                digest.update(piece.contiguous().numpy().data)
        return digest.hexdigest()


# Where the names lead: the file in torchgd/datasets, and the units of x and y.
FILES = {
    "noint1": ("", ""),
    "norris": ("", ""),
    "pontius": ("", ""),
    "hubble": ("Mpc", "km/s"),
    "cars": ("mph", "ft"),
    "co2": ("months", "ppm"),
}
FEW = 1000  # batches
LARGE = 2**30  # bytes
BLOCK = 2**16  # synthetic points
LONGEST_LINE = 10_000  # characters, in a CSV file
NAMES = ("lesson", "parabola", *FILES)


def lesson() -> DataSet:
    """y = 2x at x = 1, 2, 3: hours studied and points won."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    return DataSet("lesson", x, 2 * x, "hours", "points")


def parabola() -> DataSet:
    """y = 3x² + 2x + 1 at 21 points, evenly spaced on [−2, 2]."""
    x = torch.arange(-10, 11, dtype=torch.float64) / 5
    return DataSet("parabola", x, 3 * x**2 + 2 * x + 1)


def synthetic(count: int, seed: int, curved: bool) -> DataSet:
    """N points on y = 2x, or y = 3x² + 2x + 1 if `curved`, with noise of deviation 0.1.

    Block b of 2¹⁶ points is drawn from the seed and b alone, x evenly on [−1, 1], so that any part
    of them can be made without the rest.
    """

    @lru_cache(maxsize=32)
    def block(b: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([seed, b])
        x = torch.from_numpy(random.uniform(-1, 1, BLOCK))
        noise = torch.from_numpy(random.normal(0, 0.1, BLOCK))
        return x, (3 * x**2 + 2 * x + 1 if curved else 2 * x) + noise

    def part(column: int, a: int, b: int) -> Tensor:
        first, last = a // BLOCK, -(-b // BLOCK)
        some = [block(k)[column] for k in range(first, last)]
        return torch.cat([*some, torch.empty(0, dtype=torch.float64)])[a - first * BLOCK :][: b - a]

    x, y = (Column(partial(part, k), 0, count) for k in range(2))
    return held("synthetic", x, y)


def held(name: str, x: Column, y: Column) -> DataSet:
    """Return the data set of two columns, read into memory unless they are LARGE."""
    if 8 * (len(x) + len(y)) > LARGE:
        return DataSet(name, x, y)
    cpu = torch.device("cpu")
    return DataSet(name, x.to(cpu, torch.float64), y.to(cpu, torch.float64))


def load(name: str, folder: Path = Path(), seed: int = 0, curved: bool = False) -> DataSet:
    """Return a built-in data set by its name, else what the .csv or .npy file in `folder` holds.

    synthetic:N are N points of a line or, if `curved`, a parabola (see `synthetic`).

    Raises:
        ValueError: there is no such data set or file, or the file does not hold N ≥ 1 pairs of
            finite numbers; the message gives the line.
        OSError: the file cannot be read.
    """
    if name == "lesson":
        return lesson()
    if name == "parabola":
        return parabola()
    if name in FILES:
        with as_file(files("torchgd.datasets") / f"{name}.csv") as path:
            x, y = _read_csv(path)
        return DataSet(name, x, y, *FILES[name])
    if name.startswith("synthetic:"):
        count = name.removeprefix("synthetic:")
        if not (count.isascii() and count.isdecimal() and len(count) <= 18 and int(count) > 0):
            raise ValueError(f"data {name!r}: give a number of rows, such as synthetic:1000000")
        return synthetic(int(count), seed, curved)
    path = folder / name
    if not path.is_file():
        if os.path.lexists(path):
            raise ValueError(f"data {str(path)!r} is no regular file; give a .csv or .npy file")
        raise ValueError(
            f"data {str(path)!r}: no such file and no built-in data set; "
            f"choose {', '.join(NAMES)}, or give a .csv or .npy file"
        )
    if path.suffix == ".npy":
        return held(path.stem, *_map_npy(path))
    return DataSet(path.stem, *_read_csv(path))


def _read_csv(path: Path) -> tuple[Tensor, Tensor]:
    """Read two columns of numbers, under a header or none."""
    pairs = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(_lines(file, path), strict=True)
            for row in lines:
                where = f"{path}, line {lines.line_num}"
                if row and not (lines.line_num == 1 and _is_header(row)):
                    pairs.append(_pair(row, where))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file ({error}); give two columns, x,y") from None
    if not pairs:
        raise ValueError(f"{path}: no data; give two columns, x,y, and at least one row")
    x, y = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    return x.contiguous(), y.contiguous()


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines, none of which is held if it is far too long for two numbers."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise ValueError(
                f"{path}: a line of {LONGEST_LINE} characters or more; give two numbers a line, x,y"
            )
        yield line


def _number(text: str) -> float | None:
    """Parse a number as files write it, without what Python allows beside: 1_000 and ١."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _is_header(row: list[str]) -> bool:
    return not any(re.match(r"\s*[-+.]?\d|\s*[-+]?(nan|inf)", cell, re.I) for cell in row)


def _pair(row: list[str], where: str) -> tuple[float, float]:
    if len(row) != 2:
        found = next((mark for mark in ";\t|" if any(mark in cell for cell in row)), None)
        hint = "" if found is None else f", not {found!r}, and write numbers with a point"
        raise ValueError(f"{where}: columns: {len(row)}; give two, separated by a comma, x,y{hint}")
    values = []
    for cell in row:
        value, shown = _number(cell), reprlib.repr(cell)
        if value is None:
            raise ValueError(f"{where}: {shown} is not a number; give two numbers, x,y")
        if not math.isfinite(value):
            raise ValueError(f"{where}: {shown} is not finite; remove the row")
        values.append(value)
    return values[0], values[1]


def _map_npy(path: Path) -> tuple[Column, Column]:
    """Map an array of shape (N, 2), x and y in columns, of which a row is read when it is asked."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy has Python's own parser read the header
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a .npy file of numbers ({reason})") from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{path}: shape {array.shape}; give (N, 2), x and y in columns")
    if len(array) == 0:
        raise ValueError(f"{path}: no data; give at least one row")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: dtype {array.dtype}; give real numbers")

    def read(column: int, a: int, b: int) -> Tensor:
        with np.errstate(over="ignore"):  # what is beyond float64 becomes infinite, and is refused
            values = torch.from_numpy(array[a:b, column].astype(np.float64))
        good = values.isfinite() if array.dtype.kind == "f" else values.abs() <= 2**53
        if not good.all():
            row = a + int((~good).nonzero()[0])
            what = "is not finite; remove the row"
            if array.dtype.kind != "f":
                what = "is beyond 2⁵³, where float64 lacks some integers; scale it or give floats"
            raise ValueError(f"{path}, row {row}: {array[row].tolist()} {what}")
        return values

    x, y = (Column(partial(read, k), 0, len(array)) for k in range(2))
    return x, y


def require_floats(name: str, t: Tensor) -> None:
    """Refuse what is no tensor of floating-point numbers."""
    if not (isinstance(t, Tensor) and t.is_floating_point()):
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} is {kind}: give a tensor of floating-point numbers")


class Batches:
    """The data in batches of (x, y): iterable again each epoch, in order or shuffled.

    An epoch visits every sample once, `batch_size` at a time; where N is no multiple of it, the
    last batch is the smaller rest. Shuffled, the order depends on `seed` and the epoch alone;
    `set_epoch` says which one comes next, as with torch's DistributedSampler.

    Shapes: x and y (N,); each batch's x and y (B,), on the data's device.

    Raises:
        TypeError: x or y is no tensor of floating-point numbers, batch_size or seed no integer.
        ValueError: x and y are not one-dimensional, of one length and not empty, or hold what is
            not finite; batch_size is not between 1 and N, or seed is negative.
    """

    def __init__(
        self, x: Tensor, y: Tensor, batch_size: int = 1, shuffle: bool = False, seed: int = 0
    ) -> None:
        require_floats("x", x)
        require_floats("y", y)
        if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: "
                "give both as (N,) with the same N of at least 1"
            )
        for name, t in (("x", x), ("y", y)):
            if not t.isfinite().all():
                where = int((~t.isfinite()).nonzero()[0])
                raise ValueError(f"{name}[{where}] is {t[where].item()}: remove the sample")
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
        most = FEW * self.batch_size  # to split is faster than to slice, but all at once is much
        for k in range(0, len(x), most):
            yield from self._split(x[k : k + most], y[k : k + most])

    @cached_property
    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(self._split(self.x, self.y))

    def _split(self, x: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(x.split(self.batch_size), y.split(self.batch_size), strict=True)

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Return all of x and y (N,) in the order in which the epoch visits them."""
        if not self.shuffle:
            return self.x, self.y
        order = self._order()
        return self.x[order], self.y[order]

    def _order(self) -> Tensor:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.x))
        return torch.from_numpy(order).to(self.x.device, non_blocking=True)


class StreamedBatches(Batches):
    """Batches in order of rows that are read when they are asked for: parts of x and y, unread."""

    def __init__(self, x: Any, y: Any, batch_size: int) -> None:
        if not 1 <= batch_size <= len(x):
            raise ValueError(
                f"batch size {batch_size}: it must be between 1 and the number of samples, {len(x)}"
            )
        self.x, self.y, self.batch_size = x, y, batch_size
        self.shuffle, self.seed, self.epoch = False, 0, 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for k in range(0, len(self.x), self.batch_size):
            yield self.x[k : k + self.batch_size], self.y[k : k + self.batch_size]


@dataclass(frozen=True)
class Standardization:
    """z = (x − mean)/deviation, a pure number; descent on z is far better conditioned.

    `mean` and `deviation` are in x's unit.

    `Model.in_original_units` maps what is learned over z back to x.
    """

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.deviation < math.inf):
            raise ValueError(
                f"mean {self.mean} and deviation {self.deviation}: give finite numbers, the second "
                "above 0"
            )

    @classmethod
    def of(cls, x: Tensor, center: bool = True) -> "Standardization":
        """mean = (1/N) Σ xₙ and deviation = √((1/N) Σ (xₙ − mean)²), of x (N,).

        Without `center` (a line through the origin must stay one) the mean is 0, which leaves
        the root mean square.

        Raises:
            ValueError: the deviation is 0, to the rounding of x, or not finite, or x is not (N,).
            TypeError: x has no floating-point numbers.
        """
        require_floats("x", x)
        if x.ndim != 1 or len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: give (N,) with at least two samples")
        mean = x.mean().item() if center else 0.0
        deviation = (x - mean).square().mean().sqrt().item()
        rounding = 4 * torch.finfo(x.dtype).eps * x.abs().max().item()
        if not rounding < deviation < math.inf:
            raise ValueError(
                f"the deviation of x is {deviation:g}: standardising divides by it; train without"
            )
        return cls(mean, deviation)

    def __call__(self, x: Tensor) -> Tensor:
        """Return z for x of any shape."""
        return (x - self.mean) / self.deviation
