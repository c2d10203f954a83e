"""Masks painted in the studio or a notebook: small pictures that travel inside an edit, and belong to the photo under
them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import UsageError
from data.photo_tiff import DAMAGE
from data.quiet import unwarned
from pipeline.pictures import mask_u8, png_bytes

MOST_SIDE_PX = 2048
MOST_BYTES = 400_000
PARTS = {"png", "photo_sha256"}


def painted_json(png: bytes, photo_sha256: str) -> dict[str, str]:
    """A mask as an edit tells it; UsageError when the PNG is none, too large, or black everywhere."""
    _read(png)
    return {"png": base64.b64encode(png).decode("ascii"), "photo_sha256": photo_sha256}


def travelling_mask(mask: NDArray[np.float32], photo_sha256: str) -> dict[str, str]:
    """A mask [H, W] in [0, 1] of a photo as an edit tells it, in 256 steps; one that is larger than such masks may be
    is made smaller, and stays 0 where it was."""
    height, width = mask.shape
    scale = max(height, width) / MOST_SIDE_PX
    if scale > 1:
        inwards = 2 * math.ceil(1.5 * scale) + 1  # as far as a pixel of the small mask reaches when it is enlarged
        mask = np.asarray(cv2.erode(mask, np.ones((inwards, inwards), np.uint8)), np.float32)
        size = max(1, int(width / scale)), max(1, int(height / scale))
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.float32)
    return painted_json(png_bytes(mask_u8(mask)), photo_sha256)


def check_painted(told: Any) -> None:
    """UsageError, half a sentence, unless a mask is told as above."""
    _read(_png(told))


def painted_hash(told: dict[str, str]) -> str:
    """SHA-256 of the mask's PNG."""
    return hashlib.sha256(_png(told)).hexdigest()


def painted_mask(told: dict[str, str], shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """[H, W] float32 in [0, 1] at the photo's size, 1 where it may change; what is a painted pixel away stays 0."""
    small = _read(_png(told))
    height, width = shape_hw
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _png(told: Any) -> bytes:
    if not isinstance(told, dict) or set(told) != PARTS or not all(isinstance(value, str) for value in told.values()):
        raise UsageError("its mask must hold png and photo_sha256")
    try:
        return base64.b64decode(told["png"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("its mask is no base64 text") from error


def _read(png: bytes) -> NDArray[np.float32]:
    if len(png) > MOST_BYTES:
        raise UsageError(f"the mask has {len(png)} bytes as a PNG: allowed are {MOST_BYTES}; paint it with fewer edges")
    try:
        with unwarned(), Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if max(picture.size) > MOST_SIDE_PX:
                raise UsageError(f"the mask has a side of {max(picture.size)} pixels: allowed are {MOST_SIDE_PX}")
            mask = np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UsageError("the mask is no PNG that can be read") from error
    if not mask.any():
        raise UsageError("the mask is black everywhere, so nothing may change: paint what may change white")
    return mask
