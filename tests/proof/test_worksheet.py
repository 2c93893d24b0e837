"""Worksheets: each number of the key is PyTorch's, and the documents compile as they stand."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import derive
import pytest
import torch
from helpers import EXPONENTIAL, Shell, shell_of

from torchgd.entries import names_of, set_weights
from torchgd.experiment.own_model import find_model
from torchgd.proof.samples import MOST

OWN = '''
import math
import torch
from torch import nn

class Own(nn.Module):
    """Parameters of these names, each a number."""

    def __init__(self, device=None, dtype=None):
        super().__init__()
        for name in self.names:
            self.register_parameter(name, nn.Parameter(torch.ones((), device=device, dtype=dtype)))

class Hinge(Own):
    names = ["w", "b"]

    def forward(self, x):
        return torch.nn.functional.leaky_relu(self.w * x + self.b, 0.5)

    def partials(self, x):
        slope = torch.where(self.w * x + self.b > 0, 1.0, 0.5)
        return {"w": x * slope, "b": slope}

class Log(Own):
    names = ["w", "b"]

    def forward(self, x):
        return self.w * torch.log(x) + self.b

    def partials(self, x):
        return {"w": torch.log(x), "b": 1}

class Root(Own):
    """Of x·w² it is a root for each w, but the derivative is of w > 0 alone."""
    names = ["w"]
    domain = {"x": (0, math.inf), "w": (0, 4)}

    def forward(self, x):
        return torch.sqrt(self.w**2 * x)

    def partials(self, x):
        return {"w": torch.sqrt(x)}

class Greek(Own):
    names = ["α", "b_", r"\\input{a=b}", "é#$%~^&"]

    def forward(self, x):
        a, b, c, d = self.parameters()
        return a + b * x + c * x**2 + d * x**3

    def partials(self, x):
        return {name: x**k for k, name in enumerate(self.names)}

class Steep(Own):
    names = ["w"]

    def forward(self, x):
        return 1000 * self.w * x

    def partials(self, x):
        return {"w": 1000 * x}

class Untraced(Steep):
    def forward(self, x):
        assert x.sum() < 1e99 or x.sum() >= 1e99
        return 1000 * self.w * x
'''
ROOMS = "size,rooms,price\n50,2,100\n80,3,210\n65,2,190\n120,5,260\n"
HOUSES = "linear --bias --data houses.csv --columns size,rooms,price"

shell = shell_of(derive.main, files={"mine.py": EXPONENTIAL, "own.py": OWN, "houses.csv": ROOMS})

Numbers = dict[str, float]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def given(sheet: str) -> tuple[Numbers, float]:
    """x, y and the parameters of a sheet, and its learning rate."""
    text = re.search(
        r"Take (.*?) and the learning rate . = (\S+)\.(?: |$)", " ".join(sheet.split())
    )
    assert text is not None
    pairs = (pair.rpartition(" = ") for pair in text[1].split(", "))
    return {name: number(value) for name, _, value in pairs}, number(text[2])


def tables(key: str) -> list[Numbers]:
    """The rows of the key's tables, by their titles."""
    rows: dict[str, Numbers] = {}
    for line in key.partition("A step by numbers")[2].splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if cells[0] == "Sheet":
            titles = cells
        elif re.fullmatch(r"\d+", cells[0]):
            values = map(number, cells)
            rows.setdefault(cells[0], {}).update(zip(titles, values, strict=True))
    assert list(rows) == [str(k + 1) for k in range(len(rows))]
    return list(rows.values())


PRINTED: dict[str, str] = {}  # by the command, which is given once


def printed(shell: Shell, words: str, again: bool = False) -> tuple[list[str], str]:
    """The sheets that are printed, and the key."""
    if again or words not in PRINTED:
        assert shell(*words.split(), "--worksheet") == 0
        PRINTED[words] = shell.out
    *sheets, key = PRINTED[words].split("\n\f\n")
    return sheets, key


# One step of torch.optim.SGD for the sample, in float64, of the model that the command names.
def expected(words: str, sample: Numbers, rate: float) -> Numbers:
    name, *options = words.split()
    columns = [value for key, value in sample.items() if re.fullmatch(r"x(\[\d\])?", key)]
    model = find_model(name, "--bias" in options, len(columns))(dtype=torch.float64)
    names = names_of(model)
    set_weights(model, torch.tensor([sample[n] for n in names], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    x = torch.tensor([columns] if len(columns) > 1 else columns, dtype=torch.float64)
    prediction = model(x)
    ((prediction - sample["y"]) ** 2).mean().backward()
    slopes = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
    optimizer.step()
    weights = torch.cat([w.detach().flatten() for w in model.parameters()])
    return {
        "ŷ": prediction.item(),
        "ŷ − y": prediction.item() - sample["y"],
        **{f"∂loss/∂{n}": g for n, g in zip(names, slopes.tolist(), strict=True)},
        **{f"new {n}": w for n, w in zip(names, weights.tolist(), strict=True)},
    }


CASES = ["linear", "linear --bias", "quadratic", HOUSES, "mine.py:Exponential", "own.py:Hinge",
         "own.py:Log", "own.py:Root", "own.py:Greek"]  # fmt: skip


@pytest.mark.parametrize("words", CASES)
def test_each_number_of_the_key_is_pytorchs(shell: Shell, words: str) -> None:
    sheets, key = printed(shell, f"{words} --variants 30")
    rows = tables(key)
    assert len(sheets) == len(rows) == 30
    table = key.partition("A step by numbers")[2]
    assert max(map(len, table.splitlines())) <= 100
    points = [given(sheet) for sheet in sheets]
    for (sample, rate), row in zip(points, rows, strict=True):
        assert all(value == int(value) and value != 0 for name, value in sample.items()
                   if name != "y")  # fmt: skip
        right = expected(words, sample, rate)
        assert list(row)[1:] == list(right)
        assert row["ŷ − y"] != 0
        for name, value in right.items():
            assert abs(row[name] - value) <= 0.5e-4 + 1e-9, (sample, rate, name)
    assert all(a != b for (a, _), (b, _) in itertools.combinations(points, 2))
    rounded = "Numbers are rounded to 4 decimals" in " ".join(key.split())
    assert rounded is (words in ("mine.py:Exponential", "own.py:Log", "own.py:Root"))
    assert all(("rounded" in sheet) is rounded for sheet in sheets)


def test_the_numbers_are_small_and_not_too_small(shell: Shell) -> None:
    sheets, _ = printed(shell, "quadratic --variants 30")
    for sample, rate in map(given, sheets):
        assert abs(sample["x"]) <= 3
        assert max(abs(sample[name]) for name in ("w2", "w1", "b")) <= 5
        assert abs(sample["y"]) <= 100
        assert rate in (0.1, 0.05, 0.01, 0.005, 0.001)
    assert {given(sheet)[1] for sheet in printed(shell, "linear --variants 30")[0]} == {0.1, 0.05}
    _, key = printed(shell, "mine.py:Exponential --variants 30")
    for row in tables(key):
        assert all(0.01 <= abs(row[f"∂loss/∂{name}"]) <= 1000 for name in ("a", "k"))


def test_a_step_brings_the_prediction_closer(shell: Shell) -> None:
    sheets, key = printed(shell, "quadratic --variants 30")
    for (sample, rate), row in zip(map(given, sheets), tables(key), strict=True):
        after = sample | {name: row[f"new {name}"] for name in ("w2", "w1", "b")}
        assert abs(expected("quadratic", after, rate)["ŷ − y"]) < abs(row["ŷ − y"])


def test_a_kink_and_what_is_outside_of_the_domain_are_left_out(shell: Shell) -> None:
    sheets, _ = printed(shell, "own.py:Hinge --variants 30")
    for sample, _ in map(given, sheets):
        assert sample["w"] * sample["x"] + sample["b"] != 0
    sheets, _ = printed(shell, "own.py:Root --variants 30")
    for sample, _ in map(given, sheets):
        assert 0 < sample["w"] < 4
        assert sample["x"] > 0


def test_all_sheets_of_the_largest_number_differ(shell: Shell) -> None:
    sheets, key = printed(shell, f"linear --variants {MOST}")
    assert len(sheets) == len(tables(key)) == MOST
    assert len({str(given(sheet)[0]) for sheet in sheets}) == MOST


def test_the_same_command_gives_the_same_sheets(shell: Shell) -> None:
    torch.manual_seed(1)
    sheets, key = printed(shell, "quadratic --variants 5")
    torch.manual_seed(2)
    assert printed(shell, "quadratic --variants 5", again=True) == (sheets, key)
    assert printed(shell, "quadratic --variants 2")[0] == sheets[:2]
    alone = printed(shell, "quadratic")
    assert alone[0] == sheets[:1]
    assert printed(shell, "quadratic --variants 1") == alone


def test_a_sheet_has_a_name_line_blanks_and_room(shell: Shell) -> None:
    (sheet,), _ = printed(shell, "linear --bias")
    assert re.match(r"Name: _{30,}  Date: _{10,}  Sheet 1\n", sheet)
    asked = re.findall(r"^(\S.*?) *= \.{40}$", sheet, re.MULTILINE)
    assert asked == [
        "∂loss/∂ŷ", "∂ŷ/∂w", "∂loss/∂w", "∂ŷ/∂b", "∂loss/∂b",
        "ŷ", "ŷ − y", "∂loss/∂w", "∂loss/∂b", "w − α·∂loss/∂w", "b − α·∂loss/∂b",
    ]  # fmt: skip
    room = sheet.partition("Exercise 3.2")[2]
    assert "Write the program that trains this model" in room
    assert len(re.findall("^_{80}$", room, re.MULTILINE)) >= 15
    assert all(len(line) <= 90 for line in sheet.splitlines())


def test_a_parameter_that_is_called_α_is_not_the_learning_rate(shell: Shell) -> None:
    (sheet,), _ = printed(shell, "own.py:Greek")
    assert "the learning rate η = " in " ".join(sheet.split())
    assert "α − η·∂loss/∂α" in sheet


def in_latex(cell: str) -> str:
    return re.sub(r"^\\\((.*)\\\)$", r"\1", cell)


@pytest.mark.parametrize("words", ["quadratic", "mine.py:Exponential", HOUSES])
def test_latex_has_the_same_numbers(shell: Shell, words: str) -> None:
    sheets, key = printed(shell, f"{words} --variants 30")
    rows = [[value for _, value in sorted(row.items())] for row in tables(key)]
    assert shell(*words.split(), "--worksheet", "--variants", "30", "--latex") == 0
    assert shell.out.isascii()
    found: dict[str, list[float]] = {}
    for line in shell.out.splitlines():
        if re.match(r"\d+ &", line):
            first, *cells = line.removesuffix(r" \\").split(" & ")
            found.setdefault(first, [float(first)]).extend(float(in_latex(c)) for c in cells)
    assert [sorted(row) for row in found.values()] == [sorted(row) for row in rows]
    *pages, _ = shell.out.split("\\newpage\n\n")
    for sheet, page in zip(sheets, pages, strict=True):
        numbers = re.findall(r"= (-?[\d.]+)\\\)", page)
        sample, rate = given(sheet)
        assert list(map(float, numbers)) == [*sample.values(), rate]


@pytest.mark.processes
@pytest.mark.parametrize(("words", "pages"), [
    ("linear --variants 30", 31), ("quadratic", 3), ("quadratic --variants 30", 62),
    ("mine.py:Exponential --variants 2", 5), (f"{HOUSES} --variants 2", 5),
    ("own.py:Greek --variants 2", None),
])  # fmt: skip
def test_a_document_compiles_as_it_stands(shell: Shell, words: str, pages: int | None) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    assert shell(*words.split(), "--worksheet", "--latex") == 0
    Path("page.tex").write_text(shell.out, encoding="utf-8")
    command = "pdflatex -interaction=nonstopmode -halt-on-error page.tex".split()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    if pages is not None:
        assert f"Output written on page.pdf ({pages} pages" in done.stdout
        assert "Overfull" not in done.stdout
        assert "Rerun" not in done.stdout


RULE = f"is not an integer from 1 to {MOST}"
REFUSED = {
    "linear --worksheet --variants 0": f"argument --variants: '0' {RULE}",
    "linear --worksheet --variants 1001": f"argument --variants: '1001' {RULE}",
    "linear --worksheet --variants 2.5": f"argument --variants: '2.5' {RULE}",
    "linear --worksheet --variants=-1": f"argument --variants: '-1' {RULE}",
    "linear --variants 30": "argument --variants: it is of --worksheet; give that, too",
    "linear --answer w=x --variants 30": "argument --variants: it is of --worksheet",
    "own.py:Steep --worksheet": "worksheets: 1 asked for, but of 10000 points of small ",
    "own.py:Root --worksheet --variants 170": "worksheets: 170 asked for, but of 10000 points of "
    "small integers only 162 differ and have finite derivatives of a size to calculate by hand; "
    "ask for at most 162",
    "own.py:Untraced --worksheet": "Untraced cannot run on symbols",
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_requests_end_in_one_line(shell: Shell, words: str) -> None:
    assert shell(*words.split()) == 2
    assert shell.out == ""
    assert shell.err.startswith(f"derive.py: {REFUSED[words]}")
    assert shell.err.count("\n") == 1
    assert len(shell.err) < 300
