"""Is a student's own program right? Its steps are held against the lesson's, one by one.

A step of the program changes each weight from w to w′, so that its gradient is (w − w′)/α. The
right one is ∂loss/∂w at the program's own w, so that an error shows where it is made.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchgd.data import lesson
from torchgd.entries import set_weights
from torchgd.gradients import manual_gradient
from torchgd.models import Linear, Model, Quadratic
from torchgd.proof import student
from torchgd.proof.student import RATE

SECONDS = 30.0  # importing torch is part of it
CLOSE = 1e-9  # relative: what a program's own order of operations may cost
Weights = Mapping[str, float]
Step = tuple[Weights, Weights]  # before and after it
MODELS: dict[frozenset[str], Any] = {
    frozenset({"w"}): Linear,
    frozenset({"w", "b"}): lambda dtype: Linear(bias=True, dtype=dtype),
    frozenset({"w2", "w1", "b"}): Quadratic,
}


@dataclass(frozen=True)
class ProgramCheck:
    """Whether a program's steps are the lesson's, and the sentence that says so or what differs."""

    passed: bool
    said: str

    def __bool__(self) -> bool:
        return self.passed


def check_program(path: Path, seconds: float = SECONDS) -> ProgramCheck:
    """Run a program in its own process, and compare each of its steps with the lesson's.

    It is a loop that assigns to w, to w and b, or to w2, w1 and b; or it has functions `gradient`,
    or `gradient_w1` and so on, of x, y and weights in any order. Its data are the pairs of its
    loop, or lists x_data and y_data, or the lesson's; α is its lr, or 0.01, or else the number in
    it with which all steps are right.

    Raises:
        ValueError: it fails, or takes more than so many seconds, or assigns to no weight.
    """
    if not path.is_file():
        raise ValueError(f"program {str(path)!r}: no such file; give a .py file")
    told = _run(path, seconds)
    steps = list(_steps(told["records"]))
    if told["error"] and not steps:
        raise ValueError(f"{path}, {told['error']}")
    names = frozenset(steps[0][0]) if steps else frozenset()
    if names not in MODELS:
        raise ValueError(
            f"{path} has steps of {', '.join(sorted(names)) or 'no weight'}: a line's are of w, or "
            "of w and b, a parabola's of w2, w1 and b, each assigned in a loop, at the top level "
            "of the program or declared global"
        )
    x, y, whose = _data(told)
    model = MODELS[names](dtype=torch.float64)
    checks = [_Judge(model, steps, x, y, rate).check() for rate in _rates(told)]
    found = next(filter(None, checks), ProgramCheck(False, f"{checks[0].said}{whose}"))
    if told["error"]:
        return ProgramCheck(False, f"{found.said} Then it fails, {told['error']}.")
    return found


def _data(told: dict[str, Any]) -> tuple[list[float], list[float], str]:
    """Return a program's x and y, and a sentence if they are not its own."""
    data, said = lesson(), ""
    if samples := told["samples"]:
        # One epoch of them, after which they come again.
        epoch = next(n for n in range(1, len(samples) + 1) if samples[n:] == samples[:-n])
        pairs = samples[:epoch]
    elif told["x"] and told["y"]:
        pairs = zip(told["x"], told["y"], strict=False)
    else:
        pairs = zip(data.x.tolist(), data.y.tolist(), strict=True)
        said = " The samples are taken to be the lesson's: call yours x_data and y_data."
    x, y = zip(*pairs, strict=True)
    return list(x), list(y), said


def _rates(told: dict[str, Any]) -> list[float]:
    """Return a program's learning rate, or all that it may be: its small numbers, the lesson's."""
    if told["lr"]:
        return [told["lr"]]
    small = [value for value in told["numbers"] if 0 < value < 1]
    return [RATE] if RATE in small else [*small, RATE]


def _run(path: Path, seconds: float) -> dict[str, Any]:
    """Return what the program did."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-I", "-X", "utf8", student.__file__, str(path), str(result)]
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            subprocess.run(command, timeout=seconds, check=False, **quiet)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{path} takes more than {seconds:g} seconds: does its loop end?"
            ) from None
        if not result.is_file():
            raise ValueError(f"{path} ends its process before it is through")
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def _steps(records: list[tuple[str, float, bool]]) -> Iterator[Step]:
    """Yield the weights before and after each step, as long as they are numbers.

    What is assigned before a loop is the start.
    """
    loops = any(repeated for _, _, repeated in records)
    start: dict[str, float] = {}
    taken: dict[str, list[float]] = {}
    for name, value, repeated in records:
        if (repeated if loops else name in start) or taken:
            taken.setdefault(name, []).append(value)
        else:
            start[name] = value
    now = {name: start[name] for name in taken if name in start}
    for values in zip(*(taken[name] for name in now), strict=False):
        after = dict(zip(now, values, strict=True))
        if not all(map(math.isfinite, values)):
            return
        yield now, after
        now = after


# What makes a right gradient g of yours, at one x of n, by the words that say so.
FACTORS: dict[str, Callable[[float, float, int], float]] = {
    "a factor 2 is missing": lambda g, x, n: g / 2,
    "a factor 2 is too many": lambda g, x, n: 2 * g,
    "its sign is reversed: downhill is w − α·∂loss/∂w": lambda g, x, n: -g,
    "a factor x is missing": lambda g, x, n: g / x,
    "a factor x is too many": lambda g, x, n: g * x,
    "a factor x² is missing": lambda g, x, n: g / x**2,
    "it is N times too large: the sum is not the mean": lambda g, x, n: n * g,
    "it is N times too small": lambda g, x, n: g / n,
}
LOOKED_AT = 4  # steps that a factor is to explain, from the first that differs on


class _Judge:
    """Holds one program's gradients against the right ones."""

    def __init__(
        self, model: Model, steps: list[Step], x: list[float], y: list[float], lr: float
    ) -> None:
        self.model, self.steps, self.lr = model, steps, lr
        self.names = [name for name, _ in model.named_parameters()]
        self.x, self.y = (torch.tensor(values, dtype=torch.float64) for values in (x, y))
        values = torch.tensor([list(after.values()) for _, after in steps], dtype=torch.float64)
        single = torch.equal(values.float().double(), values)  # as a program in float32 has them
        self.eps = torch.finfo(torch.float32 if single else torch.float64).eps
        self.mean = False  # one sample a step, as in the lesson's program

    def check(self) -> ProgramCheck:
        """Return whether all steps are right, or what is wrong in the first that is not."""
        for self.mean in (False, True, False):  # whichever explains the first step
            name = self._wrong(0)
            if name is None or self._why(0, name, *self.steps[0]):
                break
        for k, (before, after) in enumerate(self.steps):
            if name := self._wrong(k):
                yours, right = self.yours(k)[name], self.right(k, before)[name]
                said = f"yours {yours:.6g}, right {right:.6g}{self._why(k, name, before, after)}"
                return ProgramCheck(
                    False, f"The first step that differs is {k}, in {name}: {said}."
                )
        last = self.steps[-1][1]
        ends = ", ".join(f"{name} ends at {last[name]:.6g}" for name in self.names)
        count = "its only step is" if len(self.steps) == 1 else f"all {len(self.steps)} steps are"
        rate = "" if self.lr == RATE else f", with α = {self.lr:g}"
        return ProgramCheck(True, f"Right: {count} the lesson's{rate}; {ends}.")

    def yours(self, k: int) -> dict[str, float]:
        """Return the program's gradients in step k, (w − w′)/α."""
        before, after = self.steps[k]
        return {name: (before[name] - after[name]) / self.lr for name in self.names}

    def right(
        self, k: int, weights: Weights, x: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, float]:
        """Return ∂loss/∂w at these weights, of step k's sample or of the mean, or of other data."""
        values = [weights[name] for name in self.names]
        set_weights(self.model, torch.tensor(values, dtype=torch.float64))
        some = slice(None) if self.mean else slice(k % len(self.x), k % len(self.x) + 1)
        x, y = self.x if x is None else x, self.y if y is None else y
        manual_gradient(self.model, x[some], y[some])
        return {n: w.grad.item() for n, w in self.model.named_parameters() if w.grad is not None}

    def _near(self, k: int, name: str, expected: float) -> bool:
        """Whether the program's gradient in step k is that, but for rounding."""
        room = 4 * self.eps * abs(self.steps[k][0][name]) / abs(self.lr)
        return math.isclose(self.yours(k)[name], expected, rel_tol=CLOSE, abs_tol=room)

    def _wrong(self, k: int) -> str | None:
        """Return the first weight whose gradient in step k is not right, if any."""
        right = self.right(k, self.steps[k][0])
        return next((n for n in self.names if not self._near(k, n, right[n])), None)

    def _why(self, k: int, name: str, before: Weights, after: Weights) -> str:
        """Say what would make yours of a right gradient, if that is known."""
        some = range(k, min(k + LOOKED_AT, len(self.steps)))
        count, rights = len(self.x), {n: self.right(n, self.steps[n][0])[name] for n in some}
        for words, change in FACTORS.items():
            xs = {n: self.x[n % count].item() for n in some}
            if 0.0 not in xs.values() and all(
                self._near(n, name, change(rights[n], xs[n], count)) for n in some
            ):
                return f"; {words}"
        for words, data in {
            "x and y are exchanged": (self.y, self.x),
            "the residual is ŷ − y, and not ŷ + y": (self.x, -self.y),
        }.items():
            if all(self._near(n, name, self.right(n, self.steps[n][0], *data)[name]) for n in some):
                return f"; {words}"
        if self._near(k, name, sum(self.right(n, self.steps[n][0])[name] for n in range(k + 1))):
            return "; it is the sum of all so far: set w.grad to zero before each backward()"
        for updated in ([n for n in self.steps[k][1] if n != name], *([n] for n in self.names)):
            mixed = {n: after[n] if n in updated else before[n] for n in before}
            if name not in updated and self._near(k, name, self.right(k, mixed)[name]):
                return f"; {' and '.join(updated)} was updated before it was computed"
        times = self.yours(k)[name] / rights[k] if rights[k] else 0.0
        if times > 0 and all(self._near(n, name, times * rights[n]) for n in some):
            rate = f"α is taken to be {self.lr:g}; if yours is {times * self.lr:.6g}, call it lr"
            return f"; it is {times:.6g} times as large in each step: {rate}"
        return ""
