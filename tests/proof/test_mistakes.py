"""Each mistake is what it says it is."""

from typing import Any

import numpy as np
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
    return descend(MISTAKES[name].wrong(lr, 4), lr, *data)


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


def test_the_mean_of_a_scalar_is_the_sum_beside_the_right_loss() -> None:
    """What numpy.dot(…).mean() comes to."""
    wrong, total = mistaken("mean-of-a-scalar", 0.001), mistaken("sum", 0.001)
    assert same_weights(wrong, total)
    assert same_bits(4 * wrong.loss, total.loss)
    residual = wrong.weights["w2"][0] * X**2 + wrong.weights["w1"][0] * X - Y
    by_numpy = np.dot(2 * X.numpy(), residual.numpy()).mean()
    assert wrong.gradients["w1"][0].item() == pytest.approx(by_numpy, rel=1e-14)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_broadcast_is_what_torch_makes_of_such_shapes() -> None:
    """And, with the mean of y in the place of y, the right gradient: so it leads there."""
    wrong = mistaken("broadcast", 0.01)
    other = Quadratic(dtype=F64)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    for step in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(other(X)[:, None], Y)
        assert wrong.loss[step].item() == pytest.approx(loss.item(), rel=1e-13)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, w in other.named_parameters():
        assert wrong.weights[name][-1].item() == pytest.approx(w.item(), rel=1e-12)
    model = Quadratic(dtype=F64)
    mean = Batches(X, Y.mean().expand(4), 4)
    t = train(model, mean, ManualSGD(model.parameters(), lr=0.01), manual_gradient, 20)
    for name, path in t.weights.items():
        torch.testing.assert_close(wrong.weights[name], path, rtol=1e-12, atol=0)


def test_stale_gradients_are_those_of_the_step_before() -> None:
    """w ← w − α·g(the w before): on x = 1 the error follows eₖ₊₁ = eₖ − 2α·eₖ₋₁.

    Its roots z² − z + 2α = 0 are within the unit circle for 2α < 1, plain descent's 1 − 2α for
    2α < 2: half the rate.
    """

    def errors(lr: float) -> list[float]:
        model = Linear(dtype=F64)
        gradient, optimizer = MISTAKES["stale-grad"].wrong(lr, 1)
        one = Batches(torch.ones(1, dtype=F64), torch.full((1,), 2.0, dtype=F64))
        made = optimizer(model.parameters(), lr=lr)
        return (train(model, one, made, gradient, 200).weights["w"] - 2).tolist()

    found = errors(0.25)
    assert found[:2] == [-1.0, -1.0]
    for k in range(1, 200):
        assert found[k + 1] == pytest.approx(found[k] - 0.5 * found[k - 1], abs=1e-15)
    assert abs(errors(0.49)[-1]) < 0.2
    assert abs(errors(0.51)[-1]) > 5
    assert abs(right(0.01).weights["w1"][1] - 1) > 0


def test_double_backward_takes_every_gradient_of_an_even_batch_twice() -> None:
    """Written out in Python's floats, one sample a step."""
    t = mistaken("double-backward", 0.01, X, 1)
    w2, w1, b = 1.0, 1.0, 0.0
    before: tuple[float, ...] = (0.0, 0.0, 0.0)
    for step in range(80):
        x, second = X[step % 4].item(), step % 2 == 1
        d = 2 * (x**2 * w2 + x * w1 + b - 2 * x)
        fresh = (d * x**2, d * x, d)
        g = tuple(f + second * p for f, p in zip(fresh, before, strict=True))
        w2, w1, b = (w - 0.01 * u for w, u in zip((w2, w1, b), g, strict=True))
        before = g
        assert t.weights["w2"][step + 1].item() == pytest.approx(w2, rel=1e-10, abs=1e-12)


def test_the_last_batchs_loss_beside_the_epochs() -> None:
    """Same weights; at each epoch's end the mean of four losses, and the last of them."""
    update = MISTAKES["last-batch-loss"]
    epochs, last = (descend(u(0.01, 4), 0.01, X, 1) for u in (update.right, update.wrong))
    assert same_weights(epochs, last)
    each = last.loss.reshape(20, 4)
    torch.testing.assert_close(epochs.loss[3::4], each.mean(dim=1), rtol=1e-14, atol=0)
    running = each.cumsum(dim=1) / torch.arange(1, 5)
    torch.testing.assert_close(epochs.loss, running.flatten(), rtol=1e-14, atol=0)


def test_the_sign_reversed_is_ascent() -> None:
    """On one sample x = 1, y = 2 the error w − 2 grows by 1 + 2α a step."""
    model = Linear(dtype=F64)
    gradient, optimizer = MISTAKES["sign"].wrong(0.01, 1)
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
    gradient, optimizer = MISTAKES[name].wrong(0.01, 1)
    made, x, y = optimizer(model.parameters(), lr=0.01), X.to(device), Y.to(device)
    gradient(model, x, y)
    with no_waits(device):
        for _ in range(3):
            gradient(model, x, y)
            made.step()
