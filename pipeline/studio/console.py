"""A console whose lines and steps go to a page instead of a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from editing.drag import DragStep
from pipeline.edit_console import EditConsole
from pipeline.progress import Step
from pipeline.studio.jobs import EndedError, Job


class Listener(Protocol):
    """What hears how a job goes on, in the job's thread."""

    def progress(self, stage: str, step: int, total: int, seconds_left: float | None) -> None:
        """A step of a stage was made."""
        ...

    def dragged(self, step: DragStep) -> None:
        """A step of a drag was made."""
        ...

    def warned(self, line: str) -> None:
        """Something the person should know."""
        ...


class StudioConsole(EditConsole):
    """Reports the steps of one job, and lets it be held and ended between them.

    An edit that is asked to end keeps its best state; any other work is given up by EndedError, and goes on from its
    last checkpoint another time. `edit_steps` are those of the present edit.
    """

    def __init__(self, job: Job, listener: Listener) -> None:
        super().__init__(progress=False, quiet=True)
        self._job, self._listener = job, listener

    def warn(self, line: str) -> None:
        """Tell the page instead of standard error."""
        self._listener.warned(line)

    @contextlib.contextmanager
    def steps(self, name: str) -> Iterator[Callable[[Step], None]]:
        """What tells the page each step of a stage."""
        began = time.monotonic()
        first: list[int] = []
        self.edit_steps = 0

        def show(info: Step) -> None:
            self._listener.progress(name, info.step, info.total, _left(info, began, first))
            if isinstance(info, DragStep):
                self.edit_steps += 1
                self._listener.dragged(info)
                return
            self._job.between_steps()
            if self._job.ending:
                raise EndedError

        yield show

    @property
    def ended_by_hand(self) -> bool:
        """Whether a page asked the job to end."""
        return self._job.ending

    def stopping(self) -> bool:
        """Between two steps of an edit: waits while it is held; whether it shall end."""
        self._job.between_steps()
        return self._job.ending


def _left(info: Step, began: float, first: list[int]) -> float | None:
    """Seconds that the rest takes if it goes on as so far; None at the first step."""
    if not first:
        first.append(info.step)
        return None
    made = info.step - first[0]
    return (time.monotonic() - began) / (made + 1) * (info.total - info.step) if made > 0 else None
