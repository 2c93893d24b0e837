"""Where a descent went: weights, gradients and loss, step by step."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from torchgd.models import scalars


@dataclass(frozen=True)
class Trajectory:
    """The path of a descent, w₀, w₁, …, with the loss and the gradient at each point.

    Row k holds the weights before the k-th recorded step, and the loss and gradients of that
    step's batch there. One last row holds the final weights; no step starts from it, so it has
    neither loss nor gradients.

    Shapes, for K recorded steps: `step`, `epoch` and each of `weights` (K+1,), `loss` and each of
    `gradients` (K,); all on the CPU, the values in the model's dtype. The last `step` and `epoch`
    are the numbers of steps taken and epochs completed.

    `stopped` is "finished", "diverged" where the loss or a weight was not finite at the last
    row, or "interrupted"; of a piece before the last, which has no last row, it is "".
    """

    step: Tensor
    epoch: Tensor
    weights: dict[str, Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]
    stopped: str = "finished"

    def rows(self) -> Iterator[tuple[int, int, list[float | None]]]:
        """Yield (step, epoch, values): loss, weights, gradients; None where there is none."""
        columns = [self.loss, *self.weights.values(), *self.gradients.values()]
        values = zip_longest(*(column.tolist() for column in columns))
        for step, epoch, row in zip(self.step.tolist(), self.epoch.tolist(), values, strict=True):
            yield step, epoch, list(row)

    @classmethod
    def of(
        cls, names: Iterable[str], step: Tensor, epoch: Tensor, table: Tensor, stopped: str
    ) -> "Trajectory":
        """Return the path that `table` (1 + 2P, K) holds: loss, P weights, P gradients.

        It ends where loss or weights are not finite; `stopped` as above, "" without a last row.
        """
        count, end = len(table) // 2, len(step)
        if not table[: 1 + count].sum().isfinite():  # by itself, a sum may overflow
            end = int(table[: 1 + count].isfinite().all(dim=0).cumprod(dim=0).sum())
        if end < len(step):
            table, step, epoch = table[:, : end + 1], step[: end + 1], epoch[: end + 1]
            stopped = "diverged"
        loss, weights, gradients = table.split([1, count, count])
        steps = len(step) - bool(stopped)  # a last row has weights alone
        return cls(
            step=step,
            epoch=epoch,
            weights=dict(zip(names, weights, strict=True)),
            loss=loss[0, :steps],
            gradients=dict(zip(names, gradients[:, :steps], strict=True)),
            stopped=stopped,
        )

    def before(self, step: int, every: int, steps: int) -> "Trajectory":
        """Return the rows before `step` that a descent of so many `steps` records.

        Those are each `every`-th step and the last one; the final weights are not among them.
        """
        keep = (self.step % every == 0) | (self.step == steps - 1)
        keep &= self.step < step
        recorded = keep[: len(self.loss)]
        return Trajectory(
            step=self.step[keep],
            epoch=self.epoch[keep],
            weights={name: w[keep] for name, w in self.weights.items()},
            loss=self.loss[recorded],
            gradients={name: g[recorded] for name, g in self.gradients.items()},
            stopped="",
        )

    @classmethod
    def join(cls, pieces: Sequence["Trajectory"]) -> "Trajectory":
        """Return one trajectory of consecutive pieces, of which only the last has a last row."""
        names = pieces[0].weights
        return cls(
            step=torch.cat([piece.step for piece in pieces]),
            epoch=torch.cat([piece.epoch for piece in pieces]),
            weights={name: torch.cat([p.weights[name] for p in pieces]) for name in names},
            loss=torch.cat([piece.loss for piece in pieces]),
            gradients={name: torch.cat([p.gradients[name] for p in pieces]) for name in names},
            stopped=pieces[-1].stopped,
        )


def record_interval(steps: int, most: int = 10_000) -> int:
    """Return the smallest k for which steps 0, k, 2k, … and the last one are at most `most`.

    Those are 1 + ⌈(steps − 1)/k⌉ steps.
    """
    return max(1, -(-(steps - 1) // (most - 1)))


class Recorder:
    """Collects a trajectory without making the device wait for it.

    Rows stay on the model's device, one small tensor each, until a block of them is full or too
    old and so `due`. `hand_over` then brings the block to the CPU in one copy, looks through it
    for divergence, and hands it to `on_block`, a piece of the trajectory, so that it can be
    written while the descent goes on. Used as a context manager, it hands over what it has also
    when an exception ends the descent.

    Raises:
        ValueError: the model's parameters are not trainable scalars (see `scalars`).
    """

    def __init__(
        self,
        model: nn.Module,
        on_block: Callable[[Trajectory], None] | None = None,
        rows: int = 1000,
        seconds: float = 1.0,
    ) -> None:
        self.parameters = scalars(model)
        self.on_block = on_block
        self.rows, self.seconds = rows, seconds
        self.pieces: list[Trajectory] = []
        self._start_block()

    def _start_block(self) -> None:
        self._rows: list[Tensor] = []
        self._index: list[tuple[int, int]] = []
        self._due = time.monotonic() + self.seconds

    def record(self, step: int, epoch: int, loss: Tensor) -> None:
        """Record the weights before `step`, and the loss and gradients there."""
        parameters = self.parameters.values()
        weights, gradients = [w.detach() for w in parameters], [w.grad for w in parameters]
        self._rows.append(torch.stack([loss, *weights, *gradients]))  # type: ignore[list-item]
        self._index.append((step, epoch))

    @property
    def due(self) -> bool:
        """Whether it is time to hand over."""
        return len(self._rows) >= self.rows or time.monotonic() > self._due

    @property
    def diverged(self) -> bool:
        """Whether a loss or weight handed over so far was not finite."""
        return bool(self.pieces) and self.pieces[-1].stopped == "diverged"

    @torch.no_grad()
    def finish(self, step: int, epoch: int, stopped: str = "finished") -> Trajectory:
        """Record the final weights, after `step` steps and `epoch` epochs; return it all.

        Of a descent that diverged, the trajectory ends, and the model's weights stand, at the
        row where it did.
        """
        if not self.diverged:
            weights = list(self.parameters.values())
            nothing = [torch.zeros_like(weights[0])]
            self._rows.append(torch.stack(nothing + weights + nothing * len(weights)))
            self._index.append((step, epoch))
            self.hand_over(stopped)
        trajectory = Trajectory.join(self.pieces)
        if self.diverged:
            for name, w in self.parameters.items():
                w.copy_(trajectory.weights[name][-1])
        return trajectory

    def hand_over(self, stopped: str = "") -> None:
        """Bring the block to the CPU as a piece of trajectory, up to where it diverged."""
        if not self._rows:
            self._start_block()
            return
        table, index = torch.stack(self._rows).cpu(), torch.tensor(self._index)
        self._start_block()
        step, epoch = index.unbind(dim=1)
        piece = Trajectory.of(self.parameters, step, epoch, table.T, stopped)
        self.pieces.append(piece)
        if self.on_block is not None:
            self.on_block(piece)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._rows and not self.diverged:
            self.hand_over()
