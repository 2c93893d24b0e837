"""Several columns of x, and parameters of any shape: bits, closed forms, units and names."""

import math
from typing import Any

import pytest
import torch
from helpers import AUTOGRAD, MANUAL, same_bits, same_trajectory, same_values
from torch import Tensor, nn

from torchgd import (
    Batches,
    Linear,
    Model,
    Trajectory,
    affine_trajectory,
    autograd_gradient,
    compare,
    compiled_trajectory,
    manual_gradient,
    train,
)
from torchgd.compiled import numba_is_there
from torchgd.data import Standardization
from torchgd.entries import entries, names_of, set_weights, weights_of
from torchgd.experiment.parallel import in_chunks
from torchgd.theory.landscape import Landscape
from torchgd.training import Update
from torchgd.trajectory import by_parameter

F64 = torch.float64


class Bilinear(Model):
    """ŷ = Σ Wᵢⱼ·uᵢ·vⱼ + c with u = (1, x₀) and v = (1, x₁, x₁²), so that W is (2, 3)."""

    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.arange(6, device=device, dtype=dtype).view(2, 3) / 5)
        self.c = nn.Parameter(torch.tensor([0.5], device=device, dtype=dtype))

    def products(self, x: Tensor) -> Tensor:
        one = torch.ones_like(x[:, 0])
        u, v = torch.stack([one, x[:, 0]], 1), torch.stack([one, x[:, 1], x[:, 1] ** 2], 1)
        return u[:, :, None] * v[:, None, :]

    def forward(self, x: Tensor) -> Tensor:
        return self.products(x).flatten(1) @ self.W.flatten() + self.c

    def partials(self, x: Tensor) -> dict[str, Tensor | float]:
        return {"W": self.products(x), "c": 1}


def draw(seed: int, most: int = 120) -> tuple[Batches, dict[str, Any], dict[str, Any]]:
    """Batches of 1 to 9 columns, laid out in memory in some way, a model's and SGD's options."""
    g = torch.Generator().manual_seed(seed)

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (), generator=g))]

    features, count = 1 + seed % 9, int(torch.randint(1, most, (), generator=g))
    dtype = pick(F64, torch.float32)
    x = torch.randn(count, 2 * features, generator=g, dtype=dtype)
    x = pick(lambda x: x[:, :features], lambda x: x[:, ::2], lambda x: x.T.contiguous().T[:, 1::2],
             lambda x: x[:, :features].contiguous())(x)  # fmt: skip
    y = torch.randn(count, generator=g, dtype=dtype)
    batches = Batches(x[:, 0] if features == 1 else x, y, pick(1, count, min(count, 7)))
    options = pick({}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True},
                   {"weight_decay": 0.1, "maximize": True})  # fmt: skip
    return batches, {"features": features, "bias": pick(True, False), "dtype": dtype}, options


def descended(
    batches: Batches, made: dict[str, Any], options: dict[str, Any], update: Update, epochs: int = 2
) -> Trajectory:
    model, (gradient, optimizer) = Linear(**made), update
    return train(
        model, batches, optimizer(model.parameters(), lr=0.01, **options), gradient, epochs
    )


@pytest.mark.parametrize("seeds", [range(k, k + 50) for k in range(0, 200, 50)], ids=str)
def test_by_hand_and_by_autograd_have_the_same_bits(seeds: range) -> None:
    for seed in seeds:
        drawn = draw(seed)
        assert same_trajectory(descended(*drawn, MANUAL), descended(*drawn, AUTOGRAD)), seed


def test_of_one_column_it_is_the_lessons_model() -> None:
    assert [(n, w.shape) for n, w in Linear(features=1).named_parameters()] == [("w", ())]
    several = Linear(2.5, bias=True, features=3)
    assert several.w.tolist() == [2.5, 2.5, 2.5]
    assert several.b is not None
    assert several.b.shape == ()
    for features in (0, 1.0, True):
        with pytest.raises(
            ValueError, match=f"^features {features}: give an integer of at least 1"
        ):
            Linear(features=features)  # type: ignore[arg-type]


# w_k − w* = (I − αH)ᵏ(w₀ − w*), with H and w* by NumPy's own least squares.
def test_the_full_batch_is_the_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 4, generator=g, dtype=F64), torch.randn(40, generator=g, dtype=F64)
    model = Linear(bias=True, features=4, dtype=F64)
    start, phi = weights_of(model), torch.cat([x, torch.ones(40, 1, dtype=F64)], dim=1)
    path = train(model, Batches(x, y, 40), MANUAL[1](model.parameters(), lr=0.1), epochs=30)
    best = torch.linalg.lstsq(phi, y[:, None]).solution[:, 0]
    step = torch.eye(5, dtype=F64) - 0.1 * 2 / 40 * phi.T @ phi
    expected = torch.stack(
        [best + torch.linalg.matrix_power(step, k) @ (start - best) for k in range(31)]
    )
    torch.testing.assert_close(path.weights_at(slice(None)), expected, rtol=1e-13, atol=1e-14)
    expected = 2 / 40 * (expected[:-1] @ phi.T - y) @ phi
    torch.testing.assert_close(path.gradients["w"], expected[:, :4], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(path.gradients["b"], expected[:, 4], rtol=1e-12, atol=1e-14)


def test_a_matrix_is_trained_and_recorded_entry_by_entry() -> None:
    g = torch.Generator().manual_seed(1)
    batches = Batches(torch.randn(30, 2, generator=g, dtype=F64), torch.randn(30, dtype=F64), 4)
    a, b = Bilinear(dtype=F64), Bilinear(dtype=F64)
    p = train(a, batches, MANUAL[1](a.parameters(), lr=0.01), manual_gradient, 3)
    q = train(b, batches, AUTOGRAD[1](b.parameters(), lr=0.01), autograd_gradient, 3)
    assert p.names == names_of(a)
    assert p.names == ("W[0][0]", "W[0][1]", "W[0][2]", "W[1][0]", "W[1][1]", "W[1][2]", "c[0]")
    assert p.weights["W"].shape == (25, 2, 3)
    assert p.gradients["W"].shape == (24, 2, 3)
    assert p.weights["c"].shape == (25, 1)
    assert torch.equal(p.weights["W"][-1], a.W)
    assert same_bits(p.table[:, 5], p.weights["W"][:, 1, 1])
    assert compare(p, q).max_abs < 1e-14
    assert [f.weights["W"].shape for f in (p[3:5], Trajectory.join([p[:2], p[2:]]))] == [
        (2, 2, 3), (24, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (1, 1, 2)])
def test_names_of_entries_tell_the_shape(shape: tuple[int, ...]) -> None:
    names = ["a", *entries("w", shape), *entries("z", (2,))]
    table = torch.arange(2 * len(names)).view(2, -1)
    found = by_parameter(names, table)
    assert list(found) == ["a", "w", "z"]
    assert found["w"].shape == (2, *shape)
    assert torch.equal(found["w"].reshape(2, -1), table[:, 1:-2])


@pytest.mark.parametrize("seed", range(0, 90, 7))
def test_affine_and_compiled_stay_within_their_bounds(seed: int) -> None:
    """8(P + 1)²·k·ε·R and (P + B + 3)·k·ε·R, at a rate that enlarges no error."""
    batches, made, _ = draw(seed, most=60)
    model, p = Linear(**made), sum(w.numel() for w in Linear(**made).parameters())
    ones = [torch.ones_like(batches.y)[:, None]] if made["bias"] else []
    phi = torch.cat([batches.x.reshape(len(batches.y), -1), *ones], dim=1)
    steepest = phi.square().sum(dim=1).max().item()  # λ of a batch is at most twice that
    lr, start = 0.5 / steepest, weights_of(model)
    path = train(model, batches, MANUAL[1](model.parameters(), lr=lr), epochs=5)
    steps, eps = len(path.step) - 1, torch.finfo(made["dtype"]).eps
    w, y = path.weights_at(slice(None)).norm(dim=1).max().item(), batches.y.abs().max().item()
    R = w + 2 * lr * math.sqrt(steepest) * y
    affine = affine_trajectory(Linear(**made), batches, lr, 5)
    assert compare(path, affine).max_abs <= 8 * (p + 1) ** 2 * steps * eps * R
    if numba_is_there():
        R = w + 2 * lr * phi.abs().max().item() * (y + w * phi.abs().sum(dim=1).max().item())
        again = Linear(**made)
        assert torch.equal(weights_of(again), start)
        compiled = compiled_trajectory(again, batches, lr, 5)
        bound = (p + batches.batch_size + 3) * steps * eps * R
        assert compare(path, compiled).max_abs <= bound
        assert torch.equal(weights_of(again), compiled.weights_at(-1))


def test_the_compiled_loop_leaves_the_optimizers_velocities_in_their_shapes() -> None:
    pytest.importorskip("numba")
    from torchgd.compiled import descend_compiled

    batches = Batches(torch.randn(9, 3, dtype=F64), torch.randn(9, dtype=F64))
    model = Linear(bias=True, features=3, dtype=F64)
    optimizer = MANUAL[1](model.parameters(), lr=0.01, momentum=0.9)
    for _ in descend_compiled(model, batches, optimizer, 2, 1):
        shapes = [optimizer.state[w]["momentum_buffer"].shape for w in model.parameters()]
        assert shapes == [(3,), ()]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_chunks_have_the_same_bits_by_hand_and_by_autograd(rows: int) -> None:
    x, y = torch.randn(17, 3, dtype=F64), torch.randn(17, dtype=F64)
    found = []
    for gradient, _ in (MANUAL, AUTOGRAD):
        model = Linear(bias=True, features=3, dtype=F64)
        loss = in_chunks(gradient, rows)(model, x, y)
        found.append(torch.cat([loss[None], *(w.grad.reshape(-1) for w in model.parameters())]))  # type: ignore[union-attr]
    assert same_values(*found)
    phi = torch.cat([x, torch.ones(17, 1, dtype=F64)], dim=1)
    r = x.sum(dim=1) - y
    expected = torch.cat([r.square().mean()[None], 2 / 17 * phi.T @ r])
    torch.testing.assert_close(found[0], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("bias", [False, True])
def test_each_column_is_standardised_and_mapped_back(bias: bool) -> None:
    x = torch.randn(50, 3, dtype=F64) * torch.tensor([1.0, 1e3, 1e-3]) + 5
    z = Standardization.of(x, center=bias)
    moments = z(x).square().mean(dim=0), z(x).mean(dim=0)
    torch.testing.assert_close(moments[0], torch.ones(3, dtype=F64))
    if bias:
        torch.testing.assert_close(moments[1], torch.zeros(3, dtype=F64), rtol=0, atol=1e-9)
    for j in range(3):  # as one column alone
        alone = Standardization.of(x[:, j], center=bias)
        assert math.isclose(z.deviation[j], alone.deviation, rel_tol=1e-14)  # type: ignore[index,arg-type]
    model, own = (Linear(bias=bias, features=3, dtype=F64) for _ in range(2))
    set_weights(model, torch.randn(3 + bias, dtype=F64))
    mapped = model.in_original_units(z.mean, z.deviation)
    set_weights(own, torch.tensor([*mapped["w"], *([mapped["b"]] if bias else [])], dtype=F64))
    torch.testing.assert_close(own(x), model(z(x)))


def test_what_is_no_table_is_refused_by_its_place() -> None:
    x, y = torch.ones(3, 2, dtype=F64), torch.ones(3, dtype=F64)
    x[1, 1] = math.nan
    with pytest.raises(ValueError, match=r"^x\[1\]\[1\] is nan: remove the sample"):
        Batches(x, y)
    with pytest.raises(
        ValueError, match="^the deviation of column 0 of x, counted from 0, is 0: stand"
    ):
        Standardization.of(torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    for shape in ((3, 2, 1), (2, 3), (3, 0)):
        with pytest.raises(ValueError, match="give x as "):
            Batches(torch.ones(shape), torch.ones(3))


def test_the_landscape_of_a_plane() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(20, 2, generator=g, dtype=F64)
    found = Landscape(
        Linear(bias=True, features=2), Batches(x, x @ torch.tensor([2.0, -1]).double() + 3, 6)
    )
    torch.testing.assert_close(found.minimiser, torch.tensor([2.0, -1, 3], dtype=F64))
    phi = torch.cat([x, torch.ones(20, 1, dtype=F64)], dim=1)
    torch.testing.assert_close(found.hessian, 2 / 20 * phi.T @ phi)
    assert found.names == ("w[0]", "w[1]", "b")
    torch.testing.assert_close(found.predict(found.minimiser, x), x @ found.minimiser[:2] + 3)


class Fixed(Model):
    """ŷ = w₀ + 2w₁, whatever x is: ∂ŷ/∂w is one row for all samples."""

    def __init__(self, row: Any) -> None:
        super().__init__()
        self.w, self.row = nn.Parameter(torch.ones(2, dtype=F64)), row

    def forward(self, x: Tensor) -> Tensor:
        return (self.w[0] + 2 * self.w[1]).expand(len(x))

    def partials(self, x: Tensor) -> dict[str, Tensor | float]:
        row = torch.tensor([1.0, 2.0], dtype=F64)
        return {"w": row if self.row else row.repeat(len(x), 1)}


def test_a_constant_may_have_the_parameters_shape() -> None:
    x, y = torch.arange(5, dtype=F64), torch.randn(5, dtype=F64)
    found = []
    for gradient, row in (
        (manual_gradient, True),
        (manual_gradient, False),
        (autograd_gradient, False),
    ):
        model = Fixed(row)
        gradient(model, x, y)
        assert model.w.grad is not None
        found.append(model.w.grad)
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_a_small_column_beside_a_large_one_is_standardised() -> None:
    x = torch.randn(20, 2, dtype=F64) * torch.tensor([1e9, 1e-9])
    torch.testing.assert_close(
        Standardization.of(x)(x).square().mean(dim=0), torch.ones(2).double()
    )
