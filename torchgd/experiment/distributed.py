"""Several processes, one descent: torchrun starts them, torch.distributed adds over them.

Each batch is split over the K ranks, in order; every rank takes the step of the whole batch, and
so all of them stay at the same weights. `experiment.chunks` has the sums.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from torchgd.experiment.chunks import Process, RankError
from torchgd.models import Model


class Group(Process):
    """The processes that torchrun started: this one's `rank` of `size`; a context manager.

    On a CPU they talk through gloo, on CUDA through NCCL. Each step's all-reduce also says whether
    any process wishes to stop, so that all do so at the same step (see `agree`).
    """

    def __init__(self, device: torch.device, chunk_size: int | None = None) -> None:
        super().__init__(chunk_size)
        store, self.rank, self.size = next(rendezvous("env://"))
        # Where torchrun starts all again, what the processes before wrote there is not for these.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        self.agree(lambda: False)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *exception: object) -> None:
        # What DistributedDataParallel leaves holds the process group, whose threads would then
        # outlive Python's end, and abort the process.
        gc.collect()
        dist.destroy_process_group()

    def agree(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return whether any rank wished to stop at the last step, where this one's wish is `stop`.

        On CUDA, where to ask is to wait for the device, only each 64th step is asked.
        """
        self.stop, self._wishes, self._asked = stop, torch.zeros(()), 0
        return self._agreed

    def _agreed(self) -> bool:
        self._asked += 1
        if self._wishes.is_cuda and self._asked % 64:
            return False
        return bool(self._wishes.item() > 0)

    def add(self, values: list[Tensor]) -> list[Tensor]:
        """Return each value's sum over the ranks, and see who wishes to stop."""
        wish = torch.full_like(values[0], float(self.stop()))
        sums = torch.stack([*values, wish])
        with self._others():
            dist.all_reduce(sums)
        *totals, self._wishes = sums.unbind()
        return totals

    def _parallel(self, model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model)

    def _reducing(self, forward: nn.Module, last: bool) -> AbstractContextManager[None]:
        assert isinstance(forward, DistributedDataParallel)
        return nullcontext() if last else forward.no_sync()

    def _backward(self, total: Tensor) -> None:
        with self._others():
            super()._backward(total)

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Talk to the other processes, which may be gone."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RankError(f"rank {self.rank}: another process is gone ({reason})") from error

    def require_equal(self, model: Model) -> None:
        """Refuse to go on where a rank's weights are not those of rank 0, to the bit.

        Raises:
            RankError: names the ranks.
        """
        own = torch.stack([w.detach() for w in model.parameters()])
        first = own.clone()
        apart = torch.zeros(self.size, dtype=own.dtype, device=own.device)
        with self._others():
            dist.broadcast(first, 0)
            apart[self.rank] = float(not torch.equal(bits(own), bits(first)))
            dist.all_reduce(apart)
        if apart.any():
            ranks = ", ".join(str(k) for k in apart.nonzero().flatten().tolist())
            raise RankError(
                f"rank {ranks}: the weights are no longer those of rank 0; go on from the last "
                "checkpoint with --resume"
            )


def bits(t: Tensor) -> Tensor:
    """The bits of floats as integers, for which NaN equals NaN."""
    return t.view({4: torch.int32, 8: torch.int64}[t.element_size()])
