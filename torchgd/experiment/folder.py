"""What a run leaves on disk: run.pt to go on from, trajectory.csv and result.json for people.

`run.pt` is what torch.save makes of plain types, and after it the 32 bytes of its SHA-256:
torch.load reads it like any other file, but would take a flipped bit in it without a word.
"""

import csv
import hashlib
import inspect
import io
import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from torchgd.experiment.files import read_file, read_json, replacing
from torchgd.models import DTYPES
from torchgd.trajectory import Stopped, Trajectory

TABLE = "trajectory.csv"
# As many significant digits as tell any two numbers of the type apart.
DIGITS = {torch.float32: ".9g", torch.float64: ".17g"}
STATE, FORMAT, DIGEST = "run.pt", 3, hashlib.sha256().digest_size
WAY_OUT = "take an earlier copy, or remove it and the run starts again"


@dataclass(frozen=True)
class State:
    """A descent after `step` steps, which took so many `seconds`: what a run goes on from.

    `identity` has all that decides the run's bits (see `Experiment.identity`). `path` is what was
    recorded so far, without a final row; it ends there if the descent has `diverged`.
    """

    identity: dict[str, Any]
    step: int
    seconds: float
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    path: Trajectory

    @property
    def diverged(self) -> bool:
        """Whether the descent ended at this step, with a number that is not finite."""
        return self.path.stopped == Stopped.DIVERGED

    def save(self, path: Path) -> None:
        """Write it to `path`, in the place of what is there once all of it is on the disk.

        Raises:
            OSError: it cannot be written; what is there stays.
        """
        buffer, found = io.BytesIO(), {**vars(self), "path": vars(self.path)}
        found["path"] = {**found["path"], "stopped": str(self.path.stopped or "")}
        torch.save({"format": FORMAT, **found}, buffer)
        content = buffer.getbuffer()
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())

    @classmethod
    def load(cls, path: Path) -> "State":
        """Read it from `path`; no code in it is run.

        Raises:
            ValueError: it is damaged, of another format, or no state of a run.
            OSError: it cannot be read.
        """
        data = memoryview(read_file(path))
        if hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
            raise ValueError(
                f"{path} is damaged: its {len(data)} bytes do not fit their checksum; {WAY_OUT}"
            )
        try:
            content = torch.load(io.BytesIO(data[:-DIGEST]), map_location="cpu", weights_only=True)
            if (version := content.pop("format")) != FORMAT:
                raise ValueError(f"of format {version!r}, not {FORMAT}")
            content["model"] = dict(content["model"])  # from torch's own, ordered one
            content["path"] = _path(**content["path"])
            found = cls(**content)
            for field in fields(cls):
                kind = getattr(field.type, "__origin__", field.type)
                if type(value := getattr(found, field.name)) is not kind:
                    raise ValueError(f"{field.name} is of type {type(value).__name__}")
            if not 0 <= found.seconds < math.inf:
                raise ValueError(f"seconds is {found.seconds}")
            return found
        except (MemoryError, OSError):
            raise  # which say nothing about the file
        except Exception as error:  # whatever else can bear a checksum
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is no state of a run that this torchgd can read ({reason}); {WAY_OUT}"
            ) from None

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer, **rest: Any) -> "State":
        """Return the state of a descent with this model and optimizer."""
        # Without the wrapper that imports torch's compiler, as in ManualSGD.add_param_group.
        optimizers = inspect.unwrap(type(optimizer).state_dict)(optimizer)
        return cls(model=dict(model.state_dict()), optimizer=optimizers, **rest)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put model and optimizer where they were.

        Raises:
            ValueError: they are not the ones that this is of.
        """
        fresh = optimizer.state_dict()
        velocities = {k: {"momentum_buffer": w} for k, w in enumerate(model.parameters())}
        names = tuple(name for name, _ in model.named_parameters())
        fits = (
            _alike(self.model, dict(model.state_dict()))
            and any(_alike(self.optimizer, {**fresh, "state": s}) for s in ({}, velocities))
            and repr(self.optimizer["param_groups"]) == repr(fresh["param_groups"])
            and (self.diverged or all(bool(t.isfinite().all()) for t in self.model.values()))
            and self.path.names == names
            and self.path.table.dtype == next(model.parameters()).dtype
            and not bool((self.path.step > self.step).any())
        )
        if not fits:
            raise ValueError(f"the state is not of this model and optimizer; {WAY_OUT}")
        model.load_state_dict(self.model)
        optimizer.load_state_dict(self.optimizer)


def _path(names: Any, step: Tensor, epoch: Tensor, table: Tensor, stopped: str) -> Trajectory:
    """Return the trajectory of these parts; refuse what cannot be one."""
    rows, ends = len(step), {"": None, "diverged": Stopped.DIVERGED}
    alike = [(step, torch.int64), (epoch, torch.int64), (table, table.dtype)]
    plain = all(t.dtype == kind and t.layout is torch.strided and t.device.type == "cpu"
                and t.numel() == t.untyped_storage().nbytes() // t.element_size()
                for t, kind in alike)  # fmt: skip
    ascending = plain and step.ndim == 1 and bool((step.diff() > 0).all())
    if not (ascending and epoch.shape == (rows,) and table.shape == (rows, 1 + 2 * len(names))):
        raise ValueError("path is no trajectory")
    return Trajectory(tuple(map(str, names)), step, epoch, table, ends[stopped])


def _alike(found: object, expected: object) -> bool:
    """Whether two are of the same kinds, all the way down: types, keys, dtypes, shapes."""
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        kinds = ((t.dtype, t.shape, t.layout, t.is_meta) for t in (found, expected))
        return len(set(kinds)) == 1
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_alike(found[k], expected[k]) for k in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    return type(found) is type(expected)


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
