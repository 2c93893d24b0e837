"""What a run leaves on disk. The only file that imports TensorBoard.

A run's directory holds the event file, `config.json`, `trajectory.csv` and `result.json`.
"""

import csv
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from torchgd.models import DTYPES
from torchgd.trajectory import Trajectory

# As many significant digits as tell any two numbers of the type apart.
DIGITS = {torch.float32: ".9g", torch.float64: ".17g"}


def new_directory(parent: Path, name: str | None, default: str) -> Path:
    """Create and return parent/name, or parent/default-TIME: never one that exists.

    Where two runs take the same time, the second becomes default-TIME-2, and so on.

    Raises:
        ValueError: `name` exists, or is no directory's name.
        OSError: the directory cannot be created.
    """
    if name is not None and (name in ("", "..") or name != Path(name).name):
        raise ValueError(f"name {name!r}: give a directory's name alone; --log-dir is its parent")
    parent.mkdir(parents=True, exist_ok=True)
    if name is None:
        stem = f"{default}-{time.strftime('%Y%m%d-%H%M%S')}"
        candidates = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        return next(filter(_created, (parent / candidate for candidate in candidates)))
    if not _created(parent / name):
        raise ValueError(f"{parent / name} exists, and no run is overwritten; name another")
    return parent / name


def _created(directory: Path) -> bool:
    """Create a directory; return False if there is one."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file that takes the place of `path` when it is written, and vanishes if it fails."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON, all of it or nothing; JSON has no NaN or infinity, so null."""
    finite = {key: _finite(value) for key, value in content.items()}
    text = json.dumps(finite, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        with (directory / "trajectory.csv").open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        for line, row in enumerate(rows, start=2):
            if len(row) != len(head):
                count = f"{len(row)} columns of {len(head)}"
                raise ValueError(f"trajectory.csv, line {line}: {count}")
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        dtype = DTYPES[config["dtype"]]
        return config, Trajectory(
            step=torch.tensor([int(text) for text in columns["step"]]),
            epoch=torch.tensor([int(text) for text in columns["epoch"]]),
            weights=_named(columns, "weight/", dtype),
            loss=_numbers(columns["loss"], dtype),
            gradients=_named(columns, "gradient/", dtype),
            stopped="",
        )
    except (ValueError, KeyError, TypeError) as error:
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
            "wait for its end or run it again"
        )
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if lacking := {"steps", "stopped"} - result.keys():
            raise ValueError(f"{min(lacking)!r} is missing")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}); run it again") from None
    return result


def _named(columns: dict[str, Any], kind: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the columns KIND/NAME by name."""
    found = {tag: texts for tag, texts in columns.items() if tag.startswith(kind)}
    return {tag.removeprefix(kind): _numbers(texts, dtype) for tag, texts in found.items()}


def _numbers(texts: tuple[str, ...], dtype: torch.dtype) -> Tensor:
    """Return a column's numbers; the last row has no loss and no gradients."""
    return torch.tensor([float(text) for text in texts if text], dtype=dtype)


class RunWriter:
    """Writes one run into `directory`, as it goes; a context manager.

    `config` is everything needed to run it again. Each recorded step becomes a row of
    trajectory.csv and one event with all of its values, whose tags are the columns' names: loss,
    weight/NAME, gradient/NAME; result/loss and result/NAME are result.json's numbers. TensorBoard
    keeps single precision; trajectory.csv keeps every bit.
    """

    def __init__(self, directory: Path, config: dict[str, Any], names: list[str]) -> None:
        directory.mkdir()
        self.directory = directory
        self.digits = DIGITS[DTYPES[config["dtype"]]]
        self.tags = ["loss", *(f"{kind}/{n}" for kind in ("weight", "gradient") for n in names)]
        write_json(directory / "config.json", config)
        self.file = (directory / "trajectory.csv").open("w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["step", "epoch", *self.tags])
        self.events = SummaryWriter(directory, max_queue=1000)
        self.event_file = cast(Any, self.events.file_writer)  # set by now
        self.events.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")
        # TensorBoard lays runs over each other where one chart's pattern fits their tags.
        curves = [tag for tag in self.tags if not tag.startswith("gradient/")]
        charts = {tag: ["Multiline", [f"^{re.escape(tag)}$"]] for tag in curves}
        self.events.add_custom_scalars({"descent": charts})
        # add_hparams would open a run directory of its own; its summaries fit into this one.
        scalars = {k: v for k, v in config.items() if isinstance(v, (bool, int, float, str))}
        finals = dict.fromkeys(["result/loss", *(f"result/{name}" for name in names)], 0.0)
        experiment, start, self.session_end = hparams(scalars, finals)
        for summary in (experiment, start):
            self.event_file.add_summary(summary)
        self._flush()

    def record(self, piece: Trajectory) -> None:
        """Write a piece of the trajectory through to the disk."""
        for step, epoch, values in piece.rows():
            pairs = list(zip(self.tags, values, strict=True))
            self.table.writerow([step, epoch, *(self._text(value) for value in values)])
            event = [Summary.Value(tag=t, simple_value=v) for t, v in pairs if v is not None]
            self.event_file.add_summary(Summary(value=event), step)
        self._flush()

    def _flush(self) -> None:
        self.file.flush()
        self.events.flush()

    def _text(self, value: float | None) -> str:
        return "" if value is None else format(value, self.digits)

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, and its figures and the session's end for TensorBoard's HParams."""
        write_json(self.directory / "result.json", result)
        finals = {"loss": result["loss"], **result["parameters"]}
        event = [Summary.Value(tag=f"result/{n}", simple_value=v) for n, v in finals.items()]
        self.event_file.add_summary(Summary(value=event), result["steps"])
        self.event_file.add_summary(self.session_end)
        self._flush()

    def add_figures(self, figures: dict[str, Any], step: int) -> None:
        """Show matplotlib figures, by name, under TensorBoard's Images."""
        for name, figure in figures.items():
            self.events.add_figure(f"figure/{name}", figure, step)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
        self.events.close()
