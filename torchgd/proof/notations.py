"""From the notations that people use to the plain one that `proof.answers` reads, and back."""

import re
import unicodedata
from collections.abc import Iterable

import sympy
from sympy import Expr

SIGNS = str.maketrans("·×⋅∙−–⁄", "****--/")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

# LaTeX commands and their meaning; of every other command the name is kept, as in \exp.
LATEX = {
    r"\$|\\[()\[\],;:! ]|\\(?=[{}])|\\(?:left|right|displaystyle)(?![A-Za-z])": " ",
    r"\\(?:text|mathrm|mathit|operatorname)\s*\{([^{}]*)\}": r"\1",
    r"\\hat\s*(?:\{y\}|y)": "ŷ",
    r"_\s*\{\s*(\w+)\s*\}": r"_\1",
    r"\\mathcal\s*\{?\s*L\s*\}?": "L",
    r"\\(?:cdot|times)(?![A-Za-z])": "*",
    r"\\partial(?![A-Za-z])": "∂",
    r"\\([A-Za-z]+)": r"\1 ",
}


SEVERAL = r"Σ|∑|\\sum|\b1\s*/\s*[Nn]\b|\bmean\b|\\frac\s*\{?1\}?\s*\{?[Nn]\b"
# What stands before the name of a parameter on the left of an answer's =, as ∂loss/∂ does.
DERIVATIVE = r"^(?:[∂d](?:loss|L|ℓ|E|J)/[∂d]|∇_?(?:loss|L|ℓ|E|J)?_?)"
# What programs and blackboards call x, y and ŷ of one sample.
LEARNERS = {
    r"(?<![A-Za-z_])forward\(\s*\w+\s*\)": "ŷ",
    r"(?<![A-Za-z_])X(?![A-Za-z0-9_])": "x",
    r"((?<![A-Za-z_])[xy]|ŷ|\\hat\s*\{?y\}?)_(?:val|data|train|n|i|\{[ni]\})(?![A-Za-z0-9])": r"\1",
    r"(?<![A-Za-z])\\?ln(?![A-Za-z])": "log",
    r"[\s,;.]+$": "",
}


def as_learners_write(text: str, names: Iterable[str]) -> str:
    """Write x_val, X, x_i and forward(x) as x and ŷ, where no parameter is called so.

    Raises:
        ValueError: it is a sum or a mean over samples.
    """
    several = re.search(SEVERAL, text)
    if several and several.group() not in names:
        raise ValueError("give it for one sample, without a sum and without 1/N")
    for written, meant in LEARNERS.items():
        found = re.search(written, text)
        if found and found.group().strip() not in names:
            text = re.sub(written, meant, text)
    return text


def plain(text: str) -> str:
    r"""Write 2x^{2}\left(ŷ − y\right)½ as 2x^(2)(ŷ - y)(1/2).

    Raises:
        ValueError: its brackets do not match.
    """
    text = _fractions(unicodedata.normalize("NFC", text))
    for written, meant in LATEX.items():
        text = re.sub(written, meant, text)
    # Raised digits come first: NFKC would also turn ½ into a fraction.
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda s: "^" + unicodedata.normalize("NFKC", s[0]), text)
    text = re.sub("([0-9]*)([¼-¾⅐-⅞])", _mixed, text)
    return _round_brackets(text.translate(SIGNS))


def _mixed(found: re.Match[str]) -> str:
    """2½ is 2 + 1/2."""
    whole, fraction = found.groups()
    return f"({whole or 0}+{unicodedata.normalize('NFKC', fraction)})"


def _fractions(text: str) -> str:
    r"""Write \frac{a}{b} as ((a)/(b))."""
    while found := re.search(r"\\[dt]?frac(?![A-Za-z])", text):
        top, rest = _group(text[found.end() :].lstrip())
        bottom, rest = _group(rest.lstrip())
        text = f"{text[: found.start()]}(({top})/({bottom})){rest}"
    return text


def _group(text: str) -> tuple[str, str]:
    """Split a text after its first character, or after its first braces."""
    depth = 0
    for k, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[: k + 1].removeprefix("{").removesuffix("}"), text[k + 1 :]
    raise ValueError(f"after \\frac there is no whole group: {text[:20]!r}")


def _round_brackets(text: str) -> str:
    """Make all brackets round ones, if they match."""
    awaited = []
    for character in text:
        if character in BRACKETS:
            awaited.append(BRACKETS[character])
        elif character in BRACKETS.values() and (not awaited or awaited.pop() != character):
            raise ValueError(f"it is no formula ({character!r} closes nothing): check its brackets")
    if awaited:
        raise ValueError(f"it is no formula ({awaited[-1]!r} is missing): check its brackets")
    return text.translate(str.maketrans("[]{}", "()()"))


def spellings(names: Iterable[str]) -> dict[str, str]:
    """Return the names by all their spellings: w2 is w_2 and w₂, too, and w[2] is w_2."""
    found: dict[str, str] = {}
    for name in names:
        found[unbracketed(name, [name])] = name
        base, digits = re.fullmatch(r"(.*?)_?([0-9]*)", name).groups()  # type: ignore[union-attr]
        if base and digits:
            spelled = (f"{base}{digits}", f"{base}_{digits}", base + digits.translate(SUBSCRIPTS))
            found |= dict.fromkeys(spelled, name)
    return found | {name: name for name in names}


def unbracketed(text: str, names: Iterable[str]) -> str:
    """Write w[0][1], of these names, as w_0_1, for a formula has such brackets, too."""
    for name in names:
        text = text.replace(name, name.replace("[", "_").replace("]", ""))
    return text


def assignment(text: str, names: Iterable[str]) -> tuple[str, str]:
    r"""Split W=FORMULA, or ∂loss/∂W=FORMULA, or \frac{dL}{dW}=FORMULA; one name may go unsaid.

    Raises:
        ValueError: it does not say in which of the names the loss is derived.
    """
    known, (left, equals, formula) = spellings(names), text.partition("=")
    if not equals:
        if len(set(known.values())) == 1:
            return next(iter(known.values())), text
        heads = ", ".join(f"{name}=" for name in names)
        raise ValueError(f"of which parameter? begin with one of {heads}")
    for name in sorted(known, key=len, reverse=True):  # whose own signs mean nothing
        for head in (name, f"∂loss/∂{name}"):
            after = text.strip().removeprefix(head).lstrip()
            if text.strip().startswith(head) and after.startswith("="):
                return known[name], after[1:]
    said = re.sub(r"[()\s]", "", plain(left))
    name = re.sub(DERIVATIVE, "", said)
    if name not in known:
        raise ValueError(f"{name[:60]!r} is none of the parameters, {', '.join(names)}")
    return known[name], formula


def notation(expression: Expr) -> str:
    """Write an expression as the lesson does: 2x²(x²·w2 + x·w1 + b − y)."""
    text = sympy.StrPrinter({"order": "none"}).doprint(expression)
    superscripts = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    text = re.sub(r"\*\*(\d+)\b", lambda power: power.group(1).translate(superscripts), text)
    text = re.sub(r"(?<![\w.])(\d+)\*(?=[xŷ])", r"\1", text)
    text = re.sub(r"(?<![^\W\d])x\*(?=ŷ)", "x", text)
    text = text.replace("*(", "(").replace("-", "−")
    return re.sub(r"(?<!\*)\*(?!\*)", "·", text)
