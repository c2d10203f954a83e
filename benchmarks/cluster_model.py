"""A cluster that works through many photos, event by event: how long it takes, and what failures cost.

Pure: seconds in, seconds out. What it is driven by (seconds a photo, seconds to start a worker, of a checkpoint) is
measured elsewhere; how often machines fail is given.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

END, LOST, BACK = range(3)
"""Events: a worker ends a photo, a node is lost, a node is back."""
NO_PHOTO = -1


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines and how they fail; every time in seconds.

    mtbf_s: mean time between failures of one node, preemption by its owner included, exponential; math.inf for never.
    return_s: until a lost node or its replacement is there again; notice_s: until its loss is noticed, during which its
    photos are nobody's. start_s: a worker's start, its models included. slow_share of the nodes take slow_factor times
    as long.
    """

    nodes: int
    workers_per_node: int
    mtbf_s: float = math.inf
    return_s: float = 0.0
    notice_s: float = 0.0
    start_s: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done.

    seconds: measured seconds of photos, drawn with replacement. checkpoint_s: a photo that is begun again goes on from
    the last multiple of these seconds; math.inf begins it from nothing. checkpoint_cost_s: what writing one costs.
    poison: the share of photos that kill their worker at their end each time. retries: how often a photo whose worker
    died is tried again; a node's loss counts as one, as it does for the executors.
    """

    photos: int
    seconds: Sequence[float]
    checkpoint_s: float = math.inf
    checkpoint_cost_s: float = 0.0
    poison: float = 0.0
    retries: int = 2


@dataclass(slots=True)
class Course:
    """What happened: `makespan_s` until the last photo, `to_99_s` until 99 of 100 had ended, and sums over the workers.

    useful_s: computing that counted, checkpoints not included; lost_s: computing that was thrown away; starting_s:
    starts of workers. lost_nodes, begun_again (photos), failed (photos whose tries were used up), done: counts.
    """

    makespan_s: float = 0.0
    to_99_s: float = 0.0
    useful_s: float = 0.0
    lost_s: float = 0.0
    starting_s: float = 0.0
    lost_nodes: int = 0
    begun_again: int = 0
    done: int = 0
    failed: int = 0

    def share(self, seconds: float, workers: int) -> float:
        """Seconds as a share of all seconds that the workers were there or should have been."""
        return seconds / (self.makespan_s * workers) if self.makespan_s else 0.0


def young_interval_s(checkpoint_cost_s: float, mtbf_s: float) -> float:
    """Seconds between checkpoints that lose least: sqrt(2 C M) (Young 1974; the first order of Daly 2006)."""
    return math.sqrt(2 * checkpoint_cost_s * mtbf_s)


def expected_loss(interval_s: float, checkpoint_cost_s: float, mtbf_s: float, return_s: float) -> float:
    """Share of a worker's time that is lost, to first order: C / T for checkpoints, T / 2 and the return a failure."""
    return checkpoint_cost_s / interval_s + (interval_s / 2 + return_s) / mtbf_s


class _Queue:
    """Photos for whoever is free; what is begun again comes first, as the executors have it."""

    def __init__(self, photos: int) -> None:
        self._next, self._photos = 0, photos
        self._again: deque[int] = deque()

    def take(self, _worker: int) -> int:
        if self._again:
            return self._again.popleft()
        if self._next == self._photos:
            return NO_PHOTO
        self._next += 1
        return self._next - 1

    def give_back(self, _worker: int, photo: int) -> None:
        self._again.append(photo)


class _Shards:
    """Photos dealt out to shards beforehand; a worker works through one shard and then takes the next that is left."""

    def __init__(self, photos: int, shards: int) -> None:
        self._left = deque(range(photos * i // shards, photos * (i + 1) // shards) for i in range(shards))
        self._mine: dict[int, deque[int]] = {}

    def take(self, worker: int) -> int:
        mine = self._mine.get(worker)
        while not mine:
            if not self._left:
                return NO_PHOTO
            mine = self._mine[worker] = deque(self._left.popleft())
        return mine.popleft()

    def give_back(self, worker: int, photo: int) -> None:
        self._mine[worker].appendleft(photo)


def simulate(cluster: Cluster, work: Work, seed: int, shards: int | None = None) -> Course:
    """One course of the work; shards: deal the photos out to so many job-array tasks instead of one queue.

    Raises ValueError where no photo could ever be ended: no worker, or no measured seconds.
    """
    if cluster.nodes < 1 or cluster.workers_per_node < 1 or not work.seconds:
        raise ValueError("a course needs a worker and the seconds of a photo")
    return _Simulation(cluster, work, seed, shards).run()


class _Simulation:
    def __init__(self, cluster: Cluster, work: Work, seed: int, shards: int | None) -> None:
        self.cluster, self.work = cluster, work
        self.rng = np.random.default_rng(seed)
        self.seconds = self.rng.choice(np.asarray(work.seconds, np.float64), work.photos).tolist()
        self.poisoned = set(np.flatnonzero(self.rng.random(work.photos) < work.poison).tolist())
        self.slow = np.where(self.rng.random(cluster.nodes) < cluster.slow_share, cluster.slow_factor, 1.0).tolist()
        self.source = _Queue(work.photos) if shards is None else _Shards(work.photos, shards)
        workers = cluster.nodes * cluster.workers_per_node
        self.photo = [NO_PHOTO] * workers
        self.began = [0.0] * workers
        self.turn = [0] * workers  # a worker's event of an earlier turn is of no account
        self.there = [True] * cluster.nodes
        self.idle: set[int] = set()
        self.kept: dict[int, float] = {}  # seconds of a photo that its checkpoint holds
        self.tries: dict[int, int] = {}
        self.events: list[tuple[float, int, int, int]] = []
        self.course = Course()

    def run(self) -> Course:
        cluster, course = self.cluster, self.course
        for node in range(cluster.nodes):
            self._come(node, 0.0)
        now = 0.0
        while course.done + course.failed < self.work.photos:
            now, kind, which, turn = heapq.heappop(self.events)
            if kind == END:
                if self.turn[which] == turn:
                    self._end(which, now)
            elif kind == LOST:
                self._lose(which, now)
            else:
                self._come(which, now)
        course.makespan_s = now
        return course

    def _workers(self, node: int) -> range:
        return range(node * self.cluster.workers_per_node, (node + 1) * self.cluster.workers_per_node)

    def _come(self, node: int, now: float) -> None:
        self.there[node] = True
        if math.isfinite(self.cluster.mtbf_s):
            lost = now + self.rng.exponential(self.cluster.mtbf_s)
            heapq.heappush(self.events, (lost, LOST, node, 0))
        for worker in self._workers(node):
            self.course.starting_s += self.cluster.start_s
            self._begin(worker, now + self.cluster.start_s)

    def _begin(self, worker: int, at: float) -> None:
        photo = self.source.take(worker)
        self.photo[worker], self.began[worker] = photo, at
        self.turn[worker] += 1
        if photo == NO_PHOTO:
            self.idle.add(worker)
            return
        self.idle.discard(worker)
        ends = at + self._left(worker, photo)
        heapq.heappush(self.events, (ends, END, worker, self.turn[worker]))

    def _left(self, worker: int, photo: int) -> float:
        """Seconds that the photo takes this worker from here on, checkpoints included."""
        left = self.seconds[photo] - self.kept.get(photo, 0.0)
        return left * self.slow[worker // self.cluster.workers_per_node] * (1 + self._checkpoint_share)

    @property
    def _checkpoint_share(self) -> float:
        return self.work.checkpoint_cost_s / self.work.checkpoint_s

    def _end(self, worker: int, now: float) -> None:
        photo = self.photo[worker]
        if photo in self.poisoned:
            self.course.lost_s += now - self.began[worker]
            self._again(worker, photo)
            self.course.starting_s += self.cluster.start_s
            self._begin(worker, now + self.cluster.start_s)
            return
        self.course.done += 1
        self.course.useful_s += self.seconds[photo]
        self.kept.pop(photo, None)
        self._count(now)
        self._begin(worker, now)

    def _count(self, now: float) -> None:
        if self.course.done + self.course.failed == math.ceil(0.99 * self.work.photos):
            self.course.to_99_s = now

    def _again(self, worker: int, photo: int) -> None:
        """A photo whose worker died: back to where it came from, or failed when its tries are used up."""
        self.tries[photo] = self.tries.get(photo, 0) + 1
        if self.tries[photo] > self.work.retries:
            self.course.failed += 1
            self._count(self.began[worker])
            return
        self.course.begun_again += 1
        self.source.give_back(worker, photo)

    def _lose(self, node: int, now: float) -> None:
        self.there[node] = False
        self.course.lost_nodes += 1
        speed = self.slow[node] * (1 + self._checkpoint_share)
        for worker in self._workers(node):
            photo = self.photo[worker]
            self.turn[worker] += 1
            self.idle.discard(worker)
            if photo == NO_PHOTO:
                continue
            done = max(0.0, now - self.began[worker]) / speed + self.kept.get(photo, 0.0)
            interval = self.work.checkpoint_s
            kept = math.floor(done / interval) * interval if math.isfinite(interval) else 0.0
            self.course.lost_s += (done - kept) * speed
            if kept:
                self.kept[photo] = kept
            self.photo[worker] = NO_PHOTO
            self._again(worker, photo)
        heapq.heappush(self.events, (now + self.cluster.return_s, BACK, node, 0))
        for worker in [one for one in self.idle if self.there[one // self.cluster.workers_per_node]]:
            self._begin(worker, now + self.cluster.notice_s)
