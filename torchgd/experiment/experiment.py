"""From what is asked for to what can run: model, data and options by name, checked beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torchgd.data import Batches, DataSet, Standardization
from torchgd.entries import names_of, set_weights, weights_of
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.own_model import (
    MODELS,
    in_original_units,
)
from torchgd.experiment.parallel import (
    compiled,
    in_chunks,
    processes,
)
from torchgd.experiment.sources import NAMES, Mapped
from torchgd.gradients import (
    GradientSource,
    autograd_gradient,
    few,
    is_linear_in_parameters,
    manual_gradient,
)
from torchgd.loss import mean_squared_error
from torchgd.models import DTYPES, Model
from torchgd.optim import ManualSGD
from torchgd.proof.mistakes import WAYS
from torchgd.theory.landscape import Landscape
from torchgd.training import Update

MANUAL: Update = (manual_gradient, ManualSGD)
AUTOGRAD: Update = (autograd_gradient, torch.optim.SGD)
BY_NAME: dict[str, Callable[[float, int], Update]] = {
    **dict.fromkeys(("manual", "affine", "compiled"), lambda lr, batches: MANUAL),
    "autograd": lambda lr, batches: AUTOGRAD,
    **WAYS,
}
MAY_CHANGE = ("epochs", "model", "data")  # the files may have moved, but their hashes must not


@dataclass(frozen=True)
class Experiment:
    """A configuration in which nothing is left open, with its model and its data (see `resolve`).

    A data file's name is relative to `folder`. `make` returns the model, of `device` and `dtype`;
    ŷ is predicted at the x `predict_at`, a number for each column.
    """

    configuration: Configuration
    folder: Path
    make: Callable[..., Model]
    data: DataSet
    standardization: Standardization | None
    batches: Batches
    model_sha256: str
    data_sha256: str
    predict_at: tuple[float, ...]

    @property
    def name(self) -> str:
        """MODEL-DATA, as part of a directory's name."""
        return f"{self.configuration.model.rpartition(':')[2]}-{self.data.name}"

    @property
    def steps(self) -> int:
        """How many steps the whole run takes."""
        return self.configuration.epochs * len(self.batches)

    @property
    def options(self) -> dict[str, Any]:
        """The optimizer's options."""
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        return {name: getattr(self.configuration, name) for name in names}

    @property
    def reads_files(self) -> bool:
        """Whether model or data are the user's own files."""
        return self.configuration.model not in MODELS or self.configuration.data not in NAMES

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides a run's bits: what is asked, of which model and which data."""
        hashes = {"model_sha256": self.model_sha256, "data_sha256": self.data_sha256}
        offset = {"offset": self.offset} if self.offset else {}
        return {**asdict(self.configuration), **hashes, **offset}

    @property
    def few(self) -> Tensor:
        """Some samples' x, spread over all of them, on the run's device and in its dtype."""
        c = self.configuration
        return few(self.batches.x).to(c.device, DTYPES[c.dtype])

    @property
    def offset(self) -> float:
        """What the model's ŷ lacks of the data's y."""
        return 0.0 if self.standardization is None else self.standardization.offset

    @cached_property
    def linear(self) -> bool:
        """Whether the model is linear in its parameters."""
        return is_linear_in_parameters(self.new_model(), self.few)

    @cached_property
    def landscape(self) -> Landscape | None:
        """The loss over all data; None of a model not linear in w, or data beyond float64."""
        self.batches.set_epoch(0)
        try:
            return Landscape(self.new_model(), self.batches) if self.linear else None
        except ValueError:
            return None

    @property
    def least_squares(self) -> Landscape | None:
        """The landscape whose lowest point a descent leads to; None if no one point is known.

        That is so of a model that is not linear in its parameters, of data that do not determine
        the parameters or are beyond float64, and of a climb.
        """
        landscape, climbs = self.landscape, self.configuration.maximize
        return landscape if landscape is not None and landscape.unique and not climbs else None

    def new_model(self, weights: Tensor | None = None) -> Model:
        """Return the model at its starting values, or with these weights (P,)."""
        device, dtype = torch.device(self.configuration.device), DTYPES[self.configuration.dtype]
        model = self.make(device=device, dtype=dtype)
        names, initial = names_of(model), self.configuration.initial
        for name, value in initial.items():
            if name not in names:
                raise ValueError(
                    f"initial {name}={value}: model {self.configuration.model!r} has no "
                    f"parameter {name!r}; it has {', '.join(names)}"
                )
        if weights is None and initial:
            given = torch.tensor([*initial.values()], dtype=torch.float64)
            weights = weights_of(model)
            places = [names.index(name) for name in initial]
            weights[places] = converted(given, self.configuration).to(weights)
        if weights is not None:
            set_weights(model, weights)
        return model

    @property
    def update(self) -> Update:
        """The gradient and the optimizer of the steps; those by hand, too, where it has neither."""
        lr = float(self.configuration.lr)
        return BY_NAME[self.configuration.update](lr, len(self.batches))

    def optimizer(self, model: Model) -> Optimizer:
        """Return the update's optimizer of a model."""
        return self.update[1](model.parameters(), **self.options)

    def gradient(self, on_rows: Callable[[int], object] = lambda count: None) -> GradientSource:
        """Return the update's gradient of a batch, whole or in chunks, over all processes."""
        gradient, rows = self.update[0], self.configuration.chunk_size
        if self.configuration.compile:
            gradient = compiled(gradient, next(iter(self.batches))[0])
        if rows is None and processes() == 1:
            return gradient
        return self._in_chunks(gradient, on_rows)

    def _in_chunks(
        self, gradient: GradientSource, on_rows: Callable[[int], object]
    ) -> GradientSource:

        def before(count: int) -> None:
            self.refuse_changed_data()
            on_rows(count)

        return in_chunks(gradient, self.configuration.chunk_size or len(self.data.x), before)

    def refuse_changed_data(self) -> None:
        """Raise ValueError if the data are read from a file that is not what it was."""
        if isinstance(self.data, Mapped):
            self.data.refuse_changes()

    @torch.no_grad()
    def loss(self, model: Model, on_rows: Callable[[int], object] = lambda count: None) -> Tensor:
        """Return the loss over all data, whatever the batch size, on the CPU."""
        x, y = self.batches.x, self.batches.y
        if self.configuration.chunk_size is None:
            return mean_squared_error(model(x), y).cpu()
        return self._in_chunks(manual_gradient, on_rows)(model, x, y).cpu()  # no step follows

    def standardized(self, x: Tensor) -> Tensor:
        """Return what the model is given for x in the data's units."""
        return x if self.standardization is None else self.standardization(x)

    def parameters(self, model: Model) -> dict[str, Tensor]:
        """Return a model's parameters in the data's own units, by name."""
        z, names = self.standardization, names_of(model)
        c, values = self.configuration, weights_of(model).cpu()
        if z is not None:
            values = in_original_units(c.model, model, z).to(DTYPES[c.dtype])
        return dict(zip(names, values, strict=True))

    @torch.no_grad()
    def predict(self, model: Model) -> Tensor:
        """Return ŷ at `predict_at`, which is in the data's units."""
        x = torch.tensor([self.predict_at], dtype=torch.float64)
        at = self.standardized(x if self.data.features > 1 else x[0])
        c = self.configuration
        prediction: Tensor = model(at.to(c.device, DTYPES[c.dtype]))
        return prediction[0].cpu() + self.offset


def identity(experiment: Experiment) -> dict[str, Any]:
    """Return all that decides the bits of a run's steps."""
    return {name: value for name, value in experiment.identity.items() if name not in MAY_CHANGE}


def what_is_run(experiments: Sequence[Experiment]) -> str:
    """Return model, data, learning rate, batch size and momentum as a name, of what is alike."""
    c = experiments[0].configuration
    alone = len({experiment.configuration.lr for experiment in experiments}) == 1
    words = [experiments[0].name, f"lr{c.lr:g}" * alone, f"batch{c.batch_size}"]
    words.append(f"momentum{c.momentum:g}" * (c.momentum != 0))
    return "-".join(filter(None, words))


def converted(values: Tensor, c: Configuration) -> Tensor:
    """Return float64 values on the run's device and in its dtype, if they fit."""
    found = values.to(c.device, DTYPES[c.dtype])
    if not found.isfinite().all():
        largest = values.abs().max().item()
        raise ValueError(f"{largest} is beyond {c.dtype}; scale the data or use float64")
    return found
