"""The scan against the chain itself, one map after another."""

from typing import Any

import pytest
import torch
from torch import Tensor

from torchgd.theory import scan

F64 = torch.float64


def random_maps(size: int, count: int) -> Tensor:
    """Maps (S, S + 1, n) that enlarge nothing: A is orthogonal."""
    generator = torch.Generator().manual_seed(count)
    A = torch.linalg.qr(torch.randn(count, size, size, dtype=F64, generator=generator)).Q
    c = torch.randn(count, size, 1, dtype=F64, generator=generator)
    return torch.cat([A, c], dim=2).permute(1, 2, 0)


def one_by_one(maps: Tensor, start: Tensor) -> Tensor:
    states = [start]
    for k in range(maps.shape[-1]):
        states.append(maps[:, :-1, k] @ states[-1] + maps[:, -1, k])
    return torch.stack(states, dim=1)


def step(inputs: Any, state: Any, constant: Tensor) -> list[Tensor]:
    """A·s + c, whose inputs are the entries of (A, c), row by row."""
    size = len(state)
    rows = [inputs[k * (size + 1) : (k + 1) * (size + 1)] for k in range(size)]
    return [
        sum((a * s for a, s in zip(row[:-1], state, strict=True)), row[-1] * constant)
        for row in rows
    ]


ONE = torch.ones(1, 1, dtype=F64)
# A map rounds by a few ε of a state's size; the states grow by at most a few units a step.
TOLERANCE = 20 * torch.finfo(F64).eps


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 101])
def test_prefixes(size: int, count: int) -> None:
    maps, start = random_maps(size, count), torch.ones(size, dtype=F64)
    expected = one_by_one(maps, start)
    _, of_maps = scan.unit_columns(maps, size)
    found = scan.prefixes(maps, start[:, None], ONE, of_maps)[:, 0]
    bound = TOLERANCE * (count + 1) * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("count", [1, 5, scan.LANE * scan.MANY - 1, scan.LANE * scan.MANY + 5])
@pytest.mark.parametrize("path", [True, False])
def test_scan_of_columns(count: int, path: bool) -> None:
    """From the unit columns come the prefixes' maps; on a state they are the chain's states."""
    maps, start = random_maps(2, count), torch.ones(2, dtype=F64)
    units, constant = scan.unit_columns(maps, 2)
    states, end = scan.scan(step, maps.flatten(0, 1), units, constant, path)
    whole = torch.cat([states, end[..., None]], dim=2)
    found = scan.apply(whole, start[:, None, None].expand(2, 1, whole.shape[2]), ONE)[:, 0]
    expected = one_by_one(maps, start)
    bound = TOLERANCE * (count + 1) * expected.abs().max().item()
    torch.testing.assert_close(found, expected if path else expected[:, -1:], rtol=0, atol=bound)


def test_powers() -> None:
    maps, start = random_maps(3, 1).expand(3, 4, 1000), torch.ones(3, dtype=F64)
    expected = one_by_one(maps, start)
    exponents = torch.tensor([0, 1, 2, 3, 500, 999, 1000])
    found = scan.powers(maps[..., 0], exponents, start[:, None], ONE)[:, 0]
    bound = TOLERANCE * 1000 * expected.abs().max().item()
    torch.testing.assert_close(found, expected[:, exponents], rtol=0, atol=bound)
