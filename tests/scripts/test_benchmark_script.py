"""The benchmark's sides do the same work; how long they take is no test."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import benchmark
import peers
import pytest
import torch
from helpers import Shell, needs_compiler, shell_of

from torchgd import Linear, Quadratic
from torchgd.experiment.files import read_json

CPU = torch.device("cpu")
X, Y = peers.points(300, CPU)
shell = shell_of(benchmark.main)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(("works", "count"), [
    (partial(benchmark.small_steps, CPU, 2), 2),
    (partial(benchmark.per_sample, Linear, peers.line, X, Y), 6),
    (partial(benchmark.per_sample, Quadratic, peers.parabola, X, Y), 6),
    pytest.param(partial(benchmark.full_batch, CPU, 1000), 2, marks=needs_compiler),
])  # fmt: skip
def test_the_sides_agree(works: Callable[[], Iterator[benchmark.Work]], count: int) -> None:
    found = list(works())
    assert len(found) == count
    for work in found:
        if "SGDRegressor" in work.peer:
            pytest.importorskip("sklearn")
        if "--compile" not in work.name:
            benchmark.measure(work, 1)


def test_sides_that_disagree_are_refused() -> None:
    work = benchmark.Work("one", lambda _: [1.0], "two", lambda _: [2.0])
    said = r"^one beside two: weights \[1\.0\] and \[2\.0\]; no time counts$"
    with pytest.raises(ValueError, match=said):
        benchmark.measure(work, 1)


def test_a_table_of_one_work(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes 0.02 s: for two units of ours, and for one of theirs.

    scikit-learn is missing, and so its row alone.
    """
    one = benchmark.Work("this", lambda _: [1.0], "that", lambda _: [1.0], 2, 1)
    other = benchmark.Work("this", lambda _: [1.0], "SGDRegressor", lambda _: [1.0])
    monkeypatch.setattr(benchmark, "timeit", lambda *_, number: 0.02)
    monkeypatch.setattr(benchmark, "works", lambda device, quick: [one, other])
    monkeypatch.setattr(benchmark, "python", lambda *words: "0.5")
    monkeypatch.setattr(benchmark, "find_spec", {"numba": True}.get)
    assert shell("--quick", "--json", "found.json") == 0
    head, first, affine, *_ = (re.split(r" {2,}", line) for line in shell.out.splitlines())
    assert head[:2] == ["work", "torchgd"]
    assert first == ["this", "10.000 ms", "that", "20.000 ms", "0.5 (0.5 to 0.5)"]
    assert affine[0].endswith(", the ends recorded: 0.5 GB above the data")
    found = read_json(Path("found.json"))
    assert len(found["memory"]) == 2
    assert [row["peer"] for row in found["rows"]] == ["that"]
    assert "this beside SGDRegressor: left out, for sklearn is missing\n" in shell.err
    assert shell("--device", "tpu") == 2
