"""The change that an edit made to the crop, carried back into the photograph at its own resolution and bit depth."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.alignment import Alignment, Roi, warp_to_photo
from data.errors import UsageError
from data.photo import Photo

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Rec. 709 weights of R, G, B."""
BORDER_PX = 2
"""Crop pixels at the rim where the mask is zero, so that cubic interpolation ends in zero too."""
BAND_PIXELS = 2_000_000
"""Photo pixels in floating point at once: a 100 MP photo is never converted as a whole."""


@dataclass(frozen=True, eq=False, slots=True)
class BlendOutcome:
    """An edited photo.

    photo: the input with new pixels. mask: [H,W] float32 in [0,1], photo pixels; where it is 0 the pixels are the
    input's. changed_fraction: part of the photo's pixels whose value changed, in [0,1].
    """

    photo: Photo
    mask: NDArray[np.float32]
    changed_fraction: float


def blend_difference(
    photo: Photo,
    alignment: Alignment,
    reconstruction: NDArray[np.float32],
    edited: NDArray[np.float32],
    *,
    feather: float,
    threshold: float,
    mask_photo: NDArray[np.float32] | None = None,
) -> BlendOutcome:
    """The photo plus mask * (edited - reconstruction): what the generator failed to reconstruct cancels out.

    reconstruction, edited: [R,R,3] float32 RGB in [-1,1], the crop before and after the edit.
    feather: how softly the mask falls off, as a fraction of the crop's side. threshold: the least change that counts as
    an edit, as a fraction of the brightness range. mask_photo: [H,W] in [0,1], the user's mask, multiplied in.
    Pixels where the resulting mask is 0 are bit-identical to the input; equal images give the input's pixels. A grey
    photo receives the change of brightness only.
    """
    _check(photo, alignment, reconstruction, edited, mask_photo)
    # Half the range [-1,1]: the difference as a fraction of full brightness.
    difference = np.asarray((np.clip(edited, -1, 1) - np.clip(reconstruction, -1, 1)) / 2, np.float32)
    if photo.is_grey:
        difference = np.repeat((difference @ LUMA)[..., None], 3, axis=2)
    mask_crop = edit_mask(difference, feather=feather, threshold=threshold)
    mask = np.zeros(photo.shape_hw, np.float32)
    if not mask_crop.any():
        return BlendOutcome(photo, mask, 0.0)
    pixels = photo.pixels.copy()
    layers = np.concatenate([difference, mask_crop[..., None]], axis=2)
    x0, y0, x1, y1 = _touched_roi(alignment, mask_crop)
    rows = max(1, BAND_PIXELS // max(1, x1 - x0))
    changed = 0
    for top in range(y0, y1, rows):
        changed += _add_band(photo, alignment, layers, mask_photo, (x0, top, x1, min(y1, top + rows)), pixels, mask)
    return BlendOutcome(photo.with_pixels(pixels), mask, changed / mask.size)


def _add_band(
    photo: Photo,
    alignment: Alignment,
    layers: NDArray[np.float32],
    mask_photo: NDArray[np.float32] | None,
    roi: Roi,
    pixels: NDArray[np.generic],
    mask: NDArray[np.float32],
) -> int:
    """Write one region of the result into `pixels` and `mask`, which the caller owns; the number of changed pixels."""
    x0, y0, x1, y1 = roi
    region = np.s_[y0:y1, x0:x1]
    warped = warp_to_photo(layers, alignment, roi)
    # Cubic interpolation overshoots.
    weight = np.clip(warped[..., 3], 0, 1)
    if mask_photo is not None:
        weight *= np.clip(mask_photo[region], 0, 1)
    change = warped[..., :3] * weight[..., None] * np.float32(photo.max_value)
    if photo.premultiplied and photo.alpha is not None:
        change *= (photo.alpha[region] / np.float32(photo.max_value))[..., None]
    before = photo.pixels[region]
    after = np.clip(np.rint(before + change), 0, photo.max_value).astype(before.dtype)
    pixels[region] = after
    mask[region] = weight
    return int(np.count_nonzero((after != before).any(axis=2)))


def edit_mask(difference: NDArray[np.float32], *, feather: float, threshold: float) -> NDArray[np.float32]:
    """[R,R] float32 in [0,1]: 1 where an edit changed the crop, falling smoothly to 0 round it and at the crop's rim.

    difference: [R,R,3] fractions of full brightness. Where one channel changes by more than `threshold`, widened by
    feather * R pixels, then blurred by a Gaussian of half that: the change itself keeps at least 0.95.
    """
    side = difference.shape[0]
    moved = (np.abs(difference).max(axis=2) > threshold).astype(np.uint8)
    if not moved.any():
        return np.zeros((side, side), np.float32)
    radius_px = max(1, round(feather * side))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    wide = cv2.dilate(moved, disc).astype(np.float32)
    soft = cv2.GaussianBlur(wide, (0, 0), radius_px / 2, borderType=cv2.BORDER_REPLICATE)
    # The tails of the Gaussian are cut so that the mask ends, and reaches 1, at a finite distance.
    soft = np.clip((soft - 0.01) / 0.98, 0, 1)
    return np.asarray(soft * rim_window(side, feather), np.float32)


def rim_window(side: int, feather: float) -> NDArray[np.float32]:
    """[R,R] float32: 0 on the outer BORDER_PX + 1 crop pixels, rising as 3t^2 - 2t^3 to 1 over 2 * feather * R."""
    to_rim = np.minimum(np.arange(side), np.arange(side)[::-1])
    width_px = min(max(2 * feather * side, 2.0), side / 4)
    t = np.clip((to_rim - BORDER_PX) / width_px, 0, 1)
    ramp = t * t * (3 - 2 * t)
    return np.outer(ramp, ramp).astype(np.float32)


def _touched_roi(alignment: Alignment, mask_crop: NDArray[np.float32]) -> Roi:
    """The photo pixels that a crop mask can reach, (x0, y0, x1, y1)."""
    rows, columns = np.nonzero(mask_crop.any(axis=1))[0], np.nonzero(mask_crop.any(axis=0))[0]
    left, right = columns[0] - BORDER_PX, columns[-1] + BORDER_PX
    top, bottom = rows[0] - BORDER_PX, rows[-1] + BORDER_PX
    corners = alignment.to_photo([[left, top], [right, top], [right, bottom], [left, bottom]])
    # A photo pixel reaches half a pixel to either side of its centre.
    low, high = np.floor(corners.min(axis=0) - 0.5), np.ceil(corners.max(axis=0) + 0.5) + 1
    height, width = alignment.photo_shape
    x0, x1 = np.clip([low[0], high[0]], 0, width).astype(int).tolist()
    y0, y1 = np.clip([low[1], high[1]], 0, height).astype(int).tolist()
    return x0, y0, x1, y1


def _check(
    photo: Photo,
    alignment: Alignment,
    reconstruction: NDArray[np.float32],
    edited: NDArray[np.float32],
    mask_photo: NDArray[np.float32] | None,
) -> None:
    side = alignment.size
    for name, image in (("reconstruction", reconstruction), ("edited", edited)):
        if image.shape != (side, side, 3) or not np.isfinite(image).all():
            raise UsageError(f"The {name} must be finite and [{side},{side},3], but it is {list(image.shape)}.")
    if photo.shape_hw != alignment.photo_shape:
        raise UsageError(
            f"The alignment was made for a photo of {list(alignment.photo_shape)} (H, W), but this one has "
            f"{list(photo.shape_hw)}."
        )
    if mask_photo is not None and mask_photo.shape != photo.shape_hw:
        raise UsageError(
            f"The mask must have the photo's size {list(photo.shape_hw)} (H, W), but it has {list(mask_photo.shape)}."
        )
