"""Where data come from: by a built-in name, from a .csv or .npy file, or drawn from a seed."""

import hashlib
import os
import reprlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgd.data import DataSet, lesson, parabola
from torchgd.experiment.csv_file import named, read_csv
from torchgd.experiment.files import printable

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
LARGE = 2**30  # bytes: larger data stay on the disk
# Rows of them at a time: what fits into a CPU's cache, or fills a GPU.
CHUNK = {"cpu": 2**16, "cuda": 2**22}
ROW = 64  # bytes that a row takes in a step by autograd of three parameters
BLOCK = 2**16  # synthetic points, and rows that are hashed at a time
NAMES = ("lesson", "parabola", *FILES)


def sha256(data: DataSet) -> str:
    """Return the SHA-256 of N, all x and then all y, as float64."""
    digest = hashlib.sha256(str(len(data.x)).encode())
    for part in (part for column in (data.x, data.y) for part in column.split(BLOCK)):
        digest.update(part.double().contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()


def chunk_rows(device: torch.device, features: int) -> int:
    """Return how many rows are a chunk: on CUDA they take at most half of the memory now free."""
    rows = CHUNK.get(device.type, CHUNK["cuda"])
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        row = ROW + 16 * (features - 1)  # each column, and what is made of it
        rows = min(rows, 2 ** max(0, (free // (2 * row)).bit_length() - 1))
    return rows


@dataclass(frozen=True)
class Mapped(DataSet):
    """A data set whose numbers stay in a file: a part is read when a computation comes to it.

    Where the file is cut short, the system kills a process that reads beyond its end; and other
    numbers than at the start would make another descent. So `refuse_changes` is to be called before
    the numbers are read again.
    """

    path: Path = Path()
    state: tuple[int, int] = (0, 0)

    def refuse_changes(self) -> None:
        """Raise ValueError if the file's size or time is not what it was."""
        if _state(self.path) != self.state:
            raise ValueError(f"{self.path} has changed while the run read it; give it back")


def _state(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def synthetic(count: int, seed: int, curved: bool) -> DataSet:
    """N points on y = 2x, or y = 3x² + 2x + 1 if `curved`, with noise of deviation 0.1.

    Block b of 2¹⁶ points is drawn from the seed and b alone, x uniformly at random on
    [−1, 1].
    """
    x, y = torch.from_numpy(_room(count))
    for b, (xs, ys) in enumerate(zip(x.split(BLOCK), y.split(BLOCK), strict=True)):
        random = np.random.default_rng([seed, b])
        xs.copy_(torch.from_numpy(random.uniform(-1, 1, BLOCK))[: len(xs)])
        noise = torch.from_numpy(random.normal(0, 0.1, BLOCK))[: len(xs)]
        ys.copy_((3 * xs**2 + 2 * xs + 1 if curved else 2 * xs) + noise)
    return DataSet("synthetic", x, y)


def _room(count: int) -> NDArray[np.float64]:
    """Return room for x and y, (2, N), in memory or, if they are LARGE, in a nameless file."""
    if 16 * count <= LARGE:
        return np.empty((2, count))
    with tempfile.TemporaryFile() as file:
        try:  # now, for a disk that is full later would kill the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 16 * count)
            file.truncate(16 * count)
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
        return np.memmap(file, np.float64, "r+", shape=(2, count))


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
    if name in ("lesson", "parabola"):
        return lesson() if name == "lesson" else parabola()
    if name in FILES:
        x, y, _ = read_csv(DATASETS / f"{name}.csv")
        return DataSet(name, x, y, *FILES[name])
    if name.startswith("synthetic:"):
        count = name.removeprefix("synthetic:")
        if not (count.isdecimal() and len(count) <= 12 and int(count) > 0):
            raise ValueError(
                f"data {reprlib.repr(name)}: give a number of rows below 10¹², such as "
                "synthetic:1000000"
            )
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
        return _read_npy(path)
    x, y, names = read_csv(path, columns)
    *xs, (y_name, y_unit) = map(named, names or ("x", "y"))
    x_name, x_unit = xs[0] if len(xs) == 1 else (", ".join(name or "x" for name, _ in xs), "")
    return DataSet(printable(path.stem), x, y, x_unit, y_unit, x_name or "x", y_name or "y")


def _read_npy(path: Path) -> DataSet:
    """Return an array of shape (N, F + 1), x and last y in columns; if LARGE, by a memory map."""
    state = _state(path)
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except OSError:
        raise
    except Exception as error:  # NumPy has Python's own parser read the header
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a .npy file of numbers ({reason})") from None
    transposed = array.ndim == 2 and len(array) == 2 < array.shape[1]
    if array.ndim != 2 or array.shape[1] < 2 or transposed:
        raise ValueError(f"{path}: shape {array.shape}; give (N, 2), x and y in columns, or more x")
    if len(array) == 0:
        raise ValueError(f"{path}: no data; give at least one row")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: dtype {array.dtype}; give real numbers")
    for k in range(0, len(array), BLOCK):
        _refuse_row(path, k, array[k : k + BLOCK])
    name = printable(path.stem)
    if 8 * array.size <= LARGE:
        return DataSet(name, *_x_and_y(torch.from_numpy(array.astype(np.float64))))
    if array.dtype not in (np.float64, np.float32):  # in the machine's own order of bytes
        raise ValueError(f"{path}: dtype {array.dtype}; save so many rows as float64 or float32")
    return Mapped(name, *_x_and_y(torch.from_numpy(array)), path=path, state=state)


def _x_and_y(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (N,) or (N, F) and y (N,) of a table (N, F + 1), whose last column is y."""
    x, y = table[:, :-1], table[:, -1]
    return (x[:, 0] if x.shape[1] == 1 else x), y


def _refuse_row(path: Path, first: int, rows: NDArray[Any]) -> None:
    """Refuse numbers that float64 has not, by the row that they are in."""
    floats, fault = rows.dtype.kind == "f", "is not finite; remove the row"
    if floats:
        with np.errstate(over="ignore"):  # what is beyond float64 becomes infinite, and is refused
            good = np.isfinite(rows.astype(np.float64)).all(axis=1)
    else:
        fault = "is beyond 2⁵³, where float64 lacks some integers; scale it or give floats"
        good = ((rows <= 2**53) & (rows >= -(2**53))).all(axis=1)
    if not good.all():
        row = int(good.argmin())
        raise ValueError(f"{path}, row {first + row}: {rows[row].tolist()} {fault}")
