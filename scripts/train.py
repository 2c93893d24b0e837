"""Train a model by hand and by autograd, and compare the two, step by step."""

if __name__ == "__main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH is set, too
    import interrupt  # noqa: F401

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from torchgd.experiment.advice import faster
from torchgd.experiment.command_line import (
    OUTPUT,
    Parser,
    Progress,
    Stop,
    cadence,
    refuse_broken_environment,
    refusing,
    run_script,
    say,
    tell,
)
from torchgd.experiment.configuration import add_flags, number, numbers, product
from torchgd.experiment.events import Events
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.files import write_json
from torchgd.experiment.folder import environment_changes
from torchgd.experiment.own_model import MODELS
from torchgd.experiment.parallel import (
    RankError,
    is_first,
    process_group,
    processes,
    torchrun,
)
from torchgd.experiment.report import compared, over, transcript, who_was_unstable
from torchgd.experiment.run import Outcome, Run, Watch
from torchgd.experiment.runs import how_to_go_on, new_runs, resumed_runs
from torchgd.trajectory import Stopped, Trajectory


def make_parser() -> Parser:
    """Return the parser of the command line; what decides the run has no default here."""
    parser = Parser(prog="train.py", description=__doc__, allow_abbrev=False)
    add_flags(parser)
    add = parser.add_argument
    add("--predict", type=numbers, default=[], metavar="X", help="predict ŷ there; default: 4; of "
        "several columns X,X,…, their means; a first one below 0 as --predict=-1,2")  # fmt: skip
    add("--show-steps", action="store_true", help="print every recorded step, as the lesson's "
        "printed listing does")  # fmt: skip
    add("--no-figures", action="store_true", help="leave TensorBoard's Images empty")
    add("--log-dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="default: runs")
    add("--name", metavar="NAME", default=argparse.SUPPRESS, help="of the run's directory; "
        "default: MODEL-DATA-lrα-batchB, and the time where that is taken")  # fmt: skip
    add("--resume", type=Path, metavar="DIR", help="go on with every run below this directory, "
        "from its last checkpoint, to the same bits; --epochs may be more")  # fmt: skip
    add("--rank-timeout", type=number(1), metavar="S", help="of the processes that torchrun starts "
        "none waits longer for another; default: 1800 seconds, on a machine with CUDA 180, for "
        "there nothing else tells that one is gone")  # fmt: skip
    add("--checkpoint-every", type=cadence, default={}, metavar="S", help="save the state each S "
        "seconds (default: 60; asked once a second), or each K steps: Ksteps")  # fmt: skip
    return parser


def make_runs(arguments: argparse.Namespace) -> Any:
    """Return the context of the runs that the command line asks for."""
    own = ("predict", "show_steps", "no_figures", "resume", "checkpoint_every", "rank_timeout")
    asked = {name: value for name, value in vars(arguments).items() if name not in own}
    predict = arguments.predict
    if arguments.resume is not None:
        return resumed_runs(arguments.resume, asked, predict)
    log_dir, name = asked.get("log_dir", Path("runs")), asked.get("name")
    # torchrun starts all processes again where one was killed; with --name they know their run.
    if torchrun("TORCHELASTIC_RESTART_COUNT", 0) > 0 and name and (log_dir / name).is_dir():
        moved = {key: value for key, value in asked.items() if key in ("model", "data")}
        return resumed_runs(log_dir / name, moved, predict)
    return new_runs(product(asked), log_dir, name, predict=predict)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, RankError), ExitStack() as group:
        refuse_broken_environment()
        if processes() > 1:  # they meet before anything is written
            group.enter_context(process_group(arguments.rank_timeout))
        return train_together(parser, arguments)
    raise AssertionError("refusing never goes on")


def train_together(parser: Parser, arguments: argparse.Namespace) -> int:
    """Carry out what the command line asks for, with the other processes, if there are any."""
    errors = (ValueError, OSError, ModuleNotFoundError, RankError)
    with refusing(parser, *errors), make_runs(arguments) as runs, mending(parser, runs):
        return carry_out_all(runs, arguments)
    raise AssertionError("refusing never goes on")


def carry_out_all(runs: list[Run], arguments: argparse.Namespace) -> int:
    """Carry out runs that differ in the rate or update; return the exit status."""
    families = [list(one) for _, one in groupby(runs, key=lambda run: run.directory.parent)]
    statuses = []
    for family in families:
        if said := over(family):
            if is_first():
                say(said[0])
            statuses.append(said[1])
            continue
        outcomes, status = carry_out(family, runs, arguments)
        statuses.append(status)
        if len(outcomes) < len(family) or outcomes[-1].trajectory.stopped == Stopped.INTERRUPTED:
            return status
    sweep = all(run.directory.parent.name.startswith("lr-") for run in runs)
    if sweep and len(families) > 1 and is_first() and not arguments.no_figures:
        draw_together([family[0] for family in families])
    return max(statuses)


def carry_out(
    family: list[Run], runs: list[Run], arguments: argparse.Namespace
) -> tuple[list[Outcome], int]:
    """Carry out those of the runs that are compared with each other, and tell what they came to.

    Returns that, and the exit status.
    """
    if is_first():
        for change in environment_changes(family[0].config):
            tell(f"train.py: {change}")
    outcomes: list[Outcome] = []
    events: dict[str, Events] = {}
    with ExitStack() as opened:
        with Stop() as stop:
            for run in family:
                if is_first() and not run.over:
                    events[run.update] = opened.enter_context(run.events())
                outcomes.append(train(run, arguments, stop, events.get(run.update)))
                if outcomes[-1].trajectory.stopped == Stopped.INTERRUPTED:
                    break
        if not is_first():
            return outcomes, 0
        directory, last = family[0].directory.parent, outcomes[-1]
        tell(f"written to {directory}; tensorboard --logdir {directory.parent}")
        status = report(outcomes, directory, arguments.show_steps)
        if last.trajectory.stopped == Stopped.INTERRUPTED:
            where = f"{last.update} at step {int(last.trajectory.step[-1])}"
            tell(f"train.py: interrupted, {where}; {how_to_go_on(runs)}")
            return outcomes, 128 + stop.signal
        if events and len(family) == len(runs) and not arguments.no_figures:
            try:  # a sweep is drawn together
                figures = drawn([(o.update, o.experiment, o.trajectory) for o in outcomes])
                shown_in = next(iter(events.values()))
                shown_in.add_figures(figures, int(outcomes[0].trajectory.step[-1]))
            except KeyboardInterrupt:
                tell("train.py: interrupted; the run is complete, but for figures")
                status = 128 + signal.SIGINT
        return outcomes, status


def train(run: Run, arguments: argparse.Namespace, stop: Stop, events: Events | None) -> Outcome:
    """Carry out one run, and show the progress of the process that writes."""
    every = arguments.checkpoint_every
    if events is None:
        return run.carry_out(Watch(stop, **every))
    experiment, chunks = run.experiment, run.experiment.configuration.chunk_size
    # Data that are read in chunks are told by the row, once more for the last loss.
    rows = len(experiment.data.x) if chunks is not None else 0
    of_one = rows / len(experiment.batches) if rows else 1
    total, done = int(experiment.steps * of_one) + rows, int(run.done * of_one)
    hint = faster(experiment) if run.state is None else ""
    with closing(Progress(run.update, total, done, "row" if rows else "step", hint)) as progress:

        def on_piece(piece: Trajectory) -> None:
            if len(piece.loss) > 0:
                progress.loss = piece.loss[-1].item()
            if not rows:
                progress.reach(int(piece.step[-1]))

        def on_rows(count: int) -> None:
            progress.reach(progress.place + count * processes())  # by the others, too

        return run.carry_out(Watch(stop, on_piece, on_rows, **every), events)


@contextmanager
def mending(parser: Parser, runs: Sequence[Run]) -> Iterator[None]:
    """Say of a disk that fails what to do then."""
    try:
        yield
    except OSError as error:
        where = runs[0].directory if error.filename is None else os.fsdecode(error.filename)
        what = f"mend that and {how_to_go_on(runs)}"
        if where == OUTPUT:
            what = "what is printed is in the runs, too"
        parser.error(f"{where}: {error.strerror}; {what}")


def report(outcomes: list[Outcome], directory: Path, show_steps: bool) -> int:
    """Print what came out; return 1 if a run diverged or climbed, or updates disagree, else 0."""
    if show_steps:
        for outcome in outcomes:
            if len(outcomes) > 1:
                say(f"{outcome.update}:")
            say(*transcript(outcome))
    comparisons, lines, all_agree = compared(outcomes)
    if comparisons:
        write_json(directory / "comparison.json", comparisons)
    say(*filter(None, lines))
    if unstable := who_was_unstable(outcomes):
        tell(f"train.py: {unstable}")
    return int(bool(unstable) or not all_agree)


def draw_together(runs: Sequence[Run]) -> None:
    """Draw runs that differ in the learning rate into the directory that they share."""
    from torchgd.figures import save
    from torchgd.figures.runs import read_runs

    own = runs[0].experiment.configuration.model
    read = read_runs([run.directory for run in runs], None if own in MODELS else own)
    figures = drawn([(f"α = {one.options['lr']:g}", one, path) for _, one, path in read])
    for file in save(figures, runs[0].directory.parents[1], "png"):
        tell(f"drawn in {file}")


def drawn(runs: list[tuple[str, Experiment, Trajectory]]) -> dict[str, Any]:
    """Return the figures of labelled runs, none where they cannot be drawn, which is said."""
    from torchgd.figures import draw  # here, for a run without figures needs no matplotlib
    from torchgd.figures.runs import lay_together

    if runs[0][1].configuration.chunk_size is not None:
        tell("no figures: the data are read in chunks")
        return {}
    try:
        return draw(lay_together(runs))
    except (ValueError, RuntimeError) as error:  # a user's model may have no second derivative
        tell(f"no figures: {str(error).partition(chr(10))[0]}")
        return {}


if __name__ == "__main__":
    run_script(main)
