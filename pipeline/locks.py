"""One process at a time in a run folder, or at a file of the model cache.

Imports no torch: downloads, which need none, lock too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from data.errors import UsageError
from pipeline.claims import ClaimedError, claim

LOCK_FILE = ".lock"
POLL_S = 0.05
NAMING_S = 1.0
"""How long a process that holds a lock and has not yet written its name into it is waited for."""
NO_LOCKS = frozenset(
    getattr(errno, name) for name in ("ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS") if hasattr(errno, name)
)
"""What systems answer whose disk cannot lock files."""


class LockedError(Exception):
    """A living process holds the lock; the message names it."""


class RunInUseError(UsageError):
    """A living process works in the run folder that this one needs."""


@contextlib.contextmanager
def file_lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Exclusive use of what the lock file `path` stands for, for the length of a `with` block.

    The operating system holds the lock and lets it go when its process ends in whatever way, so the lock of a dead
    process is taken over without a guess. The file names its owner (pid, host) for the message that others get. On a
    disk that cannot lock files a claim takes its place (`pipeline.claims`).
    Raises LockedError when a living process still holds it after `wait_s`, OSError when it cannot be written.
    """
    deadline = time.monotonic() + wait_s
    try:
        descriptor = _acquire(path, deadline)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        with contextlib.ExitStack() as held:
            _enter_claim(held, path, deadline)
            yield
        return
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:  # whatever stops the removal: a descriptor left open would hold the lock
            os.close(descriptor)


@contextlib.contextmanager
def run_lock(folder: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Exclusive use of a run folder for the length of a `with` block.

    Raises RunInUseError when a living process still holds it after `wait_s` seconds, OutputError when the folder cannot
    be written.
    """
    from pipeline.artifacts import ensure_folder, writing

    path = ensure_folder(folder) / LOCK_FILE
    with contextlib.ExitStack() as held:
        with writing(path):
            try:
                held.enter_context(file_lock(path, wait_s))
            except LockedError as error:
                raise RunInUseError(
                    f"The run folder {folder} is in use by {error}: wait until it has ended, or choose another folder "
                    "with out=DIR."
                ) from error
        yield


def _enter_claim(held: contextlib.ExitStack, path: Path, deadline: float) -> None:
    while True:
        try:
            held.enter_context(claim(path))
        except ClaimedError as error:
            if time.monotonic() >= deadline:
                raise LockedError(str(error)) from error
            time.sleep(POLL_S)
        else:
            return


def _acquire(path: Path, deadline: float) -> int:
    """Locked file descriptor of the lock file; asks again until `deadline`, in seconds of the monotonic clock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _lock(descriptor)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if not locked:
            os.close(descriptor)
            late_s = time.monotonic() - deadline
            if late_s >= 0 and ((owner := _owner(path)) or late_s >= NAMING_S):
                raise LockedError(owner or "another process")
            time.sleep(POLL_S)
        elif _is_file_at(path, descriptor):
            return descriptor
        else:
            os.close(descriptor)  # its last owner removed the file between our opening and locking it


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str | None:
    """Who holds the lock; None while its name is not in the file."""
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


if sys.platform == "win32":
    import msvcrt

    _FAR_BYTE = 1 << 30  # beyond the text, because Windows bars others from reading locked bytes

    def _lock(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
