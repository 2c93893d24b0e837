"""A run's state is written whole or not at all, and read back to the bit or refused."""

import errno
import hashlib
import io
import os
import random
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import carry_out, plain, same_bits
from hypothesis import given
from hypothesis import strategies as st

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import identity
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import Outcome, outcome_of
from torchgd.experiment.runs import new_runs, resumed_runs
from torchgd.experiment.state import DIGEST, State

SHUFFLED = Configuration(
    model="quadratic", data="cars", standardize=True, lr=0.01, momentum=0.9, epochs=3,
    batch_size=7, shuffle=True, seed=5,
)  # fmt: skip


def begun(folder: Path, asked: Configuration, at: int) -> Path:
    """Stop a new run at a step; return its directory."""
    carry_out(new_runs([asked], folder, "run"), at)
    return folder / "run" / asked.update


def gone_on(run: Path, at: int | None = None) -> Outcome:
    return carry_out(resumed_runs(run, {}), at)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return begun(tmp_path, SHUFFLED, at=10) / "run.pt"


def test_it_holds_everything_to_the_bit(saved: Path) -> None:
    whole, read = outcome_of(SHUFFLED).trajectory, State.load(saved)
    assert read.step == 10
    assert read.identity == identity(*resolve([SHUFFLED]))
    assert not read.diverged
    assert plain(read.path) == plain(whole[:10])
    for name, w in read.model.items():
        assert same_bits(w, whole.weights[name][10])
    velocities = [state["momentum_buffer"] for state in read.optimizer["state"].values()]
    assert [v.dtype for v in velocities] == [torch.float64] * 3
    assert read.seconds > 0
    assert set(torch.load(saved, weights_only=True)["model"]) == {"w2", "w1", "b"}


@given(data=st.data())
def test_a_descent_in_pieces_has_the_bits_of_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Interrupted anywhere, within an epoch or between two, before the first step or at the end."""
    asked = Configuration(
        model=data.draw(st.sampled_from(["linear", "quadratic"])),
        data="cars",
        update=data.draw(st.sampled_from(["manual", "autograd"])),
        dtype=data.draw(st.sampled_from(["float32", "float64"])),
        standardize=True,
        momentum=data.draw(st.sampled_from([0.0, 0.9])),
        dampening=data.draw(st.sampled_from([0.0, 0.5])),
        weight_decay=data.draw(st.sampled_from([0.0, 0.1])),
        batch_size=data.draw(st.sampled_from([7, 25, 50])),
        shuffle=data.draw(st.booleans()),
        epochs=data.draw(st.integers(1, 4)),
        record_every=data.draw(st.sampled_from([None, 1, 3])),
    )
    whole = outcome_of(asked)
    run = begun(tmp_path_factory.mktemp("pieces"), asked, data.draw(st.integers(0, 8)))
    for _ in range(data.draw(st.integers(0, 2))):
        gone_on(run, at=data.draw(st.integers(0, 8)))
    resumed = gone_on(run)
    assert plain(resumed.trajectory) == plain(whole.trajectory)
    assert same_bits(resumed.column, whole.column)


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
            State.load(saved)
        assert str(error.value) == (
            f"{saved} is damaged: its {len(content)} bytes do not fit their checksum; take an "
            "earlier copy, or remove it and the run starts again"
        )
    saved.write_bytes(whole)
    assert State.load(saved).step == 10


@given(content=st.binary(max_size=400) | st.binary(min_size=33, max_size=4000))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "run.pt"
    for whole in (content, content + hashlib.sha256(content).digest()):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=r"run\.pt is "):
            State.load(path)


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
    """A state with a checksum that fits and one part of it replaced by anything."""
    run = begun(tmp_path_factory.mktemp("plain"), SHUFFLED, at=2)
    at = content = torch.load(run / "run.pt", weights_only=True)
    while True:
        key = data.draw(st.sampled_from(sorted(at, key=str)))
        if not (isinstance(at[key], dict) and at[key] and data.draw(st.booleans())):
            break
        at = at[key]
    at[key] = data.draw(PLAIN)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    whole = buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest()
    (run / "run.pt").write_bytes(whole)
    with suppress(ValueError):
        gone_on(run)


def test_another_runs_state_is_refused(saved: Path, tmp_path: Path) -> None:
    others: dict[str, Any] = {
        "dtype": "float32", "lr": 0.5, "seed": 6, "batch_size": 8, "momentum": 0.5,
        "record_every": 2, "data": "pontius", "initial": {"w2": 2.0}, "update": "autograd",
    }  # fmt: skip
    for name, value in others.items():
        other = begun(tmp_path / name, replace(SHUFFLED, **{name: value}), at=10) / "run.pt"
        other.write_bytes(saved.read_bytes())
        what = {"data": "data_sha256"}.get(name, name)
        with pytest.raises(ValueError, match=f"^{other} is of another run: {what} is "):
            gone_on(other.parent)
    assert State.load(saved).step == 10


def test_a_runs_seconds_are_those_of_all_its_processes(saved: Path) -> None:
    replace(State.load(saved), seconds=1e6).save(saved)
    assert gone_on(saved.parent).seconds > 1e6


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_cannot_be_written_leaves_the_earlier_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    before, read = saved.read_bytes(), State.load(saved)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(saved))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        read.save(saved)
    assert not list(saved.parent.glob(".*.tmp*"))
    assert saved.read_bytes() == before


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The states that are saved from now on."""
    states: list[State] = []
    save = State.save

    def keep(self: State, path: Path) -> None:
        save(self, path)
        states.append(State.load(path))

    monkeypatch.setattr(State, "save", keep)
    return states


def test_how_often(kept: list[State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 steps, by a clock of our own, of which each takes so many seconds."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def steps(seconds_a_step: float, **every: Any) -> list[int]:
        def tick() -> bool:
            clock[0] += seconds_a_step
            return False

        kept.clear()
        carry_out(new_runs([Configuration(epochs=10)], tmp_path, None), stop=tick, **every)
        return [state.step for state in kept]

    assert steps(0.0, steps=7) == [7, 14, 21, 28, 30]
    assert steps(0.0, steps=10) == [10, 20, 30]
    assert steps(1.5, seconds=10.0) == [7, 14, 21, 28, 30]
    assert steps(1.5) == [30]


@pytest.mark.parametrize("update", ["manual", "autograd", "compiled"])
def test_each_state_is_all_of_the_way_so_far(
    kept: list[State], tmp_path: Path, update: str
) -> None:
    """Its path is exactly that of so many steps, and its weights are where it ends."""
    if update == "compiled":
        pytest.importorskip("numba")
    asked = Configuration(epochs=5, momentum=0.5, update=update, device="cpu")
    whole = carry_out(new_runs([asked], tmp_path, None), steps=4).trajectory
    assert [state.step for state in kept] == [4, 8, 12, 15]
    for state in kept:
        assert plain(state.path) == plain(whole[: state.step])
        assert same_bits(state.model["w"], whole.weights["w"][state.step])
