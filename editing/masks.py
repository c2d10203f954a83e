"""Soft masks round what a drag moves, in the photograph's pixels (numpy only)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from editing.points import Points

MASK_CORE, MASK_FADE = 0.34, 0.36  # inter-ocular distances: fully editable round a move, then fading out
MASK_GRID = 192  # the mask is smooth, so it is computed this coarse and enlarged
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
    """Values at the grid rows x columns, linearly interpolated at every pixel: float32 [H, W]."""
    weights = []
    for knots, count in zip((rows, columns), shape_hw, strict=True):
        hats = [np.interp(np.arange(count), knots, row) for row in np.eye(len(knots))]
        weights.append(np.stack(hats, axis=1).astype(np.float32))
    return np.clip(weights[0] @ coarse.astype(np.float32) @ weights[1].T, 0.0, 1.0)
