"""What a run is told as: its files' contents, the lesson's transcript, the table, the verdict."""

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.files import printable
from torchgd.experiment.goal import Goal
from torchgd.experiment.outcome import Outcome
from torchgd.experiment.ranks import processes
from torchgd.experiment.stability import divergence
from torchgd.loss import mean_squared_error
from torchgd.proof.compare import Comparison, difference, differs, ulps
from torchgd.proof.findings import aligned
from torchgd.trajectory import Trajectory
from torchgd.version import __version__

MOST = 6  # steps at which two trajectories differ most


def config_json(experiment: Experiment, update: str, updates: Sequence[str] = ()) -> dict[str, Any]:
    """Return what config.json holds: everything needed to run it again, with all its updates."""
    z, device = experiment.standardization, experiment.device
    cuda = device.type == "cuda"
    return {
        **experiment.identity(update),
        "updates": [*updates] or [update],
        "samples": len(experiment.data.x),
        "steps": experiment.steps,
        "standardization": z and asdict(z),
        **{n: getattr(experiment.data, n) for n in ("x_name", "x_unit", "y_name", "y_unit")},
        "working_directory": str(experiment.folder.resolve()) if experiment.reads_files else None,
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Return what beside the configuration may decide a run's bits."""
    return {
        "threads": torch.get_num_threads(),
        "processes": processes(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "torchgd": __version__,
    }


def environment_changes(config: dict[str, Any]) -> Iterator[str]:
    """Yield in what the environment differs from the one in which this run's config.json began."""
    for name, now in environment().items():
        if (was := config.get(name)) != now:
            was = printable(f"{was}")
            yield f"{name} {now}, and the run began with {was}: bits may differ from then on"


def result_json(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """Return what result.json holds."""
    trajectory, configuration = outcome.trajectory, asdict(experiment.configuration)
    return {
        "update": outcome.update,
        **{name: configuration[name] for name in ("model", "data", "device", "dtype")},
        "steps": int(trajectory.step[-1]),
        "epochs": int(trajectory.epoch[-1]),
        "stopped": trajectory.stopped,
        "parameters": {name: value.item() for name, value in outcome.parameters.items()},
        "loss": outcome.loss.item(),
        "seconds": outcome.seconds,
    }


def unfinished(experiment: Experiment, outcome: Outcome) -> str:
    """Say of the last update's outcome that there was more to come; "" if there was not."""
    path = outcome.trajectory
    if path.stopped != "interrupted":
        return ""
    return f"Unfinished, at step {int(path.step[-1])} of {experiment.steps} ({outcome.update}):"


def headline(experiment: Experiment) -> str:
    """Say of which model and data it is, and how they are trained."""
    c = experiment.configuration
    counts = {"sample": len(experiment.data.x), "epoch": c.epochs, "step": experiment.steps}
    samples, epochs, steps = (f"{n} {noun}{'s' * (n != 1)}" for noun, n in counts.items())
    return (
        f"{experiment.name}: {samples}, batch size {c.batch_size}, {epochs}, {steps}, "
        f"learning rate {c.lr:g}, {c.dtype} on {c.device}"
    )


def transcript(experiment: Experiment, outcome: Outcome) -> Iterator[str]:
    """Yield the lesson's lines: each recorded step's batch and gradients, and the progress.

    The progress comes every tenth epoch, with the weights and the last batch's loss after the
    update. The last line predicts.
    """
    trajectory, batches = outcome.trajectory, experiment.batches
    rows = {step: row for row, step in enumerate(trajectory.step.tolist())}
    gradients = torch.stack([*trajectory.gradients.values()], dim=1).tolist()
    recorded = dict(zip(rows, gradients, strict=False))  # the last row has no gradients
    step = 0
    for epoch in range(int(trajectory.epoch[-1]) + 1):
        batches.set_epoch(epoch)
        for x, y in batches:
            if step in recorded:
                values = (str(round(g, 6)) for g in recorded[step])
                yield " ".join(["\t grad:", _plain(x), _plain(y), *values])
            step += 1
        if epoch % 10 == 0 and step in rows:
            weights = {name: w[rows[step]] for name, w in trajectory.weights.items()}
            there = {name: w.to(x.device) for name, w in weights.items()}
            loss = mean_squared_error(functional_call(experiment.new_model(), there, x), y).item()
            texts = [f"{name} = {round(w.item(), 2)}" for name, w in weights.items()]
            yield f"progress: {epoch} {' '.join(texts)} loss = {round(loss, 6)}"
    yield f"predict (after training) {_predicted(experiment, outcome)} {digits(outcome.prediction)}"


def _plain(batch: Tensor) -> str:
    """Write a batch's values, a whole number without its .0."""
    texts = [_number(value) for value in batch.tolist()]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _number(value: float) -> str:
    return str(int(value) if value.is_integer() and abs(value) < 2**53 else value)


def _predicted(experiment: Experiment, outcome: Outcome) -> str:
    return f"{_number(outcome.predicted_at)} {experiment.data.x_word}".strip()


def digits(value: Tensor) -> str:
    """Write a number with as many digits as tell it apart from every other of its type."""
    return str(value.numpy()[()])


def table(
    experiment: Experiment, outcomes: list[Outcome], goal: Goal | None = None
) -> Iterator[str]:
    """Yield the table of final values: a column per update and, for two, how far apart they are.

    Where a descent has a goal there are its values too, and how far the first update is from them.
    """
    prediction = f"ŷ({_predicted(experiment, outcomes[0])})"
    columns = [["", *outcomes[0].parameters, "loss", prediction]]
    columns += [[outcome.update, *map(digits, outcome.column)] for outcome in outcomes]
    ends = {int(outcome.trajectory.step[-1]) for outcome in outcomes}
    if len(outcomes) == 2 and len(ends) == 1:
        a, b = (outcome.column for outcome in outcomes)
        columns.append(["difference", *map(digits, difference(a, b))])
        columns.append(["ULPs", *map(str, ulps(a, b))])
    if goal is not None:
        columns.append(["least squares", *map(digits, goal.values.column)])
        distance = difference(outcomes[0].column, goal.values.column)
        columns.append(["distance", *(f"{d:.2g}" for d in distance.tolist())])
    yield from aligned([*zip(*columns, strict=True)])


def verdict(comparison: Comparison, a: Trajectory, b: Trajectory) -> str:
    """Say whether all steps were identical and, if not, where they part."""
    recorded = max(len(a.loss), len(b.loss))
    steps = max(int(a.step[-1]), int(b.step[-1]))
    if comparison.first_difference is None:
        of = "" if recorded == steps else f"{recorded} recorded of "
        subject = "The only step is" if steps == 1 else f"All {of}{steps} steps are"
        return f"{subject} identical, bit for bit: weights, gradients and loss."
    step, parameter = comparison.first_difference
    if parameter is None:
        return f"The updates are identical up to step {step}, which only one of them reaches."
    if comparison.max_ulp == 0:
        what = "The loss parts" if parameter == "loss" else f"The gradients part in {parameter}"
        return f"{what} at step {step}; the weights never do."
    return (
        f"The updates part at step {step}, in {parameter}; "
        f"the weights differ by {comparison.max_abs:g} ({comparison.max_ulp} ULPs) at most."
    )


def who_diverged(experiment: Experiment, outcomes: list[Outcome]) -> str:
    """Say which descents diverged, how, and at which learning rates none would have; "" if none."""
    diverged = [outcome for outcome in outcomes if outcome.trajectory.stopped == "diverged"]
    if not diverged:
        return ""
    who = "the descent diverged"
    if len(diverged) == 2:
        who = "the descent diverged, by hand and by autograd alike"
    elif len(outcomes) == 2:
        which = {"manual": "by hand", "autograd": "by autograd"}[diverged[0].update]
        who = f"the descent {which} diverged, and the other did not"
    return f"{who}; {divergence(experiment, diverged[0].trajectory, diverged[0].loss)}"


def side_by_side(right: Trajectory, wrong: Trajectory) -> Iterator[str]:
    """Yield weights and loss of two trajectories, at the start, the end and where they differ most.

    Where the weights never differ, those are the steps at which the loss does.
    """
    count, weights = min(len(right.step), len(wrong.step)), 1 + len(right.names)
    apart = difference(right.table[:count, :weights], wrong.table[:count, :weights])
    far = apart[:, 1:].amax(dim=1)
    if not far.any():  # in the last row there is no loss
        far = apart[:, 0] * (torch.arange(count) < len(right.loss))
    most = far.nan_to_num(math.inf, math.inf).topk(min(MOST, count)).indices.tolist()
    alike = torch.equal(*(t.table[:count, :weights].float() for t in (right, wrong)))
    shown = ".17g" if alike else ".6g"  # where they part in the last digits, with these
    head = (f"{what} {which}" for what in (*right.names, "loss") for which in ("right", "wrong"))
    rows = [["step", *head]]
    for row in sorted({0, count - 1, *most}):
        pairs = [(t.table[row, :weights].roll(-1).tolist()) for t in (right, wrong)]
        texts = [format(value, shown) for pair in zip(*pairs, strict=True) for value in pair]
        if row >= min(len(right.loss), len(wrong.loss)):
            texts[-2:] = "", ""
        rows.append([str(int(right.step[row])), *texts])
    yield from aligned(rows)


def first_shows(right: Trajectory, wrong: Trajectory, comparison: Comparison) -> str:
    """Say at which step two trajectories part, in what, and how far apart they are there."""
    if comparison.first_difference is None:
        return "Here it makes no difference: all steps are identical, bit for bit."
    step, parameter = comparison.first_difference
    if parameter is None:
        return f"All is equal up to step {step}, where the wrong one ends."
    names = [*right.names, *(f"∂loss/∂{name}" for name in right.names), "the loss"]
    row = right.step.tolist().index(step)
    p, q = (trajectory.table[row].roll(-1) for trajectory in (right, wrong))  # the loss comes last
    k = int(differs(p, q).nonzero()[0])
    a, b = p[k], q[k]
    return (
        f"It first shows at step {step}, in {names[k]}: {digits(a)} right, {digits(b)} wrong, "
        f"{difference(a, b).item():.3g} apart (ULPs: {float(ulps(a, b)):.6g})."
    )
