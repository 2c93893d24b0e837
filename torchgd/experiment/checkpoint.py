"""A run's state on disk, written whole or not at all, and read back to the bit or refused.

`checkpoint.pt` is what torch.save makes of plain types, and after it the 32 bytes of its SHA-256:
torch.load reads it like any other file, but would take a flipped bit in it without a word. The rows
that were recorded before it are in trajectory.csv, of which it has the length and the SHA-256.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from torchgd.experiment.files import regular, replacing

CHECKPOINT = "checkpoint.pt"
FORMAT = 2
WAY_OUT = "take an earlier copy, or remove it and the run starts again"
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """A descent after `step` steps, taken in so many `seconds`: its model and its optimizer.

    `identity` says of which run (see `Experiment.identity`), `diverged` whether it ended there.
    The rows recorded until then are the first `rows_length` bytes of trajectory.csv.
    """

    identity: dict[str, Any]
    step: int
    seconds: float
    diverged: bool
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    rows_length: int
    rows_sha256: str

    def save(self, path: Path) -> None:
        """Write it to `path`, in the place of what is there once all of it is on the disk.

        Raises:
            OSError: it cannot be written; what is there stays.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **vars(self)}, buffer)
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.write(hashlib.sha256(buffer.getbuffer()).digest())

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read it from `path`; no code in it is run.

        Raises:
            ValueError: it is damaged, of another format, or no checkpoint.
            OSError: it cannot be read.
        """
        data = memoryview(regular(path).read_bytes())
        if hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
            raise ValueError(
                f"{path} is damaged: its {len(data)} bytes do not fit their checksum; {WAY_OUT}"
            )
        try:
            content = torch.load(io.BytesIO(data[:-DIGEST]), map_location="cpu", weights_only=True)
            if (version := content.pop("format")) != FORMAT:
                raise ValueError(f"of format {version!r}, not {FORMAT}")
            content["model"] = dict(content["model"])  # from torch's own, ordered one
            found = cls(**content)
            for field in fields(cls):
                kind = getattr(field.type, "__origin__", field.type)
                if type(value := getattr(found, field.name)) is not kind:
                    raise ValueError(f"{field.name} is of type {type(value).__name__}")
            if not 0 <= found.seconds < math.inf:
                raise ValueError(f"seconds is {found.seconds}")
            return found
        except Exception as error:  # whatever else can bear a checksum
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is no checkpoint that this torchgd can read ({reason}); {WAY_OUT}"
            ) from None

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put model and optimizer where they were.

        Raises:
            ValueError: they are not the ones that this is of.
        """
        fresh = optimizer.state_dict()
        velocities = {k: {"momentum_buffer": w} for k, w in enumerate(model.parameters())}
        fits = (
            _alike(self.model, dict(model.state_dict()))
            and any(_alike(self.optimizer, {**fresh, "state": s}) for s in ({}, velocities))
            and repr(self.optimizer["param_groups"]) == repr(fresh["param_groups"])
            and (self.diverged or all(bool(t.isfinite().all()) for t in self.model.values()))
        )
        if not fits:
            raise ValueError(f"the checkpoint is not of this model and optimizer; {WAY_OUT}")
        model.load_state_dict(self.model)
        optimizer.load_state_dict(self.optimizer)


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


class Saver:
    """When to save a checkpoint, each so many seconds or, if given, steps; and what saves it.

    Of several processes all have one, so that all look for divergence at the same steps; but only
    the first one's saves.

    Raises:
        ValueError: seconds are below 0, or steps below 1.
    """

    def __init__(
        self, save: Callable[..., object], seconds: float = 60.0, steps: int | None = None
    ) -> None:
        if not (seconds >= 0 and (steps is None or steps >= 1)):
            raise ValueError(f"every {seconds} seconds, {steps} steps: give at least 0, or 1 step")
        self._save, self.seconds, self.steps = save, seconds, steps
        self._last = time.monotonic()

    def due_by_step(self, step: int) -> bool:
        """Whether one is due after `step` steps whatever the clock says."""
        return self.steps is not None and step % self.steps == 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        if self.steps is not None:
            return self.due_by_step(step)
        return time.monotonic() - self._last >= self.seconds

    def save(self, **state: Any) -> None:
        """Save it, of this state (see `Checkpoint`)."""
        self._save(**state)
        self._last = time.monotonic()
