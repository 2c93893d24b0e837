"""Formulas and names as LaTeX."""

import re
import unicodedata

import sympy
from sympy import Expr

from torchgd.proof.symbols import YHAT

# What LaTeX does not print as it stands.
ESCAPED = {
    **{sign: f"\\{sign}" for sign in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
}


def latex(expression: Expr) -> str:
    """Write an expression as LaTeX, in its own order."""
    names = {symbol: name_in_latex(symbol.name) for symbol in expression.free_symbols}
    return str(sympy.latex(expression, order="none", symbol_names={**names, YHAT: r"\hat{y}"}))


def name_in_latex(name: str) -> str:
    """Write a parameter's name: w1 as w_{1}, and one that is no identifier letter by letter."""
    known = spelled(name)
    if entry := re.fullmatch(r"([A-Za-z0-9.]+?)(?:ⱼ|((?:\[\d+\])+))", known):
        index = "j" if entry[2] is None else entry[2][1:-1].replace("][", ",")
        return f"{name_in_latex(entry[1])}_{{{index}}}"
    if dot := re.fullmatch(r"(\w+)·x", known):
        return rf"{name_in_latex(dot[1])} \cdot x"
    if re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9_.]*[A-Za-z0-9])?", known):
        return str(sympy.latex(sympy.Symbol(known)))
    letters = (ESCAPED.get(c, c if c.isascii() else f"U+{ord(c):04X}") for c in name)
    return rf"\texttt{{{''.join(letters)}}}"


def spelled(name: str) -> str:
    """Return a name with Greek letters spelled out, alpha for α: sympy writes these as LaTeX."""

    def word(letter: str) -> str:
        known = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(letter, ""))
        if known is None:
            return letter
        return known[2].lower() if known[1] == "SMALL" else known[2].capitalize()

    return "".join(map(word, name))
