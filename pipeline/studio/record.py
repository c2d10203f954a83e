"""What a studio keeps on the disk of its sessions, so that a restart, or a page that comes back, loses nothing."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from data.errors import UsageError
from pipeline.artifacts import DamagedFilesError, ensure_folder, read_json, write_bytes, write_json
from pipeline.edits import Told, check_edit

FORMAT = 1
FOLDER = "studio"
SESSION_FILE = "session.json"
MASK_FILE = "mask.png"
THUMB_FILE = "thumb.jpg"


@dataclass(frozen=True, slots=True)
class EditEntry:
    """One edit of a session: what is told of it (`pipeline.edits`), the key of the output that the row up to it has,
    how it ended, and for the page its name, handles and targets and the handles' ways in photo pixels."""

    told: Told
    key: str
    kind: str
    label: str
    stop: str
    steps: int
    seconds: float
    points: list[list[float]] = field(default_factory=list)
    tracks: list[list[list[float]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Record:
    """A session as it is kept.

    photo: the id of a photo on the shelf, None for a generated picture of seed and psi; faces: box, landmarks and quad
    of each in photo pixels, the largest first; run: the folder whose manifest the preparation wrote, None until then;
    at: how many of the edits count.
    """

    id: str
    name: str
    generator: str
    photo: str | None = None
    seed: int = 0
    psi: float = 0.7
    faces: tuple[dict[str, Any], ...] = ()
    face: int | None = None
    run: str | None = None
    edits: tuple[EditEntry, ...] = ()
    at: int = 0
    saved: tuple[dict[str, str], ...] = ()
    when: float = 0.0

    @property
    def told(self) -> list[Told]:
        """The edits that count."""
        return [entry.told for entry in self.edits[: self.at]]

    def with_edit(self, entry: EditEntry) -> Record:
        """With one more edit behind those that count; undone ones are gone."""
        return replace(self, edits=(*self.edits[: self.at], entry), at=self.at + 1)


def new_id() -> str:
    """A name that nobody guesses."""
    return secrets.token_urlsafe(12)


class Records:
    """The sessions in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, record: Record) -> Record:
        """Keep a session as it is now."""
        record = replace(record, when=time.time())
        write_json(ensure_folder(self.folder / record.id) / SESSION_FILE, {"format": FORMAT, **asdict(record)})
        return record

    def read(self, name: str) -> Record:
        """The session of that name; UsageError when there is none, or it cannot be read."""
        try:
            stored = read_json(self.folder / name / SESSION_FILE)
            if stored.pop("format") != FORMAT:
                raise UsageError(f"The session {name} was kept by another version of photodrag: open the photo again.")
            edits = tuple(EditEntry(**entry) for entry in stored.pop("edits"))
            for number, entry in enumerate(edits, 1):
                check_edit(entry.told, f"edit {number} of the session")
            known = {item.name for item in fields(Record)}
            return Record(edits=edits, **{**_known(stored, known), **_tuples(stored)})
        except (DamagedFilesError, AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"There is no session {name} any more: open the photo again.") from error

    def all(self) -> Iterator[Record]:
        """Every session that can be read, the last one first."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        found = []
        for folder in folders:
            try:
                found.append(self.read(folder.name))
            except UsageError:
                continue
        yield from sorted(found, key=lambda record: -record.when)

    def forget(self, name: str) -> None:
        """Take a session away; what was computed and saved for it stays in its run folder."""
        for file in (self.folder / name / SESSION_FILE, self.folder / name / MASK_FILE):
            file.unlink(missing_ok=True)

    def thumb(self, name: str, key: str | None = None) -> Path:
        """The file of a session's small picture, or of one of its edits; its folder is made."""
        folder = ensure_folder(self.folder / name)
        return folder / THUMB_FILE if key is None else folder / f"{key[:16]}.jpg"

    def mask(self, name: str) -> bytes | None:
        """The PNG of a session's mask."""
        try:
            return (self.folder / name / MASK_FILE).read_bytes()
        except OSError:
            return None

    def write_mask(self, name: str, png: bytes | None) -> None:
        """Keep a session's mask, or none."""
        if png is None:
            (self.folder / name / MASK_FILE).unlink(missing_ok=True)
        else:
            write_bytes(ensure_folder(self.folder / name) / MASK_FILE, png)


def _tuples(stored: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(stored[key]) for key in ("faces", "saved")}


def _known(stored: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key in names}
