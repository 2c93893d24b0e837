"""Φ of a model that is linear in its parameters, and batches as rows of it.

Where ŷ is linear in the parameters, ŷ = φ·w + ŷ₀, its partial derivatives φ = ∂ŷ/∂w depend on x
alone, and with the rows φₙ stacked into Φ (N, P) a batch of N samples gives

    ∂loss/∂w = (2/N) Φᵀ(Φw + ŷ₀ − y)        H = ∂²loss/∂w² = (2/N) ΦᵀΦ
"""

import math
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils import vector_to_parameters

from torchgd.data import Batches, require_floats
from torchgd.gradients import partial_derivatives, require_linear, same_dtype
from torchgd.models import Model, scalars
from torchgd.training import BatchesLike

# Samples at a time, where memory and the time to start a block balance.
BLOCK = {"cpu": 2**18, "cuda": 2**22}


@torch.no_grad()
def jacobian(model: Model, x: Tensor) -> Tensor:
    """Φ = ∂ŷ/∂w, of x's shape and P: a column per parameter."""
    return torch.stack([*partial_derivatives(model, x, x).values()], dim=-1)


def jacobians(model: Model, batches: BatchesLike) -> list[Tensor]:
    """Each batch's Φ (B, P): a row per sample; float64, on the CPU.

    Raises:
        ValueError: the model is not linear in its parameters, so Φ would hold at one point only.
    """
    xs = [x.cpu().double() for x, _ in batches]
    x, model = torch.cat(xs), deepcopy(model).cpu()
    changes = "its Hessian changes from step to step; choose the learning rate yourself"
    require_linear(model, x, changes)
    return list(jacobian(model, x).split([len(x) for x in xs]))


def hessian(phi: Tensor) -> Tensor:
    """H = (2/N) ΦᵀΦ of the mean squared error, (P, P), from Φ (N, P)."""
    return (2 / len(phi)) * phi.T @ phi


# A batch is kept as the rows [φ r₀]/√B of its samples, where r₀ = ŷ₀ − y is the residual at w = 0.
# That is an affine map itself, from w to the residuals r = Φw + r₀; with them loss = ‖r‖² and
#
#   g = 2Φᵀr = 2Φᵀ[Φ r₀](w, 1) = [H −h](w, 1)
#
# Of more than P + 1 rows those of R do, where [Φ r₀] = QR: ‖[Φ r₀](w, 1)‖ = ‖R(w, 1)‖ for any w, so
# that loss, gradient and Hessian are the same.
def reduced_rows(at_zero: Model, x: Tensor, y: Tensor, block: int) -> Tensor:
    """The rows (n, K, P + 1) of n batches x and y (n, B), K = min(B, P + 1), in float64.

    `at_zero` is the model with all weights 0, so that its ŷ is ŷ₀.
    """
    rows = x.new_zeros(len(x), 0, 1 + len(scalars(at_zero)), dtype=torch.float64)
    for xs, ys in zip(x.split(block, 1), y.split(block, 1), strict=True):
        xs = xs.double()
        residual = (at_zero(xs) - ys)[..., None]
        rows = torch.cat([rows, torch.cat([jacobian(at_zero, xs), residual], dim=2)], dim=1)
        if rows.shape[1] > rows.shape[2]:
            rows = torch.linalg.qr(rows, mode="r").R
    return rows / math.sqrt(x.shape[1])


def epoch_rows(at_zero: Model, x: Tensor, y: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the rows of an epoch's batches in blocks; zeros fill up what the last batch lacks."""
    block = BLOCK.get(x.device.type, BLOCK["cuda"])
    whole, some = len(x) // size * size, max(1, block // size) * size
    for xs, ys in zip(x[:whole].split(some), y[:whole].split(some), strict=True):
        rows = reduced_rows(at_zero, xs.view(-1, size), ys.view(-1, size), block)
        yield rows
    if whole < len(x):
        last = reduced_rows(at_zero, x[None, whole:], y[None, whole:], block)
        yield pad(last, (0, 0, 0, rows.shape[1] - last.shape[1]))


def samples(batches: BatchesLike, epoch: int) -> tuple[Tensor, Tensor, int]:
    """Return x and y (N,) in the epoch's order, and how many of them make a batch.

    Raises:
        ValueError: the batches differ in size, and not the last one alone, by being smaller.
    """
    if isinstance(batches, Batches):
        batches.set_epoch(epoch)
        return *batches.in_order(), batches.batch_size
    xs, ys = zip(*batches, strict=True)
    size, *others = map(len, xs)
    if any(other != size for other in others[:-1]) or len(xs[-1]) > size:
        raise ValueError(
            f"batches of {min(map(len, xs))} to {max(map(len, xs))} samples: give all the "
            "same number, and the last one at most that"
        )
    return torch.cat(xs), torch.cat(ys), size


def batch_rows(model: Model, batches: BatchesLike, epochs: int) -> Iterator[Tensor]:
    """Yield the rows (n, K, P + 1) of all epochs' batches in blocks, on the model's device.

    In float64, K = min(B, P + 1). The last block is a batch without samples: of a step from where
    the path ends, with neither loss nor gradient.

    Raises:
        ValueError: model and data differ in dtype, the batches in size, or the model is not
            linear in its parameters.
    """
    parameters, at_zero = scalars(model), deepcopy(model).double()
    zeros = torch.zeros_like(torch.stack(list(at_zero.parameters())))
    vector_to_parameters(zeros, at_zero.parameters())
    for epoch in range(epochs):
        x, y, size = samples(batches, epoch)
        require_floats("x", x)
        require_floats("y", y)
        for name, w in parameters.items():
            same_dtype(name, w, y)
        require_linear(at_zero, x[:: 1 + len(x) // 4096].double())  # enough samples to tell
        for rows in epoch_rows(at_zero, x, y, size):
            yield rows
    yield torch.zeros_like(rows[:1])
