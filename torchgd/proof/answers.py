"""A learner's own derivative: read as data, never run, and told how it is wrong."""

import itertools
import random
import re
import unicodedata
from collections.abc import Callable, Iterator

import sympy
from sympy import Expr

from torchgd.proof.symbols import Derivation, notation

LONGEST = 300  # characters
DEEPEST = 30  # parentheses within each other
HIGHEST = 100  # degree, a number counting as a letter does: bounds the size of what is computed
EQUAL = sympy.Float("1e-40")  # relative

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
SIGNS = str.maketrans("·×−", "**-")  # as the lesson prints them


def parse(text: str, derivation: Derivation) -> Expr:
    """Read an expression in x, y and the parameters, by a grammar of its own.

        expression = [sign] term {sign term}            sign: + or −
        term       = factor {[* or /] [sign] factor}    neither: implied multiplication, 2x(xw − y)
        factor     = atom [^ integer]                   ^ or **, or a superscript
        atom       = number | name | function atom | ( expression )

    The functions are those, such as exp, in which the model's own formulas are written; for the
    built-in models there is none.

    Raises:
        ValueError: anything else, or what is too long, too deep or of too high a degree.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters: an answer has at most {LONGEST}")
    parser = _Parser(text, derivation)
    found, _ = parser.expression()
    if parser.token:
        raise ValueError(f"{parser.token!r} is not expected there")
    if found.has(sympy.zoo, sympy.nan):
        raise ValueError("it divides by 0")
    return found


Term = tuple[Expr, int]  # with its degree


class _Parser:
    """Goes through the tokens from left to right; `token` is the next one, "" at the end."""

    def __init__(self, text: str, derivation: Derivation) -> None:
        named = {"x": derivation.x, "y": derivation.y, **derivation.weights}
        self.names: dict[str, Expr] = named
        self.functions = _functions(derivation)
        self.tokens = self._tokens(text)
        self.depth = 0
        self.token = next(self.tokens, "")

    def advance(self) -> str:
        """Return this token and go to the next."""
        passed, self.token = self.token, next(self.tokens, "")
        return passed

    def _tokens(self, text: str) -> Iterator[str]:
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda s: "^" + s.group().translate(SUPERSCRIPTS), text)
        text = text.translate(SIGNS).replace("**", "^").strip()
        # Of two names the longer first, so that w2 is not w·2; and xw is x·w.
        words = sorted([*self.names, *self.functions], key=len, reverse=True)
        word = "|".join(map(re.escape, words))
        number = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
        # A digit right after a name, as in x2, is a power to some and a product to others.
        pattern = re.compile(rf"\s*({number}|(?:{word})(?![0-9])|[-+*/^()])")
        position = 0
        while position < len(text):
            found = pattern.match(text, position)
            if found is None:
                raise ValueError(self._not_understood(text[position:].lstrip()))
            position = found.end()
            yield found.group(1)

    def _not_understood(self, rest: str) -> str:
        found = re.match(r"[A-Za-z0-9_]+", rest)
        word = found.group() if found else rest[0]
        name = "" if word.isascii() else f" ({unicodedata.name(word, 'no character')})"
        if re.fullmatch(rf"(?:{'|'.join(map(re.escape, self.names))})[0-9]+", word):
            return f"{word[:20]!r} is ambiguous: write x^2 for a power and 2*x for a product"
        known = ", ".join([*self.names, *self.functions])
        return f"{word[:20]!r}{name} is not understood: use numbers, {known}, + - * / ^ ( )"

    def expression(self) -> Term:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} parentheses within each other")
        total, degree = self.signed(self.term)
        while self.token in ("+", "-"):
            term, of_term = self.signed(self.term)
            total, degree = total + term, max(degree, of_term)
        self.depth -= 1
        return total, degree

    def signed(self, read: Callable[[], Term]) -> Term:
        sign = 1
        while self.token in ("+", "-"):
            sign = -sign if self.advance() == "-" else sign
        value, degree = read()
        return sign * value, degree

    def term(self) -> Term:
        product, degree = self.factor()
        while self.token not in ("", "+", "-", ")"):
            sign = self.advance() if self.token in ("*", "/") else ""
            if not sign and self.token[0] in "0123456789.":
                raise ValueError(f"{self.token!r} follows without a sign: write ^ or * before it")
            value, of_factor = self.signed(self.factor) if sign else self.factor()
            product = product / value if sign == "/" else product * value
            degree = self.bounded(degree + of_factor)
        return product, degree

    def factor(self) -> Term:
        base, degree = self.atom()
        if self.token != "^":
            return base, degree
        self.advance()
        sign = self.advance() if self.token == "-" else ""
        digits = self.advance()
        if not digits.isdecimal():
            raise ValueError(f"the power {digits!r} is no integer: write x^2")
        power = self.bounded(int(digits))
        return base ** int(f"{sign}{power}"), self.bounded(degree * power)

    def atom(self) -> Term:
        token = self.advance()
        if token == "(":
            inside = self.expression()
            if self.advance() != ")":
                raise ValueError("a parenthesis is not closed")
            return inside
        if token in self.names:
            return self.names[token], 1
        if token in self.functions:
            argument, degree = self.atom()
            if argument.atoms(sympy.Function):
                raise ValueError(f"{token} of a function: the numbers could grow beyond measure")
            return self.functions[token](argument), degree
        if token and token[0] in "0123456789.":
            return sympy.Rational(token), 1
        raise ValueError(f"{token!r} is not expected there" if token else "it ends too early")

    def bounded(self, degree: int) -> int:
        if degree > HIGHEST:
            raise ValueError(f"a degree of {degree}: the highest is {HIGHEST}")
        return degree


def _functions(derivation: Derivation) -> dict[str, Callable[[Expr], Expr]]:
    """Return, by name, the functions in which ŷ and its derivatives are written."""
    formulas = sympy.Tuple(derivation.prediction, *derivation.true_partials.values())
    found = {f.func.__name__: f.func for f in formulas.atoms(sympy.Function)}
    roots = any(power.exp.q == 2 for power in formulas.atoms(sympy.Pow) if power.exp.is_Rational)
    return {**found, "sqrt": sympy.sqrt} if roots else found


def judge(derivation: Derivation, name: str, answer: Expr) -> tuple[bool, str]:
    """Return whether an answer is ∂loss/∂`name` and, if not, a hint that says how.

    Two formulas are taken for one if they agree at random points: exactly where they are rational,
    to 40 digits elsewhere. Different ones of this size do so at hardly any point.
    """
    right = derivation.loss_derivative(derivation.true_partials[name])
    if _constant(answer / right, derivation) == 1:
        return True, ""
    hints = "; ".join(_hints(derivation, name, answer, right))
    known = _known(derivation, name, answer)
    found = ": this is ".join(filter(None, (hints, known))) if hints else f"this is {known}"
    return False, found if hints or known else _counterexample(derivation, answer, right)


def _hints(derivation: Derivation, name: str, answer: Expr, right: Expr) -> Iterator[str]:
    """Say what answer/right is, if it is a number, a monomial, or a factor of the chain rule."""
    if answer == 0:
        yield f"0 would say that the loss does not depend on {name}"
        return
    partial = derivation.true_partials[name]
    number = _constant(answer / right, derivation)
    if number is None and (number := _constant(answer * partial / right, derivation)) is not None:
        yield f"the chain rule's factor {notation(partial)} is missing"
    elif number is None:
        number, many, missing = _monomial(answer / right, derivation)
        for factor, wrong in ((missing, "missing"), (many, "too many")):
            if factor != 1:
                yield f"a factor {notation(factor)} is {wrong}"
    if number is not None:
        if number < 0:
            yield "the sign is reversed"
        if abs(number) < 1:
            yield f"a factor {_decimal(1 / abs(number))} is missing"
        if abs(number) > 1:
            yield f"a factor {_decimal(abs(number))} is too many"


def _known(derivation: Derivation, name: str, answer: Expr) -> str:
    """Say what else an answer is, "" if nothing known."""
    r = derivation.residual
    known = {
        **{
            f"∂loss/∂{other}": derivation.loss_derivative(partial)
            for other, partial in derivation.true_partials.items()
            if other != name
        },
        "∂loss/∂ŷ, without the inner derivative": 2 * r,
        f"∂ŷ/∂{name}, without the outer derivative 2(ŷ − y)": derivation.true_partials[name],
        "the loss itself": r**2,
        "ŷ − y, the residual": r,
        "ŷ, the prediction": derivation.prediction,
    }
    same = (what for what, e in known.items() if _constant(answer / e, derivation) == 1)
    return next(same, "")


def _values(formula: Expr, derivation: Derivation) -> list[Expr]:
    """Return a formula's values at random points of its domain: exact, or to 50 digits."""
    generator = random.Random(0)
    values = []
    for _ in range(16):
        point = {
            symbol: sympy.Rational(generator.choice((-1, 1)) * generator.randint(50, 300), 97)
            for symbol in (derivation.x, derivation.y, *derivation.weights.values())
        }
        value = formula.xreplace(point)
        value = value if value.is_Rational else value.evalf(50)
        if value.is_Rational or value.is_Float:
            values.append(value)
    return values


def _constant(formula: Expr, derivation: Derivation) -> Expr | None:
    """Return the number that a formula is everywhere, None if there is no such number."""
    values = _values(formula, derivation)
    if len(values) < 4 or any(abs(v - values[0]) > abs(values[0]) * EQUAL for v in values):
        return None
    near = sympy.Rational(str(values[0])).limit_denominator(1000)
    return near if abs(near - values[0]) <= abs(near) * EQUAL else values[0]


def _monomial(ratio: Expr, derivation: Derivation) -> tuple[Expr | None, Expr, Expr]:
    """Return (c, n, d) with ratio = c·n/d, n and d products of powers; c is None if it is not.

    Doubling a variable multiplies a monomial by 2 to its power in that variable.
    """
    many = missing = sympy.Integer(1)
    for symbol in (derivation.x, derivation.y, *derivation.weights.values()):
        doubled = _constant(ratio.xreplace({symbol: 2 * symbol}) / ratio, derivation)
        power = sympy.log(doubled, 2) if doubled is not None and doubled > 0 else None
        if power is None or not power.is_Integer:
            return None, sympy.Integer(1), sympy.Integer(1)
        many, missing = many * symbol ** max(power, 0), missing * symbol ** max(-power, 0)
    return _constant(ratio * missing / many, derivation), many, missing


def _counterexample(derivation: Derivation, answer: Expr, right: Expr) -> str:
    """Name a point at which the two differ, and both values there."""
    symbols = {"x": derivation.x, "y": derivation.y, **derivation.weights}
    for numbers in itertools.permutations((2, 3, 5, 7, 11, 13, -1, 1), len(symbols)):
        point = dict(zip(symbols.values(), map(sympy.Integer, numbers), strict=True))
        yours, true = answer.xreplace(point), right.xreplace(point)
        if true.is_real and yours.is_real and yours != true:
            where = ", ".join(f"{n} = {v}" for n, v in zip(symbols, numbers, strict=False))
            return f"at {where} it is {_decimal(yours)}, and the right one {_decimal(true)}"
    return "it is no number where the right one is"


def _decimal(value: Expr) -> str:
    exact = str(value)
    return exact if value.is_Rational and len(exact) < 12 else str(sympy.N(value, 6))
