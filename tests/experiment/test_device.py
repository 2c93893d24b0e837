"""Which device a run takes, and what is known of it, on machines that have so many GPUs."""

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from torchgd import Linear, Model
from torchgd.experiment import folder, parallel
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.parallel import FEW, RankError, find_device, kept, process_group
from torchgd.experiment.resolve import resolve
from torchgd.experiment.sources import chunk_rows

Machine = Callable[..., list[int]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend that this process is one of some on a machine with so many GPUs.

    What comes back are the GPUs that the process takes for its own.
    """

    def pretend(gpus: int, ranks: int = 1, rank: int = 0) -> list[int]:
        taken: list[int] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        told = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank}
        for name, value in {**told, "TORCHELASTIC_RUN_ID": "here"}.items():
            monkeypatch.setenv(name, str(value))
        return taken

    return pretend


@pytest.mark.parametrize("samples", [1, FEW - 1, FEW, 2 * FEW])
@pytest.mark.parametrize("gpus", [0, 1, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_auto_is_cuda_where_it_pays_and_each_process_has_one(
    samples: int, gpus: int, ranks: int, machine: Machine
) -> None:
    taken = machine(gpus, ranks, rank=ranks - 1)
    cuda = samples >= FEW and gpus >= ranks
    assert find_device("auto", samples).type == ("cuda" if cuda else "cpu")
    assert taken == ([1] if cuda and ranks == 2 else [])


@pytest.mark.parametrize(("size", "samples"), [(1, 1), (7, 7), ("full", 21)])
def test_the_samples_are_those_of_a_step(
    size: Any, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, samples: int) -> torch.device:
        asked.append((name, samples))
        return torch.device("cpu")

    asked: list[tuple[str, int]] = []
    monkeypatch.setattr("torchgd.experiment.resolve.find_device", find)
    resolve([Configuration(model="quadratic", batch_size=size)])
    assert asked == [("auto", samples)]


def test_the_cpu_is_no_gpu_of_ones_own(machine: Machine) -> None:
    """torchrun's LOCAL_RANK=1 is no number of a GPU where there is one, and the device the CPU."""
    taken = machine(gpus=1, ranks=2, rank=1)
    assert find_device("cpu") == torch.device("cpu")
    assert taken == []


@pytest.mark.parametrize(("name", "gpus", "ranks", "message"), [
    ("cuda", 0, 1, "device 'cuda': torch {} finds 0 CUDA devices on this machine; use cpu or "),
    ("cuda:2", 2, 1, "device 'cuda:2': torch {} finds 2 CUDA devices on this machine; use cpu"),
    ("cuda", 1, 2, "device 'cuda' for each of 2 processes: torch {} finds 1 CUDA devices on this "),
    ("cuda:0", 2, 2, "device 'cuda:0' is one GPU, and each process needs its own: use cuda"),
])  # fmt: skip
@pytest.mark.parametrize("rank", [0, 1])
def test_what_no_process_can_have(
    name: str, gpus: int, ranks: int, message: str, rank: int, machine: Machine
) -> None:
    """Each process says the same, so that none waits for one that is gone."""
    taken = machine(gpus, ranks, min(rank, ranks - 1))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        find_device(name)
    assert str(error.value).startswith(message.format(torch.__version__))
    assert taken == []


@pytest.mark.parametrize(("gpus", "asked", "seconds"), [
    (0, None, 1800), (1, None, 180), (0, 7.0, 7), (1, 7.0, 7),
])  # fmt: skip
def test_nccl_which_does_not_tell_that_a_peer_is_gone_waits_a_short_time(
    gpus: int, asked: float | None, seconds: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet(backend: str, timeout: timedelta, **_: Any) -> None:
        raise RuntimeError(f"{backend} within {timeout}")

    machine(gpus, ranks=2)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(parallel, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    monkeypatch.setattr(dist, "PrefixStore", lambda *_: None)
    monkeypatch.setattr(dist, "init_process_group", meet)
    said = f"{'cpu:gloo,cuda:nccl' if gpus else 'gloo'} within {timedelta(seconds=seconds)}"
    with pytest.raises(RankError, match=said), process_group(asked):
        pass


def test_a_run_on_another_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one under another CUDA."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    began = {"device": "cuda", **folder.environment("cuda")}
    assert began["device_name"] == "NVIDIA H200, CUDA 13.0"
    assert list(folder.environment_changes(began)) == []
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (said,) = folder.environment_changes(began)
    assert said == (
        "device_name NVIDIA H200, CUDA 12.8, and the run began with NVIDIA H200, CUDA 13.0: "
        "bits may differ from then on"
    )


@pytest.mark.parametrize(("free", "rows"), [
    (2**40, 2**22), (2**29, 2**22), (2**29 - 1, 2**21), (10**8, 2**19), (100, 1),
])  # fmt: skip
def test_a_chunk_takes_half_of_a_gpus_free_memory_at_most(
    free: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**40))
    assert chunk_rows(torch.device("cuda"), 1) == rows
    assert chunk_rows(torch.device("cpu"), 1) == 2**16


def test_what_a_graph_computed_outlives_its_next_run() -> None:
    """A graph writes loss and gradients to one place in memory, whenever it runs."""
    place, model, x = (
        torch.zeros(2, dtype=torch.float64),
        Linear(dtype=torch.float64),
        torch.ones(1),
    )

    def graph(model: Model, x: Tensor, y: Tensor) -> Tensor:
        place.add_(1)
        next(model.parameters()).grad = place[0]
        return place[1]

    found = []
    for _ in range(2):
        found += [kept(graph)(model, x, x), *(w.grad for w in model.parameters())]
    assert found == [1, 1, 2, 2]
