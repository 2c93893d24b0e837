"""Gradient descent by hand, proven against PyTorch.

What stands here is the lesson, in files each of which imports only those before it: version,
models, entries, loss, gradients, optim, data, trajectory, training, machine_code, compiled. Each
folder is a layer built on it and on the folders before: proof (is it right?), theory (what follows
from ŷ being linear in w), experiment (from a command line to a folder of results) and figures.
"""

from torchgd.compiled import compiled_trajectory
from torchgd.data import Batches
from torchgd.gradients import autograd_gradient, manual_gradient
from torchgd.models import Linear, Model, Quadratic
from torchgd.optim import ManualSGD
from torchgd.proof.backward import check_backward
from torchgd.proof.compare import compare
from torchgd.proof.optimizers import check_optimizer
from torchgd.proof.oracles import check_gradient
from torchgd.proof.planted import planted, survivors
from torchgd.theory.affine import affine_trajectory
from torchgd.training import descend, train
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
    "affine_trajectory",
    "autograd_gradient",
    "check_backward",
    "check_gradient",
    "check_optimizer",
    "compare",
    "compiled_trajectory",
    "descend",
    "manual_gradient",
    "planted",
    "survivors",
    "train",
]
