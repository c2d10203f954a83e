"""The work that waits: in each session one piece after another, and of all sessions one at a time."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from data.errors import PhotodragError, UsageError
from pipeline.errors import sentence
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
            total = sum(len(other.waiting) + (other.job is not None) for other in self._sessions())
            if total >= MOST_TASKS or self._closing:
                raise UsageError("The studio has too much to do already: wait until some of it is done.")
            session.waiting.append(task)
            if task.phase is not None:
                session.phase, session.running = task.phase, task.running
            if session.job is None:
                self._begin(session)
        self._audience.tell(session)

    def instead(self, session: Session, task: Task) -> None:
        """End what the session does, keeping what came of it, and go on with this."""
        with self._lock:
            session.waiting.clear()
            if session.job is None:
                self.add(session, task)
            else:
                session.waiting.append(task)
                session.job.end()

    def close(self, within_s: float) -> None:
        """End everything, and wait so long for it."""
        with self._lock:
            self._closing = True
            sessions = list(self._sessions())
            jobs = [session.job for session in sessions if session.job is not None]
            for session in sessions:
                session.waiting.clear()
        for job in jobs:
            job.end()
        until = time.monotonic() + within_s
        for job in jobs:
            job.join(max(0.0, until - time.monotonic()))

    def _begin(self, session: Session, held: bool = False) -> None:
        task = session.waiting.popleft()
        if task.phase is not None:
            session.phase, session.running, session.progress = task.phase, task.running, None
        session.job = Job(
            task.work,
            self._turns,
            lambda: self._audience.tell(session),
            lambda wrong: self._ended(session, wrong),
            held if task.paused is None else task.paused,
        )
        session.job.start()

    def _ended(self, session: Session, wrong: BaseException | None) -> None:
        with self._lock:
            held = session.job is not None and session.job.paused
            session.job = None
            if wrong is not None:
                session.say(told(wrong), failed=True)
            going_on = bool(session.waiting) and not self._closing
            if not (going_on and session.waiting[0].phase is not None):
                session.phase, session.running, session.progress = session.resting_phase, None, None
            if going_on:
                self._begin(session, held)
        self._audience.tell(session)


def told(wrong: BaseException) -> str:
    """What went wrong as a sentence; an unforeseen error also leaves its traceback on standard error."""
    if isinstance(wrong, PhotodragError):
        return sentence(wrong)
    if isinstance(wrong, MemoryError) or "not enough memory" in str(wrong):
        return "There is not enough memory for this: close other sessions, or use a smaller photo or generator."
    traceback.print_exception(wrong, file=sys.stderr)
    return sentence(wrong)
