"""Ctrl-C while a script imports what it needs: exit status 130, and no traceback.

Imported first; the script's own way to stop takes over where its work begins.
"""

import os
import signal
from types import FrameType


def leave(number: int, frame: FrameType | None) -> None:
    """End at once, as a shell says of what a signal ended."""
    os._exit(128 + number)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
