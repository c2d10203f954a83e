"""A drag as a person asks for it, and the checks that its points must pass (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UsageError

Points = NDArray[np.float64]
PointsLike = Any  # tensor, array or nested sequence: whatever numpy.asarray understands as [N, 2]

MANY_MEND = "give pairs as edit.points=[[x,y,x2,y2]] or a preset such as edit.preset=smile"


@dataclass(frozen=True, eq=False, slots=True)
class Drag:
    """Handles [N, 2] that shall move to targets [N, 2], (x, y) float64 in PHOTO pixels.

    A pair whose target is its handle is an anchor: it is held in place. `mask` is None or float32 [H, W] of the
    photo's size in [0, 1], 1 where the picture may change.
    """

    handles: Points
    targets: Points
    mask: NDArray[np.float32] | None = None


def points_array(points: PointsLike, name: str) -> Points:
    """Points as float64 [N, 2], N >= 1; UsageError for another shape, no points, or a value that is not finite."""
    if hasattr(points, "detach"):
        points = points.detach().cpu().numpy()
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The {name} are not numbers: {MANY_MEND}.") from error
    if array.size == 0:
        raise UsageError(f"No {name} were given, and a drag needs at least one pair: {MANY_MEND}.")
    if array.ndim != 2 or array.shape[1] != 2:
        raise UsageError(f"The {name} have the shape {list(array.shape)}; [N, 2] with (x, y) is needed: {MANY_MEND}.")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise UsageError(f"{name.capitalize()} {bad + 1} is ({_xy(array[bad])}); coordinates must be finite numbers.")
    return array


def check_pairs(handles: PointsLike, targets: PointsLike, size_px: int) -> tuple[Points, Points]:
    """Handles and targets as float64 [N, 2] in crop pixels, both inside a crop of `size_px`.

    UsageError when the counts differ, a point lies outside the crop, or one handle is given two targets.
    """
    start, goal = points_array(handles, "handles"), points_array(targets, "targets")
    if len(start) != len(goal):
        raise UsageError(f"{len(start)} handles and {len(goal)} targets were given; each handle needs one target.")
    for name, points in (("handle", start), ("target", goal)):
        _check_inside(points, name, size_px)
    _check_distinct(start, goal)
    return start, goal


def _check_inside(points: Points, name: str, size_px: int) -> None:
    outside = np.flatnonzero(((points < -0.5) | (points > size_px - 0.5)).any(axis=1))
    if outside.size:
        first = int(outside[0])
        raise UsageError(
            f"The {name} of pair {first + 1} falls on ({_xy(points[first])}), outside the aligned crop of "
            f"{size_px} x {size_px} px: choose a point nearer the face, or a smaller edit.strength."
        )


def _check_distinct(handles: Points, targets: Points) -> None:
    _, first, group = np.unique(handles.round(3), axis=0, return_index=True, return_inverse=True)
    clash = np.abs(targets - targets[first[group.reshape(-1)]]).max(axis=1) > 1e-3
    if clash.any():
        later = int(np.flatnonzero(clash)[0])
        earlier = int(first[group.reshape(-1)[later]])
        raise UsageError(
            f"Pairs {earlier + 1} and {later + 1} have the same handle ({_xy(handles[later])}) but different targets: "
            "keep one of them."
        )


def _xy(point: Sequence[float] | Points) -> str:
    return f"{point[0]:.2f}, {point[1]:.2f}"
