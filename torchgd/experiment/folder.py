"""What a run leaves for people: config.json, trajectory.csv and result.json."""

import csv
import io
import math
import os
import platform
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.files import printable, read_file, read_json, replacing
from torchgd.experiment.parallel import processes
from torchgd.models import DTYPES
from torchgd.trajectory import Stopped, Trajectory
from torchgd.version import __version__

TABLE = "trajectory.csv"
# As many significant digits as tell any two numbers of the type apart.
DIGITS = {torch.float32: ".9g", torch.float64: ".17g"}


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return what beside the configuration may decide the bits of a run on this device."""
    name = platform.machine()
    if device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return {
        "device_name": name,
        "threads": torch.get_num_threads(),
        "processes": processes(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "torchgd": __version__,
    }


def config_json(experiment: Experiment, order: int) -> dict[str, Any]:
    """Return what config.json holds: everything needed to run it again, in the command's order."""
    z = experiment.standardization
    return {
        **experiment.identity,
        "order": order,
        "samples": len(experiment.data.x),
        "steps": experiment.steps,
        "standardization": z and asdict(z),
        **{n: getattr(experiment.data, n) for n in ("x_name", "x_unit", "y_name", "y_unit")},
        "working_directory": str(experiment.folder.resolve()) if experiment.reads_files else None,
        **environment(experiment.configuration.device),
    }


def where_it_began(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what config.json says of the environment; refuse what cannot be of one."""
    here = {**environment(), "working_directory": None}
    for name, now in here.items():
        kinds = [type(now)] if now is not None else [str, type(None)]
        if type(config.get(name)) not in kinds:
            raise ValueError(
                f"{path}: config.json is damaged: {name} {reprlib.repr(config.get(name))} is of no "
                "environment; mend it, or run it again"
            )
    return {name: config[name] for name in here}


def environment_changes(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what the environment differs from the one in which this run's config.json began."""
    for name, now in environment(config["device"]).items():
        if (was := config.get(name)) != now:
            was = printable(f"{was}")
            yield f"{name} {now}, and the run began with {was}: bits may differ from then on"


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
    asked = _asked(directory, config)
    try:
        trajectory = _parse(read_file(directory / TABLE).decode(), DTYPES[asked.dtype])
        if len(trajectory.step) == 0:
            raise ValueError("trajectory.csv has no row")
        if trajectory.names != (names := tuple(asked.initial)):
            raise ValueError(f"trajectory.csv is of {trajectory.names}, and config.json of {names}")
    except (ValueError, RuntimeError, csv.Error) as error:
        raise ValueError(f"{directory} holds a damaged run ({error}); run it again") from None
    return config, trajectory


def _asked(directory: Path, config: Mapping[str, Any]) -> Configuration:
    """Return what a run's config.json says that it was asked to do."""
    try:
        return Configuration.from_config(config)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from None


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
    if (end := result["stopped"]) not in list(map(str, Stopped)):
        raise ValueError(f"{file} is damaged (stopped {reprlib.repr(end)}); run it again")
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
    steps = [int(row[0]) for row in rows]
    if any(later <= step for step, later in pairwise([-1, *steps])):
        raise ValueError("trajectory.csv has its steps in another order")
    no_final = [not tag.startswith("weight/") for tag in head[2:]]
    ended = bool(rows) and [text == "" for text in rows[-1][2:]] == no_final
    if any("" in row for row in (rows[:-1] if ended else rows)):
        raise ValueError("trajectory.csv has an empty field")
    values = [[float(text or 0) for text in row[2:]] for row in rows]
    diverged = bool(rows) and not all(map(math.isfinite, values[-1]))
    return Trajectory(
        names,
        step=torch.tensor(steps, dtype=torch.int64),
        epoch=torch.tensor([int(row[1]) for row in rows], dtype=torch.int64),
        table=torch.tensor(values, dtype=dtype).reshape(len(rows), len(head) - 2),
        stopped=Stopped.DIVERGED if diverged else Stopped.FINISHED if ended else None,
    )
