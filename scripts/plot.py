"""Draw what one run, or several laid over each other, left on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from torchgd.experiment.command_line import Parser, refusing, run_script
from torchgd.experiment.experiment import AFFINE, UPDATES, Experiment
from torchgd.experiment.tracking import read_result, read_run
from torchgd.figures.plots import animate, draw, save, show
from torchgd.figures.scene import Run, Scene
from torchgd.loss import mean_squared_error
from torchgd.trajectory import Trajectory


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="plot.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory: runs/NAME for both "
        "updates, or runs/NAME/manual")  # fmt: skip
    add("--plane", type=lambda text: text.split(","), metavar="W,W", help="the parameters of the "
        "contour plot, such as w2,w1; default: the two that matter most")  # fmt: skip
    add("--format", choices=["png", "svg", "pdf"], default="png", help="default: png")
    add("--animate", action="store_true", help="write descent.gif, too")
    add("--show", action="store_true", help="open the figures in windows, too")
    add("--output", type=Path, metavar="DIR", help="where to write; default: the run's directory, "
        "of several the one that they are in")  # fmt: skip
    add("--model", metavar="FILE.py:CLASS", help="the runs' model, if it is your own: its code is "
        "run")  # fmt: skip
    return parser


def directories(path: Path) -> list[Path]:
    """Return the updates' directories in runs/NAME, or else the directory itself."""
    updates = (path / update for update in (*UPDATES, AFFINE))
    return [update for update in updates if update.is_dir()] or [path]


def load(directory: Path, label: str, model: str | None) -> Run:
    """Read a run that has ended.

    Raises:
        ValueError: it has not, or is damaged, or its model or data are not what they were.
        OSError: a file cannot be read.
    """
    config, trajectory = read_run(directory)
    result = read_result(directory)
    end = int(trajectory.step[-1])
    if result["steps"] != end:
        raise ValueError(
            f"{directory}: trajectory.csv ends at step {end}, and the run did at "
            f"{result['steps']}: the file is truncated; run it again"
        )
    experiment = Experiment.from_config(config, model, device="cpu", compile=False)
    if experiment.streams:
        raise ValueError(f"{directory}: its data were read in chunks, and are too many to draw")
    refuse_changes(directory, experiment, trajectory)
    return Run(label, experiment, replace(trajectory, stopped=result["stopped"]))


def refuse_changes(directory: Path, experiment: Experiment, trajectory: Trajectory) -> None:
    """Refuse a model or data that no longer give the first loss that was recorded."""
    if len(trajectory.loss) == 0:
        return
    x, y = next(iter(experiment.batches))
    with torch.no_grad():
        now, then = mean_squared_error(experiment.new_model()(x), y), trajectory.loss[0]
    # Another device rounds otherwise, in the last digits alone.
    rounding = torch.finfo(now.dtype).eps ** 0.5
    if not torch.allclose(now, then, rtol=rounding, atol=0, equal_nan=True):
        raise ValueError(
            f"{directory}: its first loss is {then.item():g}, and model and data now give "
            f"{now.item():g}: they have changed since; run it again"
        )


def labels(found: Sequence[Path]) -> list[str]:
    """Name the runs: manual and autograd, if that tells them apart."""
    names = [directory.resolve().name for directory in found]
    if len(set(names)) == len(names):
        return names
    return [f"{d.resolve().parent.name}/{d.resolve().name}" for d in found]


def folder(runs: Sequence[Path]) -> Path:
    """Return where the figures belong.

    Raises:
        ValueError: several runs are not in one directory.
    """
    if len(runs) == 1:
        return runs[0]
    parents = {run.resolve().parent for run in runs}
    if len(parents) > 1:
        raise ValueError(
            f"{len(runs)} runs in {len(parents)} directories: say where to write with --output"
        )
    return runs[0].parent


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with refusing(parser, ValueError, OSError):
        output = arguments.output or folder(arguments.runs)
        found = [directory for path in arguments.runs for directory in directories(path)]
        named = zip(found, labels(found), strict=True)
        scene = Scene([load(d, label, arguments.model) for d, label in named])
        figures = draw(scene, arguments.plane, arguments.show)
        output.mkdir(parents=True, exist_ok=True)
        for file in save(figures, output, arguments.format):
            print(file)
        if arguments.animate:
            animate(scene, output / "descent.gif", arguments.plane)
            print(output / "descent.gif")
    if arguments.show:
        show()
    return 0


if __name__ == "__main__":
    run_script(main)
