"""What a GPU does with torchgd, in one command of at most 8 minutes:

    python tests/on_device.py [FOLDER]

The folder, runs/on-device if none is given, then holds on_device.json, all that was found, and
on_device.txt, a page to read; beside them, of a GPU, its digests.json and benchmark.json. The exit
status is 1 if something is not as expected: that a gradient has the same bits by hand and by
autograd, once and again, and that the host waits for nothing but the blocks of recorded steps.

On a machine without a GPU it looks at the pretended device (see tests/pretend.py), and says what
it could not see there.
"""

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import device_findings as look
import pretend
from device_findings import DEVICE, Finding, Findings
from helpers import ENVIRONMENT, ROOT

from torchgd.experiment.files import write_json
from torchgd.experiment.folder import environment

BEGAN, LIMIT = time.monotonic(), 480.0
# What the pretended device cannot show, beside the sections that are left out there.
UNSEEN = "how CUDA rounds, in which order it adds, and how it stages a copy; races; NCCL"


def process(most: float, *words: str) -> Findings:
    """Run a Python process, for so many seconds at most; keep the end of what it prints."""
    most, what = max(1.0, min(most, left())), " ".join(words)
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=ENVIRONMENT, timeout=most, encoding="utf-8",
            capture_output=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        yield Finding(what, f"not done in {most:.0f} s", False)
        return
    good, lines = done.returncode == 0, (done.stdout + done.stderr).splitlines()
    yield Finding(what, "\n".join(lines[-1 if good else -30 :]), good)


def left() -> float:
    """How many of the seconds are left."""
    return LIMIT - (time.monotonic() - BEGAN)


def sections(folder: Path) -> Iterator[tuple[str, Callable[[], Findings], str]]:
    """Yield each one's name, what finds it, and why the pretended device is not asked for it."""
    which = ("-m", "cuda and not slow and not large") if pretend.CUDA else ("-k", "pretend")
    times = "scripts/benchmark.py", "--device", "cuda", "--quick", "--json"
    yield "rounding", look.rounding, ""
    yield "bits", look.same_gradients, ""
    yield "waits", look.waits, ""
    yield "compiled", look.compiled_gradients, "torch.compile and CUDA's graphs"
    yield "times", look.step_times, "how long a step takes, and from which size a GPU is faster"
    yield "bandwidth", look.bandwidth, "how near a step of the full batch comes to a copy"
    yield "digests", lambda: look.own_digests(folder), "a GPU's digests"
    yield "tests", lambda: process(240.0, "-m", "pytest", "-q", *which), ""
    yield "benchmark", lambda: process(150.0, *times, f"{folder}/benchmark.json"), "the benchmark"


def found_in(name: str, section: Callable[[], Findings]) -> Findings:
    """What a section finds; an error is a finding, too, after which the next one may do better."""
    if left() <= 0:
        yield Finding(name, "left out: the time is over", False)
        return
    try:
        yield from section()
    except Exception:  # whatever a device that was never tried may raise
        yield Finding(name, traceback.format_exc(limit=-3), False)


def write(folder: Path, found: dict[str, list[Finding]], unseen: list[str]) -> None:
    """Write both files."""
    where = {"device": DEVICE, **environment(DEVICE), "seconds": round(LIMIT - left())}
    content = {name: [asdict(finding) for finding in rows] for name, rows in found.items()}
    write_json(folder / "on_device.json", {**where, "found": content, "unseen": unseen})
    rows = [finding for rows in found.values() for finding in rows]
    held = [finding.good for finding in rows if finding.good is not None]
    page = [", ".join(f"{name} {value}" for name, value in where.items()), *map(str, rows)]
    page += [f"{held.count(True)} of {len(held)} are as expected."]
    page += [f"Not to be seen on a pretended device: {'; '.join(unseen)}."] if unseen else []
    (folder / "on_device.txt").write_text("\n".join(page) + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    """Look at all, and write after each section: what ends this one does not take the others."""
    folder = (Path(argv[0]) if argv else ROOT / "runs" / "on-device").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Finding]] = {}
    unseen = [] if pretend.CUDA else [UNSEEN]
    for name, section, cannot in sections(folder):
        if cannot and not pretend.CUDA:
            unseen.append(cannot)
            continue
        print(name, file=sys.stderr, flush=True)
        found[name] = list(found_in(name, section))
        write(folder, found, unseen)
    write(folder, found, unseen)
    print((folder / "on_device.txt").read_text(encoding="utf-8"), end="")
    return int(any(finding.good is False for rows in found.values() for finding in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
