"""What a batch remembers from call to call: which work items have ended, what was saved where, and photos' hashes.

Files of JSON lines that only ever grow: one line for each item that ends, on the disk before the next one counts. A
part of a job array (`shard=i/n`) writes into a folder of its own and reads what parts of other divisions wrote; a call
without parts reads what all wrote. Names that are no Unicode are kept as JSON's escapes of lone surrogates, and come
back the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.files import file_sha256
from pipeline.artifacts import append_lines, plain, read_lines

LEDGER, HASHES, SHARDS, PART_OF = "ledger.jsonl", "hashes.jsonl", "shards", "_of_"
_LINE, _ITEM, _SAVED = "line", "item", "saved"

Key = tuple[str, str]
"""(the photo's sha256, the recipe's hash)."""


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """How an item ended. status: done or failed. run: its run folder from the batch's folder on; result: the finished
    photo's name in it, with `size` and `mtime_ns` by which a later call knows that no other run has replaced it."""

    sha256: str
    config: str
    status: str
    photo: str = ""
    rows: tuple[Mapping[str, Any], ...] = ()
    run: str | None = None
    result: str | None = None
    size: int = 0
    mtime_ns: int = 0
    stage: str | None = None
    error: str | None = None
    kind: str | None = None
    seconds: float = 0.0
    attempts: int = 1

    @property
    def key(self) -> Key:
        """What the entry is about."""
        return self.sha256, self.config

    @property
    def failed(self) -> bool:
        """Whether the photo, or one of its faces, failed."""
        return self.status != "done"


@dataclass(eq=False, slots=True)
class Ledger:
    """The newest entry of each item, and where results were saved; `folder` is where this call writes."""

    folder: Path
    entries: dict[Key, Entry] = field(default_factory=dict)
    saved: dict[tuple[str, ...], str] = field(default_factory=dict)

    @staticmethod
    def open(batch: Path, folder: Path) -> Ledger:
        """What the batch in the folder `batch` and its parts have written; unreadable lines count for nothing."""
        ledger = Ledger(folder)
        for path in _files(batch, LEDGER, folder):
            for line in read_lines(path):
                ledger._take(line)
        return ledger

    def _take(self, line: Any) -> None:
        if not isinstance(line, dict):
            return
        what, told = line.get(_LINE), {name: value for name, value in line.items() if name != _LINE}
        try:
            if what == _ITEM:
                rows = tuple({sys.intern(name): value for name, value in row.items()} for row in told.get("rows", ()))
                entry = Entry(**{**told, "rows": rows})
                before = self.entries.get(entry.key)
                if before is None or before.failed or not entry.failed:
                    self.entries[entry.key] = entry
            elif what == _SAVED:
                self.saved[tuple(told["of"])] = str(told["path"])
        except (TypeError, KeyError, AttributeError):
            return

    def add(self, entry: Entry) -> None:
        """Remember how an item ended, for good once this returns."""
        self.entries[entry.key] = entry
        told = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
        self._append({_LINE: _ITEM, **told})

    def add_saved(self, of: tuple[str, ...], path: Path) -> None:
        """Remember where the result of a photo lies; `of` is what it is, told apart from every other saving."""
        self.saved[of] = str(path)
        self._append({_LINE: _SAVED, "of": list(of), "path": str(path)})

    def _append(self, line: Mapping[str, Any]) -> None:
        append_lines(self.folder / LEDGER, [json.dumps(plain(line), ensure_ascii=True, allow_nan=False)])


def _files(batch: Path, name: str, own: Path) -> Iterator[Path]:
    """The files of that name which a call that writes into `own` has to know.

    A part leaves out the other parts of its own division, which have none of its photos: else each of a thousand tasks
    of a job array would read what all have done.
    """
    yield batch / name
    _, of, count = own.name.partition(PART_OF)
    for path in sorted((batch / SHARDS).glob(f"*/{name}")):
        beside = own != batch and path.parent != own and path.parent.name.endswith(f"{of}{count}")
        if not beside:
            yield path


class ChangingError(Exception):
    """A photo that was written to while it was read."""


class HashCache:
    """The sha256 of files by path, size and times, so that 10,000 photos are read once and not at every call."""

    def __init__(self, batch: Path, folder: Path) -> None:
        self._path = folder / HASHES
        self._known: dict[str, tuple[int, int, int, str]] = {}
        for path in _files(batch, HASHES, folder):
            for line in read_lines(path):
                if isinstance(line, list) and len(line) == 5:
                    self._known[line[0]] = (line[1], line[2], line[3], line[4])

    def known(self, path: str) -> tuple[str, os.stat_result] | None:
        """The hash of a file that is as it was when it was hashed, else None; nothing is read. OSError as of stat."""
        found = os.stat(path)
        kept = self._known.get(path)
        return (kept[3], found) if kept is not None and kept[:3] == _stamp(found) else None

    def hash(self, path: str) -> tuple[str, os.stat_result]:
        """The hash of a file, and its state then. OSError when it cannot be read, ChangingError while it changes."""
        kept = self.known(path)
        if kept is not None:
            return kept
        before = os.stat(path)
        sha256 = file_sha256(Path(path))
        after = os.stat(path)
        if _stamp(before) != _stamp(after):
            raise ChangingError(path)
        self._known[path] = (*_stamp(after), sha256)
        append_lines(self._path, [json.dumps([path, *_stamp(after), sha256])], sync=False)
        return sha256, after


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
