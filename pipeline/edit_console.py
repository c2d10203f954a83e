"""A console that counts the steps of an edit, so that one that is ended by hand can be told with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from editing.drag import DragStep
from pipeline.progress import Console, Step


class EditConsole(Console):
    """A console for edits: `edit_steps` are those that the present edit has made; on_drag hears each of them."""

    def __init__(
        self, progress: bool = True, quiet: bool = False, on_drag: Callable[[DragStep], None] | None = None
    ) -> None:
        super().__init__(progress, quiet)
        self.edit_steps = 0
        self._on_drag = on_drag

    @property
    def ended_by_hand(self) -> bool:
        """Whether the edit was asked to end before it would have."""
        return False

    @contextlib.contextmanager
    def steps(self, name: str) -> Iterator[Callable[[Step], None]]:
        """What shows the steps of a stage, and counts those of an edit."""
        self.edit_steps = 0
        with super().steps(name) as show_bar:

            def show(info: Step) -> None:
                show_bar(info)
                if isinstance(info, DragStep):
                    self.edit_steps += 1
                    if self._on_drag is not None:
                        self._on_drag(info)

            yield show
