"""Workers as actors of a Ray cluster, on one machine or many; the ledger and everything that is written stay here.

Each worker is an actor of its own with its networks in memory (`num_cpus` the worker's threads, a GPU where the cluster
has any) and has one photo at a time, so that no more photos are under way than there are workers. An actor that dies,
alone or with its machine, is replaced as soon as the cluster has room for another, and its photo is tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from data.errors import ClusterError, ModelError
from pipeline import __version__
from pipeline.errors import one_line
from pipeline.executors.actor import ActorWorker, Started
from pipeline.executors.cluster import joined
from pipeline.executors.protocol import BatchJob, ItemOutcome, WorkItem, changed, died
from pipeline.executors.waiting import Waiting

CLOSING_S = 5.0
"""How long workers without a photo may take to remove what they alone could read."""
START_WAIT_S = 600.0
"""How long the cluster may have no worker at all, neither running nor starting with success."""
MOST_FAILED_STARTS = 5
"""So many actors in a row may die before one has started."""
POLL_S = 5.0

HELLO, STARTING, FREE, BUSY = "hello", "starting", "free", "busy"


@dataclass(frozen=True, slots=True)
class _Died:
    """An item whose worker died: which attempt at it that was, and how the worker died, in words."""

    item: WorkItem
    attempt: int
    how: str


class RayExecutor:
    """Sends each item to an actor that is free; see the module.

    start_wait_s: how long the cluster may have no worker that runs.
    """

    def __init__(self, start_wait_s: float = START_WAIT_S) -> None:
        self._start_wait_s = start_wait_s

    def run(self, job: BatchJob, items: Iterable[WorkItem]) -> Generator[ItemOutcome, None, None]:
        """As `Executor.run`. Raises ClusterError when the cluster cannot take the work, UsageError for its address."""
        with joined(job) as ray, contextlib.closing(_Crew(ray, job, self._start_wait_s)) as crew:
            waiting = Waiting(items)
            while True:
                for worker in crew.free():
                    if not waiting.more():
                        break
                    refused = worker.give(*waiting.next())
                    if refused is not None:
                        yield refused
                if not waiting.more() and not crew.busy():
                    return
                for worker in crew.ready():
                    found = crew.take(worker)
                    if not isinstance(found, _Died):
                        yield from [] if found is None else [found]
                    elif found.attempt <= job.retries:
                        waiting.again(found.item, found.attempt + 1)
                    else:
                        yield died(found.item, found.how, found.attempt, job.workers)


class _Actor:
    """An actor, what it was asked last, and the item that it has."""

    def __init__(self, handle: Any, job: BatchJob) -> None:
        self.handle, self._job = handle, job
        self.phase = HELLO
        self.asked: Any = handle.hello.remote()
        self.task: tuple[WorkItem, int] | None = None

    def start(self) -> None:
        """Let it read the networks."""
        self.phase, self.asked = STARTING, self.handle.start.remote(self._job)

    def give(self, item: WorkItem, attempt: int) -> ItemOutcome | None:
        """Send an item, with its photo where photos travel as bytes; an outcome when that is not what was hashed."""
        sent = item
        if self._job.send_bytes:
            content = _content(item)
            if content is None:
                return changed(item)
            sent = replace(item, content=content)
        self.phase, self.task, self.asked = BUSY, (item, attempt), self.handle.run.remote(sent)
        return None

    def rest(self) -> None:
        """It has nothing to do."""
        self.phase, self.task, self.asked = FREE, None, None


class _Crew:
    """The actors of one call, of which there are always as many as are wanted, where the cluster has room."""

    def __init__(self, ray: ModuleType, job: BatchJob, start_wait_s: float) -> None:
        self._ray, self._job, self._start_wait_s = ray, job, start_wait_s
        gpus = int(ray.cluster_resources().get("GPU", 0)) if job.config.get("device") != "cpu" else 0
        self._wanted = job.workers or _room(ray, job.threads, gpus > 0)
        share = min(1.0, gpus / self._wanted)  # more workers than GPUs share them, as local processes do
        share = 1.0 if share == 1.0 else math.floor(share * 1000) / 1000
        self._make = ray.remote(
            num_cpus=job.threads, num_gpus=share, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )(ActorWorker)
        self._actors: list[_Actor] = []
        self._first: Started | None = None
        self._failed_starts = 0
        self._waiting_since = time.monotonic()

    def free(self) -> list[_Actor]:
        """Actors without an item, after making those that are missing."""
        while len(self._actors) < self._wanted:
            self._actors.append(_Actor(self._make.remote(), self._job))
        return [actor for actor in self._actors if actor.phase == FREE]

    def busy(self) -> list[_Actor]:
        """Actors that have an item."""
        return [actor for actor in self._actors if actor.phase == BUSY]

    def ready(self) -> list[_Actor]:
        """Actors that have answered, after waiting for the first of them; ClusterError when nothing runs for long."""
        by_ref = {actor.asked: actor for actor in self._actors if actor.asked is not None}
        while True:
            found, _ = self._ray.wait(list(by_ref), num_returns=1, timeout=POLL_S)
            if found:
                more, _ = self._ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
                return [by_ref[ref] for ref in dict.fromkeys([*found, *more])]
            if any(actor.phase in (FREE, BUSY) for actor in self._actors):
                self._waiting_since = time.monotonic()
            elif time.monotonic() - self._waiting_since > self._start_wait_s:
                raise ClusterError(
                    f"No worker has started on the Ray cluster in {self._start_wait_s:g} s, and none runs: see "
                    "`ray status` for what it is short of, and run the same command again."
                )

    def take(self, actor: _Actor) -> ItemOutcome | _Died | None:
        """What an actor answered: an outcome, the death of an item's worker, or None when it only goes on starting."""
        try:
            answer = self._ray.get(actor.asked)
        except self._ray.exceptions.RayError as error:
            return self._bury(actor, error)
        if actor.phase == HELLO:
            _check_version(*answer)
            actor.start()
            return None
        if actor.phase == STARTING:
            self._check_models(answer)
            self._failed_starts = 0
            actor.rest()
            return None
        assert actor.task is not None
        attempt = actor.task[1]
        actor.rest()
        return replace(answer, attempts=attempt)

    def _bury(self, actor: _Actor, error: Exception) -> _Died | None:
        """Forget an actor that died; `free` makes another."""
        self._actors.remove(actor)
        self._kill(actor)
        if actor.task is not None:
            item, attempt = actor.task
            return _Died(item, attempt, _how(error))
        if "No module named" in str(error):
            package = one_line(error).rpartition("No module named")[2].strip(" .'\"")[:60]
            raise ClusterError(
                f"A machine of the Ray cluster has no {package}: install the same photodrag for the Python that runs "
                "Ray on every machine (pip install 'photodrag[ray]')."
            )
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise ClusterError(
                f"{self._failed_starts} workers in a row died while they started ({_how(error)}), often for lack of "
                "memory: give a smaller executor.workers, and run the same command again."
            )
        return None

    def _check_models(self, started: Started) -> None:
        """Raise ModelError unless a worker has the models of the first: their results would differ."""
        if started.error is not None:
            raise ModelError(f"A worker ({started.where}) cannot start: {started.error}")
        first = self._first = self._first or started
        for name, ours, theirs in (
            ("generator", first.generator_sha256[:16], started.generator_sha256[:16]),
            ("perceptual distance", first.perceptual, started.perceptual),
        ):
            if ours != theirs:
                raise ModelError(
                    f"Workers have different models: the {name} is {ours} at {first.where}, and {theirs} at "
                    f"{started.where}: put the same files on every machine, or name them (generator.path=FILE, "
                    "perceptual=face)."
                )

    def _kill(self, actor: _Actor) -> None:
        with contextlib.suppress(Exception):  # it is gone already, or its cluster is
            self._ray.kill(actor.handle)

    def close(self) -> None:
        """End every actor; those with an item leave its last checkpoint."""
        resting = [actor.handle.close.remote() for actor in self._actors if actor.phase == FREE]
        if resting:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.wait(resting, num_returns=len(resting), timeout=CLOSING_S)
        for actor in self._actors:
            self._kill(actor)
        self._actors = []


def _room(ray: ModuleType, threads: int, gpus: bool) -> int:
    """How many workers of so many threads and GPUs the cluster holds at once; ClusterError for none."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(
        min(int(node.get("CPU", 0) // threads), int(node.get("GPU", 0)) if gpus else int(node.get("CPU", 0)))
        for node in nodes
    )
    if room < 1:
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        raise ClusterError(
            f"No machine of the Ray cluster has room for a worker of {threads} threads{' and a GPU' if gpus else ''}: "
            f"the largest has {most} processors; give a smaller threads, or executor.workers=N to wait for machines."
        )
    return room


def _content(item: WorkItem) -> bytes | None:
    """The photo's file, None when it is not what was hashed any more."""
    try:
        content = Path(item.photo).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == item.sha256 else None


def _check_version(version: str, where: str) -> None:
    if version != __version__:
        raise ClusterError(
            f"A worker ({where}) has photodrag {version}, and this is {__version__}: install the same version on every "
            "machine of the cluster."
        )


def _how(error: Exception) -> str:
    """How a worker died, in words, from Ray's error."""
    if type(error).__name__ == "OutOfMemoryError":
        return "ended by Ray, as its machine ran out of memory"
    return "killed, or its machine was lost"
