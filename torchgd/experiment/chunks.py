"""Batches larger than memory: their gradient, a chunk of rows at a time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from torchgd.data import Batches, Rows
from torchgd.gradients import GradientSource, named_partial
from torchgd.models import Model


class RankError(RuntimeError):
    """A process is gone, or no longer at the weights of the others."""


class Process:
    """One process alone, which takes a batch in chunks of `chunk_size` rows, or all at once.

    `experiment.distributed.Group` is one of several. `on_rows` is told how many rows were gone
    through.
    """

    rank, size = 0, 1

    def __init__(self, chunk_size: int | None = None) -> None:
        self.chunk_size = chunk_size
        self.on_rows: Callable[[int], object] = lambda count: None

    def add(self, values: list[Tensor]) -> list[Tensor]:
        """Return each value's sum over the ranks."""
        return values

    def agree(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return what to ask whether any rank wishes to stop, where this one's wish is `stop`."""
        return stop

    # A row lies in one chunk, of one rank. So the loss of all N rows is a sum of sums:
    #
    #   loss     = (1/N) Σ_ranks Σ_chunks Σ_{n in the chunk} (ŷₙ − yₙ)²
    #   ∂loss/∂w = (1/N) Σ_ranks Σ_chunks Σ_{n in the chunk} 2(ŷₙ − yₙ) · ∂ŷₙ/∂w
    #
    # Each rank adds up its chunks, one all-reduce adds the ranks' sums and their counts, and what
    # is left is to divide. (The mean of the ranks' own means gives each the weight 1/K, whatever
    # its share: where K does not divide N, that is the gradient of another loss.)
    @torch.no_grad()
    def manual_gradient(self, model: Model, x: Rows, y: Rows) -> Tensor:
        """The gradient by the hand-derived formula; x and y are this rank's rows.

        Added in another order, the sums differ by rounding: by N·ε of Σ|terms| at most.

        Shapes: x and y (n,), of which n may be 0; every gradient and the returned loss ().
        """
        names = [name for name, _ in model.named_parameters()]
        totals: list[Tensor] = []
        for xs, ys in self._chunks(model, x, y):
            r, partials = model(xs) - ys, model.partials(xs)
            sums = [(2 * r * named_partial(partials, name, r)).sum() for name in names]
            sums = [torch.full_like(sums[0], len(xs)), r.square().sum(), *sums]
            totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
        count, loss, *gradients = self.add(totals)
        for w, gradient in zip(model.parameters(), gradients, strict=True):
            w.grad = gradient * (1 / count)
        return loss * (1 / count)

    @torch.no_grad()
    def loss(self, model: Model, x: Rows, y: Rows) -> Tensor:
        """The mean squared error over all rows, of which each rank takes its part."""
        a, b = self.share(len(x))
        total = next(model.parameters()).new_zeros(())
        for xs, ys in self._chunks(model, x[a:b], y[a:b]):
            total += (model(xs) - ys).square().sum()
        count, total = self.add([torch.full_like(total, b - a), total])
        return total * (1 / count)

    def share(self, count: int) -> tuple[int, int]:
        """Return where this rank's part of so many rows begins and ends: ⌊rn/K⌋, ⌊(r + 1)n/K⌋."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    # backward() adds to w.grad, chunk by chunk. What the ranks' gradients then come to is up to
    # `_parallel`: their mean, (1/K) Σ_ranks, of which K/N makes the same sum as above.
    def autograd_gradient(self, model: Model) -> GradientSource:
        """Return the gradient of `model` alone by reverse-mode automatic differentiation."""
        forward = self._parallel(model)

        def gradient(_: Model, x: Rows, y: Rows) -> Tensor:
            for w in model.parameters():
                w.grad = None
            loss, left = next(model.parameters()).new_zeros(()), len(x)
            for xs, ys in self._chunks(model, x, y):
                left -= len(xs)
                with self._reducing(forward, last=left == 0):
                    total = (forward(xs) - ys).square().sum()
                    self._backward(total)
                loss += total.detach()
            count, loss = self.add([torch.full_like(loss, len(x)), loss])
            for w in model.parameters():
                assert w.grad is not None
                w.grad = w.grad * (self.size / count)
            return loss * (1 / count)

        return gradient

    def _parallel(self, model: nn.Module) -> nn.Module:
        return model

    def _reducing(self, forward: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def _backward(self, total: Tensor) -> None:
        total.backward()  # type: ignore[no-untyped-call]

    def _chunks(self, model: Model, x: Rows, y: Rows) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows on the model's device; of none, one empty chunk."""
        w, count = next(model.parameters()), len(x)
        size = self.chunk_size or max(count, 1)
        for k in range(0, max(count, 1), size):
            xs, ys = (rows[k : k + size].to(w.device, w.dtype) for rows in (x, y))
            yield xs, ys
            self.on_rows(len(xs))

    def part(self, update: str, model: Model, batches: Batches) -> tuple["Shares", GradientSource]:
        """Return this rank's part of the batches, and the update's gradient over all ranks."""
        by_hand = update == "manual"
        gradient = self.manual_gradient if by_hand else self.autograd_gradient(model)
        return Shares(batches, model, self), gradient

    def require_equal(self, model: Model) -> None:
        """Refuse to go on where a rank's weights are not those of rank 0."""


class Shares:
    """A rank's part of each batch, and at the end of an epoch a check of the weights."""

    def __init__(self, batches: Batches, model: Model, process: Process) -> None:
        self.batches, self.model, self.process = batches, model, process

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.batches:
            a, b = self.process.share(len(x))
            yield x[a:b], y[a:b]
        self.process.require_equal(self.model)  # the loop has taken the last step by now
