"""What a command line starts, or goes on with: a run, its directory, and where each update is."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torchgd.experiment.checkpoint import CHECKPOINT, Checkpoint
from torchgd.experiment.experiment import AFFINE, UPDATES, Configuration, Experiment
from torchgd.experiment.files import read_json
from torchgd.experiment.lookup import MODELS
from torchgd.experiment.report import config_json
from torchgd.experiment.tracking import Row, RunWriter, new_directory, read_result
from torchgd.theory.linear import require_linear

# What --update can be: each alone, or both by hand and by autograd.
CHOICES = {"both": [*UPDATES], **{update: [update] for update in (*UPDATES, AFFINE)}}


@dataclass(frozen=True)
class Job:
    """A run to be made or gone on with, by each of its updates in turn.

    `configs` is each update's config.json; `starts` the checkpoints of those that have one; `again`
    whether the run was begun before.
    """

    experiment: Experiment
    directory: Path
    configs: dict[str, dict[str, Any]]
    starts: dict[str, Checkpoint] = field(default_factory=dict)
    again: bool = False

    @classmethod
    def new(
        cls,
        asked: Configuration,
        updates: Sequence[str],
        parent: Path,
        name: str | None,
        writes: bool = True,
    ) -> "Job":
        """Return a new run, in a directory of its own in `parent`, or if it `writes` none without.

        Raises:
            ValueError: something in it cannot be had (see `Experiment`), or `name` is taken.
            OSError: a file cannot be read, or the directory not be made.
        """
        experiment = Experiment(asked)
        if AFFINE in updates:
            require_linear(experiment.new_model(), experiment.batches.x)
        configs = {update: config_json(experiment, update, updates) for update in updates}
        if not writes:
            return cls(experiment, parent, configs)
        return cls(experiment, new_directory(parent, name, experiment.name), configs)

    @classmethod
    def resumed(cls, directory: Path, updates: Sequence[str], flags: dict[str, Any]) -> "Job":
        """Return the run in `directory`, ready to go on.

        `updates` and `flags`, parts of a `Configuration` by name, say what is asked of it, and may
        be empty. Of them `epochs` may be more than the run had, and a model of the user's own must
        be named again; everything else stays.

        Raises:
            ValueError: there is no run, or it is damaged, or of another model or other data, or
                asked to be another.
            OSError: a file cannot be read.
        """
        if (directory / "config.json").is_file():  # one update's directory; the run is all of them
            directory = directory.resolve().parent
        files = [directory / update / "config.json" for update in (*UPDATES, AFFINE)]
        files = [path for path in files if path.is_file()]
        if not files:
            raise ValueError(f"{directory} holds no run: give its directory, such as runs/NAME")
        config = read_json(files[0])
        if "updates" not in config:
            raise ValueError(
                f"{files[0]} is of a torchgd that kept no checkpoints; start a new run"
            )
        try:
            own = Configuration.of_run(config)
            experiment = Experiment.of_run(config, **flags)
            if config.get("updates") not in CHOICES.values():
                raise ValueError(f"updates {config.get('updates')!r} is damaged; run it again")
        except ValueError as error:
            raise ValueError(f"{files[0].parent}: {error}") from None
        if own.model in MODELS and flags.get("model", own.model) != own.model:
            refuse("model", flags["model"], own.model)
        if updates and updates != config["updates"]:
            words = {tuple(made): word for word, made in CHOICES.items()}
            refuse("update", words[tuple(updates)], words[tuple(config["updates"])])
        for name, value in asdict(experiment.configuration).items():
            was = getattr(own, name)
            free = name in ("model", "data") or (name == "epochs" and value > was)
            if value != was and not free:
                refuse(name, value, was)
        identity = experiment.identity(files[0].parent.name)
        for what in ("model", "data"):
            if config.get(f"{what}_sha256") != identity[f"{what}_sha256"]:
                raise ValueError(
                    f"{what} {identity[what]!r} is not the one that the run in {directory} was "
                    "trained with (SHA-256); give that one back or start a new run"
                )
        asked = {"epochs": experiment.configuration.epochs, "steps": experiment.steps}
        configs = {update: {**config, "update": update, **asked} for update in config["updates"]}
        found = {u: experiment.checkpoint(u, directory / u / CHECKPOINT) for u in configs}
        starts = {update: start for update, start in found.items() if start is not None}
        for update, start in starts.items():
            if start.trajectory.stopped == "diverged" and asked["epochs"] > own.epochs:
                raise ValueError(
                    f"--epochs {asked['epochs']}: {update} diverged at step {start.step} of "
                    f"{directory}, and more epochs change nothing; leave it out"
                )
        return cls(experiment, directory, configs, starts, again=True)

    @property
    def over(self) -> tuple[str, int] | None:
        """What to say of a run that has nothing left to do, and the exit status."""
        folders = [self.directory / update for update in self.configs]
        left = [folder / "result.json" for folder in folders]
        if len(folders) > 1:
            left.append(self.directory / "comparison.json")
        if not all(path.is_file() for path in left):
            return None
        results, steps = map(read_result, folders), self.experiment.steps
        ends = {(result["stopped"], result["steps"]) for result in results}
        if ends == {("finished", steps)}:
            return f"{self.directory} is finished, after {steps} steps; --epochs can be raised", 0
        if {stopped for stopped, _ in ends} == {"diverged"}:
            return f"{self.directory} diverged, and nothing goes on from there; start a new run", 1
        return None

    def writer(self, update: str) -> RunWriter:
        """Return what writes the run of `update`, after the rows that it has already."""
        names, start = list(self.experiment.configuration.initial), self.starts.get(update)
        done: list[Row] | None = [] if self.again else None
        if start is not None:
            done = list(start.done(self.experiment.steps).rows())
        writer = RunWriter(self.directory / update, self.configs[update], names, done)
        (self.directory / "comparison.json").unlink(missing_ok=True)  # of updates that have ended
        return writer

    @property
    def how_to_go_on(self) -> str:
        """How to go on with a run that was interrupted."""
        model = self.experiment.configuration.model
        again = [] if model in MODELS else ["--model", model]
        quoted = subprocess.list2cmdline if os.name == "nt" else shlex.join
        return f"go on with {quoted(['--resume', str(self.directory), *again])}"


def refuse(name: str, value: object, own: object) -> NoReturn:
    """Refuse to make a run another."""
    given = "" if value is True else f" {value}"
    raise ValueError(
        f"--{name.replace('_', '-')}{given}: the run has {own}, and of what it has only --epochs "
        "can change, and only grow; leave it out or start a new run"
    )
