"""Φ of a model that is linear in its parameters, and batches reduced to a few rows.

Where ŷ is linear in the parameters, ŷ = φ·w + ŷ₀, its partial derivatives φ = ∂ŷ/∂w depend on x
alone. With the rows φₙ stacked into Φ (N, P) a batch of N samples gives

    ∂loss/∂w = (2/N) Φᵀ(Φw + ŷ₀ − y)        H = ∂²loss/∂w² = (2/N) ΦᵀΦ
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchgd.data import Batches, require_floats
from torchgd.entries import at_zero, names_of, parameters_of
from torchgd.gradients import few, jacobian, require_linear, same_dtype
from torchgd.models import Model
from torchgd.training import BatchesLike

# How many samples are reduced at a time: memory against the time that each block takes to start.
BLOCK = {"cpu": 2**18, "cuda": 2**22}


# A batch is kept as the rows [φ r]/√B of its samples, where r = ŷ − y is the residual at the
# model's weights. These rows are an affine map, from a change d of the weights to the residuals
# Φd + r, divided by √B. With the model at zero d is w, and
#
#   loss = ‖[Φ r](w, 1)‖²/B        g = (2/B)Φᵀ[Φ r](w, 1) = [H −h](w, 1)
#
# If there are more than P + 1 rows, those of R replace them, where [Φ r] = QR: then
# ‖[Φ r](w, 1)‖ = ‖R(w, 1)‖ for any w, so loss, gradient and Hessian are the same.
def reduced_rows(model: Model, x: Tensor, y: Tensor, block: int) -> Tensor:
    """The rows (n, K, P + 1) of n batches x (n, B, …) and y (n, B), K = min(B, P + 1), in float64.

    The model is in float64. A block of each batch's samples is in memory at a time.
    """
    rows = x.new_zeros(len(x), 0, 1 + len(names_of(model)), dtype=torch.float64)
    for xs, ys in zip(x.split(block, 1), y.split(block, 1), strict=True):
        samples = xs.flatten(0, 1).double()
        prediction = model(samples)
        residual = (prediction - ys.flatten())[:, None]
        new = torch.cat([jacobian(model, samples, prediction), residual], dim=1)
        rows = torch.cat([rows, new.view(*ys.shape, -1)], dim=1)
        if rows.shape[1] > rows.shape[2]:
            rows = torch.linalg.qr(rows, mode="r").R
    return rows / math.sqrt(x.shape[1])


@torch.no_grad()
def epoch_rows(model: Model, x: Tensor, y: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the rows of an epoch's batches in blocks; a smaller last batch is padded with zeros."""
    block = BLOCK.get(x.device.type, BLOCK["cuda"])
    whole, some = len(x) // size * size, max(1, block // size) * size
    for xs, ys in zip(x[:whole].split(some), y[:whole].split(some), strict=True):
        rows = reduced_rows(model, xs.unflatten(0, (-1, size)), ys.view(-1, size), block)
        yield rows
    if whole < len(x):
        last = reduced_rows(model, x[None, whole:], y[None, whole:], block)
        yield pad(last, (0, 0, 0, rows.shape[1] - last.shape[1]))


def gradient_maps(rows: Tensor) -> Tensor:
    """[H −h] (n, P, P + 1) of n batches, from their rows with the model at zero."""
    return 2 * rows[..., :-1].mT @ rows


def samples(batches: BatchesLike) -> tuple[Tensor, Tensor, int]:
    """Return x and y in the epoch's order, and how many of them make a batch.

    Raises:
        ValueError: the batches differ in size, and not only the last one by being smaller.
    """
    if isinstance(batches, Batches):
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

    In float64, K = min(B, P + 1). The last block is one batch without samples, for the row of the
    final weights, which has neither loss nor gradient.

    Raises:
        ValueError: model and data differ in dtype, the batches in size, or the model is not
            linear in its parameters.
    """
    parameters, zero = parameters_of(model), at_zero(model).double()
    for epoch in range(epochs):
        if isinstance(batches, Batches):
            batches.set_epoch(epoch)
        x, y, size = samples(batches)
        require_floats("x", x)
        require_floats("y", y)
        for name, w in parameters.items():
            same_dtype(name, w, y)
        require_linear(zero, few(x).double())
        for rows in epoch_rows(zero, x, y, size):
            yield rows
    yield torch.zeros_like(rows[:1])
