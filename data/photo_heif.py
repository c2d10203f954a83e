"""HEIF (HEIC) and AVIF: which file is one, HEIF's decoding by the extra `heif`, and what both say beside the pixels.

Both store the turn of the picture in the container (irot, imir: ISO/IEC 23008-12); what EXIF says of it is for
information only and is not obeyed.
"""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import PhotoError
from data.metadata import has_thumbnail, upright_exif, upright_xmp
from data.photo_type import Photo, PhotoFormat, Pixels, contiguous

AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")

UNSPECIFIED, USUAL_PRIMARIES, USUAL_TRANSFERS = 2, (1, 2), (1, 2, 6, 13)
"""Code points (ITU-T H.273) that mean sRGB or nothing: they need no chunk in a PNG."""

DAMAGE = (OSError, ValueError, TypeError, RuntimeError, SyntaxError, EOFError, LookupError, MemoryError)
"""What the reader of HEIF raises on damaged files."""


def is_avif(data: bytes) -> bool:
    """Whether the bytes begin as an AVIF file."""
    return any(brand in AVIF_BRANDS for brand in _brands(data))


def is_heif(data: bytes) -> bool:
    """Whether the bytes begin as a HEIF file (HEIC) that is no AVIF."""
    return not is_avif(data) and any(brand in HEIF_BRANDS for brand in _brands(data))


def _brands(data: bytes) -> list[bytes]:
    """Major and compatible brands of an ISO base media file, [] for other files."""
    if data[4:8] != b"ftyp" or len(data) < 16:
        return []
    (size,) = struct.unpack_from(">L", data)
    return [data[8:12], *(data[at : at + 4] for at in range(16, min(size, len(data), 512), 4))]


def avif_bits(data: bytes) -> int:
    """The bits of a channel of an AVIF: 8, 10 or 12, by the AV1 configuration of its first picture."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    if not flags & 0x40:
        return 8
    return 12 if flags & 0x20 else 10


def to_16_bits(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    """Values of 0..2^bits-1 stretched over 0..65535, rounded: white stays white, and no two values become one."""
    table = np.arange(1 << bits, dtype=np.uint64) * 65535 + ((1 << bits) - 1) // 2
    return (table // ((1 << bits) - 1)).astype(np.uint16)[np.minimum(values, (1 << bits) - 1)]


def avif_colours(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The colour code points of an AVIF as a PNG's chunk, () where they mean sRGB."""
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return ()
    return _coding_chunk(*struct.unpack_from(">HH", data, at + 8))


def _coding_chunk(primaries: int, transfer: int) -> tuple[tuple[bytes, bytes], ...]:
    """PNG's cICP chunk for code points that are not sRGB's: HDR photos are wrong without it."""
    if max(primaries, transfer) > 255 or (primaries in USUAL_PRIMARIES and transfer in USUAL_TRANSFERS):
        return ()
    return ((b"cICP", bytes([primaries, transfer, 0, 1])),)


def decode_heif(data: bytes, name: str, check_size: Callable[[int, int], None]) -> Photo:
    """The main picture of a HEIF file, upright, 8 bits as uint8, 10 and 12 bits stretched over uint16.

    `check_size` gets width and height before anything is decoded. Raises PhotoError, one sentence, without the extra
    and for damaged files.
    """
    picture = open_heif(data, name, check_size)
    try:
        return _photo_of(np.asarray(picture), picture.info, premultiplied=bool(picture.premultiplied_alpha))
    except DAMAGE as error:
        raise _damaged(name, error) from error


def open_heif(data: bytes, name: str, check_size: Callable[[int, int], None]) -> Any:
    """The main picture of a HEIF file, not decoded yet; `check_size` and errors as in `decode_heif`."""
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError(
            f"The photo {name!r} is a HEIC or HEIF file, whose reader is not installed: "
            'pip install "photodrag[heif]", or save it as a JPEG, PNG or TIFF.'
        ) from error
    try:
        picture = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        check_size(*picture.size)
    except DAMAGE as error:
        raise _damaged(name, error) from error
    return picture


def _damaged(name: str, error: BaseException) -> PhotoError:
    reason = " ".join(str(error).split())
    return PhotoError(
        f"The photo {name!r} is damaged or incomplete and cannot be decoded ({reason}); give an intact copy of it."
    )


def _photo_of(values: NDArray[np.uint8] | NDArray[np.uint16], info: dict[str, object], *, premultiplied: bool) -> Photo:
    """The photo of decoded [H,W] or [H,W,C] values and what the file says beside them."""
    channels: Pixels = values[..., None] if values.ndim == 2 else values
    if channels.dtype == np.uint16:
        bits = info["bit_depth"]
        assert isinstance(bits, int), bits
        channels = to_16_bits(channels.astype(np.uint16, copy=False), bits)
    count = channels.shape[2]
    colours: Pixels = channels[..., [0, 0, 0]] if count < 3 else channels[..., :3]
    icc, exif, xmp, coding = (info.get(key) for key in ("icc_profile", "exif", "xmp", "nclx_profile"))
    mode = {1: "L" if channels.dtype == np.uint8 else "I;16", 2: "LA", 3: "RGB", 4: "RGBA"}[count]
    # A PNG would have to divide by the alpha, which loses bits; a TIFF holds such pixels as they are.
    kept_multiplied = premultiplied and count == 4
    format: PhotoFormat = "TIFF" if kept_multiplied else "PNG"
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(coding, dict) and not icc:
        chunks = _coding_chunk(int(coding["color_primaries"]), int(coding["transfer_characteristics"]))
    return Photo(
        pixels=contiguous(colours),
        alpha=contiguous(channels[..., -1]) if count in (2, 4) else None,
        icc=icc if isinstance(icc, bytes) and icc else None,
        exif=upright_exif(exif)[0] if isinstance(exif, bytes) and exif else None,
        xmp=upright_xmp(xmp) if isinstance(xmp, bytes) and xmp else None,
        format=format,
        mode="RGBa" if kept_multiplied else mode,
        png_chunks=chunks,
        has_thumbnail=isinstance(exif, bytes) and has_thumbnail(exif),
        source_format="HEIF",
    )
