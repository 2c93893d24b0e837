import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from helpers import (
    AUTOGRAD,
    DEVICES,
    MANUAL,
    MODELS,
    Exponential,
    no_waits,
    same_bits,
    same_trajectory,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import torchgd
from torchgd import Batches, Linear, ManualSGD, Model, Quadratic, Trajectory, manual_gradient, train
from torchgd.experiment.sources import load
from torchgd.training import count_steps
from torchgd.trajectory import Recorder, Stopped, record_interval

EPS = torch.finfo(torch.float64).eps


def on(device: str, name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Batches:
    data = load(name)
    return Batches(data.x.to(device, dtype), data.y.to(device, dtype), **options)


def lesson(batch_size: int = 1) -> Batches:
    return on("cpu", "lesson", batch_size=batch_size)


def descend(update: Any, model: Model, batches: Any, epochs: int, **options: Any) -> Trajectory:
    gradient, make = update
    every = options.pop("record_every", None)
    optimizer = make(model.parameters(), **{"lr": 0.01, **options})
    return train(model, batches, optimizer, gradient, epochs, record_every=every)


def recorded(
    model: Model, batches: Any, epochs: int, update: Any = MANUAL, **blocks: Any
) -> Trajectory:
    """Descend, and let the recorder hand over on the way."""
    (gradient, make), steps = update, epochs * len(batches)
    recorder = Recorder(model, steps, 1, **blocks)
    optimizer = make(model.parameters(), lr=0.01)
    for step, epoch, loss in torchgd.descend(model, batches, optimizer, gradient, epochs):
        recorder.record(step, epoch, loss)
        if recorder.due:
            recorder.hand_over()
    return recorder.finish(steps, epochs)


@pytest.mark.parametrize("update", [MANUAL, AUTOGRAD])
@pytest.mark.parametrize("device", DEVICES)
def test_the_lesson_follows_its_closed_form(update: Any, device: str) -> None:
    """Per sample w − 2 shrinks by 1 − 2αxₙ², so by 0.98, 0.92 and 0.82.

    A step rounds w, which is near 2, by at most 3 half-ULPs of 2 (product, difference, update),
    and later steps shrink that error: 3 roundings of 2ε/2 over 1 − 0.82 bound the sum.
    """
    batches = on(device, "lesson")
    w = descend(update, Linear(device=device, dtype=torch.float64), batches, 50).weights["w"]
    assert device == "cuda" or w[-1].item() == 1.999999723695619
    factors = torch.tensor([0.98, 0.92, 0.82], dtype=torch.float64).repeat(50)
    expected = 2 - torch.cat([torch.ones(1, dtype=torch.float64), factors.cumprod(0)])
    assert (w - expected).abs().max().item() <= 3 * EPS / (1 - 0.82)


def test_full_batch_is_another_descent() -> None:
    """The mean over N shrinks w − 2 by 1 − 2α·14/3 a step, and with it each step's rounding, 2ε."""
    w = descend(MANUAL, Linear(dtype=torch.float64), lesson(batch_size=3), 50).weights["w"]
    expected = 2 - (1 - 0.02 * 14 / 3) ** torch.arange(51, dtype=torch.float64)
    assert len(w) == 51
    assert (w - expected).abs().max().item() <= 2 * EPS / (0.02 * 14 / 3)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("size", [1, 2, 3, None], ids=["1", "2", "3", "full"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(3, 12), shuffle=st.booleans(), seed=st.integers(0, 2**31))
def test_manual_and_autograd_are_identical(
    make: Any,
    size: int | None,
    momentum: float,
    device: str,
    dtype: torch.dtype,
    count: int,
    shuffle: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = 2 * torch.randn(2, count, dtype=dtype, generator=generator)
    batches = Batches(x.to(device), y.to(device), size or count, shuffle)
    options = {"lr": 0.003, "momentum": momentum}
    a = descend(MANUAL, make(device=device, dtype=dtype), batches, 3, **options)
    b = descend(AUTOGRAD, make(device=device, dtype=dtype), batches, 3, **options)
    assert same_trajectory(a, b)


@pytest.mark.parametrize("mixed", [(MANUAL[0], AUTOGRAD[1]), (AUTOGRAD[0], MANUAL[1])])
def test_the_mixed_pairs_are_identical_too(mixed: Any, dtype: torch.dtype) -> None:
    batches = on("cpu", "parabola", dtype, batch_size=4)
    a = descend(MANUAL, Quadratic(dtype=dtype), batches, 20)
    assert same_trajectory(a, descend(mixed, Quadratic(dtype=dtype), batches, 20))


def test_the_trajectory_is_what_the_descent_saw() -> None:
    """Each row, taken by itself: the batch's gradient at the weights, and the next weights."""
    batches = lesson(batch_size=2)
    model = Quadratic(dtype=torch.float64)
    t = descend(MANUAL, model, batches, 4)
    assert t.stopped == "finished"
    assert t.step.tolist() == list(range(9))
    assert t.epoch.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    probe = Quadratic(dtype=torch.float64)
    for k, (x, y) in enumerate(list(batches) * 4):
        probe.load_state_dict({name: w[k] for name, w in t.weights.items()})
        assert same_bits(manual_gradient(probe, x, y), t.loss[k])
        for name, w in probe.named_parameters():
            assert w.grad is not None
            assert same_bits(w.grad, t.gradients[name][k])
            assert same_bits(w.sub(w.grad, alpha=0.01), t.weights[name][k + 1])
    assert [w[-1].item() for w in t.weights.values()] == [w.item() for w in model.parameters()]


@pytest.mark.parametrize("every", [1, 4, 7, 24, 25, 100])
def test_sparse_recording_picks_rows(every: int) -> None:
    whole = descend(MANUAL, Linear(dtype=torch.float64), lesson(), 8)
    some = descend(MANUAL, Linear(dtype=torch.float64), lesson(), 8, record_every=every)
    steps = sorted({*range(0, 24, every), 23, 24})
    assert some.step.tolist() == steps
    assert same_bits(some.weights["w"], whole.weights["w"][steps])
    assert same_bits(some.loss, whole.loss[steps[:-1]])
    assert same_bits(some.gradients["w"], whole.gradients["w"][steps[:-1]])


@given(st.integers(1, 10**9), st.integers(2, 10**5))
def test_record_interval_is_the_smallest_that_fits(steps: int, most: int) -> None:
    def count(k: int) -> int:
        return len({0, steps - 1}) + max(0, (steps - 2) // k)

    k = record_interval(steps, most)
    assert count(k) <= most
    assert k == 1 or count(k - 1) > most


def test_ten_thousand_steps_are_recorded_one_by_one() -> None:
    assert record_interval(1) == record_interval(10_000) == 1
    assert record_interval(10_001) == 2


def test_blocks_come_as_the_descent_goes_on_and_join_to_the_whole() -> None:
    model, taken = Linear(dtype=torch.float64), list[int]()
    model.register_forward_hook(lambda *_: taken.append(1))
    seen: list[tuple[int, int]] = []
    look = lambda piece: seen.append((len(piece.loss), len(taken)))  # noqa: E731
    path = recorded(model, lesson(), 900, on_piece=look, seconds=math.inf)
    assert seen == [(1000, 1000), (1000, 2000), (700, 2700)]
    assert same_trajectory(path, descend(MANUAL, Linear(dtype=torch.float64), lesson(), 900))


def test_a_block_does_not_wait_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("torchgd.trajectory.time.monotonic", lambda: 2.0 * next(clock))
    seen: list[Trajectory] = []
    model = Linear(dtype=torch.float64)
    recorded(model, lesson(), 2, on_piece=seen.append)
    assert [len(piece.step) for piece in seen] == [1] * 7
    recorded(model, lesson(), 2, on_piece=seen.append, rows=4, seconds=math.inf)
    assert [len(piece.step) for piece in seen[7:]] == [4, 3]


def test_a_list_and_a_dataloader_do_as_well() -> None:
    loader = DataLoader(TensorDataset(lesson().x, lesson().y), batch_size=1)
    a = descend(MANUAL, Linear(dtype=torch.float64), lesson(), 5)
    for batches in (list(lesson()), loader):
        assert same_trajectory(a, descend(MANUAL, Linear(dtype=torch.float64), batches, 5))


OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_torch_optimizer_fits(make: Any) -> None:
    """The recorded path is the optimizer's own, in a plain loop."""
    model, plain = Quadratic(dtype=torch.float64), Quadratic(dtype=torch.float64)
    batches = lesson(batch_size=3)
    t = train(model, batches, make(model.parameters()), epochs=6)
    optimizer = make(plain.parameters())
    for k in range(6):
        assert all(same_bits(w, t.weights[name][k]) for name, w in plain.named_parameters())
        optimizer.zero_grad()
        loss = ((plain(batches.x) - batches.y) ** 2).mean()
        loss.backward()
        assert loss.item() == t.loss[k].item()
        optimizer.step()
    assert all(same_bits(w, t.weights[name][6]) for name, w in plain.named_parameters())


def test_a_scheduler_steps_each_epoch() -> None:
    """α halves: on x = 1, y = 0 alone, w shrinks by 1 − 2α, with α = 1/4, 1/8, 1/16."""
    model = Linear(dtype=torch.float64)
    optimizer = ManualSGD(model.parameters(), lr=0.25)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    pair = (torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    t = train(model, [pair, pair], optimizer, epochs=3, scheduler=scheduler)
    factors = [1, 1 / 2, 1 / 2, 3 / 4, 3 / 4, 7 / 8, 7 / 8]
    assert t.weights["w"].tolist() == torch.tensor(factors).double().cumprod(0).tolist()


@pytest.mark.parametrize("update", [MANUAL, AUTOGRAD])
@pytest.mark.parametrize("record_every", [1, 5, 1500])
def test_divergence_stops_at_the_first_bad_recorded_row(update: Any, record_every: int) -> None:
    model = Linear(dtype=torch.float64)
    t = descend(update, model, lesson(), 1000, lr=1.0, record_every=record_every)
    assert t.stopped == "diverged"
    assert t.step[-1].item() == {1: 224, 5: 225, 1500: 1500}[record_every]
    assert t.epoch[-1].item() == t.step[-1].item() // 3
    assert len(t.loss) == len(t.step) - 1 == len(t.gradients["w"])
    assert t.loss.isfinite().all()
    assert t.weights["w"][:-1].isfinite().all()
    assert same_bits(model.w, t.weights["w"][-1])
    if record_every == 1:  # the error grows by (1 − 2)(1 − 8)(1 − 18) = −119 an epoch
        assert (t.weights["w"][3::3] - 2)[:7].tolist() == [-((-119) ** k) for k in range(1, 8)]


def test_divergence_in_the_first_and_in_the_last_step_is_seen() -> None:
    def one_step(x: float, lr: float) -> Trajectory:
        pair = torch.tensor([x], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return descend(MANUAL, Linear(dtype=torch.float64), [pair], 1, lr=lr)

    t = one_step(x=1e200, lr=0.01)  # the loss, 1e400, overflows
    assert (t.stopped, t.step.tolist(), t.loss.tolist()) == ("diverged", [0], [])
    t = one_step(x=1e100, lr=1e200)  # the gradient is 2e200, and 2e400 overflows
    assert (t.stopped, t.step.tolist(), t.loss.tolist()) == ("diverged", [0, 1], [1e200])
    assert t.weights["w"].tolist() == [1.0, -float("inf")]


def test_a_piece_is_handed_on_as_far_as_the_descent_did_not_diverge() -> None:
    """What is handed on ends where the trajectory does, and not where its block of rows did."""
    pieces: list[Trajectory] = []
    model = Linear(dtype=torch.float64)
    recorder = Recorder(model, 3000, 1, pieces.append)
    optimizer = ManualSGD(model.parameters(), lr=1.0)
    for step, epoch, loss in islice(torchgd.descend(model, lesson(), optimizer, epochs=1000), 300):
        recorder.record(step, epoch, loss)
    recorder.hand_over()
    assert [(p.stopped, p.step.tolist()) for p in pieces] == [("diverged", [*range(225)])]


def test_a_gradient_that_is_not_finite_ends_nothing_but_where_it_leads_does() -> None:
    """The loss is (0·x − y)² = 1e200, its gradient 2x·(0·x − y) overflows."""
    x, y = torch.tensor([[1e250], [1e100]], dtype=torch.float64)
    t = descend(MANUAL, Linear(w=0.0, dtype=torch.float64), [(x, y)], 1)
    assert (t.stopped, t.step.tolist(), t.loss.tolist()) == ("diverged", [0, 1], [1e200])
    assert (t.gradients["w"].tolist(), t.weights["w"].tolist()) == ([-math.inf], [0.0, math.inf])


@pytest.mark.parametrize("update", [MANUAL, AUTOGRAD])
@pytest.mark.parametrize("at", [0, 1, 5, 6, 41, 42])
def test_a_descent_goes_on_from_any_step(update: Any, at: int) -> None:
    """Left between two steps and started there again, it takes all of the others."""
    gradient, make = update
    batches = on("cpu", "parabola", batch_size=3, shuffle=True)
    whole = descend(update, Quadratic(dtype=torch.float64), batches, 6, momentum=0.9)
    model = Quadratic(dtype=torch.float64)
    optimizer = make(model.parameters(), lr=0.01, momentum=0.9)
    for step, _, _ in torchgd.descend(model, batches, optimizer, gradient, 6):
        if step == at:
            break
    for name, w in model.named_parameters():
        assert same_bits(w, whole.weights[name][at])
    for step, epoch, loss in torchgd.descend(model, batches, optimizer, gradient, 6, start=at):
        assert (step, epoch, loss.item()) == (at, at // 7, whole.loss[at].item())
        at += 1
    assert at == 42
    for name, w in model.named_parameters():
        assert same_bits(w, whole.weights[name][-1])


def test_a_model_that_is_not_linear_in_its_parameters_trains() -> None:
    """ŷ = a·exp(k·x), from a = 1, k = 0.1, finds the a = 2, k = 0.5 that made the data."""
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    batches = Batches(x, 2 * torch.exp(0.5 * x), batch_size=9)
    t = descend(MANUAL, Exponential(dtype=torch.float64), batches, 2000, lr=0.1)
    assert t.weights["a"][-1].item() == pytest.approx(2, rel=1e-12)
    assert t.weights["k"][-1].item() == pytest.approx(0.5, rel=1e-12)


class Named(Model):
    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.register_parameter(name, torch.nn.Parameter(torch.ones(size)))


FROZEN = Quadratic()
FROZEN.b.requires_grad_(False)


def start_at(step: int) -> None:
    model = Linear(dtype=torch.float64)
    next(torchgd.descend(model, lesson(), ManualSGD(model.parameters()), epochs=2, start=step))


@pytest.mark.parametrize(("train", "message"), [
    (lambda: start_at(-1), "start is -1: the descent has 6 steps; give 0 to"),
    (lambda: start_at(7), "start is 7: the descent has 6 steps; give 0 to"),
    (lambda: descend(MANUAL, Linear(), lesson(), 0), "epochs is 0: it must be at least 1$"),
    (lambda: descend(MANUAL, Linear(), lesson(), 1, record_every=0), "record_every is 0: it must"),
    (lambda: descend(MANUAL, Linear(), [], 1), r"batches is empty: give at least one \(x, y\)$"),
    (lambda: descend(MANUAL, Linear(), lesson(), 1), "parameter 'w' is torch.float32 and the loss"),
    (lambda: descend(AUTOGRAD, Linear(), lesson(), 1), "parameter 'w' is torch.float32 and the l"),
    (lambda: count_steps(2**62, 2), f"{2**62} epochs of 2 batches are {2**63} steps: give fewer"),
    (lambda: Recorder(FROZEN, 1, 1), "parameter 'b' does not require gradients: what stays"),
    (lambda: Recorder(Named("w", 0), 1, 1), r"parameter 'w' has shape \(0,\): nothing in it can"),
    (lambda: Recorder(Named("w[0]", 1), 1, 1), r"parameter 'w\[0\]': give it a name that can be"),
    (lambda: Recorder(Model(), 1, 1), "Model has no parameters: there is nothing to train"),
])  # fmt: skip
def test_what_cannot_be_trained(train: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        train()


def test_as_many_steps_as_torch_counts() -> None:
    assert count_steps(2**63 - 1, 1) == 2**63 - 1


def test_rows_are_complete_and_in_order() -> None:
    t = descend(MANUAL, Linear(dtype=torch.float64), lesson(), 1)
    assert list(t.rows()) == [
        (0, 0, [1.0, 1.0, -2.0]),
        (1, 0, [t.loss[1].item(), 1.02, t.gradients["w"][1].item()]),
        (2, 0, [t.loss[2].item(), t.weights["w"][2].item(), t.gradients["w"][2].item()]),
        (3, 1, [None, t.weights["w"][3].item(), None]),
    ]


def test_a_piece_never_has_the_final_row() -> None:
    t = descend(MANUAL, Linear(dtype=torch.float64), lesson(), 2)
    assert t[-2:].step.tolist() == [4, 5]
    assert same_bits(t[-2:].loss, t.loss[-2:])
    assert t[:].step.tolist() == list(range(6))
    assert (t.stopped, t[:].stopped) == (Stopped.FINISHED, None)
    assert f"{t.stopped} {json.dumps(t.stopped)}" == 'finished "finished"'


class Guarded:
    """Batches on a device; from the first one of an epoch to its last step, no wait is allowed."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.set_epoch = batches.set_epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with no_waits(self.batches.x.device.type):
            yield from self.batches


@pytest.mark.parametrize("update", [MANUAL, AUTOGRAD])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_no_step_waits_for_the_device(
    update: Any, make: Any, options: Any, shuffle: bool, device: str
) -> None:
    batches = Guarded(on(device, "parabola", batch_size=5, shuffle=shuffle))
    model = make(device=device, dtype=torch.float64)
    update = update[0], partial(update[1], **options)
    # A block is handed over after the last of 100 steps, whatever the clock says.
    t = recorded(model, batches, 20, update, seconds=math.inf)
    assert t.stopped == "finished"
    assert t.loss.isfinite().all()


def test_the_guard_notices_a_wait(device: str) -> None:
    def waiting(model: Model, x: Tensor, y: Tensor) -> Tensor:
        loss = manual_gradient(model, x, y)
        loss.item()
        return loss

    batches, model = Guarded(on(device, "parabola")), Quadratic(device=device, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="synchronizing"):
        train(model, batches, ManualSGD(model.parameters()), waiting)
