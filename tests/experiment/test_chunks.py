"""Data larger than memory, a chunk at a time."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train
from helpers import Shell, contents, left, same_bits, saved, script, shell_of, stacked
from hypothesis import given
from hypothesis import strategies as st

from torchgd import Linear, Quadratic, autograd_gradient, manual_gradient
from torchgd.experiment import resolve, sources
from torchgd.experiment.command_line import Stop
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.files import read_json
from torchgd.experiment.folder import read_run
from torchgd.experiment.parallel import in_chunks
from torchgd.experiment.run import outcome_of
from torchgd.experiment.sources import BLOCK, CHUNK, Mapped, load, sha256, synthetic
from torchgd.gradients import partial_derivatives
from torchgd.models import Model

F64 = torch.float64
shell = shell_of(train.main, "--no-figures")


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
    asked: dict[str, Any] = {
        "data": "cars", "lr": 1e-4, "batch_size": size, "momentum": 0.5, "epochs": 5,
        "update": update,
    }  # fmt: skip
    whole = outcome_of(Configuration(**asked))
    for chunk in (1, 3, 50):
        cut_up = outcome_of(Configuration(**asked, chunk_size=chunk))
        apart = (stacked(cut_up.trajectory) - stacked(whole.trajectory)).abs().max()
        assert apart <= 1e-13 * stacked(whole.trajectory).abs().max()
        assert cut_up.loss.item() == pytest.approx(whole.loss.item(), rel=1e-13)


@pytest.mark.parametrize("curved", [False, True])
def test_a_synthetic_point_is_the_same_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, curved: bool
) -> None:
    """In memory and, if they are large, in a file that has no name."""
    points = synthetic(2 * BLOCK + 5, 3, curved)
    for count in (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5):
        for large in (sources.LARGE, 0):
            monkeypatch.setattr(sources, "LARGE", large)
            part = synthetic(count, 3, curved)
            assert same_bits(part.x, points.x[:count])
            assert same_bits(part.y, points.y[:count])


def test_the_synthetic_points_are_of_the_model_and_its_seed() -> None:
    line, curve = load("synthetic:1000"), load("synthetic:1000", seed=1, curved=True)
    assert (line.y - 2 * line.x).std().item() == pytest.approx(0.1, rel=0.1)
    noise = curve.y - (3 * curve.x**2 + 2 * curve.x + 1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(line.x, curve.x)
    assert sha256(line) != sha256(load("synthetic:1000", seed=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_file_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    path, rows = tmp_path / "mine.npy", np.arange(40.0).astype(dtype).reshape(20, 2)
    np.save(path, rows)
    held = load(str(path))
    monkeypatch.setattr(sources, "LARGE", 100)
    mapped = load(str(path))
    assert isinstance(mapped, Mapped)
    assert mapped.x.dtype == getattr(torch, dtype)
    assert torch.equal(mapped.x.double(), held.x)
    assert torch.equal(mapped.y.double(), held.y)
    assert sha256(mapped) == sha256(held)
    before = path.read_bytes()
    mapped.x[3] = 0.0  # as a model might: it is a copy that changes
    assert path.read_bytes() == before
    rows[17, 1] = np.nan
    np.save(path, rows)
    with pytest.raises(ValueError, match=r"mine\.npy, row 17: \[34\.0, nan\] is not finite; remov"):
        load(str(path))
    np.save(path, rows[:17].astype(int))
    with pytest.raises(ValueError, match="dtype int64; save so many rows as float64 or float32"):
        load(str(path))


STREAM = "--data synthetic:100000 --batch-size 30000 --chunk-size 7000 --lr 0.1 --epochs 4".split()


def test_a_run_in_chunks_goes_on_to_the_same_files(shell: Shell) -> None:
    assert shell(*STREAM, "--name", "whole") == 0
    assert "All 16 steps are identical, bit for bit" in shell.out
    assert shell(*STREAM[:-1], "2", "--name", "parts") == 0
    assert shell("--resume", "runs/parts", "--epochs", "4") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


def test_a_run_in_chunks_that_diverges(shell: Shell) -> None:
    steep = ["1e200" if word == "0.1" else word for word in STREAM]
    assert shell(*steep) == 1
    assert "at the learning rate 1e+200 an epoch leaves float64; here rates are " in shell.err


@pytest.mark.parametrize("flags", ["--lr auto", "--lr 0.1 0.2 --update manual"])
def test_rates_need_no_data_in_memory(shell: Shell, flags: str) -> None:
    words = ["--data", "cars", "--batch-size", "full", *flags.split(), "--epochs", "3", "--name"]
    status = shell(*words, "a")
    assert shell(*words, "b", "--chunk-size", "9") == status
    tables = [sorted(Path("runs", name).rglob("trajectory.csv")) for name in "ab"]
    assert len(tables[0]) == 2
    for ours, whole in zip(*tables, strict=True):
        paths = [stacked(read_run(table.parent)[1]) for table in (ours, whole)]
        assert (paths[0] - paths[1]).abs().max() <= 1e-13 * paths[1].abs().max()


ON_DISK = "--data mine.npy --batch-size 999 --lr 0.1 --epochs 3 --device cpu".split()


@pytest.fixture
def mapped(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 5,000 points that is large enough to stay on the disk, and 700 a chunk."""
    points = synthetic(5000, 1, curved=False)
    np.save("mine.npy", torch.stack([points.x, points.y], dim=1).numpy())
    for module in (sources, resolve):
        monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setitem(CHUNK, "cpu", 700)
    return Path("mine.npy")


def test_a_large_file_is_trained_on_where_it_is(
    shell: Shell, mapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell(*ON_DISK, "--name", "mapped") == 0
    assert "All 18 steps are identical, bit for bit" in shell.out
    assert read_json(Path("runs/mapped/manual/config.json"))["chunk_size"] == 700
    assert shell("--resume", "runs/mapped", "--epochs", "4") == 0
    for module in (sources, resolve):
        monkeypatch.setattr(module, "LARGE", 2**30)
    assert shell(*ON_DISK, "--epochs", "4", "--name", "held") == 0
    a, b = (read_run(Path("runs", name, "manual"))[1] for name in ("held", "mapped"))
    assert (stacked(a) - stacked(b)).abs().max() < 1e-13


def rewritten(path: Path) -> None:
    """In place, as another program does, and at another time: clocks are coarse."""
    content, time = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(time, time + 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": rewritten,
    "cut short": lambda path: os.truncate(path, 4096),  # reading on would kill the process
    "empty": lambda path: os.truncate(path, 0),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", [0, 7, 17])
def test_a_file_that_changes_while_a_run_reads_it_is_one_line(
    shell: Shell, mapped: Path, monkeypatch: pytest.MonkeyPatch, change: str, step: int
) -> None:
    """What was saved stays, and the run goes on when the file is back."""
    content, time = mapped.read_bytes(), mapped.stat().st_mtime_ns
    asked = iter(range(step))

    def stop(_: Stop) -> bool:
        if next(asked, None) is None:
            CHANGES[change](mapped)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", stop)
        words = [*ON_DISK, "--checkpoint-every", "2steps", "--name", "parts"]
        assert shell(*words, "--update", "manual") == 2
    assert shell.err.splitlines()[-1].startswith("train.py: ")
    assert str(mapped) in shell.err.splitlines()[-1]
    assert "Traceback" not in shell.err
    assert saved(Path("runs/parts/manual")) == step // 2 * 2
    before = contents(Path("runs/parts"))
    mapped.write_bytes(content)
    os.utime(mapped, ns=(time, time))
    assert contents(Path("runs/parts")) == before
    assert shell("--resume", "runs/parts") == 0
    assert shell(*ON_DISK, "--name", "whole", "--update", "manual") == 0
    assert left(Path("runs/parts")) == left(Path("runs/whole"))


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
    _, by_hand, usual, difference, _, least, _ = out.splitlines()[2].split()
    w = 2 - (1 - 2 * 0.3 * square) ** 3
    expected = pytest.approx([w, w, 2], rel=1e-12)
    assert [float(found) for found in (by_hand, usual, least)] == expected
    assert float(difference) == 0
