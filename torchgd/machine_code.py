"""The loop of `descend` in numbers instead of tensors, which numba makes machine code.

A step in torch is about twenty calls, of a few microseconds each; in machine code it is about
twenty operations a sample. If a model is linear in its parameters, the step needs only φ = ∂ŷ/∂w
and ŷ₀, the prediction at w = 0, which depend on x alone:

    ŷ = Σ w·φ + ŷ₀      r = ŷ − y      loss = (1/N) Σ r²      g = Σ (1/N)2r·φ     w ← w − α·g

Each line rounds where torch does: its add_(g, alpha=α) rounds once, as an fma does; the terms of ŷ
are added from left to right; `add_up` has the order of a sum.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WAYS = 4  # partial sums that torch adds up side by side
MOST = 256  # terms of a sum; torch adds more terms in another order


def fma(a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once: an instruction of the machine."""
    raise NotImplementedError("numba puts the instruction here")


def add_up(terms: Array, count: int, sums: Array) -> Any:
    """Σ of the first terms in the order in which torch adds them: four partial sums of vectors.

    `sums` (4, L) holds the partial sums, of vectors of L terms, or of 1 if there are fewer terms.
    The terms that fill no vector are added first.
    """
    lanes = sums.shape[1] if count >= sums.shape[1] else 1
    vectors = count // lanes
    sums[:] = 0
    total = sums[0, 0]
    for k in range(vectors):
        way = k % WAYS if k < vectors - vectors % WAYS else 0
        for lane in range(lanes):
            sums[way, lane] += terms[k * lanes + lane]
    for k in range(vectors * lanes, count):
        total += terms[k]
    for lane in range(lanes):
        total += sums[0, lane] + sums[1, lane] + sums[2, lane] + sums[3, lane]
    return total


# With one sample a step, torch computes 0 + g, which turns −0 into 0. We fold that into the fused
# multiply-add of g, because the next step waits for it; but an fma whose product underflows gives
# −0. It matters only when g is recorded, when an option uses it, or at w = 0: there we add 0.
def steps(
    phi: Array, offset: Array, y: Array, order: Array, batch_size: int, sums: Array | None,
    first: int, end: int, total: int, every: int, table: Array, w: Array, v: Array, fresh: bool,
    lr: Any, momentum: Any, undamped: Any, weight_decay: Any, nesterov: bool, maximize: bool,
) -> int:  # fmt: skip
    """Take the steps `first` … `end` − 1 of `total`, from w on, by the rule of `ManualSGD`.

    An epoch takes the samples in `order`. Each `every`-th step, and the last one, is recorded in
    `table`; returned is how many rows that makes. It ends after a recorded loss that is not finite.
    If it is `fresh` there are no velocities v yet. `sums` is for `add_up`, or None for one sample a
    step, which numba compiles separately.
    """
    samples, parameters, zero, row = order.shape[0], w.shape[0], lr - lr, 0
    r, terms = np.empty_like(y[:batch_size]), np.empty_like(y[:batch_size])
    plain = not maximize and momentum == 0 and weight_decay == 0
    at = first % -(-samples // batch_size) * batch_size
    due = first + -first % every  # counted on: a division takes as long as the rest of the step
    for step in range(first, end):
        size = min(batch_size, samples - at)
        for i in range(size):
            n = order[at + i]
            prediction = w[0] * phi[n, 0]
            for p in range(1, parameters):
                prediction = prediction + w[p] * phi[n, p]
            if offset.shape[0] > 0:
                prediction = prediction + offset[n]
            residual = prediction - y[n]
            if sums is not None:
                r[i] = residual
                terms[i] = residual * residual
        loss = residual * residual
        if sums is not None:
            loss = add_up(terms, size, sums) / y.dtype.type(size)
        recorded = step == due or step == total - 1
        for p in range(parameters):
            if sums is None:
                g = fma(residual + residual, phi[n, p], zero)
            else:
                for i in range(size):
                    terms[i] = y.dtype.type(1 / size) * (r[i] + r[i]) * phi[order[at + i], p]
                g = add_up(terms, size, sums)
            if recorded:
                table[row, 1 + p] = w[p]
                table[row, 1 + parameters + p] = zero + g
            if not plain or w[p] == 0:
                g = zero + g
            if maximize:
                g = -g
            if weight_decay != 0:
                g = fma(weight_decay, w[p], g)
            if momentum != 0:
                v[p] = g if fresh and step == first else fma(undamped, g, v[p] * momentum)
                g = fma(momentum, v[p], g) if nesterov else v[p]
            w[p] = fma(-lr, g, w[p])
        if recorded:
            table[row, 0] = loss
            row += 1
            if not np.isfinite(loss):
                return row
        if step == due:
            due += every
        at = at + batch_size if at + batch_size < samples else 0
    return row


@functools.cache
def machine_code() -> Callable[..., int]:
    """Return `steps`, compiled by numba, which keeps it on the disk if it can.

    Raises:
        ModuleNotFoundError: numba is not installed.
    """
    try:
        import numba
        from numba.extending import intrinsic, overload, register_jitable
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

    register_jitable(add_up)
    try:
        code: Callable[..., int] = numba.njit(cache=True)(steps)
    except RuntimeError:  # no folder for it can be written
        code = numba.njit(steps)
    return code
