"""Who watches which session."""

from __future__ import annotations

import threading
from typing import Any

from pipeline.studio.session import Session
from pipeline.studio.watching import Watcher


class Audience:
    """The pages that watch; each watches one session at a time."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._watchers: dict[Watcher, str] = {}

    def watch(self, watcher: Watcher, session: Session) -> None:
        """Tell this page about the session from now on, beginning with what it is now."""
        with self._lock:
            self._watchers[watcher] = session.record.id
        watcher.state(session.state())

    def leave(self, watcher: Watcher) -> None:
        """The page has gone."""
        with self._lock:
            self._watchers.pop(watcher, None)

    def of(self, session: Session) -> list[Watcher]:
        """The pages that watch a session."""
        with self._lock:
            return [watcher for watcher, name in self._watchers.items() if name == session.record.id]

    def tell(self, session: Session) -> None:
        """Tell them what the session is now."""
        watchers = self.of(session)
        if watchers:
            state = session.state()
            for watcher in watchers:
                watcher.state(state)

    def progress(self, session: Session, progress: dict[str, Any]) -> None:
        """Tell them how far its work is."""
        with self._lock:
            session.progress = progress
        self.tell(session)
