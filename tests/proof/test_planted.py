"""What `planted` plants is seen by `check_backward`, and `survivors` says what a test misses."""

from typing import Any

import pytest
import torch
from backwards import (
    INDEX,
    B,
    W,
    X,
    entropy_backward,
    entropy_forward,
    made,
    norm_backward,
    product_backward,
    random,
    rows_backward,
    saves,
)
from backwards import norm_forward as forward
from torch import Tensor, nn

from torchgd import check_backward, planted, survivors
from torchgd.proof.planted import plants

LAYER_NORM = made(forward, norm_backward())


def test_each_fault_is_seen() -> None:
    for name, function in planted(made(saves(torch.matmul), product_backward())):
        assert not check_backward(function, random(2, 3), random(3, 2)), name


def compare(function: Any) -> Any:
    """A test as it should be: random cotangents, of another layout, of two calls, in float64."""
    for _ in range(2):
        x, w, b = random(8, 2).mT.requires_grad_(), random(8), random(8)
        w.requires_grad_()
        b.requires_grad_()
        v = random(8, 2).mT
        expected = torch.autograd.grad(nn.functional.layer_norm(x, (8,), w, b), (x, w, b), v)
        found = torch.autograd.grad(function(x, w, b), (x, w, b), v)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def sum_alone(function: Any) -> bool:
    """A test as many are: of a sum, in float32, within 0.5, of the first gradient alone."""
    x, w, b = X.float().requires_grad_(), W.float(), B.float()
    (expected,) = torch.autograd.grad(nn.functional.layer_norm(x, (8,), w, b).sum(), x)
    function(x, w, b).sum().backward()
    return torch.allclose(x.grad, expected, atol=0.5)  # type: ignore[arg-type]


def gradcheck(function: Any) -> None:
    torch.autograd.gradcheck(function, [t.clone().requires_grad_() for t in (X[0], W, B)])


def test_what_a_test_lets_pass() -> None:
    assert survivors(LAYER_NORM, compare) == []
    assert survivors(LAYER_NORM, gradcheck) == [
        "grad_output read as contiguous", "float32 inside", "a stale saved tensor",
    ]  # fmt: skip
    assert set(plants()) - set(survivors(LAYER_NORM, sum_alone)) == {
        "a factor 2", "the sign", "the first gradient zero", "the last gradient zero",
        "two gradients swapped", "a mean for a sum",
    }  # fmt: skip


def test_a_fault_in_a_module() -> None:
    """Whose parameters are the copy's own, and have the faulty gradients."""
    module = nn.Linear(3, 2).double()
    found = dict(planted(module))
    for name in ("the last gradient zero", "a stale saved tensor"):
        faulty: Any = found[name]
        assert isinstance(faulty, nn.Linear)
        assert faulty.weight is not module.weight
        assert not check_backward(faulty, random(4, 3)), name


def test_integers_and_several_outputs_go_through() -> None:
    entropy = dict(planted(made(entropy_forward, entropy_backward())))
    rows = dict(planted(made(saves(lambda t, i: t[i]), rows_backward())))
    ordered = dict(planted(lambda x: x.sort()))
    targets = torch.tensor([0, 2, 1])
    for name in ("the sign", "a mean for a sum"):
        assert not check_backward(entropy[name], random(3, 4), targets), name
        assert not check_backward(rows[name], random(4, 3), INDEX), name
        assert not check_backward(ordered[name], random(5)), name
    # There is nothing to read wrongly in one number.
    assert check_backward(entropy["grad_output read as contiguous"], random(3, 4), targets)


def test_what_cannot_be_planted() -> None:
    with pytest.raises(TypeError, match=r"^the function is 5: give a callable"):
        next(planted(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^the test fails with the function itself: give one"):
        survivors(torch.sin, lambda sine: False)
    with pytest.raises(KeyboardInterrupt):
        survivors(torch.sin, interrupted)
    assert survivors(torch.sin, failing_once()) == []


def interrupted(sine: Any) -> Tensor:
    raise KeyboardInterrupt


def failing_once() -> Any:
    """Passes the function itself, and ends in pytest's own failure else."""

    def test(sine: Any) -> None:
        if sine is not torch.sin:
            pytest.fail("as it should")

    return test
