"""The same descent as machine code: by hand, with the bits of `train`.

It takes small batches of a model that is linear in its parameters, on a CPU. The loop is in
`torchgd.machine_code`; numba (`pip install torchgd[fast]`) compiles it in a few seconds, once.
"""

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.optim.optimizer import Optimizer

from torchgd.data import Batches
from torchgd.entries import at_zero, names_of, parameters_of, set_weights, split, weights_of
from torchgd.gradients import few, jacobian, require_linear, same_dtype
from torchgd.machine_code import MOST, WAYS, Array, add_up, machine_code
from torchgd.models import Model
from torchgd.optim import ManualSGD
from torchgd.training import count_steps
from torchgd.trajectory import Stopped, Trajectory, record_interval, recorded_steps

BLOCK = 1_000_000  # samples at a time; between blocks the caller may save or stop
CHUNK = 2**16  # samples at a time, so that their ∂ŷ/∂w stay in the cache


@functools.cache
def lanes(dtype: torch.dtype) -> int:
    """Return the length of torch's vectors in a sum on this machine; 0 if none gives its bits.

    A wrong length gives the right bits in one sum in five, so practically never in all 16.
    """
    lots = torch.randn(8, MOST, dtype=dtype, generator=torch.Generator().manual_seed(0))
    some = [lot[:size] for lot in lots for size in (MOST, MOST - 1)]
    for length in (4, 8, 2, 16):
        sums = np.empty((WAYS, length), lots.numpy().dtype)
        if all(add_up(terms.numpy(), len(terms), sums) == terms.sum().item() for terms in some):
            return length
    return 0


@functools.cache
def fuses(dtype: torch.dtype) -> bool:
    """Whether torch rounds w − α·g once on this machine: (1 + 2ε) − (1 + ε)² is −ε², or else 0."""
    e = torch.finfo(dtype).eps
    w, g = torch.tensor([1 + 2 * e, 1 + e], dtype=dtype)
    return bool(w.sub(g, alpha=1 + e) != 0)


def numba_is_there() -> bool:
    """Whether the compiled loop's compiler is installed."""
    return importlib.util.find_spec("numba") is not None


def why_not_compiled(batches: Batches) -> str:
    """Return why the compiled loop cannot take these batches; "" if it can."""
    if batches.x.device.type != "cpu":
        return f"the data are on {batches.x.device}: the compiled loop runs on a CPU"
    if not fuses(batches.y.dtype):
        return "torch rounds w − α·g twice on this machine: the compiled loop rounds it once"
    if batches.batch_size > MOST or (batches.batch_size > 1 and not lanes(batches.y.dtype)):
        most = MOST if lanes(batches.y.dtype) else 1
        return f"batch size {batches.batch_size}: the compiled loop takes at most {most}"
    return ""


def require_compiled(model: Model, batches: Batches) -> None:
    """Raise unless the compiled loop can take the steps of this model on these batches.

    Raises:
        ModuleNotFoundError: numba is not installed.
        ValueError: a batch above 256 samples, not on a CPU, or not linear in the parameters; or
            torch does not round as machine code does.
    """
    if reason := why_not_compiled(batches):
        raise ValueError(reason)
    for name, parameter in parameters_of(model).items():
        same_dtype(name, parameter, batches.y)
    require_linear(model, few(batches.x), "the compiled loop needs one ∂ŷ/∂w for all weights")
    machine_code()


def features(model: Model, x: Tensor) -> tuple[Array, Array]:
    """Return φ = ∂ŷ/∂w of each x, (N, P), and ŷ₀, (N,), or (0,) where it is 0."""
    zero, w = at_zero(model), weights_of(model)
    phi, offsets = np.empty((len(x), len(w)), w.numpy().dtype), []
    for k in range(0, len(x), CHUNK):
        some = x[k : k + CHUNK]
        offset = zero(some)
        jacobian(model, some, offset, out=torch.from_numpy(phi[k : k + CHUNK]))
        offsets.append(offset.nan_to_num(0.0))  # 0·∞ of an x beyond the dtype is no ŷ₀
    offset = torch.cat(offsets) if any(map(Tensor.any, offsets)) else w[:0]
    return phi, offset.numpy()


@torch.no_grad()
def descend_compiled(
    model: Model,
    batches: Batches,
    optimizer: Optimizer,
    epochs: int,
    every: int,
    *,
    start: int = 0,
    block: int | None = None,
    table: Array | None = None,
) -> Iterator[tuple[int, Tensor, Array]]:
    """Yield, `block` steps at a time, the step reached, the recorded steps and their rows.

    Model and optimizer are then as `descend` leaves them before that step, to the bit for `Linear`
    of one column and `Quadratic`. The recorded steps are those of `recorded_steps`, their rows are
    a part of a `Trajectory`'s table; they are written into `table`, if it is given, one below the
    other. The descent ends at a recorded loss that is not finite. It begins at the step `start`.

    Raises:
        ModuleNotFoundError, ValueError: as `require_compiled`.
    """
    parameters, length = list(model.parameters()), len(batches)
    total = count_steps(epochs, length, every)
    require_compiled(model, batches)
    data = *features(model, batches.x), batches.y.contiguous().numpy()
    (group,) = optimizer.param_groups
    number = batches.y.numpy().dtype.type
    options = {name: number(group[name]) for name in ("lr", "momentum", "weight_decay")}
    options |= {"undamped": number(1 - group["dampening"])}
    options |= {name: group[name] for name in ("nesterov", "maximize")}
    w = weights_of(model).numpy()
    velocities = [optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters]
    fresh = any(velocity is None for velocity in velocities)
    v = np.zeros_like(w) if fresh else parameters_to_vector(velocities).numpy()  # type: ignore[arg-type]
    size = batches.batch_size
    sums = None if size == 1 else np.empty((WAYS, lanes(batches.y.dtype)), w.dtype)
    code = functools.partial(
        machine_code(), *data, batch_size=size, sums=sums, total=total, every=every,
        w=w, v=v, **options,
    )  # fmt: skip
    step = start
    while step < total:
        end = min(step + (block or max(1, BLOCK // size)), total)
        recorded, count, diverged = recorded_steps(step, end, every, total), 0, False
        rows = np.empty((len(recorded), 1 + 2 * len(w)), w.dtype) if table is None else table
        for first, last, order in same_order(batches, step, end):
            count += code(order=order, first=first, end=last, table=rows[count:], fresh=fresh)
            fresh, diverged = False, count > 0 and not np.isfinite(rows[count - 1, 0])
            if diverged:
                w[:] = rows[count - 1, 1 : 1 + len(w)]
                break
        step = int(recorded[count - 1]) if diverged else end
        set_weights(model, torch.from_numpy(w))
        if group["momentum"]:
            for p, velocity in zip(parameters, split(model, torch.from_numpy(v)), strict=True):
                optimizer.state[p]["momentum_buffer"] = velocity.clone()
        yield step, recorded[:count], rows[:count]
        if diverged:
            return
        table = None if table is None else table[count:]


def same_order(batches: Batches, first: int, end: int) -> Iterator[tuple[int, int, Array]]:
    """Yield stretches of the steps `first` … `end` − 1, with the order of the samples in each."""
    length, order = len(batches), np.arange(len(batches.x))
    if not batches.shuffle:
        yield first, end, order
        return
    for epoch in range(first // length, -(-end // length)):
        batches.set_epoch(epoch)
        order = batches.order().numpy()
        yield max(first, epoch * length), min(end, (epoch + 1) * length), order


@torch.no_grad()
def compiled_trajectory(
    model: Model,
    batches: Batches,
    lr: float,
    epochs: int = 50,
    *,
    record_every: int | None = None,
    **options: Any,
) -> Trajectory:
    """Return the path of `train` with the gradient and SGD by hand, from batches of at most 256.

    It has the same bits for `Linear` of one column and `Quadratic`, with all of SGD's options, in
    float32 and float64, for data contiguous or not, on one machine: its bits are those of `train`
    there, with any number of threads, which never share so small a batch. Another model that is
    linear in its parameters may sum the terms of ŷ in another order, and for parameters that are no
    scalars BLAS has its own: then a step on B samples rounds w by at most
    (P + B + 3)ε(|w| + 2α|φ|(Σ|φw| + |y|)), a mean over the batch, and k steps by at most k times as
    much if no step enlarges an error. It records what `train` records, and ends where `train` does.

    Example:
        >>> from torchgd import Linear, compare, train
        >>> x = torch.tensor([1.0, 2.0, 3.0])
        >>> a, b, batches = Linear(), Linear(), Batches(x, 2 * x)
        >>> path = compiled_trajectory(a, batches, lr=0.01)
        >>> compare(path, train(b, batches, ManualSGD(b.parameters(), lr=0.01))).identical
        True

    Args:
        model: linear in its parameters, on the CPU; its weights then stand at the last row.
        batches: in order or shuffled.
        lr: the learning rate α.
        epochs: how often the data are gone through.
        record_every: as in `train`.
        options: momentum, dampening, weight_decay, nesterov and maximize, as in `ManualSGD`.

    Raises:
        ModuleNotFoundError: numba is not installed.
        ValueError: as `descend_compiled` and `ManualSGD`.
    """
    optimizer = ManualSGD(model.parameters(), lr, **options)
    steps = count_steps(epochs, len(batches), record_every)
    every = record_every or record_interval(steps)
    step = np.append(recorded_steps(0, steps, every, steps), steps)
    names = names_of(model)
    table = np.zeros((len(step), 1 + 2 * len(names)), batches.y.numpy().dtype)
    end = 0
    for piece in descend_compiled(model, batches, optimizer, epochs, every, table=table):
        reached, end = piece[0], end + len(piece[1])
    if reached == steps:
        table[end, 1 : 1 + len(names)] = weights_of(model).numpy()
        end += 1
    finite = np.isfinite(table[end - 1, : 1 + len(names)]).all()
    row, epoch, rows = (torch.from_numpy(c[:end]) for c in (step, step // len(batches), table))
    stopped = Stopped.FINISHED if finite else Stopped.DIVERGED
    return Trajectory(names, row, epoch, rows, stopped)
