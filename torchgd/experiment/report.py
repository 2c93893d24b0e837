"""What a run is told as: the lesson's transcript, the table, the verdict."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from torchgd.experiment.advice import least_squares, why_unstable
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.own_model import MODELS
from torchgd.experiment.run import Outcome
from torchgd.gradients import partial_derivatives
from torchgd.loss import mean_squared_error
from torchgd.proof.compare import Comparison, difference, differs, ulps
from torchgd.proof.findings import BACKWARD, ORACLES, GradientCheck, aligned
from torchgd.proof.oracles import check_gradient
from torchgd.trajectory import UNSTABLE, Stopped, Trajectory

FEW = 4096  # samples that the oracles look at, where the data are read in chunks
GROWN = 2**20  # ULPs: more than formulas make by themselves
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
    return (
        f"{experiment.name}: {samples}, batch size {c.batch_size}, {epochs}, {steps}, "
        f"learning rate {c.lr:g}, {c.dtype} on {c.device}"
    )


def transcript(outcome: Outcome) -> Iterator[str]:
    """Yield the lesson's lines: each recorded step's batch and gradients, and the progress.

    The progress comes every tenth epoch, with the weights and the last batch's loss after the
    update. The last line predicts.
    """
    experiment, trajectory = outcome.experiment, outcome.trajectory
    batches = experiment.batches
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
    yield f"predict (after training) {_predicted(outcome)} {digits(outcome.prediction)}"


def _plain(batch: Tensor) -> str:
    """Write a batch's values, a whole number without its .0."""
    texts = [_number(value) for value in batch.tolist()]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _number(value: float) -> str:
    return str(int(value) if value.is_integer() and abs(value) < 2**53 else value)


def _predicted(outcome: Outcome) -> str:
    return f"{_number(outcome.predicted_at)} {outcome.experiment.data.x_word}".strip()


def digits(value: Tensor) -> str:
    """Write a number with as many digits as tell it apart from every other of its type."""
    return str(value.numpy()[()])


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the table of final values: a column per update, and how far each is from the first.

    Where a descent leads to least squares there are its values, too, and how far the first update
    is from them.
    """
    first, landscape = outcomes[0], least_squares(outcomes[0].experiment)
    columns = [["", *first.parameters, "loss", f"ŷ({_predicted(first)})"]]
    for outcome in outcomes:
        columns.append([outcome.update, *map(digits, outcome.column)])
        if outcome is not first and outcome.trajectory.step[-1] == first.trajectory.step[-1]:
            a, b = first.column, outcome.column
            columns.append(["difference", *map(digits, difference(a, b))])
            columns.append(["ULPs", *map(str, ulps(a, b))])
    if landscape is not None:
        experiment, best = first.experiment, first.experiment.new_model(landscape.minimiser)
        parameters = experiment.parameters(best)
        loss = torch.tensor(landscape.minimum, dtype=first.loss.dtype)
        if experiment.configuration.chunk_size is None:  # else it takes all processes
            loss = experiment.loss(best)
        prediction = experiment.predict(best, first.predicted_at)
        values = torch.stack([*parameters.values(), loss, prediction])
        columns.append(["least squares", *map(digits, values)])
        distance = difference(first.column, values).tolist()
        columns.append(["distance", *(f"{d:.2g}" for d in distance)])
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


def agree(outcomes: Sequence[Outcome], comparison: Comparison) -> tuple[bool, str]:
    """Return whether two updates part by rounding alone, if at all, and what is to be said of it.

    The formulas of the built-in models are written in autograd's order: their gradients may not
    part at all, unless they are compiled, each to an order of its own. Affine maps round elsewhere.
    """
    first, other = (outcome.experiment.configuration for outcome in outcomes)
    experiment, path = outcomes[0].experiment, outcomes[0].trajectory
    if comparison.identical:
        return True, ""
    if "affine" in (first.update, other.update):
        return _within_the_bound(outcomes, comparison)
    mistaken = not {first.update, other.update} <= {"manual", "autograd", "compiled"}
    if first.model in MODELS or mistaken:
        return first.compile and not mistaken, ""
    check = check_where_they_part(experiment, comparison, path)
    if check.wrong:
        return False, f"By hand, {is_wrong(check.wrong)}: see derive.py {first.model}"
    if check.wrong_by_autograd:
        yours = named(check.wrong_by_autograd)
        said = f"By hand, {yours} is right; autograd's is not: {BACKWARD}"
        return False, f"{said} See derive.py {first.model}"
    if not check:
        return False, f"No oracle can say whether that is rounding: see derive.py {first.model}"
    silent = {finding.oracle for finding in check.rows if finding.passed is None}
    oracles = f"{len(ORACLES) - len(silent)} of {len(ORACLES)} oracles"
    confirmed = f"{oracles} confirm {named(outcomes[0].trajectory.names)}"
    by_autograd = [f for f in check.rows if f.oracle == "autograd" and f.passed]
    most = max(by_autograd, key=lambda finding: finding.error, default=None)
    size = f" (at most {most.apart})" if most else ""
    said = f"That is rounding: {confirmed}; your formula rounds in another order{size}"
    if comparison.max_ulp <= GROWN:
        return True, f"{said}."
    at_the_end = check_where_they_part(experiment, comparison, path, at_the_end=True)
    if not at_the_end:
        return False, f"Where they end they part by more than rounding:\n{at_the_end}"
    return True, f"{said}, and this descent magnifies it: a smaller --lr may not."


# See `affine_trajectory`: R is the largest |w| + 2α|φ||y| met.
def _within_the_bound(outcomes: Sequence[Outcome], comparison: Comparison) -> tuple[bool, str]:
    """Whether affine maps part from steps by no more than 8(P + 1)²·k·ε·R."""
    experiment, path = outcomes[0].experiment, outcomes[0].trajectory
    count, eps = len(path.names), torch.finfo(path.table.dtype).eps
    model, x = experiment.new_model(), experiment.batches.x
    phi = torch.stack([*partial_derivatives(model, x, x).values()]).abs().max().item()
    w = path.table[:, 1 : 1 + count].abs().max().item()
    R = w + 2 * experiment.options["lr"] * phi * experiment.batches.y.abs().max().item()
    bound = 8 * (count + 1) ** 2 * max(1, int(path.step[-1])) * eps * R
    if comparison.max_abs <= bound < math.inf:
        return True, f"That is rounding: affine maps round elsewhere, by at most {bound:.2g} here."
    return False, ""


def check_where_they_part(
    experiment: Experiment, comparison: Comparison, path: Trajectory, at_the_end: bool = False
) -> GradientCheck:
    """Ask the oracles about a user's own model, at the weights at which its updates part.

    Or `at_the_end`, at the last weights that are numbers.
    """
    assert comparison.first_difference is not None
    row = int(torch.searchsorted(path.step, comparison.first_difference[0]))
    row = min(row, len(path.step) - 1)  # a step that only the other has
    if at_the_end:
        numbers = path.table[:, 1 : 1 + len(path.names)].isfinite().all(dim=1)
        row = int(numbers.nonzero()[-1])
    model, c = experiment.new_model(path.weights_at(row)), experiment.configuration
    some = slice(None if c.chunk_size is None else FEW)
    x, y = (t[some].to(c.device) for t in (experiment.batches.x, experiment.batches.y))
    return check_gradient(model, x, y)


def named(parameters: Iterable[str]) -> str:
    """Name the derivatives in these parameters."""
    return " and ".join(f"∂ŷ/∂{name}" for name in parameters)


def is_wrong(parameters: Sequence[str]) -> str:
    """Say that the derivatives in these parameters are wrong."""
    return f"{named(parameters)} {'is' if len(parameters) == 1 else 'are'} wrong"
