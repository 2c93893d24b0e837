"""Where data come from: by a built-in name, from a .csv or .npy file, or made when needed."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchgd.data import Batches, DataSet, lesson, parabola
from torchgd.experiment.csv_file import named, read_csv
from torchgd.experiment.files import printable


class Column:
    """Numbers `rows` of a column, read or made only when `to` is called; a slice reads nothing.

    `read(a, b)` returns numbers a … b − 1, (b − a,) in float64 on the CPU.
    """

    def __init__(self, read: Callable[[int, int], Tensor], rows: range) -> None:
        self.read, self.rows = read, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> "Column":
        rows = self.rows[part]
        assert rows.step == 1, "a Column has no strides"
        return Column(self.read, rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Read it all."""
        first = self.rows.start
        return self.read(first, first + len(self.rows)).to(device, dtype)


Rows = Tensor | Column


def sha256(x: Rows, y: Rows) -> str:
    """Return the SHA-256 of all x and then all y; of columns their length and 1000 stretches."""
    digest = hashlib.sha256(str(len(x)).encode())
    parts = [slice(0, len(x))]
    if isinstance(x, Column):
        every = -(-len(x) // 1000)
        parts = [slice(k, k + 8) for k in range(0, len(x), every)]
    for column in (x, y):
        for part in parts:
            piece = column[part].to(torch.device("cpu"), torch.float64)
            digest.update(piece.contiguous().numpy().data)
    return digest.hexdigest()


DATASETS = Path(__file__).parent.parent / "datasets"
# The built-in files there, NAME.csv: the units of x and y.
FILES = {
    "noint1": ("", ""),
    "norris": ("", ""),
    "pontius": ("", ""),
    "hubble": ("Mpc", "km/s"),
    "cars": ("mph", "ft"),
    "co2": ("months", "ppm"),
}
LARGE = 2**30  # bytes
BLOCK = 2**16  # synthetic points
NAMES = ("lesson", "parabola", *FILES)


def synthetic(count: int, seed: int, curved: bool) -> DataSet:
    """N points on y = 2x, or y = 3x² + 2x + 1 if `curved`, with noise of deviation 0.1.

    Block b of 2¹⁶ points is drawn from the seed and b alone, x uniformly at random on
    [−1, 1], so that any part of them can be made without the rest.
    """

    @lru_cache(maxsize=32)
    def block(b: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([seed, b])
        x = torch.from_numpy(random.uniform(-1, 1, BLOCK))
        noise = torch.from_numpy(random.normal(0, 0.1, BLOCK))
        return x, (3 * x**2 + 2 * x + 1 if curved else 2 * x) + noise

    def read(column: int, a: int, b: int) -> Tensor:
        first, last = a // BLOCK, -(-b // BLOCK)
        some = [block(k)[column] for k in range(first, last)]
        return torch.cat([*some, torch.empty(0, dtype=torch.float64)])[a - first * BLOCK :][: b - a]

    return held("synthetic", count, read)


def held(name: str, count: int, read: Callable[[int, int, int], Tensor]) -> DataSet:
    """Return the data set of which `read(column, a, b)` reads a part; LARGE, it is read later."""
    x, y = (Column(partial(read, k), range(count)) for k in range(2))
    if 16 * count > LARGE:
        return DataSet(name, x, y)
    return DataSet(name, x.read(0, count), y.read(0, count))


def load(
    name: str,
    folder: Path = Path(),
    seed: int = 0,
    curved: bool = False,
    columns: str | None = None,
) -> DataSet:
    """Return a built-in data set by its name, else what the .csv or .npy file in `folder` holds.

    synthetic:N are N points of a line or, if `curved`, a parabola (see `synthetic`). Of a .csv file
    with more than two, `columns` says which (see `read_csv`).

    Raises:
        ValueError: there is no such data set or file, or the file does not hold N ≥ 1 pairs of
            finite numbers; the message gives the line.
        OSError: the file cannot be read.
    """
    if columns is not None and not name.endswith(".csv"):
        raise ValueError(f"--columns {columns}: only a .csv file has columns to choose from")
    if name == "lesson":
        return lesson()
    if name == "parabola":
        return parabola()
    if name in FILES:
        x, y, _ = read_csv(DATASETS / f"{name}.csv")
        return DataSet(name, x, y, *FILES[name])
    if name.startswith("synthetic:"):
        count = name.removeprefix("synthetic:")
        if not (count.isdecimal() and 0 < int(count) < 2**63):
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
        return _map_npy(path)
    x, y, names = read_csv(path, columns)
    (x_name, x_unit), (y_name, y_unit) = map(named, names or ("x", "y"))
    return DataSet(printable(path.stem), x, y, x_unit, y_unit, x_name or "x", y_name or "y")


def _map_npy(path: Path) -> DataSet:
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
    floats, fault = array.dtype.kind == "f", "is not finite; remove the row"
    if not floats:
        fault = "is beyond 2⁵³, where float64 lacks some integers; scale it or give floats"

    def read(column: int, a: int, b: int) -> Tensor:
        numbers = array[a:b, column]
        with np.errstate(over="ignore"):  # what is beyond float64 becomes infinite, and is refused
            values = numbers.astype(np.float64)
        good = np.isfinite(values) if floats else (numbers <= 2**53) & (numbers >= -(2**53))
        if not good.all():
            row = a + int(good.argmin())
            raise ValueError(f"{path}, row {row}: {array[row].tolist()} {fault}")
        return torch.from_numpy(values)

    return held(printable(path.stem), len(array), read)


class Slices(Batches):
    """Batches of data that are not in memory, in order: each a slice of x and y, not read yet."""

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
