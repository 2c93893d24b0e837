"""The state of a descent, which a run goes on from: run.pt.

It is what torch.save makes of plain types, and after it the 32 bytes of its SHA-256: torch.load
reads it like any other file, but would take a flipped bit in it without a word.
"""

import hashlib
import inspect
import io
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from torchgd.entries import names_of
from torchgd.experiment.files import read_file, replacing
from torchgd.trajectory import Stopped, Trajectory

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
        names = names_of(model)
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
