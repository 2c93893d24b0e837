"""Fuzz a reader by coverage, where atheris is installed: `python tests/fuzz.py csv FOLDER`.

FOLDER holds files to start from, and may be left out; libFuzzer's options follow, as -runs=100000.

Whatever bytes a reader is given, it returns or refuses them in one line; any other exception, a
hang or a gigabyte of memory is a finding. The same readers meet hypothesis in the test suite.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import atheris

with atheris.instrument_imports(include=["torchgd"]):
    from torchgd.experiment.checkpoint import Checkpoint
    from torchgd.experiment.sources import load
    from torchgd.models import Quadratic
    from torchgd.proof.answers import parse
    from torchgd.proof.symbols import derive

FOLDER = Path(tempfile.mkdtemp())
DERIVATION = derive(Quadratic())


def written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


READERS = {
    "csv": lambda data: load(str(written("any.csv", data))),
    "npy": lambda data: load(str(written("any.npy", data))),
    "checkpoint": lambda data: Checkpoint.load(
        written("checkpoint.pt", data + hashlib.sha256(data).digest())
    ),
    "answer": lambda data: parse(data.decode(errors="replace"), DERIVATION),
}


def test_one(data: bytes) -> None:
    try:
        READERS[KIND](data)
    except ValueError as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error


if __name__ == "__main__":
    KIND = sys.argv.pop(1)
    atheris.Setup([*sys.argv, "-rss_limit_mb=3000", "-timeout=10"], test_one)
    atheris.Fuzz()
