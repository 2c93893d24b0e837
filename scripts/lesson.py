"""The lesson on gradient descent, a cell a thought.

`python scripts/lesson.py` runs it through, with `--step` a cell at a time; `--html FILE` writes it
as a page and `--notebook FILE.ipynb` as a notebook, as which editors open this file, too. Its
pictures are in runs/lesson/. After the lesson "Gradient Descent" of PyTorchZeroToAll.
"""

import sys

if __name__ == "__main__" and "ipykernel" not in sys.modules:
    import os
    import sys

    sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH is set, too
    import interrupt  # noqa: F401

    from torchgd.figures.page import show

    show(__file__)  # a cell after the other

# %% The whole lesson in ten lines tags=["open"]
x_data, y_data = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]  # hours studied, points scored
w = 1.0  # a guess


def gradient(x, y):
    return 2 * x * (x * w - y)  # ∂loss/∂w of loss = (w·x − y)²


path = []
for epoch in range(50):
    for x, y in zip(x_data, y_data):
        path.append(w)
        w = w - 0.01 * gradient(x, y)
print(f"It learns that each hour gives two points: ŷ = w·x with w = {w}.")
print(f"For 4 hours it predicts {w * 4} points. How does it, and is it right?")

# %% A model, a guess, its loss
import numpy as np

x, y = np.array(x_data), np.array(y_data)


def loss(w):
    """The mean squared error over the samples, (1/N) Σ (w·x − y)²."""
    return ((w * x - y) ** 2).mean()


for xn, yn in zip(x, y):
    print(f"x = {xn:g}: the guess w = 1 predicts ŷ = {1 * xn:g}, and y is {yn:g}: "
          f"loss = (ŷ − y)² = {(1 * xn - yn) ** 2:g}")  # fmt: skip
print(f"The loss of a guess is the mean of these, {loss(1):.4f}. w = 2 has loss {loss(2):g}.")

# %% The loss graph
import sys
from pathlib import Path

from matplotlib.figure import Figure


def keep(figure, name, seen):
    """Keep a picture, and say where and what is seen on it; a notebook shows it."""
    file = Path("runs", "lesson", f"{name}.svg")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    print(f"picture: {file.as_posix()}: {seen}")
    if "ipykernel" in sys.modules:
        from IPython.display import SVG

        display(SVG(filename=file))


w_all = np.linspace(0, 4, 41)
figure = Figure(figsize=(6, 4))
axes = figure.subplots()
axes.plot(w_all, [loss(w) for w in w_all], "k")
axes.plot(1, loss(1), "o", label=f"the guess w = 1, loss {loss(1):.4f}")
axes.plot(2, loss(2), "*", markersize=14, label="the lowest point, w = 2")
axes.set(xlabel="w", ylabel="loss(w)")
axes.legend()
print("The loss of every w, drawn: a parabola. To learn is to find its lowest point.")
keep(figure, "1-loss-graph", "the loss over w, a parabola whose lowest point is at w = 2")

# %% The slope, by hand and by a small step
h = 1e-6
by_hand = (2 * x * (1 * x - y)).mean()
small_step = (loss(1 + h) - loss(1 - h)) / (2 * h)
print("Which way is down? Where the loss rises with w, w is too large; where it falls, too small.")
print(f"By hand: ∂loss/∂w = (1/N) Σ 2x(w·x − y) = {by_hand:.6f} at w = 1.")
print(f"By a small step: (loss(1 + h) − loss(1 − h))/2h = {small_step:.6f} for h = {h:g}.")

# %% One step, with all its numbers
w0, lr = 1.0, 0.01
g = 2 * x[0] * (w0 * x[0] - y[0])
w1 = w0 - lr * g
print("Downhill is against the slope: w ← w − α·∂loss/∂w, with the learning rate α.")
print(f"For the first sample: ∂loss/∂w = 2·{x[0]:g}·({w0:g}·{x[0]:g} − {y[0]:g}) = {g:g}, so")
print(f"w ← {w0:g} − {lr:g}·({g:g}) = {w1:g}: closer to 2.")

# %% The loop
import torch

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.report import transcript
from torchgd.experiment.run import outcome_of

manual = outcome_of(Configuration())  # the lesson: α = 0.01, 50 epochs, one sample a step
lines = list(transcript(manual))
print("The step again and again, sample after sample, and each gradient, as the lesson lists them:")
print(*(f"  {line}" for line in [*lines[:8], "\t ...", *lines[-5:]]), sep="\n")

# %% The same with PyTorch: nn.Module, autograd and torch.optim.SGD tags=["open"]
from torchgd import Linear

model = Linear(dtype=torch.float64)
x, y = (torch.tensor(data, dtype=torch.float64) for data in (x_data, y_data))
optimizer = torch.optim.SGD(model.parameters(), lr=lr)
for epoch in range(50):
    for xn, yn in zip(x, y):
        error = (model(xn) - yn) ** 2
        optimizer.zero_grad()  # forget the gradients of the step before
        error.backward()  # ∂loss/∂w, found by autograd, is in w.grad
        optimizer.step()  # w ← w − α·w.grad
print("PyTorch finds the derivative by itself (loss.backward()) and takes the step for you "
      "(optimizer.step()).")  # fmt: skip
print(f"w ends at {model.w.item()}.")

# %% That loop again, with each step recorded
from torchgd import Batches, train
from torchgd.gradients import autograd_gradient
from torchgd.proof.compare import compare, ulps

recorded = Linear(dtype=torch.float64)
optimizer = torch.optim.SGD(recorded.parameters(), lr=lr)
autograd = train(recorded, Batches(x, y), optimizer, autograd_gradient)
comparison = compare(manual.trajectory, autograd)
apart = ulps(torch.tensor(path, dtype=torch.float64), autograd.weights["w"][:-1])
print(f"train() is that loop, and keeps each weight, gradient and loss. It ends at the same bits: "
      f"{recorded.w.item() == model.w.item()}.")  # fmt: skip
print(f"Of {len(autograd.loss)} steps by hand and by PyTorch, all are the same to the last bit: "
      f"{comparison.identical}.")  # fmt: skip
print(
    "The ten lines round α·g and then w − α·g, PyTorch but once: that may cost a unit in a "
    f"number's last place (a ULP), and does for {(apart > 0).sum()} of the {len(apart)} weights."
)

# %% The learning rate: too small, right, best, too large
rates = {"too small": 0.001, "right": 0.01, "best": 1 / 18, "too large": 0.21}
figure = Figure(figsize=(6, 4))
axes = figure.subplots()
for name, rate in rates.items():
    path = outcome_of(Configuration(lr=rate)).trajectory
    after = abs(path.weights["w"][::3] - 2)
    axes.semilogy(after.clamp(min=1e-17), label=f"α = {rate:.4g}, {name}")
    factor = np.prod([1 - 2 * rate * x**2 for x in x_data])
    print(f"α = {rate:.4g} ({name}): an epoch multiplies w − 2 by {factor:.6g}; "
          f"after 50 epochs it is {path.weights['w'][-1] - 2:.3g}.")  # fmt: skip
axes.set(xlabel="epoch", ylabel="|w − 2|  (0 is drawn as 10⁻¹⁷)")
axes.legend()
known = manual.experiment.landscape.rates()
print(f"A step multiplies w − 2 by 1 − 2αx². For x = 3 that is 0 at α = 1/18 = {1 / 18:.4f}: the "
      "step lands on 2, as it does for x = 2 at 1/8 and for x = 1 at 1/2. Above 1/18 the step of "
      f"x = 3 overshoots; above 1/9 = {1 / 9:.4f} it ends farther off than it began. A whole epoch "
      f"is {known}, about 1/2.")  # fmt: skip
keep(figure, "2-learning-rates", "how far w is from 2 over the epochs: three lines fall, one rises")

# %% One sample a step against the mean
from torchgd.figures import draw
from torchgd.figures.runs import lay_together


def descend(label, **asked):
    """A run of these flags: its label, what was asked for, its path."""
    outcome = outcome_of(Configuration(**asked))
    return label, outcome.experiment, outcome.trajectory


full = descend("the mean", batch_size="full")
figures = draw(lay_together([descend("one sample a step"), full]))
print("The lesson's formula is the mean over the samples, and its program takes one sample a step: "
      "two descents. The program's steps each go down a parabola of their own.")  # fmt: skip
print(f"After 50 epochs: {manual.trajectory.weights['w'][-1]:.8f} in 150 steps of one sample, "
      f"{full[2].weights['w'][-1]:.8f} in {len(full[2].loss)} steps of the mean.")  # fmt: skip
keep(figures["loss"], "3-batches", "two descents to w = 2: one on the parabola of the mean, one "
     "that jumps between the parabolas of the samples")  # fmt: skip

# %% Exercise 3.1, asked
from torchgd import Quadratic, check_gradient
from torchgd.proof.steps import PLAIN, steps, typeset
from torchgd.proof.symbols import derive

derivation = derive(Quadratic())
print("A parabola. What are ∂loss/∂w2 and ∂loss/∂w1? And ∂loss/∂b?")
print(typeset(steps(derivation, [], PLAIN)[:2], PLAIN))
print(
    'Take a pencil; then python scripts/derive.py quadratic --answer "w2=…" tells if it is right.'
)

# %% Exercise 3.1, answered and proven tags=["answer"]
print(typeset(steps(derivation, derivation.weights, PLAIN), PLAIN))
check = check_gradient(Quadratic(dtype=torch.float64), x, y)
print("Three oracles, none of which knows of the others, say whether they are right:")
print(check)

# %% Exercise 3.2: descend on the parabola
label, parabola, path = run = descend("by hand", model="quadratic", batch_size="full", epochs=300)
other = descend("by autograd", update="autograd", model="quadratic", batch_size="full", epochs=300)
figures = draw(lay_together([run, other]))
found = ", ".join(f"{name} = {w[-1]:.4f}" for name, w in path.weights.items())
print(f"The data are y = 3x² + 2x + 1 at {len(parabola.data.x)} points; 300 steps find {found}.")
print(f"By hand and by autograd the same bits: {compare(path, other[2]).identical}.")
keep(figures["contour"], "4-parabola", "level lines of the loss over two weights, and the descent "
     "across them to the lowest point")  # fmt: skip
keep(figures["fit"], "5-parabola-fit", "the data, and curves that come closer to them step by step")

# %% Real data
cars = descend("cars", model="quadratic", data="cars", batch_size="full", standardize=True,
               lr="auto", epochs=100)  # fmt: skip
laid = lay_together([cars])
print(
    f"{len(cars[1].data.x)} cars of the 1920s: how far they go on while they brake, in feet, "
    "against their speed in miles an hour. (x − mean)/deviation puts x and x² on one scale, and "
    f"from the loss's curvature follows the best learning rate, {cars[1].options['lr']:.4g}."
)
print(f"After {len(cars[2].loss)} steps the loss is {cars[2].loss[-1]:.6f}; the least that any "
      f"parabola has is {laid[0].landscape.minimum:.6f}.")  # fmt: skip
keep(draw(laid)["fit"], "6-cars", "stopping distance over speed, and the parabola through the dots")

# %% What people get wrong
from torchgd.proof.mistakes import MISTAKES

for name in ("half", "sum", "no-zero-grad", "sign"):
    found = [outcome_of(Configuration(batch_size="full", update=u)) for u in (name, "manual")]
    ends = [outcome.trajectory.weights["w"][-1].item() for outcome in found]
    print(f"{MISTAKES[name].explanation} w ends at {ends[0]:.6g} instead of {ends[1]:.6g}.")
print("python scripts/compare.py --mistake NAME shows each step; the names are "
      f"{', '.join(MISTAKES)}.")  # fmt: skip
