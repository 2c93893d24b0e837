"""The affine update against the sequential one."""

import math
from typing import Any

import pytest
import torch
from helpers import MODELS, Exponential, needs_compiler, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, Trajectory, train
from torchgd.data import load
from torchgd.theory import linear
from torchgd.theory.affine import affine_trajectory, step_maps
from torchgd.theory.landscape import largest_stable_learning_rate
from torchgd.theory.linear import hessian, jacobians

F64 = torch.float64
EPS = torch.finfo(F64).eps


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


def table(weights: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(weights.values()), dim=1)


def scale(model: Model, batches: Any, weights: Tensor, lr: float) -> float:
    """R, the largest |w| + 2α|φ||y|."""
    largest = max(phi.norm(dim=1).max().item() for phi in jacobians(model, batches))
    y = max(y.abs().max().item() for _, y in batches)
    return weights.norm(dim=1).max().item() + 2 * lr * largest * y


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@settings(max_examples=15)
@given(
    count=st.integers(1, 60), size=st.integers(1, 60), epochs=st.integers(1, 4),
    shuffle=st.booleans(), seed=st.integers(0, 2**31), fraction=st.floats(0.01, 1.0),
)  # fmt: skip
def test_is_within_its_bound_of_the_sequential_path(
    make: Any, count: int, size: int, epochs: int, shuffle: bool, seed: int, fraction: float
) -> None:
    """|w_k − w_k sequential| ≤ 8(P + 1)² · k · ε · R, at rates that enlarge no error."""
    batches = Batches(*data(count, seed), min(size, count), shuffle)
    single = Batches(batches.x, batches.y)
    steepest = max(hessian(phi).trace().item() for phi in jacobians(make(), single))
    lr = fraction * 2 / steepest
    a, b = both(make, batches, lr, epochs)
    w, found = table(a.weights), table(b.weights)
    parameters = w.shape[1]
    bound = 8 * (parameters + 1) ** 2 * EPS * scale(make(), single, w, lr)
    steps = torch.arange(len(w), dtype=F64)
    error = (found - w).norm(dim=1)
    assert (error <= bound * steps).all()
    # A residual and a gradient follow: |φ| and |φ|² times the error, and their own rounding.
    steep = max(phi.norm(dim=1).max().item() for phi in jacobians(make(), single))
    most = (steps[:-1] + 1) * bound * 2 * steep**2 + bound / lr
    gradients = (table(a.gradients) - table(b.gradients)).norm(dim=1)
    assert (gradients <= most).all()
    r, s = a.loss.sqrt(), b.loss.sqrt()
    assert ((r - s).abs() <= (steps[:-1] + 1) * bound * steep + bound / lr / steep).all()


OPTIONS: list[dict[str, Any]] = [
    {"momentum": 0.9},
    {"momentum": 0.5, "dampening": 0.3},
    {"momentum": 0.5, "dampening": 0.3, "weight_decay": 0.2},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
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

    The products' norms are taken from `step_maps`; maximising, H is −H.
    """
    batches = Batches(*data(11), size, shuffle)
    a, b = both(make, batches, 0.01, 3, **options)
    sign = -1.0 if options.get("maximize") else 1.0
    hessians = sign * torch.stack([hessian(phi) for phi in jacobians(make(), batches)])
    maps = step_maps(hessians, 0.01, **{k: v for k, v in options.items() if k != "maximize"})
    growth = max(1.0, *torch.linalg.matrix_norm(maps, ord=2).tolist()) ** len(a.loss)
    w = table(a.weights)
    velocity = table(a.gradients).norm(dim=1).max().item() / (1 - options.get("momentum", 0.0))
    size_of_state = scale(make(), Batches(batches.x, batches.y), w, 0.01) + velocity
    bound = 8 * (len(maps[0]) + 1) ** 2 * len(a.loss) * EPS * size_of_state * growth
    assert (table(b.weights) - w).abs().max().item() <= bound


@pytest.mark.parametrize("every", [1, 7, 100, 4999, 100_000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_it_records_what_train_records(every: int, shuffle: bool) -> None:
    """5000 steps an epoch: several blocks, lanes and a rest. The line's error shrinks on average.

    x² ≤ 1 and α = 0.05: with E(x²) = ⅓ a step takes 1/30 of an error away, where one that does
    not happen to by chance takes none, so that some 30 roundings of a few units add up; 10³ ε.
    """
    x = torch.linspace(-1, 1, 5000, dtype=F64)[torch.randperm(5000, generator=torch.manual_seed(1))]
    batches = Batches(x, 2 * x + data(5000)[1], shuffle=shuffle)
    a, b = both(Linear, batches, 0.05, 2, every)
    torch.testing.assert_close(table(b.weights), table(a.weights), rtol=0, atol=1000 * EPS)


def test_blocks_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(*data(500), 3)
    whole = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, 1, record_every=1)
    monkeypatch.setitem(linear.BLOCK, "cpu", 64)
    parts = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, 1, record_every=1)
    bound = 8 * 16 * 167 * EPS * scale(Quadratic(), batches, table(whole.weights), 0.01)
    torch.testing.assert_close(table(parts.weights), table(whole.weights), rtol=0, atol=bound)


def test_many_epochs_of_the_lesson_follow_their_closed_form() -> None:
    """w after e epochs is 2 − 0.739312ᵉ; 3 roundings of 2 over 1 − 0.82, as for the loop, twice."""
    lesson = load("lesson")
    model = Linear(dtype=F64)
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
    assert all(same_bits(a.weights[name], b.weights[name].float()) for name in a.weights)
    assert same_bits(a.loss, b.loss.float())


def test_divergence_ends_where_the_loops_does() -> None:
    a, b = both(Linear, Batches(load("lesson").x, load("lesson").y), 1.0, 200)
    assert a.stopped == b.stopped == "diverged"


def test_a_constant_part_of_the_prediction_is_kept() -> None:
    """ŷ = w·x + 3, which is 3 at w = 0: that is no parameter's."""

    class Lifted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 3

    a, b = both(Lifted, Batches(*data(20), 2), 0.1, 2)
    torch.testing.assert_close(b.weights["w"], a.weights["w"], rtol=0, atol=1000 * EPS)
    torch.testing.assert_close(b.loss, a.loss, rtol=0, atol=1000 * EPS)


def test_a_list_and_a_dataloader_do_as_well() -> None:
    x, y = data(20)
    expected = affine_trajectory(Linear(dtype=F64), Batches(x, y, 3), 0.1, 2)
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    for batches in (list(Batches(x, y, 3)), loader):
        t = affine_trajectory(Linear(dtype=F64), batches, 0.1, 2)
        torch.testing.assert_close(t.weights["w"], expected.weights["w"], rtol=0, atol=100 * EPS)


X = torch.ones(3, dtype=F64)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (Exponential(dtype=F64), [(X, X)], "Exponential is not linear in its parameters: its steps "
         "are no affine maps; take the update manual or autograd"),
        (Linear(dtype=F64), [(X, X), (X[:1], X[:1]), (X, X)], "batches of 1 to 3 samples: give "
         "all the same number, and the last one at most that"),
        (Linear(dtype=F64), [(X[:1], X[:1]), (X, X)], "batches of 1 to 3 samples: give "
         "all the same number, and the last one at most that"),
        (Linear(), [(X, X)], "parameter 'w' is torch.float32 and the loss torch.float64: make "),
        (Linear(dtype=F64), [], "batches is empty: give at least one"),
    ],
)  # fmt: skip
def test_what_it_refuses(model: Model, batches: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        affine_trajectory(model, batches, 0.1, 1)


@pytest.mark.parametrize(
    ("lr", "options", "message"),
    [
        (math.nan, {}, "lr is nan: it must be finite; give a number"),
        (-1.0, {}, "Invalid learning rate: -1.0"),
        (0.1, {"momentum": -0.5}, "Invalid momentum value: -0.5"),
        (0.1, {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        (0.1, {"weight_decay": math.inf}, "weight_decay is inf: it must be finite; give a number"),
    ],
)
def test_what_sgd_refuses_is_refused(lr: float, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        affine_trajectory(Linear(dtype=F64), Batches(X, X), lr, 1, **options)


def test_any_other_option_is_refused() -> None:
    with pytest.raises(TypeError, match="betas"):
        affine_trajectory(Linear(dtype=F64), [(X, X)], 0.1, 1, betas=(0.9, 0.99))


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_is_within_the_same_bound() -> None:
    batches = Batches(*data(9000))
    plain = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, 1, record_every=1)
    fused = affine_trajectory(Quadratic(dtype=F64), batches, 0.01, 1, record_every=1, compiled=True)
    bound = 8 * 16 * 9000 * EPS * scale(Quadratic(), batches, table(plain.weights), 0.01)
    torch.testing.assert_close(table(fused.weights), table(plain.weights), rtol=0, atol=bound)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_device_is_within_the_same_bound(size: int, device: str) -> None:
    x, y = data(100_000)
    batches = Batches(x, y, size)
    lr = 1 / largest_stable_learning_rate(torch.ones(1, 1, 1, dtype=F64)) / 100
    a = affine_trajectory(Linear(dtype=F64), batches, lr, 1, record_every=1)
    there = Batches(x.to(device), y.to(device), size)
    b = affine_trajectory(Linear(device=device, dtype=F64), there, lr, 1, record_every=1)
    bound = 8 * 4 * len(a.loss) * EPS * scale(Linear(), [(x, y)], table(a.weights), lr)
    assert (a.weights["w"] - b.weights["w"]).abs().max().item() <= bound
