"""What a run has left that is to go on: read with care, and refused where it does not fit."""

import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchgd.experiment.checkpoint import CHECKPOINT, Checkpoint
from torchgd.experiment.experiment import AFFINE, UPDATES, Experiment
from torchgd.experiment.files import read_json
from torchgd.experiment.folder import Start
from torchgd.experiment.report import environment

# What --update can be: each alone, or both by hand and by autograd.
CHOICES = {"both": [*UPDATES], **{update: [update] for update in (*UPDATES, AFFINE)}}


def read_config(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return a run's directory and what config.json says; one of its updates' will do.

    Raises:
        ValueError: there is no run, or it is damaged.
        OSError: it cannot be read.
    """
    if (directory / "config.json").is_file():
        directory = directory.resolve().parent
    for update in (*UPDATES, AFFINE):
        path = directory / update / "config.json"
        if path.is_file():
            config = read_json(path)
            if config.get("updates") not in CHOICES.values():
                raise ValueError(
                    f"{path.parent}: updates {config.get('updates')!r} is damaged; run it again"
                )
            return directory, {**config, "update": update}
    of_a_sweep = sorted(path.parents[1] for path in directory.glob("*/*/config.json"))
    if of_a_sweep:
        raise ValueError(f"{directory} holds several runs: give one, such as {of_a_sweep[0]}")
    raise ValueError(f"{directory} holds no run: give its directory, such as runs/NAME")


def where_it_began(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Return what config.json says of the environment; refuse what cannot be of one."""
    here = {**environment(), "device_name": "", "working_directory": None}
    for name, now in here.items():
        kinds = [type(now)] if now is not None else [str, type(None)]
        if type(config.get(name)) not in kinds:
            raise ValueError(
                f"{directory / config['update']}: config.json is damaged: {name} "
                f"{reprlib.repr(config.get(name))} is of no environment; mend it, or run it again"
            )
    return {name: config[name] for name in here}


def refuse_other_files(experiment: Experiment, config: dict[str, Any], directory: Path) -> None:
    """Refuse a model or data that are not what this run's config.json says."""
    identity = experiment.identity(config["update"])
    for what in ("model", "data"):
        if config.get(f"{what}_sha256") != identity[f"{what}_sha256"]:
            raise ValueError(
                f"{what} {identity[what]!r} is not the one that the run in {directory} was trained "
                "with (SHA-256); give that one back or start a new run"
            )


def refuse_epochs(own: int, now: int, starts: dict[str, Start], directory: Path) -> None:
    """Refuse fewer epochs than a run has, and more where more change nothing."""
    if now < own:
        raise ValueError(f"--epochs {now}: the run has {own}, and can only get more; leave it out")
    for update, start in starts.items():
        if start.checkpoint.diverged and now > own:
            raise ValueError(
                f"--epochs {now}: {update} diverged at step {start.checkpoint.step} of "
                f"{directory}, and more epochs change nothing; leave it out"
            )


def find_start(experiment: Experiment, update: str, directory: Path) -> Start | None:
    """Return where the update that has this directory goes on, if there is a checkpoint.

    Raises:
        ValueError: it is damaged, or of another run.
        OSError: it cannot be read.
    """
    path = directory / CHECKPOINT
    if update == AFFINE or not os.path.lexists(path):
        return None
    found = Checkpoint.load(path)
    refuse_other_run(experiment, update, found, path)
    model, every = experiment.new_model(), experiment.configuration.record_every or 1
    optimizer = UPDATES[update][1](model.parameters(), **experiment.options)
    try:
        found.restore(model, optimizer)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Start.read(directory, found, lambda k: k % every == 0 or k == experiment.steps - 1)


def refuse_other_run(experiment: Experiment, update: str, found: Checkpoint, path: Path) -> None:
    """Refuse a checkpoint that is not of this run, or not on its way."""
    # Files may have moved, and their hashes say what was in them; epochs may be more.
    free, way_out = {"model", "data", "epochs"}, "or remove it and the run starts again"
    for name, value in experiment.identity(update).items():
        theirs, ours = repr(found.identity.get(name)), repr(value)
        if name not in free and theirs != ours:
            theirs = reprlib.repr(found.identity.get(name))
            raise ValueError(
                f"{path} is of another run: {name} is {theirs} there, and {ours} here; give this "
                f"run its own, {way_out}"
            )
    if not 0 <= found.step <= experiment.steps:
        raise ValueError(
            f"{path} is {found.step} steps on, and this run has {experiment.steps}; give it its "
            f"own, {way_out}"
        )


def refuse_what_is_of_a_new_run(asked: Iterable[str]) -> None:
    """Refuse flags, by name, that say what another run would be."""
    for name in asked:
        flag = f"--{name.replace('_', '-')}"
        if name in ("log_dir", "name"):
            raise ValueError(f"{flag} is a new run's; --resume has its directory")
        if name not in ("epochs", "model", "data"):
            raise ValueError(
                f"{flag}: the run has its own; --resume takes --epochs, which may be more, --model "
                "and --data, which may have moved, and what decides nothing"
            )
