"""The models: a prediction ŷ and, beside it, its derivatives by hand.

A model is a `torch.nn.Module` with two methods that take the same x: `forward` computes ŷ and
`partials` computes ∂ŷ/∂w for each parameter w. The loss adds its own factor by the chain rule
(see `torchgd.gradients`), so `partials` ends at ŷ.

A sample's x is one number, or a row of F of them: x is (N,) or (N, F), and ŷ is (N,). A parameter
has any shape; its entries, w[0], w[1], …, are the numbers that a trajectory records.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

# The dtypes on offer; every proof is given in both.
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Model(nn.Module):
    """ŷ = f(x; w) with hand-derived ∂ŷ/∂w: the base class of every model here.

    A model of your own is a subclass, or any `nn.Module`, with `forward` and `partials`, made as
    `CLASS(device=…, dtype=…)`. Its parameters are `nn.Parameter`s of any shape, such as (). Its
    only state are parameters and buffers: a run that was stopped goes on from these.

    Example: ŷ = w·x³ and its only partial derivative, ∂ŷ/∂w = x³.

        >>> class Cubic(Model):
        ...     def __init__(self, device=None, dtype=None):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor(1.0, device=device, dtype=dtype))
        ...
        ...     def forward(self, x):
        ...         return self.w * x**3
        ...
        ...     def partials(self, x):
        ...         return {"w": x**3}
        >>> Cubic().partials(torch.tensor([1.0, 2.0]))
        {'w': tensor([1., 8.])}
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ŷ (N,), of x (N,) or (N, F)."""
        raise NotImplementedError(f"{type(self).__name__} needs forward(x), which returns ŷ")

    def partials(self, x: Tensor) -> Mapping[str, Tensor | float]:
        """Return ∂ŷ/∂w, (N, *w.shape) or a constant, for each named parameter w."""
        raise NotImplementedError(
            f"{type(self).__name__} needs partials(x), which returns ∂ŷ/∂w for each parameter"
        )

    def in_original_units(self, mean: Any, deviation: Any) -> Mapping[str, Any]:
        """Trained over z = (x − mean)/deviation, return the parameters of the same curve over x.

        Where x has F columns, mean and deviation are lists of F numbers; a parameter of shape (F,)
        is returned as one.

        Raises:
            ValueError: the model does not say how its parameters map.
        """
        raise ValueError(
            f"{type(self).__name__} does not define in_original_units, "
            "so what it learns on standardised data cannot be mapped back; "
            "define it or train without standardising"
        )


def parameter(
    value: float | list[float], device: torch.types.Device, dtype: torch.dtype | None
) -> nn.Parameter:
    """Return a number as a trainable parameter of shape (), or several as one of shape (F,)."""
    dtype = dtype or torch.get_default_dtype()  # not an integer's, of a value such as 1
    return nn.Parameter(torch.tensor(value, device=device, dtype=dtype))


# Where x is far from 0 a parameter over it is a difference of large numbers, as b − (w/s)·m is, of
# which rounding would leave few digits. As fractions floats are exact: only the result is rounded.
def exact(value: float) -> Fraction | float:
    """Return a float as the fraction that it is, or as it is if it is not finite."""
    return Fraction(value) if math.isfinite(value) else value


def rounded(value: Fraction | float) -> float:
    """Return the float64 nearest to a number; infinity where it is beyond them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Linear(Model):
    """The lesson's line, ŷ = w·x, or with a bias ŷ = w·x + b; of several columns a plane.

    `w` is the starting weight (the lesson's guess is 1), of each column; the bias starts at 0.

    Shapes: x and ŷ alike, any; parameters (). With F > 1 `features` x is (N, F), ŷ (N,), w (F,),
    and w·x is the dot product Σ wⱼxⱼ.
    """

    def __init__(
        self,
        w: float = 1.0,
        bias: bool = False,
        features: int = 1,
        *,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if type(features) is not int or features < 1:
            raise ValueError(f"features {features!r}: give an integer of at least 1")
        self.features = features
        self.w = parameter(float(w) if features == 1 else [float(w)] * features, device, dtype)
        self.b = parameter(0.0, device, dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """ŷ = w·x (+ b)."""
        prediction = self.w * x if self.features == 1 else x @ self.w
        return prediction if self.b is None else prediction + self.b

    # loss = (ŷ − y)²                          one sample
    # ∂loss/∂ŷ = 2(ŷ − y)
    #
    # ŷ = w·x + b
    # ∂ŷ/∂w = x            so   ∂loss/∂w = ∂loss/∂ŷ · ∂ŷ/∂w = 2x(w·x + b − y)
    # ∂ŷ/∂b = 1            so   ∂loss/∂b = ∂loss/∂ŷ · ∂ŷ/∂b = 2(w·x + b − y)
    #
    # and without a bias ∂loss/∂w = 2x(w·x − y), the lesson's gradient. Of several columns
    # w·x = Σ wₖxₖ, and only its j-th term holds wⱼ:
    #
    # ∂ŷ/∂wⱼ = xⱼ          so   ∂loss/∂wⱼ = 2xⱼ(w·x + b − y)
    def partials(self, x: Tensor) -> dict[str, Tensor | float]:
        """∂ŷ/∂w = x and, with a bias, ∂ŷ/∂b = 1."""
        return {"w": x} if self.b is None else {"w": x, "b": 1}

    # ŷ − c = Σ wⱼ·zⱼ + b with zⱼ = (xⱼ − mⱼ)/sⱼ
    # ŷ     = Σ (wⱼ/sⱼ)·xⱼ + (b + c − Σ (wⱼ/sⱼ)·mⱼ)
    def in_original_units(self, mean: Any, deviation: Any, offset: float = 0.0) -> dict[str, Any]:
        """w/s and b + c − (w/s)·m, of mean m, deviation s and offset c; each is rounded once.

        Of several columns m, s and w/s are lists.

        Raises:
            ValueError: a line without a bias cannot take up a mean other than 0.
        """
        alone, columns = self.features == 1, (self.w.tolist(), mean, deviation)
        ws, ms, ss = ([value] if alone else value for value in columns)
        slopes = [exact(w) / Fraction(s) for w, s in zip(ws, ss, strict=True)]
        each = [rounded(slope) for slope in slopes]
        w = each[0] if alone else each
        if self.b is not None:
            shift = sum(slope * Fraction(m) for slope, m in zip(slopes, ms, strict=True))
            return {"w": w, "b": rounded(exact(self.b.item()) + Fraction(offset) - shift)}
        if any(ms):
            raise ValueError(
                f"mean {mean}: without a bias the line maps back to one over x only at mean 0; "
                "scale by the root mean square alone or add a bias"
            )
        return {"w": w}


class Quadratic(Model):
    """The parabola of Exercise 3.1, ŷ = x²·w2 + x·w1 + b.

    The weights start at 1 and the bias at 0. Shapes: x and ŷ alike, any; parameters ().
    """

    def __init__(
        self,
        w2: float = 1.0,
        w1: float = 1.0,
        b: float = 0.0,
        *,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.w2 = parameter(w2, device, dtype)
        self.w1 = parameter(w1, device, dtype)
        self.b = parameter(b, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """ŷ = x²·w2 + x·w1 + b."""
        return x**2 * self.w2 + x * self.w1 + self.b

    # loss = (ŷ − y)²                          one sample
    # ∂loss/∂ŷ = 2(ŷ − y)
    #
    # ŷ = x²·w2 + x·w1 + b
    # ∂ŷ/∂w2 = x²          so   ∂loss/∂w2 = 2x²(x²·w2 + x·w1 + b − y)     (Exercise 3.1)
    # ∂ŷ/∂w1 = x           so   ∂loss/∂w1 = 2x(x²·w2 + x·w1 + b − y)      (given)
    # ∂ŷ/∂b  = 1           so   ∂loss/∂b  = 2(x²·w2 + x·w1 + b − y)       (not asked, but needed)
    def partials(self, x: Tensor) -> dict[str, Tensor | float]:
        """∂ŷ/∂w2 = x², ∂ŷ/∂w1 = x, ∂ŷ/∂b = 1."""
        return {"w2": x**2, "w1": x, "b": 1}

    # ŷ − c = w2·z² + w1·z + b with z = (x − m)/s; write a2 = w2/s², a1 = w1/s:
    #       = a2·(x − m)² + a1·(x − m) + b
    # ŷ     = a2·x² + (a1 − 2·a2·m)·x + (b + c − a1·m + a2·m²)
    def in_original_units(
        self, mean: float, deviation: float, offset: float = 0.0
    ) -> dict[str, float]:
        """a2, a1 − 2·a2·m and b + c − a1·m + a2·m², with a2 = w2/s², a1 = w1/s; rounded once."""
        m, s = Fraction(mean), Fraction(deviation)
        a2, a1 = exact(self.w2.item()) / s**2, exact(self.w1.item()) / s
        b = exact(self.b.item()) + Fraction(offset) - a1 * m + a2 * m**2
        return {"w2": rounded(a2), "w1": rounded(a1 - 2 * a2 * m), "b": rounded(b)}
