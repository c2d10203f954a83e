"""What every way to carry an edit back into a photograph shares: what is given, what comes out, where it may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from data.alignment import Alignment, Roi
from data.errors import UsageError
from data.photo import Photo
from data.photo_type import Pixels
from editing.flow import LUMA, Field, Guides

Method = Literal["flow", "difference", "poisson", "laplacian", "crop"]
Rest = Literal["new", "all"]

BORDER_PX = 2
"""Crop pixels at the rim where the mask is zero, so that cubic interpolation ends in zero too."""
BAND_PIXELS = 200_000
"""Photo pixels in floating point at once: a 100 MP photo is never converted as a whole, and a band fits into the caches
(one of 2 MP took twice the time)."""


@dataclass(frozen=True, slots=True)
class BlendSettings:
    """How an edit is carried back.

    feather: how softly the mask falls off, as a fraction of the crop's side. threshold: the least change that counts as
    an edit, as a fraction of the brightness range. The rest is for `flow`: of what motion leaves to change it takes
    what is `new` (teeth, the far cheek), or `all`; `tint` in [0, 1] is the share of the change of whole areas' colour
    and light that is taken beside what is new.
    """

    method: Method = "flow"
    feather: float = 0.04
    threshold: float = 0.02
    rest: Rest = "new"
    tint: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (("method", self.method, get_args(Method)), ("rest", self.rest, get_args(Rest))):
            if value not in allowed:
                raise UsageError(f"blend.{name} is {value}; it must be one of {', '.join(allowed)}.")
        for name, number, high in (
            ("feather", self.feather, 0.5),
            ("threshold", self.threshold, 2.0),
            ("tint", self.tint, 1.0),
        ):
            if not 0 <= number <= high:
                raise UsageError(f"blend.{name} is {number}; it must lie between 0 and {high:g}.")


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """An edit of a crop: before and after it, [R,R,3] float32 RGB in [-1,1]; where the photo may change, [H,W] in
    [0,1], None for everywhere; points that match in both pictures, None where none are known; the parts of the crop
    that may open and show something new, as mouth and eyes do, [R,R] in [0,1], None where that is not known; the mask
    [R,R] in [0,1] that is blended by, None for that of the difference (`edit_mask`). hasty: it is for a look on the
    way, and its motion may be a little coarser where that saves time."""

    alignment: Alignment
    before: Field
    after: Field
    mask_photo: NDArray[np.float32] | None = None
    guides: Guides | None = None
    openings: Field | None = None
    mask_crop: Field | None = None
    hasty: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class BlendOutcome:
    """An edited photo.

    photo: the input with new pixels. mask: [H,W] float32 in [0,1], photo pixels; where it is 0 the pixels are the
    input's. changed_fraction: part of the photo's pixels whose value changed, in [0,1].
    """

    photo: Photo
    mask: NDArray[np.float32]
    changed_fraction: float


@dataclass(frozen=True, eq=False, slots=True)
class Canvas:
    """A result under way, owned by one blend: pixels [H,W,3], alpha [H,W] or None and mask [H,W] are written to."""

    photo: Photo
    pixels: Pixels
    alpha: Pixels | None
    mask: NDArray[np.float32]

    @staticmethod
    def of(photo: Photo) -> Canvas:
        """A copy of the photo's pixels, with nothing changed."""
        return Canvas(photo, photo.pixels.copy(), None, np.zeros(photo.shape_hw, np.float32))

    def outcome(self) -> BlendOutcome:
        """The result, and how much of it is new."""
        changed = count_changed(self.photo, self.pixels)
        photo = self.photo.with_pixels(self.pixels)
        if self.alpha is not None:
            photo = replace(photo, alpha=self.alpha)
        return BlendOutcome(photo, self.mask, changed / self.mask.size)


def count_changed(photo: Photo, pixels: Pixels) -> int:
    """How many pixels [H,W,3] differ from the photo's."""
    height, width = photo.shape_hw
    found = 0
    for top, bottom in row_bands(width, (0, height)):
        first, second = photo.pixels[top:bottom], pixels[top:bottom]
        if not np.array_equal(first, second):
            red, green, blue = (first[..., channel] != second[..., channel] for channel in range(3))
            found += int(np.count_nonzero(red | green | blue))
    return found


def unchanged(photo: Photo) -> BlendOutcome:
    """The very photo."""
    return BlendOutcome(photo, np.zeros(photo.shape_hw, np.float32), 0.0)


def row_bands(width: int, rows: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of bands of at most BAND_PIXELS."""
    step = max(1, BAND_PIXELS // max(1, width))
    for top in range(*rows, step):
        yield top, min(rows[1], top + step)


def difference_of(change: Change, grey: bool) -> Field:
    """[R,R,3] what the edit changed, as fractions of full brightness; of a grey photo the brightness only."""
    difference = np.asarray((np.clip(change.after, -1, 1) - np.clip(change.before, -1, 1)) / 2, np.float32)
    return as_grey(difference) if grey else difference


def as_grey(change: Field) -> Field:
    """A change [R,R,3] of brightness only."""
    return np.repeat((change @ LUMA)[..., None], 3, axis=2)


def mask_of(change: Change, settings: BlendSettings, grey: bool, rim: float | None = None) -> Field:
    """[R,R] float32 in [0,1]: the mask that comes with the change, or else the `edit_mask` of its difference."""
    if change.mask_crop is not None:
        return change.mask_crop
    difference = difference_of(change, grey)
    return edit_mask(difference, feather=settings.feather, threshold=settings.threshold, rim=rim)


def edit_mask(difference: Field, *, feather: float, threshold: float, rim: float | None = None) -> Field:
    """[R,R] float32 in [0,1]: 1 where an edit changed the crop, falling smoothly to 0 round it and at the crop's rim.

    difference: [R,R,3] fractions of full brightness. Where one channel changes by more than `threshold`, widened by
    feather * R pixels, then blurred by a Gaussian of half that: the change itself keeps at least 0.95. `rim`: another
    feather for the crop's rim.
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
    return np.asarray(soft * rim_window(side, feather if rim is None else rim), np.float32)


def rim_window(side: int, feather: float) -> Field:
    """[R,R] float32: 0 on the outer BORDER_PX + 1 crop pixels, rising as 3t^2 - 2t^3 to 1 over 2 * feather * R."""
    to_rim = np.minimum(np.arange(side), np.arange(side)[::-1])
    ramp = rising((to_rim - BORDER_PX) / min(max(2 * feather * side, 2.0), side / 4))
    return np.outer(ramp, ramp).astype(np.float32)


def rising(t: NDArray) -> NDArray:
    """3t^2 - 2t^3, 0 below 0 and 1 above 1."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def touched_roi(alignment: Alignment, mask_crop: Field) -> Roi:
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


def check(photo: Photo, change: Change) -> None:
    """UsageError where the parts do not fit together."""
    alignment, mask = change.alignment, change.mask_photo
    side = alignment.size
    for name, image in (("reconstruction", change.before), ("edited", change.after)):
        if image.shape != (side, side, 3) or not np.isfinite(image).all():
            raise UsageError(f"The {name} must be finite and [{side},{side},3], but it is {list(image.shape)}.")
    if photo.shape_hw != alignment.photo_shape:
        raise UsageError(
            f"The alignment was made for a photo of {list(alignment.photo_shape)} (H, W), but this one has "
            f"{list(photo.shape_hw)}."
        )
    if change.mask_crop is not None and change.mask_crop.shape != (side, side):
        raise UsageError(f"The mask on the crop must be [{side},{side}], but it is {list(change.mask_crop.shape)}.")
    if mask is not None and mask.shape != photo.shape_hw:
        raise UsageError(
            f"The mask must have the photo's size {list(photo.shape_hw)} (H, W), but it has {list(mask.shape)}."
        )
