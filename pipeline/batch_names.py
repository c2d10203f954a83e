"""The names of a batch's results: by a pattern, in folders that mirror those of the photos, no two the same.

All of it follows from the photos' names and the settings alone, so that every part of a job array, and the same call a
week later, gives the same names. Imports no torch.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.photo_type import READ_ONLY_FORMATS, PhotoFormat, suffix_for, suffixes_of
from pipeline.delivery import MAX_STEM_BYTES
from pipeline.folders import BESIDE
from pipeline.photo_lists import ListedPhoto, name_hash

_BY_SUFFIX: dict[str, PhotoFormat] = {
    suffix: format for format in ("JPEG", "PNG", "TIFF", "WEBP") for suffix in suffixes_of(format)
} | {suffix: "PNG" for suffixes in READ_ONLY_FORMATS.values() for suffix in suffixes}
"""The format that a result most likely has, by its photo's suffix."""
_SHA8 = "\0"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a photo's result goes: a folder, and a name without its suffix, in which a NUL stands for the photo's hash.

    suffix: what the name is thought to end in. unlike: the part that a name gets whose suffix is another one, because
    the photo was not of the format that its own suffix says.
    """

    folder: Path
    base: str
    suffix: str
    unlike: str

    def name(self, sha256: str, suffix: str) -> str:
        """The file's name for the result of a photo with that hash, in the format of that suffix."""
        base = self.base.replace(_SHA8, sha256[:8])
        if suffix != self.suffix:
            base = f"{base}_{self.unlike}"
        while len(os.fsencode(base)) > MAX_STEM_BYTES:
            base = base[:-1]
        return base + suffix


def plan_targets(photos: Sequence[ListedPhoto], pattern: str, save: str, format: PhotoFormat | None) -> list[Target]:
    """The target of each photo. save: a folder, or `beside`; format: that of every result, None for the photo's own.

    Names that would be the same (a.jpg and a.heic as PNG; upper and lower case count as the same) all take the photo's
    suffix into the stem, and where that is not enough the hash of the photo's name below what was given.
    """
    texts = [pattern.removesuffix("{suffix}")] * len(photos)
    folders = [
        Path(os.path.dirname(p.path)) if save == BESIDE else Path(os.path.abspath(save), p.folder) for p in photos
    ]
    suffixes = [suffix_for(format or _BY_SUFFIX.get(photo.suffix, "PNG")) for photo in photos]
    extras = [""] * len(photos)
    for more in (lambda photo: photo.suffix.lstrip("."), lambda photo: f"{name_hash(photo.name):016x}"[:8]):
        bases = [_base(*told) for told in zip(texts, photos, range(1, len(photos) + 1), extras, strict=True)]
        keys = [_key(*place) for place in zip(folders, bases, suffixes, strict=True)]
        if "{sha8}" in pattern:
            break  # photos of different content have different names already
        counts = Counter(keys)
        extras = [
            f"{extra}_{more(photo)}" if counts[key] > 1 else extra
            for photo, key, extra in zip(photos, keys, extras, strict=True)
        ]
    bases = [_base(*told) for told in zip(texts, photos, range(1, len(photos) + 1), extras, strict=True)]
    marks = (f"{name_hash(photo.name):016x}"[:8] for photo in photos)
    return [Target(*told) for told in zip(folders, bases, suffixes, marks, strict=True)]


def _base(text: str, photo: ListedPhoto, number: int, extra: str) -> str:
    parent = os.path.basename(os.path.dirname(photo.path))
    base = _cut(photo.stem) + extra if "{stem}" in text else photo.stem
    filled = text.replace("{sha8}", _SHA8).replace("{stem}", "\1").replace("{parent}", "\2")
    filled = filled.replace("{number}", str(number)).replace("{{", "{").replace("}}", "}")
    filled = filled.replace("\2", _cut(parent)).replace("\1", base)
    return filled if "{stem}" in text or not extra else filled + extra


def _cut(name: str) -> str:
    """A name that leaves room for what the pattern adds."""
    while len(os.fsencode(name)) > MAX_STEM_BYTES // 2 + 40:
        name = name[:-1]
    return name


def _key(folder: Path, base: str, suffix: str) -> tuple[str, str]:
    """What two names must not share: case and the way of composing letters count for nothing."""
    return _folded(str(folder)), _folded(base + suffix)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
