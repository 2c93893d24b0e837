"""The whole path of a descent at once: each step is an affine map, and maps compose.

Where ŷ is linear in the parameters (see `theory.linear`) a step on a batch of B samples is

    w ← w − α(2/B) Φᵀ(Φw + ŷ₀ − y) = A·w + c        A = I − αH        c = α(2/B) Φᵀ(y − ŷ₀)

A chain of steps looks sequential. But two maps make one, A₁A₀ and A₁c₀ + c₁, and making one of two
is associative, so that any part of the chain becomes a single map before it is known where that
part starts.

A map is kept as the matrix [A c] (S, S + 1), and a state as (S, 1): as a map without A, whose c is
the state. So the function that composes two maps also applies a map to a state.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from torchgd.data import Batches
from torchgd.entries import names_of, weights_of
from torchgd.models import Model
from torchgd.optim import ManualSGD
from torchgd.theory.linear import batch_rows, gradient_maps
from torchgd.training import BatchesLike, count_steps
from torchgd.trajectory import Trajectory, record_interval, recorded_steps

# Recorded rows at a time, so that the states beside them take little memory.
ROWS = 2**16


# One step of SGD (see torchgd.optim) with u = αv in the place of the velocity v and the gradient
# g = Hw − h, where h = (2/B)Φᵀ(y − ŷ₀):
#
#   u ← μ·u + (1 − τ)·α(g + λw)
#   w ← w − u                           w ← w − (α(g + λw) + μ·u)  with Nesterov's rule
#
# Each of w, u and g is kept as the matrix that makes it from (w, u, 1). So the rule's lines, in
# matrices, compute the matrix of the step. Without momentum there is no u: w ← w − α(g + λw).
def step_maps(
    gradients: Tensor,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> Tensor:
    """The map of a step on w, with momentum on (w, u), for each of n gradients Hw − h.

    From [H −h] (n, P, P + 1) it is [A c] (n, S, S + 1), where S is P or 2P. A, by which the
    difference of two descents shrinks, depends on H alone. Rates (G, 1, 1) and gradients
    (n, 1, P, P + 1) give the maps (n, G, S, S + 1).
    """
    parameters = gradients.shape[-2]
    like: dict[str, Any] = {"dtype": gradients.dtype, "device": gradients.device}
    w, sign = torch.eye(parameters, parameters + 1, **like), -1.0 if maximize else 1.0
    G = lr * (sign * gradients + weight_decay * w)
    if momentum == 0:
        return w - G
    G = torch.cat([G[..., :-1], torch.zeros_like(G[..., :-1]), G[..., -1:]], dim=-1)
    w, u = torch.eye(2 * parameters, 2 * parameters + 1, **like).split(parameters)
    u = momentum * u + (1 - dampening) * G
    w = w - (G + momentum * u if nesterov else u)
    return torch.cat([w, u], dim=-2)


def after(second: Tensor, first: Tensor) -> Tensor:
    """The map that applies `first`, then `second`; if `first` is a state, the state after it."""
    both = second[..., :-1] @ first
    both[..., -1] += second[..., -1]
    return both


def compose(maps: Tensor) -> Tensor:
    """The one map (S, S + 1) of n maps (n, S, S + 1) that follow each other, by pairs."""
    while len(maps) > 1:
        pairs = len(maps) // 2 * 2
        maps = torch.cat([after(maps[1:pairs:2], maps[0:pairs:2]), maps[pairs:]])
    return maps[0]


def prefixes(maps: Tensor, start: Tensor) -> Tensor:
    """The states, or maps, before each of n maps and after the last, (n + 1, …), from `start`.

    We compose the maps in pairs, and take the prefixes of these: they are the states at even
    places. One more map makes those at odd places of them.
    """
    count = len(maps)
    if count == 0:
        return start[None]
    even = prefixes(after(maps[1::2], maps[: count // 2 * 2 : 2]), start)
    states = even.new_empty(count + 1, *start.shape)
    states[0::2] = even
    states[1::2] = after(maps[0::2], even[: (count + 1) // 2])
    return states


def powers(one: Tensor, exponents: Tensor, start: Tensor) -> Tensor:
    """The states (n, S, 1) after each number of times (n,) that the map `one` is applied.

    By squaring: the map is composed with itself once for each binary digit.
    """
    states = start.expand(len(exponents), -1, -1)
    digits, exponents = int(exponents.max()).bit_length(), exponents.to(start.device)
    for digit in range(digits):
        odd = ((exponents >> digit) & 1 == 1)[:, None, None]
        states, one = torch.where(odd, after(one, states), states), after(one, one)
    return states


def table_rows(rows: Tensor, w: Tensor) -> Tensor:
    """Loss, weights and gradients (n, 1 + 2P) of n batches, each at its w (n, P, 1)."""
    r = after(rows, w)
    loss, g = r.square().sum(dim=1), 2 * rows[..., :-1].mT @ r
    return torch.cat([loss, w[..., 0], g[..., 0]], dim=1)


def start_state(w: Tensor, gradient: Tensor, lr: float, **options: Any) -> Tensor:
    """Return the state (S, 1) at w (P, 1), before a first step with `gradient` (1, P, P + 1).

    That step sets v ← g, without dampening, as v ← μ·v + (1 − τ)·g does from v = (τ/μ)·g.
    """
    momentum, dampening = options.get("momentum", 0.0), options.get("dampening", 0.0)
    if not momentum:
        return w
    (undamped,) = step_maps(gradient, lr, **{**options, "dampening": 0.0})
    u = after(undamped, torch.cat([w, torch.zeros_like(w)]))[len(w) :]
    return torch.cat([w, dampening / momentum * u])


def walk(
    blocks: Iterable[tuple[Tensor, Tensor]], state: Tensor, recorded: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows and the states, or maps, of the recorded steps in each block.

    A block is n steps' rows (n, K, P + 1) and maps (n, S, S + 1); `recorded` holds the steps'
    numbers, ascending.
    """
    done = 0
    for rows, maps in blocks:
        states = prefixes(maps, state)
        a, b = torch.searchsorted(recorded, torch.tensor([done, done + len(rows)])).tolist()
        here = recorded[a:b] - done
        yield rows[here], states[here]
        state, done = states[-1], done + len(rows)


# The state before step e·n + p is M_p(Mᵉ(start)): M_p is the map of an epoch's first p of n steps,
# M = M_n the whole epoch's. The state at the end is M_n(Mᵉ(start)) of the last epoch.
def walk_again(
    blocks: Iterable[tuple[Tensor, Tensor]], start: Tensor, recorded: Tensor, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what `walk` does, if all epochs take the same blocks, of `length` steps."""
    epochs = (recorded // length).clamp(max=recorded[-1] // length - 1)
    steps, places = (recorded - epochs * length).unique(return_inverse=True)
    unit = torch.eye(len(start), len(start) + 1, dtype=start.dtype, device=start.device)
    rows, maps = (torch.cat(parts) for parts in zip(*walk(blocks, unit, steps), strict=True))
    for epoch, place in zip(epochs.split(ROWS), places.split(ROWS), strict=True):
        epoch, which = epoch.unique_consecutive(return_inverse=True)
        yield rows[place], after(maps[place], powers(maps[-1], epoch, start)[which])


@torch.no_grad()
def affine_trajectory(
    model: Model,
    batches: BatchesLike,
    lr: float,
    epochs: int = 50,
    *,
    record_every: int | None = None,
    **options: Any,
) -> Trajectory:
    """Return the path of `train` with SGD of these options, all steps in parallel.

    Each step is an affine map of the weights (and, with momentum, the velocities), so the path is
    a prefix scan of maps, and where each epoch takes the same batches all epochs are powers of one
    map. The full batch costs one pass over the data, whatever the number of steps. Recorded is
    what `train` records; the model's weights then stand at the last row. All is computed in
    float64 and rounded once to the model's dtype.

    It has not the bits of the sequential path, because it rounds at other places. Let u be half of
    the dtype's ε, and R the largest |w| + 2α|φ||y|. In the sequential path each step rounds w by at
    most (2P + 7)uR: a dot product of P terms, less y, times φ, and the update. In the scan, making
    a step's A and c rounds by (2P² + 7P + 4)uR, and each step is once composed or applied, by a
    product of P + 1 terms, which rounds by (P² + 2(P + 1)√P)uR. If no step enlarges an error
    (α ≤ 2/λ of its batch), these add up over k steps:

        |w_k − w_k sequential| ≤ 8(P + 1)² · k · ε · R

    without momentum. If steps shrink errors by ρ, 1/(1 − ρ) takes the place of k. A path that
    leaves float64 ends as in `train`; a product of maps may leave it somewhat earlier than w does.

    Example: the lesson's three points, a million epochs, of which the two ends are recorded.

        >>> from torchgd import Batches, Linear
        >>> x, model = torch.tensor([1.0, 2.0, 3.0]), Linear()
        >>> path = affine_trajectory(model, Batches(x, 2 * x), 0.01, 10**6, record_every=3 * 10**6)
        >>> path.step, path.weights["w"]
        (tensor([      0, 2999999, 3000000]), tensor([1., 2., 2.]))

    Args:
        model: linear in its parameters.
        batches: see `Batches`; of a list or DataLoader, only the last may be a smaller one.
        lr: the learning rate α.
        epochs: how often the batches are gone through.
        record_every: as in `train`; the number of steps records the two ends alone.
        options: momentum, dampening, weight_decay, nesterov and maximize, as in `ManualSGD`.

    Raises:
        ValueError: as `train` and `ManualSGD`; batches of unlike sizes; a model that is not linear
            in its parameters.
    """
    ManualSGD(model.parameters(), lr, **options)  # refuses what no descent can have
    length, names = len(batches), names_of(model)
    steps = count_steps(epochs, length, record_every=record_every)
    row = recorded_steps(0, steps, record_every or record_interval(steps), steps)
    row = torch.cat([row, torch.tensor([steps])])
    w = weights_of(model)[:, None]
    again = epochs > 1 and alike(batches)
    blocks = batch_rows(model, batches, 1 if again else epochs)
    first = next(blocks)
    start = start_state(w.double(), gradient_maps(first[:1]), lr, **options)
    pairs = ((b, step_maps(gradient_maps(b), lr, **options)) for b in chain([first], blocks))
    path = walk_again(pairs, start, row, length) if again else walk(pairs, start, row)
    tables = [table_rows(rows, states[:, : len(w)]).to("cpu", w.dtype) for rows, states in path]
    trajectory = Trajectory(names, row, row // length, torch.cat(tables)).up_to_divergence()
    for name, p in model.named_parameters():
        p.copy_(trajectory.weights[name][-1])
    return trajectory


def alike(batches: BatchesLike) -> bool:
    """Whether each epoch takes the same batches in the same order."""
    if isinstance(batches, Batches):
        return not batches.shuffle or len(batches) == 1
    return isinstance(batches, Sequence)
