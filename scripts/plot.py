"""Draw what one run, or several laid over each other, left on disk."""

if __name__ == "__main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH is set, too
    import interrupt  # noqa: F401

from collections.abc import Sequence
from pathlib import Path

from torchgd.experiment.command_line import Parser, refusing, run_script, say
from torchgd.experiment.files import replacing
from torchgd.figures import animate, draw, save
from torchgd.figures.play import playable
from torchgd.figures.runs import lay_together, read_runs


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="plot.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory: runs/NAME for both "
        "updates, or runs/NAME/manual")  # fmt: skip
    add("--plane", type=lambda text: [w.strip() for w in text.split(",")], metavar="W,W",
        help="the parameters of the contour plot, such as w2,w1; default: the two that matter "
        "most")  # fmt: skip
    add("--format", choices=["png", "svg", "pdf", "html"], default="png", help="default: png; "
        "html is a page to play with, lesson.html")  # fmt: skip
    add("--animate", action="store_true", help="write descent.gif, too")
    add("--output", type=Path, metavar="DIR", help="where to write; default: the run's directory, "
        "of several the one that they are in")  # fmt: skip
    add("--model", metavar="FILE.py:CLASS", help="the runs' model, if it is your own: its code is "
        "run")  # fmt: skip
    return parser


def folder(runs: Sequence[Path]) -> Path:
    """Return where the figures belong.

    Raises:
        ValueError: several runs are not in one directory.
    """
    parents = {run.resolve().parent for run in runs}
    if len(parents) > 1:
        raise ValueError(
            f"{len(runs)} runs in {len(parents)} directories: say where to write with --output"
        )
    return runs[0] if len(runs) == 1 else runs[0].parent


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        output = arguments.output or folder(arguments.runs)
        descents = lay_together(read_runs(arguments.runs, arguments.model))
        as_page = arguments.format == "html"
        page = playable(descents, arguments.plane) if as_page else ""
        figures = {} if as_page else draw(descents, arguments.plane)
        output.mkdir(parents=True, exist_ok=True)
        if page:
            with replacing(output / "lesson.html") as temporary:
                temporary.write_text(page, encoding="utf-8")
            say(str(output / "lesson.html"))
        for file in save(figures, output, arguments.format):
            say(str(file))
        if arguments.animate:
            animate(descents, output / "descent.gif", arguments.plane)
            say(str(output / "descent.gif"))
    return 0


if __name__ == "__main__":
    run_script(main)
