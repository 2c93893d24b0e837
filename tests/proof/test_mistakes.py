"""Each mistake is what it says it is."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import MODELS, no_waits, same_bits
from torch import Tensor

from torchgd import Batches, Linear, ManualSGD, Quadratic, Trajectory, manual_gradient, train
from torchgd.proof.mistakes import MISTAKES, WAYS

F64 = torch.float64
X = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=F64)
Y = 2 * X
ONE = torch.ones(1, dtype=F64)


def descend(
    name: str, lr: float, x: Tensor = X, batch_size: int = 4, make: Any = Quadratic, **options: Any
) -> Trajectory:
    """Twenty epochs on y = 2x by the update of that name."""
    way = WAYS.get(name, lambda lr, batches: (manual_gradient, ManualSGD))
    gradient, optimizer = way(lr, len(x) // batch_size)
    model = make(dtype=F64)
    made = optimizer(model.parameters(), lr=lr, **options)
    return train(model, Batches(x, 2 * x, batch_size), made, gradient, 20)


def same_weights(a: Trajectory, b: Trajectory) -> bool:
    return all(same_bits(a.weights[name], b.weights[name]) for name in a.weights)


def test_each_is_held_against_a_way_that_there_is() -> None:
    assert {mistake.right for mistake in MISTAKES.values()} == {"manual", "epoch-loss"}
    assert list(WAYS) == [*MISTAKES, "epoch-loss"]


@pytest.mark.parametrize(("name", "lr", "size", "loss", "other"), [
    ("no-zero-grad", 0.01, 4, 1, {"lr": 0.01, "momentum": 1.0}),
    ("half", 0.01, 4, 0.5, {"lr": 0.005}),
    ("sum", 0.001, 4, 4, {"lr": 0.004}),
    ("sum", 0.01, 1, 1, {"lr": 0.01}),
    ("mean-of-a-scalar", 0.001, 4, 1, {"lr": 0.004}),
    ("sign", 0.01, 4, 1, {"lr": 0.01, "maximize": True}),
])  # fmt: skip
def test_it_is_the_right_descent_by_other_options(
    name: str, lr: float, size: int, loss: float, other: dict[str, Any]
) -> None:
    """To the bit, for N = 4 is a power of 2; the loss is so many times the right one."""
    wrong, right = descend(name, lr, X, size), descend("manual", batch_size=size, **other)
    assert same_weights(wrong, right)
    assert same_bits(wrong.loss, loss * right.loss)
    assert same_weights(wrong, descend("manual", lr, X, size)) is (size == 1)


def test_the_mean_of_a_scalar_is_numpys() -> None:
    """What numpy.dot(…).mean() comes to."""
    wrong = descend("mean-of-a-scalar", 0.001)
    residual = wrong.weights["w2"][0] * X**2 + wrong.weights["w1"][0] * X - Y
    by_numpy = np.dot(2 * X.numpy(), residual.numpy()).mean()
    assert wrong.gradients["w1"][0].item() == pytest.approx(by_numpy, rel=1e-14)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_broadcast_is_what_torch_makes_of_such_shapes() -> None:
    wrong = descend("broadcast", 0.01)
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


@pytest.mark.parametrize(("lr", "grows"), [(0.25, False), (0.49, False), (0.51, True)])
def test_stale_gradients_are_those_of_the_step_before(lr: float, grows: bool) -> None:
    """w ← w − α·g(the w before): on x = 1 the error follows eₖ₊₁ = eₖ − 2α·eₖ₋₁.

    Its roots z² − z + 2α = 0 are within the unit circle for 2α < 1, plain descent's 1 − 2α for
    2α < 2: half the rate.
    """
    model, batches = Linear(dtype=F64), Batches(ONE, 2 * ONE)
    gradient, optimizer = WAYS["stale-grad"](lr, 1)
    t = train(model, batches, optimizer(model.parameters(), lr=lr), gradient, 200)
    errors = (t.weights["w"] - 2).tolist()
    assert errors[:2] == [-1.0, -1.0]
    for before, error, after in zip(errors, errors[1:], errors[2:], strict=False):
        assert after == pytest.approx(error - 2 * lr * before, rel=1e-12, abs=1e-15)
    assert abs(errors[-1]) > 5 if grows else abs(errors[-1]) < 0.2


def test_double_backward_takes_every_gradient_of_an_even_batch_twice() -> None:
    """Written out in Python's floats, one sample a step."""
    t = descend("double-backward", 0.01, X, 1)
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
    """Same weights; after each batch of an epoch the mean of its losses so far, or the last."""
    epochs, last = (descend(name, 0.01, X, 1) for name in ("epoch-loss", "last-batch-loss"))
    assert same_weights(epochs, last)
    running = last.loss.reshape(20, 4).cumsum(dim=1) / torch.arange(1, 5)
    torch.testing.assert_close(epochs.loss, running.flatten(), rtol=1e-14, atol=0)


def test_the_sign_reversed_climbs() -> None:
    """On one sample x = 1, y = 2 the error w − 2 grows by 1 + 2α a step."""
    t = descend("sign", 0.01, ONE, 1, Linear)
    closed = 2 - 1.02 ** torch.arange(21, dtype=F64)
    torch.testing.assert_close(t.weights["w"], closed, rtol=1e-14, atol=0)
    assert (t.loss.diff() > 0).all()


def test_sequential_takes_each_derivative_after_the_update_before() -> None:
    """w2, then w1 with the new w2, then b with both: written out in Python's floats."""
    t = descend("sequential", 0.01, 2 * ONE, 1)
    w, x, y = {"w2": 1.0, "w1": 1.0, "b": 0.0}, 2.0, 4.0
    for row in range(1, len(t.step)):
        for name, partial in (("w2", x**2), ("w1", x), ("b", 1.0)):
            w[name] -= 0.01 * 2 * partial * (x**2 * w["w2"] + x * w["w1"] + w["b"] - y)
        for name, value in w.items():
            assert t.weights[name][row].item() == pytest.approx(value, rel=1e-13)
    assert not same_weights(t, descend("manual", 0.01, 2 * ONE, 1))


def test_two_roundings_are_those_of_pythons_floats() -> None:
    """Python has no fused multiply-add: w − α·g there rounds twice."""
    t, fused = descend("two-roundings", 0.01), descend("manual", 0.01)
    for name, w in t.weights.items():
        steps = zip(w.tolist(), t.gradients[name].tolist(), strict=False)
        assert [a - 0.01 * g for a, g in steps] == w[1:].tolist()
    assert not same_weights(t, fused)
    assert all((t.weights[n] - fused.weights[n]).abs().max() < 1e-15 for n in t.weights)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_none_waits_for_the_device(name: str, make: type[Linear], device: str) -> None:
    model = make(device=device, dtype=F64)
    gradient, optimizer = WAYS[name](0.01, 1)
    made, x, y = optimizer(model.parameters(), lr=0.01), X.to(device), Y.to(device)
    gradient(model, x, y)
    with no_waits(device):
        for _ in range(3):
            gradient(model, x, y)
            made.step()
