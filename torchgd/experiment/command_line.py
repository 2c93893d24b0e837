"""What the scripts share: how they read numbers, refuse a request, and tell how far they are."""

import argparse
import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from torchgd.experiment.configuration import integer, not_negative
from torchgd.experiment.files import printable
from torchgd.experiment.own_model import OWN_FILES, where_in_own_file
from torchgd.experiment.parallel import processes, torchrun, which_rank

SOON, OFTEN = 1.0, 60.0  # seconds until the first line, and from one line to the next
LONG = 60.0  # seconds: how long a longer run takes is said at its start
OUTPUT = "standard output"  # what stands for a file's name, where it cannot be written


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line on standard error, with exit status 2."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse them; refuse --option=--, of which argparse makes an option without a value."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word.partition('=')[0]}: '--' is no value")
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print `message`, of which a user's words may be a part, and exit."""
        # Before the processes have met, all have the same to say; then each may have its own.
        speaks = which_rank() or torchrun("LOCAL_RANK", 0) == 0
        self.exit(2, f"{self.prog}: {which_rank()}{printable(message)}\n" if speaks else None)


def cadence(text: str) -> dict[str, Any]:
    """Parse how often to save, for `Run.carry_out`: so many seconds, or Ksteps, as 500steps."""
    count = text.removesuffix("steps")
    try:
        return {"seconds": not_negative(text)} if count == text else {"steps": integer(1)(count)}
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds, such as 60, nor steps, such as 500steps"
        ) from None


def say(*lines: str) -> None:
    """Print results.

    Raises:
        OSError: standard output cannot be written; it is the error's file name.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        _give_up(sys.stdout)
        raise OSError(error.errno, error.strerror, OUTPUT) from None


def _give_up(stream: TextIO) -> None:
    """Let a stream that cannot be written end nowhere: Python tries again at its own end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell(line: str) -> None:
    """Print to standard error, if it can be written: the results matter more."""
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def refuse_broken_environment() -> None:
    """Refuse what torchrun never tells a process.

    Raises:
        ValueError: a number is missing, or is none, or not in its range.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    way_out = "start the script by torchrun, or unset TORCHELASTIC_RUN_ID"
    for name, least in {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "MASTER_PORT": 1}.items():
        text = os.environ.get(name)
        if torchrun(name, -1) < least:
            raise ValueError(f"{name} is {text!r}, not an integer of at least {least}; {way_out}")
    if torchrun("RANK", 0) >= processes():
        raise ValueError(f"RANK is {torchrun('RANK', 0)} of {processes()} processes; {way_out}")


@contextmanager
def refusing(parser: Parser, *errors: type[Exception]) -> Iterator[None]:
    """Turn these errors, and whatever a user's own file raises, into `parser.error`."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if place := where_in_own_file(error):
            parser.error(place)
        # Python's own says nothing; of torch's it is the text that tells them from others.
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and "allocate" in str(error)
        ):
            reason = " ".join(str(error).split()) or "no more can be had"
            parser.error(f"out of memory ({reason[:200]}); take fewer rows, or --chunk-size")
        if OWN_FILES and isinstance(error, Exception) and not isinstance(error, errors):
            *_, own = OWN_FILES.values()  # what it returned does not fit what it is used for
            parser.error(f"{own} fails with {type(error).__name__}: {' '.join(str(error).split())}")
        if not isinstance(error, errors):
            raise
        if isinstance(error, OSError) and error.filename is not None:
            parser.error(f"{os.fsdecode(error.filename)}: {error.strerror}")
        parser.error(str(error))


def run_script(main: Callable[[], int]) -> NoReturn:
    """Exit with main's status; end without a word where nobody reads on, as in `… | head`."""
    sys.excepthook = sys.__excepthook__  # from here on an error is one of ours
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
    except OSError as error:
        if error.filename != OUTPUT:
            raise
        tell(f"{os.path.basename(sys.argv[0])}: {OUTPUT}: {error.strerror}")
        sys.exit(2)


class Stop:
    """Whether SIGINT or SIGTERM came: the first asks the run to end, the second ends it."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Stop":
        heard = (signal.SIGINT, signal.SIGTERM)
        self.previous = {s: signal.getsignal(s) for s in heard}
        for which, handler in self.previous.items():
            if handler is not signal.SIG_IGN and processes() == 1:  # else as nohup, or the group
                signal.signal(which, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for which, handler in self.previous.items():
            signal.signal(which, handler)

    def _note(self, which: int, _: object) -> None:
        self.signal = which
        self._restore()

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.signal != 0


class Progress:
    """Tells how far a descent is: by a bar on a terminal, elsewhere by a line a minute.

    It has `total` units, steps or rows, `done` of them before it began. Of one that takes long it
    says at the start how long about, and the `hint` which way is faster.
    """

    def __init__(self, update: str, total: int, done: int, unit: str, hint: str) -> None:
        self.update, self.unit, self.hint = update, unit, hint
        self.total, self.first, self.place, self.loss = total, done, done, math.nan
        self.told = time.monotonic()
        self.began: float | None = None
        self.estimated = False
        self.bar = tqdm(total=total, initial=done, desc=update, unit=unit, disable=None, delay=1,
                        unit_scale=unit == "row")  # fmt: skip

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def reach(self, place: int) -> None:
        """Note that so many units are done."""
        with suppress(OSError):
            self.bar.update(place - self.place)
        self.place, now = place, time.monotonic()
        if self.began is None:  # what comes before the first steps takes its time only once
            self.began, self.first = now, place
        if place <= self.first or now - self.began < SOON:
            return
        left = (now - self.began) / (place - self.first) * (self.total - place)
        if not self.estimated and left > LONG:
            faster = f"; {self.hint}" if self.hint else ""
            self._say(f"{self.total} {self.unit}s take {duration(left)}{faster}")
        self.estimated = True
        if self.bar.disable and now - self.told >= OFTEN:
            self.told = now
            loss = f"loss {self.loss:.6g}, {duration(left)} left"
            self._say(f"{self.unit} {place} of {self.total}, {loss}")

    def _say(self, text: str) -> None:
        with suppress(OSError):
            tqdm.write(f"{self.update}: {text}", file=sys.stderr)


def duration(seconds: float) -> str:
    """Write about how long that is."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.0f} h"
