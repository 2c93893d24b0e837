"""What may go wrong while a script imports what it needs ends in one line, or in none.

Imported first. Ctrl-C ends the script with exit status 130. An environment variable that a library
refuses is named in one line, with exit status 2. A stream that the shell has closed is one that
nobody reads. The script's own ways take over where its work begins (see `run_script`).
"""

import os
import signal
import sys
from types import FrameType, TracebackType


def leave(number: int, frame: FrameType | None) -> None:
    """End at once, as a shell says of what a signal ended."""
    os._exit(128 + number)


def refuse(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line why a script cannot begin."""
    said = str(error).strip().partition("\n")[0]
    print(f"{os.path.basename(sys.argv[0])}: {kind.__name__}: {said[:500]}", file=sys.stderr)
    os._exit(2)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
sys.excepthook = refuse
# Else the next file that is opened would have the number of a closed stream, and what is printed.
while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
os.close(number)
sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
