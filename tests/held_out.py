"""Held-out models: 39 whose partials are right and 35 with one mistake in one partial."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchgd import Model


def curve(
    forward: Callable[..., Tensor], partials: Callable[..., dict[str, Tensor]], **start: float
) -> Callable[[], Model]:
    """Return a maker of the model ŷ = forward(x, *weights) with these partials and start."""

    class Curve(Model):
        def __init__(self) -> None:
            super().__init__()
            for name, value in start.items():
                setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

        def forward(self, x: Tensor) -> Tensor:
            return forward(x, *(getattr(self, name) for name in start))

        def partials(self, x: Tensor) -> dict[str, Tensor]:
            return partials(x, *(getattr(self, name) for name in start))

    return Curve


@dataclass(frozen=True)
class Case:
    """A model with its data; `wrong` names the parameter whose partial is wrong, if one is."""

    name: str
    model: Callable[[], Model]
    x: list[float]
    y: list[float]
    wrong: str | None = None


exp, log, sqrt, where, xlogy = torch.exp, torch.log, torch.sqrt, torch.where, torch.xlogy
sin, cos, tanh, sigmoid, relu = torch.sin, torch.cos, torch.tanh, torch.sigmoid, torch.relu
R = 8.314


def hill_partials(x: Tensor, v: Tensor, k: Tensor, n: Tensor) -> dict[str, Tensor]:
    """x = 0 contributes 0·log 0 = 0."""
    p, q = x**n, k**n
    d = p + q
    dn = v * (xlogy(p, x) * q - p * xlogy(q, k)) / d**2
    return {"v": p / d, "k": -v * p * n * k ** (n - 1) / d**2, "n": dn}


def bateman_partials(x: Tensor, d: Tensor, ka: Tensor, ke: Tensor) -> dict[str, Tensor]:
    """The quotient and product rules, written out."""
    g, ea, ee = ka - ke, exp(-ka * x), exp(-ke * x)
    by_ka = -d * ke / g**2 * (ee - ea) + d * ka / g * x * ea
    by_ke = d * ka / g**2 * (ee - ea) - d * ka / g * x * ee
    return {"d": ka / g * (ee - ea), "ka": by_ka, "ke": by_ke}


def richards(x: Tensor, top: Tensor, k: Tensor, m: Tensor, n: Tensor) -> Tensor:
    """top·(1 + e^(−k(x − m)))^(−1/n)."""
    return top * exp(-torch.logaddexp(-k * (x - m), 0 * x) / n)


def richards_partials(x: Tensor, top: Tensor, k: Tensor, m: Tensor, n: Tensor) -> dict[str, Tensor]:
    """Through z = −k(x − m)."""
    z = -k * (x - m)
    soft = torch.logaddexp(z, 0 * x)
    unit = exp(-soft / n)
    slope = -top * unit * sigmoid(z) / n
    return {"top": unit, "k": -slope * (x - m), "m": slope * k, "n": top * unit * soft / n**2}


def morrison_partials(x: Tensor, e: Tensor, k: Tensor) -> dict[str, Tensor]:
    """The bound share of tight binding, (s − √(s² − 4ex))/2 with s = e + x + k."""
    s = e + x + k
    r = sqrt(s * s - 4 * e * x)
    return {"e": 0.5 - (s - 2 * x) / (2 * r), "k": (r - s) / (2 * r)}


def damped_partials(x: Tensor, a: Tensor, g: Tensor, w: Tensor, p: Tensor) -> dict[str, Tensor]:
    """a·e^(−gx)·cos(wx + p)."""
    f, c, s = exp(-g * x), cos(w * x + p), sin(w * x + p)
    return {"a": f * c, "g": -x * a * f * c, "w": -x * a * f * s, "p": -a * f * s}


def rational_partials(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[str, Tensor]:
    """(a + bx)/(1 + cx + dx²)."""
    q = 1 + x * (c + d * x)
    p = a + b * x
    return {"a": 1 / q, "b": x / q, "c": -p * x / q / q, "d": -p * (x / q) ** 2}


def arps_partials(x: Tensor, a: Tensor, b: Tensor, n: Tensor) -> dict[str, Tensor]:
    """a·(1 + bnx)^(−1/n)."""
    q = 1 + b * n * x
    u = q ** (-1 / n)
    return {"a": u, "b": -a * x * u / q, "n": a * u * (log(q) / n**2 - b * x / (n * q))}


def ces_partials(x: Tensor, d: Tensor, r: Tensor) -> dict[str, Tensor]:
    """(d·x^r + 1 − d)^(1/r), whose outer exponent is forgotten in ∂/∂r."""
    s = d * x**r + 1 - d
    outer = s ** (1 / r - 1) / r
    return {"d": outer * (x**r - 1), "r": outer * d * xlogy(x**r, x)}


def morse_partials(x: Tensor, d: Tensor, a: Tensor, r: Tensor) -> dict[str, Tensor]:
    """d·(1 − e^(−a(x − r)))², whose inner factor a is forgotten in ∂/∂r."""
    f = exp(-a * (x - r))
    h = 2 * d * (1 - f) * f
    return {"d": (1 - f) ** 2, "a": h * (x - r), "r": -h}


def gauss_partials(x: Tensor, a: Tensor, m: Tensor, s: Tensor) -> dict[str, Tensor]:
    """a·e^(−(x − m)²/2s²), with s² for s³ in ∂/∂s."""
    u = exp(-0.5 * ((x - m) / s) ** 2)
    return {"a": u, "m": a * u * (x - m) / s**2, "s": a * u * (x - m) ** 2 / s**2}


def lorentz_partials(x: Tensor, a: Tensor, c: Tensor, g: Tensor) -> dict[str, Tensor]:
    """a·g²/(g² + (x − c)²), with only the numerator's term in ∂/∂g."""
    q = g**2 + (x - c) ** 2
    return {"a": g**2 / q, "c": 2 * a * g**2 * (x - c) / q**2, "g": 2 * a * g / q}


# fmt: off
RIGHT = [
    Case("competitive inhibition", curve(
        lambda x, v, k, j: v * x / (k * (1 + 2 / j) + x),
        lambda x, v, k, j: {"v": x / (d := k + 2 * k / j + x), "k": -v * x * (1 + 2 / j) / d**2,
            "j": 2 * v * x * k / (j * d) ** 2}, v=4.0, k=0.7, j=3.0),
        [0.0, 0.5, 1.0, 4.0, 20.0], [0.0, 1.1, 1.8, 3.0, 3.9]),
    Case("hill", curve(
        lambda x, v, k, n: v * x**n / (k**n + x**n),
        hill_partials, v=10.0, k=3.0, n=2.5),
        [0.0, 1.0, 3.0, 6.0, 30.0], [0.1, 0.7, 5.2, 8.4, 9.9]),
    Case("morrison tight binding", curve(
        lambda x, e, k: ((e + x + k) - sqrt((e + x + k) ** 2 - 4 * e * x)) / 2,
        morrison_partials, e=1.0, k=0.001),
        [0.1, 0.5, 0.9, 1.5, 3.0], [0.1, 0.48, 0.85, 0.98, 1.0]),
    Case("bateman oral dose", curve(
        lambda x, d, ka, ke: d * ka / (ka - ke) * (exp(-ke * x) - exp(-ka * x)),
        bateman_partials, d=300.0, ka=1.2, ke=0.3),
        [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0], [0.0, 120.0, 170.0, 185.0, 120.0, 38.0, 11.0]),
    Case("gompertz", curve(
        lambda x, a, b, c: a * exp(-b * exp(-c * x)),
        lambda x, a, b, c: {"a": exp(-b * exp(-c * x)),
            "b": -a * (u := exp(-c * x - b * exp(-c * x))), "c": a * b * x * u},
            a=5.0, b=3.0, c=0.4),
        [-2.0, 0.0, 3.0, 6.0, 12.0], [0.0, 0.3, 2.0, 3.8, 4.9]),
    Case("richards", curve(
        richards,
        richards_partials, top=2.0, k=1.5, m=0.5, n=0.6),
        [-3.0, -1.0, 0.5, 2.0], [0.0, 0.05, 0.6, 1.7]),
    Case("logistic over years", curve(
        lambda x, k, r, t: k * sigmoid(r * (x - t)),
        lambda x, k, r, t: {"k": (s := 1 / (1 + exp(r * (t - x)))),
            "r": k * (x - t) * s * sigmoid(r * (t - x)), "t": -k * r * s * sigmoid(r * (t - x))},
            k=100.0, r=0.2, t=2006.0),
        [1990.0, 1995.0, 2000.0, 2006.0, 2010.0, 2020.0], [4.0, 10.0, 22.0, 50.0, 71.0, 93.0]),
    Case("von bertalanffy", curve(
        lambda x, top, k, t0: top * (1 - exp(-k * (x - t0))),
        lambda x, top, k, t0: {"top": -torch.expm1(k * (t0 - x)),
            "k": top * (x - t0) * exp(k * (t0 - x)), "t0": -(k * top) * exp(k * (t0 - x))},
            top=60.0, k=0.25, t0=-0.5),
        [0.0, 1.0, 2.0, 5.0, 10.0], [7.0, 18.0, 28.0, 45.0, 56.0]),
    Case("damped cosine", curve(
        lambda x, a, g, w, p: a * exp(-g * x) * cos(w * x + p),
        damped_partials, a=-2.0, g=0.1, w=3.0, p=0.0),
        [0.0, 0.3, 0.7, 1.1, 2.0, 5.0], [-2.0, -1.2, 1.0, 1.8, -1.6, 0.9]),
    Case("planck", curve(
        lambda x, a, t: a * x**3 / torch.expm1(x / t),
        lambda x, a, t: {"a": x**3 / torch.expm1(x / t),
            "t": -a * x**4 / t**2 / torch.expm1(x / t) / torch.expm1(-x / t)}, a=0.5, t=1.3),
        [0.2, 1.0, 3.0, 7.0], [0.02, 0.4, 1.5, 0.8]),
    Case("antoine", curve(
        lambda x, a, b, c: 10 ** (a - b / (x + c)),
        lambda x, a, b, c: {"a": math.log(10) * (p := 10 ** (a - b / (x + c))),
            "b": -math.log(10) * p / (x + c), "c": math.log(10) * p * b / (x + c) ** 2},
            a=8.0, b=1700.0, c=233.0),
        [0.0, 20.0, 50.0, 80.0, 100.0], [4.6, 17.5, 92.5, 355.0, 760.0]),
    Case("nernst, log of q times x", curve(
        lambda x, e, s, q: e + s * log(q * x),
        lambda x, e, s, q: {"e": x**0, "s": log(q * x), "q": s / q * x**0},
            e=0.34, s=0.0128, q=2.0),
        [1e-6, 1e-4, 0.01, 1.0], [0.17, 0.23, 0.29, 0.35]),
    Case("freundlich", curve(
        lambda x, k, n: k * x ** (1 / n),
        lambda x, k, n: {"k": x ** (1 / n), "n": -k / n**2 * xlogy(x ** (1 / n), x)}, k=1.5, n=2.2),
        [0.0, 0.1, 1.0, 5.0, 40.0], [0.0, 0.5, 1.5, 3.2, 8.0]),
    Case("box-cox", curve(
        lambda x, m: (x**m - 1) / m,
        lambda x, m: {"m": (xlogy(x**m, x) - (x**m - 1) / m) / m}, m=0.3),
        [0.5, 1.0, 2.0, 10.0], [-0.6, 0.0, 0.8, 3.3]),
    Case("lorentzian", curve(
        lambda x, a, c, g: a / (1 + ((x - c) / g) ** 2),
        lambda x, a, c, g: {"a": (u := 1 / (1 + ((x - c) / g) ** 2)),
            "c": 2 * a * u**2 * (x - c) / g**2, "g": 2 * a * u**2 * (x - c) ** 2 / g**3},
            a=7.0, c=1.0, g=-0.5),
        [-1.0, 0.0, 1.0, 1.5, 4.0], [0.4, 1.4, 7.1, 3.4, 0.2]),
    Case("gaussian with a log width", curve(
        lambda x, a, m, s: a * exp(-(((x - m) * exp(-s)) ** 2) / 2),
        lambda x, a, m, s: {"a": (u := exp(-((z := (x - m) / exp(s)) ** 2) / 2)),
            "m": a * u * z / exp(s), "s": a * u * z * z}, a=3.0, m=0.2, s=0.0),
        [-2.0, -1.0, 0.2, 1.0, 3.0], [0.3, 1.5, 3.0, 2.2, 0.1]),
    Case("softplus with a sharpness", curve(
        lambda x, b: torch.logaddexp(b * x, 0 * x) / b,
        lambda x, b: {"b": (x * sigmoid(b * x) - torch.logaddexp(b * x, 0 * x) / b) / b}, b=2.0),
        [-30.0, -1.0, 0.0, 1.0, 30.0], [0.0, 0.1, 0.3, 1.1, 30.0]),
    Case("prelu at its kink", curve(
        lambda x, a, b: where(x > 0, x, a * x) + b,
        lambda x, a, b: {"a": torch.clamp(x, max=0.0), "b": torch.ones_like(x)}, a=0.25, b=0.0),
        [-2.0, -1.0, 0.0, 3.0], [-0.5, -0.2, 0.0, 3.1]),
    Case("hinge with data at the knot", curve(
        lambda x, a, k, b: a * relu(x - k) + b,
        lambda x, a, k, b: {"a": relu(x - k), "k": -a * (x > k), "b": x**0}, a=1.5, k=2.0, b=-1.0),
        [0.0, 1.0, 2.0, 3.0, 5.0], [-1.0, -1.0, -1.0, 0.6, 3.4]),
    Case("swish", curve(
        lambda x, a, b: a * x * sigmoid(b * x),
        lambda x, a, b: {"a": x * sigmoid(b * x), "b": a * x**2 * sigmoid(b * x) * sigmoid(-b * x)},
            a=1.0, b=-1.0),
        [-4.0, -1.0, 0.0, 1.0, 4.0], [-3.9, -0.7, 0.0, 0.3, 0.1]),
    Case("elu of w times x", curve(
        lambda x, w, al: where(w * x > 0, w * x, al * torch.expm1(torch.clamp(w * x, max=0.0))),
        lambda x, w, al: {"w": x * where(w * x > 0, 1.0, al * exp(w * x)),
            "al": where(w * x > 0, 0.0, torch.expm1(w * x))}, w=0.8, al=1.5),
        [-3.0, -0.5, 0.0, 2.0], [-1.3, -0.5, 0.0, 1.6]),
    Case("absolute line at zero", curve(
        lambda x, w, b: torch.abs(w * x + b),
        lambda x, w, b: {"w": x * torch.sign(w * x + b), "b": torch.sign(w * x + b)},
            w=2.0, b=-2.0),
        [-1.0, 0.0, 1.0, 2.0], [4.1, 2.0, 0.1, 1.8]),
    Case("clamped gain", curve(
        lambda x, a, w: a * torch.clamp(w * x, -1.0, 1.0),
        lambda x, a, w: {"a": torch.clamp(w * x, -1.0, 1.0),
            "w": where(torch.abs(w * x) < 1, a * x, 0.0)}, a=5.0, w=0.5),
        [-10.0, -2.0, 0.0, 1.0, 2.0, 9.0], [-5.0, -5.0, 0.0, 2.4, 5.0, 5.0]),
    Case("the larger of two lines", curve(
        lambda x, a, b: torch.maximum(a * x, b * x + 1),
        lambda x, a, b: {"a": where(a * x >= b * x + 1, x, 0.0),
            "b": where(a * x >= b * x + 1, 0.0, x)}, a=1.0, b=-1.0),
        [-2.0, 0.0, 0.5, 1.0, 4.0], [3.0, 1.0, 0.5, 1.0, 4.2]),
    Case("rational", curve(
        lambda x, a, b, c, d: (a + b * x) / (1 + c * x + d * x**2),
        rational_partials, a=1.0, b=0.0, c=0.3, d=0.2),
        [0.0, 1.0, 2.0, 5.0, 10.0, 1e4], [1.0, 0.7, 0.4, 0.15, 0.04, 0.0]),
    Case("standard score", curve(
        lambda x, m, s: (x - m) / s,
        lambda x, m, s: {"m": -(x**0) / s, "s": (m - x) / s**2}, m=1e4, s=300.0),
        [9400.0, 9700.0, 1e4, 10600.0], [-2.0, -1.1, 0.0, 2.1]),
    Case("root of w times x", curve(
        lambda x, w: sqrt(w * x),
        lambda x, w: {"w": sqrt(w * x) / (2 * w)}, w=3.0),
        [0.25, 1.0, 4.0, 9.0, 100.0], [0.9, 1.7, 3.5, 5.1, 17.0]),
    Case("products of parameters", curve(
        lambda x, a, b, c: a * b * x + b * c * x**2 - a * c,
        lambda x, a, b, c: {"a": b * x - c, "b": x * (a + c * x), "c": b * x**2 - a},
            a=0.0, b=-3.0, c=0.5),
        [-2.0, -1.0, 0.0, 1.0, 2.0], [-6.0, -1.4, 0.1, -1.6, -6.1]),
    Case("a parameter twice", curve(
        lambda x, a: a * x + cos(a * x),
        lambda x, a: {"a": x - x * sin(a * x)}, a=1.2),
        [-3.0, 0.0, 0.4, 2.0, 6.0], [-4.5, 1.0, 1.3, 1.7, 7.8]),
    Case("root less its own offset", curve(
        lambda x, a: sqrt(x**2 + a**2) - a,
        lambda x, a: {"a": (a - (h := torch.hypot(x, a + 0 * x))) / h}, a=1.0),
        [0.001, 0.1, 1.0, 10.0], [0.0, 0.005, 0.4, 9.1]),
    Case("difference of cubes far out", curve(
        lambda x, a: (x + a) ** 3 - x**3,
        lambda x, a: {"a": 3 * x**2 + 6 * a * x + 3 * a**2}, a=0.01),
        [-1e4, 0.0, 1.0, 1e4], [3e6, 0.0, 0.03, 3e6]),
    Case("a bias that cancels", curve(
        lambda x, w, b: (w * x + b) ** 2 - b * (2 * w * x + b),
        lambda x, w, b: {"w": 2 * w * x**2, "b": 0 * x}, w=0.7, b=2.0),
        [-1.0, 0.5, 3.0], [0.5, 0.1, 4.4]),
    Case("langevin", curve(
        lambda x, a, b: a * (1 / tanh(x / b) - b / x),
        lambda x, a, b: {"a": 1 / tanh(x / b) - b / x,
            "b": a * (x / (b * torch.sinh(x / b)) ** 2 - 1 / x)}, a=2.0, b=1.5),
        [-8.0, -2.0, 0.5, 2.0, 8.0], [-1.6, -0.8, 0.2, 0.8, 1.6]),
    Case("error function", curve(
        lambda x, a, w: a * torch.erf(w * x),
        lambda x, a, w: {"a": torch.erf(w * x),
            "w": a * x * (2 / math.sqrt(math.pi)) * exp(-(w**2) * x**2)}, a=1.0, w=0.001),
        [-2000.0, -300.0, 0.0, 500.0], [-1.0, -0.3, 0.0, 0.5]),
    Case("sine by its period", curve(
        lambda x, a, p, f: a * sin(2 * math.pi * x / p + f),
        lambda x, a, p, f: {"a": sin(math.tau / p * x + f),
            "p": -a * math.tau * x / p**2 * cos(math.tau * x / p + f),
            "f": a * cos(math.tau / p * x + f)}, a=4.0, p=12.0, f=0.5),
        [0.0, 1.0, 3.0, 6.0, 7.0, 9.0, 11.0], [2.0, 3.4, 3.5, -1.9, -3.4, -3.5, 0.1]),
    Case("weibull failures", curve(
        lambda x, s, k: 1 - exp(-((x / s) ** k)),
        lambda x, s, k: {"s": -k / s * (v := exp(-(u := (x / s) ** k)) * u), "k": xlogy(v, x / s)},
            s=50.0, k=1.8),
        [0.0, 10.0, 30.0, 50.0, 90.0, 150.0], [0.0, 0.05, 0.33, 0.63, 0.95, 1.0]),
    Case("hyperbolic decline", curve(
        lambda x, a, b, n: a * (1 + b * n * x) ** (-1 / n),
        arps_partials, a=900.0, b=0.3, n=0.5),
        [0.0, 1.0, 3.0, 6.0, 10.0], [900.0, 680.0, 430.0, 250.0, 140.0]),
    Case("quarterly interest", curve(
        lambda x, p, r: p * (1 + r / 4) ** (4 * x),
        lambda x, p, r: {"p": (1 + r / 4) ** (4 * x), "r": p * x * (1 + r / 4) ** (4 * x - 1)},
            p=1000.0, r=0.05),
        [0.0, 1.0, 5.0, 10.0], [1000.0, 1051.0, 1282.0, 1644.0]),
    Case("thin lens, one sample", curve(
        lambda x, f: 1 / (1 / f - 1 / x),
        lambda x, f: {"f": (x / (x - f)) ** 2}, f=0.05),
        [0.3], [0.06]),
]

WRONG = [
    Case("emax: sign of the half-effect dose", curve(
        lambda x, e, m, c: e + m * x / (c + x),
        lambda x, e, m, c: {"e": x**0, "m": x / (c + x), "c": m * x / (c + x) ** 2},
            e=1.0, m=8.0, c=2.0),
        [0.0, 0.5, 2.0, 10.0], [1.0, 2.7, 5.0, 7.6], "c"),
    Case("half-life: 0.693 for log 2", curve(
        lambda x, a, h: a * 2 ** (-x / h),
        lambda x, a, h: {"a": 2 ** (-x / h), "h": a * 0.693 * x / h**2 * 2 ** (-x / h)},
            a=80.0, h=5.0),
        [0.0, 2.0, 5.0, 12.0], [80.0, 61.0, 40.0, 15.0], "h"),
    Case("stretched exponential: no log", curve(
        lambda x, t, b: exp(-((x / t) ** b)),
        lambda x, t, b: {"t": b / t * (u := (x / t) ** b) * exp(-u),
            "b": -((x / t) ** b) * exp(-((x / t) ** b))}, t=3.0, b=0.6),
        [0.1, 1.0, 3.0, 8.0, 20.0], [0.9, 0.6, 0.37, 0.16, 0.04], "b"),
    Case("allometry: log10 for log", curve(
        lambda x, a, b: a * x**b,
        lambda x, a, b: {"a": x**b, "b": a * x**b * torch.log10(x)}, a=3.4, b=0.75),
        [0.02, 1.0, 70.0, 4000.0], [0.2, 3.4, 82.0, 1700.0], "b"),
    Case("sine of degrees: no pi/180", curve(
        lambda x, a, w: a * sin(torch.deg2rad(w * x)),
        lambda x, a, w: {"a": sin(w * x * math.pi / 180), "w": a * x * cos(w * x * math.pi / 180)},
            a=2.0, w=1.1),
        [0.0, 30.0, 90.0, 200.0], [0.0, 1.1, 2.0, -1.3], "w"),
    Case("logistic: midpoint without its rate", curve(
        lambda x, top, k, m: top * sigmoid(k * (x - m)),
        lambda x, top, k, m: {"top": (s := sigmoid(k * (x - m))),
            "k": top * s * sigmoid(k * (m - x)) * (x - m), "m": -top * s * sigmoid(k * (m - x))},
            top=10.0, k=0.5, m=4.0),
        [0.0, 2.0, 4.0, 6.0, 12.0], [1.2, 2.7, 5.0, 7.3, 9.8], "m"),
    Case("power law: an epsilon in the log", curve(
        lambda x, a, b: a * x**b,
        lambda x, a, b: {"a": x**b, "b": a * x**b * log(x + 1e-6)}, a=1.0, b=0.5),
        [1e-6, 1e-5, 1e-3, 0.1], [0.001, 0.003, 0.03, 0.3], "b"),
    Case("parabola: mean over the batch", curve(
        lambda x, a, b, c: a * x**2 + b * x + c,
        lambda x, a, b, c: {"a": x**2, "b": torch.mean(x) * x**0, "c": x**0}, a=1.0, b=0.0, c=0.0),
        [-1.0, 0.0, 2.0, 5.0], [1.0, 0.0, 4.0, 25.0], "b"),
    Case("two-rate tax: base rate stops at 100", curve(
        lambda x, r, s: r * x + s * relu(x - 100),
        lambda x, r, s: {"r": torch.clamp(x, max=100.0), "s": relu(x - 100)}, r=0.1, s=0.2),
        [0.0, 40.0, 90.0, 100.0, 180.0], [0.0, 4.0, 9.0, 10.0, 34.0], "r"),
    Case("log response: wrong between 10 and 50", curve(
        lambda x, a, b: a * x + b * torch.log1p(x),
        lambda x, a, b: {"a": x,
            "b": where((x > 10) & (x < 50), log(torch.abs(x)), torch.log1p(x))}, a=0.01, b=2.0),
        [0.0, 5.0, 25.0, 60.0, 100.0], [0.0, 3.6, 6.8, 8.8, 10.2], "b"),
    Case("versine: series without its half below 1e-3", curve(
        lambda x, a, w: a * (1 - cos(w * x)),
        lambda x, a, w: {"a": where(torch.abs(x) < 1e-3, (w * x) ** 2, 2 * sin(w * x / 2) ** 2),
            "w": a * x * sin(w * x)}, a=3.0, w=2.0),
        [1e-4, 5e-4, 0.1, 1.0], [0.0, 0.0, 0.06, 4.2], "a"),
    Case("log law: a table that ends at 1e5", curve(
        lambda x, a, b: a * log(x) + b,
        lambda x, a, b: {"a": log(torch.clamp(x, max=1e5)), "b": x**0}, a=0.5, b=-300.0),
        [10.0, 1e3, 1e5, 3e5, 2e6], [-299.0, -297.0, -294.0, -294.0, -293.0], "a"),
    Case("drag: square for x times its size", curve(
        lambda x, a, b: a * x * torch.abs(x) + b,
        lambda x, a, b: {"a": x**2, "b": x**0}, a=0.4, b=0.0),
        [-5.0, -1.0, 0.0, 2.0], [-10.0, -0.4, 0.0, 1.6], "a"),
    Case("cube of a weight that starts at 1", curve(
        lambda x, w: w**3 * x,
        lambda x, w: {"w": 3 * w * x}, w=1.0),
        [-1.0, 1.0, 2.0], [-8.0, 8.0, 16.0], "w"),
    Case("alpha synapse: no product rule", curve(
        lambda x, g, a: g * a * x * exp(-a * x),
        lambda x, g, a: {"g": a * x * exp(-a * x), "a": g * x * exp(-a * x)}, g=2.0, a=0.9),
        [0.0, 0.5, 1.0, 3.0, 6.0], [0.0, 0.6, 0.7, 0.4, 0.05], "a"),
    Case("lorentzian: half of the quotient rule", curve(
        lambda x, a, c, g: a * g**2 / (g**2 + (x - c) ** 2),
        lorentz_partials, a=1.0, c=0.0, g=1.5),
        [-4.0, -1.0, 0.0, 2.0, 5.0], [0.1, 0.7, 1.0, 0.4, 0.1], "g"),
    Case("gaussian: width squared for cubed", curve(
        lambda x, a, m, s: a * exp(-((x - m) ** 2) / (2 * s**2)),
        gauss_partials, a=2.0, m=1.0, s=0.5),
        [0.0, 0.5, 1.0, 1.5, 3.0], [0.3, 1.2, 2.0, 1.2, 0.0], "s"),
    Case("leaky neuron: no leak in the slope", curve(
        lambda x, w, b: where(w * x + b > 0, w * x + b, 0.1 * (w * x + b)),
        lambda x, w, b: {"w": where(w * x + b > 0, x, 0.0),
            "b": where(w * x + b > 0, 1.0, 0.1 * x**0)}, w=1.0, b=-1.0),
        [-3.0, 0.0, 1.0, 4.0], [-0.4, -0.1, 0.0, 3.0], "w"),
    Case("blackman: slope past saturation", curve(
        lambda x, v, s: torch.minimum(v * x, s + 0 * x),
        lambda x, v, s: {"v": x, "s": where(v * x < s, 0.0, x**0)}, v=0.5, s=3.0),
        [0.0, 2.0, 5.0, 8.0, 20.0], [0.0, 1.0, 2.5, 3.0, 3.0], "v"),
    Case("log-sum-exp: the other one's share", curve(
        lambda x, a, b: torch.logaddexp(a * x, b + 0 * x),
        lambda x, a, b: {"a": x * sigmoid(a * x - b), "b": sigmoid(a * x - b)}, a=1.0, b=0.5),
        [-3.0, -1.0, 0.0, 2.0], [0.5, 0.7, 1.0, 2.2], "b"),
    Case("arrhenius: kilojoules for joules", curve(
        lambda x, a, e: a * exp(-1000 * e / (R * x)),
        lambda x, a, e: {"a": exp(-1000 * e / (R * x)),
            "e": -a / (R * x) * exp(-1000 * e / (R * x))}, a=300.0, e=12.0),
        [280.0, 300.0, 320.0, 400.0], [1.7, 2.4, 3.3, 8.1], "e"),
    Case("temkin: no inner x", curve(
        lambda x, s, q: s * log(q * x + 1),
        lambda x, s, q: {"s": torch.log1p(q * x), "q": s / (1 + q * x)}, s=2.0, q=0.3),
        [0.0, 0.5, 3.0, 15.0], [0.0, 0.3, 1.3, 3.4], "q"),
    Case("root of a line: no half", curve(
        lambda x, w, c: sqrt(w * x + c),
        lambda x, w, c: {"w": x / (2 * sqrt(w * x + c)), "c": 1 / sqrt(w * x + c)}, w=2.0, c=1.0),
        [0.0, 1.5, 4.0, 12.0], [1.0, 2.0, 3.0, 5.0], "c"),
    Case("pade: x for its square", curve(
        lambda x, a, b, d: (a + b * x) / (1 + d * x**2),
        lambda x, a, b, d: {"a": 1 / (q := 1 + d * x**2), "b": x / q, "d": -(a + b * x) * x / q**2},
            a=1.0, b=2.0, d=0.001),
        [-3.0, 0.0, 2.0, 7.0], [-5.0, 1.0, 5.0, 14.3], "d"),
    Case("x over w: no square", curve(
        lambda x, w, b: x / w + b,
        lambda x, w, b: {"w": -x / w, "b": x**0}, w=-2.0, b=0.0),
        [-1.0, 0.0, 3.0, 1e4], [0.5, 0.0, -1.5, -5000.0], "w"),
    Case("first harmonic: the cosine differentiated in x", curve(
        lambda x, a, b: a * sin(x) + b * cos(x),
        lambda x, a, b: {"a": sin(x), "b": -sin(x)}, a=1.0, b=1.0),
        [0.0, 0.7, 1.5, 3.0, 5.0], [1.0, 1.4, 1.1, -0.8, -0.7], "b"),
    Case("chirp: x for its square", curve(
        lambda x, w, p: sin(w * x**2 + p),
        lambda x, w, p: {"w": x * cos(w * x**2 + p), "p": cos(w * x**2 + p)}, w=0.3, p=0.1),
        [-2.0, 0.0, 0.5, 3.0], [1.0, 0.1, 0.2, 0.3], "w"),
    Case("lennard-jones: an exponent not lowered", curve(
        lambda x, e, s: 4 * e * ((s / x) ** 12 - (s / x) ** 6),
        lambda x, e, s: {"e": 4 * ((s / x) ** 12 - (s / x) ** 6),
            "s": 4 * e * (12 * s**11 / x**12 - 6 * s**6 / x**6)}, e=0.5, s=1.2),
        [1.1, 1.35, 1.6, 2.5], [2.2, -0.5, -0.3, 0.0], "s"),
    Case("tanh neuron: 1 - t for 1 - t squared", curve(
        lambda x, a, w, b: a * tanh(w * x + b),
        lambda x, a, w, b: {"a": (t := tanh(w * x + b)), "w": a * x * (1 - t**2), "b": a * (1 - t)},
            a=1.5, w=0.8, b=0.0),
        [-2.0, -0.5, 0.0, 1.0], [-1.4, -0.6, 0.0, 1.0], "b"),
    Case("squared weight from 0, one sample: no factor 2", curve(
        lambda x, w: w**2 * x,
        lambda x, w: {"w": w * x}, w=0.0),
        [2.0], [8.0], "w"),
    Case("arctangent: w not squared", curve(
        lambda x, a, w: a * torch.atan(w * x),
        lambda x, a, w: {"a": torch.atan(w * x), "w": a * x / (1 + torch.abs(w) * x**2)},
            a=1.0, w=0.2),
        [-10.0, -2.0, 0.0, 4.0], [-1.1, -0.4, 0.0, 0.7], "w"),
    Case("trend over years: another base year", curve(
        lambda x, a, b, c: a + b * (x - 2000) + c * (x - 2000) ** 2,
        lambda x, a, b, c: {"a": x**0, "b": x - 2000, "c": (x - 1990) ** 2}, a=350.0, b=1.5, c=0.0),
        [1990.0, 2000.0, 2010.0, 2020.0], [354.0, 369.0, 390.0, 414.0], "c"),
    Case("cosine: 3.14 for pi", curve(
        lambda x, a, f: a * cos(math.pi * f * x),
        lambda x, a, f: {"a": cos(math.pi * f * x), "f": -3.14 * a * x * sin(math.pi * f * x)},
            a=2.0, f=0.7),
        [0.0, 0.3, 1.0, 2.2], [2.0, 1.6, -1.2, 0.2], "f"),
    Case("morse: no inner factor", curve(
        lambda x, d, a, r: d * (1 - exp(-a * (x - r))) ** 2,
        morse_partials, d=4.5, a=1.7, r=0.74),
        [0.5, 0.74, 1.0, 2.0, 4.0], [1.1, 0.0, 0.6, 3.5, 4.5], "r"),
    Case("ces: outer exponent forgotten", curve(
        lambda x, d, r: (d * x**r + 1 - d) ** (1 / r),
        ces_partials, d=0.4, r=0.5),
        [0.0, 0.5, 2.0, 10.0, 60.0], [0.4, 0.8, 1.4, 3.4, 14.0], "r"),
]

CASES: list[Case] = RIGHT + WRONG
