"""A pretended accelerator, on which what is written for a GPU runs where there is none.

It is a PyTorch backend registered from Python. Each of its tensors holds one of the CPU's, with
which it is computed, to the CPU's own bits. As CUDA's do, they refuse to be mixed with the CPU's,
and what makes the host wait for the device is noted, with the line of torchgd that led to it: what
needs a value, or a number of values, that only the device knows, and each copy from one side to
the other but a `non_blocking` one to the device.

What it cannot see: how CUDA rounds, in which order it adds, and how long it takes; races; waits in
the CUDA code of a single operation, such as an eigenvalue's; the `foreach` and `fused` SGD, which
torch takes on CUDA alone; torch.compile and CUDA's graphs; pinned memory; NCCL and a second
device. A wait in autograd's own thread has no line, except one of torchgd's that runs there.

PyTorch has room for one accelerator, so that beside CUDA there is no pretended device; and autograd
looks for it at a process's first backward pass, before which this module must be imported. Tried
with torch 2.13 alone.
"""

import linecache
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import torchgd
from torchgd.experiment import parallel

NAME = "pretended"
CUDA = torch.cuda.device_count() > 0  # to ask is_available() takes CUDA from this process's forks
PACKAGE = str(Path(torchgd.__file__).with_name("_"))[:-1]
ATEN = torch.ops.aten
COPIES = {ATEN._to_copy, ATEN.copy_, ATEN._copy_from}
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
JOINS = {ATEN.cat, ATEN.stack}
# The host is told a value, or how many there are.
ASKS = {
    ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.equal, ATEN.allclose, ATEN.nonzero,
    ATEN.masked_select, ATEN._unique2, ATEN.unique_dim, ATEN.unique_consecutive, ATEN.bincount,
    ATEN.repeat_interleave,
}  # fmt: skip


class Wait(NamedTuple):
    """What the host waited for, and the line of torchgd that led to it."""

    operation: str
    line: str


class Host:
    """Keeps its `waits`; while it may not wait, to do so is an error."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.may_wait = True

    def wait(self, operation: str) -> None:
        self.waits.append(Wait(operation, _line_of_torchgd()))
        if not self.may_wait:
            raise RuntimeError(f"a synchronizing operation, {operation}: {self.waits[-1].line}")


HOST = Host()


def _line_of_torchgd() -> str:
    """The innermost line of torchgd that is being carried out; "" if none is."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        path, number = frame.f_code.co_filename, frame.f_lineno
        if path.startswith(PACKAGE):
            return f"{Path(path).name}:{number} {linecache.getline(path, number).strip()}"
        frame = frame.f_back
    return ""


class Pretended(Tensor):
    """A tensor on the pretended device; its numbers are in the one that it has `held`."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        made: Pretended = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})

    # Below is what goes past the dispatcher, to a memory that is not there.

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        HOST.wait("printing")
        return f"{self.held!r} on {self.device}"

    def tolist(self) -> Any:
        HOST.wait("tolist")
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = Pretended(self.held.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy._is_param = True  # type: ignore[attr-defined]
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol: Any) -> Any:
        HOST.wait("saving")
        return self.held.__reduce_ex__(protocol)  # to be loaded on the CPU

    @property
    def data(self) -> Any:
        return Pretended(self.held)

    @data.setter
    def data(self, new: Any) -> None:
        torch._C.TensorBase.data.__set__(self, new)  # type: ignore[attr-defined]
        self.held = new.held


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry out an operation of PyTorch in which the pretended device has a part."""
    op, tensors = func.overloadpacket, _tensors((args, kwargs))
    refuse_a_mix(op, args, tensors)
    if waits(op, args, kwargs):
        HOST.wait(str(op).removeprefix("aten."))
    device = kwargs.get("device")
    stays = any(map(_is_ours, tensors)) if device is None else _names_ours(device)
    if device is not None and stays:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if op is ATEN._copy_from:  # from, to
        func, args = ATEN.copy_.default, (args[1], args[0])
    shapes = [(t, t.held.shape) for t in tensors if isinstance(t, Pretended)]
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    for t, shape in shapes:
        if t.held.shape != shape:  # as where torch.eye makes room in an empty tensor
            t.data = Pretended(t.held)
    given = {id(_held(t)): t for t in tensors}  # and given back, by an operation in place

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) in given:
            return given.get(id(value), value)
        return Pretended(value) if stays else value

    return tree_map(outside, result)


def refuse_a_mix(op: Any, args: Any, tensors: list[Tensor]) -> None:
    """Refuse tensors of both sides, but for what CUDA takes from the CPU.

    That is one end of a copy, the places in an index, and a tensor of shape () that is neither
    written to nor joined with others.
    """
    if op in COPIES:
        return
    if op in INDEXES and _is_ours(args[0]):
        tensors = _tensors((args[0], *args[2:]))
    written = tensors[0] if op.__name__.endswith("_") else None
    for t in tensors:
        alike = _is_ours(t) or not (t.dim() > 0 or t is written or op in JOINS)
        if not alike and any(map(_is_ours, tensors)):
            raise RuntimeError(f"{op}: all tensors must be on one device, not {NAME}:0 and cpu")


def waits(op: Any, args: Any, kwargs: Any) -> bool:
    """Whether the operation makes the host wait."""
    if op in INDEXES:
        places = _tensors(args[1])
        asks = any(t.dtype in (torch.bool, torch.uint8) for t in places)  # how many are true?
        return _is_ours(args[0]) and (asks or not all(map(_is_ours, places)))
    if op not in COPIES:
        return op in ASKS
    if op is ATEN._to_copy:
        device, comes = kwargs.get("device"), _is_ours(args[0])
        goes = comes if device is None else _names_ours(device)
    else:
        comes, goes = map(_is_ours, args[:2] if op is ATEN._copy_from else args[1::-1])
    flies = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    return comes != goes and not (goes and flies)


def _tensors(values: Any) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _is_ours(t: Any) -> bool:
    return isinstance(t, Pretended)


def _names_ours(device: Any) -> bool:
    return torch.device(device).type == NAME


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def _register() -> list[torch.library.Library]:
    """Tell PyTorch the device's name, and what carries out operations there."""
    _setup_privateuseone_for_python_backend(NAME)
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
    # torch.tensor(1.0, device=…) ends in this one, for which PyTorch calls no fallback.
    copy = partial(run, ATEN._copy_from.default)
    aten.impl("_copy_from", lambda *args: copy(args, {}), "PrivateUse1")
    return [every, aten]


# What is registered lasts as long as these.
LIBRARIES = [] if CUDA else _register()


def find_device(name: str, samples: float = 1) -> torch.device:
    """What `parallel.find_device` would find, were the pretended device auto's choice always."""
    return torch.device(NAME) if name in ("auto", NAME) else parallel.find_device(name, samples)
