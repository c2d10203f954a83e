"""Five landmarks of inverted and tuned photos dragged there and back by both methods: how near to the start it ends."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import aligned_crop, in_processes, load_tools
from benchmarks.drag_pairs import METHODS, PAPER_PX, SETS, THERE_AND_BACK, face_distance, landmarks_of, outside_change
from benchmarks.drag_photos import TunedFace, tuned_face
from benchmarks.inversion import picked
from data.faces import load_face
from data.files import write_atomically
from editing.points import Points
from inversion.metrics import perceptual_distance


@dataclass(frozen=True, slots=True)
class Return:
    """A drag there and back, measured.

    Of the way there: the landmarks' mean distance to their targets before and after, in pixels of 512 as dlib sees
    them, a lost face counting as no edit; dlib's face distance; the mean change outside the points' hull; steps,
    processor seconds and end. `back` is the face-feature distance to the start after the way back.
    """

    before_px: float
    after_px: float
    identity: float
    outside: float
    back: float
    steps: int
    seconds: float
    reason: str


Returns = dict[str, Return]
"""Method -> what it did with one face."""


def return_figures(faces: Path, count: int, workers: int, keep: Path | None) -> dict[str, float]:
    """Both methods on the first `count` validation faces in a fixed random order, each to where the next face has its
    landmarks."""
    paths = picked(faces, count + 1)
    items = list(zip(paths, [*paths[1:], paths[0]], strict=True))[:count]
    return figures_of(
        [row for row in in_processes(partial(there_and_back, keep=keep), items, workers, "returns") if row]
    )


def there_and_back(pair: tuple[Path, Path], keep: Path | None) -> Returns:
    """The drags of one face, read where they are kept (a change of the drag's own code is not seen); nothing where dlib
    does not find one face in each of the two pictures."""
    torch.set_num_threads(1)
    path, other = pair
    file = None if keep is None else keep / f"{path.stem}_to_{other.stem}.json"
    if file is not None and file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        return {method: Return(**row) for method, row in told.items()}
    face = tuned_face(path, keep)
    asked = asked_moves(face, other)
    found = {} if asked is None else {method: one_return(face, *asked, method) for method in METHODS}
    if file is not None:
        write_atomically(file, json.dumps({method: asdict(row) for method, row in found.items()}).encode())
    return found


def asked_moves(face: TunedFace, other: Path) -> tuple[Points, Points] | None:
    """Where the five landmarks are in the tuned picture, and where in another photo."""
    size = face.image.shape[-1]
    there = torch.from_numpy(aligned_crop(load_face(other, size)).image)
    marks = landmarks_of(face.image), landmarks_of(there)
    if marks[0] is None or marks[1] is None:
        return None
    handles, targets = (found[SETS[THERE_AND_BACK]].clip(0, size - 1) for found in marks)
    return handles, targets


def one_return(face: TunedFace, handles: Points, targets: Points, method: str) -> Return:
    """One method's way there and back."""
    work, started = METHODS[method], time.process_time()
    there = work(face.generator, face.w, handles, targets, face.noise)
    seconds = time.process_time() - started
    back = work(face.generator, there.w, targets, handles, face.noise)
    scale = PAPER_PX / face.image.shape[-1]
    before_px = _apart(handles, targets) * scale
    seen = landmarks_of(there.image)
    return Return(
        before_px=before_px,
        after_px=before_px if seen is None else _apart(seen[SETS[THERE_AND_BACK]], targets) * scale,
        identity=face_distance(face.image, there.image),
        outside=outside_change(face.image, there.image, np.concatenate([handles, targets])),
        back=_feature_distance(back.image, face.image),
        steps=there.steps,
        seconds=seconds,
        reason=there.stop_reason,
    )


def _apart(first: Points, second: Points) -> float:
    return float(np.linalg.norm(first - second, axis=1).mean())


def _feature_distance(image: Tensor, start: Tensor) -> float:
    return perceptual_distance(load_tools().perceptual, image, start)


def figures_of(found: Sequence[Mapping[str, Return]]) -> dict[str, float]:
    """Means of each method, and ours over the published way's after the way back."""
    figures = {"returns": float(len(found))}
    if not found:
        return figures
    for method in METHODS:
        rows = [row[method] for row in found]
        for name in ("after_px", "identity", "outside", "steps", "seconds"):
            figures[f"returns_{name}_{method}"] = statistics.fmean(getattr(row, name) for row in rows)
        figures[f"ccsd_photos_{method}"] = statistics.fmean(row.back for row in rows)
        for reason in sorted({row.reason for row in rows}):
            figures[f"returns_{reason}_{method}"] = statistics.fmean(row.reason == reason for row in rows)
    figures["returns_before_px"] = statistics.fmean(row["ours"].before_px for row in found)
    figures["ccsd_ratio_photos"] = figures["ccsd_photos_ours"] / figures["ccsd_photos_published"]
    nearer = [row["ours"].back < row["published"].back for row in found]
    return figures | {"returns_nearer_ours": statistics.fmean(nearer)}
