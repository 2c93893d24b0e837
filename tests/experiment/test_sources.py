"""Data by name and from files; what is no data is in tests/data/bad_input.txt."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CERTIFIED
from hypothesis import given
from hypothesis import strategies as st

from torchgd.data import DataSet
from torchgd.experiment.sources import FILES, load


@pytest.mark.parametrize("name", FILES)
def test_built_in_files_have_the_certified_least_squares_answer(name: str) -> None:
    """Exact rational normal equations on what was read give the certified parameters."""
    data = load(name)
    facts = CERTIFIED[name]
    assert data.x.shape == data.y.shape == (facts["rows"],)
    assert data.x.dtype == torch.float64
    powers = {"linear": [0, 1] if facts["bias"] else [1], "quadratic": [0, 1, 2]}[facts["model"]]
    names = {"linear": {0: "b", 1: "w"}, "quadratic": {0: "b", 1: "w1", 2: "w2"}}[facts["model"]]
    x = [Fraction(str(v)) for v in data.x.tolist()]
    y = [Fraction(str(v)) for v in data.y.tolist()]
    answer = {q: Fraction(facts["exact_30_digits"][names[q]]) for q in powers}
    residuals = [sum((answer[q] * xn**q for q in powers), -yn) for xn, yn in zip(x, y, strict=True)]
    for p in powers:  # the normal equations, Σ xᵖ(ŷ − y) = 0
        total = sum((xn**p * r for xn, r in zip(x, residuals, strict=True)), Fraction())
        size = sum((abs(xn**p * yn) for xn, yn in zip(x, y, strict=True)), Fraction())
        assert abs(total) <= size / 10**27


@pytest.mark.parametrize("text", [
    "x,y\n1,2\n3,4.5\n",
    "1,2\n3,4.5",
    "+1,+2\n3,4.5",
    ".1e1,2\n3,4.5",
    "hours,points\r\n1,2\r\n3,4.5\r\n",
    '"x","y"\n"1"," 2 "\n3,45e-1\n\n\n',
    "\ufeffx,y\n1,2\n\n3,4.5\n",
    "inflation,nanograms\n1,2\n3,4.5\n",
    "x;y\n1;2\n3;4,5\n",
    "1,0;2,0\r\n3;4,5\r\n",
    "x\ty\n1\t2\n3\t4,5\n",
    "1;\t2\n3;\t4,5\n",
    '"x";"y"\n1;2\n3;4.5\n',
    "# mine; 1,2\n\nx,y\n# and more\n1,2\n3,4.5\n",
    "sep=;\nx;y\n1;2\n3;4,5\n",
    "sep=|\n1|2\n3|4.5\n",
])  # fmt: skip
def test_csv_with_a_header_or_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode())
    data = load(str(path))
    assert (data.name, data.x.tolist(), data.y.tolist()) == ("mine", [1, 3], [2, 4.5])


@pytest.mark.parametrize("columns", ["hours,score", " hours , score ", "1,3", "hours,3"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_two_of_many_columns(tmp_path: Path, columns: str, separator: str) -> None:
    path = tmp_path / "many.csv"
    rows = [["hours", "sleep", "score"], ["1", "8", "2"], ["3", "7", "4.5"]]
    path.write_text("\n".join(map(separator.join, rows)), encoding="utf-8")
    data = load(str(path), columns=columns)
    assert (data.x.tolist(), data.y.tolist()) == ([1, 3], [2, 4.5])
    assert (data.x_name, data.y_name) == ("hours", "score")
    swapped = load(str(path), columns="score,hours")
    assert (swapped.x.tolist(), swapped.x_name) == ([2, 4.5], "score")


@pytest.mark.parametrize(("header", "x", "y"), [
    ("x,y", ("x", ""), ("y", "")),
    ("hours,score", ("hours", ""), ("score", "")),
    ("speed (mph),dist [ft]", ("speed", "mph"), ("dist", "ft")),
    ("price ($),m²", ("price", "$"), ("m²", "")),
    ("\x1b[2Jhours,a\ab", ("[2Jhours", ""), ("a b", "")),
    (f"{'h' * 50},y", (f"{'h' * 39}…", ""), ("y", "")),
    (",()", ("x", ""), ("y", "")),
])  # fmt: skip
def test_a_header_names_what_it_is(
    tmp_path: Path, header: str, x: tuple[str, str], y: tuple[str, str]
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"{header}\n1,2\n", encoding="utf-8")
    data = load(str(path))
    assert ((data.x_name, data.x_unit), (data.y_name, data.y_unit)) == (x, y)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint8])
def test_npy(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "mine.npy"
    np.save(path, np.array([[1, 2], [3, 4]], dtype=dtype))
    data = load(str(path))
    assert (data.name, data.x.tolist(), data.y.tolist()) == ("mine", [1, 3], [2, 4])
    assert data.x.dtype == torch.float64


def test_the_largest_integers_that_float64_has_all_below(tmp_path: Path) -> None:
    path, row = tmp_path / "mine.npy", [2**53, -(2**53)]
    np.save(path, np.array([row]))
    data = load(str(path))
    assert [data.x.item(), data.y.item()] == row
    for beyond in ([2**53 + 1, 0], [0, -(2**53) - 1]):
        np.save(path, np.array([beyond]))
        with pytest.raises(ValueError, match=r"mine.npy, row 0: \[.*\] is beyond 2⁵³, where"):
            load(str(path))


def read(path: Path) -> DataSet | None:
    """What a file holds, if it is not refused in one line that names it."""
    try:
        return load(str(path))
    except ValueError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    return None


NUMBERS = st.floats(allow_nan=True) | st.integers() | st.text(max_size=4)


@given(
    content=st.binary(max_size=200)
    | st.tuples(
        st.sampled_from(["", "# mine\n", "sep=;\n", "sep=\t\r\n", "sep=|\n", "sep="]),
        st.text(alphabet="0123456789.,;-+eEx_ \t\r\n\"'\0é#|", max_size=60),
    ).map(lambda parts: "".join(parts).encode())
    | st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(
        lambda rows: "\n".join(f"{x},{y}" for x, y in rows).encode()
    )
)
def test_any_csv_is_read_to_the_bit_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_bytes(content)
    if data := read(path):
        lines = content.decode("utf-8-sig").replace("\r", "\n").replace('"', "").split("\n")
        cells = [line for line in lines if line.strip() and line[0] != "#"]
        mark = next((mark for mark in ";\t" if mark in cells[0]), ",")
        if cells[0].startswith("sep="):
            mark = cells.pop(0)[4:] or mark
        rows = [row.split(mark) for row in cells if row]
        numbers = rows[len(rows) - len(data.x) :]
        pairs = [[float(cell.replace(",", ".")) for cell in row] for row in numbers]
        assert torch.stack([data.x, data.y], dim=1).tolist() == pairs


@given(content=st.binary(max_size=300), shape=st.text(max_size=12))
def test_any_npy_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, shape: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.npy"
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    begun = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for whole in (content, begun + content):
        path.write_bytes(whole)
        if data := read(path):
            assert data.x.isfinite().all()
