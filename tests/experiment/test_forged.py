"""A run's files that somebody else has made or changed: refused in a line, or no harm.

What is refused leaves every file as it was, and nothing that is printed is more than a text.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import train
from helpers import Shell, contents, left, shell_of
from torch import Tensor

from torchgd.experiment.files import read_json
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


RUN = Path("runs", "a", "manual")
MORE = ("--resume", "runs/a", "--epochs", "60")
ESCAPE = "\x1b[2J\nforged"
F64 = torch.float64


def is_refused(shell: Shell, reason: str, words: Sequence[str] = MORE) -> None:
    before = contents(Path("runs"))
    assert shell(*words) == 2
    assert shell.err.startswith("train.py: ")
    assert reason in shell.err
    assert (shell.out, shell.err.count("\n")) == ("", 1)
    assert shell.err.rstrip("\n").isprintable()
    assert len(shell.err) < 1000
    assert contents(Path("runs")) == before


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


DAMAGED = "config.json is damaged: "
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"lr": "fast"}, f"{RUN}: {DAMAGED}lr 'fast' is not a finite"),
    ({"lr": 10**400}, f"{DAMAGED}lr "),
    ({"lr": 0.02}, "run.pt is of another run: lr is 0.01 there, and 0.02 here; give this run its"),
    ({"epochs": 1e3}, f"{DAMAGED}epochs '1000.0' is not"),
    ({"epochs": 10**400}, f"{DAMAGED}epochs "),
    ({"epochs": 40}, "run.pt is 150 steps on, and this run has "),
    ({"batch_size": -7}, f"{DAMAGED}batch_size '-7' is not"),
    ({"seed": None}, f"{DAMAGED}seed 'None' is not"),
    ({"dtype": "int8"}, f"{DAMAGED}dtype 'int8' is not"),
    ({"dtype": nested(500)}, f"{DAMAGED}dtype "),
    ({"nesterov": "no"}, f"{DAMAGED}nesterov 'no' is not"),
    ({"nesterov": 0}, f"{DAMAGED}nesterov 0 is not"),
    ({"momentum": math.nan}, f"{DAMAGED}momentum 'nan' is not"),
    ({"initial": {"w": []}}, f"{DAMAGED}initial '[]' is not"),
    ({"initial": {ESCAPE: 1.0}}, "has no parameter "),
    ({"model": ["a"]}, f"{DAMAGED}model ['a'] is not"),
    ({"model": f"{ESCAPE}.py:A"}, "whose code is not run unasked"),
    ({"data": "cars"}, "is not the one that the run in runs/a/"),
    ({"data": ESCAPE}, "no such file and no built-in data set"),
    ({"data_sha256": ESCAPE}, "is not the one that the run in runs/a/"),
    ({"device": "tpu"}, "device 'tpu': choose auto, cpu, cuda or cuda:N"),
    ({"update": "half"}, "run.pt is of another run: update is "),
    ({"update": ["manual"]}, f"{DAMAGED}update ['manual'] is not"),
    ({"threads": {"a": ESCAPE}}, f"{DAMAGED}threads "),
    ({"torch": None}, f"{DAMAGED}torch None is of no environment"),
    ({"device_name": 5}, f"{DAMAGED}device_name 5 is of no environment"),
    ({"working_directory": 5}, f"{DAMAGED}working_directory 5 is of no environment"),
    ({"torchgd": "0.1.0"}, " is a run of torchgd 0.1, which this version does not read: run it "
     "again, or install torchgd 0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "reason"), CONFIGS, ids=lambda value: str(value)[:40])
def test_what_no_config_says_is_refused(shell: Shell, values: dict[str, Any], reason: str) -> None:
    changed(values)
    is_refused(shell, reason, MORE[:2] if "epochs" in values else MORE)


@pytest.mark.parametrize(("old", "new", "reason"), [
    ("{", "", "config.json is damaged (Extra data: line 2 column"),
    ("}", "", "config.json is damaged (Expecting"),
    ('"shuffle": false,', "", f"{RUN}: config.json lacks 'shuffle'; run it again"),
])  # fmt: skip
def test_a_config_in_part_is_refused(shell: Shell, old: str, new: str, reason: str) -> None:
    config = RUN / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    is_refused(shell, reason)


@pytest.mark.parametrize("values", [
    {"torch": ESCAPE}, {"python": ESCAPE}, {"more": ESCAPE}, {"x_name": ESCAPE}, {"x_unit": 5},
    {"seconds": 10**400}, {"steps": -5}, {"samples": "no"}, {"more": nested(600)},
    {"order": ESCAPE}, {"order": 10**400}, {"order": None},
], ids=lambda values: str(values)[:40])  # fmt: skip
def test_what_decides_nothing_is_no_harm(shell: Shell, values: dict[str, Any]) -> None:
    """And config.json, written again, says what is so, but for where the run began."""
    before = read_json(RUN / "config.json")
    changed(values)
    assert shell(*MORE) == 0
    assert all(line.isprintable() for line in (shell.out + shell.err).splitlines())
    began = {name: value for name, value in values.items() if name in ("torch", "python")}
    after = read_json(RUN / "config.json")
    if "order" in values:
        began["order"] = after["order"]
    assert after == {**before, "epochs": 60, "steps": 180, **began}


def vast() -> Tensor:
    """One number in 8 bytes that stands for 10⁸."""
    return torch.zeros(1, dtype=F64).expand(10**8)


class Hostile:
    def __reduce__(self) -> Any:
        return open, ("canary", "w")


Change = Callable[[dict[str, Any]], Any]


def put(**values: Any) -> Change:
    return lambda content: content.update(values)


def without(name: str) -> Change:
    return lambda content: content.pop(name) and None


def model(w: Tensor) -> Change:
    return lambda content: content["model"].update(w=w)


def path(**parts: Any) -> Change:
    return lambda content: content["path"].update(parts)


# A change of what run.pt holds, or what it holds instead.
FORGED: dict[str, Change] = {
    "code": put(seconds=Hostile()),
    "a list": lambda content: [content],
    "a tensor": lambda content: torch.ones(3),
    "an earlier format": put(format=2),
    "a vast format": put(format=vast()),
    "no format": without("format"),
    "one part more": put(**{ESCAPE: 1}),
    "no step": without("step"),
    "a step of another kind": put(step=3.0),
    "a negative step": put(step=-1),
    "a step too far": put(step=10**30),
    "seconds that are NaN": put(seconds=math.nan),
    "negative seconds": put(seconds=-1.0),
    "seconds without an end": put(seconds=math.inf),
    "no model": put(model=3),
    "a vast weight": model(vast()),
    "a sparse weight": model(torch.zeros((), dtype=F64).to_sparse()),
    "a weight on no device": model(torch.zeros((), dtype=F64, device="meta")),
    "a complex weight": model(torch.zeros((), dtype=torch.complex128)),
    "a weight that is NaN": model(torch.tensor(torch.nan, dtype=F64)),
    "a vast lr": lambda content: content["optimizer"]["param_groups"][0].update(lr=vast()),
    "a vast velocity": lambda content: content["optimizer"].update(
        state={0: {"momentum_buffer": vast()}}
    ),
    "an identity of another kind": put(identity=[]),
    "a vast identity": lambda content: content["identity"].update(lr=vast()),
    "an identity that escapes": lambda content: content["identity"].update(lr=ESCAPE),
    "an identity of lists": lambda content: content["identity"].update(lr=[[[ESCAPE]] * 99] * 99),
    "no path": without("path"),
    "a path of another kind": put(path=[1]),
    "a vast path": path(step=torch.zeros(1).long().expand(10**8), epoch=vast(), table=vast()),
    "a vast table": path(table=torch.zeros(1, 3, dtype=F64).expand(150, 3)),
    "a table of another length": path(table=torch.zeros(149, 3, dtype=F64)),
    "a table in float32": path(table=torch.zeros(150, 3)),
    "a table on no device": path(table=torch.zeros(150, 3, dtype=F64, device="meta")),
    "a sparse table": path(table=torch.zeros(150, 3, dtype=F64).to_sparse()),
    "steps that are no integers": path(step=torch.arange(150.0)),
    "steps in another order": path(step=torch.arange(150).flip(0)),
    "steps beyond its own": path(step=torch.arange(1, 151)),
    "every second step": path(
        step=torch.arange(0, 150, 2), epoch=torch.arange(75), table=torch.ones(75, 3, dtype=F64)
    ),
    "epochs of another length": path(epoch=torch.arange(3)),
    "another parameter": path(names=("v",)),
    "names that escape": path(names=(ESCAPE,)),
    "no names": path(names=None),
    "an end that is none": path(stopped="finished"),
    "an end that escapes": path(stopped=ESCAPE),
    "one column more": path(column=vast()),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_state_with_a_right_checksum_is_refused(shell: Shell, name: str) -> None:
    """In bounded memory: a tensor of 10⁸ numbers would be 0.8 GB if it were made."""
    file, buffer = RUN / "run.pt", io.BytesIO()
    content = torch.load(file, weights_only=True)
    other = FORGED[name](content)
    torch.save(content if other is None else other, buffer)
    file.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    is_refused(shell, f"{RUN}/")
    assert not Path("canary").exists()


def link(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").absolute())


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


NO_FILES = [link, pipe, folder]
posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes by name")


@posix
@pytest.mark.parametrize("instead", NO_FILES)
@pytest.mark.parametrize("name", [".lock", "run.pt", "config.json"])
def test_what_is_no_file_is_not_read_nor_written_through(
    shell: Shell, name: str, instead: Callable[[Path], None]
) -> None:
    """A pipe that nobody writes to would be waited for; a link leads to a file of others."""
    (RUN / ".lock").write_bytes(b"anything")
    kept = (RUN / name).read_bytes()
    instead(RUN / name)
    status = shell(*MORE)
    if (name, instead) != (".lock", pipe):  # which does as a lock
        assert (status, shell.err.count("\n")) == (2, 1)
        assert shell.err.startswith("train.py: ")
        assert str(RUN / name) in shell.err
    assert instead is not link or Path("elsewhere").read_bytes() == kept


@posix
@pytest.mark.parametrize("instead", NO_FILES)
def test_a_table_that_is_no_file_is_replaced(shell: Shell, instead: Callable[[Path], None]) -> None:
    table = RUN / "trajectory.csv"
    kept = table.read_bytes()
    instead(table)
    with pytest.raises(ValueError, match=r"trajectory\.csv is no regular file; give a file\)"):
        read_run(RUN)
    assert shell(*MORE) == (2 if instead is folder else 0)
    assert instead is not folder or shell.err.startswith(f"train.py: {RUN}")
    assert instead is folder or read_run(RUN)[1].step[-1] == 180
    assert instead is not link or Path("elsewhere").read_bytes() == kept


@pytest.mark.parametrize("name", [
    "events.out.tfevents.", "events.out.tfevents.x.y", "events.out.tfevents.9999999999999.x",
    "events.out.tfevents.999999999999.x", "events.out.tfevents.\x1b[2J",
])  # fmt: skip
def test_a_foreign_event_file_is_left_alone(shell: Shell, name: str) -> None:
    (RUN / name).write_bytes(b"not events")
    assert shell(*MORE) == 0
    assert (RUN / name).read_bytes() == b"not events"
    assert shell("--epochs", "60", "--name", "whole") == 0
    assert left(Path("runs/a")) == left(Path("runs/whole"))


def test_names_of_data_are_texts(shell: Shell) -> None:
    rows = f'"hours{ESCAPE} \x9b (h)",score\n1,2\n2,4\n3,6\n'
    Path("data\x1b[2J.csv").write_text(rows, encoding="utf-8")
    assert shell("--data", "data\x1b[2J.csv", "--show-steps") == 0
    lines = (shell.out + shell.err).splitlines()
    assert all(line.replace("\t", "").isprintable() for line in lines)
    assert lines[-1].startswith("written to runs/linear-data_x1b[2J-")
