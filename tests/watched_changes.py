"""Hearing of every change that this process makes in a folder, before it is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_listeners: list[tuple[str, Callable[[], None]]] = []
_busy: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _busy or not _listeners:
        return
    if event not in CHANGES and not (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES):
        return
    for folder, listen in _listeners:
        if str(arguments[0]).startswith(folder):
            _busy.append(True)
            try:
                listen()
            finally:
                _busy.pop()


@contextmanager
def before_changes(folder: Path, listen: Callable[[], None]) -> Iterator[None]:
    """Call `listen` before each file or folder below `folder` is made, opened for writing, renamed or removed.

    What it raises is raised in place of the change. Python keeps such a hook for good, so it is put on only once.
    """
    if not hasattr(sys, "_photodrag_hook"):
        sys.addaudithook(_hook)
        sys._photodrag_hook = True  # type: ignore[attr-defined]
    _listeners.append((str(folder), listen))
    try:
        yield
    finally:
        _listeners.pop()
