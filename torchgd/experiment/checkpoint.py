"""A run's state on disk, written whole or not at all, and read back to the bit or refused.

`checkpoint.pt` is what torch.save makes of plain types, and after it the 32 bytes of its SHA-256:
torch.load reads it like any other file, but would take a flipped bit in it without a word.
"""

import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from torchgd.experiment.files import regular, replacing
from torchgd.trajectory import Trajectory

CHECKPOINT = "checkpoint.pt"
FORMAT = 1
WAY_OUT = "take an earlier copy, or remove it and the run starts again"
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """A descent after `step` steps: its model, its optimizer, and the trajectory until there.

    `identity` says of which run (see `Experiment.identity`); `seconds` is how long it took.
    """

    identity: dict[str, Any]
    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    trajectory: Trajectory
    seconds: float

    def save(self, path: Path) -> None:
        """Write it to `path`, in the place of what is there once all of it is on the disk.

        Raises:
            OSError: it cannot be written; what is there stays.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **vars(self), "trajectory": vars(self.trajectory)}, buffer)
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
            trajectory = Trajectory(**content.pop("trajectory"))
            identity = dict(content.pop("identity"))
            return cls(**content, identity=identity, trajectory=trajectory)
        except Exception as error:  # whatever else can bear a checksum
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is no checkpoint that this torchgd can read ({reason}); {WAY_OUT}"
            ) from None

    def done(self, steps: int) -> Trajectory:
        """Return the rows that stay when the descent goes on, to so many steps in all."""
        path, every = self.trajectory, self.identity["record_every"]
        step = path.step[: path.recorded]
        keep = (step % every == 0) | (step == steps - 1)
        return path[keep & (step < self.step)]

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put model and optimizer where they were.

        Raises:
            ValueError: they are not the ones that this is of.
        """
        if not self._fits(model, optimizer):
            raise ValueError(f"the checkpoint is not of this model and optimizer; {WAY_OUT}")
        model.load_state_dict(self.model)
        optimizer.load_state_dict(self.optimizer)

    def _fits(self, model: nn.Module, optimizer: Optimizer) -> bool:
        weights, groups = dict(model.named_parameters()), optimizer.state_dict()["param_groups"]
        path, w = self.trajectory, next(iter(weights.values()))
        index, table = torch.zeros(1, dtype=torch.int64), w.detach().cpu()[None, None]
        velocities = {k: {"momentum_buffer": w} for k, w in enumerate(weights.values())}
        alike = (
            _alike([self.step, self.seconds, self.model], [0, 0.0, dict(model.state_dict())])
            and _alike([path.step, path.epoch, path.table], [index, index, table])
            and isinstance(self.optimizer, dict)
            and repr(self.optimizer.get("param_groups")) == repr(groups)
            and any(_alike(self.optimizer.get("state"), state) for state in ({}, velocities))
        )
        return (
            alike
            and path.names == tuple(weights)
            and path.stopped in ("", "finished", "diverged", "interrupted")
            and len(path.step) == len(path.epoch)
            and path.table.shape == (len(path.step), 1 + 2 * len(weights))
        )


def _alike(found: object, expected: object) -> bool:
    """Whether two are of the same kinds, all the way down: types, keys, dtypes, dimensions."""
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        return found.dtype == expected.dtype and found.ndim == expected.ndim
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_alike(found[k], expected[k]) for k in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    return type(found) is type(expected)


class Saver:
    """Where and how often to save a checkpoint: every so many seconds or, if given, steps.

    Of several processes all have one, so that all look for divergence at the same steps; but only
    the first has a path, and writes.

    Raises:
        ValueError: seconds are below 0, or steps below 1.
    """

    def __init__(self, path: Path | None, seconds: float = 60.0, steps: int | None = None) -> None:
        if not (seconds >= 0 and (steps is None or steps >= 1)):
            raise ValueError(f"every {seconds} seconds, {steps} steps: give at least 0, or 1 step")
        self.path, self.seconds, self.steps = path, seconds, steps
        self._last = time.monotonic()

    def due_by_step(self, step: int) -> bool:
        """Whether one is due after `step` steps whatever the clock says."""
        return self.steps is not None and step % self.steps == 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        if self.steps is not None:
            return self.due_by_step(step)
        return time.monotonic() - self._last >= self.seconds

    def save(self, checkpoint: Checkpoint) -> None:
        """Save it, if there is a path."""
        if self.path is not None:
            checkpoint.save(self.path)
        self._last = time.monotonic()
