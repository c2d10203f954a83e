"""Bad photos in boxes (WebP, HEIF, AVIF), and small files that unpack to enormous pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image

from benchmarks.bad_photo_parts import (
    BOMB_BYTES,
    BadPhoto,
    box,
    deflated_zeros,
    encoded,
    face,
    good_photos,
    header,
    heic,
    jpeg,
    jpeg_place,
    long,
    png_of,
    replaced,
    tiff,
)
from benchmarks.bad_structures import FRAME, MEGABYTES


def boxes() -> Iterator[BadPhoto]:
    """WebP, HEIF and AVIF files whose boxes are wrong."""
    lossy, plain = good_photos()["lossy.webp"], good_photos()["lossless.webp"]
    extended = encoded(face(), "WEBP", xmp=b"<a/>", exif=b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")
    webps = {
        "size_0": lossy[:4] + bytes(4) + lossy[8:],
        "size_huge": lossy[:4] + b"\xff\xff\xff\xff" + lossy[8:],
        "size_odd": lossy[:4] + struct.pack("<L", len(lossy) - 7) + lossy[8:],
        "chunk_huge": lossy[:16] + b"\xff\xff\xff\x7f" + lossy[20:],
        "chunk_0": lossy[:16] + bytes(4) + lossy[20:],
        "vp8_as_vp8l": lossy[:12] + b"VP8L" + lossy[16:],
        "vp8l_as_vp8": plain.replace(b"VP8L", b"VP8 ", 1),
        "unknown_chunk": lossy[:12] + b"ABCD" + lossy[16:],
        "header_only": lossy[:12],
        "canvas_0": extended[:24] + bytes(6) + extended[30:],
        "canvas_huge": extended[:24] + b"\xff" * 6 + extended[30:],
        "flags_all": extended[:20] + b"\xff" + extended[21:],
        "flags_none": extended[:20] + b"\x00" + extended[21:],
        "garbage_behind": lossy + b"garbage" * 1000,
        "exif_huge": extended.replace(b"EXIF\x0e\x00\x00\x00", b"EXIF\xff\xff\xff\x7f"),
        "alpha_without": lossy[:12]
        + b"VP8X"
        + struct.pack("<LL", 10, 0x10)
        + b"\x67\x00\x00\x5f\x00\x00"
        + b"ALPH\x04\x00\x00\x00abcd"
        + lossy[12:],
    }
    for name, content in webps.items():
        yield BadPhoto("WebP structure", f"{name}.webp", content)
    for suffix, good in (("heic", heic()), ("avif", good_photos()["eight.avif"])):
        for name, content in _boxes_of(good).items():
            yield BadPhoto("HEIF and AVIF structure", f"{name}.{suffix}", content)
    both = replaced(heic(), b"heic", b"avif")
    yield BadPhoto("HEIF and AVIF structure", "heic_called_avif.heic", both)
    yield BadPhoto(
        "HEIF and AVIF structure", "avif_called_heic.avif", good_photos()["eight.avif"].replace(b"avif", b"heic")
    )
    yield BadPhoto(
        "HEIF and AVIF structure", "film.heic", box(b"ftyp", b"isom\x00\x00\x00\x00mif1") + box(b"moov", bytes(100))
    )


def _boxes_of(good: bytes) -> dict[str, bytes]:
    """A photo in boxes with one of them gone, empty, huge or lying."""
    size_at = good.index(b"ispe") + 8
    (first,) = struct.unpack_from(">L", good)
    return {
        "brand_only": good[:first],
        "brand_0": bytes(4) + good[4:],
        "brand_huge": b"\xff\xff\xff\xff" + good[4:],
        "meta_empty": good[:first] + box(b"meta", bytes(4)),
        "meta_huge": good[:first] + b"\xff\xff\xff\xff" + good[first + 4 :],
        "meta_is_gone": replaced(good, b"meta", b"free"),
        "no_main": replaced(good, b"pitm", b"free"),
        "no_places": replaced(good, b"iloc", b"free"),
        "no_items": replaced(good, b"iinf", b"free"),
        "no_properties": replaced(good, b"iprp", b"free"),
        "no_size": replaced(good, b"ispe", b"free"),
        "no_data": replaced(good, b"mdat", b"free")[: good.index(b"mdat") + 4],
        "size_0": good[:size_at] + bytes(8) + good[size_at + 8 :],
        "size_huge": good[:size_at] + b"\x7f\xff\xff\xff" * 2 + good[size_at + 8 :],
        "size_lies": good[:size_at] + struct.pack(">LL", 3000, 2000) + good[size_at + 8 :],
        "size_small": good[:size_at] + struct.pack(">LL", 3, 2) + good[size_at + 8 :],
        "places_beyond": good[: good.index(b"iloc") + 20] + b"\xff" * 12 + good[good.index(b"iloc") + 32 :],
        "boxes_in_boxes": good[:first] + _nested(3000),
        "garbage_behind": good + b"garbage" * 1000,
        "data_zeros": good[: good.index(b"mdat") + 4] + bytes(len(good) - good.index(b"mdat") - 4),
    }


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = box(b"meta", bytes(4) + inner)
    return inner


def bombs() -> Iterator[BadPhoto]:
    """Small files that say or unpack to enormous pictures."""
    good = jpeg()
    start, _ = jpeg_place(good, *FRAME)

    def sized(height: int, width: int) -> bytes:
        return good[: start + 5] + struct.pack(">HH", height, width) + good[start + 9 :]

    end = (b"IEND", b"")
    for side in (30_000, 60_000, 2**31 - 1):
        pixels = (b"IDAT", deflated_zeros(MEGABYTES))
        yield BadPhoto("bombs", f"says_{side}.png", png_of([header(side, side), pixels, end]), True)
    yield BadPhoto(
        "bombs", "says_14000.png", png_of([header(14_000, 14_000), (b"IDAT", deflated_zeros(MEGABYTES)), end]), True
    )
    blank = deflated_zeros((8000 // 8 + 1) * 8000)
    yield BadPhoto("bombs", "blank_bits.png", png_of([header(8000, 8000, 1, 0), (b"IDAT", blank), end]))
    blank = deflated_zeros((6 * 4000 + 1) * 4000)
    yield BadPhoto("bombs", "blank_sixteen.png", png_of([header(4000, 4000, 16, 2), (b"IDAT", blank), end]))
    yield BadPhoto(
        "bombs", "more_than_it_says.png", png_of([header(104, 96), (b"IDAT", deflated_zeros(BOMB_BYTES)), end])
    )
    yield BadPhoto("bombs", "says_65500.jpg", sized(65_500, 65_500), True)
    yield BadPhoto("bombs", "says_13000.jpg", sized(13_000, 15_000))
    yield BadPhoto("bombs", "blank.jpg", encoded(Image.new("RGB", (9000, 6000)), "JPEG"))
    yield BadPhoto("bombs", "says_13000.tif", tiff([long(256, 13_000), long(257, 15_000), long(278, 15_000)]))
    yield BadPhoto("bombs", "blank.tif", encoded(Image.new("RGB", (6000, 6000)), "TIFF", compression="tiff_lzw"))
    yield BadPhoto("bombs", "blank.webp", encoded(Image.new("RGB", (4000, 3000)), "WEBP", lossless=True, method=0))
    riff = good_photos()["lossy.webp"]
    at = riff.index(b"\x9d\x01\x2a") + 3
    yield BadPhoto("bombs", "says_16383.webp", riff[:at] + struct.pack("<HH", 16383, 16383) + riff[at + 4 :], True)
    yield BadPhoto("bombs", "says_12000.webp", riff[:at] + struct.pack("<HH", 12_000, 12_000) + riff[at + 4 :])
    yield BadPhoto("bombs", "grid.heic", _tiled(heic()))


def _tiled(good: bytes) -> bytes:
    """A HEIC whose picture is said to be one tile of a huge grid of itself."""
    return good.replace(b"hvc1", b"grid", 1)
