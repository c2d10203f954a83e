"""Points and masks of a photo as Python programs give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import UsageError
from data.photo import read_mask

MaskLike = str | Path | ArrayLike
"""Where a photo may change: a file, or [H, W] in the photo's pixels, bool, uint8 (255 may change) or 0 to 1."""
DECIMALS = 3
"""Of points in photo pixels, as edits are kept."""


def pairs_of(points: ArrayLike) -> NDArray[np.float64]:
    """Pairs [N, 4] of x, y, x2, y2, N >= 1, rounded as edits keep them; one pair may stand alone."""
    try:
        pairs = np.atleast_2d(np.asarray(points, np.float64))
    except (TypeError, ValueError) as error:
        raise UsageError(f"The points are {points!r}: allowed are numbers, [[x, y, x2, y2], ...].") from error
    if pairs.ndim != 2 or pairs.shape[1] != 4 or not len(pairs) or not np.isfinite(pairs).all():
        raise UsageError(
            f"The points have the shape {list(np.shape(points))}: allowed are drags [x, y, x2, y2] in photo pixels, "
            "all finite, as in [[310, 220, 330, 215]]."
        )
    return pairs.round(DECIMALS)


def mask_of(mask: MaskLike, shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """[H, W] float32 in [0, 1], 1 where the photo may change.

    UsageError for another shape, other values, or a mask that is 0 everywhere; PhotoError for a file that is none.
    """
    if isinstance(mask, str | Path):
        return read_mask(mask, shape_hw)
    try:
        values = np.asarray(mask)
        found = np.asarray(values, np.float32) / np.float32(255 if values.dtype == np.uint8 else 1)
    except (TypeError, ValueError) as error:
        raise UsageError("The mask holds no numbers: allowed are a file, or [height, width] of the photo.") from error
    if found.shape != tuple(shape_hw):
        raise UsageError(
            f"The mask has the shape {list(found.shape)}: allowed is [height, width] of the photo, {list(shape_hw)}."
        )
    if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        raise UsageError("The mask holds values outside 0 to 1: allowed are bool, uint8 (255 may change) and 0 to 1.")
    if not found.any():
        raise UsageError("The mask is 0 everywhere, so nothing may change: let it be 1 where the photo may change.")
    return found


def number_of(value: float, name: str) -> float:
    """A plain number; UsageError for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {value!r}: allowed is a number.") from error
