"""Whether two updates part by rounding alone: up to where, and where the oracles are asked."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgd import Model
from torchgd.experiment.agreement import agree, check_where_they_part
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.run import Outcome, outcome_of
from torchgd.proof.compare import Comparison


def said_around(bound: float, outcomes: list[Outcome]) -> list[tuple[bool, str]]:
    """What is said of weights that are apart by a little less than a bound, and a little more."""
    name = outcomes[0].trajectory.names[0]
    return [
        agree(outcomes, Comparison(identical=False, max_abs=part * bound, max_ulp=9,
                                   first_difference=(1, name)))
        for part in (0.99, 1.01)
    ]  # fmt: skip


def accepted(who: str, bound: float) -> list[tuple[bool, str]]:
    said = f"That is rounding: {who} elsewhere, by at most {bound:.2g} here."
    return [(True, said), (False, "")]


def test_affine_maps_may_part_by_their_bound_and_no_more() -> None:
    """Of the lesson's 150 steps that is 8(1 + 1)²·150·ε·(|w| + 2·0.01·3·6)."""
    outcomes = [outcome_of(Configuration(update=update)) for update in ("manual", "affine")]
    w = outcomes[0].trajectory.weights["w"].max().item()
    bound = 8 * 4 * 150 * 2.0**-52 * (w + 0.36)
    assert said_around(bound, outcomes) == accepted("affine maps round", bound)


def test_of_several_columns_the_compiled_loop_may_part_by_its_bound(tmp_path: Path) -> None:
    """(P + B + 3)·k·ε·(|w| + 2α|φ|(Σ|φw| + |y|)), of 9 steps on samples of 3 columns and a bias."""
    pytest.importorskip("numba")
    table = np.random.default_rng(0).normal(size=(9, 4))
    np.save(tmp_path / "t.npy", table)
    outcomes = [
        outcome_of(Configuration(data=str(tmp_path / "t.npy"), bias=True, update=update, epochs=3,
                                 batch_size=3, device="cpu"))
        for update in ("manual", "compiled")
    ]  # fmt: skip
    w = outcomes[0].trajectory.weights_at(slice(None)).abs().max().item()
    phi = np.abs(np.c_[table[:, :3], np.ones(9)])
    y = np.abs(table[:, 3]).max() + w * phi.sum(axis=1).max()
    bound = (4 + 3 + 3) * 9 * 2.0**-52 * (w + 0.02 * phi.max() * y)
    assert said_around(bound, outcomes) == accepted("the compiled loop rounds", bound)


def test_the_oracles_are_asked_where_they_part_or_at_the_last_weights_that_are_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(model: Model, x: Tensor, y: Tensor) -> Any:
        return next(model.parameters()).item()

    monkeypatch.setattr("torchgd.experiment.agreement.check_gradient", asked)
    outcome = outcome_of(Configuration(epochs=3))
    experiment, path = outcome.experiment, outcome.trajectory
    weights = path.weights["w"].tolist()
    for step in (0, 4, 9, 12):  # the other has more steps than 9
        parted = Comparison(identical=False, max_abs=1.0, max_ulp=1, first_difference=(step, "w"))
        found: Any = check_where_they_part(experiment, parted, path)
        assert found == weights[min(step, 9)]
    end: Any = check_where_they_part(experiment, parted, path, at_the_end=True)
    assert end == weights[9]
    path = replace(path, table=path.table.clone())
    path.table[8:, 1] = torch.tensor([math.inf, math.nan])
    end = check_where_they_part(experiment, parted, path, at_the_end=True)
    assert end == weights[7]
