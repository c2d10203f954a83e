"""Photos for the benchmarks of batches, of a folder or crops of the sample photo, and the work that they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from data.files import file_sha256
from pipeline.executors.protocol import BatchJob, WorkItem
from pipeline.folders import find_photos, sample_photo


def photos_or_crops(given: Path | None, count: int, folder: Path) -> list[Path]:
    """The first `count` photos of the folder `given`, or crops of the sample photo in a new `folder`."""
    if given is None:
        return crops(folder, count)
    found = [photo.absolute() for photo in find_photos([str(given)]).photos][:count]
    assert len(found) == count, f"{given} holds {len(found)} photos, and {count} are wanted: give a smaller --count"
    return found


def crops(folder: Path, count: int) -> list[Path]:
    """Crops of the sample photo, no two the same, which all show its face."""
    folder.mkdir(parents=True)
    picture = cv2.imread(str(sample_photo()))
    paths = []
    for number in range(count):
        paths.append(folder / f"crop{number:03d}.png")
        assert cv2.imwrite(str(paths[-1]), picture[:, number : picture.shape[1] - number])
    return paths


def work_items(photos: Sequence[Path], job: BatchJob) -> Iterator[WorkItem]:
    """The work that photos mean, as a batch pulls it."""
    for number, photo in enumerate(photos, 1):
        found, sha256 = photo.stat(), file_sha256(photo)
        yield WorkItem(number, str(photo), photo.name, sha256, job.config_hash, found.st_size, found.st_mtime_ns)
