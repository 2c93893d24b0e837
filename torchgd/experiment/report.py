"""What a run is told as: the lesson's transcript, the table, the verdict."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchgd.experiment.advice import what_would_help, why_unstable
from torchgd.experiment.agreement import agree
from torchgd.experiment.digits import MOST as DIGITS
from torchgd.experiment.digits import answer, shared, standard_errors, total_variance, written
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.folder import read_result
from torchgd.experiment.run import Outcome, Run
from torchgd.loss import mean_squared_error
from torchgd.proof.compare import Comparison, compare, difference, differs, ulps
from torchgd.proof.findings import aligned
from torchgd.trajectory import UNSTABLE, Stopped, Trajectory

NAMED = 4  # columns of an x whose numbers are written
FIRST = 3  # steps at the start that are shown of two trajectories
MOST = 6  # steps at which two trajectories differ most
WAYS = {"manual": "by hand"}  # what an update is called in a sentence


def unfinished(outcome: Outcome) -> str:
    """Say of the last outcome that there was more to come; "" if there was not."""
    path = outcome.trajectory
    if path.stopped != Stopped.INTERRUPTED:
        return ""
    of = f"of {outcome.experiment.steps} ({outcome.update})"
    return f"Unfinished, at step {int(path.step[-1])} {of}:"


def headline(experiment: Experiment) -> str:
    """Say of which model and data it is, and how they are trained."""
    c = experiment.configuration
    counts = {"sample": len(experiment.data.x), "epoch": c.epochs, "step": experiment.steps}
    samples, epochs, steps = (f"{n} {noun}{'s' * (n != 1)}" for noun, n in counts.items())
    columns = experiment.data.features
    if columns > 1:
        known = f" ({experiment.data.x_name})" * (experiment.data.x_name != "x")
        samples += f" of {columns} columns{known}"
    return (
        f"{experiment.name}: {samples}, batch size {c.batch_size}, {epochs}, {steps}, "
        f"learning rate {c.lr:g}, {c.dtype} on {c.device}"
    )


def transcript(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of the lesson's printed listing: each recorded step, and the progress.

    (The program in the lesson's repository prints 1.0 2.0, two decimals and every epoch.) The
    progress comes every tenth epoch, with the weights and the last batch's loss after the
    update. The last line predicts.
    """
    experiment, trajectory = outcome.experiment, outcome.trajectory
    batches = experiment.batches
    rows = {step: row for row, step in enumerate(trajectory.step.tolist())}
    gradients = trajectory.table[: trajectory.recorded, 1 + len(trajectory.names) :].tolist()
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
            weights = trajectory.weights_at(rows[step])
            with torch.no_grad():
                loss = mean_squared_error(experiment.new_model(weights)(x), y).item()
            named = zip(trajectory.names, weights.tolist(), strict=True)
            texts = [f"{name} = {round(w, 2)}" for name, w in named]
            yield f"progress: {epoch} {' '.join(texts)} loss = {round(loss, 6)}"
    yield f"predict (after training) {_predicted(outcome)} {written(outcome.prediction)}"


def _plain(batch: Tensor) -> str:
    """Write a batch's values, a whole number without its .0, and several columns in brackets."""
    if batch.ndim == 0:
        return _number(batch.item())
    texts = [*map(_plain, batch)]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _number(value: float) -> str:
    return str(int(value) if value.is_integer() and abs(value) < 2**53 else value)


def _predicted(outcome: Outcome) -> str:
    experiment = outcome.experiment
    at, data = experiment.predict_at, experiment.data
    if len(at) == 1:
        return f"{_number(at[0])} {data.x_word}".strip()
    return ", ".join(f"{x:.6g}" for x in at[:NAMED]) + ", …" * (len(at) > NAMED)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the table of final values: a column per update, and how far each is from the first.

    Where a descent leads to least squares there are its values, too, with their standard errors and
    R², and the distance of the first update's from them, |value − least squares|; of the loss it is
    loss − minimum, which `advice.what_would_help` speaks of. No more digits are written than are
    known (see `digits`).
    """
    first, experiment = outcomes[0], outcomes[0].experiment
    best, landscape = answer(experiment), experiment.least_squares
    columns = [["", *first.parameters, "loss", f"ŷ({_predicted(first)})"]]
    for outcome in outcomes:
        counts = [*outcome.digits.values()] or [DIGITS[outcome.loss.dtype]] * len(outcome.column)
        columns.append([outcome.update, *map(written, outcome.column, counts)])
        if outcome is not first and outcome.trajectory.step[-1] == first.trajectory.step[-1]:
            a, b = first.column, outcome.column
            columns.append(["difference", *map(written, difference(a, b))])
            columns.append(["ULPs", *map(str, ulps(a, b))])
    if best is not None and landscape is not None:
        counts = [shared(low, high, DIGITS[best.dtype]) for low, high in best.T.tolist()]
        values = best.mean(dim=0)
        columns.append(["least squares", *map(written, values, counts)])
        errors = standard_errors(experiment, landscape, values[-2].item())
        shown = ".6g" if values.dtype == torch.float64 else ".3g"
        if errors is not None:
            columns.append(["std. error", *(format(e, shown) for e in errors.tolist()), "", ""])
        distance = difference(first.column, values).tolist()
        columns.append(["distance", *(f"{d:.2g}" for d in distance)])
        losses = {outcome.update: outcome.loss for outcome in outcomes}
        losses["least squares"] = values[-2]
        total = total_variance(landscape)
        if total > 0:
            fits = {n: written((1 - loss / total).to(loss.dtype)) for n, loss in losses.items()}
            for column in columns:
                column.append({"": "R²", **fits}.get(column[0], ""))
    yield from aligned([*zip(*columns, strict=True)])


def compared(outcomes: Sequence[Outcome]) -> tuple[dict[str, Any], list[str], bool]:
    """Compare each outcome with the first, unless the last is unfinished.

    Returns what comparison.json holds, the lines that tell of all, and whether they agree.
    """
    first, *others = outcomes
    lines = [unfinished(outcomes[-1]), headline(first.experiment), *table(outcomes)]
    lines.append(digits_left(first))
    found: dict[str, Any] = {}
    all_agree = True
    for other in others if not lines[0] else ():
        comparison = compare(first.trajectory, other.trajectory)
        same, why = agree([first, other], comparison)
        said = verdict(comparison, first.trajectory, other.trajectory)
        lines += [f"{other.update}: {said}" if len(others) > 1 else said, why]
        found[other.update], all_agree = comparison.as_dict(), all_agree and same
    if all_agree:
        lines.append(what_would_help(first.experiment, first.trajectory))
    if len(found) == 1:
        (found,) = found.values()
    return found, lines, all_agree


def over(runs: Sequence[Run]) -> tuple[str, int] | None:
    """Say of runs that are compared that nothing is left to do, with the exit status; else None."""
    directory, steps = runs[0].directory.parent, runs[0].experiment.steps
    alone = len(runs) == 1 or (directory / "comparison.json").is_file()
    if not (alone and all(run.over for run in runs)):
        return None
    ends = {read_result(run.directory)["stopped"] for run in runs}
    if Stopped.DIVERGED in ends:
        return f"{directory} diverged, and nothing goes on from there; start a new run", 1
    if Stopped.CLIMBED in ends:
        return f"{directory} climbed, in {steps} steps; start a new run with a smaller --lr", 1
    return f"{directory} is finished, after {steps} steps; --epochs can be raised", 0


def digits_left(outcome: Outcome) -> str:
    """Say of a standardised descent that has arrived how many digits rounding leaves."""
    counts = outcome.digits
    said = ", ".join(f"{counts[name]} of {name}" for name in outcome.parameters if counts)
    return f"Digits that rounding leaves: {said}." if said else ""


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


def who_was_unstable(outcomes: Sequence[Outcome]) -> str:
    """Say which descents diverged or climbed, how, and at which learning rates none would have."""
    unstable = [outcome for outcome in outcomes if outcome.trajectory.stopped in UNSTABLE]
    if not unstable:
        return ""
    first = unstable[0]
    did, names = first.trajectory.stopped, [outcome.update for outcome in unstable]
    who = f"the descent {did}"
    if len(outcomes) > 1:
        others = "alike" if len(unstable) == len(outcomes) else "alone"
        who += f", {' and '.join(WAYS.get(name, f'by {name}') for name in names)} {others}"
    return f"{who}; {why_unstable(first.experiment, first.trajectory, first.loss)}"


def side_by_side(right: Trajectory, wrong: Trajectory) -> Iterator[str]:
    """Yield weights and loss of two trajectories, and why each step is shown.

    They are the first steps, those at which the weights differ most, and the last. Where the
    weights never differ, those are the steps at which the loss does.
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
    rows = [["step", *head, "shown as"]]
    why = {**dict.fromkeys(most, "one that differs most"), count - 1: "the last"}
    why |= dict.fromkeys(range(min(FIRST, count)), "one of the first")
    for row in sorted(why):
        pairs = [(t.table[row, :weights].roll(-1).tolist()) for t in (right, wrong)]
        texts = [format(value, shown) for pair in zip(*pairs, strict=True) for value in pair]
        if row >= min(len(right.loss), len(wrong.loss)):
            texts[-2:] = "", ""
        rows.append([str(int(right.step[row])), *texts, why[row]])
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
        f"It first shows at step {step}, in {names[k]}: {written(a)} right, {written(b)} wrong, "
        f"{difference(a, b).item():.3g} apart (ULPs: {float(ulps(a, b)):.6g})."
    )
