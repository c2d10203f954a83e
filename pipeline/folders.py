"""Which photos a command line means that names a folder, or several photos."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from data.errors import UsageError
from pipeline.quoting import split_override
from pipeline.schema import RunConfig, check_runnable

HASH_DIGITS = 8
MAX_NAME_LETTERS = 60
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
RECIPE_SUFFIX = ".photodrag.json"
"""What the name of a result's recipe has behind the result's own."""
BESIDE = "beside"
"""The word of `save` for the photo's own folder."""
_WITHOUT_EFFECT = frozenset({"photo", "out", "save", "on_exists", "progress", "threads", "resume", "executor", "batch"})
"""Settings that make no other experiment of one: they change where and how fast it is computed, or are its photos."""


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """The photos of an experiment in the order in which they run, and the names in its folders that are none."""

    given: tuple[str, ...]
    photos: tuple[Path, ...]
    skipped: tuple[str, ...]


def sample_photo() -> Path:
    """The photo that comes with the program."""
    return Path(str(resources.files("data").joinpath("samples").joinpath("astronaut.png")))


def find_photos(given: Sequence[str]) -> PhotoSet:
    """The photos that words name: each file, and of each folder the pictures directly in it, sorted as people count.

    Hidden files, sub-folders and other files are skipped, and so are results, which have their recipe beside them:
    else a folder with `save=beside` would edit its own results the next time. Raises UsageError for what is not there,
    and for a folder without a picture.
    """
    photos: list[Path] = []
    skipped: list[str] = []
    for word in given:
        path = Path(word)
        if path.is_dir():
            found, others = _in_folder(path)
            photos += found
            skipped += others
        elif path.is_file():
            photos.append(path)
        else:
            raise UsageError(
                f"photo is {word}, which does not exist: allowed are paths of photos and of folders; settings are "
                "written key=value, see photodrag --help"
            )
    return PhotoSet(tuple(given), tuple(photos), tuple(skipped))


def _in_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """(pictures, names of everything else) directly in a folder."""
    from data.photo_type import read_suffixes

    suffixes = read_suffixes()
    try:
        entries = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be read ({error.strerror}): give one that you may open"
        ) from error
    names = {path.name for path in entries}
    photos = [
        path
        for path in entries
        if path.suffix.lower() in suffixes
        and not path.name.startswith(".")
        and path.name + RECIPE_SUFFIX not in names
        and path.is_file()
    ]
    kept = set(photos)
    others = [path.name for path in entries if path not in kept]
    if not photos:
        rest = f"{len(others)} other entries" if others else "nothing"
        raise UsageError(
            f"The folder {folder} holds no photo, but {rest}: allowed are {', '.join(suffixes)} files directly in it, "
            "not in folders below"
        )
    return photos, others


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts img2 before img10, upper and lower case together; the name itself decides between equals."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], name


def check_photos(config: RunConfig, photos: Sequence[Path]) -> None:
    """Raise UsageError for settings that several photos cannot share, or that no run could be made with."""
    if config.from_run is not None:
        raise UsageError(
            f"from is {config.from_run}, the run of one photo, and {len(photos)} photos are given: leave out from; "
            "finished stages are found again without it"
        )
    if config.stages[0] != "align":
        raise UsageError(
            f"stages begins with {config.stages[0]} and {len(photos)} photos are given: begin with align, as in "
            "stages=[align,invert,tune]"
        )
    if config.save not in (None, BESIDE) and len(photos) > 1 and not names_folder(str(config.save)):
        raise UsageError(
            f"save is {config.save}, one file, and {len(photos)} photos are given: give save={BESIDE}, an existing "
            "folder, or a folder with a slash behind it"
        )
    check_runnable(replace(config, photo=str(photos[0])))


def names_folder(save: str) -> bool:
    """Whether a path of `save` is a folder: one that exists, or one that ends in a slash and is made when needed."""
    return save.endswith(("/", os.sep)) or os.path.isdir(save)


def experiment_name(
    given: Sequence[str], overrides: Sequence[str], stem: str | None = None, kind: str = "experiment"
) -> str:
    """`<kind>_<name>_<hash>`: the same photos with the same settings give the same folder again.

    stem: the name's middle; of a single folder or photo its own when left out. overrides are in Hydra's grammar.
    """
    if stem is None:
        stem = Path(os.path.abspath(given[0])).stem if len(given) == 1 else "photos"
        if len(given) == 1 and Path(given[0]).is_dir():
            stem = Path(os.path.abspath(given[0])).name
    identity = json.dumps([[os.path.abspath(word) for word in given], sorted(effective(overrides))])
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
    return f"{kind}_{safe_name(stem)}_{digest}"


def effective(overrides: Sequence[str]) -> list[str]:
    """The overrides that make another experiment of one: not its photos, its place, its speed or its launcher."""
    keys = [split_override(text)[1] for text in overrides]
    return [
        text
        for text, key in zip(overrides, keys, strict=True)
        if key.partition(".")[0] not in _WITHOUT_EFFECT and not key.startswith(("hydra/launcher", "hydra.launcher"))
    ]


def photo_folder(out: str, stem: str, sha256: str) -> Path:
    """The run folder of a photo, whether it exists or not."""
    return Path(out).absolute() / f"{safe_name(stem)}_{sha256[:HASH_DIGITS]}"


def safe_name(name: str) -> str:
    """A photo's or folder's name as part of a folder's name: without what file systems forbid, and not too long."""
    return _FORBIDDEN.sub("_", name)[:MAX_NAME_LETTERS].strip(". ") or "photo"


def shown(name: str) -> str:
    """A file's name as text that any encoding holds: bytes that are no Unicode become \\x escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
