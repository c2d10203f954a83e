"""Bytes of a JPEG, PNG, TIFF, WebP, HEIF or AVIF file -> Photo, at the bit depth of the file."""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features

from data.errors import PhotoError
from data.image_resources import kept_segments, resources_of_jpeg, with_iptc, without_previews
from data.metadata import (
    EXIF_PREFIX,
    TAG_EXIF_IFD,
    TURNED_BY_90,
    exchange_sides,
    has_thumbnail,
    replace_tag,
    set_upright,
    tag_bytes,
    upright_exif,
    upright_xmp,
)
from data.photo_heif import avif_bits, avif_colours, decode_heif, is_avif, is_heif, to_16_bits
from data.photo_type import Photo, PhotoFormat, Pixels, contiguous

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
TIFF_XMP, TIFF_IPTC, TIFF_IMAGE_RESOURCES, TIFF_GPS_IFD = 700, 33723, 34377, 34853
TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION, TIFF_RESOLUTION_UNIT, UNIT_INCH = 282, 283, 296, 2
_WORDS = (269, 270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
DESCRIPTIVE_TIFF_TAGS = (11, 285, *_WORDS, TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION, TIFF_RESOLUTION_UNIT)
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

    Eight-bit files, palettes and single bits give uint8, 16-bit PNG and TIFF and deeper HEIF and AVIF give uint16.
    Of a file with several pages the first is read, of a HEIF with several pictures the main one; animations
    are refused. Raises PhotoError, one sentence, for anything that cannot be used.
    """
    if is_heif(data):
        return decode_heif(data, name, lambda width, height: _check_size((width, height), name, max_pixels))
    stored = _STORED_AS_SHOWN
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        data, stored = _with_raw_pixels(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data, name)
        _check_size(image.size, name, max_pixels)
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
            return Image.open(io.BytesIO(data), formats=_formats(data, name))
    except DAMAGE as error:
        if data[:2] in (b"II", b"MM"):
            raise PhotoError(
                f"The TIFF {name!r} is damaged or stores its pixels in a way that cannot be read; save it as RGB or "
                "grey with 8 or 16 unsigned bits a channel, or give an intact copy of it."
            ) from error
        raise PhotoError(
            f"The file {name!r} cannot be read as a JPEG, PNG, TIFF, WebP, HEIC or AVIF photo; "
            "give one of these, or an intact copy of it."
        ) from error


def _formats(data: bytes, name: str) -> tuple[str, ...]:
    """The readers that the bytes may be given to."""
    if not is_avif(data):
        return "JPEG", "PNG", "TIFF", "WEBP"
    if not features.check("avif"):
        raise PhotoError(
            f"The photo {name!r} is an AVIF file, which this build of Pillow cannot read: pip install -U pillow, or "
            "save it as a JPEG, PNG or TIFF."
        )
    return ("AVIF",)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PhotoError(
            f"The photo {name!r} has {width} x {height} pixels ({width * height / 1e6:.0f} MP), more than the limit of "
            f"{max_pixels / 1e6:g} MP; make it smaller first."
        )
    if not width or not height:
        raise PhotoError(f"The photo {name!r} has no pixels ({width} x {height}); give another file.")


def _check_kind(image: Image.Image, name: str) -> None:
    """Refuse animations and colour models that are not grey or RGB, before decoding."""
    if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        raise PhotoError(f"The file {name!r} is an animation; photodrag edits still photos: save one frame of it.")
    if image.mode not in ("1", "L", "LA", "I;16", "I;16B", "P", "PA", "RGB", "RGBX", "RGBA"):
        raise PhotoError(
            f"The photo {name!r} has the colour mode {image.mode}; photodrag edits RGB and grey photos of "
            "8 or 16 bits: convert it to RGB first."
        )


def _decode(image: Image.Image, data: bytes, name: str, stored: _Stored) -> Photo:
    # AVIF can only be written with losses, so such a photo becomes a PNG.
    format: PhotoFormat = {"MPO": "JPEG", "AVIF": "PNG"}.get(image.format or "", image.format)  # type: ignore[assignment]
    if image.format == "AVIF" and avif_bits(data) > 8:
        mode, channels = _decode_deep_avif(image, data)
    elif image.format == "PNG" and data[24] == 16:
        image.load()
        mode, channels = _decode_png16(data, image.info.get("transparency"))
    elif format == "TIFF" and 16 in _tiff_tag(image, TIFF_BITS):
        mode, channels = _decode_tiff16(image, data, name)
    else:
        mode, channels = _decode_8(image)
    if mode == "RGBA" and stored.premultiplied:
        mode = "RGBa"
    exif, orientation, thumbnail = _exif_of(image)
    xmp = _xmp_of(image)
    if format == "TIFF":
        orientation = stored.orientation
        exif = exchange_sides(exif) if exif and orientation in TURNED_BY_90 else exif
    if orientation != 1 and xmp:
        xmp = upright_xmp(xmp)
    channels = turn_upright(channels, orientation)
    tables, subsampling = _jpeg_coding(image)
    return Photo(
        pixels=_rgb(channels),
        alpha=contiguous(channels[..., -1]) if channels.shape[2] in (2, 4) else None,
        icc=image.info.get("icc_profile") or None,
        exif=exif,
        xmp=xmp,
        format=format,
        mode=mode,
        jpeg_tables=tables,
        jpeg_subsampling=subsampling,
        jpeg_progressive=bool(image.info.get("progressive")),
        dpi=_dpi_of(image, orientation),
        png_chunks=_kept_png_chunks(image, data, orientation),
        image_resources=_image_resources(image, data),
        jpeg_segments=kept_segments(data) if format == "JPEG" else (),
        has_thumbnail=thumbnail,
        source_format="AVIF" if image.format == "AVIF" else "",
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
    return contiguous(colours)


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


def _decode_png16(data: bytes, transparent: object) -> tuple[str, Pixels]:
    """All 16 bits of a PNG (Pillow keeps 8 of them in colour): mode and [H,W,C] uint16.

    transparent: what Pillow says of a colour that stands for transparency.
    """
    channels = _decode_with_cv2(data)
    grey = data[25] in (0, 4)
    if not grey:
        return ("RGBA" if channels.shape[2] == 4 else "RGB"), channels
    if channels.shape[2] == 4:
        return "LA", channels[..., 2:]
    if isinstance(transparent, int):
        grey_values = channels[..., :1]
        opaque = np.where(grey_values == transparent, 0, 65535).astype(np.uint16)
        return "LA", np.concatenate([grey_values, opaque], axis=2)
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


def _decode_deep_avif(image: Image.Image, data: bytes) -> tuple[str, Pixels]:
    """All 10 or 12 bits of an AVIF (Pillow keeps 8 of them): mode and [H,W,C] uint16 over the whole range."""
    image.load()
    channels = to_16_bits(_decode_with_cv2(data), avif_bits(data))
    return {1: "I;16", 3: "RGB", 4: "RGBA"}[channels.shape[2]], channels


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


def _exif_of(image: Image.Image) -> tuple[bytes | None, int, bool]:
    """The upright EXIF block, the orientation that the stored pixels have by it, and whether it had a thumbnail."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _exif_of_tiff(image), 1, False
    block = image.info.get("exif")
    if not isinstance(block, bytes) and isinstance(image, PngImagePlugin.PngImageFile):
        # ImageMagick writes EXIF as hexadecimal text; only Pillow's accessor reads that.
        exif = image.getexif() if "Raw profile type exif" in image.info else None
        block = exif.tobytes() if exif else None
    if not block:
        return None, 1, False
    return *upright_exif(block), has_thumbnail(block)


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


def _image_resources(image: Image.Image, data: bytes) -> bytes | None:
    """Photoshop's image resources of a JPEG or TIFF, with the IPTC fields that a TIFF has in a tag of their own."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return resources_of_jpeg(data)
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    # Read as bytes: many writers call IPTC numbers of 32 bits, of which Pillow keeps one.
    resources, iptc = (tag_bytes(data, tag) for tag in (TIFF_IMAGE_RESOURCES, TIFF_IPTC))
    kept = without_previews(resources) if resources else None
    return with_iptc(kept, iptc) if iptc else kept


def _dpi_of(image: Image.Image, orientation: int) -> tuple[float, float] | None:
    """Dots per inch across and down the upright picture, None where the file says nothing sensible."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and TIFF_X_RESOLUTION not in image.tag_v2:
        return None  # Pillow would say 1
    across, down = (float(dots) for dots in image.info.get("dpi") or (0, 0))
    if not (0 < across < math.inf and 0 < down < math.inf):
        return None
    return (down, across) if orientation in TURNED_BY_90 else (across, down)


def _kept_png_chunks(image: Image.Image, data: bytes, orientation: int) -> tuple[tuple[bytes, bytes], ...]:
    """The chunks that say how a PNG shows and describes the upright picture, in file order; for AVIF its colours."""
    if image.format == "AVIF" and not image.info.get("icc_profile"):
        return avif_colours(data)
    if image.format != "PNG":
        return ()
    chunks, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == b"pHYs" and orientation in TURNED_BY_90:
            body = body[4:8] + body[:4] + body[8:]
        if kind in KEPT_PNG_CHUNKS and len(body) == length and not body.startswith(DROPPED_TEXT):
            chunks.append((kind, body))
        at += 12 + length
    return tuple(chunks)
