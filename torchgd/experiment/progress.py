"""How far a descent is, and how long it takes, told on standard error."""

import math
import sys
import time

from tqdm import tqdm

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.parallel import fits_machine_code, numba_is_there
from torchgd.experiment.ranks import processes
from torchgd.gradients import is_linear_in_parameters
from torchgd.trajectory import Trajectory

SOON, OFTEN = 1.0, 60.0  # seconds until the first word, and from one line to the next
LONG = 60.0  # seconds, of which it is said at the start


class Progress:
    """Tells how far a descent is: by a bar on a terminal, elsewhere by a line a minute.

    Of one that takes long it says at the start how long about, and of a `new` one which flags are
    faster. `on_piece` and `on_rows` are for the `Hooks` of a run that is `done` steps on.
    """

    def __init__(self, experiment: Experiment, update: str, done: int, new: bool) -> None:
        self.experiment, self.update, self.new = experiment, update, new
        samples = len(experiment.data.x)
        # Data that are read in chunks are told by the row, once more for the last loss.
        rows = samples if experiment.streams else 0
        self.unit, of_one = ("row", rows / len(experiment.batches)) if rows else ("step", 1)
        self.total, self.first = int(experiment.steps * of_one) + rows, int(done * of_one)
        self.place, self.loss = self.first, math.nan
        self.began = self.told = time.monotonic()
        self.estimated = False
        self.bar = tqdm(total=self.total, initial=self.first, desc=update, unit=self.unit,
                        unit_scale=rows > 0, disable=None, delay=1)  # fmt: skip

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def on_piece(self, piece: Trajectory) -> None:
        """Note what was recorded."""
        if len(piece.loss) > 0:
            self.loss = piece.loss[-1].item()
        if self.unit == "step":
            self._reach(int(piece.step[-1]))

    def on_rows(self, count: int) -> None:
        """Note that so many rows were gone through, by this process as by the others."""
        if self.unit == "row":
            self._reach(self.place + count * processes())

    def _reach(self, place: int) -> None:
        self.bar.update(place - self.place)
        self.place, now = place, time.monotonic()
        if place <= self.first or now - self.began < SOON:
            return
        left = (now - self.began) / (place - self.first) * (self.total - place)
        if not self.estimated and left > LONG:
            self._say(f"{self.total} {self.unit}s take {duration(left)}{self._faster()}")
        self.estimated = True
        if self.bar.disable and now - self.told >= OFTEN:
            self.told = now
            loss = f"loss {self.loss:.6g}, {duration(left)} left"
            self._say(f"{self.unit} {place} of {self.total}, {loss}")

    def _say(self, text: str) -> None:
        tqdm.write(f"{self.update}: {text}", file=sys.stderr)

    def _faster(self) -> str:
        return f"; {way}" if self.new and (way := faster(self.experiment)) else ""


def duration(seconds: float) -> str:
    """Write about how long that is."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.0f} h"


def faster(experiment: Experiment) -> str:
    """Say which flags make a descent faster, if any do."""
    c, batches = experiment.configuration, experiment.batches
    if c.compile or experiment.streams or processes() > 1:
        return ""
    model = experiment.new_model()
    if fits_machine_code(model, batches):
        install = "" if numba_is_there() else " (pip install 'torchgd[fast]')"
        return f"--update manual --compile{install} takes the same steps as machine code"
    if is_linear_in_parameters(model, batches.x[:4096]):
        return "--update affine takes them all at once, within rounding"
    return "--compile fuses the gradient" if batches.batch_size >= 2**16 else ""
