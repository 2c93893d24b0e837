"""Derive ∂loss/∂w of a model by hand, and prove it; or check your own derivative."""

if __name__ == "__main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH is set, too
    import interrupt  # noqa: F401

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import indent

import torch

from torchgd.entries import parameters_of
from torchgd.experiment.command_line import Parser, Progress, refusing, run_script, say
from torchgd.experiment.own_model import find_model, refuse_model
from torchgd.experiment.parallel import find_device
from torchgd.experiment.sources import NAMES, load
from torchgd.proof.answers import judge_each
from torchgd.proof.domain import Domain
from torchgd.proof.findings import BACKWARD, GradientCheck
from torchgd.proof.notations import assignment
from torchgd.proof.oracles import check_gradient
from torchgd.proof.paper import TEX, TEXT
from torchgd.proof.program import check_program
from torchgd.proof.samples import MOST
from torchgd.proof.steps import LATEX, PLAIN, by_column, in_first_column, steps, typeset
from torchgd.proof.symbols import Derivation, derive
from torchgd.proof.worksheet import worksheet


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="derive.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="linear, quadratic, or FILE.py:CLASS, your own")
    add("--bias", action="store_true", help="give the linear model a bias")
    add("--latex", action="store_true", help="print the formulas as LaTeX")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--worksheet", action="store_true", help="print the exercise, and the "
                        "answers on pages of their own; with --latex a whole document")  # fmt: skip
    either.add_argument("--answer", action="append", default=[], metavar="W=FORMULA", help="your "
                        "own ∂loss/∂W, such as w=2x(wx-y), also in LaTeX; repeatable")  # fmt: skip
    either.add_argument("--program", type=Path, metavar="FILE.py", help="a program of your own, "
                        "with a loop over w or over w2, w1 and b, or a function gradient(x, y): is "
                        "each of its steps right?")  # fmt: skip
    add("--variants", type=count_of_sheets, metavar="N", help="of --worksheet: N sheets, each with "
        "other numbers, and one key")  # fmt: skip
    add("--data", default="lesson", metavar="D", help="where to check, beside random and extreme "
        f"points: {', '.join(NAMES)}, or a file; default: lesson")  # fmt: skip
    add("--columns", metavar="X,Y", help="of a .csv file with more than two, as of train.py")
    add("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:N")
    return parser


def count_of_sheets(text: str) -> int:
    """Parse how many sheets to print."""
    if text in map(str, range(1, MOST + 1)):
        return int(text)
    raise ArgumentTypeError(f"{text[:20]!r} is not an integer from 1 to {MOST}; 30 are for a class")


def summary(check: GradientCheck) -> str:
    """Say which derivatives are wrong, by hand or by autograd, or how many answers there are."""
    wrong, theirs = (
        ", ".join(f"∂loss/∂{name}" for name in names)
        for names in (check.wrong, check.wrong_by_autograd)
    )
    if wrong:
        return f"Wrong: {wrong}."
    if theirs:
        return f"Yours is right; autograd's {theirs} is not: {BACKWARD}"
    said = sum(row.passed is not None for row in check.rows)
    return f"All {said} say yes." if check else "No oracle can say of each derivative."


@contextmanager
def progress() -> Iterator[Callable[[float], None]]:
    """Show how far a check is, on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda part: None
        return
    with closing(Progress("check", 100, 0, "%", "")) as bar:
        yield lambda part: bar.reach(int(100 * part))


def judged(derivation: Derivation, answer: str) -> tuple[str, str]:
    """Return an answer's parameter and what is wrong with it, "" if it is right."""
    try:
        written = in_first_column(answer, derivation)
        name, formula = assignment(written, derivation.weights)
        return name, judge_each(derivation, name, formula)
    except ValueError as error:
        raise ValueError(f"answer {answer[:60]!r}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    to, comment = (LATEX, "% ") if arguments.latex else (PLAIN, "")
    if (arguments.model is None) == (arguments.program is None):
        parser.error("give a MODEL, or --program FILE.py without one")
    if arguments.variants and not arguments.worksheet:
        parser.error("argument --variants: it is of --worksheet; give that, too")
    with refusing(parser, ValueError, TypeError, OSError):
        if arguments.program:
            found = check_program(arguments.program)
            say(found.said)
            return int(not found)
        data = load(arguments.data, columns=arguments.columns)
        device = find_device(arguments.device, len(data.x))
        make = find_model(arguments.model, arguments.bias, data.features)
        model = make(device=device, dtype=torch.float64)
        if arguments.answer:
            derivation = derive(model, data.features)
            verdicts = [judged(derivation, answer) for answer in arguments.answer]
            say(typeset(steps(derivation, (), to)[:2], to))
            for name, hint in verdicts:
                say(f"{comment}∂loss/∂{name}: {f'wrong: {hint}' if hint else 'right'}")
            return int(any(hint for _, hint in verdicts))
        x, y = data.x.to(device), data.y.to(device)
        refuse_model(arguments.model, model, x)
        with progress() as on_progress:
            check = check_gradient(model, x, y, on_progress=on_progress)
        if arguments.worksheet and check:
            domain = Domain.of(["x", *parameters_of(model)], getattr(model, "domain", None))
            paper, count = TEX if arguments.latex else TEXT, arguments.variants or 1
            say(str(worksheet(derive(model, data.features), domain, paper, count)))
            return 0
    try:
        derivation = derive(model, data.features)
        names, to = by_column(derivation, to)
        derived = typeset(steps(derivation, names, to), to)
        say(derived, "")
    except ValueError as error:
        say(f"{comment}∂loss/∂w = 2(ŷ − y)·∂ŷ/∂w, and no formula: {error}\n")
    say(indent(f"{check}\n{summary(check)}", comment))
    return int(not check)


if __name__ == "__main__":
    run_script(main)
