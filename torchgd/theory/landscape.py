"""The loss as a landscape over the weights: its lowest point, its shape there, its height anywhere.

Where ŷ is linear in the parameters the landscape is a paraboloid, with Φ as in `theory.affine`:

    loss(w) = loss(w*) + (1/N) ‖Φ(w − w*)‖²

Its second term, the excess, is what a descent still has to go. So written it keeps its digits
near the minimiser w*, where the difference of two losses has none left.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence

from torchgd.loss import mean_squared_error
from torchgd.models import Model, scalars
from torchgd.theory.affine import (
    contraction,
    is_linear_in_parameters,
    jacobians,
    largest_stable_learning_rate,
    minimiser,
)
from torchgd.training import BatchesLike


class Landscape:
    """The mean squared error over all data as a function of P weights, in float64 on the CPU.

    `minimiser` (P,) is where it is least, `minimum` its value there. Of a model that is not
    linear in its parameters that is a local minimum, found by torch's L-BFGS from the lowest of
    the points `near` (G, P).

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
            self.minimiser = minimiser(self.model, self.batches)
            self.phis = jacobians(self.model, self.batches)
            self.root = torch.linalg.qr(torch.cat(self.phis)).R  # ‖Φd‖ = ‖Rd‖, whatever N
        else:
            self.minimiser = self._search(near)
        self.minimum = self.loss(self.minimiser[None]).item()

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
        prediction: Tensor = functional_call(self.model, weights, (x,))
        return prediction

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
        if not self.linear:
            losses = (partial(self._loss, x=x, y=y) for x, y in self.batches)
            # Strict: zeros are no second derivative of a backward pass that has none.
            return torch.stack([hessian(loss, self.minimiser, strict=True) for loss in losses])
        phi = pad_sequence(self.phis, batch_first=True)  # a row of zeros adds nothing to ΦᵀΦ
        return self._normalisation[:, None, None] * phi.mT @ phi

    @property
    def _normalisation(self) -> Tensor:
        return 2 / torch.tensor([len(y) for _, y in self.batches], dtype=torch.float64)

    @property
    def hessian(self) -> Tensor:
        """∂²loss/∂w² over all data at w*, (P, P): the batches' mean, weighed by their sizes."""
        share = 2 / self._normalisation / len(self.y)
        return (share[:, None, None] * self.hessians).sum(dim=0)

    def contraction(self, lr: float, **options: Any) -> float:
        """ρ of an epoch of SGD with these options, near w*; see `theory.affine.contraction`."""
        sign, rest = _signed(options)
        return contraction(sign * self.hessians, lr, **rest)

    def largest_stable_learning_rate(self, **options: Any) -> float:
        """See `theory.affine.largest_stable_learning_rate`; for maximize there is none, 0."""
        sign, rest = _signed(options)
        return largest_stable_learning_rate(self.hessians, **rest) if sign > 0 else 0.0


def _signed(options: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return −1 for maximize and 1 else, and the other options."""
    rest = dict(options)
    return (-1 if rest.pop("maximize", False) else 1), rest
