"""Between stored values and linear light, by the curve of sRGB (IEC 61966-2-1), for 8 and 16 bits.

Photos of other colour spaces go through the same curve: what is computed in between, means of neighbouring pixels,
needs no more than nearly linear values, and what goes in unchanged comes out bit for bit.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data.photo_type import Pixels

BEND, SLOPE, OFFSET, GAMMA = 0.0031308, 12.92, 0.055, 2.4


def to_linear(pixels: Pixels) -> NDArray[np.float32]:
    """Linear light in [0, 1], float32, of uint8 or uint16 values of any shape."""
    return _table(255 if pixels.dtype == np.uint8 else 65535)[pixels]


def from_linear(linear: NDArray[np.float32], max_value: int) -> NDArray[np.float32]:
    """Stored values in [0, max_value], float32 and not rounded, of linear light; beyond [0, 1] is cut off."""
    light = np.clip(linear, 0, 1)
    bent = cv2.pow(light, 1 / GAMMA).reshape(light.shape) * np.float32(1 + OFFSET) - np.float32(OFFSET)
    return np.where(light <= BEND, light * np.float32(SLOPE), bent) * np.float32(max_value)


@cache
def _table(max_value: int) -> NDArray[np.float32]:
    values = np.arange(max_value + 1) / max_value
    straight, bent = values / SLOPE, ((values + OFFSET) / (1 + OFFSET)) ** GAMMA
    return np.where(values <= BEND * SLOPE, straight, bent).astype(np.float32)
