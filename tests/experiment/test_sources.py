"""Data by name, from files, and what is no data."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CERTIFIED
from hypothesis import given
from hypothesis import strategies as st

from torchgd.experiment.sources import FILES, NAMES, load


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


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1,2\n3,4.5\n",
        "1,2\n3,4.5",
        "hours,points\r\n1,2\r\n3,4.5\r\n",
        '"x","y"\n"1"," 2 "\n3,45e-1\n\n\n',
        "\ufeffx,y\n1,2\n\n3,4.5\n",
        "inflation,nanograms\n1,2\n3,4.5\n",
    ],
)
def test_csv_with_a_header_or_none(tmp_path: Path, text: str) -> None:
    data = load(write(tmp_path / "mine.csv", text))
    assert (data.name, data.x.tolist(), data.y.tolist()) == ("mine", [1, 3], [2, 4.5])


def test_a_first_row_of_numbers_is_no_header(tmp_path: Path) -> None:
    data = load(write(tmp_path / "mine.csv", "-.5,+.25\n1,2\n"))
    assert (data.x.tolist(), data.y.tolist()) == ([-0.5, 1], [0.25, 2])


BAD_CSV = {
    "a first row that is no header": ("1 000,2\n1,2\n", ", line 1: '1 000' is not a number; give"),
    "empty": ("", ": no data; give two columns, x,y, and at least one row"),
    "header alone": ("x,y\n", ": no data; give two columns, x,y, and at least one row"),
    "word": ("x,y\n1,2\n3,four\n", ", line 3: 'four' is not a number; give two numbers, x,y"),
    "word in line 1": ("1,two\n3,4\n", ", line 1: 'two' is not a number; give two numbers, x,y"),
    "second header": ("x,y\nx,y\n", ", line 2: 'x' is not a number; give two numbers, x,y"),
    "gap": ("1,2\n3,\n", ", line 2: '' is not a number; give two numbers, x,y"),
    "nan": ("x,y\n1,nan\n", ", line 2: 'nan' is not finite; remove the row"),
    "inf": ("x,y\n-inf,1\n", ", line 2: '-inf' is not finite; remove the row"),
    "overflow": ("x,y\n1,1e999\n", ", line 2: '1e999' is not finite; remove the row"),
    "three columns": ("x,y\n1,2,3\n", ", line 2: columns: 3; give two, separated by a comma, x,y"),
    "one column": ("1\n2\n", ", line 1: columns: 1; give two, separated by a comma, x,y"),
    "semicolons": ("x;y\n1;2\n", ", line 2: columns: 1; give two, separated by a comma, x,y"),
    "open quote": ('1,2\n"3,4\n', ": not a CSV file (unexpected end of data); give two"),
    "latin-1": ("é,y\n1,2\n".encode("latin-1"), ": not a CSV file ("),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(ValueError, match="give|remove") as error:
        load(path)
    assert str(error.value).startswith(path + message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint8])
def test_npy(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "mine.npy"
    np.save(path, np.array([[1, 2], [3, 4]], dtype=dtype))
    data = load(str(path))
    assert (data.name, data.x.tolist(), data.y.tolist()) == ("mine", [1, 3], [2, 4])
    assert data.x.dtype == torch.float64


BAD_NPY = {
    "an integer that float64 lacks": (np.array([[1, 2**53 + 1]]), ", row 0: [1, 9007199254740993] "
     "is beyond 2⁵³, where float64 lacks some integers; scale it or give floats"),
    "transposed": (np.ones((2, 3)), ": shape (2, 3); give (N, 2), x and y in columns"),
    "flat": (np.ones(4), ": shape (4,); give (N, 2), x and y in columns"),
    "no row": (np.ones((0, 2)), ": no data; give at least one row"),
    "nan": (np.array([[1, 2], [3, np.nan]]), ", row 1: [3.0, nan] is not finite; remove the row"),
    "text": (np.array([["1", "2"]]), ": dtype <U1; give real numbers"),
    "complex": (np.ones((1, 2), complex), ": dtype complex128; give real numbers"),
    "pickle": (np.array([[1, 2]], dtype=object), ": not a .npy file of numbers ("),
}  # fmt: skip


@pytest.mark.parametrize(("array", "message"), BAD_NPY.values(), ids=BAD_NPY)
def test_bad_npy(tmp_path: Path, array: np.ndarray, message: str) -> None:  # type: ignore[type-arg]
    path = tmp_path / "bad.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match="give|remove|not a|scale") as error:
        load(str(path))
    assert str(error.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npy(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "bad.npy", content)
    with pytest.raises(ValueError, match=r"bad\.npy: not a \.npy file of numbers \("):
        load(path)


def test_an_archive_is_no_npy(tmp_path: Path) -> None:
    with (tmp_path / "bad.npy").open("wb") as file:
        np.savez(file, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"not a \.npy file of numbers \("):
        load(str(tmp_path / "bad.npy"))


@pytest.mark.parametrize("name", [".", "", "/dev/null"])
def test_what_is_no_file(name: str) -> None:
    with pytest.raises(ValueError, match="is no regular file; give a .csv or .npy file$"):
        load(name)


@pytest.mark.parametrize("name", ["nofile.csv", "leson"])
def test_no_such_data(name: str) -> None:
    with pytest.raises(ValueError, match="no such file and no built-in data set; choose") as error:
        load(name)
    assert str(error.value).startswith(f"data {name!r}: ")
    assert all(known in str(error.value) for known in NAMES)


NUMBERS = st.floats(allow_nan=True) | st.integers() | st.text(max_size=4)


@given(
    content=st.binary(max_size=200)
    | st.text(alphabet="0123456789.,;-+eEx_ \t\r\n\"'\0é", max_size=60).map(str.encode)
    | st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(
        lambda rows: "\n".join(f"{x},{y}" for x, y in rows).encode()
    )
)
def test_any_csv_is_read_to_the_bit_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_bytes(content)
    try:
        data = load(str(path))
    except ValueError as error:
        message = str(error)
    else:
        cells = content.decode("utf-8-sig").replace("\r", "\n").replace('"', "").split("\n")
        rows = [row.split(",") for row in cells if row]
        pairs = [[float(cell) for cell in row] for row in rows[len(rows) - len(data.x) :]]
        assert torch.stack([data.x, data.y], dim=1).tolist() == pairs
        message = ""
    assert "\n" not in message
    assert message in ("",) or message.startswith(str(path))


@given(content=st.binary(max_size=300), shape=st.text(max_size=12))
def test_any_npy_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, shape: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.npy"
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    begun = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for whole in (content, begun + content):
        path.write_bytes(whole)
        try:
            data = load(str(path))
        except ValueError as error:
            message = str(error)
        else:
            assert data.x.isfinite().all()
            message = str(path)
        assert message.startswith(str(path))
        assert "\n" not in message
