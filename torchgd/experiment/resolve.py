"""From what is asked for to what can run: `resolve` leaves nothing open, and refuses the rest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchgd.compiled import require_compiled
from torchgd.data import Batches, DataSet
from torchgd.entries import names_of, parameters_of, weights_of
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import Experiment, converted
from torchgd.experiment.own_model import (
    MODELS,
    find_model,
    model_sha256,
    naming,
    refuse_model,
    standardization,
)
from torchgd.experiment.parallel import compiled, find_device, processes, refuse_no_compiler
from torchgd.experiment.sources import BLOCK, LARGE, chunk_rows, load, sha256
from torchgd.gradients import manual_gradient, require_linear
from torchgd.models import DTYPES
from torchgd.theory.landscape import automatic_rate
from torchgd.training import count_steps
from torchgd.trajectory import record_interval

ALONE = ("shuffle", "standardize", "compile")  # what needs all of the data in memory
FEW = 4096  # samples of a first step on data that are read in chunks


def resolve(
    asked: Sequence[Configuration], folder: Path = Path(), predict: Sequence[float] = ()
) -> list[Experiment]:
    """Return an experiment for each configuration: no "auto", "full" or unnamed value is left.

    Those that differ in update and learning rate alone share their data. All that can be refused is
    refused here. They `predict` ŷ at an x, a number for each column; by default at 4, of several
    columns at their means.

    Raises:
        ValueError: something asked for does not exist, or does not fit the rest.
        OSError: a file cannot be read.
    """
    for one in asked:
        if one.compile and one.update not in ("manual", "autograd"):
            raise ValueError(f"--compile goes with manual and autograd, not with {one.update}")
    made: list[tuple[Configuration, Experiment]] = []
    for one in asked:
        like = (e for a, e in made if replace(a, update=one.update, lr=one.lr) == one)
        with naming(one.model):
            prepared = next(like, None) or _prepared(one, folder, predict)
            made.append((one, _taking(prepared, one.update, one.lr)))
    return [experiment for _, experiment in made]


def _prepared(asked: Configuration, folder: Path, predict: Sequence[float]) -> Experiment:
    """Return an experiment whose update and learning rate are not looked at yet."""
    curved = asked.model == "quadratic"
    name = asked.data or ("parabola" if curved else "lesson")
    data = load(name, folder, asked.seed, curved, asked.columns)
    make = find_model(asked.model, asked.bias, data.features)
    samples, rows = len(data.x), asked.chunk_size
    size = samples if isinstance(asked.batch_size, str) else asked.batch_size
    device = find_device(asked.device, size)
    if rows is None and 8 * (data.features + 1) * samples > LARGE:
        rows = chunk_rows(device, data.features)
    for alone in ALONE:
        if rows is not None and getattr(asked, alone):
            raise ValueError(f"{alone} needs the data in memory, not in chunks; leave it out")
    c = replace(asked, data=name, device=str(device), chunk_size=rows)
    model = make(device=device, dtype=DTYPES[c.dtype])
    parameters_of(model)
    z = standardization(c.model, model, data.x, data.y) if c.standardize else None
    x, y = (data.x, data.y) if z is None else (z(data.x), data.y - z.offset)
    if rows is None:
        x, y = converted(x, c), converted(y, c)
    batches = Batches(x, y, size, c.shuffle, c.seed)
    steps = count_steps(c.epochs, len(batches), c.record_every)
    every = c.record_every or record_interval(steps)
    c = replace(c, batch_size=size, record_every=every)
    hashes = model_sha256(c.model), sha256(data)
    made = Experiment(c, folder, make, data, z, batches, *hashes, _where(predict, data))
    model = made.new_model()
    initial = dict(zip(names_of(model), weights_of(model).tolist(), strict=True))
    return replace(made, configuration=replace(c, initial=initial))


def _where(predict: Sequence[float], data: DataSet) -> tuple[float, ...]:
    """Return at which x, a number for each column, ŷ is to be predicted."""
    if not predict and data.features == 1:
        return (4.0,)
    if not predict:
        blocks = (part.double().sum(dim=0) for part in data.x.split(BLOCK))
        return tuple((torch.stack([*blocks]).sum(dim=0) / len(data.x)).tolist())
    shown = ",".join(f"{x:g}" for x in predict)
    if len(predict) != data.features:
        raise ValueError(f"predict {shown}: x has columns: {data.features}; give a number of each")
    if not all(map(math.isfinite, predict)):
        raise ValueError(f"predict {shown}: give finite numbers")
    return tuple(predict)


def _taking(experiment: Experiment, update: str, lr: float | str) -> Experiment:
    """Return the same by another update and another rate, "auto" among them."""
    rate = _rate(experiment) if isinstance(lr, str) else lr
    asked = replace(experiment.configuration, update=update, lr=rate)
    taken = replace(experiment, configuration=asked)
    _refuse_what_does_not_fit(taken)
    return taken


def _rate(experiment: Experiment) -> float:
    for name, value in experiment.options.items():
        if name != "lr" and value:
            raise ValueError(
                f"lr auto with {name}: auto is a rate for plain descent; give the rate as a number"
            )
    return automatic_rate(experiment.new_model(), experiment.batches)


def _refuse_what_does_not_fit(experiment: Experiment) -> None:
    c, only = experiment.configuration, "takes one process and no --chunk-size"
    alone = processes() == 1 and c.chunk_size is None
    if c.update not in ("manual", "autograd") and not alone:
        raise ValueError(f"--update {c.update} {only}; take manual or autograd")
    if c.compile and processes() > 1:
        raise ValueError(f"--compile {only}; leave it out")
    for name, value in experiment.options.items():
        if not torch.tensor(value, dtype=DTYPES[c.dtype]).isfinite():
            raise ValueError(f"{name} {value} is beyond {c.dtype}; give a smaller number")
    x, y = next(iter(experiment.batches))
    if c.chunk_size is not None:
        x, y = (rows[:FEW].to(c.device, DTYPES[c.dtype]) for rows in (x, y))
    model = experiment.new_model()
    refuse_model(c.model, model, experiment.few)
    experiment.update[0](experiment.new_model(), x, y)
    experiment.optimizer(model)  # refuses all that torch.optim.SGD does
    if c.update == "affine":
        require_linear(model, experiment.few)
    if c.update == "compiled":
        require_compiled(model, experiment.batches)
    if c.compile:
        refuse_no_compiler(lambda: compiled(manual_gradient, x)(model, x, y))


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
