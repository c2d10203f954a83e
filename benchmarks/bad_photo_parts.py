"""What bad photos are made of: one small good photo in every format, and the pieces that files are built from."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.folders import sample_photo

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FACE_BOX = (150, 40, 306, 184)
"""The face of the sample photo, with enough around it for dlib."""
FACE_WH = (104, 96)
BOMB_BYTES = 250_000_000
"""What the bombs unpack to: more than any small photo may take."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BadPhoto:
    """One member of the corpus: a file name, and its bytes or what makes it. `refused`: None where both a result and
    a sentence are right, else whether it must be refused."""

    category: str
    name: str
    content: bytes | Callable[[Path], None]
    refused: bool | None = None


@cache
def face() -> Image.Image:
    """A face of 104 x 96 pixels in which dlib finds it."""
    with Image.open(sample_photo()) as whole:
        return whole.convert("RGB").crop(FACE_BOX).resize(FACE_WH, Image.Resampling.LANCZOS)


def deep_face() -> NDArray[np.uint16]:
    """The face at 16 bits, [96, 104, 3] RGB, with values between those of 8 bits."""
    pixels = np.asarray(face()).astype(np.uint16) * 257
    return np.minimum(pixels, 65000) + np.arange(104, dtype=np.uint16)[:, None]


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """A picture as Pillow writes it."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@cache
def jpeg(**options: object) -> bytes:
    """The face as a JPEG."""
    return encoded(face(), "JPEG", **{"quality": 90, **options})


@cache
def good_photos() -> dict[str, bytes]:
    """The face in every format and coding that is read, by a file name."""
    sixteen = deep_face()[..., ::-1]
    with_alpha = face().convert("RGBA")
    with_alpha.putalpha(Image.linear_gradient("L").resize(FACE_WH))
    return {
        "baseline.jpg": jpeg(),
        "progressive.jpg": jpeg(progressive=True),
        "full_chroma.jpg": jpeg(subsampling=0),
        "grey.jpg": encoded(face().convert("L"), "JPEG"),
        "rgb.png": encoded(face(), "PNG"),
        "palette.png": encoded(face().quantize(200), "PNG"),
        "alpha.png": encoded(with_alpha, "PNG"),
        "sixteen.png": cv2.imencode(".png", sixteen)[1].tobytes(),
        "plain.tif": encoded(face(), "TIFF"),
        "deflated.tif": encoded(face(), "TIFF", compression="tiff_adobe_deflate"),
        "lzw.tif": encoded(face(), "TIFF", compression="tiff_lzw"),
        "in_jpeg.tif": encoded(face(), "TIFF", compression="jpeg"),
        "sixteen.tif": cv2.imencode(".tif", sixteen)[1].tobytes(),
        "lossy.webp": encoded(face(), "WEBP", quality=90),
        "lossless.webp": encoded(with_alpha, "WEBP", lossless=True),
        "eight.avif": encoded(face(), "AVIF"),
        "ten.avif": deep_avif(),
        "face.heic": heic(),
    }


@cache
def deep_avif() -> bytes:
    """The face as an AVIF of 10 bits."""
    how = [cv2.IMWRITE_AVIF_DEPTH, 10]
    return cv2.imencode(".avif", (deep_face()[..., ::-1] >> 6), how)[1].tobytes()


@cache
def heic(**options: object) -> bytes:
    """The face as a HEIC; needs the extra `heif`."""
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(face()).save(out, quality=80, **options)
    return out.getvalue()


def flipped(data: bytes, rng: random.Random, count: int, first: int = 0) -> bytes:
    """The bytes with `count` bits turned over at or behind `first`."""
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(first, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """The bytes with the first `old` in them replaced; it must be there."""
    assert old in data, old
    return data.replace(old, new, 1)


# JPEG


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment; of a longer body than a segment can hold the length is cut to 16 bits."""
    return struct.pack(">BBH", 0xFF, marker, (len(body) + 2) & 0xFFFF) + body


def with_segments(jpeg_file: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments behind its start."""
    return jpeg_file[:2] + b"".join(segments) + jpeg_file[2:]


def jpeg_parts(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment before the first scan's data."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield data[at + 1], at, at + 2 + length
        if data[at + 1] == 0xDA:
            return
        at += 2 + length


def jpeg_place(data: bytes, *markers: int) -> tuple[int, int]:
    """Start and end of the first segment that has one of the markers."""
    return next((start, end) for marker, start, end in jpeg_parts(data) if marker in markers)


def many_scans(width: int, height: int, count: int) -> bytes:
    """A progressive grey JPEG whose one block row is refined `count` times by scans of next to no bytes."""
    table_dc = segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    table_ac = segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")  # one code: EOB14, a run of blocks of zeros
    frame = segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    first = segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + b"\x00" * (-(-width // 8) * -(-height // 8) // 8 + 2)
    more = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + b"\x00" * 16
    tables = segment(0xDB, b"\x00" + b"\x10" * 64) + table_dc + table_ac
    return b"\xff\xd8" + tables + frame + first + more * count + b"\xff\xd9"


# PNG


def chunk(kind: bytes, body: bytes, length: int | None = None, crc: int | None = None) -> bytes:
    """A PNG chunk, with another length or CRC than its own where these are given."""
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">L", len(body) if length is None else length) + kind + body + struct.pack(">L", crc)


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of the chunks of a good PNG."""
    found, at = [], 8
    while at < len(png):
        length, kind = struct.unpack_from(">L4s", png, at)
        found.append((kind, png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    return PNG_SIGNATURE + b"".join(chunk(kind, body) for kind, body in chunks)


def header(width: int, height: int, bits: int = 8, colour: int = 2, interlaced: int = 0) -> tuple[bytes, bytes]:
    """A PNG's IHDR."""
    return b"IHDR", struct.pack(">LLBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, bits, colour, 0, 0, interlaced)


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """The face as a PNG with more chunks behind its header."""
    own = chunks_of(good_photos()["rgb.png"])
    return png_of([own[0], *chunks, *own[1:]])


@cache
def deflated_zeros(count: int) -> bytes:
    """`count` zero bytes, deflated piece by piece: a thousandth of them."""
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    whole = b"".join(packer.compress(piece[: min(len(piece), count - at)]) for at in range(0, count, len(piece)))
    return whole + packer.flush()


# TIFF

TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 16: 8}
Entry = tuple[int, int, int, bytes]
"""Tag, type, count, and the bytes of the values."""


def short(tag: int, *values: int) -> Entry:
    """A TIFF entry of 16-bit numbers."""
    return tag, 3, len(values), struct.pack(f"<{len(values)}H", *values)


def long(tag: int, *values: int) -> Entry:
    """A TIFF entry of 32-bit numbers."""
    return tag, 4, len(values), struct.pack(f"<{len(values)}L", *values)


def directory(entries: Sequence[Entry], at: int, following: int = 0) -> bytes:
    """A little-endian TIFF directory for the offset `at`, its longer values behind it."""
    values_at = at + 2 + 12 * len(entries) + 4
    fields, values = b"", b""
    for tag, type_, count, value in entries:
        inside = len(value) <= 4
        fields += struct.pack("<HHL", tag, type_, count)
        fields += value.ljust(4, b"\x00") if inside else struct.pack("<L", values_at + len(values))
        values += b"" if inside else value + b"\x00" * (len(value) % 2)
    return struct.pack("<H", len(entries)) + fields + struct.pack("<L", following) + values


def tiff(changes: Sequence[Entry] = (), without: Sequence[int] = (), following: int = 0) -> bytes:
    """The face as an uncompressed TIFF with other entries in place of its own, or beside them."""
    pixels = np.asarray(face()).tobytes()
    width, height = FACE_WH
    own = {
        entry[0]: entry
        for entry in (
            *(long(256, width), long(257, height), short(258, 8, 8, 8), short(259, 1), short(262, 2), long(273, 8)),
            *(short(277, 3), long(278, height), long(279, len(pixels)), short(284, 1)),
        )
    }
    own.update({entry[0]: entry for entry in changes})
    entries = [own[tag] for tag in sorted(own) if tag not in without]
    at = 8 + len(pixels)
    return b"II*\x00" + struct.pack("<L", at) + pixels + directory(entries, at, following)


# Boxes of ISO base media files


def box(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    """A box, with another size than its own where one is given."""
    return struct.pack(">L", (len(body) + 8 if size is None else size) & 0xFFFFFFFF) + kind + body
