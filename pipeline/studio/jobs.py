"""Long work, in threads of which one computes at a time, and which can be held or ended between two steps."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator


class EndedError(Exception):
    """The work was given up on request; nothing is wrong."""


class Turns:
    """Lets one thread compute at a time, in the order in which they asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holder: object | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """A turn for the length of a `with` block."""
        ticket = object()
        self.take(ticket)
        try:
            yield
        finally:
            self.give_back(ticket)

    def take(self, ticket: object) -> None:
        """Wait until it is this one's turn."""
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._holder is None and self._waiting[0] is ticket)
            self._waiting.popleft()
            self._holder = ticket

    def give_back(self, ticket: object) -> None:
        """End the turn, if it is this one's."""
        with self._changed:
            if self._holder is ticket:
                self._holder = None
                self._changed.notify_all()

    def pass_on(self, ticket: object) -> None:
        """Let those who wait have theirs first, and come back."""
        with self._changed:
            if not self._waiting:
                return
        self.give_back(ticket)
        self.take(ticket)

    def before(self, ticket: object) -> int:
        """How many come before this one: those who wait earlier, and who computes now."""
        with self._changed:
            waiting = list(self._waiting)
            return waiting.index(ticket) + (self._holder is not None) if ticket in waiting else 0


class Job:
    """One piece of work of one session, in a thread of its own that computes when it has its turn.

    on_change is told, from the job's thread, when the job begins to be held; on_end, with what went wrong if anything,
    when it has ended.
    """

    def __init__(
        self,
        work: Callable[[Job], None],
        turns: Turns,
        on_change: Callable[[], None],
        on_end: Callable[[BaseException | None], None],
        paused: bool = False,
    ) -> None:
        self._work, self._turns = work, turns
        self._on_change, self._on_end = on_change, on_end
        self._changed = threading.Condition()
        self._paused, self._single, self._ending, self._given_up = paused, 0, False, False
        self._thread = threading.Thread(target=self._run, name="photodrag-studio-job", daemon=True)

    def start(self) -> None:
        """Begin; the thread waits for its turn."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def paused(self) -> bool:
        """Whether the job is held, or will be after its step."""
        return self._paused

    @property
    def ending(self) -> bool:
        """Whether the job was asked to end."""
        return self._ending

    @property
    def waiting(self) -> int:
        """How many others compute before this one."""
        return self._turns.before(self)

    def pause(self) -> None:
        """Hold the job after the step that it is at."""
        self._set(paused=True)

    def go(self) -> None:
        """Let a held job go on."""
        self._set(paused=False)

    def step(self) -> None:
        """Let a held job make one step; one that runs is held after its step."""
        with self._changed:
            if self._paused:
                self._single += 1
            self._paused = True
            self._changed.notify_all()

    def end(self) -> None:
        """Ask the job to end with the step that it is at."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Ask the job to end, and to leave no trace of what it has made."""
        self._given_up = True
        self.end()

    @property
    def given_up(self) -> bool:
        """Whether nothing of the job shall stay."""
        return self._given_up

    def between_steps(self) -> None:
        """Called by the work before each step: others get their turn, and a held job waits here."""
        if self._held():
            self._turns.give_back(self)
            self._on_change()
            with self._changed:
                self._changed.wait_for(lambda: not self._paused or self._single > 0 or self._ending)
                self._single = max(0, self._single - 1)
            self._turns.take(self)
            self._on_change()
        else:
            self._turns.pass_on(self)

    def _held(self) -> bool:
        with self._changed:
            if self._paused and self._single > 0:
                self._single -= 1
                return False
            return self._paused and not self._ending

    def _set(self, paused: bool) -> None:
        with self._changed:
            self._paused, self._single = paused, 0
            self._changed.notify_all()

    def _run(self) -> None:
        wrong: BaseException | None = None
        self._turns.take(self)
        try:
            if not self._ending:
                self._work(self)
        except EndedError:
            pass
        except BaseException as error:  # noqa: BLE001  whatever went wrong is told to the person, and the studio goes on
            wrong = error
        finally:
            self._turns.give_back(self)
            self._on_end(wrong)
