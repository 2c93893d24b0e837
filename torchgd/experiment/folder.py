"""What a run leaves for people: config.json, trajectory.csv and result.json."""

import csv
import io
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchgd.experiment.files import read_file, read_json, replacing
from torchgd.models import DTYPES
from torchgd.trajectory import Stopped, Trajectory

TABLE = "trajectory.csv"
# As many significant digits as tell any two numbers of the type apart.
DIGITS = {torch.float32: ".9g", torch.float64: ".17g"}


def read_config(directory: Path) -> dict[str, Any]:
    """Return what a run's config.json says.

    Raises:
        ValueError: there is none, it is damaged, or it is of version 0.1, which kept other files.
        OSError: it cannot be read.
    """
    config = read_json(directory / "config.json")
    if str(config.get("torchgd")).startswith("0.1."):
        raise ValueError(
            f"{directory} is a run of torchgd 0.1, which this version does not read: run it again, "
            "or install torchgd 0.1"
        )
    return config


def runs_in(path: Path) -> list[Path]:
    """Return the runs in runs/NAME, such as manual and autograd, or in a sweep; else the path."""
    files = [*path.glob("*/config.json")] or [*path.glob("*/*/config.json")]
    inside = sorted(file.parent for file in files)
    # The update by hand is the first, by whatever name the other comes.
    return sorted(inside, key=lambda run: (run.name != "manual", run.name)) or [path]


def read_run(directory: Path) -> tuple[dict[str, Any], Trajectory]:
    """Return config.json and the trajectory that a run left in `directory`, to the bit.

    Raises:
        ValueError: `directory` holds no run that has stopped, or a damaged one.
        OSError: a file cannot be read.
    """
    if not os.path.lexists(directory / "config.json"):
        raise ValueError(
            f"{directory} holds no run: give a run's directory, such as runs/NAME/manual"
        )
    config = read_config(directory)
    _refuse_unfinished(directory, TABLE)
    try:
        text = read_file(directory / TABLE).decode()
        trajectory = _parse(text, DTYPES[config["dtype"]])
        if len(trajectory.step) == 0:
            raise ValueError("trajectory.csv has no row")
    except (ValueError, KeyError, TypeError, RuntimeError, csv.Error) as error:
        raise ValueError(f"{directory} holds a damaged run ({error}); run it again") from None
    return config, trajectory


def read_result(directory: Path) -> dict[str, Any]:
    """Return result.json, which a run leaves when it stops.

    Raises:
        ValueError: there is none, or it is damaged.
        OSError: it cannot be read.
    """
    file = directory / "result.json"
    _refuse_unfinished(directory, file.name)
    result = read_json(file)
    for name, kind in (("steps", int), ("stopped", str)):
        if not isinstance(result.get(name), kind):
            raise ValueError(f"{file} is damaged (no {name!r}); run it again")
    return result


def _refuse_unfinished(directory: Path, name: str) -> None:
    """Refuse a run that has not written a file which it writes as it stops."""
    if not os.path.lexists(directory / name):
        raise ValueError(
            f"{directory} has no {name}: the run is still being written, or was killed; "
            "wait for its end, or go on with it: train.py --resume"
        )


def tags(names: tuple[str, ...]) -> list[str]:
    """Return the columns of a trajectory, which are TensorBoard's tags, too."""
    return ["loss", *(f"{kind}/{name}" for kind in ("weight", "gradient") for name in names)]


def write_trajectory(path: Path, trajectory: Trajectory) -> None:
    """Write a trajectory as CSV, with all of its digits."""
    digits, text = DIGITS[trajectory.table.dtype], io.StringIO(newline="")
    if trajectory.table[-1:, 0].any():  # the last row is a step whose loss ended the descent
        trajectory = replace(trajectory, stopped=None)
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", "epoch", *tags(trajectory.names)])
    for step, epoch, values in trajectory.rows():
        table.writerow([step, epoch, *("" if v is None else format(v, digits) for v in values)])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")


def _parse(text: str, dtype: torch.dtype) -> Trajectory:
    """Return the trajectory that the text of a trajectory.csv holds, to the bit.

    The last row has weights alone, but where the descent diverged.
    """
    if text and not text.endswith("\n"):
        raise ValueError("the last line of trajectory.csv is cut off")
    head, *rows = csv.reader(text.splitlines())
    names = tuple(t.removeprefix("weight/") for t in head if t.startswith("weight/"))
    if head != ["step", "epoch", *tags(names)]:
        raise ValueError(f"trajectory.csv has the columns {','.join(head)}")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise ValueError(f"trajectory.csv, line {line}: {len(row)} columns of {len(head)}")
    no_final = [not tag.startswith("weight/") for tag in head[2:]]
    ended = bool(rows) and [text == "" for text in rows[-1][2:]] == no_final
    if any("" in row for row in (rows[:-1] if ended else rows)):
        raise ValueError("trajectory.csv has an empty field")
    values = [[float(text or 0) for text in row[2:]] for row in rows]
    diverged = bool(rows) and not all(map(math.isfinite, values[-1]))
    return Trajectory(
        names,
        step=torch.tensor([int(row[0]) for row in rows], dtype=torch.int64),
        epoch=torch.tensor([int(row[1]) for row in rows], dtype=torch.int64),
        table=torch.tensor(values, dtype=dtype).reshape(len(rows), len(head) - 2),
        stopped=Stopped.DIVERGED if diverged else Stopped.FINISHED if ended else None,
    )
