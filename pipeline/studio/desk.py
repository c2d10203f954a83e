"""The desk of a studio: photos, sessions and their edits, computed one after another; no web in it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UsageError
from pipeline import __version__
from pipeline.artifacts import ensure_folder
from pipeline.models import set_up_arithmetic
from pipeline.schema import RunConfig
from pipeline.studio import menu
from pipeline.studio import messages as ask
from pipeline.studio.audience import Audience
from pipeline.studio.gallery import Gallery, Picture
from pipeline.studio.orders import Orders, check_idle
from pipeline.studio.record import FOLDER, Record, Records, new_id
from pipeline.studio.session import Session, Task
from pipeline.studio.shelf import Shelf
from pipeline.studio.tasks import Tasks
from pipeline.studio.watching import Watcher
from pipeline.studio.work import Work
from pipeline.view import png, region_view

if TYPE_CHECKING:
    from pipeline.studio.uploads import Limits

MOST_RECENT = 24
MOST_REGION_PIXELS = 4_000_000
CLOSE_S = 2.0


class Desk:
    """All sessions of one studio. Every method may be called from any thread and answers soon; work is done in threads
    of its own, one piece at a time, and told to the watchers."""

    def __init__(self, config: RunConfig, limits: Limits) -> None:
        """config: the settings of every run (out, generator, invert, tune, edit, blend ...)."""
        self._config, self._limits = config, limits
        self._folder = ensure_folder(Path(config.out).absolute() / FOLDER)
        self._records = Records(self._folder / "sessions")
        self._shelf = Shelf(self._folder / "photos", limits.pixels)
        self._gallery = Gallery()
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._thumbs: dict[str, tuple[int, str]] = {}
        self._audience = Audience(self._lock)
        self._tasks = Tasks(self._lock, self._audience, lambda: list(self._sessions.values()))
        self._work = Work(config, self._lock, self._records, self._shelf, self._gallery, self._audience, self._dropped)
        self._orders = Orders(self._lock, self._tasks, self._work, self._records, self._gallery)
        set_up_arithmetic(config)

    # What pages ask

    def hello(self) -> dict[str, Any]:
        """What a page is told first: presets, directions, generators, recent sessions, limits."""
        recent = [record for record, _ in zip(self._records.all(), range(MOST_RECENT), strict=False)]
        return {
            "is": "hello",
            "version": __version__,
            "presets": menu.presets(),
            "directions": menu.directions(),
            "generators": menu.generators(self._config.generator),
            "generator": menu.own_name(self._config.generator),
            "recent": [self._recent(record) for record in recent],
            "limits": {"bytes": self._limits.bytes, "pixels": self._limits.pixels},
            "formats": list(ask.FORMATS),
        }

    def add_photo(self, path: Path, name: str) -> str:
        """Take over a received file: its id. PhotoError when it is no photo that can be edited."""
        return self._shelf.take(path, name).id

    def open_file(self, path: Path) -> str:
        """The session of a photo that stays where it is; its id."""
        shelved = self._shelf.point_to(path)
        return self._open(ask.Open(shelved.id)).record.id

    def do(self, request: ask.Request, watcher: Watcher) -> None:
        """Begin what a page asks; what comes of it is told to those who watch. PhotodragError when it cannot be."""
        match request:
            case ask.Shown():
                pass
            case ask.Watch():
                session = self._session(request.session)
                self._audience.watch(watcher, session)
                self._orders.refresh(session)
            case ask.Open():
                self._audience.watch(watcher, self._open(request))
            case ask.Sample():
                self._audience.watch(watcher, self._sample(request))
            case ask.Face():
                self._audience.watch(watcher, self._with_face(self._session(request.session), request.face))
            case ask.Generator():
                self._audience.watch(watcher, self._with_generator(self._session(request.session), request.generator))
            case ask.Forget():
                self._forget(request.session)
            case _:
                session = self._session(request.session)
                self._orders.follow(session, request)
                self._audience.tell(session)

    def leave(self, watcher: Watcher) -> None:
        """The page has gone; what it began goes on."""
        self._audience.leave(watcher)

    def picture(self, id: str) -> Picture | None:
        """Content and media type of a picture; None when there is none of that name."""
        return self._gallery.picture(id)

    def region(self, session: str, which: str, box: tuple[int, int, int, int], scale: float) -> Picture:
        """A rectangle of the photo, or of the photo as edited, as PNG. UsageError for one that is not in the photo."""
        found = self._session(session)
        photo = None if found.record.photo is None else self._shelf.photo(found.record.photo)
        if photo is None:
            raise UsageError("A generated picture is shown whole.")
        height, width = photo.shape_hw
        x0, y0, x1, y1 = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
        if x0 >= x1 or y0 >= y1:
            raise UsageError(f"There is nothing of the photo in the rectangle {list(box)}.")
        if (x1 - x0) * (y1 - y0) * min(1.0, scale) ** 2 > MOST_REGION_PIXELS:
            raise UsageError(f"A part has at most {MOST_REGION_PIXELS} pixels: ask for less, or smaller.")
        shown = found.patches.get(found.key or "") if which == "result" else None
        return png(region_view(photo, (x0, y0, x1, y1), scale, None if shown is None else shown.patch)), "image/png"

    def download(self, id: str) -> tuple[Path, str] | None:
        """A saved file, and the name to save it under; None when there is none of that name."""
        with self._lock:
            known = [session.downloads.get(id) for session in self._sessions.values()]
        path = next((Path(file) for file in known if file is not None), None)
        return None if path is None or not path.is_file() else (path, path.name)

    def close(self) -> None:
        """End what is computed; sessions stay on the disk."""
        self._tasks.close(CLOSE_S)

    # Sessions

    def _session(self, name: str) -> Session:
        with self._lock:
            if name not in self._sessions:
                record = self._records.read(name)
                session = self._sessions[name] = Session(record, "opening", self._lock)
                session.phase = session.resting_phase
                self._hang(session)
                self._orders.refresh(session)
            return self._sessions[name]

    def _new(self, record: Record) -> Session:
        with self._lock:
            session = self._sessions[record.id] = Session(self._records.write(record), "opening", self._lock)
        self._hang(session)
        self._tasks.add(session, self._preparing(session, "opening"))
        return session

    def _open(self, request: ask.Open) -> Session:
        shelved = self._shelf.facts(request.photo)
        generator = menu.checked_generator(request.generator, self._config.generator)
        if not request.anew:
            known = self._known(shelved.id, generator, None)
            if known is not None:
                return known
        return self._new(Record(new_id(), shelved.name, generator, photo=shelved.id))

    def _known(self, photo: str, generator: str, face: int | None) -> Session | None:
        """The last session of a photo with that generator and face (None: any)."""
        for record in self._records.all():
            if (record.photo, record.generator) == (photo, generator) and face in (None, record.face):
                session = self._session(record.id)
                if record.run is None and not session.busy and len(record.faces) < 2:
                    self._tasks.add(session, self._preparing(session, "opening"))
                return session
        return None

    def _preparing(self, session: Session, phase: str) -> Task:
        return Task(lambda job: self._work.prepare(session, job), phase)

    def _sample(self, request: ask.Sample) -> Session:
        generator = menu.checked_generator(request.generator, self._config.generator)
        name = f"seed {request.seed}"
        return self._new(Record(new_id(), name, generator, seed=request.seed, psi=request.psi))

    def _with_face(self, session: Session, face: int) -> Session:
        record = session.record
        if face >= len(record.faces):
            raise UsageError(f"The photo has {len(record.faces)} faces, and face {face + 1} was chosen.")
        if record.run is None or record.face == face:
            with session.lock:
                check_idle(session)
                session.record = self._records.write(replace(record, face=face))
                if record.run is None:
                    self._tasks.add(session, self._preparing(session, "preparing"))
            return session
        assert record.photo is not None
        known = self._known(record.photo, record.generator, face)
        if known is not None:
            return known
        return self._new(Record(new_id(), record.name, record.generator, record.photo, faces=record.faces, face=face))

    def _with_generator(self, session: Session, generator: str | None) -> Session:
        record, name = session.record, menu.checked_generator(generator, self._config.generator)
        if record.photo is None:
            return self._new(Record(new_id(), record.name, name, seed=record.seed, psi=record.psi))
        known = self._known(record.photo, name, record.face)
        return known or self._new(
            Record(new_id(), record.name, name, record.photo, faces=record.faces, face=record.face)
        )

    def _dropped(self, name: str) -> None:
        """The prepared face of a session has left the memory; its pictures do, too, unless a page shows them."""
        session = self._sessions.get(name)
        if session is not None and not self._audience.of(session):
            self._work.let_go(session)

    def _forget(self, name: str) -> None:
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            self._tasks.give_up(session)
        self._work.forget(name)
        self._records.forget(name)

    def _hang(self, session: Session) -> None:
        """Give the pictures of a session their addresses."""
        self._work.hang_photo(session)
        self._orders.hang_mask(session)

    def _thumb_url(self, name: str, thumb: Path) -> str:
        """The address of a session's small picture: another one when it has changed."""
        changed = thumb.stat().st_mtime_ns
        known = self._thumbs.get(name)
        if known is None or known[0] != changed:
            if known is not None:
                self._gallery.take_down(known[1])
            self._thumbs[name] = changed, self._gallery.hang(lambda: (thumb.read_bytes(), "image/jpeg"))
        return self._thumbs[name][1]

    def _recent(self, record: Record) -> dict[str, Any]:
        thumb = self._records.thumb(record.id)
        url = self._thumb_url(record.id, thumb) if thumb.is_file() else None
        return {"session": record.id, "name": record.name, "thumb": url, "edits": record.at, "when": record.when}
