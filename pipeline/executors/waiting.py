"""Items of a batch on their way to a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pipeline.executors.protocol import WorkItem


class Waiting:
    """Items on their way to a worker: those to be tried again first, then the stream, at most one ahead."""

    def __init__(self, items: Iterable[WorkItem]) -> None:
        self._items = iter(items)
        self._ready: deque[tuple[WorkItem, int]] = deque()

    def more(self) -> bool:
        """Whether there is an item to give out; one is pulled from the stream when none waits."""
        if not self._ready:
            item = next(self._items, None)
            if item is not None:
                self._ready.append((item, 1))
        return bool(self._ready)

    def next(self) -> tuple[WorkItem, int]:
        """The next item, and which attempt at it this is."""
        return self._ready.popleft()

    def again(self, item: WorkItem, attempt: int) -> None:
        """Put an item first."""
        self._ready.appendleft((item, attempt))
