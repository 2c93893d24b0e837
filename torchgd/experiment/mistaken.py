"""A descent with a classic mistake beside the right one, and what both leave."""

from dataclasses import replace
from pathlib import Path

import torch

from torchgd.experiment.experiment import UPDATES, Experiment
from torchgd.experiment.files import new_directory
from torchgd.experiment.folder import RunWriter
from torchgd.experiment.outcome import Outcome, model_at, values_of
from torchgd.experiment.report import config_json, result_json
from torchgd.proof.mistakes import MISTAKES, WAYS


def with_and_without(experiment: Experiment, name: str) -> dict[str, Outcome]:
    """Train "right" and "wrong", with the mistake of that name."""
    mistake, lr, batches = MISTAKES[name], experiment.options["lr"], len(experiment.batches)
    right = WAYS[mistake.right](lr, batches) if mistake.right in WAYS else UPDATES["manual"]
    updates = {"right": right, "wrong": mistake.update(lr, batches)}
    found = {}
    for which, update in updates.items():
        trajectory = experiment.descend(update, {"lr": lr})
        last = torch.stack([w[-1] for w in trajectory.weights.values()])
        values = values_of(experiment, model_at(experiment, last), predict=4.0)
        found[which] = Outcome(**vars(values), update=which, trajectory=trajectory, seconds=0.0)
    return found


def leave(experiment: Experiment, name: str, found: dict[str, Outcome], parent: Path) -> Path:
    """Write both as runs for TensorBoard and plot.py, in a directory of their own; return it.

    Raises:
        ValueError: the path is not UTF-8.
        OSError: it cannot be written.
    """
    configs = {
        which: {**config_json(experiment, "manual"), "mistake": name * (which == "wrong")}
        for which in found
    }
    files = {f"{which}/config.json": config for which, config in configs.items()}
    directory = new_directory(parent, None, f"{name}-{experiment.name}", files)
    for which, outcome in found.items():
        names = list(outcome.parameters)
        with RunWriter(directory / which, configs[which], names) as writer:
            writer.record(outcome.trajectory)
            writer.finish(result_json(experiment, replace(outcome, update="manual")))
    return directory
