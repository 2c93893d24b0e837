import copy
import itertools
from typing import Any

import pytest
import torch
from compare import OPTION_SETS as TORCH_SETS
from helpers import DEVICES, same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchgd import ManualSGD

# Every combination: 2 learning rates × 2 weight decays × (none, momentum, dampened, Nesterov) × 2.
ALL_SETS: list[dict[str, Any]] = [
    {"lr": lr, "weight_decay": decay, "maximize": maximize, **momentum}
    for lr, decay, momentum, maximize in itertools.product(
        (0.03, torch.tensor(0.03, dtype=torch.float64)),
        (0.0, 0.1),
        ({}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3},
         {"momentum": 0.9, "nesterov": True}),
        (False, True),
    )
]  # fmt: skip
SHAPES = [(), (1,), (7,), (3, 5), (1000,), (2, 0)]


def descend(optimizer: Any, weights: list[Tensor], seed: int, steps: int) -> None:
    """Take steps along random gradients, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for w in weights:
            noise = torch.randn(w.shape, dtype=w.dtype, generator=generator).to(w.device)
            if w.grad is None:
                w.grad = noise
            else:  # the same memory, as after zero_grad(set_to_none=False)
                w.grad.copy_(noise)
        optimizer.step()


def weights(dtype: torch.dtype, seed: int = 0, device: str = "cpu") -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = (torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES)
    return [torch.nn.Parameter(w.to(device)) for w in made]


@pytest.mark.parametrize("options", TORCH_SETS + ALL_SETS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_equals_torch_to_the_bit(options: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    ours, theirs = weights(dtype, device=device), weights(dtype, device=device)
    manual, sgd = ManualSGD(ours, **options), torch.optim.SGD(theirs, **options)
    descend(manual, list(ours), seed=1, steps=8)
    descend(sgd, list(theirs), seed=1, steps=8)
    for a, b in zip(ours, theirs, strict=True):
        assert same_bits(a, b)
        assert ("momentum_buffer" in manual.state[a]) == ("momentum_buffer" in sgd.state[b])
        if "momentum_buffer" in sgd.state[b]:
            assert same_bits(manual.state[a]["momentum_buffer"], sgd.state[b]["momentum_buffer"])


@given(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    lr=st.floats(0, 10),
    momentum=st.floats(0, 2),
    dampening=st.floats(-1, 1),
    weight_decay=st.floats(0, 2),
    nesterov=st.booleans(),
    maximize=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_torch_for_any_options(dtype: torch.dtype, seed: int, **options: Any) -> None:
    if options["nesterov"]:
        options |= {"momentum": options["momentum"] or 0.9, "dampening": 0}
    ours, theirs = weights(dtype, seed), weights(dtype, seed)
    descend(ManualSGD(ours, **options), list(ours), seed, steps=4)
    descend(torch.optim.SGD(theirs, **options), list(theirs), seed, steps=4)
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


def test_one_rounding_is_not_two() -> None:
    """What the fused multiply-add is for: w − lr·g spelled out differs in some elements."""
    w, g = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    fused = torch.nn.Parameter(w.clone())
    fused.grad = g
    ManualSGD([fused], lr=0.1).step()
    different = (fused != w - 0.1 * g).float().mean().item()
    assert 0.001 < different < 0.2


@pytest.mark.parametrize("options", TORCH_SETS, ids=str)
@pytest.mark.parametrize("first", [ManualSGD, torch.optim.SGD])
@pytest.mark.parametrize("second", [ManualSGD, torch.optim.SGD])
def test_state_dict_goes_over(options: dict[str, Any], first: Any, second: Any) -> None:
    """Half of the way with one optimizer, the rest with the other, from its state_dict."""
    whole, halves = weights(torch.float64), weights(torch.float64)
    reference = torch.optim.SGD(whole, **options)
    descend(reference, list(whole), 1, 3)
    descend(reference, list(whole), 2, 3)
    start = first(halves, **options)
    descend(start, list(halves), 1, 3)
    rest = second(halves, lr=5.0)
    rest.load_state_dict(copy.deepcopy(start.state_dict()))
    descend(rest, list(halves), 2, 3)
    assert all(same_bits(a, b) for a, b in zip(whole, halves, strict=True))


@pytest.mark.parametrize("lacking", ["nesterov", "maximize"])
@pytest.mark.parametrize("through", ["load_state_dict", "__setstate__"])
def test_a_state_dict_from_before_an_option_was_added(lacking: str, through: str) -> None:
    ours, theirs = weights(torch.float64), weights(torch.float64)
    for kind, w in ((ManualSGD, ours), (torch.optim.SGD, theirs)):
        optimizer = kind(w, lr=0.1, momentum=0.9)
        descend(optimizer, list(w), 1, 2)
        old = optimizer.state_dict() if through == "load_state_dict" else optimizer.__getstate__()
        for group in old["param_groups"]:
            del group[lacking]
        getattr(optimizer, through)(old)
        assert optimizer.param_groups[0][lacking] is False
        descend(optimizer, list(w), 2, 2)
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


def test_state_dict_has_torchs_layout() -> None:
    w = weights(torch.float64)
    ours, theirs = ManualSGD(w, momentum=0.9), torch.optim.SGD(w, momentum=0.9)
    descend(ours, list(w), 1, 1)
    descend(theirs, list(w), 1, 1)
    a, b = ours.state_dict(), theirs.state_dict()
    assert a["state"].keys() == b["state"].keys()
    assert all(a["state"][k].keys() == b["state"][k].keys() for k in a["state"])
    choices = {"foreach", "differentiable", "fused"}
    assert a["param_groups"][0].keys() == b["param_groups"][0].keys() - choices
    assert all(b["param_groups"][0][key] == value for key, value in a["param_groups"][0].items())


SCHEDULERS: dict[str, Any] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.3),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_work(schedule: Any) -> None:
    ours, theirs = weights(torch.float64), weights(torch.float64)
    for w, optimizer in (
        (ours, ManualSGD(ours, lr=0.1, momentum=0.9)),
        (theirs, torch.optim.SGD(theirs, lr=0.1, momentum=0.9)),
    ):
        scheduler = schedule(optimizer)
        for epoch in range(7):
            descend(optimizer, list(w), epoch, 1)
            scheduler.step()
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


def test_groups_have_their_own_options() -> None:
    ours, theirs = weights(torch.float64), weights(torch.float64)
    for w, kind in ((ours, ManualSGD), (theirs, torch.optim.SGD)):
        groups = [{"params": w[:2], "lr": 0.5}, {"params": w[2:], "momentum": 0.9}]
        descend(kind(groups, lr=0.1), list(w), 1, 3)
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_a_gradient_a_weight_stays() -> None:
    w, v = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(1.0))
    w.grad = torch.tensor(1.0)
    ManualSGD([w, v], lr=0.5, weight_decay=0.1, momentum=0.9).step()
    assert v.item() == 1.0
    assert w.item() == pytest.approx(1 - 0.5 * 1.1)


def test_a_closure_is_evaluated_with_gradients() -> None:
    w = torch.nn.Parameter(torch.tensor(3.0))
    optimizer = ManualSGD([w], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = w**2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert w.item() == pytest.approx(2.4)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -0.5},
        {"lr": torch.tensor([0.1, 0.2])},
        {"momentum": -0.5},
        {"weight_decay": -0.1},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        {"foo": 1},
    ],
    ids=str,
)
def test_refuses_what_torch_refuses_in_its_words(options: dict[str, Any]) -> None:
    w = weights(torch.float64)
    with pytest.raises((ValueError, TypeError)) as theirs:
        torch.optim.SGD(w, **options)
    with pytest.raises(theirs.type) as ours:
        ManualSGD(w, **options)
    if theirs.type is ValueError:
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("params", [[], [1.0], torch.zeros(2)], ids=str)
def test_refuses_parameters_as_torch_does(params: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        torch.optim.SGD(params)
    with pytest.raises(theirs.type) as ours:
        ManualSGD(params)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("name", ["lr", "momentum", "dampening", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(name: str, value: float) -> None:
    w = weights(torch.float64)
    message = rf"^{name} is {value}: it must be finite; give a number$"
    with pytest.raises(ValueError, match=message):
        ManualSGD(w, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        ManualSGD([{"params": w, name: value}])
    if name == "lr":
        with pytest.raises(ValueError, match=r"^lr is .*: it must be finite; give a number$"):
            ManualSGD(w, lr=torch.tensor(value))
