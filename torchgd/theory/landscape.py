"""The loss as a landscape over the weights: its lowest point, its shape, its height, and the rates.

Where ŷ is linear in the parameters the landscape is a paraboloid, with Φ as in `theory.linear`:

    loss(w) = loss(w*) + (1/N) ‖Φ(w − w*)‖²

The second term, the excess, is what a descent still has to go. Computed in this form it keeps its
digits near the minimiser w*, where the difference of two losses has none left. How fast a descent
may go, and how fast it gets there, follows from the Hessian H = (2/N) ΦᵀΦ: a step multiplies the
difference of two descents by I − αH, which depends on neither w nor y (see `theory.rates`).
"""

from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import hessian as hessian_by_autograd
from torch.func import functional_call
from torch.nn.functional import pad

from torchgd.data import Batches
from torchgd.entries import at_zero, names_of, set_weights, weights_of
from torchgd.gradients import few, is_linear_in_parameters
from torchgd.loss import residual
from torchgd.models import Model
from torchgd.theory.affine import compose, powers, start_state, step_maps
from torchgd.theory.linear import BLOCK, epoch_rows, gradient_maps, samples
from torchgd.theory.rates import TIE, Rates, contraction, find_rates
from torchgd.training import BatchesLike
from torchgd.trajectory import by_parameter


class Landscape:
    """The mean squared error over all data as a function of P weights, in float64 on the CPU.

    `minimiser` (P,) is where it is least, `minimum` its value there. Where the data determine
    fewer than P parameters it is one of the minimisers; `unique` says that it is the only one. Of a
    model that is not linear in its parameters it is a local minimum, found by torch's L-BFGS from
    the lowest of the points `near` (G, P), by default the model's own weights, and not known to be
    unique.

    The data are read twice, in blocks. What concerns single batches, in the order of the epoch that
    `batches` are at, is computed when it is first used, and takes P(P + 1) numbers a batch.

    Example: y = 2x at x = 1, 2, 3, where H = (2/3)(1 + 4 + 9) = 28/3 and 2/H = 3/14.

        >>> from torchgd import Batches, Linear
        >>> x = torch.tensor([1.0, 2.0, 3.0])
        >>> found = Landscape(Linear(), Batches(x, 2 * x, batch_size=3))
        >>> print(f"{found.minimiser.item():.6f}, {found.rates()}")
        2.000000, stable up to 0.214286

    Raises:
        ValueError: x, y or their powers are beyond float64, or the batches differ in size (see
            `theory.linear.samples`).
    """

    def __init__(self, model: Model, batches: BatchesLike, near: Tensor | None = None) -> None:
        self.model = deepcopy(model).cpu().double()
        self.names = names_of(model)
        x, y, self.size = samples(batches)
        self.x, self.y = x.cpu(), y.cpu()
        self.linear = is_linear_in_parameters(self.model, few(self.x).double())
        if self.linear:
            self._least_squares()
        else:
            own = weights_of(self.model)[None]
            self.minimiser, self.unique = self._search(own if near is None else near), False
            self.minimum = self.loss(self.minimiser[None]).item()

    # Φd ≈ −r, from d = 0 on: R has the same solution as Φ. Columns of one length take most of the
    # condition number of powers of x away; once more for the residual that is left, which gives
    # the last digits.
    def _least_squares(self) -> None:
        model, w = at_zero(self.model), torch.zeros(len(self.names), dtype=torch.float64)
        least = torch.finfo(w.dtype).eps * max(len(self.x), len(w))
        for _ in range(2):
            set_weights(model, w)
            ((rows,),) = epoch_rows(model, self.x, self.y, len(self.x))  # of one batch
            root, left = rows[:, :-1], rows[:, -1:]
            length = root.norm(dim=0)
            if not torch.cat([length, left[:, 0]]).isfinite().all():
                raise ValueError(
                    "the data are beyond float64: x or y is too large or too small; scale it"
                )
            length = length.where(length > 0, 1.0)
            found = torch.linalg.lstsq(root / length, -left, rcond=least, driver="gelsd")
            d = found.solution / length[:, None]
            w = w + d[:, 0]
        self.minimiser, self.root = w, root
        self.rank, self.unique = int(found.rank), int(found.rank) == len(w)
        self.minimum = (root @ d + left).square().sum().item()

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

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The batches (x, y) of the epoch, on the CPU."""
        return list(zip(self.x.split(self.size), self.y.split(self.size), strict=True))

    def predict(self, w: Tensor, x: Tensor) -> Tensor:
        """ŷ at x for the weights w (P,)."""
        weights = {n: t[0] for n, t in by_parameter(self.names, w[None]).items()}
        return functional_call(self.model, weights, (x,))

    def _loss(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        blocks = zip(x.split(BLOCK["cpu"]), y.split(BLOCK["cpu"]), strict=True)
        rs = (residual(self.predict(w, xs.double()), ys.double()) for xs, ys in blocks)
        return torch.stack([(r**2).sum() for r in rs]).sum() / len(x)

    @torch.no_grad()
    def loss(self, weights: Tensor, batch: int | None = None) -> Tensor:
        """The loss (G,) over all data, or over one batch, at each of the weights (G, P)."""
        some = slice(None) if batch is None else slice(batch * self.size, (batch + 1) * self.size)
        x, y = self.x[some], self.y[some]
        return torch.stack([self._loss(w, x, y) for w in weights])

    def excess(self, weights: Tensor) -> Tensor:
        """loss(w) − loss(w*), (G,), at each of the weights (G, P)."""
        if self.linear:
            return ((weights - self.minimiser) @ self.root.T).square().sum(dim=1)
        return (self.loss(weights) - self.minimum).clamp(min=0)

    # Near w* the gradient of a nonlinear model is about H(w − w*): its maps are of w − w*.
    @cached_property
    def _maps(self) -> Tensor:
        """Each batch's gradient as a map, [H −h] (n, P, P + 1)."""
        if self.linear:
            # Allocated once: small results between the freed blocks would keep their memory in use.
            count, parameters = -(-len(self.x) // self.size), len(self.names)
            maps = left = torch.empty(count, parameters, parameters + 1, dtype=torch.float64)
            for rows in epoch_rows(at_zero(self.model), self.x, self.y, self.size):
                left[: len(rows)] = gradient_maps(rows)
                left = left[len(rows) :]
            return maps
        return pad(torch.stack([self._hessian(x, y) for x, y in self.batches]), (0, 1))

    @property
    def hessians(self) -> Tensor:
        """∂²loss/∂w² of each batch at w*, (n, P, P)."""
        return self._maps[..., :-1]

    @property
    def hessian(self) -> Tensor:
        """∂²loss/∂w² over all data at w*, (P, P)."""
        return 2 * self.root.T @ self.root if self.linear else self._hessian(self.x, self.y)

    def _hessian(self, x: Tensor, y: Tensor) -> Tensor:
        # Strict: a backward pass without a second derivative is an error, not zeros.
        return hessian_by_autograd(lambda w: self._loss(w, x, y), self.minimiser, strict=True)

    def contraction(self, lr: float, **options: Any) -> float:
        """ρ, by which every epoch of SGD with these options in the end multiplies the error.

        The error is the difference of w from where the epochs lead: the minimiser, of a full batch
        without weight decay. ρ is the spectral radius of the product of the linear maps of an
        epoch's steps; infinite where that product is beyond float64. The loss of a full batch, less
        its minimum, in the end shrinks by ρ².
        """
        return contraction(self._maps, torch.tensor([lr], dtype=torch.float64), **options).item()

    def stable(self, lr: float, **options: Any) -> bool:
        """Whether repeating an epoch's steps does not make the error grow, ρ ≤ 1."""
        # Along a direction that the data leave open the factor is 1, give or take rounding.
        return self.contraction(lr, **options) <= 1 + TIE

    def rates(self, **options: Any) -> Rates:
        """Which learning rates are stable with these options, and where ρ is least.

        Raises:
            ValueError: a batch's Hessian is not finite.
        """
        self._refuse_infinite()
        return find_rates(self._maps, **options)

    def _refuse_infinite(self) -> None:
        if not self.hessians.isfinite().all():
            raise ValueError("a Hessian is not finite: x is too large for its powers; scale x")

    def _steepest(self) -> float:
        """λ_max, the largest eigenvalue of any batch's Hessian."""
        self._refuse_infinite()
        return torch.linalg.eigvalsh(self.hessians).max().item()

    # An error along an eigenvector of H shrinks by 1 − αλ a step. The slowest of these factors,
    # max |1 − αλ|, is least where the smallest and the largest eigenvalue are equally slow:
    # 1 − αλ_min = −(1 − αλ_max).
    def safe_learning_rate(self) -> float:
        """α = 2/(λ_min + λ_max), at which no step of plain descent enlarges any error.

        λ_min is the smallest eigenvalue of the whole data's Hessian, λ_max the largest of any
        batch's: every batch's factors 1 − αλ are within [−1, 1]. For the full batch they are of one
        matrix, and the rate is the best constant one. For smaller batches it is safe, and not the
        one where ρ is least: that says how fast the epochs settle, not how far from the minimiser.

        Raises:
            ValueError: the Hessian is singular or beyond float64, or the model not linear in its
                parameters.
        """
        if not self.linear:
            raise ValueError(
                f"{type(self.model).__name__} is not linear in its parameters: its Hessian changes "
                "from step to step; choose the learning rate yourself"
            )
        if not self.unique:
            raise ValueError(
                f"the Hessian is singular: the data determine {self.rank} of {len(self.names)} "
                "parameters, so no rate is best; give more data or a number"
            )
        # λ = 2σ², of R and not of RᵀR: forming the product would square the condition number.
        smallest = 2 * torch.linalg.matrix_norm(self.root, ord=-2).item() ** 2
        both = smallest + self._steepest()
        if both < 4 * torch.finfo(torch.float64).tiny:
            raise ValueError(
                "the Hessian is beyond float64: x is too small for its powers; scale x"
            )
        return 2 / both

    def epoch_ends(self, lr: float, start: Tensor, epochs: int, **options: Any) -> Tensor:
        """The weights (epochs + 1, P) at `start` (P,) and at each epoch's end, by SGD at rest.

        Only if ŷ is linear in the parameters, and each epoch takes the same batches: an epoch is
        then one affine map, made of its steps', and all epochs are powers of it (see
        `theory.affine`).
        """
        state = start_state(start.double()[:, None], self._maps[:1], lr, **options)
        epoch = compose(step_maps(self._maps, lr, **options))
        return powers(epoch, torch.arange(epochs + 1), state)[:, : len(start), 0]


def automatic_rate(model: Model, batches: Batches) -> float:
    """Return the best learning rate of the full batch or, of smaller ones, a safe one.

    At a safe rate no step enlarges any error (see `Landscape.safe_learning_rate`).
    """
    if batches.shuffle and len(batches) > 1:
        # Any samples may meet in a batch; none of their means is steeper than the steepest.
        batches = Batches(batches.x, batches.y, batch_size=1)
    return Landscape(model, batches).safe_learning_rate()
