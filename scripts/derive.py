"""Derive ∂loss/∂w of a model by hand, and prove it; or check your own derivative."""

from collections.abc import Iterable, Iterator

import torch

from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.own_model import call_user_code, find_model, refuse_model
from torchgd.experiment.parallel import find_device
from torchgd.experiment.sources import NAMES, Column, load
from torchgd.proof.answers import judge, parse
from torchgd.proof.findings import GradientCheck
from torchgd.proof.notations import assignment
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
    add("--answer", action="append", default=[], metavar="W=FORMULA", help="your own ∂loss/∂W, "
        "such as w=2x(wx-y), also in LaTeX; may be repeated")  # fmt: skip
    add("--data", default="lesson", metavar="D", help="where to check, beside random and extreme "
        f"points: {', '.join(NAMES)}, or a file; default: lesson")  # fmt: skip
    add("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:N")
    return parser


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


def judged(derivation: Derivation, answer: str) -> tuple[str, str]:
    """Return an answer's parameter and what is wrong with it, "" if it is right."""
    try:
        name, formula = assignment(answer, derivation.weights)
        return name, judge(derivation, name, parse(formula, derivation))
    except ValueError as error:
        raise ValueError(f"answer {answer[:60]!r}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        device, data = find_device(arguments.device), load(arguments.data)
        model = find_model(arguments.model, arguments.bias)(device=device, dtype=torch.float64)
        if arguments.answer:
            derivation = derive(model)
            verdicts = [judged(derivation, answer) for answer in arguments.answer]
            print(*formulas(derivation, (), arguments.latex), sep="\n")
            for name, hint in verdicts:
                print(f"∂loss/∂{name}: {f'wrong: {hint}' if hint else 'right'}")
            return int(any(hint for _, hint in verdicts))
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
