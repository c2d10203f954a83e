"""The work that waits: in each session one piece after another, and of all sessions one at a time."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from data.errors import PhotodragError, UsageError
from pipeline.errors import sentence
from pipeline.shortage import is_shortage
from pipeline.studio.audience import Audience
from pipeline.studio.jobs import Job, Turns
from pipeline.studio.session import Session, Task

MOST_TASKS = 24
"""Pieces of work that may run or wait in all sessions together."""


class Tasks:
    """Begins the work of sessions, and says when it has ended."""

    def __init__(self, lock: threading.RLock, audience: Audience, sessions: Callable[[], Iterable[Session]]) -> None:
        self._lock, self._audience, self._sessions = lock, audience, sessions
        self._turns = Turns()
        self._closing = False

    def add(self, session: Session, task: Task) -> None:
        """Queue a piece of work; it begins when the one before it has ended. UsageError when there is too much."""
        with self._lock:
            if sum(len(other.tasks) for other in self._sessions()) >= MOST_TASKS or self._closing:
                raise UsageError("The studio has too much to do already: wait until some of it is done.")
            task.job = Job(
                task.work,
                self._turns,
                lambda: self._audience.tell(session),
                lambda wrong: self._ended(session, wrong),
                bool(task.paused),
            )
            session.tasks.append(task)
            self._show(session)
            if len(session.tasks) == 1:
                task.job.start()
        self._audience.tell(session)

    def instead(self, session: Session, task: Task) -> None:
        """End what the session does, keeping what came of it, and go on with this."""
        with self._lock:
            self._drop_waiting(session)
            self.add(session, task)
            if len(session.tasks) > 1 and session.tasks[0].job is not None:
                session.tasks[0].job.end()

    def give_up(self, session: Session) -> None:
        """End what the session does without a trace."""
        with self._lock:
            self._drop_waiting(session)
            for task in session.tasks:
                if task.phase is not None and task.job is not None:
                    task.job.give_up()
            self._show(session)

    def _drop_waiting(self, session: Session) -> None:
        """Forget the work that has not begun."""
        del session.tasks[1:]

    def close(self, within_s: float) -> None:
        """End everything, and wait so long for it."""
        with self._lock:
            self._closing = True
            jobs = [session.tasks[0].job for session in self._sessions() if session.tasks]
            for session in self._sessions():
                self._drop_waiting(session)
        for job in jobs:
            if job is not None:
                job.end()
        until = time.monotonic() + within_s
        for job in jobs:
            if job is not None:
                job.join(max(0.0, until - time.monotonic()))

    def _show(self, session: Session) -> None:
        """Phase and running edit of the session: those of the first piece of work that a page waits for."""
        task = session.awaited
        if task is None:
            session.phase, session.running, session.progress = session.resting_phase, None, None
        elif (session.phase, session.running) != (task.phase, task.running):
            session.phase, session.running, session.progress = str(task.phase), task.running, None

    def _ended(self, session: Session, wrong: BaseException | None) -> None:
        with self._lock:
            before = session.tasks.pop(0)
            if wrong is not None:
                session.say(told(wrong), failed=True)
            self._show(session)
            if session.tasks and not self._closing:
                job, held = session.tasks[0].job, before.job is not None and before.job.paused
                assert job is not None, "it was made when the work was queued"
                if session.tasks[0].paused is None and held:
                    job.pause()
                job.start()
        self._audience.tell(session)


def told(wrong: BaseException) -> str:
    """What went wrong as a sentence; an unforeseen error also leaves its traceback on standard error."""
    if isinstance(wrong, PhotodragError):
        return sentence(wrong)
    if is_shortage(wrong):
        return "There is not enough memory for this: close other sessions, or use a smaller photo or generator."
    traceback.print_exception(wrong, file=sys.stderr)
    return sentence(wrong)
