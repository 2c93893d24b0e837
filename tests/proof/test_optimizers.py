"""`check_optimizer` finds what is no SGD, and says of which option."""

from typing import Any, ClassVar

import pytest
import torch
from optimizers import CASES, Case
from torch import Tensor

from torchgd import ManualSGD, check_optimizer
from torchgd.proof.mistakes import TwoRoundings
from torchgd.proof.options import OPTION_SETS, in_words, option_sets

SETS = [in_words(options) for options in option_sets()]


def test_the_sets() -> None:
    """All of torch's, and the 20 of 2⁵ combinations in which Nesterov's rule has what it needs.

    One of these is one of those.
    """
    assert SETS[: len(OPTION_SETS)] == [in_words(options) for options in OPTION_SETS]
    assert len(SETS) == len({*SETS}) == len(OPTION_SETS) + 20 - 1


def test_torchs_own_is_itself() -> None:
    assert check_optimizer(torch.optim.SGD)
    check = check_optimizer(lambda w, **o: torch.optim.SGD(w, **o, foreach=True))
    assert check, check


class Changed(ManualSGD):
    """ManualSGD with some of a group's options changed."""

    changes: ClassVar[dict[str, Any]] = {}

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super()._update(w, g, {**group, **self.changes})


def without(**changes: Any) -> Any:
    return type("Without", (Changed,), {"changes": changes})


@pytest.mark.parametrize("option", [
    "momentum", "dampening", "weight_decay", "nesterov", "maximize",
])  # fmt: skip
def test_an_option_without_effect_is_named(option: str) -> None:
    """As six classes of a well-known library ignored nesterov and dampening without a word."""
    check = check_optimizer(without(**{option: 0}))
    assert not check
    for options, row in zip(option_sets(), check.rows, strict=True):
        matters = bool(options.get(option)) and not (option == "dampening" and len(options) < 3)
        if option == "dampening":
            matters = bool(options.get(option) and options.get("momentum"))
        expected = {option}
        if option == "momentum":  # which both others need
            expected |= {"dampening", "nesterov"} & options.keys()
        assert row.passed is not matters, row
        assert set(row.without_effect) == (expected if matters else set()), row
    assert f"; {option} has no effect\n" in str(check)


class DampenedAtFirst(ManualSGD):
    """v ← (1 − τ)·g at the first step, too."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if not self.state[w]:
            self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        super()._update(w, g, group)


class Decoupled(ManualSGD):
    """w ← w − α·λ·w beside the momentum, as AdamW does."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        w.mul_(1 - float(group["lr"]) * group["weight_decay"])
        super()._update(w, g, {**group, "weight_decay": 0})


class OneRate(ManualSGD):
    """All groups have the first one's rate."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super()._update(w, g, {**group, "lr": self.param_groups[0]["lr"]})


class Forgetful(ManualSGD):
    """Its velocity is in no state_dict."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


class Eager(ManualSGD):
    """A weight without a gradient decays, and moves on with its velocity."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for w in group["params"]:
                w.grad = torch.zeros_like(w) if w.grad is None else w.grad
        super().step(closure)


class OnlyFloat32(ManualSGD):
    """Computes in float32."""

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super()._update(w, g.float().to(g.dtype), group)


class LastAlone(ManualSGD):
    """Steps only the last group."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups[:-1]:
            for w in group["params"]:
                w.grad = None
        super().step(closure)


@pytest.mark.parametrize(("kind", "where", "first"), [
    (DampenedAtFirst, "dampening", 0),
    (Decoupled, "weight_decay", 0),
    (OneRate, "", 0),
    (Forgetful, "momentum", 5),
    (OnlyFloat32, "", 0),
    (LastAlone, "", 0),
])  # fmt: skip
def test_a_fault_shows_where_it_is(kind: Any, where: str, first: int) -> None:
    check = check_optimizer(kind)
    assert not check
    wrong = [row for row in check.rows if row.passed is False]
    assert wrong
    assert all(where in in_words(row.options) for row in wrong)
    assert {row.first for row in wrong} == {first}
    assert all(row.max_ulp > 0 and not row.without_effect for row in wrong), check


def test_weights_without_a_gradient_are_looked_at() -> None:
    """One has none in step 0, another none in step 6, when it has a velocity."""
    for row in check_optimizer(Eager).rows:
        first = None
        if row.options.get("momentum"):
            # A velocity that is 0 at first is dampened from then on.
            first = 2 if row.options.get("dampening") else 6
        if row.options.get("weight_decay"):
            first = 0
        assert row.first == first, row


def test_one_rounding_too_many() -> None:
    """w ← w − α·g, rounded twice, and no option known."""
    check = check_optimizer(TwoRoundings)
    assert not check
    assert check.rows[0].first == 0
    assert 0 < check.rows[0].max_ulp < 100
    assert check.rows[8].without_effect == ("momentum", "nesterov", "weight_decay")


class Plain(ManualSGD):
    """Knows lr and momentum alone."""

    def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0.0) -> None:
        super().__init__(params, lr, momentum)


class Strict(ManualSGD):
    """Cannot do without a gradient."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for w in group["params"]:
                w.grad.abs_()
        super().step(closure)


def test_options_that_it_does_not_take_are_not_held_against_it() -> None:
    check = check_optimizer(Plain)
    assert check
    taken = [row for row in check.rows if row.passed is not None]
    assert len(taken) == 5
    assert all(row.options.keys() <= {"lr", "momentum"} for row in taken)
    assert "not taken: Plain.__init__() got an unexpected keyword argument" in str(check)
    assert str(check).endswith("5 of 28 option sets are identical, bit for bit, 23 are not taken.")


def test_an_error_is_a_fault() -> None:
    check = check_optimizer(Strict)
    assert not check
    assert all(row.reason.startswith("AttributeError: ") for row in check.rows)


def test_one_that_takes_nothing_is_not_confirmed() -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise TypeError("no")

    assert not check_optimizer(refuses)


def test_what_is_no_optimizer() -> None:
    kind: Any = 5
    with pytest.raises(TypeError, match=r"^the optimizer is 5: give its class$"):
        check_optimizer(kind)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forty_optimizers(case: Case) -> None:
    check = check_optimizer(case.kind, **case.options)
    assert bool(check) is (case.fault is None), check
    assert (case.fault or "") in str(check), check


def test_thirty_of_them_are_wrong() -> None:
    assert len(CASES) == 40
    assert sum(case.fault is None for case in CASES) == 10


def test_rounding_is_a_verdict_where_it_is_asked_for() -> None:
    """TwoRoundings takes no option but the rate, and Plain none that it would not."""

    class Rounded(TwoRoundings, Plain):
        pass

    check = check_optimizer(Rounded)
    assert not check
    limit = max(row.max_ulp for row in check.rows if "momentum" not in row.options)
    assert 0 < limit < 1000
    rows = check_optimizer(Rounded, max_ulp=limit).rows
    assert str(rows[0]).startswith("rounding, at most ")
    assert {row.passed for row in rows if row.options.keys() <= {"lr"}} == {True}


def test_what_it_is_to_be_like() -> None:
    with pytest.raises(TypeError, match=r"RMSprop'>: give torch.optim.SGD, Adam or AdamW$"):
        check_optimizer(torch.optim.RMSprop, like=torch.optim.RMSprop)
