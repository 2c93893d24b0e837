"""The update by hand: torch.optim.SGD's rule, written out."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    ParamsT,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)


class ManualSGD(Optimizer):
    """Stochastic gradient descent, w ← w − α·g, with momentum, weight decay and Nesterov's rule.

    One step takes, for each parameter w with gradient g:

        g ← −g                     with maximize: climb instead of descend
        g ← g + λ·w                with weight decay λ
        v ← μ·v + (1 − τ)·g        with momentum μ and dampening τ; the first step sets v ← g
        g ← v                      with momentum, or with Nesterov's rule g ← g + μ·v
        w ← w − α·g                α is the learning rate

    A drop-in for `torch.optim.SGD`: the same bits, errors and param_groups, and the same options
    but `foreach`, `fused` and `differentiable`, which only choose how torch carries out this rule;
    either's state_dict loads into the other. The bits are the same in float32 and float64, on one
    machine, for weights of any shape and with any number of threads: there is no sum.

    Args:
        params: tensors or parameter groups, of any shape.
        lr: the learning rate α, a number or a tensor of one element (on CUDA each step waits for
            such a tensor, as in torch).
        momentum: μ.
        dampening: τ.
        weight_decay: λ.
        nesterov: use Nesterov's rule; needs momentum and no dampening.
        maximize: ascend.

    Raises:
        ValueError: what torch.optim.SGD refuses, in its words; beyond it, an lr, momentum,
            dampening or weight decay that is NaN or infinite.

    Source: the pseudocode in torch.optim.SGD's documentation.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own where it names them."""
        options = {**self.defaults, **param_group}
        for name in ("lr", "momentum", "dampening", "weight_decay"):
            value = options[name]
            if isinstance(value, int) and abs(value) > 2**63:  # which torch refuses at the step
                raise ValueError(f"{name} is an integer beyond 2⁶³: give a float")
            if not math.isfinite(value):
                raise ValueError(f"{name} is {float(value)}: it must be finite; give a number")
        # torch wraps this method to hide it from its compiler, and so imports that (1.4 s).
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    # torch wraps `step` in a record for its profiler, which takes longer than the step itself.
    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Return torch's wrapper of a step, which is passed by while no hook is registered."""
        wrapped = Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
            own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
            hooked = own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
            return (wrapped if hooked else func)(self, *args, **kwargs)

        return step

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state; one that an older torch saved may lack what was added since."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("nesterov", "maximize"):
                group.setdefault(name, False)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Update every parameter that has a gradient; return the closure's loss, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._update(w, w.grad, group)
        return loss

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        """The rule above, line by line, for one w."""
        if group["maximize"]:
            g = -g
        if group["weight_decay"] != 0:
            g = g.add(w, alpha=group["weight_decay"])
        if group["momentum"] != 0:
            v = self.state[w].get("momentum_buffer")
            if v is None:
                v = g.clone()
            else:
                v.mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
            self.state[w]["momentum_buffer"] = v
            g = g.add(v, alpha=group["momentum"]) if group["nesterov"] else v
        # One rounding (a fused multiply-add), as in torch.optim.SGD; w − α·g spelled out has two.
        w.sub_(g, alpha=float(group["lr"]))
