"""Runs a student's program in a process of its own, and tells each weight that it assigns.

It is started as `python -I student.py PROGRAM RESULT` and needs nothing of torchgd. After each
assignment to a weight it writes a call into the program, which records the value.
"""

import ast
import inspect
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

WEIGHTS = ("w", "w1", "w2", "b")
MOST = 6000  # assignments; a program that never ends is stopped there
EPOCHS, RATE = 50, 0.01  # the lesson's, where the program has functions and no loop
# What people call the data, the learning rate, and the arguments of a gradient.
LISTS = {"x": ("x_data", "xs", "X", "x_train", "x"), "y": ("y_data", "ys", "Y", "y_train", "y")}
RATES = ("lr", "learning_rate", "alpha", "α", "eta", "rate", "step_size")
ARGUMENTS = {"x": ("x", "x_val", "xn", "xi", "x_i"), "y": ("y", "y_val", "yn", "yi", "y_i")}
GRADIENTS = ("gradient", "grad", "derivative", "gradients", "grads")


class Enough(BaseException):
    """The program has assigned so often that no more is needed."""


class Recording(ast.NodeTransformer):
    """Adds a record after each assignment to a weight; in a function, to a global one."""

    def __init__(self) -> None:
        self.own, self.repeated = set(WEIGHTS), False

    def within(self, node: Any, own: set[str], repeated: bool) -> Any:
        """Visit what is in a node."""
        before = self.own, self.repeated
        self.own, self.repeated = own, repeated
        self.generic_visit(node)
        self.own, self.repeated = before
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        """In a function, a weight is the program's where it is declared global."""
        named = (name for part in ast.walk(node) if isinstance(part, ast.Global)
                 for name in part.names)  # fmt: skip
        return self.within(node, self.own & set(named), True)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        """In a class there is none."""
        return node

    def visit_For(self, node: ast.For) -> Any:
        """What is in a loop is a step; of pairs in an inner loop, or in one of steps, samples."""
        inside = [part for statement in node.body for part in ast.walk(statement)]
        innermost = not any(isinstance(part, ast.For) for part in inside)
        sampled = innermost and (self.repeated or any(map(self.is_stored, inside)))
        node = self.within(node, self.own, True)
        if (pair := pair_of(node)) and sampled:
            node.body[:0] = ast.parse(f"__sample__({pair[0]}, {pair[1]})").body
        return node

    def is_stored(self, part: ast.AST) -> bool:
        """Whether it is a weight that is assigned."""
        named = isinstance(part, ast.Name) and part.id in self.own
        return named and isinstance(part.ctx, ast.Store)  # type: ignore[attr-defined]

    def visit_While(self, node: ast.While) -> Any:
        """What is in a loop is a step."""
        return self.within(node, self.own, True)

    def assigned(self, node: Any) -> Any:
        """Return the assignment, and after it the records of the weights in it."""
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        parts = [part for t in targets for part in getattr(t, "elts", [t])]
        # w = …, and w.data = … of a tensor, but not w.grad = ….
        parts = [
            getattr(p, "value", p) if getattr(p, "attr", "data") == "data" else p for p in parts
        ]
        names = [part.id for part in parts if isinstance(part, ast.Name) and part.id in self.own]
        calls = [f"__record__({name!r}, {name}, {self.repeated})" for name in dict.fromkeys(names)]
        return [node, *(statement for call in calls for statement in ast.parse(call).body)]

    visit_Assign = visit_AugAssign = visit_AnnAssign = assigned  # noqa: N815


def pair_of(loop: ast.For) -> list[str]:
    """Return the two names of a loop over pairs, x first, [] of another loop."""
    target = loop.target
    if isinstance(loop.iter, ast.Call) and getattr(loop.iter.func, "id", "") == "enumerate":
        target = getattr(target, "elts", [target])[-1]
    names = [part.id for part in getattr(target, "elts", []) if isinstance(part, ast.Name)]
    if len(names) != 2:
        return []
    return names[::-1] if names[0] in ARGUMENTS["y"] and names[1] in ARGUMENTS["x"] else names


def number(value: Any) -> float | None:
    """Return a number, an array or a tensor of one number as a float; None of anything else."""
    try:
        return float(value)
    except Exception:
        return None


def numbers(value: Any) -> list[float] | None:
    """Return a list, an array or a tensor of numbers as floats; None of anything else."""
    try:
        found = [number(part) for part in value]
    except Exception:
        return None
    return [part for part in found if part is not None] if None not in found else None


def descend(space: dict[str, Any], record: Callable[[str, Any, bool], None]) -> None:
    """Take the lesson's steps with the program's own gradient functions."""
    # In the order in which the program assigns them at first.
    trained = [name for name in space if name in WEIGHTS and number(space[name]) is not None]
    trained = trained or ["w"]
    found = {
        name: space[f] for name in trained for f in gradients_in(name) if callable(space.get(f))
    }
    alone = next((space[f] for f in GRADIENTS if callable(space.get(f))), None)
    if not found and alone is None:
        return
    x, y = (first(space, LISTS[axis], numbers) or lesson for axis, lesson in
            (("x", [1.0, 2.0, 3.0]), ("y", [2.0, 4.0, 6.0])))  # fmt: skip
    lr = first(space, RATES, number) or RATE
    for name in trained:
        space.setdefault(name, 1.0)
        record(name, space[name], False)
    for _ in range(EPOCHS):
        for xn, yn in zip(x, y, strict=False):
            at = dict.fromkeys(ARGUMENTS["x"], xn) | dict.fromkeys(ARGUMENTS["y"], yn)
            at |= {name: space[name] for name in trained}
            if found:
                slopes = {name: call(f, at) for name, f in found.items()}
            else:
                slopes = by_name(call(alone, at), alone, trained)
            for name, slope in slopes.items():
                space[name] = space[name] - lr * slope
                record(name, space[name], True)


def gradients_in(name: str) -> list[str]:
    """Return what people call the gradient in one weight."""
    return [f"{word}_{name}" for word in (*GRADIENTS, "d")] + [f"d{name}", f"grad{name}"]


def by_name(slope: Any, function: Any, trained: list[str]) -> dict[str, Any]:
    """Return what a gradient returned by the weights' names.

    A sequence is in the order of the function's own arguments, or else of the `trained` weights.
    """
    if isinstance(slope, dict):
        return slope
    if isinstance(slope, tuple | list):
        own = [name for name in inspect.signature(function).parameters if name in trained]
        return dict(zip(own if len(own) == len(slope) else trained, slope, strict=True))
    return {trained[0]: slope}


def call(function: Any, at: dict[str, float]) -> Any:
    """Call a function with the arguments that its names tell."""
    return function(**{name: at[name] for name in inspect.signature(function).parameters})


def first(space: dict[str, Any], names: Any, kind: Callable[[Any], Any]) -> Any:
    """Return the first of the names that is of that kind."""
    return next((found for name in names if (found := kind(space.get(name))) is not None), None)


def main(path: str, result: str) -> None:
    """Run the program and write what it did."""
    records: list[tuple[str, float, bool]] = []
    samples: list[tuple[float, float]] = []

    def record(name: str, value: Any, repeated: bool) -> None:
        if (value := number(value)) is not None:
            records.append((name, value, repeated))
        if len(records) >= MOST:
            raise Enough

    def sample(x: Any, y: Any) -> None:
        if (x := number(x)) is not None and (y := number(y)) is not None and len(samples) < MOST:
            samples.append((x, y))

    told: dict[str, Any] = {"error": "", "numbers": []}
    space: dict[str, Any] = {"__name__": "__main__", "__file__": path}
    space |= {"__record__": record, "__sample__": sample}
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        with open(path, encoding="utf-8-sig") as file:
            tree = ast.parse(file.read(), path)
        constants = (part.value for part in ast.walk(tree) if isinstance(part, ast.Constant))
        told["numbers"] = sorted({value for value in constants if isinstance(value, float)})
        tree = Recording().visit(tree)
        with redirect_stdout(io.StringIO()):
            exec(compile(ast.fix_missing_locations(tree), path, "exec"), space)
            if not any(repeated for _, _, repeated in records) and len(records) <= len(WEIGHTS):
                descend(space, record)
    except Enough:
        pass
    except BaseException as error:
        lines = [error.lineno] if isinstance(error, SyntaxError) else []
        trace = error.__traceback__
        while trace is not None:
            lines += [trace.tb_lineno] * (trace.tb_frame.f_code.co_filename == path)
            trace = trace.tb_next
        said = " ".join(f"{type(error).__name__}: {error}".split())
        told["error"] = f"line {lines[-1]}: {said}" if lines else said
    told |= {axis: first(space, names, numbers) for axis, names in LISTS.items()}
    told |= {"lr": first(space, RATES, number), "records": records, "samples": samples}
    with open(result, "w", encoding="utf-8") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
