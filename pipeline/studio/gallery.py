"""The pictures that pages fetch: each under a name that nobody guesses, made when it is first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from pipeline.studio.record import new_id

Picture = tuple[bytes, str]
"""An encoded picture and its media type."""

MOST_BYTES = 128_000_000
MOST_NAMES = 4000


class Gallery:
    """Pictures by name; the content of those that were not asked for lately is made anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._makers: OrderedDict[str, Callable[[], Picture]] = OrderedDict()
        self._made: OrderedDict[str, Picture] = OrderedDict()

    def hang(self, make: Callable[[], Picture]) -> str:
        """The address of a picture that `make` gives whenever it is needed."""
        name = new_id()
        with self._lock:
            self._makers[name] = make
            while len(self._makers) > MOST_NAMES:
                self._made.pop(self._makers.popitem(last=False)[0], None)
        return f"/pictures/{name}"

    def take_down(self, address: str) -> None:
        """Forget a picture, and what it holds in memory."""
        name = address.rpartition("/")[2]
        with self._lock:
            self._makers.pop(name, None)
            self._made.pop(name, None)

    def picture(self, name: str) -> Picture | None:
        """The picture of that name; None when there is none."""
        with self._lock:
            make = self._makers.get(name)
            made = self._made.get(name)
            if make is not None:
                self._makers.move_to_end(name)
        if make is None or made is not None:
            return made
        made = make()
        with self._lock:
            if name in self._makers:
                self._made[name] = made
            while len(self._made) > 1 and sum(len(content) for content, _ in self._made.values()) > MOST_BYTES:
                self._made.popitem(last=False)
        return made
