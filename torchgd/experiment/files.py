"""Files read with care and written whole or not at all; new directories, and their locks."""

import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# What Windows allows in no name, at a name's end, or, of its devices' names, as a name's stem.
UNPORTABLE = re.compile(r'[\\/:*?"<>|]|[. ]$|^(CON|PRN|AUX|NUL|COM\d|LPT\d)(?=\.|$)', re.I)
# A link, or a pipe that nobody writes to, must not be opened in the place of a file.
CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def printable(text: str) -> str:
    """Return a text as one line that no terminal takes for more than a text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name this file in an error that names none: the system does so where it opens one alone."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def read_file(path: Path) -> bytes:
    """Return what a regular file holds; no link is followed.

    Raises:
        ValueError: there is none, or it is a link, a directory, a pipe or a device, or larger than
            the memory.
        OSError: it cannot be read.
    """
    what = "is no regular file" if os.path.lexists(path) else "is not there"
    if path.is_file() and not path.is_symlink():
        with _named(path), open(os.open(path, os.O_RDONLY | CAREFULLY), "rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                try:
                    return file.read()
                except MemoryError:  # it may be one hole
                    what = f"has {found.st_size} bytes, which the memory does not hold"
    raise ValueError(f"{path} {what}; give a file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file that replaces `path` once it is on the disk; it is removed if that fails."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o666))
        with _named(path):
            yield temporary
        _synchronize(temporary)
        os.replace(temporary, path)
        _synchronize(path.parent)
    except OSError as error:
        if error.filename is not None and os.fsdecode(error.filename) == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _synchronize(path: Path) -> None:
    """Wait until the disk has a file's contents, or a directory's names."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no directory, and keeps its names by itself.
    # Windows synchronises only what is open for writing, and no system opens a directory so.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    with _named(path):
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
    content = read_file(path)
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); run it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (it holds no object); run it again")
    return found


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from a run; the system unlocks it when this process ends.

    Raises:
        ValueError: another process has it.
        OSError: it cannot be locked, as where a file system knows no locks.
    """
    lock = FileLock(directory / ".lock")
    try:
        with _named(directory / ".lock"):
            lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"{directory}: another process is writing this run; wait for its end or stop it"
        ) from None
    try:
        yield
    finally:
        with _named(directory / ".lock"):
            lock.release()


def new_directory(
    parent: Path, name: str | None, default: str, files: Mapping[str, dict[str, Any]]
) -> Path:
    """Create and return parent/name, or parent/default: never one that holds anything.

    These JSON files are in it from the first moment on: it is made under another name and then
    renamed, so that a process that is killed leaves nothing by its name. Where `default` is taken
    it becomes default-TIME, and where two runs take the same time default-TIME-2, and so on.

    Raises:
        ValueError: `name` exists, or is no directory's name, or the path is not UTF-8.
        OSError: the directory cannot be created.
    """
    path = os.fspath(parent.absolute() / (name or default))
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{path!a}: TensorBoard needs names that are UTF-8; rename it, or set PYTHONUTF8=1"
        ) from None
    if name is not None:
        _refuse_no_name(name)
    parent.mkdir(parents=True, exist_ok=True)
    stem = name or UNPORTABLE.sub("_", default)
    timed = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    beside = parent / f".{stem}.{os.getpid()}"
    try:
        for inside, content in files.items():
            (beside / inside).parent.mkdir(parents=True, exist_ok=True)
            write_json(beside / inside, content)
        for folder, directories, _ in os.walk(beside):
            if directories:  # the others are on the disk since a file was written there
                _synchronize(Path(folder))
        if name is not None and not _renamed(beside, parent / name):
            raise ValueError(f"{parent / name} exists, and no run is overwritten; name another")
        candidates = itertools.chain([stem, timed], (f"{timed}-{n}" for n in itertools.count(2)))
        return parent / (name or next(c for c in candidates if _renamed(beside, parent / c)))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _refuse_no_name(name: str) -> None:
    """Refuse what is no directory's name on Linux, macOS and Windows alike."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise ValueError(f"name {name!r}: give a directory's name alone; --log-dir is its parent")
    if UNPORTABLE.search(name):
        raise ValueError(
            f"name {name!r}: Windows has no such name, and a run can be taken anywhere; leave out "
            '\\ : * ? " < > |, a point or a space at its end, and devices such as NUL'
        )


def _renamed(directory: Path, to: Path) -> bool:
    """Rename a directory; return False if something is there, but for an empty directory."""
    try:
        os.rename(directory, to)
    except OSError:
        if os.path.lexists(to):
            return False
        raise
    _synchronize(to.parent)
    return True
