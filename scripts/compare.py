"""Train manual against autograd over models, batch sizes, dtypes, SGD's options and devices.

Given two runs, compare these instead; with --mistake, a classic error and the right update; with
--optimizer, an optimizer of your own and torch.optim.SGD; with --backward, a backward pass of your
own and what every right one is.
"""

if __name__ == "__main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH is set, too
    import interrupt  # noqa: F401

import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchgd.experiment.agreement import check_where_they_part, is_wrong
from torchgd.experiment.command_line import Parser, refusing, run_script, say, tell
from torchgd.experiment.configuration import Configuration, integer
from torchgd.experiment.experiment import AUTOGRAD, MANUAL, Experiment
from torchgd.experiment.files import printable
from torchgd.experiment.folder import read_run, runs_in
from torchgd.experiment.own_model import MODELS, find_backward, find_optimizer
from torchgd.experiment.report import first_shows, headline, side_by_side
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import Run
from torchgd.experiment.runs import new_runs
from torchgd.experiment.sources import NAMES, load
from torchgd.models import DTYPES
from torchgd.proof.backward import check_backward
from torchgd.proof.compare import Comparison, compare, which_half_differs
from torchgd.proof.findings import GradientCheck, aligned
from torchgd.proof.mistakes import MISTAKES
from torchgd.proof.optimizers import OptimizerCheck, check_optimizer
from torchgd.proof.options import OPTION_SETS, in_words
from torchgd.proof.verdicts import BackwardCheck
from torchgd.training import Update, train
from torchgd.trajectory import UNSTABLE, Trajectory

OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
HEAD = ["model", "data", "batch", "dtype", "device", "options"]
FOUND = "{:>5}  {:>8}  {:>11}  {:<7}  {}"


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="compare.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="two runs, such as runs/NAME/manual; "
        "runs/NAME stands for its two updates")  # fmt: skip
    add("--model", metavar="M", help="linear, quadratic, or FILE.py:CLASS, your own; default: "
        "the built-in ones, for a mistake linear, for sequential quadratic")  # fmt: skip
    add("--data", metavar="D", help=f"{', '.join(NAMES)}, or a .csv or .npy file; "
        "default: lesson, for quadratic parabola, for a mistake lesson")  # fmt: skip
    add("--columns", metavar="X,Y", help="of a .csv file with more than two, as of train.py")
    add("--epochs", type=integer(1), default=50, metavar="E", help="default: 50")
    add("--max-ulp", type=integer(0), default=0, metavar="N", help="how many units in the last "
        "place the weights may be apart; default: 0, nothing may differ")  # fmt: skip
    add("--mistake", choices=MISTAKES, help="train with a classic error, and see what it does")
    add("--log-dir", type=Path, metavar="DIR", help="where a mistake leaves both descents, as runs "
        "for TensorBoard and plot.py")  # fmt: skip
    add("--optimizer", metavar="O", help="FILE.py:CLASS, which claims to be SGD: hold it against "
        "torch.optim.SGD in all its options")  # fmt: skip
    add("--backward", metavar="B", help="FILE.py:NAME, a function, autograd.Function or module: is "
        "its backward pass right? inputs() in the file returns what it takes")  # fmt: skip
    return parser


def experiments(
    model: str | None, data: str | None, columns: str | None, epochs: int
) -> Iterator[Experiment]:
    """Yield what is trained: each model, dtype, device and batch size."""
    kinds = [("linear", False), ("linear", True), ("quadratic", False)]
    if model is not None:
        kinds = [kind for kind in kinds if kind[0] == model] or [(model, False)]
    elif data is not None and load(data, columns=columns).features > 1:
        kinds = kinds[:2]
    devices = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    for (name, bias), dtype, device in itertools.product(kinds, DTYPES, devices):
        asked = Configuration(
            model=name, data=data, columns=columns, device=device, dtype=dtype, epochs=epochs,
            bias=bias,
        )  # fmt: skip
        samples = len(resolve([asked])[0].data.x)
        yield from resolve([
            replace(asked, batch_size=size) for size in sorted({1, min(2, samples), samples})
        ])  # fmt: skip


def label(config: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Return a row's first cells, under HEAD: what was trained; config.json may be anyone's."""
    set_ones = {name: options[name] for name in OPTIONS if options.get(name)}
    model = config["model"].rpartition(":")[2] + " with bias" * config["bias"]
    cells = (str(config[key]) for key in ("data", "batch_size", "dtype", "device"))
    return [*map(printable, [model, *cells]), in_words(set_ones)]


# Why the updates of a user's own model part, where the oracles say that it is right.
ROUNDING = "rounding"
Row = tuple[Trajectory, Trajectory, Comparison, str]  # the last is the verdict


def descend(update: Update, experiment: Experiment, options: dict[str, Any]) -> Trajectory:
    """Train a new model with any gradient and any optimizer."""
    model, c = experiment.new_model(), experiment.configuration
    optimizer = update[1](model.parameters(), **options)
    return train(model, experiment.batches, optimizer, update[0], c.epochs,
                 record_every=c.record_every)  # fmt: skip


def pairs(made: list[tuple[Experiment, dict[str, Any]]]) -> Iterator[Row]:
    """Train each pair, and where it differs find out which half is the cause, and why.

    Of a user's own model the oracles are asked, once in each dtype.
    """
    checks: dict[str, GradientCheck] = {}
    for experiment, options in made:
        trained = partial(descend, experiment=experiment, options=options)
        a, b = trained(MANUAL), trained(AUTOGRAD)
        comparison, verdict = compare(a, b), "identical"
        own, dtype = experiment.configuration.model not in MODELS, experiment.configuration.dtype
        if not comparison.identical and own and dtype not in checks:
            checks[dtype] = check_where_they_part(experiment, comparison, a)
        if own and not comparison.identical and checks[dtype]:
            verdict = ROUNDING
        elif not comparison.identical:
            verdict = f"cause: {which_half_differs(trained, MANUAL, AUTOGRAD)}"
            if own and (wrong := checks[dtype].wrong):
                verdict += f", {is_wrong(wrong)}"
        yield a, b, comparison, verdict


def print_table(labels: list[list[str]], rows: Iterable[Row], max_ulp: int) -> bool:
    """Print each row as it comes, and a sum; say whether all are within `max_ulp`, or rounding."""
    head, *lines = aligned([HEAD, *labels])
    width = max(map(len, [head, *lines]))
    say(f"{head:<{width}}  {FOUND.format('steps', 'max |Δw|', 'ULPs', 'part at', 'verdict')}")
    steps = within = rounded = 0
    for line, (a, b, found, verdict) in zip(lines, rows, strict=True):
        count = min(len(a.loss), len(b.loss))
        step, parameter = found.first_difference or ("never", "")
        parts = step if found.identical else f"{step} {parameter or 'end'}"
        numbers = count, f"{found.max_abs:.3g}", f"{found.max_ulp:.6g}"
        steps, near = steps + count, found.within(max_ulp)
        within, rounded = within + near, rounded + (not near and verdict == ROUNDING)
        verdict += ", diverged" * (a.stopped in UNSTABLE or b.stopped in UNSTABLE)
        say(f"{line:<{width}}  {FOUND.format(*numbers, parts, verdict)}")
    said = f"within {max_ulp} ULPs" if max_ulp else "identical, bit for bit"
    agree = f"{within} of {len(labels)} pairs are {said}"
    if rounded:
        agree += f", and {rounded} part by rounding alone: the oracles confirm the derivatives"
    say(f"{agree}; {steps} steps compared.")
    return within + rounded == len(labels)


def show_mistake(name: str, asked: Configuration, log_dir: Path | None) -> None:
    """Train right and with a mistake, and print how the two part; leave both, if asked to."""
    both = [replace(asked, update=update) for update in (MISTAKES[name].right, name)]
    with ExitStack() as opened:
        runs = [Run(experiment) for experiment in resolve(both)]
        if log_dir is not None:
            default = f"{name}-{runs[0].experiment.name}"
            runs = opened.enter_context(new_runs(both, log_dir, None, default))
            tell(f"written to {runs[0].directory.parent}; tensorboard --logdir {log_dir}")
        kept = [None if log_dir is None else opened.enter_context(run.events()) for run in runs]
        found = [run.carry_out(events=events) for run, events in zip(runs, kept, strict=True)]
    right, wrong = (outcome.trajectory for outcome in found)
    head = headline(runs[0].experiment)
    say(head, *side_by_side(right, wrong), MISTAKES[name].explanation)
    say(f"Met {MISTAKES[name].met}.")
    say(first_shows(right, wrong, compare(right, wrong)))


def check_own(optimizer: str | None, backward: str | None) -> OptimizerCheck | BackwardCheck:
    """Check the optimizer of FILE.py:CLASS, or else the backward pass of FILE.py:NAME."""
    if optimizer:
        return check_optimizer(find_optimizer(optimizer))
    assert backward is not None
    function, inputs = find_backward(backward)
    return check_backward(function, *inputs)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    runs, mistake = [r for path in arguments.runs for r in runs_in(path)], arguments.mistake
    asked = arguments.model, arguments.data, arguments.columns, mistake
    own = arguments.optimizer or arguments.backward
    for path in arguments.runs:
        if not path.is_dir():
            parser.error(f"{path} is no directory of a run; give runs/NAME, or runs/NAME/manual")
    if runs and (any(asked) or own):
        parser.error("two runs go without --model, --data, --mistake, --optimizer and --backward")
    if runs and len(runs) != 2:
        parser.error(f"{len(runs)} runs: give two; runs/NAME stands for the updates in it")
    for name in ("optimizer", "backward"):
        if getattr(arguments, name) and any(asked):
            parser.error(f"--{name} goes without --model, --data and --mistake")
    if arguments.optimizer and arguments.backward:
        parser.error("--optimizer goes without --backward: ask about one after the other")
    if arguments.log_dir and not mistake:
        parser.error("--log-dir goes with --mistake: nothing else leaves runs")
    with refusing(parser, ValueError, OSError):
        if own:
            check = check_own(arguments.optimizer, arguments.backward)
            say(str(check))
            return int(not check)
        if runs:
            (config_a, a), (config_b, b) = map(read_run, runs)
            both = zip(label(config_a, config_a), label(config_b, config_b), strict=True)
            labels = [[p if p == q else f"{p}|{q}" for p, q in both]]
            comparison = compare(a, b)
            verdict = "identical" if comparison.identical else "differ"
            owned = config_a["model"] == config_b["model"] not in MODELS
            if owned and not comparison.identical:
                verdict = f"differ; compare.py --model {printable(config_a['model'])} says why"
            return int(not print_table(labels, [(a, b, comparison, verdict)], arguments.max_ulp))
        if mistake:
            asked_for = Configuration(
                model=arguments.model or MISTAKES[mistake].model, data=arguments.data or "lesson",
                columns=arguments.columns,
                epochs=arguments.epochs, batch_size=MISTAKES[mistake].batch_size,
            )  # fmt: skip
            show_mistake(mistake, asked_for, arguments.log_dir)
            return 0
        trained = experiments(*asked[:3], arguments.epochs)
        made = list(itertools.product(trained, OPTION_SETS))
    labels = [label(asdict(experiment.configuration), options) for experiment, options in made]
    return int(not print_table(labels, pairs(made), arguments.max_ulp))


if __name__ == "__main__":
    run_script(main)
