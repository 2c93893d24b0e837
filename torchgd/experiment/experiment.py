"""From what is asked for to what runs: models, data and options by name, checked before a start."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchgd.data import Batches, Standardization
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.own_model import (
    MODELS,
    call_user_code,
    find_model,
    in_original_units,
    model_sha256,
    refuse_model,
)
from torchgd.experiment.parallel import (
    CHUNK,
    compiled,
    find_device,
    fits_machine_code,
    in_chunks,
    numba_is_there,
    refuse_in_chunks,
    refuse_no_compiler,
)
from torchgd.experiment.ranks import processes
from torchgd.experiment.sources import NAMES, Column, Slices, load, sha256
from torchgd.gradients import GradientSource, autograd_gradient, manual_gradient
from torchgd.models import DTYPES, Linear, Model
from torchgd.optim import ManualSGD
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.landscape import Landscape
from torchgd.training import Update, count_steps, train
from torchgd.trajectory import Trajectory, record_interval

UPDATES: dict[str, Update] = {
    "manual": (manual_gradient, ManualSGD),
    "autograd": (autograd_gradient, torch.optim.SGD),
}
AFFINE = "affine"  # the update that takes all steps at once, and has no gradient and optimizer


class Experiment:
    """A configuration made ready to run: everything that can be refused is refused here.

    `configuration` is then the resolved one: no "auto", "full" or unnamed starting value is left.
    A data file's name is relative to `folder`.

    Raises:
        ValueError: something asked for does not exist, or does not fit the rest.
        OSError: a file cannot be read.
    """

    def __init__(self, asked: Configuration, folder: Path = Path()) -> None:
        self.configuration, self.folder = asked, folder  # until it is resolved, at the end
        self.device, self.dtype = find_device(asked.device), DTYPES[asked.dtype]
        self._make = find_model(asked.model, asked.bias)
        self.model_sha256 = model_sha256(asked.model)
        default = "parabola" if asked.model == "quadratic" else "lesson"
        name = default if asked.data is None else asked.data
        self.data = load(name, folder, asked.seed, asked.model == "quadratic", asked.columns)
        self.streams = asked.chunk_size is not None or isinstance(self.data.x, Column)
        if self.streams:
            refuse_in_chunks(asked)
        model = self.new_model()
        self.standardization = self._standardization(model) if asked.standardize else None
        size = len(self.data.x) if isinstance(asked.batch_size, str) else asked.batch_size
        if not self.streams:
            x, y = self._tensor(self.standardized(self.data.x)), self._tensor(self.data.y)
            self.batches = Batches(x, y, size, asked.shuffle, asked.seed)
        else:
            self.batches = Slices(self.data.x, self.data.y, size)
        count_steps(asked.epochs, len(self.batches))
        self.try_first_step()
        self.configuration = replace(
            asked,
            data=name,
            device=str(self.device),
            lr=self._best_rate(model) if isinstance(asked.lr, str) else asked.lr,
            batch_size=size,
            initial={name: w.item() for name, w in model.named_parameters()},
            record_every=asked.record_every or record_interval(self.steps),
            chunk_size=(asked.chunk_size or CHUNK[self.device.type]) if self.streams else None,
        )
        ManualSGD(model.parameters(), **self.options)  # refuses all that torch.optim.SGD does

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        model: str | None = None,
        data: str | None = None,
        **changes: Any,
    ) -> "Experiment":
        """Return what a run's config.json says, but for `changes`, ready to run again.

        Code in a file runs where the caller names it, as `model`: config.json may be anyone's.
        A data file is where it was, seen from where the run was started, or at `data`.

        Raises:
            ValueError: it is damaged, or as above.
        """
        asked, folder = Configuration.from_config(config), config.get("working_directory")
        if asked.model not in MODELS and model is None:
            raise ValueError(
                f"the run's model is {asked.model}, whose code is not run unasked: "
                "name it with --model FILE.py:CLASS"
            )
        if model is not None:
            changes["model"] = model
        if data is not None:
            folder, changes["data"] = None, data
        return cls(replace(asked, **changes), Path(folder) if isinstance(folder, str) else Path())

    @property
    def name(self) -> str:
        """MODEL-DATA, as part of a directory's name."""
        model = self.configuration.model.rpartition(":")[2]
        return f"{model}-{self.data.name}"

    @property
    def reads_files(self) -> bool:
        """Whether model or data are the user's own files."""
        return self.configuration.model not in MODELS or self.configuration.data not in NAMES

    @property
    def steps(self) -> int:
        """How many steps the whole run takes."""
        return self.configuration.epochs * len(self.batches)

    @property
    def options(self) -> dict[str, Any]:
        """The optimizer's options."""
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        return {name: getattr(self.configuration, name) for name in names}

    @cached_property
    def data_sha256(self) -> str:
        """The SHA-256 of the data (see `sha256`), taken once: each checkpoint has it."""
        return sha256(self.data.x, self.data.y)

    def identity(self, update: str) -> dict[str, Any]:
        """Return all that decides a run's bits: what is asked, of which model and which data."""
        return {
            "update": update,
            **asdict(self.configuration),
            "model_sha256": self.model_sha256,
            "data_sha256": self.data_sha256,
        }

    def new_model(self) -> Model:
        """Return the model at its starting values."""
        model: Model = self._make(device=self.device, dtype=self.dtype)
        parameters = dict(model.named_parameters())
        for parameter, value in self.configuration.initial.items():
            if parameter not in parameters:
                raise ValueError(
                    f"initial {parameter}={value}: model {self.configuration.model!r} has no "
                    f"parameter {parameter!r}; it has {', '.join(parameters)}"
                )
            exact = torch.tensor(value, dtype=torch.float64)
            with torch.no_grad():
                parameters[parameter].copy_(self._tensor(exact))
        return model

    def _standardization(self, model: Model) -> Standardization:
        through_origin = isinstance(model, Linear) and model.b is None
        z = Standardization.of(self.data.x, center=not through_origin)
        name, parameters = self.configuration.model, dict(model.named_parameters())
        mapped = call_user_code(name, in_original_units, model, z)
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
        return Landscape(model, batches).best_learning_rate()

    def try_first_step(self) -> None:
        """Take each update's first gradient, so that a model that cannot is refused now."""
        model, (x, y) = self.new_model(), next(iter(self.batches))
        if self.streams:
            x, y = (rows[:4096].to(self.device, self.dtype) for rows in (x, y))
        few = x if self.streams else self.batches.x[:: 1 + len(self.batches.x) // 4096]
        refuse_model(self.configuration.model, model, few)
        for gradient, _ in UPDATES.values():
            model = self.new_model()
            call_user_code(self.configuration.model, gradient, model, x, y)
        compiles = self.configuration.compile  # the loop by hand, or else the gradients
        loop = compiles and numba_is_there() and fits_machine_code(model, self.batches)
        self.machine_code = loop
        if compiles and not loop:
            refuse_no_compiler(lambda: compiled(manual_gradient, x)(model, x, y))

    def descend(self, update: Update, options: Mapping[str, Any]) -> Trajectory:
        """Train a new model with any update, of these options."""
        model, gradient = self.new_model(), self._as_asked(update[0])
        optimizer = update[1](model.parameters(), **options)
        epochs, every = self.configuration.epochs, self.configuration.record_every
        return train(model, self.batches, optimizer, gradient, epochs, record_every=every)

    def gradient(
        self, update: str, on_rows: Callable[[int], object] = lambda count: None
    ) -> GradientSource:
        """Return an update's gradient of a batch, whole or in chunks, over all processes."""
        gradient, rows = self._as_asked(UPDATES[update][0]), self.configuration.chunk_size
        if rows is None and processes() == 1:
            return gradient
        return in_chunks(gradient, rows or len(self.data.x), on_rows)

    def _as_asked(self, gradient: GradientSource) -> GradientSource:
        """Return a gradient compiled, if asked for, and with a user's errors named."""
        if self.configuration.compile and not self.machine_code:
            gradient = compiled(gradient, next(iter(self.batches))[0])
        if self.configuration.model not in MODELS:
            gradient = partial(call_user_code, self.configuration.model, gradient)
        return gradient

    def affine(self, model: Model) -> Trajectory:
        """Return the path of a model linear in its parameters, all steps taken at once."""
        c = self.configuration
        asked = {"epochs": c.epochs, "record_every": c.record_every, **self.options}
        return affine_trajectory(model, self.batches, **asked)

    def parameters(self, model: Model) -> dict[str, Tensor]:
        """Return a model's parameters in the data's own units, by name."""
        if self.standardization is None:
            return {name: w.detach().cpu() for name, w in model.named_parameters()}
        values = in_original_units(model, self.standardization)
        return {name: torch.tensor(value, dtype=self.dtype) for name, value in values.items()}
