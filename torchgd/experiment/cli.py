"""What the scripts share: how they read numbers, and how they say no."""

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torchgd.experiment.parallel import processes, torchrun


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line on standard error, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print `message`, of which a user's words may be a part, and exit."""
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        first = torchrun("LOCAL_RANK", 0) == 0  # of the processes on this machine
        self.exit(2, f"{self.prog}: {shown}\n" if first else None)


def number(rule: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """Return an argparse type: a number that `accepts` takes; `rule` says in words which."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule}")
        return value

    return parse


def integer(least: int) -> Callable[[str], int]:
    """Return an argparse type: an integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        if value >= 2**63:
            raise argparse.ArgumentTypeError(f"{text!r} is too large: it must be below 2⁶³")
        return value

    return parse


def either(word: str, parse: Callable[[str], float]) -> Callable[[str], float | str]:
    """Return an argparse type: `word` itself, or what `parse` takes."""

    def parse_either(text: str) -> float | str:
        try:
            return text if text == word else parse(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, nor {word}") from None

    return parse_either


def cadence(text: str) -> dict[str, Any]:
    """Parse how often to save, for `Saver`: so many seconds, or Ksteps, as 500steps."""
    count = text.removesuffix("steps")
    try:
        return {"seconds": not_negative(text)} if count == text else {"steps": integer(1)(count)}
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds, such as 60, nor steps, such as 500steps"
        ) from None


finite = number("a finite number", math.isfinite)
not_negative = number("a finite number of at least 0", lambda value: 0 <= value < math.inf)


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
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
