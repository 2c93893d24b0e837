"""Train a model by hand and by autograd, and compare the two, step by step."""

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch
from tqdm import tqdm

from torchgd.data import NAMES
from torchgd.experiment.checkpoint import CHECKPOINT, Saver
from torchgd.experiment.chunks import Process, RankError
from torchgd.experiment.cli import (
    Parser,
    cadence,
    either,
    finite,
    integer,
    not_negative,
    refusing,
    run_script,
)
from torchgd.experiment.experiment import AFFINE, Configuration, Experiment, Outcome
from torchgd.experiment.files import write_json
from torchgd.experiment.job import CHOICES, Job
from torchgd.experiment.lookup import processes, torchrun
from torchgd.experiment.report import (
    divergence,
    environment_changes,
    result_json,
    table,
    transcript,
    verdict,
)
from torchgd.experiment.tracking import RunWriter
from torchgd.models import DTYPES
from torchgd.proof.checks import Comparison, compare
from torchgd.trajectory import Trajectory

# Of the processes that torchrun starts, the first one alone writes, and speaks.
FIRST = torchrun("RANK", 0) == 0


def make_parser() -> Parser:
    """Return the parser of the command line; `Configuration` holds the defaults."""
    parser = Parser(prog="train.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", metavar="M", help="linear (default), quadratic, or FILE.py:CLASS, your own")
    add("--data", metavar="D", help=f"{', '.join(NAMES)}, a .csv or .npy file, or "
        "synthetic:N, rows made when they are needed; default: lesson, for quadratic parabola"
    )  # fmt: skip
    add("--update", choices=[*CHOICES], default="both", help="default: both; "
        "affine takes all steps of a model linear in its parameters at once")  # fmt: skip
    add("--device", metavar="D", help="auto (default: cuda where there is one), cpu, cuda, cuda:N")
    add("--dtype", choices=DTYPES, help="default: float64")
    add("--lr", type=either("auto", not_negative), metavar="α", help="learning rate: 0.01 "
        "(default), a number, or auto, from the Hessian: the best, for batches a safe one"
    )  # fmt: skip
    add("--momentum", type=not_negative, metavar="μ", help="default: 0, none")
    add("--dampening", type=finite, metavar="τ", help="of the momentum; default: 0")
    add("--weight-decay", type=not_negative, metavar="λ", help="default: 0, none")
    add("--nesterov", action="store_true", help="Nesterov's momentum")
    add("--maximize", action="store_true", help="climb instead of descend")
    add("--epochs", type=integer(1), metavar="E", help="default: 50")
    add(
        "--batch-size",
        type=either("full", integer(1)),
        metavar="B",
        help="samples a step: 1 (default), N, full",
    )
    add("--shuffle", action="store_true", help="a new order each epoch")
    add("--seed", type=integer(0), metavar="S", help="of the order; default: 0")
    add("--standardize", action="store_true", help="train on (x − mean)/deviation, a line without "
        "a bias on x/rms; report in the data's own units")  # fmt: skip
    add("--bias", action="store_true", help="give the linear model a bias")
    add("--initial", nargs="+", type=assignment, metavar="NAME=W", help="starting values of what "
        "is trained; default: weights 1, biases 0")  # fmt: skip
    add("--predict", type=finite, default=4.0, metavar="X", help="predict ŷ there; default: 4")
    add("--show-steps", action="store_true", help="print every recorded step, as the lesson does")
    add("--record-every", type=integer(1), metavar="K", help="record each K-th step and the last; "
        "default: the least that makes at most 10,000")  # fmt: skip
    add("--compile", action="store_true", help="torch.compile the gradients: fast on much data; "
        "they then agree to rounding, not to the bit, which is no failure")  # fmt: skip
    add("--chunk-size", type=integer(1), metavar="R", help="go through the data R rows at a "
        "time, so that they need not fit into memory; default: all, above 1 GiB 65536, on CUDA 2²²"
    )  # fmt: skip
    add("--no-figures", action="store_true", help="leave TensorBoard's Images empty")
    add("--log-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    add("--name", metavar="NAME", help="of the run's directory; default: MODEL-DATA-TIME")
    add("--resume", type=Path, metavar="RUN", help="go on with the run in this directory, from its "
        "last checkpoint, to the same bits; --epochs may be more, recorded as before")  # fmt: skip
    add("--checkpoint-every", type=cadence, default={}, metavar="S", help="save the state each S "
        "seconds (default: 60; asked once a second), or each K steps: Ksteps")  # fmt: skip
    parser.set_defaults(**{**asdict(Configuration()), "initial": []})
    return parser


def assignment(text: str) -> tuple[str, float]:
    """Parse NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as w=1.0")
    return name, finite(value)


def configuration(arguments: argparse.Namespace) -> Configuration:
    """Return the part of the command line that says what to train."""
    chosen = {field.name: getattr(arguments, field.name) for field in fields(Configuration)}
    chosen["initial"] = once(arguments.initial)
    return Configuration(**chosen)


def once(assignments: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the values by name, none of which is given twice."""
    values: dict[str, float] = {}
    for name, value in assignments:
        if name in values:
            raise ValueError(f"initial {name} is given twice: {values[name]:g} and {value:g}")
        values[name] = value
    return values


class Stop:
    """Whether SIGINT or SIGTERM came: the first asks the run to end, the second ends it."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Stop":
        heard = (signal.SIGINT, signal.SIGTERM)
        self.previous = {s: signal.getsignal(s) for s in heard}
        for which, handler in self.previous.items():
            if handler is not signal.SIG_IGN:  # as under nohup
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


def make_job(parser: Parser, arguments: argparse.Namespace, argv: list[str] | None) -> Job:
    """Return what the command line asks for: a new run, or one to go on with."""
    updates, named = CHOICES[arguments.update], arguments.log_dir / (arguments.name or "")
    # torchrun starts all processes again where one was killed; with --name they know their run.
    again = torchrun("TORCHELASTIC_RESTART_COUNT", 0) > 0
    again = again and arguments.name is not None and named.is_dir()
    if arguments.resume is None and not again:
        if arguments.nesterov and (arguments.momentum == 0 or arguments.dampening != 0):
            parser.error("--nesterov needs --momentum above 0 and --dampening 0")
        refuse_processes(arguments.compile, updates)
        if arguments.chunk_size is not None and AFFINE in updates:
            parser.error("--update affine needs the data in memory; leave --chunk-size out")
        return Job.new(configuration(arguments), updates, arguments.log_dir, arguments.name, FIRST)
    # argparse gives no default to what is there, and so leaves what was not asked for as it is.
    names = [*(field.name for field in fields(Configuration)), "update", "log_dir", "name"]
    asked = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names)))
    flags = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    if "initial" in flags:
        flags["initial"] = once(flags["initial"])
    for name in ("log_dir", "name"):
        if flags.pop(name, None) is not None and not again:
            parser.error(f"--{name.replace('_', '-')} is a new run's; --resume has its directory")
    if flags.pop("update", None) is None:
        updates = []
    job = Job.resumed(named if again else arguments.resume, updates, flags)
    refuse_processes(job.experiment.configuration.compile, list(job.configs))
    return job


def refuse_processes(compiled: bool, updates: list[str]) -> None:
    """Refuse what several processes cannot share."""
    if processes() > 1 and (compiled or AFFINE in updates):
        raise ValueError(f"--compile and --update affine take one process, not {processes()}")


@contextmanager
def joined(job: Job) -> Iterator[Process | None]:
    """Join the other processes that torchrun started, or cut the data up, if either is asked."""
    chunk_size = job.experiment.configuration.chunk_size
    if processes() == 1:
        yield Process(chunk_size) if job.experiment.streams else None
        return
    from torchgd.experiment.distributed import Group  # here, for one process does not need it

    with Group(job.experiment.device, chunk_size) as group:
        yield group


def run(
    job: Job,
    update: str,
    writer: RunWriter | None,
    arguments: argparse.Namespace,
    stop: Stop,
    process: Process | None,
) -> Outcome:
    """Train with one update, writing as it goes and showing the progress, unless there is none."""
    experiment, start, predict = job.experiment, job.starts.get(update), arguments.predict
    if writer is None:
        return experiment.run(update, predict, stop=stop, start=start, process=process)
    saver = Saver(writer.directory / CHECKPOINT, **arguments.checkpoint_every)
    done = 0 if start is None else start.step
    rows = len(experiment.data.x) if experiment.streams else 0  # else the bar shows steps
    unit, of_one = ("row", rows / len(experiment.batches)) if rows else ("step", 1)
    with tqdm(total=int(experiment.steps * of_one) + rows, initial=int(done * of_one), desc=update,
              unit=unit, unit_scale=rows > 0, disable=None, delay=1) as bar:  # fmt: skip

        def on_block(piece: Trajectory) -> None:
            writer.record(piece)
            if not rows:
                bar.update(int(piece.step[-1]) - bar.n)

        if rows and process is not None:
            process.on_rows = lambda count: bar.update(count * process.size)
        outcome = experiment.run(update, predict, on_block, stop, saver, start, process)
        writer.finish(result_json(experiment, outcome))
    return outcome


def draw_figures(experiment: Experiment, outcomes: list[Outcome], writers: list[RunWriter]) -> None:
    """Show the figures of scripts/plot.py, the updates laid over each other, in TensorBoard."""
    if experiment.streams:
        print("no figures: the data are read in chunks", file=sys.stderr)
        return
    from torchgd.figures import draw  # here, for a run without figures needs no matplotlib
    from torchgd.figures.runs import lay_together

    try:
        figures = draw(lay_together([(o.update, experiment, o.trajectory) for o in outcomes]))
    except (ValueError, RuntimeError) as error:  # a user's model may have no second derivative
        print(f"no figures: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return
    for writer, outcome in zip(writers, outcomes, strict=True):
        writer.add_figures(figures, int(outcome.trajectory.step[-1]))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(torchrun("LOCAL_RANK", 0))
    with refusing(parser, ValueError, OSError):
        job = make_job(parser, arguments, argv)
        over = job.over
    if over is not None:
        text, status = over
        if FIRST:
            print(text)
        return status
    for change in environment_changes(next(iter(job.configs.values()))) if FIRST else ():
        print(f"{parser.prog}: {change}", file=sys.stderr)
    with refusing(parser, ValueError, RankError), mending(parser, job), ExitStack() as opened:
        outcomes: list[Outcome] = []
        writers: list[RunWriter] = []
        with Stop() as stop, joined(job) as process:
            for update in job.configs:
                if FIRST:
                    writers.append(opened.enter_context(job.writer(update)))
                writer = writers[-1] if FIRST else None
                outcomes.append(run(job, update, writer, arguments, stop, process))
                if outcomes[-1].trajectory.stopped == "interrupted":
                    break
        if not FIRST:
            return 0
        return conclude(job, outcomes, writers, arguments, stop)


@contextmanager
def mending(parser: Parser, job: Job) -> Iterator[None]:
    """Say of a disk that fails what to do then."""
    try:
        yield
    except OSError as error:
        where = job.directory if error.filename is None else os.fsdecode(error.filename)
        parser.error(f"{where}: {error.strerror}; mend that and {job.how_to_go_on}")


def conclude(
    job: Job,
    outcomes: list[Outcome],
    writers: list[RunWriter],
    arguments: argparse.Namespace,
    stop: Stop,
) -> int:
    """Compare, print and draw what came out; return the exit status."""
    last, comparison = outcomes[-1], None
    interrupted = last.trajectory.stopped == "interrupted"
    if len(outcomes) == 2 and not interrupted:
        comparison = compare(outcomes[0].trajectory, outcomes[1].trajectory)
        write_json(job.directory / "comparison.json", comparison.as_dict())
    log_dir = job.directory.parent
    print(f"written to {job.directory}; tensorboard --logdir {log_dir}", file=sys.stderr)
    status = report(job.experiment, outcomes, comparison, arguments.show_steps)
    if interrupted:
        where = f"{last.update} at step {int(last.trajectory.step[-1])}"
        print(f"train.py: interrupted, {where}; {job.how_to_go_on}", file=sys.stderr)
        return 128 + (stop.signal or signal.SIGTERM)  # or another process was asked to stop
    if not arguments.no_figures:
        draw_figures(job.experiment, outcomes, writers)
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
    print(experiment, *table(experiment, outcomes), sep="\n")
    if comparison is not None:
        print(verdict(comparison, *(outcome.trajectory for outcome in outcomes)))
    diverged = [outcome for outcome in outcomes if outcome.trajectory.stopped == "diverged"]
    if diverged:
        print(f"train.py: {divergence(experiment, diverged)}", file=sys.stderr)
    # Compiled, each gradient is summed in an order of its own.
    # So do more than two processes: (a + b) + c is not a + (b + c).
    loose = experiment.configuration.compile or processes() > 2
    agree = comparison is None or comparison.identical or loose
    return int(bool(diverged) or not agree)


if __name__ == "__main__":
    run_script(main)
