"""Runs a script in a process that lacks what Windows lacks, and refuses what Windows refuses.

    python tests/windows.py SCRIPT [words of the script] [then SCRIPT [words] …]

Hidden are the modules, signals and functions that POSIX alone has. A directory cannot be opened, a
file that is open cannot be replaced or removed, and what is open for reading alone cannot be
synchronised. This is no Windows: its paths, its consoles and its file locks are not pretended, and
libraries are those of this system.
"""

import errno
import getpass
import importlib
import itertools
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  # takes this system's own lock, as it would take Windows's

MODULES = ("fcntl", "grp", "pwd", "pty", "resource", "termios", "tty")
SIGNALS = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGUSR1")
FUNCTIONS = (
    "fork", "forkpty", "getuid", "geteuid", "mkfifo", "posix_fallocate", "O_DIRECTORY", "O_NOFOLLOW"
)  # fmt: skip
DESCRIPTORS = Path("/proc/self/fd")
real_fsync, real_open, real_replace, real_unlink = os.fsync, os.open, os.replace, os.unlink


def refuse_open_file(path: Any) -> None:
    """A file that this process has open is in use, as Windows says."""
    place = os.path.realpath(path)
    for descriptor in DESCRIPTORS.iterdir():
        if os.path.realpath(descriptor) == place:
            raise PermissionError(errno.EACCES, "it is open and so cannot be replaced", str(path))


def replace(source: Any, target: Any) -> None:
    refuse_open_file(source)
    refuse_open_file(target)
    real_replace(source, target)


def unlink(path: Any, **options: Any) -> None:
    # What filelock probes there its lock for Windows lacks; temporary files there go by themselves.
    if not Path(path).name.startswith((".filelock-probe-", tempfile.gettempprefix())):
        refuse_open_file(path)
    real_unlink(path, **options)


def open_file(path: Any, flags: int, *mode: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "a directory cannot be opened", str(path))
    return real_open(path, flags, *mode, **options)


def fsync(descriptor: int) -> None:
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    flags = int(text.partition("flags:")[2].split()[0], 8)
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "open for reading alone")
    real_fsync(descriptor)


def pretend() -> None:
    # From here on there is no pwd that would tell.
    os.environ.update(USERNAME=getpass.getuser(), HOME=str(Path.home()))
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # an import then fails
    for name in SIGNALS:
        delattr(signal, name)
    for name in FUNCTIONS:
        delattr(os, name)
    os.replace, os.unlink, os.open, os.fsync = replace, unlink, open_file, fsync  # type: ignore[assignment]


if __name__ == "__main__":
    pretend()
    for joint, words in itertools.groupby(sys.argv[1:], lambda word: word == "then"):
        script, *arguments = words
        if not joint and (status := importlib.import_module(script).main(arguments)):
            sys.exit(status)
