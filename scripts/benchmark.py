"""Time torchgd beside what its users would write without it, each in one table.

The two sides take turns. Their final weights are compared before a time counts. The ratio is ours
over theirs, the median and the range over the turns: below 1 torchgd is the faster.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import torchgd
from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, autograd_gradient, manual_gradient
from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.folder import RunWriter
from torchgd.experiment.outcome import run_update
from torchgd.experiment.parallel import compiled, find_device
from torchgd.experiment.report import aligned, config_json
from torchgd.gradients import GradientSource
from torchgd.theory.affine import affine_trajectory

Side = Callable[[int], list[float]]  # does the work of that size; returns the final weights
RATE = 0.002
F64 = torch.float64


@dataclass
class Work:
    """Two sides of one work. `sizes`: of ours and of theirs, which may be too slow for as much.

    `digits`: how many of the weights' digits must agree at their size; 0, not to compare.
    """

    name: str
    ours: Side
    peer_name: str
    peer: Side
    sizes: tuple[int, int]
    digits: int = 10
    goal: str = ""


@dataclass
class Row:
    """A line of the table; times are per unit of size, in seconds."""

    work: str
    torchgd: float
    peer: str
    peer_time: float
    ratio: float
    least: float
    most: float
    goal: str


def points(count: int, device: torch.device, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Return x on [−1, 1] and y = 2x and some noise, the same on each device."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(count, dtype=dtype, generator=generator) - 1
    y = 2 * x + 0.1 * torch.randn(count, dtype=dtype, generator=generator)
    return x.to(device), y.to(device)


def weights(model: Model) -> list[float]:
    """Return the model's weights; on CUDA this waits until they are there."""
    return [w.item() for w in model.parameters()]


def bare_loop(make: Any, batches: Batches, epochs: int) -> list[float]:
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


def train(
    make: Any, batches: Batches, epochs: int, gradient: GradientSource = manual_gradient
) -> list[float]:
    """Train by torchgd, every step recorded."""
    model = make(device=batches.x.device, dtype=batches.x.dtype)
    usual = gradient is autograd_gradient
    optimizer = (torch.optim.SGD if usual else ManualSGD)(model.parameters(), lr=RATE)
    torchgd.train(model, batches, optimizer, gradient, epochs, record_every=1)
    return weights(model)


def by_hand(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The line's descent, one sample a step, in as little torch as there can be."""
    w = torch.tensor(1.0, dtype=x.dtype, device=x.device)
    for _ in range(epochs):
        for xn, yn in zip(x, y, strict=True):
            w = w - RATE * 2 * xn * (w * xn - yn)
    return [w.item()]


def affine(
    make: Any, x: Tensor, y: Tensor, count: int, size: int = 1, epochs: int = 1,
    every: int = 1,
) -> list[float]:  # fmt: skip
    """Descend through the first `count` points by the affine update, each k-th step recorded."""
    model = make(device=x.device, dtype=x.dtype)
    batches = Batches(x[:count], y[:count], size)
    affine_trajectory(model, batches, RATE, epochs, record_every=every)
    return weights(model)


def sgd_regressor(columns: list[Tensor], y: Tensor, start: list[float]) -> Side:
    """scikit-learn's, whose loss is ½(ŷ − y)², so that its rate is twice ours."""
    from sklearn.linear_model import SGDRegressor

    X, target = torch.stack(columns, dim=1).cpu().numpy(), y.cpu().numpy()

    def fit(count: int) -> list[float]:
        regressor = SGDRegressor(
            penalty=None, fit_intercept=False, shuffle=False, learning_rate="constant",
            eta0=2 * RATE, max_iter=1, tol=None,
        )  # fmt: skip
        regressor.fit(X[:count], target[:count], coef_init=np.array(start))
        return [float(w) for w in regressor.coef_]

    return fit


def numpy_full_batch(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The line's descent on the full batch in numpy."""
    a, b, w = x.cpu().numpy(), y.cpu().numpy(), np.ones((), dtype=x.cpu().numpy().dtype)
    for _ in range(epochs):
        w = w - RATE * (2 / len(a)) * ((w * a - b) @ a)
    return [float(w)]


SCRIPT = """
import torch
from torch.utils.tensorboard import SummaryWriter
xs, ys, results = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], []
for update in ("manual", "autograd"):
    writer = SummaryWriter(f"runs/{update}")
    w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    if update == "autograd":
        optimizer = torch.optim.SGD([w], lr=0.01)
    step = 0
    for epoch in range(50):
        for x, y in zip(xs, ys):
            if update == "manual":
                with torch.no_grad():
                    loss = (w * x - y) ** 2
                    gradient = 2 * x * (w * x - y)
            else:
                optimizer.zero_grad()
                loss = (w * x - y) ** 2
                loss.backward()
                gradient = w.grad
            writer.add_scalar("loss", loss.item(), step)
            writer.add_scalar("weight", w.item(), step)
            writer.add_scalar("gradient", gradient.item(), step)
            if update == "manual":
                with torch.no_grad():
                    w -= 0.01 * gradient
            else:
                optimizer.step()
            step += 1
    writer.close()
    print(w.item())
"""


def process(command: list[str], _: int) -> list[float]:
    """Run a Python process in an empty folder; return the numbers that a line of it ends with."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{Path(__file__).parent.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, encoding="utf-8", check=True,
        )  # fmt: skip
    rows = [line.split() for line in done.stdout.splitlines()]
    values = [row for row in rows if row[0] == "w"] or [["w", *(row[0] for row in rows)]]
    return [float(text) for text in values[0][1:3]]


def seconds(processes: int, rows: int) -> float:
    """Return how long so many processes, of one thread each, take for 100 full batches by hand."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{Path(__file__).parent.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(processes), str(Path(__file__).parent / "train.py"), "--device", "cpu", "--data",
            f"synthetic:{rows}", "--batch-size", "full", "--epochs", "100", "--chunk-size",
            "65536", "--update", "manual", "--no-figures", "--name", "run",
        ]  # fmt: skip
        subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True, check=True,
        )  # fmt: skip
        result = Path(folder, "runs", "run", "manual", "result.json").read_text(encoding="utf-8")
    return float(json.loads(result)["seconds"])


def log_by_writer(trajectory: torchgd.Trajectory, config: dict[str, Any], _: int) -> list[float]:
    """Write a trajectory as torchgd does, CSV file and all."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder) / "run", config, ["w"]) as writer,
    ):
        writer.record(trajectory)
    return [trajectory.weights["w"][-1].item()]


def log_by_add_scalar(trajectory: torchgd.Trajectory, _: int) -> list[float]:
    """Write loss, weight and gradient of each step by `add_scalar`."""
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)  # type: ignore[no-untyped-call]
        for step, _epoch, (loss, w, g) in trajectory.rows():
            for name, value in (("loss", loss), ("weight", w), ("gradient", g)):
                if value is not None:
                    writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        writer.close()  # type: ignore[no-untyped-call]
    return [trajectory.weights["w"][-1].item()]


def small_steps(device: torch.device, epochs: int) -> Iterator[Work]:
    """Yield the works of a single step: three points, one sample a step."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64, device=device)
    batches = Batches(x, 2 * x)
    bare, sizes = partial(bare_loop, Linear, batches), (epochs, epochs)
    recorded = "step, {}, all recorded (epoch of 3)"
    sources: list[tuple[str, GradientSource, str]] = [
        ("autograd", autograd_gradient, "1.15"),
        ("manual", manual_gradient, "0.5"),
    ]
    if device.type == "cuda":
        sources.append(("manual, CUDA graphs", compiled(manual_gradient, x[:1]), ""))
    for name, source, goal in sources:
        ours = partial(train, Linear, batches, gradient=source)
        yield Work(recorded.format(name), ours, "bare autograd + SGD loop", bare, sizes, 10, goal)
    yield Work(recorded.format("manual"), partial(train, Linear, batches), "hand-written torch",
               partial(by_hand, x, 2 * x), sizes)  # fmt: skip
    experiment = Experiment(Configuration(epochs=epochs))
    trajectory = run_update(experiment, "manual").trajectory
    config = config_json(experiment, "manual")
    ours, theirs = (
        partial(log_by_writer, trajectory, config),
        partial(log_by_add_scalar, trajectory),
    )
    yield Work("logging (epoch of 3)", ours, "three add_scalar calls a step", theirs, sizes)


def per_sample(device: torch.device, count: int) -> Iterator[Work]:
    """Yield the affine update, one sample a step, full trajectory (theirs keep none)."""
    x, y = points(count, device)
    kinds: list[tuple[Any, list[Tensor], list[float], str]] = [
        (Linear, [x], [1.0], "0.005"),
        (Quadratic, [x**2, x, x**0], [1.0, 1.0, 0.0], "0.016"),
    ]
    for make, columns, start, goal in kinds:
        name, few = f"per sample, {make.__name__}, affine", -(-count // 500)
        ours = partial(affine, make, x, y)

        def loop(n: int, make: Any = make) -> list[float]:
            return bare_loop(make, Batches(x[:n], y[:n]), 1)

        yield Work(name, ours, "bare autograd + SGD loop", loop, (count, few), 10, goal)
        try:
            fit = sgd_regressor(columns, y, start)
        except ImportError:
            print("scikit-learn is missing: its rows are left out; install the extra bench",
                  file=sys.stderr)  # fmt: skip
            continue
        yield Work(name, ours, "SGDRegressor", fit, (count, count), 10)


def many_samples(device: torch.device, count: int) -> Iterator[Work]:
    """Yield the affine update on as many points as fill a large device, the two ends recorded."""
    x, y = points(count, device)
    few = min(count, 1_000_000)
    ours = partial(affine, Linear, x, y, every=count)
    theirs = sgd_regressor([x[:few]], y[:few], [1.0])
    yield Work(f"per sample, {count} points, Linear, affine", ours, "SGDRegressor, on the CPU",
               theirs, (count, few), 10, "0.02")  # fmt: skip


def full_batch(device: torch.device, count: int) -> Iterator[Work]:
    """Yield steps on the full batch, float32: a few, for they take the same time."""
    x, y = points(count, device, torch.float32)
    batches = Batches(x, y, count)
    fused = compiled(manual_gradient, x)
    manual, fast = (partial(train, Linear, batches, gradient=g) for g in (manual_gradient, fused))
    name, bare = "full batch, --compile", partial(bare_loop, Linear, batches)
    # float32 sums of many terms, in three orders: five digits of seven.
    yield Work(name, fast, "eager autograd", bare, (5, 5), 5, "0.05")
    yield Work("full batch, manual", manual, "eager autograd", bare, (5, 5), 5)
    yield Work(name, fast, "numpy", partial(numpy_full_batch, x, y), (5, 5), 5)

    def steps(_: int, epochs: int) -> list[float]:
        return affine(Linear, x, y, count, count, epochs)

    many, some = partial(steps, epochs=5000), partial(steps, epochs=50)
    yield Work("full batch, affine, 5000 steps", many, "affine, 50 steps", some, (1, 1), 0, "1.2")
    if device.type == "cuda":
        target = torch.empty_like(x)

        def copy(times: int) -> list[float]:
            for _ in range(times):  # a step reads x and y; a copy reads one and writes another
                target.copy_(x)
            return [target[0].item()]

        yield Work(name, fast, "device-to-device copy", copy, (50, 50), 0, "1.25")


MEMORY = """
import resource, torch
from torchgd import Batches, Quadratic
from torchgd.theory.affine import affine_trajectory
count = {count}
x = torch.rand(count, dtype=torch.float64)
y = 2 * x
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
affine_trajectory(Quadratic(dtype=torch.float64), Batches(x, y), 0.002, 1, record_every=count)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


def works(device: torch.device, quick: bool) -> Iterator[Work]:
    """Yield every work of the table."""
    lesson = [str(Path(__file__).parent / "train.py"), "--no-figures", "--device", str(device)]
    yield Work("lesson, both updates, process", partial(process, lesson), "hand-written script",
               partial(process, ["-c", SCRIPT]), (1, 1), 14, "1")  # fmt: skip
    yield from small_steps(device, 50 if quick else 300)
    yield from per_sample(device, 200_000 if quick else 1_000_000)
    yield from full_batch(device, 1_000_000 if quick else 20_000_000)
    if device.type == "cuda" and not quick:
        with suppress(ImportError):  # of scikit-learn, which has been said
            yield from many_samples(device, 100_000_000)


def agree(work: Work) -> None:
    """Refuse a work whose two sides do not come to the same weights."""
    ours, theirs = work.ours(work.sizes[1]), work.peer(work.sizes[1])
    error = 10.0**-work.digits
    if work.digits and not np.allclose(ours, theirs, rtol=error, atol=error):
        raise ValueError(f"{work.name}: weights {ours}, {work.peer_name}: {theirs}; no time counts")


def clock(side: Side, size: int) -> float:
    """Return the seconds that one unit of the work takes."""
    start = time.perf_counter()
    side(size)
    return (time.perf_counter() - start) / size


def measure(work: Work, turns: int) -> Row:
    """Let the two sides take turns."""
    agree(work)
    clock(work.ours, work.sizes[0])  # warm, at this size
    pairs = [
        (clock(work.ours, work.sizes[0]), clock(work.peer, work.sizes[1])) for _ in range(turns)
    ]
    ratios = [a / b for a, b in pairs]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    middle = statistics.median(ratios)
    return Row(work.name, ours, work.peer_name, theirs, middle, min(ratios), max(ratios), work.goal)


def machine(device: torch.device) -> dict[str, Any]:
    """Return what ran where."""
    cuda = device.type == "cuda"
    return {
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torchgd": torchgd.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def quantity(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"


def cells(row: Row) -> list[str]:
    """Return a row as it is printed."""
    spread = f"{row.ratio:.3g} ({row.least:.3g} to {row.most:.3g})"
    return [row.work, quantity(row.torchgd), row.peer, quantity(row.peer_time), spread, row.goal]


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
        (memory,) = process(["-c", MEMORY.format(count=count)], 1)
        table = []
        for work in works(device, arguments.quick):
            print(f"{work.name} beside {work.peer_name}", file=sys.stderr, flush=True)
            table.append(measure(work, 2 if arguments.quick else 7))
        head = ["work", "torchgd", "peer", "peer's time", "ratio (range)", "goal"]
        print(*aligned([head, *map(cells, table)]), sep="\n")
        print(f"affine, one sample a step, {count} points, 3 parameters, only the ends kept: "
              f"{memory:.2g} GB above the data (goal: 1)")  # fmt: skip
        if device.type == "cpu":
            turns, rows = (2, 1_000_000) if arguments.quick else (5, 8_000_000)
            shares = [seconds(2, rows) / seconds(1, rows) for _ in range(turns)]
            spread = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
            print(f"full batch of {rows} by hand, 2 processes beside 1, one thread each: {spread}")
        print(", ".join(f"{name} {value}" for name, value in machine(device).items()))
        if arguments.json is not None:
            content = {
                **machine(device),
                "memory_gb": memory,
                "rows": [asdict(row) for row in table],
            }
            arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_script(main)
