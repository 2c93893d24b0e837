"""`check_gradient` says yes to what is right, and no to every fault, by name."""

import itertools
import re
from typing import Any

import pytest
import torch
from faults import FAULTS, faulty, swapped
from held_out import CASES, Case, curve
from helpers import MODELS, Exponential, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchgd import Linear, Model, Quadratic, check_gradient, manual_gradient
from torchgd.proof.domain import Domain
from torchgd.proof.findings import ORACLES, Finding, GradientCheck
from torchgd.proof.oracles import _Findings
from torchgd.proof.places import Place, weights_to_look_at

X = torch.tensor([1.0, 2.0, 3.0])
Y = 2 * X


EVERY = pytest.mark.parametrize(
    "make", [*MODELS.values(), Exponential], ids=[*MODELS, "exponential"]
)


@EVERY
def test_all_oracles_say_yes(make: Any, dtype: torch.dtype) -> None:
    all_say_yes(make, "cpu", dtype)


def test_all_oracles_say_yes_on_a_device(device: str) -> None:
    all_say_yes(Linear, device, torch.float64)


def all_say_yes(make: Any, device: str, dtype: torch.dtype) -> None:
    model = make(device=device, dtype=dtype)
    check = check_gradient(model, X.to(device), Y.to(device))
    assert check
    assert check.failures == []
    asked = itertools.product(dict(model.named_parameters()), ORACLES)
    assert [(row.parameter, row.oracle) for row in check.rows] == list(asked)
    for row in check.rows:
        assert row.passed
        assert row.error <= 1
        assert (row.point is None) == (row.oracle == "symbolic")
        if make is not Exponential and row.oracle in ("symbolic", "autograd"):
            assert row.by_hand == row.expected
            assert row.ulps == (None if row.oracle == "symbolic" else 0)


def test_the_model_stays_as_it_is() -> None:
    model: Any = Quadratic(w2=4, w1=5, b=6)
    manual_gradient(model, X, Y)
    before = [(w.detach().clone(), w.grad.clone()) for w in model.parameters()]
    assert check_gradient(model, X, Y)
    for w, (value, gradient) in zip(model.parameters(), before, strict=True):
        assert same_bits(w, value)
        assert same_bits(w.grad, gradient)


PLACES = [(m, n) for m, make in MODELS.items() for n, _ in make().named_parameters()]
# The faults go round the places: every parameter of every model has five of them.
PLANTED = [(fault, *PLACES[k % len(PLACES)]) for k, fault in enumerate(FAULTS)]


def named(model: Model) -> set[str]:
    """The parameters that an oracle says no to."""
    check = check_gradient(model, X, Y)
    assert check.passed is bool(check) is (not check.failures)
    return {row.parameter for row in check.failures}


def test_there_are_faults_enough() -> None:
    assert len(FAULTS) >= 30
    assert {(model, name) for _, model, name in PLANTED} == set(PLACES)


@pytest.mark.parametrize(("fault", "model", "parameter"), PLANTED)
def test_each_fault_is_found_and_named(fault: str, model: str, parameter: str) -> None:
    assert named(faulty(MODELS[model], parameter, FAULTS[fault])) == {parameter}


@pytest.mark.parametrize(
    "place", ["linear with bias w b", "quadratic w2 w1", "quadratic w2 b", "quadratic w1 b"]
)
def test_swapped_derivatives_are_both_named(place: str) -> None:
    model, one, other = place.rsplit(" ", 2)
    assert named(swapped(MODELS[model], one, other)) == {one, other}


@pytest.mark.parametrize(("model", "parameter"), PLACES)
def test_each_oracle_alone_finds_a_factor(model: str, parameter: str) -> None:
    double = faulty(MODELS[model], parameter, FAULTS["a factor 2 too many"])
    assert [row.oracle for row in check_gradient(double, X, Y).failures] == list(ORACLES)


def test_the_worst_case_can_be_reproduced() -> None:
    """A row's point, taken to the two derivatives, gives the row's two values."""
    model: Any = faulty(Quadratic, "w1", FAULTS["off only for negative x"])
    row = next(r for r in check_gradient(model, X, Y).failures if r.oracle == "autograd")
    assert row.point is not None
    x = torch.tensor(row.point.x, dtype=row.point.dtype)
    place = Place(model.to(x.dtype), row.point.weights, x)
    assert x.item() < 0
    assert place.by_hand["w1"].item() == row.by_hand
    assert place.by_autograd["w1"].item() == row.expected
    assert str(row.point).startswith(f"x = {row.point.x[0]:g}, w2 = ")


def test_the_data_are_looked_at() -> None:
    """Off at one of the given samples alone, at 0.7."""
    model = faulty(Linear, "w", lambda x, p, _: torch.where((x - 0.7).abs() < 1e-6, p + 1, p))
    assert check_gradient(model, X, Y)
    given = torch.tensor([0.2, 0.7, 0.9])
    assert not check_gradient(model, given, given)


def test_each_parameter_needs_an_oracle_that_says_yes() -> None:
    yes, silent = Finding("a", "autograd", True), Finding("b", "autograd", None)
    assert GradientCheck([yes], {})
    assert not GradientCheck([yes, silent], {})
    assert GradientCheck([yes, silent, Finding("b", "symbolic", True)], {})


def test_all_data_are_looked_at_together() -> None:
    """Off at one of a hundred samples, which is none of the sixteen that are looked at alone."""
    given = torch.arange(100.0) / 128 + 0.001
    model = faulty(Linear, "w", lambda x, p, _: torch.where((x - given[50]).abs() < 1e-6, p + 1, p))
    assert not check_gradient(model, given, given)


def test_a_model_that_holds_as_many_numbers_as_the_data_is_refused() -> None:
    class Weighted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.ones(3, dtype=x.dtype)

    message = r"^Weighted.forward\(x\) fails with x of shape \(6,\)"
    with pytest.raises(ValueError, match=message):
        check_gradient(Weighted(), X, Y)


def test_a_batch_that_is_wrong_says_so() -> None:
    check = check_gradient(faulty(Linear, "w", FAULTS["off only for a batch"]), X, Y)
    points = [row.point for row in check.failures if row.oracle == "autograd"]
    assert all(point is not None and ", in a batch of " in str(point) for point in points)


def test_what_cannot_run_on_symbols_is_skipped_with_the_reason() -> None:
    rows = check_gradient(faulty(Linear, "w", FAULTS["off only for a batch"]), X, Y).rows
    assert rows[0].passed is None
    assert rows[0].reason.startswith("Linear cannot run on symbols: ")
    branching = faulty(Linear, "w", lambda x, p, _: p if x.sum() < 1e99 else -p)
    check = check_gradient(branching, X, Y)
    assert check
    assert [row.passed for row in check.rows] == [None, True, True]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (number % 6 > 0))
        for number, case in enumerate(CASES)
    ],
)
def test_models_as_people_write_them(case: Case) -> None:
    """Right ones and wrong ones, of other kinds than those on which the oracles were tried."""
    x, y = torch.tensor(case.x, dtype=torch.float64), torch.tensor(case.y, dtype=torch.float64)
    check = check_gradient(case.model(), x, y)
    assert {row.parameter for row in check.failures} == ({case.wrong} - {None}), str(check)
    assert check.passed is (case.wrong is None)


def test_a_kink_is_named_and_is_no_fault() -> None:
    """ŷ = max(0, w·x), with x for its slope at w = 0, where autograd says 0."""
    relu = curve(lambda x, w: torch.relu(w * x), lambda x, w: {"w": x * (w * x >= 0)}, w=1.0)
    check = check_gradient(relu(), X, Y)
    assert check, check
    assert check.kinks == {
        "w": "at x = 1, w = 0 (float64) the slope is not unique: by hand 1, from the left 0, from "
        "the right 1"
    }
    assert f"\nw: {check.kinks['w']}" in str(check)


def test_an_oracle_counts_where_it_abstains() -> None:
    """ŷ = log(w·x) has a value, and a slope, where both have one sign: about half of the points."""
    logarithm = curve(lambda x, w: (w * x).log(), lambda x, w: {"w": x**0 / w}, w=1.0)
    rows = check_gradient(logarithm(), X, Y).rows
    assert all(row.passed for row in rows)
    _, autograd, *_ = rows
    assert 0.4 < autograd.looked / (autograd.looked + autograd.abstained) < 0.6


def test_what_is_excused_far_away_hides_no_fault_nearby() -> None:
    """By hand the slope overflows at huge x, which is no fault; between 10 and 50 it is wrong."""

    def partials(x: Tensor, w: Tensor) -> dict[str, Tensor]:
        slope = x * (x * 1e300) / 1e300 / x.where(x != 0, 1.0)
        return {"w": slope.where((x < 10) | (x > 50), 2 * slope)}

    wrong = curve(lambda x, w: w * x, partials, w=1.0)
    assert {row.parameter for row in check_gradient(wrong(), X, Y).failures} == {"w"}


def test_a_right_formula_that_overflows_far_from_the_data_is_no_fault() -> None:
    """tanh by exponentials is ∞/∞ at w·x = 10⁴; on the data themselves it would be a fault."""

    def partials(x: Tensor, w: Tensor) -> dict[str, Tensor]:
        t = ((2 * w * x).exp() - 1) / ((2 * w * x).exp() + 1)
        return {"w": x * (1 - t**2)}

    model = curve(lambda x, w: torch.tanh(w * x), partials, w=1.0)
    check = check_gradient(model(), X, Y)
    assert check, check
    far = torch.tensor([1.0, 1e4], dtype=torch.float64)
    assert not check_gradient(model(), far, far)


def test_agreement_at_points_is_told_from_one_formula() -> None:
    """Wrong on a sliver where no point lies: sympy says where it looked, and no more."""
    sliver = faulty(Linear, "w", lambda x, p, _: torch.where((x - 7.15).abs() < 0.01, -p, p))
    symbolic = check_gradient(sliver, X, Y).rows[0]
    assert re.fullmatch(r"yes, at \d+ points", str(symbolic))
    assert str(check_gradient(Linear(), X, Y).rows[0]) == "yes"


def test_cancellation_is_no_fault() -> None:
    """((x + 1)² − x² − 1)/2 is x, and of a large x noise: sympy tells it from a wrong formula."""
    noisy = faulty(Linear, "w", lambda x, p, _: ((x + 1) ** 2 - x**2 - 1) / 2)
    assert check_gradient(noisy, X, Y), "rounding was taken for a fault"
    wrong = faulty(Linear, "w", lambda x, p, _: ((x + 1) ** 2 - x**2 - 1) / 2 + 1e-6 * x)
    assert not check_gradient(wrong, X, Y)


class Power(Model):
    """ŷ = xᵖ, for x > 0 alone; with ∂ŷ/∂p = xᵖ·log x, and one that is wrong."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(1.5))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.log().mul(self.p).exp()

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        return {"p": self.factor * x.log() * self(x)}


def test_outside_of_its_domain_a_model_is_not_judged() -> None:
    check = check_gradient(Power(), X, Y)
    assert check, check.failures
    assert all(row.passed for row in check.rows)
    assert {row.oracle for row in check_gradient(Power(1.001), X, Y).failures} == {
        "symbolic", "autograd", "finite differences"
    }  # fmt: skip


def test_where_nothing_is_finite_nothing_is_confirmed() -> None:
    class Nowhere(Power):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan

    check = check_gradient(Nowhere(), X, Y)
    assert not check
    assert check.failures == []
    assert [r.reason for r in check.rows[1:]] == ["it cannot be trusted at any point"] * 2


def within(bound: float) -> st.SearchStrategy[float]:
    """Floats of full precision: a subnormal one has few digits, and so has all that it makes."""
    return st.floats(-bound, bound, allow_subnormal=False)


@settings(max_examples=10)
@given(a=within(3), k=within(2), x=st.lists(within(3), min_size=1, max_size=5))
def test_a_curved_model_is_right_wherever_it_stands(a: float, k: float, x: list[float]) -> None:
    """The tolerances are derived, so no right derivative may miss them."""
    model = Exponential(dtype=torch.float64)
    with torch.no_grad():
        model.a.fill_(a)
        model.k.fill_(k)
    samples = torch.tensor(x, dtype=torch.float64)
    check = check_gradient(model, samples, samples.flip(0))
    assert check, check.failures


def test_what_it_refuses() -> None:
    model = Linear()
    model.w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"^Linear.forward\(x\) fails with x of shape \(3,\)"):
        check_gradient(model, X, Y)
    with pytest.raises(ValueError, match=r"^x has shape \(3,\) and y \(2,\): a sample is one"):
        check_gradient(Linear(), X, Y[:2])
    with pytest.raises(ValueError, match=r"^prediction has shape \(0,\)"):
        check_gradient(Linear(), X[:0], Y[:0])


@pytest.mark.parametrize(("x", "y", "error", "message"), [
    ([1.0], Y[:1], TypeError, "x is list: give a tensor of real numbers"),
    (X, Y + 0j, TypeError, "y is torch.complex64: give a tensor of real numbers"),
    (X > 1, Y, TypeError, "x is torch.bool: give a tensor of real numbers"),
    (X, Y.where(X != 2, torch.nan), ValueError, r"y\[1\] is nan: remove the sample"),
    (X.where(X != 3, torch.inf), Y, ValueError, r"x\[2\] is inf: remove the sample"),
])  # fmt: skip
def test_what_are_no_data(x: Any, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        check_gradient(Linear(), x, y)


def test_integers_and_data_with_a_graph_are_data() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    for x, y in ((X.long(), Y.long()), (X * w, (Y * w).requires_grad_())):
        assert check_gradient(Linear(), x, y).passed


def test_a_class_is_no_model() -> None:
    kind: Any = Linear
    with pytest.raises(
        TypeError, match=r"^the model is <class .*Linear'>: give a torch\.nn\.Module"
    ):
        check_gradient(kind, X, Y)


COLUMNS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SPOILED: dict[str, Any] = {
    "two columns swapped": (lambda x: x[:, [0, 2, 1, 3]], ["w[1]", "w[2]"]),
    "the columns turned round": (lambda x: x.flip(1), ["w[0]", "w[1]", "w[2]", "w[3]"]),
    "a column's sign": (lambda x: x * torch.tensor([1, 1, 1, -1]).to(x), ["w[3]"]),
    "a column left out": (lambda x: x * torch.tensor([1, 0, 1, 1]).to(x), ["w[1]"]),
    "one column in the place of all": (lambda x: x[:, :1].expand_as(x), ["w[1]", "w[2]", "w[3]"]),
    "large numbers of one column alone": (
        lambda x: torch.cat([x[:, :2], x[:, 2:3].clamp(-50, 50), x[:, 3:]], dim=1), ["w[2]"],
    ),
    "wrong only where another column is large": (
        lambda x: torch.where(x[:, :1] > 400, 2.0, 1.0) * x, ["w[0]", "w[1]", "w[2]", "w[3]"],
    ),
    "samples mixed": (lambda x: x - x.mean(dim=0), ["w[0]", "w[1]", "w[2]", "w[3]"]),
}  # fmt: skip


def test_each_column_takes_numbers_of_all_sizes_beside_others() -> None:
    x = _Findings(Linear(features=4).double(), COLUMNS, Domain())._everywhere(COLUMNS)[12:]
    assert all(torch.equal(column.sort().values, x[:, 0].sort().values) for column in x.T)
    for a, b in itertools.combinations(x.T, 2):
        assert (a == b).double().mean() < 0.1


@pytest.mark.parametrize("bias", [False, True])
def test_several_columns_are_right(bias: bool) -> None:
    check = check_gradient(Linear(bias=bias, features=4), COLUMNS, COLUMNS[:, 0])
    assert check
    assert check.failures == []
    names = [f"w[{k}]" for k in range(4)] + ["b"] * bias
    assert [row.parameter for row in check.rows] == [name for name in names for _ in ORACLES]
    assert all(row.passed for row in check.rows)


@pytest.mark.parametrize(("spoil", "wrong"), SPOILED.values(), ids=SPOILED)
def test_a_fault_of_a_column_is_found_by_its_name(spoil: Any, wrong: list[str]) -> None:
    class Spoiled(Linear):
        def partials(self, x: Tensor) -> dict[str, Tensor | float]:
            return {"w": spoil(x)}

    assert check_gradient(Spoiled(features=4), COLUMNS, COLUMNS[:, 0]).wrong == wrong


def test_a_domain_is_of_all_columns_and_entries() -> None:
    class Powers(Linear):
        """ŷ = Σ xⱼ^wⱼ, which has a meaning for positive x alone."""

        def forward(self, x: Tensor) -> Tensor:
            return (x**self.w).sum(-1)

        def partials(self, x: Tensor) -> dict[str, Tensor | float]:
            return {"w": x**self.w * x.log()}

    x, domain = COLUMNS.abs(), {"x": (0.0, 100.0), "w": (0.0, 5.0)}
    check = check_gradient(Powers(features=4), x, x[:, 0], domain=domain)
    assert check, check.failures
    assert str(check).endswith("x in (0, 100), w in (0, 5)") or "x in (0, 100)" in str(check)


def test_a_sample_is_inside_a_domain_if_all_of_its_columns_are() -> None:
    domain = Domain({"x": (0.0, 1.0), "w": (0.0, 2.0)})
    assert domain.holds("x", torch.tensor([[0.5, 2.0], [0.5, 0.5]])).tolist() == [False, True]
    assert not domain.holds_all({"w[0]": 1.0, "w[1]": 3.0})
    assert domain.moved("w[1]", torch.tensor(3.0)).item() != 3.0


@pytest.mark.parametrize("features", [2, 9])
def test_each_of_many_weights_is_looked_at_in_many_sizes(features: int) -> None:
    """By itself: together all sizes are taken, and of many weights each takes its share."""
    model = Linear(features=features)
    rows, names = weights_to_look_at(model, Domain()), [f"w[{k}]" for k in range(features)]
    share = -(-features // 4)
    for name in names:
        alone = {row[name] for row in rows if all(row[n] == 1 for n in names if n != name)}
        assert len(alone) >= 50 // share
    assert len(rows) < 400
