"""Where and how a gradient is computed: on a device, compiled, in chunks, by several processes."""

import importlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from torchgd.gradients import GradientSource
from torchgd.models import Model

# Rows at a time of data that are not in memory: what fits into a CPU's cache, or fills a GPU.
CHUNK = {"cpu": 2**16, "cuda": 2**22}


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


def compiled(gradient: GradientSource, x: Tensor) -> GradientSource:
    """The same gradient by torch.compile: one pass over the data, no temporaries of its size.

    Sums are taken in another order, so that loss and gradients differ from `gradient`'s by
    rounding. For few samples on CUDA, as in `x`, starting kernels is what takes the time: there
    one CUDA graph starts them all.
    """
    few = x.is_cuda and x.numel() <= 2**16
    return torch.compile(gradient, mode="reduce-overhead" if few else "default")


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

    A process takes its share of x and y alone, each chunk on the model's device and in its dtype;
    `on_rows` is told before each chunk how many rows it has. Added in another order, the sums
    differ from those of the whole batch by rounding: by N·ε of Σ|terms| at most.

    Raises, from the gradient:
        RankError: another process is gone.
    """

    def gradient_in_chunks(model: Model, x: Tensor, y: Tensor) -> Tensor:
        parameters = list(model.parameters())
        w = parameters[0]
        sums = torch.zeros(1 + len(parameters), dtype=w.dtype, device=w.device)
        first, last = share(len(x))
        for k in range(first, last, rows):
            part = slice(k, min(k + rows, last))
            on_rows(part.stop - k)
            xs, ys = (column[part].to(w.device, w.dtype) for column in (x, y))
            loss = gradient(model, xs, ys)
            terms = [loss, *(p.grad for p in parameters)]
            sums += len(xs) * torch.stack(terms)  # type: ignore[arg-type]
        loss, *gradients = add_over_ranks(sums) / len(x)
        for p, mean in zip(parameters, gradients, strict=True):
            p.grad = mean
        return loss

    return gradient_in_chunks


class RankError(RuntimeError):
    """Another of the processes that share the work is gone, or never came."""


def torchrun(name: str, alone: int) -> int:
    """Return what torchrun tells this process, by name, as RANK; without torchrun, `alone`."""
    text = os.environ.get(name, "") if "TORCHELASTIC_RUN_ID" in os.environ else ""
    return int(text) if re.fullmatch(r"[0-9]+", text) else alone


def processes() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return torchrun("WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this is the first of the processes that torchrun started, which alone writes."""
    return torchrun("RANK", 0) == 0


def refuse_broken_environment() -> None:
    """Refuse what torchrun never tells a process.

    Raises:
        ValueError: a number is missing, or is none, or not in its range.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    way_out = "start the script by torchrun, or unset TORCHELASTIC_RUN_ID"
    for name, least in {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "MASTER_PORT": 1}.items():
        text = os.environ.get(name)
        if torchrun(name, -1) < least:
            raise ValueError(f"{name} is {text!r}, not an integer of at least {least}; {way_out}")
    if torchrun("RANK", 0) >= processes():
        raise ValueError(f"RANK is {torchrun('RANK', 0)} of {processes()} processes; {way_out}")


@contextmanager
def process_group(timeout: float = 1800.0) -> Iterator[None]:
    """Join the other processes that torchrun started: through gloo, on CUDA through NCCL.

    None waits longer than `timeout` seconds for another.

    SIGINT and SIGTERM end each at once: one that waits for the others in C++ could not hear them.
    All must take the same steps, and so stop at the same one: a `Recorder` that hands over by the
    clock finds a divergence earlier on one than on another.

    Raises:
        RankError: they cannot meet.
    """
    for which in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(which) is not signal.SIG_IGN:  # as under nohup
            signal.signal(which, signal.SIG_DFL)
    # torch.optim imports it later, and imported within a group it holds that for good: the group's
    # threads would outlive Python's end, and abort a process that is done.
    importlib.import_module("torch._dynamo")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://"))
        # Where torchrun starts all again, what those before wrote there is not for these.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
        )
        # All have met before one goes on, and perhaps away: else the others would wait for it.
        dist.all_reduce(torch.zeros(1))
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        reason = str(error).partition("\n")[0]
        raise RankError(
            f"rank {torchrun('RANK', 0)} cannot meet the others at {where} ({reason}); take a free "
            "port, and start all of them"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def which_rank() -> str:
    """Return "rank N: " of processes that have met, else ""."""
    return f"rank {dist.get_rank()}: " if dist.is_initialized() else ""


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
            raise _gone(error) from error
    return sums


def refuse_unlike_ranks(runs: Sequence[Mapping[str, object]]) -> None:
    """Wait for all processes, and refuse to go on unless each has the same runs to carry out.

    Each run is told by all that decides its steps, by name.

    Raises:
        ValueError: they have not; the message names the first thing that differs.
        RankError: another process is gone.
    """
    if not dist.is_initialized():
        return
    mine = {"runs": repr(len(runs))}
    for number, run in enumerate(runs):
        mine |= {f"{name} of run {number}": repr(value) for name, value in run.items()}
    found: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    try:
        dist.all_gather_object(found, mine)
    except RuntimeError as error:
        raise _gone(error) from error
    for rank, theirs in enumerate(found):
        for name in {**found[0], **theirs}:
            a, b = found[0].get(name), theirs.get(name)
            if a != b:
                raise ValueError(
                    f"{name} is {b} for rank {rank}, and {a} for rank 0: give all the same"
                )


def _gone(error: RuntimeError) -> RankError:
    reason = str(error).partition("\n")[0].partition(". ")[0]
    return RankError(f"another process is gone, or stands still ({reason})")
