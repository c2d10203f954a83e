"""Bytes of a JPEG, PNG, TIFF or WebP file -> Photo, at the bit depth of the file."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from data.errors import PhotoError
from data.metadata import EXIF_PREFIX, TAG_EXIF_IFD, replace_tag, set_upright, upright_exif, upright_xmp
from data.photo_type import Photo, PhotoFormat, Pixels

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
)
"""What Pillow's readers raise on damaged files."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT_PNG_CHUNKS = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"iTXt")
XMP_KEYWORD = b"XML:com.adobe.xmp"
DROPPED_TEXT = (XMP_KEYWORD + b"\x00", b"Raw profile type")
"""Text chunks that repeat the XMP or hold metadata of the photo before it was turned upright."""

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PLANAR, TIFF_EXTRA, TIFF_SAMPLE_FORMAT = 258, 262, 284, 338, 339
EXTRA_ASSOCIATED, EXTRA_UNASSOCIATED = 1, 2
TIFF_XMP, TIFF_GPS_IFD = 700, 34853
DESCRIPTIVE_TIFF_TAGS = (269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 18246, 18249, 33432)
"""Tags of a TIFF's first directory that describe the photo rather than the layout of the file."""

_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a TIFF said about its stored pixels: EXIF orientation, and whether they are multiplied by the alpha."""

    orientation: int
    premultiplied: bool


_STORED_AS_SHOWN = _Stored(1, False)


def decode_photo(data: bytes, name: str, max_pixels: int) -> Photo:
    """The photo that the bytes of a file hold; `name` only words the errors.

    Eight-bit files, palettes and single bits give uint8, 16-bit PNG and TIFF give uint16. Of a file with several pages
    the first is read; animations are refused. Raises PhotoError, one sentence, for anything that cannot be used.
    """
    stored = _STORED_AS_SHOWN
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        data, stored = _with_raw_pixels(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data, name)
        _check_size(image, name, max_pixels)
        _check_kind(image, name)
        try:
            return _decode(image, data, name, stored)
        except DAMAGE as error:
            raise PhotoError(
                f"The photo {name!r} is damaged or incomplete and cannot be decoded ({error}); "
                "give an intact copy of it."
            ) from error


def _with_raw_pixels(tiff: bytes) -> tuple[bytes, _Stored]:
    """A TIFF that no reader turns or divides by its alpha, which would lose bits, and what it said before."""
    tiff, orientation = set_upright(tiff)
    tiff, associated = replace_tag(tiff, TIFF_EXTRA, {EXTRA_ASSOCIATED: EXTRA_UNASSOCIATED})
    return tiff, _Stored(orientation, associated is not None)


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Pillow's own size limit set aside while a file is opened: ours is checked before any pixel is decoded."""
    with _pillow_limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with _without_pillow_limit():
            return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF", "WEBP"))
    except DAMAGE as error:
        raise PhotoError(
            f"The file {name!r} cannot be read as a JPEG, PNG, TIFF or WebP photo; "
            "give one of these, or an intact copy of it."
        ) from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoError(
            f"The photo {name!r} has {width} x {height} pixels ({width * height / 1e6:.0f} MP), more than the limit of "
            f"{max_pixels / 1e6:g} MP; make it smaller first."
        )
    if not width or not height:
        raise PhotoError(f"The photo {name!r} has no pixels ({width} x {height}); give another file.")


def _check_kind(image: Image.Image, name: str) -> None:
    """Refuse animations and colour models that are not grey or RGB, before decoding."""
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise PhotoError(f"The file {name!r} is an animation; photodrag edits still photos: save one frame of it.")
    if image.mode not in ("1", "L", "LA", "I;16", "I;16B", "P", "PA", "RGB", "RGBX", "RGBA"):
        raise PhotoError(
            f"The photo {name!r} has the colour mode {image.mode}; photodrag edits RGB and grey photos of "
            "8 or 16 bits: convert it to RGB first."
        )


def _decode(image: Image.Image, data: bytes, name: str, stored: _Stored) -> Photo:
    format: PhotoFormat = "JPEG" if image.format in ("JPEG", "MPO") else image.format  # type: ignore[assignment]
    if format == "PNG" and data[24] == 16:
        image.load()
        mode, channels = _decode_png16(data)
    elif format == "TIFF" and 16 in _tiff_tag(image, TIFF_BITS):
        mode, channels = _decode_tiff16(image, data, name)
    else:
        mode, channels = _decode_8(image)
    if mode == "RGBA" and stored.premultiplied:
        mode = "RGBa"
    exif, orientation = _exif_of(image)
    xmp = _xmp_of(image)
    if format == "TIFF":
        orientation = stored.orientation
    if orientation != 1 and xmp:
        xmp = upright_xmp(xmp)
    channels = turn_upright(channels, orientation)
    tables, subsampling = _jpeg_coding(image)
    dpi = image.info.get("dpi") if format == "JPEG" else None
    if dpi and orientation >= 5:
        dpi = (dpi[1], dpi[0])
    return Photo(
        pixels=_rgb(channels),
        alpha=_contiguous(channels[..., -1]) if channels.shape[2] in (2, 4) else None,
        icc=image.info.get("icc_profile") or None,
        exif=exif,
        xmp=xmp,
        format=format,
        mode=mode,
        jpeg_tables=tables,
        jpeg_subsampling=subsampling,
        jpeg_progressive=bool(image.info.get("progressive")),
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
        png_chunks=_kept_png_chunks(data) if format == "PNG" else (),
        orientation=orientation,
    )


def turn_upright(channels: Pixels, orientation: int) -> Pixels:
    """[H,W,C] stored pixels -> upright pixels by EXIF orientation 1..8 (0 and unknown values: as they are)."""
    if orientation in (5, 6, 7, 8):
        channels = channels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        channels = channels[::-1]
    if orientation in (2, 3, 6, 7):
        channels = channels[:, ::-1]
    return channels


def _rgb(channels: Pixels) -> Pixels:
    """[H,W,3] contiguous colours of [H,W,1..4] channels; grey is repeated."""
    colours = channels[..., [0, 0, 0]] if channels.shape[2] in (1, 2) else channels[..., :3]
    return _contiguous(colours)


def _contiguous(values: Pixels) -> Pixels:
    return np.ascontiguousarray(values)  # type: ignore[return-value]


def _decode_8(image: Image.Image) -> tuple[str, Pixels]:
    """Pillow's decoding of 8-bit files (and 16-bit grey TIFF): original mode and [H,W,C]; palettes are expanded."""
    mode = image.mode
    image.load()
    transparent = "transparency" in image.info
    if mode in ("P", "PA"):
        image = image.convert("RGBA" if transparent or mode == "PA" else "RGB")
    elif mode in ("1", "L") and transparent:
        mode, image = "LA", image.convert("L").convert("LA") if mode == "1" else image.convert("LA")
    elif mode == "1":
        image = image.convert("L")
    elif mode == "RGB" and transparent:
        mode, image = "RGBA", image.convert("RGBA")
    elif mode == "RGBX":
        mode, image = "RGB", image.convert("RGB")
    channels = np.array(image)
    return mode, channels if channels.ndim == 3 else channels[..., None]


def _decode_png16(data: bytes) -> tuple[str, Pixels]:
    """All 16 bits of a PNG (Pillow keeps 8 of them in colour): mode and [H,W,C] uint16."""
    channels = _decode_with_cv2(data)
    grey = data[25] in (0, 4)
    if not grey:
        return ("RGBA" if channels.shape[2] == 4 else "RGB"), channels
    if channels.shape[2] == 4:
        return "LA", channels[..., 2:]
    return "I;16", channels[..., :1]


def _decode_tiff16(image: Image.Image, data: bytes, name: str) -> tuple[str, Pixels]:
    """All 16 bits of a TIFF: mode and [H,W,C] uint16."""
    if set(_tiff_tag(image, TIFF_BITS)) != {16} or set(_tiff_tag(image, TIFF_SAMPLE_FORMAT)) - {1}:
        raise PhotoError(f"The TIFF {name!r} mixes sample types; save it as RGB with 8 or 16 unsigned bits a channel.")
    planar = _tiff_tag(image, TIFF_PLANAR)
    if image.mode.startswith("RGB") and planar and planar[0] == 2:
        raise PhotoError(
            f"The 16-bit TIFF {name!r} stores its colours in separate planes; save it interleaved (per pixel)."
        )
    channels = _decode_with_cv2(data)
    photometric = _tiff_tag(image, TIFF_PHOTOMETRIC)
    if photometric and photometric[0] == 0:
        channels = 65535 - channels
    if channels.shape[2] == 1:
        return "I;16", channels
    if channels.shape[2] == 4 and image.mode == "RGBA":
        return "RGBA", channels
    return "RGB", channels[..., :3]


def _decode_with_cv2(data: bytes) -> NDArray[np.uint16]:
    """[H,W,C] uint16 in RGB order, C = 1, 3 or 4, orientation not applied."""
    import cv2

    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("the 16-bit pixels cannot be decoded")
    channels = decoded.astype(np.uint16, copy=False)
    return channels[..., None] if channels.ndim == 2 else channels[..., [2, 1, 0, 3][: channels.shape[2]]]


def _tiff_tag(image: Image.Image, tag: int) -> tuple[int, ...]:
    """The values of a TIFF tag, () where it is missing."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile), image.format
    value = image.tag_v2.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _exif_of(image: Image.Image) -> tuple[bytes | None, int]:
    """The upright EXIF block, and the orientation that the stored pixels have by it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _exif_of_tiff(image), 1
    block = image.info.get("exif")
    if not isinstance(block, bytes) and isinstance(image, PngImagePlugin.PngImageFile):
        # ImageMagick writes EXIF as hexadecimal text; only Pillow's accessor reads that.
        exif = image.getexif() if "Raw profile type exif" in image.info else None
        block = exif.tobytes() if exif else None
    if not block:
        return None, 1
    return upright_exif(block)


def _exif_of_tiff(image: TiffImagePlugin.TiffImageFile) -> bytes | None:
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


def _xmp_of(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        return xmp.encode("utf-8")
    return bytes(xmp) if isinstance(xmp, bytes | bytearray) and xmp else None


def _jpeg_coding(image: Image.Image) -> tuple[tuple[tuple[int, ...], ...] | None, int]:
    """Quantisation tables (natural order, as Pillow reads and writes them) and chroma subsampling of a JPEG."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None, -1
    tables = tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))
    return tables or None, JpegImagePlugin.get_sampling(image)


def _kept_png_chunks(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The chunks of a PNG that say how to show and describe the picture, in file order."""
    chunks, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind in KEPT_PNG_CHUNKS and len(body) == length and not body.startswith(DROPPED_TEXT):
            chunks.append((kind, body))
        at += 12 + length
    return tuple(chunks)
