"""From what is asked for to what can run: model, data and options by name, checked beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters
from torch.optim.optimizer import Optimizer

from torchgd.compiled import require_compiled
from torchgd.data import Batches, DataSet, Standardization
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.own_model import (
    MODELS,
    find_model,
    in_original_units,
    model_sha256,
    naming,
    refuse_model,
    standardization,
)
from torchgd.experiment.parallel import (
    compiled,
    find_device,
    in_chunks,
    processes,
    refuse_no_compiler,
)
from torchgd.experiment.sources import LARGE, NAMES, Mapped, chunk_rows, load, sha256
from torchgd.gradients import (
    GradientSource,
    autograd_gradient,
    few,
    is_linear_in_parameters,
    manual_gradient,
    require_linear,
)
from torchgd.loss import mean_squared_error
from torchgd.models import DTYPES, Model, scalars
from torchgd.optim import ManualSGD
from torchgd.proof.mistakes import WAYS
from torchgd.theory.landscape import Landscape
from torchgd.training import Update, count_steps
from torchgd.trajectory import record_interval

MANUAL: Update = (manual_gradient, ManualSGD)
AUTOGRAD: Update = (autograd_gradient, torch.optim.SGD)
BY_NAME: dict[str, Callable[[float, int], Update]] = {
    **dict.fromkeys(("manual", "affine", "compiled"), lambda lr, batches: MANUAL),
    "autograd": lambda lr, batches: AUTOGRAD,
    **WAYS,
}
ALONE = ("shuffle", "standardize", "compile")  # what needs all of the data in memory
FEW = 4096  # samples of a first step on data that are read in chunks


@dataclass(frozen=True)
class Experiment:
    """A configuration in which nothing is left open, with its model and its data (see `resolve`).

    A data file's name is relative to `folder`. `make` returns the model, of `device` and `dtype`.
    """

    configuration: Configuration
    folder: Path
    make: Callable[..., Model]
    data: DataSet
    standardization: Standardization | None
    batches: Batches
    model_sha256: str
    data_sha256: str

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

    def new_model(self, weights: Tensor | None = None) -> Model:
        """Return the model at its starting values, or with these weights (P,)."""
        device, dtype = torch.device(self.configuration.device), DTYPES[self.configuration.dtype]
        model = self.make(device=device, dtype=dtype)
        parameters = dict(model.named_parameters())
        for name, value in self.configuration.initial.items():
            if name not in parameters:
                raise ValueError(
                    f"initial {name}={value}: model {self.configuration.model!r} has no "
                    f"parameter {name!r}; it has {', '.join(parameters)}"
                )
            exact = torch.tensor(value, dtype=torch.float64)
            with torch.no_grad():
                parameters[name].copy_(converted(exact, self.configuration))
        if weights is not None:
            vector_to_parameters(weights.to(device, dtype), parameters.values())
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
        z = self.standardization
        if z is None:
            return {name: w.detach().cpu() for name, w in model.named_parameters()}
        dtype = DTYPES[self.configuration.dtype]
        return {n: torch.tensor(w, dtype=dtype) for n, w in in_original_units(model, z).items()}

    @torch.no_grad()
    def predict(self, model: Model, x: float) -> Tensor:
        """Return ŷ at an x in the data's units."""
        at = self.standardized(torch.tensor([x], dtype=torch.float64))
        c = self.configuration
        prediction: Tensor = model(at.to(c.device, DTYPES[c.dtype]))
        return prediction[0].cpu() + self.offset

    def taking(self, update: str, lr: float | str) -> "Experiment":
        """Return the same by another update and another rate, "auto" among them.

        Raises:
            ValueError: they do not fit the rest.
        """
        rate = self._automatic_rate() if isinstance(lr, str) else lr
        taken = replace(self, configuration=replace(self.configuration, update=update, lr=rate))
        taken._refuse_what_does_not_fit()
        return taken

    def _automatic_rate(self) -> float:
        for name, value in self.options.items():
            if name != "lr" and value:
                raise ValueError(
                    f"lr auto with {name}: auto is a rate for plain descent; "
                    "give the rate as a number"
                )
        return automatic_rate(self.new_model(), self.batches)

    def _refuse_what_does_not_fit(self) -> None:
        c, only = self.configuration, "takes one process and no --chunk-size"
        if c.update not in ("manual", "autograd"):
            if c.compile:
                raise ValueError(f"--compile goes with manual and autograd, not with {c.update}")
            if processes() > 1 or c.chunk_size is not None:
                raise ValueError(f"--update {c.update} {only}; take manual or autograd")
        if c.compile and processes() > 1:
            raise ValueError(f"--compile {only}; leave it out")
        for name, value in self.options.items():
            if not torch.tensor(value, dtype=DTYPES[c.dtype]).isfinite():
                raise ValueError(f"{name} {value} is beyond {c.dtype}; give a smaller number")
        x, y = next(iter(self.batches))
        if c.chunk_size is not None:
            x, y = (rows[:FEW].to(c.device, DTYPES[c.dtype]) for rows in (x, y))
        model = self.new_model()
        refuse_model(c.model, model, self.few)
        self.update[0](self.new_model(), x, y)
        self.optimizer(model)  # refuses all that torch.optim.SGD does
        if c.update == "affine":
            require_linear(model, self.few)
        if c.update == "compiled":
            require_compiled(model, self.batches)
        if c.compile:
            refuse_no_compiler(lambda: compiled(manual_gradient, x)(model, x, y))


def automatic_rate(model: Model, batches: Batches) -> float:
    """Return the best learning rate of the full batch or, of smaller ones, a safe one.

    At a safe rate no step enlarges any error (see `Landscape.safe_learning_rate`).
    """
    if batches.shuffle and len(batches) > 1:
        # Any samples may meet in a batch; none of their means is steeper than the steepest.
        batches = Batches(batches.x, batches.y, batch_size=1)
    return Landscape(model, batches).safe_learning_rate()


def resolve(asked: Sequence[Configuration], folder: Path = Path()) -> list[Experiment]:
    """Return an experiment for each configuration: no "auto", "full" or unnamed value is left.

    Those that differ in update and learning rate alone share their data. All that can be refused is
    refused here.

    Raises:
        ValueError: something asked for does not exist, or does not fit the rest.
        OSError: a file cannot be read.
    """
    made: list[tuple[Configuration, Experiment]] = []
    for one in asked:
        like = (e for a, e in made if replace(a, update=one.update, lr=one.lr) == one)
        with naming(one.model):
            prepared = next(like, None) or _prepared(one, folder)
            made.append((one, prepared.taking(one.update, one.lr)))
    return [experiment for _, experiment in made]


def _prepared(asked: Configuration, folder: Path) -> Experiment:
    """Return an experiment whose update and learning rate are not looked at yet."""
    make, curved = find_model(asked.model, asked.bias), asked.model == "quadratic"
    name = asked.data or ("parabola" if curved else "lesson")
    data = load(name, folder, asked.seed, curved, asked.columns)
    samples, rows = len(data.x), asked.chunk_size
    size = samples if isinstance(asked.batch_size, str) else asked.batch_size
    device = find_device(asked.device, size)
    if rows is None and 16 * samples > LARGE:
        rows = chunk_rows(device)
    for alone in ALONE:
        if rows is not None and getattr(asked, alone):
            raise ValueError(f"{alone} needs the data in memory, not in chunks; leave it out")
    c = replace(asked, data=name, device=str(device), chunk_size=rows)
    model = make(device=device, dtype=DTYPES[c.dtype])
    scalars(model)
    z = standardization(c.model, model, data.x, data.y) if c.standardize else None
    x, y = (data.x, data.y) if z is None else (z(data.x), data.y - z.offset)
    if rows is None:
        x, y = converted(x, c), converted(y, c)
    batches = Batches(x, y, size, c.shuffle, c.seed)
    steps = count_steps(c.epochs, len(batches), c.record_every)
    every = c.record_every or record_interval(steps)
    c = replace(c, batch_size=size, record_every=every)
    hashes = model_sha256(c.model), sha256(data)
    made = Experiment(c, folder, make, data, z, batches, *hashes)
    initial = {name: w.item() for name, w in made.new_model().named_parameters()}
    return replace(made, configuration=replace(c, initial=initial))


def from_config(
    config: Mapping[str, Any], model: str | None = None, data: str | None = None, **changes: Any
) -> tuple[Configuration, Path]:
    """Return what a run's config.json says, but for `changes`, and where its files are.

    Code in a file runs only if the caller names it, as `model`: config.json may be anyone's.
    A data file is where it was, seen from where the run was started, or at `data`.

    Raises:
        ValueError: it is damaged, or its model is in a file and not named.
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
    return replace(asked, **changes), Path(folder) if isinstance(folder, str) else Path()


def converted(values: Tensor, c: Configuration) -> Tensor:
    """Return float64 values on the run's device and in its dtype, if they fit."""
    found = values.to(c.device, DTYPES[c.dtype])
    if not found.isfinite().all():
        largest = values.abs().max().item()
        raise ValueError(f"{largest} is beyond {c.dtype}; scale the data or use float64")
    return found
