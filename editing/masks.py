"""Soft masks round what a drag moves, in the photograph's pixels (numpy only)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from editing.points import Points

MASK_CORE, MASK_FADE = 0.34, 0.36  # inter-ocular distances: fully editable round a move, then fading out
MASK_GRID = 192  # the mask is smooth, so it is computed this coarse and enlarged
LINES_AT_ONCE = 64  # of a mask, so that enlarging it to a large photo takes little memory beside the mask
WIDER_BY_MOVE = 1.5  # of the longest move: a nose that goes far takes its head along
EYES_APART = 0.26  # of an aligned crop's side: about the distance between the eyes


def automatic_mask(
    handles: Points, targets: Points, unit_px: float, shape_hw: tuple[int, int]
) -> NDArray[np.float32] | None:
    """The mask [H, W] of a drag for which none was given: round what moves, wider where it moves farther.

    handles, targets [N, 2] and the inter-ocular distance `unit_px` in photo pixels. None when nothing moves.
    """
    longest_px = float(np.linalg.norm(targets - handles, axis=1).max(initial=0.0))
    return soft_mask(handles, targets, unit_px, shape_hw, WIDER_BY_MOVE * longest_px) if longest_px else None


def soft_mask(
    handles: Points, targets: Points, unit_px: float, shape_hw: tuple[int, int], wider_px: float = 0.0
) -> NDArray[np.float32]:
    """float32 [H, W]: 1 near the segments handle -> target that move, falling smoothly to 0; anchors do not count."""
    moved = (handles != targets).any(axis=1)
    if not moved.any():
        return np.zeros(shape_hw, dtype=np.float32)

    def away(grid: Points) -> Points:
        return (_distance_to_segments(grid, handles[moved], targets[moved]) - wider_px) / unit_px

    return faded(away, shape_hw)


def faded(away: Callable[[Points], Points], shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """float32 [H, W]: 1 up to MASK_CORE away, falling smoothly to 0 over MASK_FADE; `away` measures a grid [h, w, 2] of
    photo points in inter-ocular distances."""
    rows, columns = (np.linspace(0.0, n - 1, min(n, MASK_GRID)) for n in shape_hw)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1)
    fade = np.clip((MASK_CORE + MASK_FADE - away(grid)) / MASK_FADE, 0.0, 1.0)
    return _enlarge(fade * fade * (3.0 - 2.0 * fade), rows, columns, shape_hw)


def _distance_to_segments(grid: Points, starts: Points, ends: Points) -> Points:
    """Distance [h, w] of grid points [h, w, 2] to the nearest of the segments between starts and ends [N, 2]."""
    nearest = np.full(grid.shape[:2], np.inf)
    for start, end in zip(starts, ends, strict=True):
        along = end - start
        share = np.clip((grid - start) @ along / (along @ along), 0.0, 1.0)
        nearest = np.minimum(nearest, np.hypot(*np.moveaxis(grid - start - share[..., None] * along, -1, 0)))
    return nearest


def _enlarge(coarse: Points, rows: Points, columns: Points, shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Values at the grid rows x columns, linearly interpolated at every pixel: float32 [H, W]. A few lines at a time,
    and not by products of matrices, whose last bits depend on the number of cores."""
    values, result = coarse.astype(np.float32), np.empty(shape_hw, np.float32)
    above, down = _places(rows, shape_hw[0])
    left, right = _places(columns, shape_hw[1])
    for top in range(0, shape_hw[0], LINES_AT_ONCE):
        part = slice(top, top + LINES_AT_ONCE)
        lines = _mixed(values, above[part], down[part, None], axis=0)
        result[part] = _mixed(lines, left, right, axis=1)
    return np.clip(result, 0.0, 1.0, out=result)


def _places(knots: Points, count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For pixels 0 to count - 1, among ascending knots [N]: the index [count] of the knot at or before each, and the
    share [count] in [0, 1] of the way to the next."""
    pixels = np.arange(count, dtype=np.float64)
    before = np.clip(np.searchsorted(knots, pixels, side="right") - 1, 0, max(len(knots) - 2, 0))
    ways = np.diff(knots, append=knots[-1] + 1.0)
    return before, ((pixels - knots[before]) / ways[before]).astype(np.float32)


def _mixed(
    values: NDArray[np.float32], at: NDArray[np.intp], share: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """Along an axis of values [h, w], what lies at that share of the way from each index to the next one."""
    first = values.take(at, axis)
    first *= 1 - share
    second = values.take(np.minimum(at + 1, values.shape[axis] - 1), axis)
    second *= share
    return np.add(first, second, out=first)
