"""scripts/benchmark.py counts no time before two ways agree; its figures are not tested."""

import benchmark
import pytest
import torch
from benchmark import Row, Work, cells, measure, readable
from torch import Tensor

CPU = torch.device("cpu")


def work(weight: float, same: float | None = None) -> tuple[Work, list[str]]:
    ran: list[str] = []

    def job(name: str, value: float) -> Tensor:
        ran.append(name)
        return torch.tensor([1.0, value])

    checked = None if same is None else lambda: job("same", same)
    ours, peer = ("ours", lambda: job("ours", 2.0), 10), ("peer", lambda: job("peer", weight), 5)
    return Work("work", "step", ours, peer, 1e-6, checked), ran


def test_both_are_timed_in_turn() -> None:
    asked, ran = work(2.0)
    row = measure(asked, CPU, 3)
    assert ran[3:] == ["ours", "peer"] * 3
    assert row.least <= row.ratio <= row.most
    assert row.seconds > 0
    assert row.peer_seconds > 0


@pytest.mark.parametrize("weight", [2.1, float("nan")])
def test_where_the_weights_differ_no_time_counts(weight: float) -> None:
    asked, ran = work(weight)
    with pytest.raises(ValueError, match="^work: ours and peer differ by .*: no time counts$"):
        measure(asked, CPU, 3)
    assert ran == ["ours", "ours", "peer"]


def test_a_peer_that_goes_through_less_is_checked_on_that() -> None:
    assert measure(work(7.0, same=7.0)[0], CPU, 1).work == "work"
    with pytest.raises(ValueError, match="no time counts"):
        measure(work(2.0, same=7.0)[0], CPU, 1)


def test_the_table() -> None:
    row = Row("work", "ours", "peer", "step", 2.5e-8, 1.25e-3, 5e4, 4e4, 6e4)
    assert cells(row) == [
        "work",
        "ours",
        "peer",
        "25 ns/step",
        "1.25 ms/step",
        "5e+04 (4e+04–6e+04)",
    ]
    assert [readable(t) for t in (2.0, 3.1e-5)] == ["2 s", "31 µs"]


def test_peers_take_the_same_descent() -> None:
    """Each of the small works, as it is measured, and scikit-learn's where it is installed."""
    for one in benchmark.small_steps(CPU, quick=True):
        assert measure(one, CPU, 1).work == one.name


def test_a_bad_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        benchmark.main(["--device", "tpu"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "benchmark.py: device 'tpu': choose auto, cpu, cuda or cuda:N\n"
    )
