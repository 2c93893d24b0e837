import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import DEVICES, same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchgd import ManualSGD, check_optimizer
from torchgd.proof.options import OPTION_SETS as TORCH_SETS

SHAPES = [(), (1,), (7,), (3, 5), (1000,), (2, 0)]


def descend(optimizer: Any, seed: int, steps: int) -> None:
    """Take steps along random gradients, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for w in (w for group in optimizer.param_groups for w in group["params"]):
            noise = torch.randn(w.shape, dtype=w.dtype, generator=generator).to(w.device)
            if w.grad is None:
                w.grad = noise
            else:  # the same memory, as after zero_grad(set_to_none=False)
                w.grad.copy_(noise)
        optimizer.step()


def weights(
    dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = (torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES)
    return [torch.nn.Parameter(w.to(device)) for w in made]


def same_path(use: Callable[..., Any], *start: Any) -> tuple[Any, Any]:
    """What `use` makes of both classes, from which the weights have the same bits."""
    ours, theirs = weights(*start), weights(*start)
    used = use(ManualSGD, ours), use(torch.optim.SGD, theirs)
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))
    return used


@pytest.mark.parametrize("device", DEVICES)
def test_equals_torch_to_the_bit_in_every_option_set(device: str) -> None:
    check = check_optimizer(ManualSGD, device)
    assert check, check
    assert all(row.passed for row in check.rows)


@pytest.mark.parametrize("options", TORCH_SETS, ids=str)
def test_its_state_dict_is_torchs(options: dict[str, Any], dtype: torch.dtype) -> None:
    """But for the choices of how torch carries out the rule."""

    def use(kind: Any, w: Any) -> dict[str, Any]:
        optimizer = kind(w, **options)
        descend(optimizer, seed=1, steps=8)
        return optimizer.state_dict()

    ours, theirs = same_path(use, dtype)
    (group,), (expected,) = ours["param_groups"], theirs["param_groups"]
    assert expected.items() >= group.items()
    assert expected.keys() - group.keys() == {"foreach", "differentiable", "fused"}
    assert ours["state"].keys() == theirs["state"].keys()
    for key, state in theirs["state"].items():
        assert ours["state"][key].keys() == state.keys()
        assert all(same_bits(ours["state"][key][name], v) for name, v in state.items())


TYPES = st.sampled_from([torch.float32, torch.float64])


@pytest.mark.parametrize("device", DEVICES)
@given(
    dtype=TYPES,
    lr=st.floats(0, 10) | st.builds(torch.tensor, st.floats(0, 10), dtype=TYPES),
    momentum=st.floats(0, 2),
    dampening=st.floats(-1, 1),
    weight_decay=st.floats(0, 2),
    nesterov=st.booleans(),
    maximize=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_torch_for_any_options(
    device: str, dtype: torch.dtype, seed: int, **options: Any
) -> None:
    if options["nesterov"]:
        options |= {"momentum": options["momentum"] or 0.9, "dampening": 0}
    same_path(lambda kind, w: descend(kind(w, **options), seed, steps=4), dtype, seed, device)


@pytest.mark.parametrize("options", TORCH_SETS, ids=str)
@pytest.mark.parametrize("first", [ManualSGD, torch.optim.SGD])
@pytest.mark.parametrize("second", [ManualSGD, torch.optim.SGD])
def test_state_dict_goes_over(options: dict[str, Any], first: Any, second: Any) -> None:
    """Half of the way with one optimizer, the rest with the other, from its state_dict."""
    whole, halves = weights(), weights()
    reference = torch.optim.SGD(whole, **options)
    descend(reference, 1, 3)
    descend(reference, 2, 3)
    start = first(halves, **options)
    descend(start, 1, 3)
    rest = second(halves, lr=5.0)
    rest.load_state_dict(copy.deepcopy(start.state_dict()))
    descend(rest, 2, 3)
    assert all(same_bits(a, b) for a, b in zip(whole, halves, strict=True))


@pytest.mark.parametrize("lacking", ["nesterov", "maximize"])
@pytest.mark.parametrize("through", ["load_state_dict", "__setstate__"])
def test_a_state_dict_from_before_an_option_was_added(lacking: str, through: str) -> None:
    def use(kind: Any, w: Any) -> None:
        optimizer = kind(w, lr=0.1, momentum=0.9)
        descend(optimizer, 1, 2)
        old = optimizer.state_dict() if through == "load_state_dict" else optimizer.__getstate__()
        for group in old["param_groups"]:
            del group[lacking]
        getattr(optimizer, through)(old)
        assert optimizer.param_groups[0][lacking] is False
        descend(optimizer, 2, 2)

    same_path(use)


SCHEDULERS: dict[str, Any] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.3),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_work(schedule: Any) -> None:
    def use(kind: Any, w: Any) -> None:
        optimizer = kind(w, lr=0.1, momentum=0.9)
        scheduler = schedule(optimizer)
        for epoch in range(7):
            descend(optimizer, epoch, 1)
            scheduler.step()

    same_path(use)


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


W = weights()


@pytest.mark.parametrize(("params", "options"), [
    (W, {"lr": -0.5}),
    (W, {"lr": torch.tensor([0.1, 0.2])}),
    (W, {"momentum": -0.5}),
    (W, {"weight_decay": -0.1}),
    (W, {"nesterov": True}),
    (W, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    (W, {"foo": 1}),
    ([], {}),
    ([1.0], {}),
    (torch.zeros(2), {}),
])  # fmt: skip
def test_refuses_what_torch_refuses_in_its_words(params: Any, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        torch.optim.SGD(params, **options)
    with pytest.raises(theirs.type) as ours:
        ManualSGD(params, **options)
    assert str(ours.value) == str(theirs.value).replace("SGD", "ManualSGD")


@pytest.mark.parametrize("kind", [ManualSGD, torch.optim.SGD])
def test_a_step_calls_the_hooks_that_are_registered(kind: Any) -> None:
    seen: list[str] = []
    optimizer = kind(W)
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        register_optimizer_step_post_hook(lambda *_: seen.append("after any")),
    ]
    while handles:
        optimizer.step()
        handles.pop(0).remove()
    optimizer.step()
    assert seen == ["before", "after", "after any", "after", "after any", "after any"]


@pytest.mark.parametrize("name", ["lr", "momentum", "dampening", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(name: str, value: float) -> None:
    message = rf"^{name} is {value}: it must be finite; give a number$"
    with pytest.raises(ValueError, match=message):
        ManualSGD(W, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        ManualSGD([{"params": W, name: value}])
    if name == "lr":
        with pytest.raises(ValueError, match=message):
            ManualSGD(W, lr=torch.tensor(value))


@pytest.mark.parametrize("value", [10**30, 10**400])
def test_refuses_integers_that_torch_refuses_at_the_step(value: int) -> None:
    w = torch.nn.Parameter(torch.tensor(1.0))
    w.grad = torch.tensor(1.0)
    with pytest.raises(OverflowError):
        torch.optim.SGD([w], lr=value).step()
    with pytest.raises(ValueError, match=r"^lr is an integer beyond 2⁶³: give a float$"):
        ManualSGD([w], lr=value)


def test_takes_the_largest_power_of_2_that_torch_takes() -> None:
    for kind in (torch.optim.SGD, ManualSGD):
        w = torch.nn.Parameter(torch.tensor(1.0))
        w.grad = torch.tensor(2.0**-60)
        kind([w], lr=2**63).step()
        assert w.item() == 1 - 2.0**3
