"""Which environments give which bits: the reference trajectories' digests, kept in a file.

    python tests/digests.py

adds this torch's to tests/data/digests.json: with each CPU capability of this machine, with one and
two threads, and on CUDA where there is a device. A case has as many paths there as there are
different bits, each with its digest and the environments that gave it; of each step there are 4
hexadecimal digits, so that what differs has a first step.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from torchgd.experiment import folder
from torchgd.experiment.configuration import Configuration
from torchgd.experiment.files import read_json, write_json
from torchgd.experiment.run import outcome_of

FILE = Path(__file__).parent / "data" / "digests.json"
DATA: dict[str, dict[str, Any]] = {
    "lesson": {},
    "parabola": {"model": "quadratic", "batch_size": "full", "epochs": 100},
    "cars": {"model": "quadratic", "data": "cars", "standardize": True, "lr": 0.01, "epochs": 4},
    "shuffled": {
        "model": "quadratic", "data": "cars", "standardize": True, "lr": 0.01, "epochs": 4,
        "batch_size": 8, "shuffle": True, "seed": 1,
    },
    # So many samples that two threads share a sum.
    "parallel": {"data": "synthetic:70000", "batch_size": "full", "lr": 0.3, "epochs": 8},
    # −0 − 0·g is −0 where g is not negative.
    "minus zero": {"initial": {"w": -0.0}, "lr": 0.0, "maximize": True, "epochs": 2},
}  # fmt: skip
CAPABILITIES = ["default", "avx2", "avx512"]  # of an x86, each of which includes those before
CASES = {
    f"{name}, {dtype}{', momentum 0.9' * momentum}": {
        **asked, "dtype": dtype, "momentum": 0.9 * momentum, "device": "cpu"
    }
    for name, asked in DATA.items()
    for dtype in ("float64", "float32")
    for momentum in (False, True)
}  # fmt: skip


def environment(device: str = "cpu") -> str:
    """What decides the bits of a sum: torch, the instructions that it takes, and its threads."""
    version = torch.__version__.partition("+")[0]
    if device.startswith("cuda"):
        return f"torch {version}, {folder.environment(device)['device_name']}"
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"torch {version}, {platform.machine()}, {capability}, threads: {threads}"


def digests(case: str, device: str = "cpu") -> tuple[str, str]:
    """Return the digest of a case's whole path by hand, and 4 hexadecimal digits of each step."""
    table = outcome_of(Configuration(**{**CASES[case], "device": device})).trajectory.table
    whole, steps = hashlib.sha256(), ""
    for row in table.numpy():
        content = row.astype(row.dtype.newbyteorder("<")).tobytes()
        whole.update(content)
        steps += hashlib.sha256(content).hexdigest()[:4]
    return whole.hexdigest()[:16], steps


def add(file: Path, name: str, found: dict[str, tuple[str, str]]) -> None:
    """Add what an environment gave."""
    known = read_json(file) if file.exists() else {}
    for case, (digest, steps) in found.items():
        paths = known.setdefault(case, {})
        for path in paths.values():
            path["where"] = [where for where in path["where"] if where != name]
        paths.setdefault(digest, {"where": [], "steps": steps})["where"].append(name)
        known[case] = {digest: path for digest, path in paths.items() if path["where"]}
    write_json(file, known)


def capabilities() -> list[str]:
    """Those of this machine, from which torch can be asked for one by ATEN_CPU_CAPABILITY."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    return CAPABILITIES[: CAPABILITIES.index(own) + 1] if own in CAPABILITIES else [own]


def main() -> None:
    if sys.argv[1:] == ["here"]:
        print(json.dumps([environment(), {case: digests(case) for case in CASES}]))
        return
    for capability in capabilities():
        for threads in ("1", "2"):
            more = {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
            printed = subprocess.run(
                [sys.executable, __file__, "here"], env={**os.environ, **more},
                capture_output=True, encoding="utf-8", check=True,
            ).stdout  # fmt: skip
            name, found = json.loads(printed)
            add(FILE, name, {case: (digest, steps) for case, (digest, steps) in found.items()})
            print(name)
    if torch.cuda.device_count():
        add(FILE, environment("cuda"), {case: digests(case, "cuda") for case in CASES})


if __name__ == "__main__":
    main()
