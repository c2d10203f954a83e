"""A session as it is now: its record, what is being computed, and all that a page is told of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.studio.jobs import Job
from pipeline.studio.record import EditEntry, Record, new_id
from pipeline.view import Patch

WORDS = {
    "arrived": "Everything is where it should be.",
    "cap": "It used up its steps; the nearest that it came is kept.",
    "stalled": "It went no further; the nearest that it came is kept.",
    "oscillating": "It swung to and fro; the nearest that it came is kept.",
    "lost": "What was dragged could not be followed any more; the nearest that it came is kept.",
    "diverged": "Its steps led to what is no picture; the nearest that it came is kept.",
    "stopped": "Stopped by hand; the nearest that it came is kept.",
}
"""What each stop reason says to a person."""
MOST_PATCHES = 4
"""Of each session: a patch of a large face is 30 MB."""
EDITING = ("dragging", "paused")


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """A patch under its address."""

    patch: Patch
    url: str


@dataclass(frozen=True, slots=True)
class Running:
    """The edit that is being made: its kind, its name, its points in photo pixels."""

    kind: str
    label: str
    points: Sequence[Sequence[float]] = ()


@dataclass(eq=False, slots=True)
class Task:
    """A piece of work that waits for the one before it.

    phase: what the session is in meanwhile, None for work that nobody needs to wait for. paused: whether it begins
    held, None: if the one before it was. job: what does it, from when it is queued.
    """

    work: Callable[[Job], None]
    phase: str | None
    running: Running | None = None
    paused: bool | None = False
    job: Job | None = None


@dataclass(eq=False)
class Session:
    """What is known of a session in memory; every change happens under the lock, which all sessions share.

    tasks: what is to be done, the first of which has begun.
    """

    record: Record
    phase: str
    lock: threading.RLock
    revision: int = 0
    sentence: str | None = None
    failed: bool = False
    progress: dict[str, Any] | None = None
    running: Running | None = None
    tasks: list[Task] = field(default_factory=list)
    view: dict[str, Any] | None = None
    mask_url: str | None = None
    photo_size: tuple[int, int] | None = None
    patches: OrderedDict[str, Shown | None] = field(default_factory=OrderedDict)
    thumbs: dict[str, str] = field(default_factory=dict)
    downloads: dict[str, str] = field(default_factory=dict)

    @property
    def awaited(self) -> Task | None:
        """The work that a page waits for and steers, whether it has begun or not; None when there is none."""
        return next((task for task in self.tasks if task.phase is not None), None)

    def enter(self, phase: str) -> None:
        """The awaited work goes on in another phase."""
        if self.awaited is not None:
            self.awaited.phase = phase
        self.phase = phase

    @property
    def job(self) -> Job | None:
        """What does that work."""
        return None if self.awaited is None else self.awaited.job

    @property
    def busy(self) -> bool:
        """Whether something runs or waits that an edit must not overtake."""
        return self.phase in ("opening", "preparing", "saving", *EDITING)

    @property
    def key(self) -> str | None:
        """The key of the output of the edits that count; None without one."""
        return self.record.edits[self.record.at - 1].key if self.record.at else None

    @property
    def resting_phase(self) -> str:
        """The phase when nothing runs."""
        if self.record.run is not None:
            return "ready"
        return "choosing" if self.record.faces else "failed"

    def say(self, sentence: str | None, failed: bool = False) -> None:
        """What a page shows as the last thing that happened."""
        self.sentence, self.failed = sentence, failed

    def keep_patch(self, key: str, shown: Shown | None) -> list[Shown]:
        """Remember how a row of edits looks, None when it changes nothing; those that are forgotten for it."""
        self.patches[key] = shown
        self.patches.move_to_end(key)
        return self.drop_patches(MOST_PATCHES)

    def drop_patches(self, most: int = 0) -> list[Shown]:
        """Keep at most so many, the last ones; the others."""
        dropped = [self.patches.popitem(last=False)[1] for _ in range(len(self.patches) - most)]
        return [shown for shown in dropped if shown is not None]

    def state(self) -> dict[str, Any]:
        """All of it as JSON, as a page is told."""
        with self.lock:
            self.revision += 1
            record = self.record
            return {
                "is": "state",
                "session": record.id,
                "revision": self.revision,
                "name": record.name,
                "generated": record.photo is None,
                "generator": record.generator,
                "photo": self._photo(),
                "faces": self._faces(),
                "face": record.face,
                "phase": "paused" if self.phase == "dragging" and self._held else self.phase,
                "waiting": 0 if self.job is None else self.job.waiting,
                "progress": self.progress,
                "sentence": self.sentence,
                "failed": self.failed,
                "edits": [self._edit(entry, number == record.at) for number, entry in enumerate(record.edits, 1)],
                "at": record.at,
                "can_undo": record.at > 0,
                "can_redo": record.at < len(record.edits),
                "running": self._running(),
                "patch": self._patch(),
                "mask": None if self.mask_url is None else {"url": self.mask_url, "revision": self.revision},
                "saved": [self._saved(facts) for facts in record.saved],
            }

    @property
    def _held(self) -> bool:
        return self.job is not None and self.job.paused

    def _photo(self) -> dict[str, Any] | None:
        if self.photo_size is None or self.view is None:
            return None
        width, height = self.photo_size
        return {"width": width, "height": height, "view": self.view, "name": self.record.name}

    def _faces(self) -> list[dict[str, Any]]:
        record = self.record
        ready = [record.run is not None and number == record.face for number in range(len(record.faces))]
        return [{**face, "prepared": prepared} for face, prepared in zip(record.faces, ready, strict=True)]

    def _edit(self, entry: EditEntry, last: bool) -> dict[str, Any]:
        """An edit as a page is told; the ways of its handles only of the last that counts."""
        told = {name: getattr(entry, name) for name in ("kind", "label", "stop", "steps", "seconds", "points")}
        return {
            **told,
            "tracks": entry.tracks if last else [],
            "words": WORDS.get(entry.stop, entry.stop),
            "thumb": self.thumbs.get(entry.key),
        }

    def _running(self) -> dict[str, Any] | None:
        if self.running is None:
            return None
        points = [list(pair) for pair in self.running.points]
        return {"kind": self.running.kind, "label": self.running.label, "points": points, "paused": self._held}

    def _patch(self) -> Mapping[str, Any] | None:
        shown = None if self.key is None else self.patches.get(self.key)
        if shown is None:
            return None
        x, y, w, h = shown.patch.rect
        return {"url": shown.url, "x": x, "y": y, "w": w, "h": h, "sharp": shown.patch.sharp}

    def _saved(self, facts: Mapping[str, str]) -> dict[str, str]:
        known = {path: name for name, path in self.downloads.items()}
        name = known.get(facts["path"]) or new_id()
        self.downloads[name] = facts["path"]
        return {**facts, "url": f"/downloads/{name}"}
