"""Files read with care, and written whole or not at all."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def regular(path: Path) -> Path:
    """Return `path`, of a file that can be read to its end.

    Raises:
        ValueError: there is none, or it is a directory, a pipe or a device.
    """
    if not path.is_file():
        what = "is no regular file" if os.path.lexists(path) else "is not there"
        raise ValueError(f"{path} {what}; give a file")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file that takes the place of `path` once written, to the disk; it vanishes if not."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        _synchronize(temporary)
        os.replace(temporary, path)
        _synchronize(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _synchronize(path: Path) -> None:
    """Wait until the disk has a file's contents, or a directory's names."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no directory, and keeps its names by itself.
    # Windows synchronises only what is open for writing, and no system opens a directory so.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON, all of it or nothing; JSON has no NaN or infinity, so null."""
    finite = {key: _finite(value) for key, value in content.items()}
    text = json.dumps(finite, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ValueError: there is no such file, or it holds something else.
        OSError: it cannot be read.
    """
    regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); run it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no object); run it again")
    return content
