"""The pretended device computes as the CPU does, and notices each planted wait and mix."""

import inspect
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pretend
import pytest
import torch
from helpers import AUTOGRAD, BESIDE_CUDA, ENVIRONMENT, MANUAL, ROOT, may_wait, same_trajectory
from pretend import HOST, NAME, Host

import torchgd
from torchgd import Batches, ManualSGD, Quadratic, Trajectory, train
from torchgd.experiment import parallel
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment, converted
from torchgd.experiment.run import outcome_of
from torchgd.experiment.sources import load
from torchgd.gradients import manual_gradient
from torchgd.models import parameter
from torchgd.proof import oracles
from torchgd.theory import affine, linear
from torchgd.theory.affine import powers, prefixes, step_maps
from torchgd.theory.landscape import Landscape
from torchgd.trajectory import Recorder

F64 = torch.float64


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    if pretend.CUDA:
        pytest.skip(BESIDE_CUDA)
    monkeypatch.setattr("torchgd.experiment.resolve.find_device", pretend.find_device)
    yield HOST
    may_wait(NAME, True)


def on(device: str, size: int = 5, shuffle: bool = False) -> tuple[Quadratic, Batches]:
    """A model, and 15 samples."""
    x, y = load("parabola").x[:15].to(device), load("parabola").y[:15].to(device)
    return Quadratic(device=device, dtype=F64), Batches(x, y, size, shuffle)


def descend(device: str, update: Any = MANUAL, shuffle: bool = True, **options: Any) -> Trajectory:
    """150 steps, in blocks of 40."""
    gradient, make = update
    model, batches = on(device, 5, shuffle)
    optimizer = make(model.parameters(), lr=0.001, **options)
    HOST.waits.clear()
    recorder = Recorder(model, 150, every=1, rows=40, seconds=math.inf)
    for step, epoch, loss in torchgd.descend(model, batches, optimizer, gradient, 50):
        recorder.record(step, epoch, loss)
        if recorder.due:
            recorder.hand_over()
    return recorder.finish(150, 50)


@pytest.mark.parametrize("update", [MANUAL, AUTOGRAD], ids=["manual", "autograd"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_train_has_the_cpus_bits_and_waits_for_blocks_alone(
    update: Any, options: Any, shuffle: bool, host: Host
) -> None:
    found = descend(NAME, update, shuffle, **options)
    waits = [(wait.operation, wait.line.partition(":")[0]) for wait in host.waits]
    assert waits == [("_to_copy", "trajectory.py")] * 4
    assert all("torch.stack(rows).cpu()" in wait.line for wait in host.waits)
    assert found.stopped == "finished"
    assert same_trajectory(found, descend("cpu", update, shuffle, **options))


def run(**options: Any) -> None:
    """Two updates of the lesson."""
    for update in ("manual", "autograd"):
        outcome_of(Configuration(device=NAME, epochs=1, update=update, **options))


# Work on the device, for a fault planted in it to be met.
WORK: dict[str, Callable[[], object]] = {
    "train": lambda: descend(NAME),
    "run": run,
    "in chunks": lambda: run(chunk_size=2),
    "affine": lambda: affine.affine_trajectory(*on(NAME), 0.001, 3),
    "with momentum": lambda: affine.affine_trajectory(*on(NAME), 0.001, 3, momentum=0.5),
    "minimum": lambda: Landscape(*on(NAME)),
    "oracles": lambda: oracles.check_gradient(on(NAME)[0], on(NAME)[1].x, on(NAME)[1].y),
}


@pytest.mark.parametrize(
    "work", [work for work in WORK if work != "oracles"]
)  # test_oracles.py has that one
def test_without_a_fault_nothing_is_mixed(work: str, host: Host) -> None:
    WORK[work]()


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("work", [partial(affine.affine_trajectory, lr=0.001), Landscape])
def test_no_batch_is_copied_by_itself(work: Any, listed: bool, host: Host) -> None:
    """The host waits as often for 15 batches as for 3: all of the data go in one copy."""

    def lines(size: int) -> list[str]:
        model, batches = on(NAME, size)
        host.waits.clear()
        work(model, list(batches) if listed else batches)
        return [wait.line for wait in host.waits]

    assert lines(1) == lines(5) != []


def plant(monkeypatch: pytest.MonkeyPatch, function: Any, old: str, new: str) -> str:
    """Have a function do `new` in the place of `old`; return in which FILE:LINE that is."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    (number,) = [k for k, line in enumerate(lines, first) if old in line]
    path = Path(function.__code__.co_filename)
    text = path.read_text(encoding="utf-8").split("\n")
    text[number - 1] = text[number - 1].replace(old, new)
    changed = _codes(compile("\n".join(text), str(path), "exec"))
    monkeypatch.setattr(function, "__code__", changed[function.__name__, first])
    return f"{path.name}:{number} "


def _codes(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """All functions in a module, by name and first line."""
    inside = [_codes(c) for c in code.co_consts if isinstance(c, CodeType)]
    own = {(code.co_name, code.co_firstlineno): code}
    return own | {place: c for codes in inside for place, c in codes.items()}


# Before the gradient by hand returns.
IN_THE_GRADIENT = """
loss.item()
float(loss)
bool(loss > 0)
x.tolist()
loss.cpu()
x.nonzero()
x[x > 0]
x.clone()[x > 0] = 0.0
x.masked_select(x > 0)
x.unique()
x.repeat_interleave(x.long())
torch.equal(x, y)
torch.allclose(x, y)
print(loss)
f"{loss}"
assert loss.isfinite().all()
torch.tensor(1.0, device=x.device)
x.new_tensor([1.0])
x[torch.zeros(1, dtype=torch.long)]
""".strip().split("\n")
WAITS = [
    *((manual_gradient, "return loss", f"{wait}; return loss") for wait in IN_THE_GRADIENT),
    (Batches.order, ", non_blocking=True", ""),
    (ManualSGD._update, "alpha=float(", "alpha=g.item() + float("),
    (Recorder.record, "[loss,", "[loss.cpu(),"),
]


@pytest.mark.parametrize(("function", "old", "new"), WAITS)
def test_a_planted_wait_is_reported_with_its_line(
    function: Any, old: str, new: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = plant(monkeypatch, function, old, new)
    model, batches = on(NAME, shuffle=True)
    host.waits.clear()
    may_wait(NAME, False)
    with pytest.raises(RuntimeError, match="synchronizing"):
        train(model, batches, ManualSGD(model.parameters()), epochs=1)
    assert host.waits[0].line.startswith(where)


MIXES: list[tuple[str, Any, str, str]] = [
    ("train", parameter, "device=device, ", ""),
    ("train", Recorder.finish, "torch.zeros_like(w)", "torch.zeros(w.shape)"),
    ("run", converted, "c.device, ", ""),
    ("run", Experiment.predict, "at.to(c.device, ", "at.to("),
    ("in chunks", parallel.in_chunks, "w.device, w", "w"),
    ("in chunks", parallel.in_chunks, ", device=w.device", ""),
    ("affine", step_maps, 'device": gradients.device', 'device": None'),
    ("affine", prefixes, "even.new_empty", "torch.empty"),
    ("affine", powers, "exponents.to(start.device)", "exponents"),
    ("affine", affine.walk_again, ", device=start.device", ""),
    ("affine", linear.reduced_rows, "x.new_zeros", "torch.zeros"),
    ("affine", linear.batch_rows, "torch.zeros_like(rows[:1])", "torch.zeros(rows[:1].shape)"),
    ("with momentum", step_maps, "2 * parameters + 1, **like", "2 * parameters + 1"),
    ("with momentum", step_maps, "zeros_like(G[..., :-1])", "zeros(G[..., :-1].shape)"),
    ("with momentum", affine.start_state, "torch.zeros_like(w)", "torch.zeros(w.shape)"),
    ("minimum", Landscape.__init__, "x.cpu()", "x"),
    ("minimum", Landscape.__init__, "y.cpu()", "y"),
    ("oracles", oracles._Findings._everywhere, ".to(some)", ".to(some.dtype)"),
]


@pytest.mark.parametrize(("work", "function", "old", "new"), MIXES)
def test_a_planted_mix_is_refused(
    work: str, function: Any, old: str, new: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, function, old, new)
    # torch itself looks at a gradient's device; an Experiment names the model in a ValueError.
    with pytest.raises((RuntimeError, ValueError), match="must be on one device|with device type"):
        WORK[work]()


@pytest.mark.cuda
@pytest.mark.processes
def test_beside_cuda_a_process_of_its_own_has_the_pretended_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-k", "pretend", "tests"]
    pipe, environment = subprocess.PIPE, {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=pipe, encoding="utf-8")
    assert done.returncode == 0, done.stdout
