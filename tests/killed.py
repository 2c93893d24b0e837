"""Runs train.py in a process that sends itself a signal at a given point of its work.

    python tests/killed.py SIGNAL WHAT COUNT [words of train.py]

The signal comes when WHAT, a pattern as a shell's, happens for the COUNT-th time: `step`, an
optimizer begins a step; `figure`, one is about to be shown in TensorBoard; and of a file below
runs/: `open:NAME`, it is about to be made; `os.rename:NAME`, another is about to take that name;
`os.remove:NAME`, it is about to go. A point of the work is the same on every machine, fast or slow,
busy or idle; a moment is not.

Of the processes that torchrun starts it is the one whose RANK is KILLED_RANK, and it is killed
once: when torchrun starts it again, it runs on.
"""

import os
import sys
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
import train
from helpers import Forked, ended

from torchgd import ManualSGD
from torchgd.experiment.command_line import run_script
from torchgd.experiment.events import Events


def arm(sent: int, what: str, count: int) -> None:
    """Have this process send itself the signal when that happens."""
    left = count
    chosen = os.environ.get("RANK") == os.environ.get("KILLED_RANK")
    chosen = chosen and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

    def happens(event: str) -> None:
        nonlocal left
        if chosen and fnmatchcase(event, what):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), sent)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        place = {"open": 0, "os.rename": 1, "os.remove": 0}.get(event)
        if place is None or not isinstance(arguments[place], str | Path):
            return
        path, known = Path(arguments[place]), event == "open" and not arguments[2] & os.O_EXCL
        if "runs" in path.parts and not known:
            happens(f"{event}:{path.name}")

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


def killed(folder: Path, sent: int, what: str, count: int, *words: str) -> tuple[int, str]:
    """Run train.py in a process that is killed; return its exit status and standard error."""
    status, _, err = ended(Forked(folder, *words, before=partial(arm, sent, what, count)))
    return status, err


if __name__ == "__main__":
    number, pattern, times, *given = sys.argv[1:]
    arm(int(number), pattern, int(times))
    run_script(lambda: train.main(given))
