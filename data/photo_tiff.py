"""What a TIFF's directory says beside the pixels: its tags, the turn and the alpha of the pixels, EXIF in and out."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

from data.metadata import EXIF_PREFIX, TAG_EXIF_IFD, replace_tag, set_upright
from data.quiet import unwarned

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    MemoryError,
)
"""What Pillow's readers raise on damaged files."""

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PLANAR, TIFF_EXTRA, TIFF_SAMPLE_FORMAT = 258, 262, 284, 338, 339
EXTRA_ASSOCIATED, EXTRA_UNASSOCIATED = 1, 2
TIFF_XMP, TIFF_IPTC, TIFF_IMAGE_RESOURCES, TIFF_GPS_IFD = 700, 33723, 34377, 34853
TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION, TIFF_RESOLUTION_UNIT, UNIT_INCH = 282, 283, 296, 2
_WORDS = (269, 270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
DESCRIPTIVE_TIFF_TAGS = (11, 285, *_WORDS, TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION, TIFF_RESOLUTION_UNIT)
"""Tags of a TIFF's first directory that describe the photo rather than the layout of the file."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a TIFF said about its stored pixels: EXIF orientation, and whether they are multiplied by the alpha."""

    orientation: int
    premultiplied: bool


STORED_AS_SHOWN = Stored(1, False)


def with_raw_pixels(tiff: bytes) -> tuple[bytes, Stored]:
    """A TIFF that no reader turns or divides by its alpha, which would lose bits, and what it said before."""
    tiff, orientation = set_upright(tiff)
    tiff, associated = replace_tag(tiff, TIFF_EXTRA, {EXTRA_ASSOCIATED: EXTRA_UNASSOCIATED})
    return tiff, Stored(orientation, associated is not None)


def tiff_tag(image: Image.Image, tag: int) -> tuple[int, ...]:
    """The values of a TIFF tag, () where it is missing."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile), image.format
    value = image.tag_v2.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def exif_of_tiff(image: TiffImagePlugin.TiffImageFile) -> bytes | None:
    """A free-standing EXIF block with what the TIFF's directories say about the photo, None where they say nothing."""
    source, exif = image.getexif(), Image.Exif()
    for tag in DESCRIPTIVE_TIFF_TAGS:
        if tag in source:
            exif[tag] = source[tag]
    for tag in (TAG_EXIF_IFD, TIFF_GPS_IFD):
        directory = source.get_ifd(tag)
        if directory:
            exif[tag] = dict(directory)
    return exif.tobytes().removeprefix(EXIF_PREFIX) if len(exif) else None


def describe(directory: TiffImagePlugin.ImageFileDirectory_v2, exif_block: bytes | None) -> None:
    """Copy what an EXIF block says about the photo into a TIFF directory; what is damaged in it says nothing."""
    if not exif_block:
        return
    exif = Image.Exif()
    with unwarned():
        try:
            exif.load(EXIF_PREFIX + exif_block)
            described = {tag: exif[tag] for tag in DESCRIPTIVE_TIFF_TAGS if tag in exif}
            inner = {tag: dict(exif.get_ifd(tag)) for tag in (TAG_EXIF_IFD, TIFF_GPS_IFD)}
        except DAMAGE:
            return
    for tag, value in described.items():
        if _is_writable(tag, value):
            directory[tag] = value
    for tag, values in inner.items():
        kept = {inner_tag: value for inner_tag, value in values.items() if _is_writable(inner_tag, value)}
        if kept and _is_writable(tag, kept):
            directory[tag] = kept


def _is_writable(tag: int, value: Any) -> bool:
    """Whether Pillow can write a TIFF tag with that value."""
    trial = TiffImagePlugin.ImageFileDirectory_v2()
    try:
        trial[tag] = value
        trial.tobytes(8)
    except DAMAGE:
        return False
    return True
