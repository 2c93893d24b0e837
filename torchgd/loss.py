"""The loss and its derivative with respect to the prediction, side by side.

The normalisation, here and everywhere: loss = (1/N) Σ (ŷₙ − yₙ)², a mean over N without a ½.
"""

from torch import Tensor


def residual(prediction: Tensor, target: Tensor) -> Tensor:
    """ŷ − y, elementwise.

    Raises:
        ValueError: the shapes differ, where broadcasting would silently compare every prediction
            with every target; or there are no samples, which have no mean.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}: "
            "they must be the same; reshape one of them"
        )
    if prediction.numel() == 0:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}: "
            "a mean over no sample does not exist; give at least one"
        )
    return prediction - target


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """loss = (1/N) Σ (ŷₙ − yₙ)², of shape ().

    Raises:
        ValueError: see `residual`.
    """
    return (residual(prediction, target) ** 2).mean()


# loss = (1/N) Σ rₙ² with rₙ = ŷₙ − yₙ. Only the n-th term holds ŷₙ, so by the chain rule
#
#   ∂loss/∂ŷₙ = ∂loss/∂rₙ² · ∂rₙ²/∂rₙ = (1/N) · 2rₙ
#
# The algebraically equal (2/N)·rₙ stays finite where 2rₙ overflows. autograd multiplies the two
# factors above, and leaves the product contiguous: in which order a sum over it is taken depends on
# how it lies in memory.
def mean_squared_error_and_derivative(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """loss as above, and ∂loss/∂ŷₙ = (1/N) · 2(ŷₙ − yₙ), contiguous, of the prediction's shape.

    Raises:
        ValueError: see `residual`.
    """
    r = residual(prediction, target)
    return r.square().mean(), _one_over(r.numel(), r) * (r + r).contiguous()


def _one_over(count: int, like: Tensor) -> float | Tensor:
    """1/N as autograd has it, in the dtype of `like`: float32 rounds an N above 2²⁴ beforehand."""
    return 1 / count if count <= 2**24 else like.new_full((), count).reciprocal()
