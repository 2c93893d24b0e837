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

from torchgd import Linear, Quadratic, Trajectory
from torchgd.experiment.checkpoint import DIGEST, Checkpoint, Saver
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment

SHUFFLED = Configuration(
    model="quadratic", data="cars", standardize=True, lr=0.01, momentum=0.9, epochs=3,
    batch_size=7, shuffle=True, seed=5,
)  # fmt: skip


def interrupted(experiment: Experiment, update: str, path: Path, at: int, **how: Any) -> None:
    """Train up to step `at`, and keep the checkpoint."""
    left = iter(range(at))
    stop = lambda: next(left, None) is None  # noqa: E731
    experiment.run(update, 4.0, stop=stop, saver=Saver(path), **how)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    interrupted(Experiment(SHUFFLED), "manual", path, at=10)
    return path


def test_it_holds_everything_to_the_bit(saved: Path) -> None:
    experiment = Experiment(SHUFFLED)
    whole, read = experiment.run("manual", 4.0).trajectory, Checkpoint.load(saved)
    assert read.step == 10
    assert read.identity == experiment.identity("manual")
    assert same_trajectory(read.done(24), whole[:10])
    assert read.trajectory.stopped == "interrupted"
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
    whole = experiment.run(update, 4.0)
    path = tmp_path_factory.mktemp("pieces") / "checkpoint.pt"
    start = None
    for _ in range(data.draw(st.integers(1, 3))):
        interrupted(experiment, update, path, data.draw(st.integers(0, 8)), start=start)
        start = experiment.checkpoint(update, path)
    resumed = experiment.run(update, 4.0, start=start)
    assert same_trajectory(resumed.trajectory, whole.trajectory)
    assert torch.equal(resumed.trajectory.epoch, whole.trajectory.epoch)
    assert same_bits(resumed.loss, whole.loss)
    assert all(same_bits(resumed.parameters[n], w) for n, w in whole.parameters.items())


@pytest.mark.parametrize("every", [1, 4])
def test_epochs_may_be_raised(tmp_path: Path, every: int) -> None:
    """A finished run of 3 epochs goes on to 5, without the row that only its end had recorded."""
    asked = Configuration(data="cars", lr=1e-4, batch_size=7, shuffle=True, momentum=0.5)
    path = tmp_path / "checkpoint.pt"
    short, long = (
        Experiment(Configuration(**{**vars(asked), "epochs": e, "record_every": every}))
        for e in (3, 5)
    )
    short.run("manual", 4.0, saver=Saver(path))
    resumed = long.run("manual", 4.0, start=long.checkpoint("manual", path))
    assert same_trajectory(resumed.trajectory, long.run("manual", 4.0).trajectory)


def test_a_descent_that_diverged_stays_as_it_is(tmp_path: Path) -> None:
    experiment, path = Experiment(Configuration(lr=1.0, epochs=200)), tmp_path / "checkpoint.pt"
    before = experiment.run("manual", 4.0, saver=Saver(path))
    start = experiment.checkpoint("manual", path)
    seen: list[Trajectory] = []
    after = experiment.run("manual", 4.0, seen.append, start=start)
    assert [piece.step.tolist() for piece in seen] == [[224]]
    assert after.trajectory.stopped == "diverged"
    assert same_trajectory(after.trajectory, before.trajectory)
    assert same_bits(after.parameters["w"], before.parameters["w"])


def test_one_flipped_bit_or_a_missing_end_is_refused(saved: Path) -> None:
    """500 random flips and 100 truncations; the checksum is over all bytes, so none is idle."""
    whole, chance = saved.read_bytes(), random.Random(0)
    spoilt = [whole[: chance.randrange(len(whole))] for _ in range(99)] + [b""]
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
    "a later format": (lambda c: {**c, "format": 2}, "of format 2, not 1"),
    "no format": (lambda c: {k: c[k] for k in c.keys() - {"format"}}, "'format'"),
    "no step": (lambda c: {k: c[k] for k in c.keys() - {"step"}}, "missing 1 required positional"),
    "too much": (lambda c: {**c, "more": 1}, "got an unexpected keyword argument 'more'"),
    "a list": (lambda c: [c], "cannot be interpreted as an integer"),
    "a tensor": (lambda c: torch.ones(3), "object has no attribute 'pop'"),
    "half a trajectory": (lambda c: {**c, "trajectory": {}}, "missing 4 required positional"),
    "no trajectory": (lambda c: {**c, "trajectory": 3}, "must be a mapping, not int"),
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
    path = tmp_path_factory.mktemp("plain") / "checkpoint.pt"
    interrupted(experiment, "manual", path, at=2)
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
        experiment.run("manual", 4.0, start=experiment.checkpoint("manual", path))


def test_another_runs_checkpoint_is_refused(saved: Path) -> None:
    others = {
        "dtype": "float32", "lr": 0.5, "seed": 6, "batch_size": 8, "momentum": 0.5,
        "record_every": 2, "data": "pontius", "initial": {"w2": 2.0},
    }  # fmt: skip
    for name, value in others.items():
        other = Experiment(Configuration(**{**vars(SHUFFLED), name: value}))
        with pytest.raises(ValueError, match=f"{saved} is of another run: "):
            other.checkpoint("manual", saved)
    with pytest.raises(ValueError, match="update is 'manual' there, and 'autograd' here"):
        Experiment(SHUFFLED).checkpoint("autograd", saved)


@pytest.mark.parametrize(
    "model", [Linear(dtype=torch.float64), Quadratic(dtype=torch.float32), Quadratic()]
)
def test_another_models_parameters_are_refused(saved: Path, model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="^the checkpoint is not of this model and optimizer; take an earlier"
    ):
        Checkpoint.load(saved).restore(model, optimizer)


def test_no_checkpoint_is_a_start(tmp_path: Path) -> None:
    experiment = Experiment(SHUFFLED)
    assert experiment.checkpoint("manual", tmp_path / "checkpoint.pt") is None
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no regular file; give a file$"):
        experiment.checkpoint("manual", tmp_path / "checkpoint.pt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file; give a file$"):
        Checkpoint.load(tmp_path / "pipe")
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
    assert os.listdir(saved.parent) == ["checkpoint.pt"]
    assert saved.read_bytes() == before


def saves(every: dict[str, Any], seconds_a_step: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The steps after which a descent of 30 steps saves, by a clock of our own."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    saver, at = Saver(Path("unused"), **every), []
    monkeypatch.setattr(Checkpoint, "save", lambda self, path: at.append(self.step))

    def tick() -> bool:
        clock[0] += seconds_a_step
        return False

    Experiment(Configuration(epochs=10)).run("manual", 4.0, stop=tick, saver=saver)
    return at


def test_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saves({"steps": 7}, 0.0, monkeypatch) == [7, 14, 21, 28, 30]
    assert saves({"steps": 10}, 0.0, monkeypatch) == [10, 20, 30]
    assert saves({"seconds": 10.0}, 1.5, monkeypatch) == [7, 14, 21, 28, 30]
    assert saves({}, 1.5, monkeypatch) == [30]


def test_a_save_finds_everything_recorded_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each save its trajectory is exactly that of so many steps, and its weights are there."""
    kept: list[Checkpoint] = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, path: kept.append(deepcopy(self)))
    experiment = Experiment(Configuration(epochs=5))
    whole = experiment.run("manual", 4.0, saver=Saver(Path("unused"), steps=4)).trajectory
    assert [one.step for one in kept] == [4, 8, 12, 15]
    for one in kept[:-1]:
        assert same_trajectory(one.trajectory, whole[: one.step])
        assert same_bits(one.model["w"], whole.weights["w"][one.step])


@pytest.mark.parametrize("length", [0, 5, DIGEST])
def test_a_file_too_short_for_its_checksum(tmp_path: Path, length: int) -> None:
    path = tmp_path / "short.pt"
    path.write_bytes(bytes(length))
    with pytest.raises(ValueError, match=f"is damaged: its {length} bytes do not fit"):
        Checkpoint.load(path)


@pytest.mark.parametrize("every", [{"seconds": -1.0}, {"seconds": float("nan")}, {"steps": 0}])
def test_what_is_no_cadence(every: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="^every .* seconds, .* steps: give at least 0, or 1 step"):
        Saver(Path("unused"), **every)
