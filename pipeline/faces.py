"""Which drag concerns which face of a photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.alignment import Alignment
from data.errors import UsageError


def assign_pairs(points: Sequence[Sequence[float]], alignments: Sequence[Alignment]) -> list[list[int]]:
    """For each face the numbers of the drag pairs that move it.

    points: pairs [x, y, x2, y2] in photo pixels. A pair goes to the face whose crop contains its handle nearest to the
    crop's centre, measured in crop sides. Raises UsageError for a handle outside every crop.
    """
    assigned: list[list[int]] = [[] for _ in alignments]
    for number, pair in enumerate(points):
        distances = [_distance_from_centre(alignment, pair[0], pair[1]) for alignment in alignments]
        nearest = int(np.argmin(distances))
        if not np.isfinite(distances[nearest]):
            raise UsageError(_outside_message(pair, alignments))
        assigned[nearest].append(number)
    return assigned


def _distance_from_centre(alignment: Alignment, x: float, y: float) -> float:
    """Distance of a photo point from the crop's centre in crop sides; infinite outside the crop."""
    place = np.asarray(alignment.to_crop(np.array([[x, y]], dtype=np.float64)))[0]
    if (place < -0.5).any() or (place > alignment.size - 0.5).any():
        return float("inf")
    return float(np.linalg.norm(place - (alignment.size - 1) / 2)) / alignment.size


def _outside_message(pair: Sequence[float], alignments: Sequence[Alignment]) -> str:
    boxes = []
    for alignment in alignments:
        quad = np.asarray(alignment.quad)
        (left, top), (right, bottom) = quad.min(axis=0), quad.max(axis=0)
        boxes.append(f"x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}")
    return (
        f"The handle ({pair[0]:g}, {pair[1]:g}) of edit.points lies outside the crop of every face that this run works "
        f"on ({'; '.join(boxes)}): give it in pixels of the upright photo, or choose another face with "
        "align.face=INDEX or align.face=all."
    )
