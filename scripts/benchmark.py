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
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.ticker import EngFormatter
from peers import F64, LESSON, RATE, bare_loop, line, parabola, points, sgd_regressor
from torch import Tensor

import torchgd
from torchgd import Batches, Linear, ManualSGD, Quadratic, affine_trajectory, compiled_trajectory
from torchgd.experiment.command_line import Parser, refusing, run_script, say
from torchgd.experiment.folder import environment
from torchgd.experiment.parallel import compiled, find_device
from torchgd.gradients import autograd_gradient, manual_gradient, partial_derivatives
from torchgd.proof.findings import aligned

Side = Callable[[int], list[float]]  # does the work of that size; returns the final weights
Way = Callable[[Any, Batches, int], Any]  # trains a model on batches, for so many epochs
BARE, REGRESSOR = "bare autograd + SGD loop", "SGDRegressor"
TRAIN = str(Path(__file__).parent / "train.py")
NEEDED = {REGRESSOR: "sklearn", "compiled": "numba"}  # by the rows with this word


class Work(NamedTuple):
    """A row: two sides of one work, of `size`; the peer may be too slow for more than `peer_size`.

    At the peer's size the weights agree within `error`, relative and absolute: 0 is to the bit.
    """

    name: str
    ours: Side
    peer: str
    theirs: Side
    size: int = 1
    peer_size: int | None = None
    error: float = 1e-10


def trained(way: Way, kind: Any, batches: Batches, epochs: int = 1) -> list[float]:
    """Return a new model's weights after so many epochs; this waits until CUDA has them."""
    model = kind(device=batches.x.device, dtype=batches.x.dtype)
    way(model, batches, epochs)
    return [w.item() for w in model.parameters()]


def step_by_step(gradient: Any, optimizer: Any = ManualSGD) -> Way:
    """Train by torchgd's loop, every step recorded."""
    return lambda model, batches, epochs: torchgd.train(
        model, batches, optimizer(model.parameters(), lr=RATE), gradient, epochs, record_every=1
    )


def at_once(trajectory: Callable[..., Any], every: int = 1) -> Way:
    """Train by one call, each k-th step recorded."""
    return lambda model, batches, epochs: trajectory(
        model, batches, RATE, epochs, record_every=every
    )


def python(*words: str) -> str:
    """Run a Python process; return what it prints."""
    return subprocess.check_output([sys.executable, *words], text=True)


def lesson(words: list[str], epochs: int) -> list[float]:
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


def memory(count: int) -> Iterator[str]:
    """Yield what takes how many GB above the data."""
    kinds = ("affine", "the ends", count), ("compiled", "10,000 steps", count // 10_000)
    for way, kept, every in kinds:
        name = f"{way}, one sample a step, {count} points, 3 parameters, {kept} recorded"
        if there(name):
            gigabytes = float(python("-c", MEMORY, way, str(count), str(every)))
            yield f"{name}: {gigabytes:.2g} GB above the data"


def processes(device: torch.device, epochs: int) -> Iterator[Work]:
    """Yield the rows of whole processes, their start included."""
    train = [TRAIN, "--no-figures", "--device", str(device)]
    for count, name in {50: "lesson, both updates", epochs: f"logging, {epochs} epochs"}.items():
        ours, theirs = (
            lambda _, words=w, n=count: lesson(words, n) for w in (train, ["-c", LESSON])
        )
        yield Work(f"{name}, process", ours, "hand-written script", theirs, error=1e-14)


def small_steps(device: torch.device, epochs: int) -> Iterator[Work]:
    """Yield the rows of a single step: three points, one sample a step, all steps recorded."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64, device=device)
    ways = {
        "autograd": step_by_step(autograd_gradient, torch.optim.SGD),
        "manual": step_by_step(manual_gradient),
    }
    if device.type == "cuda":
        ways["manual, CUDA graphs"] = step_by_step(compiled(manual_gradient, x[:1]))
    bare = partial(trained, bare_loop, Linear, Batches(x, 2 * x))
    for name, way in ways.items():
        side = partial(trained, way, Linear, Batches(x, 2 * x))
        yield Work(f"step, {name} (epoch of 3)", side, BARE, bare, epochs)


def per_sample(kind: Any, loop: Any, x: Tensor, y: Tensor) -> Iterator[Work]:
    """Yield the rows of one sample a step, all steps recorded if not said; no peer records."""
    count, start, here = len(x), [w.item() for w in kind().parameters()], x.cpu()
    phi = torch.stack([*partial_derivatives(kind(dtype=F64), here, here).values()], dim=1)
    samples = [*zip(*phi.T.tolist(), y.tolist(), strict=True)]

    def side(way: Way) -> Side:
        return lambda size: trained(way, kind, Batches(x[:size], y[:size]))

    affine, code = side(at_once(affine_trajectory)), side(at_once(compiled_trajectory))
    sparse = side(at_once(compiled_trajectory, max(1, count // 10_000)))
    bare, few = side(bare_loop), -(-count // 500)
    regressor: Side = partial(sgd_regressor, phi, y.cpu(), start)
    name = f"per sample, {kind.__name__}"
    yield Work(f"{name}, affine", affine, BARE, bare, count, few)
    yield Work(f"{name}, affine", affine, REGRESSOR, regressor, count)
    if x.device.type == "cpu":
        plain: Side = lambda _: loop(samples, *start)  # noqa: E731
        yield Work(f"{name}, compiled", code, BARE, bare, count, few, error=0)
        yield Work(f"{name}, compiled", code, "plain Python", plain, count)
        yield Work(f"{name}, compiled", code, REGRESSOR, regressor, count)
        yield Work(f"{name}, compiled, 10,000 recorded", sparse, REGRESSOR, regressor, count)


def full_batch(device: torch.device, count: int) -> Iterator[Work]:
    """Yield the rows of the full batch, float32: a few steps, for they take the same time."""
    x, y = points(count, device, torch.float32)

    def side(way: Way) -> Side:
        return partial(trained, way, Linear, Batches(x, y, count))

    fast, hand = (side(step_by_step(g)) for g in (compiled(manual_gradient, x), manual_gradient))
    bare = side(bare_loop)
    # float32 sums of many terms, in several orders: five digits of seven
    yield Work("full batch, --compile", fast, "eager autograd", bare, 5, error=1e-5)
    yield Work("full batch, manual", hand, "eager autograd", bare, 5, error=1e-5)


def works(device: torch.device, quick: bool) -> Iterator[Work]:
    """Yield every row."""
    yield from processes(device, 200 if quick else 1000)
    yield from small_steps(device, 50 if quick else 300)
    x, y = points(200_000 if quick else 1_000_000, device)
    yield from per_sample(Linear, line, x, y)
    yield from per_sample(Quadratic, parabola, x, y)
    yield from full_batch(device, 1_000_000 if quick else 20_000_000)


def there(name: str) -> bool:
    """Say which row it is; return whether the library that it needs is installed."""
    missing = [m for word, m in NEEDED.items() if word in name and find_spec(m) is None]
    said = "".join(f": left out, for {library} is missing" for library in missing)
    print(f"{name}{said}", file=sys.stderr, flush=True)
    return not missing


def measure(work: Work, turns: int) -> dict[str, Any]:
    """Let the two sides take turns; return the row, in seconds per unit of size.

    Raises:
        ValueError: they do not come to the same weights.
    """
    few = work.peer_size or work.size
    ours, theirs = work.ours(few), work.theirs(few)
    if not np.allclose(ours, theirs, work.error, work.error):
        said = f"{work.name} beside {work.peer}: weights {ours} and {theirs}"
        raise ValueError(f"{said}; no time counts")
    if few < work.size:
        work.ours(work.size)  # warm, at this size

    def clock(side: Side, size: int) -> float:
        return timeit(partial(side, size), gc.enable, number=1) / size  # garbage costs time too

    times = [(clock(work.ours, work.size), clock(work.theirs, few)) for _ in range(turns)]
    ratios = [a / b for a, b in times]
    here, there = map(statistics.median, zip(*times, strict=True))
    ratio = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {"work": work.name, "torchgd": here, "peer": work.peer, "peer_time": there, **ratio}


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row as it is printed."""
    ours, theirs = (EngFormatter("s", 3)(row[name]) for name in ("torchgd", "peer_time"))
    spread = "{ratio:.3g} ({least:.3g} to {most:.3g})".format(**row)
    return [row["work"], ours, row["peer"], theirs, spread]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="benchmark.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--device", default="cpu", metavar="D", help="cpu (default), auto, cuda, cuda:N")
    add("--quick", action="store_true", help="less of everything: about a minute")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    asked = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        device, table = find_device(asked.device), []
        # First, for a process starts with the peak of the one that it comes from.
        gigabytes = [*memory(1_000_000 if asked.quick else 10_000_000)]
        for work in works(device, asked.quick):
            if there(f"{work.name} beside {work.peer}"):
                table.append(measure(work, 1 if asked.quick else 7))
        head = ["work", "torchgd", "peer", "peer's time", "ratio (range)"]
        found = {**environment(str(device)), "cores": os.cpu_count()}
        say(*aligned([head, *map(cells, table)]), *gigabytes)
        say(", ".join(f"{name} {value}" for name, value in found.items()))
        if asked.json is not None:
            content = {**found, "memory": gigabytes, "rows": table}
            asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_script(main)
