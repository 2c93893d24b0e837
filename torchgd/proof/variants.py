"""Rules that are taken for SGD's. Where an optimizer takes the steps of one, we can name it."""

from typing import Any

import torch
from torch import Tensor

from torchgd.optim import ManualSGD

Group = dict[str, Any]


class Damped(ManualSGD):
    """v ← μ·v + (1 − τ)·g at the first step, too, where v is 0."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        if not self.state[w]:
            self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        super()._update(w, g, group)


class Averaged(Damped):
    """v ← μ·v + (1 − μ)·g."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        super()._update(w, g, {**group, "dampening": group["momentum"]})


class Decoupled(ManualSGD):
    """w ← w − α·λ·w, beside the momentum."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        w.mul_(1 - float(group["lr"]) * group["weight_decay"])
        super()._update(w, g, {**group, "weight_decay": 0})


class DecayClimbs(ManualSGD):
    """With maximize g ← −(g + λ·w)."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        g = g.add(w, alpha=group["weight_decay"])
        super()._update(w, g, {**group, "weight_decay": 0})


class RateInside(ManualSGD):
    """v ← μ·v + α·(1 − τ)·g and w ← w − v, in which an old step keeps its rate."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        unit = {**group, "lr": 1.0}
        scaled = (-g if group["maximize"] else g).add(w, alpha=group["weight_decay"])
        scaled.mul_(float(group["lr"]))
        super()._update(w, scaled, {**unit, "maximize": False, "weight_decay": 0})


class NesterovBefore(ManualSGD):
    """g ← g + μ·v with the v of the step before."""

    def _update(self, w: Tensor, g: Tensor, group: Group) -> None:
        v = self.state[w].get("momentum_buffer")
        before = torch.zeros_like(w) if v is None else v.clone()
        still = w.clone()
        super()._update(w, g, {**group, "nesterov": False})
        if group["nesterov"]:
            g = (-g if group["maximize"] else g).add(still, alpha=group["weight_decay"])
            w.copy_(still.sub_(g.add(before, alpha=group["momentum"]), alpha=float(group["lr"])))


# Each variant in words, and without which options it is SGD.
VARIANTS: dict[str, tuple[type[ManualSGD], set[str]]] = {
    "whose first step is damped, too": (Damped, {"momentum", "dampening"}),
    "with an average, (1 − μ)·g, for the momentum": (Averaged, {"momentum"}),
    "with the decay beside the momentum, as AdamW's": (Decoupled, {"weight_decay"}),
    "with a decay that maximize turns around": (DecayClimbs, {"weight_decay", "maximize"}),
    "with the rate inside of the momentum's buffer": (RateInside, {"momentum"}),
    "with Nesterov's rule of another order, of the v before": (NesterovBefore, {"nesterov"}),
}
