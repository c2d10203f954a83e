"""Photo -> bytes of a JPEG, PNG, TIFF or WebP file, at the bit depth and with the metadata of the photo."""

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from data.errors import PhotoError
from data.exif_fitting import with_thumbnail, within
from data.image_resources import encoded_segments, has_more_than_iptc, iptc_of
from data.jpeg_blocks import BlocksNotKeptError, retouched_jpeg
from data.metadata import AI_EDITED, EXIF_PREFIX, TURNED_BY_90, mark_ai_edited, stored_exif, stored_xmp
from data.photo_decode import PNG_SIGNATURE, XMP_KEYWORD, turn_upright
from data.photo_tiff import (
    EXTRA_ASSOCIATED,
    EXTRA_UNASSOCIATED,
    TIFF_EXTRA,
    TIFF_IMAGE_RESOURCES,
    TIFF_IPTC,
    TIFF_RESOLUTION_UNIT,
    TIFF_X_RESOLUTION,
    TIFF_XMP,
    TIFF_Y_RESOLUTION,
    UNIT_INCH,
    describe,
)
from data.photo_type import Photo, PhotoFormat, to_u8
from data.quiet import quietly, unwarned

DEFAULT_QUALITY = 95
JPEG_SEGMENT_BYTES = 65533
JPEG_XMP_BYTES, JPEG_EXIF_BYTES = JPEG_SEGMENT_BYTES - 29, JPEG_SEGMENT_BYTES - len(EXIF_PREFIX)
JPEG_MAX_SIDE_PX, WEBP_MAX_SIDE_PX = 65500, 16383
METRES_PER_INCH, PNG_MAX_NUMBER = 0.0254, 2**31 - 1
DEFLATE_LEVEL = 6
STRIP_BYTES = 1 << 19
"""Uncompressed bytes of one TIFF strip, and of one step of the PNG encoder."""

TYPE_BYTE, TYPE_SHORT, TYPE_LONG, TYPE_UNDEFINED = 1, 3, 4, 7
COMPRESSION_DEFLATE, PREDICTOR_HORIZONTAL = 8, 2


def encode_photo(
    photo: Photo,
    *,
    edited: bool,
    format: PhotoFormat | None = None,
    quality: int = DEFAULT_QUALITY,
    on_reencoded: Callable[[str], None] | None = None,
) -> bytes:
    """The bytes of the photo's file.

    `format=None` keeps the container: PNG, TIFF and WebP are then lossless (WebP also where the input was lossy). A
    JPEG keeps the blocks of its file in which no pixel differs (data/jpeg_blocks.py says what that makes exact), turned
    as in the file. Where that cannot be, `on_reencoded` gets half a sentence that says why, and the photo is compressed
    anew, upright, with the quantisation tables and the subsampling of the input.
    Another `format` converts: `quality` (1..100) then rules JPEG and WebP, and 16 bits are rounded to 8 for these two.
    `edited` adds the IPTC digital source type of an AI-edited photo and the name of this software to the XMP. A photo
    whose EXIF held a thumbnail gets a new one (not in TIFF, whose EXIF has no place for it).
    Raises PhotoError where the format cannot hold the photo.
    """
    target = format or photo.format
    xmp = mark_ai_edited(photo.xmp) if edited else photo.xmp
    _check_target(photo, target)
    with unwarned():
        return _encoded(photo, xmp, target, quality, on_reencoded)


def _encoded(
    photo: Photo, xmp: bytes | None, target: PhotoFormat, quality: int, on_reencoded: Callable[[str], None] | None
) -> bytes:
    if target == "JPEG" and photo.format == "JPEG":
        try:
            return _retouch_jpeg(photo, xmp, quality)
        except BlocksNotKeptError as reason:
            if on_reencoded is not None:
                on_reencoded(str(reason))
    if photo.exif and photo.has_thumbnail and target != "TIFF":
        limit = JPEG_EXIF_BYTES if target == "JPEG" else None
        photo = replace(photo, exif=with_thumbnail(photo.exif, photo, limit))
    if target == "JPEG":
        return _encode_jpeg(photo, xmp, quality)
    if target == "WEBP":
        return _encode_webp(photo, xmp, lossless=photo.format == "WEBP", quality=quality)
    return _encode_png(photo, xmp) if target == "PNG" else _encode_tiff(photo, xmp)


def _check_target(photo: Photo, target: PhotoFormat) -> None:
    height, width = photo.shape_hw
    limit = {"JPEG": JPEG_MAX_SIDE_PX, "WEBP": WEBP_MAX_SIDE_PX}.get(target)
    if limit and max(height, width) > limit:
        raise PhotoError(
            f"A {target} photo has at most {limit} pixels a side, but this one has {width} x {height}; "
            "set blend.format=png or tiff."
        )
    if photo.alpha is not None and target == "JPEG":
        raise PhotoError("JPEG cannot hold the transparency of this photo; set blend.format=keep, png, tiff or webp.")
    if photo.premultiplied and target != "TIFF":
        raise PhotoError(
            f"{target} cannot hold this photo's premultiplied transparency unchanged; set blend.format=keep or tiff."
        )


def channels_of(photo: Photo) -> NDArray[Any]:
    """[H,W,C] as the file holds them: C = 1 or 2 for grey that stayed grey, 3, or 4 with alpha."""
    colours: NDArray[Any] = photo.pixels
    if photo.is_grey and _has_no_colour(colours):
        colours = colours[..., :1]
    if photo.alpha is None:
        return colours
    return np.concatenate([colours, photo.alpha[..., None]], axis=2)


def _has_no_colour(pixels: NDArray[Any]) -> bool:
    red = pixels[..., 0]
    return np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2])


def _image_of(channels: NDArray[Any]) -> Image.Image:
    """A Pillow image of 8-bit (rounded) [H,W,1..4] channels."""
    eight = np.ascontiguousarray(to_u8(channels))
    return Image.fromarray(eight[..., 0] if eight.shape[2] == 1 else eight)


def _retouch_jpeg(photo: Photo, xmp: bytes | None, quality: int) -> bytes:
    """The JPEG that the photo was read from, with its metadata, and other coefficients only where pixels differ."""
    source = _source_of(photo)
    orientation = photo.orientation
    reverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = stored_exif(photo.exif, orientation) if photo.exif else None
    if exif is not None and photo.has_thumbnail:
        as_stored = replace(photo, pixels=turn_upright(photo.pixels, reverse), alpha=None)
        exif = with_thumbnail(exif, as_stored, JPEG_EXIF_BYTES)
    if orientation != 1 and (exif is None or len(exif) > JPEG_EXIF_BYTES):
        raise BlocksNotKeptError("its EXIF block cannot say how its pixels are turned")
    pixels = to_u8(turn_upright(channels_of(photo), reverse))
    dpi = photo.dpi[::-1] if photo.dpi and orientation in TURNED_BY_90 else photo.dpi
    corner = replace(photo, pixels=photo.pixels[:1, :1], exif=exif, dpi=dpi)
    header = _encode_jpeg(corner, stored_xmp(xmp, orientation) if xmp else None, quality)
    return retouched_jpeg(source, pixels, header)


def _source_of(photo: Photo) -> bytes:
    """The file that the photo was read from, unchanged."""
    if photo.path is None or not photo.sha256:
        raise BlocksNotKeptError("it was not read from a file")
    try:
        source = photo.path.read_bytes()
    except OSError as error:
        raise BlocksNotKeptError(f"its file cannot be read any more ({error.strerror or error})") from error
    if hashlib.sha256(source).hexdigest() != photo.sha256:
        raise BlocksNotKeptError("its file has changed since it was read")
    return source


def _encode_jpeg(photo: Photo, xmp: bytes | None, quality: int) -> bytes:
    if xmp is not None and len(xmp) > JPEG_XMP_BYTES:
        xmp = _shorter(xmp)
    exif = within(photo.exif, JPEG_EXIF_BYTES) if photo.exif else None
    options: dict[str, Any] = {"progressive": photo.jpeg_progressive}
    if photo.format == "JPEG" and photo.jpeg_tables:
        options |= {"qtables": [list(table) for table in photo.jpeg_tables], "quality": -1}
        options["subsampling"] = max(photo.jpeg_subsampling, 0)
    else:
        options |= {"quality": quality, "subsampling": 0}
    if photo.dpi:
        options["dpi"] = photo.dpi
    if photo.icc:
        options["icc_profile"] = photo.icc
    if xmp:
        options["xmp"] = xmp
    if exif:
        options["exif"] = EXIF_PREFIX + exif
    options["extra"] = encoded_segments(photo.jpeg_segments, photo.image_resources)
    out = io.BytesIO()
    with quietly():  # libjpeg cautions against coarse tables, which are the file's own
        _image_of(channels_of(photo)).save(out, "JPEG", **options)
    return out.getvalue()


def _shorter(xmp: bytes) -> bytes | None:
    """A packet without the spaces at its end that fits a JPEG segment; else only the mark of the edit, which stays."""
    tight = re.sub(rb"(?<!\s)\s+(?=<\?xpacket end)", b"\n", xmp)
    if len(tight) <= JPEG_XMP_BYTES:
        return tight
    return mark_ai_edited(None) if AI_EDITED.encode() in xmp else None


def _encode_webp(photo: Photo, xmp: bytes | None, *, lossless: bool, quality: int) -> bytes:
    # `exact` keeps the colours under transparent pixels.
    options: dict[str, Any] = {"lossless": True, "exact": True} if lossless else {"quality": quality, "exact": True}
    blocks = {"icc_profile": photo.icc, "exif": photo.exif, "xmp": xmp}
    channels = channels_of(photo)
    if channels.shape[2] < 3:
        channels = np.concatenate([np.repeat(channels[..., :1], 3, axis=2), channels[..., 1:]], axis=2)
    out = io.BytesIO()
    _image_of(channels).save(out, "WEBP", **options, **{key: block for key, block in blocks.items() if block})
    return out.getvalue()


# PNG (ISO/IEC 15948)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def _encode_png(photo: Photo, xmp: bytes | None) -> bytes:
    """PNG of 8 or 16 bits: Pillow has no 16-bit colour and OpenCV no grey with alpha, so the chunks are made here."""
    channels = channels_of(photo)
    height, width, count = channels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    header = struct.pack(">LLBBBBB", width, height, 8 * channels.dtype.itemsize, colour_type, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    chunks += [_chunk(kind, body) for kind, body in photo.png_chunks if not (photo.icc and kind == b"sRGB")]
    if photo.dpi and not any(kind == b"pHYs" for kind, _ in photo.png_chunks):
        across, down = (max(0, min(round(dots / METRES_PER_INCH), PNG_MAX_NUMBER)) for dots in photo.dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">LLB", across, down, 1)))
    if photo.icc:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\x00\x00" + zlib.compress(photo.icc)))
    if photo.exif:
        chunks.append(_chunk(b"eXIf", photo.exif))
    if xmp:
        chunks.append(_chunk(b"iTXt", XMP_KEYWORD + b"\x00" * 5 + xmp))
    chunks += _png_data(channels)
    chunks.append(_chunk(b"IEND", b""))
    return PNG_SIGNATURE + b"".join(chunks)


def _png_data(channels: NDArray[Any]) -> list[bytes]:
    """IDAT chunks; each row gets the filter whose residuals have the smallest absolute sum."""
    height, width, count = channels.shape
    step = count * channels.dtype.itemsize
    row_bytes = width * step
    rows = max(1, STRIP_BYTES // row_bytes)
    deflate, chunks = zlib.compressobj(DEFLATE_LEVEL), []
    above = np.zeros((1, row_bytes), np.uint8)
    for top in range(0, height, rows):
        band = np.ascontiguousarray(channels[top : top + rows]).astype(channels.dtype.newbyteorder(">"))
        raw = band.view(np.uint8).reshape(len(band), row_bytes)
        chunks.append(deflate.compress(_filtered(raw, above, step).tobytes()))
        above = raw[-1:]
    chunks.append(deflate.flush())
    return [_chunk(b"IDAT", body) for body in chunks if body]


def _filtered(raw: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """[N, row bytes] -> [N, 1 + row bytes]: filter number and residuals of none, Sub, Up or Paeth, row by row."""
    up = np.concatenate([above, raw[:-1]])
    left, up_left = np.zeros_like(raw), np.zeros_like(raw)
    left[:, step:], up_left[:, step:] = raw[:, :-step], up[:, :-step]
    best = raw
    kind = np.zeros(len(raw), np.uint8)
    cost = np.full(len(raw), np.iinfo(np.int64).max)
    for number, prediction in ((1, left), (2, up), (4, _paeth(left, up, up_left))):
        residual = raw - prediction
        sums = np.minimum(residual, 0 - residual).sum(axis=1, dtype=np.int64)
        better = sums < cost
        best = np.where(better[:, None], residual, best)
        kind, cost = np.where(better, np.uint8(number), kind), np.minimum(sums, cost)
    return np.concatenate([kind[:, None], best], axis=1)


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], up_left: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The one of the three neighbours that is nearest to left + up - up_left."""
    a, b, c = (plane.astype(np.int16) for plane in (left, up, up_left))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, up_left))


# TIFF 6.0


def _encode_tiff(photo: Photo, xmp: bytes | None) -> bytes:
    """TIFF of 8 or 16 bits, deflated strips with horizontal differencing, the metadata in its first directory."""
    channels = channels_of(photo)
    if channels.shape[2] == 2 and photo.bits == 16:  # which hardly any program reads
        channels = channels[..., [0, 0, 0, 1]]
    height, width, count = channels.shape
    rows = max(1, STRIP_BYTES // (width * count * channels.dtype.itemsize))
    strips = [_tiff_strip(channels[top : top + rows]) for top in range(0, height, rows)]
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    describe(directory, photo.exif)
    sizes = [len(strip) for strip in strips]
    _tag(directory, 256, TYPE_LONG, width)
    _tag(directory, 257, TYPE_LONG, height)
    _tag(directory, 258, TYPE_SHORT, (8 * channels.dtype.itemsize,) * count)
    _tag(directory, 259, TYPE_SHORT, COMPRESSION_DEFLATE)
    _tag(directory, 262, TYPE_SHORT, 2 if count >= 3 else 1)
    # Pillow counts strip offsets from the end of the directory.
    _tag(directory, 273, TYPE_LONG, tuple(np.cumsum([0, *sizes[:-1]]).tolist()))
    _tag(directory, 277, TYPE_SHORT, count)
    _tag(directory, 278, TYPE_LONG, rows)
    _tag(directory, 279, TYPE_LONG, tuple(sizes))
    _tag(directory, 284, TYPE_SHORT, 1)
    _tag(directory, 317, TYPE_SHORT, PREDICTOR_HORIZONTAL)
    if photo.alpha is not None:
        _tag(directory, TIFF_EXTRA, TYPE_SHORT, EXTRA_ASSOCIATED if photo.premultiplied else EXTRA_UNASSOCIATED)
    if photo.dpi and TIFF_X_RESOLUTION not in directory:
        directory[TIFF_X_RESOLUTION], directory[TIFF_Y_RESOLUTION] = photo.dpi
        directory[TIFF_RESOLUTION_UNIT] = UNIT_INCH
    if xmp:
        _tag(directory, TIFF_XMP, TYPE_BYTE, xmp)
    iptc = iptc_of(photo.image_resources)
    if iptc:
        _tag(directory, TIFF_IPTC, TYPE_UNDEFINED, iptc)
    if photo.image_resources and has_more_than_iptc(photo.image_resources):
        _tag(directory, TIFF_IMAGE_RESOURCES, TYPE_BYTE, photo.image_resources)
    if photo.icc:
        _tag(directory, 34675, TYPE_UNDEFINED, photo.icc)
    return b"II*\x00" + struct.pack("<L", 8) + directory.tobytes(8) + b"".join(strips)


def _tag(directory: TiffImagePlugin.ImageFileDirectory_v2, tag: int, type_: int, value: Any) -> None:
    directory.tagtype[tag] = type_
    directory[tag] = value


def _tiff_strip(rows: NDArray[Any]) -> bytes:
    """[N,W,C] -> deflated bytes (little endian) of the differences between neighbours in a row."""
    differences = rows.copy()
    differences[:, 1:] = rows[:, 1:] - rows[:, :-1]
    return zlib.compress(differences.astype(rows.dtype.newbyteorder("<")).tobytes(), DEFLATE_LEVEL)
