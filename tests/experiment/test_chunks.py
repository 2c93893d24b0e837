"""Data larger than memory, a chunk at a time."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train
from helpers import Shell, left, same_bits, script, stacked
from hypothesis import given
from hypothesis import strategies as st

from torchgd import Batches, Linear, Quadratic, autograd_gradient, manual_gradient
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.folder import read_run
from torchgd.experiment.outcome import run_update
from torchgd.experiment.parallel import CHUNK, in_chunks
from torchgd.experiment.sources import BLOCK, Column, Slices, load, sha256, synthetic
from torchgd.gradients import partial_derivatives
from torchgd.models import Model

F64 = torch.float64
CPU = torch.device("cpu")


def gradients(model: Model, loss: torch.Tensor) -> torch.Tensor:
    return torch.stack([loss, *(w.grad for w in model.parameters() if w.grad is not None)])


@given(count=st.integers(1, 300), size=st.integers(1, 301), data=st.data())
def test_any_chunks_give_the_same_gradient(count: int, size: int, data: st.DataObject) -> None:
    """N terms added in another order: apart by Nε of Σ|terms|; and by both updates to the bit."""
    points = synthetic(count, data.draw(st.integers(0, 9)), curved=True)
    make: Callable[..., Model] = data.draw(st.sampled_from([Linear, Quadratic]))
    model = make(dtype=F64)
    seen: list[int] = []
    with torch.no_grad():
        r = model(points.x) - points.y
        partials = partial_derivatives(model, points.x, points.y).values()
        terms = [(r**2).mean(), *((2 * r * p).abs().mean() for p in partials)]
    whole, by_hand, usual = (
        gradients(model, source(model, points.x, points.y))
        for source in (
            manual_gradient,
            in_chunks(manual_gradient, size, seen.append),
            in_chunks(autograd_gradient, size),
        )
    )
    assert sum(seen) == count
    assert same_bits(by_hand, usual)
    assert ((by_hand - whole).abs() <= (count + 3) * 2.3e-16 * torch.stack(terms)).all()


@pytest.mark.parametrize("update", ["manual", "autograd"])
@pytest.mark.parametrize("size", [7, 47])
def test_a_descent_in_chunks_is_the_one_without(update: str, size: int) -> None:
    asked: dict[str, Any] = {"data": "cars", "lr": 1e-4, "batch_size": size, "momentum": 0.5}
    whole = run_update(Experiment(Configuration(**asked, epochs=5)), update)
    for chunk in (1, 3, 50):
        cut_up = run_update(Experiment(Configuration(**asked, epochs=5, chunk_size=chunk)), update)
        apart = (stacked(cut_up.trajectory) - stacked(whole.trajectory)).abs().max()
        assert apart <= 1e-13 * stacked(whole.trajectory).abs().max()
        assert cut_up.loss.item() == pytest.approx(whole.loss.item(), rel=1e-13)


@pytest.mark.parametrize("size", [1, 7, 47, 50])
def test_slices_are_the_batches_of_the_data_in_memory(size: int) -> None:
    points = load("cars")
    x, y = (Column(lambda a, b, t=t: t[a:b], range(len(t))) for t in (points.x, points.y))  # type: ignore[misc]
    slices, batches = Slices(x, y, size), Batches(points.x, points.y, size)
    assert len(slices) == len(batches)
    for pair, expected in zip(slices, batches, strict=True):
        assert all(torch.equal(c.to(CPU, F64), t) for c, t in zip(pair, expected, strict=True))


COUNT = 2 * BLOCK + 5
ENDS = st.sampled_from([0, BLOCK - 1, BLOCK, 2 * BLOCK, COUNT]) | st.integers(0, COUNT)


@given(ends=st.tuples(ENDS, ENDS).map(sorted), curved=st.booleans())
def test_any_part_of_the_synthetic_points_is_that_of_all(ends: list[int], curved: bool) -> None:
    points, endless = (synthetic(count, 3, curved) for count in (COUNT, 2**40))
    a, b = ends
    for column, whole in ((endless.x, points.x), (endless.y, points.y)):
        assert isinstance(column, Column)
        part = column[a:][: b - a]
        assert len(part) == b - a
        assert same_bits(part.to(CPU, F64), whole[a:b])


def test_the_synthetic_points_are_of_the_model_and_its_seed() -> None:
    line, curve = load("synthetic:1000"), load("synthetic:1000", seed=1, curved=True)
    assert (line.y - 2 * line.x).std().item() == pytest.approx(0.1, rel=0.1)
    noise = curve.y - (3 * curve.x**2 + 2 * curve.x + 1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(line.x, curve.x)
    other = load("synthetic:1000", seed=1)
    assert sha256(line.x, line.y) != sha256(other.x, other.y)


def test_a_large_file_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchgd.experiment.sources.LARGE", 100)
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    rows[17, 1] = np.nan
    np.save(tmp_path / "mine.npy", rows)
    data = load(str(tmp_path / "mine.npy"))
    assert isinstance(data.x, Column)
    assert data.x[3:6].to(CPU, F64).tolist() == [6, 8, 10]
    assert data.y[3:6].to(CPU, torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match=r"mine\.npy, row 17: \[34\.0, nan\] is not finite; remov"):
        data.y[10:].to(CPU, F64)
    assert len(load(str(tmp_path / "mine.npy")).x) == 20


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(train.main, tmp_path, capsys)


STREAM = "--data synthetic:100000 --batch-size 30000 --chunk-size 7000 --lr 0.1 --epochs 4".split()


def test_a_run_in_chunks_goes_on_to_the_same_files(shell: Shell) -> None:
    assert shell(*STREAM, "--name", "whole") == 0
    assert "All 16 steps are identical, bit for bit" in shell.out
    assert shell(*STREAM[:-1], "2", "--name", "parts") == 0
    assert shell("--resume", "runs/parts", "--epochs", "4") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_a_run_in_chunks_that_diverges(shell: Shell) -> None:
    steep = ["1e200" if word == "0.1" else word for word in STREAM]
    assert shell(*steep, "--no-figures") == 1
    assert shell.err.endswith("the learning rate is 1e+200; try a smaller one\n")


def test_a_large_file_is_trained_on_where_it_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = synthetic(5000, 1, curved=False)
    np.save("mine.npy", torch.stack([points.x, points.y], dim=1).numpy())
    words = "--data mine.npy --batch-size 999 --lr 0.1 --epochs 3 --no-figures".split()
    assert shell(*words, "--name", "held") == 0
    monkeypatch.setattr("torchgd.experiment.sources.LARGE", 100)
    monkeypatch.setitem(CHUNK, "cpu", 700)
    assert shell(*words, "--name", "mapped") == 0
    assert "All 18 steps are identical, bit for bit" in shell.out
    config = json.loads(Path("runs/mapped/manual/config.json").read_text(encoding="utf-8"))
    assert config["chunk_size"] == 700
    a, b = (read_run(Path("runs", name, "manual"))[1] for name in ("held", "mapped"))
    assert (stacked(a) - stacked(b)).abs().max() < 1e-13
    assert shell("--resume", "runs/mapped", "--epochs", "4") == 0


def peak(process: subprocess.Popen[Any]) -> float:
    """The most memory in GB that a process holds, pages of mapped files aside."""
    most = 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                most = max(most, int(line.split()[1]))
        time.sleep(0.02)
    return most / 1e6


@pytest.mark.large
def test_4_gb_of_data_take_half_a_gb_of_memory(tmp_path: Path) -> None:
    """Three steps of the full batch of 268 million rows, w = 2 − (1 − 2α·mean x²)³ at the end."""
    path, count, square = tmp_path / "large.npy", 2**28, 0.0
    try:
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(count, 2))
        for k in range(0, count, 2**22):
            x = np.random.default_rng(k).uniform(-1, 1, 2**22)
            rows[k : k + 2**22] = np.stack([x, 2 * x], axis=1)
            square += float(np.square(x).sum()) / count
        del rows
        words = ["--data", str(path), "--batch-size", "full", "--epochs", "3", "--lr", "0.3"]
        process = script(tmp_path, *words, "--no-figures")
        memory = peak(process)
        out, err = process.communicate()
    finally:
        path.unlink(missing_ok=True)
    assert process.returncode == 0, err
    print(f"{memory:.2f} GB")
    assert memory < 0.5
    _, *weights, difference, _ = out.splitlines()[2].split()
    assert float(difference) == 0
    w = 2 - (1 - 2 * 0.3 * square) ** 3
    assert [float(found) for found in weights] == pytest.approx([w, w], rel=1e-12)
