"""A run's files that somebody else has made: refused in a line, or no harm.

What is refused leaves every file as it was, and nothing that is printed is more than a text.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import train
from helpers import Shell, shell_of
from torch import Tensor

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


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    {"data": ESCAPE}, {"model": f"{ESCAPE}.py:A"}, {"updates": [ESCAPE]},
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
], ids=lambda values: str(values)[:40])  # fmt: skip
def test_what_decides_nothing_is_no_harm(shell: Shell, values: dict[str, Any]) -> None:
    """And config.json, written again, says what is so, but for where the run began."""
    before = json.loads(Path("runs/a/manual/config.json").read_text(encoding="utf-8"))
    changed(values)
    assert shell("--resume", "runs/a", "--epochs", "60") == 0
    assert all(line.isprintable() for line in (shell.out + shell.err).splitlines())
    began = {name: value for name, value in values.items() if name in ("torch", "python")}
    after = json.loads(Path("runs/a/manual/config.json").read_text(encoding="utf-8"))
    assert after == {**before, "epochs": 60, "steps": 180, **began}


def vast() -> Tensor:
    """One number in 8 bytes that stands for 10⁸."""
    return torch.zeros(1, dtype=F64).expand(10**8)


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
    "negative rows": lambda content: content.update(rows_length=-5),
    "rows that are not there": lambda content: content.update(rows_length=10**30),
    "a digest that escapes": lambda content: content.update(rows_sha256=ESCAPE),
    "one part more": lambda content: content.update({ESCAPE: 1}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_checkpoint_with_a_right_checksum_is_refused(shell: Shell, name: str) -> None:
    """In bounded memory: a tensor of 10⁸ numbers would be 0.8 GB if it were made."""
    path = Path("runs/a/manual/checkpoint.pt")
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
