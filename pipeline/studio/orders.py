"""What a page asks of a session that is there: checked against what it is doing, and handed to the work."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from data.errors import UsageError
from pipeline.painted import painted_json
from pipeline.studio import messages as ask
from pipeline.studio.editing import told_edits
from pipeline.studio.gallery import Gallery
from pipeline.studio.record import Records
from pipeline.studio.session import EDITING, Running, Session, Task
from pipeline.studio.tasks import Tasks
from pipeline.studio.work import Asked, Work

Order = (
    ask.Drag
    | ask.Preset
    | ask.Direction
    | ask.Replay
    | ask.Retarget
    | ask.Pause
    | ask.Go
    | ask.Step
    | ask.Stop
    | ask.Undo
    | ask.Redo
    | ask.Jump
    | ask.Mask
    | ask.Save
)
"""Requests that concern one session and keep it."""


class Orders:
    """Follows the orders of pages; one that cannot be followed now changes nothing and raises UsageError."""

    def __init__(self, lock: threading.RLock, tasks: Tasks, work: Work, records: Records, gallery: Gallery) -> None:
        self._lock, self._tasks, self._work = lock, tasks, work
        self._records, self._gallery = records, gallery

    def follow(self, session: Session, order: Order) -> None:
        """Begin what is asked."""
        with self._lock:
            match order:
                case ask.Drag() | ask.Preset() | ask.Direction() | ask.Replay():
                    self._start_edit(session, *_edit_of(order), paused=isinstance(order, ask.Drag) and order.paused)
                case ask.Retarget():
                    self._retarget(session, order)
                case ask.Pause() | ask.Go() | ask.Step() | ask.Stop():
                    self._steer(session, order)
                case ask.Undo():
                    self._undo(session)
                case ask.Redo():
                    self._jump(session, session.record.at + 1)
                case ask.Jump():
                    self._jump(session, order.at)
                case ask.Mask():
                    self._mask(session, order.png)
                case ask.Save():
                    self._save(session, order)

    def _start_edit(self, session: Session, running: Running, asked: Asked, paused: bool) -> None:
        check_idle(session)
        if session.record.run is None:
            raise UsageError("The face is not prepared yet: wait for it, or choose it first.")
        session.say(None)
        self._tasks.add(session, self._editing(session, running, asked, paused))

    def _editing(self, session: Session, running: Running, asked: Asked, paused: bool | None) -> Task:
        began = time.monotonic()
        return Task(lambda job: self._work.edit(session, job, running, asked, began), "dragging", running, paused)

    def _retarget(self, session: Session, order: ask.Retarget) -> None:
        running = session.running
        if session.job is None or session.phase not in EDITING or running is None or running.kind != "points":
            raise UsageError("No drag is running whose targets could be moved.")
        running = replace(running, points=order.points)
        self._tasks.instead(session, self._editing(session, running, _by_points(order.points), None))

    def _steer(self, session: Session, order: ask.Pause | ask.Go | ask.Step | ask.Stop) -> None:
        job = session.job
        if job is None or session.phase not in (*EDITING, "preparing", "opening"):
            raise UsageError("Nothing is running that could be held or stopped.")
        match order:
            case ask.Pause():
                job.pause()
            case ask.Go():
                job.go()
            case ask.Step():
                job.step()
            case ask.Stop():
                job.end()

    def _undo(self, session: Session) -> None:
        """Of a running edit: as if it had not been begun."""
        if session.phase in EDITING and session.job is not None:
            self._tasks.give_up(session)
        else:
            self._jump(session, session.record.at - 1)

    def _jump(self, session: Session, at: int) -> None:
        check_idle(session)
        if not 0 <= at <= len(session.record.edits):
            raise UsageError("There is no edit to undo." if at < 0 else "There is no undone edit.")
        session.record = self._records.write(replace(session.record, at=at))
        session.say(None)
        self.refresh(session)

    def _mask(self, session: Session, content: bytes | None) -> None:
        check_idle(session)
        if content is not None:
            try:
                painted_json(content, "")
            except UsageError as error:
                raise UsageError(f"The mask cannot be used: {error}.") from error
        self._records.write_mask(session.record.id, content)
        self.hang_mask(session)

    def _save(self, session: Session, order: ask.Save) -> None:
        check_idle(session)
        if not session.record.at:
            raise UsageError("There is no edit to save: make one first.")
        self._tasks.add(session, Task(lambda job: self._work.save(session, job, order), "saving"))

    def hang_mask(self, session: Session) -> None:
        """Give the session's mask its address."""
        content = self._records.mask(session.record.id)
        session.mask_url = None if content is None else self._gallery.hang(lambda: (content, "image/png"))

    def refresh(self, session: Session) -> None:
        """See to it that pages get the pictures of what the session is now."""
        record = session.record
        if record.run is None:
            if session.photo_size is None and record.photo is not None:
                self._tasks.add(session, Task(lambda _: self._work.measure(session), None))
            return
        thumbs = {entry.key for entry in record.edits} <= set(session.thumbs)
        if session.photo_size is None or not thumbs or (session.key or "") not in {"", *session.patches}:
            self._tasks.add(session, Task(lambda _: self._work.look(session), None))


def check_idle(session: Session) -> None:
    """UsageError when something is being computed that must not be overtaken."""
    if session.busy:
        raise UsageError("The studio is still at work on this picture: wait for it, or stop it first.")


def _edit_of(order: ask.Drag | ask.Preset | ask.Direction | ask.Replay) -> tuple[Running, Asked]:
    """What is told of an edit while it runs, and what it asks of a face."""
    match order:
        case ask.Drag():
            name = "drag" if len(order.points) == 1 else f"drag of {len(order.points)} points"
            return Running("points", name, order.points), _by_points(order.points)
        case ask.Preset():
            told = {"preset": order.preset, "strength": order.strength}
            return Running("preset", f"{order.preset.replace('_', ' ')} {order.strength:g}"), lambda _: [told]
        case ask.Direction():
            told = {"direction": order.direction, "strength": order.strength}
            return Running("direction", f"{order.direction.replace(':', ' ')} {order.strength:+g}"), lambda _: [told]
        case ask.Replay():
            replayed = told_edits(order.recipe)
            return Running("recipe", f"recipe of {len(replayed)}"), lambda _: replayed


def _by_points(points: ask.Pairs) -> Asked:
    return lambda sitting: [sitting.told_points(points)]
