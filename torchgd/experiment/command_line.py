"""What the scripts share: how they read numbers, and how they say no."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torchgd.experiment.configuration import integer, not_negative
from torchgd.experiment.files import printable
from torchgd.experiment.ranks import processes, torchrun


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line on standard error, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print `message`, of which a user's words may be a part, and exit."""
        first = torchrun("LOCAL_RANK", 0) == 0  # of the processes on this machine
        self.exit(2, f"{self.prog}: {printable(message)}\n" if first else None)


def cadence(text: str) -> dict[str, Any]:
    """Parse how often to save, for `Saver`: so many seconds, or Ksteps, as 500steps."""
    count = text.removesuffix("steps")
    try:
        return {"seconds": not_negative(text)} if count == text else {"steps": integer(1)(count)}
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds, such as 60, nor steps, such as 500steps"
        ) from None


@contextmanager
def refusing(parser: Parser, *errors: type[Exception]) -> Iterator[None]:
    """Turn these errors, which say what is wrong with the request, into `parser.error`."""
    try:
        yield
    except errors as error:
        if isinstance(error, OSError) and error.filename is not None:
            parser.error(f"{os.fsdecode(error.filename)}: {error.strerror}")
        parser.error(str(error))


def run_script(main: Callable[[], int]) -> NoReturn:
    """Exit with main's status; end without a word where nobody reads on, as in `… | head`."""
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal's encoding has ŷ and α
    if hasattr(signal, "SIGPIPE") and processes() == 1:  # a peer that is gone is no such reader
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
