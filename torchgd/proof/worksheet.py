"""Worksheets: Exercise 3.1 with blanks, a step by numbers, room for Exercise 3.2; and their key."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import Expr

from torchgd.proof.domain import Domain
from torchgd.proof.paper import DIGITS, Paper
from torchgd.proof.samples import Point, at, samples
from torchgd.proof.steps import by_column, exercise, steps, typeset
from torchgd.proof.symbols import YHAT, Derivation, Y

WIDE = 90  # characters: what is more of a table comes below
STEP = "A step by numbers"
PROGRAM = (
    "Write the program that trains this model, one sample a step. After each step it prints the "
    "sample and the derivatives, every tenth epoch the parameters and the loss, and at the end "
    "a prediction."
)
DATA = " Take the samples (1, 2), (2, 4) and (3, 6), and 50 epochs."  # the lesson's


@dataclass(frozen=True)
class Quantity:
    """What a step asks for: a formula, how it is written, and its title, of so many letters."""

    formula: Expr
    written: str
    title: str
    letters: int


# A step takes one sample to ŷ, ŷ − y, each ∂loss/∂w = 2(ŷ − y)·∂ŷ/∂w, and w − α·∂loss/∂w.
def quantities(derivation: Derivation, rate: Expr, paper: Paper) -> list[Quantity]:
    """Return what a step asks for, in its order."""
    to, math = paper.to, paper.math.format
    residual = to.write(sympy.Add(YHAT, -Y, evaluate=False))
    found = [
        Quantity(derivation.prediction.doit(), to.prediction, math(to.prediction), 1),
        Quantity(derivation.residual.doit(), residual, math(residual), 5),
    ]
    updates = []
    for name, symbol in derivation.weights.items():
        slope = derivation.loss_derivative(derivation.partials[name]).doit()
        w = to.write(symbol)
        written = to.derivative.format(to.loss, w)
        update = f"{w} {paper.minus} {to.write(rate)}·{written}"
        found.append(Quantity(slope, written, math(written), 7 + len(name)))
        updates.append(Quantity(symbol - rate * slope, update, f"new {math(w)}", 4 + len(name)))
    return found + updates


@dataclass(frozen=True)
class Worksheet:
    """The sheets of a model, one for each of the points, and the key to all of them."""

    derivation: Derivation
    paper: Paper
    rate: Expr
    points: list[Point]

    @cached_property
    def asked(self) -> list[Quantity]:
        """What each sheet asks for."""
        return quantities(self.derivation, self.rate, self.paper)

    @cached_property
    def answers(self) -> list[list[Expr]]:
        """The numbers that are asked for, a row a sheet."""
        return [[at(quantity.formula, point) for quantity in self.asked] for point in self.points]

    @cached_property
    def rounded(self) -> str:
        """A sentence on the decimals, "" if no number has more."""
        whole = all(float(10**DIGITS * value).is_integer() for row in self.answers for value in row)
        return "" if whole else f" Numbers are rounded to {DIGITS} decimals."

    @property
    def program(self) -> str:
        """What Exercise 3.2 asks for; the lesson's samples have one column."""
        return PROGRAM + DATA * (len(self.derivation.x) == 1)

    def sheet(self, k: int) -> str:
        """Return the k-th sheet."""
        paper = self.paper
        names, to = by_column(self.derivation, paper.to)
        *given, rate = (paper.equation(*pair) for pair in self.points[k].items())
        step = f"Take {', '.join(given)} and the learning rate {rate}.{self.rounded}"
        blanks = [(quantity.written, to.blank, "") for quantity in self.asked]
        return paper.gap.join([
            paper.name.format(k + 1),
            paper.part("Exercise 3.1", "Find each derivative."),
            typeset(exercise(self.derivation, names, to), to),
            paper.part(STEP, step),
            typeset(blanks, to),
            paper.room.format(paper.part(f"Exercise 3.2, sheet {k + 1}", self.program)),
        ])  # fmt: skip

    def key(self) -> str:
        """Return the derivation and the numbers of all sheets."""
        names, to = by_column(self.derivation, self.paper.to)
        return self.paper.gap.join([
            self.paper.part("Key", "Exercise 3.1, of each sheet:"),
            typeset(steps(self.derivation, names, to), to),
            self.paper.part(STEP, f"A row for each sheet.{self.rounded}"),
            *map(self.paper.table, self._tables()),
        ])  # fmt: skip

    def _tables(self) -> Iterator[list[list[str]]]:
        """Yield the answers in tables that are not too wide: columns after the sheets' numbers."""
        table, width = [["Sheet", *(str(k + 1) for k in range(len(self.points)))]], 0
        for quantity, values in zip(self.asked, zip(*self.answers, strict=True), strict=True):
            numbers = [self.paper.number(value) for value in values]
            more = 2 + max(quantity.letters, *map(len, numbers))
            if len(table) > 1 and width + more > WIDE:
                yield table
                table, width = table[:1], 0
            table = [*table, [quantity.title, *map(self.paper.math.format, numbers)]]
            width += more
        yield table

    def __str__(self) -> str:
        """The whole document."""
        pages = [*map(self.sheet, range(len(self.points))), self.key()]
        return self.paper.document.replace("PAGES", self.paper.page.join(pages))


def worksheet(derivation: Derivation, domain: Domain, paper: Paper, count: int) -> Worksheet:
    """Return so many sheets of a model, each with other numbers, and their key.

    Raises:
        ValueError: see `samples`.
    """
    taken = {paper.to.write(w) for w in derivation.weights.values()}
    letters = map(sympy.Symbol, ("α", "η", "rate"))
    rate = next(letter for letter in letters if paper.to.write(letter) not in taken)
    return Worksheet(derivation, paper, rate, samples(derivation, domain, rate, count))
