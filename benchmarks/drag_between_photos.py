"""Landmarks of inverted and tuned photos dragged by both methods to where the next photo has them, and back."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import aligned_crop, in_processes
from benchmarks.drag_moves import (
    METHODS,
    THERE_AND_BACK,
    KeptDrags,
    Outcomes,
    Start,
    all_moves,
    by_points,
    landmarks_of,
    move_figures,
)
from benchmarks.drag_photos import tuned_face
from benchmarks.inversion import picked
from data.faces import load_face


def between_photos_figures(faces: Path, count: int, workers: int, keep: Path | None) -> dict[str, float]:
    """Both methods on the first `count` validation faces in a fixed random order, each to where the next face has its
    landmarks; every key ends in `_photos`."""
    paths = picked(faces, count + 1)
    items = list(zip(paths, [*paths[1:], paths[0]], strict=True))[:count]
    return figures_of(in_processes(partial(drag_to_next, keep=keep), items, workers, "between photos"))


def drag_to_next(pair: tuple[Path, Path], keep: Path | None) -> Outcomes:
    """The drags of one face, read where they are kept (a change of the drag's own code is not seen); nothing where dlib
    does not find one face in each of the two pictures."""
    torch.set_num_threads(1)
    path, other = pair
    face = tuned_face(path, keep)
    start = Start(face.generator, face.w, face.noise, face.image, landmarks_of(face.image))
    return all_moves(f"{path.stem}_to_{other.stem}", start, goal_of(other, start), list(METHODS), KeptDrags(keep))


def goal_of(other: Path, start: Start) -> np.ndarray | None:
    """Where another photo has its landmarks [68, 2], in the pixels of the picture that is dragged."""
    there = aligned_crop(load_face(other, start.image.shape[-1]))
    return landmarks_of(torch.from_numpy(there.image))


def figures_of(rows: list[Outcomes]) -> dict[str, float]:
    """The figures of the drags, and on how many faces ours ends nearer to the start after the way back."""
    if not any(rows):
        return {"faces_photos": 0.0}
    outcomes = by_points(rows)
    back = outcomes[THERE_AND_BACK]
    nearer = [ours.back < other.back for ours, other in zip(back["ours"], back["published"], strict=True)]
    found = move_figures(outcomes) | {"faces": float(len(nearer)), "ccsd_nearer": statistics.fmean(nearer)}
    return {f"{name}_photos": value for name, value in found.items()}
