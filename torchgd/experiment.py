"""From what is asked for to what runs: models, data and options by name, checked before a start."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchgd.affine import affine_trajectory, best_learning_rate
from torchgd.checks import compare
from torchgd.data import NAMES, Batches, Standardization, load
from torchgd.gradients import autograd_gradient, compiled, manual_gradient
from torchgd.lookup import MODELS, find_device, find_model, guarded
from torchgd.loss import mean_squared_error
from torchgd.models import DTYPES, Linear, Model
from torchgd.optim import ManualSGD
from torchgd.training import Update, train
from torchgd.trajectory import Recorder, Trajectory, record_interval

UPDATES: dict[str, Update] = {
    "manual": (manual_gradient, ManualSGD),
    "autograd": (autograd_gradient, torch.optim.SGD),
}
AFFINE = "affine"  # the update that takes all steps at once, and has no gradient and optimizer


@dataclass(frozen=True)
class Configuration:
    """What a run is asked to do: the flags of scripts/train.py, by name."""

    model: str = "linear"
    data: str | None = None  # lesson, or parabola for quadratic
    device: str = "auto"
    dtype: str = "float64"
    lr: float | str = 0.01  # or "auto"
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    epochs: int = 50
    batch_size: int | str = 1  # or "full"
    shuffle: bool = False
    seed: int = 0
    standardize: bool = False
    bias: bool = False
    initial: dict[str, float] = field(default_factory=dict)
    record_every: int | None = None
    compile: bool = False

    @classmethod
    def of_run(cls, config: Mapping[str, Any]) -> "Configuration":
        """Return what a run's config.json says that it was asked to do, on the CPU, not compiled.

        Raises:
            ValueError: something is missing.
        """
        try:
            asked = cls(**{field.name: config[field.name] for field in fields(cls)})
            folder = config["working_directory"]
        except KeyError as error:
            raise ValueError(f"config.json lacks {error}; run it again") from None
        if folder is not None and asked.data is not None and asked.data not in NAMES:
            asked = replace(asked, data=str(Path(folder, asked.data)))
        return replace(asked, device="cpu", compile=False)


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its path, and its final values in the data's own units.

    `loss` is the mean squared error over all data, whatever the batch size.
    """

    update: str
    trajectory: Trajectory
    parameters: dict[str, Tensor]
    loss: Tensor
    predicted_at: float
    prediction: Tensor
    seconds: float


class Experiment:
    """A configuration made ready to run: everything that can be refused is refused here.

    `configuration` is then the resolved one: no "auto", "full" or unnamed starting value is left.

    Raises:
        ValueError: something asked for does not exist, or does not fit the rest.
        OSError: a file cannot be read.
    """

    def __init__(self, asked: Configuration) -> None:
        self.configuration = asked  # until all of it is resolved, at the end
        self.device, self.dtype = find_device(asked.device), DTYPES[asked.dtype]
        self._make = find_model(asked.model, asked.bias)
        default = "parabola" if asked.model == "quadratic" else "lesson"
        self.data = load(default if asked.data is None else asked.data)
        model = self.new_model()
        self.standardization = self._standardization(model) if asked.standardize else None
        x, y = self._tensor(self.standardized(self.data.x)), self._tensor(self.data.y)
        size = len(x) if isinstance(asked.batch_size, str) else asked.batch_size
        self.batches = Batches(x, y, size, asked.shuffle, asked.seed)
        self._rehearse()
        self.configuration = replace(
            asked,
            data=default if asked.data is None else asked.data,
            device=str(self.device),
            lr=self._best_rate(model) if isinstance(asked.lr, str) else asked.lr,
            batch_size=size,
            initial={name: w.item() for name, w in model.named_parameters()},
            record_every=asked.record_every or record_interval(self.steps),
        )
        ManualSGD(model.parameters(), **self.options)  # refuses all that torch.optim.SGD does

    @property
    def name(self) -> str:
        """MODEL-DATA, as part of a directory's name."""
        model = self.configuration.model.rpartition(":")[2]
        return f"{model}-{self.data.name}"

    @property
    def reads_files(self) -> bool:
        """Whether model or data are the user's own files."""
        return self.configuration.model not in MODELS or self.configuration.data not in NAMES

    def __str__(self) -> str:
        c = self.configuration
        counts = {"sample": len(self.data.x), "epoch": c.epochs, "step": self.steps}
        samples, epochs, steps = (f"{n} {noun}{'s' * (n != 1)}" for noun, n in counts.items())
        return (
            f"{self.name}: {samples}, batch size {c.batch_size}, {epochs}, {steps}, "
            f"learning rate {c.lr:g}, {c.dtype} on {c.device}"
        )

    @property
    def steps(self) -> int:
        """How many steps the whole run takes."""
        return self.configuration.epochs * len(self.batches)

    @property
    def options(self) -> dict[str, Any]:
        """The optimizer's options."""
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        return {name: getattr(self.configuration, name) for name in names}

    def new_model(self) -> Model:
        """Return the model at its starting values."""
        name, initial = self.configuration.model, self.configuration.initial
        model: Model = self._make(device=self.device, dtype=self.dtype)
        parameters = dict(model.named_parameters())
        for parameter, value in initial.items():
            if parameter not in parameters:
                raise ValueError(
                    f"initial {parameter}={value}: model {name!r} has no parameter {parameter!r}; "
                    f"it has {', '.join(parameters)}"
                )
            exact = torch.tensor(value, dtype=torch.float64)
            with torch.no_grad():
                parameters[parameter].copy_(self._tensor(exact))
        return model

    def _standardization(self, model: Model) -> Standardization:
        through_origin = isinstance(model, Linear) and model.b is None
        z = Standardization.of(self.data.x, center=not through_origin)
        name, parameters = self.configuration.model, dict(model.named_parameters())
        mapped = guarded(name, lambda: dict(model.in_original_units(z.mean, z.deviation)))
        if mapped.keys() != parameters.keys():
            raise ValueError(
                f"model {name!r}: in_original_units returns {sorted(mapped)}; "
                f"give each of {sorted(parameters)}"
            )
        return z

    def standardized(self, x: Tensor) -> Tensor:
        """Return what the model is given for x in the data's units."""
        return x if self.standardization is None else self.standardization(x)

    def _tensor(self, values: Tensor) -> Tensor:
        """Return float64 values on the run's device and in its dtype, if they fit."""
        converted = values.to(self.device, self.dtype)
        if not converted.isfinite().all():
            raise ValueError(
                f"{values.abs().max().item()} is beyond {self.configuration.dtype}; "
                "scale the data or use float64"
            )
        return converted

    def _best_rate(self, model: Model) -> float:
        for name, value in self.options.items():
            if name != "lr" and value:
                raise ValueError(
                    f"lr auto with {name}: auto is the best rate of plain descent; "
                    "give the rate as a number"
                )
        batches = self.batches
        if batches.shuffle and len(batches) > 1:
            # Any samples may meet in a batch; none of their means is steeper than the steepest.
            batches = Batches(batches.x, batches.y, batch_size=1)
        return best_learning_rate(model, batches)

    def _rehearse(self) -> None:
        """Take each update's first gradient, so that a model that cannot is refused now."""
        x, y = next(iter(self.batches))
        for gradient, _ in UPDATES.values():
            model = self.new_model()
            Recorder(model)
            guarded(self.configuration.model, gradient, model, x, y)
        if self.configuration.compile:
            try:
                compiled(manual_gradient, x)(model, x, y)
            except Exception as error:  # torch has as many errors here as ways to lack a compiler
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise ValueError(
                    f"compile: torch.compile fails on this machine ({reason}); install a C++ "
                    "compiler, for CUDA Triton, or do without"
                ) from error

    def descend(
        self,
        model: Model,
        update: Update,
        options: Mapping[str, Any],
        on_block: Callable[[Trajectory], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Trajectory:
        """Train a model with any update, of these options."""
        gradient, optimizer = update
        if self.configuration.compile:
            gradient = compiled(gradient, next(iter(self.batches))[0])
        return train(
            model,
            self.batches,
            optimizer(model.parameters(), **options),
            gradient,
            self.configuration.epochs,
            record_every=self.configuration.record_every,
            on_block=on_block,
            stop=stop,
        )

    def run(
        self,
        update: str,
        predict: float,
        on_block: Callable[[Trajectory], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Train a new model by "manual", "autograd" or "affine"; predict ŷ at x = `predict`.

        The affine update computes the whole path at once, and so hands it over at once.
        """
        model = self.new_model()
        start = time.perf_counter()
        if update == AFFINE:
            trajectory = self._at_once(model)
            if on_block is not None:
                on_block(trajectory)
        else:
            trajectory = self.descend(model, UPDATES[update], self.options, on_block, stop)
        seconds = time.perf_counter() - start
        at = self.standardized(torch.tensor([predict], dtype=torch.float64))
        with torch.no_grad():
            loss = mean_squared_error(model(self.batches.x), self.batches.y)
            prediction = model(at.to(self.device, self.dtype))[0]
        if trajectory.stopped == "finished" and not loss.isfinite():
            trajectory = replace(trajectory, stopped="diverged")  # in a sample not seen since
        return Outcome(
            update=update,
            trajectory=trajectory,
            parameters=self._parameters(model),
            loss=loss.cpu(),
            predicted_at=predict,
            prediction=prediction.cpu(),
            seconds=seconds,
        )

    def _at_once(self, model: Model) -> Trajectory:
        c = self.configuration
        asked = {"epochs": c.epochs, "record_every": c.record_every, **self.options}
        return affine_trajectory(model, self.batches, compiled=c.compile, **asked)

    def _parameters(self, model: Model) -> dict[str, Tensor]:
        z = self.standardization
        if z is None:
            return {name: w.detach().cpu() for name, w in model.named_parameters()}
        values = model.in_original_units(z.mean, z.deviation)
        return {name: torch.tensor(value, dtype=self.dtype) for name, value in values.items()}


def cause(experiment: Experiment, options: Mapping[str, Any], a: Update, b: Update) -> str:
    """Name the half by which `a` parts from `b`: its gradient or its update of the weights.

    The mixed pairs tell: `a`'s gradient with `b`'s optimizer, and the other way round.
    """

    def descend(update: Update) -> Trajectory:
        return experiment.descend(experiment.new_model(), update, options)

    reference, halves = descend(b), {"gradient": (a[0], b[1]), "update": (b[0], a[1])}
    guilty = [n for n, mixed in halves.items() if not compare(descend(mixed), reference).identical]
    return " and ".join(guilty) or "gradient and update together"
