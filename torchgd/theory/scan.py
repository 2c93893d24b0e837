"""A long chain of affine maps carried out in parallel: a blocked prefix scan.

A chain s ← A₀s + c₀, s ← A₁s + c₁, … looks sequential. But two maps make one, A₁A₀ and
A₁c₀ + c₁, and making one of two is associative, so that any part of the chain becomes a single map
before it is known where that part starts. The chain is cut into lanes, side by side:

1. compose within lanes: the chain itself, all lanes at a time, run from S + 1 starts at once: the
   unit vectors without c give A's columns, the origin with c gives c;
2. scan the lanes' composites, pair by pair, for the state in which each lane starts;
3. replay within lanes, from there.

The chain lies along the last dimension. States are (S, C, n): S components, and C columns that go
through the same maps; `constant` (C, 1) says how much of c a column is given, 1 for a state and 0
for a direction. A map (S, S + 1, n) holds the columns of A and c: it is such a state itself.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# From one step's inputs, K of (n,), the S components (C, n) before it and `constant`, those after.
Step = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Sequence[Tensor]]

# Steps in a lane, and in one call; a chain with fewer than MANY lanes is all lanes of one step.
LANE, CALL, MANY = 16, 4, 256


def unit_columns(like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the map A = I, c = 0 of `size` components, (S, S + 1), and its `constant`."""
    columns = torch.eye(size + 1, dtype=like.dtype, device=like.device)
    return columns[:-1], columns[-1, :, None]


def apply(maps: Tensor, states: Tensor, constant: Tensor) -> Tensor:
    """A·s + c, of maps (S, S + 1, n) and states (S, C, n); where these are maps, both as one."""
    result = maps[:, -1:] * constant
    for k, component in enumerate(states):
        result = torch.addcmul(result, maps[:, k : k + 1], component)
    return result


def prefixes(maps: Tensor, start: Tensor, constant: Tensor, of_maps: Tensor) -> Tensor:
    """Return the states before each of n maps and after the last, (S, C, n + 1), from `start`.

    Those at even places are the prefixes of the pairs made one; a single map leads on to the odd.
    `of_maps` is the maps' own constant (see `unit_columns`).
    """
    count = maps.shape[-1]
    if count == 0:
        return start[..., None]
    pairs = apply(maps[..., 1::2], maps[..., : count // 2 * 2 : 2], of_maps)
    even = prefixes(pairs, start, constant, of_maps)
    states = even.new_empty(*start.shape, count + 1)
    states[..., 0::2] = even
    states[..., 1::2] = apply(maps[..., 0::2], even[..., : (count + 1) // 2], constant)
    return states


def powers(one: Tensor, exponents: Tensor, start: Tensor, constant: Tensor) -> Tensor:
    """Return the states (S, C, n) after each number of times (n,) that the map `one` is applied.

    By squaring: the map is made one with itself once a binary digit.
    """
    of_maps = unit_columns(one, len(one))[1]
    one, states = one[..., None], start[..., None].expand(*start.shape, len(exponents))
    for digit in range(int(exponents.max()).bit_length()):
        states = torch.where((exponents >> digit) & 1 == 1, apply(one, states, constant), states)
        one = apply(one, one, of_maps)
    return states


def compose(step: Step, inputs: Tensor, states: Tensor, constant: Tensor) -> Tensor:
    """Return the states (S, C, n) after the steps with inputs (L, K, n)."""
    components: Sequence[Tensor] = states.unbind()
    for one in inputs.unbind():
        components = step(one.unbind(), components, constant)
    return torch.stack(list(components))


def replay(step: Step, inputs: Tensor, states: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states (S, C, n) after the steps, and the states before each, (L·S, C, n)."""
    components: Sequence[Tensor] = states.unbind()
    path: list[Tensor] = []
    for one in inputs.unbind():
        path.extend(components)
        components = step(one.unbind(), components, constant)
    return torch.stack(list(components)), torch.stack(path)


@cache
def fused(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `compose` or `replay` compiled: a few steps in one pass over the lanes."""
    return torch.compile(run, dynamic=True)


def scan(
    step: Step,
    inputs: Tensor,
    start: Tensor,
    constant: Tensor,
    path: bool = True,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Go through the steps with inputs (K, n), from the states `start` (S, C).

    Returns the states before each step, (S, C, n), and after the last, (S, C); without `path`
    of the former none, (S, C, 0). `compiled`: the work within lanes is (see `fused`).
    """
    size, count = len(start), inputs.shape[1]
    long = LANE if count >= LANE * MANY else 1
    first, rest = inputs.split([count // long * long, count % long], dim=1)
    lanes = first.unflatten(1, (-1, long)).permute(2, 0, 1).contiguous()  # (L, K, lanes)
    run = fused if compiled and long > 1 else lambda function: function
    units, of_units = unit_columns(inputs, size)
    maps = units[..., None].expand(-1, -1, lanes.shape[2])
    for steps in lanes.split(CALL):
        maps = run(compose)(step, steps, maps, of_units)
    starts = prefixes(maps, start, constant, of_units)
    states, end = starts[..., :-1], starts[..., -1]
    walked = states.new_empty(*start.shape, lanes.shape[2] if path else 0, long)
    if path:
        for steps, place in zip(lanes.split(CALL), walked.split(CALL, dim=3), strict=True):
            states, piece = run(replay)(step, steps, states, constant)
            place.copy_(piece.unflatten(0, (-1, size)).permute(1, 2, 3, 0))
    walked = walked.flatten(2)
    if rest.shape[1]:
        tail, end = scan(step, rest, end, constant, path)
        walked = torch.cat([walked, tail], dim=2)
    return walked, end
