"""The edited crop itself, put into the photograph: pasted, by a Laplacian pyramid or by its gradients.

All of the generator's softness and its errors come with it: these ways are here to be compared with.
"""

from __future__ import annotations

import cv2
import numpy as np

from data.alignment import warp_to_photo
from data.errors import UsageError
from data.photo import Photo
from editing.blend_common import (
    BlendOutcome,
    BlendSettings,
    Canvas,
    Change,
    as_grey,
    mask_of,
    touched_roi,
    unchanged,
)
from editing.flow import Field

MOST_PIXELS = 40_000_000
"""In the region that changes: these ways hold it several times in floating point."""
LEAST_LEVEL_PX = 8
LEAST_CLONED_PX = 4


def blend_pasted(photo: Photo, change: Change, settings: BlendSettings) -> BlendOutcome:
    """The photo with the edited crop over it where the edit changed it: `crop`, `laplacian` (Burt and Adelson 1983) or
    `poisson` (Perez et al. 2003, by OpenCV, 8 bits only).

    Pixels where the resulting mask is 0 are bit-identical to the input. UsageError for a region of more than
    MOST_PIXELS, and where OpenCV cannot do it.
    """
    mask_crop = mask_of(change, settings, photo.is_grey)
    if not mask_crop.any():
        return unchanged(photo)
    x0, y0, x1, y1 = roi = touched_roi(change.alignment, mask_crop)
    region = np.s_[y0:y1, x0:x1]
    if (x1 - x0) * (y1 - y0) > MOST_PIXELS:
        raise UsageError(
            f"blend={settings.method} takes faces of up to {MOST_PIXELS / 1e6:.0f} MP, and this one fills "
            f"{(x1 - x0) * (y1 - y0) / 1e6:.0f} MP of the photo: use blend=flow."
        )
    canvas = Canvas.of(photo)
    weight = np.clip(warp_to_photo(mask_crop[..., None], change.alignment, roi)[..., 0], 0, 1)
    if change.mask_photo is not None:
        weight *= np.clip(change.mask_photo[region], 0, 1)
    over = np.asarray(np.clip((warp_to_photo(change.after, change.alignment, roi) + 1) / 2, 0, 1), np.float32)
    over = (as_grey(over) if photo.is_grey else over) * np.float32(photo.max_value)
    under = photo.pixels[region].astype(np.float32)
    if photo.premultiplied and photo.alpha is not None:
        over *= (photo.alpha[region] / np.float32(photo.max_value))[..., None]
    values = under + weight[..., None] * (over - under)
    if settings.method == "poisson":
        values = _cloned(over, photo, region, weight, values)
    elif settings.method == "laplacian":
        values = _by_pyramid(under, over, weight)
    result = np.clip(np.rint(values), 0, photo.max_value).astype(photo.pixels.dtype)
    np.copyto(canvas.pixels[region], result, where=(weight > 0)[..., None])
    canvas.mask[region] = weight
    return canvas.outcome()


def _by_pyramid(under: Field, over: Field, weight: Field) -> Field:
    """Each octave of two pictures mixed over its own width."""
    if min(weight.shape) < 2 * LEAST_LEVEL_PX:
        return under + weight[..., None] * (over - under)
    size = weight.shape[1], weight.shape[0]
    lower = [np.asarray(cv2.pyrDown(x), np.float32) for x in (under, over, weight)]
    coarse = _by_pyramid(lower[0], lower[1], lower[2])
    details = [x - cv2.pyrUp(low, dstsize=size) for x, low in zip((under, over), lower, strict=False)]
    mixed = details[0] + weight[..., None] * (details[1] - details[0])
    return np.asarray(mixed + cv2.pyrUp(coarse, dstsize=size), np.float32)


def _cloned(over: Field, photo: Photo, region: tuple[slice, slice], weight: Field, mixed: Field) -> Field:
    """OpenCV's seamless clone of the edited crop into the region; its mask is where the weight is above a half. Where
    that is next to nothing, the plain mixture."""
    if photo.max_value != 255:
        raise UsageError("blend=poisson takes photos of 8 bits, and this one has 16: use blend=flow or laplacian.")
    mask = (weight > 0.5).astype(np.uint8) * 255
    # The clone's mask may not touch the picture's rim.
    mask[:2], mask[-2:], mask[:, :2], mask[:, -2:] = 0, 0, 0, 0
    under = np.ascontiguousarray(photo.to_u8()[region])
    x, y, width, height = cv2.boundingRect(mask)
    if min(width, height) < LEAST_CLONED_PX:
        return mixed
    centre = (x + width // 2, y + height // 2)
    source = np.clip(np.rint(over), 0, 255).astype(np.uint8)
    try:
        return np.asarray(cv2.seamlessClone(source, under, mask, centre, cv2.NORMAL_CLONE), np.float32)
    except cv2.error as error:
        raise UsageError("blend=poisson cannot solve for this mask: use blend=flow or blend=laplacian.") from error
