"""A new run, or one to go on with: its directory, and where each of its updates is."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.earlier import (
    find_start,
    read_config,
    refuse_epochs,
    refuse_other_files,
    refuse_what_is_of_a_new_run,
    where_it_began,
)
from torchgd.experiment.experiment import AFFINE, Experiment
from torchgd.experiment.files import new_directory
from torchgd.experiment.folder import RunWriter, Start, read_result
from torchgd.experiment.own_model import MODELS
from torchgd.experiment.ranks import processes
from torchgd.experiment.report import config_json
from torchgd.gradients import require_linear


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


def refuse_what_does_not_go_together(asked: Configuration, updates: Sequence[str]) -> None:
    """Refuse what several processes cannot share, and what no update would heed."""
    if asked.compile and AFFINE in updates:
        raise ValueError("--compile is of a gradient, and --update affine has none; leave it out")
    if processes() > 1 and (asked.compile or AFFINE in updates):
        raise ValueError(f"--compile and --update affine take one process, not {processes()}")
