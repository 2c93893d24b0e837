"""Where a descent went: weights, gradients and loss, step by step."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

import torch
from torch import Tensor, nn

from torchgd.entries import names_of, parameters_of, side_by_side


class Stopped(str, Enum):
    """How a descent ended, in the word that str() gives."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # a loss or weight is not finite
    CLIMBED = "climbed"  # all are finite, but the loss grew: who compares the two ends sets this
    INTERRUPTED = "interrupted"  # the caller stopped it

    def __str__(self) -> str:
        return self.value


UNSTABLE = (Stopped.DIVERGED, Stopped.CLIMBED)


@dataclass(frozen=True)
class Trajectory:
    """The path of a descent, w₀, w₁, …, with the loss and the gradients at each point: one table.

    `table` has a row (loss, weights, gradients) for each of K recorded steps, taken just before the
    step, with the loss and the gradients of its batch; and one row of the final weights, whose
    loss and gradients are unused zeros. Where the descent diverged, the last row is the first that
    is not finite.

    `stopped` says how it ended; None marks a piece that is not the last, and so has no final row.

    Shapes, of P numbers that are trained, by `names`, such as w[0], w[1] and b: `table`
    (K+1, 1 + 2P) in the model's dtype, `step` and `epoch` (K+1,), `loss` (K,); by parameter, such
    as w and b, each of `weights` (K+1, *w.shape) and of `gradients` (K, *w.shape); all on the CPU.
    The last `step` and `epoch` are the numbers of steps taken and of epochs completed.
    """

    names: tuple[str, ...]
    step: Tensor
    epoch: Tensor
    table: Tensor
    stopped: Stopped | None = Stopped.FINISHED

    @property
    def recorded(self) -> int:
        """K, how many steps are recorded."""
        return len(self.step) - (self.stopped is not None)

    @property
    def loss(self) -> Tensor:
        """The loss before each recorded step (K,)."""
        return self.table[: self.recorded, 0]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights before each recorded step, and the final ones (K+1, …), by parameter."""
        return by_parameter(self.names, self.table[:, 1 : 1 + len(self.names)])

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradients at each recorded step (K, …), by parameter."""
        return by_parameter(self.names, self.table[: self.recorded, 1 + len(self.names) :])

    def weights_at(self, rows: int | list[int] | slice | Tensor) -> Tensor:
        """Return the weights in one row, (P,), or in some, (R, P), in the order of `names`."""
        return self.table[rows, 1 : 1 + len(self.names)]

    def __getitem__(self, rows: slice | Tensor) -> "Trajectory":
        """Return a piece of some of the K recorded steps, without a final row."""
        step, epoch, table = (
            column[: self.recorded][rows] for column in (self.step, self.epoch, self.table)
        )
        return Trajectory(self.names, step, epoch, table, stopped=None)

    def rows(self) -> Iterator[tuple[int, int, list[float | None]]]:
        """Yield (step, epoch, values): loss, weights, gradients; None where there is none."""
        count, numbers = len(self.names), self.table.tolist()
        index = zip(self.step.tolist(), self.epoch.tolist(), numbers, strict=True)
        for row, (step, epoch, values) in enumerate(index):
            last = row == self.recorded
            yield step, epoch, [None, *values[1 : 1 + count], *[None] * count] if last else values

    def up_to_divergence(self) -> "Trajectory":
        """Return the path up to its first row whose loss or weights are not finite, if any."""
        finite = self.table[:, : 1 + len(self.names)].isfinite()
        if finite.all():
            return self
        end = int((~finite).nonzero()[0, 0]) + 1
        step, epoch, table = self.step[:end], self.epoch[:end], self.table[:end]
        return Trajectory(self.names, step, epoch, table, Stopped.DIVERGED)

    @classmethod
    def join(cls, pieces: Sequence["Trajectory"]) -> "Trajectory":
        """Return one trajectory of consecutive pieces, of which only the last has a final row."""
        step, epoch, table = (
            torch.cat([getattr(piece, what) for piece in pieces])
            for what in ("step", "epoch", "table")
        )
        return cls(pieces[0].names, step, epoch, table, pieces[-1].stopped)


def by_parameter(names: Sequence[str], table: Tensor) -> dict[str, Tensor]:
    """Return the columns of a table (K, P) of entries by name as the parameters (K, …) they make.

    The last entry tells the shape: w[1][2] is that of a parameter (2, 3).
    """
    found, first = {}, 0
    for name, own in groupby(names, key=lambda entry: entry.partition("[")[0]):
        *_, last = rest = list(own)
        shape = [int(place) + 1 for place in re.findall(r"\[(\d+)\]", last)]
        columns = table[:, first : first + len(rest)]
        found[name] = columns.unflatten(1, shape) if shape else columns[:, 0]
        first += len(rest)
    return found


def record_interval(steps: int, most: int = 10_000) -> int:
    """Return the smallest k for which steps 0, k, 2k, … and the last one are at most `most`.

    Those are 1 + ⌈(steps − 1)/k⌉ steps.
    """
    return max(1, -(-(steps - 1) // (most - 1)))


def recorded_steps(first: int, end: int, every: int, steps: int) -> Tensor:
    """Return which of the steps `first` … `end` − 1 are recorded: each `every`-th, and the last.

    The last is that of the whole descent, which has so many `steps`.
    """
    row = torch.arange(min(first + -first % every, end), end, every)
    missing = end == steps > first and (steps - 1) % every != 0
    return torch.cat([row, torch.tensor([steps - 1])]) if missing else row


class Recorder:
    """Collects the trajectory of a descent of so many `steps`, a block of rows at a time.

    It records each `every`-th step and the last one. A row stays on the model's device until a
    block of rows is full or too old: then it is `due`. `hand_over` copies the block to the CPU at
    once, keeps it in `pieces` and calls `on_piece` with it. If the descent diverged in that block,
    the trajectory ends there, and the model gets the weights of that row. To go on with a descent,
    give the piece before, `done`.

    Raises:
        ValueError: as `parameters_of`.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        every: int,
        on_piece: Callable[[Trajectory], object] = lambda piece: None,
        done: Trajectory | None = None,
        rows: int = 1000,
        seconds: float = 1.0,
    ) -> None:
        self.names, self.parameters = names_of(model), parameters_of(model)
        numbers = all(w.ndim == 0 for w in self.parameters.values())
        self._joined = torch.stack if numbers else side_by_side  # stack takes half the time
        self.steps, self.every, self.on_piece = steps, every, on_piece
        self.block_rows, self.block_seconds = rows, seconds
        self.pieces = [] if done is None else [done]
        self._start_block()

    def _start_block(self) -> None:
        self._rows: list[Tensor] = []
        self._index: list[tuple[int, int]] = []
        self._began = time.monotonic()

    def record(self, step: int, epoch: int, loss: Tensor) -> None:
        """Record the weights before `step`, and the loss and gradients, if the step is recorded."""
        if step % self.every and step != self.steps - 1:
            return
        parameters = self.parameters.values()
        weights, gradients = [w.detach() for w in parameters], [w.grad for w in parameters]
        self._rows.append(self._joined([loss, *weights, *gradients]))  # type: ignore[list-item]
        self._index.append((step, epoch))

    @property
    def due(self) -> bool:
        """Whether it is time to hand over."""
        full = len(self._rows) >= self.block_rows
        return full or time.monotonic() - self._began > self.block_seconds

    @property
    def diverged(self) -> bool:
        """Whether a loss or weight handed over so far was not finite."""
        return bool(self.pieces) and self.pieces[-1].stopped is Stopped.DIVERGED

    @property
    def path(self) -> Trajectory:
        """What was handed over so far, without a final row."""
        nothing = torch.empty(0, dtype=torch.int64)
        w = next(iter(self.parameters.values()))
        table = torch.empty(0, 1 + 2 * len(self.names), dtype=w.dtype)
        empty = Trajectory(self.names, nothing, nothing, table, stopped=None)
        return Trajectory.join([empty, *self.pieces])

    @torch.no_grad()
    def hand_over(self, stopped: Stopped | None = None) -> None:
        """Bring the block to the CPU, as a piece of the trajectory, unless it is empty."""
        rows, index = self._rows, self._index
        self._start_block()
        if rows:
            step, epoch = torch.tensor(index).unbind(dim=1)
            table = torch.stack(rows).cpu()
            self.take(Trajectory(self.names, step, epoch, table, stopped))

    @torch.no_grad()
    def take(self, piece: Trajectory) -> None:
        """Keep a piece of the trajectory, up to where it diverged, and hand it on."""
        self.pieces.append(piece.up_to_divergence())
        if self.diverged:
            for name, w in self.parameters.items():
                w.copy_(self.pieces[-1].weights[name][-1])
        self.on_piece(self.pieces[-1])

    def finish(self, step: int, epoch: int, stopped: Stopped = Stopped.FINISHED) -> Trajectory:
        """Hand over, and with it the final weights, after `step` steps and `epoch` epochs.

        Returns the whole trajectory.
        """
        if not self.diverged:
            weights = [w.detach() for w in self.parameters.values()]
            zeros = [torch.zeros_like(w) for w in weights]  # not NaN, which looks like divergence
            self._rows.append(self._joined([zeros[0].sum(), *weights, *zeros]))
            self._index.append((step, epoch))
            self.hand_over(stopped)
        return Trajectory.join(self.pieces)
