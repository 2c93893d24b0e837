"""A checkpoint is written whole or not at all, and read back to the bit or refused."""

import errno
import hashlib
import io
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import same_bits, same_trajectory
from hypothesis import given
from hypothesis import strategies as st

from torchgd import Linear, Quadratic
from torchgd.experiment.checkpoint import DIGEST, Checkpoint, Saver
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.earlier import find_start
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.folder import RunWriter, Start, read_run
from torchgd.experiment.outcome import Hooks, Outcome, ignore, never, run_update
from torchgd.experiment.report import config_json

SHUFFLED = Configuration(
    model="quadratic", data="cars", standardize=True, lr=0.01, momentum=0.9, epochs=3,
    batch_size=7, shuffle=True, seed=5,
)  # fmt: skip


def written(
    experiment: Experiment, update: str, folder: Path, at: int | None = None, **every: Any
) -> Outcome:
    """Train from what is in the folder, up to step `at` more or to the end."""
    start, left = find_start(experiment, update, folder), iter(range(at or 0))
    config, names = config_json(experiment, update), list(experiment.configuration.initial)
    stop = never if at is None else lambda: next(left, None) is None
    with RunWriter(folder, config, names, start) as writer:
        hooks = Hooks(writer.record, stop=stop, saver=Saver(writer.save, **every))
        return run_update(experiment, update, hooks=hooks, start=start)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    written(Experiment(SHUFFLED), "manual", tmp_path / "run", at=10)
    return tmp_path / "run" / "checkpoint.pt"


def test_it_holds_everything_to_the_bit(saved: Path) -> None:
    experiment = Experiment(SHUFFLED)
    whole, start = (
        run_update(experiment, "manual").trajectory,
        find_start(experiment, "manual", saved.parent),
    )
    assert start is not None
    assert same_trajectory(start.trajectory, whole[:10])
    read = Checkpoint.load(saved)
    assert read == start.checkpoint
    assert read.step == 10
    assert read.identity == experiment.identity("manual")
    assert not read.diverged
    for name, w in read.model.items():
        assert same_bits(w, whole.weights[name][10])
    velocities = [state["momentum_buffer"] for state in read.optimizer["state"].values()]
    assert [v.dtype for v in velocities] == [torch.float64] * 3
    assert read.seconds > 0


def test_torch_reads_it_like_any_other(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert content["step"] == 10
    assert set(content["model"]) == {"w2", "w1", "b"}


@given(data=st.data())
def test_a_descent_in_pieces_has_the_bits_of_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Interrupted anywhere, within an epoch or between two, before the first step or at the end."""
    momentum = data.draw(st.sampled_from([0.0, 0.9]))
    asked = Configuration(
        model=data.draw(st.sampled_from(["linear", "quadratic"])),
        data="cars",
        dtype=data.draw(st.sampled_from(["float32", "float64"])),
        standardize=True,
        bias=False,
        momentum=momentum,
        dampening=data.draw(st.sampled_from([0.0, 0.5])),
        weight_decay=data.draw(st.sampled_from([0.0, 0.1])),
        batch_size=data.draw(st.sampled_from([7, 25, 50])),
        shuffle=data.draw(st.booleans()),
        epochs=data.draw(st.integers(1, 4)),
        record_every=data.draw(st.sampled_from([None, 1, 3])),
    )
    experiment = Experiment(asked)
    update = data.draw(st.sampled_from(["manual", "autograd"]))
    whole = run_update(experiment, update)
    folder = tmp_path_factory.mktemp("pieces")
    for _ in range(data.draw(st.integers(1, 3))):
        written(experiment, update, folder, at=data.draw(st.integers(0, 8)))
    resumed = written(experiment, update, folder)
    assert same_trajectory(resumed.trajectory, whole.trajectory)
    assert torch.equal(resumed.trajectory.epoch, whole.trajectory.epoch)
    assert same_bits(resumed.loss, whole.loss)
    assert all(same_bits(resumed.parameters[n], w) for n, w in whole.parameters.items())


def test_one_flipped_bit_or_a_missing_end_is_refused(saved: Path) -> None:
    """500 random flips and 100 truncations; the checksum is over all bytes, so none is idle."""
    whole, chance = saved.read_bytes(), random.Random(0)
    spoilt = [whole[: chance.randrange(len(whole))] for _ in range(97)]
    spoilt += [b"", bytes(5), bytes(DIGEST)]
    for _ in range(500):
        place = chance.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        spoilt.append(bytes(flipped))
    for content in spoilt:
        saved.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged") as error:
            Checkpoint.load(saved)
        assert str(error.value) == (
            f"{saved} is damaged: its {len(content)} bytes do not fit their checksum; take an "
            "earlier copy, or remove it and the run starts again"
        )
    saved.write_bytes(whole)
    assert Checkpoint.load(saved).step == 10


def sealed(path: Path, content: Any, save: Callable[..., None] = torch.save) -> Path:
    """Write `content` with a checksum that fits."""
    buffer = io.BytesIO()
    save(content, buffer)
    path.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    return path


class Hostile:
    def __reduce__(self) -> Any:
        return open, ("canary", "w")


NOT_ONE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "code": (lambda c: {**c, "seconds": Hostile()}, "Weights only load failed"),
    "an earlier format": (lambda c: {**c, "format": 1}, "of format 1, not 2"),
    "no format": (lambda c: {k: c[k] for k in c.keys() - {"format"}}, "'format'"),
    "no step": (lambda c: {k: c[k] for k in c.keys() - {"step"}}, "missing 1 required positional"),
    "too much": (lambda c: {**c, "more": 1}, "got an unexpected keyword argument 'more'"),
    "a list": (lambda c: [c], "cannot be interpreted as an integer"),
    "a tensor": (lambda c: torch.ones(3), "object has no attribute 'pop'"),
    "no model": (lambda c: {**c, "model": 3}, "'int' object is not iterable"),
    "a step of another kind": (lambda c: {**c, "step": 3.0}, "step is of type float"),
    "an identity of another kind": (lambda c: {**c, "identity": []}, "identity is of type list"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), NOT_ONE.values(), ids=NOT_ONE)
def test_what_bears_a_checksum_is_still_no_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], reason: str
) -> None:
    monkeypatch.chdir(saved.parent)
    sealed(saved, change(torch.load(saved, weights_only=True)))
    with pytest.raises(ValueError, match="is no checkpoint that this torchgd can read") as error:
        Checkpoint.load(saved)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("canary").exists()


@given(content=st.binary(max_size=400) | st.binary(min_size=33, max_size=4000))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "checkpoint.pt"
    for whole in (content, content + hashlib.sha256(content).digest()):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match="checkpoint"):
            Checkpoint.load(path)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.builds(torch.ones, st.integers(0, 3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)  # fmt: skip


@given(data=st.data())
def test_any_plain_content_is_gone_on_with_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A checkpoint with a checksum that fits and one part of it replaced by anything."""
    experiment = Experiment(SHUFFLED)
    folder = tmp_path_factory.mktemp("plain")
    path = folder / "checkpoint.pt"
    written(experiment, "manual", folder, at=2)
    content = torch.load(path, weights_only=True)
    at = content
    while True:
        key = data.draw(st.sampled_from(sorted(at, key=str)))
        if not (isinstance(at[key], dict) and at[key] and data.draw(st.booleans())):
            break
        at = at[key]
    at[key] = data.draw(PLAIN)
    sealed(path, content)
    with suppress(ValueError):
        written(experiment, "manual", folder)


def test_another_runs_checkpoint_is_refused(saved: Path) -> None:
    others = {
        "dtype": "float32", "lr": 0.5, "seed": 6, "batch_size": 8, "momentum": 0.5,
        "record_every": 2, "data": "pontius", "initial": {"w2": 2.0},
    }  # fmt: skip
    for name, value in others.items():
        other = Experiment(Configuration(**{**vars(SHUFFLED), name: value}))
        with pytest.raises(ValueError, match=f"{saved} is of another run: "):
            find_start(other, "manual", saved.parent)
    with pytest.raises(ValueError, match="update is 'manual' there, and 'autograd' here"):
        find_start(Experiment(SHUFFLED), "autograd", saved.parent)


@pytest.mark.parametrize("model", [Linear(dtype=torch.float64), Quadratic(dtype=torch.float32)])
def test_another_models_parameters_are_refused(saved: Path, model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="^the checkpoint is not of this model and optimizer; take an earlier"
    ):
        Checkpoint.load(saved).restore(model, optimizer)


def test_no_checkpoint_is_a_start(tmp_path: Path) -> None:
    experiment = Experiment(SHUFFLED)
    assert find_start(experiment, "manual", tmp_path) is None
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no regular file; give a file$"):
        find_start(experiment, "manual", tmp_path)
    with pytest.raises(ValueError, match="nothing is not there; give a file$"):
        Checkpoint.load(tmp_path / "nothing")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_cannot_be_written_leaves_the_earlier_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    before, read = saved.read_bytes(), Checkpoint.load(saved)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(saved))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        read.save(saved)
    assert not list(saved.parent.glob(".*.tmp*"))
    assert saved.read_bytes() == before


def saves(every: dict[str, Any], seconds_a_step: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The steps after which a descent of 30 steps saves, by a clock of our own."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    at: list[int] = []
    saver = Saver(lambda **state: at.append(state["step"]), **every)

    def tick() -> bool:
        clock[0] += seconds_a_step
        return False

    run_update(Experiment(Configuration(epochs=10)), "manual", hooks=Hooks(stop=tick, saver=saver))
    return at


def test_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saves({"steps": 7}, 0.0, monkeypatch) == [7, 14, 21, 28, 30]
    assert saves({"steps": 10}, 0.0, monkeypatch) == [10, 20, 30]
    assert saves({"seconds": 10.0}, 1.5, monkeypatch) == [7, 14, 21, 28, 30]
    assert saves({}, 1.5, monkeypatch) == [30]


def test_a_save_finds_everything_recorded_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each save its trajectory is exactly that of so many steps, and its weights are there."""
    experiment, kept = Experiment(Configuration(epochs=5)), []

    def keep(self: Checkpoint, path: Path) -> None:
        kept.append((deepcopy(self), Start.read(path.parent, self, lambda step: True).trajectory))

    monkeypatch.setattr(Checkpoint, "save", keep)
    whole = written(experiment, "manual", tmp_path / "run", steps=4).trajectory
    assert [one.step for one, _ in kept] == [4, 8, 12, 15]
    for one, trajectory in kept:
        assert same_trajectory(trajectory, whole[: one.step])
        assert same_bits(one.model["w"], whole.weights["w"][one.step])


@pytest.mark.parametrize("change", [lambda rows: rows[:-9], lambda rows: b"S" + rows[1:]])
def test_rows_that_are_not_the_checkpoints_are_refused(saved: Path, change: Any) -> None:
    table = saved.with_name("trajectory.csv")
    length = Checkpoint.load(saved).rows_length
    table.write_bytes(change(table.read_bytes()[:length]))
    with pytest.raises(ValueError, match=f"its first {length} bytes are not those that checkpoin"):
        find_start(Experiment(SHUFFLED), "manual", saved.parent)


def test_one_flipped_bit_or_a_missing_end_of_the_rows_is_refused(saved: Path) -> None:
    """500 random flips and 100 truncations of the part that the checkpoint is of."""
    chance, experiment = random.Random(5), Experiment(SHUFFLED)
    table, length = saved.with_name("trajectory.csv"), Checkpoint.load(saved).rows_length
    rows = table.read_bytes()[:length]
    damaged = [rows[: chance.randrange(length)] for _ in range(100)]
    for _ in range(500):
        place, bit = chance.randrange(length), 1 << chance.randrange(8)
        damaged.append(rows[:place] + bytes([rows[place] ^ bit]) + rows[place + 1 :])
    for content in damaged:
        table.write_bytes(content)
        with pytest.raises(ValueError, match=f"its first {length} bytes are not those that check"):
            find_start(experiment, "manual", saved.parent)


def test_rows_after_the_checkpoint_are_cut_off(saved: Path) -> None:
    experiment, table = Experiment(SHUFFLED), saved.with_name("trajectory.csv")
    with table.open("a", encoding="utf-8") as file:
        file.write("10,1,half a r")
    written(experiment, "manual", saved.parent)
    _, trajectory = read_run(saved.parent)
    assert same_trajectory(trajectory, run_update(experiment, "manual").trajectory)


@pytest.mark.parametrize("every", [{"seconds": -1.0}, {"seconds": float("nan")}, {"steps": 0}])
def test_what_is_no_cadence(every: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="^every .* seconds, .* steps: give at least 0, or 1 step"):
        Saver(ignore, **every)
