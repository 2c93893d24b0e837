"""From what is asked for to what runs: models, data and options by name, checked before a start."""

import inspect
import math
import os
import reprlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from torchgd.data import NAMES, Batches, Column, Standardization, StreamedBatches, load
from torchgd.experiment.checkpoint import Checkpoint, Saver
from torchgd.experiment.chunks import Process
from torchgd.experiment.lookup import MODELS, find_device, find_model, guarded, model_sha256
from torchgd.gradients import GradientSource, autograd_gradient, compiled, manual_gradient
from torchgd.loss import mean_squared_error
from torchgd.models import DTYPES, Linear, Model, scalars
from torchgd.optim import ManualSGD
from torchgd.proof.checks import compare
from torchgd.theory.affine import affine_trajectory
from torchgd.theory.landscape import best_learning_rate
from torchgd.training import BatchesLike, Update, count_steps, train
from torchgd.trajectory import Recorder, Trajectory, record_interval

# Rows at a time of data that are not in memory: what fits into a CPU's cache, or fills a GPU.
CHUNK = {"cpu": 2**16, "cuda": 2**22}

UPDATES: dict[str, Update] = {
    "manual": (manual_gradient, ManualSGD),
    "autograd": (autograd_gradient, torch.optim.SGD),
}
AFFINE = "affine"  # the update that takes all steps at once, and has no gradient and optimizer


def _is_number(value: Any, least: float = -math.inf) -> bool:
    return type(value) in (int, float) and least <= value <= sys.float_info.max


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value < 2**63


# What a configuration may hold; most of it is refused by the command line's own types before.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda v: isinstance(v, str), "linear, quadratic or FILE.py:CLASS"),
    "data": (lambda v: v is None or isinstance(v, str), "a built-in data set or a file"),
    "device": (lambda v: isinstance(v, str), "auto, cpu, cuda or cuda:N"),
    "dtype": (lambda v: v in tuple(DTYPES), " or ".join(DTYPES)),
    "lr": (lambda v: v == "auto" or _is_number(v, 0), "a finite number of at least 0, or auto"),
    "momentum": (lambda v: _is_number(v, 0), "a finite number of at least 0"),
    "dampening": (_is_number, "a finite number"),
    "weight_decay": (lambda v: _is_number(v, 0), "a finite number of at least 0"),
    "nesterov": (lambda v: isinstance(v, bool), "true or false"),
    "maximize": (lambda v: isinstance(v, bool), "true or false"),
    "epochs": (_is_count, "an integer from 1 to 2⁶³ − 1"),
    "batch_size": (lambda v: v == "full" or _is_count(v), "an integer from 1 to 2⁶³ − 1, or full"),
    "shuffle": (lambda v: isinstance(v, bool), "true or false"),
    "seed": (lambda v: _is_count(v, 0), "an integer from 0 to 2⁶³ − 1"),
    "standardize": (lambda v: isinstance(v, bool), "true or false"),
    "bias": (lambda v: isinstance(v, bool), "true or false"),
    "initial": (
        lambda v: isinstance(v, dict) and all(map(_is_number, v.values())),
        "a finite number for each name",
    ),
    "record_every": (lambda v: v is None or _is_count(v), "an integer from 1 to 2⁶³ − 1"),
    "compile": (lambda v: isinstance(v, bool), "true or false"),
    "chunk_size": (lambda v: v is None or _is_count(v), "an integer from 1 to 2⁶³ − 1"),
}


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
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        for name, (accepts, rule) in RULES.items():
            value = getattr(self, name)
            if not accepts(value):
                raise ValueError(f"{name} {reprlib.repr(value)}: give {rule}")

    @classmethod
    def of_run(cls, config: Mapping[str, Any]) -> "Configuration":
        """Return what a run's config.json says that it was asked to do.

        Raises:
            ValueError: something is missing, or not what a run can be asked.
        """
        try:
            return cls(**{field.name: config[field.name] for field in fields(cls)})
        except KeyError as error:
            raise ValueError(f"config.json lacks {error}; run it again") from None
        except ValueError as error:
            raise ValueError(f"config.json is damaged: {error}, or run it again") from None


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
        self.data = load(name, folder, asked.seed, curved=asked.model == "quadratic")
        self.streams = asked.chunk_size is not None or isinstance(self.data.x, Column)
        if self.streams:
            refuse_in_chunks(asked)
        model = self.new_model()
        self.standardization = self._standardization(model) if asked.standardize else None
        size = len(self.data.x) if isinstance(asked.batch_size, str) else asked.batch_size
        self.batches: Batches
        if self.streams:
            self.batches = StreamedBatches(self.data.x, self.data.y, size)
        else:
            x, y = self._tensor(self.standardized(self.data.x)), self._tensor(self.data.y)
            self.batches = Batches(x, y, size, asked.shuffle, asked.seed)
        count_steps(asked.epochs, len(self.batches))
        self._rehearse()
        self.configuration = replace(
            asked,
            data=default if asked.data is None else asked.data,
            device=str(self.device),
            lr=self._best_rate(model) if isinstance(asked.lr, str) else asked.lr,
            batch_size=size,
            initial={name: w.item() for name, w in model.named_parameters()},
            record_every=asked.record_every or record_interval(self.steps),
            chunk_size=(asked.chunk_size or CHUNK[self.device.type]) if self.streams else None,
        )
        ManualSGD(model.parameters(), **self.options)  # refuses all that torch.optim.SGD does

    @classmethod
    def of_run(
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
        asked, folder = Configuration.of_run(config), config.get("working_directory")
        if asked.model not in MODELS:
            if model is None:
                raise ValueError(
                    f"the run's model is {asked.model}, whose code is not run unasked: "
                    "name it with --model FILE.py:CLASS"
                )
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

    def identity(self, update: str) -> dict[str, Any]:
        """Return all that decides a run's bits: what is asked, of which model and which data."""
        return {
            "update": update,
            **asdict(self.configuration),
            "model_sha256": self.model_sha256,
            "data_sha256": self.data.sha256,
        }

    def checkpoint(self, update: str, path: Path) -> Checkpoint | None:
        """Return the checkpoint at `path`, if there is one, from which `update` can go on.

        Raises:
            ValueError: it is damaged, or of another run.
            OSError: it cannot be read.
        """
        if update == AFFINE or not os.path.lexists(path):
            return None
        found, model = Checkpoint.load(path), self.new_model()
        # Files may have moved, and their hashes say what was in them; epochs may be more.
        free, own = {"model", "data", "epochs"}, self.identity(update)
        for name, value in own.items():
            theirs, ours = repr(found.identity.get(name)), repr(value)
            if name not in free and theirs != ours:
                raise ValueError(
                    f"{path} is of another run: {name} is {theirs} there, and {ours} here; give "
                    "this run its own, or remove it and the run starts again"
                )
        if isinstance(found.step, int) and found.step > self.steps:
            raise ValueError(
                f"{path} is {found.step} steps on, and this run has {self.steps}; give it its own, "
                "or remove it and the run starts again"
            )
        try:
            found.restore(model, UPDATES[update][1](model.parameters(), **self.options))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return found

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
        model = self.new_model()
        scalars(model)
        x, y = next(iter(self.batches))
        if self.streams:
            x, y = (rows[:4096].to(self.device, self.dtype) for rows in (x, y))
        few = x if self.streams else self.batches.x[:: 1 + len(self.batches.x) // 4096]
        refuse_model(self.configuration.model, model, few)
        for gradient, _ in UPDATES.values():
            model = self.new_model()
            guarded(self.configuration.model, gradient, model, x, y)
        if self.configuration.compile:
            try:
                compiled(manual_gradient, x)(model, x, y)
            except Exception as error:  # torch has as many errors here as ways to lack a compiler
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                way_out = "install a C++ compiler, for CUDA Triton, or do without"
                if isinstance(error, UnicodeError):  # torch reads its own files in the locale's
                    way_out = "set PYTHONUTF8=1, or do without"
                raise ValueError(
                    f"compile: torch.compile fails on this machine ({reason}); {way_out}"
                ) from error

    def descend(self, model: Model, update: Update, options: Mapping[str, Any]) -> Trajectory:
        """Train a model with any update, of these options."""
        gradient, optimizer = update
        return self._train(model, gradient, optimizer(model.parameters(), **options))

    def _train(
        self,
        model: Model,
        gradient: GradientSource,
        optimizer: Optimizer,
        batches: BatchesLike | None = None,
        **hooks: Any,
    ) -> Trajectory:
        c = self.configuration
        if c.compile:
            gradient = compiled(gradient, next(iter(self.batches))[0])
        if c.model not in MODELS:
            gradient = partial(guarded, c.model, gradient)
        batches, every = batches or self.batches, c.record_every
        return train(model, batches, optimizer, gradient, c.epochs, record_every=every, **hooks)

    def run(
        self,
        update: str,
        predict: float,
        on_block: Callable[[Trajectory], None] = lambda piece: None,
        stop: Callable[[], bool] = lambda: False,
        saver: Saver | None = None,
        start: Checkpoint | None = None,
        process: Process | None = None,
    ) -> Outcome:
        """Train a new model by "manual", "autograd" or "affine"; predict ŷ at x = `predict`.

        With a `saver` it keeps checkpoints, and from one, `start`, it goes on. A `process` that is
        one of several, or takes chunks, shares the work or cuts it up. The affine update
        computes the whole path at once, and so hands it over at once and needs none.

        Raises:
            ValueError: `start` does not fit, or there is no such update, or `predict` is no number.
            OSError: `on_block` or `saver` cannot write.
        """
        if update not in (*UPDATES, AFFINE):
            raise ValueError(f"update {update!r}: choose {', '.join((*UPDATES, AFFINE))}")
        if not math.isfinite(predict):
            raise ValueError(f"predict {predict}: give a finite number")
        if self.streams and process is None:
            process = Process(self.configuration.chunk_size)
        model = self.new_model()
        began = time.perf_counter() - (0.0 if start is None else start.seconds)
        if update == AFFINE:
            trajectory = self._at_once(model)
            on_block(trajectory)
        else:
            trajectory = self._go_on(update, model, on_block, stop, saver, start, process, began)
        seconds = time.perf_counter() - began
        at = self.standardized(torch.tensor([predict], dtype=torch.float64))
        with torch.no_grad():
            predict_all = partial(guarded, self.configuration.model, model)
            if self.streams and process is not None:
                loss = process.loss(model, self.batches.x, self.batches.y)
            else:
                loss = mean_squared_error(predict_all(self.batches.x), self.batches.y)
            prediction = predict_all(at.to(self.device, self.dtype))[0]
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

    def _go_on(
        self,
        update: str,
        model: Model,
        on_block: Callable[[Trajectory], None],
        stop: Callable[[], bool],
        saver: Saver | None,
        start: Checkpoint | None,
        process: Process | None,
        began: float,
    ) -> Trajectory:
        gradient, make = UPDATES[update]
        optimizer = make(model.parameters(), **self.options)
        pieces: list[Trajectory] = []
        if start is not None:
            start.restore(model, optimizer)
            pieces.append(start.done(self.steps))

        def collect(piece: Trajectory) -> None:
            pieces.append(piece)
            on_block(piece)

        if start is not None and start.trajectory.stopped == "diverged":
            epoch = int(start.trajectory.epoch[-1])
            Recorder(model, collect).finish(start.step, epoch, "diverged")
            return Trajectory.join(pieces)

        def save(step: int, now: bool = False) -> None:
            if saver is not None and (now or saver.due(step)):
                saver.save(
                    Checkpoint(
                        self.identity(update),
                        step,
                        dict(model.state_dict()),
                        # Without torch's wrapper, as in ManualSGD.add_param_group.
                        inspect.unwrap(type(optimizer).state_dict)(optimizer),
                        Trajectory.join(pieces),
                        time.perf_counter() - began,
                    )
                )

        batches: BatchesLike = self.batches
        block_rows = None
        if process is not None:
            # Ranks find a divergence where they hand over, so all of them must at the same steps.
            block_rows = min(1000, max(1, 50_000_000 // self.batches.batch_size))
            batches, gradient = process.part(update, model, self.batches)
            stop = process.agree(stop)
        self._train(
            model,
            gradient,
            optimizer,
            batches,
            block_rows=block_rows,
            start=0 if start is None else start.step,
            on_block=collect,
            save=save,
            save_every=None if saver is None else saver.steps,
            stop=stop,
        )
        trajectory = Trajectory.join(pieces)
        save(int(trajectory.step[-1]), now=True)
        return trajectory

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


def refuse_in_chunks(asked: Configuration) -> None:
    """Refuse what needs all of the data in memory, or at once."""
    for name in ("shuffle", "standardize", "compile"):
        if getattr(asked, name):
            raise ValueError(f"{name} needs the data in memory, not in chunks; leave it out")
    if asked.lr == "auto":
        raise ValueError("lr auto needs the data in memory, not in chunks; give a number")


def refuse_model(name: str, model: Model, x: Tensor) -> None:
    """Refuse a user's model whose ŷ or ∂ŷ/∂w are no tensors, NaN, or others each time."""

    def returned() -> dict[str, Any]:
        partials = guarded(name, model.partials, x)
        if not isinstance(partials, dict):
            kind = type(partials).__name__
            raise ValueError(
                f"model {name!r}: partials(x) is a {kind}; give a dict of ∂ŷ/∂w by name"
            )
        derivatives = {f"partials(x)[{w!r}]": partial for w, partial in partials.items()}
        return {"forward(x)": guarded(name, model, x), **derivatives}

    again = returned()
    for what, value in returned().items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise ValueError(f"model {name!r}: {what} is a {kind}; give a tensor of x's shape")
        if value.shape == x.shape and value.isnan().any():
            at = x[value.isnan()][0].item()
            raise ValueError(f"model {name!r}: {what} is NaN at x = {at:g}; give a number")
        if not torch.equal(value, again[what]):
            raise ValueError(
                f"model {name!r}: {what} is another each time; let it depend on x, parameters and "
                "buffers alone"
            )


def cause(experiment: Experiment, options: Mapping[str, Any], a: Update, b: Update) -> str:
    """Name the half by which `a` parts from `b`: its gradient or its update of the weights.

    The mixed pairs tell: `a`'s gradient with `b`'s optimizer, and the other way round.
    """

    def descend(update: Update) -> Trajectory:
        return experiment.descend(experiment.new_model(), update, options)

    reference, halves = descend(b), {"gradient": (a[0], b[1]), "update": (b[0], a[1])}
    guilty = [n for n, mixed in halves.items() if not compare(descend(mixed), reference).identical]
    return " and ".join(guilty) or "gradient and update together"
