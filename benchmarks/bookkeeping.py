"""What a batch's own bookkeeping costs, without any photo: the real planning, ledger, tables and pages on made-up work.

Nothing here computes a picture. Photos are names whose hashes are made up, outcomes are rows as a finished photo has
them, and each part is timed alone, so that what grows faster than the number of photos shows.
"""

from __future__ import annotations

import hashlib
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline import ledger
from pipeline.batch_report import BatchFacts, write_batch
from pipeline.batch_run import BatchRun
from pipeline.executors.protocol import DONE, BatchJob, ItemOutcome, WorkItem
from pipeline.ledger import HashCache, Ledger
from pipeline.photo_lists import ListedPhoto, in_shard, list_photos
from pipeline.progress import Console

FSYNCED = 500
"""So many ledger lines are written with the disk's answer awaited, to know what one costs."""
CONFIG_HASH = "c" * 64


class _MadeUpHashes(HashCache):
    """Hashes of names in the place of files' contents: a million photos need no million files."""

    def hash(self, path: str) -> tuple[str, os.stat_result]:
        return hashlib.sha256(path.encode()).hexdigest(), self.found

    def known(self, path: str) -> tuple[str, os.stat_result]:
        return self.hash(path)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder)
        self.found = os.stat(folder)


class _MadeUpWork:
    """An executor that has done every item before it is asked; `row` is a finished photo's."""

    def __init__(self, row: dict[str, Any], run: Path) -> None:
        self.row, self.run_dir, self.pulled = row, str(run), 0

    def run(self, _job: BatchJob, items: Iterable[WorkItem]) -> Generator[ItemOutcome, None, None]:
        for item in items:
            self.pulled += 1
            row = {**self.row, "photo": item.name, "sha256": item.sha256, "psnr_tuned_db": 30 + item.number % 97 / 10}
            yield ItemOutcome(item, DONE, rows=(row,), run=self.run_dir, seconds=30.0)


def rss_bytes() -> int:
    """Memory that this process holds now."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def measure_bookkeeping(count: int, row: dict[str, Any]) -> dict[str, float]:
    """Seconds and bytes a photo of a batch of `count` photos; run it in a process of its own, for its memory's sake.

    Keys: `plan_us`, `shard_us`, `first_call_us`, `fsync_us` (of a ledger line), `open_us` (ledger read again),
    `second_call_us`, `tables_us` (tables and pages), `ledger_bytes`, `pages_bytes`, all for one photo, and
    `memory_bytes`, which one photo adds to the process; `again` is how many a second call computed, which must be 0.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        batch = Path(scratch) / "batch"
        run = Path(scratch) / "run"
        for folder in (batch, run):
            folder.mkdir()
        (run / "manifest.json").write_text("{}")
        listing = Path(scratch) / "photos.txt"
        listing.write_text("".join(f"/photos/{i // 1000:04d}/photo_{i:07d}.jpg\n" for i in range(count)))

        def timed(name: str, since: float) -> None:
            found[name] = (time.perf_counter() - since) / count * 1e6

        before, since = rss_bytes(), time.perf_counter()
        listed = list_photos([str(listing)], str(batch))
        timed("plan_us", since)
        since = time.perf_counter()
        in_shard(listed.photos, 1, 100)
        timed("shard_us", since)
        found["fsync_us"] = _fsync_us(batch)

        job = BatchJob({}, CONFIG_HASH, 1, 1)
        work = _MadeUpWork(row, run)
        with mock.patch.object(os, "fsync"):  # what it costs is measured apart
            since = time.perf_counter()
            first = _call(batch, job, listed.photos, work)
            timed("first_call_us", since)
            since = time.perf_counter()
            write_batch(_facts(batch), first.all_ends())
            timed("tables_us", since)
            del first
            since = time.perf_counter()
            again = Ledger.open(batch, batch)
            timed("open_us", since)
            assert len(again.entries) == count
            del again
            done, since = work.pulled, time.perf_counter()
            second = _call(batch, job, listed.photos, work)
            timed("second_call_us", since)
        found["again"] = work.pulled - done
        found["memory_bytes"] = (rss_bytes() - before) / count
        assert len(second.ends) == count
        found["ledger_bytes"] = (batch / ledger.LEDGER).stat().st_size / count
        pages = [path.stat().st_size for path in batch.iterdir() if path.suffix in (".html", ".csv", ".json")]
        found["pages_bytes"] = sum(pages) / count
    return found


def _call(batch: Path, job: BatchJob, photos: list[ListedPhoto], work: _MadeUpWork) -> BatchRun:
    """A call of the command, from its ledger to its last photo."""
    run = BatchRun(
        batch, batch, str(batch), job, photos, Ledger.open(batch, batch), _MadeUpHashes(batch), None, _silent()
    )
    run.run(work)
    return run


def _silent() -> Console:
    return Console(False, quiet=True)


def _facts(batch: Path) -> BatchFacts:
    return BatchFacts(batch, batch, ["photos.txt"], [], None, Counter(), 200, True, 1.0, 1, 1, 1)


def _fsync_us(folder: Path) -> float:
    """Microseconds of a ledger line that the disk has confirmed."""
    lines = Ledger(folder / "lines")
    lines.folder.mkdir()
    entry = ledger.Entry("a" * 64, CONFIG_HASH, "done", photo="photo.jpg", run="../run")
    since = time.perf_counter()
    for _ in range(FSYNCED):
        lines.add(entry)
    return (time.perf_counter() - since) / FSYNCED * 1e6
