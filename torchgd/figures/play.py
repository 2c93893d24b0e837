"""A run as a page to play with: `play.html`, with the run's data and model in it."""

import json
from importlib.resources import files

import torch

from torchgd.compiled import fuses, lanes
from torchgd.experiment.experiment import Experiment
from torchgd.figures.descent import plane_of
from torchgd.figures.runs import DrawnRun, Runs
from torchgd.machine_code import MOST as TERMS
from torchgd.models import Linear, Quadratic

MOST = 1000  # samples, of which each is drawn


def playable(runs: Runs, plane: list[str] | None = None) -> str:
    """Return a page on which the first run can be taken again, step by step, and changed.

    It needs no other file and no network. Its steps have the bits of the run's, taken in order in
    float64 on this machine: it adds and rounds as torch does here (see `torchgd.machine_code`), and
    says so where it does not, as for batches of more than 256 samples.

    Raises:
        ValueError: the page does not know the run's model, or one of its options, or its plane.
    """
    run = runs[0]
    refuse_what_it_does_not_know(run.experiment)
    # No text of the user's ends the script that holds it.
    content = json.dumps(described(run, plane), allow_nan=False).replace("<", "\\u003c")
    page = (files("torchgd.figures") / "play.html").read_text(encoding="utf-8")
    return page.replace("{{run}}", content)


def refuse_what_it_does_not_know(experiment: Experiment) -> None:
    """Refuse a run of which the page would show another descent."""
    c = experiment.configuration
    if not isinstance(experiment.new_model(), Linear | Quadratic):
        raise ValueError(f"model {c.model}: the page knows linear and quadratic alone")
    for name in ("dampening", "weight_decay", "nesterov", "maximize"):
        if getattr(c, name):
            raise ValueError(f"{name} {getattr(c, name)}: the page knows momentum alone")
    if experiment.data.features > 1:
        raise ValueError(f"{experiment.data.features} columns of x: the page draws one alone")
    if len(experiment.data.x) > MOST:
        raise ValueError(f"{len(experiment.data.x)} samples: the page draws {MOST} at most")


def described(run: DrawnRun, plane: list[str] | None) -> dict[str, object]:
    """Return what the page is told of a run."""
    experiment, c = run.experiment, run.experiment.configuration
    data, names = experiment.data, run.landscape.names
    i, *rest = plane_of([run], plane) if len(names) > 1 else [0]
    batches, offset = experiment.batches, experiment.offset
    formula = {"w2": "x²·w2", "w1": "x·w1", "w": "w·x", "b": "b"}
    unlike = [
        "the run was in float32" * (c.dtype == "float32"),
        "its batches were shuffled, and here they come in order" * c.shuffle,
        "torch rounds w − α·g twice where this page was written, and here it is rounded once"
        * (not fuses(torch.float64)),
    ]
    return {
        "title": experiment.name,
        "names": names,
        "formula": " + ".join(formula[name] for name in names),
        "x": batches.x.double().tolist(),
        "y": batches.y.double().tolist(),
        "x_label": label(data.x_name, data.x_unit, experiment.standardization is not None),
        "y_label": label(data.y_name, data.y_unit, False) + ", less its mean" * (offset != 0),
        "start": [c.initial[name] for name in names],
        "plane": [i, rest[0] if rest else None],
        "lr": c.lr,
        "momentum": c.momentum,
        "batch_size": batches.batch_size,
        "lanes": lanes(torch.float64),
        "terms": TERMS,
        "unlike": [*filter(None, unlike)],
    }


def label(name: str, unit: str, standardized: bool) -> str:
    """Name an axis."""
    return f"{name}, standardized" if standardized else f"{name} [{unit}]" if unit else name
