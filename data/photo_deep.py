"""Pixels of more than 8 bits in PNG, TIFF and AVIF, of which Pillow would keep 8."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import PhotoError
from data.photo_heif import avif_bits, to_16_bits
from data.photo_tiff import TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PLANAR, TIFF_SAMPLE_FORMAT, tiff_tag
from data.photo_type import Pixels
from data.quiet import quietly


def decode_png16(data: bytes, transparent: object) -> tuple[str, Pixels]:
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


def decode_tiff16(image: Image.Image, data: bytes, name: str) -> tuple[str, Pixels]:
    """All 16 bits of a TIFF: mode and [H,W,C] uint16."""
    if set(tiff_tag(image, TIFF_BITS)) != {16} or set(tiff_tag(image, TIFF_SAMPLE_FORMAT)) - {1}:
        raise PhotoError(f"The TIFF {name!r} mixes sample types; save it as RGB with 8 or 16 unsigned bits a channel.")
    planar = tiff_tag(image, TIFF_PLANAR)
    if image.mode.startswith("RGB") and planar and planar[0] == 2:
        raise PhotoError(
            f"The 16-bit TIFF {name!r} stores its colours in separate planes; save it interleaved (per pixel)."
        )
    channels = _decode_with_cv2(data)
    photometric = tiff_tag(image, TIFF_PHOTOMETRIC)
    if photometric and photometric[0] == 0:
        channels = 65535 - channels
    if channels.shape[2] == 1:
        return "I;16", channels
    if channels.shape[2] == 4 and image.mode == "RGBA":
        return "RGBA", channels
    return "RGB", channels[..., :3]


def decode_deep_avif(image: Image.Image, data: bytes) -> tuple[str, Pixels]:
    """All 10 or 12 bits of an AVIF (Pillow keeps 8 of them): mode and [H,W,C] uint16 over the whole range."""
    image.load()
    channels = to_16_bits(_decode_with_cv2(data), avif_bits(data))
    return {1: "I;16", 3: "RGB", 4: "RGBA"}[channels.shape[2]], channels


def _decode_with_cv2(data: bytes) -> NDArray[np.uint16]:
    """[H,W,C] uint16 in RGB order, C = 1, 3 or 4, orientation not applied."""
    import cv2

    try:
        with quietly():
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("the 16-bit pixels cannot be decoded")
    channels = decoded.astype(np.uint16, copy=False)
    return channels[..., None] if channels.ndim == 2 else channels[..., [2, 1, 0, 3][: channels.shape[2]]]
