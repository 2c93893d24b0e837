"""What the oracles found: their points, their answers, and the table of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchgd.proof.compare import ulps

ORACLES = ("symbolic", "autograd", "finite differences")
# What makes autograd wrong. It is right about each of torch's own functions.
BACKWARD = "is there a backward of your own, or a detach, in forward?"


@dataclass(frozen=True)
class Point:
    """Where a derivative is taken: at one x, in a batch `among` so many samples, and weights.

    x has a number for each column; the weights are by the names of the entries.
    """

    x: tuple[float, ...]
    weights: dict[str, float]
    dtype: torch.dtype
    among: int = 1

    @property
    def moderate(self) -> bool:
        """Whether x is of a usual size, or 0."""
        return all(x == 0 or 1e-3 <= abs(x) <= 1e4 for x in self.x)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        weights = ", ".join(f"{name} = {value:g}" for name, value in self.weights.items())
        batch = f", in a batch of {self.among}" if self.among > 1 else ""
        x = ", ".join(f"{x:g}" for x in self.x)
        return f"x = {x if len(self.x) == 1 else f'({x})'}, {weights}{batch} ({dtype})"


@dataclass(frozen=True)
class Finding:
    """What one oracle found about ∂ŷ/∂`parameter`, at the worst of its points.

    `passed` is None if it was skipped, for the `reason` given. `by_hand` and `expected` are the
    two values there; `error` is their distance as a part of the tolerance, at most 1 where it
    passed. It `looked` at so many points, and `abstained` at so many others, where it cannot be
    trusted. The symbolic oracle has two formulas and no point. Where autograd is `to_blame`, the
    derivative by hand is right by the symbols or by differences.
    """

    parameter: str
    oracle: str
    passed: bool | None
    by_hand: float | str = math.nan
    expected: float | str = math.nan
    error: float = 0.0
    point: Point | None = None
    reason: str = ""
    looked: int = 0
    abstained: int = 0
    to_blame: bool = False

    @property
    def ulps(self) -> int | None:
        """How far the two numbers are apart in units in the last place; None of formulas."""
        if self.point is None:
            return None
        by_hand, expected = torch.tensor([self.by_hand, self.expected], dtype=self.point.dtype)
        return int(ulps(by_hand, expected))

    def __str__(self) -> str:
        """The finding, as the table has it."""
        if self.passed is None:
            return "skipped"
        word = "yes" if self.passed else "no"
        if self.oracle == "symbolic":  # with a number if it compared at points only
            return word + f", at {self.looked} points" * (self.passed and self.looked > 0)
        return f"{word}, {self.apart}"

    @property
    def apart(self) -> str:
        """How far the two numbers are apart, in words."""
        # A derivative of about 0 may be millions of its own ULPs off and right: ŷ/w is the scale.
        if self.oracle == "autograd" and self.ulps is not None and self.ulps < 1000:
            return f"{self.ulps} ULPs"
        assert isinstance(self.by_hand, float)
        assert isinstance(self.expected, float)
        size = max(1.0, abs(self.by_hand), abs(self.expected))  # relative where they are large
        return f"{abs(self.by_hand - self.expected) / size:.1e} off"


@dataclass(frozen=True)
class Check:
    """A table of findings, a row per parameter and oracle. True if it `passed`."""

    rows: list[Any]

    @property
    def failures(self) -> list[Any]:
        """The rows that did not pass."""
        return [row for row in self.rows if row.passed is False]

    def confirmed(self, *oracles: str) -> bool:
        """Whether no row failed, and one of these oracles, or of all, confirms each parameter."""
        said = {row.parameter for row in self.rows if row.passed and row.oracle in oracles}
        return not self.failures and said == {row.parameter for row in self.rows}

    @property
    def passed(self) -> bool:
        """Whether no row failed, and at least one row of each parameter passed."""
        return self.confirmed(*(row.oracle for row in self.rows))

    def __bool__(self) -> bool:
        return self.passed

    def table(self) -> Iterator[str]:
        """Yield the lines of the table, a row per parameter and a column per oracle."""
        names, oracles = (list(dict.fromkeys(getattr(row, what) for row in self.rows))
                          for what in ("parameter", "oracle"))  # fmt: skip
        answers = {(row.parameter, row.oracle): str(row) for row in self.rows}
        return aligned([["", *oracles], *([n, *(answers[n, o] for o in oracles)] for n in names)])


@dataclass(frozen=True)
class GradientCheck(Check):
    """What `check_gradient` found: a row per parameter and oracle. True if it `passed`.

    `kinks` names, by parameter, a point where the slope is not unique and the one by hand differs
    from autograd's, which is no fault. Nothing was looked at outside of the `domain`, "" for none.
    """

    kinks: dict[str, str]
    domain: str = ""

    @property
    def wrong(self) -> list[str]:
        """The parameters whose derivative by hand an oracle says no to."""
        return list(dict.fromkeys(row.parameter for row in self.failures if not row.to_blame))

    @property
    def wrong_by_autograd(self) -> list[str]:
        """The parameters whose derivative is right by hand, and wrong by autograd."""
        return [row.parameter for row in self.failures if row.to_blame]

    def __str__(self) -> str:
        """The table, and a line for each no, skip and kink."""
        return "\n".join([*self.table(), *self._reasons()])

    def _reasons(self) -> Iterator[str]:
        for row in self.rows:
            if row.passed is None:
                yield f"{row.parameter}, {row.oracle}: skipped, {row.reason}"
            elif row.to_blame:
                yield (
                    f"{row.parameter}, autograd: yours is right, {row.by_hand}; autograd's is not, "
                    f"{row.expected} at {row.point}: {BACKWARD}"
                )
            elif not row.passed:
                where = f" at {row.point}" if row.point else ""
                yield (
                    f"{row.parameter}, {row.oracle}: ∂ŷ/∂{row.parameter} is {row.by_hand} by "
                    f"hand, {row.expected} expected{where}"
                )
        for name, text in self.kinks.items():
            yield f"{name}: {text}"
        if self.domain:
            yield f"Nothing is looked at outside of the domain, {self.domain}."


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows of a table as lines, its columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
