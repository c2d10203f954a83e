"""What the web side of a studio needs of its desk; `pipeline.studio.desk.Desk` has these methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pipeline.studio.messages import Request
from pipeline.studio.watching import Watcher

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in photo pixels: the right column and the lowest row are no longer in it."""


class DeskType(Protocol):
    """Safe to call from any thread. PhotodragError is for the person: one sentence."""

    def hello(self) -> dict[str, Any]:
        """What a page is told first."""
        ...

    def add_photo(self, path: Path, name: str) -> str:
        """Take over a received file; its id."""
        ...

    def open_file(self, path: Path) -> str:
        """The session of a photo that stays where it is."""
        ...

    def do(self, request: Request, watcher: Watcher) -> None:
        """Begin what a page asks; what comes of it is told to the watcher."""
        ...

    def leave(self, watcher: Watcher) -> None:
        """The page of this watcher has gone."""
        ...

    def picture(self, id: str) -> tuple[bytes, str] | None:
        """Content and media type of a picture that never changes."""
        ...

    def region(self, session: str, which: str, box: Box, scale: float) -> tuple[bytes, str]:
        """A part of the original or of the result at full resolution."""
        ...

    def download(self, id: str) -> tuple[Path, str] | None:
        """A file, and the name to save it under."""
        ...

    def close(self) -> None:
        """Stop what is computed; sessions stay on the disk."""
        ...
