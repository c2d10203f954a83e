"""Which photos a batch means: folders with all below them, lists of paths, patterns, photos; each with its mirror name.

Imports no torch. Nothing here opens a photo: 10,000 of them are listed in the time of reading their folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data.errors import UsageError
from data.photo_type import read_suffixes
from pipeline.folders import RECIPE_SUFFIX, natural_key, shown

STDIN = "-"
LIST_SUFFIX = ".txt"
RUNS_NAME = "photodrag_runs"
_MAGIC = re.compile(r"[*?\[]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ListedPhoto:
    """A photo of a batch: its absolute path, and its name below what was given, with slashes (`2024/a.jpg`)."""

    path: str
    name: str

    @property
    def folder(self) -> str:
        """Where its result lies below `save`: the folders of its name."""
        return str(PurePosixPath(self.name).parent)

    @property
    def stem(self) -> str:
        """Its file's name without the suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of its file's name, in lower case, with the dot."""
        return PurePosixPath(self.name).suffix.lower()


@dataclass(eq=False, slots=True)
class PhotoList:
    """The photos of a batch in their order, and how many other files lay beside them, by what they are."""

    photos: list[ListedPhoto] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def list_photos(words: Sequence[str], out: str, stdin: BinaryIO | None = None) -> PhotoList:
    """The photos that words name, each file once: folders (all that lies below), `.txt` lists, `-`, patterns, photos.

    Of a folder, hidden files, results (their recipe lies beside them), run folders and the folder `out` are left out; a
    folder that links lead to twice is read once. Photos of a list need not be there: that is told of each when its turn
    comes. Raises UsageError for a word that names nothing, and when there is no photo at all.
    """
    found = PhotoList()
    seen: set[str] = set()
    folders = _folder_prefixes([word for word in words if os.path.isdir(word)])
    for word in words:
        for photo in _photos_of(word, folders.get(word, ""), out, found, stdin):
            if photo.path not in seen:
                seen.add(photo.path)
                found.photos.append(photo)
    if not found.photos:
        others = f"only {_counted(found.skipped)}" if found.skipped else "nothing"
        given = " ".join(shown(word) for word in words)
        raise UsageError(
            f"{given} holds no photo, {others}: allowed are folders, lists and patterns "
            f"of {', '.join(read_suffixes())} files"
        )
    return found


def _photos_of(word: str, prefix: str, out: str, found: PhotoList, stdin: BinaryIO | None) -> Iterator[ListedPhoto]:
    if word == STDIN:
        if stdin is None:
            raise UsageError("- is standard input, which is not there: give a folder, a list or photos")
        yield from _in_list(stdin.read(), Path.cwd(), "standard input")
    elif os.path.isdir(word):
        yield from _in_folder(word, prefix, out, found, lambda _: True)
    elif word.lower().endswith(LIST_SUFFIX) and os.path.isfile(word):
        path = Path(os.path.abspath(word))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"The list {word} cannot be read ({error.strerror}): give one that you may open"
            ) from error
        yield from _in_list(content, path.parent, word)
    elif os.path.isfile(word):
        yield _listed(os.path.abspath(word), os.path.basename(word))
    elif _MAGIC.search(word):
        yield from _by_pattern(word, out, found)
    else:
        raise UsageError(
            f"{shown(word)} does not exist: allowed are folders, photos, {LIST_SUFFIX} lists of paths, - for a list on "
            "standard input, and patterns such as 'photos/**/*.jpg'; settings are written key=value"
        )


def _listed(path: str, name: str) -> ListedPhoto:
    return ListedPhoto(path, name.replace(os.sep, "/"))


def _folder_prefixes(folders: Sequence[str]) -> dict[str, str]:
    """What the mirror names of several folders begin with, so that they stay apart; nothing of a lone one."""
    distinct = list(dict.fromkeys(folders))
    if len(distinct) < 2:
        return {}
    taken: set[str] = set()
    prefixes = {}
    for folder in distinct:
        base = os.path.basename(os.path.abspath(folder)) or "root"
        names = (base if number == 1 else f"{base}-{number}" for number in range(1, len(distinct) + 1))
        prefixes[folder] = next(name for name in names if name.casefold() not in taken)
        taken.add(prefixes[folder].casefold())
    return prefixes


def _in_list(content: bytes, folder: Path, what: str) -> Iterator[ListedPhoto]:
    """The photos of a list: one path a line, from the list's folder on; empty lines and `#` lines say nothing."""
    suffixes = read_suffixes()
    for number, line in enumerate(content.removeprefix(_BOM).splitlines(), 1):
        line = line.strip(b"\r\n\t ")
        if not line or line.startswith(b"#"):
            continue
        text = os.fsdecode(line)
        if "\0" in text or not text.lower().endswith(suffixes):
            raise UsageError(
                f"line {number} of {what} is {shown(text)!r}, which is no photo: allowed is the path of one a line "
                f"({', '.join(suffixes)}), or a # before what is none"
            )
        path = os.path.abspath(folder / text)
        below = os.path.relpath(path, folder)
        yield _listed(path, os.path.basename(path) if below.startswith(os.pardir + os.sep) else below)


def fixed_part(pattern: str) -> str | None:
    """The folder before a pattern's first part with a wildcard; None of a word that is no pattern, or is there."""
    parts = Path(pattern).parts
    wild = [number for number, part in enumerate(parts) if _MAGIC.search(part)]
    return str(Path(*parts[: wild[0]])) if wild and not os.path.lexists(pattern) else None


def _by_pattern(pattern: str, out: str, found: PhotoList) -> Iterator[ListedPhoto]:
    """The photos below the part of a pattern that has no wildcard whose path matches; `**` is any folders."""
    root, parts = str(fixed_part(pattern)), Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    if not os.path.isdir(root):
        raise UsageError(f"{shown(pattern)} matches nothing: {shown(root)} is no folder")
    wanted = _matcher(parts[fixed:])
    before = found.skipped.total()
    depth = None if "**" in parts else len(parts) - fixed - 1
    matches = list(_in_folder(root, "", out, found, wanted, depth))
    if not matches and found.skipped.total() == before:
        raise UsageError(
            f"{shown(pattern)} matches no file: * is any part of a name and ** any folders, as in 'photos/**/*.jpg'"
        )
    yield from matches


def _matcher(parts: Sequence[str]) -> Callable[[Sequence[str]], bool]:
    """Whether the parts of a path below the pattern's root match those of the pattern; a last `**` is all below."""
    pieces = ["(?:[^/]+/)*" if part == "**" else f"{_part(part)}/" for part in parts]
    if parts[-1] == "**":
        pieces.append("[^/]+/")
    compiled = re.compile("".join(pieces), re.DOTALL)
    return lambda path: compiled.fullmatch("/".join(path) + "/") is not None


def _part(part: str) -> str:
    """A part of a pattern as a regular expression: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`; all else stands for itself."""

    def piece(match: re.Match[str]) -> str:
        text = match[0]
        if text in ("*", "?"):
            return {"*": "[^/]*", "?": "[^/]"}[text]
        if len(text) == 1:
            return re.escape(text)
        inside = text[1:-1]
        negated = inside.startswith("!")
        escaped = re.sub(r"([\\\]\[^&~|])", r"\\\1", inside[negated:])
        return f"[{'^' if negated else ''}{escaped}]"

    return re.sub(r"\[!?\]?[^\]]*\]|.", piece, part, flags=re.DOTALL)


def _in_folder(
    folder: str,
    prefix: str,
    out: str,
    found: PhotoList,
    wanted: Callable[[Sequence[str]], bool],
    depth: int | None = None,
) -> Iterator[ListedPhoto]:
    """The photos below a folder, files before folders and both as people count; no folder is entered twice.

    depth: how many folders down, None for all.
    """
    suffixes = read_suffixes()
    ours = os.path.realpath(out)
    entered: set[tuple[int, int]] = set()
    pending: list[tuple[str, tuple[str, ...]]] = [(os.path.abspath(folder), ())]
    while pending:
        path, parts = pending.pop()
        try:
            here = os.stat(path)
            entries = list(os.scandir(path))
        except OSError as error:
            if not parts:
                raise UsageError(
                    f"The folder {shown(folder)} cannot be read ({error.strerror}): give one that you may open"
                ) from error
            found.unreadable.append(shown("/".join(parts)))
            continue
        if (here.st_dev, here.st_ino) in entered:
            continue
        entered.add((here.st_dev, here.st_ino))
        names = {entry.name for entry in entries}
        if parts and (os.path.realpath(path) == ours or _holds_runs(path, parts[-1], names)):
            found.skipped["folders of photodrag"] += 1
            continue
        entries.sort(key=lambda entry: natural_key(entry.name))
        below = []
        for entry in entries:
            inside = (*parts, entry.name)
            if entry.name.startswith("."):
                found.skipped["hidden"] += 1
            elif _is(entry.is_dir):
                if depth is not None and len(inside) > depth:
                    continue
                # Folders before links to folders, so that a photo has the name of its own place.
                below.append((entry.is_symlink(), entry.path, inside))
            elif not wanted(inside):
                continue
            elif not entry.name.lower().endswith(suffixes) or not _is(entry.is_file):
                found.skipped["other files"] += 1
            elif entry.name + RECIPE_SUFFIX in names:
                found.skipped["results"] += 1
            else:
                yield _listed(entry.path, os.path.join(prefix, *inside))
        pending += [(path, inside) for _, path, inside in sorted(below, key=lambda item: item[0])][::-1]


def _is(question: Callable[[], bool]) -> bool:
    """The answer of a directory entry; no for one that vanished, or that a loop of links leads to."""
    with contextlib.suppress(OSError):
        return question()
    return False


def _holds_runs(path: str, name: str, names: Set[str]) -> bool:
    """Whether a folder is one that photodrag made: a run's, an experiment's, a batch's, or what holds them."""
    if name == RUNS_NAME:
        return True
    if name.startswith(("experiment_", "batch_")) and names & {"results.json", "ledger.jsonl"}:
        return True
    if "manifest.json" not in names:
        return False
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(Path(path, "manifest.json").read_text(encoding="utf-8"))
        return isinstance(told, dict) and {"run_id", "stages", "products"} <= set(told)
    return False


def _counted(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in skipped.items())


def in_shard(photos: Iterable[ListedPhoto], number: int, count: int) -> list[ListedPhoto]:
    """The photos of the `number`-th (from 1) of `count` parts: by the hash of their names, so that no other photo that
    comes or goes moves one to another part."""
    return [photo for photo in photos if name_hash(photo.name) % count == number - 1]


def name_hash(name: str) -> int:
    """A number of 64 bits for a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")
