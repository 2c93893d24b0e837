"""Derive ∂loss/∂w of a model by hand, and prove it; or check your own derivative."""

import argparse
from collections.abc import Iterable, Iterator

import torch

from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.own_model import call_user_code, find_model, refuse_model
from torchgd.experiment.parallel import find_device
from torchgd.experiment.sources import NAMES, Column, load
from torchgd.proof.answers import judge, parse
from torchgd.proof.findings import GradientCheck
from torchgd.proof.oracles import check_gradient
from torchgd.proof.symbols import Derivation, derive, latex, notation

# How formulas, ŷ, the loss and its derivatives are written.
PLAIN = notation, "ŷ", "loss", "∂loss/∂%s"
LATEX = (
    latex,
    r"\hat{y}",
    r"\text{loss}",
    r"\frac{\partial\,\text{loss}}{\partial %s}",
)


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="derive.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("model", metavar="MODEL", help="linear, quadratic, or FILE.py:CLASS, your own")
    add("--bias", action="store_true", help="give the linear model a bias")
    add("--latex", action="store_true", help="print the formulas as LaTeX")
    add("--answer", action="append", type=assignment, default=[], metavar="W=FORMULA",
        help="your own ∂loss/∂W, such as w=2x(wx-y); may be repeated")  # fmt: skip
    add("--data", default="lesson", metavar="D", help="where to check, beside random and extreme "
        f"points: {', '.join(NAMES)}, or a file; default: lesson")  # fmt: skip
    add("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:N")
    return parser


def assignment(text: str) -> tuple[str, str]:
    """Split W=FORMULA."""
    name, equals, formula = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not W=FORMULA, such as w=2x(wx-y)")
    return name.strip(), formula


def formulas(derivation: Derivation, names: Iterable[str], as_latex: bool) -> Iterator[str]:
    """Yield ŷ, the loss of a sample and the ∂loss/∂w by hand of these names."""
    write, prediction, loss, derivative = LATEX if as_latex else PLAIN
    lines = {prediction: derivation.prediction, loss: derivation.residual**2}
    for name in names:
        head = derivative % write(derivation.weights[name])
        lines[head] = derivation.loss_derivative(derivation.partials[name])
    width = max(map(len, lines))
    yield f"{'% ' * as_latex}For one sample; over N the loss, and so its derivative, is the mean:"
    for head, formula in lines.items():
        yield f"{head:<{width}} = {write(formula)}"


def summary(check: GradientCheck) -> str:
    """Say which derivatives are wrong, or how many answers there are."""
    wrong = ", ".join(f"∂loss/∂{name}" for name in check.wrong)
    said = sum(row.passed is not None for row in check.rows)
    return f"Wrong: {wrong}." if wrong else f"All {said} say yes."


def what_is_wrong(derivation: Derivation, name: str, formula: str) -> str:
    """Return what is wrong with an answer, "" if it is right; refuse what cannot be read."""
    known = derivation.weights
    if name not in known:
        raise ValueError(f"answer {name[:60]!r}: the parameters are {', '.join(known)}")
    try:
        return judge(derivation, name, parse(formula, derivation))
    except ValueError as error:
        raise ValueError(f"answer {f'{name}={formula}'[:60]!r}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        device, data = find_device(arguments.device), load(arguments.data)
        model = find_model(arguments.model, arguments.bias)(device=device, dtype=torch.float64)
        if arguments.answer:
            derivation = derive(model)
            hints = [what_is_wrong(derivation, *answer) for answer in arguments.answer]
            print(*formulas(derivation, (), arguments.latex), sep="\n")
            for (name, _), hint in zip(arguments.answer, hints, strict=True):
                print(f"∂loss/∂{name}: {f'wrong: {hint}' if hint else 'right'}")
            return int(any(hints))
        if isinstance(data.x, Column):
            raise ValueError(f"data {arguments.data!r} does not fit into memory; give fewer rows")
        x, y = data.x.to(device), data.y.to(device)
        refuse_model(arguments.model, model, x)
        check = call_user_code(arguments.model, check_gradient, model, x, y)
    try:
        derivation = derive(model)
        print(*formulas(derivation, derivation.weights, arguments.latex), "", sep="\n")
    except ValueError as error:
        print(f"∂loss/∂w = 2(ŷ − y)·∂ŷ/∂w, and no formula: {error}\n")
    print(check, summary(check), sep="\n")
    return int(not check)


if __name__ == "__main__":
    run_script(main)
