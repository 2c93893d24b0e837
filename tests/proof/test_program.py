"""A student's own program is right, or the first step that differs is named, with what is wrong."""

from pathlib import Path

import pytest

from torchgd.proof.program import check_program

LOOP = """
x_data = [1.0, 2.0, 3.0]
y_data = [2.0, 4.0, 6.0]
w = 1.0

def forward(x):
    return x * w

def loss(x, y):
    y_pred = forward(x)
    return (y_pred - y) * (y_pred - y)

def gradient(x, y):
    return 2 * x * (x * w - y)

print("predict (before training)", 4, forward(4))
for epoch in range(10):
    for x_val, y_val in zip(x_data, y_data):
        grad = gradient(x_val, y_val)
        w = w - 0.01 * grad
        print("grad:", x_val, y_val, grad, loss(x_val, y_val))
"""
TORCH = """
import torch

x_data, y_data = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]
w = torch.tensor([1.0], requires_grad=True)
for epoch in range(4):
    for x_val, y_val in zip(x_data, y_data):
        loss = (x_val * w - y_val) ** 2
        loss.backward()
        w.data = w.data - 0.01 * w.grad.item()
        w.grad = None
"""
PARABOLA = """
w1, w2, b = 1.0, 1.0, 1.0
lr = 0.001

def grads(x, y):
    r = x * x * w2 + x * w1 + b - y
    return 2 * x * r, 2 * x * x * r, 2 * r

for epoch in range(5):
    for x, y in zip([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]):
        d1, d2, db = grads(x, y)
        w1 = w1 - lr * d1
        w2 = w2 - lr * d2
        b -= lr * db
"""
SEQUENTIAL = """
w2, w1, b, lr = 1.0, 1.0, 0.0, 0.001
for epoch in range(5):
    for x, y in zip([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]):
        w2 = w2 - lr * 2 * x * x * (x * x * w2 + x * w1 + b - y)
        w1 = w1 - lr * 2 * x * (x * x * w2 + x * w1 + b - y)
        b = b - lr * 2 * (x * x * w2 + x * w1 + b - y)
"""
FUNCTIONS = """
def forward(x, w):
    return w * x

def gradient(y, w, x_val):
    return 2 * x_val * (forward(x_val, w) - y)
"""
BY_WEIGHT = """
w2, w1, b, alpha = 1.0, 1.0, 0.0, 0.001

def error(x, y):
    return w2 * x**2 + w1 * x + b - y

def grad_w1(y, x): return 2 * x * error(x, y)
def grad_w2(x, y): return 2 * x**2 * error(x, y)
def grad_b(x, y): return 2 * error(x, y)
"""
MEAN = """
import numpy as np

X = np.array([1.0, 2.0, 3.0])
Y = 2 * X
w, b, alpha = 1.0, 0.0, 0.05
for _ in range(20):
    r = w * X + b - Y
    w, b = w - alpha * np.mean(2 * X * r), b - alpha * np.mean(2 * r)
"""
GLOBAL = """
w = 1.0

def train(data):
    global w
    for x, y in data:
        w -= 0.01 * 2 * x * (x * w - y)

train([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)] * 3)
"""
TOGETHER = """
w1, w2, b, lr = 1.0, 1.0, 0.0, 0.001

def gradients(x, y):
    r = x * x * w2 + x * w1 + b - y
    return 2 * x * r, 2 * x * x * r, 2 * r
"""
ARGUMENTS = """
b, w1, w2, lr = 0.0, 1.0, 1.0, 0.001

def grad(w2, b, w1, x, y):
    r = x * x * w2 + x * w1 + b - y
    return [2 * x * x * r, 2 * r, 2 * x * r]
"""
PAIRS = """
w2, w1, b, step_size = 1.0, 1.0, 0.0, 0.05
for xn, yn in [(-1.0, 2.0), (0.0, 1.0), (1.0, 6.0)]:
    print(xn, yn)  # is no step
for epoch in range(4):
    for n, (xn, yn) in enumerate([(-1.0, 2.0), (0.5, 1.0), (1.0, 6.0)]):
        r = w2 * xn * xn + w1 * xn + b - yn
        w2, w1, b = w2 - step_size * 2 * xn * xn * r, w1 - step_size * 2 * xn * r, b - step_size * 2 * r
"""  # noqa: E501
HOURS = (
    """
w = 0.5
for epoch in range(4):
    for points, hours in zip([3.0, 5.0, 7.0, 9.0], [1.0, 2.0, 3.0, 4.0]):
        w = w - 2 * hours * (w * hours - points) / 100
""".replace("points, hours", "y, x")
    .replace("hours", "x")
    .replace("points", "y")
)
SUMMED = """
w, rate = 1.0, 0.02
for epoch in range(5):
    total = 0
    for hours, points in [(1.0, 3.0), (2.0, 5.0)]:
        total += 2 * hours * (w * hours - points)
    w = w - rate * total / 2
"""
RIGHT = {
    "the lesson's own": (LOOP, "all 30 steps are the lesson's; w ends at 1.95122."),
    "in PyTorch, in float32": (TORCH, "all 12 steps are the lesson's; w ends at 1.70"),
    "a parabola": (PARABOLA, "all 15 steps are the lesson's, with α = 0.001; w2 ends at 0.523736"),
    "functions of any argument order": (FUNCTIONS, "all 150 steps are the lesson's; w ends at 2."),
    "a function for each weight": (BY_WEIGHT, "all 150 steps are the lesson's, with α = 0.001; w2"),
    "all at once, in the weights' order": (TOGETHER, "all 150 steps are the lesson's, with α = "),
    "all at once, in the arguments' order": (ARGUMENTS, "all 150 steps are the lesson's, with "),
    "pairs and a rate of its own": (PAIRS, "all 12 steps are the lesson's, with α = 0.05; w2 ends"),
    "y before x": (HOURS, "all 16 steps are the lesson's; w ends at "),
    "a rate without a name": (
        LOOP.replace("0.01", "0.05"),
        "all 30 steps are the lesson's, with α = 0.05; w ends at 2.",
    ),
    "the mean, summed in a loop": (SUMMED, "all 5 steps are the lesson's, with α = 0.02; w"),
    "the mean, with NumPy": (MEAN, "all 20 steps are the lesson's, with α = 0.05; w ends"),
    "a loop in a function": (GLOBAL, "all 9 steps are the lesson's; w ends at "),
}
WRONG = {
    "half, of its own pairs": (
        PAIRS.replace("* 2 * xn * r", "* xn * r"),
        "is 0, in w1: yours 2, right 4; a factor 2 is missing.",
    ),
    "of x alone": (
        "x_data = [5.0, 6.0, 7.0, 8.0]\nw = 1.0\nfor k in range(6):\n    w = w - 0.01 * 7\n",
        "is 0, in w: yours 7, right -2. The samples are taken to be the lesson's: call yours",
    ),
    "of data that it does not tell": (
        "w = 1.0\nfor k in range(6):\n    w = w - 0.01 * 7\n",
        "is 0, in w: yours 7, right -2. The samples are taken to be the lesson's: call yours",
    ),
    "half": (
        LOOP.replace("return 2 * x * (x", "return x * (x"),
        "is 0, in w: yours -1, right -2; a factor 2 is missing.",
    ),
    "without x": (
        LOOP.replace("return 2 * x * (x", "return 2 * (x"),
        "is 1, in w: yours -3.92, right -7.84; a factor x is missing.",
    ),
    "uphill": (
        LOOP.replace("w = w - 0.01", "w = w + 0.01"),
        "is 0, in w: yours 2, right -2; its sign is reversed: downhill is w − α·∂loss/∂w.",
    ),
    "no zero_grad": (
        TORCH.replace("        w.grad = None\n", ""),
        "is 1, in w: yours -9.84, right -7.84; it is the sum of all so far: set w.grad to zero",
    ),
    "one after the other": (
        SEQUENTIAL,
        "is 1, in w1: yours 7.744, right 8; w2 was updated before it was computed.",
    ),
    "the sum": (
        MEAN.replace("np.mean(2", "np.sum(2").replace("0.05", "0.01"),
        "is 0, in w: yours -28, right -9.33333; it is N times too large: the sum is not the mean.",
    ),
    "from the fourth step on": (
        LOOP.replace("        grad = gradient(x_val, y_val)\n",
                     "        grad = gradient(x_val, y_val) / (1 + (epoch > 0))\n"),
        "is 3, in w: yours -0.739312, right -1.47862; a factor 2 is missing.",
    ),
    "x and y exchanged": (
        LOOP.replace("gradient(x_val, y_val)", "gradient(y_val, x_val)"),
        "is 0, in w: yours 4, right -2; x and y are exchanged.",
    ),
    "ŷ + y": (
        LOOP.replace("(x * w - y)", "(x * w + y)"),
        "is 0, in w: yours 6, right -2; the residual is ŷ − y, and not ŷ + y.",
    ),
    "uphill, at a rate without a name": (
        LOOP.replace("w = w - 0.01", "w = w + 0.002"),
        "is 0, in w: yours 2, right -2; its sign is reversed: downhill is w − α·∂loss/∂w.",
    ),
    "a rate that is not told": (
        LOOP.replace("0.01", "1 / 20"),
        "is 0, in w: yours -10, right -2; it is 5 times as large in each step: α is taken to be "
        "0.01; if yours is 0.05, call it lr.",
    ),
    "some other thing": (
        LOOP.replace("(x * w - y)", "(x * w - y + 0.3)"), "is 0, in w: yours -1.4, right -2."
    ),
}  # fmt: skip
REFUSED = {
    "a syntax error": ("w = 1.0\nfor x in [1\n", r"mine\.py, line 2: SyntaxError: '\[' was never"),
    "a name that is not there": (
        LOOP.replace("def gradient", "def slope"),
        "mine.py, line 19: Nam",
    ),
    "no weight": ("print('hello')\n", "mine.py has steps of no weight: a line's are of w, or of w"),
    "half a parabola": (
        "w1 = w2 = 1.0\nfor x in [1.0]:\n    w1 = w1 - x\n",
        "mine.py has steps of w1:",
    ),
    "an exit": ("import os\nos._exit(3)\n", "mine.py ends its process before it is through"),
}


def written(folder: Path, program: str) -> Path:
    path = folder / "mine.py"
    path.write_text(program, encoding="utf-8")
    return path


@pytest.mark.parametrize(("program", "said"), RIGHT.values(), ids=RIGHT)
def test_a_right_program(tmp_path: Path, program: str, said: str) -> None:
    check = check_program(written(tmp_path, program))
    assert check
    assert check.said.startswith(f"Right: {said}")


@pytest.mark.parametrize(("program", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_program(tmp_path: Path, program: str, said: str) -> None:
    check = check_program(written(tmp_path, program))
    assert not check
    assert check.said.startswith(f"The first step that differs {said}")


@pytest.mark.parametrize(("program", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_program(tmp_path: Path, program: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_program(written(tmp_path, program))


def test_a_program_that_never_ends(tmp_path: Path) -> None:
    path = written(tmp_path, "w = 1.0\nwhile True:\n    pass\n")
    with pytest.raises(ValueError, match="takes more than 1 seconds: does its loop end"):
        check_program(path, seconds=1)
    endless = LOOP.replace("range(10)", "iter(int, 1)")
    assert check_program(written(tmp_path, endless)).said.startswith("Right: all 5999 steps are")


def test_a_program_that_fails_after_its_steps_is_not_right(tmp_path: Path) -> None:
    check = check_program(written(tmp_path, f"{LOOP}print(nothing)\n"))
    assert not check
    assert check.said.startswith(
        "Right: all 30 steps are the lesson's; w ends at 1.95122. Then it "
    )
    assert check.said.endswith("fails, line 22: NameError: name 'nothing' is not defined.")


def test_a_right_program_that_diverges_is_right_as_long_as_w_is_a_number(tmp_path: Path) -> None:
    steep = f"lr = 1e3\n{LOOP.replace('0.01', 'lr').replace('range(10)', 'range(99)')}"
    check = check_program(written(tmp_path, steep))
    assert check
    assert "steps are the lesson's, with α = 1000; w ends at " in check.said


def test_a_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, LOOP)
    check_program(path)
    assert path.read_text(encoding="utf-8") == LOOP
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]
