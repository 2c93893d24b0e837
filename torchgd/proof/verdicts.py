"""What the oracles found about a backward pass: the table of their answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from torchgd.proof.findings import Check


@dataclass(frozen=True)
class BackwardFinding:
    """What an oracle found about the gradient of one input, at the worst of all places.

    `off` is how far it is from what is expected, as a part of that: in lower precision as a part
    of the largest entry, and at most `bound` where it `passed`. None `passed` if it was skipped.
    """

    parameter: str
    oracle: str
    passed: bool | None
    off: float = 0.0
    reason: str = ""
    bound: float | None = None

    def __str__(self) -> str:
        """The finding, as the table has it."""
        if self.passed is None:
            return "skipped"
        of = "" if self.bound is None else f" of {self.bound:.0e}"
        return ("yes" if self.passed else "no") + f", {self.off:.0e} off{of}" * (
            self.off < torch.inf
        )


@dataclass(frozen=True)
class BackwardCheck(Check):
    """What `check_backward` found: a row per input and oracle. True if it `passed`.

    `faults` names what is wrong with a gradient, by input. Nothing was looked at outside of the
    `domain`, "" for none.
    """

    faults: dict[str, str]
    domain: str = ""

    @property
    def wrong(self) -> list[str]:
        """The inputs whose gradient is wrong."""
        return list(dict.fromkeys(row.parameter for row in self.failures))

    @property
    def passed(self) -> bool:
        """Whether no row failed, and differences or a reference confirm each gradient."""
        return self.confirmed("differences", "reference")

    def __str__(self) -> str:
        """The table, what is wrong, and a line for each no and skip."""
        named = [f"d{name}: {fault}" for name, fault in self.faults.items() if fault]
        return "\n".join([*self.table(), *named, *self._reasons()])

    def _reasons(self) -> Iterator[str]:
        for row in self.rows:
            if not row.passed and row.reason:
                skipped = "skipped, " * (row.passed is None)
                yield f"d{row.parameter}, {row.oracle}: {skipped}{row.reason}"
        if self.domain:
            yield f"Nothing is looked at outside of the domain, {self.domain}."
