"""What users would write without torchgd: the peers of benchmark.py, and the points of both."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchgd import Batches

RATE, F64 = 0.002, torch.float64


def points(count: int, device: torch.device, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Return x on [−1, 1] and y = 2x and some noise, the same on each device."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(count, dtype=dtype, generator=generator) - 1
    y = 2 * x + 0.1 * torch.randn(count, dtype=dtype, generator=generator)
    return x.to(device), y.to(device)


def bare_loop(model: Any, batches: Batches, epochs: int) -> None:
    """Train by autograd and torch.optim.SGD in a hand-written loop that records nothing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    split = (t.split(batches.batch_size) for t in (batches.x, batches.y))
    pairs = list(zip(*split, strict=True))
    for _ in range(epochs):
        for x, y in pairs:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def line(samples: Any, w: float) -> list[float]:
    """Train a line, one sample a step, in numbers of Python."""
    for x, y in samples:
        w = w - RATE * 2 * x * (w * x - y)
    return [w]


def parabola(samples: Any, w2: float, w1: float, b: float) -> list[float]:
    """Train a parabola, one sample a step, in numbers of Python."""
    for x2, x, _, y in samples:
        d = RATE * 2 * (w2 * x2 + w1 * x + b - y)
        w2, w1, b = w2 - d * x2, w1 - d * x, b - d
    return [w2, w1, b]


def sgd_regressor(phi: Tensor, y: Tensor, start: list[float], count: int) -> list[float]:
    """Train by scikit-learn, whose loss is ½(ŷ − y)², so that its rate is twice ours."""
    from sklearn.linear_model import SGDRegressor

    regressor = SGDRegressor(
        penalty=None, fit_intercept=False, shuffle=False, learning_rate="constant", eta0=2 * RATE,
        max_iter=1, tol=None,
    )  # fmt: skip
    regressor.fit(phi[:count].numpy(), y[:count].numpy(), coef_init=np.array(start))
    return [float(w) for w in regressor.coef_]


# The lesson with both updates, as one writes it who logs to TensorBoard.
LESSON = """
import sys, torch
from torch.utils.tensorboard import SummaryWriter
results = []
for update in ("manual", "autograd"):
    writer = SummaryWriter(f"{sys.argv[2]}/{update}")
    w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.01)
    for step, (x, y) in enumerate([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)] * int(sys.argv[4])):
        loss = (w * x - y) ** 2
        if update == "manual":
            w.grad = (2 * x * (w * x - y)).detach()
        else:
            optimizer.zero_grad()
            loss.backward()
        for tag, value in (("loss", loss), ("weight", w), ("gradient", w.grad)):
            writer.add_scalar(tag, value.item(), step)
        optimizer.step()
    writer.close()
    results.append(w.item())
print("w", *results)
"""
