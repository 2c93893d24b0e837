"""What follows from a descent step being an affine map: how fast it may go, and how far.

Where ŷ is linear in the parameters, its partial derivatives φ = ∂ŷ/∂w depend on x alone, and
with the rows φₙ stacked into Φ (N, P) a batch of N samples gives

    ∂loss/∂w = (2/N) Φᵀ(Φw − y)        H = ∂²loss/∂w² = (2/N) ΦᵀΦ

so that one step of descent is the affine map w ← (I − αH)·w + α(2/N)Φᵀy. Errors shrink by the
eigenvalues of its linear part; nothing here depends on w or y.
"""

from copy import deepcopy

import torch
from torch import Tensor

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
    return all(torch.equal(before[name], after[name]) for name in before)


def jacobians(model: Model, batches: BatchesLike) -> list[Tensor]:
    """Each batch's Φ = ∂ŷ/∂w (B, P): a row per sample, a column per parameter; float64, CPU.

    Raises:
        ValueError: the model is not linear in its parameters, so Φ would hold at one point only.
    """
    xs = [x.cpu().double() for x, _ in batches]
    model = deepcopy(model).cpu()
    if not is_linear_in_parameters(model, torch.cat(xs)):
        raise ValueError(
            f"{type(model).__name__} is not linear in its parameters: its Hessian changes from "
            "step to step; choose the learning rate yourself"
        )
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        return [torch.stack([model.partials(x)[name] for name in names], dim=1) for x in xs]


def hessian(phi: Tensor) -> Tensor:
    """H = (2/N) ΦᵀΦ of the mean squared error, (P, P), from Φ (N, P)."""
    return (2 / len(phi)) * phi.T @ phi


def best_learning_rate(model: Model, batches: BatchesLike) -> float:
    """α = 2/(λ_min + λ_max), the best constant rate of plain descent.

    An error along an eigenvector of H shrinks by 1 − αλ a step. The slowest of these factors,
    max |1 − αλ|, is least where the smallest and the largest eigenvalue are equally slow:
    1 − αλ_min = −(1 − αλ_max).

    λ_min is the smallest eigenvalue of the whole data's Hessian, λ_max the largest of any
    batch's. For the full batch they are of one matrix; for smaller batches this keeps every
    batch's factors within [−1, 1], so that no step of these batches makes the error larger.

    Raises:
        ValueError: the Hessian is singular or not finite, or the model not linear in its
            parameters.
    """
    batch_phis = jacobians(model, batches)
    phi = torch.cat(batch_phis)
    if not (phi**2).sum().isfinite():
        raise ValueError(
            "the Hessian is not finite: x is too large for its powers; standardise the data"
        )
    # Of Φ, not of ΦᵀΦ: forming the product would square the condition number.
    singular = torch.linalg.svdvals(phi)
    parameters = phi.shape[1]
    rank = int((singular > singular[0] * max(phi.shape) * torch.finfo(phi.dtype).eps).sum())
    if rank < parameters:
        raise ValueError(
            f"the Hessian is singular: {len(phi)} samples determine {rank} of {parameters} "
            "parameters, so no rate is best; give more data or a number"
        )
    smallest = 2 / len(phi) * singular[-1].item() ** 2
    largest = max(torch.linalg.eigvalsh(hessian(p))[-1].item() for p in batch_phis)
    return 2 / (smallest + largest)


def largest_stable_learning_rate(
    hessians: Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> float:
    """The rate up to which repeating an epoch's steps does not blow the error up.

    `hessians` (n, P, P) holds each batch's H in the order of the epoch. An epoch multiplies the
    error by the product of its steps' linear maps; descent is stable while that product's
    spectral radius is at most 1. For the full batch without momentum this is α = 2/λ_max.
    A higher rate may happen to be stable again (a step may even land on the minimum); every rate
    below is. Found to nine digits by a scan in steps of a tenth, then bisection.
    """

    def stable(lr: float) -> bool:
        epoch = compose(step_maps(hessians, lr, momentum, dampening, weight_decay, nesterov))
        if not epoch.isfinite().all():
            return False
        return torch.linalg.eigvals(epoch).abs().max().item() <= 1 + 1e-9  # 1: a neutral direction

    curvature = torch.linalg.eigvalsh(hessians).max().item() + weight_decay
    if curvature == 0:
        return float("inf")
    high = 0.01 / curvature
    while stable(high):
        low, high = high, 1.1 * high
    if high == 0.01 / curvature:
        return 0.0
    for _ in range(27):  # 0.1 · 2⁻²⁷ < 10⁻⁹
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


# One step of SGD (see torchgd.optim) with u = αv in the place of the velocity v:
#
#   u ← μ·u + (1 − τ)·α(H + λI)·w       u ← α(H + λI)·w  without momentum, whatever τ
#   w ← w − u                           w ← w − (α(H + λI)·w + μ·u)  with Nesterov's rule
#
# is linear in the pair (w, u) once w is measured from the minimiser.
def step_maps(
    hessians: Tensor,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Tensor:
    """The matrix of a step on (w, u), for each Hessian: (n, P, P) to (n, 2P, 2P)."""
    eye = torch.eye(hessians.shape[-1], dtype=hessians.dtype).expand_as(hessians)
    none = torch.zeros_like(eye)
    G = torch.cat([lr * (hessians + weight_decay * eye), none], dim=2)
    undamped = 1 - dampening if momentum else 1.0
    U = undamped * G + torch.cat([none, momentum * eye], dim=2)
    W = torch.cat([eye, none], dim=2) - (G + momentum * U if nesterov else U)
    return torch.cat([W, U], dim=1)


def compose(maps: Tensor) -> Tensor:
    """The matrix of n linear maps (n, S, S) applied one after another, the first one first."""
    while len(maps) > 1:
        pairs = len(maps) // 2 * 2
        maps = torch.cat([maps[1:pairs:2] @ maps[0:pairs:2], maps[pairs:]])
    return maps[0]
