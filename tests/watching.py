"""What Python does while a file is read, told by its audit events; and a limit on the time that it takes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

FORBIDDEN = (
    *("code.__new__", "compile", "ctypes.", "exec", "ftplib.", "function.__new__", "http.client.", "import"),
    *("marshal.", "object.__delattr__", "object.__setattr__", "os.", "pickle.find_class", "pty.", "shutil.", "signal."),
    *("smtplib.", "socket.", "sqlite3.", "subprocess.", "tempfile.", "urllib.", "webbrowser."),
)
"""Beginnings of the events that reading a file has no reason for. An import is told of only when it is a first one."""

HARMLESS_OS = ("os.fwalk", "os.listdir", "os.scandir", "os.walk")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    """The file that is read now, if any, and what happened that must not."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.seen: list[str] = []
        self.installed = False

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """Python's hook: called for every event of the whole process, for ever."""
        if self.path is None:
            return
        if event == "open":
            self._hear_open(*args)
        elif event.startswith(FORBIDDEN) and event not in HARMLESS_OS:
            self.seen.append(f"{event} {args!r:.200}")

    def _hear_open(self, path: Any, mode: Any, flags: int) -> None:
        """Only the file itself may be opened, and only to read; a number is a file that is open already."""
        own = isinstance(path, int) or os.fspath(path) in (str(self.path), os.fsencode(str(self.path)))
        if flags & WRITING or not own:
            self.seen.append(f"open {path!r} {mode!r} {flags:#x}")


_WATCH = _Watch()


@contextlib.contextmanager
def watching(path: Path) -> Iterator[list[str]]:
    """A list that fills with what happened that must not while `path` is read."""
    if not _WATCH.installed:
        sys.addaudithook(_WATCH.hear)
        _WATCH.installed = True
    seen = _WATCH.seen = []
    _WATCH.path = path
    try:
        yield seen
    finally:
        _WATCH.path = None


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """TimeoutError when what is inside takes longer; whatever holds Python's lock all the time is not interrupted."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
