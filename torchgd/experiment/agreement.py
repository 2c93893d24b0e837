"""Do two updates part by rounding alone? What is said of it, and of who is wrong."""

import math
from collections.abc import Iterable, Sequence

import torch

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.own_model import MODELS
from torchgd.experiment.run import Outcome
from torchgd.gradients import few, jacobian
from torchgd.proof.compare import Comparison
from torchgd.proof.findings import BACKWARD, ORACLES, GradientCheck
from torchgd.proof.oracles import check_gradient
from torchgd.trajectory import Trajectory

NAMED = 4  # entries that are named one by one
GROWN = 2**20  # ULPs: more than formulas make by themselves


def agree(outcomes: Sequence[Outcome], comparison: Comparison) -> tuple[bool, str]:
    """Return whether two updates part by rounding alone, if at all, and what is to be said of it.

    The formulas of the built-in models are written in autograd's order: their gradients may not
    part at all, unless they are compiled, each to an order of its own. Affine maps round elsewhere,
    and so does the compiled loop where BLAS takes the sums of several columns.
    """
    first, other = (outcome.experiment.configuration for outcome in outcomes)
    experiment, path = outcomes[0].experiment, outcomes[0].trajectory
    if comparison.identical:
        return True, ""
    ways = {first.update, other.update}
    if "affine" in ways or ("compiled" in ways and experiment.data.features > 1):
        return _within_the_bound(outcomes, comparison)
    mistaken = not ways <= {"manual", "autograd", "compiled"}
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


# See `affine_trajectory`, where R is the largest |w| + 2α|φ||y| met, and `compiled_trajectory`,
# where |y| + Σ|φw| takes the place of |y|.
@torch.no_grad()
def _within_the_bound(outcomes: Sequence[Outcome], comparison: Comparison) -> tuple[bool, str]:
    """Whether two ways part by no more than 8(P + 1)²·k·ε·R or, compiled, (P + B + 3)·k·ε·R."""
    experiment, path = outcomes[0].experiment, outcomes[0].trajectory
    count, eps = len(path.names), torch.finfo(path.table.dtype).eps
    model, x = experiment.new_model(), experiment.batches.x
    phi, y = jacobian(model, x).abs(), experiment.batches.y.abs().max()
    w = path.weights_at(slice(None)).abs().max()
    who, factor = "affine maps round", 8 * (count + 1) ** 2
    if all(outcome.update != "affine" for outcome in outcomes):
        who, factor = "the compiled loop rounds", count + experiment.batches.batch_size + 3
        y = y + w * phi.sum(dim=1).max()
    R = (w + 2 * experiment.options["lr"] * phi.max() * y).item()
    bound = factor * max(1, int(path.step[-1])) * eps * R
    if comparison.max_abs <= bound < math.inf:
        return True, f"That is rounding: {who} elsewhere, by at most {bound:.2g} here."
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
    both = experiment.batches.x, experiment.batches.y
    x, y = both if c.chunk_size is None else map(few, both)
    return check_gradient(model, x.to(c.device), y.to(c.device))


def named(parameters: Iterable[str]) -> str:
    """Name the derivatives in these parameters."""
    names = list(parameters)
    if len(names) > NAMED:  # entries of what is no scalar
        names = list(dict.fromkeys(name.partition("[")[0] for name in names))
    return " and ".join(f"∂ŷ/∂{name}" for name in names)


def is_wrong(parameters: Sequence[str]) -> str:
    """Say that the derivatives in these parameters are wrong."""
    return f"{named(parameters)} {'is' if len(parameters) == 1 else 'are'} wrong"
