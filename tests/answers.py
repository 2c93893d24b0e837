"""What learners answer, right and wrong and no answer at all, for each reader of answers."""

import sympy
from helpers import MODELS, Exponential

from torchgd.proof.symbols import Derivation, derive

x, w = sympy.symbols("x w", real=True)
DERIVATIONS: dict[str, Derivation] = {
    "line": derive(MODELS["linear"]()),
    "bias": derive(MODELS["linear with bias"]()),
    "parabola": derive(MODELS["quadratic"]()),
    "exponential": derive(Exponential()),
    "root": Derivation({"w": w}, w * sympy.sqrt(x), {"w": sympy.sqrt(x)}),
}

# The lesson's own, in its notation and in others.
RIGHT = {
    ("line", "w"): "2x(w·x − y) | 2x(xw-y) | 2*x*(w*x - y) |  2 * x * ( x*w-y )   | -2x(y - wx) |"
    "2(wx-y)x | 2wx^2 - 2xy | 2wx**2-2yx | 2x²w − 2xy | x(wx-y)+(wx-y)x | 2x*--(wx-y) |"
    "+2x(wx-y) | 4x(wx-y)/2 | 0.5*4x(wx-y) | .5(8x)(wx-y)/2 | 2x^3(wx-y)/x^2 | 2x^3(wx-y)x^-2 |"
    "2((wx)^2-y^2)x/(wx+y) | ((wx-y+x)^2-(wx-y)^2-x^2) | x ( ( ( 2 ) ) ) ( w x - y ) |"
    "0x + 2x(wx-y) + 0^3 | 02x^01(wx-y)",
    ("bias", "w"): "2x(wx+b-y) | 2xb+2x(xw-y)",
    ("bias", "b"): "2(wx+b-y) | 2wx+2b-2y",
    ("parabola", "w2"): "2*x**2*(x**2*w2+x*w1+b-y) | 2x²(x²·w2 + x·w1 + b − y) |"
    "2x^2(x^2w2+xw1+b-y) | 2x^4w2+2x^3w1+2x^2b-2x^2y | -2xx(y-b-x(w1+w2x))",
    ("parabola", "w1"): "2x(x²w2 + xw1 + b − y)",
    ("parabola", "b"): "2(x(xw2+w1)+b-y)",
    ("exponential", "a"): "2exp(kx)(a*exp(kx)-y) | 2(exp x)^0exp(kx)(a*exp(kx)-y)",
    ("exponential", "k"): "2a*x*exp(2kx)*a - 2a*x*y*exp(x k) | 2ax(a-y*exp(-k*x))exp(k*x)^2",
    ("root", "w"): "2sqrt(x)(w*sqrt(x)-y) | 2wx-2y*sqrt(x) | 2sqrt x(w*sqrt x-y)",
}
WRONG = {
    ("line", "w"): {
        "x(wx-y)": "a factor 2 is missing",
        "4x(wx-y)": "a factor 2 is too many",
        "2x(y-wx)": "the sign is reversed",
        "-x(wx-y)": "the sign is reversed; a factor 2 is missing",
        "3x(wx-y)": "a factor 3/2 is too many",
        "2(wx-y)": "the chain rule's factor x is missing: this is ∂loss/∂ŷ, without the inner",
        "2x²(wx-y)": "a factor x is too many",
        "2w(wx-y)": "this is the derivative by x, which is given; what changes is w",
        "2x": "the factor (ŷ − y) is missing: the outer derivative is 2(ŷ − y)",
        "2x(wx-y)^2": "the square is kept: of (ŷ − y)² the outer derivative is 2(ŷ − y)",
        "2x*wx-y": "a bracket is lost: 2x multiplies all of ŷ − y",
        "wx-y": "the chain rule's factor x is missing; a factor 2 is missing",
        "x": "this is ∂ŷ/∂w, without the outer derivative 2(ŷ − y)",
        "(wx-y)^2": "this is the loss itself",
        "wx": "this is ŷ, the prediction",
        "0": "0 would say that the loss does not depend on w",
        "(x+1)^2-x^2-2x-1": "0 would say that the loss does not depend on w",
        "2x(wx+y)": "the residual is ŷ − y, and not ŷ + y",
        "x(wx+y)": "the residual is ŷ − y, and not ŷ + y",
        "x(wx-y)^2": "the square is kept",
        "2x(wx-y)+1/1000": "at x = 2, y = 3, w = 5 it is 28001/1000, and the right one 28",
        "1/(x-2)": "at x = 3, y = 2, w = 5 it is 1, and the right one 78",
        "2x^3*w(wx-y)": "a factor w·x² is too many",
        "2x(wx-y)/(x+y)": "at x = 2, y = 3, w = 5 it is 28/5, and the right one 28",
        "1/99999999999": "at x = 2, y = 3, w = 5 it is 1.00000e-11, and the right one 28",
        "-99999999999": "at x = 2, y = 3, w = 5 it is -1.00000e+11, and the right one 28",
    },
    ("bias", "w"): {
        "2x(wx-y)": "b is missing in ŷ = w·x + b",
        "2x(b-y)": "w·x is missing in ŷ = w·x + b",
        "2wx+b-y": "a bracket is lost: 2x multiplies all of ŷ − y",
        "2x*w*x+b-y": "a bracket is lost",
        "2x(wx+b)": "at x = 2, y = 3, w = 5, b = 7 it is 68, and the right one 56",
    },
    ("bias", "b"): {"2x(wx+b-y)": "a factor x is too many: this is ∂loss/∂w"},
    ("parabola", "w2"): {
        "2x(x²w2+xw1+b-y)": "a factor x is missing: this is ∂loss/∂w1",
        "2(x²w2+xw1+b-y)": "the chain rule's factor x² is missing: this is ∂loss/∂b",
        "2x²": "the factor (ŷ − y) is missing",
        "2x²w2+xw1+b-y": "a bracket is lost: 2x² multiplies all of ŷ − y",
        "2x²x²w2+xw1+b-y": "a bracket is lost: 2x² multiplies all of ŷ − y",
        "2x²(x²w2+xw1-y)": "b is missing in ŷ = x²·w2 + x·w1 + b",
        "2x²(xw1-y)": "b and w2·x² are missing in ŷ",
        "2x²(xw1+b-y)": "w2·x² is missing in ŷ",
        "2x²(x²w2+xw1+b-y)²": "the square is kept",
        "4x(x²w2+xw1+b-y)": "x² was differentiated by x, to 2x: for w2 it is a constant factor",
        "2(2xw2+w1)(x²w2+xw1+b-y)": "this is the derivative by x, which is given",
        "2x²(x²w2+xw1+b+y)": "the residual is ŷ − y, and not ŷ + y",
        "x²(ŷ-y)": "a factor 2 is missing",
        "w2": "at x = 2, ",
    },
    ("parabola", "w1"): {
        "2w1(x²w2+xw1+b-y)": "a factor x is missing; a factor w1 is too many",
        "2x(w1x-y)": "b and w2·x² are missing in ŷ",
        "2x": "the factor (ŷ − y) is missing",
        "2x(ŷ-y)²": "the square is kept",
    },
    ("parabola", "b"): {
        "2": "the factor (ŷ − y) is missing",
        "2(x²w2+xw1-y)": "b is missing in ŷ",
        "2x²(x²w2+xw1+b-y)": "a factor x² is too many: this is ∂loss/∂w2",
        "x²w2+xw1+b-y": "a factor 2 is missing: this is ŷ − y, the residual",
    },
    ("exponential", "a"): {
        "exp(kx)": "this is ∂ŷ/∂a, without the outer derivative",
        "2exp(kx)(a*exp(x)-y)": "at x = 2, y = 3, a = 5, k = 7 it is ",
    },
    ("exponential", "k"): {
        "2(a*exp(kx)-y)": "the chain rule's factor a·x·exp(k·x) is missing",
        "2a*exp(kx)*(a*exp(kx)-y)": "a factor x is missing",
    },
    ("root", "w"): {"sqrt(-x^2)": "it is no number where the right one is"},
}

# The notations of programs, blackboards and LaTeX, all right.
NOTATIONS = {
    "the prediction": ("line", "2x(ŷ − y) | 2x(y_hat-y) | 2*x*(yhat - y) | 2x(y\u0302-y)"),
    "a number behind": ("line", "(wx − y)2x | (wx-y)2*x | x(wx-y)2 | (x)(wx-y)2"),
    "fractions": ("line", "½·4x(wx-y) | 4x(wx-y)·½ | 1½x(wx-y)·⅘/⅗ | 1⁄2·4x(wx-y) | ⅓(6x)(wx-y)"),
    "signs": ("line", "2⋅x⋅(w⋅x−y) | 2∙x∙(w∙x−y) | 2×x×(w×x − y) | −2x(y − w·x) | 2x(wx – y)"),
    "brackets": ("line", "2x[wx-y] | 2x{wx-y} | 2{x[(w)x-y]} | [2x](wx-y)"),
    "left sides": ("line", "w=2x(wx-y) | ∂loss/∂w = 2x(wx-y) | dL/dw=2x(wx-y) | "
                   "dloss/dw =2x(wx-y) | ∂ℓ/∂w=2x(wx-y) | (∂loss)/(∂w) = 2x(wx-y)"),
    "LaTeX": ("line", r"2x\left(w x - y\right) | 2\cdot x\cdot(w\cdot x-y) | $2x(wx-y)$ | "
              r"\(2x(wx-y)\) | \frac{1}{2}\cdot 4x(wx-y) | \frac12 4x(wx-y) | "
              r"\dfrac{4x(wx-y)}{2} | \frac{\partial\,\text{loss}}{\partial w} = 2x(\hat{y}-y) | "
              r"$$\frac{dL}{dw} = 2 x \left( \hat y - y \right)$$ | \tfrac{2}{x^{-1}}(wx-y) | "
              r"\frac{\frac{4x}{2}}{1}\,(wx - y) | 2x\left[wx-y\right] | 2x\{wx-y\}"),
    "names with a digit": (
        "parabola", "w₂=2x²(w₂x²+w₁x+b−y) | w_2=2x^2(w_2x^2+w_1x+b-y) | "
        "w2=2x^2(w_{2}x^2+w_{1}x+b-y) | "
        r"\frac{\partial loss}{\partial w_{2}}=2x^{2}(w_{2}x^{2}+w_{1}x+b-y) | ∂loss/∂w₁=2x(ŷ−y) | "
        r"dL/dw_1=2x(x²w2+x·w_1+b-y) | \frac{d L}{d b} = 2 (\hat{y}-y) | b=(w₂x²+w₁x+b−y)2",
    ),
    "exponentials": (
        "exponential", r"a=2e^{kx}(a e^{kx} - y) | k=2a x e^(kx)(a e^(kx)-y) | k=2axe^(k x)(ŷ-y) | "
        r"\frac{dL}{da}=2\exp(kx)\left(\hat{y}-y\right) | a=2e**(kx)(ŷ-y) | "
        r"k = 2ax\exp\left(kx\right)(\hat y-y)",
    ),
}  # fmt: skip

NOT_UNDERSTOOD = {
    "__import__": "__import__('os').system('touch pwned')", "eval": "eval('1')", "'": "'x'",
    "lambda": "(lambda: x)()", ".": "x.__class__.__mro__", ":": "x:=2",
    "if": "x if x else y", "=": "x==y", ";": "x;y", "f": "f(x)", "exp": "exp(x)", "e999": "1e999",
    "\x00": "x\x00",
}  # fmt: skip
NAMED = {
    "х": "CYRILLIC SMALL LETTER HA", "2∗x": "ASTERISK OPERATOR", "x\u200by": "ZERO WIDTH SPACE",
    "٢x": "ARABIC-INDIC DIGIT TWO",
}  # fmt: skip
HOSTILE: dict[str, str] = {
    **{answer: f"{word!r} is not understood" for word, answer in NOT_UNDERSTOOD.items()},
    **{a: f"{a.strip('2xy')!r} ({name}) is not understood" for a, name in NAMED.items()},
    **dict.fromkeys(["", "2*", "*2", "2(x", "2x)", "(" * 150 + "x" + ")" * 149], "it is no form"),
    **dict.fromkeys(["1/0", "1/(x-x)", "0/0"], "it divides by 0"),
    **dict.fromkeys(["x^-101", "(x^0)^101"], "a degree of 101: the highest is 100"),
    "9**9**9": "a power is an integer, such as the 2 of x^2",
    "x()": "'()' is not expected there",
    "2 2x": "'2' follows without a sign: write ^ or * before it",
    "x" * 101: "a degree of 101: the highest is 100",
    "9" * 101: "a degree of 101: the highest is 100",
    "x^60/x^60": "a degree of 120: the highest is 100",
    "x^999999999999": "a degree of 999999999999: the highest is 100",
    "((9^9)^9)^9": "a degree of 729: the highest is 100",
    "(" * 5 + "x^0+x^0" + ")^99" * 5: "a degree of 9509900499: the highest is 100",
    "x^y": "a power is an integer",
    "x^1.5": "a power is an integer",
    "x^" + "0" * 30 + "101": "a degree of 101: the highest is 100",
    "-" * 10_000 + "x": "10001 characters: an answer has at most 300",
    "x2": "'x2' is ambiguous: write x^2 for a power and 2*x for a product",
}
# Functions are the model's own, and only of what has none.
FOREIGN = {
    ("root", "exp(x)"): "'exp' is not understood",
    ("exponential", "sqrt(x)"): "'sqrt' is not understood",
    ("exponential", "exp(exp(x))"): "exp of a function: ",
    ("exponential", "exp exp x"): "it is no formula",
    ("exponential", "exp+x"): "'exp' is not expected there",
}

# Names that learners write, and what programs call x, y and ŷ.
LEARNERS = [
    "2*x*(y_pred-y)", "2x(y_hat-y)", "2*x_val*(forward(x_val)-y_val)",
    "2*x_data*(w*x_data-y_data)", "2X(w*X-y)", "2x_i(w x_i-y_i)", "2*x_n*(x_n*w-y_n)",
    r"2x_{i}\left(\hat{y}_i-y_i\right)", r"2 x_n (\hat{y}-y_n)", "2*x*(forward(x) - y),",
    "2x(wx−y).", "2*x_train*(w*x_train-y_train)",
]  # fmt: skip
# Several sides that are equal, or not.
SIDES = {
    "2(w·x − y)·x = 2x(ŷ − y) = 2x·w·x − 2x·y": "",
    "2x(ŷ − y) = x(wx − y)": "a factor 2 is missing",
    "x(ŷ − y) = 2x(wx − y)": "a factor 2 is missing",
}
# Of several samples, where one is asked for.
SUMS = ["1/N Σ 2x(wx-y)", r"\frac{1}{N} \sum 2x(wx-y)", "(2x(wx-y)).mean()", "∑ 2x(wx-y)"]
# What stands before an answer.
HEADS = [
    "w = ", "∂loss/∂w = ", r"\frac{\partial \mathcal{L}}{\partial w} = ", "∇_w = ", "dL/dw = ",
    "dE/dw = ", "∂J/∂w = ",
]  # fmt: skip
