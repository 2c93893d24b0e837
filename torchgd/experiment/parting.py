"""The updates of a user's own model part: by rounding, or because a derivative is wrong?"""

from collections.abc import Iterable, Sequence

import torch

from torchgd.experiment.experiment import Experiment
from torchgd.experiment.outcome import model_at
from torchgd.experiment.own_model import MODELS, call_user_code
from torchgd.proof.compare import Comparison
from torchgd.proof.findings import ORACLES, GradientCheck
from torchgd.proof.oracles import check_gradient
from torchgd.trajectory import Trajectory

FEW = 4096  # samples of data that are not in memory
GROWN = 2**20  # ULPs: more than formulas make by themselves


def check_where_they_part(
    experiment: Experiment, comparison: Comparison, trajectory: Trajectory
) -> GradientCheck:
    """Ask the oracles about a user's own model, at the weights at which its updates part."""
    assert comparison.first_difference is not None
    row = int(torch.searchsorted(trajectory.step, comparison.first_difference[0]))
    row = min(row, len(trajectory.step) - 1)  # a step that only the other has
    weights = torch.stack([w[row] for w in trajectory.weights.values()])
    model = model_at(experiment, weights)
    some = slice(FEW if experiment.streams else None)
    x, y = (t[some].to(experiment.device) for t in (experiment.batches.x, experiment.batches.y))
    check: GradientCheck = call_user_code(
        experiment.configuration.model, check_gradient, model, x, y
    )
    return check


def by_rounding(
    experiment: Experiment, comparison: Comparison, trajectory: Trajectory
) -> tuple[bool, str]:
    """Return whether two updates part by rounding alone, if at all, and what is to be said of it.

    The formulas of the built-in models are written in autograd's order: they may not part at all,
    unless their gradients are compiled, each to an order of its own.
    """
    name = experiment.configuration.model
    if comparison.identical or name in MODELS:
        compiled = experiment.configuration.compile and not experiment.machine_code
        return comparison.identical or compiled, ""
    check = check_where_they_part(experiment, comparison, trajectory)
    if check.wrong:
        return False, f"By hand, {is_wrong(check.wrong)}: see derive.py {name}"
    if not check:
        return False, f"No oracle can say whether that is rounding: see derive.py {name}"
    silent = {finding.oracle for finding in check.rows if finding.passed is None}
    oracles = f"{len(ORACLES) - len(silent)} of {len(ORACLES)} oracles"
    said = f"That is rounding: {oracles} confirm {named(trajectory.names)}; your formula rounds in "
    if comparison.max_ulp <= GROWN:
        return True, f"{said}another order."
    return True, f"{said}another order, and this descent magnifies it: a smaller --lr may not."


def named(parameters: Iterable[str]) -> str:
    """Name the derivatives in these parameters."""
    return " and ".join(f"∂ŷ/∂{name}" for name in parameters)


def is_wrong(parameters: Sequence[str]) -> str:
    """Say that the derivatives in these parameters are wrong."""
    return f"{named(parameters)} {'is' if len(parameters) == 1 else 'are'} wrong"
