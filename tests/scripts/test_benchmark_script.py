"""The benchmark's sides do the same work; how long they take is no test."""

import sys
from pathlib import Path

import benchmark
import pytest
import torch
from helpers import Shell, needs_compiler

from torchgd import Batches, Linear

CPU = torch.device("cpu")


def test_the_sides_of_a_small_step_and_of_logging_agree() -> None:
    works = list(benchmark.small_steps(CPU, 2))
    assert len(works) == 4
    for work in works:
        benchmark.agree(work)


def test_the_sides_per_sample_agree() -> None:
    pytest.importorskip("sklearn")
    works = [w for w in benchmark.per_sample(CPU, 300) if "--compile" not in w.name]
    assert len(works) == 4
    for work in works:
        benchmark.agree(work)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@needs_compiler
def test_the_sides_of_many_samples_agree() -> None:
    pytest.importorskip("sklearn")
    for work in benchmark.many_samples(CPU, 300):
        if "--compile" not in work.name:
            benchmark.agree(work)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_sides_of_the_full_batch_agree() -> None:
    for work in benchmark.full_batch(CPU, 1000):
        if "--compile" not in work.name:
            benchmark.agree(work)
    x, y = benchmark.points(1000, CPU)
    found = benchmark.numpy_full_batch(x, y, 5)
    batches = Batches(x, y, 1000)
    assert found == pytest.approx(benchmark.train(Linear, batches, 5), rel=1e-12)


def test_sides_that_disagree_are_refused() -> None:
    work = benchmark.Work("one", lambda _: [1.0], "two", lambda _: [2.0], (1, 1))
    with pytest.raises(ValueError, match=r"^one: weights \[1\.0\], two: \[2\.0\]; no time counts$"):
        benchmark.measure(work, 1)


def test_without_scikit_learn_its_rows_alone_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert [w.peer_name for w in benchmark.per_sample(CPU, 10)] == ["bare autograd + SGD loop"] * 2
    assert capsys.readouterr().err.count("scikit-learn is missing: its rows are left out;") == 2


def test_a_table_of_one_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = benchmark.Work("this", lambda _: [1.0], "that", lambda _: [1.0], (1, 1), goal="2")
    monkeypatch.setattr(benchmark, "works", lambda device, quick: [one])
    monkeypatch.setattr(benchmark, "process", lambda command, _: [0.5])
    monkeypatch.setattr(benchmark, "seconds", lambda processes, rows: 3.0 / processes)
    shell = Shell(benchmark.main, tmp_path, capsys)
    assert shell("--quick", "--json", str(tmp_path / "found.json")) == 0
    assert shell.out.splitlines()[0].split()[:2] == ["work", "torchgd"]
    assert shell.out.splitlines()[1].startswith("this ")
    assert "2 processes beside 1, one thread each: 0.50 (0.50 to 0.50)" in shell.out
    assert '"memory_gb": 0.5' in (tmp_path / "found.json").read_text(encoding="utf-8")
    assert shell("--device", "tpu") == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(2, "2 s"), (0.0123, "12.3 ms"), (3e-5, "30 µs"), (2.5e-8, "25 ns")]
)
def test_quantities(seconds: float, text: str) -> None:
    assert benchmark.quantity(seconds) == text
