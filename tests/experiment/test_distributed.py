"""Several processes take the steps of one."""

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import train as training_script
from helpers import (
    AUTOGRAD,
    ENVIRONMENT,
    KILLED,
    MANUAL,
    SCRIPT,
    Forked,
    Shell,
    Started,
    ended,
    forks,
    left,
    same_bits,
    same_trajectory,
    saved,
    shell_of,
    shown,
    stacked,
    wait_for,
)
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from torchgd import Batches, Linear, Quadratic, Trajectory, manual_gradient, train
from torchgd.experiment.configuration import DEFAULT_UPDATES, Configuration
from torchgd.experiment.files import read_json
from torchgd.experiment.parallel import in_chunks, process_group, share
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import NOBODY, Run, Watch
from torchgd.experiment.sources import load

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signals"),
]
shell = shell_of(training_script.main)
ROWS = 47  # a prime: no number of processes divides it, nor does a batch size
MODELS = {"line": lambda: Linear(bias=True, dtype=torch.float64),
          "parabola": lambda: Quadratic(dtype=torch.float64)}  # fmt: skip
# The model, the batch size, the update, and how many rows are a chunk.
CASES = list(product(MODELS, [1, 7, ROWS], ["manual", "autograd"], [ROWS, 5]))


def batches(size: int) -> Batches:
    data = load("cars")
    x = (data.x - data.x.mean()) / data.x.std()
    return Batches(x[:ROWS], data.y[:ROWS], size, shuffle=size == 7, seed=3)


def descent(kind: str, size: int, update: str, rows: int | None = None) -> Trajectory:
    """One process's own or, in chunks of so many rows, that of all processes together."""
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
            with process_group():
                torch.save(everything(folder), Path(folder, f"{index} of {size}.pt"))
            assert "pt_gloo_runloop" not in threads(), "it would outlive Python's end, and abort"


def threads() -> list[str]:
    """The names of this process's threads, where the system tells them."""
    return [
        path.read_text(encoding="utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")
    ]


def everything(folder: str) -> dict[str, Any]:
    # All bring what they recorded to the CPU for each checkpoint, though the first alone saves.
    saving = Watch(steps=3)
    return {
        "descents": {case: descent(*case) for case in CASES},
        "usual": by_distributed_data_parallel(lambda squares: squares.sum() / ROWS),
        "the mean of the ranks' means": by_distributed_data_parallel(
            lambda squares: squares.mean() / dist.get_world_size()
        ),
        "three rows": [ran(update, batch_size="full") for update in DEFAULT_UPDATES],
        "diverged": [ran(u, saving, data="cars", lr=1e30, batch_size=7) for u in DEFAULT_UPDATES],
    }


def ran(update: str, watch: Watch = NOBODY, **asked: Any) -> Trajectory:
    (experiment,) = resolve([Configuration(update=update, device="cpu", **asked)])
    return Run(experiment).carry_out(watch=watch).trajectory


def by_distributed_data_parallel(
    part: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, float]:
    """torch's own way to add the gradients of each rank's part of the loss: K times their mean."""
    model = MODELS["parabola"]()
    parallel = DistributedDataParallel(model)
    (x, y), own = next(iter(batches(ROWS))), slice(*share(ROWS))
    loss = dist.get_world_size() * part((parallel(x[own]) - y[own]).square())
    loss.backward()
    found = {name: w.grad.item() for name, w in model.named_parameters() if w.grad is not None}
    del parallel, loss
    gc.collect()  # what is left of them would keep the process group's threads beyond its end
    return found


@pytest.fixture(scope="module")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    ports = {size: free_port() for size in (2, 3, 4)}
    method = forks().get_start_method()
    start_processes(rank, (ports, str(folder)), max(ports), start_method=method)
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
    for case in CASES:
        kind, size, update, rows = case
        first, *others = (one[case] for one in found)
        assert all(same_bits(stacked(other), stacked(first)) for other in others)
        assert same_trajectory(first, found[0][kind, size, "autograd", rows])
        alone = descent(kind, size, update)
        assert torch.equal(first.step, alone.step)
        apart = (stacked(first) - stacked(alone)).abs().max()
        assert apart <= 1e-13 * stacked(alone).abs().max(), case


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
    """And not the classic mistake: of 47 rows, 23 and 24 do not weigh alike, nor do 11, 12, …"""
    model = MODELS["parabola"]()
    manual_gradient(model, *next(iter(batches(ROWS))))
    for name, w in model.named_parameters():
        assert w.grad is not None
        exact = w.grad.item()
        for one in ranks:
            assert one["usual"][name] == pytest.approx(exact, rel=1e-13)
            assert one["the mean of the ranks' means"][name] != pytest.approx(exact, rel=1e-4)


FLAGS = (
    "--model quadratic --data cars --standardize --momentum 0.9 --batch-size 7 --shuffle "
    "--no-figures --checkpoint-every 40steps"
).split()


def torchrun(
    folder: Path, *words: str, restarts: int = 0, file: Path = SCRIPT
) -> subprocess.Popen[str]:
    """Start train.py in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--max-restarts", str(restarts), "--standalone", str(file), *words]  # fmt: skip
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "KILLED_RANK": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, encoding="utf-8", env=environment
    )


def ranks_of(folder: Path, *words: str, second: Sequence[str] = ()) -> list[Forked]:
    """Start train.py in two processes, told what torchrun would tell them, the `second` more."""
    told: dict[str, Any] = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "here", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    each = [words, (*words, *second)]
    return [Forked(folder, *each[k], RANK=str(k), LOCAL_RANK=str(k), **told) for k in range(2)]


def as_ranks(folder: Path, *words: str, second: Sequence[str] = ()) -> list[tuple[int, str, str]]:
    """Run it so to the end."""
    return [ended(process) for process in ranks_of(folder, *words, second=second)]


def test_a_killed_rank_starts_all_again_and_the_run_ends_as_if_it_had_not(tmp_path: Path) -> None:
    """The last rank is killed in its 101st step, when the first has kept the 80th."""
    words = [*FLAGS, "--epochs", "20"]
    (status, out, err), _ = as_ranks(tmp_path, *words, "--name", "whole")
    assert status == 0, err
    assert "\nAll 160 steps are identical, bit for bit: weights, gradients and loss.\n" in out
    assert out.count("quadratic-cars: ") == 1
    kill = [str(int(signal.SIGKILL)), "step", "101", *words, "--name", "parts"]
    status, _, err = ended(torchrun(tmp_path, *kill, restarts=1, file=KILLED))
    assert status == 0, err
    assert "failed (exitcode: -9)" in err
    assert left(tmp_path / "runs/parts") == left(tmp_path / "runs/whole")
    for update in ("manual", "autograd"):
        assert shown(tmp_path / "runs/parts" / update) == shown(tmp_path / "runs/whole" / update)
        assert read_json(tmp_path / "runs/parts" / update / "config.json")["processes"] == 2


def test_a_signal_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    """torchrun hands a signal on to all; and where it is a cluster that does, it is the same."""
    words = [*FLAGS, "--epochs", "1000000", "--record-every", "1", "--name", "parts"]
    step = interrupted(tmp_path, [torchrun(tmp_path, *words)])
    assert step % 40 == 0
    words = ["--resume", "runs/parts", "--checkpoint-every", "40steps", "--no-figures"]
    interrupted(tmp_path, ranks_of(tmp_path, *words), step)


def interrupted(folder: Path, processes: Sequence[Started], after: int = 0) -> int:
    """End a run when it has saved another step; return which it kept."""
    run = folder / "runs" / "parts" / "manual"
    wait_for(processes[0], lambda: saved(run, after))
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        ended(process)
    return saved(run)


@pytest.mark.parametrize(("words", "only"), [
    (("--update", "affine"),
     "--update affine takes one process and no --chunk-size; take manual or autograd"),
    (("--device", "cuda:0"),
     "device 'cuda:0' is one GPU, and each process needs its own: use cuda"),
], ids=["affine", "a GPU"])  # fmt: skip
def test_what_processes_cannot_share_is_one_line_of_each(
    tmp_path: Path, words: tuple[str, ...], only: str
) -> None:
    for rank, said in enumerate(as_ranks(tmp_path, *words)):
        assert said == (2, "", f"train.py: rank {rank}: {only}\n")
    assert not (tmp_path / "runs").exists()


UNLIKE: dict[str, tuple[list[str], str]] = {
    "a rate": (["--lr", "0.02"], "lr of run 0 is 0.02 for rank 1, and 0.01 for rank 0"),
    "more rates": (["--lr", "0.02", "0.01"], "runs is 4 for rank 1, and 2 for rank 0"),
    "more epochs": (["--epochs", "60"], "steps of run 0 is 120 for rank 1, and 100 for rank 0"),
    "another file": (["--data", "other.csv"], "data_sha256 of run 0 is "),
}


@pytest.mark.parametrize(("more", "what"), UNLIKE.values(), ids=UNLIKE)
def test_processes_that_are_asked_for_unlike_runs_say_so_and_leave_nothing(
    tmp_path: Path, more: list[str], what: str
) -> None:
    for name, row in (("mine.csv", "1,2"), ("other.csv", "1,3")):
        (tmp_path / name).write_text(f"{row}\n2,4\n", encoding="utf-8")
    words = ["--data", "mine.csv", "--no-figures", "--name", "a"]
    for rank, (status, out, err) in enumerate(as_ranks(tmp_path, *words, second=more)):
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"train.py: rank {rank}: {what}")
        assert err.endswith(": give all the same\n")
    assert not (tmp_path / "runs").exists()


def test_a_rank_that_torchrun_did_not_give_is_none(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clusters leave RANK and WORLD_SIZE in the environment of every process."""
    for name, value in {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert shell("--no-figures", "--name", "alone") == 0
    assert Path("runs/alone/comparison.json").exists()


ALONE: dict[str, Any] = {
    "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "TORCHELASTIC_RUN_ID": "here", "TORCHELASTIC_RESTART_COUNT": "0",
}  # fmt: skip


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_waits_for_the_others_hears_a_signal(tmp_path: Path, sent: int) -> None:
    """And leaves nothing. It waits from when it listens, at the port where they were to meet."""
    port = free_port()
    process = Forked(tmp_path, **ALONE, MASTER_PORT=str(port))
    wait_for(process, lambda: listens(port))
    process.send_signal(sent)
    assert ended(process)[0] == -sent
    assert not (tmp_path / "runs").exists()


def test_a_rank_whose_others_never_come_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    began = time.monotonic()
    process = Forked(tmp_path, "--rank-timeout", "2", **ALONE, MASTER_PORT=str(free_port()))
    status, out, err = ended(process)
    assert time.monotonic() - began < 60
    assert (status, out) == (2, "")
    said = err.splitlines()[-1]  # torch's own C++ warns before
    assert said.startswith("train.py: rank 0 cannot meet the others at 127.0.0.1:")
    assert not (tmp_path / "runs").exists()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(("changed", "message"), [
    ({"RANK": "a"}, "RANK is 'a', not an integer of at least 0; start the script by torchrun, or"),
    ({"RANK": "-1"}, "RANK is '-1', not an integer of at least 0"),
    ({"RANK": "2"}, "RANK is 2 of 2 processes; start the script by torchrun"),
    ({"WORLD_SIZE": None}, "WORLD_SIZE is None, not an integer of at least 1"),
    ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', not an integer of at least 1"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', not an integer of at least 1"),
    ({"TORCHELASTIC_RESTART_COUNT": None, "RANK": None}, "RANK is None, not"),
])  # fmt: skip
def test_a_broken_environment_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], message: str
) -> None:
    for name, value in {**ALONE, "MASTER_PORT": "1", **changed}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert shell() == 2
    assert shell.err.startswith(f"train.py: {message}")
    assert shell.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        status, out, err = ended(Forked(tmp_path, **ALONE, MASTER_PORT=str(port)))
    assert (status, out) == (2, "")
    said = err.splitlines()[-1]  # torch's own C++ warns before
    assert said.startswith(f"train.py: rank 0 cannot meet the others at 127.0.0.1:{port} (")
    assert said.endswith("; take a free port, and start all of them")
    assert not (tmp_path / "runs").exists()
