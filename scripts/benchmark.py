"""Time torchgd beside what its users would write without it, in one table.

The two sides take turns, and must come to the same weights before a time counts. The ratio is ours
over theirs, the median and the range over the turns: below 1 torchgd is the faster.
"""

if __name__ == "__main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH is set, too
    import interrupt  # noqa: F401

import gc
import json
import math
import os
import platform
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

import torchgd
from torchgd import Batches, Linear, ManualSGD, Quadratic, affine_trajectory, compiled_trajectory
from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.parallel import compiled, find_device
from torchgd.gradients import autograd_gradient, manual_gradient, partial_derivatives
from torchgd.proof.findings import aligned

Side = Callable[[int], list[float]]  # does the work of that size; returns the final weights
Way = Callable[..., Any]  # trains a model on batches, for so many epochs
RATE = 0.002
F64 = torch.float64
BARE = "bare autograd + SGD loop"
TRAIN = str(Path(__file__).parent / "train.py")
NEEDED = {"SGDRegressor": "sklearn", "compiled": "numba"}  # by the rows with this word


@dataclass
class Work:
    """A row: two sides of one work, of `size`; the peer may be too slow for more than `peer_size`.

    At the peer's size the weights agree within `error`, relative and absolute: 0 is to the bit,
    and infinity is for two sides that end elsewhere.
    """

    name: str
    ours: Side
    peer: str
    theirs: Side
    size: int = 1
    peer_size: int | None = None
    error: float = 1e-10


def points(count: int, device: torch.device, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Return x on [−1, 1] and y = 2x and some noise, the same on each device."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(count, dtype=dtype, generator=generator) - 1
    y = 2 * x + 0.1 * torch.randn(count, dtype=dtype, generator=generator)
    return x.to(device), y.to(device)


def trained(way: Way, kind: Any, batches: Batches, epochs: int = 1) -> list[float]:
    """Return a new model's weights after so many epochs; this waits until CUDA has them."""
    model = kind(device=batches.x.device, dtype=batches.x.dtype)
    way(model, batches, epochs)
    return [w.item() for w in model.parameters()]


def on_points(way: Way, kind: Any, x: Tensor, y: Tensor) -> Side:
    """Train on the first points, one sample a step."""
    return lambda count: trained(way, kind, Batches(x[:count], y[:count]))


def step_by_step(gradient: Any, optimizer: Any = ManualSGD) -> Way:
    """Train by torchgd's loop, every step recorded."""
    return lambda model, batches, epochs: torchgd.train(
        model, batches, optimizer(model.parameters(), lr=RATE), gradient, epochs, record_every=1
    )


def at_once(trajectory: Way, every: int = 1) -> Way:
    """Train by one call, each k-th step recorded."""
    return lambda model, batches, epochs: trajectory(
        model, batches, RATE, epochs, record_every=every
    )


def bare_loop(model: Any, batches: Batches, epochs: int) -> None:
    """Train by autograd and torch.optim.SGD in a hand-written loop that records nothing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    split = (t.split(batches.batch_size) for t in (batches.x, batches.y))
    pairs = list(zip(*split, strict=True))
    for _ in range(epochs):
        for x, y in pairs:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def line(samples: Any, w: Any, epochs: int = 1) -> list[float]:
    """Train a line, one sample a step, in numbers of Python or tensors of torch."""
    for _ in range(epochs):
        for x, y in samples:
            w = w - RATE * 2 * x * (w * x - y)
    return [float(w)]


def parabola(samples: Any, w2: float, w1: float, b: float) -> list[float]:
    """Train a parabola, one sample a step, in numbers of Python."""
    for x2, x, _, y in samples:
        d = RATE * 2 * (w2 * x2 + w1 * x + b - y)
        w2, w1, b = w2 - d * x2, w1 - d * x, b - d
    return [w2, w1, b]


def sgd_regressor(phi: Tensor, y: Tensor, start: list[float], count: int) -> list[float]:
    """Train by scikit-learn, whose loss is ½(ŷ − y)², so that its rate is twice ours."""
    from sklearn.linear_model import SGDRegressor

    regressor = SGDRegressor(
        penalty=None, fit_intercept=False, shuffle=False, learning_rate="constant", eta0=2 * RATE,
        max_iter=1, tol=None,
    )  # fmt: skip
    regressor.fit(phi[:count].numpy(), y[:count].numpy(), coef_init=np.array(start))
    return [float(w) for w in regressor.coef_]


def numpy_full_batch(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """Train a line on the full batch in numpy."""
    a, b, w = x.cpu().numpy(), y.cpu().numpy(), np.ones((), dtype=x.cpu().numpy().dtype)
    for _ in range(epochs):
        w = w - RATE * (2 / len(a)) * ((w * a - b) @ a)
    return [float(w)]


def python(*words: str, **more: str) -> str:
    """Run a Python process in this environment and `more`; return what it prints."""
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, **more},
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return done.stdout


# The lesson with both updates, as one writes it who logs to TensorBoard.
LESSON = """
import sys, torch
from torch.utils.tensorboard import SummaryWriter
results = []
for update in ("manual", "autograd"):
    writer = SummaryWriter(f"{sys.argv[2]}/{update}")
    w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.01)
    for step, (x, y) in enumerate([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)] * int(sys.argv[4])):
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


def lesson(words: list[str], epochs: int, _: int) -> list[float]:
    """Train the lesson by a process that logs both updates and prints `w MANUAL AUTOGRAD`."""
    with tempfile.TemporaryDirectory() as folder:
        printed = python(*words, "--log-dir", folder, "--epochs", str(epochs))
    (line,) = (line for line in printed.splitlines() if line.startswith("w "))
    return [float(text) for text in line.split()[1:3]]


MEMORY = """
import resource, sys, torch, torchgd
count, every = int(sys.argv[2]), int(sys.argv[3])
x = torch.rand(count, dtype=torch.float64)
batches, model = torchgd.Batches(x, 2 * x), torchgd.Quadratic(dtype=torch.float64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
getattr(torchgd, f"{sys.argv[1]}_trajectory")(model, batches, 0.002, 1, record_every=every)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


def memory(count: int) -> Iterator[tuple[str, float]]:
    """Yield what takes how many GB above the data."""
    kinds = ("affine", "the ends", count), ("compiled", "10,000 steps", count // 10_000)
    for way, kept, every in kinds:
        name = f"{way}, one sample a step, {count} points, 3 parameters, {kept} recorded"
        if there(name):
            yield name, float(python("-c", MEMORY, way, str(count), str(every)))


def by_processes(count: int, rows: int) -> tuple[list[float], float]:
    """Train on 100 full batches by so many processes of one thread; return the seconds, too."""
    words = (
        f"-m torch.distributed.run --standalone --nproc-per-node {count} {TRAIN} --device cpu "
        f"--data synthetic:{rows} --batch-size full --epochs 100 --chunk-size 65536 "
        "--update manual --no-figures --name run --log-dir"
    ).split()
    with tempfile.TemporaryDirectory() as folder:
        python(*words, folder, OMP_NUM_THREADS="1")
        result = json.loads(Path(folder, "run", "manual", "result.json").read_bytes())
    return [*result["parameters"].values()], result["seconds"]


def processes(device: torch.device, epochs: int) -> Iterator[Work]:
    """Yield the rows of whole processes, the second of which has so many epochs to log."""
    ours, theirs = [TRAIN, "--no-figures", "--device", str(device)], ["-c", LESSON]
    names = {50: "lesson, both updates, process", epochs: f"logging, {epochs} epochs, process"}
    for count, name in names.items():
        sides = (partial(lesson, words, count) for words in (ours, theirs))
        yield Work(name, next(sides), "hand-written script", next(sides), error=1e-14)


def small_steps(device: torch.device, epochs: int) -> Iterator[Work]:
    """Yield the rows of a single step: three points, one sample a step."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64, device=device)
    samples = [*zip(x, 2 * x, strict=True)]
    ways = {
        "autograd": step_by_step(autograd_gradient, torch.optim.SGD),
        "manual": step_by_step(manual_gradient),
        "manual, CUDA graphs": step_by_step(compiled(manual_gradient, x[:1])),
    }
    sides = {name: partial(trained, way, Linear, Batches(x, 2 * x)) for name, way in ways.items()}
    bare = partial(trained, bare_loop, Linear, Batches(x, 2 * x))
    name = "step, {}, all recorded (epoch of 3)"
    for way, side in sides.items():
        if "CUDA" not in way or device.type == "cuda":
            yield Work(name.format(way), side, BARE, bare, epochs)
    short = partial(line, samples, x[0])  # w = 1
    yield Work(name.format("manual"), sides["manual"], "hand-written torch", short, epochs)


def per_sample(kind: Any, loop: Any, x: Tensor, y: Tensor) -> Iterator[Work]:
    """Yield the rows of one sample a step, all steps recorded if not said; no peer records."""
    count, start = len(x), [w.item() for w in kind().parameters()]
    x_here, y_here = x.cpu(), y.cpu()
    partials = partial_derivatives(kind(dtype=F64), x_here, x_here)
    phi = torch.stack([*partials.values()], dim=1)
    samples = [*zip(*phi.T.tolist(), y_here.tolist(), strict=True)]
    ways = {
        "affine": at_once(affine_trajectory),
        "compiled": at_once(compiled_trajectory),
        "compiled, 10,000 recorded": at_once(compiled_trajectory, max(1, count // 10_000)),
    }
    peers: dict[str, Side] = {
        BARE: on_points(bare_loop, kind, x, y),
        "plain Python": lambda _: loop(samples, *start),
        "SGDRegressor": partial(sgd_regressor, phi, y_here, start),
    }
    pairs = [("affine", BARE), ("affine", "SGDRegressor")]
    if x.device.type == "cpu":
        pairs += [("compiled", peer) for peer in peers]
        pairs.append(("compiled, 10,000 recorded", "SGDRegressor"))
    for way, peer in pairs:
        name, ours = f"per sample, {kind.__name__}, {way}", on_points(ways[way], kind, x, y)
        few = -(-count // 500) if peer == BARE else count
        error = 0.0 if (way, peer) == ("compiled", BARE) else 1e-10
        yield Work(name, ours, peer, peers[peer], count, few, error)


def many_samples(device: torch.device, count: int) -> Iterator[Work]:
    """Yield the rows of as many points as fill a large device, the two ends recorded."""
    x, y = points(count, device)
    few, way = min(count, 1_000_000), at_once(affine_trajectory, count)
    ours = f"per sample, {count} points, Linear, affine", on_points(way, Linear, x, y)
    x, y = x[:few].cpu(), y[:few].cpu()
    code = on_points(at_once(compiled_trajectory, few), Linear, x, y)
    yield Work(*ours, "compiled, on the CPU", code, count, few)
    regressor = partial(sgd_regressor, x[:, None], y, [1.0])
    yield Work(*ours, "SGDRegressor, on the CPU", regressor, count, few)


def full_batch(device: torch.device, count: int) -> Iterator[Work]:
    """Yield the rows of the full batch, float32: a few steps, for they take the same time."""
    x, y = points(count, device, torch.float32)

    def side(way: Way) -> Side:
        return partial(trained, way, Linear, Batches(x, y, count))

    fast = "full batch, --compile", side(step_by_step(compiled(manual_gradient, x)))
    hand = "full batch, manual", side(step_by_step(manual_gradient))
    bare, affine = side(bare_loop), side(at_once(affine_trajectory))
    error = 1e-5  # float32 sums of many terms, in three orders: five digits of seven
    yield Work(*fast, "eager autograd", bare, 5, error=error)
    yield Work(*hand, "eager autograd", bare, 5, error=error)
    yield Work(*fast, "numpy", partial(numpy_full_batch, x, y), 5, error=error)
    many = "full batch, affine, 5000 steps", lambda _: affine(5000)
    yield Work(*many, "affine, 50 steps", lambda _: affine(50), error=math.inf)
    if device.type == "cuda":
        target = torch.empty_like(x)

        def copy(times: int) -> list[float]:
            for _ in range(times):  # a step reads x and y; a copy reads one and writes another
                target.copy_(x)
            return [target[0].item()]

        yield Work(*fast, "device-to-device copy", copy, 50, error=math.inf)


def works(device: torch.device, quick: bool) -> Iterator[Work]:
    """Yield every row of two sides that are timed in turn."""
    yield from processes(device, 200 if quick else 1000)
    yield from small_steps(device, 50 if quick else 300)
    x, y = points(200_000 if quick else 1_000_000, device)
    yield from per_sample(Linear, line, x, y)
    yield from per_sample(Quadratic, parabola, x, y)
    yield from full_batch(device, 1_000_000 if quick else 20_000_000)
    if device.type == "cuda" and not quick:
        yield from many_samples(device, 100_000_000)


def there(name: str) -> bool:
    """Say which row it is; return whether the library that it needs is installed."""
    missing = [m for word, m in NEEDED.items() if word in name and find_spec(m) is None]
    said = "".join(f": left out, for {library} is missing" for library in missing)
    print(f"{name}{said}", file=sys.stderr, flush=True)
    return not missing


def agree(name: str, ours: list[float], theirs: list[float], error: float) -> None:
    """Refuse a row whose two sides do not come to the same weights."""
    pairs = zip(ours, theirs, strict=True)
    if not all(math.isclose(a, b, rel_tol=error, abs_tol=error) for a, b in pairs):
        raise ValueError(f"{name}: weights {ours} and {theirs}; no time counts")


def measure(work: Work, turns: int) -> dict[str, Any]:
    """Let the two sides take turns; return the row, in seconds per unit of size."""
    few = work.peer_size or work.size
    agree(f"{work.name} beside {work.peer}", work.ours(few), work.theirs(few), work.error)
    if few < work.size:
        work.ours(work.size)  # warm, at this size

    def clock(side: Side, size: int) -> float:
        return timeit(partial(side, size), gc.enable, number=1) / size  # garbage costs time too

    times = [(clock(work.ours, work.size), clock(work.theirs, few)) for _ in range(turns)]
    return row(work.name, work.peer, times)


def two_processes(rows: int, turns: int) -> dict[str, Any]:
    """Let two processes and one take turns; return the row, of the seconds that they report."""
    name, times = f"full batch of {rows} by hand, 2 processes", []
    for _ in range(turns):
        (two, seconds), (one, longer) = by_processes(2, rows), by_processes(1, rows)
        agree(name, two, one, 1e-13)
        times.append((seconds, longer))
    return row(name, "1 process", times)


def row(name: str, peer: str, times: list[tuple[float, float]]) -> dict[str, Any]:
    """Return a row of both sides' times, turn by turn."""
    ratios = [a / b for a, b in times]
    ours, theirs = map(statistics.median, zip(*times, strict=True))
    ratio = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {"work": name, "torchgd": ours, "peer": peer, "peer_time": theirs, **ratio}


def lines(table: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table as it is printed."""
    rows = [["work", "torchgd", "peer", "peer's time", "ratio (range)"]]
    for found in table:
        ours, theirs = quantity(found["torchgd"]), quantity(found["peer_time"])
        spread = "{ratio:.3g} ({least:.3g} to {most:.3g})".format(**found)
        rows.append([found["work"], ours, found["peer"], theirs, spread])
    yield from aligned(rows)


def quantity(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    return EngFormatter("s")(float(f"{seconds:.3g}"))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="benchmark.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--device", default="cpu", metavar="D", help="cpu (default), auto, cuda, cuda:N")
    add("--quick", action="store_true", help="less of everything: under a minute")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    asked = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        device, turns = find_device(asked.device), 1 if asked.quick else 7
        # First, for a process starts with the peak of the one that it comes from.
        gigabytes = dict(memory(1_000_000 if asked.quick else 10_000_000))
        table = []
        for work in works(device, asked.quick):
            if there(f"{work.name} beside {work.peer}"):
                table.append(measure(work, turns))
        if device.type == "cpu":
            table.append(two_processes(1_000_000 if asked.quick else 8_000_000, turns))
        print(*lines(table), sep="\n")
        for name, gb in gigabytes.items():
            print(f"{name}: {gb:.2g} GB above the data")
        cuda = device.type == "cuda"
        found = {
            "machine": platform.machine(),
            "device": torch.cuda.get_device_name(device) if cuda else f"{os.cpu_count()} cores",
            "threads": torch.get_num_threads(),
            **{module.__name__: str(module.__version__) for module in (torchgd, torch, np)},
            "python": platform.python_version(),
        }
        print(", ".join(f"{name} {value}" for name, value in found.items()))
        if asked.json is not None:
            content = {**found, "memory_gb": gigabytes, "rows": table}
            asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_script(main)
