"""A program in cells as one page: what each cell prints, its pictures beside it, and its code.

A cell begins with a line `# %% Title`. It shows a picture by printing `picture: FILE.svg`.
"""

import ast
import base64
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NoReturn

from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.files import replacing

STYLE = """
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 1.05rem/1.5 system-ui; }
section { display: flex; flex-wrap: wrap; gap: 0 2rem; border-top: 1px solid #8886; }
section > * { flex: 1 1 26rem; min-width: 0; }
h2, details { flex: 1 0 100%; }
pre { overflow-x: auto; font-size: 0.85rem; line-height: 1.35; }
img { width: 100%; background: #fff; }
summary { color: #888; }
code { white-space: nowrap; }
"""


@dataclass(frozen=True)
class Cell:
    """A cell: its title, and its code, which begins at line `first` of its file."""

    title: str
    code: str
    first: int


def cells(source: str) -> list[Cell]:
    """Return the cells of a program, without the lines before the first."""
    lines = source.splitlines(keepends=True)
    starts = [k for k, line in enumerate(lines) if line.startswith("# %%")]
    ends = [*starts[1:], len(lines)]
    return [
        Cell(lines[a].removeprefix("# %%").strip(), "".join(lines[a + 1 : b]), a + 1)
        for a, b in zip(starts, ends, strict=True)
    ]


def run(cell: Cell, path: str, namespace: dict[str, Any]) -> None:
    """Run a cell with the names that the cells before it defined."""
    code = "\n" * cell.first + cell.code  # so that an error names the file's line
    exec(compile(code, path, "exec"), namespace)


def page(path: str) -> str:
    """Run the program and return its page."""
    source, namespace = Path(path).read_text(encoding="utf-8"), {"__name__": "page"}
    title, _, about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f'<meta name=viewport content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{with_code(about.strip())}</p>"
    ]
    for number, cell in enumerate(cells(source)):
        said = io.StringIO()
        with redirect_stdout(said):
            run(cell, path, namespace)
        parts.append(f"<section><h2>{escape(cell.title)}</h2>")
        parts += [f"<div>{''.join(shown)}</div>" for shown in sides(said.getvalue()) if shown]
        is_open = " open" * (number == 0)
        code = f"<summary>Python</summary><pre>{escape(cell.code.strip())}</pre>"
        parts.append(f"<details{is_open}>{code}</details></section>")
    return "\n".join(parts)


def with_code(text: str) -> str:
    """Return a text with `code` as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def sides(said: str) -> tuple[list[str], list[str]]:
    """Return a cell's words and its pictures."""
    words, pictures = [], []
    for kind, lines in blocks(said.splitlines()):
        if kind == "picture":
            file = Path(lines[0].removeprefix("picture: "))
            data = base64.b64encode(file.read_bytes()).decode()
            pictures.append(f'<img alt="{file.stem}" src="data:image/svg+xml;base64,{data}">')
        elif kind == "table":
            words.append(f"<pre>{escape(chr(10).join(lines))}</pre>")
        else:
            words += [f"<p>{escape(line)}</p>" for line in lines]
    return words, pictures


def blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield blocks of lines of one kind: words, a table (its lines have columns), a picture."""
    kinds = [
        "picture" if line.startswith("picture: ")
        else "table" if re.search(r"\t|\S  +\S|^ ", line)
        else "words"
        for line in lines
    ]  # fmt: skip
    first = 0
    for k in range(1, len(lines) + 1):
        if k == len(lines) or kinds[k] != kinds[first] or kinds[k] == "picture":
            yield kinds[first], lines[first:k]
            first = k


def main(path: str, argv: list[str] | None = None) -> int:
    """Run the command line of a program in cells; return the exit status."""
    parser = Parser(prog=Path(path).name, description="Run the program, cell by cell.",
                    allow_abbrev=False)  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--step", action="store_true", help="wait for Enter before each cell")
    how.add_argument("--html", type=Path, metavar="FILE", help="write it as a page instead")
    arguments = parser.parse_args(argv)
    page_file = arguments.html
    if page_file is not None and (not page_file.parent.is_dir() or page_file.is_dir()):
        parser.error(f"--html {page_file}: give a file's name, in a directory that is there")
    with refusing(parser, OSError):
        if page_file is not None:
            with replacing(page_file) as temporary:
                temporary.write_text(page(path), encoding="utf-8")
            print(page_file)
            return 0
        namespace: dict[str, Any] = {"__name__": "page"}
        for number, cell in enumerate(cells(Path(path).read_text(encoding="utf-8")), start=1):
            heading = f"\n{number}. {cell.title}"
            if arguments.step:
                try:
                    input(f"{heading}  [Enter]")
                except (EOFError, RuntimeError):  # the second where there is no standard input
                    parser.error("no more Enter to wait for: leave --step out, and all cells run")
            else:
                print(heading)
            run(cell, path, namespace)
    return 0


def show(path: str) -> NoReturn:
    """Run the program in this file as its command line asks, and exit."""
    run_script(partial(main, path))
