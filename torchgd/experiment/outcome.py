"""One update of an experiment, from its start to what it comes to."""

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from torchgd.compiled import descend_compiled
from torchgd.experiment.checkpoint import Saver
from torchgd.experiment.experiment import AFFINE, UPDATES, Experiment
from torchgd.experiment.folder import Start
from torchgd.experiment.own_model import call_user_code
from torchgd.experiment.ranks import processes
from torchgd.experiment.stability import climbed, loss_over_all
from torchgd.models import Model
from torchgd.training import descend
from torchgd.trajectory import Recorder, Stopped, Trajectory


@dataclass(frozen=True)
class Values:
    """What weights come to: the parameters in the data's own units, the loss, and one ŷ.

    The loss is over all data, whatever the batch size.
    """

    parameters: dict[str, Tensor]
    loss: Tensor
    predicted_at: float
    prediction: Tensor

    @property
    def column(self) -> Tensor:
        """The parameters, the loss and the prediction below each other, (P + 2,)."""
        return torch.stack([*self.parameters.values(), self.loss, self.prediction])


@dataclass(frozen=True)
class Outcome(Values):
    """What a run came to: its path, and its final values."""

    update: str
    trajectory: Trajectory
    seconds: float


def never() -> bool:
    """No reason to stop."""
    return False


def ignore(*_: object, **__: object) -> None:
    """Do nothing with it."""


@dataclass
class Hooks:
    """Who takes part in a run as it goes: each is called, or asked, where there is one.

    `on_piece` is given each piece of the trajectory, `on_rows` told how many rows were gone through
    where the data are read in chunks, `stop` asked at each step, and `saver` told to save.
    """

    on_piece: Callable[[Trajectory], object] = ignore
    on_rows: Callable[[int], object] = ignore
    stop: Callable[[], bool] = never
    saver: Saver | None = None


def run_update(
    experiment: Experiment,
    update: str,
    predict: float = 4.0,
    hooks: Hooks | None = None,
    start: Start | None = None,
) -> Outcome:
    """Train a new model by "manual", "autograd" or "affine"; predict ŷ at x = `predict`.

    From a `start` it goes on. The affine update computes the whole path at once, and so needs none
    and hands it over at once.

    Raises:
        ValueError: there is no such update, or `predict` is no number, or `start` does not fit.
        OSError: a hook cannot write.
    """
    if update not in (*UPDATES, AFFINE):
        raise ValueError(f"update {update!r}: choose {', '.join((*UPDATES, AFFINE))}")
    if not math.isfinite(predict):
        raise ValueError(f"predict {predict}: give a finite number")
    hooks = hooks or Hooks()
    model = experiment.new_model()
    began = time.perf_counter() - (0.0 if start is None else start.checkpoint.seconds)
    if update == AFFINE:
        trajectory = experiment.affine(model)
        hooks.on_piece(trajectory)
    else:
        trajectory = _Descent(experiment, update, model, hooks, start, began).to_the_end()
    seconds = time.perf_counter() - began
    values = values_of(experiment, model, predict, hooks.on_rows)
    if trajectory.stopped == "finished" and (
        not values.loss.isfinite()  # in a sample not seen since
        or climbed(experiment, trajectory, values.loss)
    ):
        trajectory = replace(trajectory, stopped=Stopped.DIVERGED)
    return Outcome(**vars(values), update=update, trajectory=trajectory, seconds=seconds)


def model_at(experiment: Experiment, weights: Tensor) -> Model:
    """Return the model with these weights (P,), on the run's device and in its dtype."""
    model = experiment.new_model()
    vector_to_parameters(weights.to(experiment.device, experiment.dtype), model.parameters())
    return model


@torch.no_grad()
def values_of(
    experiment: Experiment, model: Model, predict: float, on_rows: Callable[[int], object] = ignore
) -> Values:
    """Return what a model's weights come to, with ŷ at x = `predict`."""
    at = experiment.standardized(torch.tensor([predict], dtype=torch.float64))
    x = at.to(experiment.device, experiment.dtype)
    prediction = call_user_code(experiment.configuration.model, model, x)[0].cpu()
    loss = loss_over_all(experiment, model, on_rows)
    return Values(experiment.parameters(model), loss, predict, prediction)


class _Descent:
    """The descent of one update, on its way: recorded, saved, stopped if asked to."""

    def __init__(
        self,
        experiment: Experiment,
        update: str,
        model: Model,
        hooks: Hooks,
        start: Start | None,
        began: float,
    ) -> None:
        self.experiment, self.update, self.model = experiment, update, model
        self.hooks, self.began = hooks, began
        self.first = 0 if start is None else start.checkpoint.step
        self.optimizer = UPDATES[update][1](model.parameters(), **experiment.options)
        if start is not None:
            start.checkpoint.restore(model, self.optimizer)
        self.recorder = _recorder(experiment, model, hooks, start)

    def to_the_end(self) -> Trajectory:
        """Take the steps that are left; return the whole trajectory."""
        try:
            step, epoch, stopped = self._descend()
        finally:
            self.recorder.hand_over()  # what was recorded stays, also if a step failed
        if self.recorder.diverged:
            step, stopped = int(self.recorder.pieces[-1].step[-1]), Stopped.DIVERGED
        # Before the final row, for there may be more epochs to come.
        self._save(step, diverged=stopped == "diverged")
        return self.recorder.finish(step, epoch, stopped)

    def _descend(self) -> tuple[int, int, Stopped]:
        """Take the steps that are left; return how many were taken, the epoch, and why it ended."""
        experiment, recorder = self.experiment, self.recorder
        epochs = experiment.configuration.epochs
        if self.update == "manual" and experiment.machine_code:
            return self._descend_by_blocks()
        gradient = experiment.gradient(self.update, self.hooks.on_rows)
        descent = descend(
            self.model, experiment.batches, self.optimizer, gradient, epochs, start=self.first
        )
        for step, epoch, loss in descent:
            if recorder.due or self._due_by_step(step):
                recorder.hand_over()
                if recorder.diverged:
                    return step, epoch, Stopped.DIVERGED
                if self.hooks.saver is not None and self.hooks.saver.due(step):
                    self._save(step)
            if self.hooks.stop():
                return step, epoch, Stopped.INTERRUPTED
            recorder.record(step, epoch, loss)
        return experiment.steps, epochs, Stopped.FINISHED

    def _descend_by_blocks(self) -> tuple[int, int, Stopped]:
        """The same as machine code, many steps at a time."""
        experiment, recorder, saver = self.experiment, self.recorder, self.hooks.saver
        c, batches = experiment.configuration, experiment.batches
        block = None if saver is None else saver.steps
        every, names = recorder.every, tuple(recorder.parameters)
        for step, recorded, rows in descend_compiled(
            self.model, batches, self.optimizer, c.epochs, every, start=self.first, block=block
        ):
            if len(rows):
                epoch, table = recorded // len(batches), torch.from_numpy(rows)
                recorder.take(Trajectory(names, recorded, epoch, table, stopped=None))
            if recorder.diverged:
                return step, step // len(batches), Stopped.DIVERGED
            if saver is not None and (saver.steps is not None or saver.due(step)):
                self._save(step)
            if self.hooks.stop() and step < experiment.steps:
                return step, step // len(batches), Stopped.INTERRUPTED
        return experiment.steps, c.epochs, Stopped.FINISHED

    def _due_by_step(self, step: int) -> bool:
        saver = self.hooks.saver
        return saver is not None and step > self.first and saver.due_by_step(step)

    def _save(self, step: int, diverged: bool = False) -> None:
        if self.hooks.saver is not None:
            self.hooks.saver.save(
                identity=self.experiment.identity(self.update),
                step=step,
                seconds=time.perf_counter() - self.began,
                diverged=diverged,
                model=dict(self.model.state_dict()),
                # Without torch's wrapper, as in ManualSGD.add_param_group.
                optimizer=inspect.unwrap(type(self.optimizer).state_dict)(self.optimizer),
            )


def _recorder(experiment: Experiment, model: Model, hooks: Hooks, start: Start | None) -> Recorder:
    every = experiment.configuration.record_every or 1
    done = None if start is None else start.trajectory
    recorder = partial(Recorder, model, experiment.steps, every, hooks.on_piece, done)
    if processes() == 1:
        return recorder()
    # Ranks find a divergence where they hand over, so all of them must at the same steps.
    rows = min(1000, max(1, 50_000_000 // experiment.batches.batch_size))
    return recorder(rows=rows, seconds=math.inf)
