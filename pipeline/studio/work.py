"""What sessions compute: faces found and prepared, edits made, pictures of them, results saved. Jobs call this."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data.alignment import align_ffhq
from data.errors import UsageError
from data.landmarks import find_faces
from pipeline.artifacts import write_bytes
from pipeline.edits import Told
from pipeline.models import Models
from pipeline.outputs import Dragged
from pipeline.painted import painted_json
from pipeline.pictures import read_picture
from pipeline.run import run
from pipeline.schema import GeneratorConfig, JobInfo, RunConfig
from pipeline.sitting import Sitting
from pipeline.studio.audience import Audience
from pipeline.studio.console import StudioConsole
from pipeline.studio.editing import Made, edit_entry
from pipeline.studio.gallery import Gallery, Picture
from pipeline.studio.jobs import Job
from pipeline.studio.live import Live, Progress
from pipeline.studio.messages import Save
from pipeline.studio.record import Record, Records
from pipeline.studio.saving import save_session
from pipeline.studio.session import Running, Session, Shown
from pipeline.studio.shelf import Shelf
from pipeline.view import jpeg, png, thumbnail, view_size, whole_view

MOST_SITTINGS = 3
"""Prepared faces that are held in memory; the others are read again from their run folders."""
ASKED_SIZE = 128
"""Of crops, where only their place is told."""

Asked = Callable[[Sitting], list[Told]]
"""The edits that a page asks for, on a prepared face."""


@dataclass(eq=False)
class Work:
    """The bodies of jobs, and what they share.

    on_dropped: is told the session whose prepared face made room for another's.
    """

    config: RunConfig
    lock: threading.RLock
    records: Records
    shelf: Shelf
    gallery: Gallery
    audience: Audience
    on_dropped: Callable[[str], None]
    models: Models = field(default_factory=Models)
    _sittings: OrderedDict[str, Sitting] = field(default_factory=OrderedDict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def config_of(self, record: Record) -> RunConfig:
        """The settings of a session's runs, without a photo."""
        own = record.generator == "file"
        generator = self.config.generator if own else GeneratorConfig(name=record.generator)
        return replace(self.config, photo=None, from_run=None, generator=generator, progress=False)

    def prepare(self, session: Session, job: Job) -> None:
        """Find the faces of a photo, and take the chosen one through align, invert and tune; or draw the sample."""
        record = session.record
        config = replace(self.config_of(record), measure=replace(self.config.measure, metrics=False, editability=[]))
        if record.photo is None:
            sample = replace(config.sample, seed=record.seed, psi=record.psi)
            config = replace(config, stages=["sample"], sample=sample, save=None)
        else:
            face = self._chosen_face(session, record.photo)
            if face is None:
                return
            align, path = replace(config.align, face=str(face)), self.shelf.facts(record.photo).path
            config = replace(config, photo=path, stages=["align", "invert", "tune"], align=align, save=None)
        with self.lock:
            session.enter("preparing")
        self.audience.progress(session, {"stage": "align", "step": 0, "total": 1, "seconds_left": None})
        outcome = run(config, JobInfo(f"studio-{record.id}", 0), self.models, self._console(session, job))
        with self.lock:
            session.record = self.records.write(replace(session.record, run=str(outcome.run_dir)))
            session.say(None)
        self.look(session)
        self._sitting(session).warm()

    def _console(self, session: Session, job: Job) -> StudioConsole:
        progress = Progress(lambda told: self.audience.progress(session, told), session.say)
        return StudioConsole(job, progress)

    def _chosen_face(self, session: Session, name: str) -> int | None:
        """The face to prepare; None when the person has to choose one."""
        photo = self.shelf.photo(name)
        self._sized(session, *photo.shape_hw)
        self.audience.tell(session)
        record = session.record
        if not record.faces and self.config.align.method == "ffhq":
            faces = find_faces(photo.to_u8(), self.config.align.upsample_max)
            record = replace(record, faces=tuple(_facts(f.box, f.landmarks, photo.shape_hw) for f in faces))
        write_bytes(self.records.thumb(record.id), thumbnail(whole_view(photo)))
        choose = record.face is None and len(record.faces) > 1
        with self.lock:
            if choose:
                session.say(f"{len(record.faces)} faces were found: choose one.")
            session.record = self.records.write(record if choose else replace(record, face=record.face or 0))
        return session.record.face

    def measure(self, session: Session) -> None:
        """The size of a photo whose face is not chosen yet."""
        assert session.record.photo is not None
        self._sized(session, *self.shelf.photo(session.record.photo).shape_hw)

    def _sized(self, session: Session, height: int, width: int) -> None:
        with self.lock:
            session.photo_size = width, height
            size = view_size(width, height)
            session.view = {**(session.view or {}), "width": size[0], "height": size[1]}

    def edit(self, session: Session, job: Job, running: Running, asked: Asked, began: float) -> None:
        """Make edits behind those that count, one after another, each kept as soon as it is made.

        began: when they were asked for, in `time.monotonic` seconds.
        """
        sitting = self._sitting(session)
        mask = self.records.mask(session.record.id)
        for told in asked(sitting):
            if mask is not None and "mask" not in told:
                told = {**told, "mask": painted_json(mask, sitting.photo_sha256)}
            before, started = sitting.row(session.record.told), time.monotonic()
            live = Live(
                session=session.record.id,
                sitting=sitting,
                row=[*before, *sitting.row([told])],
                began=began,
                watchers=lambda: self.audience.of(session),
                next_number=lambda: next(self._numbers),
                progress_to=Progress(lambda told: self.audience.progress(session, told), session.say),
                stepping=lambda: job.paused,
            )
            made = sitting.edit(before, told, StudioConsole(job, live), lambda: self._storing(session))
            if made is None or job.given_up:
                session.say("Nothing was changed.")
                break
            self._keep(session, sitting, Made(running, *made, time.monotonic() - started), len(before))
            if job.ending:
                break
        self.look(session)

    def _storing(self, session: Session) -> None:
        """The edit is made; what is left are its video and the photo's picture."""
        self.audience.progress(session, {"stage": "blend", "step": 0, "total": 1, "seconds_left": None})

    def _keep(self, session: Session, sitting: Sitting, made: Made, at: int) -> None:
        entry = edit_entry(made, sitting)
        with self.lock:
            session.record = self.records.write(replace(session.record, at=at).with_edit(entry))
            self._hang_thumb(session, sitting, entry.key)

    def _hang_thumb(self, session: Session, sitting: Sitting, key: str) -> None:
        """The photo's face as edited where that was made, else what the generator draws."""
        small, drawn = self.records.thumb(session.record.id, key), sitting.edited_picture(key)

        def make() -> Picture:
            content = small.read_bytes() if small.is_file() else thumbnail(read_picture(drawn.read_bytes())[0])
            return content, "image/jpeg"

        session.thumbs[key] = self.gallery.hang(make)

    def look(self, session: Session) -> None:
        """Make the pictures of a session that are not there: the photo's, the edits' small ones, the patch."""
        sitting = self._sitting(session)
        if session.photo_size is None:
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
        self.audience.tell(session)

    def _hang_view(self, session: Session, sitting: Sitting) -> None:
        if sitting.photo is not None:
            self._sized(session, *sitting.photo.shape_hw)
            return
        rgb = sitting.picture()
        write_bytes(self.records.thumb(session.record.id), thumbnail(rgb))
        with self.lock:
            session.view = {"url": self.gallery.hang(lambda: (png(rgb), "image/png"))}
            self._sized(session, *rgb.shape[:2])

    def hang_photo(self, session: Session) -> None:
        """Give the view of a session's photo its address."""
        name = session.record.photo
        if name is not None:
            session.view = {"url": self.gallery.hang(lambda: (jpeg(whole_view(self.shelf.photo(name))), "image/jpeg"))}

    def _hang_patch(self, session: Session, sitting: Sitting, key: str, dragged: Dragged) -> None:
        patch, shown = sitting.patch(dragged), None
        if patch is not None:
            content = png(patch.rgba)
            shown = Shown(patch, self.gallery.hang(lambda: (content, "image/png")))
        small = sitting.small_picture(patch)
        if small is not None:
            for path in (self.records.thumb(session.record.id, key), self.records.thumb(session.record.id)):
                write_bytes(path, thumbnail(small))
        with self.lock:
            self._take_down(session.keep_patch(key, shown))
            self._hang_thumb(session, sitting, key)

    def _take_down(self, patches: Sequence[Shown]) -> None:
        for shown in patches:
            self.gallery.take_down(shown.url)

    def let_go(self, session: Session) -> None:
        """Free the memory of a session that no page watches; what is on the disk stays."""
        with self.lock:
            self._sittings.pop(session.record.id, None)
            self._take_down(session.drop_patches())

    def save(self, session: Session, job: Job, request: Save) -> None:
        """Blend the edits into the photo and offer what comes of it."""
        record = session.record
        config = self.config_of(record)
        config = replace(config, blend=replace(config.blend, format=request.format, quality=request.quality))
        folder = self.records.folder / record.id
        files = save_session(record, config, folder, self.models, self._console(session, job))
        with self.lock:
            session.record = self.records.write(replace(session.record, saved=tuple(files)))
            session.say(f"Saved as {files[0]['path']}.")

    def forget(self, name: str) -> None:
        """Let go of what is held in memory of a session."""
        with self.lock:
            self._sittings.pop(name, None)

    def _sitting(self, session: Session) -> Sitting:
        """The prepared face of a session, read when it is not at hand."""
        record = session.record
        if record.run is None:
            raise UsageError("The face is not prepared yet: choose it first.")
        with self.lock:
            sitting = self._sittings.get(record.id)
            if sitting is not None:
                self._sittings.move_to_end(record.id)
                return sitting
        photo = None if record.photo is None else self.shelf.photo(record.photo)
        sitting = Sitting(self.config_of(record), Path(record.run), photo, self.models)
        with self.lock:
            self._sittings[record.id] = sitting
            while len(self._sittings) > MOST_SITTINGS:
                self.on_dropped(self._sittings.popitem(last=False)[0])
        return sitting


def _facts(box: Sequence[float], landmarks: np.ndarray, shape_hw: tuple[int, int]) -> dict[str, Any]:
    """A face as pages are told of it, in photo pixels."""
    quad = align_ffhq(landmarks, shape_hw, ASKED_SIZE).quad
    return {
        "box": [round(float(value), 1) for value in box],
        "landmarks": np.round(landmarks, 2).tolist(),
        "quad": np.round(quad, 1).tolist(),
    }
