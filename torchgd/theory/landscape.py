"""The loss as a landscape over the weights: its lowest point, its shape, its height, and the rates.

Where ŷ is linear in the parameters the landscape is a paraboloid, with Φ as in `theory.linear`:

    loss(w) = loss(w*) + (1/N) ‖Φ(w − w*)‖²

Its second term, the excess, is what a descent still has to go. So written it keeps its digits
near the minimiser w*, where the difference of two losses has none left. How fast a descent may go,
and how fast it gets there, follows from the Hessian H = (2/N) ΦᵀΦ: the difference of two descents
shrinks by the steps' linear maps I − αH, on which neither w nor y bears.
"""

import math
from copy import deepcopy
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import hessian as hessian_by_autograd
from torch.func import functional_call

from torchgd.gradients import is_linear_in_parameters
from torchgd.loss import mean_squared_error
from torchgd.models import Model, scalars
from torchgd.theory.affine import step_maps
from torchgd.theory.linear import hessian, jacobian, jacobians
from torchgd.training import BatchesLike


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
    rank, parameters = int(torch.linalg.matrix_rank(phi)), phi.shape[1]
    if rank < parameters:
        raise ValueError(
            f"the Hessian is singular: the data determine {rank} of {parameters} parameters, so "
            "no rate is best; give more data or a number"
        )
    smallest = 2 / len(phi) * torch.linalg.matrix_norm(phi, ord=-2).item() ** 2
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
    scan finds no stable rate, as with momentum above 1; there is none for maximize, 0.

    Raises:
        ValueError: a Hessian is not finite.
    """

    def stable(lr: float) -> bool:
        # Along a direction that the data leave open the factor is 1, give or take its rounding.
        return contraction(hessians, lr, **options) <= 1 + 1e-9

    if options.get("maximize"):
        return 0.0
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


def compose(maps: Tensor) -> Tensor:
    """The matrix of n linear maps (n, S, S) applied one after another, the first one first."""
    while len(maps) > 1:
        pairs = len(maps) // 2 * 2
        maps = torch.cat([maps[1:pairs:2] @ maps[0:pairs:2], maps[pairs:]])
    return maps[0]


class Landscape:
    """The mean squared error over all data as a function of P weights, in float64 on the CPU.

    `minimiser` (P,) is where it is least, `minimum` its value there. Where the data determine
    fewer than P parameters it is one of the minimisers; `unique` says that it is the only one. Of a
    model that is not linear in its parameters it is a local minimum, found by torch's L-BFGS from
    the lowest of the points `near` (G, P), and not known to be unique.

    Raises:
        ValueError: x, y or their powers are beyond float64.
    """

    def __init__(self, model: Model, batches: BatchesLike, near: Tensor) -> None:
        self.model = deepcopy(model).cpu().double()
        self.names = list(scalars(model))
        self.batches = [(x.cpu().double(), y.cpu().double()) for x, y in batches]
        self.x, self.y = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        self.linear = is_linear_in_parameters(self.model, self.x)
        if self.linear:
            phi = jacobian(self.model, self.x)
            self.minimiser, self.unique = self._least_squares(phi)
            self.root = torch.linalg.qr(phi).R  # ‖Φd‖ = ‖Rd‖, whatever N
        else:
            self.minimiser, self.unique = self._search(near), False
        self.minimum = self.loss(self.minimiser[None]).item()

    # Φw* ≈ y − ŷ₀, on columns of one length, which takes most of the condition number of powers of
    # x away; solved again for its own residual, which gives back the last digits.
    def _least_squares(self, phi: Tensor) -> tuple[Tensor, bool]:
        length = phi.norm(dim=0)
        if not torch.cat([length, self.y]).isfinite().all():
            raise ValueError("the data are beyond float64: x or y is too large; scale it")
        length = length.where(length > 0, 1.0)
        w = torch.zeros_like(length)
        for _ in range(2):
            left = (self.y - self.predict(w, self.x))[:, None]
            found = torch.linalg.lstsq(phi / length, left, driver="gelsd")
            w = w + found.solution[:, 0] / length
        return w, int(found.rank) == len(w)

    def _search(self, near: Tensor) -> Tensor:
        w = near[self.loss(near).nan_to_num(torch.inf).argmin()].clone().requires_grad_()
        search = torch.optim.LBFGS(
            [w], max_iter=500, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            search.zero_grad()
            loss = self._loss(w, self.x, self.y)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        search.step(closure)  # type: ignore[no-untyped-call]
        return w.detach()

    def predict(self, w: Tensor, x: Tensor) -> Tensor:
        """ŷ at x, any shape, for the weights w (P,)."""
        weights = dict(zip(self.names, w.unbind(), strict=True))
        return functional_call(self.model, weights, (x,))

    def _loss(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return mean_squared_error(self.predict(w, x), y)

    @torch.no_grad()
    def loss(self, weights: Tensor, batch: int | None = None) -> Tensor:
        """The loss (G,) over all data, or over one batch, at each of the weights (G, P)."""
        x, y = (self.x, self.y) if batch is None else self.batches[batch]
        return torch.stack([self._loss(w, x, y) for w in weights])

    def excess(self, weights: Tensor) -> Tensor:
        """loss(w) − loss(w*), (G,), at each of the weights (G, P)."""
        if self.linear:
            return ((weights - self.minimiser) @ self.root.T).square().sum(dim=1) / len(self.x)
        return (self.loss(weights) - self.minimum).clamp(min=0)

    @cached_property
    def hessians(self) -> Tensor:
        """∂²loss/∂w² of each batch at w*, (n, P, P)."""
        return torch.stack([self._hessian(x, y) for x, y in self.batches])

    @property
    def hessian(self) -> Tensor:
        """∂²loss/∂w² over all data at w*, (P, P)."""
        return self._hessian(self.x, self.y)

    def _hessian(self, x: Tensor, y: Tensor) -> Tensor:
        if self.linear:
            return hessian(jacobian(self.model, x))
        loss = partial(self._loss, x=x, y=y)
        # Strict: zeros are no second derivative of a backward pass that has none.
        return hessian_by_autograd(loss, self.minimiser, strict=True)

    def contraction(self, lr: float, **options: Any) -> float:
        """ρ of an epoch of SGD with these options, near w*; see the function `contraction`."""
        return contraction(self.hessians, lr, **options)

    def largest_stable_learning_rate(self, **options: Any) -> float:
        """See the function `largest_stable_learning_rate`; for maximize there is none, 0."""
        return largest_stable_learning_rate(self.hessians, **options)
