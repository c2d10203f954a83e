"""EXIF blocks fitted to the file that is written: a thumbnail of the photo as it is now, and JPEG's limit of 64 kB.

What the block says is not moved, so that maker notes (which hold absolute offsets) stay readable.
"""

import io
import struct

from PIL import Image

from data.metadata import (
    EXIF_PREFIX,
    TAG_EXIF_IFD,
    TAG_THUMBNAIL_AT,
    TAG_THUMBNAIL_BYTES,
    TYPE_LONG,
    TYPE_SHORT,
    byte_order,
    thumbnail_link_at,
)
from data.photo_tiff import DAMAGE
from data.photo_type import Photo, contiguous, to_u8
from data.quiet import unwarned

THUMBNAIL_SIDE_PX, THUMBNAIL_BYTES = 160, 20_000
QUALITIES = (85, 70, 50, 30)
TAG_COMPRESSION, COMPRESSION_JPEG = 0x0103, 6
TAG_MAKER_NOTE = 0x927C
SAMPLED_SIDE_PX = 8 * THUMBNAIL_SIDE_PX
"""Large photos are thinned out to about this side before they are averaged: a thumbnail needs no more."""


def thumbnail_of(photo: Photo, max_bytes: int = THUMBNAIL_BYTES) -> bytes | None:
    """A JPEG of the photo, longest side at most 160 px, below `max_bytes`; None where none is that small."""
    step = max(1, max(photo.shape_hw) // SAMPLED_SIDE_PX)
    small = Image.fromarray(to_u8(contiguous(photo.pixels[::step, ::step])))
    small.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), Image.Resampling.BOX)
    for quality in QUALITIES:
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality)
        if out.tell() < max_bytes:
            return out.getvalue()
    return None


def with_thumbnail(exif: bytes, photo: Photo, max_bytes: int | None) -> bytes:
    """The EXIF block with a thumbnail of the photo, appended at its end and linked from its first directory.

    `max_bytes`: how long the whole block may be (None: any). Where the thumbnail does not fit or the block cannot be
    parsed, the block comes back as it was.
    """
    order, link_at = byte_order(exif), thumbnail_link_at(exif)
    if order is None or link_at is None:
        return exif
    directory_at = len(exif) + len(exif) % 2
    entries = 3
    jpeg_at = directory_at + 2 + 12 * entries + 4
    room = THUMBNAIL_BYTES if max_bytes is None else min(THUMBNAIL_BYTES, max_bytes - jpeg_at)
    jpeg = thumbnail_of(photo, room) if room > 0 else None
    if jpeg is None:
        return exif
    directory = struct.pack(order + "H", entries)
    directory += struct.pack(order + "HHLHH", TAG_COMPRESSION, TYPE_SHORT, 1, COMPRESSION_JPEG, 0)
    directory += struct.pack(order + "HHLL", TAG_THUMBNAIL_AT, TYPE_LONG, 1, jpeg_at)
    directory += struct.pack(order + "HHLL", TAG_THUMBNAIL_BYTES, TYPE_LONG, 1, len(jpeg))
    linked = bytearray(exif.ljust(directory_at, b"\x00"))
    struct.pack_into(order + "L", linked, link_at, directory_at)
    return bytes(linked) + directory + struct.pack(order + "L", 0) + jpeg


def within(exif: bytes, max_bytes: int) -> bytes | None:
    """The EXIF block where it is at most that long, else rebuilt without its maker note, else None."""
    if len(exif) <= max_bytes:
        return exif
    parsed = Image.Exif()
    with unwarned():
        try:
            parsed.load(EXIF_PREFIX + exif)
            parsed.get_ifd(TAG_EXIF_IFD).pop(TAG_MAKER_NOTE, None)
            rebuilt = parsed.tobytes().removeprefix(EXIF_PREFIX) if len(parsed) else b""
        except DAMAGE:
            return None
    return rebuilt if 0 < len(rebuilt) <= max_bytes else None
