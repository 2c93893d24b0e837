"""`check_backward` calls no right backward pass wrong, and passes no wrong one over."""

import time
from typing import Any

import pytest
import torch
from backwards import CASES, B, Case, W, X, made, norm_backward, norm_forward, random, saves
from torch import Tensor, nn

from torchgd import check_backward


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sixty_backward_passes(case: Case) -> None:
    start = time.process_time()
    check = check_backward(case.function, *case.inputs, **case.options)
    assert time.process_time() - start < 10
    assert bool(check) is (case.fault is None), check
    if case.fault is not None:
        assert any(case.fault in fault for fault in check.faults.values()), check


def test_half_of_them_are_right() -> None:
    assert len(CASES) == 60
    assert sum(case.fault is None for case in CASES) == 30


LAYER_NORM = made(norm_forward, norm_backward())


def layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, (8,), w, b)


def test_the_report() -> None:
    """A row per input and a column per oracle, what is wrong, and a line for each no."""
    wrong = made(norm_forward, norm_backward(bias=lambda g: 5 * g))
    check = check_backward(wrong, X, W, B, reference=layer_norm)
    table = str(check).splitlines()
    assert table[0].split() == [
        "differences", "reference", "rules", "float32", "bfloat16", "float16",
    ]  # fmt: skip
    assert [line.partition("  ")[0] for line in table[1:4]] == ["input 0", "input 1", "input 2"]
    assert [line.count("yes") for line in table[1:4]] == [6, 6, 4]
    assert table[4] == "dinput 2: 5 times too large everywhere"
    assert table[5].startswith("dinput 2, differences: ⟨g, d⟩ is ")
    assert table[6].startswith("dinput 2, reference: an entry is ")
    assert table[6].endswith(" off the reference's, at the inputs")
    assert check.wrong == ["input 2"]
    bounds = [row.bound for row in check.rows if row.oracle == "float32"]
    assert all(bound is not None and 1e-7 < bound < 1e-4 for bound in bounds)


def test_a_reference_that_is_wrong_itself_is_not_believed() -> None:
    """It computes the same, and detaches a part."""

    def detached(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return layer_norm(x, w, b) + (w - w.detach())

    assert check_backward(LAYER_NORM, X, W, B, reference=detached)


def test_a_module_and_what_does_not_ask() -> None:
    """A module's parameters are inputs, but frozen ones, and the module stays as it is."""
    module = nn.BatchNorm1d(3)
    module.bias.requires_grad_(False)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    check = check_backward(module, torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    assert check, check
    assert {row.parameter for row in check.rows} == {"input", "weight"}
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_only_inputs_that_ask_are_looked_at() -> None:
    """Whose mask is -inf in places, and has no gradient."""
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    masked = made(
        lambda ctx, x, m: saves(lambda x, m: torch.softmax(x + m, -1), output=True)(ctx, x, m),
        lambda ctx, g: ((y := ctx.saved_tensors[0]) * (g - (g * y).sum(-1, keepdim=True)), None),
    )
    check = check_backward(masked, random(2, 2).requires_grad_(), mask)
    assert check, check
    assert {row.parameter for row in check.rows} == {"input 0"}


def test_a_domain() -> None:
    """Beside it the slope is another: that is no fault where nobody goes."""
    log = made(saves(torch.log), lambda ctx, g: g / ctx.saved_tensors[0].clamp(0.1, 2))
    x, inside = torch.tensor([0.5, 1.0]), {"input 0": (0.1, 2.0)}
    assert not check_backward(log, x)
    check = check_backward(log, x, domain=inside)
    assert check, check
    assert str(check).endswith("outside of the domain, input 0 in (0.1, 2).")


def test_a_gradient_of_another_shape_or_dtype_is_named() -> None:
    """torch sums the one and casts the other, without a word."""
    bias = made(lambda ctx, x, b: x + b, lambda ctx, g: (g, g))
    assert check_backward(bias, random(3, 2), random(2)).faults == {
        "input 1": "its gradient has shape (3, 2), and the input (2,)"
    }
    cast = made(saves(torch.sin), lambda ctx, g: (g * ctx.saved_tensors[0].cos()).float())
    check = check_backward(cast, random(3))
    assert "its gradient has dtype torch.float32, and the input torch.float64" in str(check)


def test_a_backward_that_fails() -> None:
    def fails(ctx: Any, g: Tensor) -> Tensor:
        raise KeyError("nothing there")

    check = check_backward(made(saves(torch.sin), fails), random(3))
    assert not check
    assert "dinput 0, differences: the backward pass fails at the inputs: KeyError" in str(check)


def test_a_graph_that_is_cut() -> None:
    check = check_backward(lambda x: x.detach().sin(), random(3))
    assert check.faults == {"x": "it is 0: no gradient gets there"}


def test_other_shapes_are_named() -> None:
    odd = made(saves(torch.square), lambda ctx, g: 2 * g * ctx.saved_tensors[0] * (len(g) % 2))
    check = check_backward(odd, random(3), shapes=[[(4,)]])
    assert check.faults == {"input 0": "it is 0: no gradient gets there"}
    assert str(check).endswith(" at random inputs of size 1, of shapes [(4,)]")


def test_on_any_device(device: str) -> None:
    assert check_backward(torch.square, random(2).to(device))


def test_large_tensors_cost_no_more_calls() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return x.sin()

    counts = []
    for size in (4, 40_000):
        calls.clear()
        assert check_backward(counted, random(size))
        counts.append(len(calls))
    assert counts[1] <= 1.2 * counts[0] < 1000


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as raised:
        check_backward(*arguments, **options)
    return f"{type(raised.value).__name__}: {raised.value}"


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()


def test_what_cannot_be_asked_about() -> None:
    x = torch.ones(2)
    assert refused(Sine, x) == "TypeError: the function is a class: give Sine.apply"
    assert refused(nn.Linear, x) == (
        "TypeError: the function is a class: give Linear(…), an object of it"
    )
    assert refused(5, x) == (
        "TypeError: the function is 5: give a callable, such as Function.apply"
    )
    assert refused(torch.sin, 5) == (
        "ValueError: no input is a tensor of floating-point numbers: give at least one"
    )
    assert refused(torch.sin, x / 0) == (
        "ValueError: input 0 holds what is not finite: give numbers, or let the other inputs alone "
        "ask for gradients"
    )
    assert refused(lambda x: x @ torch.ones(3), x).startswith(
        "ValueError: the function fails at the inputs in float64 (RuntimeError: "
    )
    assert refused(torch.log, -x) == (
        "ValueError: the outputs at the inputs are not finite: give inputs where they are"
    )
    assert refused(nn.functional.dropout, torch.ones(99)) == (
        "ValueError: the outputs are others at each call: let the function seed what it draws"
    )
    assert refused(torch.sin, x, reference=torch.cos) == (
        "ValueError: the reference does not return what the function returns: give another way to "
        "compute the same from the same inputs, of a module's own parameters, too"
    )
    assert refused(torch.sin, x, shapes=[[(2,), (3,)]]) == (
        "ValueError: the shapes [(2,), (3,)] are 2, and the inputs 1: give each input's, None for "
        "one that stays"
    )
    assert refused(torch.dot, x, x, shapes=[[(2,), (3,)]]) == (
        "ValueError: the function takes no inputs of shapes [(2,), (3,)]: give others"
    )
    assert refused(torch.sin, x, domain={"x": (0, 1)}) == (
        "ValueError: the domain names 'x': it may name input 0"
    )
