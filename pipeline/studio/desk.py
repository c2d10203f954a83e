"""The desk of a studio: photos, sessions and their edits, computed one after another; no web in it."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.alignment import align_ffhq
from data.errors import ModelError, PhotodragError, UsageError
from data.landmarks import find_faces
from pipeline import __version__
from pipeline.artifacts import ensure_folder, write_bytes
from pipeline.errors import sentence
from pipeline.models import Models, generator_path
from pipeline.outputs import Dragged
from pipeline.painted import painted_json
from pipeline.run import run
from pipeline.schema import GENERATORS, PRESETS, GeneratorConfig, JobInfo, RunConfig
from pipeline.studio import messages as ask
from pipeline.studio.console import StudioConsole
from pipeline.studio.editing import Made, edit_entry, told_edits
from pipeline.studio.gallery import Gallery, Picture
from pipeline.studio.jobs import Job, Turns
from pipeline.studio.live import Live
from pipeline.studio.record import FOLDER, THUMB_FILE, Record, Records, new_id
from pipeline.studio.saving import save_session
from pipeline.studio.session import EDITING, Running, Session, Shown, Task
from pipeline.studio.shelf import Shelf
from pipeline.studio.sitting import Sitting
from pipeline.studio.view import jpeg, png, region_view, thumbnail, whole_view
from pipeline.studio.watching import Watcher

if TYPE_CHECKING:
    from pipeline.studio.uploads import Limits

MOST_SITTINGS = 3
"""Prepared faces that are held in memory; the others are read again from their run folders."""
MOST_TASKS = 24
"""Pieces of work that may run or wait in all sessions together."""
MOST_RECENT = 24
MOST_REGION_PIXELS = 4_000_000
DIRECTIONS = 10
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
        self._gallery, self._turns, self._models = Gallery(), Turns(), Models()
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._sittings: OrderedDict[str, Sitting] = OrderedDict()
        self._watchers: dict[Watcher, str | None] = {}
        self._downloads: dict[str, Path] = {}
        self._frame_numbers = count(1)
        self._closing = False
        if config.threads:
            torch.set_num_threads(config.threads)

    # What pages ask

    def hello(self) -> dict[str, Any]:
        """What a page is told first: presets, directions, generators, recent sessions, limits."""
        directions = [
            {"name": f"{kind}:{n}", "label": f"{kind} {n}"} for kind in ("pca", "sefa") for n in range(DIRECTIONS)
        ]
        recent = [record for record, _ in zip(self._records.all(), range(MOST_RECENT), strict=False)]
        return {
            "is": "hello",
            "version": __version__,
            "presets": [{"name": name, "label": name.replace("_", " ")} for name in PRESETS if name != "slim"],
            "directions": directions,
            "generators": self._generators(),
            "generator": self._own_generator,
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
                self._watch(watcher, self._session(request.session))
            case ask.Open():
                self._watch(watcher, self._open(request))
            case ask.Sample():
                self._watch(watcher, self._sample(request))
            case ask.Face():
                self._watch(watcher, self._with_face(self._session(request.session), request.face))
            case ask.Generator():
                self._watch(watcher, self._with_generator(self._session(request.session), request.generator))
            case ask.Forget():
                self._forget(request.session)
            case _:
                session = self._session(request.session)
                self._asked(session, request)
                self._tell(session)

    def leave(self, watcher: Watcher) -> None:
        """The page has gone; what it began goes on."""
        with self._lock:
            self._watchers.pop(watcher, None)

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
            path = self._downloads.get(id)
        return None if path is None or not path.is_file() else (path, path.name)

    def close(self) -> None:
        """End what is computed; sessions stay on the disk."""
        with self._lock:
            self._closing = True
            sessions = list(self._sessions.values())
        jobs = [session.job for session in sessions if session.job is not None]
        for session in sessions:
            session.waiting.clear()
        for job in jobs:
            job.end()
        until = time.monotonic() + CLOSE_S
        for job in jobs:
            job.join(max(0.0, until - time.monotonic()))

    # Sessions

    def _session(self, name: str) -> Session:
        with self._lock:
            if name not in self._sessions:
                record = self._records.read(name)
                session = self._sessions[name] = Session(record, "opening", self._lock)
                session.phase = session.resting_phase
                self._hang(session)
                self._refresh(session)
            return self._sessions[name]

    def _new(self, record: Record) -> Session:
        with self._lock:
            session = self._sessions[record.id] = Session(self._records.write(record), "opening", self._lock)
        self._hang(session)
        self._add(session, self._preparing(session, "opening"))
        return session

    def _open(self, request: ask.Open) -> Session:
        shelved = self._shelf.facts(request.photo)
        generator = self._checked_generator(request.generator)
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
                    self._add(session, self._preparing(session, "opening"))
                return session
        return None

    def _preparing(self, session: Session, phase: str) -> Task:
        return Task(lambda job: self._prepare(session, job), phase)

    def _sample(self, request: ask.Sample) -> Session:
        generator = self._checked_generator(request.generator)
        name = f"seed {request.seed}"
        return self._new(Record(new_id(), name, generator, seed=request.seed, psi=request.psi))

    def _with_face(self, session: Session, face: int) -> Session:
        record = session.record
        if face >= len(record.faces):
            raise UsageError(f"The photo has {len(record.faces)} faces, and face {face + 1} was chosen.")
        if record.run is None or record.face == face:
            with session.lock:
                self._idle(session)
                session.record = self._records.write(replace(record, face=face))
                if record.run is None:
                    self._add(session, self._preparing(session, "preparing"))
            return session
        assert record.photo is not None
        known = self._known(record.photo, record.generator, face)
        if known is not None:
            return known
        return self._new(Record(new_id(), record.name, record.generator, record.photo, faces=record.faces, face=face))

    def _with_generator(self, session: Session, generator: str | None) -> Session:
        record, name = session.record, self._checked_generator(generator)
        if record.photo is None:
            return self._new(Record(new_id(), record.name, name, seed=record.seed, psi=record.psi))
        known = self._known(record.photo, name, record.face)
        return known or self._new(
            Record(new_id(), record.name, name, record.photo, faces=record.faces, face=record.face)
        )

    def _forget(self, name: str) -> None:
        with self._lock:
            session = self._sessions.pop(name, None)
            self._sittings.pop(name, None)
        if session is not None and session.job is not None:
            session.job.end()
        self._records.forget(name)

    def _hang(self, session: Session) -> None:
        """Give the pictures of a session their addresses."""
        record, sha = session.record, session.record.photo
        if sha is not None:
            session.view = {"url": self._gallery.hang(lambda: (jpeg(whole_view(self._shelf.photo(sha))), "image/jpeg"))}
        if self._records.mask(record.id) is not None:
            self._hang_mask(session)
        for facts in record.saved:
            self._offer(session, Path(facts["path"]))

    def _hang_mask(self, session: Session) -> None:
        content = self._records.mask(session.record.id)
        session.mask_url = None if content is None else self._gallery.hang(lambda: (content, "image/png"))

    def _offer(self, session: Session, path: Path) -> None:
        with self._lock:
            name = session.downloads.setdefault(str(path), new_id())
            self._downloads[name] = path

    # Generators

    @property
    def _own_generator(self) -> str:
        return "file" if self._config.generator.path is not None else self._config.generator.name

    def _generators(self) -> list[dict[str, Any]]:
        found = [{"name": name, "here": _is_here(name)} for name in GENERATORS if name != "file"]
        if self._own_generator == "file":
            found.insert(0, {"name": "file", "here": True})
        return found

    def _checked_generator(self, name: str | None) -> str:
        """The name of a generator that is on this machine."""
        name = name or self._own_generator
        here = {entry["name"]: entry["here"] for entry in self._generators()}
        if name not in here:
            raise UsageError(f"There is no generator {name}: allowed are {', '.join(here)}.")
        if not here[name]:
            raise UsageError(f"The generator {name} is not here: photodrag models download {name} fetches it.")
        return name

    def _config_of(self, record: Record) -> RunConfig:
        """The settings of a session's runs, without a photo and without an edit."""
        own = record.generator == "file"
        generator = self._config.generator if own else GeneratorConfig(name=record.generator)
        return replace(self._config, photo=None, from_run=None, generator=generator, progress=False)

    # Watching

    def _watch(self, watcher: Watcher, session: Session) -> None:
        with self._lock:
            self._watchers[watcher] = session.record.id
        watcher.state(session.state())

    def _watching(self, session: Session) -> list[Watcher]:
        with self._lock:
            return [watcher for watcher, name in self._watchers.items() if name == session.record.id]

    def _tell(self, session: Session) -> None:
        watchers = self._watching(session)
        if watchers:
            state = session.state()
            for watcher in watchers:
                watcher.state(state)

    def _recent(self, record: Record) -> dict[str, Any]:
        thumb = self._records.folder / record.id / THUMB_FILE
        url = self._gallery.hang(lambda: (thumb.read_bytes(), "image/jpeg")) if thumb.is_file() else None
        return {"session": record.id, "name": record.name, "thumb": url, "edits": record.at, "when": record.when}

    # Work

    def _idle(self, session: Session) -> None:
        """UsageError when something is being computed that must not be overtaken."""
        if session.busy:
            raise UsageError("The studio is still at work on this picture: wait for it, or stop it first.")

    def _add(self, session: Session, task: Task) -> None:
        """Queue a piece of work; it begins when the one before it has ended."""
        with self._lock:
            total = sum(len(other.waiting) + (other.job is not None) for other in self._sessions.values())
            if total >= MOST_TASKS or self._closing:
                raise UsageError("The studio has too much to do already: wait until some of it is done.")
            session.waiting.append(task)
            if task.phase is not None:
                session.phase, session.running = task.phase, task.running
            if session.job is None:
                self._begin(session)
        self._tell(session)

    def _begin(self, session: Session) -> None:
        task = session.waiting.popleft()
        if task.phase is not None:
            session.phase, session.running, session.progress = task.phase, task.running, None
        session.job = Job(
            task.work, self._turns, lambda: self._tell(session), lambda wrong: self._ended(session, wrong), task.paused
        )
        session.job.start()

    def _ended(self, session: Session, wrong: BaseException | None) -> None:
        with session.lock:
            session.job = None
            if wrong is not None:
                session.say(_told(wrong), failed=True)
            if session.waiting and not self._closing:
                if session.waiting[0].phase is None:
                    session.phase, session.running, session.progress = session.resting_phase, None, None
                self._begin(session)
            else:
                session.phase, session.running, session.progress = session.resting_phase, None, None
        self._tell(session)

    def _progress(self, session: Session, progress: dict[str, Any]) -> None:
        with session.lock:
            session.progress = progress
        self._tell(session)

    def _asked(self, session: Session, request: ask.Request) -> None:
        with session.lock:
            match request:
                case ask.Drag():
                    name = "drag" if len(request.points) == 1 else f"drag of {len(request.points)} points"
                    self._start_edit(session, Running("points", name, request.points), _points(request), request.paused)
                case ask.Preset():
                    label = f"{request.preset.replace('_', ' ')} {request.strength:g}"
                    told = {"preset": request.preset, "strength": request.strength}
                    self._start_edit(session, Running("preset", label), lambda _: [told])
                case ask.Direction():
                    told = {"direction": request.direction, "strength": request.strength}
                    label = f"{request.direction.replace(':', ' ')} {request.strength:+g}"
                    self._start_edit(session, Running("direction", label), lambda _: [told])
                case ask.Replay():
                    replayed = told_edits(request.recipe)
                    self._start_edit(session, Running("recipe", f"recipe of {len(replayed)}"), lambda _: replayed)
                case ask.Retarget():
                    self._retarget(session, request)
                case ask.Pause() | ask.Go() | ask.Step() | ask.Stop():
                    self._steer(session, request)
                case ask.Undo():
                    if session.phase in EDITING and session.job is not None:
                        session.waiting.clear()
                        session.job.give_up()
                    else:
                        self._jump(session, session.record.at - 1)
                case ask.Redo():
                    self._jump(session, session.record.at + 1)
                case ask.Jump():
                    self._jump(session, request.at)
                case ask.Mask():
                    self._mask(session, request.png)
                case ask.Save():
                    self._save(session, request)

    def _steer(self, session: Session, request: ask.Pause | ask.Go | ask.Step | ask.Stop) -> None:
        job = session.job
        if job is None or session.phase not in (*EDITING, "preparing", "opening"):
            raise UsageError("Nothing is running that could be held or stopped.")
        match request:
            case ask.Pause():
                job.pause()
            case ask.Go():
                job.go()
            case ask.Step():
                job.step()
            case ask.Stop():
                job.end()

    def _jump(self, session: Session, at: int) -> None:
        self._idle(session)
        if not 0 <= at <= len(session.record.edits):
            raise UsageError("There is no edit to undo." if at < 0 else "There is no undone edit.")
        session.record = self._records.write(replace(session.record, at=at))
        session.say(None)
        self._refresh(session)

    def _mask(self, session: Session, content: bytes | None) -> None:
        self._idle(session)
        if content is not None:
            painted_json(content, "")
        self._records.write_mask(session.record.id, content)
        self._hang_mask(session)

    # Preparing

    def _prepare(self, session: Session, job: Job) -> None:
        record = session.record
        config = replace(self._config_of(record), measure=replace(self._config.measure, metrics=False, editability=[]))
        console = StudioConsole(job, _Progress(lambda progress: self._progress(session, progress), session))
        if record.photo is None:
            sample = replace(config.sample, seed=record.seed, psi=record.psi)
            config = replace(config, stages=["sample"], sample=sample, save=None)
        else:
            face = self._find(session, record.photo)
            if face is None:
                return
            align = replace(config.align, face=str(face))
            path = self._shelf.facts(record.photo).path
            config = replace(config, photo=path, stages=["align", "invert", "tune"], align=align, save=None)
        with session.lock:
            session.phase, session.progress = (
                "preparing",
                {"stage": "align", "step": 0, "total": 1, "seconds_left": None},
            )
        self._tell(session)
        outcome = run(config, JobInfo(f"studio-{record.id}", 0), self._models, console)
        with session.lock:
            session.record = self._records.write(replace(session.record, run=str(outcome.run_dir)))
            session.say(None)
        self._look(session)

    def _find(self, session: Session, name: str) -> int | None:
        """The face to prepare; None when the person has to choose one."""
        photo = self._shelf.photo(name)
        with session.lock:
            height, width = photo.shape_hw
            session.photo_size = width, height
            session.view = {**(session.view or {}), **_view_size(width, height)}
        self._tell(session)
        record = session.record
        if not record.faces and self._config.align.method == "ffhq":
            faces = find_faces(photo.to_u8(), self._config.align.upsample_max)
            facts = [_face_facts(face.box, face.landmarks, photo.shape_hw) for face in faces]
            with session.lock:
                session.record = record = self._records.write(replace(record, faces=tuple(facts)))
        write_bytes(ensure_folder(self._records.folder / record.id) / THUMB_FILE, thumbnail(whole_view(photo)))
        if record.face is None and len(record.faces) > 1:
            session.say(f"{len(record.faces)} faces were found: choose one.")
            return None
        with session.lock:
            session.record = self._records.write(replace(record, face=record.face or 0))
        return record.face or 0

    def _sitting(self, session: Session) -> Sitting:
        """The prepared face of a session, read when it is not at hand. Only jobs call this."""
        record = session.record
        if record.run is None:
            raise UsageError("The face is not prepared yet: choose it first.")
        with self._lock:
            sitting = self._sittings.get(record.id)
            if sitting is not None:
                self._sittings.move_to_end(record.id)
                return sitting
        photo = None if record.photo is None else self._shelf.photo(record.photo)
        sitting = Sitting(self._config_of(record), Path(record.run), photo, self._models)
        with self._lock:
            self._sittings[record.id] = sitting
            while len(self._sittings) > MOST_SITTINGS:
                self._sittings.popitem(last=False)
        return sitting

    # Editing

    def _start_edit(
        self, session: Session, running: Running, told: Callable[[Sitting], list[dict[str, Any]]], paused: bool = False
    ) -> None:
        self._idle(session)
        if session.record.run is None:
            raise UsageError("The face is not prepared yet: wait for it, or choose it first.")
        session.say(None)
        began = time.monotonic()
        work = Task(lambda job: self._edit(session, job, running, told, began), "dragging", running, paused)
        self._add(session, work)

    def _retarget(self, session: Session, request: ask.Retarget) -> None:
        job = session.job
        if job is None or session.phase not in EDITING or session.running is None or session.running.kind != "points":
            raise UsageError("No drag is running whose targets could be moved.")
        running, began = replace(session.running, points=request.points), time.monotonic()
        session.waiting.clear()
        told = _points(request)
        session.waiting.append(
            Task(lambda after: self._edit(session, after, running, told, began), "dragging", running, job.paused)
        )
        job.end()

    def _edit(
        self,
        session: Session,
        job: Job,
        running: Running,
        told: Callable[[Sitting], list[dict[str, Any]]],
        began: float,
    ) -> None:
        """Make edits behind those that count, one after another, each kept as soon as it is made."""
        sitting = self._sitting(session)
        mask = self._records.mask(session.record.id)
        for one in told(sitting):
            if mask is not None and "mask" not in one:
                one = {**one, "mask": painted_json(mask, sitting.photo_sha256)}
            before = sitting.row(session.record.told)
            live = Live(
                session=session.record.id,
                sitting=sitting,
                row=[*before, *sitting.row([one])],
                began=began,
                watchers=lambda: self._watching(session),
                next_number=lambda: next(self._frame_numbers),
                on_progress=lambda progress: self._progress(session, progress),
                on_warning=session.say,
            )
            started = time.monotonic()
            made = sitting.edit(before, one, StudioConsole(job, live))
            if made is None or job.given_up:
                session.say("Nothing was changed.")
                return
            self._keep(session, sitting, Made(running, *made, time.monotonic() - started), len(before))
            if job.ending:
                break
        self._look(session)

    def _keep(self, session: Session, sitting: Sitting, made: Made, at: int) -> None:
        entry = edit_entry(made, sitting)
        with session.lock:
            session.record = self._records.write(replace(session.record, at=at).with_edit(entry))
            self._hang_thumb(session, sitting, entry.key)

    def _hang_thumb(self, session: Session, sitting: Sitting, key: str) -> None:
        path = sitting.edited_picture(key)
        session.thumbs[key] = self._gallery.hang(lambda: (thumbnail(_read_png(path)), "image/jpeg"))

    # Looking

    def _refresh(self, session: Session) -> None:
        """See to it that the page gets the picture of the edits that count."""
        if session.record.run is None:
            if session.photo_size is None and session.record.photo is not None:
                self._add(session, Task(lambda _: self._measure(session), None))
            return
        complete = session.photo_size is not None and len(session.thumbs) >= len({e.key for e in session.record.edits})
        if not complete or (session.key is not None and session.key not in session.patches):
            self._add(session, Task(lambda _: self._look(session), None))

    def _measure(self, session: Session) -> None:
        assert session.record.photo is not None
        height, width = self._shelf.photo(session.record.photo).shape_hw
        with session.lock:
            session.photo_size = width, height
            session.view = {**(session.view or {}), **_view_size(width, height)}

    def _look(self, session: Session) -> None:
        """Make the pictures of a session that are not there: the photo's, the edits' small ones, the patch."""
        sitting = self._sitting(session)
        if session.photo_size is None or session.view is None:
            self._hang_view(session, sitting)
        for entry in session.record.edits:
            if entry.key not in session.thumbs:
                self._hang_thumb(session, sitting, entry.key)
        key = session.key
        if key is not None and key not in session.patches:
            stored = sitting.stored(key)
            if stored is None:
                raise UsageError("The edits are not there any more: undo them, or make them again.")
            self._hang_patch(session, sitting, key, stored.value)
        self._tell(session)

    def _hang_view(self, session: Session, sitting: Sitting) -> None:
        if sitting.photo is not None:
            height, width = sitting.photo.shape_hw
        else:
            rgb = sitting.picture()
            height, width = rgb.shape[:2]
            session.view = {"url": self._gallery.hang(lambda: (png(rgb), "image/png"))}
            write_bytes(ensure_folder(self._records.folder / session.record.id) / THUMB_FILE, thumbnail(rgb))
        with session.lock:
            session.photo_size = width, height
            session.view = {**(session.view or {}), **_view_size(width, height)}

    def _hang_patch(self, session: Session, sitting: Sitting, key: str, dragged: Dragged) -> None:
        patch = sitting.patch(dragged)
        if patch is None:
            return
        content = png(patch.rgba)
        with session.lock:
            session.keep_patch(key, Shown(patch, self._gallery.hang(lambda: (content, "image/png"))))

    # Saving

    def _save(self, session: Session, request: ask.Save) -> None:
        self._idle(session)
        if not session.record.at:
            raise UsageError("There is no edit to save: make one first.")
        self._add(session, Task(lambda job: self._saved(session, job, request), "saving"))

    def _saved(self, session: Session, job: Job, request: ask.Save) -> None:
        record = session.record
        console = StudioConsole(job, _Progress(lambda progress: self._progress(session, progress), session))
        config = self._config_of(record)
        config = replace(config, blend=replace(config.blend, format=request.format, quality=request.quality))
        folder = self._records.folder / record.id
        files = save_session(record, config, folder, self._models, console)
        for file in files:
            self._offer(session, Path(file["path"]))
        with session.lock:
            session.record = self._records.write(replace(session.record, saved=tuple(files)))
            session.say(f"Saved as {files[0]['path']}.")


class _Progress:
    """Hears the steps of a preparation or a save, and passes them on a few times a second."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], session: Session) -> None:
        self._tell, self._session = tell, session
        self._told_at = 0.0

    def progress(self, stage: str, step: int, total: int, seconds_left: float | None) -> None:
        now = time.monotonic()
        if now - self._told_at >= 0.1 or step == total:
            self._told_at = now
            self._tell({"stage": stage, "step": step, "total": total, "seconds_left": seconds_left})

    def dragged(self, step: object) -> None:
        """A save makes no drags but those whose outputs have gone."""

    def warned(self, line: str) -> None:
        self._session.say(line)


def _points(request: ask.Drag | ask.Retarget) -> Callable[[Sitting], list[dict[str, Any]]]:
    return lambda sitting: [sitting.told_points(request.points)]


def _is_here(name: str) -> bool:
    try:
        return generator_path(GeneratorConfig(name=name)).is_file()
    except ModelError:
        return False


def _told(wrong: BaseException) -> str:
    """What went wrong as a sentence; an unforeseen error also leaves its traceback on standard error."""
    if isinstance(wrong, PhotodragError):
        return sentence(wrong)
    if isinstance(wrong, MemoryError) or "not enough memory" in str(wrong):
        return "There is not enough memory for this: close other sessions, or use a smaller photo or generator."
    traceback.print_exception(wrong, file=sys.stderr)
    return sentence(wrong)


def _face_facts(box: Sequence[float], landmarks: np.ndarray, shape_hw: tuple[int, int]) -> dict[str, Any]:
    quad = align_ffhq(landmarks, shape_hw, 128).quad
    return {
        "box": [round(float(value), 1) for value in box],
        "landmarks": np.round(landmarks, 2).tolist(),
        "quad": np.round(quad, 1).tolist(),
    }


def _view_size(width: int, height: int) -> dict[str, int]:
    from pipeline.studio.view import VIEW_MAX_PX

    scale = min(1.0, VIEW_MAX_PX / max(width, height))
    return {"width": max(1, round(width * scale)), "height": max(1, round(height * scale))}


def _read_png(path: Path) -> np.ndarray:
    from pipeline.pictures import read_picture

    return read_picture(path.read_bytes())[0]
