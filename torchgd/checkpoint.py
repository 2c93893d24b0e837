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

from torchgd.files import regular, replacing
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
            return cls(**content, trajectory=trajectory)
        except Exception as error:  # whatever else can bear a checksum
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{path} is no checkpoint that this torchgd can read ({reason}); {WAY_OUT}"
            ) from None

    @property
    def done(self) -> Trajectory:
        """The rows that stay when the descent goes on: no last row, but where it diverged."""
        if self.trajectory.stopped == "diverged":
            return self.trajectory
        return self.trajectory.before(self.step, self.identity["record_every"])

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put model and optimizer where they were.

        Raises:
            ValueError: they are of other parameters.
        """
        for name, w in model.state_dict().items():
            found = self.model.get(name)
            if found is None or found.shape != w.shape or found.dtype != w.dtype:
                raise ValueError(f"the checkpoint's {name!r} is not the model's; {WAY_OUT}")
        model.load_state_dict(self.model)
        optimizer.load_state_dict(self.optimizer)


class Saver:
    """Where and how often to save a checkpoint: every so many seconds or, if given, steps."""

    def __init__(self, path: Path, seconds: float = 60.0, steps: int | None = None) -> None:
        self.path, self.seconds, self.steps = path, seconds, steps
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        if self.steps is not None:
            return step % self.steps == 0
        return time.monotonic() - self._last >= self.seconds

    def save(self, checkpoint: Checkpoint) -> None:
        """Save it."""
        checkpoint.save(self.path)
        self._last = time.monotonic()
