"""How large rounding is: a computation is repeated with each of its results shaken."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SHAKEN = 2  # units in the last place, by which each result is changed at most
TIMES, FEW = 8, 4
# What rounding may do beside what was seen in so many times: some of torch's functions are wrong
# in their last places themselves, by tens of units.
ALLOWED = 32


class _Shaken(TorchDispatchMode):
    """Changes the result of each operation, also of a backward pass, at random by some units.

    The units are those of the dtype that is looked at: in a float64 computation, a step in float32
    is an error, and no rounding.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.unit = SHAKEN * torch.finfo(dtype).eps
        self.generator = torch.Generator().manual_seed(0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes two seconds

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and shake what it computes; a view and what is in place stay."""
        found = operation(*args, **(kwargs or {}))
        if any(returned.alias_info is not None for returned in operation._schema.returns):
            return found
        return tuple(map(self._shake, found)) if isinstance(found, tuple) else self._shake(found)

    def _shake(self, t: Any) -> Any:
        if not (isinstance(t, Tensor) and t.is_floating_point()):
            return t
        noise = 2 * torch.rand(t.shape, generator=self.generator, dtype=torch.float64) - 1
        return t * (1 + self.unit * noise.to(t.device)).to(t.dtype)


# If f is computed by operations that each round, the computed value is that of a computation whose
# results are changed by less than a unit each. So what random changes of that size do to it is the
# size of its rounding, whether it comes from cancellation, saturation or a steep slope. (This is
# Monte Carlo arithmetic: D. S. Parker, 1997.) An error of the formula is not of that size.
def rounding(compute: Callable[[Tensor], Mapping[str, Tensor]], x: Tensor) -> dict[str, Tensor]:
    """Return how far rounding may carry what `compute` returns of samples x, by name, (N,).

    It is ∞ where only some of the results are numbers. All are computed in one batch.
    """
    with _Shaken(x.dtype):
        found = compute(torch.cat([x] * TIMES))
    return {name: ALLOWED * _spread(t.view(TIMES, -1)) for name, t in found.items()}


def spread(compute: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    """Return how far apart the results of `compute` are, shaken in the last places of a dtype."""
    with _Shaken(dtype):
        found = torch.stack([compute() for _ in range(FEW)])
    return _spread(found)


def _spread(values: Tensor) -> Tensor:
    spread = (values.amax(dim=0) - values.amin(dim=0)).nan_to_num(torch.inf, torch.inf)
    return torch.where(values.isfinite().any(dim=0), spread, 0.0)
