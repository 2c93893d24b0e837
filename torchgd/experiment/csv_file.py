"""CSV files as people have them: any usual separator, decimal commas, a header, more columns."""

import csv
import math
import re
import reprlib
from pathlib import Path

import torch
from torch import Tensor

HOW = "save it as CSV in UTF-8 (in Excel: Save As, CSV UTF-8)"
# What a file is that begins so.
OTHERS = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "an Excel workbook (.xlsx) or another zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
}
LONGEST = 40  # characters of a name
SHOWN = 12  # names in a message
YEAR = re.compile("(19|20)[0-9]{2}")


def read_csv(path: Path, columns: str | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """Return x (N,) or (N, F) and y (N,), and the names that a header gives them, or else [].

    Columns are separated by a semicolon, a tab or else a comma; beside the first two a decimal
    comma is read as a point. Lines that begin with # are comments, and a first line sep=; names the
    separator. Of more than two columns `columns` says which are x and, last, y, by name or by
    number from 1: hours,score or size,rooms,price.

    Raises:
        ValueError: it is no such file, or does not hold N ≥ 1 rows of finite numbers; the message
            gives the line.
        OSError: it cannot be read.
    """
    with path.open("rb") as binary:
        start = binary.read(4)
    for magic, what in OTHERS.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}, and no CSV file: {HOW}")
    try:
        return _read(path, columns)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): {HOW}") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error}); give two columns, x,y") from None


def _read(path: Path, columns: str | None) -> tuple[Tensor, Tensor, list[str]]:
    table: list[list[float]] = []
    names: list[str] = []
    pick: list[int] | None = None
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip() and line[0] != "#"), "")
        file.seek(0)
        told = first.strip() if first.lower().startswith("sep=") else ""
        separator = told[4:] or next((s for s in ";\t" if s in first), ",")
        if len(separator) > 1:
            raise ValueError(f"{path}: {told!r}: a separator is one character, as in sep=;")
        number = _number if separator == "," else _with_comma
        # What is no row becomes an empty line, so that the lines are counted right.
        kept = ("\n" if line[0] == "#" or line.strip() == told else line for line in file)
        lines = csv.reader(kept, strict=True, delimiter=separator)
        for row in filter(None, lines):
            where = f"{path}, line {lines.line_num}"
            if pick is None:
                header = row if _is_header(where, row) else []
                pick, count = _picked(where, row, header, columns), len(row)
                names = [header[k].strip() for k in pick] if header else []
                if header:
                    continue
            if len(row) != count:
                raise ValueError(f"{where}: columns: {len(row)}, and {count} in the lines before")
            table.append([number(row[k], where) for k in pick])
    if not table:
        raise ValueError(f"{path}: no data; give two columns, x,y, and at least one row")
    *xs, y = torch.tensor(table, dtype=torch.float64).T.contiguous()
    return xs[0] if len(xs) == 1 else torch.stack(xs, dim=1), y, names


def _is_header(where: str, row: list[str]) -> bool:
    """Whether the first row names the columns."""
    if len(row) > 1 and all(YEAR.fullmatch(cell.strip()) for cell in row):
        raise ValueError(
            f"{where}: {in_short(', '.join(row))} may be names or numbers: write names with a "
            "letter, such as y2019, or numbers with a point, such as 2019.0"
        )
    return not any(re.match(r"\s*[-+]?([.,]?\d|(nan|inf(inity)?)\s*$)", cell, re.I) for cell in row)


def _picked(where: str, row: list[str], header: list[str], columns: str | None) -> list[int]:
    """Return which columns are x and, last, y."""
    known = ", ".join(map(in_short, header[:SHOWN])) or f"1 to {len(row)}"
    known += f" and {len(header) - SHOWN} more" * (len(header) > SHOWN)
    if columns is None:
        if len(row) == 2:
            return [0, 1]
        if len(row) > 2:
            raise ValueError(
                f"{where}: columns: {len(row)} ({known}); name x, one or several, and y: "
                "--columns X,Y"
            )
        mark = re.search(r"[| ]", row[0].strip())
        hint = f", not {mark.group()!r}" if mark else ""
        raise ValueError(f"{where}: columns: 1; give two, separated by a comma, x,y{hint}")
    found = []
    for word in (word.strip() for word in columns.split(",")):
        names = [cell.strip() for cell in header]
        bare = [named(cell)[0] for cell in header]  # without the unit
        if max(names.count(word), bare.count(word)) > 1 and names.count(word) != 1:
            raise ValueError(f"{where}: --columns {columns}: several are {word!r}; give its number")
        if names.count(word) == 1:
            found.append(names.index(word))
        elif bare.count(word) == 1:
            found.append(bare.index(word))
        elif word.isdecimal() and 1 <= int(word) <= len(row):
            found.append(int(word) - 1)
        else:
            raise ValueError(f"{where}: --columns {columns}: {word!r} is none of {known}")
    if len(set(found)) < len(found):
        raise ValueError(f"--columns {columns}: a column is named twice; give each once, y last")
    if len(found) < 2:
        raise ValueError(f"--columns {columns}: give x, one or several, and y, separated by commas")
    return found


def _number(cell: str, where: str) -> float:
    """Parse a number as files write it, without what Python allows beside, as 1_000."""
    shown = reprlib.repr(cell)
    if not cell.strip():
        raise ValueError(f"{where}: a cell is empty; remove the row")
    try:
        value = float(cell.replace("_", "?"))
    except ValueError:
        raise ValueError(f"{where}: {shown} is not a number; give two numbers, x,y") from None
    if not math.isfinite(value):
        raise ValueError(f"{where}: {shown} is not finite; remove the row")
    return value


def _with_comma(cell: str, where: str) -> float:
    """Parse a number that may have a decimal comma; 1.234,5 could be two, and is none."""
    both = "," in cell and "." in cell
    return _number(cell if both else cell.replace(",", ".", 1), where)


def in_short(text: str) -> str:
    """Return a name as it may be shown anywhere, on a terminal, too."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def named(heading: str) -> tuple[str, str]:
    """Split a column's heading into its name and, in brackets, its unit: speed (mph)."""
    for opening, closing in ("()", "[]"):
        name, bracket, unit = heading.rpartition(opening)
        if bracket and unit.endswith(closing) and not set("()[]") & set(unit[:-1]):
            return in_short(name), in_short(unit[:-1])
    return in_short(heading), ""
