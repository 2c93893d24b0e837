"""A run: one configuration, carried out in one directory."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torchgd.compiled import descend_compiled
from torchgd.experiment.advice import climbed
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.digits import known
from torchgd.experiment.events import Events
from torchgd.experiment.experiment import Experiment, identity
from torchgd.experiment.files import write_json
from torchgd.experiment.folder import TABLE, read_config, tags, write_trajectory
from torchgd.experiment.parallel import processes
from torchgd.experiment.resolve import resolve
from torchgd.experiment.state import STATE, State
from torchgd.models import Model
from torchgd.theory.affine import affine_trajectory
from torchgd.training import descend
from torchgd.trajectory import Recorder, Stopped, Trajectory


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its path, and its final parameters in the data's own units.

    The `loss` is over all data, whatever the batch size; `prediction` is ŷ at
    `experiment.predict_at`.
    """

    experiment: Experiment
    trajectory: Trajectory
    parameters: dict[str, Tensor]
    loss: Tensor
    prediction: Tensor
    seconds: float

    @property
    def update(self) -> str:
        """How its steps were taken."""
        return self.experiment.configuration.update

    @property
    def column(self) -> Tensor:
        """The parameters, the loss and the prediction below each other, (P + 2,)."""
        return torch.stack([*self.parameters.values(), self.loss, self.prediction])

    @cached_property
    def digits(self) -> dict[str, int]:
        """How many digits of each number are known (see `digits.known`)."""
        return known(self)

    def as_dict(self) -> dict[str, Any]:
        """Return what result.json holds."""
        path, c = self.trajectory, asdict(self.experiment.configuration)
        return {
            **{name: c[name] for name in ("update", "model", "data", "device", "dtype")},
            "steps": int(path.step[-1]),
            "epochs": int(path.epoch[-1]),
            "stopped": str(path.stopped),
            "parameters": {name: value.item() for name, value in self.parameters.items()},
            **({"digits": self.digits} if self.digits else {}),
            "loss": self.loss.item(),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Watch:
    """Who takes part in a run as it goes, and how often it is saved.

    `stop` is asked at each step; `on_piece` gets each piece of the trajectory; `on_rows` is told
    how many rows are gone through next, where the data are read in chunks. The state is saved each
    so many `seconds` or, if given, each so many `steps`.
    """

    stop: Callable[[], bool] = lambda: False
    on_piece: Callable[[Trajectory], object] = lambda piece: None
    on_rows: Callable[[int], object] = lambda count: None
    seconds: float = 60.0
    steps: int | None = None


NOBODY = Watch()


@dataclass(frozen=True)
class Run:
    """An experiment in a directory of its own, and the `state` that an earlier process left there.

    `config` is what config.json says.
    """

    experiment: Experiment
    directory: Path = Path()
    config: dict[str, Any] = field(default_factory=dict)
    state: State | None = None

    @property
    def update(self) -> str:
        """How its steps are taken."""
        return self.experiment.configuration.update

    @property
    def done(self) -> int:
        """How many steps an earlier process took."""
        return 0 if self.state is None else self.state.step

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: all steps are taken, and what it came to is written."""
        taken = self.state is not None and (
            self.state.diverged or self.state.step == self.experiment.steps
        )
        return taken and all((self.directory / n).is_file() for n in (TABLE, "result.json"))

    @contextmanager
    def events(self) -> Iterator[Events]:
        """Write config.json, remove what says that the run is over, and open its event file."""
        path = self.state.path.step if self.state else torch.empty(0)
        known = len(path) > 0 and read_config(self.directory) == self.config
        write_json(self.directory / "config.json", self.config)
        (self.directory / "result.json").unlink(missing_ok=True)
        (self.directory.parent / "comparison.json").unlink(missing_ok=True)
        events = Events(self.directory, int(path[-1]) + 1 if len(path) else 0)
        try:
            events.introduce(self.config, tags(tuple(self.experiment.configuration.initial)), known)
            yield events
        finally:
            events.close()

    def carry_out(self, watch: Watch = NOBODY, events: Events | None = None) -> Outcome:
        """Take the steps that are left, and write what they come to, if there are `events`.

        Raises:
            ValueError: a data file changed.
            OSError: something cannot be written.
            RankError: another process is gone.
        """
        experiment, model = self.experiment, self.experiment.new_model()
        began = time.perf_counter() - (self.state.seconds if self.state else 0.0)
        trajectory = self._path(model, watch, events, began)
        loss = experiment.loss(model, watch.on_rows)
        if trajectory.stopped == Stopped.FINISHED:
            if not loss.isfinite():  # in a sample not seen since
                trajectory = replace(trajectory, stopped=Stopped.DIVERGED)
            elif climbed(experiment, trajectory, loss):
                trajectory = replace(trajectory, stopped=Stopped.CLIMBED)
        parameters, prediction = experiment.parameters(model), experiment.predict(model)
        seconds = time.perf_counter() - began
        outcome = Outcome(experiment, trajectory, parameters, loss, prediction, seconds)
        if events is not None:
            write_trajectory(self.directory / TABLE, trajectory)
            events.finish(outcome.as_dict())
            write_json(self.directory / "result.json", outcome.as_dict())  # and so the run is over
        return outcome

    def _path(self, model: Model, watch: Watch, events: Events | None, began: float) -> Trajectory:
        """Take the steps that are left, record and save them; return the whole path."""
        experiment, optimizer = self.experiment, self.experiment.optimizer(model)
        if self.state is not None:
            self.state.restore(model, optimizer)
        recorder = self._recorder(model, watch, events)

        def save(step: int) -> None:
            if events is not None:
                experiment.refuse_changed_data()  # of which the steps before this may be
                rest = {"seconds": time.perf_counter() - began, "path": recorder.path}
                state = State.of(model, optimizer, identity=identity(experiment), step=step, **rest)
                state.save(self.directory / STATE)

        step, stopped = experiment.steps, Stopped.FINISHED
        saved, at = self.done, time.monotonic()
        try:
            for step in self._steps(model, optimizer, recorder, watch):
                by_step = watch.steps is not None and step - saved >= watch.steps
                if recorder.due or by_step:
                    recorder.hand_over()
                    if recorder.diverged:
                        break
                    now = time.monotonic()
                    if by_step or (watch.steps is None and now - at >= watch.seconds):
                        save(step)
                        saved, at = step, now
                if watch.stop():
                    stopped = Stopped.INTERRUPTED
                    break
            else:
                step = experiment.steps
        finally:
            recorder.hand_over()  # what was recorded stays in the event file, also if a step failed
        if recorder.diverged:
            step = int(recorder.pieces[-1].step[-1])
        save(step)  # before the final row, for there may be more epochs to come
        return recorder.finish(step, step // len(experiment.batches), stopped)

    def _steps(
        self, model: Model, optimizer: Optimizer, recorder: Recorder, watch: Watch
    ) -> Iterator[int]:
        """Take the steps; yield each, or some, where model and optimizer are as before it."""
        experiment, c = self.experiment, self.experiment.configuration
        batches, every, length = experiment.batches, c.record_every or 1, len(experiment.batches)
        if recorder.diverged or self.done == experiment.steps:
            return
        if c.update == "affine":
            asked = {"epochs": c.epochs, "record_every": every, **experiment.options}
            path = affine_trajectory(model, batches, **asked)
            recorder.take(path if path.stopped == Stopped.DIVERGED else path[:])
        elif c.update == "compiled":
            for step, recorded, rows in descend_compiled(
                model, batches, optimizer, c.epochs, every, start=self.done, block=watch.steps
            ):
                if len(rows):
                    table = torch.from_numpy(rows)
                    epochs = recorded // length
                    recorder.take(Trajectory(recorder.names, recorded, epochs, table, None))
                if step < experiment.steps:
                    yield step
        else:
            gradient = experiment.gradient(watch.on_rows)
            for step, epoch, loss in descend(
                model, batches, optimizer, gradient, c.epochs, start=self.done
            ):
                yield step
                recorder.record(step, epoch, loss)

    def _recorder(self, model: Model, watch: Watch, events: Events | None) -> Recorder:
        def on_piece(piece: Trajectory) -> None:
            if events is not None:
                events.record(tags(piece.names), ((s, values) for s, _, values in piece.rows()))
            watch.on_piece(piece)

        experiment, every = self.experiment, self.experiment.configuration.record_every or 1
        done = None if self.state is None else self.state.path
        if processes() == 1:
            return Recorder(model, experiment.steps, every, on_piece, done)
        # Ranks find a divergence where they hand over, so all of them must at the same steps.
        rows = min(1000, max(1, 50_000_000 // experiment.batches.batch_size))
        return Recorder(model, experiment.steps, every, on_piece, done, rows, math.inf)


def outcome_of(asked: Configuration) -> Outcome:
    """Return what a configuration comes to, without a directory."""
    (experiment,) = resolve([asked])
    return Run(experiment).carry_out()
