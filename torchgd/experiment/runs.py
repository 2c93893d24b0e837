"""Which runs a command is of: new ones, in a directory of their own, or those to go on with."""

import os
import reprlib
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.experiment import MAY_CHANGE, Experiment, identity, what_is_run
from torchgd.experiment.files import locked, new_directory
from torchgd.experiment.folder import config_json, read_config, where_it_began
from torchgd.experiment.own_model import MODELS
from torchgd.experiment.parallel import is_first, refuse_unlike_ranks
from torchgd.experiment.resolve import from_config, resolve
from torchgd.experiment.run import Run
from torchgd.experiment.state import STATE, WAY_OUT, State
from torchgd.trajectory import recorded_steps

GO_ON = ("manual", "autograd", "compiled")  # from any step; the other updates begin again


@contextmanager
def new_runs(
    asked: Sequence[Configuration],
    parent: Path,
    name: str | None,
    default: str = "",
    predict: Sequence[float] = (),
) -> Iterator[list[Run]]:
    """Make a run of each configuration, in a new directory in `parent` that they share.

    Raises:
        ValueError: something in it cannot be had (see `resolve`), or `name` is taken; then nothing
            is there.
        OSError: a file cannot be read, or the directory not be made.
    """
    experiments, several = resolve(asked, predict=predict), len({c.lr for c in asked}) > 1
    configs = [config_json(experiment, order) for order, experiment in enumerate(experiments)]
    places = [f"lr-{c.lr}/{c.update}" if several else c.update for c in asked]
    directory = parent
    _refuse_unlike_ranks([Run(experiment) for experiment in experiments])
    with ExitStack() as locks:
        if is_first():
            files = {f"{at}/config.json": one for at, one in zip(places, configs, strict=True)}
            directory = new_directory(parent, name, default or what_is_run(experiments), files)
            for at in places:
                locks.enter_context(locked(directory / at))
        made = zip(experiments, places, configs, strict=True)
        yield [Run(experiment, directory / at, config) for experiment, at, config in made]


@contextmanager
def resumed_runs(
    directory: Path, asked: Mapping[str, Any], predict: Sequence[float] = ()
) -> Iterator[list[Run]]:
    """Go on with every run below a directory: all are locked, and only then read.

    `asked` are flags by name, of which `epochs` may be more than a run had; a model of the user's
    own must be named again, and a data file may be elsewhere.

    Raises:
        ValueError: there is no run, or one is damaged, or of another model or other data, or asked
            to be another, or another process is writing it.
        OSError: a file cannot be read.
    """
    _refuse_what_is_of_a_new_run(asked)
    if (directory / "config.json").is_file():
        directory = directory.resolve().parent  # its updates are compared, and so go together
    found = _found(directory)
    if not found:
        raise ValueError(f"{directory} holds no run: give its directory, such as runs/NAME")
    with ExitStack() as locks:
        for path in found if is_first() else ():
            locks.enter_context(locked(path))
        configs = {path: read_config(path) for path in found}
        found.sort(key=lambda path: (path.parent, _order(configs[path])))
        runs = _resumed({path: configs[path] for path in found}, asked, predict)
        _refuse_unlike_ranks(runs)
        for folder in {folder for path in found for folder in _written_to(path)}:
            for left in folder.glob(".*.tmp.*") if is_first() else ():
                left.unlink()  # by a process that was killed as it wrote
        yield runs


def _found(directory: Path) -> list[Path]:
    """Return every directory of a run below this one; one that cannot be read may be of a run."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for path, inside, names in os.walk(directory, onerror=refuse if directory.is_dir() else None):
        # In a hidden directory is a run that was killed before it had its name.
        inside[:] = [name for name in inside if not name.startswith(".")]
        found += [Path(path)] if "config.json" in [*inside, *names] else []
    return found


def _written_to(run: Path) -> Sequence[Path]:
    """Return the directories that a run's files are in, of a sweep with that of its figures."""
    above = [run.parent.parent] if run.parent.name.startswith("lr-") else []
    return [run, run.parent, *above]


def _refuse_unlike_ranks(runs: Sequence[Run]) -> None:
    """Refuse to go on unless all processes have the same runs to carry out, from the same step."""
    refuse_unlike_ranks([
        {**identity(run.experiment), "steps": run.experiment.steps, "taken": run.done,
         "over": run.over} for run in runs
    ])  # fmt: skip


def _order(config: Mapping[str, Any]) -> int:
    order = config.get("order")
    return order if isinstance(order, int) else 0


def _resumed(
    configs: Mapping[Path, dict[str, Any]], asked: Mapping[str, Any], predict: Sequence[float]
) -> list[Run]:
    """Return the runs in these directories, ready to go on."""
    found, were, now, folders = list(configs), [], [], set()
    for path in found:
        try:
            were.append(Configuration.from_config(configs[path]))
            configuration, folder = from_config(configs[path], **asked)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        now.append(configuration)
        folders.add(folder)
    # Of runs that are compared one may have been killed before it had more epochs, as the others.
    most = {p.parent: max(c.epochs for q, c in zip(found, now, strict=True) if q.parent == p.parent)
            for p in found}  # fmt: skip
    now = [replace(c, epochs=most[path.parent]) for path, c in zip(found, now, strict=True)]
    if len(folders) > 1:
        raise ValueError(f"{found[0].parent}: working_directory is not one; go on with each alone")
    try:
        experiments = resolve(now, folders.pop(), predict)
    except ValueError as error:
        raise ValueError(f"{found[0]}: {error}") from None
    runs = []
    for path, experiment, was in zip(found, experiments, were, strict=True):
        _refuse_other_files(experiment, configs[path], path)
        state = _state(experiment, path)
        _refuse_epochs(was.epochs, experiment, state, path)
        began = where_it_began(configs[path], path)
        config = {**config_json(experiment, _order(configs[path])), **began}
        runs.append(Run(experiment, path, config, state))
    return runs


def _state(experiment: Experiment, directory: Path) -> State | None:
    """Return the state from which a run goes on, if there is one.

    Rows that a run of so many epochs does not record go: the last step's, where more were asked.
    """
    path = directory / STATE
    try:
        path.lstat()
    except FileNotFoundError:  # and no other error: a run that has a state does not start again
        return None
    found = State.load(path)
    _refuse_other_run(experiment, found, path)
    model, c = experiment.new_model(), experiment.configuration
    try:
        found.restore(model, experiment.optimizer(model))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if c.update not in GO_ON and found.step < experiment.steps and not found.diverged:
        return None
    step, every = found.path.step, c.record_every or 1
    if not found.diverged:
        kept = (step % every == 0) | (step == experiment.steps - 1)
        found = replace(found, path=found.path[kept])
    _refuse_missing_rows(found, every, experiment.steps, path)
    return found


def _refuse_missing_rows(found: State, every: int, steps: int, path: Path) -> None:
    """Refuse a state whose rows are not those of the steps that it says are taken."""
    rows, taken = found.path.step, found.step + found.diverged
    count = -(-min(taken, steps) // every) + 2  # at most, with the last step and the final row
    if len(rows) <= count:
        expected = recorded_steps(0, min(taken, steps), every, steps)
        if found.diverged:  # it may have done so in the final row
            expected = torch.cat([expected, torch.tensor([steps])])[: len(rows)]
        if torch.equal(rows, expected):
            return
    raise ValueError(f"{path}: its rows are not those of {found.step} steps; {WAY_OUT}")


def _refuse_other_run(experiment: Experiment, found: State, path: Path) -> None:
    """Refuse a state that is not of this run, or not on its way."""
    way_out = "or remove it and the run starts again"
    for name, value in identity(experiment).items():
        theirs, ours = repr(found.identity.get(name)), repr(value)
        if theirs != ours:
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


def _refuse_other_files(experiment: Experiment, config: Mapping[str, Any], path: Path) -> None:
    """Refuse a model or data that are not what this run's config.json says."""
    mine = experiment.identity
    for what in ("model", "data"):
        if config.get(f"{what}_sha256") != mine[f"{what}_sha256"]:
            raise ValueError(
                f"{what} {mine[what]!r} is not the one that the run in {path} was trained "
                "with (SHA-256); give that one back or start a new run"
            )


def _refuse_epochs(was: int, experiment: Experiment, state: State | None, path: Path) -> None:
    """Refuse fewer epochs than a run has, and more where more change nothing."""
    now = experiment.configuration.epochs
    if now < was:
        raise ValueError(f"--epochs {now}: the run has {was}, and can only get more; leave it out")
    if state is not None and state.diverged and now > was:
        raise ValueError(
            f"--epochs {now}: {path} diverged at step {state.step}, and more epochs change "
            "nothing; leave it out"
        )


def _refuse_what_is_of_a_new_run(asked: Mapping[str, Any]) -> None:
    """Refuse flags, by name, that say what another run would be."""
    for name in asked:
        flag = f"--{name.replace('_', '-')}"
        if name in ("log_dir", "name"):
            raise ValueError(f"{flag} is a new run's; --resume has its directory")
        if name not in MAY_CHANGE:
            raise ValueError(
                f"{flag}: the run has its own; --resume takes --epochs, which may be more, --model "
                "and --data, which may have moved, and what decides nothing"
            )


def how_to_go_on(runs: Sequence[Run]) -> str:
    """Say how to go on with runs that were interrupted."""
    above = os.path.commonpath([run.directory.parent for run in runs])
    model = runs[0].experiment.configuration.model
    again = [] if model in MODELS else ["--model", model]
    quoted = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return f"go on with {quoted(['--resume', above, *again])}"
