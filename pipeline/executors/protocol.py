"""What a batch and whoever computes its photos say to each other.

The batch (`pipeline.batch_run`) makes one `BatchJob`, the same for every worker, and a lazy stream of `WorkItem`s. An
`Executor` sends them to its workers, takes the next item from the stream only when a worker is free (so that a million
photos are never held at once), and gives back one `ItemOutcome` for each item, in the order in which they end:

    with contextlib.closing(executor.run(job, items)) as outcomes:
        for outcome in outcomes:
            ...

A worker is `pipeline.executors.worker.Worker(job)`: it reads the networks once, and `Worker.run(item)` returns an
outcome whatever is wrong with the photo. So an executor only has to start workers, carry items and outcomes, and see to
workers that die: the item of such a worker goes to a new one up to `job.retries` times and then becomes
`died(item, ...)`. The batch alone, in one process, delivers results, keeps the ledger, counts failures and draws the
progress bar: workers write nothing but run folders.

Everything here can be pickled, and all but the pictures in an outcome is plain JSON-able data. Nothing imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from data.errors import PhotodragError, PhotoError

DONE, FAILED, AGAIN, STOP = "done", "failed", "again", "stop"
"""How an item ends. `again`: the photo changed while it was read, or its run folder was in use, so that a later try may
do. `stop`: no photo can be computed any more (a full disk); the batch ends and says why."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One photo to compute. What it is: `sha256` of the file and `config_hash` of the recipe; the rest is where.

    photo: absolute path (text as `os.fsdecode` gives it). name: how tables and messages call it. size, mtime_ns: of the
    file when it was hashed. content: the file itself, for a worker that cannot read the path (an executor fills it in
    when it sends the item); results then come back in `ItemOutcome.files`.
    """

    number: int
    photo: str
    name: str
    sha256: str
    config_hash: str
    size: int
    mtime_ns: int
    content: bytes | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What is computed once, wherever it lies and whatever it is called."""
        return self.sha256, self.config_hash

    def without_content(self) -> WorkItem:
        """This item as outcomes carry it."""
        return self if self.content is None else replace(self, content=None)


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What every worker gets, as plain data.

    config: a `RunConfig` as nested dictionaries (`pipeline.executors.worker.config_of` builds it again); `photo` and
    `save` in it are None, and `out` is absolute. threads: processor threads of each worker, at least 1. workers: how
    many there are, 0 for as many as the cluster at `address` holds. gpus: of this machine, 0 where none may be used.
    retries: new tries of an item whose worker died. debug: outcomes of failures hold a traceback. address: of a running
    cluster. send_bytes: photos travel as bytes. keep_all: False leaves of a photo's run folder only what `batch.keep`
    calls results.
    """

    config: Mapping[str, Any]
    config_hash: str
    threads: int
    workers: int
    gpus: int = 0
    retries: int = 2
    debug: bool = False
    address: str | None = None
    send_bytes: bool = False
    keep_all: bool = True


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """How one item ended.

    status: DONE, FAILED (with a `result` when only some of several faces failed), AGAIN or STOP. rows: those of the
    table, one for each face. run: the absolute path of the run folder, result: of the finished photo in it, beside
    which its recipe lies; None where there is none. Of what failed: `stage`, the `error` sentence, `kind` (the class of
    the error), and with debug the `traceback`. pictures: JPEG thumbnails `before` and `after`. files: by name what the
    run folder holds that matters, where the batch cannot read the worker's disk; `run` is then None and `result` the
    name of one of them. attempts: 1, and one more for each worker that died of it. worker: which one, for the log.
    """

    item: WorkItem
    status: str
    rows: tuple[Mapping[str, Any], ...] = ()
    run: str | None = None
    result: str | None = None
    stage: str | None = None
    error: str | None = None
    kind: str | None = None
    traceback: str | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    attempts: int = 1
    worker: str = ""


class WorkerDiedError(PhotodragError):
    """The processes that were to compute a photo died at it, each time."""


class Executor(Protocol):
    """Sends items to workers. It is made from the settings (`executors.table.executor_for`) and used for one run."""

    def run(self, job: BatchJob, items: Iterable[WorkItem]) -> Generator[ItemOutcome, None, None]:
        """One outcome for each item, in the order in which they end; an item is pulled when a worker can take it.

        `items` is pulled in the caller's thread, between two outcomes. Closing the generator before its end, or an
        exception in it (KeyboardInterrupt), stops the workers: each keeps its last checkpoint, and none outlives the
        call. Raises PhotodragError when no worker can be started.
        """
        ...


def changed(item: WorkItem) -> ItemOutcome:
    """The outcome of a photo that is not what was hashed any more, or is not there."""
    there = os.path.exists(item.photo)
    error = (
        PhotoError(f"{item.name} was being written while it was read: run the same command again when it is whole.")
        if there
        else PhotoError(f"{item.name} vanished while the batch ran: bring it back, or leave it out.")
    )
    return _ended(item, AGAIN, error, stage="read")


def died(item: WorkItem, how: str, attempts: int, workers: int) -> ItemOutcome:
    """The failure of an item whose workers died each time; how: as in `signal 9`."""
    fewer = "executor.workers=1" if workers != 1 else "invert.compare_px=128, or a machine with more memory"
    error = WorkerDiedError(
        f"The worker process died ({how}) {_times(attempts)} at this photo, often for lack of memory: give {fewer}, "
        "and run the same command again."
    )
    return _ended(item, FAILED, error, attempts=attempts)


def _ended(
    item: WorkItem, status: str, error: PhotodragError, stage: str | None = None, attempts: int = 1
) -> ItemOutcome:
    kind = type(error).__name__
    return ItemOutcome(item.without_content(), status, stage=stage, error=str(error), kind=kind, attempts=attempts)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
