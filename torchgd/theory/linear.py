"""What a model that is linear in its parameters is, and the two matrices that tell all of it.

Where ŷ is linear in the parameters, ŷ = φ·w + ŷ₀, its partial derivatives φ = ∂ŷ/∂w depend on x
alone, and with the rows φₙ stacked into Φ (N, P) a batch of N samples gives

    ∂loss/∂w = (2/N) Φᵀ(Φw + ŷ₀ − y)        H = ∂²loss/∂w² = (2/N) ΦᵀΦ
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
    return all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def require_linear(
    model: Model,
    x: Tensor,
    otherwise: str = "its steps are no affine maps; take the update manual or autograd",
) -> None:
    """Raise ValueError unless the model is linear in its parameters."""
    if not is_linear_in_parameters(model, x):
        raise ValueError(f"{type(model).__name__} is not linear in its parameters: {otherwise}")


def jacobians(model: Model, batches: BatchesLike) -> list[Tensor]:
    """Each batch's Φ = ∂ŷ/∂w (B, P): a row per sample, a column per parameter; float64, CPU.

    Raises:
        ValueError: the model is not linear in its parameters, so Φ would hold at one point only.
    """
    xs = [x.cpu().double() for x, _ in batches]
    x, model = torch.cat(xs), deepcopy(model).cpu()
    changes = "its Hessian changes from step to step; choose the learning rate yourself"
    require_linear(model, x, changes)
    with torch.no_grad():
        partials = model.partials(x)
    phi = torch.stack([partials[name] for name, _ in model.named_parameters()], dim=1)
    return list(phi.split([len(x) for x in xs]))


def hessian(phi: Tensor) -> Tensor:
    """H = (2/N) ΦᵀΦ of the mean squared error, (P, P), from Φ (N, P)."""
    return (2 / len(phi)) * phi.T @ phi
