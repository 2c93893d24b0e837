"""How a worksheet is set: as plain text, or as a LaTeX document."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from sympy import Expr

from torchgd.proof.steps import LATEX, PLAIN, Notation

DIGITS = 4  # decimals
UNBROKEN = "\u00a0"  # a space at which no line ends


@dataclass(frozen=True)
class Paper:
    """How to set a worksheet: formulas, and what stands around them."""

    to: Notation
    minus: str
    math: str  # a formula in a sentence
    head: str  # of a part
    name: str  # the line for it, and the sheet's number
    room: str  # for a program, after a text
    gap: str  # between two parts
    page: str  # between two pages
    document: str
    table: Callable[[list[list[str]]], str]  # of a head and rows

    def number(self, value: Expr) -> str:
        """Write a number with at most so many decimals."""
        text = f"{round(float(value), DIGITS) + 0.0:.{DIGITS}f}"  # + 0.0 makes 0 of −0
        return text.rstrip("0").rstrip(".").replace("-", self.minus)

    def equation(self, symbol: Expr, value: Expr) -> str:
        """Write x = 2, which no line breaks."""
        written = f"{self.to.write(symbol)} = {self.number(value)}"
        return self.math.format(written).replace(" ", UNBROKEN)

    def part(self, head: str, text: str) -> str:
        """Begin a part with its name and a text."""
        text = f"{self.head.format(head)} {text}"
        lines = textwrap.wrap(text, 80, break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines).replace(UNBROKEN, " ")


def _in_text(columns: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in columns]
    rows = (zip(row, widths, strict=True) for row in zip(*columns, strict=True))
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in row) for row in rows)


# In its first run LaTeX sets a table's head before it knows of wider rows. Therefore the head has
# the widest numbers, too, invisible, and the titles stand over them.
def _in_latex(columns: list[list[str]]) -> str:
    head, *rows = (" & ".join(row) + r" \\" for row in zip(*columns, strict=True))
    widest = " & ".join(rf"\hphantom{{{max(numbers, key=len)}}}" for _, *numbers in columns)
    return "\n".join([
        rf"\begin{{longtable}}{{{'r' * len(columns)}}}",
        rf"{widest} \\[-\arraystretch\normalbaselineskip]",
        rf"{head}[1ex] \hline \endhead",
        *rows,
        r"\end{longtable}",
    ])  # fmt: skip


TEXT = Paper(
    to=PLAIN,
    minus="−",
    math="{}",
    head="{}.",
    name=f"Name: {'_' * 34}  Date: {'_' * 16}  Sheet {{}}",
    room="\n\n".join(["{}", *["_" * 80] * 16]),
    gap="\n\n",
    page="\n\f\n",
    document="PAGES",
    table=_in_text,
)
# The room is ruled to the end of the page; if less than half of this one is left, of a new one.
TEX = Paper(
    to=LATEX,
    minus="-",
    math=r"\({}\)",
    head=r"\textbf{{{}.}}",
    name=r"Name: \hrulefill\quad Date: \underline{{\hspace{{8em}}}}\quad Sheet {}\par\bigskip",
    room=r"""\par\ifdim\dimexpr\pagegoal-\pagetotal<0.5\textheight\newpage\else\bigskip\fi
{}\par
\leaders\vbox to 8mm{{\vfil\hrule width\textwidth}}\vfill""",
    gap="\n",
    page="\n\\newpage\n\n",
    document=r"""\documentclass[11pt,a4paper]{article}
\usepackage{amsmath,longtable}
\usepackage[margin=2cm]{geometry}
\setlength{\parindent}{0pt}
\setlength{\jot}{6pt}
\renewcommand{\arraystretch}{1.1}
\pagestyle{empty}
\allowdisplaybreaks
\begin{document}
PAGES
\end{document}""",
    table=_in_latex,
)
