"""What a studio tells the pages that watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """A live picture: `header` is JSON (number, step, points in photo pixels, the rectangle it covers), `content` an
    encoded picture with alpha."""

    header: Mapping[str, Any]
    content: bytes


class Watcher(Protocol):
    """One page. Its methods are called from threads that compute, and never wait."""

    @property
    def ready(self) -> bool:
        """Whether the page has shown the last frame, so that drawing another one is worth it."""
        ...

    def state(self, state: Mapping[str, Any]) -> None:
        """The whole state of the session that is watched, as JSON."""
        ...

    def frame(self, frame: Frame) -> None:
        """A live picture; a newer one replaces it when the page is slow."""
        ...

    def trouble(self, sentence: str, session: str | None) -> None:
        """Something asked for cannot be done."""
        ...
