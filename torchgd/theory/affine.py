"""What follows from a descent step being an affine map: how fast it may go, how far, and where to.

Where ŷ is linear in the parameters, ŷ = φ·w + ŷ₀, its partial derivatives φ = ∂ŷ/∂w depend on x
alone, and with the rows φₙ stacked into Φ (N, P) a batch of N samples gives

    ∂loss/∂w = (2/N) Φᵀ(Φw + ŷ₀ − y)        H = ∂²loss/∂w² = (2/N) ΦᵀΦ

so that one step of descent is the affine map w ← (I − αH)·w + α(2/N)Φᵀ(y − ŷ₀). The difference of
two descents shrinks by its linear part, on which neither w nor y bears.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from torchgd.data import Batches
from torchgd.gradients import same_dtype
from torchgd.models import Model, scalars
from torchgd.optim import ManualSGD
from torchgd.theory.scan import Step, apply, powers, scan, unit_columns
from torchgd.training import BatchesLike, count_steps
from torchgd.trajectory import Trajectory, record_interval

# Samples at a time, where memory and the time to start a block balance; and recorded rows.
BLOCK = {"cpu": 2**18, "cuda": 2**24}
ROWS = 2**18

Components = Sequence[Tensor]
Rows = Sequence[tuple[Components, Tensor]]


def is_linear_in_parameters(model: Model, x: Tensor) -> bool:
    """Return whether ∂ŷ/∂w at x stays the same, to the bit, when the weights are changed."""
    other = deepcopy(model)
    with torch.no_grad():
        before = model.partials(x)
        for w in other.parameters():
            w.mul_(1.1).add_(0.37)
        after = other.partials(x)
    return all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def require_linear(model: Model, x: Tensor) -> None:
    """Raise ValueError unless the model is linear in its parameters."""
    if not is_linear_in_parameters(model, x):
        raise ValueError(
            f"{type(model).__name__} is not linear in its parameters: its steps are no affine "
            "maps; take the update manual or autograd"
        )


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


# One step of SGD on the state (w, v), whose components are affine in those before. A batch is
# given as rows (φ, y) that are scaled by 1/√B, so that its loss is Σ r² with r = φ·w − y, and
#
#   g = 2 Σ φ·r + λ·w
#   w ← w − α·g                              without momentum; with it
#   v ← μ·v + (1 − τ)·g,  w ← w − α·v        or with Nesterov's rule w ← w − α(g + μ·v)
def descent_step(
    parameters: int,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> Step:
    """Return a step of SGD for `theory.scan`; its inputs are the rows' φ₁ … φ_P, y in turn."""
    sign = -1.0 if maximize else 1.0

    def add_gradient(to: Components, w: Components, rows: Rows, factor: float) -> Components:
        if weight_decay:
            to = [torch.add(a, b, alpha=factor * weight_decay) for a, b in zip(to, w, strict=True)]
        for phi, r in rows:
            factors = zip(to, phi, strict=True)
            to = [torch.addcmul(a, f, r, value=2 * sign * factor) for a, f in factors]
        return to

    def step(inputs: Components, state: Components, constant: Tensor) -> Components:
        w, v = state[:parameters], state[parameters:]
        rows = residuals(inputs, w, constant)
        if not momentum:
            return add_gradient(w, w, rows, -lr)
        g = add_gradient([torch.zeros_like(a) for a in w], w, rows, 1.0)
        v = [momentum * a + (1 - dampening) * b for a, b in zip(v, g, strict=True)]
        ahead = [b + momentum * a for a, b in zip(v, g, strict=True)] if nesterov else v
        return [*(torch.sub(a, b, alpha=lr) for a, b in zip(w, ahead, strict=True)), *v]

    return step


def residuals(inputs: Components, w: Components, constant: Tensor | float = 1.0) -> Rows:
    """Return each row's φ (P components) and its r = φ·w − y."""
    rows = []
    for k in range(0, len(inputs), len(w) + 1):
        *phi, y = inputs[k : k + len(w) + 1]
        r = y * -constant
        for f, a in zip(phi, w, strict=True):
            r = torch.addcmul(r, f, a)
        rows.append((phi, r))
    return rows


class RowSource:
    """An epoch's batches as rows for `descent_step`, in float64, on the model's device.

    A batch of B ≤ P + 1 samples is its rows (φ, y), where y stands for y − ŷ₀. Of a larger one
    the P + 1 rows of R will do, where [Φ y] = QR: |Φw − y| = |R(w, −1)| for any w, so that loss,
    gradient and Hessian are the same.

    Raises:
        ValueError: model and data differ in dtype, the batches in size, or the model is not
            linear in its parameters.
    """

    def __init__(self, model: Model, batches: BatchesLike) -> None:
        self.batches, self.parameters = batches, scalars(model)
        w = next(iter(self.parameters.values()))
        self.block = BLOCK.get(w.device.type, BLOCK["cuda"])
        self.at_zero = deepcopy(model).double()
        vector_to_parameters(w.new_zeros(len(self.parameters)), self.at_zero.parameters())

    @property
    def alike(self) -> bool:
        """Whether each epoch takes the same batches in the same order."""
        if isinstance(self.batches, Batches):
            return not self.batches.shuffle or len(self.batches) == 1
        return isinstance(self.batches, Sequence)

    def __call__(self, epoch: int) -> Iterator[Tensor]:
        """Yield the epoch's steps in blocks: the rows of n batches, (K, n)."""
        x, y, size = self._samples(epoch)
        self._check(x[:: 1 + len(x) // 4096], y)  # enough samples to tell
        whole, block = len(x) // size * size, max(1, self.block // size) * size
        for xs, ys in zip(x[:whole].split(block), y[:whole].split(block), strict=True):
            yield self._rows(xs.view(-1, size), ys.view(-1, size), size)
        if whole < len(x):
            yield self._rows(x[None, whole:], y[None, whole:], size)

    def _samples(self, epoch: int) -> tuple[Tensor, Tensor, int]:
        if isinstance(self.batches, Batches):
            self.batches.set_epoch(epoch)
            return *self.batches.in_order(), self.batches.batch_size
        xs, ys = zip(*self.batches, strict=True)
        size, *others = map(len, xs)
        if any(other != size for other in others[:-1]) or len(xs[-1]) > size:
            raise ValueError(
                f"batches of {min(map(len, xs))} to {max(map(len, xs))} samples: give all the "
                "same number, and the last one at most that"
            )
        return torch.cat(xs), torch.cat(ys), size

    def _check(self, x: Tensor, y: Tensor) -> None:
        for name, w in self.parameters.items():
            same_dtype(name, w, y)
        require_linear(self.at_zero, x.double())

    def _rows(self, x: Tensor, y: Tensor, size: int) -> Tensor:
        """The rows (K, n) of x and y (n, B); zeros fill up what B lacks to `size`."""
        width = 1 + len(self.parameters)
        rows: Tensor | None = None
        for xs, ys in zip(x.split(self.block, 1), y.split(self.block, 1), strict=True):
            partials, offset = self.at_zero.partials(xs.double()), self.at_zero(xs.double())
            columns = [*(partials[name] for name in self.parameters), ys - offset]
            more = torch.stack(columns)  # (P + 1, n, b)
            rows = more if rows is None else torch.cat([rows, more], dim=2)
            if rows.shape[2] > width:
                rows = torch.linalg.qr(rows.permute(1, 2, 0), mode="r").R.permute(2, 0, 1)
        assert rows is not None
        if x.shape[1] > 1:
            rows = rows / math.sqrt(x.shape[1])
        rows = torch.nn.functional.pad(rows, (0, min(size, width) - rows.shape[2]))
        return rows.permute(2, 0, 1).flatten(0, 1)


@torch.no_grad()
def affine_trajectory(
    model: Model,
    batches: BatchesLike,
    lr: float,
    epochs: int = 50,
    *,
    record_every: int | None = None,
    compiled: bool = False,
    **options: Any,
) -> Trajectory:
    """Return the path of `train` with SGD of these options, all steps in parallel.

    Each step is an affine map of the weights (and, with momentum, the velocities), so the path is a
    prefix scan of maps (`theory.scan`), and where each epoch takes the same batches all epochs
    are powers of one map. The full batch costs one pass over the data, whatever the number of
    steps. Recorded is what `train` records; the model's weights then stand at the last row.
    All is computed in float64 and rounded once to the model's dtype. `compiled`: by torch.compile.

    Not bit for bit the sequential path: maps composed beforehand round at other places than steps
    taken one by one. Of the sequential path each step rounds w by at most (2P + 7)uR, where u is
    half of the dtype's ε and R the largest |w| + 2α|φ||y| met: a dot product of P terms, less y,
    times φ, and the update. As long as no step enlarges an error (α ≤ 2/λ of its batch), k steps
    add up to k(2P + 7)uR. The scan rounds each step at most twice, once in a composite and once in
    the replay, and starts lanes by products of S × (S + 1) maps, fewer than steps, so that

        |w_k − w_k sequential| ≤ 8(P + 1)² · k · ε · R

    without momentum. Where steps shrink errors by ρ, 1/(1 − ρ) takes the place of k. A path that
    leaves float64 ends as in `train`; a product of maps may leave it somewhat earlier than w does.

    Args:
        model: linear in its parameters.
        batches: see `Batches`; of a list or DataLoader, only the last may be a smaller one.
        lr: the learning rate α.
        epochs: how often the batches are gone through.
        record_every: as in `train`; the number of steps records the two ends alone.
        compiled: fuse the work within lanes.
        options: momentum, dampening, weight_decay, nesterov and maximize, as in `ManualSGD`.

    Raises:
        ValueError: as `train` and `ManualSGD`; batches of unlike sizes; a model that is not linear
            in its parameters.
    """
    ManualSGD(model.parameters(), lr, **options)  # refuses what no descent can have
    steps = count_steps(epochs, len(batches), record_every=record_every)
    row = torch.arange(0, steps, record_every or record_interval(steps))
    row = torch.cat([row, torch.arange(max(int(row[-1]) + 1, steps - 1), steps + 1)])
    recorded = row[:-1]
    source, length = RowSource(model, batches), len(batches)
    dtype = next(model.parameters()).dtype
    weights = torch.stack(list(model.parameters())).double()
    table = weights.new_zeros(1 + 2 * len(weights), len(row))
    step = descent_step(len(weights), lr, **options)
    again = source.alike and epochs > 1
    blocks = source(0) if again else chain.from_iterable(map(source, range(epochs)))
    first = next(blocks)
    start = start_state(weights, first[:, :1], lr, **options)[:, None]
    blocks = chain([first], blocks)
    if again:
        end = follow_epochs(step, blocks, start, epochs, length, recorded, table, compiled)
    else:
        one = weights.new_ones(1, 1)
        for here, rows, states, end in walk(step, blocks, start, one, recorded, compiled):  # noqa: B007
            fill(table[:, here], rows, states[: len(weights), 0])
    table[1 : 1 + len(weights), -1] = end[: len(weights), 0]
    names, path = tuple(source.parameters), table.to(dtype).cpu().T
    trajectory = Trajectory(names, row, row // length, path).up_to_divergence()
    for name, w in source.parameters.items():
        w.copy_(trajectory.weights[name][-1])
    return trajectory


def start_state(w: Tensor, rows: Tensor, lr: float, **options: Any) -> Tensor:
    """Return the state (S,) before the first step, which has `rows` (K, 1).

    That step sets v ← g, undamped, which is v ← μ·v + (1 − τ)·g from v = (τ/μ)·g.
    """
    momentum, dampening = options.get("momentum", 0.0), options.get("dampening", 0.0)
    if not momentum:
        return w
    undamped = descent_step(len(w), lr, **{**options, "dampening": 0.0})
    state = torch.cat([w, torch.zeros_like(w)])[:, None, None]
    g = torch.stack(list(undamped(rows.unbind(), state.unbind(), torch.ones_like(state[0]))))
    return torch.cat([w, dampening / momentum * g[len(w) :, 0, 0]])


# The state before step e·n + p is M_p(Mᵉ(start)): M_p is the map of an epoch's first p of n steps,
# M the whole epoch's.
def follow_epochs(
    step: Step,
    blocks: Iterable[Tensor],
    start: Tensor,
    epochs: int,
    length: int,
    recorded: Tensor,
    table: Tensor,
    compiled: bool,
) -> Tensor:
    """Fill `table` at the recorded steps of epochs that are alike; return the state at the end."""
    units, constant = unit_columns(start, len(start))
    places = torch.zeros(length, dtype=torch.bool).index_fill(0, recorded % length, True)
    places = places.nonzero()[:, 0]
    walked = list(walk(step, blocks, units, constant, places, compiled))
    rows = torch.cat([block[1] for block in walked], dim=-1)
    maps = torch.cat([block[2] for block in walked], dim=-1)
    epoch_map, one = walked[-1][3], start.new_ones(1, 1)
    count = (len(table) - 1) // 2
    for part in range(0, len(recorded), ROWS):
        some = recorded[part : part + ROWS]
        epoch, which = (some // length).unique(return_inverse=True)
        place = torch.searchsorted(places, some % length).to(start.device)
        before = powers(epoch_map, epoch.to(start.device), start, one)[..., which.to(start.device)]
        states = apply(maps[..., place], before, one)
        fill(table[:, part : part + len(some)], rows[:, place], states[:count, 0])
    return powers(epoch_map, torch.tensor([epochs], device=start.device), start, one)[..., 0]


def walk(
    step: Step,
    blocks: Iterable[Tensor],
    state: Tensor,
    constant: Tensor,
    recorded: Tensor,
    compiled: bool,
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield for each block which recorded steps lie in it, their rows and states, and the end."""
    done = 0
    for rows in blocks:
        count = rows.shape[1]
        a, b = torch.searchsorted(recorded, torch.tensor([done, done + count])).tolist()
        states, state = scan(step, rows, state, constant, a < b, compiled)
        if b - a < count:
            places = (recorded[a:b] - done).to(rows.device)
            rows, states = rows[:, places], states[..., places]
        yield slice(a, b), rows, states, state
        done += count


def fill(table: Tensor, rows: Tensor, w: Tensor) -> None:
    """Put loss, weights and gradients into `table` (1 + 2P, n), from rows (K, n) and w (P, n)."""
    loss, weights, gradients = table.split([1, len(w), len(w)])
    weights.copy_(w)
    for phi, r in residuals(rows.unbind(), w.unbind()):
        loss[0].addcmul_(r, r)
        for gradient, f in zip(gradients, phi, strict=True):
            gradient.addcmul_(f, r, value=2)
