"""The photos that a studio has been given: files of their own below its folder, known by what they hold."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import OutputError, UsageError
from data.files import file_sha256
from data.photo import Photo, read_photo
from pipeline.artifacts import DamagedFilesError, ensure_folder, read_json, write_json
from pipeline.folders import safe_name

ID_DIGITS = 24
MOST_HELD_PIXELS = 250_000_000
FACTS = "photo.json"
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shelved:
    """A photo on the shelf: its id, the name that the person knows it by, and its file."""

    id: str
    name: str
    path: str
    sha256: str


class Shelf:
    """Photos by their ids; the last ones stay in memory, up to so many pixels."""

    def __init__(self, folder: Path, max_pixels: int) -> None:
        self._folder, self._max_pixels = folder, max_pixels
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Photo] = OrderedDict()

    def take(self, received: Path, name: str) -> Shelved:
        """Put a received file on the shelf, where it is moved to. Raises PhotoError when it is no photo, OutputError
        when the disk refuses; the file is gone then."""
        try:
            photo = read_photo(received, self._max_pixels)
            folder = ensure_folder(self._folder / photo.sha256[:ID_DIGITS])
            suffix = _SUFFIX.search(name.lower())
            path = folder / f"{safe_name(Path(name).stem)}{suffix[0] if suffix else ''}"
            try:
                os.replace(received, path)
            except OSError as error:
                raise OutputError(f"{name} cannot be kept in {folder} ({error.strerror or error}).") from error
        finally:
            received.unlink(missing_ok=True)
        return self._known(Shelved(folder.name, name, str(path.absolute()), photo.sha256), photo)

    def point_to(self, path: Path) -> Shelved:
        """A photo that stays where it is, such as one named on the command line."""
        photo = read_photo(path, self._max_pixels)
        ensure_folder(self._folder / photo.sha256[:ID_DIGITS])
        shelved = Shelved(photo.sha256[:ID_DIGITS], path.name, str(path.absolute()), photo.sha256)
        return self._known(shelved, photo)

    def facts(self, name: str) -> Shelved:
        """The photo of an id; UsageError when it is not on the shelf."""
        try:
            return Shelved(**read_json(self._folder / name / FACTS))
        except (DamagedFilesError, TypeError) as error:
            raise UsageError("The photo is not here any more: open it again.") from error

    def photo(self, name: str) -> Photo:
        """The photo itself; UsageError when its file has gone or has another content by now."""
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name]
        shelved = self.facts(name)
        path = Path(shelved.path)
        if not path.is_file() or file_sha256(path) != shelved.sha256:
            raise UsageError(f"{shelved.name} is not there any more, or was changed: open it again.")
        return self._hold(name, read_photo(path, self._max_pixels))

    def _known(self, shelved: Shelved, photo: Photo) -> Shelved:
        write_json(self._folder / shelved.id / FACTS, asdict(shelved))
        self._hold(shelved.id, photo)
        return shelved

    def _hold(self, name: str, photo: Photo) -> Photo:
        with self._lock:
            self._held[name] = photo
            while len(self._held) > 1 and sum(_pixels(held) for held in self._held.values()) > MOST_HELD_PIXELS:
                self._held.popitem(last=False)
        return photo


def _pixels(photo: Photo) -> int:
    height, width = photo.shape_hw
    return height * width
