"""Several processes take the steps of one."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import (
    AUTOGRAD,
    ENVIRONMENT,
    KILLED,
    MANUAL,
    SCRIPT,
    left,
    same_bits,
    same_trajectory,
    shown,
    stacked,
    wait_for,
)
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from torchgd import Batches, Linear, Quadratic, Trajectory, manual_gradient, train
from torchgd.experiment.checkpoint import Checkpoint, Saver
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import UPDATES, Experiment
from torchgd.experiment.outcome import Hooks, ignore, run_update
from torchgd.experiment.parallel import add_over_ranks, in_chunks, process_group, share
from torchgd.experiment.sources import load

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signals"),
]
ROWS = 47  # a prime: no number of processes divides it, nor does a batch size
MODELS = {"line": lambda: Linear(bias=True, dtype=torch.float64),
          "parabola": lambda: Quadratic(dtype=torch.float64)}  # fmt: skip
CASES = list(product(MODELS, [1, 7, ROWS], ["manual", "autograd"]))


def batches(size: int) -> Batches:
    data = load("cars")
    x = (data.x - data.x.mean()) / data.x.std()
    return Batches(x[:ROWS], data.y[:ROWS], size, shuffle=size == 7, seed=3)


def descent(case: tuple[str, int, str], rows: int | None = None) -> Trajectory:
    """One process's own or, in chunks of so many rows, that of all processes together."""
    kind, size, update = case
    model = MODELS[kind]()
    gradient, make = MANUAL if update == "manual" else AUTOGRAD
    if rows is not None:
        gradient = in_chunks(gradient, rows)
    optimizer = make(model.parameters(), lr=0.01, momentum=0.9)
    return train(model, batches(size), optimizer, gradient, epochs=1 if size == 1 else 2)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def rank(index: int, ports: dict[int, int], folder: str) -> None:
    """Take part in a group of each size, one after the other."""
    torch.set_num_threads(1)
    for size, port in ports.items():
        if index < size:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index),
                              WORLD_SIZE=str(size), TORCHELASTIC_RUN_ID="here")  # fmt: skip
            with process_group(torch.device("cpu")):
                torch.save(everything(folder), Path(folder, f"{index} of {size}.pt"))
            assert "pt_gloo_runloop" not in threads(), "it would outlive Python's end, and abort"


def threads() -> list[str]:
    """The names of this process's threads, where the system tells them."""
    return [
        path.read_text(encoding="utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")
    ]


def everything(folder: str) -> dict[str, Any]:
    # All bring what they recorded to the CPU for each checkpoint, though the first alone saves.
    saving = Hooks(saver=Saver(ignore, steps=3))
    return {
        "descents": [descent(case, ROWS) for case in CASES],
        "in chunks": {case: descent(case, 5) for case in CASES if case[1] == 7},
        "the mean of the ranks' means": mean_of_means(),
        "usual": by_distributed_data_parallel(),
        "three rows": [ran(update, batch_size="full") for update in UPDATES],
        "diverged": [ran(u, saving, data="cars", lr=1e30, batch_size=7) for u in UPDATES],
    }


def ran(update: str, hooks: Hooks | None = None, **asked: Any) -> Trajectory:
    return run_update(Experiment(Configuration(**asked)), update, hooks=hooks).trajectory


def own_rows() -> tuple[torch.Tensor, torch.Tensor]:
    (x, y), *_ = batches(ROWS)
    part = slice(*share(ROWS))
    return x[part], y[part]


def mean_of_means() -> float:
    model = Linear(w=3.0, dtype=torch.float64)
    manual_gradient(model, *own_rows())
    assert model.w.grad is not None
    return add_over_ranks(model.w.grad).item() / dist.get_world_size()


def by_distributed_data_parallel() -> dict[str, float]:
    """torch's own way: it makes the mean of the ranks' gradients, of K/N times their sums."""
    model = MODELS["parabola"]()
    parallel = DistributedDataParallel(model)
    x, y = own_rows()
    total = (parallel(x) - y).square().sum() * dist.get_world_size() / ROWS
    total.backward()
    found = {name: w.grad.item() for name, w in model.named_parameters() if w.grad is not None}
    del parallel, total
    gc.collect()  # what is left of them would keep the process group's threads beyond its end
    return found


@pytest.fixture(scope="module")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    ports = {size: free_port() for size in (2, 3, 4)}
    spawn(rank, (ports, str(folder)), max(ports))
    return folder


@pytest.fixture(scope="module", params=[2, 3, 4])
def ranks(request: pytest.FixtureRequest, spawned: Path) -> Any:
    """What each of so many processes came to."""
    size = request.param
    return [torch.load(spawned / f"{k} of {size}.pt", weights_only=False) for k in range(size)]


def test_they_descend_as_one_process_does(ranks: list[Any]) -> None:
    """At every step within 1e-13 of the largest weight, and on every rank to the same bits.

    A gradient of 47 terms is off by 47ε of Σ|terms|, about 1e-14 of it; with momentum 0.9 errors
    add up to ten times that, and α = 0.01 makes of it less than 1e-14 of the weights.
    """
    found = [one["descents"] for one in ranks]
    for case, parts in ranks[0]["in chunks"].items():
        whole = found[0][CASES.index(case)]
        apart = (stacked(parts) - stacked(whole)).abs().max()
        assert apart <= 1e-13 * stacked(whole).abs().max(), case
    for case, *descents in zip(CASES, *found, strict=True):
        alone, weights = stacked(descent(case)), stacked(descents[0])
        assert torch.equal(descents[0].step, descent(case).step)
        assert (weights - alone).abs().max() <= 1e-13 * alone.abs().max(), case
        assert all(same_bits(stacked(other), weights) for other in descents[1:])
    by_hand, usual = (
        [t for t, case in zip(found[0], CASES, strict=True) if case[2] == update]
        for update in ("manual", "autograd")
    )
    assert all(same_trajectory(a, b) for a, b in zip(by_hand, usual, strict=True))


def test_there_may_be_more_processes_than_rows(ranks: list[Any]) -> None:
    alone = ran("manual", batch_size="full")
    for one in ranks:
        by_hand, usual = one["three rows"]
        assert same_trajectory(by_hand, usual)
        assert same_trajectory(by_hand, ranks[0]["three rows"][0])
        assert (stacked(by_hand) - stacked(alone)).abs().max() <= 1e-13


def test_all_find_the_same_divergence(ranks: list[Any]) -> None:
    for one in ranks:
        for path in one["diverged"]:
            assert path.stopped == "diverged"
            assert same_trajectory(path, ranks[0]["diverged"][0])


def test_the_gradient_is_that_of_distributed_data_parallel(ranks: list[Any]) -> None:
    model = MODELS["parabola"]()
    manual_gradient(model, *next(iter(batches(ROWS))))
    for name, w in model.named_parameters():
        assert w.grad is not None
        for one in ranks:
            assert one["usual"][name] == pytest.approx(w.grad.item(), rel=1e-13)


def test_the_mean_of_the_ranks_means_is_not_the_gradient(ranks: list[Any]) -> None:
    """The classic mistake: of 47 rows, 23 and 24 do not weigh alike, nor do 11, 12, 12 and 12."""
    model = Linear(w=3.0, dtype=torch.float64)
    manual_gradient(model, *next(iter(batches(ROWS))))
    assert model.w.grad is not None
    exact = model.w.grad.item()
    for one in ranks:
        assert abs(one["the mean of the ranks' means"] - exact) > 1e-4 * abs(exact)


FLAGS = (
    "--model quadratic --data cars --standardize --momentum 0.9 --batch-size 7 --shuffle "
    "--no-figures --checkpoint-every 40steps"
).split()


def torchrun(
    folder: Path, count: int, *words: str, restarts: int = 0, file: Path = SCRIPT
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
               "--max-restarts", str(restarts), "--standalone"]  # fmt: skip
    return subprocess.Popen(
        [*command, str(file), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", "KILLED_RANK": str(count - 1)},
    )


def test_a_killed_rank_starts_all_again_and_the_run_ends_as_if_it_had_not(tmp_path: Path) -> None:
    """The last rank is killed in its 101st step, when the first has kept the 80th."""
    words = [*FLAGS, "--epochs", "20"]
    whole = torchrun(tmp_path, 2, *words, "--name", "whole")
    out, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    assert out.endswith("All 160 steps are identical, bit for bit: weights, gradients and loss.\n")
    assert out.count("quadratic-cars: ") == 1
    kill = [str(int(signal.SIGKILL)), "step", "101", *words, "--name", "parts"]
    parts = torchrun(tmp_path, 2, *kill, restarts=1, file=KILLED)
    _, err = parts.communicate(timeout=120)
    assert parts.returncode == 0, err
    assert "failed (exitcode: -9)" in err
    assert left(tmp_path / "runs/parts") == left(tmp_path / "runs/whole")
    for update in ("manual", "autograd"):
        assert shown(tmp_path / "runs/parts" / update) == shown(tmp_path / "runs/whole" / update)
        config = (tmp_path / "runs/parts" / update / "config.json").read_text(encoding="utf-8")
        assert json.loads(config)["processes"] == 2


def test_a_signal_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    words = [*FLAGS, "--epochs", "1000000", "--record-every", "1", "--name", "parts"]
    process = torchrun(tmp_path, 2, *words)
    kept = tmp_path / "runs" / "parts" / "manual" / "checkpoint.pt"
    wait_for(process, kept.exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    step = Checkpoint.load(kept).step
    assert step % 40 == 0
    words = ["--resume", "runs/parts", "--checkpoint-every", "40steps", "--no-figures"]
    process = torchrun(tmp_path, 2, *words)
    wait_for(process, lambda: Checkpoint.load(kept).step > step)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)


def test_updates_that_diverge_do_so_alike_though_one_process_saves(tmp_path: Path) -> None:
    process = torchrun(tmp_path, 2, *FLAGS, "--lr", "10", "--epochs", "100", "--name", "high")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "manual and autograd diverged: the loss or a weight is not finite at step 96 " in err
    assert "All 96 steps are identical, bit for bit" in out


def test_what_processes_cannot_share_is_said_once(tmp_path: Path) -> None:
    process = torchrun(tmp_path, 2, "--update", "affine")
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out == ""
    line = "train.py: --compile and --update affine take one process, not 2\n"
    assert err.count(line) == 1
    assert not (tmp_path / "runs").exists()


def test_a_rank_that_torchrun_did_not_give_is_none(tmp_path: Path) -> None:
    """Some clusters leave RANK and WORLD_SIZE in the environment of every process."""
    command = [sys.executable, str(SCRIPT), "--no-figures", "--name", "alone"]
    others = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}
    subprocess.run(command, cwd=tmp_path, env={**ENVIRONMENT, **others}, check=True)
    assert (tmp_path / "runs" / "alone" / "comparison.json").exists()
