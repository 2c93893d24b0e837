"""Runs train.py in a process that sends itself a signal at a given point of its work.

    python tests/killed.py SIGNAL WHAT COUNT [words of train.py]

The signal comes when WHAT happens for the COUNT-th time: `step`, an optimizer begins a step;
`figure`, one is about to be shown in TensorBoard;
`open:NAME`, a file of that name is opened; `os.rename:NAME`, one is about to take that name;
`os.truncate:NAME`, one is about to be cut off. A point of the work is the same on every machine,
fast or slow, busy or idle; a moment is not.

Of the processes that torchrun starts it is the one whose RANK is KILLED_RANK, and it is killed
once: when torchrun starts it again, it runs on.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import train

from torchgd import ManualSGD
from torchgd.experiment.command_line import run_script
from torchgd.experiment.events import Events


def main() -> int:
    number, what, count, *words = sys.argv[1:]
    left = int(count)
    chosen = os.environ.get("RANK") == os.environ.get("KILLED_RANK")
    chosen = chosen and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

    def happens(event: str) -> None:
        nonlocal left
        left -= event == what
        if left == 0 and event == what and chosen:
            os.kill(os.getpid(), int(number))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        place = {"open": 0, "os.rename": 1, "os.truncate": 0}.get(event)
        if place is not None and isinstance(arguments[place], str | Path):
            happens(f"{event}:{Path(arguments[place]).name}")

    for optimizer in (ManualSGD, torch.optim.SGD):

        def step(self: Any, closure: Any = None, plain: Any = optimizer.step) -> Any:
            happens("step")
            return plain(self, closure)

        optimizer.step = step  # type: ignore[method-assign, assignment]

    def add_figures(self: Any, *arguments: Any, plain: Any = Events.add_figures) -> Any:
        happens("figure")
        return plain(self, *arguments)

    Events.add_figures = add_figures  # type: ignore[method-assign, assignment]
    sys.addaudithook(audit)
    return train.main(words)


if __name__ == "__main__":
    run_script(main)
