"""Time torchgd beside its peers, in one run, and print how many times as fast it is.

Each pair takes turns, so that both meet the same machine, and must first agree on the weights.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from torchgd import (
    Batches,
    Linear,
    ManualSGD,
    Model,
    Quadratic,
    autograd_gradient,
    manual_gradient,
    train,
)
from torchgd.affine import affine_trajectory
from torchgd.cli import Parser, refusing, run_script
from torchgd.data import load
from torchgd.experiment import Configuration, Experiment
from torchgd.gradients import GradientSource, compiled
from torchgd.lookup import find_device
from torchgd.report import aligned, config_json
from torchgd.tracking import RunWriter

LR = 0.01
Job = Callable[[], Tensor]


@dataclass(frozen=True)
class Work:
    """Two ways to the same weights: ours, and a peer's, each with how many items it goes through.

    `close` is how far apart their weights may be, relative to the largest. Where the peer goes
    through fewer items, `same` is our way through those.
    """

    name: str
    item: str
    ours: tuple[str, Job, int]
    peer: tuple[str, Job, int]
    close: float
    same: Job | None = None


@dataclass(frozen=True)
class Row:
    """What was measured: seconds an item, and the ratio peer/ours, median and range."""

    work: str
    ours: str
    peer: str
    item: str
    seconds: float
    peer_seconds: float
    ratio: float
    least: float
    most: float


def weights_of(model: torch.nn.Module) -> Tensor:
    """The weights, (P,), on the CPU."""
    return torch.stack([w.detach().cpu().double() for w in model.parameters()])


# The peers, as their users write them.


def autograd_loop(model: Model, x: Tensor, y: Tensor, epochs: int = 1, each: Any = None) -> Tensor:
    """Per-sample autograd with torch.optim.SGD, which calls `each` with what was computed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = 0
    for _ in range(epochs):
        for xn, yn in zip(x, y, strict=True):
            loss = (model(xn) - yn) ** 2
            optimizer.zero_grad()
            loss.backward()
            if each is not None:
                each(step, loss, model)
            optimizer.step()
            step += 1
    return weights_of(model)


def manual_loop(x: Tensor, y: Tensor, epochs: int) -> Tensor:
    """The lesson's loop in torch: the gradient by hand, and w ← w − α·g."""
    w = torch.tensor(1.0, dtype=x.dtype, device=x.device)
    for _ in range(epochs):
        for xn, yn in zip(x, y, strict=True):
            w = w - LR * (2 * xn * (w * xn - yn))
    return w.cpu()[None]


def logged_loop(x: Tensor, y: Tensor, epochs: int) -> Tensor:
    """The autograd loop with three add_scalar calls a step."""
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:

        def log(step: int, loss: Tensor, model: Any) -> None:
            writer.add_scalar("loss", loss.item(), step)
            writer.add_scalar("weight/w", model.w.item(), step)
            writer.add_scalar("gradient/w", model.w.grad.item(), step)

        return autograd_loop(Linear(dtype=x.dtype), x, y, epochs, log)


def sgd_regressor(columns: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """scikit-learn's loop in C; its loss has a ½, so twice the rate is the same descent."""
    from sklearn.linear_model import SGDRegressor

    options = {"penalty": None, "shuffle": False, "fit_intercept": False, "tol": None}
    model = SGDRegressor(learning_rate="constant", eta0=2 * LR, max_iter=1, **options)
    model.fit(columns.numpy(), y.numpy(), coef_init=start.numpy())
    return torch.from_numpy(model.coef_)


def numpy_descent(x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Full-batch descent of a line in numpy."""
    a, b, w = x.numpy(), y.numpy(), np.float32(1)
    for _ in range(steps):
        w = w - np.float32(LR) * (2 * a * (w * a - b)).mean()
    return torch.tensor([float(w)], dtype=torch.float64)


# Ours.


def trained(
    make: Callable[..., Model],
    batches: Batches,
    gradient: GradientSource,
    optimizer: Callable[..., Any],
    epochs: int,
    **options: Any,
) -> Tensor:
    """The weights after `train`."""
    model = make(device=batches.x.device, dtype=batches.x.dtype)
    train(model, batches, optimizer(model.parameters(), lr=LR), gradient, epochs, **options)
    return weights_of(model)


def logged(batches: Batches, epochs: int) -> Tensor:
    """The same, written as scripts/train.py does."""
    config = config_json(Experiment(Configuration(device="cpu", epochs=epochs)), "autograd")
    update = autograd_gradient, torch.optim.SGD
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder) / "run", config, ["w"]) as writer,
    ):
        return trained(Linear, batches, *update, epochs, on_block=writer.record)


def affine(make: Callable[..., Model], batches: Batches, epochs: int = 1, **options: Any) -> Tensor:
    """The weights after the affine update."""
    model = make(device=batches.x.device, dtype=batches.x.dtype)
    affine_trajectory(model, batches, LR, epochs, **options)
    return weights_of(model)


def whole_process(*words: str) -> Tensor:
    """Run a Python program from its start to its end; its last word is the weight."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *words, "--log-dir", folder]
        root = str(Path(__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    line = next(row for row in done.stdout.splitlines() if row.startswith("w "))
    return torch.tensor([float(line.split()[1])], dtype=torch.float64)


HAND_WRITTEN = """
import argparse
import torch
from torch.utils.tensorboard import SummaryWriter

parser = argparse.ArgumentParser()
parser.add_argument("--log-dir")
folder = parser.parse_args().log_dir
data = [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]

def log(writer, step, loss, w, gradient):
    writer.add_scalar("loss", loss, step)
    writer.add_scalar("weight/w", w, step)
    writer.add_scalar("gradient/w", gradient, step)

w = 1.0
with SummaryWriter(folder + "/manual") as writer:
    for step in range(150):
        x, y = data[step % 3]
        gradient = 2 * x * (w * x - y)
        log(writer, step, (w * x - y) ** 2, w, gradient)
        w -= 0.01 * gradient

v = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.SGD([v], lr=0.01)
with SummaryWriter(folder + "/autograd") as writer:
    for step in range(150):
        x, y = data[step % 3]
        loss = (v * x - y) ** 2
        optimizer.zero_grad()
        loss.backward()
        log(writer, step, loss.item(), v.item(), v.grad.item())
        optimizer.step()
print("w", v.item())
"""


def small_steps(device: torch.device, quick: bool) -> Iterator[Work]:
    """The lesson: how much a step costs beside the arithmetic."""
    data, epochs = load("lesson"), 100 if quick else 500
    x, y = data.x.to(device), data.y.to(device)
    batches, steps = Batches(x, y), 3 * epochs
    by_hand = partial(trained, Linear, batches, manual_gradient, ManualSGD, epochs)
    usual = partial(trained, Linear, batches, autograd_gradient, torch.optim.SGD, epochs)
    name, every = "step of 3 points", {"record_every": 1}

    def bare() -> Tensor:
        return autograd_loop(Linear(device=device, dtype=x.dtype), x, y, epochs)

    loop = ("bare autograd loop", bare, steps)
    yield Work(name, "step", ("autograd, recorded", partial(usual, **every), steps), loop, 1e-12)
    yield Work(name, "step", ("manual, recorded", partial(by_hand, **every), steps), loop, 1e-12)
    hand = ("hand-written torch", partial(manual_loop, x, y, epochs), steps)
    yield Work(name, "step", ("manual, recorded", partial(by_hand, **every), steps), hand, 1e-12)
    if device.type == "cuda":
        graph = compiled(manual_gradient, x)
        graphed = partial(trained, Linear, batches, graph, ManualSGD, epochs, **every)
        ours = ("manual, CUDA graph", graphed, steps)
        yield Work(name, "step", ours, ("manual", partial(by_hand, **every), steps), 1e-12)
        return
    three = ("autograd loop, 3 add_scalar", partial(logged_loop, x, y, epochs), steps)
    yield Work("logged step", "step", ("autograd", partial(logged, batches, epochs), steps), three,
               1e-12)  # fmt: skip


def start_up() -> Iterator[Work]:
    """The lesson as a whole process, both updates, logged."""
    script = str(Path(__file__).parent / "train.py")
    ours = partial(whole_process, script, "--no-figures", "--device", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        peer = Path(folder) / "peer.py"
        peer.write_text(HAND_WRITTEN)
        names = (
            ("scripts/train.py", ours, 1),
            ("hand-written", partial(whole_process, str(peer)), 1),
        )
        yield Work("whole process, the lesson", "run", *names, 1e-12)


def per_sample(device: torch.device, quick: bool) -> Iterator[Work]:
    """One epoch, one sample a step."""
    count = 100_000 if quick else 1_000_000
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, count, dtype=torch.float64, generator=generator)
    few = slice(0, count // 100)
    for make, kind in ((Linear, "line"), (Quadratic, "parabola")):
        columns = torch.stack(list(make().partials(x).values()), dim=1)
        y = columns.sum(dim=1) + 0.1 * noise
        start = weights_of(make())
        here = Batches(x.to(device), y.to(device))
        part = Batches(here.x[few], here.y[few])
        path = partial(affine, make, here, record_every=1)
        fused = partial(affine, make, here, record_every=1, compiled=True)
        regressor = ("SGDRegressor", partial(sgd_regressor, columns, y, start), count)
        name = f"per sample, {count:,} points, {kind}"
        yield Work(name, "sample", ("affine, path kept", path, count), regressor, 1e-9)
        yield Work(name, "sample", ("affine compiled", fused, count), regressor, 1e-9)
        loop = partial(lone_loop, make, x[few], y[few])
        yield Work(name, "sample", ("affine, path kept", path, count),
                   ("bare autograd loop", loop, count // 100), 1e-9,
                   partial(affine, make, part, record_every=1))  # fmt: skip


def lone_loop(make: Callable[..., Model], x: Tensor, y: Tensor) -> Tensor:
    """The autograd loop from the start, on the CPU."""
    return autograd_loop(make(dtype=x.dtype), x, y)


def full_batch(device: torch.device, quick: bool) -> Iterator[Work]:
    """Gradients over many points, float32."""
    count, steps = (2_000_000 if quick else 20_000_000), 5
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, generator=generator)
    y = 2 * x + 1
    batches = Batches(x.to(device), y.to(device), count)
    fused = compiled(manual_gradient, batches.x)
    pairs = {
        "compiled manual": (fused, ManualSGD),
        "eager manual": (manual_gradient, ManualSGD),
        "eager autograd": (autograd_gradient, torch.optim.SGD),
    }
    jobs = {
        name: (name, partial(trained, Linear, batches, *pair, steps), steps)
        for name, pair in pairs.items()
    }
    name = f"full batch, {count:,} points"
    yield Work(name, "step", jobs["compiled manual"], jobs["eager autograd"], 1e-5)
    yield Work(name, "step", jobs["eager manual"], jobs["eager autograd"], 1e-5)
    by_numpy = ("numpy", partial(numpy_descent, x, y, steps), steps)
    yield Work(name, "step", jobs["compiled manual"], by_numpy, 1e-5)
    ends = {"record_every": 5000}
    many = ("affine, 5000 steps", partial(affine, Linear, batches, 5000, **ends), 1)
    some = ("affine, 50 steps", partial(affine, Linear, batches, 50, **ends), 1)
    yield Work(name, "run", many, some, 1.0)  # 50 steps are not there yet
    if device.type == "cuda":
        copy = copied(batches, steps)
        yield Work(name, "step", jobs["compiled manual"], copy, math.inf)  # which has no weights


def copied(batches: Batches, steps: int) -> tuple[str, Job, int]:
    """Copies of as many bytes as a step reads: x and y once."""
    target = torch.empty_like(batches.x)

    def copy() -> Tensor:
        for _ in range(steps):
            target.copy_(batches.x)  # reads x and writes as much: the bytes of x and y
        return weights_of(Linear())

    return "device-to-device copy", copy, steps


def seconds(job: Job, device: torch.device) -> float:
    """How long a job takes, the device's part included."""
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(work: Work, device: torch.device, repetitions: int) -> Row:
    """Check that both get the same weights, then time them in turn.

    Raises:
        ValueError: they do not.
    """
    (ours, job, count), (peer, other, peer_count) = work.ours, work.peer
    job()  # whatever is done once, as compiling, is done now
    a, b = (work.same or job)(), other()
    apart = ((a - b).abs().max() / b.abs().max()).item()
    if not apart <= work.close:
        raise ValueError(f"{work.name}: {ours} and {peer} differ by {apart:.2g}: no time counts")
    times = [
        (seconds(job, device) / count, seconds(other, device) / peer_count)
        for _ in range(repetitions)
    ]
    ratios = [theirs / own for own, theirs in times]
    own, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    found = statistics.median(ratios), min(ratios), max(ratios)
    return Row(work.name, ours, peer, work.item, own, theirs, *found)


def cells(row: Row) -> list[str]:
    """A row of the printed table."""
    times = (f"{readable(t)}/{row.item}" for t in (row.seconds, row.peer_seconds))
    return [
        row.work,
        row.ours,
        row.peer,
        *times,
        f"{row.ratio:.3g} ({row.least:.3g}–{row.most:.3g})",
    ]


def readable(time_taken: float) -> str:
    """Seconds in a unit that keeps the number short."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if time_taken * factor >= 1:
            return f"{time_taken * factor:.3g} {unit}"
    return f"{time_taken * 1e9:.3g} ns"


def machine(device: torch.device) -> dict[str, str]:
    """What was measured on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="benchmark.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:N")
    add("--quick", action="store_true", help="less data, in under a minute")
    add("--json", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        device, quick = find_device(arguments.device), arguments.quick
        print(", ".join(f"{name} {value}" for name, value in machine(device).items()))
        rows = []
        for works in (small_steps(device, quick), start_up(), per_sample(device, quick),
                      full_batch(device, quick)):  # fmt: skip
            for work in works:
                try:
                    rows.append(measure(work, device, 3 if quick else 7))
                except ImportError as error:
                    print(f"{work.name}: left out, {error}; pip install -e '.[bench]'")
        head = ["work", "torchgd", "peer", "torchgd's time", "peer's time", "peer/torchgd (range)"]
        print(*aligned([head, *map(cells, rows)]), sep="\n")
        if arguments.json is not None:
            found = {**machine(device), "rows": [asdict(row) for row in rows]}
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_script(main)
