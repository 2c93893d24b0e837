"""The derivation of ∂loss/∂w, a line a step, in the lesson's notation or as LaTeX."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import sympy
from sympy import Expr

from torchgd.proof.latex import latex
from torchgd.proof.notations import notation
from torchgd.proof.symbols import YHAT, Derivation, Y

Line = tuple[str, str, str]  # the left side, the formula, and the reason


@dataclass(frozen=True)
class Notation:
    """How to write formulas, ŷ, the loss, a derivative and a blank."""

    write: Callable[[Expr], str]
    prediction: str
    loss: str
    derivative: str
    blank: str


PLAIN = Notation(notation, "ŷ", "loss", "∂{}/∂{}", "." * 40)
LATEX = Notation(
    latex,
    r"\hat{y}",
    r"\text{loss}",
    r"\frac{{\partial\,{}}}{{\partial {}}}",
    r"\underline{\hspace{20em}}",
)


# loss is a function of ŷ, which is a function of w: ∂loss/∂w = ∂loss/∂ŷ · ∂ŷ/∂w, the chain rule.
def steps(derivation: Derivation, names: Iterable[str], to: Notation) -> list[Line]:
    """Return the lines of the derivation, from ŷ and the loss to ∂loss/∂w for these names."""
    residual = sympy.Add(YHAT, -Y, evaluate=False)
    outer = to.derivative.format(to.loss, to.prediction)
    lines = [
        (to.prediction, to.write(derivation.prediction), "the model"),
        (to.loss, to.write(residual**2), "of one sample; over N the mean"),
        (outer, to.write(sympy.Mul(2, residual, evaluate=False)), "the derivative of a square"),
    ]
    for name in names:
        weight, partial = derivation.weights[name], derivation.partials[name]
        factor = sympy.expand(derivation.prediction.doit()).coeff(weight)
        inner = to.derivative.format(to.prediction, to.write(weight))
        reason = "its factor in the model" if factor == partial else "by hand"
        short = in_terms_of_prediction(partial, derivation)
        products = [(short, residual, "the product")]
        if derivation.prediction.is_polynomial():
            products.append((partial, derivation.residual, "the prediction written out"))
        lines += [
            (inner, to.write(short), reason),
            (to.derivative.format(to.loss, to.write(weight)), f"{outer}·{inner}", "the chain rule"),
            *(("", to.write(derivation.loss_derivative(p, r)), why) for p, r, why in products),
        ]
    return lines


def by_column(derivation: Derivation, to: Notation) -> tuple[list[str], Notation]:
    """Return one name for all entries of a parameter, and a notation that writes one column j.

    Where ŷ has w·x = Σ wₖxₖ, all of whose derivatives are alike, the first stands for each: xⱼ and
    wⱼ take the places of x[0] and w[0], and w·x that of the sum. Of another model, all names.
    """
    weights, x, formula = derivation.weights, derivation.x, derivation.prediction
    terms = {frozenset(pair) for pair in zip(weights.values(), x, strict=False)}
    own = [name for name in weights if "[" in name]
    alike = all(
        derivation.partials[name] == column == derivation.true_partials[name]
        for name, column in zip(own, x, strict=False)
    )

    def in_sum(e: Expr) -> bool:
        return e.func == sympy.Mul and frozenset(e.args) in terms

    whole = sum(map(in_sum, formula.args)) == len(x)
    if not (len(own) == len(x) > 1 and alike and whole and formula.func == sympy.Add):
        return list(weights), to
    parameter = own[0].partition("[")[0]
    j, dot = sympy.Symbol(f"{parameter}ⱼ"), sympy.Symbol(f"{parameter}·x")
    column = {x[0]: sympy.Symbol("xⱼ"), weights[own[0]]: j}

    def shown(e: Expr) -> Expr:
        if e in column or not e.args:
            return column.get(e, e)
        args = [a for a in e.args if not in_sum(a)] if e.func == sympy.Add else list(e.args)
        args = [dot, *args] if len(args) < len(e.args) else args
        return e.func(*map(shown, args), evaluate=False)

    names = [name for name in weights if name not in own[1:]]
    return names, replace(to, write=lambda e: to.write(shown(e)))


def in_first_column(answer: str, derivation: Derivation) -> str:
    """Write an answer for the column j, such as wⱼ = 2xⱼ(w·x − y), for the first of several."""
    if len(derivation.x) == 1:
        return answer
    whole = " + ".join(f"w[{k}]*x[{k}]" for k in range(len(derivation.x)))
    return re.sub(r"\bw\s*·\s*x(?![ⱼ\[\w])", f"({whole})", answer).replace("ⱼ", "[0]")


def in_terms_of_prediction(partial: Expr, derivation: Derivation) -> Expr:
    """Return ∂ŷ/∂w with ŷ in the place of the model's formula, if that is shorter."""
    shorter = partial.subs(derivation.prediction.doit(), YHAT)
    return shorter if shorter.count_ops() < partial.count_ops() else partial


def exercise(derivation: Derivation, names: Iterable[str], to: Notation) -> list[Line]:
    """Return the lines of `steps` with blanks for the answers."""
    given, asked = steps(derivation, (), to)[:2], [to.prediction, to.loss]
    weights = [to.write(derivation.weights[name]) for name in names]
    heads = [to.derivative.format(to.loss, to.prediction)]
    heads += [to.derivative.format(of, weight) for weight in weights for of in asked]
    return [*given, *((head, to.blank, "") for head in heads)]


def typeset(lines: list[Line], to: Notation) -> str:
    """Return the lines as text, aligned at their =, with the reasons; as LaTeX an align*."""
    if to.prediction == LATEX.prediction:
        rows = [f"{left} &= {right}" + rf" && \text{{{why}}}" * bool(why)
                for left, right, why in lines]  # fmt: skip
        joined = " \\\\\n".join(rows).replace("·", r" \cdot ")
        return f"\\begin{{align*}}\n{joined}\n\\end{{align*}}"
    left, right = (max(len(line[k]) for line in lines) for k in (0, 1))
    return "\n".join(f"{a:<{left}} = {b:<{right}}  {why}".rstrip() for a, b, why in lines)
