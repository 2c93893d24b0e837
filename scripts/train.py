"""Train a model by hand and by autograd, and compare the two, step by step."""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from torchgd.experiment.checkpoint import Saver
from torchgd.experiment.command_line import Parser, cadence, refusing, run_script
from torchgd.experiment.configuration import Configuration, add_flags, finite
from torchgd.experiment.earlier import CHOICES
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.files import printable, write_json
from torchgd.experiment.folder import RunWriter
from torchgd.experiment.goal import least_squares, what_would_help
from torchgd.experiment.outcome import Hooks, Outcome, ignore, run_update
from torchgd.experiment.parallel import fits_machine_code, numba_is_there
from torchgd.experiment.parting import by_rounding
from torchgd.experiment.progress import Progress
from torchgd.experiment.ranks import (
    RankError,
    process_group,
    processes,
    refuse_broken_environment,
    torchrun,
)
from torchgd.experiment.report import (
    environment_changes,
    headline,
    result_json,
    table,
    transcript,
    unfinished,
    verdict,
    who_diverged,
)
from torchgd.experiment.run import Run
from torchgd.proof.compare import Comparison, compare
from torchgd.trajectory import Trajectory

# Of the processes that torchrun starts, the first one alone writes, and speaks.
FIRST = torchrun("RANK", 0) == 0


def make_parser() -> Parser:
    """Return the parser of the command line; what decides the run has no default here."""
    parser = Parser(prog="train.py", description=__doc__, allow_abbrev=False)
    add_flags(parser, several="lr")
    add = parser.add_argument
    add("--update", choices=[*CHOICES], default=argparse.SUPPRESS, help="default: both; "
        "affine takes all steps of a model linear in its parameters at once")  # fmt: skip
    add("--predict", type=finite, default=4.0, metavar="X", help="predict ŷ there; default: 4")
    add("--show-steps", action="store_true", help="print every recorded step, as the lesson does")
    add("--no-figures", action="store_true", help="leave TensorBoard's Images empty")
    add("--log-dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="default: runs")
    add("--name", metavar="NAME", default=argparse.SUPPRESS, help="of the run's directory; "
        "default: MODEL-DATA-TIME")  # fmt: skip
    add("--resume", type=Path, metavar="RUN", help="go on with the run in this directory, from its "
        "last checkpoint, to the same bits; --epochs may be more, recorded as before")  # fmt: skip
    add("--checkpoint-every", type=cadence, default={}, metavar="S", help="save the state each S "
        "seconds (default: 60; asked once a second), or each K steps: Ksteps")  # fmt: skip
    return parser


class Stop:
    """Whether SIGINT or SIGTERM came: the first asks the run to end, the second ends it."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Stop":
        heard = (signal.SIGINT, signal.SIGTERM)
        self.previous = {s: signal.getsignal(s) for s in heard}
        for which, handler in self.previous.items():
            if handler is not signal.SIG_IGN and processes() == 1:  # else as nohup, or the group
                signal.signal(which, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for which, handler in self.previous.items():
            signal.signal(which, handler)

    def _note(self, which: int, _: object) -> None:
        self.signal = which
        self._restore()

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.signal != 0


def make_runs(arguments: argparse.Namespace) -> list[Run]:
    """Return what the command line asks for: a new run, one to go on with, or a sweep of rates."""
    given = vars(arguments)
    names = [*(field.name for field in fields(Configuration)), "update", "log_dir", "name"]
    asked = {name: given[name] for name in names if name in given}
    if arguments.resume is not None:
        return [Run.resumed(arguments.resume, asked)]
    update, name = asked.pop("update", "both"), asked.pop("name", None)
    log_dir = asked.pop("log_dir", Path("runs"))
    # torchrun starts all processes again where one was killed; with --name they know their run.
    if torchrun("TORCHELASTIC_RESTART_COUNT", 0) > 0 and name and (log_dir / name).is_dir():
        moved: dict[str, Any] = {k: v for k, v in asked.items() if k in ("model", "data")}
        return [Run.resumed(log_dir / name, moved)]
    if "initial" in asked:
        asked["initial"] = once(asked["initial"])
    rates = asked.pop("lr", [Configuration.lr])
    configurations = [Configuration(**asked, lr=rate) for rate in rates]
    first = configurations[0]
    if first.nesterov and (first.momentum == 0 or first.dampening != 0):
        raise ValueError("--nesterov needs --momentum above 0 and --dampening 0")
    if len(rates) > 1:
        return Run.sweep(configurations, CHOICES[update], log_dir, name)
    return [Run.new(first, CHOICES[update], log_dir, name, FIRST)]


def once(assignments: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the values by name, none of which is given twice."""
    values: dict[str, float] = {}
    for name, value in assignments:
        if name in values:
            raise ValueError(f"initial {name} is given twice: {values[name]:g} and {value:g}")
        values[name] = value
    return values


def train(
    run: Run, update: str, writer: RunWriter | None, arguments: argparse.Namespace, stop: Stop
) -> Outcome:
    """Train with one update, writing as it goes and showing the progress, unless there is none."""
    experiment, start, predict = run.experiment, run.starts.get(update), arguments.predict
    if writer is None:
        saver = Saver(ignore, **arguments.checkpoint_every)
        return run_update(experiment, update, predict, Hooks(stop=stop, saver=saver), start)
    done = 0 if start is None else start.checkpoint.step
    with closing(Progress(experiment, update, done, new=not run.again)) as progress:

        def on_piece(piece: Trajectory) -> None:
            writer.record(piece)
            progress.on_piece(piece)

        saver = Saver(writer.save, **arguments.checkpoint_every)
        hooks = Hooks(on_piece, progress.on_rows, stop, saver)
        outcome = run_update(experiment, update, predict, hooks, start)
        writer.finish(result_json(experiment, outcome))
    return outcome


def draw_figures(experiment: Experiment, outcomes: list[Outcome], writers: list[RunWriter]) -> None:
    """Show the figures of scripts/plot.py, the updates laid over each other, in TensorBoard."""
    if experiment.streams:
        print("no figures: the data are read in chunks", file=sys.stderr)
        return
    figures = drawn([(o.update, experiment, o.trajectory) for o in outcomes])
    writers[0].events.add_figures(figures, int(outcomes[0].trajectory.step[-1]))


def draw_together(found: list[tuple[Run, Outcome]]) -> None:
    """Draw the runs of a sweep, laid over each other, into the directory that they share."""
    by_first = [(run, outcome) for run, outcome in found if outcome.update == found[0][1].update]
    figures = drawn([
        (f"α = {run.experiment.options['lr']:g}", run.experiment, outcome.trajectory)
        for run, outcome in by_first
    ])  # fmt: skip
    from torchgd.figures import save

    for file in save(figures, found[0][0].directory.parent, "png"):
        print(printable(f"drawn in {file}"), file=sys.stderr)


def drawn(runs: list[tuple[str, Experiment, Trajectory]]) -> dict[str, Any]:
    """Return the figures of labelled runs, none where they cannot be drawn, which is said."""
    from torchgd.figures import draw  # here, for a run without figures needs no matplotlib
    from torchgd.figures.runs import lay_together

    try:
        return draw(lay_together(runs))
    except (ValueError, RuntimeError) as error:  # a user's model may have no second derivative
        print(printable(f"no figures: {str(error).partition(chr(10))[0]}"), file=sys.stderr)
        return {}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with ExitStack() as group:
        with refusing(parser, ValueError, RankError):
            refuse_broken_environment()
            if processes() > 1:
                if torch.cuda.is_available():
                    torch.cuda.set_device(torchrun("LOCAL_RANK", 0))
                group.enter_context(process_group())  # before anything is written
        return train_all(parser, arguments)


def train_all(parser: Parser, arguments: argparse.Namespace) -> int:
    """Train what the command line asks for; return the exit status."""
    with refusing(parser, ValueError, OSError):
        runs = make_runs(arguments)
        over = runs[0].over
    if over is not None:
        text, status = over
        if FIRST:
            print(text)
        return status
    found: list[tuple[Run, Outcome]] = []
    statuses = []
    for run in runs:
        outcomes, status = carry_out(run, arguments, parser, alone=len(runs) == 1)
        statuses.append(status)
        if outcomes and outcomes[-1].trajectory.stopped == "interrupted":
            for left in runs[len(statuses) :]:
                print(f"train.py: not begun; {left.how_to_go_on}", file=sys.stderr)
            return status
        found += [(run, outcome) for outcome in outcomes]
    if len(runs) > 1 and not arguments.no_figures:
        with mending(parser, runs[0]):
            draw_together(found)
    return max(statuses)


def carry_out(
    run: Run, arguments: argparse.Namespace, parser: Parser, alone: bool
) -> tuple[list[Outcome], int]:
    """Train with each update; return what they came to, and the exit status."""
    for change in environment_changes(next(iter(run.configs.values()))) if FIRST else ():
        print(f"{parser.prog}: {change}", file=sys.stderr)
    of = run.experiment
    wanted = of.configuration.compile and "manual" in run.configs and not numba_is_there()
    if wanted and fits_machine_code(of.new_model(), of.batches):
        print("train.py: for a loop of machine code: pip install 'torchgd[fast]'", file=sys.stderr)
    with refusing(parser, ValueError, RankError), mending(parser, run), ExitStack() as opened:
        outcomes: list[Outcome] = []
        writers: list[RunWriter] = []
        with Stop() as stop:
            for update in run.configs:
                if FIRST:
                    writers.append(opened.enter_context(run.writer(update)))
                writer = writers[-1] if FIRST else None
                outcomes.append(train(run, update, writer, arguments, stop))
                if outcomes[-1].trajectory.stopped == "interrupted":
                    break
        if not FIRST:
            return outcomes, 0
        return outcomes, conclude(run, outcomes, writers, arguments, stop, figures=alone)


@contextmanager
def mending(parser: Parser, run: Run) -> Iterator[None]:
    """Say of a disk that fails what to do then."""
    try:
        yield
    except OSError as error:
        where = run.directory if error.filename is None else os.fsdecode(error.filename)
        parser.error(f"{where}: {error.strerror}; mend that and {run.how_to_go_on}")


def conclude(
    run: Run,
    outcomes: list[Outcome],
    writers: list[RunWriter],
    arguments: argparse.Namespace,
    stop: Stop,
    figures: bool,
) -> int:
    """Compare, print and draw what came out; return the exit status."""
    last, comparison = outcomes[-1], None
    interrupted = last.trajectory.stopped == "interrupted"
    if len(outcomes) == 2 and not interrupted:
        comparison = compare(outcomes[0].trajectory, outcomes[1].trajectory)
        write_json(run.directory / "comparison.json", comparison.as_dict())
    log_dir = run.directory.parent
    said = f"written to {run.directory}; tensorboard --logdir {log_dir}"
    print(printable(said), file=sys.stderr)
    status = report(run.experiment, outcomes, comparison, arguments.show_steps)
    if interrupted:
        where = f"{last.update} at step {int(last.trajectory.step[-1])}"
        print(f"train.py: interrupted, {where}; {run.how_to_go_on}", file=sys.stderr)
        return 128 + stop.signal
    if figures and not arguments.no_figures:
        try:
            draw_figures(run.experiment, outcomes, writers)
        except KeyboardInterrupt:
            print("train.py: interrupted; the run is complete, but for figures", file=sys.stderr)
            return 128 + signal.SIGINT
    return status


def report(
    experiment: Experiment,
    outcomes: list[Outcome],
    comparison: Comparison | None,
    show_steps: bool,
) -> int:
    """Print what came out; return 1 if a run diverged or the updates disagree, else 0."""
    if show_steps:
        for outcome in outcomes:
            if len(outcomes) > 1:
                print(f"{outcome.update}:")
            print(*transcript(experiment, outcome), sep="\n")
    first, agree = outcomes[0], True
    goal = least_squares(experiment, first.predicted_at)
    lines = [unfinished(experiment, outcomes[-1]), headline(experiment)]
    lines += table(experiment, outcomes, goal)
    if comparison is not None:
        agree, why = by_rounding(experiment, comparison, first.trajectory)
        lines += [verdict(comparison, *(outcome.trajectory for outcome in outcomes)), why]
    if goal is not None and agree:
        lines.append(what_would_help(experiment, goal, first.trajectory))
    print(*filter(None, lines), sep="\n")
    if diverged := who_diverged(experiment, outcomes):
        print(f"train.py: {diverged}", file=sys.stderr)
    return int(bool(diverged) or not agree)


if __name__ == "__main__":
    run_script(main)
