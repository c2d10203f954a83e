"""A person before the studio's page, for what is measured and pictured in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Person:
    """What a person does on the page."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def data(self, name: str) -> str:
        """An attribute of the page's body."""
        return str(self._page.locator("body").get_attribute(f"data-{name}") or "")

    def press(self, key: str) -> None:
        """A key."""
        self._page.keyboard.press(key)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the photo is in the window."""
        scale, left, top = map(float, self.data("view").split())
        box = self._page.locator("#canvas").bounding_box()
        return box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale

    def drag(self, *places: tuple[float, float], watch: Callable[[], None] = lambda: None) -> None:
        """Press at the first place of the photo, go over the others, release."""
        mouse = self._page.mouse
        mouse.move(*self.place(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.place(*place), steps=4)
            watch()
        mouse.up()
        watch()

    def zoom_to(self, x: float, y: float, times: int) -> None:
        """Towards a place of the photo."""
        self._page.mouse.move(*self.place(x, y))
        for _ in range(times):
            self._page.mouse.wheel(0, -120)

    def ready(self, at: int | None = None) -> bool:
        """Whether nothing runs, with so many edits."""
        return self.data("phase") == "ready" and at in (None, int(self.data("at") or 0))
