"""Sixty backward passes, 30 right and 30 wrong, and what `check_backward` should say of the latter.

Half of the wrong ones have a fault that people have shipped: grad_output read as contiguous or as
uniform, a shape that no test had, a factor within a loose tolerance, a test of .sum() alone,
float32 only, one branch only, the input saved for the output.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function

Forward = Callable[..., Any]
CHANCE = torch.Generator().manual_seed(7)


def made(forward: Forward, backward: Forward) -> Callable[..., Any]:
    """Return the apply of a Function."""

    def of(ctx: Any, *inputs: Any) -> Any:
        return forward(ctx, *inputs)

    def back(ctx: Any, *grads: Any) -> Any:
        return backward(ctx, *grads)

    members = {"forward": staticmethod(of), "backward": staticmethod(back)}
    mine: Any = type("Mine", (Function,), members)
    return mine.apply  # type: ignore[no-any-return]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=CHANCE, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A backward pass; `fault` is a part of what should be said of it, None where it is right."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    fault: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


# Layer normalisation: n = (x − mean)·r with r = 1/√(var + ε), and y = n·w + b.
def norm_forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    r = 1 / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    n = (x - x.mean(-1, keepdim=True)) * r
    ctx.save_for_backward(n, r, w)
    return n * w + b


def norm_backward(
    mean: float = 1,
    second: Callable[[Tensor, int], Tensor] = lambda c, n: c,
    weight: Callable[..., Tensor] = lambda g, n, w: g * n,
    bias: Callable[[Tensor], Tensor] = lambda g: g,
) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        n, r, w = ctx.saved_tensors
        dn, rows = g * w, tuple(range(g.dim() - 1))
        c = second((dn * n).mean(-1, keepdim=True), g.shape[-1])
        dx = (dn - mean * dn.mean(-1, keepdim=True) - n * c) * r
        return dx, weight(g, n, w).sum(rows), bias(g).sum(rows)

    return backward


def as_contiguous(g: Tensor) -> Tensor:
    """What a kernel reads that takes grad_output for contiguous."""
    stored = g.as_strided((g.untyped_storage().nbytes() // g.element_size(),), (1,), 0)
    places = torch.arange(g.numel()) + g.storage_offset()
    return stored[places % len(stored)].view(g.shape)


def entropy_forward(ctx: Any, z: Tensor, t: Tensor) -> Tensor:
    ctx.save_for_backward(torch.softmax(z, -1), t)
    return (torch.logsumexp(z, -1) - z.gather(-1, t[:, None])[:, 0]).mean()


def entropy_backward(
    change: Callable[[Tensor, Tensor, int], Tensor] = lambda d, g, n: d * g / n,
    spoil: bool = False,
) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        p, t = ctx.saved_tensors
        d = p - F.one_hot(t, p.shape[-1])
        if spoil:
            p.mul_(0.5)
        return change(d, g, len(t)), None

    return backward


def saves(compute: Callable[..., Tensor], *, output: bool = False) -> Forward:
    """Return a forward pass that saves its inputs, or else its output."""

    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        found = compute(*inputs)
        ctx.save_for_backward(*([found] if output else inputs))
        return found

    return forward


def elementwise(slope: Callable[[Tensor], Tensor]) -> Forward:
    return lambda ctx, g: g * slope(ctx.saved_tensors[0])


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# gelu = x·(1 + tanh u)/2 with u = k·(x + c·x³).
def gelu_slope(three: float = 3) -> Callable[[Tensor], Tensor]:
    k, c = math.sqrt(2 / math.pi), 0.044715

    def slope(x: Tensor) -> Tensor:
        t = torch.tanh(k * (x + c * x**3))
        return (1 + t) / 2 + x * (1 - t * t) * k * (1 + three * c * x * x) / 2

    return slope


def huber(x: Tensor, y: Tensor) -> Tensor:
    d = (x - y).abs()
    return torch.where(d < 1, d * d / 2, d - 0.5)


def huber_backward(far: Callable[[Tensor], Tensor] = torch.sign, sign: int = -1) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        d = torch.where((x - y).abs() < 1, x - y, far(x - y))
        return g * d, sign * g * d

    return backward


def rms(x: Tensor, w: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w


def rms_backward(
    change: Callable[[Tensor], Tensor] = lambda c: c, last: Callable[[Tensor], Tensor] = lambda d: d
) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        r = torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
        n, dn = x * r, g * w
        dx = (dn - n * change((dn * n).mean(-1, keepdim=True))) * r
        return last(dx), (g * n).sum(tuple(range(g.dim() - 1)))

    return backward


def softmax_backward(change: Callable[[Tensor, Tensor], Tensor] = lambda g, y: g) -> Forward:
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        g = change(g, y)
        return y * (g - (g * y).sum(-1, keepdim=True))

    return backward


def product_backward(
    left: Callable[..., Tensor] = lambda g, a, b: g @ b.mT,
    right: Callable[..., Tensor] = lambda g, a, b: a.mT @ g,
) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        return left(g, *ctx.saved_tensors), right(g, *ctx.saved_tensors)

    return backward


# Attention: p = softmax(q·kᵀ/√d), y = p·v.
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


def attention_backward(scale: float = 1) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        q, k, v = ctx.saved_tensors
        size = math.sqrt(q.shape[-1])
        p = torch.softmax(q @ k.mT / size, -1)
        dp = g @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / size
        return ds @ k * scale, ds.mT @ q, p.mT @ g

    return backward


def swiglu(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x) * y


def swiglu_backward(swap: bool = False) -> Forward:
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        s = torch.sigmoid(x)
        found = g * y * s * (1 + x * (1 - s)), g * x * s
        return found[::-1] if swap else found  # type: ignore[return-value]

    return backward


def rows_backward(change: Callable[[Tensor], Tensor] = lambda g: g) -> Forward:
    """Of table[index]: each row's cotangents are added up."""

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        table, index = ctx.saved_tensors
        rows = change(g).reshape(-1, table.shape[-1])
        return torch.zeros_like(table).index_add_(0, index.flatten(), rows), None

    return backward


def overwriting_rows(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    table, index = ctx.saved_tensors
    found = torch.zeros_like(table)
    found[index] = g
    return found, None


class Memory:
    """Keeps in one place what its last forward pass saw."""

    def __init__(self) -> None:
        self.x = torch.zeros(())

    def forward(self, ctx: Any, x: Tensor) -> Tensor:
        self.x = x.detach()
        return x.sin()

    def backward(self, ctx: Any, g: Tensor) -> Tensor:
        return g * self.x.cos()


def pads(block: int) -> Forward:
    """Of x³, in blocks; the rest of a length that is no multiple of them is left out."""

    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        whole = x.shape[-1] // block * block or x.shape[-1]
        found = 3 * x * x * g
        found[..., whole:] = 0
        return found

    return backward


def in_place_exp(ctx: Any, g: Tensor) -> Tensor:
    return g.mul_(ctx.saved_tensors[0])


def only_if_asked(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Of x·y; leaves dy out where x asks for no gradient."""
    x, y = ctx.saved_tensors
    if not ctx.needs_input_grad[0]:
        return None, torch.zeros_like(y)
    return g * y, g * x


def statistics_forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    ctx.save_for_backward(x)
    return x.mean(-1), x.var(-1, unbiased=False)


def statistics_backward(ctx: Any, g: Tensor, h: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    n = x.shape[-1]
    return g[..., None] / n + 2 / n * h[..., None] * (x - x.mean(-1, keepdim=True))


def first_output_alone(ctx: Any, g: Tensor, h: Tensor) -> Tensor:
    return statistics_backward(ctx, g, 0 * h)


def put(x: Tensor, values: Tensor) -> Tensor:
    index = (torch.tensor([0, 2, 2]), torch.tensor([1, 0, 0]))
    return x.index_put(index, values, accumulate=True)


def standardized(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, w, b, training=True)


T = torch.tensor([0, 2, 1, 3, 2])
INDEX = torch.tensor([[0, 2], [3, 2]])
X, W, B = random(2, 3, 8), random(8), random(8)
ONE, NONE = torch.ones(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
MASK = (random(3, 4) > 0).double() * 2
NORMED = (X, W, B)

RIGHT = [
    Case("torch's layer_norm", lambda x, w, b: F.layer_norm(x, (8,), w, b), NORMED),
    Case("torch's softmax", lambda x: torch.softmax(x, -1), (random(3, 4),)),
    Case("torch's attention", F.scaled_dot_product_attention,
         (random(2, 3, 4), random(2, 5, 4), random(2, 5, 4))),
    Case("torch's gelu", F.gelu, (random(9),)),
    Case("torch's conv2d", lambda x, w, b: F.conv2d(x, w, b, padding=1),
         (random(1, 2, 4, 5), random(3, 2, 3, 3), random(3))),
    Case("torch's embedding", lambda t: F.embedding(INDEX, t), (random(4, 3),)),
    Case("torch's index_put", put, (random(3, 2), random(3))),
    Case("torch's cumsum", lambda x: x.cumsum(-1), (random(2, 5),)),
    Case("torch's logsumexp", lambda x: x.logsumexp(-1), (random(3, 4),)),
    Case("torch's batch_norm", standardized, (random(6, 3), random(3), random(3))),
    Case("torch's relu", torch.relu, (random(7),)),
    Case("torch's max_pool1d", lambda x: F.max_pool1d(x, 2), (random(2, 6),)),
    Case("torch's cross_entropy", F.cross_entropy, (random(5, 4), T)),
    Case("torch's norm", lambda x: x.norm(dim=-1), (random(3, 4),)),
    Case("nn.Linear and tanh", nn.Sequential(nn.Linear(3, 4), nn.Tanh()), (random(2, 3),)),
    Case("layer norm", made(norm_forward, norm_backward()), NORMED),
    Case("cross entropy", made(entropy_forward, entropy_backward()), (random(5, 4), T)),
    Case("gelu", made(saves(gelu), elementwise(gelu_slope())), (random(9),)),
    Case("huber", made(saves(huber), huber_backward()), (random(9), random(9))),
    Case("abs at 0", made(saves(torch.abs), elementwise(torch.sign)), (torch.zeros(3),)),
    Case("rms norm", made(saves(rms), rms_backward()), (random(4, 6), random(6))),
    Case("softmax", made(saves(lambda x: torch.softmax(x, -1), output=True), softmax_backward()),
         (random(3, 4),)),
    Case("tanh, of its output", made(saves(torch.tanh, output=True), elementwise(
        lambda y: 1 - y * y)), (random(5),)),
    Case("log, inside of its domain", made(saves(torch.log), elementwise(torch.reciprocal)),
         (random(5).abs() + 0.1,)),
    Case("a product of matrices", made(saves(torch.matmul), product_backward()),
         (random(3, 4), random(4, 2))),
    Case("attention", made(saves(attention), attention_backward()),
         (random(2, 3, 4), random(2, 5, 4), random(2, 5, 4))),
    Case("swiglu", made(saves(swiglu), swiglu_backward()), (random(3, 4), random(3, 4))),
    Case("rows of a table", made(saves(lambda t, i: t[i]), rows_backward()),
         (random(4, 3), INDEX)),
    Case("a mean and a variance", made(statistics_forward, statistics_backward), (random(3, 5),)),
    Case("dropout of a given mask", made(lambda ctx, x: x * MASK, lambda ctx, g: g * MASK),
         (random(3, 4),)),
]  # fmt: skip

SHIPPED = [
    Case("layer norm reads grad_output as contiguous", made(norm_forward, norm_backward(
        weight=lambda g, n, w: as_contiguous(g) * n)), NORMED, "not contiguous"),
    Case("a product reads grad_output as contiguous", made(saves(torch.matmul), product_backward(
        right=lambda g, a, b: a.mT @ as_contiguous(g))), (random(3, 4), random(4, 2)),
        "not contiguous"),
    Case("rms norm reads grad_output as uniform", made(saves(rms), lambda ctx, g: rms_backward()(
        ctx, g.flatten()[0].expand(g.shape))), (random(4, 6), random(6)), "grad_output"),
    Case("huber's grad_output is ignored", made(saves(huber), lambda ctx, g: huber_backward()(
        ctx, torch.ones_like(g))), (random(9), random(9)), "whatever grad_output is"),
    Case("cross entropy's grad_output is ignored", made(entropy_forward, entropy_backward(
        lambda d, g, n: d / n)), (random(5, 4), T), "whatever grad_output is"),
    Case("the last entries of an odd length are left out", made(saves(lambda x: x**3), pads(4)),
         (random(2, 8),), "", {"shapes": [[(2, 7)]]}),
    Case("rows that come twice are overwritten", made(saves(lambda t, i: t[i]), overwriting_rows),
         (random(4, 3), torch.tensor([0, 2, 1])), "", {"shapes": [[None, (5,)]]}),
    Case("gelu, with 2.9 for 3", made(saves(gelu), elementwise(gelu_slope(2.9))),
         (0.3 * random(9),), ""),
    Case("layer norm, whose N is N + 0.01", made(norm_forward, norm_backward(
        second=lambda c, n: c * n / (n + 0.01))), NORMED, ""),
    Case("right of a sum alone", made(saves(torch.square), lambda ctx, g: (
        2 * ctx.saved_tensors[0] * g.mean())), (random(4),), "grad_output"),
    Case("exp, in float32", made(saves(torch.exp, output=True), lambda ctx, g: (
        g.float() * ctx.saved_tensors[0].float()).to(g.dtype)), (random(5),), "float32"),
    Case("wrong in float32 alone", made(saves(torch.sin), lambda ctx, g: (
        g * ctx.saved_tensors[0].cos() * (1.01 if g.dtype == torch.float32 else 1))),
        (random(5),), "only in float32"),
    Case("huber, of one branch", made(saves(huber), huber_backward(lambda d: d)),
         (0.1 * random(9), 0.1 * random(9)), "only beyond"),
    Case("a clamp that lets gradients through", made(saves(lambda x: x.clamp(-2.5, 2.5)),
         lambda ctx, g: g), (0.5 * random(9),), "only beyond |input 0| > 2.5"),
    Case("tanh, of its input", made(saves(torch.tanh), elementwise(lambda x: 1 - x * x)),
         (random(5),), "if the saved tensor were the output"),
]  # fmt: skip

OTHERS = [
    Case("layer norm without the mean", made(norm_forward, norm_backward(mean=0)),
         (X, ONE, NONE), "rows do not sum to 0"),
    Case("layer norm, dw with w twice", made(norm_forward, norm_backward(
        weight=lambda g, n, w: g * w * n)), (X, ONE, B), ""),
    Case("layer norm, db doubled", made(norm_forward, norm_backward(bias=lambda g: 2 * g)),
         NORMED, "2 times too large everywhere"),
    Case("cross entropy without 1/N", made(entropy_forward, entropy_backward(
        lambda d, g, n: d * g)), (random(5, 4), T), "N = 5, a mean's 1/N?"),
    Case("cross entropy spoils what it saved", made(entropy_forward, entropy_backward(spoil=True)),
         (random(5, 4), T), "changes what it saved"),
    Case("huber, dy of the wrong sign", made(saves(huber), huber_backward(sign=1)),
         (random(9), random(9)), "the sign is reversed"),
    Case("rms norm, of a magnitude", made(saves(rms), rms_backward(torch.abs)),
         (random(4, 6), random(6)), "not linear in grad_output"),
    Case("attention, dq without 1/√d", made(saves(attention), attention_backward(scale=2)),
         (random(2, 3, 4), random(2, 5, 4), random(2, 5, 4)), "2 times too large everywhere"),
    Case("swiglu, two gradients swapped", made(saves(swiglu), swiglu_backward(swap=True)),
         (random(3, 4), random(3, 4)), "this is the gradient of input 1"),
    Case("softmax without its second term", made(saves(lambda x: torch.softmax(x, -1),
         output=True), elementwise(lambda y: y)), (random(3, 4),), "rows do not sum to 0"),
    Case("sin remembers the last call alone", made((memory := Memory()).forward, memory.backward),
         (random(5),), "another call comes between"),
    Case("exp writes to grad_output", made(saves(torch.exp, output=True), in_place_exp),
         (random(5),), "changes grad_output"),
    Case("a product that needs both to ask", made(saves(torch.mul), only_if_asked),
         (random(4), random(4)), "input 1 alone asks for one"),
    Case("the gradient of a variance is left out", made(statistics_forward, first_output_alone),
         (random(3, 5),), ""),
    Case("0/0 at 0", made(saves(lambda x: x * x), lambda ctx, g: (
        2 * g * ctx.saved_tensors[0] ** 2 / ctx.saved_tensors[0])), (random(5),), ""),
]  # fmt: skip

CASES = [*RIGHT, *SHIPPED, *OTHERS]
