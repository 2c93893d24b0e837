"""How a gradient is computed: on which device, compiled, in chunks, by several processes."""

import importlib.util
import re
from collections.abc import Callable

import torch
from torch import Tensor

from torchgd.compiled import why_not_compiled
from torchgd.data import Batches
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.ranks import add_over_ranks, processes, share
from torchgd.experiment.sources import Rows
from torchgd.gradients import GradientSource, is_linear_in_parameters
from torchgd.models import Model

# Rows at a time of data that are not in memory: what fits into a CPU's cache, or fills a GPU.
CHUNK = {"cpu": 2**16, "cuda": 2**22}


def find_device(name: str) -> torch.device:
    """Return the device of that name: auto (cuda where there is one), cpu, cuda or cuda:N.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", name)
    if asked is None:
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(asked[1] or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r}: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices on this machine; use cpu or auto"
        )
    return torch.device(name)


def compiled(gradient: GradientSource, x: Tensor) -> GradientSource:
    """The same gradient by torch.compile: one pass over the data, no temporaries of its size.

    Sums are taken in another order, so that loss and gradients differ from `gradient`'s by
    rounding. For few samples on CUDA, as in `x`, starting kernels is what takes the time: there
    one CUDA graph starts them all.
    """
    few = x.is_cuda and x.numel() <= 2**16
    return torch.compile(gradient, mode="reduce-overhead" if few else "default")


def fits_machine_code(model: Model, batches: Batches) -> bool:
    """Whether the loop by hand can be machine code (see `torchgd.compiled`)."""
    here = isinstance(batches.x, Tensor) and processes() == 1 and not why_not_compiled(batches)
    return here and is_linear_in_parameters(model, batches.x)


def numba_is_there() -> bool:
    """Whether the compiled loop's compiler is installed."""
    return importlib.util.find_spec("numba") is not None


def refuse_no_compiler(compiled_step: Callable[[], object]) -> None:
    """Refuse to compile where torch cannot."""
    try:
        compiled_step()
    except Exception as error:  # torch has as many errors here as ways to lack a compiler
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        way_out = "install a C++ compiler, for CUDA Triton, or do without"
        if isinstance(error, UnicodeError):  # torch reads its own files in the locale's encoding
            way_out = "set PYTHONUTF8=1, or do without"
        raise ValueError(
            f"compile: torch.compile fails on this machine ({reason}); {way_out}"
        ) from error


def refuse_in_chunks(asked: Configuration) -> None:
    """Refuse what needs all of the data in memory, or at once."""
    for name in ("shuffle", "standardize", "compile"):
        if getattr(asked, name):
            raise ValueError(f"{name} needs the data in memory, not in chunks; leave it out")
    if asked.lr == "auto":
        raise ValueError("lr auto needs the data in memory, not in chunks; give a number")


# A batch of N rows is cut into the ranks' shares, and these into chunks, so that each row lies in
# one chunk. The loss is a mean over N, and so a sum of sums,
#
#   loss     = (1/N) Σ_ranks Σ_chunks n·loss_chunk
#   ∂loss/∂w = (1/N) Σ_ranks Σ_chunks n·∂loss_chunk/∂w
#
# where n is the number of rows in the chunk. Each rank adds up its chunks, one all-reduce adds the
# ranks' sums, and what is left is to divide. (The mean of the ranks' own means gives each the
# weight 1/K, whatever its share: where K does not divide N, that is the gradient of another loss.)
def in_chunks(
    gradient: GradientSource,
    rows: int,
    on_rows: Callable[[int], object] = lambda count: None,
) -> GradientSource:
    """Return `gradient` of a batch, taken `rows` rows at a time, by all processes together.

    Of x and y, which may be columns that are read when they are asked for, a process takes its
    share alone; `on_rows` is told of each chunk how many rows it had. Added in another order, the
    sums differ from those of the whole batch by rounding: by N·ε of Σ|terms| at most.

    Raises, from the gradient:
        RankError: another process is gone.
    """

    def gradient_in_chunks(model: Model, x: Rows, y: Rows) -> Tensor:
        parameters = list(model.parameters())
        w = parameters[0]
        sums = torch.zeros(1 + len(parameters), dtype=w.dtype, device=w.device)
        first, last = share(len(x))
        for k in range(first, last, rows):
            part = slice(k, min(k + rows, last))
            xs, ys = (column[part].to(w.device, w.dtype) for column in (x, y))
            loss = gradient(model, xs, ys)
            terms = [loss, *(p.grad for p in parameters)]
            sums += len(xs) * torch.stack(terms)  # type: ignore[arg-type]
            on_rows(len(xs))
        loss, *gradients = add_over_ranks(sums) / len(x)
        for p, mean in zip(parameters, gradients, strict=True):
            p.grad = mean
        return loss

    return gradient_in_chunks
