"""The Photo that flows through the pipeline: upright pixels and everything that has to come back with them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.errors import PhotoError

PhotoFormat = Literal["JPEG", "PNG", "TIFF", "WEBP"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

GREY_MODES = ("1", "L", "LA", "I;16")
STRIP_VALUES = 4_000_000
"""Values converted to a wider type at once, so that a large photo never is as a whole."""

_SUFFIXES: dict[PhotoFormat, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}


def suffix_for(format: PhotoFormat) -> str:
    """The usual file name suffix of a photo format: `.jpg`, `.png`, `.tif` or `.webp`."""
    return _SUFFIXES[format][0]


def suffixes_of(format: PhotoFormat) -> tuple[str, ...]:
    """Every file name suffix (lower case) that a photo format goes by."""
    return _SUFFIXES[format]


READ_ONLY_FORMATS = {"HEIF": (".heic", ".heif", ".hif"), "AVIF": (".avif",)}
"""Formats that photos are read from but not written to, and their suffixes."""


def read_suffixes() -> tuple[str, ...]:
    """Every file name suffix (lower case) of a photo that can be read."""
    return tuple(suffix for group in (*_SUFFIXES.values(), *READ_ONLY_FORMATS.values()) for suffix in group)


@dataclass(frozen=True, eq=False, slots=True)
class Photo:
    """One still photograph, upright (EXIF orientation already applied).

    pixels: [H,W,3] uint8 or uint16, RGB as stored in the file, in the colour space of `icc`. Grey photos hold the grey
        three times, palette photos their colours.
    alpha: [H,W] of the same type, or None. `premultiplied`: the pixels are stored multiplied by it (TIFF only).
    icc, exif, xmp: the raw blocks; exif is a TIFF structure (no `Exif\\0\\0` prefix) with orientation 1 and no
        thumbnail.
    format: the container that the photo is written back to: the file's own, or PNG for a HEIF or AVIF (TIFF where its
        alpha is premultiplied).
    mode: what the file held, as Pillow names it ('1', 'L', 'LA', 'I;16', 'P', 'RGB', 'RGBA', 'RGBa').
    jpeg_tables, jpeg_subsampling (Pillow's 0, 1, 2 or -1), jpeg_progressive: how a JPEG was encoded.
    dpi: dots per inch across and down, of any format.
    png_chunks: (type, data) of a PNG's gamma, chromaticity, resolution and text chunks.
    orientation: the EXIF orientation (1..8) by which the file stores the pixels.
    image_resources: Photoshop's image resources without previews; IPTC's older fields (IIM) are one of them.
    jpeg_segments: (marker, body) of a JPEG's comments and of the XMP that its main packet has no room for.
    has_thumbnail: whether the EXIF held a thumbnail, so that a new one of the photo is written.
    source_format: 'HEIF' or 'AVIF' where the file's own format is one that is read only, else "".
    path, sha256: the file it was read from and the hash of that file.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    format: PhotoFormat = "PNG"
    mode: str = "RGB"
    jpeg_tables: tuple[tuple[int, ...], ...] | None = None
    jpeg_subsampling: int = -1
    jpeg_progressive: bool = False
    dpi: tuple[float, float] | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    orientation: int = 1
    image_resources: bytes | None = None
    jpeg_segments: tuple[tuple[int, bytes], ...] = ()
    has_thumbnail: bool = False
    source_format: str = ""
    path: Path | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype not in (np.uint8, np.uint16) or not pixels.size:
            raise PhotoError(
                f"A photo's pixels are [H,W,3] uint8 or uint16, but these are {list(pixels.shape)} {pixels.dtype}."
            )
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise PhotoError(
                f"The alpha of a photo has the size and type of its pixels ({list(pixels.shape[:2])} {pixels.dtype}), "
                f"but this one is {list(alpha.shape)} {alpha.dtype}."
            )

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def max_value(self) -> int:
        """The value of full brightness: 255 or 65535."""
        return 255 if self.pixels.dtype == np.uint8 else 65535

    @property
    def bits(self) -> int:
        """The bits of a channel: 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def is_grey(self) -> bool:
        """Whether the file held one grey channel, so that an edit has to stay grey too."""
        return self.mode in GREY_MODES

    @property
    def premultiplied(self) -> bool:
        """Whether the pixels are stored multiplied by the alpha (associated alpha of TIFF)."""
        return self.mode == "RGBa"

    def to_u8(self) -> NDArray[np.uint8]:
        """The pixels at 8 bits, [H,W,3] uint8 RGB, rounded; the very array of the photo when it has 8 bits."""
        return to_u8(self.pixels)

    def with_pixels(self, pixels: Pixels) -> "Photo":
        """This photo with other pixels of the same shape and type; everything else stays."""
        if pixels.shape != self.pixels.shape or pixels.dtype != self.pixels.dtype:
            raise PhotoError(
                f"New pixels must be {list(self.pixels.shape)} {self.pixels.dtype} like the photo's own, "
                f"but these are {list(pixels.shape)} {pixels.dtype}."
            )
        return replace(self, pixels=pixels)


def contiguous(values: Pixels) -> Pixels:
    """The values in memory of their own, row after row."""
    return np.ascontiguousarray(values)  # type: ignore[return-value]


def to_u8(values: Pixels) -> NDArray[np.uint8]:
    """Values of [H,W] or [H,W,C] at 8 bits, rounded to nearest (65535 -> 255); uint8 comes back as it is."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    eight = np.empty(values.shape, np.uint8)
    rows = max(1, STRIP_VALUES // max(1, math.prod(values.shape[1:])))
    for top in range(0, len(values), rows):
        eight[top : top + rows] = (values[top : top + rows].astype(np.uint32) + 128) // 257
    return eight
