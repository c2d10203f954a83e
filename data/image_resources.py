"""Photoshop's image resources, where JPEG and TIFF keep IPTC's older fields (IIM), and the JPEG segments around them.

Adobe Photoshop File Formats Specification (image resource blocks); JPEG segments by ITU-T T.81, annex B.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

IPTC_RESOURCE, THUMBNAIL_RESOURCES = 0x0404, (0x0409, 0x040C)
SIGNATURES = (b"8BIM", b"MeSa", b"PHUT", b"AgHg", b"DCSR")

MARKER_SCAN, MARKER_COMMENT, MARKER_APP1, MARKER_APP13 = 0xDA, 0xFE, 0xE1, 0xED
MARKERS_ALONE = (0x01, *range(0xD0, 0xDA))
RESOURCES_PREFIX = b"Photoshop 3.0\x00"
EXTENDED_XMP_PREFIX = b"http://ns.adobe.com/xmp/extension/\x00"
EXTENDED_XMP_HEADER_BYTES = len(EXTENDED_XMP_PREFIX) + 32 + 4 + 4
PICTURES_IN_XMP = (b"GImage:", b"GDepth:", b":Thumbnails")
"""What names a copy of the photo, or its depth, inside extended XMP: both are of the photo before the edit."""
SEGMENT_BYTES = 65533
"""The longest body of a JPEG segment."""


@dataclass(frozen=True, slots=True)
class _Resource:
    """One resource: its number, its whole bytes with header and padding, and its data."""

    number: int
    whole: bytes
    data: bytes


def _resources(block: bytes) -> Iterator[_Resource]:
    """The well-formed resources of a block, in order; what follows the first malformed one is not read."""
    at = 0
    while at + 12 <= len(block) and block[at : at + 4] in SIGNATURES:
        (number,) = struct.unpack_from(">H", block, at + 4)
        size_at = at + 6 + (block[at + 6] // 2 + 1) * 2
        if size_at + 4 > len(block):
            return
        (size,) = struct.unpack_from(">L", block, size_at)
        start, end = size_at + 4, size_at + 4 + size
        if end > len(block):
            return
        whole = block[at:end] + b"\x00" * (size % 2)
        yield _Resource(number, whole, block[start:end])
        at = end + size % 2


def without_previews(block: bytes) -> bytes | None:
    """The resources without the thumbnails, which show the photo before the edit; None where nothing is left."""
    kept = b"".join(one.whole for one in _resources(block) if one.number not in THUMBNAIL_RESOURCES)
    return kept or None


def iptc_of(block: bytes | None) -> bytes | None:
    """IPTC's IIM records in the resources, None where there are none."""
    return next((one.data for one in _resources(block or b"") if one.number == IPTC_RESOURCE), None)


def has_more_than_iptc(block: bytes | None) -> bool:
    """Whether the resources say anything beside IPTC's IIM records."""
    return any(one.number != IPTC_RESOURCE for one in _resources(block or b""))


def with_iptc(block: bytes | None, iptc: bytes) -> bytes:
    """The resources with these IIM records in place of former ones."""
    others = b"".join(one.whole for one in _resources(block or b"") if one.number != IPTC_RESOURCE)
    header = b"8BIM" + struct.pack(">HHL", IPTC_RESOURCE, 0, len(iptc))
    return header + iptc + b"\x00" * (len(iptc) % 2) + others


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, body) of the segments of a JPEG before its first scan; stops quietly at damage."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF or marker in MARKERS_ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        body = jpeg[at + 4 : at + 2 + length]
        if marker == MARKER_SCAN or length < 2 or len(body) != length - 2:
            return
        yield marker, body
        at += 2 + length


def resources_of_jpeg(jpeg: bytes) -> bytes | None:
    """The image resources of a JPEG, joined from its APP13 segments, without thumbnails; None without any."""
    bodies = [body for marker, body in _segments(jpeg) if marker == MARKER_APP13 and body.startswith(RESOURCES_PREFIX)]
    return without_previews(b"".join(body.removeprefix(RESOURCES_PREFIX) for body in bodies))


def kept_segments(jpeg: bytes) -> tuple[tuple[int, bytes], ...]:
    """(marker, body) of a JPEG's comments and of its extended XMP, unless that holds a copy of the photo."""
    found = list(_segments(jpeg))
    comments = [(marker, body) for marker, body in found if marker == MARKER_COMMENT]
    extended = [
        (marker, body) for marker, body in found if marker == MARKER_APP1 and body.startswith(EXTENDED_XMP_PREFIX)
    ]
    packet = b"".join(body[EXTENDED_XMP_HEADER_BYTES:] for _, body in extended)
    return tuple(comments if any(name in packet for name in PICTURES_IN_XMP) else comments + extended)


def encoded_segments(segments: tuple[tuple[int, bytes], ...], resources: bytes | None) -> bytes:
    """The bytes of these JPEG segments, and of as many APP13 segments as the image resources need."""
    step = SEGMENT_BYTES - len(RESOURCES_PREFIX)
    parts = [(resources or b"")[at : at + step] for at in range(0, len(resources or b""), step)]
    whole = [*segments, *((MARKER_APP13, RESOURCES_PREFIX + part) for part in parts)]
    return b"".join(struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body for marker, body in whole)
