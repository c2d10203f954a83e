"""Pictures of a photo and of its edits as a page shows them: sRGB, 8 bits, at the size that is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from data.alignment import Alignment
from data.colour import srgb_picture
from data.photo import Photo
from editing.blend import BlendSettings, Change, blend

VIEW_MAX_PX = 2560
THUMB_PX = 160
LIVE_SIDE_PX = 384
"""Side of the aligned crop in live pictures, at most."""
PATCH_MAX_PIXELS = 8_000_000
"""Of a face's surroundings: larger ones are shown smaller, and saved at their own size."""
MARGIN = 0.02  # of the crop's side: what resampling reads beyond it
JPEG_QUALITY = 92
WEBP_QUALITY = 85
GREY = 128  # below what is transparent

Rgba = NDArray[np.uint8]
Rect = tuple[float, float, float, float]
"""x, y, width, height in photo pixels, of areas: a photo of W pixels is W wide and begins at -0.5."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A rectangle of a photo, perhaps smaller, with the alignment of a face in its pixels.

    rect: where it lies in the photo; scale: its pixels for one of the photo's.
    """

    photo: Photo
    alignment: Alignment
    rect: Rect
    scale: float


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """What an edit changed: rgba [h, w, 4] uint8 sRGB, to be drawn over `rect` of the photo."""

    rgba: Rgba
    rect: Rect
    sharp: bool


def part_of(photo: Photo, alignment: Alignment, most_pixels: float = PATCH_MAX_PIXELS, crop_px: float = 0) -> Part:
    """The surroundings of a face, at most so many pixels, and with the aligned crop at most `crop_px` wide."""
    side_px = alignment.size * alignment.photo_px_per_crop_px
    x0, y0, x1, y1 = alignment.photo_roi()
    height, width = photo.shape_hw
    margin = math.ceil(MARGIN * side_px)
    x0, y0, x1, y1 = max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
    scale = min(1.0, math.sqrt(most_pixels / ((x1 - x0) * (y1 - y0))), crop_px / side_px if crop_px else 1.0)
    small = _scaled(photo, (x0, y0, x1, y1), scale)
    part_from_photo = np.array(
        [[scale, 0, (0.5 - x0) * scale - 0.5], [0, scale, (0.5 - y0) * scale - 0.5], [0, 0, 1]], np.float64
    )
    matrix = alignment.matrix @ np.linalg.inv(part_from_photo)
    inside = replace(alignment, matrix=matrix, landmarks=None, photo_shape=small.shape_hw)
    return Part(small, inside, (x0 - 0.5, y0 - 0.5, x1 - x0, y1 - y0), scale)


def _scaled(photo: Photo, box: tuple[int, int, int, int], scale: float) -> Photo:
    x0, y0, x1, y1 = box
    pixels = photo.pixels[y0:y1, x0:x1]
    alpha = None if photo.alpha is None else photo.alpha[y0:y1, x0:x1]
    if scale < 1:
        size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))  # type: ignore[assignment]
        alpha = None if alpha is None else np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA))  # type: ignore[assignment]
    return replace(photo, pixels=pixels, alpha=alpha)


def mask_on_part(mask: NDArray[np.float32] | None, part: Part) -> NDArray[np.float32] | None:
    """A mask [H, W] of the photo on a part of it; what is 0 stays so."""
    if mask is None:
        return None
    x, y, width, height = part.rect
    x0, y0 = round(x + 0.5), round(y + 0.5)
    inside = mask[y0 : y0 + round(height), x0 : x0 + round(width)]
    rows, columns = part.photo.shape_hw
    if inside.shape == (rows, columns):
        return inside
    return np.asarray(cv2.resize(inside, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)


def patch_of(part: Part, change: Change, settings: BlendSettings) -> Patch | None:
    """What a change of the crop changes of a part of the photo; None when nothing does."""
    outcome = blend(part.photo, replace(change, alignment=part.alignment), settings)
    rows, columns = (np.flatnonzero(outcome.mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    region = np.s_[top:bottom, left:right]
    photo = outcome.photo
    rgb = srgb_picture(np.ascontiguousarray(_u8(photo)[region]), photo.icc)
    # A part that was made smaller is softer than the photo round it, and fades into it.
    weight = np.minimum(outcome.mask[region] * 8, 1) if part.scale < 1 else (outcome.mask[region] > 0)
    rgba = np.dstack([rgb, np.rint(weight * 255).astype(np.uint8)])
    height, width = part.photo.shape_hw
    x, y, rect_width, rect_height = part.rect
    across, down = rect_width / width, rect_height / height
    rect = (x + left * across, y + top * down, (right - left) * across, (bottom - top) * down)
    return Patch(rgba, rect, part.scale == 1)


def _u8(photo: Photo) -> NDArray[np.uint8]:
    """The photo at 8 bits; what is transparent lies over grey."""
    rgb = photo.to_u8()
    if photo.alpha is None:
        return rgb
    alpha = (photo.alpha.astype(np.float32) / photo.max_value)[..., None]
    colour = rgb.astype(np.float32) * (1 if photo.premultiplied else alpha)
    return np.rint(colour + GREY * (1 - alpha)).astype(np.uint8)


def view_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the view of a photo."""
    scale = min(1.0, VIEW_MAX_PX / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def whole_view(photo: Photo) -> NDArray[np.uint8]:
    """The whole photo [h, w, 3] uint8 sRGB, at most VIEW_MAX_PX a side."""
    height, width = photo.shape_hw
    scale = min(1.0, VIEW_MAX_PX / max(height, width))
    return srgb_picture(_u8(_scaled(photo, (0, 0, width, height), scale)), photo.icc)


def region_view(photo: Photo, box: tuple[int, int, int, int], scale: float, patch: Patch | None) -> NDArray[np.uint8]:
    """A rectangle x0, y0, x1, y1 of the photo [h, w, 3] uint8 sRGB at a scale up to 1, with a patch over it if any."""
    x0, y0, x1, y1 = box
    rgb = srgb_picture(_u8(_scaled(photo, box, 1.0)), photo.icc)
    if patch is not None:
        rgb = _patched(rgb, (x0, y0), patch)
    if scale >= 1:
        return rgb
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def _patched(rgb: NDArray[np.uint8], origin: tuple[int, int], patch: Patch) -> NDArray[np.uint8]:
    """A copy of a rectangle of the photo that begins at `origin`, with the patch in it."""
    x, y, width, height = patch.rect
    size = round(width), round(height)
    rgba = patch.rgba
    if (rgba.shape[1], rgba.shape[0]) != size:
        rgba = np.asarray(cv2.resize(rgba, size, interpolation=cv2.INTER_LINEAR))
    left, top = round(x + 0.5) - origin[0], round(y + 0.5) - origin[1]
    x0, y0, x1, y1 = max(0, left), max(0, top), min(rgb.shape[1], left + size[0]), min(rgb.shape[0], top + size[1])
    if x0 >= x1 or y0 >= y1:
        return rgb
    over = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    share = over[..., 3:].astype(np.float32) / 255
    found = np.array(rgb)
    below = found[y0:y1, x0:x1].astype(np.float32)
    found[y0:y1, x0:x1] = np.rint(below + share * (over[..., :3] - below)).astype(np.uint8)
    return found


def thumbnail(rgb: NDArray[np.uint8]) -> bytes:
    """A small JPEG of a picture [h, w, 3] uint8."""
    scale = THUMB_PX / max(rgb.shape[:2])
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return jpeg(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)))


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A JPEG file of [h, w, 3] uint8."""
    return _encoded(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of [h, w, 3] or [h, w, 4] uint8, quickly rather than small."""
    order = [2, 1, 0] if pixels.shape[2] == 3 else [2, 1, 0, 3]
    return _encoded(".png", pixels[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 1])


def webp(rgba: Rgba) -> bytes:
    """A WebP file of [h, w, 4] uint8, as live pictures are sent."""
    return _encoded(".webp", rgba[..., [2, 1, 0, 3]], [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])


def _encoded(suffix: str, pixels: NDArray[np.uint8], options: list[int]) -> bytes:
    done, content = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    assert done, f"OpenCV writes {suffix}"
    return content.tobytes()
