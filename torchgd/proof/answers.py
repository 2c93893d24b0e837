"""A learner's own derivative: it is read as data, never run, and a wrong one gets a hint."""

import ast
import itertools
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator

import sympy
from sympy import Expr

from torchgd.proof.notations import as_learners_write, notation, plain, spellings, unbracketed
from torchgd.proof.slips import constant, slip
from torchgd.proof.symbols import Derivation

LONGEST = 300  # characters
HIGHEST = 100  # degree, to which each digit adds 1: this bounds the size of all results
PREDICTION = ("ŷ", "y_hat", "yhat", "y_pred")
# The tokens of an answer, beside names.
KINDS = {
    "exponential": r"e\s*\*\*",
    "number": r"[0-9]*\.?[0-9]+",
    "sign": r"\*\*|[-+*/]",
    "opening": r"\(",
    "closing": r"\)",
    "unknown": r"\S",
}
OPERATIONS: dict[type[ast.AST], Callable[..., Expr]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def parse(text: str, derivation: Derivation) -> Expr:
    """Read an expression in x, y, ŷ and the parameters, in any of `proof.notations`.

    Factors side by side are multiplied, 2x(xw − y). A power is an integer, after ^ or ** or
    raised. The rest is Python's grammar: we build the formula from the tree of Python's parser.
    The known functions are those that occur in the model's own formulas; a line has none.

    Raises:
        ValueError: the text is not such an expression, or too long, or of too high a degree.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters: an answer has at most {LONGEST}")
    reader = _Reader(derivation)
    try:
        tree = ast.parse(reader.in_python(text), mode="eval").body
    except SyntaxError:
        raise ValueError("it is no formula: check its signs") from None
    if (degree := reader.degree(tree)) > HIGHEST:
        raise ValueError(f"a degree of {degree}: the highest is {HIGHEST}")
    found = reader.formula(tree)
    if found.has(sympy.zoo, sympy.nan):
        raise ValueError("it divides by 0")
    return found


class _Reader:
    """Reads formulas in the names and functions of one model."""

    def __init__(self, derivation: Derivation) -> None:
        self.symbols, self.functions = derivation.symbols, derivation.functions
        known = {**dict.fromkeys(PREDICTION, derivation.prediction), **self.symbols}
        self.names = {spelled: known[name] for spelled, name in spellings(known).items()}
        # Of two names the longer first, so that w2 is not w·2; and xw is x·w.
        names = sorted([*self.names, *self.functions], key=len, reverse=True)
        # A digit right after a name, as in x2, is a power to some and a product to others.
        kinds = {"name": rf"(?:{'|'.join(map(re.escape, names))})(?![0-9])", **KINDS}
        self.token = re.compile("|".join(f"(?P<{kind}>{p})" for kind, p in kinds.items()))

    def tokens(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield each token of a formula after its kind."""
        text = unbracketed(as_learners_write(text, self.symbols), self.symbols)
        text = plain(text).replace("^", "**")
        for found in self.token.finditer(text):
            kind, token = str(found.lastgroup), found.group()
            if kind == "exponential" and "exp" in self.functions:
                kind, token = "name", "exp"
            if kind in ("unknown", "exponential"):
                raise ValueError(self._not_understood(text[found.start() :]))
            is_function = kind == "name" and token not in self.names
            yield "function" if is_function else kind, token

    # 2x²(x·w2 − y) becomes '2' * 'x' ** '2' * ( 'x' * 'w2' - 'y' ). Python does not interpret
    # what is in quotes, so it rounds no number and finds no keyword among the names.
    def in_python(self, text: str) -> str:
        """Write a formula in Python's grammar."""
        written, before = [], ""
        for kind, token in self.tokens(text):
            if before in ("name", "number", "closing"):
                if kind == "number" and before != "closing":
                    raise ValueError(f"{token!r} follows without a sign: write ^ or * before it")
                if kind in ("name", "number", "function", "opening"):
                    written.append("*")
            if kind in ("name", "number"):
                token = f"( {token!r} )" if before == "function" else repr(token)
            written.append(token)
            before = kind
        return " ".join(written)

    def formula(self, node: ast.expr) -> Expr:
        """Return the formula of a node of Python's tree."""
        match node:
            case ast.Constant(str(word)):
                return self.names[word] if word in self.names else sympy.Rational(word)
            case ast.UnaryOp(sign, operand):
                return OPERATIONS[type(sign)](self.formula(operand))
            case ast.BinOp(base, ast.Pow(), power):
                return self.formula(base) ** int(_plain(power))
            case ast.BinOp(left, sign, right):
                return OPERATIONS[type(sign)](self.formula(left), self.formula(right))
            case ast.Call(ast.Name(name), [inside]):
                value = self.formula(inside)
                if value.atoms(sympy.Function):
                    raise ValueError(f"{name} of a function: the numbers could grow beyond measure")
                return self.functions[name](value)
        raise ValueError(f"{_plain(node)[:20]!r} is not expected there")

    def degree(self, node: ast.AST) -> int:
        """Return a formula's degree, at least 1; refuse a power that is no integer."""
        match node:
            case ast.BinOp(base, ast.Pow(), power):
                if not re.fullmatch("-?[0-9]+", _plain(power)):
                    raise ValueError("a power is an integer, such as the 2 of x^2")
                return max(1, self.degree(base) * abs(int(_plain(power))))
            case ast.BinOp(left, ast.Mult() | ast.Div(), right):
                return self.degree(left) + self.degree(right)
            case ast.Constant(str(word)) if word in PREDICTION:
                return leaves(self.names[word])
            case ast.Constant(str(word)) if word not in self.names:
                return len(word)
        return max(map(self.degree, ast.iter_child_nodes(node)), default=1)

    def _not_understood(self, rest: str) -> str:
        found = re.match(r"[A-Za-z0-9_ŷ]+", rest)
        word = found.group() if found else rest[0]
        known = word.isascii() or "ŷ" in word
        name = "" if known else f" ({unicodedata.name(word, 'no character')})"
        if re.fullmatch(rf"(?:{'|'.join(map(re.escape, self.names))})[0-9]+", word):
            return f"{word[:20]!r} is ambiguous: write x^2 for a power and 2*x for a product"
        names = ", ".join([*self.symbols, *PREDICTION[:1], *self.functions])
        return f"{word[:20]!r}{name} is not understood: use numbers, {names}, + - * / ^ ( )"


def leaves(formula: Expr) -> int:
    """Return how many symbols and numbers a formula has."""
    return sum(not part.args for part in sympy.preorder_traversal(formula))


def _plain(node: ast.AST) -> str:
    return ast.unparse(node).replace("'", "")


def judge(derivation: Derivation, name: str, answer: Expr) -> str:
    """Return "" if an answer is ∂loss/∂`name`, and otherwise a hint what is wrong.

    Two formulas count as equal if they agree at random points: exactly if they are rational, else
    to 40 digits. Different formulas of this size agree at hardly any point.
    """
    right = derivation.loss_derivative(derivation.true_partials[name])
    if constant(answer / right) == 1:
        return ""
    hints = "; ".join(_hints(derivation, name, answer, right))
    others = known(derivation, name).items()
    same = next((f"this is {what}" for what, e in others if constant(answer / e) == 1), "")
    said = ": ".join(filter(None, (hints, same)))
    return slip(derivation, name, answer) or said or _counterexample(derivation, answer, right)


def judge_each(derivation: Derivation, name: str, answer: str) -> str:
    """Judge each side of 2x(ŷ − y) = 2x(w·x − y), which is one formula or several that are equal.

    Raises:
        ValueError: see `parse`.
    """
    hints = (judge(derivation, name, parse(side, derivation)) for side in answer.split("="))
    return next(filter(None, hints), "")


def _hints(derivation: Derivation, name: str, answer: Expr, right: Expr) -> Iterator[str]:
    """Yield hints if answer/right is a number, a monomial, or a factor of the chain rule."""
    if constant(answer) == 0:
        yield f"0 would say that the loss does not depend on {name}"
        return
    ratio, partial = answer / right, derivation.true_partials[name]
    if constant(ratio) is None and constant(ratio * partial) is not None:
        yield f"the chain rule's factor {notation(partial)} is missing"
        ratio *= partial
    number, many, missing = _monomial(ratio)
    for factor, wrong in ((missing, "missing"), (many, "too many")):
        if factor != 1:
            yield f"a factor {notation(factor)} is {wrong}"
    if number < 0:
        yield "the sign is reversed"
    if abs(number) < 1:
        yield f"a factor {_decimal(1 / abs(number))} is missing"
    if abs(number) > 1:
        yield f"a factor {_decimal(abs(number))} is too many"


def known(derivation: Derivation, name: str) -> dict[str, Expr]:
    """Return other quantities, by what they are, that an answer for ∂loss/∂`name` may be."""
    partials, r = derivation.true_partials, derivation.residual
    return {
        **{f"∂loss/∂{n}": derivation.loss_derivative(partial) for n, partial in partials.items()},
        "∂loss/∂ŷ, without the inner derivative": 2 * r,
        f"∂ŷ/∂{name}, without the outer derivative 2(ŷ − y)": partials[name],
        "the loss itself": r**2,
        "ŷ − y, the residual": r,
        "ŷ, the prediction": derivation.prediction,
    }


def _monomial(ratio: Expr) -> tuple[Expr, Expr, Expr]:
    """Return (c, n, d) with ratio = c·n/d, n and d products of powers; else (1, 1, 1).

    Doubling a variable multiplies a monomial by 2 to its power in that variable.
    """
    one = many = missing = sympy.Integer(1)
    for symbol in ratio.free_symbols:
        doubled = constant(ratio.xreplace({symbol: 2 * symbol}) / ratio)
        power = sympy.log(doubled, 2) if doubled is not None and doubled > 0 else None
        if power is None or not power.is_Integer:
            return one, one, one
        many, missing = many * symbol ** max(power, 0), missing * symbol ** max(-power, 0)
    return constant(ratio * missing / many) or one, many, missing


def _counterexample(derivation: Derivation, answer: Expr, right: Expr) -> str:
    """Name a point at which the two differ, and both values there."""
    symbols = derivation.symbols
    for numbers in itertools.permutations((2, 3, 5, 7, 11, 13, -1, 1), len(symbols)):
        point = dict(zip(symbols.values(), map(sympy.Integer, numbers), strict=True))
        yours, true = answer.xreplace(point), right.xreplace(point)
        if true.is_real and yours.is_real and yours != true:
            where = ", ".join(f"{n} = {v}" for n, v in zip(symbols, numbers, strict=False))
            return f"at {where} it is {_decimal(yours)}, and the right one {_decimal(true)}"
    return "it is no number where the right one is"


def _decimal(value: Expr) -> str:
    short = value.is_Rational and max(abs(value.p), value.q) < 10**10
    return str(value if short else sympy.N(value, 6))
