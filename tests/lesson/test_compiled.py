"""The compiled loop takes the steps of `train`, to the bit."""

import itertools
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MODELS, Exponential, ended, same_trajectory, script
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, Trajectory, train
from torchgd import compiled as module
from torchgd.compiled import compiled_trajectory, descend_compiled
from torchgd.machine_code import machine_code

pytest.importorskip("numba", reason="numba is not installed")
if not all(map(module.fuses, (torch.float32, torch.float64))):
    pytest.skip("torch rounds w − α·g twice on this machine", allow_module_level=True)
F64 = torch.float64
OPTIONS = [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"weight_decay": 0.1},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}, {"maximize": True},
    {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.02, "maximize": True},
]  # fmt: skip


def both(
    make: Any, batches: Any, lr: float, epochs: int, every: int | None = None, **options: Any
) -> tuple[Trajectory, Trajectory]:
    """The paths of `train` and of machine code, which leave the model at the last row."""
    ours, theirs = make(), make()
    loop = train(
        theirs, batches(), ManualSGD(theirs.parameters(), lr, **options), epochs=epochs,
        record_every=every,
    )  # fmt: skip
    machine = compiled_trajectory(ours, batches(), lr, epochs, record_every=every, **options)
    for path, model in ((loop, theirs), (machine, ours)):
        for name, w in model.named_parameters():
            assert torch.equal(w.detach().nan_to_num(), path.weights[name][-1].nan_to_num())
    return loop, machine


def alike(a: Trajectory, b: Trajectory) -> bool:
    """Whether they are the same, also in the epochs and in how they ended."""
    return same_trajectory(a, b) and torch.equal(a.epoch, b.epoch) and a.stopped == b.stopped


NUMBERS = st.floats(-3, 3, width=32) | st.sampled_from([0.0, -0.0, 1e-310, -1e-40, 1e30, -1e200])
DRAWN = {
    "kind": st.sampled_from([*MODELS]),
    "dtype": st.sampled_from([torch.float32, F64]),
    "options": st.sampled_from(OPTIONS),
    "lr": st.sampled_from([0.0, 1e-3, 0.05, 3.0]),
    "epochs": st.integers(1, 4),
    "shuffle": st.booleans(),
    "every": st.sampled_from([None, 1, 3, 7, 1000]),
    "points": st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9),
    "batch_size": st.integers(1, 9),
}


@settings(max_examples=500)
@given(**DRAWN)
def test_every_bit_is_that_of_the_loop(
    kind: str, dtype: torch.dtype, options: dict[str, Any], lr: float, epochs: int, shuffle: bool,
    every: int | None, points: list[tuple[float, float]], batch_size: int,
) -> None:  # fmt: skip
    """Subnormal, huge and signed zero data; NaN and infinity end it at the same recorded step."""
    x, y = torch.tensor(points, dtype=F64).to(dtype).nan_to_num(0, 1.0, -1.0).unbind(dim=1)
    a, b = both(
        lambda: MODELS[kind](dtype=dtype),
        lambda: Batches(x.clone(), y.clone(), min(batch_size, len(x)), shuffle, 5),
        lr, epochs, every, **options,
    )  # fmt: skip
    assert alike(a, b)


@pytest.mark.parametrize(("dtype", "make", "x", "y", "options"), [
    # x² is infinite, and 0·x² no number; but ŷ₀ = 0.
    (F64, Quadratic, [1e200], [1.0], {}),
    # 2r·x underflows to −0, of which torch makes 0; and −0 − α·0 is −0.
    (F64, partial(Linear, -0.0), [1e-200], [1e-200], {}),
    # 1 − τ is taken in float64 and rounded once: in float32, 1 − 0.09 would be another number.
    (torch.float32, Linear, [0.1, 0.7], [1.3, 0.4], {"momentum": 0.9, "dampening": 0.09}),
], ids=["infinite", "minus zero", "dampening"])  # fmt: skip
def test_at_the_edges(
    dtype: torch.dtype, make: Any, x: list[float], y: list[float], options: dict[str, Any]
) -> None:
    data = torch.tensor([x, y], dtype=dtype)
    assert alike(*both(partial(make, dtype=dtype), lambda: Batches(*data), 0.05, 3, **options))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [2, 5, 7, 8, 17, 63, 100, 255, 256])
def test_larger_batches_too(size: int, dtype: torch.dtype) -> None:
    """600 samples, of which the last batch is a smaller one; torch's sums have an order of theirs.

    One of 600 would be added in yet another order.
    """
    x = torch.linspace(-1, 2, 600, dtype=dtype)
    y = 3 * x**2 + (9 * x).sin()
    a, b = both(lambda: Quadratic(dtype=dtype), lambda: Batches(x, y, size, True), 0.05, 3, 1)
    assert alike(a, b)


@pytest.mark.parametrize(("size", "every"), [(1, 1), (4, 1), (1, 3), (4, 20), (1, 1000)])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_goes_on_from_any_step(
    options: dict[str, Any], shuffle: bool, size: int, every: int
) -> None:
    """In blocks of 7 steps, each by a new optimizer with the old one's state, from where it was."""
    x = torch.linspace(-1, 2, 44 // 4 * size - size // 2, dtype=F64)
    batches = Batches(x, 3 * x**2 + 1, size, shuffle, seed=2)
    model, whole = Quadratic(dtype=F64), Quadratic(dtype=F64)
    expected = train(
        whole, batches, ManualSGD(whole.parameters(), 0.01, **options), epochs=4, record_every=every
    )
    reached, state = 0, None
    steps: list[int] = []
    rows: list[Tensor] = []
    while reached < 44:
        optimizer = ManualSGD(model.parameters(), 0.01, **options)
        if state is not None:
            optimizer.load_state_dict(state)
        blocks = descend_compiled(model, batches, optimizer, 4, every, start=reached, block=7)
        some = list(itertools.islice(blocks, 2))
        reached = some[-1][0]
        for _, recorded, table in some:
            steps += recorded.tolist()
            rows.append(torch.from_numpy(table))
        state = optimizer.state_dict()
        assert (state["state"] == {}) == ("momentum" not in options)
    assert steps == expected.step[:-1].tolist()
    assert torch.equal(torch.cat(rows), expected.table[:-1])
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), whole.parameters(), strict=True)
    )


class Own(Model):
    """ŷ = b·sin(x) + 2 + a·x², which sums in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5, dtype=F64))
        self.b = nn.Parameter(torch.tensor(0.1, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return self.b * x.sin() + 2 + self.a * x**2

    def partials(self, x: Tensor) -> dict[str, Tensor | float]:
        return {"a": x**2, "b": x.sin()}


def test_a_model_of_ones_own_is_within_its_rounding() -> None:
    """No step enlarges an error: α = 0.05 is below 1/(φ·φ) of every sample."""
    x = torch.linspace(-1.5, 1.5, 40, dtype=F64)
    a, b = both(Own, lambda: Batches(x, x.cos()), 0.05, 5, 1)
    assert torch.equal(a.step, b.step)
    largest = 1 + 2 * 0.05 * 2.25 * (2.25 + 2 + 1)
    bound = 200 * 3 * torch.finfo(F64).eps * largest
    assert all((a.weights[n] - b.weights[n]).abs().max() <= bound for n in a.names)


def test_many_samples_in_several_blocks() -> None:
    """2,500,000 steps, of which 10,000 are recorded, as the affine path records them."""
    x = torch.linspace(-1, 1, 1_250_000, dtype=F64)
    t = compiled_trajectory(Linear(dtype=F64), Batches(x, 2 * x), 1e-6, 2)
    assert len(t.step) <= 10_001
    assert t.step[-1] == 2_500_000
    # Two epochs multiply w − 2 by Π(1 − 2αx²)², and each step rounds w by an ULP at most.
    factor = (-2e-6 * x.square()).log1p().sum().mul(2).exp().item()
    assert abs(t.weights["w"][-1].item() - (2 - factor)) <= 2_500_000 * 2.3e-16


@pytest.mark.parametrize(("batches", "model", "message"), [
    (Batches(torch.ones(300), torch.ones(300), 257), Linear(),
     "batch size 257: the compiled loop takes at most 256$"),
    (Batches(torch.ones(4), torch.ones(4)), Exponential(), "Exponential is not linear in its"),
    (Batches(torch.ones(4), torch.ones(4)), Linear(dtype=F64), "parameter 'w' is torch.float64"),
])  # fmt: skip
def test_what_it_refuses(batches: Batches, model: Model, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        compiled_trajectory(model, batches, 0.1)


def test_where_torch_adds_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample a step needs no sum."""
    monkeypatch.setattr(module, "add_up", lambda terms, count, sums: terms[:count].sum())
    module.lanes.cache_clear()
    ones = torch.ones(4)
    with pytest.raises(ValueError, match=r"^batch size 2: the compiled loop takes at most 1$"):
        compiled_trajectory(Linear(), Batches(ones, ones, 2), 0.1)
    compiled_trajectory(Linear(), Batches(ones, ones), 0.1)
    module.lanes.cache_clear()


def test_where_torch_rounds_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its code for old processors does, of which ATEN_CPU_CAPABILITY=default asks."""
    monkeypatch.setattr(module, "fuses", lambda dtype: False)
    with pytest.raises(ValueError, match=r"^torch rounds w − α·g twice on this machine: the"):
        compiled_trajectory(Linear(), Batches(torch.ones(4), torch.ones(4)), 0.1)


@pytest.mark.processes
def test_it_is_known_whether_torch_fuses(tmp_path: Path) -> None:
    """Where it does not, by the results of one element and of many."""
    program = tmp_path / "fuses.py"
    program.write_text(FUSES, encoding="utf-8")
    process = script(tmp_path, file=program, ATEN_CPU_CAPABILITY="default")
    assert ended(process) == (0, "as it is known\n", "")


FUSES = """
import torch
from torchgd.compiled import fuses
for dtype in (torch.float32, torch.float64):
    e = torch.finfo(dtype).eps
    for count in (1, 100):
        w, g = (torch.full((count,), value, dtype=dtype) for value in (1 + 2 * e, 1 + e))
        assert bool((w.sub_(g, alpha=1 + e) != 0).all()) == fuses(dtype)
print("as it is known")
"""


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    machine_code.cache_clear()
    batches = Batches(torch.ones(4), torch.ones(4))
    with pytest.raises(ModuleNotFoundError, match=r"needs numba: pip install 'torchgd\[fast\]'$"):
        compiled_trajectory(Linear(), batches, 0.1)
    machine_code.cache_clear()


def test_one_that_diverges_in_its_last_step_says_so() -> None:
    """Every loss is finite there, and the weight that it ends at is not."""
    x = torch.tensor([1e100], dtype=F64)
    path = compiled_trajectory(Linear(dtype=F64), Batches(x, 0 * x), lr=1e200, epochs=1)
    assert (path.stopped, path.loss.tolist()) == ("diverged", [1e200])
    assert path.weights["w"].tolist() == [1.0, -math.inf]
