"""Maps composed in parallel against one after another, and the affine update against `train`."""

import math
import re
from typing import Any

import pytest
import torch
from helpers import DEVICES, MODELS, Exponential, same_bits, stacked
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, TensorDataset

from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, Trajectory, train
from torchgd.experiment.sources import load
from torchgd.gradients import jacobian
from torchgd.theory import affine, linear
from torchgd.theory.affine import affine_trajectory, after, compose, powers, prefixes, step_maps
from torchgd.theory.landscape import Landscape

F64 = torch.float64
EPS = torch.finfo(F64).eps


def random_maps(size: int, count: int) -> Tensor:
    """Maps (n, S, S + 1) that enlarge nothing: A is orthogonal."""
    generator = torch.Generator().manual_seed(count)
    A = torch.linalg.qr(torch.randn(count, size, size, dtype=F64, generator=generator)).Q
    return torch.cat([A, torch.randn(count, size, 1, dtype=F64, generator=generator)], dim=2)


def one_by_one(maps: Tensor, start: Tensor) -> tuple[Tensor, float]:
    """The states, and how far others may be: a map rounds by a few ε of a state's size."""
    states = [start]
    for M in maps:
        states.append(M[:, :-1] @ states[-1] + M[:, -1:])
    path = torch.stack(states)
    return path, 20 * EPS * len(path) * path.abs().max().item()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 101])
def test_prefixes(size: int, count: int) -> None:
    """From a state they are the chain's states; from the unit the maps that lead there.

    The last of these is all maps made one, the first one first.
    """
    maps, start = random_maps(size, count), torch.ones(size, 1, dtype=F64)
    expected, bound = one_by_one(maps, start)
    unit = torch.eye(size, size + 1, dtype=F64)
    for found in (prefixes(maps, start), after(prefixes(maps, unit), start)):
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)
    if count:
        whole = prefixes(maps, unit)[-1]
        torch.testing.assert_close(compose(maps), whole, rtol=0, atol=bound)


def test_powers() -> None:
    maps, start = random_maps(3, 1), torch.ones(3, 1, dtype=F64)
    expected, bound = one_by_one(maps.expand(1000, 3, 4), start)
    exponents = torch.tensor([0, 1, 2, 3, 500, 999, 1000])
    found = powers(maps[0], exponents, start)
    torch.testing.assert_close(found, expected[exponents], rtol=0, atol=bound)


def data(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, count, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return x, y


def both(
    make: Any, batches: Any, lr: float, epochs: int, every: int | None = 1, **options: Any
) -> tuple[Trajectory, Trajectory]:
    """The sequential path and the affine one, which have the same steps."""
    model, other = make(dtype=F64), make(dtype=F64)
    optimizer = ManualSGD(model.parameters(), lr=lr, **options)
    a = train(model, batches, optimizer, epochs=epochs, record_every=every)
    b = affine_trajectory(other, batches, lr, epochs, record_every=every, **options)
    assert (a.stopped, a.step.tolist(), a.epoch.tolist()) == (
        b.stopped, b.step.tolist(), b.epoch.tolist()
    )  # fmt: skip
    for name, w in other.named_parameters():
        assert same_bits(w, b.weights[name][-1])
    return a, b


def scale(model: Model, batches: Any, weights: Tensor, lr: float) -> float:
    """R, the largest |w| + 2α|φ||y|."""
    largest = max(jacobian(model.double(), x).norm(dim=1).max().item() for x, _ in batches)
    y = max(y.abs().max().item() for _, y in batches)
    return weights.norm(dim=1).max().item() + 2 * lr * largest * y


@pytest.mark.parametrize("device", DEVICES)
def test_as_many_maps_as_one_of_cudas_grids_has_no_room_for(device: str) -> None:
    """65,535 is the most of a grid's second and third dimension; each map's rows are QR's."""
    (x, y), lr, count = data(3 * 65_537), 0.01, 65_537
    model = Linear(device=device, dtype=F64)
    path = affine_trajectory(
        model, Batches(x.to(device), y.to(device), 3), lr, 1, record_every=count
    )
    A, c = 1 - lr * 2 / 3 * (x * x).view(-1, 3).sum(1), lr * 2 / 3 * (x * y).view(-1, 3).sum(1)
    w, R = 1.0, 1 + 2 * lr * x.abs().max().item() * y.abs().max().item()
    for a, b in zip(A.tolist(), c.tolist(), strict=True):
        w = a * w + b
    assert path.step.tolist() == [0, count - 1, count]
    assert abs(path.weights["w"][-1].item() - w) <= 8 * 4 * count * EPS * R


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@settings(max_examples=15)
@given(
    count=st.integers(1, 60), size=st.integers(1, 60), epochs=st.integers(1, 4),
    shuffle=st.booleans(), every=st.integers(1, 99) | st.none(), seed=st.integers(0, 2**31),
    fraction=st.floats(0.01, 1.0),
)  # fmt: skip
def test_is_within_its_bound_of_the_sequential_path(
    make: Any,
    count: int,
    size: int,
    epochs: int,
    shuffle: bool,
    every: int | None,
    seed: int,
    fraction: float,
) -> None:
    """|w_k − w_k sequential| ≤ 8(P + 1)² · k · ε · R, at rates that enlarge no error."""
    batches = Batches(*data(count, seed), min(size, count), shuffle)
    single = Batches(batches.x, batches.y)
    steep = jacobian(make(), batches.x).norm(dim=1).max().item()  # H = 2φφᵀ of one sample
    lr = fraction / steep**2
    a, b = both(make, batches, lr, epochs, every)
    w, steps = stacked(a), a.step.double()
    bound = 8 * (w.shape[1] + 1) ** 2 * EPS * scale(make(), single, w, lr)
    assert ((stacked(b) - w).norm(dim=1) <= bound * steps).all()
    # A residual and a gradient follow: |φ| and |φ|² times the error, and their own rounding.
    steps = steps[:-1] + 1
    apart = [(g - b.gradients[name]).square() for name, g in a.gradients.items()]
    assert (sum(apart, torch.zeros(())).sqrt() <= steps * bound * 2 * steep**2 + bound / lr).all()
    roots = (a.loss.sqrt() - b.loss.sqrt()).abs()
    assert (roots <= steps * bound * steep + bound / lr / steep).all()


OPTIONS: list[dict[str, Any]] = [
    {"momentum": 0.9},
    {"momentum": 0.5, "dampening": 0.3},
    {"momentum": 0.5, "dampening": 0.3, "weight_decay": 0.2},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
    {"dampening": 0.5},
    {"weight_decay": 0.2},
    {"weight_decay": 0.2, "maximize": True},
    {"momentum": 0.5, "maximize": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("size", [1, 3, 11])
@pytest.mark.parametrize("shuffle", [False, True])
def test_all_of_sgds_options(make: Any, size: int, shuffle: bool, options: Any) -> None:
    """Each of up to 33 steps rounds a state of S entries; products of maps carry that on.

    The linear part of a step's map depends on its H alone.
    """
    batches = Batches(*data(11), size, shuffle)
    a, b = both(make, batches, 0.01, 3, **options)
    hessians = Landscape(make(), batches).hessians
    maps, others = (
        step_maps(pad(hessians, (0, 1), value=h), 0.01, **options)[..., :-1] for h in (0.0, 7.0)
    )
    assert torch.equal(maps, others)
    growth = max(1.0, *torch.linalg.matrix_norm(maps, ord=2).tolist()) ** len(a.loss)
    gradients = torch.stack(list(a.gradients.values())).norm(dim=0)
    velocity = gradients.max().item() / (1 - options.get("momentum", 0.0))
    size_of_state = scale(make(), Batches(batches.x, batches.y), stacked(a), 0.01) + velocity
    bound = 8 * (len(maps[0]) + 1) ** 2 * len(a.loss) * EPS * size_of_state * growth
    assert (stacked(b) - stacked(a)).abs().max().item() <= bound


@pytest.mark.parametrize("size", [3, 200, 500])
@pytest.mark.parametrize("epochs", [1, 2])
def test_blocks_are_seamless(size: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of batches, of a batch's samples, and of recorded rows."""
    batches = Batches(*data(500), size)
    steps = epochs * len(batches)
    whole = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, epochs, record_every=1)
    monkeypatch.setitem(linear.BLOCK, "cpu", 64)
    monkeypatch.setattr(affine, "ROWS", 50)
    parts = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, epochs, record_every=1)
    bound = 8 * 16 * steps * EPS * scale(Quadratic(), Batches(*data(500)), stacked(whole), 0.01)
    torch.testing.assert_close(stacked(parts), stacked(whole), rtol=0, atol=bound)


@pytest.mark.parametrize("size", range(1, 8))
def test_a_batch_is_kept_as_one_row_more_than_it_has_parameters_at_most(size: int) -> None:
    x, y = data(14)
    (rows, *_) = linear.epoch_rows(Quadratic(dtype=F64), x, y, size)
    assert rows.shape == (14 // size, min(size, 4), 4)


def test_many_epochs_of_the_lesson_follow_their_closed_form() -> None:
    """w after e epochs is 2 − 0.739312ᵉ; 3 roundings of 2 over 1 − 0.82, as for the loop, twice."""
    lesson, model = load("lesson"), Linear(dtype=F64)
    t = affine_trajectory(model, Batches(lesson.x, lesson.y), 0.01, 1000, record_every=3)
    expected = 2 - 0.739312 ** torch.arange(1001, dtype=F64)
    starts = t.weights["w"][t.step % 3 == 0]
    assert (starts - expected).abs().max().item() <= 2 * 3 * EPS / (1 - 0.82)


def test_a_billion_steps_of_the_full_batch() -> None:
    """They end at the minimiser: of y = 3x² + 2x + 1, known exactly."""
    points, model = load("parabola"), Quadratic(dtype=F64)
    batches = Batches(points.x, points.y, len(points.x))
    t = affine_trajectory(model, batches, 0.1, 10**9)
    assert t.step[-1] == 10**9
    found = torch.stack(list(model.parameters())).detach()
    # The slowest direction shrinks by 1 − αλ with λ_min ≈ 0.5 a step; see the bound of the path.
    bound = 8 * 16 / (0.1 * 0.5) * EPS * (14**0.5 + 2 * 0.1 * 21**0.5 * 17)
    torch.testing.assert_close(found, torch.tensor([3.0, 2.0, 1.0], dtype=F64), rtol=0, atol=bound)


def test_float32_is_the_path_of_float64_rounded_once() -> None:
    x, y = data(100)
    batches, single = Batches(x.float(), y.float()), Batches(x.float().double(), y.float().double())
    a = affine_trajectory(Quadratic(dtype=torch.float32), batches, 0.01, 1)
    b = affine_trajectory(Quadratic(dtype=F64), single, 0.01, 1)
    assert same_bits(stacked(a), stacked(b).float())
    assert same_bits(a.loss, b.loss.float())


def test_divergence_ends_where_the_loops_does() -> None:
    a, b = both(Linear, Batches(load("lesson").x, load("lesson").y), 1.0, 200)
    assert a.stopped == b.stopped == "diverged"


class Lifted(Linear):
    """ŷ = w·x + 3, which is 3 at w = 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 3


def test_a_constant_part_of_the_prediction_is_kept() -> None:
    """That is no parameter's."""
    a, b = both(Lifted, Batches(*data(20), 2), 0.1, 2)
    torch.testing.assert_close(b.weights["w"], a.weights["w"], rtol=0, atol=1000 * EPS)
    torch.testing.assert_close(b.loss, a.loss, rtol=0, atol=1000 * EPS)


def test_a_list_and_a_dataloader_do_as_well() -> None:
    x, y = data(20)
    batches, loader = Batches(x, y, 3), DataLoader(TensorDataset(x, y), batch_size=3)
    expected = affine_trajectory(Linear(dtype=F64), batches, 0.1, 2)
    for others in (list(batches), loader):
        t = affine_trajectory(Linear(dtype=F64), others, 0.1, 2)
        torch.testing.assert_close(t.weights["w"], expected.weights["w"], rtol=0, atol=100 * EPS)


X = torch.ones(3, dtype=F64)
SIZES = "batches of 1 to 3 samples: give all the same number, and the last one at most that"


@pytest.mark.parametrize(("model", "batches", "message"), [
    (Exponential(dtype=F64), [(X, X)], "Exponential is not linear in its parameters: its steps "
     "are no affine maps; take the update manual or autograd"),
    (Linear(dtype=F64), [(X, X), (X[:1], X[:1]), (X, X)], SIZES),
    (Linear(dtype=F64), [(X[:1], X[:1]), (X, X)], SIZES),
    (Linear(), [(X, X)], "parameter 'w' is torch.float32 and the loss torch.float64: make "),
    (Linear(dtype=F64), [], "batches is empty: give at least one"),
])  # fmt: skip
def test_what_it_refuses(model: Model, batches: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        affine_trajectory(model, batches, 0.1, 1)


@pytest.mark.parametrize(
    "options", [{"lr": math.nan}, {"nesterov": True}, {"weight_decay": math.inf}, {"betas": (0, 1)}]
)
def test_what_sgd_refuses_is_refused_in_its_words(options: dict[str, Any]) -> None:
    model, options = Linear(dtype=F64), {"lr": 0.1, **options}
    with pytest.raises((TypeError, ValueError)) as sgds:
        ManualSGD(model.parameters(), **options)
    with pytest.raises(sgds.type, match=f"^{re.escape(str(sgds.value))}$"):
        affine_trajectory(model, Batches(X, X), epochs=1, **options)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_device_is_within_the_same_bound(size: int, device: str) -> None:
    (x, y), lr = data(100_000), 0.005
    batches, there = Batches(x, y, size), Batches(x.to(device), y.to(device), size)
    a = affine_trajectory(Linear(dtype=F64), batches, lr, 1, record_every=1)
    b = affine_trajectory(Linear(device=device, dtype=F64), there, lr, 1, record_every=1)
    bound = 8 * 4 * len(a.loss) * EPS * scale(Linear(), [(x, y)], stacked(a), lr)
    assert (a.weights["w"] - b.weights["w"]).abs().max().item() <= bound
