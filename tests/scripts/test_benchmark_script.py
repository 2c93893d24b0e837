"""The benchmark's sides do the same work; how long they take is no test."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import benchmark
import pytest
import torch
from helpers import Shell, needs_compiler, shell_of

from torchgd import Batches, Linear, Quadratic, manual_gradient
from torchgd.experiment.files import read_json

CPU = torch.device("cpu")
X, Y = benchmark.points(300, CPU)
shell = shell_of(benchmark.main)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(("works", "count"), [
    (partial(benchmark.small_steps, CPU, 2), 3),
    (partial(benchmark.per_sample, Linear, benchmark.line, X, Y), 6),
    (partial(benchmark.per_sample, Quadratic, benchmark.parabola, X, Y), 6),
    (partial(benchmark.many_samples, CPU, 300), 2),
    pytest.param(partial(benchmark.full_batch, CPU, 1000), 4, marks=needs_compiler),
])  # fmt: skip
def test_the_sides_agree(works: Callable[[], Iterator[benchmark.Work]], count: int) -> None:
    found = list(works())
    assert len(found) == count
    for work in found:
        if "SGDRegressor" in work.peer:
            pytest.importorskip("sklearn")
        if "--compile" not in work.name:
            size = work.peer_size or work.size
            benchmark.agree(work.name, work.ours(size), work.theirs(size), work.error)


def test_numpys_full_batch_is_ours() -> None:
    way = benchmark.step_by_step(manual_gradient)
    ours = benchmark.trained(way, Linear, Batches(X, Y, len(X)), 5)
    assert benchmark.numpy_full_batch(X, Y, 5) == pytest.approx(ours, rel=1e-12)


def test_sides_that_disagree_are_refused() -> None:
    work = benchmark.Work("one", lambda _: [1.0], "two", lambda _: [2.0])
    said = r"^one beside two: weights \[1\.0\] and \[2\.0\]; no time counts$"
    with pytest.raises(ValueError, match=said):
        benchmark.measure(work, 1)


def test_a_table_of_one_work(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes 2 s: for two units of ours, and for one of theirs.

    scikit-learn is missing, and so its row alone.
    """
    one = benchmark.Work("this", lambda _: [1.0], "that", lambda _: [1.0], 2, 1)
    other = benchmark.Work("this", lambda _: [1.0], "SGDRegressor", lambda _: [1.0])
    monkeypatch.setattr(benchmark, "timeit", lambda *_, number: 2.0)
    monkeypatch.setattr(benchmark, "works", lambda device, quick: [one, other])
    monkeypatch.setattr(benchmark, "python", lambda *words: "0.5")
    monkeypatch.setattr(benchmark, "by_processes", lambda count, rows: ([1.0], 3.0 / count))
    monkeypatch.setattr(benchmark, "find_spec", {"numba": True}.get)
    assert shell("--quick", "--json", "found.json") == 0
    head, first, second, *_ = (re.split(r" {2,}", line) for line in shell.out.splitlines())
    assert head[:2] == ["work", "torchgd"]
    assert first == ["this", "1 s", "that", "2 s", "0.5 (0.5 to 0.5)"]
    assert second[0] == "full batch of 1000000 by hand, 2 processes"
    assert second[-1] == "0.5 (0.5 to 0.5)"
    assert "this beside SGDRegressor: left out, for sklearn is missing\n" in shell.err
    found = read_json(Path("found.json"))
    assert [*found["memory_gb"].values()] == [0.5, 0.5]
    assert [row["peer"] for row in found["rows"]] == ["that", "1 process"]
    assert shell("--device", "tpu") == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(2, "2 s"), (0.0123, "12.3 ms"), (3e-5, "30 µs"), (2.5e-8, "25 ns")]
)
def test_quantities(seconds: float, text: str) -> None:
    assert benchmark.quantity(seconds) == text
