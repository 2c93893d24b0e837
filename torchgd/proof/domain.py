"""Where a model has a meaning: for each of x and the parameters an interval."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Domain:
    """The open intervals of some of x and the parameters, by name; the others have no limits.

    All columns of x, and all entries of a parameter, have one interval.
    """

    intervals: Intervals = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str], given: Any) -> "Domain":
        """Return the domain that a caller or a model gives, None for none.

        Raises:
            ValueError: it is no dict of (low, high) by these names, with low < high.
        """
        if given is None:
            return cls()
        known = list(names)
        rule = f'give a dict such as {{"{known[0]}": (0, math.inf)}}'
        if not isinstance(given, Mapping):
            raise ValueError(f"the domain is a {type(given).__name__}: {rule}")
        for name, interval in given.items():
            if name not in known:
                raise ValueError(f"the domain names {name!r}: it may name {', '.join(known)}")
            try:
                low, high = map(float, interval)
            except (TypeError, ValueError):
                low = high = math.nan
            if not low < high:
                raise ValueError(f"the domain of {name!r} is {interval!r}: {rule}, low below high")
        return cls({name: (float(low), float(high)) for name, (low, high) in given.items()})

    def holds(self, name: str, values: Any) -> Any:
        """Whether a value of x or a parameter's entry, or each in a tensor, is inside.

        A sample (F,) is, if all of its columns are.
        """
        low, high = self.intervals.get(_owner(name), (-math.inf, math.inf))
        inside = (low < values) & (values < high)
        several = isinstance(inside, Tensor) and inside.ndim > 1
        return inside.all(dim=1) if several else inside

    def holds_all(self, weights: Mapping[str, float]) -> bool:
        """Whether all these weights are inside."""
        return all(self.holds(name, w) for name, w in weights.items())

    def moved(self, name: str, values: Tensor) -> Tensor:
        """Return the values, those outside moved inside: as far from an end as they are large."""
        if _owner(name) not in self.intervals:
            return values
        low, high = self.intervals[_owner(name)]
        size = values.abs()
        if math.isfinite(low) and math.isfinite(high):
            other = low + (high - low) * size / (1 + size)
        else:
            other = low + size if math.isfinite(low) else high - size
        return torch.where((low < values) & (values < high), values, other)

    def __str__(self) -> str:
        """The intervals, as the report names them; "" if there are none."""
        return ", ".join(f"{n} in ({a:g}, {b:g})" for n, (a, b) in self.intervals.items())


def _owner(name: str) -> str:
    """Return the name of the parameter that an entry is of."""
    return name.partition("[")[0]
