"""Which right backward passes are called wrong, and which wrong ones are passed over?

    python tests/compare_backwards.py

counts both over the sixty of tests/backwards.py, for `check_backward` and for
`torch.autograd.gradcheck`, which is asked as its users ask it, at the inputs, in its default and
in its fast mode.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from backwards import CASES, Case
from torch import nn

from torchgd import check_backward


def by_us(case: Case) -> bool:
    return bool(check_backward(case.function, *case.inputs, **case.options))


def by_gradcheck(case: Case, fast_mode: bool) -> bool:
    function: Any = case.function
    if isinstance(function, nn.Module):
        function = deepcopy(function).double()
    inputs = [x.double().requires_grad_() if x.is_floating_point() else x for x in (
        t.detach().clone() for t in case.inputs)]  # fmt: skip
    try:
        return bool(torch.autograd.gradcheck(function, inputs, fast_mode=fast_mode))
    except RuntimeError:  # so it says no
        return False


def count(name: str, passes: Callable[[Case], bool]) -> None:
    """Print how often a checker errs, where, and how long it takes."""
    said, times = {}, []
    for case in CASES:
        start = time.process_time()
        said[case.name] = passes(case)
        times.append(time.process_time() - start)
    alarms = [case.name for case in CASES if case.fault is None and not said[case.name]]
    misses = [case.name for case in CASES if case.fault is not None and said[case.name]]
    print(f"{name}: {len(alarms)} false alarms, {len(misses)} misses, {sum(times):.1f} s, "
          f"{max(times):.1f} s at most")  # fmt: skip
    for what, names in (("false alarms", alarms), ("misses", misses)):
        print(f"    {what}: {', '.join(names)}" * bool(names), end="\n" * bool(names))


def main() -> None:
    print(f"{sum(case.fault is None for case in CASES)} right, "
          f"{sum(case.fault is not None for case in CASES)} wrong")  # fmt: skip
    count("check_backward", by_us)
    for fast_mode in (False, True):
        mode = "fast_mode=True" if fast_mode else "default"
        count(f"torch.autograd.gradcheck, {mode}", partial(by_gradcheck, fast_mode=fast_mode))


if __name__ == "__main__":
    main()
