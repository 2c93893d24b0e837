"""Which environments give which bits: the reference trajectories' digests, kept in a file.

    python tests/digests.py

adds this torch's, with each of its CPU capabilities and with one and two threads, to
tests/data/digests.json. A case has as many paths there as there are different bits, each with its
digest and the environments that gave it; of each step there are 4 hexadecimal digits, so that
what differs has a first step.
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

from torchgd.experiment.configuration import Configuration
from torchgd.experiment.files import read_json, write_json
from torchgd.experiment.run import outcome_of

FILE = Path(__file__).parent / "data" / "digests.json"
DATA: dict[str, dict[str, Any]] = {
    "lesson": {},
    "parabola": {"model": "quadratic", "batch_size": "full", "epochs": 100},
    "cars": {"model": "quadratic", "data": "cars", "standardize": True, "lr": 0.01, "epochs": 4},
}
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
        return f"torch {version}, {torch.cuda.get_device_name(device)}"
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


def main() -> None:
    if sys.argv[1:] == ["here"]:
        print(json.dumps([environment(), {case: digests(case) for case in CASES}]))
        return
    for capability in ("default", "avx2", "avx512"):
        for threads in ("1", "2"):
            more = {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
            printed = subprocess.run(
                [sys.executable, __file__, "here"], env={**os.environ, **more},
                capture_output=True, encoding="utf-8", check=True,
            ).stdout  # fmt: skip
            name, found = json.loads(printed)
            add(FILE, name, {case: (digest, steps) for case, (digest, steps) in found.items()})
            print(name)


if __name__ == "__main__":
    main()
