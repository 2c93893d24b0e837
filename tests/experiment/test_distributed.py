"""Several processes take the steps of one."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    AUTOGRAD,
    ENVIRONMENT,
    KILLED,
    MANUAL,
    SCRIPT,
    left,
    same_bits,
    shown,
    stacked,
    wait_for,
)
from torch.multiprocessing.spawn import spawn

from torchgd import Batches, Linear, Quadratic, Trajectory, manual_gradient, train
from torchgd.data import load
from torchgd.experiment.checkpoint import Checkpoint
from torchgd.experiment.chunks import RankError
from torchgd.experiment.distributed import Group

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


def descent(case: tuple[str, int, str], group: Group | None = None) -> Trajectory:
    kind, size, update = case
    model, some = MODELS[kind](), batches(size)
    gradient, make = MANUAL if update == "manual" else AUTOGRAD
    optimizer = make(model.parameters(), lr=0.01, momentum=0.9)
    if group is None:
        return train(model, some, optimizer, gradient, epochs=2)
    shares, gradient = group.part(update, model, some)
    return train(model, shares, optimizer, gradient, epochs=2, block_rows=10)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def rank(index: int, ports: dict[int, int], work: Callable[[Group], Any], folder: str) -> None:
    """Take part in a group of each size, one after the other."""
    torch.set_num_threads(1)
    for size, port in ports.items():
        if index < size:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index),
                              WORLD_SIZE=str(size))  # fmt: skip
            with Group(torch.device("cpu")) as group:
                torch.save(work(group), Path(folder, f"{index} of {size}.pt"))


def gradients(group: Group) -> list[float]:
    """The gradient of all rows, and the mean of the ranks' own."""
    model = Linear(w=3.0, dtype=torch.float64)
    (x, y), *_ = batches(ROWS)
    a, b = ROWS * group.rank // group.size, ROWS * (group.rank + 1) // group.size
    group.manual_gradient(model, x[a:b], y[a:b])
    assert model.w.grad is not None
    right = model.w.grad.item()
    manual_gradient(model, x[a:b], y[a:b])
    return [right, group.add([model.w.grad])[0].item() / group.size]


def apart(group: Group) -> str:
    """What is said where rank 1 is a bit from the others."""
    model = Linear(dtype=torch.float64)
    group.require_equal(model)
    with torch.no_grad():
        if group.rank == 1:
            model.w.copy_(torch.nextafter(model.w, torch.tensor(2.0, dtype=torch.float64)))
    try:
        group.require_equal(model)
    except RankError as error:
        return str(error)
    return ""


def ended(
    group: Group, update: str, lr: float, stop: Callable[[], bool] = lambda: False
) -> tuple[int, str]:
    """Where a descent of 63 steps ends, and how."""
    model = Linear(dtype=torch.float64)
    shares, gradient = group.part(update, model, batches(7))
    optimizer = MANUAL[1](model.parameters(), lr=lr)
    t = train(model, shares, optimizer, gradient, epochs=9, block_rows=9, stop=group.agree(stop))
    return int(t.step[-1]), t.stopped


def everything(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {
        "descents": [descent(case, group) for case in CASES],
        "gradients": gradients(group),
        "apart": apart(group),
        "diverged": [ended(group, update, 1e30) for update in ("manual", "autograd")],
    }
    group.chunk_size = 5
    found["in chunks"] = {case: descent(case, group) for case in CASES if case[1] == 7}
    group.chunk_size = None
    found["stopped"] = []
    for update in ("manual", "autograd"):
        steps = iter(range(5))
        stop = lambda steps=steps: group.rank == 1 and next(steps, None) is None  # noqa: E731
        found["stopped"].append(ended(group, update, 0.01, stop))
    return found


@pytest.fixture(scope="module")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    ports = {size: free_port() for size in (2, 3, 4)}
    spawn(rank, (ports, everything, str(folder)), max(ports))
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
        one, weights = stacked(descent(case)), stacked(descents[0])
        assert torch.equal(descents[0].step, descent(case).step)
        assert (weights - one).abs().max() <= 1e-13 * one.abs().max(), case
        assert all(same_bits(stacked(other), weights) for other in descents[1:])
    by_hand, usual = (
        [t for t, case in zip(found[0], CASES, strict=True) if case[2] == update]
        for update in ("manual", "autograd")
    )
    for a, b in zip(by_hand, usual, strict=True):
        assert (stacked(a) - stacked(b)).abs().max() <= 1e-13 * stacked(a).abs().max()
        # (a + b)/2 · 2/N is (a + b) · 1/N to the bit; three ranks, or four, add in other orders.
        same = same_bits(stacked(a), stacked(b)) and same_bits(a.loss, b.loss)
        assert same or len(ranks) > 2


def test_the_mean_of_the_ranks_means_is_not_the_gradient(ranks: list[Any]) -> None:
    """The classic mistake: of 47 rows, 23 and 24 do not weigh alike, nor do 11, 12, 12 and 12."""
    model = Linear(w=3.0, dtype=torch.float64)
    manual_gradient(model, *next(iter(batches(ROWS))))
    assert model.w.grad is not None
    exact = model.w.grad.item()
    for one in ranks:
        right, mistaken = one["gradients"]
        assert right == pytest.approx(exact, rel=1e-14)
        assert abs(mistaken - exact) > 1e-4 * abs(exact)


def test_a_rank_that_differs_by_a_bit_is_named_by_all(ranks: list[Any]) -> None:
    message = "rank 1: the weights are no longer those of rank 0; go on from the last checkpoint"
    assert [one["apart"] for one in ranks] == [f"{message} with --resume"] * len(ranks)


def test_all_stop_where_one_is_asked_to(ranks: list[Any]) -> None:
    first = ranks[0]["stopped"]
    assert [stopped for _, stopped in first] == ["interrupted"] * 2
    assert all(5 <= step <= 7 for step, _ in first)
    assert all(one["stopped"] == first for one in ranks)


def test_all_stop_where_the_descent_diverges(ranks: list[Any]) -> None:
    first = ranks[0]["diverged"]
    assert {stopped for _, stopped in first} == {"diverged"}
    assert all(one["diverged"] == first for one in ranks)


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
    words = [*FLAGS, "--epochs", "60"]
    whole = torchrun(tmp_path, 2, *words, "--name", "whole")
    out, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    assert out.endswith("All 480 steps are identical, bit for bit: weights, gradients and loss.\n")
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


def test_a_signal_stops_all_and_the_run_goes_on(tmp_path: Path) -> None:
    words = [*FLAGS, "--epochs", "1000000", "--record-every", "1", "--name", "parts"]
    process = torchrun(tmp_path, 2, *words)
    manual = tmp_path / "runs" / "parts" / "manual"
    wait_for(process, (manual / "checkpoint.pt").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    result = json.loads((manual / "result.json").read_text(encoding="utf-8"))
    assert result["stopped"] == "interrupted"
    assert "; go on with --resume runs/parts\n" in err
    assert Checkpoint.load(manual / "checkpoint.pt").step == result["steps"]


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


def test_one_process_alone_loads_nothing_of_it(tmp_path: Path) -> None:
    code = (
        "import sys, train; train.main(['--no-figures']); "
        "sys.exit('torchgd.experiment.distributed' in sys.modules)"
    )
    path = f"{SCRIPT.parent}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": path}, check=True)
