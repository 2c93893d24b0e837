"""Time torchgd beside what its users would write without it, each in one table.

The two sides take turns. Their final weights are compared before a time counts. The ratio is ours
over theirs, the median and the range over the turns: below 1 torchgd is the faster.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import argparse
import gc
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import EngFormatter
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchgd.experiment.outcome import run_update

import torchgd
from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, autograd_gradient, manual_gradient
from torchgd.compiled import compiled_trajectory
from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.files import read_json, write_json
from torchgd.experiment.folder import RunWriter
from torchgd.experiment.parallel import compiled, find_device
from torchgd.experiment.report import config_json, environment
from torchgd.gradients import GradientSource
from torchgd.proof.findings import aligned
from torchgd.theory.affine import affine_trajectory

Side = Callable[[int], list[float]]  # does the work of that size; returns the final weights
RATE = 0.002
F64 = torch.float64
ALL = math.inf
TRAIN = str(Path(__file__).parent / "train.py")


@dataclass
class Work:
    """Two sides of one work, of `size`; the peer may be too slow for more than `peer_size`.

    `digits`: how many of the weights' digits must agree at the peer's size: 0, not to compare;
    `ALL`, to the bit.
    """

    name: str
    ours: Side
    peer_name: str
    peer: Side
    size: int = 1
    peer_size: int | None = None
    digits: float = 10
    goal: str = ""


def points(count: int, device: torch.device, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Return x on [−1, 1] and y = 2x and some noise, the same on each device."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(count, dtype=dtype, generator=generator) - 1
    y = 2 * x + 0.1 * torch.randn(count, dtype=dtype, generator=generator)
    return x.to(device), y.to(device)


def weights(model: Model) -> list[float]:
    """Return the model's weights; on CUDA this waits until they are there."""
    return [w.item() for w in model.parameters()]


def bare_loop(make: Any, batches: Batches, epochs: int = 1) -> list[float]:
    """Autograd and torch.optim.SGD in a hand-written loop that records nothing."""
    model = make(device=batches.x.device, dtype=batches.x.dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    split = (t.split(batches.batch_size) for t in (batches.x, batches.y))
    pairs = list(zip(*split, strict=True))
    for _ in range(epochs):
        for x, y in pairs:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return weights(model)


def train(batches: Batches, epochs: int, gradient: GradientSource = manual_gradient) -> list[float]:
    """Train a line by torchgd, every step recorded."""
    model = Linear(device=batches.x.device, dtype=batches.x.dtype)
    usual = gradient is autograd_gradient
    optimizer = (torch.optim.SGD if usual else ManualSGD)(model.parameters(), lr=RATE)
    torchgd.train(model, batches, optimizer, gradient, epochs, record_every=1)
    return weights(model)


def affine(make: Any, batches: Batches, epochs: int = 1, every: int = 1) -> list[float]:
    """Train by the affine update, each k-th step recorded."""
    model = make(device=batches.x.device, dtype=batches.x.dtype)
    affine_trajectory(model, batches, RATE, epochs, record_every=every)
    return weights(model)


def machine_code(make: Any, batches: Batches, every: int = 1) -> list[float]:
    """Train by the compiled loop, each k-th step recorded."""
    model = make(dtype=batches.x.dtype)
    compiled_trajectory(model, batches, RATE, 1, record_every=every)
    return weights(model)


def by_hand(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The line's descent, one sample a step, in as little torch as there can be."""
    w = torch.tensor(1.0, dtype=x.dtype, device=x.device)
    for _ in range(epochs):
        for xn, yn in zip(x, y, strict=True):
            w = w - RATE * 2 * xn * (w * xn - yn)
    return [w.item()]


def python_loop(columns: list[Tensor], y: Tensor, start: list[float]) -> Side:
    """The same in numbers of Python, which records nothing."""
    samples = list(zip(*(c.tolist() for c in columns), y.tolist(), strict=True))

    def line(count: int) -> list[float]:
        (w,) = start
        for x, target in samples[:count]:
            w -= RATE * 2 * x * (w * x - target)
        return [w]

    def parabola(count: int) -> list[float]:
        w2, w1, b = start
        for x2, x, one, target in samples[:count]:
            d = RATE * 2 * (w2 * x2 + w1 * x + b - target)
            w2, w1, b = w2 - d * x2, w1 - d * x, b - d * one
        return [w2, w1, b]

    return line if len(columns) == 1 else parabola


def numpy_full_batch(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The line's descent on the full batch in numpy."""
    a, b, w = x.cpu().numpy(), y.cpu().numpy(), np.ones((), dtype=x.cpu().numpy().dtype)
    for _ in range(epochs):
        w = w - RATE * (2 / len(a)) * ((w * a - b) @ a)
    return [float(w)]


def sgd_regressor(columns: list[Tensor], y: Tensor, start: list[float]) -> Side:
    """scikit-learn's, whose loss is ½(ŷ − y)², so that its rate is twice ours."""
    from sklearn.linear_model import SGDRegressor

    X, target = torch.stack(columns, dim=1).cpu().numpy(), y.cpu().numpy()
    options = {"penalty": None, "fit_intercept": False, "shuffle": False, "tol": None}
    constant = {"learning_rate": "constant", "eta0": 2 * RATE, "max_iter": 1}

    def fit(count: int) -> list[float]:
        regressor = SGDRegressor(**options, **constant)
        regressor.fit(X[:count], target[:count], coef_init=np.array(start))
        return [float(w) for w in regressor.coef_]

    return fit


def python(*words: str, **more: str) -> str:
    """Run a Python process in this environment and `more`; return what it prints."""
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, **more},
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return done.stdout


# The lesson with both updates, as one writes it who logs to TensorBoard in the folder argv[1].
LESSON = """
import sys
import torch
from torch.utils.tensorboard import SummaryWriter
results = []
for update in ("manual", "autograd"):
    writer = SummaryWriter(f"{sys.argv[1]}/{update}")
    w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.01)
    for step, (x, y) in enumerate([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)] * 50):
        loss = (w * x - y) ** 2
        if update == "manual":
            w.grad = (2 * x * (w * x - y)).detach()
        else:
            optimizer.zero_grad()
            loss.backward()
        writer.add_scalar("loss", loss.item(), step)
        writer.add_scalar("weight", w.item(), step)
        writer.add_scalar("gradient", w.grad.item(), step)
        optimizer.step()
    writer.close()
    results.append(w.item())
print("w", *results)
"""


def lesson(*words: str) -> Side:
    """A process that trains the lesson with both updates and prints a line `w MANUAL AUTOGRAD`."""

    def run(_: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            printed = python(*words, folder)
        (found,) = re.findall(r"^w +(\S+) +(\S+)", printed, re.MULTILINE)
        return [float(text) for text in found]

    return run


def seconds(processes: int, rows: int) -> float:
    """Return how long so many processes, of one thread each, take for 100 full batches by hand."""
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {processes}".split()
    flags = (
        f"--device cpu --data synthetic:{rows} --batch-size full --epochs 100 --chunk-size 65536 "
        "--update manual --no-figures --name run --log-dir"
    ).split()
    with tempfile.TemporaryDirectory() as folder:
        python(*torchrun, TRAIN, *flags, folder, OMP_NUM_THREADS="1")
        return float(read_json(Path(folder, "run", "manual", "result.json"))["seconds"])


def log_by_writer(trajectory: torchgd.Trajectory, config: dict[str, Any], _: int) -> list[float]:
    """Write a trajectory as torchgd does, CSV file and all."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder, "run"), config, ["w"]) as writer,
    ):
        writer.record(trajectory)
    return [trajectory.weights["w"][-1].item()]


def log_by_add_scalar(trajectory: torchgd.Trajectory, _: int) -> list[float]:
    """Write loss, weight and gradient of each step by `add_scalar`."""
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)  # type: ignore[no-untyped-call]
        for step, _epoch, values in trajectory.rows():
            for name, value in zip(("loss", "weight", "gradient"), values, strict=True):
                if value is not None:
                    writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        writer.close()  # type: ignore[no-untyped-call]
    return [trajectory.weights["w"][-1].item()]


def small_steps(device: torch.device, epochs: int) -> Iterator[Work]:
    """Yield the works of a single step: three points, one sample a step."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64, device=device)
    batches = Batches(x, 2 * x)
    bare = "bare autograd + SGD loop", partial(bare_loop, Linear, batches)
    short = "hand-written torch", partial(by_hand, x, 2 * x)
    kinds: list[tuple[str, GradientSource, tuple[str, Side], str]] = [
        ("autograd", autograd_gradient, bare, "1.15"),
        ("manual", manual_gradient, bare, "0.5"),
        ("manual", manual_gradient, short, ""),
    ]
    if device.type == "cuda":
        kinds.insert(2, ("manual, CUDA graphs", compiled(manual_gradient, x[:1]), bare, ""))
    for update, gradient, peer, goal in kinds:
        name = f"step, {update}, all recorded (epoch of 3)"
        yield Work(name, partial(train, batches, gradient=gradient), *peer, epochs, goal=goal)
    experiment = Experiment(Configuration(epochs=epochs))
    trajectory = run_update(experiment, "manual").trajectory
    ours = partial(log_by_writer, trajectory, config_json(experiment, "manual"))
    theirs = partial(log_by_add_scalar, trajectory)
    yield Work("logging (epoch of 3)", ours, "three add_scalar calls a step", theirs, epochs)


def per_sample(device: torch.device, count: int) -> Iterator[Work]:
    """Yield one sample a step, all steps recorded if not said otherwise; of the peers none records.

    By the affine update and, on a CPU, by the compiled loop.
    """
    x, y = points(count, device)
    kinds: list[tuple[Any, list[Tensor], list[float], str, tuple[str, str]]] = [
        (Linear, [x], [1.0], "0.005", ("0.5", "0.35")),
        (Quadratic, [x**2, x, x**0], [1.0, 1.0, 0.0], "0.016", ("0.8", "0.6")),
    ]
    few, every = -(-count // 500), max(1, count // 10_000)
    there = {name: find_spec(name) is not None for name in ("sklearn", "numba")}
    if not there["sklearn"]:
        print("scikit-learn is missing: its rows are left out; install the extra bench",
              file=sys.stderr)  # fmt: skip

    def first(descend: Callable[..., list[float]], make: Any, n: int) -> list[float]:
        return descend(make, Batches(x[:n], y[:n]))

    for make, columns, start, goal, (all_recorded, some_recorded) in kinds:
        name = f"per sample, {make.__name__}"
        scan, loop = partial(first, affine, make), partial(first, bare_loop, make)
        autograd = "bare autograd + SGD loop"
        yield Work(f"{name}, affine", scan, autograd, loop, count, few, goal=goal)
        peers = [(f"{name}, affine", scan, "")]
        if device.type == "cpu" and there["numba"]:
            ours = partial(first, machine_code, make)
            some = partial(first, partial(machine_code, every=every), make)
            work, fewer = f"{name}, compiled", f"{name}, compiled, 10,000 recorded"
            yield Work(work, ours, autograd, loop, count, few, ALL, goal="0.0001")
            yield Work(work, ours, "plain Python", python_loop(columns, y, start), count)
            peers += [(work, ours, all_recorded), (fewer, some, some_recorded)]
        if there["sklearn"]:
            regressor = sgd_regressor(columns, y, start)
            for work, side, goal in peers:
                yield Work(work, side, "SGDRegressor", regressor, count, goal=goal)


def many_samples(device: torch.device, count: int) -> Iterator[Work]:
    """Yield the affine update on as many points as fill a large device, the two ends recorded."""
    x, y = points(count, device)
    few, name = min(count, 1_000_000), f"per sample, {count} points, Linear, affine"
    here = Batches(x[:few].cpu(), y[:few].cpu())

    def ours(n: int) -> list[float]:
        return affine(Linear, Batches(x[:n], y[:n]), every=count)

    def loop(_: int) -> list[float]:
        return machine_code(Linear, here, every=few)

    if find_spec("numba") is not None:
        yield Work(name, ours, "compiled, on the CPU", loop, count, few)
    if find_spec("sklearn") is not None:
        theirs = sgd_regressor([x[:few]], y[:few], [1.0])
        yield Work(name, ours, "SGDRegressor, on the CPU", theirs, count, few, goal="0.02")


def full_batch(device: torch.device, count: int) -> Iterator[Work]:
    """Yield steps on the full batch, float32: a few, for they take the same time."""
    x, y = points(count, device, torch.float32)
    batches, name = Batches(x, y, count), "full batch, --compile"
    fast = partial(train, batches, gradient=compiled(manual_gradient, x))
    eager = "eager autograd", partial(bare_loop, Linear, batches)
    # float32 sums of many terms, in three orders: five digits of seven.
    yield Work(name, fast, *eager, size=5, digits=5, goal="0.05")
    yield Work("full batch, manual", partial(train, batches), *eager, size=5, digits=5)
    yield Work(name, fast, "numpy", partial(numpy_full_batch, x, y), size=5, digits=5)

    def steps(epochs: int) -> Side:
        return lambda _: affine(Linear, batches, epochs)

    many, some = ("full batch, affine, 5000 steps", steps(5000)), ("affine, 50 steps", steps(50))
    yield Work(*many, *some, digits=0, goal="1.2")
    if device.type == "cuda":
        target = torch.empty_like(x)

        def copy(times: int) -> list[float]:
            for _ in range(times):  # a step reads x and y; a copy reads one and writes another
                target.copy_(x)
            return [target[0].item()]

        yield Work(name, fast, "device-to-device copy", copy, size=50, digits=0, goal="1.25")


MEMORY = """
import resource, sys, torch, torchgd
count, every = int(sys.argv[2]), int(sys.argv[3])
x = torch.rand(count, dtype=torch.float64)
batches, model = torchgd.Batches(x, 2 * x), torchgd.Quadratic(dtype=torch.float64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
getattr(torchgd, f"{sys.argv[1]}_trajectory")(model, batches, 0.002, 1, record_every=every)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


def works(device: torch.device, quick: bool) -> Iterator[Work]:
    """Yield every work of the table."""
    ours = lesson(TRAIN, "--no-figures", "--device", str(device), "--log-dir")
    peer = lesson("-c", LESSON)
    name = "lesson, both updates, process"
    yield Work(name, ours, "hand-written script", peer, digits=14, goal="1")
    yield from small_steps(device, 50 if quick else 300)
    yield from per_sample(device, 200_000 if quick else 1_000_000)
    yield from full_batch(device, 1_000_000 if quick else 20_000_000)
    if device.type == "cuda" and not quick:
        yield from many_samples(device, 100_000_000)


def agree(work: Work) -> None:
    """Refuse a work whose two sides do not come to the same weights."""
    size, error = work.peer_size or work.size, 10.0**-work.digits  # of ALL digits: 0.0
    ours, theirs = work.ours(size), work.peer(size)
    if work.digits and not np.allclose(ours, theirs, rtol=error, atol=error):
        raise ValueError(f"{work.name}: weights {ours}, {work.peer_name}: {theirs}; no time counts")


def measure(work: Work, turns: int) -> dict[str, Any]:
    """Let the two sides take turns; return a line of the table, in seconds per unit of size."""
    print(f"{work.name} beside {work.peer_name}", file=sys.stderr, flush=True)
    agree(work)

    def clock(side: Side, size: int) -> float:
        return timeit(partial(side, size), gc.enable, number=1) / size  # garbage costs time too

    sides = (work.ours, work.size), (work.peer, work.peer_size or work.size)
    clock(*sides[0])  # warm, at this size
    times = [[clock(*side) for side in sides] for _ in range(turns)]
    ratios = [a / b for a, b in times]
    ours, theirs = map(statistics.median, zip(*times, strict=True))
    return {
        "work": work.name,
        "torchgd": ours,
        "peer": work.peer_name,
        "peer_time": theirs,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "goal": work.goal,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what ran where."""
    cuda = device.type == "cuda"
    versions = environment()
    return {
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {os.cpu_count()} cores",
        **{name: versions[name] for name in ("threads", "torchgd", "torch", "numpy", "python")},
    }


def quantity(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    return EngFormatter("s")(float(f"{seconds:.3g}"))


def lines(table: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table as it is printed."""
    rows = [["work", "torchgd", "peer", "peer's time", "ratio (range)", "goal"]]
    for row in table:
        ours, theirs = quantity(row["torchgd"]), quantity(row["peer_time"])
        spread = "{ratio:.3g} ({least:.3g} to {most:.3g})".format(**row)
        rows.append([row["work"], ours, row["peer"], theirs, spread, row["goal"]])
    yield from aligned(rows)


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="benchmark.py", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--device", default="cpu", metavar="D", help="cpu (default), auto, cuda, cuda:N")
    add("--quick", action="store_true", help="less of everything: under a minute")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        device = find_device(arguments.device)
        # First, for a process starts with the peak of the one that it comes from.
        count = 1_000_000 if arguments.quick else 10_000_000
        memory = {"affine": count}
        if find_spec("numba") is not None:
            memory["compiled"] = count // 10_000
        gigabytes = {way: float(python("-c", MEMORY, way, str(count), str(every)))
                     for way, every in memory.items()}  # fmt: skip
        turns = 2 if arguments.quick else 7
        table = [measure(work, turns) for work in works(device, arguments.quick)]
        print(*lines(table), sep="\n")
        for way, gb in gigabytes.items():
            kept = "the ends" if way == "affine" else "10,000 steps"
            print(f"{way}, one sample a step, {count} points, 3 parameters, {kept} recorded: "
                  f"{gb:.2g} GB above the data (goal: 1)")  # fmt: skip
        if device.type == "cpu":
            turns, rows = (2, 1_000_000) if arguments.quick else (5, 8_000_000)
            shares = [seconds(2, rows) / seconds(1, rows) for _ in range(turns)]
            spread = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
            print(f"full batch of {rows} by hand, 2 processes beside 1, one thread each: {spread}")
        found = machine(device)
        print(", ".join(f"{name} {value}" for name, value in found.items()))
        if arguments.json is not None:
            write_json(arguments.json, {**found, "memory_gb": gigabytes, "rows": table})
    return 0


if __name__ == "__main__":
    run_script(main)
