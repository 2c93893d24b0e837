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
from torchgd.proof import answers, notations
from torchgd.proof.mistakes import MISTAKES
from torchgd.proof.slips import slips
from torchgd.proof.symbols import Derivation, derive

MOST = 1000  # samples, of which each is drawn
# The page's script, in reading order: the descent as torch computes it, what is known of it, a
# reader of formulas, and then what is seen and said.
SCRIPTS = ("arithmetic", "descent", "rates", "notations", "formulas", "answers", "charts",
           "pictures", "words", "page")  # fmt: skip


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
    return page.replace("{{script}}", script()).replace("{{run}}", content)


def script() -> str:
    """Return the page's JavaScript."""
    folder = files("torchgd.figures") / "javascript"
    return "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)


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
    derivation = derive(experiment.new_model())
    unlike = [
        "the run was in float32" * (c.dtype == "float32"),
        "its batches were shuffled, and here they come in order" * c.shuffle,
        "torch rounds w − α·g twice where this page was written, and here it is rounded once"
        * (not fuses(torch.float64)),
    ]
    return {
        "title": experiment.name,
        "names": names,
        "formula": notations.notation(derivation.prediction),
        "x": batches.x.double().tolist(),
        "y": batches.y.double().tolist(),
        "axes": {
            "x": axis(data.x_name, data.x_unit, ", standardized", experiment.standardization),
            "y": axis(data.y_name, data.y_unit, ", less its mean", offset),
        },
        "start": [c.initial[name] for name in names],
        "plane": [i, rest[0] if rest else None],
        "lr": c.lr,
        "momentum": c.momentum,
        "batch_size": batches.batch_size,
        "lanes": lanes(torch.float64),
        "terms": TERMS,
        "unlike": [*filter(None, unlike)],
        "mistakes": {name: mistake.explanation for name, mistake in MISTAKES.items()},
        "reading": reading(derivation),
        "answers": {name: answers_of(derivation, name) for name in names},
    }


def axis(name: str, unit: str, changed: str, how: object) -> tuple[str, str]:
    """Return an axis's name and unit; of values that were standardized or centred, none."""
    return (f"{name}{changed}", "") if how else (name, unit)


# The page reads an answer by these tables, and knows slips by these formulas.
def reading(derivation: Derivation) -> dict[str, object]:
    """Return how `proof.answers` reads formulas in this model's names."""
    names = dict.fromkeys(answers.PREDICTION, "ŷ") | {name: name for name in derivation.symbols}
    spelled = notations.spellings(names)
    return {
        "latex": [*notations.LATEX.items()],
        "learners": [*notations.LEARNERS.items()],
        "several": notations.SEVERAL,
        "derivative": notations.DERIVATIVE,
        "signs": [(chr(sign), chr(meant)) for sign, meant in notations.SIGNS.items()],
        "kinds": answers.KINDS,
        "names": {spelling: names[name] for spelling, name in spelled.items()},
        "weights": notations.spellings(derivation.weights),
        "longest": answers.LONGEST,
        "highest": answers.HIGHEST,
        "prediction": answers.leaves(derivation.prediction),
    }


def answers_of(derivation: Derivation, name: str) -> dict[str, object]:
    """Return ∂loss/∂`name`, and what wrong answers are, each formula as the page reads it."""
    partial = derivation.true_partials[name]
    return {
        "right": str(derivation.loss_derivative(partial)),
        "partial": (str(partial), notations.notation(partial)),
        "slips": [(str(formula), said) for formula, said in slips(derivation, name)],
        "known": [(str(f), said) for said, f in answers.known(derivation, name).items()],
    }
