"""Bytes of a JPEG, PNG, TIFF, WebP, HEIF or AVIF file -> Photo, at the bit depth of the file."""

import io
import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features

from data.errors import PhotoError
from data.image_resources import kept_segments, resources_of_jpeg, with_iptc, without_previews
from data.jpeg_file import too_many_of
from data.metadata import (
    TURNED_BY_90,
    exchange_sides,
    has_thumbnail,
    tag_bytes,
    upright_exif,
    upright_xmp,
)
from data.photo_deep import decode_deep_avif, decode_png16, decode_tiff16
from data.photo_heif import avif_bits, avif_colours, decode_heif, is_avif, is_heif, open_heif
from data.photo_tiff import (
    DAMAGE,
    STORED_AS_SHOWN,
    TIFF_BITS,
    TIFF_IMAGE_RESOURCES,
    TIFF_IPTC,
    TIFF_PHOTOMETRIC,
    TIFF_X_RESOLUTION,
    Stored,
    exif_of_tiff,
    tiff_tag,
    with_raw_pixels,
)
from data.photo_type import STRIP_VALUES, Photo, PhotoFormat, Pixels, contiguous
from data.photo_webp import webp_size
from data.quiet import quietly, unwarned

JPEG_SIGNATURE = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT_PNG_CHUNKS = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"iTXt")
PNG_TEXT_BYTES = 8_000_000
"""Of one profile or text in a PNG, unpacked; Pillow allows 1 MB, and there are profiles of more."""
TIFF_COMPRESSION = 259
TIFF_YCBCR = 6
TIFF_JPEG = (6, 7)
"""Compressions whose decoder turns YCbCr into RGB."""
XMP_KEYWORD = b"XML:com.adobe.xmp"
DROPPED_TEXT = (XMP_KEYWORD + b"\x00", b"Raw profile type")
"""Text chunks that repeat the XMP or hold metadata of the photo before it was turned upright."""

_pillow_limit_lock = threading.Lock()


def decode_photo(data: bytes, name: str, max_pixels: int) -> Photo:
    """The photo that the bytes of a file hold; `name` only words the errors.

    Eight-bit files, palettes and single bits give uint8, 16-bit PNG and TIFF and deeper HEIF and AVIF give uint16.
    Of a file with several pages the first is read, of a HEIF with several pictures the main one; animations
    are refused. Raises PhotoError, one sentence, for anything that cannot be used.
    """
    if is_heif(data):
        return decode_heif(data, name, lambda width, height: _check_size((width, height), name, max_pixels))
    stored = STORED_AS_SHOWN
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        data, stored = with_raw_pixels(data)
    # libtiff prints what it finds wrong, Pillow's other decoders do not.
    with unwarned(), quietly() if data[:2] in (b"II", b"MM") else nullcontext():
        image = _open_checked(data, name, max_pixels)
        try:
            # Only of TIFF does Pillow check the size once more, and that of tiles beyond the picture.
            large = image.format == "TIFF" and image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
            with _pillow_limits(max_pixels) if large else nullcontext():
                return _decode(image, data, name, stored)
        except (*DAMAGE, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise PhotoError(
                f"The photo {name!r} is damaged or incomplete and cannot be decoded ({reason}); "
                "give an intact copy of it."
            ) from error


def check_header(data: bytes, name: str, max_pixels: int) -> None:
    """Raise PhotoError for bytes that `decode_photo` would refuse by their header; no pixel is decoded."""
    if is_heif(data):
        open_heif(data, name, lambda width, height: _check_size((width, height), name, max_pixels))
        return
    with unwarned():
        _open_checked(data, name, max_pixels)


def _open_checked(data: bytes, name: str, max_pixels: int) -> Image.Image:
    most = too_many_of(data) if data[:2] == JPEG_SIGNATURE else None
    if most is not None:
        raise PhotoError(
            f"The JPEG {name!r} has more than {most}, which no camera or program writes and which would take hours to "
            "read: open it in a picture editor and save it anew."
        )
    said = webp_size(data)
    if said is not None:
        _check_size(said, name, max_pixels)
    image = _open(data, name)
    _check_size(image.size, name, max_pixels)
    _check_kind(image, name)
    return image


@contextmanager
def _pillow_limits(pixels: int | None) -> Iterator[None]:
    """Other limits of Pillow's, of pixels and of a PNG's profile and texts, for as long as a file is opened or decoded.

    Ours is checked before any pixel is decoded, so that none is needed for opening.
    """
    with _pillow_limit_lock:
        limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, max(limits[1], PNG_TEXT_BYTES)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with _pillow_limits(None):
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


def _true_mode(image: Image.Image) -> str:
    """The colour mode of an opened image; Pillow before 13 takes a TIFF of YCbCr for RGB with a fourth channel."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    is_ycbcr = tags.get(TIFF_PHOTOMETRIC) == TIFF_YCBCR and tags.get(TIFF_COMPRESSION) not in TIFF_JPEG
    return "YCbCr" if is_ycbcr else image.mode


def _check_kind(image: Image.Image, name: str) -> None:
    """Refuse animations and colour models that are not grey or RGB, before decoding."""
    if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        raise PhotoError(f"The file {name!r} is an animation; photodrag edits still photos: save one frame of it.")
    mode = _true_mode(image)
    if mode not in ("1", "L", "LA", "I;16", "I;16B", "P", "PA", "RGB", "RGBX", "RGBA"):
        raise PhotoError(
            f"The photo {name!r} has the colour mode {mode}; photodrag edits RGB and grey photos of "
            "8 or 16 bits: convert it to RGB first."
        )


def _decode(image: Image.Image, data: bytes, name: str, stored: Stored) -> Photo:
    # AVIF can only be written with losses, so such a photo becomes a PNG.
    format: PhotoFormat = {"MPO": "JPEG", "AVIF": "PNG"}.get(image.format or "", image.format)  # type: ignore[assignment]
    if image.format == "AVIF" and avif_bits(data) > 8:
        mode, channels = decode_deep_avif(image, data)
    elif image.format == "PNG" and data[24] == 16:
        image.load()
        mode, channels = decode_png16(data, image.info.get("transparency"))
    elif format == "TIFF" and 16 in tiff_tag(image, TIFF_BITS):
        mode, channels = decode_tiff16(image, data, name)
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
        orientation=orientation,
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
    return mode, _channels_of(image)


def _channels_of(image: Image.Image) -> Pixels:
    """[H,W,C] values of a Pillow image, copied band by band: as a whole they would be in memory three times more."""
    width, height = image.size
    rows = max(1, STRIP_VALUES // width)
    bands = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    channels: Pixels | None = None
    for band in bands:
        values = np.asarray(image.crop((0, band.start, width, band.stop)))
        if channels is None:
            channels = np.empty((height, *values.shape[1:]), values.dtype)
        channels[band] = values
    assert channels is not None, image.size
    return channels if channels.ndim == 3 else channels[..., None]


def _exif_of(image: Image.Image) -> tuple[bytes | None, int, bool]:
    """The upright EXIF block, the orientation that the stored pixels have by it, and whether it had a thumbnail."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return exif_of_tiff(image), 1, False
    block = image.info.get("exif")
    if not isinstance(block, bytes) and isinstance(image, PngImagePlugin.PngImageFile):
        # ImageMagick writes EXIF as hexadecimal text; only Pillow's accessor reads that.
        exif = image.getexif() if "Raw profile type exif" in image.info else None
        block = exif.tobytes() if exif else None
    if not block:
        return None, 1, False
    return *upright_exif(block), has_thumbnail(block)


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
