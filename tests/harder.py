"""Held-out models that are right and hard to judge: they saturate, cancel, have kinks, or loop.

Those in NO_SYMBOLS cannot run on symbols, so that numbers alone must tell.
"""

import math
from typing import Any

import torch
from held_out import Case, curve
from torch import Tensor, special
from torch.nn import functional

cos, cosh, erf, exp, log = torch.cos, torch.cosh, torch.erf, torch.exp, torch.log
sigmoid, sin, sqrt, tanh, where = torch.sigmoid, torch.sin, torch.sqrt, torch.tanh, torch.where
PHI = 1 / math.sqrt(2 * math.pi)
C, D = math.sqrt(2 / math.pi), 0.044715  # of the GELU by tanh


def density(u: Tensor) -> Tensor:
    """The normal density, whose integral is ndtr."""
    return PHI * exp(-(u**2) / 2)


def tanh_gelu(u: Tensor) -> Tensor:
    """u/2·(1 + tanh(c(u + d·u³)))."""
    return u / 2 * (1 + tanh(C * (u + D * u**3)))


def tanh_gelu_slope(u: Tensor) -> Tensor:
    """By the product rule."""
    t = tanh(C * (u + D * u**3))
    return (1 + t) / 2 + u / 2 * (1 - t**2) * C * (1 + 3 * D * u**2)


def gelu_slope(u: Tensor) -> Tensor:
    """ndtr(u) + u·density(u)."""
    return special.ndtr(u) + u * density(u)


def log_ndtr_slope(u: Tensor) -> Tensor:
    """density/ndtr; far below 0 by the scaled erfc, since ndtr underflows there."""
    return math.sqrt(2 / math.pi) / special.erfcx(-u / math.sqrt(2))


def mish_slope(u: Tensor) -> Tensor:
    """t + u·(1 − t²)·sigmoid(u) with t = tanh(softplus(u))."""
    t = tanh(functional.softplus(u))
    return t + u * (1 - t**2) * sigmoid(u)


def selu_slope(u: Tensor) -> Tensor:
    """Of a scaled exponential linear unit."""
    s, a = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return where(u > 0, s, s * a * exp(u))


def hardswish_slope(u: Tensor) -> Tensor:
    """(2u + 3)/6 between −3 and 3."""
    return where(u < -3, 0.0, where(u > 3, 1.0, (2 * u + 3) / 6))


def sinc_slope(u: Tensor) -> Tensor:
    """(cos πu − sinc u)/u, which is 0 at u = 0."""
    apart = where(u == 0, 1.0, u)
    return where(u == 0, 0.0, (cos(math.pi * u) - torch.sinc(u)) / apart)


def j1_slope(u: Tensor) -> Tensor:
    """I₁′ = I₀ − I₁/u."""
    return where(u == 0, 0.5, special.i0(u) - special.i1(u) / where(u == 0, 1.0, u))


def numbers_only(x: Tensor) -> Tensor:
    """Return x; a symbol has no sum to compare."""
    assert x.sum() <= 0 or x.sum() > -1 or x.isnan().any()
    return x


def kepler(x: Tensor, e: Tensor, turns: int = 12) -> Tensor:
    """The eccentric anomaly E − e·sin E = x, by Newton's method."""
    found = x + e * sin(x)
    for _ in range(turns):
        found = found - (found - e * sin(found) - x) / (1 - e * cos(found))
    return found


def kepler_partials(x: Tensor, e: Tensor) -> dict[str, Tensor]:
    """By the implicit function theorem: sin E/(1 − e·cos E)."""
    found = kepler(x, e)
    return {"e": sin(found) / (1 - e * cos(found))}


def lambert(z: Tensor) -> Tensor:
    """W with W·e^W = z, of z ≥ 0, by Halley's method."""
    w = torch.log1p(z)
    for _ in range(8):
        f = w * exp(w) - z
        w = w - f / (exp(w) * (w + 1) - (w + 2) * f / (2 * w + 2))
    return w


def lambert_partials(x: Tensor, a: Tensor) -> dict[str, Tensor]:
    """x/(e^W·(1 + W)) and 0 where a·x < 0."""
    w = lambert(torch.clamp(a * x, min=0.0))
    return {"a": where(a * x > 0, x / (exp(w) * (1 + w)), 0.0)}


def chebyshev(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a·T₅(t) + b·T₆(t) of t = tanh x, by their recursion."""
    t = tanh(x)
    before, now, found = t**0, t, []
    for _ in range(5):
        before, now = now, 2 * t * now - before
        found.append(now)
    return a * found[-2] + b * found[-1]


def chebyshev_partials(x: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """cos(5·arccos t) and cos(6·arccos t)."""
    angle = torch.acos(tanh(x))
    return {"a": cos(5 * angle), "b": cos(6 * angle)}


def euler(x: Tensor, r: Tensor) -> Tensor:
    """Eight steps of Euler's method for u′ = r·u(1 − u), from sigmoid(x)."""
    u = sigmoid(numbers_only(x))
    for _ in range(8):
        u = u + 0.125 * r * u * (1 - u)
    return u


def euler_partials(x: Tensor, r: Tensor) -> dict[str, Tensor]:
    """The derivative of each step, along with it."""
    u = sigmoid(x)
    s = torch.zeros_like(u)
    for _ in range(8):
        s, u = s + 0.125 * (u * (1 - u) + r * (1 - 2 * u) * s), u + 0.125 * r * u * (1 - u)
    return {"r": s}


def masked(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """w·x where that is above 1, b elsewhere, by index."""
    y = b.expand(x.shape).clone()
    above = w * x > 1
    y[above] = (w * x)[above]
    return y


def masked_partials(x: Tensor, w: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The same cases."""
    return {"w": where(w * x > 1, x, 0.0), "b": where(w * x > 1, 0.0, x**0)}


class Cube(torch.autograd.Function):
    """u³ with a right backward of its own."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return u**3

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return upstream[0] * 3 * u**2


class ByNumpy(torch.autograd.Function):
    """sinh u by NumPy, with a right backward that has no derivative itself."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.from_numpy(u.detach().numpy().copy()).sinh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return upstream[0] * u.cosh()


def student(x: Tensor, n: Tensor) -> Tensor:
    """The log density of Student's t, up to a constant."""
    half = (n + 1) / 2
    return torch.lgamma(half) - torch.lgamma(n / 2) - log(n) / 2 - half * torch.log1p(x**2 / n)


def student_partials(x: Tensor, n: Tensor) -> dict[str, Tensor]:
    """Term by term."""
    half, q = (n + 1) / 2, x**2 / n
    by_gamma = (torch.digamma(half) - torch.digamma(n / 2)) / 2
    return {"n": by_gamma - 1 / (2 * n) - torch.log1p(q) / 2 + half * q / (n * (1 + q))}


def voigt_like(x: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Half a Gaussian, half a Lorentzian of the same width."""
    u = x / s
    return a * (exp(-(u**2)) + 1 / (1 + u**2)) / 2


def voigt_like_partials(x: Tensor, a: Tensor, s: Tensor) -> dict[str, Tensor]:
    """The chain rule through u = x/s."""
    u = x / s
    g, q = exp(-(u**2)), 1 / (1 + u**2)
    return {"a": (g + q) / 2, "s": a * u**2 / s * (g + q**2)}


def within(domain: dict[str, tuple[float, float]], make: Any) -> Any:
    """Return a maker of the model that says where it has a meaning."""

    class Within(make):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.domain = domain

    return Within


DATA = [-4.0, -1.0, 0.0, 0.5, 3.0]
POSITIVE = [0.1, 0.5, 1.0, 3.0, 8.0]


def one(name: str, function: Any, slope: Any, w: float = 1.0, x: list[float] = DATA) -> Case:
    """ŷ = f(w·x), whose slope is x·f′(w·x)."""
    model = curve(lambda x, w: function(w * x), lambda x, w: {"w": x * slope(w * x)}, w=w)
    return Case(name, model, x, [0.5] * len(x))


def two(name: str, forward: Any, partials: Any, x: list[float] = DATA, **start: float) -> Case:
    """Any other."""
    return Case(name, curve(forward, partials, **start), x, [0.5] * len(x))


NO_SYMBOLS = [
    one("tanhshrink", functional.tanhshrink, lambda u: tanh(u) ** 2),
    one("logsigmoid", functional.logsigmoid, lambda u: sigmoid(-u)),
    one("celu", lambda u: functional.celu(u, 0.5), lambda u: where(u > 0, 1.0, exp(2 * u))),
    one("selu", functional.selu, selu_slope, w=-2.0),
    one("hardtanh", functional.hardtanh, lambda u: where(u.abs() < 1, 1.0, 0.0), w=0.25),
    one("hardswish", functional.hardswish, hardswish_slope, w=3.0),
    one("relu6", functional.relu6, lambda u: where((u > 0) & (u < 6), 1.0, 0.0), w=6.0),
    one("softsign", functional.softsign, lambda u: 1 / (1 + u.abs()) ** 2),
    one("softshrink", functional.softshrink, lambda u: where(u.abs() > 0.5, 1.0, 0.0)),
    one("lgamma", lambda u: torch.lgamma(1 + u**2), lambda u: 2 * u * torch.digamma(1 + u**2)),
    one("erfcx", special.erfcx, lambda u: 2 * u * special.erfcx(u) - 2 / math.sqrt(math.pi)),
    one("i0e", special.i0e, lambda u: special.i1e(u) - torch.sign(u) * special.i0e(u)),
    one("i1", special.i1, j1_slope),
    one("sinc", torch.sinc, sinc_slope),
    one("entropy", special.entr, lambda u: -log(u) - 1, x=POSITIVE),
    one("logit", lambda u: torch.logit(sigmoid(u)), lambda u: u**0),
    one("erfinv of tanh", lambda u: torch.erfinv(tanh(u)),
        lambda u: math.sqrt(math.pi) / 2 * exp(torch.erfinv(tanh(u)) ** 2) * (1 - tanh(u) ** 2)),
    one("GELU by tanh, looked at", lambda u: tanh_gelu(numbers_only(u)), tanh_gelu_slope, w=-5.0),
    one("GELU by erfc, looked at",
        lambda u: numbers_only(u) * torch.erfc(-u / math.sqrt(2)) / 2, gelu_slope, w=-5.0),
    one("a cube of its own", Cube.apply, lambda u: 3 * u**2),
    one("by NumPy", ByNumpy.apply, lambda u: (exp(u) + exp(-u)) / 2),
    one("1 − tanh², looked at", lambda u: 1 - tanh(numbers_only(u)) ** 2,
        lambda u: -2 * tanh(u) / cosh(u) ** 2),
    two("a ramp under 1e12, looked at", lambda x, w: 1e12 + torch.relu(w * numbers_only(x)),
        lambda x, w: {"w": x * (w * x >= 0)}, w=1.0),
    two("a hinge under 1e12, looked at", lambda x, k: 1e12 - 2 * (numbers_only(x) - k).abs(),
        lambda x, k: {"k": where(x > k, 2.0, -2.0)}, k=0.5),
    Case("Kepler", within({"e": (0, 0.9), "x": (0, 10)}, curve(kepler, kepler_partials, e=0.3)),
         [0.1, 1.0, 2.0, 3.0, 5.0], [0.2, 1.3, 2.2, 3.1, 4.7]),
    two("Lambert", lambda x, a: lambert(torch.clamp(a * numbers_only(x), min=0.0)),
        lambert_partials, a=1.5, x=POSITIVE),
    two("Euler", euler, euler_partials, r=0.8),
    two("by index", masked, masked_partials, w=1.5, b=0.2),
    two("Student", student, student_partials, n=4.0),
    two("logsumexp of a stack",
        lambda x, a, b: torch.logsumexp(torch.stack([a * x, b * x**2, 0 * x]), dim=0),
        lambda x, a, b: {
            "a": x * (s := torch.softmax(torch.stack([a * x, b * x**2, 0 * x]), dim=0))[0],
            "b": x**2 * s[1]}, a=1.0, b=-0.5),
    two("softmax of a stack",
        lambda x, a, b: torch.softmax(torch.stack([a * x, b + 0 * x]), dim=0)[0],
        lambda x, a, b: {"a": x * (s := sigmoid(a * x - b)) * (1 - s), "b": -s * (1 - s)},
        a=1.0, b=-0.5),
]  # fmt: skip

SYMBOLS = [
    one("GELU by tanh", tanh_gelu, tanh_gelu_slope, w=-5.0),
    one("torch's GELU by tanh", lambda u: functional.gelu(u, approximate="tanh"),
        tanh_gelu_slope, w=-5.0),
    one("GELU by erfc", lambda u: u * torch.erfc(-u / math.sqrt(2)) / 2, gelu_slope, w=-5.0),
    one("torch's GELU", functional.gelu, gelu_slope, w=5.0),
    one("ndtr", special.ndtr, density, w=-2.0),
    one("log_ndtr", special.log_ndtr, log_ndtr_slope),
    one("erfc", torch.erfc, lambda u: -2 / math.sqrt(math.pi) * exp(-(u**2))),
    one("mish", functional.mish, mish_slope),
    one("elu", functional.elu, lambda u: where(u > 0, 1.0, exp(u))),
    one("softplus", functional.softplus, sigmoid, w=7.0),
    one("softplus, sharp", lambda u: functional.softplus(u, beta=3.0, threshold=60.0),
        lambda u: sigmoid(3 * u)),
    one("softplus, cut", lambda u: functional.softplus(u, threshold=8.0),
        lambda u: where(u > 8, 1.0, sigmoid(u)), w=2.0),
    one("step times line", lambda u: (u > 0).to(u.dtype) * u, lambda u: (u > 0).to(u.dtype)),
    one("1 − tanh²", lambda u: 1 - tanh(u) ** 2, lambda u: -2 * tanh(u) / cosh(u) ** 2),
    one("logistic by exponentials", lambda u: 1 / (1 + exp(-u)),
        lambda u: sigmoid(u) * sigmoid(-u), w=3.0),
    one("squareplus", lambda u: (u + sqrt(u**2 + 4)) / 2, lambda u: (1 + u / sqrt(u**2 + 4)) / 2),
    one("a Gaussian's tail", lambda u: exp(-(u**2)), lambda u: -2 * u * exp(-(u**2)), w=6.0),
    one("x − sin x", lambda u: u - sin(u), lambda u: 2 * sin(u / 2) ** 2),
    one("log cosh", lambda u: log(cosh(u)), tanh),
    two("a ramp under 1e12", lambda x, w: 1e12 + torch.relu(w * x),
        lambda x, w: {"w": x * (w * x >= 0)}, w=1.0),
    two("a hinge under 1e12", lambda x, k: 1e12 - 2 * torch.abs(x - k),
        lambda x, k: {"k": where(x > k, 2.0, -2.0)}, k=0.5),
    two("Chebyshev", chebyshev, chebyshev_partials, a=1.0, b=-0.5),
    two("Voigt", voigt_like, voigt_like_partials, a=1.0, s=0.1),
    two("difference of exponentials", lambda x, a, b: exp(-a * x) - exp(-b * x),
        lambda x, a, b: {"a": -x * exp(-a * x), "b": x * exp(-b * x)}, a=1.0, b=1.0001),
    two("a wave far out", lambda x, w, p: sin(w * x + p),
        lambda x, w, p: {"w": x * cos(w * x + p), "p": cos(w * x) * cos(p) - sin(w * x) * sin(p)},
        w=1.0, p=1e3),
    two("inverse hyperbolic sine", lambda x, a, c: a * torch.asinh(x / c),
        lambda x, a, c: {"a": log(x / c + sqrt((x / c) ** 2 + 1)),
                         "c": -a * x / (c**2 * sqrt((x / c) ** 2 + 1))}, a=2.0, c=0.5),
    two("variance as a difference", lambda x, m, s: (x**2 + s**2) - (x - m) ** 2,
        lambda x, m, s: {"m": 2 * (x - m), "s": 2 * s}, m=1e4, s=0.01, x=[9990.0, 1e4, 10010.0]),
]  # fmt: skip

HARDER: list[Case] = [*NO_SYMBOLS, *SYMBOLS]
