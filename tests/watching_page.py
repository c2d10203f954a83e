"""A page that only listens, for tests of the studio's desk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.fake_desk import Recorder

PATIENCE_S = 40.0


class ListeningPage(Recorder):
    """Keeps what a desk tells it; `ready` as a test wants it."""

    def until(self, holds: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """Wait for a state of which something holds, and return it."""
        return self.wait_for(holds, PATIENCE_S)

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
