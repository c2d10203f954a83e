"""A worker as a Ray actor holds it: what the driver calls, on whatever machine it lies.

Imports nothing heavy, so that a machine with another photodrag, or a broken one, can still say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.executors.protocol import BatchJob, ItemOutcome, WorkItem
from pipeline.locks import LockedError, file_lock

if TYPE_CHECKING:
    from pipeline.executors.worker import Worker

SCRATCH_PREFIX = "photodrag-ray-worker-"
SCRATCH_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Started:
    """How a worker's start ended: the models that it will use, which must be those of all others, or an error."""

    where: str
    generator_sha256: str = ""
    perceptual: str = ""
    error: str | None = None


class ActorWorker:
    """One worker of a batch; `hello`, then `start`, then `run` for each item."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._scratch = contextlib.ExitStack()

    def hello(self) -> tuple[str, str]:
        """(version of photodrag here, host and process): asked before anything is sent that versions may not share."""
        return __version__, _where()

    def start(self, job: BatchJob) -> Started:
        """Read the networks; what keeps the worker from starting is told, not raised."""
        # Before torch loads, as in the command line.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ["OMP_NUM_THREADS"] = str(job.threads)
        from pipeline.errors import sentence

        try:
            from pipeline.executors.worker import Worker
            from pipeline.models import pick_device
            from pipeline.run import perceptual_of

            scratch = self._scratch.enter_context(own_scratch()) if job.send_bytes else None
            worker = Worker(job, _where(), scratch)
            generator = worker.models.generator(worker.config.generator, pick_device(worker.config.device))
            perceptual = perceptual_of(worker.config)
        except Exception as error:  # noqa: BLE001  told by the driver as one sentence
            return Started(_where(), error=sentence(error))
        self._worker = worker
        return Started(_where(), generator.sha256, "" if perceptual is None else perceptual.name)

    def run(self, item: WorkItem) -> ItemOutcome:
        """As `Worker.run`."""
        assert self._worker is not None, "start comes first"
        return self._worker.run(item)

    def close(self) -> None:
        """Leave nothing behind on this machine."""
        if self._worker is not None:
            self._worker.close()
        self._scratch.close()


def _where() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


@contextlib.contextmanager
def own_scratch() -> Iterator[Path]:
    """A temporary folder for the runs of photos that come as bytes, after removing those of workers that were killed.

    A lock in each folder, which the system releases with its process, tells the living from the dead.
    """
    base = Path(tempfile.gettempdir())
    for other in base.glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(LockedError, OSError), file_lock(other / SCRATCH_LOCK):
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    with file_lock(folder / SCRATCH_LOCK):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
