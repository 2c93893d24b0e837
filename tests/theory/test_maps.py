"""Maps composed in parallel against the chain itself, one map after another."""

import pytest
import torch
from torch import Tensor

from torchgd.theory.affine import after, powers, prefixes

F64 = torch.float64


def random_maps(size: int, count: int) -> Tensor:
    """Maps (n, S, S + 1) that enlarge nothing: A is orthogonal."""
    generator = torch.Generator().manual_seed(count)
    A = torch.linalg.qr(torch.randn(count, size, size, dtype=F64, generator=generator)).Q
    return torch.cat([A, torch.randn(count, size, 1, dtype=F64, generator=generator)], dim=2)


def one_by_one(maps: Tensor, start: Tensor) -> Tensor:
    states = [start]
    for M in maps:
        states.append(M[:, :-1] @ states[-1] + M[:, -1:])
    return torch.stack(states)


# A map rounds by a few ε of a state's size; the states grow by at most a few units a step.
TOLERANCE = 20 * torch.finfo(F64).eps


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 101])
def test_prefixes(size: int, count: int) -> None:
    """From a state they are the chain's states; from the unit the maps that lead there."""
    maps, start = random_maps(size, count), torch.ones(size, 1, dtype=F64)
    expected = one_by_one(maps, start)
    bound = TOLERANCE * (count + 1) * expected.abs().max().item()
    unit = torch.eye(size, size + 1, dtype=F64)
    for found in (prefixes(maps, start), after(prefixes(maps, unit), start)):
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def test_powers() -> None:
    maps, start = random_maps(3, 1).expand(1000, 3, 4), torch.ones(3, 1, dtype=F64)
    expected = one_by_one(maps, start)
    exponents = torch.tensor([0, 1, 2, 3, 500, 999, 1000])
    found = powers(maps[0], exponents, start)
    bound = TOLERANCE * 1000 * expected.abs().max().item()
    torch.testing.assert_close(found, expected[exponents], rtol=0, atol=bound)
