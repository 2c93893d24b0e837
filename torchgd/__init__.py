"""Gradient descent by hand, proven against PyTorch.

The files in reading order, each of which imports only those before it: version, models, loss,
gradients, optim, data, trajectory, training, chunks, distributed, scan, affine, symbols, checks,
answers, mistakes, files, tracking, checkpoint, lookup, experiment, report, job, landscape, scene,
plots, cli.
"""

from torchgd.checks import check_gradient, compare
from torchgd.data import Batches
from torchgd.gradients import autograd_gradient, manual_gradient
from torchgd.models import Linear, Model, Quadratic
from torchgd.optim import ManualSGD
from torchgd.training import train
from torchgd.trajectory import Trajectory
from torchgd.version import __version__

__all__ = [
    "Batches",
    "Linear",
    "ManualSGD",
    "Model",
    "Quadratic",
    "Trajectory",
    "__version__",
    "autograd_gradient",
    "check_gradient",
    "compare",
    "manual_gradient",
    "train",
]
