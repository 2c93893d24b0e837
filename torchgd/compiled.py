"""The same descent as machine code: one sample a step, by hand, with the bits of `train`.

A step of the loop in `torchgd.training` is some twenty calls of torch, of a few microseconds each;
as machine code it is some twenty operations. Of a model that is linear in its parameters the loop
needs but φ = ∂ŷ/∂w, which depends on x alone:

    ŷ = Σ φ·w (+ ŷ₀)        r = ŷ − y        loss = r²        g = 2r·φ        w ← w − α·g

numba compiles it (`pip install torchgd[fast]`), at its first use in a second or two.
"""

import functools
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import vector_to_parameters
from torch.optim.optimizer import Optimizer

from torchgd.data import Batches
from torchgd.gradients import partial_derivatives, require_linear, same_dtype
from torchgd.models import Model, scalars
from torchgd.optim import ManualSGD
from torchgd.training import count_steps
from torchgd.trajectory import Trajectory, record_interval, recorded_steps

BLOCK = 1_000_000  # steps at a time, between which a caller may save, or stop
CHUNK = 2**16  # samples at a time, whose ∂ŷ/∂w stay in the cache while they are computed

Array = NDArray[Any]


def fma(a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once: an instruction of the machine."""
    raise NotImplementedError("numba puts the instruction here")


# The loop of `descend` and the rule of `ManualSGD`, line by line: torch rounds an add_(g, alpha=α)
# once, and so does an fma; it takes the terms of ŷ from left to right. Its sum of one gradient adds
# it to 0, which makes 0 of −0. The fma that does both at once is what the next step waits for; it
# leaves a −0 where the product underflows, which w − α·g feels only at w = 0.
def steps(
    phi: Array, offset: Array, y: Array, order: Array, first: int, total: int, every: int,
    w: Array, v: Array, fresh: bool, lr: Any, momentum: Any, undamped: Any, weight_decay: Any,
    nesterov: bool, maximize: bool, table: Array,
) -> int:  # fmt: skip
    """Take a step for each sample in `order`, from step `first` on; record into `table`.

    There are no velocities v yet if it is `fresh`. Ends before a step whose recorded loss is not
    finite. Returns how many rows the table has then.
    """
    row, parameters, zero = 0, w.shape[0], lr - lr
    plain = not maximize and momentum == zero and weight_decay == zero
    due = first + -first % every  # counted on, for a division a step takes as long as the rest
    for k in range(order.shape[0]):
        n, step = order[k], first + k
        prediction = w[0] * phi[n, 0]
        for p in range(1, parameters):
            prediction = prediction + w[p] * phi[n, p]
        if offset.shape[0] > 0:
            prediction = prediction + offset[n]
        residual = prediction - y[n]
        if step == due or step == total - 1:
            loss = residual * residual
            table[row, 0] = loss
            for p in range(parameters):
                table[row, 1 + p] = w[p]
                table[row, 1 + parameters + p] = zero + (residual + residual) * phi[n, p]
            row += 1
            if loss - loss != zero:
                return row
        if step == due:
            due += every
        for p in range(parameters):
            g = fma(residual + residual, phi[n, p], zero)
            if not plain or w[p] == zero:
                g = zero + g
            if maximize:
                g = -g
            if weight_decay != zero:
                g = fma(weight_decay, w[p], g)
            if momentum != zero:
                v[p] = g if fresh and k == 0 else fma(undamped, g, v[p] * momentum)
                g = fma(momentum, v[p], g) if nesterov else v[p]
            w[p] = fma(-lr, g, w[p])
    return row


@functools.cache
def machine_code() -> Callable[..., int]:
    """Return `steps`, compiled, and kept on the disk where numba finds a place.

    Raises:
        ModuleNotFoundError: numba is not installed.
    """
    try:
        import numba
        from numba.extending import intrinsic, overload
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the compiled loop needs numba: pip install 'torchgd[fast]'"
        ) from None

    @intrinsic  # type: ignore[untyped-decorator]
    def instruction(context: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)

    @overload(fma)  # type: ignore[untyped-decorator]
    def compiled_fma(a, b, c):  # type: ignore[no-untyped-def]  # numba compares the two
        return lambda a, b, c: instruction(a, b, c)  # type: ignore[call-arg]

    try:
        code: Callable[..., int] = numba.njit(cache=True)(steps)
    except RuntimeError:  # no folder for it can be written
        code = numba.njit(steps)
    return code


def orders(batches: Batches, first: int, total: int, block: int) -> Iterator[Array]:
    """Yield the samples in the order of steps `first` … total − 1, at most `block` at a time."""
    count = len(batches.x)
    if not batches.shuffle:
        for k in range(first, total, block):
            order = np.arange(k, min(k + block, total))
            yield order if k + len(order) <= count else order % count
        return
    waiting: list[Array] = []
    for epoch in range(first // count, -(-total // count)):
        batches.set_epoch(epoch)
        order = batches.order().numpy()
        waiting.append(order[first % count :] if epoch == first // count else order)
        while sum(map(len, waiting)) >= block or (waiting and (epoch + 1) * count >= total):
            together = np.concatenate(waiting)
            yield together[:block]
            waiting = [together[block:]] if len(together) > block else []


def features(model: Model, x: Tensor) -> tuple[Array, Array]:
    """Return φ = ∂ŷ/∂w of each x, (N, P), and ŷ₀, (N,), or (0,) where it is 0."""
    at_zero = deepcopy(model)
    w = torch.cat([p.reshape(1) for p in at_zero.parameters()])
    vector_to_parameters(torch.zeros_like(w), at_zero.parameters())
    phi, offsets = np.empty((len(x), len(w)), w.numpy().dtype), []
    for k in range(0, len(x), CHUNK):
        some = x[k : k + CHUNK]
        columns = partial_derivatives(model, some, some).values()
        torch.stack([*columns], dim=1, out=torch.from_numpy(phi[k : k + CHUNK]))
        offsets.append(at_zero(some).nan_to_num(0.0))  # 0·∞ of an x beyond the dtype is no ŷ₀
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
    block: int = BLOCK,
    table: Array | None = None,
) -> Iterator[tuple[int, Tensor, Array]]:
    """Yield, `block` steps at a time, the step reached, and what was recorded on the way there.

    Model and optimizer are then as `descend` leaves them before that step, to the bit for `Linear`
    and `Quadratic`. Recorded are the numbers of steps (see `recorded_steps`) and their rows in a
    `Trajectory`'s table: in `table`, one below the other, where it is given. They end at a loss
    that is not finite, and with them the descent. It may go on at a step `start`.

    Raises:
        ModuleNotFoundError: numba is not installed.
        ValueError: not one sample a step, not on a CPU, or not linear in the parameters.
    """
    parameters, total = scalars(model), count_steps(epochs, len(batches), every)
    if batches.batch_size != 1 or batches.x.device.type != "cpu":
        raise ValueError(
            f"batch size {batches.batch_size} on {batches.x.device}: the compiled loop takes one "
            "sample a step, on a CPU"
        )
    for name, parameter in parameters.items():
        same_dtype(name, parameter, batches.y)
    some = batches.x[:: 1 + len(batches.x) // 4096]
    require_linear(model, some, "the compiled loop needs one ∂ŷ/∂w for all weights")
    data = *features(model, batches.x), batches.y.contiguous().numpy()
    (group,) = optimizer.param_groups
    number = batches.y.numpy().dtype.type
    options = [number(value) for value in (group["lr"], group["momentum"], 1 - group["dampening"],
                                           group["weight_decay"])]  # fmt: skip
    w = torch.stack(list(parameters.values())).numpy()
    v, step, code = np.zeros_like(w), start, machine_code()
    buffers = [optimizer.state[p].get("momentum_buffer") for p in parameters.values()]
    fresh = any(buffer is None for buffer in buffers)
    if not fresh:
        v = torch.stack(buffers).numpy()  # type: ignore[arg-type]
    for order in orders(batches, start, total, block):
        recorded = recorded_steps(step, step + len(order), every, total)
        rows = np.empty((len(recorded), 1 + 2 * len(w)), w.dtype) if table is None else table
        count = code(*data, order, step, total, every, w, v, fresh, *options, group["nesterov"],
                     group["maximize"], rows)  # fmt: skip
        diverged = count > 0 and not np.isfinite(rows[count - 1, 0])
        step, fresh = int(recorded[count - 1]) if diverged else step + len(order), False
        for k, parameter in enumerate(parameters.values()):
            parameter.fill_(w[k].item())
            if group["momentum"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.tensor(v[k])
        yield step, recorded[:count], rows[:count]
        if diverged:
            return
        table = None if table is None else table[count:]


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
    """Return the path of `train` with the gradient and SGD by hand, one sample a step.

    To the bit for `Linear` and `Quadratic`, in float32 and float64, with all of SGD's options. Of
    another model that is linear in its parameters ŷ may be summed in another order: each step then
    rounds w by at most (P + 1)ε(|w| + 2α|φ|Σ|φw|), of which, as long as no step enlarges an error,
    k steps make at most k times as much. Recorded is what `train` records, and it ends there too.

    Args:
        model: linear in its parameters, on the CPU; its weights then stand at the last row.
        batches: of one sample each, in order or shuffled.
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
    parameters = scalars(model)
    table = np.zeros((len(step), 1 + 2 * len(parameters)), batches.y.numpy().dtype)
    end = 0
    for piece in descend_compiled(model, batches, optimizer, epochs, every, table=table):
        reached, end = piece[0], end + len(piece[1])
    if reached == steps:
        table[end, 1 : 1 + len(parameters)] = [w.item() for w in parameters.values()]
        end += 1
    finite = np.isfinite(table[end - 1, : 1 + len(parameters)]).all()
    row, epoch, rows = (torch.from_numpy(c[:end]) for c in (step, step // len(batches), table))
    stopped = "finished" if finite else "diverged"
    return Trajectory(tuple(parameters), row, epoch, rows, stopped)
