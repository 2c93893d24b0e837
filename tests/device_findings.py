"""What is looked at on a device by tests/on_device.py, and what is expected there."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import digests
import pretend
import torch
from helpers import AUTOGRAD, MANUAL, same_bits
from torch import Tensor

import torchgd
from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, autograd_gradient, manual_gradient
from torchgd.experiment.parallel import FEW, compiled, in_chunks
from torchgd.gradients import GradientSource
from torchgd.trajectory import Recorder

F32, F64 = torch.float32, torch.float64
DEVICE = "cuda" if pretend.CUDA else pretend.NAME
SIZES = [1, 2, 33, 511, 4097, 65_537, *([10**6 + 3, 20_000_001] if pretend.CUDA else [])]
STEPS = 1000  # as many as a block has rows
BATCHES = [(1, 200), (7, 200), (FEW, 200_000), (10**6, 2_500_000)]  # and of how many samples
TIMED = [1, FEW // 8, FEW, 10**6]
GOAL = 0.8  # of a device copy's bandwidth


@dataclass
class Finding:
    """What was looked at, what was found there, and whether that is `good`: None of a figure."""

    what: str
    found: Any
    good: bool | None = None

    def __str__(self) -> str:
        mark = {True: "yes", False: "NO", None: "-"}[self.good]
        return f"{mark:>4}  {self.what}: {self.found}"


Findings = Iterator[Finding]


def points(count: int, dtype: torch.dtype = F64) -> Tensor:
    """x and y (2, N) on the device, the same on each."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(2, count, generator=generator, dtype=dtype).to(DEVICE)


# (1 + 2ε) − (1 + ε)² is −ε² where it is rounded once, and 0 where the product is rounded first.
def rounding() -> Findings:
    """ManualSGD subtracts by `sub`, torch's SGD on CUDA by `foreach`, from all weights at once."""
    for dtype in (F32, F64):
        e = torch.finfo(dtype).eps
        w, g = torch.tensor([1 + 2 * e, 1 + e], dtype=dtype).to(DEVICE)
        (together,) = torch._foreach_add([w], [g], alpha=-1 - e)
        results = {"sub": w.sub(g, alpha=1 + e), "foreach": together}
        found = {name: "twice" if t.item() == 0 else "once" for name, t in results.items()}
        good = found["sub"] == found["foreach"]
        yield Finding(f"how often w − α·g is rounded in {dtype}", found, good)
    check = torchgd.check_optimizer(ManualSGD, DEVICE)
    yield Finding("ManualSGD beside torch.optim.SGD", str(check).splitlines()[-1], bool(check))


def same_gradients() -> Findings:
    """Of few and many samples, in views that begin at an odd place in memory, too."""
    parted: list[str] = []
    for size, offset, dtype in product(SIZES, (0, 1), (F32, F64)):
        x, y = points(size + offset, dtype)[:, offset:]
        for make in (Linear, Quadratic):
            which = f"{make.__name__} {dtype} {size} + {offset}"
            parted += parting(make(device=DEVICE, dtype=dtype), x, y, which)
    what = f"by hand = autograd = again = in chunks, {SIZES[0]} to {SIZES[-1]} samples"
    yield Finding(what, parted or "the same bits", not parted)


def parting(model: Model, x: Tensor, y: Tensor, which: str) -> Iterator[str]:
    """What differs of loss and gradients."""
    hand, again, usual = (
        gradients(f, model, x, y) for f in (manual_gradient, manual_gradient, autograd_gradient)
    )
    cut, others = (
        gradients(in_chunks(f, 1 + len(x) // 3), model, x, y)
        for f in (manual_gradient, autograd_gradient)
    )
    for name, a, b in (("autograd", hand, usual), ("again", hand, again), ("chunks", cut, others)):
        if not same_bits(a, b):
            yield f"{which} {name}"


def gradients(gradient: GradientSource, model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Loss and gradients (1 + P,), on the CPU."""
    loss = gradient(model, x, y)
    return torch.stack([loss, *(w.grad for w in model.parameters())]).cpu()  # type: ignore[list-item]


def waits() -> Findings:
    """The host waits for each block of recorded steps, the final weights and the profiler."""
    size = 1000 if pretend.CUDA else 10
    x, y = points(STEPS * size)
    batches = Batches(x, y, size, shuffle=True)
    for gradient, make in (MANUAL, AUTOGRAD):
        model = Linear(device=DEVICE, dtype=F64)
        optimizer = make(model.parameters(), lr=0.01)
        found = noted(in_blocks, model, batches, optimizer, gradient)
        count = sum(n for name, n in found.items() if not pretend.CUDA or "Synchronize" in name)
        yield Finding(f"waits in {STEPS} steps by {gradient.__name__}", found, 0 < count <= 5)


def in_blocks(model: Model, batches: Batches, optimizer: Any, gradient: GradientSource) -> None:
    """An epoch as `train` takes it, if no second were over before a block is full."""
    recorder = Recorder(model, STEPS, every=1, seconds=math.inf)
    for step, epoch, loss in torchgd.descend(model, batches, optimizer, gradient, epochs=1):
        recorder.record(step, epoch, loss)
        if recorder.due:
            recorder.hand_over()
    recorder.finish(STEPS, 1)


def noted(run: Callable[..., object], *of: Any) -> dict[str, int]:
    """How often a second run calls what of CUDA, by torch's profiler, or waits, as pretended."""
    run(*of)
    if pretend.CUDA:
        with torch.profiler.profile() as profile:
            run(*of)
        calls = profile.key_averages()
        return {call.key: call.count for call in calls if call.key.startswith("cuda")}
    pretend.HOST.waits.clear()
    run(*of)
    names = [wait.operation for wait in pretend.HOST.waits]
    return {name: names.count(name) for name in names}


def compiled_gradients() -> Findings:
    """By CUDA graphs and without, with a last batch that is smaller."""
    for size, count in BATCHES:
        x, y = points(count)
        eager = nesterov(manual_gradient, x, y, size)
        for gradient in (manual_gradient, autograd_gradient):
            fast = nesterov(compiled(gradient, x[:size]), x, y, size)
            apart, what = (fast - eager).abs().max().item(), f"compiled {gradient.__name__}"
            yield Finding(f"{what} less eager, batches of {size}", f"{apart:.2g}", apart < 1e-9)
    x, y = points(8)
    graph, model = compiled(manual_gradient, x), Linear(device=DEVICE, dtype=F64)
    loss = graph(model, x, y)
    before = loss.item()
    graph(model, 2 * x, y)
    same = before == loss.item()
    yield Finding("what a graph computed outlives its next run", same, same)


def nesterov(gradient: GradientSource, x: Tensor, y: Tensor, size: int) -> Tensor:
    """The whole table of three epochs."""
    model = Quadratic(device=DEVICE, dtype=F64)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    batches = Batches(x, y, size, shuffle=True)
    return torchgd.train(model, batches, sgd, gradient, 3, record_every=1).table


def seconds(work: Callable[[int], object], times: int) -> float:
    """How long one takes of so many, the median of five turns after a first one."""
    turns = []
    for _ in range(6):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work(times)
        torch.cuda.synchronize()
        turns.append((time.perf_counter() - began) / times)
    return median(turns[1:])


def step_times() -> Findings:
    """Also on the CPU: `auto` takes the GPU from FEW samples a step on."""
    for size, update in product(TIMED, (MANUAL, AUTOGRAD)):
        device, cpu = (1e6 * seconds(steps(update, size, d), 20) for d in (DEVICE, "cpu"))
        said = f"{device:.0f} µs, on the CPU {cpu:.0f}"
        yield Finding(f"a step of {size} by {update[0].__name__}", said)


def steps(update: Any, size: int, device: str) -> Callable[[int], object]:
    """What takes so many steps, of one batch."""
    (gradient, make), (x, y) = update, points(size).to(device)
    model, batches = Linear(device=device, dtype=F64), Batches(x, y, size)
    sgd = make(model.parameters(), lr=1e-3)
    return lambda times: sum(1 for _ in torchgd.descend(model, batches, sgd, gradient, times))


def bandwidth(count: int = 10**8) -> Findings:
    """A step of the full batch reads x and y; a copy of x reads as much as it writes."""
    x, y = points(count, F32)
    model, target, fast = Linear(device=DEVICE), torch.empty_like(x), compiled(manual_gradient, x)
    step = seconds(lambda times: [fast(model, x, y) for _ in range(times)], 50)
    copy = seconds(lambda times: [target.copy_(x) for _ in range(times)], 50)
    rates = "{:.0f} GB/s, a device copy {:.0f}".format(*(8e-9 * count / s for s in (step, copy)))
    said = f"{rates}: {copy / step:.2f} of it; the goal is {GOAL}"
    yield Finding(f"full batch of {count}, float32, compiled", said, copy / step >= GOAL)


def own_digests(folder: Path) -> Findings:
    """For tests/data/digests.json."""
    found = {case: digests.digests(case, DEVICE) for case in digests.CASES}
    digests.add(folder / "digests.json", digests.environment(DEVICE), found)
    known = json.loads(digests.FILE.read_text(encoding="utf-8"))
    alike = sum(digest in known[case] for case, (digest, _) in found.items())
    yield Finding("reference trajectories with a CPU's bits", f"{alike} of {len(found)}")
