"""A descent by hand, by autograd or in machine code has the bits of a plain loop in PyTorch.

The loop here has its own batches and takes nothing from torchgd but the model. Drawn is all of what
"to the bit" is said of: both dtypes, SGD's options, data of one dimension or several, contiguous in
memory or not, up to so many that several threads share a sum. A hundred descents are drawn, but by

    python -m pytest tests/lesson/test_bits.py --hypothesis-profile=many

three thousand.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from helpers import AUTOGRAD, MANUAL, MODELS, same_values
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchgd import Batches, Model, train
from torchgd.compiled import compiled_trajectory, numba_is_there, why_not_compiled

EPOCHS = 2
Pairs = Iterator[tuple[Tensor, Tensor]]


def plain_batches(x: Tensor, y: Tensor, size: int, seed: int | None) -> Pairs:
    """The batches of all epochs: in order, or shuffled from a seed."""
    for epoch in range(EPOCHS):
        order: Any = slice(None)
        if seed is not None:
            order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(x)))
        for k in range(0, len(x), size):
            yield x[order][k : k + size], y[order][k : k + size]


def plain_loop(model: Model, batches: Pairs, options: dict[str, Any]) -> Tensor:
    """Loss, weights and gradients before each step, and the final weights with zeros."""
    optimizer = torch.optim.SGD(model.parameters(), **options)
    weights: Any = list(model.parameters())
    rows = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        rows.append([loss.item(), *(w.item() for w in weights), *(w.grad.item() for w in weights)])
        optimizer.step()
    rows.append([0.0, *(w.item() for w in weights), *(0.0 for w in weights)])
    return torch.tensor(rows, dtype=loss.dtype)


def up_to_divergence(table: Tensor, parameters: int) -> Tensor:
    """The rows up to the first of which the loss or a weight is not finite."""
    finite = table[:, : 1 + parameters].isfinite().all(dim=1).tolist()
    return table if all(finite) else table[: finite.index(False) + 1]


def laid_out(t: Tensor, dimensions: list[int], every: int) -> Tensor:
    """The same numbers, with the dimensions in another order in memory, and gaps between them."""
    room = t.new_empty(*(t.shape[d] for d in dimensions), every)[..., 0]
    return room.permute([dimensions.index(d) for d in range(t.ndim)]).copy_(t)


@st.composite
def data(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Random x and y of one shape, each with a layout of its own and numbers of some size."""
    several = st.lists(st.integers(1, 20), min_size=2, max_size=3).map(tuple)
    large = st.sampled_from([(1000,), (4099,), (70_000,), (300, 250)])
    one = st.tuples(st.integers(1, 70))
    shape = draw(st.one_of(one, one, several, several, large))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    largest = torch.finfo(dtype).max
    scales = st.sampled_from([1.0, 1.0, 1.0, 100.0, 1 / largest, 0.9 * largest])
    numbers = draw(scales) * torch.rand(shape, dtype=dtype, generator=random).mul(2).sub(1)
    targets = draw(scales) * torch.rand(shape, dtype=dtype, generator=random).mul(2).sub(1)
    orders, gaps = st.permutations(range(len(shape))), st.integers(1, 3)
    x, y = (laid_out(t, draw(orders), draw(gaps)) for t in (numbers, targets))
    return x, y


@st.composite
def options_of_sgd(draw: st.DrawFn) -> dict[str, Any]:
    momentum, dampening = draw(st.sampled_from([0.0, 0.5, 0.9])), draw(st.sampled_from([0.0, 0.09]))
    return {
        "lr": draw(st.sampled_from([0.0, 1e-3, 0.05, 3.0])),
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": draw(st.sampled_from([0.0, 0.01])),
        "nesterov": momentum > 0 and dampening == 0 and draw(st.booleans()),
        "maximize": draw(st.booleans()),
    }


@given(
    xy=data(),
    kind=st.sampled_from([*MODELS]),
    options=options_of_sgd(),
    steps=st.integers(1, 9),
    seed=st.none() | st.integers(0, 9),
)
def test_every_way_has_the_bits_of_a_plain_loop(
    xy: tuple[Tensor, Tensor], kind: str, options: dict[str, Any], steps: int, seed: int | None
) -> None:
    """Of an epoch of so many steps, or fewer. Only data of one dimension can be shuffled."""
    x, y = xy
    seed, size = seed if x.ndim == 1 else None, -(-len(x) // steps)
    batches: Any = [*zip(x.split(size), y.split(size), strict=True)]
    if x.ndim == 1:
        batches = Batches(x, y, size, shuffle=seed is not None, seed=seed or 0)
    make = lambda: MODELS[kind](dtype=x.dtype)  # noqa: E731
    model = make()
    expected = plain_loop(model, plain_batches(x, y, size, seed), options)
    expected = up_to_divergence(expected, len([*model.parameters()]))
    for gradient, optimizer in (MANUAL, AUTOGRAD):
        model = make()
        path = train(model, batches, optimizer(model.parameters(), **options), gradient, EPOCHS)
        assert same_values(path.table, expected)
    if x.ndim == 1 and numba_is_there() and not why_not_compiled(batches):
        path = compiled_trajectory(make(), batches, epochs=EPOCHS, **options)
        assert same_values(path.table, expected)
