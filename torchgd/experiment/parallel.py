"""How a gradient is computed: on which device, compiled, in chunks, by several processes."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from torchgd.compiled import why_not_compiled
from torchgd.data import Batches
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.sources import Rows
from torchgd.gradients import GradientSource, is_linear_in_parameters
from torchgd.models import Model

# Rows at a time of data that are not in memory: what fits into a CPU's cache, or fills a GPU.
CHUNK = {"cpu": 2**16, "cuda": 2**22}


class RankError(RuntimeError):
    """Another of the processes that share the work is gone."""


def find_device(name: str) -> torch.device:
    """Return the device of that name: auto (cuda where there is one), cpu, cuda or cuda:N.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", name)
    if asked is None:
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(asked[1] or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r}: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices on this machine; use cpu or auto"
        )
    return torch.device(name)


def torchrun(name: str, alone: int) -> int:
    """Return what torchrun tells this process, by name, as RANK; without torchrun, `alone`."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def processes() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return torchrun("WORLD_SIZE", 1)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started: through gloo, on CUDA through NCCL.

    All must take the same steps, and so stop at the same one: a `Recorder` that hands over by the
    clock finds a divergence earlier on one than on another.
    """
    # torch.optim imports it later, and imported within a group it holds that for good: the group's
    # threads would outlive Python's end, and abort a process that is done.
    importlib.import_module("torch._dynamo")
    store, rank, size = next(rendezvous("env://"))
    # Where torchrun starts all again, what the processes before wrote there is not for these.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def compiled(gradient: GradientSource, x: Tensor) -> GradientSource:
    """The same gradient by torch.compile: one pass over the data, no temporaries of its size.

    Sums are taken in another order, so that loss and gradients differ from `gradient`'s by
    rounding. For few samples on CUDA, as in `x`, starting kernels is what takes the time: there
    one CUDA graph starts them all.
    """
    few = x.is_cuda and x.numel() <= 2**16
    return torch.compile(gradient, mode="reduce-overhead" if few else "default")


def fits_machine_code(model: Model, batches: Batches) -> bool:
    """Whether the loop by hand can be machine code (see `torchgd.compiled`)."""
    here = isinstance(batches.x, Tensor) and processes() == 1 and not why_not_compiled(batches)
    return here and is_linear_in_parameters(model, batches.x)


def numba_is_there() -> bool:
    """Whether the compiled loop's compiler is installed."""
    return importlib.util.find_spec("numba") is not None


def refuse_no_compiler(compiled_step: Callable[[], object]) -> None:
    """Refuse to compile where torch cannot."""
    try:
        compiled_step()
    except Exception as error:  # torch has as many errors here as ways to lack a compiler
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        way_out = "install a C++ compiler, for CUDA Triton, or do without"
        if isinstance(error, UnicodeError):  # torch reads its own files in the locale's encoding
            way_out = "set PYTHONUTF8=1, or do without"
        raise ValueError(
            f"compile: torch.compile fails on this machine ({reason}); {way_out}"
        ) from error


def refuse_in_chunks(asked: Configuration) -> None:
    """Refuse what needs all of the data in memory, or at once."""
    for name in ("shuffle", "standardize", "compile"):
        if getattr(asked, name):
            raise ValueError(f"{name} needs the data in memory, not in chunks; leave it out")
    if asked.lr == "auto":
        raise ValueError("lr auto needs the data in memory, not in chunks; give a number")


# A batch of N rows is cut into the ranks' shares, and these into chunks, so that each row lies in
# one chunk. The loss is a mean over N, and so a sum of sums,
#
#   loss     = (1/N) Σ_ranks Σ_chunks n·loss_chunk
#   ∂loss/∂w = (1/N) Σ_ranks Σ_chunks n·∂loss_chunk/∂w
#
# where n is the number of rows in the chunk. Each rank adds up its chunks, one all-reduce adds the
# ranks' sums, and what is left is to divide. (The mean of the ranks' own means gives each the
# weight 1/K, whatever its share: where K does not divide N, that is the gradient of another loss.)
def in_chunks(
    gradient: GradientSource,
    rows: int,
    on_rows: Callable[[int], object] = lambda count: None,
) -> GradientSource:
    """Return `gradient` of a batch, taken `rows` rows at a time, by all processes together.

    Of x and y, which may be columns that are read when they are asked for, a process takes its
    share alone; `on_rows` is told of each chunk how many rows it had. Added in another order, the
    sums differ from those of the whole batch by rounding: by N·ε of Σ|terms| at most.

    Raises, from the gradient:
        RankError: another process is gone.
    """

    def gradient_in_chunks(model: Model, x: Rows, y: Rows) -> Tensor:
        parameters = list(model.parameters())
        w = parameters[0]
        sums = torch.zeros(1 + len(parameters), dtype=w.dtype, device=w.device)
        first, last = share(len(x))
        for k in range(first, last, rows):
            part = slice(k, min(k + rows, last))
            xs, ys = (column[part].to(w.device, w.dtype) for column in (x, y))
            loss = gradient(model, xs, ys)
            terms = [loss, *(p.grad for p in parameters)]
            sums += len(xs) * torch.stack(terms)  # type: ignore[arg-type]
            on_rows(len(xs))
        loss, *gradients = add_over_ranks(sums) / len(x)
        for p, mean in zip(parameters, gradients, strict=True):
            p.grad = mean
        return loss

    return gradient_in_chunks


def share(count: int) -> tuple[int, int]:
    """Return where this rank's part of so many rows begins and ends: ⌊rn/K⌋, ⌊(r + 1)n/K⌋."""
    if not dist.is_initialized():
        return 0, count
    rank, size = dist.get_rank(), dist.get_world_size()
    return count * rank // size, count * (rank + 1) // size


def add_over_ranks(sums: Tensor) -> Tensor:
    """Return the sum over all processes, the same bits on each."""
    if dist.is_initialized():
        try:
            dist.all_reduce(sums)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RankError(
                f"rank {dist.get_rank()}: another process is gone ({reason})"
            ) from error
    return sums
