"""What follows from a descent step being an affine map: how fast it may go, and how far.

Where ŷ is linear in the parameters, ŷ = φ·w + ŷ₀, its partial derivatives φ = ∂ŷ/∂w depend on x
alone, and with the rows φₙ stacked into Φ (N, P) a batch of N samples gives

    ∂loss/∂w = (2/N) Φᵀ(Φw + ŷ₀ − y)        H = ∂²loss/∂w² = (2/N) ΦᵀΦ

so that one step of descent is the affine map w ← (I − αH)·w + α(2/N)Φᵀ(y − ŷ₀). The difference of
two descents shrinks by its linear part, on which neither w nor y bears.
"""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from torchgd.models import Model
from torchgd.training import BatchesLike


def is_linear_in_parameters(model: Model, x: Tensor) -> bool:
    """Return whether ∂ŷ/∂w at x stays the same, to the bit, when the weights are changed."""
    other = deepcopy(model)
    with torch.no_grad():
        before = model.partials(x)
        for w in other.parameters():
            w.mul_(1.1).add_(0.37)
        after = other.partials(x)
    return all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def jacobians(model: Model, batches: BatchesLike) -> list[Tensor]:
    """Each batch's Φ = ∂ŷ/∂w (B, P): a row per sample, a column per parameter; float64, CPU.

    Raises:
        ValueError: the model is not linear in its parameters, so Φ would hold at one point only.
    """
    xs = [x.cpu().double() for x, _ in batches]
    x, model = torch.cat(xs), deepcopy(model).cpu()
    if not is_linear_in_parameters(model, x):
        raise ValueError(
            f"{type(model).__name__} is not linear in its parameters: its Hessian changes from "
            "step to step; choose the learning rate yourself"
        )
    with torch.no_grad():
        partials = model.partials(x)
    phi = torch.stack([partials[name] for name, _ in model.named_parameters()], dim=1)
    return list(phi.split([len(x) for x in xs]))


def hessian(phi: Tensor) -> Tensor:
    """H = (2/N) ΦᵀΦ of the mean squared error, (P, P), from Φ (N, P)."""
    return (2 / len(phi)) * phi.T @ phi


def minimiser(model: Model, batches: BatchesLike) -> Tensor:
    """w* = argmin (1/N) Σ (ŷₙ − yₙ)² over all data: the weights (P,), float64, on the CPU.

    Least squares, Φw* ≈ y − ŷ₀, on columns of one length, which takes most of the condition number
    of powers of x away; solved again for its own residual, which gives back the last digits. Where
    the data determine fewer than P parameters it is one of the minimisers.

    Raises:
        ValueError: Φ is not finite, or the model is not linear in its parameters.
    """
    phi = torch.cat(jacobians(model, batches))
    x, y = (torch.cat([batch[k].cpu().double() for batch in batches]) for k in (0, 1))
    length = phi.norm(dim=0)
    if not torch.cat([length, y]).isfinite().all():
        raise ValueError("the data are beyond float64: x or y is too large; scale it")
    length = length.where(length > 0, 1.0)
    copy = deepcopy(model).cpu().double()
    w = torch.zeros_like(length)
    for _ in range(2):
        vector_to_parameters(w, copy.parameters())
        with torch.no_grad():
            left = (y - copy(x))[:, None]
        w = w + torch.linalg.lstsq(phi / length, left, driver="gelsd").solution[:, 0] / length
    return w


def best_learning_rate(model: Model, batches: BatchesLike) -> float:
    """α = 2/(λ_min + λ_max), for the full batch the best constant rate of plain descent.

    An error along an eigenvector of H shrinks by 1 − αλ a step. The slowest of these factors,
    max |1 − αλ|, is least where the smallest and the largest eigenvalue are equally slow:
    1 − αλ_min = −(1 − αλ_max).

    λ_min is the smallest eigenvalue of the whole data's Hessian, λ_max the largest of any
    batch's. For the full batch they are of one matrix; for smaller batches the rate is a safe one:
    every batch's factors are within [−1, 1], so that no step of these batches enlarges the error.

    Raises:
        ValueError: the Hessian is singular or beyond float64, or the model not linear in its
            parameters.
    """
    phis = jacobians(model, batches)
    phi, hessians = torch.cat(phis), torch.stack([hessian(batch) for batch in phis])
    beyond = "the Hessian is beyond float64: x is too large or too small for its powers; scale x"
    if not (phi.isfinite().all() and hessians.isfinite().all()):
        raise ValueError(beyond)
    # Of Φ, not of ΦᵀΦ: forming the product would square the condition number.
    singular = torch.linalg.svdvals(phi)
    parameters = phi.shape[1]
    rank = int((singular > singular[0] * max(phi.shape) * torch.finfo(phi.dtype).eps).sum())
    if rank < parameters:
        raise ValueError(
            f"the Hessian is singular: the data determine {rank} of {parameters} parameters, so "
            "no rate is best; give more data or a number"
        )
    smallest = 2 / len(phi) * singular[-1].item() ** 2
    largest = torch.linalg.eigvalsh(hessians).max().item()
    if smallest + largest < 4 * torch.finfo(phi.dtype).tiny:
        raise ValueError(beyond)
    return 2 / (smallest + largest)


def largest_stable_learning_rate(hessians: Tensor, **options: Any) -> float:
    """The rate above which repeating an epoch's steps blows the error up.

    `hessians` (n, P, P) holds each batch's H in the order of the epoch, `options` are SGD's (see
    `step_maps`). An epoch multiplies the error by the product of its steps' linear maps, and is
    stable while that product's spectral radius is at most 1. For the full batch without momentum
    this is α = 2/λ_max. (Higher rates may happen to be stable again, where a step about lands on
    the minimum.)

    Found to nine digits by a scan upward in steps of a tenth, then bisection; an unstable window
    narrower than that, which momentum on unlike batches can have, may be passed over. 0 where the
    scan finds no stable rate, as with momentum above 1.

    Raises:
        ValueError: a Hessian is not finite.
    """

    def stable(lr: float) -> bool:
        # Along a direction that the data leave open the factor is 1, give or take its rounding.
        return contraction(hessians, lr, **options) <= 1 + 1e-9

    if not hessians.isfinite().all():
        raise ValueError("a Hessian is not finite: x is too large for its powers; scale x")
    curvature = torch.linalg.eigvalsh(hessians).max().item() + options.get("weight_decay", 0.0)
    if curvature == 0:
        return math.inf
    # Without momentum no step enlarges any error up to 2/λ_max.
    low, high = 0.0, (0.01 if options.get("momentum") else 2.0) / curvature
    while stable(high):
        low, high = high, 1.1 * high
    if low == 0:
        return 0.0
    for _ in range(27):  # 0.1 · 2⁻²⁷ < 10⁻⁹
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def contraction(hessians: Tensor, lr: float, **options: Any) -> float:
    """ρ, by which the error of a descent is at last multiplied in every epoch.

    The spectral radius of the product of the steps' maps (see `largest_stable_learning_rate` for
    the arguments); infinite where that product is beyond float64. The loss, less its minimum, is
    quadratic in the error and shrinks by ρ².
    """
    epoch = compose(step_maps(hessians, lr, **options))
    if not epoch.isfinite().all():
        return math.inf
    return torch.linalg.eigvals(epoch).abs().max().item()


# One step of SGD (see torchgd.optim) with u = αv in the place of the velocity v:
#
#   u ← μ·u + (1 − τ)·α(H + λI)·w
#   w ← w − u                           w ← w − (α(H + λI)·w + μ·u)  with Nesterov's rule
#
# is linear in the pair (w, u), where these are the differences of two descents. Without momentum
# w ← (I − α(H + λI))·w.
def step_maps(
    hessians: Tensor,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Tensor:
    """The matrix of a step on w (n, P, P), with momentum on (w, u) (n, 2P, 2P), for each H."""
    eye = torch.eye(hessians.shape[-1], dtype=hessians.dtype).expand_as(hessians)
    G = lr * (hessians + weight_decay * eye)
    if momentum == 0:
        return eye - G
    none = torch.zeros_like(G)
    G = torch.cat([G, none], dim=2)
    U = (1 - dampening) * G + torch.cat([none, momentum * eye], dim=2)
    W = torch.cat([eye, none], dim=2) - (G + momentum * U if nesterov else U)
    return torch.cat([W, U], dim=1)


def compose(maps: Tensor) -> Tensor:
    """The matrix of n linear maps (n, S, S) applied one after another, the first one first."""
    while len(maps) > 1:
        pairs = len(maps) // 2 * 2
        maps = torch.cat([maps[1:pairs:2] @ maps[0:pairs:2], maps[pairs:]])
    return maps[0]
