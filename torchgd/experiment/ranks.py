"""The processes that torchrun started to share the work, each of a rank."""

import importlib
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous


class RankError(RuntimeError):
    """Another of the processes that share the work is gone, or never came."""


def torchrun(name: str, alone: int) -> int:
    """Return what torchrun tells this process, by name, as RANK; without torchrun, `alone`."""
    text = os.environ.get(name, "") if "TORCHELASTIC_RUN_ID" in os.environ else ""
    return int(text) if re.fullmatch(r"[0-9]+", text) else alone


def processes() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return torchrun("WORLD_SIZE", 1)


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
def process_group() -> Iterator[None]:
    """Join the other processes that torchrun started: through gloo, on CUDA through NCCL.

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
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
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
