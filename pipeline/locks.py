"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from data.errors import UsageError
from pipeline.artifacts import ensure_folder, writing

LOCK_FILE = ".lock"


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Exclusive use of a run folder for the length of a `with` block.

    The operating system holds the lock and lets it go when its process ends in whatever way, so the lock of a dead
    process is taken over without a guess. The file names its owner (pid, host) for the message that others get.
    Raises UsageError when a living process holds it, OutputError when the folder cannot be written.
    """
    path = ensure_folder(folder) / LOCK_FILE
    with writing(path):
        descriptor = _acquire(path)
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Locked file descriptor of the lock file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            raise UsageError(_busy_message(path))
        if _is_file_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last owner removed the file between our opening and locking it


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _busy_message(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        who = f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"The run folder {path.parent} is in use by {who}: wait until it has ended, or choose another folder with "
        "out=DIR."
    )


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
