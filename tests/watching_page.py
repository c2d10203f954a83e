"""A page that only listens, for tests of the studio's desk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.studio.watching import Frame

PATIENCE_S = 40.0


class ListeningPage:
    """Keeps what a desk tells it; `ready` as a test wants it."""

    def __init__(self, ready: bool = True) -> None:
        self.ready = ready
        self.states: list[Mapping[str, Any]] = []
        self.frames: list[Frame] = []
        self.troubles: list[str] = []
        self._told = threading.Condition()

    def state(self, state: Mapping[str, Any]) -> None:
        with self._told:
            self.states.append(state)
            self._told.notify_all()

    def frame(self, frame: Frame) -> None:
        with self._told:
            self.frames.append(frame)
            self._told.notify_all()

    def trouble(self, sentence: str, session: str | None) -> None:
        with self._told:
            self.troubles.append(sentence)
            self._told.notify_all()

    def until(self, holds: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """Wait for a state of which something holds, and return it."""
        with self._told:
            arrived = self._told.wait_for(lambda: bool(self.states) and holds(self.states[-1]), PATIENCE_S)
            assert arrived, f"the last state is {self.states[-1] if self.states else None}"
            return self.states[-1]

    def until_frames(self, count: int) -> None:
        """Wait for so many live pictures."""
        with self._told:
            assert self._told.wait_for(lambda: len(self.frames) >= count, PATIENCE_S)

    def rest(self, at: int | None = None) -> Mapping[str, Any]:
        """Wait until nothing runs, with so many edits if that is said, and the patch of them is there."""
        return self.until(
            lambda state: (
                state["phase"] in ("ready", "choosing", "failed")
                and state["progress"] is None
                and at in (None, state["at"])
                and (state["photo"] is not None or state["phase"] == "failed")
                and (state["at"] == 0 or state["patch"] is not None or state["failed"])
            )
        )
