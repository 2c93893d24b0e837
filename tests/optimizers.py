"""Forty optimizers, 10 right and 30 wrong, and what `check_optimizer` should say of the latter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torchgd import ManualSGD
from torchgd.proof.variants import (
    Averaged,
    Damped,
    DecayClimbs,
    Decoupled,
    NesterovBefore,
    RateInside,
)

Group = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An optimizer; `fault` is a part of what should be said of it, None where it is right."""

    name: str
    kind: Callable[..., Any]
    fault: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Adam(Optimizer):
    """Adam and AdamW as their papers write them, w ← w − α·m̂/(√v̂ + ε)."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "amsgrad": amsgrad, "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    state = self.state[w]
                    state["count"] = state.get("count", 0) + 1
                    self.update(w, -w.grad if group["maximize"] else w.grad, group, state)
        return loss

    def decay(self, w: Tensor, g: Tensor, group: Group) -> Tensor:
        w.mul_(1 - float(group["lr"]) * group["weight_decay"])
        return g

    def update(self, w: Tensor, g: Tensor, group: Group, state: Group) -> None:
        g = self.decay(w, g, group)
        (a, b), count = group["betas"], state["count"]
        m = state["m"] = a * state.get("m", 0) + (1 - a) * g
        v = state["v"] = b * state.get("v", 0) + (1 - b) * g * g
        if group["amsgrad"]:
            v = state["most"] = torch.maximum(v, state.get("most", v))
        w.sub_(float(group["lr"]) * self.ratio(m, v, group["eps"], 1 - a**count, 1 - b**count))

    def ratio(self, m: Tensor, v: Tensor, eps: float, first: float, second: float) -> Tensor:
        return m / first / ((v / second).sqrt() + eps)


class Uncorrected(Adam):
    """Without the bias correction."""

    def ratio(self, m: Tensor, v: Tensor, eps: float, first: float, second: float) -> Tensor:
        return m / (v.sqrt() + eps)


class EpsilonInside(Adam):
    """√(v̂ + ε) for √v̂ + ε."""

    def ratio(self, m: Tensor, v: Tensor, eps: float, first: float, second: float) -> Tensor:
        return m / first / (v / second + eps).sqrt()


class Coupled(Adam):
    """Adam's decay for AdamW's."""

    def decay(self, w: Tensor, g: Tensor, group: Group) -> Tensor:
        return g.add(w, alpha=group["weight_decay"])


class WithoutAmsgrad(Adam):
    """Takes amsgrad and forgets it."""

    def update(self, w: Tensor, g: Tensor, group: Group, state: Group) -> None:
        super().update(w, g, {**group, "amsgrad": False}, state)


class FirstRate(ManualSGD):
    """Keeps the rate of the first step."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        rate = self.state[w].setdefault("rate", float(group["lr"]))
        super()._update(w, g, {**group, "lr": rate})


class StopsAfterTen(ManualSGD):
    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        count = self.state[w]["count"] = self.state[w].get("count", 0) + 1
        if count <= 10:
            super()._update(w, g, group)


class OneMomentum(ManualSGD):
    """0.9, whatever it is told."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g, {**group, "momentum": 0.9 if group["momentum"] else 0})


class FirstGroup(ManualSGD):
    """Has the first group's options for all, but the rate."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g, {**self.param_groups[0], "lr": group["lr"]})


class Writes(ManualSGD):
    """Writes to p.grad."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g, group)
        g.mul_(float(group["lr"]))


class Zeroes(ManualSGD):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = super().step(closure)
        self.zero_grad(set_to_none=False)
        return loss


class SetsToNone(ManualSGD):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = super().step(closure)
        self.zero_grad()
        return loss


class Alias(ManualSGD):
    """The velocity is the first gradient's own tensor."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        first = group["momentum"] and "momentum_buffer" not in self.state[w]
        super()._update(w, g, group)
        if first and not group["maximize"] and not group["weight_decay"]:
            self.state[w]["momentum_buffer"] = g


class Rebinds(ManualSGD):
    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        w.data = w.data.clone()
        super()._update(w, g, group)


class NeverCalls(ManualSGD):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return super().step()


class CallsTwice(ManualSGD):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        if closure is not None:
            closure()
        return super().step(closure)


class TakesNoClosure(ManualSGD):
    def step(self) -> Any:  # type: ignore[override]
        return super().step()


class ReturnsNothing(ManualSGD):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        super().step(closure)


class SwallowsNaN(ManualSGD):
    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g.nan_to_num(), group)


class OtherRate(ManualSGD):
    def __init__(self, params: Any, lr: Any = 0.01, **options: Any) -> None:
        super().__init__(params, lr, **options)


class NoGroups:
    def __init__(self, params: Any, **options: Any) -> None:
        self.params = params


class Single(ManualSGD):
    """Computes in float32."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g.float().to(g.dtype), group)


class Forgetful(ManualSGD):
    """Its velocity is in no state_dict."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


class LastAlone(ManualSGD):
    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        if group is self.param_groups[-1]:
            super()._update(w, g, group)


class DecaysUp(ManualSGD):
    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g, {**group, "weight_decay": -group["weight_decay"]})


class Plain(ManualSGD):
    """Knows lr and momentum alone."""

    def __init__(self, params: Any, lr: Any = 0.001, momentum: float = 0.0) -> None:
        super().__init__(params, lr, momentum)


class TwoRoundings(ManualSGD):
    """w − α·g, of which the product is rounded, and then the difference."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        before = w.clone()
        w.zero_()
        decayed = g.add(before, alpha=(-1 if group["maximize"] else 1) * group["weight_decay"])
        super()._update(w, decayed, {**group, "weight_decay": 0})
        w.add_(before)


ADAM, ADAMW = {"like": torch.optim.Adam}, {"like": torch.optim.AdamW}
ROUNDED = 10**6  # of numbers that cancel

RIGHT = [
    Case("torch's SGD", torch.optim.SGD),
    Case("torch's SGD, with foreach", partial(torch.optim.SGD, foreach=True)),
    Case("ManualSGD", ManualSGD),
    Case("SGD without options", Plain),
    Case("SGD that rounds twice", TwoRoundings, None, {"max_ulp": ROUNDED}),
    Case("torch's Adam", torch.optim.Adam, None, ADAM),
    Case("torch's AdamW", torch.optim.AdamW, None, ADAMW),
    Case("torch's AdamW, with foreach", partial(torch.optim.AdamW, foreach=True), None, ADAMW),
    Case("torch's Adam, fused", partial(torch.optim.Adam, fused=True), None,
         {**ADAM, "max_ulp": ROUNDED}),
    Case("AdamW by hand", Adam, None, {**ADAMW, "max_ulp": ROUNDED}),
]  # fmt: skip

WRONG = [
    Case("keeps the first rate", FirstRate, "part at step "),
    Case("stops after ten steps", StopsAfterTen, "part at step 10"),
    Case("a momentum of 0.9 for all", OneMomentum, "part at step "),
    Case("the first group's options for all", FirstGroup, "part at step "),
    Case("writes to p.grad", Writes, "changes p.grad"),
    Case("zeroes p.grad", Zeroes, "changes p.grad"),
    Case("sets p.grad to None", SetsToNone, "or None, in the place of p.grad"),
    Case("a velocity that is the gradient", Alias, ""),
    Case("rebinds p.data", Rebinds, "another tensor in the place of p:"),
    Case("never calls the closure", NeverCalls, "calls the closure 0 times"),
    Case("calls the closure twice", CallsTwice, "calls the closure 2 times"),
    Case("takes no closure", TakesNoClosure, "write step(self, closure=None)"),
    Case("returns no loss", ReturnsNothing, "does not return the closure's loss"),
    Case("swallows NaN", SwallowsNaN, "part at step 12"),
    Case("another rate by default", OtherRate, "its rate is 0.01 where none is"),
    Case("no param_groups", NoGroups, "it has no param_groups"),
    Case("the first step damped", Damped, "SGD whose first step is damped, too"),
    Case("an average", Averaged, "SGD with an average"),
    Case("the rate in the buffer", RateInside, "SGD with the rate inside of the momentum's buffer"),
    Case("a decoupled decay", Decoupled, "SGD with the decay beside the momentum"),
    Case("Nesterov of the v before", NesterovBefore, "SGD with Nesterov's rule of another order"),
    Case("a decay that maximize turns", DecayClimbs, "SGD with a decay that maximize turns around"),
    Case("float32 inside", Single, "part at step 0"),
    Case("forgets its velocity", Forgetful, "part at step 5"),
    Case("steps the last group alone", LastAlone, "part at step 0"),
    Case("a decay upwards", DecaysUp, "part at step 0"),
    Case("Adam without the bias correction", Uncorrected, "", {**ADAMW, "max_ulp": ROUNDED}),
    Case("Adam, ε inside of the root", EpsilonInside, "", {**ADAMW, "max_ulp": ROUNDED}),
    Case("AdamW with Adam's decay", Coupled, "", {**ADAMW, "max_ulp": ROUNDED}),
    Case("AdamW without amsgrad", WithoutAmsgrad, "amsgrad has no effect",
         {**ADAMW, "max_ulp": ROUNDED}),
]  # fmt: skip

CASES = [*RIGHT, *WRONG]
