"""What a Ray cluster costs over plain processes: the same photos, the same workers, on one machine, turn by turn.

    python benchmarks/ray_overhead.py [--photos FOLDER] [--count 6] [--repeats 3] [--workers 2] [--quick] --json FILE

Every round computes all photos anew with each executor, the order changing from round to round; a round counts from the
executor's first breath to its last, so the start of processes and of the cluster is part of it, and is told apart as
well: until the first outcome, and from the first to the last.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import cv2

from benchmarks.common import tell
from pipeline.batch_recipe import job_of, recipe_hash
from pipeline.executors.protocol import DONE, BatchJob, WorkItem
from pipeline.executors.table import executor_for
from pipeline.folders import find_photos, sample_photo
from pipeline.schema import RunConfig, compose

QUICK = ("invert.steps=20", "tune.steps=10", "measure.metrics=false")
"""Runs of a few seconds, of which a fixed cost is a larger share than of whole ones."""
EXECUTORS = ("local", "ray")


def measure(
    photos: Path | None = None,
    count: int = 6,
    repeats: int = 3,
    workers: int = 2,
    overrides: Sequence[str] = ("edit=smile",),
) -> dict[str, float]:
    """Medians over `repeats` rounds of `count` photos (of a folder, or crops of the sample photo).

    Keys: `ray_overhead_ratio` (seconds of a whole round, Ray's over the local executor's), `local_round_s`,
    `ray_round_s`, `local_start_s` and `ray_start_s` (until the first outcome, less than a photo's own seconds),
    `local_photos_per_s`, `ray_photos_per_s` (from the first outcome to the last). AssertionError when a photo fails.
    """
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in EXECUTORS}
    with tempfile.TemporaryDirectory(prefix="photodrag-ray-overhead-") as scratch:
        given = crops_or_photos(photos, count, Path(scratch) / "photos")
        for number in range(repeats):
            for name in EXECUTORS if number % 2 == 0 else EXECUTORS[::-1]:
                config = compose([*overrides, "progress=false", f"executor={name}", f"executor.workers={workers}"])
                config = dataclasses.replace(config, out=str(Path(scratch) / f"{name}{number}"))
                rounds[name].append(_round(config, given))
    found: dict[str, float] = {"ray_overhead_photos": count, "ray_overhead_workers": workers}
    for name, seconds in rounds.items():
        whole, start, per_photo = (statistics.median(values) for values in zip(*seconds, strict=True))
        found |= {f"{name}_round_s": whole, f"{name}_start_s": start, f"{name}_photos_per_s": 1 / per_photo}
    return {"ray_overhead_ratio": found["ray_round_s"] / found["local_round_s"], **found}


def _round(config: RunConfig, photos: Sequence[Path]) -> tuple[float, float, float]:
    """Seconds of the whole, to the first outcome without its computing, and for each photo after the first."""
    job = job_of(config, recipe_hash(config), debug=False)
    ends: list[float] = []
    first_s = 0.0
    since = time.perf_counter()
    with contextlib.closing(executor_for(config.executor).run(job, work_items(photos, job))) as outcomes:
        for outcome in outcomes:
            ends.append(time.perf_counter())
            assert outcome.status == DONE, outcome.error
            first_s = first_s or outcome.seconds
    whole = time.perf_counter() - since
    return whole, ends[0] - since - first_s, (ends[-1] - ends[0]) / (len(ends) - 1)


def work_items(photos: Sequence[Path], job: BatchJob) -> Iterator[WorkItem]:
    """The work that photos mean, as a batch pulls it."""
    for number, photo in enumerate(photos, 1):
        found, sha256 = photo.stat(), hashlib.sha256(photo.read_bytes()).hexdigest()
        yield WorkItem(number, str(photo), photo.name, sha256, job.config_hash, found.st_size, found.st_mtime_ns)


def crops_or_photos(given: Path | None, count: int, folder: Path) -> list[Path]:
    """The first photos of a folder, or crops of the sample photo that all show its face."""
    if given is not None:
        found = [photo.absolute() for photo in find_photos([str(given)]).photos][:count]
        assert len(found) == count, f"{given} holds {len(found)} photos, and {count} are wanted: give a smaller --count"
        return found
    folder.mkdir()
    picture = cv2.imread(str(sample_photo()))
    paths = []
    for number in range(count):
        paths.append(folder / f"crop{number}.png")
        assert cv2.imwrite(str(paths[-1]), picture[:, number : picture.shape[1] - number])
    return paths


def main(words: Sequence[str] | None = None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos with faces; crops of the sample photo without")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="short runs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    overrides = ["edit=smile", *(QUICK if given.quick else ())]
    tell(
        measure(given.photos, given.count, given.repeats, given.workers, overrides), given.json, ["ray_overhead_ratio"]
    )


if __name__ == "__main__":
    main()
