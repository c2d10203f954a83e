"""The difference of two pictures of a crop, added to the photograph: what was not reconstructed cancels out."""

from __future__ import annotations

import numpy as np

from data.alignment import Roi, warp_to_photo
from data.photo import Photo
from editing.blend_common import (
    BlendOutcome,
    BlendSettings,
    Canvas,
    Change,
    difference_of,
    mask_of,
    row_bands,
    touched_roi,
    unchanged,
)
from editing.flow import Field


def blend_difference(photo: Photo, change: Change, settings: BlendSettings) -> BlendOutcome:
    """The photo plus mask * (after - before).

    Pixels where the resulting mask is 0 are bit-identical to the input; equal pictures give the input's pixels. A grey
    photo receives the change of brightness only.
    """
    difference = difference_of(change, photo.is_grey)
    mask_crop = mask_of(change, settings, photo.is_grey)
    if not mask_crop.any():
        return unchanged(photo)
    canvas = Canvas.of(photo)
    layers = np.concatenate([difference, mask_crop[..., None]], axis=2)
    x0, y0, x1, y1 = touched_roi(change.alignment, mask_crop)
    for top, bottom in row_bands(x1 - x0, (y0, y1)):
        _add_band(canvas, change, layers, (x0, top, x1, bottom))
    return canvas.outcome()


def _add_band(canvas: Canvas, change: Change, layers: Field, roi: Roi) -> None:
    """Write one region of the result."""
    x0, y0, x1, y1 = roi
    region, photo = np.s_[y0:y1, x0:x1], canvas.photo
    warped = warp_to_photo(layers, change.alignment, roi)
    # Cubic interpolation overshoots.
    weight = np.clip(warped[..., 3], 0, 1)
    if change.mask_photo is not None:
        weight *= np.clip(change.mask_photo[region], 0, 1)
    added = warped[..., :3] * weight[..., None] * np.float32(photo.max_value)
    if photo.premultiplied and photo.alpha is not None:
        added *= (photo.alpha[region] / np.float32(photo.max_value))[..., None]
    before = photo.pixels[region]
    canvas.pixels[region] = np.clip(np.rint(before + added), 0, photo.max_value).astype(before.dtype)
    canvas.mask[region] = weight
