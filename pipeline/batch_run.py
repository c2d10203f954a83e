"""A batch at work: photos in, a ledger line for each work item that ends, results saved, failures told."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import OutputError, PhotodragError, PhotoError
from pipeline.artifacts import append_lines, ensure_folder, plain, write_bytes
from pipeline.bars import PhotoBar
from pipeline.batch import MAIN_MEASURES
from pipeline.batch_delivery import NoSpaceError, Saving
from pipeline.delivery import recipe_path
from pipeline.error_pages import page_of
from pipeline.errors import sentence
from pipeline.executors.protocol import AGAIN, DONE, FAILED, STOP, BatchJob, Executor, ItemOutcome, WorkItem
from pipeline.folders import photo_folder, shown
from pipeline.ledger import ChangingError, Entry, HashCache, Key, Ledger
from pipeline.photo_lists import ListedPhoto
from pipeline.progress import Console
from pipeline.table import JobValues, failed_result

ERRORS, THUMBNAILS = "errors.jsonl", "thumbs"
MISSING = "missing"
"""The status of a photo that this call has not reached."""


@dataclass(frozen=True, eq=False, slots=True)
class PhotoEnd:
    """How a photo ended: done, failed or missing. rows: of the table. reused: nothing was computed in this call."""

    photo: ListedPhoto
    status: str
    rows: Sequence[Mapping[str, Any]] = ()
    run: Path | None = None
    result: str | None = None
    saved: Path | None = None
    key: Key | None = None
    stage: str | None = None
    error: str | None = None
    kind: str | None = None
    traceback: str | None = None
    reused: bool = False
    seconds: float = 0.0


@dataclass(eq=False, slots=True)
class BatchRun:
    """One call of `photodrag batch`, or of one part of it.

    folder: the batch's, own: where this part writes (the same without parts). photos: those of this part. ends: how
    each photo ended, in the order of `photos` only after the run. saving: None leaves results in the run folders.
    """

    folder: Path
    own: Path
    out: str
    job: BatchJob
    photos: Sequence[ListedPhoto]
    ledger: Ledger
    hashes: HashCache
    saving: Saving | None
    console: Console
    max_failures: int = 0
    ends: dict[ListedPhoto, PhotoEnd] = field(default_factory=dict)
    computed: int = 0
    failures: int = 0
    _waiting: dict[Key, list[ListedPhoto]] = field(default_factory=dict)
    _later: list[ListedPhoto] = field(default_factory=list)
    _failed: dict[Key, Entry] = field(default_factory=dict)
    _last_chance: bool = False
    _bar: PhotoBar | None = None
    _numbers: dict[ListedPhoto, int] = field(default_factory=dict)

    def run(self, executor: Executor) -> None:
        """Compute and save what is missing or failed; every photo that is reached has its end in `ends`.

        Photos that changed while they were read are tried once more when all others have ended. Raises OutputError when
        nothing more can be written, PhotodragError when no worker can start; KeyboardInterrupt passes through. What
        has ended by then is in the ledger.
        """
        self._numbers = {photo: number for number, photo in enumerate(self.photos, 1)}
        write_bytes(ensure_folder(self.own) / ERRORS, b"")
        with self.console.photos(len(self.photos)) as self._bar:
            self._round(executor, self.photos)
            if self._later and not self.stopped:
                again, self._later, self._last_chance = self._later, [], True
                self._round(executor, again)

    @property
    def stopped(self) -> bool:
        """Whether so many photos have failed that no further one begins."""
        return 0 < self.max_failures <= self.failures

    def _round(self, executor: Executor, photos: Sequence[ListedPhoto]) -> None:
        with contextlib.closing(executor.run(self.job, self._items(photos))) as outcomes:
            for outcome in outcomes:
                self._take(outcome)

    def _items(self, photos: Iterable[ListedPhoto]) -> Iterator[WorkItem]:
        """The work that photos mean, each item once; photos whose end is known already get it on the way."""
        for photo in photos:
            if self.stopped:
                return
            try:
                sha256, found = self.hashes.hash(photo.path)
            except ChangingError:
                name = shown(photo.name)
                told = f"{name} is being written to: run the same command again when it is whole."
                self._postpone(photo, PhotoError(told))
                continue
            except OSError as error:
                self._end_unread(photo, _unreadable(shown(photo.name), error))
                continue
            key = sha256, self.job.config_hash
            if key in self._waiting:
                self._waiting[key].append(photo)
            elif (entry := self._failed.get(key) or self.known(key) or self._saved(photo, key)) is not None:
                self._end(photo, entry, reused=True)
            else:
                self._waiting[key] = [photo]
                number = self._numbers[photo]
                yield WorkItem(number, photo.path, shown(photo.name), *key, found.st_size, found.st_mtime_ns)

    def _saved(self, photo: ListedPhoto, key: Key) -> Entry | None:
        """The entry of an item whose result this photo has already where `save` says, run folder or not."""
        entry = self.ledger.entries.get(key)
        if entry is None or entry.failed or self.saving is None or self.saving.saved_at(photo, *key) is None:
            return None
        return entry

    def known(self, key: Key) -> Entry | None:
        """The entry of an item that is done and whose result lies where the ledger says, as it was then."""
        entry = self.ledger.entries.get(key)
        if entry is None or entry.failed or entry.run is None:
            return None
        run = self.folder / entry.run
        if entry.result is None:
            return entry if (run / "manifest.json").is_file() else None
        try:
            found = (run / entry.result).stat()
        except OSError:
            return None
        there = (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns)
        return entry if there and recipe_path(run / entry.result).is_file() else None

    def _take(self, outcome: ItemOutcome) -> None:
        item = outcome.item
        photos = self._waiting.pop(item.key)
        if outcome.status == STOP:
            raise OutputError(outcome.error or "The batch cannot go on.")
        for line in outcome.warnings:
            self.console.warn(f"{item.name}: {line}")
        if outcome.status == AGAIN and not self._last_chance:
            self._later += photos
            return
        self.computed += 1
        entry = self._entry(outcome)
        self._keep_pictures(outcome)
        if outcome.status != AGAIN:
            self.ledger.add(entry)
        if entry.failed:
            self._failed[entry.key] = entry  # an equal photo fails likewise
        for photo in photos:
            self._end(photo, entry, reused=False, traceback=outcome.traceback)

    def _entry(self, outcome: ItemOutcome) -> Entry:
        item = outcome.item
        run = self._received(outcome) if outcome.files else None if outcome.run is None else Path(outcome.run)
        result = None if outcome.result is None else Path(outcome.result).name
        size = mtime_ns = 0
        if run is not None and result is not None:
            found = (run / result).stat()
            size, mtime_ns = found.st_size, found.st_mtime_ns
        return Entry(
            item.sha256,
            item.config_hash,
            DONE if outcome.status == DONE else FAILED,
            photo=item.name,
            rows=tuple(plain(row) for row in outcome.rows),
            run=None if run is None else os.path.relpath(run, self.folder),
            result=result,
            size=size,
            mtime_ns=mtime_ns,
            stage=outcome.stage,
            error=outcome.error,
            kind=outcome.kind,
            seconds=outcome.seconds,
            attempts=outcome.attempts,
        )

    def _received(self, outcome: ItemOutcome) -> Path:
        """The run folder of a photo that was computed where this machine cannot read: with the files that came back."""
        folder = ensure_folder(photo_folder(self.out, Path(outcome.item.photo).stem, outcome.item.sha256))
        for name, content in outcome.files.items():
            write_bytes(folder / Path(name).name, content)
        return folder

    def _keep_pictures(self, outcome: ItemOutcome) -> None:
        if outcome.pictures:
            ensure_folder(self.folder / THUMBNAILS)
        for name, content in outcome.pictures.items():
            write_bytes(self.folder / thumbnail(outcome.item.key, name), content)

    def _postpone(self, photo: ListedPhoto, error: PhotoError) -> None:
        """Try a photo once more at the end, or say why it could not be read."""
        if self._last_chance:
            self._end_unread(photo, error)
        else:
            self._later.append(photo)

    def _end_unread(self, photo: ListedPhoto, error: PhotoError) -> None:
        self._finish(PhotoEnd(photo, FAILED, stage="read", error=str(error), kind=type(error).__name__))

    def _end(self, photo: ListedPhoto, entry: Entry, reused: bool, traceback: str | None = None) -> None:
        """Save a photo's result, where it has one, and note how it ended."""
        end = replace(self.end_of(photo, entry), reused=reused, traceback=traceback)
        if self.saving is not None and end.run is not None and end.result is not None:
            try:
                saved = self.saving.save(photo, *entry.key, end.run / end.result)
                end = replace(end, saved=saved)
                if saved is None:  # on_exists=skip
                    wanted = self.saving.wanted(photo, entry.sha256, Path(str(end.result)).suffix)
                    self.console.warn(f"{shown(str(wanted))} is there already, so nothing is saved (on_exists=skip)")
            except NoSpaceError:
                raise
            except (PhotodragError, OSError, ValueError, KeyError) as error:
                end = replace(end, status=FAILED, stage="save", error=sentence(error), kind=type(error).__name__)
        self._finish(end)

    def end_of(self, photo: ListedPhoto, entry: Entry) -> PhotoEnd:
        """What the ledger says of a photo."""
        sha256, name = entry.sha256, shown(photo.name)
        return PhotoEnd(
            photo,
            FAILED if entry.failed else DONE,
            [_row_of(row, name, sha256) for row in entry.rows],
            None if entry.run is None else Path(os.path.normpath(self.folder / entry.run)),
            entry.result,
            None if self.saving is None else self.saving.saved_at(photo, *entry.key),
            entry.key,
            entry.stage,
            entry.error,
            entry.kind,
            reused=True,
            seconds=entry.seconds,
        )

    def _finish(self, end: PhotoEnd) -> None:
        if end.status == FAILED and not any(row["status"] != "done" for row in end.rows):
            sha256 = None if end.key is None else end.key[0]
            end = replace(end, rows=[dict(failed_result(end.photo.name, sha256, str(end.error), JobValues()).row)])
        self.ends[end.photo] = end
        failed = end.status == FAILED
        if failed:
            self.failures += 1
            append_lines(self.own / ERRORS, [error_line(end)], sync=False)
        line = f"[{len(self.ends)}/{len(self.photos)}] {shown(end.photo.name)}: {_ending(end)}"
        if failed:
            self.console.warn(line)
        elif not self.console.progress:
            self.console.say(line)
        assert self._bar is not None
        self._bar.step(computed=end.key is not None and not end.reused, failed=failed)

    def all_ends(self) -> list[PhotoEnd]:
        """The end of every photo in order; of one that was not reached what an earlier call has noted, or missing."""
        return [self.ends.get(photo) or self._noted(photo) for photo in self.photos]

    def _noted(self, photo: ListedPhoto) -> PhotoEnd:
        with contextlib.suppress(OSError):
            kept = self.hashes.known(photo.path)
            entry = None if kept is None else self.ledger.entries.get((kept[0], self.job.config_hash))
            if entry is not None:
                return self.end_of(photo, entry)
        return PhotoEnd(photo, MISSING)


def _unreadable(name: str, error: OSError) -> PhotoError:
    if isinstance(error, FileNotFoundError):
        return PhotoError(f"{name} is not there (any more): bring it back, or leave it out.")
    return PhotoError(f"{name} cannot be read ({error.strerror or error}): make it readable, or leave it out.")


def _row_of(row: Mapping[str, Any], name: str, sha256: str) -> Mapping[str, Any]:
    """A row under the photo's own name, which equal photos do not share; the row itself where it says so already."""
    if (row.get("photo"), row.get("sha256")) == (name, sha256):
        return row
    return {**row, "photo": name, "sha256": sha256}


def thumbnail(key: Key, name: str) -> str:
    """Where the batch's folder has the small picture `before` or `after` of an item."""
    return f"{THUMBNAILS}/{key[0][:16]}_{key[1][:8]}_{name}.jpg"


def error_line(end: PhotoEnd) -> str:
    """A failure as one line of errors.jsonl."""
    told = {
        "photo": shown(end.photo.name),
        "path": shown(end.photo.path),
        "sha256": None if end.key is None else end.key[0],
        "stage": end.stage,
        "error": end.error,
        "kind": end.kind,
        "page": _page(end),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **({} if end.traceback is None else {"traceback": end.traceback}),
    }
    return json.dumps(told, ensure_ascii=False)


def _page(end: PhotoEnd) -> str | None:
    """Where the page of errors tells of a failure, or of that of one of its faces; None where it does not."""
    texts = [end.error, *(row.get("error") for row in end.rows)]
    return next((page for text in texts if text and (page := page_of(text))), None)


def _ending(end: PhotoEnd) -> str:
    """What the line of one photo says."""
    if end.status == FAILED:
        return f"failed: {end.error}"
    parts = ["done before" if end.reused else f"done, {end.seconds:.1f} s"]
    row = end.rows[0] if end.rows else {}
    parts += [f"{name} {row[name]:.2f}" for name in MAIN_MEASURES if row.get(name) is not None][:1]
    return ", ".join([*parts, *([] if end.saved is None else [f"saved as {shown(str(end.saved))}"])])
