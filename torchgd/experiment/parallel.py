"""Where and how a gradient is computed: on a device, compiled, in chunks, by several processes."""

import importlib
import math
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

from torchgd.entries import side_by_side, split
from torchgd.gradients import GradientSource
from torchgd.models import Model

# Samples of a step, up to which CUDA takes its time to start 20 to 40 kernels, 5 µs each. A CPU
# takes 0.1 ms by hand up to 16,384, and for 65,536 five times as long (one core, torch 2.13).
FEW = 2**16


def find_device(name: str, samples: float = math.inf) -> torch.device:
    """Return the device of that name, for steps of so many samples: auto, cpu, cuda or cuda:N.

    auto is cuda from FEW samples on, where each process on this machine finds a GPU of its own.
    As cuda each of them takes its own.

    Raises:
        ValueError: no such device, or not on this machine, or not one for each process.
    """
    if name == "auto":
        there = samples >= FEW and torch.cuda.is_available()
        name = "cuda" if there and _beside() <= torch.cuda.device_count() else "cpu"
    asked = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", name)
    if asked is None:
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    if name != "cpu":
        _take_gpu(name, asked[1])
    return torch.device(name)


def _beside() -> int:
    """Return how many processes torchrun started on this machine."""
    return torchrun("LOCAL_WORLD_SIZE", 1 + torchrun("LOCAL_RANK", 0))


def _take_gpu(name: str, number: str | None) -> None:
    """Refuse a GPU that is not there; have each of several processes take its own."""
    found, each = torch.cuda.device_count(), _beside()
    if number and processes() > 1:
        raise ValueError(f"device {name!r} is one GPU, and each process needs its own: use cuda")
    if max(int(number or 0) + 1, each) > found:
        of = f" for each of {each} processes" if each > 1 else ""
        raise ValueError(
            f"device {name!r}{of}: torch {torch.__version__} finds {found} CUDA devices on this "
            "machine; use cpu or auto"
        )
    if processes() > 1:
        torch.cuda.set_device(torchrun("LOCAL_RANK", 0))


def compiled(gradient: GradientSource, x: Tensor) -> GradientSource:
    """The same gradient by torch.compile: one pass over the data, no temporaries of its size.

    Sums are taken in another order, so that loss and gradients differ from `gradient`'s by
    rounding. Where a step on CUDA has few samples, as in `x`, one CUDA graph starts its kernels.
    """
    if x.is_cuda and x.numel() <= FEW:
        return kept(torch.compile(gradient, mode="reduce-overhead"))
    return torch.compile(gradient)


def kept(gradient: GradientSource) -> GradientSource:
    """The same gradient in memory of its own: a CUDA graph's next run overwrites its results."""

    def gradient_kept(model: Model, x: Tensor, y: Tensor) -> Tensor:
        loss = gradient(model, x, y).clone()
        for w in model.parameters():
            w.grad = None if w.grad is None else w.grad.clone()
        return loss

    return gradient_kept


def refuse_no_compiler(compiled_step: Callable[[], object]) -> None:
    """Refuse to compile where torch cannot."""
    try:
        compiled_step()
    except Exception as error:  # torch has as many errors here as ways to lack a compiler
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        way_out = "install a C++ compiler, for CUDA Triton, or do without"
        if isinstance(error, UnicodeError):  # torch reads its own files in the locale's encoding
            way_out = "set PYTHONUTF8=1, or do without"
        said = f"compile: torch.compile fails on this machine ({reason})"
        raise ValueError(f"{said}; {way_out}") from error


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
        w, count = parameters[0], sum(p.numel() for p in parameters)
        sums = torch.zeros(1 + count, dtype=w.dtype, device=w.device)
        first, last = share(len(x))
        for k in range(first, last, rows):
            part = slice(k, min(k + rows, last))
            on_rows(part.stop - k)
            xs, ys = (column[part].to(w.device, w.dtype) for column in (x, y))
            loss = gradient(model, xs, ys)
            terms = [loss, *(p.grad for p in parameters)]
            sums += len(xs) * side_by_side(terms)  # type: ignore[arg-type]
        means = add_over_ranks(sums) / len(x)
        for p, mean in zip(parameters, split(model, means[1:]), strict=True):
            p.grad = mean
        return means[0]

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


@contextmanager
def process_group(timeout: float | None = None) -> Iterator[None]:
    """Join the other processes that torchrun started: through gloo, on CUDA through NCCL.

    None waits longer than `timeout` seconds for another: by default 1800, on a machine with CUDA
    180. Gloo tells at once that a process is gone. NCCL does not: the others stand still until
    the time is over, when its watchdog aborts them, and torchrun may start all again.

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
    backend, seconds = "gloo", 1800.0
    if torch.cuda.is_available():
        backend, seconds = "cpu:gloo,cuda:nccl", 180.0
    most = timedelta(seconds=timeout or seconds)
    try:
        store, rank, size = next(rendezvous("env://", timeout=most))
        # Where torchrun starts all again, what those before wrote there is not for these.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=most)
        # All have met before one goes on, and perhaps away: else the others would wait for it.
        dist.all_reduce(torch.zeros(1))
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        reason = str(error).partition("\n")[0]
        said = f"rank {torchrun('RANK', 0)} cannot meet the others at {where} ({reason})"
        raise RankError(f"{said}; take a free port, and start all of them") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def which_rank() -> str:
    """Return "rank N: " of processes that have met, else ""."""
    return f"rank {dist.get_rank()}: " if dist.is_initialized() else ""


def share(count: int) -> tuple[int, int]:
    """Return where this rank's part of so many rows begins and ends: ⌊rn/K⌋, ⌊(r + 1)n/K⌋."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return count * rank // size, count * (rank + 1) // size


def add_over_ranks(sums: Tensor) -> Tensor:
    """Return the sum over all processes, the same bits on each."""
    if dist.is_initialized():
        with _missed():
            dist.all_reduce(sums)
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
    with _missed():
        dist.all_gather_object(found, mine)
    for rank, theirs in enumerate(found):
        for name in {**found[0], **theirs}:
            if (a := found[0].get(name)) != (b := theirs.get(name)):
                said = f"{name} is {b} for rank {rank}, and {a} for rank 0"
                raise ValueError(f"{said}: give all the same")


@contextmanager
def _missed() -> Iterator[None]:
    """Say of an error between processes that another one is missing."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise RankError(f"another process is gone, or stands still ({reason})") from error
