"""No digit is written that is not known: data far from 0 against exact fractions."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from torchgd.data import offset_of
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.digits import answer, known, shared, written
from torchgd.experiment.experiment import Experiment
from torchgd.experiment.report import digits_left, table
from torchgd.experiment.resolve import resolve
from torchgd.experiment.run import Outcome, Run
from torchgd.models import Linear, Quadratic
from torchgd.theory import exact

LINES = [(offset, spread) for offset in (0, 10, 1e3, 1e6) for spread in (1, 1e-2, 1e-4)]
SETS = [*(("linear", *line) for line in LINES), *(("quadratic", m, 1) for m in (10, 1e3, 1e6))]
POWERS = {"w2": 2, "w1": 1, "w": 1, "b": 0}
EXACTLY = {"linear": {"w": 2, "b": 1}, "quadratic": {"w2": 3, "w1": 2, "b": 1}}


def experiment_on(
    folder: Path, model: str, offset: float, spread: float, noise: float = 0.1, **asked: object
) -> Experiment:
    """The curve w = 2, b = 1 or w2 = 3, w1 = 2, b = 1 at 21 points, with noise, as a file."""
    t = np.linspace(-1, 1, 21)
    x = offset + spread * t
    y = sum(w * x ** POWERS[name] for name, w in EXACTLY[model].items())
    y = y + noise * spread * np.random.default_rng(1).normal(size=len(x))
    np.savetxt(folder / "far.csv", np.stack([x, y], axis=1), delimiter=",", fmt="%.17g")
    epochs = 60 if model == "linear" else 300
    flags = {"standardize": True, "lr": "auto", "epochs": epochs, "update": "manual", **asked}
    c = Configuration(
        device="cpu", model=model, bias=model == "linear", data=str(folder / "far.csv"),
        batch_size="full", **flags,  # type: ignore[arg-type]
    )  # fmt: skip
    return resolve([c])[0]


def exactly(experiment: Experiment) -> dict[str, Fraction]:
    """Least squares in fractions, proven: there the derivatives of the loss are 0."""
    x, y = experiment.data.x, experiment.data.y
    found = exact.exact_minimum(experiment.new_model(), x, y)
    xs, ys = ([Fraction(v) for v in t.tolist()] for t in (x, y))
    residuals = [
        sum(w * v ** POWERS[n] for n, w in found.parameters.items()) - q
        for v, q in zip(xs, ys, strict=True)
    ]
    for name in found.parameters:
        assert sum(r * v ** POWERS[name] for r, v in zip(residuals, xs, strict=True)) == 0
    assert found.loss == sum(r**2 for r in residuals) / len(xs)
    return {**found.parameters, "loss": found.loss, "ŷ(4)": found.predict([4.0])}


def unit(text: str) -> Fraction:
    """One in the last digit of a number as it is written."""
    mantissa, _, exponent = text.lower().partition("e")
    return Fraction(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def rows(outcome: Outcome) -> dict[str, list[str]]:
    """The table's numbers by their row's name."""
    _, *lines = (line.split() for line in table([outcome]))
    return {name: texts for name, *texts in lines}


# What is written is the exact number, rounded to so many digits, or the float nearest to it.
@pytest.mark.parametrize("noise", [0, 0.1])
@pytest.mark.parametrize(("model", "offset", "spread"), SETS)
def test_each_digit_written_is_least_squares(
    tmp_path: Path, model: str, offset: float, spread: float, noise: float
) -> None:
    experiment = experiment_on(tmp_path, model, offset, spread, noise)
    outcome, expected = Run(experiment).carry_out(), exactly(experiment)
    written_rows = rows(outcome)
    for name, value in expected.items():
        by_hand, best, *_ = written_rows[name]
        assert float(best) == float(value)
        if not by_hand.startswith("≈") and float(by_hand) != float(value):
            assert abs(Fraction(by_hand) - value) <= 0.501 * unit(by_hand)
    counts = [outcome.as_dict()["digits"][name] for name in outcome.parameters]
    least = 11 if (model, offset, noise) == ("quadratic", 10, 0) else 12
    if model == "linear" or offset == 10:
        assert min(counts) >= least
    else:
        assert counts[0] >= {1e3: 12, 1e6: 8}[offset]


def test_how_many_digits_are_known_is_said(tmp_path: Path) -> None:
    outcome = Run(experiment_on(tmp_path, "quadratic", 1e6, 1)).carry_out()
    w2, w1, b, *_ = known(outcome).values()
    assert digits_left(outcome) == f"Digits that rounding leaves: {w2} of w2, {w1} of w1, {b} of b."
    assert w2 > w1 > 0 < b < 9


def test_on_its_way_a_descent_is_shown_with_all_digits(tmp_path: Path) -> None:
    outcome = Run(experiment_on(tmp_path, "quadratic", 1e3, 1, epochs=5)).carry_out()
    assert known(outcome) == {}
    assert "digits" not in outcome.as_dict()
    assert digits_left(outcome) == ""
    assert rows(outcome)["b"][0] == str(outcome.parameters["b"].item())


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("model", "offset", "spread"), SETS)
def test_where_no_fraction_is_taken_a_bound_holds(
    tmp_path: Path, model: str, offset: float, spread: float, standardize: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    experiment = experiment_on(
        tmp_path, model, offset, spread, standardize=standardize, lr=1e-9, epochs=1
    )
    expected = exactly(experiment)
    monkeypatch.setattr(exact, "MOST", 0)
    found = answer(experiment)
    if found is None:
        assert not standardize  # the columns are alike, to rounding
        return
    for value, low, high in zip(expected.values(), *found.tolist(), strict=True):
        assert low <= value <= high


def test_a_model_made_of_a_built_in_one_is_not_taken_for_it() -> None:
    class Shifted(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    x = torch.ones(3)
    assert [exact.is_exact(model, x) for model in (Linear(), Quadratic(), Shifted())] == [
        True,
        True,
        False,
    ]


def test_what_is_far_from_0_is_centred(tmp_path: Path) -> None:
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert offset_of(y) == 0
    assert offset_of(y + 1e6) == 1e6 + 2
    assert offset_of(y - 1e6) == 2 - 1e6
    assert offset_of(y * 0 + 7) == 7
    experiment = experiment_on(tmp_path, "linear", 1e3, 1)
    assert experiment.identity["offset"] == experiment.offset == experiment.data.y.mean().item()
    assert torch.equal(experiment.batches.y, experiment.data.y - experiment.offset)
    for asked in ({"standardize": False}, {"standardize": True, "noise": 1000.0}):
        assert "offset" not in experiment_on(tmp_path, "linear", 1e3, 1, **asked).identity  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [
    Linear(0.7, bias=True), Quadratic(0.7, -3e5, 0.1),
    *(Quadratic(k / 7, k / 3, 0.1) for k in range(9)),
])  # fmt: skip
def test_parameters_are_mapped_back_with_one_rounding(model: Linear | Quadratic) -> None:
    """Each is the float next to the exact one, which three points of the curve tell."""
    model = model.double()
    mean, deviation, offset = 1e6 + 0.1, 1e-4, 2e6 + 1 / 3
    m, s, c = map(Fraction, (mean, deviation, offset))
    at = {name: Fraction(w.item()) for name, w in model.named_parameters()}
    low, middle, high = (
        sum(w * ((x - m) / s) ** POWERS[name] for name, w in at.items()) + c for x in (-1, 0, 1)
    )
    exact = {0: middle, 1: (high - low) / 2, 2: (high + low) / 2 - middle}
    expected = {name: float(exact[POWERS[name]]) for name in at}
    assert model.in_original_units(mean, deviation, offset) == expected


def test_what_is_not_finite_is_mapped_back_as_such() -> None:
    line = Linear(math.inf, bias=True, dtype=torch.float64)
    assert line.in_original_units(1.0, 2.0)["w"] == math.inf
    assert math.isnan(Linear(math.nan).in_original_units(0.0, 2.0)["w"])
    assert Linear(-1e300, dtype=torch.float64).in_original_units(0.0, 1e-300)["w"] == -math.inf


def test_digits() -> None:
    assert [shared(1.0, b, 17) for b in (1.0, 1.01, 1.3, 2.0, -1.0)] == [17, 2, 1, 0, 0]
    assert shared(0.0, 7e-33, 17) == 0
    number = torch.tensor(2 / 3, dtype=torch.float64)
    texts = [written(number, count) for count in (None, 17, 3, 1, 0)]
    assert texts == ["0.6666666666666666"] * 2 + ["0.667", "0.7", "≈7e-01"]
