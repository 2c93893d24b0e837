"""What tests/on_device.py, the command for the first GPU, says and sees without one."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import device_findings as look
import on_device
import pretend
import pytest
import torch
from helpers import BESIDE_CUDA
from torch import Tensor

from torchgd import ManualSGD, Model, manual_gradient
from torchgd.experiment.files import read_json

pytestmark = pytest.mark.skipif(pretend.CUDA, reason=BESIDE_CUDA)
PASSED = look.Finding("pytest -k few", "7 passed", True)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """It looks at little, and starts no process."""
    monkeypatch.setattr(look, "SIZES", [1, 33])
    monkeypatch.setattr(look, "STEPS", 40)
    monkeypatch.setattr("torchgd.proof.optimizers.option_sets", lambda like: [{"momentum": 0.9}])
    monkeypatch.setattr(on_device, "process", lambda *_: iter([PASSED]))
    monkeypatch.setattr(on_device, "BEGAN", time.monotonic())
    return lambda: on_device.main([str(tmp_path / "made")])


def test_without_a_gpu_it_says_what_it_could_not_see(
    command: Callable[[], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    out, err = capsys.readouterr()
    found = read_json(tmp_path / "made" / "on_device.json")
    assert found["device"] == pretend.NAME
    assert [*found["found"]] == err.split() == ["rounding", "bits", "waits", "tests"]
    assert all(row["good"] for rows in found["found"].values() for row in rows)
    assert out == (tmp_path / "made" / "on_device.txt").read_text(encoding="utf-8")
    assert " yes  by hand = autograd = again = in chunks, 1 to 33 samples: the same bits\n" in out
    *_, held, unseen = out.splitlines()
    assert held == "7 of 7 are as expected."
    assert unseen.startswith("Not to be seen on a pretended device: how CUDA rounds, in which ")
    assert unseen.endswith("; a GPU's digests; the benchmark.")


def off_by_a_bit(model: Model, x: Tensor, y: Tensor) -> Tensor:
    loss = manual_gradient(model, x, y)
    return loss.nextafter(2 * loss)


def asks(model: Model, x: Tensor, y: Tensor) -> Tensor:
    loss = manual_gradient(model, x, y)
    loss.item()
    return loss


def fails(*_: Any) -> Tensor:
    raise RuntimeError("CUDA error: no kernel image is available")


class Twice(ManualSGD):
    """Rounds w − α·g twice."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        w.sub_(g * group["lr"])


FAULTS: dict[str, tuple[str, Any, str]] = {
    "a bit": ("autograd_gradient", off_by_a_bit, "['Linear torch.float32 1 + 0 autograd', "),
    "a wait": ("MANUAL", (asks, ManualSGD), "  NO  waits in 40 steps by asks: {"),
    "an error": ("manual_gradient", fails, "RuntimeError: CUDA error: no kernel image is availab"),
    "an optimizer": ("ManualSGD", Twice, "  NO  ManualSGD beside torch.optim.SGD: 0 of 1 option"),
}


@pytest.mark.parametrize(("name", "fault", "said"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(
    name: str, fault: Any, said: str, command: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """And what comes after it is looked at, too."""
    monkeypatch.setattr(look, name, fault)
    assert command() == 1
    out = capsys.readouterr().out
    assert said in out
    assert str(PASSED) in out


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in CUDA's place, and eager gradients in that of compiled ones."""
    monkeypatch.setattr(look, "DEVICE", "cpu")
    monkeypatch.setattr(look, "TIMED", [1, 9])
    monkeypatch.setattr(look, "BATCHES", [(1, 4), (7, 20)])
    monkeypatch.setattr(look, "compiled", lambda gradient, x: gradient)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.parametrize(("section", "count"), [
    (look.step_times, 4), (look.compiled_gradients, 5), (partial(look.bandwidth, 1000), 1),
])  # fmt: skip
def test_what_only_cuda_shows(
    section: Callable[[], Iterator[look.Finding]], count: int, cpu: None
) -> None:
    found = list(section())
    assert len(found) == count
    assert [one.good for one in found] == {4: [None] * 4, 5: [True] * 5, 1: [False]}[count]


def test_a_processs_last_words_are_kept() -> None:
    """All of them where it failed, and where it was too slow how long it had."""
    for most, code, said, good in (
        (60.0, "print('early'); print('3 passed')", "3 passed", True),
        (60.0, "print('early'); raise SystemExit('1 failed')", "early\n1 failed", False),
        (1.0, "import time; time.sleep(60)", "not done in 1 s", False),
    ):
        (found,) = on_device.process(most, "-c", code)
        assert (found.found, found.good) == (said, good)


def test_what_there_is_no_time_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "left", lambda: 0.0)
    (found,) = on_device.found_in("bits", look.same_gradients)
    assert (found.what, found.found, found.good) == ("bits", "left out: the time is over", False)
