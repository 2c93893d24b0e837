"""A run's files that somebody else has made: refused in a line, or no harm.

What is refused leaves every file as it was, and nothing that is printed is more than a text.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import train
from helpers import Shell, contents, left, shell_of
from torch import Tensor

from torchgd.experiment.folder import read_run

shell = shell_of(train.main, "--no-figures")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lesson's run, of which each test spoils a copy."""
    folder = tmp_path_factory.mktemp("made")
    assert train.main(["--no-figures", "--log-dir", str(folder), "--name", "a"]) == 0
    return folder


@pytest.fixture(autouse=True)
def runs(shell: Shell, made: Path) -> None:
    """It is runs/a in the folder of the test."""
    shutil.copytree(made, shell.folder / "runs")


ESCAPE = "\x1b[2J\nforged"
F64 = torch.float64


def changed(values: dict[str, Any]) -> None:
    """Change what config.json says in both updates' directories."""
    for path in Path("runs/a").glob("*/config.json"):
        text = json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values})
        path.write_text(text, encoding="utf-8")


def nested(depth: int) -> Any:
    """An object in an object in an object."""
    found: Any = 1
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize("values", [
    {"lr": 10**30}, {"lr": 10**400}, {"epochs": 10**400}, {"threads": {"a": ESCAPE}},
    {"torch": None}, {"processes": "1"}, {"device_name": 5}, {"working_directory": 5},
    {"data": ESCAPE}, {"model": f"{ESCAPE}.py:A"}, {"update": ESCAPE}, {"update": ["manual"]},
    {"initial": {ESCAPE: 1.0}}, {"initial": {"w": "nan"}}, {"data_sha256": ESCAPE},
    {"dtype": nested(500)},
], ids=lambda values: str(values)[:40])  # fmt: skip
def test_what_no_config_says_is_refused(shell: Shell, values: dict[str, Any]) -> None:
    changed(values)
    before = contents(Path("runs"))
    assert shell("--resume", "runs/a", "--epochs", "60") == 2
    assert shell.err.startswith("train.py: ")
    assert shell.err.count("\n") == 1
    assert shell.err.rstrip("\n").isprintable()
    assert len(shell.err) < 500
    assert contents(Path("runs")) == before


@pytest.mark.parametrize("values", [
    {"torch": ESCAPE}, {"python": ESCAPE}, {"more": ESCAPE}, {"x_name": ESCAPE}, {"x_unit": 5},
    {"seconds": 10**400}, {"steps": -5}, {"samples": "no"}, {"more": nested(600)},
    {"order": ESCAPE}, {"order": 10**400}, {"order": None},
], ids=lambda values: str(values)[:40])  # fmt: skip
def test_what_decides_nothing_is_no_harm(shell: Shell, values: dict[str, Any]) -> None:
    """And config.json, written again, says what is so, but for where the run began."""
    before = json.loads(Path("runs/a/manual/config.json").read_text(encoding="utf-8"))
    changed(values)
    assert shell("--resume", "runs/a", "--epochs", "60") == 0
    assert all(line.isprintable() for line in (shell.out + shell.err).splitlines())
    began = {name: value for name, value in values.items() if name in ("torch", "python")}
    after = json.loads(Path("runs/a/manual/config.json").read_text(encoding="utf-8"))
    if "order" in values:
        began = {"order": after["order"]}
    assert after == {**before, "epochs": 60, "steps": 180, **began}


def vast() -> Tensor:
    """One number in 8 bytes that stands for 10⁸."""
    return torch.zeros(1, dtype=F64).expand(10**8)


def path(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["path"].update(parts)


def model(w: Tensor) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["model"].update(w=w)


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a vast weight": model(vast()),
    "a sparse weight": model(torch.zeros((), dtype=F64).to_sparse()),
    "a weight on no device": model(torch.zeros((), dtype=F64, device="meta")),
    "a complex weight": model(torch.zeros((), dtype=torch.complex128)),
    "a weight that is NaN": model(torch.tensor(torch.nan, dtype=F64)),
    "a vast lr": lambda content: content["optimizer"]["param_groups"][0].update(lr=vast()),
    "a vast velocity": lambda content: content["optimizer"].update(
        state={0: {"momentum_buffer": vast()}}
    ),
    "a vast identity": lambda content: content["identity"].update(lr=vast()),
    "an identity that escapes": lambda content: content["identity"].update(lr=ESCAPE),
    "an identity of lists": lambda content: content["identity"].update(lr=[[[ESCAPE]] * 99] * 99),
    "a vast format": lambda content: content.update(format=vast()),
    "a negative step": lambda content: content.update(step=-1),
    "a step too far": lambda content: content.update(step=10**30),
    "seconds that are NaN": lambda content: content.update(seconds=float("nan")),
    "negative seconds": lambda content: content.update(seconds=-1.0),
    "a vast table": path(table=torch.zeros(1, 3, dtype=F64).expand(150, 3)),
    "a vast path": path(step=torch.zeros(1).long().expand(10**8), epoch=vast(), table=vast()),
    "a table of another length": path(table=torch.zeros(149, 3, dtype=F64)),
    "a table in float32": path(table=torch.zeros(150, 3)),
    "a table on no device": path(table=torch.zeros(150, 3, dtype=F64, device="meta")),
    "a sparse table": path(table=torch.zeros(150, 3, dtype=F64).to_sparse()),
    "steps that are no integers": path(step=torch.arange(150.0)),
    "steps in another order": path(step=torch.arange(150).flip(0)),
    "steps beyond its own": path(step=torch.arange(1, 151)),
    "every second step": path(
        step=torch.arange(75) * 2, epoch=torch.arange(75) * 2 // 3, table=torch.ones(75, 3).double()
    ),
    "epochs of another length": path(epoch=torch.arange(3)),
    "another parameter": path(names=("v",)),
    "names that escape": path(names=(ESCAPE,)),
    "no names": path(names=None),
    "an end that is none": path(stopped="finished"),
    "an end that escapes": path(stopped=ESCAPE),
    "one column more": path(column=vast()),
    "one part more": lambda content: content.update({ESCAPE: 1}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_state_with_a_right_checksum_is_refused(shell: Shell, name: str) -> None:
    """In bounded memory: a tensor of 10⁸ numbers would be 0.8 GB if it were made."""
    path = Path("runs/a/manual/run.pt")
    content = torch.load(io.BytesIO(path.read_bytes()[:-32]), weights_only=True)
    FORGED[name](content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    before = contents(Path("runs"))
    assert shell("--resume", "runs/a", "--epochs", "60") == 2
    assert shell.err.startswith("train.py: runs/a/manual/")
    assert shell.err.count("\n") == 1
    assert shell.err.rstrip("\n").isprintable()
    assert len(shell.err) < 1000
    assert contents(Path("runs")) == before


def link(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").absolute())


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes by name")
@pytest.mark.parametrize("put", [link, pipe, folder])
@pytest.mark.parametrize("name", [".lock", "run.pt", "config.json", "trajectory.csv"])
def test_what_is_no_file_is_not_read_nor_written_through(
    shell: Shell, name: str, put: Callable[[Path], None]
) -> None:
    """A pipe that nobody writes to would be waited for."""
    path = Path("runs/a/manual", name)
    before = path.read_bytes() or b"anything"
    path.write_bytes(before)
    put(path)
    status, unread = shell("--resume", "runs/a", "--epochs", "60"), name == "trajectory.csv"
    if unread and put is not folder:
        assert status == 0  # it is replaced
        assert path.read_bytes().startswith(b"step,epoch")
    elif name != ".lock" or put is not pipe:  # which does as a lock
        assert (status, shell.err.count("\n")) == (2, 1)
        assert shell.err.startswith("train.py: ")
        assert str(path.parent if unread else path) in shell.err
    assert put is not link or Path("elsewhere").read_bytes() == before


@pytest.mark.parametrize("put", [link, folder])
def test_a_table_that_is_no_file_is_not_read(put: Callable[[Path], None]) -> None:
    put(Path("runs/a/manual/trajectory.csv"))
    with pytest.raises(ValueError, match=r"trajectory\.csv is no regular file; give a file\)"):
        read_run(Path("runs/a/manual"))


@pytest.mark.parametrize("name", [
    "events.out.tfevents.", "events.out.tfevents.x.y", "events.out.tfevents.9999999999999.x",
    "events.out.tfevents.999999999999.x", "events.out.tfevents.\x1b[2J",
])  # fmt: skip
def test_a_foreign_event_file_is_left_alone(shell: Shell, name: str) -> None:
    foreign = Path("runs/a/manual", name)
    foreign.write_bytes(b"not events")
    assert shell("--resume", "runs/a", "--epochs", "60") == 0
    assert foreign.read_bytes() == b"not events"
    assert shell("--epochs", "60", "--name", "whole") == 0
    assert left(Path("runs/a")) == left(Path("runs/whole"))


def test_a_run_of_version_0_1_is_refused(shell: Shell) -> None:
    changed({"torchgd": "0.1.0", "updates": ["manual", "autograd"]})
    before = contents(Path("runs"))
    assert shell("--resume", "runs/a") == 2
    assert shell.err == (
        "train.py: runs/a/autograd is a run of torchgd 0.1, which this version does not read: run "
        "it again, or install torchgd 0.1\n"
    )
    with pytest.raises(ValueError, match="is a run of torchgd 0.1, which this version does not"):
        read_run(Path("runs/a/manual"))
    assert contents(Path("runs")) == before


def test_names_of_data_are_texts(shell: Shell) -> None:
    Path("data\x1b[2J.csv").write_text("hours \x9b (h),score\n1,2\n2,4\n3,6\n", encoding="utf-8")
    assert shell("--data", "data\x1b[2J.csv", "--show-steps") == 0
    lines = (shell.out + shell.err).splitlines()
    assert all(line.replace("\t", "").isprintable() for line in lines)
    assert lines[-1].startswith("written to runs/linear-data_x1b[2J-")


def test_a_header_that_escapes_is_none(shell: Shell) -> None:
    Path("data.csv").write_text(f'"{ESCAPE}",y\n1,2\n', encoding="utf-8")
    assert shell("--data", "data.csv") == 2
    assert shell.err == (
        "train.py: data.csv, line 2: '\\x1b[2J\\nforged' is not a number; give two numbers, x,y\n"
    )
