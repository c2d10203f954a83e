"""What pages see of an edit while it runs: a picture whenever one of them is ready for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from editing.drag import DragStep
from pipeline.edits import EditStep
from pipeline.sitting import Sitting
from pipeline.studio.watching import Frame, Watcher
from pipeline.view import webp

MOST_SHARE = 0.6
"""Of the time of a drag, for drawing what it looks like."""
PROGRESS_EVERY_S = 0.1
NOTHING = np.zeros((1, 1, 4), np.uint8)
"""The picture of a step that changes nothing yet; its points and its number are told all the same."""


@dataclass(eq=False)
class Progress:
    """Passes on how far some work is, a few times a second, and its warnings."""

    tell: Callable[[dict[str, Any]], None]
    warned: Callable[[str], None]
    _told_at: float = 0.0

    def progress(self, stage: str, step: int, total: int, seconds_left: float | None) -> None:
        """A step of a stage."""
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_EVERY_S or step == total:
            self._told_at = now
            self.tell({"stage": stage, "step": step, "total": total, "seconds_left": seconds_left})

    def dragged(self, step: DragStep) -> None:
        """Steps of drags are shown by `Live`."""


@dataclass(eq=False)
class Live:
    """The pictures of one running edit.

    began: when it was asked for, in `time.monotonic` seconds; stepping: whether the person makes single steps, each of
    which is drawn.
    """

    session: str
    sitting: Sitting
    row: Sequence[EditStep]
    began: float
    watchers: Callable[[], list[Watcher]]
    next_number: Callable[[], int]
    progress_to: Progress
    stepping: Callable[[], bool]
    steps: int = 0
    drawn: int = 0
    points: list[list[float]] = field(default_factory=list)
    _free_at: float = 0.0

    def progress(self, stage: str, step: int, total: int, seconds_left: float | None) -> None:
        """A step of a stage."""
        self.progress_to.progress(stage, step, total, seconds_left)

    def warned(self, line: str) -> None:
        """Something the person should know."""
        self.progress_to.warned(line)

    def dragged(self, step: DragStep) -> None:
        """A step of the drag: drawn when a page has shown the last picture, and not too often."""
        self.steps += 1
        self.points = self.sitting.to_photo(step.points.double().numpy()).round(2).tolist()
        now = time.monotonic()
        stepping = self.stepping()
        ready = [watcher for watcher in self.watchers() if stepping or watcher.ready]
        if not ready or (now < self._free_at and not stepping):
            return
        frame = self._frame(step, now)
        for watcher in ready:
            watcher.frame(frame)
        cost = time.monotonic() - now
        self._free_at = now + cost / MOST_SHARE

    def _frame(self, step: DragStep, now: float) -> Frame:
        assert step.draw is not None, "a drag's steps can be drawn"
        patch = self.sitting.live_patch(step.draw(), self.row)
        x, y, width, height = (-0.5, -0.5, 1.0, 1.0) if patch is None else patch.rect
        content = webp(NOTHING if patch is None else patch.rgba)
        self.drawn += 1
        header = {
            "is": "frame",
            "session": self.session,
            "number": self.next_number(),
            "step": self.steps,
            "total": step.total,
            "distance_px": round(step.distance_px * self.sitting.photo_px_per_crop_px, 3),
            "points": self.points,
            "x": x,
            "y": y,
            "w": width,
            "h": height,
            "type": "image/webp",
            "first": self.drawn == 1,
            "made_ms": round(1000 * (time.monotonic() - now), 1),
            "since_start_ms": round(1000 * (time.monotonic() - self.began), 1),
        }
        return Frame(header, content)


def thinned(tracks: np.ndarray, most: int = 32) -> np.ndarray:
    """Ways [T, N, 2] of handles with at most so many moments, the first and the last among them."""
    if len(tracks) <= most:
        return tracks
    return np.asarray(tracks[np.linspace(0, len(tracks) - 1, most).round().astype(int)])
