"""No false sentence: what `check_gradient` says of hard models, of autograd, and of a domain."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import faulty
from harder import HARDER, NO_SYMBOLS, kepler, kepler_partials
from held_out import Case, curve
from torch import Tensor, nn, special
from torch.nn import functional

from torchgd import Linear, Model, check_gradient
from torchgd.proof.findings import BACKWARD, GradientCheck
from torchgd.proof.places import numbers_to_look_at
from torchgd.proof.rounding import rounding

X = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def checked(case: Case) -> GradientCheck:
    x, y = (torch.tensor(t, dtype=torch.float64) for t in (case.x, case.y))
    return check_gradient(case.model(), x, y)


def test_there_are_as_many_hard_models_as_others() -> None:
    assert len(HARDER) >= 41
    assert len(NO_SYMBOLS) >= len(HARDER) / 2


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (number % 4 > 0))
        for number, case in enumerate(HARDER)
    ],
)
def test_a_right_model_that_is_hard_to_judge(case: Case) -> None:
    check = checked(case)
    assert check.passed, str(check)


def test_those_without_symbols_have_none() -> None:
    for case in NO_SYMBOLS[:3]:
        assert checked(case).rows[0].passed is None


class Tanh(torch.autograd.Function):
    """Its backward takes the saved input for the output."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return u.tanh()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        return upstream[0] * (1 - t**2)


def tanh_model(forward: Callable[[Tensor], Tensor], factor: float = 1.0) -> Model:
    """ŷ = forward(w·x), with the derivative of tanh(w·x), times a factor."""
    return curve(
        lambda x, w: forward(w * x),
        lambda x, w: {"w": factor * x * (1 - torch.tanh(w * x) ** 2)},
        w=0.7,
    )()


def unseen(u: Tensor) -> Tensor:
    """Tanh in a way that has no symbols."""
    assert u.sum() < 1e99 or u.sum() >= 1e99 or u.isnan().any()
    return Tanh.apply(u)  # type: ignore[no-any-return]


def in_half(u: Tensor) -> Tensor:
    """The slope is half of what it should be, since half of u is detached."""
    return torch.tanh(u / 2 + u.detach() / 2)


@pytest.mark.parametrize("forward", [Tanh.apply, unseen, in_half])
def test_a_wrong_backward_in_forward_is_a_finding_of_its_own(forward: Any) -> None:
    check = check_gradient(tanh_model(forward), X, X)
    assert not check.passed
    assert (check.wrong, check.wrong_by_autograd) == ([], ["w"])
    assert "w, autograd: yours is right, " in str(check)
    assert BACKWARD in str(check)


@pytest.mark.parametrize("forward", [torch.tanh, Tanh.apply, unseen])
def test_by_hand_it_may_be_wrong_all_the_same(forward: Any) -> None:
    check = check_gradient(tanh_model(forward, factor=1.01), X, X)
    assert check.wrong == ["w"]


def test_of_both_that_are_wrong_the_one_by_hand_is_named() -> None:
    """Autograd's is farther off, by a half, but beside a wrong one none is right by hand."""
    model = curve(
        lambda x, w: in_half(w * x),
        lambda x, w: {"w": torch.where(x > 2, 0.6, 1.0) * x * (1 - torch.tanh(w * x) ** 2)},
        w=0.7,
    )
    check = check_gradient(model(), X, X)
    assert (check.wrong, check.wrong_by_autograd) == (["w"], [])


@pytest.mark.parametrize(("units", "wrong"), [(900, []), (1200, ["w"])])
def test_without_symbols_a_derivative_may_be_off_by_1024_units(
    units: int, wrong: list[str]
) -> None:
    def forward(u: Tensor) -> Tensor:
        assert u.sum() < 1e99 or u.sum() >= 1e99 or u.isnan().any()
        return torch.tanh(u)

    model = tanh_model(forward, factor=1 + units * 2.0**-52)
    assert check_gradient(model, X, X).wrong == wrong


def test_torchs_own_backward_of_few_digits() -> None:
    """torch's hardsigmoid has a slope of 1/6 in float32, also in float64."""
    model = curve(
        lambda x, w: functional.hardsigmoid(w * x),
        lambda x, w: {"w": x * ((w * x).abs() < 3).to(x.dtype) / 6},
        w=0.7,
    )
    assert check_gradient(model(), X, X).wrong == []


def test_rounding_has_a_size() -> None:
    """1 − tanh²u is off by some ε at every u; a factor that is wrong is no rounding."""
    u = torch.tensor([0.5, 5.0, 20.0], dtype=torch.float64)
    found = rounding(lambda u: {"slope": 1 - u.tanh() ** 2}, u)["slope"]
    eps = 2.0**-52
    assert ((eps < found) & (found < 1000 * eps)).all()
    exact = rounding(lambda u: {"slope": u.tanh() * 1.01}, u)["slope"]
    assert (exact < 1000 * eps).all()


def test_rounding_beyond_the_largest_number_has_no_size() -> None:
    largest = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    assert rounding(lambda u: {"u": 1.0 * u}, largest)["u"].tolist() == [math.inf]
    assert rounding(lambda u: {"u": 4.0 * u}, largest)["u"].tolist() == [0.0]


def test_rounding_is_that_of_the_dtype_that_is_looked_at() -> None:
    """A step in float32 within float64 is an error and no rounding."""
    u = torch.tensor([0.3], dtype=torch.float64)
    assert rounding(lambda u: {"u": u.float().double()}, u)["u"] < 1e-13


def test_a_kink_excuses_what_lies_between_its_slopes_alone() -> None:
    def model(at_the_kink: float) -> Model:
        return curve(
            lambda x, w: torch.relu(w * x),
            lambda x, w: {"w": torch.where(w * x == 0, at_the_kink * x, x * (w * x > 0))},
            w=1.0,
        )()

    assert check_gradient(model(0.5), X, X)
    assert check_gradient(model(7.0), X, X).wrong == ["w"]


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(torch.float32, -126, 128), (torch.float64, -1022, 1024)]
)
def test_the_eighth_power_of_what_is_looked_at_is_a_number(
    dtype: torch.dtype, low: int, high: int
) -> None:
    """Of the largest it is the largest, 2¹⁰²⁴, and of the smallest the smallest that is normal."""
    sizes = numbers_to_look_at(dtype).double().abs()
    for size, power in ((sizes[sizes > 0].min(), low), (sizes.max(), high)):
        assert 8 * size.log2().item() == pytest.approx(power, rel=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_numbers_of_all_sizes_are_drawn(sign: int) -> None:
    model = faulty(
        Linear, "w", lambda x, p, _: torch.where((sign * x > 5) & (sign * x < 6), p + 1, p)
    )
    assert check_gradient(model, X, X).wrong == ["w"]


class Cached(Linear):
    """Keeps a tensor for each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape not in self.cache:
            self.cache[x.shape] = torch.ones_like(x)
        return self.w * x * self.cache[x.shape].to(x.dtype)


def test_a_model_that_keeps_tensors_is_checked_and_stays_as_it_is() -> None:
    model = Cached()
    assert check_gradient(model, X, X)
    model(X)
    assert all(type(kept) is Tensor for kept in model.cache.values())


@pytest.mark.parametrize("turns", [3, 5, 12])
def test_a_formula_that_is_too_long_is_skipped(turns: int) -> None:
    """Newton's method repeats its formula four times a turn."""
    case = Case(
        "Kepler",
        curve(lambda x, e: kepler(x, e, turns), kepler_partials, e=0.3),
        [0.1, 1.0],
        [0.2, 1.3],
    )
    reason = checked(case).rows[0].reason
    assert reason.endswith("its formula is too long, of more than 400 signs")


class Watched(Model):
    """ŷ = k·log x of 0 < x and 0 < k < 1; it notes what it is asked."""

    asked: set[float] = set()  # noqa: RUF012
    weights: set[float] = set()  # noqa: RUF012

    def __init__(self, k: float = 0.5) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            self.asked.update(x.tolist())
            self.weights.add(self.k.item())
        return self.k * x.log() + torch.log1p(-self.k) * 0

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        slope = x.abs().log()
        return {"k": torch.where(x > 0, slope, slope + 1)}


DOMAIN = {"x": (0, math.inf), "k": (0, 1)}


def test_nothing_is_looked_at_outside_of_a_domain() -> None:
    Watched.asked.clear()
    Watched.weights.clear()
    check = check_gradient(Watched(), X, X, domain=DOMAIN)
    assert check, str(check)
    assert min(Watched.asked) > 0
    assert 0 < min(Watched.weights) < 1e-3
    assert 0.9 < max(Watched.weights) < 1
    said = "Nothing is looked at outside of the domain, x in (0, inf), k in (0, 1)."
    assert str(check).splitlines()[-1] == said
    assert all(row.passed for row in check.rows)


def test_a_model_may_say_its_domain_itself() -> None:
    model: Any = Watched()
    model.domain = DOMAIN
    assert "outside of the domain" in str(check_gradient(model, X, X))
    assert "outside" not in str(check_gradient(Watched(), X, X))


def test_own_samples_and_weights_outside_of_the_domain_are_left_out() -> None:
    x = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    assert check_gradient(Watched(k=3.0), x, x, domain=DOMAIN)
    model = curve(lambda x, w: w * x.abs(), lambda x, w: {"w": x}, w=0.7)()
    assert not check_gradient(model, x, x)
    assert check_gradient(model, x, x, domain={"x": (0, math.inf)})


@pytest.mark.parametrize(("domain", "message"), [
    ("x > 0", 'the domain is a str: give a dict such as {"x": (0, math.inf)}'),
    ({"z": (0, 1)}, "the domain names 'z': it may name x, k"),
    ({"k": (1, 0)}, "the domain of 'k' is (1, 0): give a dict"),
    ({"k": 3}, "the domain of 'k' is 3: give a dict"),
])  # fmt: skip
def test_what_is_no_domain(domain: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its text is compared below
        check_gradient(Watched(), X, X, domain=domain)
    assert str(caught.value).startswith(message)


class Without(nn.Module):
    """A model without partials."""

    c: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("c", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x + self.c


class Long(Without):
    """One with a buffer for three samples."""

    def partials(self, x: Tensor) -> dict[str, Tensor]:
        return {"w": x}


def test_errors_are_one_line_each() -> None:
    two_columns = torch.ones(3, 2)
    bessel = curve(lambda x, w: special.bessel_j0(w * x), lambda x, w: {"w": x}, w=1.0)
    for model, x, message in (
        (Without(), X, "Without has no partials(x): define it, to return ∂ŷ/∂w by name"),
        (Long(), X, "Long.forward(x) fails with x of shape (6,) (The size of tensor"),
        (Linear(), two_columns, "prediction has shape (3, 2) and target (3,): they must be the"),
        (Linear(features=2), X, "Linear.forward(x) fails with x of shape (3,) ("),
        (bessel(), X, "autograd has no ∂ŷ/∂w, though ŷ changes with w: forward(x) detaches it"),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            check_gradient(model, x, X)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_progress_goes_from_0_to_1() -> None:
    parts: list[float] = []
    assert check_gradient(Linear(), X, X, on_progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1
