"""What a run leaves on disk, written as it goes, and read back.

A run's directory holds the event file, `config.json`, `trajectory.csv`, `checkpoint.pt` and
`result.json`.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout

from torchgd.experiment.checkpoint import CHECKPOINT, Checkpoint
from torchgd.experiment.events import Events
from torchgd.experiment.files import read_json, regular, write_json
from torchgd.models import DTYPES
from torchgd.trajectory import Stopped, Trajectory

TABLE = "trajectory.csv"

# As many significant digits as tell any two numbers of the type apart.
DIGITS = {torch.float32: ".9g", torch.float64: ".17g"}


def runs_in(path: Path) -> list[Path]:
    """Return the runs in runs/NAME, such as manual and autograd, or in a sweep; else the path."""
    files = [*path.glob(f"*/{TABLE}")] or [*path.glob(f"*/*/{TABLE}")]
    inside = sorted(file.parent for file in files)
    # By hand, or right, comes first, by whatever name the other comes.
    return sorted(inside, key=lambda run: (run.name not in ("manual", "right"), run.name)) or [path]


def read_run(directory: Path) -> tuple[dict[str, Any], Trajectory]:
    """Return config.json and the trajectory that a run left in `directory`, to the bit.

    Raises:
        ValueError: `directory` holds no run, or a damaged one.
        OSError: a file cannot be read.
    """
    if not (directory / TABLE).is_file():
        raise ValueError(
            f"{directory} holds no trajectory.csv: give a run's directory, such as runs/NAME/manual"
        )
    config = read_json(directory / "config.json")
    try:
        text = (directory / TABLE).read_text(encoding="utf-8")
        trajectory = _parse(text, DTYPES[config["dtype"]])
        if len(trajectory.step) == 0:
            raise ValueError("trajectory.csv has no row")
    except (ValueError, KeyError, TypeError, RuntimeError, csv.Error) as error:
        raise ValueError(f"{directory} holds a damaged run ({error}); run it again") from None
    return config, trajectory


def read_result(directory: Path) -> dict[str, Any]:
    """Return result.json, which a run leaves when it ends.

    Raises:
        ValueError: there is none, or it is damaged.
        OSError: it cannot be read.
    """
    file = directory / "result.json"
    if not file.is_file():
        raise ValueError(
            f"{directory} has no result.json: the run is still being written, or was killed; "
            "wait for its end, or go on with it: train.py --resume"
        )
    result = read_json(file)
    for name, kind in (("steps", int), ("stopped", str)):
        if not isinstance(result.get(name), kind):
            raise ValueError(f"{file} is damaged (no {name!r}); run it again")
    return result


def _parse(text: str, dtype: torch.dtype) -> Trajectory:
    """Return the trajectory that the text of a trajectory.csv holds, to the bit.

    The last row may have weights alone; then the trajectory ends there.
    """
    if text and not text.endswith("\n"):
        raise ValueError("the last line of trajectory.csv is cut off")
    head, *rows = csv.reader(text.splitlines())
    names = tuple(t.removeprefix("weight/") for t in head if t.startswith("weight/"))
    if head != ["step", "epoch", *_tags(names)]:
        raise ValueError(f"trajectory.csv has the columns {','.join(head)}")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise ValueError(f"trajectory.csv, line {line}: {len(row)} columns of {len(head)}")
    no_final = [not tag.startswith("weight/") for tag in head[2:]]
    ended = bool(rows) and [text == "" for text in rows[-1][2:]] == no_final
    if any("" in row for row in (rows[:-1] if ended else rows)):
        raise ValueError("trajectory.csv has an empty field")
    values = [[float(text or 0) for text in row[2:]] for row in rows]
    return Trajectory(
        names,
        step=torch.tensor([int(row[0]) for row in rows], dtype=torch.int64),
        epoch=torch.tensor([int(row[1]) for row in rows], dtype=torch.int64),
        table=torch.tensor(values, dtype=dtype).reshape(len(rows), len(head) - 2),
        stopped=Stopped.FINISHED if ended else None,
    )


def _tags(names: Iterable[str]) -> list[str]:
    """The columns of a trajectory, which are TensorBoard's tags too."""
    return ["loss", *(f"{kind}/{name}" for kind in ("weight", "gradient") for name in names)]


@dataclass(frozen=True)
class Start:
    """Where a run goes on: its checkpoint, and what was recorded before it.

    `trajectory` is that of the first `checkpoint.rows_length` bytes of trajectory.csv.
    """

    checkpoint: Checkpoint
    trajectory: Trajectory

    @classmethod
    def read(cls, directory: Path, checkpoint: Checkpoint, keeps: Callable[[int], bool]) -> "Start":
        """Read what `checkpoint`, of the run in `directory`, goes on from.

        The final row goes, and one that was recorded for being the last step's, unless the run
        `keeps` that.

        Raises:
            ValueError: trajectory.csv is not the one that the checkpoint is of.
            OSError: it cannot be read.
        """
        path = directory / TABLE
        content = regular(path).read_bytes()[: checkpoint.rows_length]
        if hashlib.sha256(content).hexdigest() != checkpoint.rows_sha256:
            raise ValueError(
                f"{path} is damaged: its first {checkpoint.rows_length} bytes are not those that "
                f"{CHECKPOINT} is of; give them back, or remove both and the run starts again"
            )
        text, dtype = content.decode(), DTYPES[checkpoint.identity["dtype"]]
        trajectory = _parse(text, dtype)
        last = trajectory.step[-1:].tolist()
        if trajectory.stopped or not all(map(keeps, last)):
            kept = "".join(text.splitlines(keepends=True)[:-1]).encode()
            trajectory, digest = _parse(kept.decode(), dtype), hashlib.sha256(kept).hexdigest()
            checkpoint = replace(checkpoint, rows_length=len(kept), rows_sha256=digest)
        return cls(checkpoint, trajectory)


class RunWriter:
    """Writes one run into `directory`, as it goes; a context manager.

    `config` is everything needed to run it again. Each recorded step becomes a row of
    trajectory.csv, which keeps every bit, and one event for TensorBoard (see `Events`).

    A run that is there goes on from its `start` or, without one, starts again. What it wrote of
    later steps goes: trajectory.csv is cut off, and TensorBoard told to forget.

    Raises:
        ValueError: another process is writing there.
        OSError: the directory or a file in it cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        names: Sequence[str],
        start: Start | None = None,
    ) -> None:
        self.directory = directory
        self.digits = DIGITS[DTYPES[config["dtype"]]]
        self.tags = _tags(names)
        settled = directory / "config.json"
        recorded = start is not None and len(start.trajectory.step) > 0
        known = recorded and read_json(settled) == config  # and so TensorBoard knows it too
        directory.mkdir(exist_ok=True)
        with ExitStack() as opened:
            opened.enter_context(_only_writer(directory))
            write_json(settled, config)
            (directory / "result.json").unlink(missing_ok=True)  # which says that a run has ended
            self.file = opened.enter_context(self._open_table(start))
            purge_step = int(start.trajectory.step[-1]) + 1 if start and recorded else 0
            self.events = Events(directory, purge_step)
            opened.callback(self.events.close)
            self.events.introduce(config, self.tags, again=known)
            self.opened = opened.pop_all()

    def _open_table(self, start: Start | None) -> BinaryIO:
        """Open trajectory.csv, with the rows before `start` alone, for more."""
        path = self.directory / TABLE
        if start is None:
            file = path.open("wb")
            self.length, self.sha256 = 0, hashlib.sha256()
            self._append(file, [["step", "epoch", *self.tags]])
            return file
        # The one that is there may be of a row more, and so would not fit what is left.
        start.checkpoint.save(self.directory / CHECKPOINT)
        self.length = start.checkpoint.rows_length
        os.truncate(path, self.length)
        self.sha256 = hashlib.sha256(path.read_bytes())
        return path.open("ab")

    def _append(self, file: BinaryIO, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        content = text.getvalue().encode()
        file.write(content)
        file.flush()
        self.length += len(content)
        self.sha256.update(content)

    def record(self, piece: Trajectory) -> None:
        """Write a piece of the trajectory through to the disk."""
        rows = [*piece.rows()]
        self._append(
            self.file, ([step, epoch, *self._texts(values)] for step, epoch, values in rows)
        )
        self.events.record(self.tags, ((step, values) for step, _, values in rows))

    def _texts(self, values: list[float | None]) -> list[str]:
        return ["" if v is None else format(v, self.digits) for v in values]

    def save(self, **state: Any) -> None:
        """Save a checkpoint of this state, once all rows are on the disk."""
        os.fsync(self.file.fileno())
        digest = self.sha256.hexdigest()
        checkpoint = Checkpoint(**state, rows_length=self.length, rows_sha256=digest)
        checkpoint.save(self.directory / CHECKPOINT)

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json."""
        write_json(self.directory / "result.json", result)
        self.events.finish(result)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.opened.close()


@contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Keep other processes from writing to a run; the system lets go when this one ends."""
    try:
        held = FileLock(directory / ".lock").acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"{directory}: another process is writing this run; wait for its end or stop it"
        ) from None
    with held:
        yield
