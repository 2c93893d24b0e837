"""Data larger than memory, a chunk at a time."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
import train
from helpers import ENVIRONMENT, SCRIPT, left, same_bits, stacked
from hypothesis import given
from hypothesis import strategies as st

from torchgd import Batches, Linear, Quadratic, autograd_gradient, manual_gradient
from torchgd.data import DataSet
from torchgd.experiment import experiment
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.folder import read_run
from torchgd.experiment.outcome import run_update
from torchgd.experiment.parallel import in_chunks
from torchgd.experiment.sources import BLOCK, Column, Slices, load, sha256, synthetic
from torchgd.models import Model

F64 = torch.float64
CPU = torch.device("cpu")


def gradients(model: Model, loss: torch.Tensor) -> torch.Tensor:
    return torch.stack([loss, *(w.grad for w in model.parameters() if w.grad is not None)])


@given(count=st.integers(1, 300), size=st.integers(1, 301), data=st.data())
def test_any_chunks_give_the_same_gradient(count: int, size: int, data: st.DataObject) -> None:
    """N terms added in another order: apart by Nε of Σ|terms|; and by both updates to the bit."""
    seed = data.draw(st.integers(0, 9))
    points = synthetic(count, seed, curved=True)
    seen: list[int] = []
    make: Callable[..., Model] = data.draw(st.sampled_from([Linear, Quadratic]))
    model = make(dtype=F64)
    with torch.no_grad():
        r = model(points.x) - points.y
        partials = model.partials(points.x).values()
        terms = [(r**2).mean(), *((2 * r * p).abs().mean() for p in partials)]
    whole = gradients(model, manual_gradient(model, points.x, points.y))
    by_hand = gradients(
        model, in_chunks(manual_gradient, size, seen.append)(model, points.x, points.y)
    )
    assert sum(seen) == count
    usual = gradients(model, in_chunks(autograd_gradient, size)(model, points.x, points.y))
    assert same_bits(by_hand, usual)
    assert ((by_hand - whole).abs() <= (count + 3) * 2.3e-16 * torch.stack(terms)).all()


def streamed(points: DataSet) -> DataSet:
    """The same numbers, read when they are asked for."""
    x, y = (Column(lambda a, b, t=t: t[a:b], 0, len(t)) for t in (points.x, points.y))  # type: ignore[misc]
    return DataSet(points.name, x, y)


@pytest.mark.parametrize("update", ["manual", "autograd"])
@pytest.mark.parametrize("size", [7, 47])
def test_a_descent_in_chunks_is_the_one_without(update: str, size: int) -> None:
    points = load("cars")
    asked: dict[str, Any] = {
        "data": "cars",
        "lr": 1e-4,
        "batch_size": size,
        "epochs": 5,
        "momentum": 0.5,
    }
    whole = run_update(Experiment(Configuration(**asked)), update)
    for chunk in (1, 3, 50):
        cut_up = run_update(Experiment(Configuration(**asked, chunk_size=chunk)), update)
        apart = (stacked(cut_up.trajectory) - stacked(whole.trajectory)).abs().max()
        assert apart <= 1e-13 * stacked(whole.trajectory).abs().max()
        assert cut_up.loss.item() == pytest.approx(whole.loss.item(), rel=1e-13)
    batches = Slices(streamed(points).x, streamed(points).y, size)
    assert len(batches) == len(Batches(points.x, points.y, size))
    for (a, _), (b, _) in zip(batches, Batches(points.x, points.y, size), strict=True):
        assert torch.equal(a.to(CPU, F64), b)


@given(data=st.data(), curved=st.booleans())
def test_any_part_of_the_synthetic_points_is_that_of_all(data: st.DataObject, curved: bool) -> None:
    count = 2 * BLOCK + 5
    a = data.draw(st.integers(0, count))
    b = data.draw(st.integers(a, count))
    points = synthetic(count, 3, curved)
    for k, whole in enumerate((points.x, points.y)):
        column = (synthetic(2**40, 3, curved).x, synthetic(2**40, 3, curved).y)[k]
        assert isinstance(column, Column)
        assert same_bits(column[a:b].to(CPU, F64), whole[a:b])
        assert len(column[a:b][: (b - a) // 2]) == (b - a) // 2


def test_the_synthetic_points_are_of_the_model_and_its_seed() -> None:
    line, curve = load("synthetic:1000"), load("synthetic:1000", seed=1, curved=True)
    assert (line.y - 2 * line.x).std().item() == pytest.approx(0.1, rel=0.1)
    assert (curve.y - (3 * curve.x**2 + 2 * curve.x + 1)).std().item() == pytest.approx(
        0.1, rel=0.1
    )
    assert not torch.equal(line.x, curve.x)
    other = load("synthetic:1000", seed=1)
    assert sha256(line.x, line.y) != sha256(other.x, other.y)


@pytest.mark.parametrize("count", ["", "0", "-1", "1e3", "9999999999999999999"])
def test_what_is_no_number_of_rows(count: str) -> None:
    with pytest.raises(ValueError, match="give a number of rows, such as synthetic:1000000$"):
        load(f"synthetic:{count}")


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


class Shell(helpers.Shell):
    def __call__(self, *words: str) -> int:
        return super().__call__(*words, "--no-figures")


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


@pytest.mark.parametrize(("words", "message"), [
    ("--shuffle", "shuffle needs the data in memory, not in chunks; leave it out"),
    ("--standardize", "standardize needs the data in memory, not in chunks; leave it out"),
    ("--compile", "compile needs the data in memory, not in chunks; leave it out"),
    ("--lr auto", "lr auto needs the data in memory, not in chunks; give a number"),
    ("--update affine", "--update affine needs the data in memory; leave --chunk-size out"),
    ("--chunk-size 0", "argument --chunk-size: '0' is not an integer of at least 1"),
    ("--batch-size 999999", "batch size 999999: it must be between 1 and the number of samples, "
     "100000"),
])  # fmt: skip
def test_what_cannot_be_had_in_chunks(shell: Shell, words: str, message: str) -> None:
    assert shell(*STREAM, *words.split()) == 2
    assert shell.err == f"train.py: {message}\n"
    assert not Path("runs").exists()


def test_a_run_in_chunks_that_diverges(shell: Shell) -> None:
    assert shell(*STREAM, "--lr", "1e200", "--epochs", "9") == 1
    assert shell.err.endswith("the learning rate is 1e+200; try a smaller one\n")


def test_a_large_file_is_trained_on_where_it_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = synthetic(5000, 1, curved=False)
    np.save("mine.npy", torch.stack([points.x, points.y], dim=1).numpy())
    words = "--data mine.npy --batch-size 999 --lr 0.1 --epochs 3".split()
    assert shell(*words, "--name", "held") == 0
    monkeypatch.setattr("torchgd.experiment.sources.LARGE", 100)
    monkeypatch.setitem(experiment.CHUNK, "cpu", 700)
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
@pytest.mark.parametrize("update", ["manual", "autograd"])
def test_4_gb_of_data_take_1_gb_of_memory(tmp_path: Path, update: str) -> None:
    """Three steps of the full batch of 268 million rows, w = 2 − (1 − 2α·mean x²)³ at the end."""
    path, count = tmp_path / "large.npy", 2**28
    try:
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(count, 2))
        for k in range(0, count, 2**22):
            x = np.random.default_rng(k).uniform(-1, 1, 2**22)
            rows[k : k + 2**22] = np.stack([x, 2 * x], axis=1)
        square = sum(
            float(np.square(rows[k : k + 2**22, 0]).sum()) for k in range(0, count, 2**22)
        ) / count  # fmt: skip
        del rows
        words = ["--data", str(path), "--batch-size", "full", "--epochs", "3", "--lr", "0.3"]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *words, "--update", update, "--no-figures"],
            cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        memory = peak(process)
        assert process.stdout is not None
        out = process.stdout.read()
        process.stdout.close()
        assert process.returncode == 0
    finally:
        path.unlink(missing_ok=True)
    w = float(out.splitlines()[2].split()[1])
    assert w == pytest.approx(2 - (1 - 2 * 0.3 * square) ** 3, rel=1e-12)
    print(f"{update}: {memory:.2f} GB")
    assert memory < 1.5
