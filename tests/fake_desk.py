"""A desk without networks: it plays a studio's states and live pictures, for the tests of the web side and of the page.

Dragging copies discs of the photo to where the points are. Time is a factor: `slowness=0` does everything at once.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from data.errors import PhotoError, UsageError
from pipeline import __version__
from pipeline.edit_config import PRESETS
from pipeline.studio import messages as ask
from pipeline.studio.editing import told_edits
from pipeline.studio.uploads import Limits
from pipeline.studio.watching import Frame, Watcher

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "samples" / "astronaut.png"
SAMPLE_SIDE = 512
BOX = (179, 83, 266, 170)
QUAD = ((130, 40), (130, 220), (310, 220), (310, 40))
LANDMARKS = (
    *((179, 104), (180, 116), (181, 127), (182, 139), (185, 150), (191, 160), (200, 169), (209, 176), (220, 178)),
    *((232, 177), (243, 171), (253, 163), (260, 154), (265, 143), (267, 131), (270, 120), (272, 108)),
    *((186, 94), (192, 88), (200, 87), (209, 89), (216, 92), (236, 94), (244, 91), (252, 91), (260, 93), (265, 99)),
    *((226, 103), (225, 111), (225, 119), (225, 127), (214, 131), (219, 132), (224, 134), (230, 133), (234, 132)),
    *((195, 101), (200, 98), (207, 98), (212, 104), (206, 104), (200, 104)),
    *((238, 105), (244, 100), (250, 100), (255, 104), (250, 106), (244, 106)),
    *((201, 139), (209, 139), (218, 139), (223, 141), (229, 140), (237, 140), (245, 141)),
    *((237, 151), (229, 155), (222, 156), (216, 155), (208, 150)),
    *((203, 141), (217, 143), (223, 144), (229, 143), (242, 142), (229, 150), (223, 150), (217, 149)),
)
"""Of the sample photo's face; other photos get them in proportion."""
VIEW_SIDE = 1600
STEPS = 60
DRAG_SECONDS = 3.0
PREPARE_SECONDS = 2.0
DISC = 22


@dataclass
class Run:
    """What a session computes now."""

    kind: str
    label: str
    pairs: ask.Pairs
    paused: bool = False
    steps_allowed: int = 0
    stopped: bool = False
    since: float = field(default_factory=time.monotonic)


class Session:
    """One photo's states; `told` is called with each of them."""

    def __init__(self, id: str, name: str, image: Image.Image, generator: str, generated: bool) -> None:
        self.id, self.name, self.generator, self.generated = id, name, generator, generated
        self.image = image.convert("RGB")
        self.changed = threading.Condition(threading.RLock())
        self.watchers: list[Watcher] = []
        self.revision = 0
        self.phase = "opening"
        self.face: int | None = None
        self.prepared = False
        self.progress: dict[str, Any] | None = None
        self.sentence: str | None = None
        self.edits: list[dict[str, Any]] = []
        self.at = 0
        self.run: Run | None = None
        self.patch: dict[str, Any] | None = None
        self.mask: dict[str, Any] | None = None
        self.saved: list[dict[str, Any]] = []
        self.view_url = ""
        self.frames = 0

    @property
    def factor(self) -> float:
        """Pixels of this photo for one of the sample's."""
        return min(self.image.size) / SAMPLE_SIDE

    def scaled(self, points: Any) -> list[list[float]]:
        """Points of the sample photo, in this one."""
        return [[x * self.factor, y * self.factor] for x, y in points]

    def state(self) -> dict[str, Any]:
        """What the page is told."""
        width, height = self.image.size
        x0, y0, x1, y1 = (value * self.factor for value in BOX)
        run = self.run
        return {
            "is": "state",
            "session": self.id,
            "revision": self.revision,
            "name": self.name,
            "generated": self.generated,
            "generator": self.generator,
            "photo": None
            if self.phase == "opening"
            else {
                "width": width,
                "height": height,
                "name": self.name,
                "view": {"url": self.view_url, "width": width, "height": height},
            },
            "faces": []
            if self.phase == "opening"
            else [
                {
                    "box": [x0, y0, x1, y1],
                    "landmarks": self.scaled(LANDMARKS),
                    "quad": self.scaled(QUAD),
                    "prepared": self.prepared,
                }
            ],
            "face": self.face,
            "phase": self.phase,
            "waiting": 0,
            "progress": self.progress,
            "sentence": self.sentence,
            "failed": self.phase == "failed",
            "edits": [dict(edit) for edit in self.edits],
            "at": self.at,
            "can_undo": self.at > 0 and run is None,
            "can_redo": self.at < len(self.edits) and run is None,
            "running": None
            if run is None
            else {
                "kind": run.kind,
                "label": run.label,
                "points": [list(row) for row in run.pairs],
                "paused": run.paused,
            },
            "patch": self.patch,
            "mask": self.mask,
            "saved": list(self.saved),
        }

    def tell(self, **changes: Any) -> None:
        """Change the session and send its state to all who watch."""
        with self.changed:
            for key, value in changes.items():
                setattr(self, key, value)
            self.revision += 1
            state = self.state()
            watchers = list(self.watchers)
            self.changed.notify_all()
        for watcher in watchers:
            watcher.state(state)


class FakeDesk:
    """Answers like the studio's desk; `log` holds every request in the order in which it was done."""

    def __init__(self, folder: Path, slowness: float = 1.0, limits: Limits | None = None) -> None:
        self._folder = folder
        self._slowness = slowness
        self._limits = limits or Limits()
        self._lock = threading.RLock()
        self.photos: dict[str, tuple[Path, str]] = {}
        self.sessions: dict[str, Session] = {}
        self.pictures: dict[str, tuple[bytes, str]] = {}
        self.downloads: dict[str, tuple[Path, str]] = {}
        self.log: list[ask.Request] = []
        self.left: list[Watcher] = []
        self.before_do: Callable[[ask.Request], None] = lambda request: None
        self.before_end: Callable[[], object] = lambda: None
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def hello(self) -> dict[str, Any]:
        recent = [
            {"session": one.id, "name": one.name, "thumb": one.view_url, "edits": one.at, "when": time.time()}
            for one in self.sessions.values()
        ]
        return {
            "version": __version__,
            "presets": [{"name": name, "label": name.replace("_", " ").capitalize()} for name in PRESETS],
            "directions": [{"name": f"pca:{n}", "label": f"Component {n}"} for n in range(8)],
            "generators": [{"name": "embedded", "here": True}, {"name": "ffhq-256", "here": False}],
            "generator": "embedded",
            "recent": recent,
            "limits": {"bytes": self._limits.bytes, "pixels": self._limits.pixels},
            "formats": list(ask.FORMATS),
        }

    def add_photo(self, path: Path, name: str) -> str:
        content = path.read_bytes()
        id = hashlib.sha256(content).hexdigest()[:32]
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except Exception as error:
            raise PhotoError(
                f"The photo {name!r} is damaged and cannot be decoded: give an intact copy of it."
            ) from error
        self._folder.mkdir(parents=True, exist_ok=True)
        path.rename(self._folder / id)
        with self._lock:
            self.photos[id] = (self._folder / id, name)
        return id

    def open_file(self, path: Path) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        copy = self._folder / "copy"
        shutil.copyfile(path, copy)
        watcher = Recorder()
        self.do(ask.Open(self.add_photo(copy, path.name)), watcher)
        self.leave(watcher)
        return str(watcher.states[0]["session"])

    def do(self, request: ask.Request, watcher: Watcher) -> None:
        self.before_do(request)
        with self._lock:
            self.log.append(request)
        if isinstance(request, ask.Open):
            self._open(request, watcher)
        elif isinstance(request, ask.Sample):
            self._new(f"seed {request.seed}", Image.open(SAMPLE), request.generator or "embedded", True, watcher)
        else:
            assert not isinstance(request, ask.Shown)
            session = self.sessions.get(request.session)
            if session is None:
                raise UsageError("There is no such session: open the photo again.")
            getattr(self, f"_{type(request).__name__.lower()}")(session, request, watcher)

    def leave(self, watcher: Watcher) -> None:
        self._unwatch(watcher)
        with self._lock:
            self.left.append(watcher)

    def picture(self, id: str) -> tuple[bytes, str] | None:
        return self.pictures.get(id)

    def region(self, session: str, which: str, box: tuple[int, int, int, int], scale: float) -> tuple[bytes, str]:
        if session not in self.sessions:
            raise UsageError("There is no such session: open the photo again.")
        found = self.sessions[session]
        image = found.image if which == "original" else self._drawn(found)[0]
        part = image.crop(box)
        part = part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))
        return _encoded(part, "PNG"), "image/png"

    def download(self, id: str) -> tuple[Path, str] | None:
        return self.downloads.get(id)

    def close(self) -> None:
        self._closed.set()
        for session in self.sessions.values():
            with session.changed:
                if session.run is not None:
                    session.run.stopped = True
                session.changed.notify_all()
        for thread in self._threads:
            thread.join()

    # What pages ask ---------------------------------------------------------------------------------------------------

    def _open(self, request: ask.Open, watcher: Watcher) -> None:
        if request.photo not in self.photos:
            raise UsageError("There is no such photo: upload it again.")
        path, name = self.photos[request.photo]
        id = f"s{request.photo[:16]}"
        if id in self.sessions and not request.anew:
            self._watch(self.sessions[id], ask.Watch(id), watcher)
            return
        self._new(name, Image.open(path), request.generator or "embedded", False, watcher, id)

    def _new(
        self, name: str, image: Image.Image, generator: str, generated: bool, watcher: Watcher, id: str | None = None
    ) -> None:
        with self._lock:
            if id is None or id in self.sessions:
                id = f"session{len(self.sessions):04d}"
            session = self.sessions[id] = Session(id, name, image, generator, generated)
        self._watch(session, ask.Watch(id), watcher)

        def opening() -> None:
            session.view_url = self._picture(session.image, "WEBP")
            session.face = 0
            self._prepare(session)

        self._start(opening)

    def _watch(self, session: Session, request: ask.Watch, watcher: Watcher) -> None:
        self._unwatch(watcher)
        with session.changed:
            session.watchers.append(watcher)
        watcher.state(session.state())

    def _unwatch(self, watcher: Watcher) -> None:
        for session in list(self.sessions.values()):
            with session.changed:
                session.watchers = [one for one in session.watchers if one is not watcher]

    def _face(self, session: Session, request: ask.Face, watcher: Watcher) -> None:
        if request.face != 0:
            raise UsageError(f"Face {request.face} is not in this photo: allowed is 0.")
        session.face = 0
        self._start(lambda: self._prepare(session))

    def _generator(self, session: Session, request: ask.Generator, watcher: Watcher) -> None:
        self._new(session.name, session.image, request.generator, session.generated, watcher)

    def _drag(self, session: Session, request: ask.Drag, watcher: Watcher) -> None:
        self._edit(session, Run("points", f"{len(request.points)} points", request.points, request.paused))

    def _preset(self, session: Session, request: ask.Preset, watcher: Watcher) -> None:
        by = 8 * session.factor * request.strength
        corners = [session.scaled(LANDMARKS)[n] for n in (48, 54)]
        pairs = tuple((x, y, x + (by if n else -by), y - by / 2) for n, (x, y) in enumerate(corners))
        self._edit(session, Run("preset", f"{request.preset} {request.strength:g}", pairs))

    def _direction(self, session: Session, request: ask.Direction, watcher: Watcher) -> None:
        by = 8 * session.factor * request.strength
        x, y = session.scaled(LANDMARKS)[30]
        self._edit(session, Run("direction", f"{request.direction} {request.strength:g}", ((x, y, x + by, y),)))

    def _retarget(self, session: Session, request: ask.Retarget, watcher: Watcher) -> None:
        with session.changed:
            run = self._running(session)
            if len(request.points) != len(run.pairs):
                raise UsageError("A running drag keeps its points: stop it to place others.")
            run.pairs = request.points
        session.tell()

    def _pause(self, session: Session, request: ask.Pause, watcher: Watcher) -> None:
        self._running(session).paused = True
        session.tell(phase="paused")

    def _go(self, session: Session, request: ask.Go, watcher: Watcher) -> None:
        self._running(session).paused = False
        session.tell(phase="dragging")

    def _step(self, session: Session, request: ask.Step, watcher: Watcher) -> None:
        with session.changed:
            self._running(session).steps_allowed += 1
            session.changed.notify_all()

    def _stop(self, session: Session, request: ask.Stop, watcher: Watcher) -> None:
        with session.changed:
            if session.run is not None:
                session.run.stopped = True
            session.changed.notify_all()

    def _undo(self, session: Session, request: ask.Undo, watcher: Watcher) -> None:
        self._count(session, session.at - 1)

    def _redo(self, session: Session, request: ask.Redo, watcher: Watcher) -> None:
        self._count(session, session.at + 1)

    def _jump(self, session: Session, request: ask.Jump, watcher: Watcher) -> None:
        self._count(session, request.at)

    def _mask(self, session: Session, request: ask.Mask, watcher: Watcher) -> None:
        if request.png is None:
            session.tell(mask=None)
            return
        try:
            with Image.open(io.BytesIO(request.png), formats=("PNG",)) as image:
                if max(image.size) > 2048:
                    raise UsageError("The mask is larger than 2048 pixels: send a smaller one.")
                url = self._picture(image.convert("L"), "PNG")
        except (OSError, Image.DecompressionBombError) as error:
            raise UsageError("The mask is no PNG.") from error
        session.tell(mask={"url": url, "revision": session.revision + 1})

    def _save(self, session: Session, request: ask.Save, watcher: Watcher) -> None:
        session.tell(phase="saving")

        def saving() -> None:
            self._closed.wait(self._slowness / 2)
            name = f"{Path(session.name).stem or 'photo'}_edited.png"
            content = _encoded(self._drawn(session)[0], "PNG")
            id = hashlib.sha256(content + name.encode()).hexdigest()[:32]
            path = self._folder / f"{id}.png"
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.downloads[id] = (path, name)
            row = {"kind": "photo", "name": name, "url": f"/downloads/{id}", "path": str(path)}
            session.tell(phase="ready", saved=[*session.saved, row], sentence=f"Saved {name}.")

        self._start(saving)

    def _replay(self, session: Session, request: ask.Replay, watcher: Watcher) -> None:
        if "photodrag_" in request.recipe:  # a real one is read as the studio reads it; the page's tests use less
            told_edits(request.recipe)
        elif "edits" not in request.recipe:
            raise UsageError("This is no recipe: give a .photodrag.json or an edits.json.")
        self._preset(session, ask.Preset(session.id, "smile", 1.0), watcher)

    def _forget(self, session: Session, request: ask.Forget, watcher: Watcher) -> None:
        self.sessions.pop(session.id, None)

    # What it plays ----------------------------------------------------------------------------------------------------

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def _prepare(self, session: Session) -> None:
        session.tell(phase="preparing", progress={"stage": "align", "step": 0, "total": 1, "seconds_left": None})
        for stage, share in (("align", 0.1), ("invert", 0.6), ("tune", 0.3)):
            for step in range(10):
                left = PREPARE_SECONDS * share * (1 - step / 10) * self._slowness
                session.tell(progress={"stage": stage, "step": step, "total": 10, "seconds_left": left})
                if self._closed.wait(PREPARE_SECONDS * share / 10 * self._slowness):
                    return
        session.prepared = True
        session.tell(phase="ready", progress=None, sentence="The face is ready to be dragged.")

    def _edit(self, session: Session, run: Run) -> None:
        with session.changed:
            if session.phase != "ready" or session.run is not None:
                raise UsageError("The face is not ready yet: wait until what runs has ended, or stop it.")
            session.run = run
        session.tell(phase="paused" if run.paused else "dragging", sentence=None)
        self._start(lambda: self._drag_on(session, run))

    def _drag_on(self, session: Session, run: Run) -> None:
        at = [(x, y) for x, y, _, _ in run.pairs]
        tracks = [[[x, y]] for x, y in at]
        steps = 0
        self._show(session, run, at, 0)
        while steps < STEPS and not self._stopped_waiting(session, run):
            steps += 1
            share = 1 / (STEPS - steps + 1)
            at = [
                (x + (row[2] - x) * share, y + (row[3] - y) * share) for (x, y), row in zip(at, run.pairs, strict=True)
            ]
            for track, (x, y) in zip(tracks, at, strict=True):
                track.append([x, y])
            session.progress = {"stage": "edit", "step": steps, "total": STEPS, "seconds_left": None}
            self._show(session, run, at, steps)
            if steps % 10 == 0:
                session.tell()
            self._closed.wait(DRAG_SECONDS / STEPS * self._slowness)
        self.before_end()
        if not self._closed.is_set():
            self._finish(session, run, at, tracks, steps)

    def _stopped_waiting(self, session: Session, run: Run) -> bool:
        """Whether the edit was stopped, once it may make another step."""
        with session.changed:
            session.changed.wait_for(
                lambda: run.stopped or not run.paused or run.steps_allowed > 0 or self._closed.is_set()
            )
            if run.paused and run.steps_allowed:
                run.steps_allowed -= 1
            return run.stopped or self._closed.is_set()

    def _show(self, session: Session, run: Run, at: list[tuple[float, float]], step: int) -> None:
        if not any(watcher.ready for watcher in session.watchers):
            return
        begun = time.monotonic()
        moved = [(x, y, *now) for (x, y, _, _), now in zip(run.pairs, at, strict=True)]
        image, box = self._drawn(session, moved)
        x0, y0, x1, y1 = box
        content = _encoded(image.crop(box), "WEBP")
        session.frames += 1
        left = [((row[2] - x) ** 2 + (row[3] - y) ** 2) ** 0.5 for row, (x, y) in zip(run.pairs, at, strict=True)]
        header = {
            "session": session.id,
            "number": session.frames,
            "step": step,
            "total": STEPS,
            "distance_px": sum(left) / len(left),
            "points": [list(point) for point in at],
            "x": x0,
            "y": y0,
            "w": x1 - x0,
            "h": y1 - y0,
            "type": "image/webp",
            "first": step == 0,
            "made_ms": round(1000 * (time.monotonic() - begun)),
            "since_start_ms": round(1000 * (time.monotonic() - run.since)),
        }
        for watcher in list(session.watchers):
            watcher.frame(Frame(header, content))

    def _finish(
        self, session: Session, run: Run, at: list[tuple[float, float]], tracks: list[list[list[float]]], steps: int
    ) -> None:
        moved = [[x, y, *now] for (x, y, _, _), now in zip(run.pairs, at, strict=True)]
        edit = {
            "kind": run.kind,
            "label": run.label,
            "thumb": "",
            "stop": "stopped" if run.stopped else "arrived",
            "words": "You stopped it." if run.stopped else "Every point is where it should be.",
            "steps": steps,
            "seconds": round(time.monotonic() - run.since, 2),
            "points": moved,
            "tracks": tracks,
        }
        with session.changed:
            session.edits = [*session.edits[: session.at], edit]
            session.at = len(session.edits)
            session.run = None
        image, box = self._drawn(session)
        edit["thumb"] = self._picture(image.crop(box).resize((96, 96)), "WEBP")
        self._settle(session, edit["words"])

    def _count(self, session: Session, at: int) -> None:
        if session.run is not None or not 0 <= at <= len(session.edits):
            raise UsageError(f"There are {len(session.edits)} edits: allowed is 0 to {len(session.edits)}.")
        session.at = at
        self._settle(session, f"{at} of {len(session.edits)} edits.")

    def _settle(self, session: Session, words: str) -> None:
        """Show the result of the edits that count."""
        patch = None
        if session.at:
            image, box = self._drawn(session)
            x0, y0, x1, y1 = box
            url = self._picture(image.crop(box).convert("RGBA"), "PNG")
            patch = {"url": url, "x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0, "sharp": True}
        session.tell(phase="ready", progress=None, patch=patch, sentence=words)

    def _drawn(self, session: Session, more: Any = ()) -> tuple[Image.Image, tuple[int, int, int, int]]:
        """The photo with discs of it moved, and the part of it in which they may be."""
        image = session.image.copy()
        radius = round(DISC * session.factor)
        spots = [row for edit in session.edits[: session.at] for row in edit["points"]] + list(more)
        disc = Image.new("L", (2 * radius, 2 * radius))
        ImageDraw.Draw(disc).ellipse((2, 2, 2 * radius - 2, 2 * radius - 2), fill=255)
        disc = disc.filter(ImageFilter.GaussianBlur(radius / 6))
        for x, y, x2, y2 in spots:
            x, y = round(x) - radius, round(y) - radius
            image.paste(
                session.image.crop((x, y, x + 2 * radius, y + 2 * radius)),
                (round(x2) - radius, round(y2) - radius),
                disc,
            )
        corners = [*session.scaled(QUAD), *([x2, y2] for _, _, x2, y2 in spots)]
        x0, y0 = (max(0, round(min(one[n] for one in corners)) - 2 * radius) for n in (0, 1))
        x1, y1 = (min(image.size[n], round(max(one[n] for one in corners)) + 2 * radius) for n in (0, 1))
        return image, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))

    def _picture(self, image: Image.Image, format: str) -> str:
        content = _encoded(image, format)
        id = hashlib.sha256(content).hexdigest()[:32]
        self.pictures[id] = (content, f"image/{format.lower()}")
        return f"/pictures/{id}"

    def _running(self, session: Session) -> Run:
        if session.run is None:
            raise UsageError("Nothing runs in this session: begin an edit first.")
        return session.run


def _encoded(image: Image.Image, format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


class Recorder:
    """A watcher that keeps what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.ready = True
        self.states: list[Mapping[str, Any]] = []
        self.frames: list[Frame] = []
        self.troubles: list[str] = []
        self._told = threading.Condition()

    def state(self, state: Mapping[str, Any]) -> None:
        with self._told:
            self.states.append(state)
            self._told.notify_all()

    def frame(self, frame: Frame) -> None:
        with self._told:
            self.frames.append(frame)
            self._told.notify_all()

    def trouble(self, sentence: str, session: str | None) -> None:
        with self._told:
            self.troubles.append(sentence)
            self._told.notify_all()

    def wait_for(self, what: Callable[[Mapping[str, Any]], bool], seconds: float = 20) -> Mapping[str, Any]:
        """The newest state, as soon as `what` is true of it."""
        with self._told:
            assert self._told.wait_for(lambda: bool(self.states) and what(self.states[-1]), seconds), self.states[-1:]
            return self.states[-1]
