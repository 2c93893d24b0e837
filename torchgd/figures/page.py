"""A program in cells as one page, or as a notebook: what each cell says, its pictures, its code.

A cell begins with a line `# %% Title`. It shows a picture by printing `picture: FILE.svg: WORDS`,
which say what is seen on it. A cell may have tags: `# %% Title tags=["answer"]` (see `Cell`).
"""

import ast
import base64
import io
import json
import re
import sys
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
:root { color-scheme: light dark; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 1.05rem/1.5 system-ui; }
section { display: flex; flex-wrap: wrap; gap: 0 2rem; border-top: 1px solid #8886; }
section > * { flex: 1 1 26rem; min-width: 0; }
h2, details, section > .wide { flex: 1 0 100%; }
pre, .wide { overflow-x: auto; }
pre { font-size: 0.85rem; line-height: 1.35; }
img { width: 100%; background: #fff; }
.wide img { min-width: 48rem; }
summary { color: GrayText; }
code { overflow-wrap: anywhere; }
"""
PLAY = "reference/lesson.html"  # seen from runs/, the page that figures/play.html makes
WIDE = 600  # points: a wider picture has a row of its own, and scrolls where the page is narrow


@dataclass(frozen=True)
class Cell:
    """A cell: its title, its code, which begins at line `first` of its file, and its tags.

    An "answer" is asked for before it is shown; of an "open" cell the page shows the code.
    """

    title: str
    code: str
    first: int
    tags: tuple[str, ...] = ()


def cells(source: str) -> list[Cell]:
    """Return the cells of a program, without the lines before the first."""
    lines = source.splitlines(keepends=True)
    starts = [k for k, line in enumerate(lines) if line.startswith("# %%")]
    ends = [*starts[1:], len(lines)]
    made = []
    for a, b in zip(starts, ends, strict=True):
        title, _, tags = lines[a].removeprefix("# %%").strip().partition(" tags=")
        made.append(Cell(title, "".join(lines[a + 1 : b]), a + 1, tuple(json.loads(tags or "[]"))))
    return made


def run(cell: Cell, path: str, namespace: dict[str, Any]) -> None:
    """Run a cell with the names that the cells before it defined."""
    code = "\n" * cell.first + cell.code  # so that an error names the file's line
    exec(compile(code, path, "exec"), namespace)


def heading(source: str) -> tuple[str, str]:
    """Return the program's title, and what it says of itself below that."""
    title, _, about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    return title, about.strip()


def page(path: str, play: str = "") -> str:
    """Run the program and return its page, with a link to the one to play with, if there is one."""
    source, namespace = Path(path).read_text(encoding="utf-8"), {"__name__": "page"}
    title, about = heading(source)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f'<meta name=viewport content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{with_code(about)}</p>"
    ]
    parts += [f'<p>To play with it: <a href="{play}">the descent, step by step</a>.</p>'] * bool(
        play
    )
    for cell in cells(source):
        said = io.StringIO()
        with redirect_stdout(said):
            run(cell, path, namespace)
        shown = "".join(sides(said.getvalue()))
        if "answer" in cell.tags:
            shown = f"<details><summary>The answer</summary>{shown}</details>"
        parts.append(f"<section><h2>{escape(cell.title)}</h2>{shown}")
        is_open = " open" * ("open" in cell.tags)
        code = f"<summary>Python</summary><pre>{escape(cell.code.strip())}</pre>"
        parts.append(f"<details{is_open}>{code}</details></section>")
    return "\n".join(parts)


def notebook(path: str) -> str:
    """Return the program as a Jupyter notebook that was not run yet, in nbformat's JSON."""
    source = Path(path).read_text(encoding="utf-8")
    title, about = heading(source)

    def cell(kind: str, text: str, **more: Any) -> dict[str, Any]:
        lines = text.strip().splitlines(keepends=True)
        return {"cell_type": kind, "metadata": {}, "source": lines, **more}

    written = [cell("markdown", f"# {title}\n\n{about}")]
    for one in cells(source):
        written.append(cell("markdown", f"## {one.title}"))
        code = cell("code", one.code, outputs=[], execution_count=None)
        hidden = {"jupyter": {"source_hidden": True}} if "answer" in one.tags else {}
        written.append({**code, "metadata": {"tags": list(one.tags), **hidden}})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def with_code(text: str) -> str:
    """Return a text with `code` as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def sides(said: str) -> Iterator[str]:
    """Yield a cell's words, and its pictures beside them or, if they are wide, below."""
    words: list[str] = []
    pictures: dict[str, list[str]] = {"beside": [], "wide": []}
    for kind, lines in blocks(said.splitlines()):
        if kind == "picture":
            name, _, seen = lines[0].removeprefix("picture: ").partition(": ")
            image = Path(name).read_bytes()
            width = re.search(rb'width="([\d.]+)pt"', image)
            side = "wide" if width and float(width[1]) > WIDE else "beside"
            data = base64.b64encode(image).decode()
            pictures[side].append(
                f'<img alt="{escape(seen)}" src="data:image/svg+xml;base64,{data}">'
            )
        elif kind == "table":
            words.append(f"<pre>{escape(chr(10).join(lines))}</pre>")
        else:
            words += [f"<p>{escape(line)}</p>" for line in lines]
    for side, shown in {"words": words, **pictures}.items():
        if shown:
            yield f"<div class={side}>{''.join(shown)}</div>"


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


def make_parser(path: str) -> Parser:
    """Return the command line's parser of a program in cells."""
    parser = Parser(prog=Path(path).name, description="Run the program, cell by cell.",
                    allow_abbrev=False)  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--step", action="store_true", help="wait for Enter before each cell")
    how.add_argument("--html", type=Path, metavar="FILE", help="write it as a page instead")
    how.add_argument("--notebook", type=Path, metavar="FILE.ipynb", help="write it as a notebook "
                     "instead, which is not run yet")  # fmt: skip
    parser.add_argument("--answers", action="store_true", help="show the answers of exercises; at "
                        "a terminal they come after a key, elsewhere not")  # fmt: skip
    return parser


def main(path: str, argv: list[str] | None = None) -> int:
    """Run the command line of a program in cells; return the exit status."""
    parser = make_parser(path)
    arguments = parser.parse_args(argv)
    makers = {"html": page, "notebook": notebook}
    for name, make in makers.items():
        file = getattr(arguments, name)
        if file is None:
            continue
        if not file.parent.is_dir() or file.is_dir():
            parser.error(f"--{name} {file}: give a file's name, in a directory that is there")
        with refusing(parser, OSError), replacing(file) as temporary:
            there = name == "html" and (file.parent / PLAY).is_file()
            temporary.write_text(page(path, PLAY) if there else make(path), encoding="utf-8")
        print(file)
        return 0
    with refusing(parser, OSError):
        namespace: dict[str, Any] = {"__name__": "page"}
        for number, cell in enumerate(cells(Path(path).read_text(encoding="utf-8")), start=1):
            head = f"\n{number}. {cell.title}"
            waits = arguments.step or ("answer" in cell.tags and not arguments.answers)
            if waits and not arguments.step and not sys.stdin.isatty():
                print(f"{head}: --answers shows it")
                continue
            if waits:
                wait(parser, head)
            else:
                print(head)
            run(cell, path, namespace)
    return 0


def wait(parser: Parser, head: str) -> None:
    """Ask for Enter before a cell."""
    try:
        input(f"{head}  [Enter]")
    except (EOFError, RuntimeError):  # the second where there is no standard input
        parser.error(
            "no more Enter to wait for: leave --step out, add --answers, and all cells run"
        )


def show(path: str) -> NoReturn:
    """Run the program in this file as its command line asks, and exit."""
    run_script(partial(main, path))
