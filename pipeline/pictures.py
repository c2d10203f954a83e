"""Pictures that people look at: previews, before/after pairs, encoded bytes."""

from __future__ import annotations

import io

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

MIN_CROP_SIDE_PX = 256
MAX_PREVIEW_SIDE_PX = 1400
PAIR_GAP_PX = 8
CLOSE_UP_PX, CLOSE_UP_TIMES = 200, 2
"""A close-up of a change has at least so many pixels a side, and is so many times as large as the change."""
BAND_PIXELS = 200_000
_GAP_GREY = 255


def images_u8(images: Tensor) -> np.ndarray:
    """Pictures [N, 3, R, R] in [-1, 1] as [N, R, R, 3] uint8 RGB, rounded."""
    pixels = (images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return np.ascontiguousarray(pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def image_u8(image: Tensor) -> np.ndarray:
    """The first picture of [N, 3, R, R] in [-1, 1] as [R, R, 3] uint8 RGB, rounded."""
    return np.asarray(images_u8(image[:1])[0])


def sheet(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Pictures [N, h, w, 3] side by side in rows of `columns`; N is a multiple of it."""
    n, h, w, c = tiles.shape
    rows = tiles.reshape(n // columns, columns, h, w, c).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(n // columns * h, columns * w, c))


def mask_u8(mask: np.ndarray) -> np.ndarray:
    """A mask [H, W] of floats in [0, 1] as a picture, uint8, rounded; a few rows at a time."""
    picture = np.empty(mask.shape, np.uint8)
    rows = max(1, BAND_PIXELS // max(1, mask.shape[1]))
    for top in range(0, len(mask), rows):
        picture[top : top + rows] = np.rint(mask[top : top + rows] * 255)
    return picture


def preview(rgb: np.ndarray, max_side_px: int = MAX_PREVIEW_SIDE_PX) -> np.ndarray:
    """[H, W, 3] uint8 shrunk by area until its longer side is at most `max_side_px`; smaller pictures stay."""
    height, width = rgb.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def enlarged(rgb: np.ndarray, min_side_px: int = MIN_CROP_SIDE_PX) -> np.ndarray:
    """[H, W, 3] uint8 enlarged (cubic, by a whole number) until its shorter side is at least `min_side_px`."""
    scale = -(-min_side_px // min(rgb.shape[:2]))
    if scale <= 1:
        return rgb
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))


def side_by_side(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Two [H, W, 3] uint8 pictures of one size beside each other, a white gap between them."""
    assert before.shape == after.shape, f"before {before.shape} and after {after.shape} differ in size"
    gap = np.full((before.shape[0], PAIR_GAP_PX, 3), _GAP_GREY, np.uint8)
    return np.concatenate([before, gap, after], axis=1)


def split_pair(pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two pictures that `side_by_side` joined."""
    width = (pair.shape[1] - PAIR_GAP_PX) // 2
    return pair[:, :width], pair[:, width + PAIR_GAP_PX :]


def around_change(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of two [H, W, 3] uint8 pictures of one size around that in which they differ, as large again on each
    side; all of both where they are the same."""
    changed = (before != after).any(axis=2)
    if not changed.any():
        return before, after
    spans = [np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0)]
    side = max(CLOSE_UP_PX, CLOSE_UP_TIMES * max(int(span[-1] - span[0]) + 1 for span in spans))
    starts = [(int(span[0] + span[-1]) - side) // 2 for span in spans]
    rows, columns = (
        slice(max(0, min(start, length - side)), max(0, min(start, length - side)) + side)
        for start, length in zip(starts, changed.shape, strict=True)
    )
    return before[rows, columns], after[rows, columns]


def png_bytes(rgb: np.ndarray, icc: bytes | None = None) -> bytes:
    """PNG file of an [H, W, 3] or [H, W] uint8 picture, with its colour profile."""
    return _encoded(rgb, "PNG", icc, compress_level=4)


def jpeg_bytes(rgb: np.ndarray, icc: bytes | None = None, quality: int = 88) -> bytes:
    """JPEG file of an [H, W, 3] uint8 picture, with its colour profile."""
    return _encoded(rgb, "JPEG", icc, quality=quality)


def _encoded(pixels: np.ndarray, format: str, icc: bytes | None, **options: int) -> bytes:
    assert pixels.dtype == np.uint8, f"{pixels.dtype} pixels in a preview"
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format, icc_profile=icc, **options)
    return stream.getvalue()


def read_picture(content: bytes) -> tuple[np.ndarray, bytes | None]:
    """[H, W, 3] uint8 RGB pixels and the colour profile of an encoded preview."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")), picture.info.get("icc_profile")
