"""What a run leaves on disk. The only file that imports TensorBoard.

A run's directory holds the event file, `config.json`, `trajectory.csv`, `checkpoint.pt` and
`result.json`.
"""

import csv
import io
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from filelock import FileLock, Timeout
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, hparams, text

from torchgd.experiment.files import read_json, replacing, write_json
from torchgd.models import DTYPES
from torchgd.trajectory import Trajectory

# What Windows allows in no name, at a name's end, or, of its devices' names, as a name's stem.
UNPORTABLE = re.compile(r'[\\/:*?"<>|]|[. ]$|^(CON|PRN|AUX|NUL|COM\d|LPT\d)(?=\.|$)', re.I)

# As many significant digits as tell any two numbers of the type apart.
DIGITS = {torch.float32: ".9g", torch.float64: ".17g"}

Row = tuple[int, int, list[float | None]]


def new_directory(parent: Path, name: str | None, default: str) -> Path:
    """Create and return parent/name, or parent/default-TIME: never one that exists.

    Where two runs take the same time, the second becomes default-TIME-2, and so on.

    Raises:
        ValueError: `name` exists, or is no directory's name, or the path is not UTF-8.
        OSError: the directory cannot be created.
    """
    path = os.fspath(parent.absolute() / (name or default))
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{path!a}: TensorBoard needs names that are UTF-8; rename it, or set PYTHONUTF8=1"
        ) from None
    if name is not None:
        _refuse_no_name(name)
    parent.mkdir(parents=True, exist_ok=True)
    if name is None:
        stem = f"{UNPORTABLE.sub('_', default)}-{time.strftime('%Y%m%d-%H%M%S')}"
        candidates = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        return next(filter(_created, (parent / candidate for candidate in candidates)))
    if not _created(parent / name):
        raise ValueError(f"{parent / name} exists, and no run is overwritten; name another")
    return parent / name


def _refuse_no_name(name: str) -> None:
    """Refuse what is no directory's name on Linux, macOS and Windows alike."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise ValueError(f"name {name!r}: give a directory's name alone; --log-dir is its parent")
    if UNPORTABLE.search(name):
        raise ValueError(
            f"name {name!r}: Windows has no such name, and a run can be taken anywhere; leave out "
            '\\ : * ? " < > |, a point or a space at its end, and devices such as NUL'
        )


def _created(directory: Path) -> bool:
    """Create a directory; return False if there is one."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


def read_run(directory: Path) -> tuple[dict[str, Any], Trajectory]:
    """Return config.json and the trajectory that a run left in `directory`, to the bit.

    Raises:
        ValueError: `directory` holds no run, or a damaged one.
        OSError: a file cannot be read.
    """
    if not (directory / "trajectory.csv").is_file():
        raise ValueError(
            f"{directory} holds no trajectory.csv: give a run's directory, such as runs/NAME/manual"
        )
    config = read_json(directory / "config.json")
    try:
        text = (directory / "trajectory.csv").read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            raise ValueError("the last line of trajectory.csv is cut off")
        head, *rows = csv.reader(text.splitlines())
        for line, row in enumerate(rows, start=2):
            if len(row) != len(head):
                count = f"{len(row)} columns of {len(head)}"
                raise ValueError(f"trajectory.csv, line {line}: {count}")
        return config, _trajectory(head, rows, DTYPES[config["dtype"]])
    except (ValueError, KeyError, TypeError, RuntimeError, csv.Error) as error:
        raise ValueError(f"{directory} holds a damaged run ({error}); run it again") from None


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


def _trajectory(head: list[str], rows: list[list[str]], dtype: torch.dtype) -> Trajectory:
    """Return the trajectory of a table's rows, the last of which may have weights alone."""
    names = tuple(t.removeprefix("weight/") for t in head if t.startswith("weight/"))
    if head != ["step", "epoch", *_tags(names)]:
        raise ValueError(f"trajectory.csv has the columns {','.join(head)}")
    if not rows:
        raise ValueError("trajectory.csv has no row")
    no_final = [not tag.startswith("weight/") for tag in head[2:]]
    ended = [text == "" for text in rows[-1][2:]] == no_final
    if any("" in row for row in (rows[:-1] if ended else rows)):
        raise ValueError("trajectory.csv has an empty field")
    return Trajectory(
        names,
        step=torch.tensor([int(row[0]) for row in rows]),
        epoch=torch.tensor([int(row[1]) for row in rows]),
        table=torch.tensor([[float(text or 0) for text in row[2:]] for row in rows], dtype=dtype),
        stopped="finished" if ended else "",
    )


def _tags(names: Iterable[str]) -> list[str]:
    """The columns of a trajectory, which are TensorBoard's tags too."""
    return ["loss", *(f"{kind}/{name}" for kind in ("weight", "gradient") for name in names)]


class RunWriter:
    """Writes one run into `directory`, as it goes; a context manager.

    `config` is everything needed to run it again. Each recorded step becomes a row of
    trajectory.csv and one event with all of its values, whose tags are the columns' names: loss,
    weight/NAME, gradient/NAME; result/loss and result/NAME are result.json's numbers. TensorBoard
    keeps single precision; trajectory.csv keeps every bit.

    With `done`, a run that is there already goes on after those rows or, with none of them, starts
    again. What it wrote of later steps goes: trajectory.csv is written anew, and TensorBoard told
    to forget (`purge_step`).

    Raises:
        ValueError: another process is writing there.
        OSError: the directory is there, without `done`, or it or a file in it cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        names: list[str],
        done: list[Row] | None = None,
    ) -> None:
        self.directory = directory
        self.digits = DIGITS[DTYPES[config["dtype"]]]
        self.tags = _tags(names)
        rows = done or []
        settled = directory / "config.json"
        known = bool(rows) and read_json(settled) == config  # and so TensorBoard knows it too
        directory.mkdir(exist_ok=done is not None)
        with ExitStack() as opened:
            opened.enter_context(_only_writer(directory))
            write_json(settled, config)
            (directory / "result.json").unlink(missing_ok=True)  # which says that a run has ended
            self.file = opened.enter_context(self._open_table(rows))
            self.table = csv.writer(self.file, lineterminator="\n")
            purge_step = rows[-1][0] + 1 if rows else 0
            self.events = _Events(directory, purge_step)
            opened.callback(self.events.close)
            self._introduce(config, names, known, purge_step)
            self.opened = opened.pop_all()

    def _open_table(self, rows: list[Row]) -> TextIO:
        """Write trajectory.csv with `rows`, whole or not at all, and open it for more."""
        path = self.directory / "trajectory.csv"
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["step", "epoch", *self.tags])
            table.writerows(map(self._texts, rows))
        return path.open("a", newline="", encoding="utf-8")

    def _introduce(self, config: dict[str, Any], names: list[str], known: bool, step: int) -> None:
        """Tell TensorBoard the configuration, the charts and the hyper-parameters."""
        # TensorBoard lays runs over each other where one chart's pattern fits their tags.
        curves = [tag for tag in self.tags if not tag.startswith("gradient/")]
        charts = {tag: ["Multiline", [f"^{re.escape(tag)}$"]] for tag in curves}
        # add_hparams would open a run directory of its own; its summaries fit into this one.
        scalars = {k: v for k, v in config.items() if isinstance(v, (bool, int, float, str))}
        finals = dict.fromkeys(["result/loss", *(f"result/{name}" for name in names)], 0.0)
        experiment, start, self.session_end = hparams(scalars, finals)
        if not known:
            shown = f"```json\n{json.dumps(config, indent=1)}\n```"
            self.events.add(text("config", shown), step)
            for summary in (custom_scalars({"descent": charts}), experiment, start):
                self.events.add(summary)
        self._flush()

    def record(self, piece: Trajectory) -> None:
        """Write a piece of the trajectory through to the disk."""
        for row in piece.rows():
            self.table.writerow(self._texts(row))
            step, _, values = row
            pairs = zip(self.tags, values, strict=True)
            event = [Summary.Value(tag=t, simple_value=v) for t, v in pairs if v is not None]
            self.events.add(Summary(value=event), step)
        self._flush()

    def _flush(self) -> None:
        self.file.flush()
        self.events.flush()

    def _texts(self, row: Row) -> list[Any]:
        step, epoch, values = row
        return [step, epoch, *("" if v is None else format(v, self.digits) for v in values)]

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, and its figures and the session's end for TensorBoard's HParams."""
        write_json(self.directory / "result.json", result)
        finals = {"loss": result["loss"], **result["parameters"]}
        event = [Summary.Value(tag=f"result/{n}", simple_value=v) for n, v in finals.items()]
        self.events.add(Summary(value=event), result["steps"])
        self.events.add(self.session_end)
        self._flush()

    def add_figures(self, figures: dict[str, Any], step: int) -> None:
        """Show matplotlib figures, by name, under TensorBoard's Images."""
        for name, figure in figures.items():
            png = io.BytesIO()
            figure.savefig(png, format="png")
            width, height = map(int, figure.canvas.get_width_height())
            image = Summary.Image(
                width=width, height=height, colorspace=4, encoded_image_string=png.getvalue()
            )
            value = Summary.Value(tag=f"figure/{name}", image=image)
            self.events.add(Summary(value=[value]), step)
        self._flush()

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


class _Events:
    """TensorBoard's file of events, written through, so that what fails does so here and now.

    Of events in files that are there already, TensorBoard shows those before `purge_step`.
    """

    def __init__(self, directory: Path, purge_step: int) -> None:
        # TensorBoard reads event files by name, and so by the second in it.
        seconds = [int(p.name.split(".")[3]) for p in directory.glob("events.out.tfevents.*")]
        second = max([int(time.time()), *(there + 1 for there in seconds)])
        name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
        self.file = (directory / name).open("xb")
        self.records = RecordWriter(self.file)
        self._write(Event(file_version="brain.Event:2"))
        # It takes the first session's start for no restart, so that one is written, too.
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())

    def add(self, summary: Summary, step: int = 0) -> None:
        """Add a summary of a step."""
        self._write(Event(step=step, summary=summary))

    def flush(self) -> None:
        """Hand it all to the system."""
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()
