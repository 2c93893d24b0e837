"""Which right derivatives are called wrong, and which wrong ones are passed over?

    python tests/compare_oracles.py

counts both over the models of tests/held_out.py, for `check_gradient`, for
`torch.autograd.gradcheck` and for `jax.test_util.check_grads` (`pip install -e '.[test,bench]'`),
each of the last two asked as its users ask it: about ŷ, at the model's own weights and data. Then
it counts the false alarms over the right models of tests/harder.py, for the first two.
"""

import ast
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from harder import HARDER, NO_SYMBOLS
from held_out import CASES, Case
from jax.scipy.special import erf, xlogy
from jax.test_util import check_grads
from torch import Tensor

from torchgd import check_gradient
from torchgd.gradients import partial_derivatives

jax.config.update("jax_enable_x64", True)
SAME_NAMES = ("exp", "log", "sqrt", "where", "sin", "cos", "tanh", "abs", "deg2rad", "expm1",
              "hypot", "log10", "log1p", "logaddexp", "maximum", "mean", "minimum", "ones_like",
              "sign", "sinh", "float64", "cosh", "pow", "square")  # fmt: skip
# What the models call of torch, as jax calls it.
AS_IN_TORCH = types.SimpleNamespace(
    **{name: getattr(jnp, name) for name in SAME_NAMES},
    atan=jnp.arctan,
    clamp=jnp.clip,
    erf=erf,
    relu=jax.nn.relu,
    sigmoid=jax.nn.sigmoid,
    tensor=jnp.asarray,
    xlogy=xlogy,
)


def by_us(case: Case) -> bool:
    x, y = torch.tensor(case.x, dtype=torch.float64), torch.tensor(case.y, dtype=torch.float64)
    return bool(check_gradient(case.model(), x, y))


def by_gradcheck(case: Case) -> bool:
    model, x = case.model(), torch.tensor(case.x, dtype=torch.float64)
    weights = [*model.parameters()]

    class Prediction(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Tensor) -> Tensor:
            with torch.no_grad():
                for w, value in zip(weights, values, strict=True):
                    w.copy_(value)
                return model(x).detach().clone()

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Any:
            with torch.no_grad():
                partials = partial_derivatives(model, x, upstream[0]).values()
            return tuple((upstream[0] * partial).sum() for partial in partials)

    values = [w.detach().clone().requires_grad_() for w in weights]
    return bool(torch.autograd.gradcheck(Prediction.apply, values, raise_exception=False))


def jax_cases() -> dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, float]]]:
    """The same models, of whose source every call of torch is one of jax."""
    tree = ast.parse((Path(__file__).parent / "held_out.py").read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.ImportFrom) and node.module in ("torch", "torchgd"))
        and not (isinstance(node, ast.Import) and node.names[0].name == "torch")
        and not (isinstance(node, ast.FunctionDef) and node.name == "curve")
    ]
    names: dict[str, Any] = {
        "torch": AS_IN_TORCH,
        "Tensor": Any,
        "Model": Any,
        "curve": lambda forward, partials, **start: (forward, partials, start),
        "__name__": "held_out_by_jax",
    }
    module = types.ModuleType("held_out_by_jax")
    module.__dict__.update(names)
    sys.modules[module.__name__] = module
    exec(compile(tree, "held_out.py", "exec"), module.__dict__)
    return {case.name: case.model for case in module.__dict__["CASES"]}


def by_jax(case: Case) -> bool:
    forward, partials, start = JAX[case.name]
    x = jnp.asarray(case.x)

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def prediction(*weights: Any) -> Any:
        return forward(x, *weights)

    def backward(weights: Any, upstream: Any) -> Any:
        found = partials(x, *weights)
        return tuple((upstream * found[name]).sum() for name in start)

    prediction.defvjp(lambda *weights: (forward(x, *weights), weights), backward)
    try:
        check_grads(prediction, tuple(map(jnp.float64, start.values())), order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


JAX = jax_cases()


def count(name: str, passes: Callable[[Case], bool], cases: list[Case]) -> None:
    """Print an oracle's counts over these models, and which they are."""
    start = time.perf_counter()
    alarms = [case.name for case in cases if case.wrong is None and not passes(case)]
    misses = [case.name for case in cases if case.wrong is not None and passes(case)]
    took = time.perf_counter() - start
    print(f"{name}: {len(alarms)} false alarms, {len(misses)} misses, {took:.1f} s")
    for what, names in (("false alarms", alarms), ("misses", misses)):
        print(f"    {what}: {', '.join(names)}" * bool(names), end="\n" * bool(names))


def main() -> None:
    ours, torchs = ("check_gradient", by_us), ("torch.autograd.gradcheck", by_gradcheck)
    right = sum(case.wrong is None for case in CASES)
    print(f"{right} right models, {len(CASES) - right} wrong ones")
    for name, passes in (ours, torchs, ("jax.test_util.check_grads", by_jax)):
        count(name, passes, CASES)
    print(f"{len(HARDER)} harder right models, {len(NO_SYMBOLS)} of them without symbols")
    for name, passes in (ours, torchs):
        count(name, passes, HARDER)


if __name__ == "__main__":
    main()
