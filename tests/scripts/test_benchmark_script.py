"""The benchmark's sides do the same work; how long they take is no test."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import benchmark
import pytest
import torch
from helpers import Shell, needs_compiler, shell_of

from torchgd import Batches
from torchgd.experiment.files import read_json

CPU = torch.device("cpu")
shell = shell_of(benchmark.main)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(
    ("works", "size", "count"),
    [
        (benchmark.small_steps, 2, 4),  # logging is one of them
        (benchmark.per_sample, 300, 12),
        (benchmark.many_samples, 300, 2),
        pytest.param(benchmark.full_batch, 1000, 4, marks=needs_compiler),
    ],
)
def test_the_sides_agree(
    works: Callable[[torch.device, int], Iterator[benchmark.Work]], size: int, count: int
) -> None:
    if "sample" in works.__name__:
        pytest.importorskip("sklearn")
        pytest.importorskip("numba")
    found = list(works(CPU, size))
    assert len(found) == count
    for work in found:
        if "--compile" not in work.name:
            benchmark.agree(work)


def test_numpys_full_batch_is_ours() -> None:
    x, y = benchmark.points(1000, CPU)
    ours = benchmark.train(Batches(x, y, 1000), 5)
    assert benchmark.numpy_full_batch(x, y, 5) == pytest.approx(ours, rel=1e-12)


def test_sides_that_disagree_are_refused() -> None:
    work = benchmark.Work("one", lambda _: [1.0], "two", lambda _: [2.0])
    with pytest.raises(ValueError, match=r"^one: weights \[1\.0\], two: \[2\.0\]; no time counts$"):
        benchmark.measure(work, 1)


def test_without_scikit_learn_its_rows_alone_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "SGDRegressor" not in {w.peer_name for w in benchmark.per_sample(CPU, 10)}
    assert capsys.readouterr().err.count("scikit-learn is missing: its rows are left out;") == 1


def test_a_table_of_one_work(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes 2 s: for two units of ours, and for one of theirs."""
    one = benchmark.Work("this", lambda _: [1.0], "that", lambda _: [1.0], 2, 1, goal="0.4")
    monkeypatch.setattr(benchmark, "timeit", lambda *_, number: 2.0)
    monkeypatch.setattr(benchmark, "works", lambda device, quick: [one])
    monkeypatch.setattr(benchmark, "python", lambda *words: "0.5")
    monkeypatch.setattr(benchmark, "seconds", lambda processes, rows: 3.0 / processes)
    assert shell("--quick", "--json", "found.json") == 0
    assert shell.out.splitlines()[0].split()[:2] == ["work", "torchgd"]
    row = ["this", "1 s", "that", "2 s", "0.5 (0.5 to 0.5)", "0.4"]
    assert re.split(r" {2,}", shell.out.splitlines()[1]) == row
    assert "2 processes beside 1, one thread each: 0.50 (0.50 to 0.50)" in shell.out
    found = read_json(Path("found.json"))
    assert (found["memory_gb"]["affine"], found["rows"][0]["goal"]) == (0.5, "0.4")
    assert shell("--device", "tpu") == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(2, "2 s"), (0.0123, "12.3 ms"), (3e-5, "30 µs"), (2.5e-8, "25 ns")]
)
def test_quantities(seconds: float, text: str) -> None:
    assert benchmark.quantity(seconds) == text
