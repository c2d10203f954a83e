"""Colour spaces of photographs: values of a profile's space as sRGB, which generators are trained on, and back.

The colour management is littleCMS, through Pillow, which converts 8 bits. It fills a table of the colour cube once, and
values are interpolated in that, so that differences of pictures stay smooth.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

STEP = 5  # of 255, between the table's colours: 52 of them along each axis
SAME_WITHIN = 2.0  # levels of 255: nearer, a profile's values are taken for sRGB's own


@dataclass(frozen=True, eq=False, slots=True)
class ColourSpace:
    """The tables [52, 52, 52, 3] float32 in [0, 1] from a profile's RGB values to sRGB's, and back."""

    table_to_srgb: NDArray[np.float32]
    table_from_srgb: NDArray[np.float32]

    def to_srgb(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values [..., 3] of the profile's space in [-1, 1] as sRGB in [-1, 1]; colours beyond sRGB are cut off."""
        return _looked_up(self.table_to_srgb, values)

    def from_srgb(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """sRGB values [..., 3] in [-1, 1] as those of the profile's space in [-1, 1]."""
        return _looked_up(self.table_from_srgb, values)


def colour_space(icc: bytes | None) -> ColourSpace | None:
    """The space of an RGB photo's profile. None where its values are as good as sRGB's, where there is no profile, and
    where it is not one of RGB or cannot be read."""
    return None if icc is None else _of_profile(icc)


def srgb_picture(rgb_u8: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """A picture [H, W, 3] uint8 as sRGB, for screens; as it is where `colour_space` finds nothing to turn."""
    if icc is None or colour_space(icc) is None:
        return rgb_u8
    profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(
        Image.fromarray(rgb_u8), profile, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
    )
    assert turned is not None, "not done in place"
    return np.asarray(turned, np.uint8)


@lru_cache(maxsize=4)
def _of_profile(icc: bytes) -> ColourSpace | None:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        there, back = (_table(*pair) for pair in ((profile, srgb), (srgb, profile)))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if max(float(np.abs(table - _grid()).max()) for table in (there, back)) <= SAME_WITHIN / 255:
        return None
    return ColourSpace(there, back)


def _grid() -> NDArray[np.float32]:
    """[52, 52, 52, 3] the colours of the table, in [0, 1]."""
    levels = np.arange(0, 256, STEP, dtype=np.float32) / 255
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)


def _table(source: object, target: object) -> NDArray[np.float32]:
    """What the grid's colours are in another space, relative colorimetric."""
    grid = _grid()
    image = Image.fromarray(np.rint(grid * 255).astype(np.uint8).reshape(len(grid), -1, 3))
    how = ImageCms.Intent.RELATIVE_COLORIMETRIC
    turned = ImageCms.profileToProfile(image, source, target, renderingIntent=how, outputMode="RGB")  # type: ignore[arg-type]
    assert turned is not None, "not done in place"
    return np.asarray(turned, np.float32).reshape(grid.shape) / np.float32(255)


def _looked_up(table: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Trilinear interpolation in a table of values [..., 3] in [-1, 1]."""
    last = len(table) - 1
    places = np.clip((values.reshape(-1, 3) + 1) / 2, 0, 1) * np.float32(last)
    low = np.minimum(places.astype(np.intp), last - 1)
    high_share = (places - low).astype(np.float32)
    found = np.zeros((len(places), 3), np.float32)
    for corner in np.ndindex(2, 2, 2):
        at = low + corner
        weight = np.prod(np.where(corner, high_share, 1 - high_share), axis=1)
        found += weight[:, None] * table[at[:, 0], at[:, 1], at[:, 2]]
    return np.asarray(found.reshape(values.shape) * 2 - 1, np.float32)
