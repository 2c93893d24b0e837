"""scripts/derive.py as its users meet it."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import derive
import pytest
import train
from helpers import EXPONENTIAL, ROOT, Shell, ended, script, shell_of

from torchgd import Linear
from torchgd.experiment.command_line import Progress
from torchgd.proof import steps
from torchgd.proof.symbols import derive as derived

shell = shell_of(derive.main, files={"mine.py": EXPONENTIAL})


def spoil(shell: Shell, right: str, wrong: str) -> None:
    """Change the user's own model."""
    (shell.folder / "mine.py").write_text(EXPONENTIAL.replace(right, wrong), encoding="utf-8")


def test_exercise_3_1_derived_and_proven(shell: Shell) -> None:
    assert shell("quadratic") == 0
    formulas, _, table = shell.out.partition("\n\n")
    assert formulas.splitlines() == [
        "ŷ         = x²·w2 + x·w1 + b           the model",
        "loss      = (ŷ − y)²                   of one sample; over N the mean",
        "∂loss/∂ŷ  = 2(ŷ − y)                   the derivative of a square",
        "∂ŷ/∂w2    = x²                         its factor in the model",
        "∂loss/∂w2 = ∂loss/∂ŷ·∂ŷ/∂w2            the chain rule",
        "          = 2x²(ŷ − y)                 the product",
        "          = 2x²(x²·w2 + x·w1 + b − y)  the prediction written out",
        "∂ŷ/∂w1    = x                          its factor in the model",
        "∂loss/∂w1 = ∂loss/∂ŷ·∂ŷ/∂w1            the chain rule",
        "          = 2x(ŷ − y)                  the product",
        "          = 2x(x²·w2 + x·w1 + b − y)   the prediction written out",
        "∂ŷ/∂b     = 1                          its factor in the model",
        "∂loss/∂b  = ∂loss/∂ŷ·∂ŷ/∂b             the chain rule",
        "          = 2(ŷ − y)                   the product",
        "          = 2(x²·w2 + x·w1 + b − y)    the prediction written out",
    ]
    head, *rows, last = table.splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["symbolic", "autograd", "finite differences"]
    for row, name in zip(rows, ("w2", "w1", "b"), strict=True):
        pattern = rf"{name} +yes +yes, 0 ULPs +yes, \d\.\de-\d\d off"
        assert re.fullmatch(pattern, row)
    assert last == "All 9 say yes."


DERIVED = {
    "linear": (["∂loss/∂w = ∂loss/∂ŷ·∂ŷ/∂w", "= 2x(ŷ − y)", "= 2x(w·x − y)"], "All 3 say yes."),
    "linear --bias": (["= 2(ŷ − y)", "= 2(w·x + b − y)"], "All 6 say yes."),
    "quadratic --latex": (
        [
            r"\begin{align*}",
            r"&= 2 x^{2} \left(x^{2} w_{2} + x w_{1} + b - y\right) && "
            r"\text{the prediction written out} \\",
            r"\end{align*}",
        ],
        "% All 9 say yes.",
    ),
    # In terms of ŷ where that is shorter.
    "mine.py:Exponential": (
        ["∂ŷ/∂a = exp(k·x)", "∂ŷ/∂k = xŷ", "= 2·exp(k·x)(ŷ − y)", "= 2xŷ(ŷ − y)"],
        "All 6 say yes.",
    ),
    "mine.py:Logistic": (
        ["ŷ = 1/(1 + exp(−w·x))", "∂ŷ/∂w = xŷ(1 − ŷ)", "= 2xŷ(1 − ŷ)(ŷ − y)"],
        "All 3 say yes.",
    ),
}


@pytest.mark.parametrize("words", DERIVED)
def test_each_model_derived_and_proven(shell: Shell, words: str) -> None:
    formulas, last = DERIVED[words]
    with Path("mine.py").open("a", encoding="utf-8") as file:
        file.write(LOGISTIC)
    assert shell(*words.split()) == 0
    reasons = "|".join(["the model", "the product", "the prediction written out", "by hand",
                        "its factor in the model", "the chain rule"])  # fmt: skip
    lines = [re.sub(rf"  +({reasons})$", "", line).strip() for line in shell.out.splitlines()]
    assert set(formulas) <= {re.sub(" +", " ", line) for line in lines}
    assert lines[-1] == last


LATEX_PAGE = (
    r"\documentclass{article}\usepackage{amsmath}\begin{document}" "\n%s\n" r"\end{document}"
)


@pytest.mark.processes
@pytest.mark.parametrize(("words", "pages"), [
    ("quadratic", 1), ("mine.py:Exponential", 1),
])  # fmt: skip
def test_latex_compiles_as_it_stands(shell: Shell, words: str, pages: int) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    assert shell(*words.split(), "--latex") == 0
    Path("page.tex").write_text(LATEX_PAGE % shell.out, encoding="utf-8")
    command = "pdflatex -interaction=nonstopmode -halt-on-error page.tex".split()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"Output written on page.pdf ({pages} page" in done.stdout


def test_a_worksheet_has_its_answers_on_a_page_of_their_own(shell: Shell) -> None:
    assert shell("quadratic", "--worksheet") == 0
    sheet, key = shell.out.split("\n\f\n")
    exercise, answers = sheet.split("\n\n")[2], key.split("\n\n")[1]
    given = [re.sub(" +", " ", part).splitlines()[:2] for part in (exercise, answers)]
    assert given[0] == given[1]
    heads = ["∂loss/∂ŷ ", *(f"∂{of}/∂{w}" for w in ("w2", "w1", "b") for of in ("ŷ", "loss"))]
    for line, head in zip(exercise.splitlines()[2:], heads, strict=True):
        assert re.fullmatch(rf"{re.escape(head)} *= \.+", line)
    assert shell("quadratic") == 0
    assert shell.out.startswith(f"{answers}\n")


def test_a_worksheet_of_wrong_answers_is_none(shell: Shell) -> None:
    spoil(shell, "self.a * x * e", "self.a * e")
    assert shell("mine.py:Exponential", "--worksheet") == 1
    assert shell.out.endswith("Wrong: ∂loss/∂k.\n")


def test_one_that_is_wrong_says_where_and_how(shell: Shell) -> None:
    spoil(shell, "self.a * x * e", "self.a * e")
    assert shell("mine.py:Exponential") == 1
    lines = shell.out.splitlines()
    assert re.match("k +no +no, ", next(line for line in lines if line.startswith("k  ")))
    assert "k, symbolic: ∂ŷ/∂k is a·exp(k·x) by hand, a·x·exp(k·x) expected" in lines
    said = r"k, autograd: ∂ŷ/∂k is \S+ by hand, \S+ expected at x = .*\(float(32|64)\)"
    assert any(re.fullmatch(said, line) for line in lines)
    assert not any(line.startswith("a, ") for line in lines)
    assert lines[-1] == "Wrong: ∂loss/∂k."


LOGISTIC = """

class Logistic(Model):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0, device=device, dtype=dtype))

    def forward(self, x):
        return torch.sigmoid(self.w * x)

    def partials(self, x):
        s = self(x)
        return {"w": x * s * (1 - s)}
"""

PLAIN = """
import torch
from torch import nn

class Line(nn.Module):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0, device=device, dtype=dtype))
        self.b = nn.Parameter(torch.tensor(0.0, device=device, dtype=dtype))

    def forward(self, x):
        return self.w * x + self.b

    def partials(self, x):
        return {"w": x, "b": ONE}
"""


@pytest.mark.parametrize("one", ["1", "1.0", "torch.tensor(1.0)", "x**0"])
def test_a_plain_module_whose_derivative_is_a_constant(shell: Shell, one: str) -> None:
    """In derive.py and in train.py, which may look for units of its own."""
    Path("plain.py").write_text(PLAIN.replace("ONE", one), encoding="utf-8")
    assert shell("plain.py:Line") == 0
    assert re.search(r"∂loss/∂b = ∂loss/∂ŷ·∂ŷ/∂b .*\n.*\n +=  ?2\(w·x \+ b − y\)", shell.out)
    assert shell.out.endswith("All 6 say yes.\n")
    train_shell = Shell(train.main, shell.folder, shell.capsys, "--model", "plain.py:Line")
    assert train_shell("--no-figures") == 0
    assert "All 150 steps are identical, bit for bit" in train_shell.out
    assert train_shell("--lr", "auto", "--update", "affine", "--no-figures") == 0
    assert train_shell("--standardize") == 2
    assert "Line does not define in_original_units" in train_shell.err


@pytest.mark.parametrize("fault", [
    "[x, 1]", "None", '{"w": x}', '{"w": x, "b": "1"}', '{"w": x, "b": x[:1]}',
    '{"w": x, "b": x / 0 * 0}', '{"w": x, "b": torch.rand_like(x)}', '{"w": x.mul_(2), "b": 1}',
])  # fmt: skip
def test_a_wrong_return_is_refused_as_train_refuses_it(shell: Shell, fault: str) -> None:
    text = PLAIN.replace('{"w": x, "b": ONE}', fault)
    Path("plain.py").write_text(text, encoding="utf-8")
    assert shell("plain.py:Line", "--data", "cars") == 2
    said = shell.err.removeprefix("derive.py: ")
    train_shell = Shell(train.main, shell.folder, shell.capsys, "--model", "plain.py:Line")
    assert train_shell("--data", "cars") == 2
    assert train_shell.err == f"train.py: {said}"


def test_one_that_cannot_run_on_symbols_is_checked_without(shell: Shell) -> None:
    spoil(shell, "        e =", "        assert x.sum() < 1e99 or x.sum() >= 1e99\n        e =")
    assert shell("mine.py:Exponential") == 0
    unable = "Exponential cannot run on symbols: symbolically traced variables"
    assert shell.out.startswith(f"∂loss/∂w = 2(ŷ − y)·∂ŷ/∂w, and no formula: {unable}")
    assert f"\na, symbolic: skipped, {unable}" in shell.out
    assert shell.out.endswith("All 4 say yes.\n")
    assert shell("mine.py:Exponential", "--answer", "a=0") == 2
    assert shell.err.startswith(f"derive.py: {unable}")


def test_at_ones_own_data(shell: Shell) -> None:
    """A fault at x = 0.7 alone is seen where there is such a sample."""
    spoil(shell, '"a": e', '"a": torch.where((x - 0.7).abs() < 1e-6, 2 * e, e)')
    (shell.folder / "data.csv").write_text("0.5,1\n0.7,2\n", encoding="utf-8")
    assert shell("mine.py:Exponential") == 0
    assert shell("mine.py:Exponential", "--data", "data.csv") == 1


def test_answers_are_judged_without_giving_the_answer_away(shell: Shell) -> None:
    assert shell("quadratic", "--answer", "w2=2*x**2*(x**2*w2+x*w1+b-y)") == 0
    assert shell.out.splitlines() == [
        "ŷ    = x²·w2 + x·w1 + b  the model",
        "loss = (ŷ − y)²          of one sample; over N the mean",
        "∂loss/∂w2: right",
    ]
    assert shell("linear", "--answer", "w=2x(xw-y)", "--answer", "w=2(xw-y)") == 1
    assert shell.out.splitlines()[2:] == [
        "∂loss/∂w: right",
        "∂loss/∂w: wrong: the chain rule's factor x is missing: this is ∂loss/∂ŷ, without the "
        "inner derivative",
    ]


BACKWARD = """
import torch
from torch import nn

class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return u.tanh()

    @staticmethod
    def backward(ctx, upstream):
        (t,) = ctx.saved_tensors
        return upstream * (1 - t**2)

class Wrong(nn.Module):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0, device=device, dtype=dtype))

    def forward(self, x):
        return Tanh.apply(self.w * x)

    def partials(self, x):
        return {"w": x * (1 - torch.tanh(self.w * x) ** 2)}
"""


def test_a_wrong_backward_in_forward_is_told_from_a_wrong_derivative(shell: Shell) -> None:
    Path("own.py").write_text(BACKWARD, encoding="utf-8")
    asked = "is there a backward of your own, or a detach, in forward?"
    assert shell("own.py:Wrong") == 1
    assert shell.out.splitlines()[-1] == (f"Yours is right; autograd's ∂loss/∂w is not: {asked}")
    train_shell = Shell(train.main, shell.folder, shell.capsys, "--model", "own.py:Wrong")
    assert train_shell("--lr", "0.001", "--no-figures") == 1
    assert train_shell.out.splitlines()[-1] == (
        f"By hand, ∂ŷ/∂w is right; autograd's is not: {asked} See derive.py own.py:Wrong"
    )


NAMED = """
import torch
from torch import nn

class Named(nn.Module):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        for name in NAMES:
            self.register_parameter(name, nn.Parameter(torch.ones((), device=device, dtype=dtype)))

    def forward(self, x):
        one, two, three, four, five = self.parameters()
        return one + two * x + three * x**2 + four * x**3 + five * x**4

    def partials(self, x):
        return {name: x**k for k, name in enumerate(NAMES)}

NAMES = [r"\\input{secret}", "a=b", "w_", "α", "é#$%~^&"]
"""


def test_names_that_are_no_identifiers_are_escaped(shell: Shell) -> None:
    Path("named.py").write_text(NAMED, encoding="utf-8")
    assert shell("named.py:Named", "--latex") == 0
    formula = shell.out.splitlines()[1]
    assert formula.startswith(r"\hat{y} &= \texttt{\textbackslash{}input\{secret\}}")
    assert r"\texttt{a=b} x + \texttt{w\_} x^{2} + \alpha x^{3} + " in formula
    assert r"\texttt{U+00E9\#\$\%\textasciitilde{}\textasciicircum{}\&} x^{4} &&" in formula
    formulas = shell.out.partition(r"\end{align*}")[0]
    assert r"\input" not in formulas
    assert formulas.isascii()


def test_a_name_with_an_equals_sign_can_be_answered(shell: Shell) -> None:
    Path("named.py").write_text(NAMED, encoding="utf-8")
    assert shell("named.py:Named", "--answer", "a=b=2x(ŷ-y)", "--answer", "∂loss/∂a=b=x(ŷ-y)") == 1
    assert shell.out.splitlines()[2:] == [
        "∂loss/∂a=b: right",
        "∂loss/∂a=b: wrong: a factor 2 is missing",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_alone(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    reached: list[int] = []
    monkeypatch.setattr(Progress, "reach", lambda _, place: reached.append(place))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert shell("linear") == 0
    assert reached == (sorted(reached) if terminal else [])
    assert (100 in reached) is terminal


REFUSED = {
    ("cubic",): "model 'cubic': choose linear or quadratic, or give FILE.py:CLASS",
    ("none.py:A",): "model 'none.py:A': choose linear or quadratic, or give FILE.py:CLASS",
    ("mine.py:None",): "model 'mine.py:None': mine.py has no class 'None'",
    ("mine.py:Exponential",): "partials(x) returns ['a'] and lacks 'k'",
    ("quadratic", "--bias"): "model 'quadratic' takes no --bias",
    ("linear", "--data", "none.csv"): "data 'none.csv': no such file",
    ("linear", "--device", "tpu"): "device 'tpu': choose",
    ("quadratic", "--answer", "2x"): "answer '2x': of which parameter? begin with one of w2=, w1=",
    ("linear", "--answer", "v=2x"): "answer 'v=2x': 'v' is none of the parameters, w",
    ("linear", "--answer", "=2x"): "answer '=2x': '' is none of the parameters, w",
    ("linear", "--answer", "w=v"): "answer 'w=v': 'v' is not understood: use numbers, x, y, w,",
    ("linear", "--answer", "w=" + "(" * 10_240): "answer 'w=((((",
    ("linear", "--anwser", "w=x"): "unrecognized arguments: --anwser",
    (): "give a MODEL, or --program FILE.py without one",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=str)
def test_bad_requests_end_in_one_line(shell: Shell, words: tuple[str, ...], message: str) -> None:
    if "mine.py:Exponential" in words:
        spoil(shell, '"k": self.a * x * e', "")
    assert shell(*words) == 2
    assert shell.out == ""
    assert shell.err.startswith(f"derive.py: {message}")
    assert shell.err.count("\n") == 1
    assert len(shell.err) < 300


@pytest.mark.processes
def test_as_a_process(tmp_path: Path) -> None:
    file = ROOT / "scripts" / "derive.py"
    status, out, err = ended(script(tmp_path, "linear", "--answer", "w=x(xw-y)", file=file))
    assert (status, err) == (1, "")
    assert out.endswith("∂loss/∂w: wrong: a factor 2 is missing\n")


ROOMS = "size,rooms,price\n50,2,100\n80,3,210\n65,2,190\n120,5,260\n"


def test_several_columns_are_derived_for_a_column_j(shell: Shell) -> None:
    (shell.folder / "houses.csv").write_text(ROOMS, encoding="utf-8")
    words = ["linear", "--bias", "--data", "houses.csv", "--columns", "size,rooms,price"]
    assert shell(*words) == 0
    formulas, _, table = shell.out.partition("\n\n")
    assert formulas.splitlines() == [
        "ŷ         = w·x + b           the model",
        "loss      = (ŷ − y)²          of one sample; over N the mean",
        "∂loss/∂ŷ  = 2(ŷ − y)          the derivative of a square",
        "∂ŷ/∂wⱼ    = xⱼ                its factor in the model",
        "∂loss/∂wⱼ = ∂loss/∂ŷ·∂ŷ/∂wⱼ   the chain rule",
        "          = 2xⱼ(ŷ − y)        the product",
        "          = 2xⱼ(w·x + b − y)  the prediction written out",
        "∂ŷ/∂b     = 1                 its factor in the model",
        "∂loss/∂b  = ∂loss/∂ŷ·∂ŷ/∂b    the chain rule",
        "          = 2(ŷ − y)          the product",
        "          = 2(w·x + b − y)    the prediction written out",
    ]
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["w[0]", "w[1]", "b", "All"]
    assert shell(*words, "--latex") == 0
    assert r" &= 2 x_{j} \left(w \cdot x + b - y\right) && " in shell.out
    assert shell(*words, "--worksheet") == 0
    assert "∂loss/∂wⱼ = ....." in shell.out
    right = "--answer", "w[0]=2x[0](x[0]w[0]+x[1]w[1]+b-y)", "--answer", "w_1=2x_1*(ŷ-y)"
    assert shell(*words, *right) == 0
    for answer in ("wⱼ = 2xⱼ(w·x + b − y)", "∂loss/∂wⱼ=2xⱼ(ŷ−y)"):
        assert shell(*words, "--answer", answer) == 0
        assert shell.out.endswith("∂loss/∂w[0]: right\n")
    assert shell(*words, "--answer", "wⱼ=xⱼ(ŷ−y)") == 1
    assert shell(*words, "--answer", "w[1]=2x[0](ŷ-y)") == 1
    assert "a factor x[1] is missing; a factor x[0] is too many" in shell.out
    assert shell(*words, "--answer", "w[1]=2x(ŷ-y)") == 2
    assert "'x' is not understood: use numbers, x[0], x[1], y, w[0], w[1], b, ŷ" in shell.err


def test_a_model_whose_columns_are_not_alike_is_derived_entry_by_entry(shell: Shell) -> None:
    (shell.folder / "houses.csv").write_text(ROOMS, encoding="utf-8")
    own = """from torch import nn, stack, tensor
class Own(nn.Module):
    def __init__(self, device=None, dtype=None):
        super().__init__()
        self.w = nn.Parameter(tensor([1.0, 1.0], device=device, dtype=dtype))
    def forward(self, x):
        return x[:, 0] * self.w[0] + x[:, 1] ** 2 * self.w[1]
    def partials(self, x):
        return {"w": stack([x[:, 0], x[:, 1] ** 2], dim=1)}
"""
    (shell.folder / "own.py").write_text(own, encoding="utf-8")
    assert shell("own.py:Own", "--data", "houses.csv", "--columns", "size,rooms,price") == 0
    assert "∂loss/∂w[1] = ∂loss/∂ŷ·∂ŷ/∂w[1]" in shell.out
    assert "2x[1]²(x[0]·w[0] + x[1]²·w[1] − y)" in shell.out
    assert shell.out.endswith("All 6 say yes.\n")


def test_a_students_own_program(shell: Shell) -> None:
    loop = (
        "w = 1.0\nfor x, y in [(1.0, 2.0), (2.0, 4.0)]:\n    w = w - 0.01 * 2 * x * (w * x - y)\n"
    )
    Path("mine2.py").write_text(loop, encoding="utf-8")
    assert shell("--program", "mine2.py") == 0
    assert shell.out == "Right: all 2 steps are the lesson's; w ends at 1.0984.\n"
    Path("mine2.py").write_text(loop.replace("2 * x *", "x *"), encoding="utf-8")
    assert shell("--program", "mine2.py") == 1
    assert shell.out.startswith("The first step that differs is 0, in w: yours -1, right -2; ")
    for words, message in (
        (["--program", "none.py"], "program 'none.py': no such file; give a .py file"),
        (["linear", "--program", "mine2.py"], "give a MODEL, or --program FILE.py without one"),
        ([], "give a MODEL, or --program FILE.py without one"),
    ):
        assert shell(*words) == 2
        assert shell.err == f"derive.py: {message}\n"


def test_columns_are_written_as_one_only_if_each_derivative_is_right() -> None:
    right = derived(Linear(features=3), 3)
    assert steps.by_column(right, steps.PLAIN)[0] == ["w[0]"]
    spoiled = {**right.partials, "w[2]": 2 * right.partials["w[2]"]}
    assert steps.by_column(replace(right, partials=spoiled), steps.PLAIN)[0] == [
        "w[0]",
        "w[1]",
        "w[2]",
    ]
