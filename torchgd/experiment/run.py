"""A new run, or one to go on with: its directory, and where each of its updates is."""

import os
import reprlib
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchgd.experiment.checkpoint import CHECKPOINT, Checkpoint
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import AFFINE, UPDATES, Experiment
from torchgd.experiment.files import new_directory, read_json
from torchgd.experiment.folder import RunWriter, Start, read_result
from torchgd.experiment.own_model import MODELS
from torchgd.experiment.ranks import processes
from torchgd.experiment.report import config_json, environment
from torchgd.gradients import require_linear

# What --update can be: each alone, or both by hand and by autograd.
CHOICES = {"both": [*UPDATES], **{update: [update] for update in (*UPDATES, AFFINE)}}


@dataclass(frozen=True)
class Run:
    """A run to be made or gone on with, by each of its updates in turn.

    `configs` is each update's config.json; `starts` where those go on that have a checkpoint;
    `again` whether the run was begun before.
    """

    experiment: Experiment
    directory: Path
    configs: dict[str, dict[str, Any]]
    starts: dict[str, Start] = field(default_factory=dict)
    again: bool = False

    @classmethod
    def new(
        cls,
        asked: Configuration,
        updates: Sequence[str],
        parent: Path,
        name: str | None,
        writes: bool = True,
    ) -> "Run":
        """Return a new run, in a directory of its own in `parent`, or if it `writes` none without.

        Raises:
            ValueError: something in it cannot be had (see `Experiment`), or `name` is taken.
            OSError: a file cannot be read, or the directory not be made.
        """
        experiment, configs = prepare(asked, updates)
        if not writes:
            return cls(experiment, parent, configs)
        files = {f"{update}/config.json": config for update, config in configs.items()}
        return cls(experiment, new_directory(parent, name, experiment.name, files), configs)

    @classmethod
    def sweep(
        cls, asked: Sequence[Configuration], updates: Sequence[str], parent: Path, name: str | None
    ) -> "list[Run]":
        """Return a new run for each of these, lr-RATE in a directory that they share.

        Raises:
            ValueError: as `new`, and then no directory is there; or there are several processes.
            OSError: as `new`.
        """
        if processes() > 1:
            raise ValueError(f"--lr: {len(asked)} rates take one process, not {processes()}")
        rates = [one.lr for one in asked]
        for rate in rates:
            if rates.count(rate) > 1:
                raise ValueError(f"lr {rate} is given twice")
        made = {f"lr-{one.lr}": prepare(one, updates) for one in asked}
        first, _ = made[f"lr-{rates[0]}"]
        if first.streams:
            raise ValueError("--lr: several rates need the data in memory; leave --chunk-size out")
        files = {
            f"{run}/{update}/config.json": config
            for run, (_, configs) in made.items()
            for update, config in configs.items()
        }
        shared = new_directory(parent, name, first.name, files)
        return [
            cls(experiment, shared / run, configs) for run, (experiment, configs) in made.items()
        ]

    @classmethod
    def resumed(cls, directory: Path, asked: Mapping[str, Any]) -> "Run":
        """Return the run in `directory`, ready to go on.

        `asked` are flags by name, of which `epochs` may be more than the run had; a model of the
        user's own must be named again, and a data file may be elsewhere.

        Raises:
            ValueError: there is no run, or it is damaged, or of another model or other data, or
                asked to be another.
            OSError: a file cannot be read.
        """
        refuse_what_is_of_a_new_run(asked)
        directory, config = read_config(directory)
        try:
            own = Configuration.from_config(config)
            experiment = Experiment.from_config(config, **asked)
        except ValueError as error:
            raise ValueError(f"{directory / config['update']}: {error}") from None
        refuse_other_files(experiment, config, directory)
        now, updates = experiment.configuration, config["updates"]
        refuse_what_does_not_go_together(now, updates)
        configs = {update: config_json(experiment, update, updates) for update in updates}
        for each in configs.values():  # they go on saying where it began
            each.update(where_it_began(config, directory))
        found = {update: find_start(experiment, update, directory / update) for update in updates}
        starts = {update: start for update, start in found.items() if start is not None}
        refuse_epochs(own.epochs, now.epochs, starts, directory)
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
        config, names = self.configs[update], list(self.experiment.configuration.initial)
        start = self.starts.get(update)
        writer = RunWriter(self.directory / update, config, names, start)
        (self.directory / "comparison.json").unlink(missing_ok=True)  # of updates that have ended
        return writer

    @property
    def how_to_go_on(self) -> str:
        """How to go on with a run that was interrupted."""
        model = self.experiment.configuration.model
        again = [] if model in MODELS else ["--model", model]
        quoted = subprocess.list2cmdline if os.name == "nt" else shlex.join
        return f"go on with {quoted(['--resume', str(self.directory), *again])}"


def prepare(
    asked: Configuration, updates: Sequence[str]
) -> tuple[Experiment, dict[str, dict[str, Any]]]:
    """Return what is asked for, ready to run, and each update's config.json."""
    refuse_what_does_not_go_together(asked, updates)
    experiment = Experiment(asked)
    if AFFINE in updates:
        if experiment.streams:
            raise ValueError("--update affine needs the data in memory; leave --chunk-size out")
        require_linear(experiment.new_model(), experiment.batches.x)
    return experiment, {update: config_json(experiment, update, updates) for update in updates}


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


def refuse_what_does_not_go_together(asked: Configuration, updates: Sequence[str]) -> None:
    """Refuse what several processes cannot share, and what no update would heed."""
    if asked.compile and AFFINE in updates:
        raise ValueError("--compile is of a gradient, and --update affine has none; leave it out")
    if processes() > 1 and (asked.compile or AFFINE in updates):
        raise ValueError(f"--compile and --update affine take one process, not {processes()}")


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
