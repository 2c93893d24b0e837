"""Each mistake is what it says it is."""

from typing import Any

import pytest
import torch
from helpers import MODELS, no_waits, same_bits
from torch import Tensor

from torchgd import Batches, Linear, ManualSGD, Quadratic, Trajectory, manual_gradient, train
from torchgd.proof.mistakes import MISTAKES
from torchgd.training import Update

F64 = torch.float64
X = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=F64)
Y = 2 * X


def descend(
    update: Update, lr: float, x: Tensor = X, batch_size: int = 4, **options: float
) -> Trajectory:
    model, (gradient, make) = Quadratic(dtype=F64), update
    optimizer = make(model.parameters(), lr=lr, **options)
    return train(model, Batches(x, 2 * x, batch_size), optimizer, gradient, 20)


def mistaken(name: str, lr: float, *data: Any) -> Trajectory:
    return descend(MISTAKES[name][1](lr), lr, *data)


def right(lr: float, *data: Any, **options: Any) -> Trajectory:
    return descend((manual_gradient, ManualSGD), lr, *data, **options)


def same_weights(a: Trajectory, b: Trajectory) -> bool:
    return all(same_bits(a.weights[name], b.weights[name]) for name in a.weights)


def test_each_is_the_right_descent_by_other_options() -> None:
    """N = 4 is a power of 2, by which multiplying is exact."""
    no_zero_grad, half = mistaken("no-zero-grad", 0.01), mistaken("half", 0.01)
    assert same_weights(no_zero_grad, right(0.01, momentum=1.0))
    assert not same_weights(no_zero_grad, right(0.01))
    assert same_weights(half, right(0.005))
    assert same_bits(half.loss[:1] * 2, right(0.01).loss[:1])
    total = mistaken("sum", 0.001)
    assert same_weights(total, right(0.004))
    assert same_bits(total.loss[:1], 4 * right(0.001).loss[:1])
    assert same_weights(mistaken("sum", 0.01, X, 1), right(0.01, X, 1))


def test_the_sign_reversed_is_ascent() -> None:
    """On one sample x = 1, y = 2 the error w − 2 grows by 1 + 2α a step."""
    model = Linear(dtype=F64)
    gradient, optimizer = MISTAKES["sign"][1](0.01)
    one = Batches(torch.ones(1, dtype=F64), torch.full((1,), 2.0, dtype=F64))
    t = train(model, one, optimizer(model.parameters(), lr=0.01), gradient, 20)
    closed = 2 - 1.02 ** torch.arange(21, dtype=F64)
    torch.testing.assert_close(t.weights["w"], closed, rtol=1e-14, atol=0)
    assert (t.loss.diff() > 0).all()


def test_sequential_takes_each_derivative_after_the_update_before() -> None:
    """w2, then w1 with the new w2, then b with both: written out in Python's floats."""
    t = mistaken("sequential", 0.01, X[:1] + 1, 1)
    w, x, y = {"w2": 1.0, "w1": 1.0, "b": 0.0}, 2.0, 4.0
    for row in range(1, len(t.step)):
        for name, partial in (("w2", x**2), ("w1", x), ("b", 1.0)):
            w[name] -= 0.01 * 2 * partial * (x**2 * w["w2"] + x * w["w1"] + w["b"] - y)
        for name, value in w.items():
            assert t.weights[name][row].item() == pytest.approx(value, rel=1e-13)
    assert not same_weights(t, right(0.01, X[:1] + 1, 1))


def test_two_roundings_are_those_of_pythons_floats() -> None:
    """Python has no fused multiply-add: w − α·g there rounds twice."""
    t, fused = mistaken("two-roundings", 0.01), right(0.01)
    for name, w in t.weights.items():
        steps = zip(w.tolist(), t.gradients[name].tolist(), strict=False)
        assert [a - 0.01 * g for a, g in steps] == w[1:].tolist()
    assert not same_weights(t, fused)
    assert all((t.weights[n] - fused.weights[n]).abs().max() < 1e-15 for n in t.weights)


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_no_mistake_waits_for_the_device(name: str, make: type[Linear], device: str) -> None:
    model = make(device=device, dtype=F64)
    gradient, optimizer = MISTAKES[name][1](0.01)
    made, x, y = optimizer(model.parameters(), lr=0.01), X.to(device), Y.to(device)
    gradient(model, x, y)
    with no_waits(device):
        for _ in range(3):
            gradient(model, x, y)
            made.step()
