"""The plan of a million photos in figures: what a photo costs, what the bookkeeping costs, what failures cost.

    python benchmarks/million.py [--photos FOLDER] [--count 8] [--book 1000000] [--quick] --json FILE

Three parts, all of them printed, the first two measured and the third simulated from what they gave:
  photo       whole runs with `edit=smile` on one thread, in this process, by the worker that every executor uses;
  bookkeeping the batch's real planning, ledger, tables and pages on made-up work (`benchmarks/bookkeeping.py`);
  cluster     courses of `benchmarks/cluster_model.py` with the measured seconds; how often machines fail is assumed.
Memory and seconds of the bookkeeping are those of a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from benchmarks.bookkeeping import measure_bookkeeping
from benchmarks.cluster_model import Cluster, Course, Work, expected_loss, simulate, young_interval_s
from benchmarks.common import tell
from benchmarks.ray_overhead import crops_or_photos, work_items
from pipeline.artifacts import Checkpoints
from pipeline.batch_recipe import job_of, recipe_hash
from pipeline.executors.protocol import DONE
from pipeline.executors.worker import Worker
from pipeline.folders import RECIPE_SUFFIX
from pipeline.schema import compose

PHOTOS = 1_000_000
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
STAGES = ("align", "invert", "tune", "measure", "edit", "blend")


@dataclasses.dataclass(slots=True)
class PhotoCost:
    """What photos cost: processor seconds of each, which a busy machine lengthens less than those of the clock, and
    figures by name for the JSON; `row` is one photo's of the table."""

    seconds: list[float]
    figures: dict[str, float]
    row: dict[str, Any]


def measure_photos(folder: Path | None, count: int) -> PhotoCost:
    """Whole runs of `count` photos on one thread, by the worker of every executor.

    Figures, medians over the photos: `photo_s` and `photo_cpu_s` (wall and processor), a `stage_<name>_s` for each
    stage, `photo_rest_s` (report, pictures, files), `photo_bytes` and `photo_files` of a run folder, of which
    `stages_bytes` in `stages_files` are what a later edit goes on from, and `result_bytes` the photo and its recipe;
    `checkpoint_s` (of writing one), `start_s` (of the worker, imports not included), `worker_bytes` (most memory).
    """
    with tempfile.TemporaryDirectory(prefix="photodrag-million-") as scratch:
        config = compose(["edit=smile", "threads=1", "progress=false", "device=cpu", "executor.workers=1"])
        config = dataclasses.replace(config, out=str(Path(scratch) / "runs"))
        job = job_of(config, recipe_hash(config), debug=False)
        since = time.perf_counter()
        worker = Worker(job)
        start_s = time.perf_counter() - since
        columns: dict[str, list[float]] = defaultdict(list)
        saves, row = _timed_saves(), {}
        for item in work_items(crops_or_photos(folder, count, Path(scratch) / "photos"), job):
            cpu = time.process_time()
            outcome = worker.run(item)
            assert outcome.status == DONE, outcome.error
            columns["photo_s"].append(outcome.seconds)
            columns["photo_cpu_s"].append(time.process_time() - cpu)
            row = dict(outcome.rows[0])
            _add_stages(columns, Path(str(outcome.run)), outcome.seconds)
            _add_sizes(columns, Path(str(outcome.run)))
    figures = {name: statistics.median(values) for name, values in columns.items()}
    figures |= {"photos_measured": count, "start_s": start_s, "checkpoint_s": statistics.median(saves)}
    figures["worker_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return PhotoCost(columns["photo_cpu_s"], figures, row)


def _timed_saves() -> list[float]:
    """Seconds of every checkpoint that is written from now on, as they come."""
    seconds: list[float] = []
    real = Checkpoints.save

    def save(self: Checkpoints, state: Mapping[str, Any]) -> None:
        since = time.perf_counter()
        real(self, state)
        seconds.append(time.perf_counter() - since)

    Checkpoints.save = save  # type: ignore[method-assign]
    return seconds


def _add_stages(columns: dict[str, list[float]], run: Path, seconds: float) -> None:
    from pipeline.manifest import read_manifest

    spent: dict[str, float] = defaultdict(float)
    for entry in read_manifest(run)["stages"]:
        spent[entry["stage"]] += entry["seconds"]
    for name in STAGES:
        columns[f"stage_{name}_s"].append(spent[name])
    columns["photo_rest_s"].append(seconds - sum(spent.values()))


def _add_sizes(columns: dict[str, list[float]], run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file()]
    stages = [path for path in files if path.relative_to(run).parts[0] in STAGES]
    (recipe,) = run.glob(f"*{RECIPE_SUFFIX}")
    result = recipe.with_name(recipe.name.removesuffix(RECIPE_SUFFIX))
    columns["photo_bytes"].append(_disk_bytes(run.rglob("*")))
    columns["photo_files"].append(1 + len(list(run.rglob("*"))))
    columns["stages_bytes"].append(_disk_bytes(stages))
    columns["stages_files"].append(len(stages))
    columns["result_bytes"].append(_disk_bytes([recipe, result]))


def _disk_bytes(paths: Any) -> int:
    """What files take on the disk, its blocks counted, a file of several names once."""
    blocks = {(found.st_dev, found.st_ino): found.st_blocks for found in (path.lstat() for path in paths)}
    return 512 * sum(blocks.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A cluster for the plan, and how photos reach its workers: from one queue, or as so many shards."""

    name: str
    cluster: Cluster
    checkpoint_s: float = math.inf
    shards: int | None = None
    poison: float = 0.0


def scenarios(start_s: float, checkpoint_s: float) -> list[Scenario]:
    """Two hundred machines of five workers: steady ones, spot machines, slow ones; a queue, shards few and many.

    checkpoint_s: seconds between the checkpoints that a run writes.
    """
    steady = Cluster(200, 5, start_s=start_s, mtbf_s=90 * DAY_S, return_s=HOUR_S, notice_s=30.0)
    spot = dataclasses.replace(steady, mtbf_s=6 * HOUR_S, return_s=600.0)
    slow = dataclasses.replace(steady, slow_share=0.05, slow_factor=3.0)
    return [
        Scenario("no_failures", dataclasses.replace(steady, mtbf_s=math.inf)),
        Scenario("steady", steady, checkpoint_s),
        Scenario("spot", spot, checkpoint_s),
        Scenario("spot_without_checkpoints", spot),
        Scenario("slow_queue", slow, checkpoint_s),
        Scenario("slow_1000_shards", slow, checkpoint_s, shards=1000),
        Scenario("slow_10000_shards", slow, checkpoint_s, shards=10_000),
        Scenario("poison", steady, checkpoint_s, poison=1e-4),
    ]


def simulate_all(cost: PhotoCost, photos: int, seed: int = 0) -> dict[str, float]:
    """Figures of every scenario by its name, after printing them as a table."""
    interval_s = _checkpoint_interval_s(cost)
    figures: dict[str, float] = {"checkpoint_interval_s": interval_s}
    print(
        f"{'course':26s} {'days':>7s} {'busy':>7s} {'lost':>9s} {'nodes lost':>10s} {'again':>8s} {'failed':>7s} "
        f"{'last 1 %':>8s}"
    )
    for one in scenarios(cost.figures["start_s"], interval_s):
        work = Work(photos, cost.seconds, one.checkpoint_s, cost.figures["checkpoint_s"], one.poison)
        course = simulate(one.cluster, work, seed, one.shards)
        figures |= _told(one, course)
    for name, mtbf_s in (("steady", 90 * DAY_S), ("spot", 6 * HOUR_S)):
        figures[f"young_{name}_s"] = young_interval_s(cost.figures["checkpoint_s"], mtbf_s)
    figures["expected_loss_spot"] = expected_loss(interval_s, cost.figures["checkpoint_s"], 6 * HOUR_S, 600.0)
    return figures


def _told(one: Scenario, course: Course) -> dict[str, float]:
    workers = one.cluster.nodes * one.cluster.workers_per_node
    busy, lost = course.share(course.useful_s, workers), course.lost_s / course.useful_s
    last = 1 - course.to_99_s / course.makespan_s
    print(
        f"{one.name:26s} {course.makespan_s / DAY_S:7.3f} {busy:7.3f} {lost:9.2e} {course.lost_nodes:10d} "
        f"{course.begun_again:8d} {course.failed:7d} {last:8.3f}"
    )
    told = {"days": course.makespan_s / DAY_S, "busy": busy, "lost": lost, "again": course.begun_again}
    return {f"{one.name}_{name}": value for name, value in {**told, "failed": course.failed, "last": last}.items()}


def _checkpoint_interval_s(cost: PhotoCost) -> float:
    """Processor seconds between two checkpoints of a photo: those of the inversion, whose steps are the longest."""
    config, figures = compose(["edit=smile"]), cost.figures
    own = figures["photo_cpu_s"] / figures["photo_s"]
    return figures["stage_invert_s"] * own / config.invert.steps * config.invert.checkpoint_every


def main(words: Sequence[str] | None = None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos with faces; crops of the sample photo without")
    parser.add_argument("--count", type=int, default=8, help="photos that are measured")
    parser.add_argument("--book", type=int, default=PHOTOS, help="photos of the bookkeeping")
    parser.add_argument(
        "--quick", action="store_true", help="three photos, the bookkeeping of 20,000, courses of 100,000"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    count, book, photos = (3, 20_000, PHOTOS // 10) if given.quick else (given.count, given.book, PHOTOS)
    cost = measure_photos(given.photos, count)
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        kept = apart.submit(measure_bookkeeping, book, cost.row).result()
    figures = {**cost.figures, "book_photos": book, **{f"book_{name}": value for name, value in kept.items()}}
    tell({**figures, **simulate_all(cost, photos), "simulated_photos": photos}, given.json)


if __name__ == "__main__":
    main()
