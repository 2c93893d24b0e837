"""Several processes, one descent: torchrun starts them, torch.distributed adds over them.

Each batch is split over the K ranks, in order; every rank takes the step of the whole batch, and
so all of them stay at the same weights.
"""

import os
from collections.abc import Callable, Iterator
from functools import wraps

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from torchgd.gradients import GradientSource, named_partial
from torchgd.models import Model
from torchgd.training import BatchesLike, RankError


class Group:
    """The processes that torchrun started: this one's `rank` of `size`; a context manager.

    On a CPU they talk through gloo, on CUDA through NCCL. `stop` is this process's wish to stop;
    `agreed` is whether any had it at the last step, the same for all, so that all stop together.
    On CUDA, where to ask is to wait, only each 64th step is asked.
    """

    def __init__(self, device: torch.device, stop: Callable[[], bool] = lambda: False) -> None:
        store, rank, size = next(rendezvous("env://"))
        # Where torchrun starts all again, what the processes before wrote there is not for these.
        store = dist.PrefixStore(  # type: ignore[attr-defined]
            os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store
        )
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        self.rank, self.size, self.stop = dist.get_rank(), dist.get_world_size(), stop
        self.device = device
        self._wishes, self._asked = torch.zeros(()), 0

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *exception: object) -> None:
        dist.destroy_process_group()

    def agreed(self) -> bool:
        """Whether a process wished to stop."""
        self._asked += 1
        if self._wishes.is_cuda and self._asked % 64:
            return False
        return bool(self._wishes.item() > 0)

    def add(self, values: list[Tensor]) -> list[Tensor]:
        """Return each value's sum over the ranks, and see who wishes to stop."""
        wish = torch.full_like(values[0], float(self.stop()))
        sums = torch.stack([*values, wish])
        dist.all_reduce(sums)
        *totals, self._wishes = sums.unbind()
        return totals

    # Row n lies on one rank. So the loss of all N rows is a sum over ranks, and its derivative too:
    #
    #   loss     = (1/N) Σ_ranks Σ_{n on the rank} (ŷₙ − yₙ)²
    #   ∂loss/∂w = (1/N) Σ_ranks Σ_{n on the rank} 2(ŷₙ − yₙ) · ∂ŷₙ/∂w
    #
    # Each rank adds up its rows, one all-reduce adds the ranks' sums and their counts, and what is
    # left is to divide. (The mean of the ranks' own means gives each rank the weight 1/K, whatever
    # its share: where N is no multiple of K, that is the gradient of another loss.)
    @torch.no_grad()
    def manual_gradient(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """The gradient over all ranks' rows by the hand-derived formula; x and y are this rank's.

        Shapes: x and y (n,), of which n may be 0; every gradient and the returned loss ().
        """
        r = model(x) - y
        derivative, partials = 2 * r, model.partials(x)
        names = [name for name, _ in model.named_parameters()]
        sums = [(derivative * named_partial(partials, name, r)).sum() for name in names]
        count = torch.full_like(sums[0], len(x))
        count, loss, *sums = self.add([count, r.square().sum(), *sums])
        for w, total in zip(model.parameters(), sums, strict=True):
            w.grad = total * (1 / count)
        return loss * (1 / count)

    # DistributedDataParallel leaves (1/K) Σ_ranks ∂loss_rank/∂w in each w.grad. With
    # loss_rank = Σ_{n on the rank} (ŷₙ − yₙ)², times K/N, this is the same sum.
    def autograd_gradient(self, model: Model) -> GradientSource:
        """Return the gradient over all ranks' rows, of `model` alone, by autograd and DDP."""
        parallel = DistributedDataParallel(model)

        def gradient(_: Model, x: Tensor, y: Tensor) -> Tensor:
            for w in model.parameters():
                w.grad = None
            total = (parallel(x) - y).square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            value = total.detach()
            count, loss = self.add([torch.full_like(value, len(x)), value])
            for w in model.parameters():
                assert w.grad is not None
                w.grad = w.grad * (self.size / count)
            return loss * (1 / count)

        return gradient

    def part(
        self, update: str, model: Model, batches: BatchesLike
    ) -> tuple["Shares", GradientSource]:
        """Return this rank's part of the batches, and the update's gradient over all ranks."""
        by_hand = update == "manual"
        gradient = self.manual_gradient if by_hand else self.autograd_gradient(model)

        @wraps(gradient)
        def together(model: Model, x: Tensor, y: Tensor) -> Tensor:
            try:
                return gradient(model, x, y)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                raise RankError(f"rank {self.rank}: a process is gone ({reason})") from error

        return Shares(batches, model, self), together

    def require_equal(self, model: Model) -> None:
        """Refuse to go on where a rank's weights are not those of rank 0, to the bit.

        Raises:
            RankError: names the ranks.
        """
        own = torch.stack([w.detach() for w in model.parameters()])
        first = own.clone()
        dist.broadcast(first, 0)
        apart = torch.zeros(self.size, dtype=own.dtype, device=own.device)
        apart[self.rank] = float(not torch.equal(bits(own), bits(first)))
        dist.all_reduce(apart)
        if apart.any():
            ranks = ", ".join(str(k) for k in apart.nonzero().flatten().tolist())
            raise RankError(f"rank {ranks}: the weights are no longer those of rank 0; go on from "
                            "the last checkpoint with --resume")  # fmt: skip


def bits(t: Tensor) -> Tensor:
    """The bits of floats as integers, for which NaN equals NaN."""
    return t.view({4: torch.int32, 8: torch.int64}[t.element_size()])


class Shares:
    """This rank's part of each batch, and at the end of an epoch a check of the weights.

    Of n rows, rank r of K has those from ⌊rn/K⌋ on, up to ⌊(r + 1)n/K⌋.
    """

    def __init__(self, batches: BatchesLike, model: Model, group: Group) -> None:
        self.batches, self.model, self.group = batches, model, group

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.batches.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        r, size = self.group.rank, self.group.size
        for x, y in self.batches:
            a, b = len(x) * r // size, len(x) * (r + 1) // size
            yield x[a:b], y[a:b]
        self.group.require_equal(self.model)  # the loop has taken the last batch's step by now
