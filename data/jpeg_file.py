"""The inside of a JPEG file (ITU-T T.81): its segments, its frame header, and its DCT coefficients through jpeglib."""

import io
import re
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from data.quiet import quietly

BLOCK_PX = 8
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
START, END, SCAN, COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
NOT_FRAMES = (0xC4, 0xC8, 0xCC)
"""Markers between SOF0 and SOF15 that start no frame: Huffman tables, an extension, arithmetic conditioning."""

MOST_SCANS, MOST_SEGMENTS = 500, 10_000
"""Programs write about ten scans; each goes through the whole picture, so that thousands, though of few bytes, take
hours. Of segments, a profile and metadata of many megabytes need hundreds."""
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
"""The next marker that is no filling, no stuffed byte and no restart."""

LIBRARY, PROGRESSIVE_LIBRARY = "6b", "mozjpeg403"
"""The builds of libjpeg inside jpeglib: of them only mozjpeg writes given coefficients progressively."""

_jpeglib_lock = threading.Lock()
"""jpeglib keeps its choice of libjpeg and the markers it read in globals."""


class BlocksNotKeptError(Exception):
    """A JPEG cannot be retouched in its coefficients; the message is half a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame header says. step_yx: luma samples for each chroma sample, downwards and to the right."""

    height: int
    width: int
    channels: int
    progressive: bool
    step_yx: tuple[int, int]

    @property
    def mcu_yx(self) -> tuple[int, int]:
        """Height and width of an MCU in pixels."""
        return BLOCK_PX * self.step_yx[0], BLOCK_PX * self.step_yx[1]


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment up to the first scan's header; `start` is that of its 0xFF."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        if jpeg[at + 1] == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        yield jpeg[at + 1], at, end
        if jpeg[at + 1] == SCAN:
            return
        at = end


def too_many_of(jpeg: bytes) -> str | None:
    """What a JPEG has more of than any program writes, as in "500 scans"; None where it can be decoded in good time."""
    at, scans, segments = 2, 0, 0
    while (found := _MARKER.search(jpeg, at)) and found[1][0] != END:
        at, segments, scans = found.end(), segments + 1, scans + (found[1][0] == SCAN)
        if scans > MOST_SCANS:
            return f"{MOST_SCANS} scans"
        if segments > MOST_SEGMENTS:
            return f"{MOST_SEGMENTS} segments"
        if found[1][0] != START:
            at += int.from_bytes(jpeg[at : at + 2], "big")
    return None


def leading_segments(jpeg: bytes) -> bytes:
    """The application and comment segments that follow a JPEG's start."""
    end = 2
    for marker, _, after in _segments(jpeg):
        if not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            break
        end = after
    return jpeg[2:end]


def read_frame(jpeg: bytes) -> Frame:
    for marker, start, _ in _segments(jpeg):
        if not 0xC0 <= marker <= 0xCF or marker in NOT_FRAMES:
            continue
        if marker not in (BASELINE, EXTENDED, PROGRESSIVE):
            raise BlocksNotKeptError(f"its coding (SOF{marker - 0xC0}) is neither baseline nor progressive Huffman")
        try:
            precision, height, width, count = struct.unpack_from(">BHHB", jpeg, start + 4)
            factors = [(jpeg[at] & 15, jpeg[at] >> 4) for at in range(start + 11, start + 11 + 3 * count, 3)]
        except (struct.error, IndexError) as error:
            raise BlocksNotKeptError("its frame header is incomplete") from error
        if precision != 8 or count not in (1, 3):
            raise BlocksNotKeptError(f"it has {count} components of {precision} bits instead of 1 or 3 of 8")
        return Frame(height, width, count, marker == PROGRESSIVE, _step(factors))
    raise BlocksNotKeptError("it has no frame header")


def _step(factors_yx: list[tuple[int, int]]) -> tuple[int, int]:
    """Luma samples for each chroma sample, of the sampling factors of the components."""
    if len(factors_yx) == 1:
        return 1, 1
    (luma_y, luma_x), (chroma_y, chroma_x), other = factors_yx
    steps = {(chroma_y * step_y, chroma_x * step_x): (step_y, step_x) for step_y in (1, 2) for step_x in (1, 2)}
    if other != (chroma_y, chroma_x) or (luma_y, luma_x) not in steps:
        raise BlocksNotKeptError(f"its components are sampled unusually ({factors_yx})")
    return steps[luma_y, luma_x]


def decoded(jpeg: bytes, frame: Frame) -> Image.Image:
    """The decoded picture as it is stored; read without Image.open, whose limit of pixels is not ours."""
    try:
        picture = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg))
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise BlocksNotKeptError(f"it cannot be decoded ({error})") from error
    if picture.size != (frame.width, frame.height) or picture.mode != {1: "L", 3: "RGB"}[frame.channels]:
        raise BlocksNotKeptError(f"it decodes to {picture.size} pixels of mode {picture.mode}")
    return picture


def read_coefficients(source: bytes) -> Any:
    """jpeglib's object with the coefficients and tables of all components."""
    try:
        import jpeglib
    except ImportError as error:
        raise BlocksNotKeptError("the package jpeglib is not installed") from error
    try:
        with tempfile.TemporaryDirectory(prefix="photodrag-") as folder, _jpeglib_lock, quietly():
            path = Path(folder) / "source.jpg"
            path.write_bytes(source)
            jpeglib.version.set(LIBRARY)
            jpeg = jpeglib.read_dct(str(path))
            jpeg.content = source  # the same bytes, which it would hold a second time
            jpeg.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise BlocksNotKeptError("its coefficients cannot be read") from error
    if jpeg.jpeg_color_space.name not in ("JCS_GRAYSCALE", "JCS_YCbCr"):
        raise BlocksNotKeptError(f"its components are {jpeg.jpeg_color_space.name.removeprefix('JCS_')}, not YCbCr")
    return jpeg


class _Lent(np.ndarray):
    """An int16 array that jpeglib reads in place: it asks for a copy as int16, of which large photos need no other."""

    def astype(self, *_: Any, **__: Any) -> Any:
        return self


def write_coefficients(jpeg: Any, frame: Frame) -> bytes:
    """A JPEG with the coefficients of jpeglib's object, tables and sampling of its source, optimal Huffman codes."""
    import jpeglib

    # A number in place of the tables makes jpeglib take them, and the components' names, from the source.
    jpeg.qt, jpeg.markers = 0, None
    for name in ("Y", "Cb", "Cr"):
        plane = getattr(jpeg, name)
        setattr(jpeg, name, None if plane is None else plane.view(_Lent))
    library = PROGRESSIVE_LIBRARY if frame.progressive else LIBRARY
    try:
        with tempfile.TemporaryDirectory(prefix="photodrag-") as folder, _jpeglib_lock, quietly():
            path = Path(folder) / "retouched.jpg"
            jpeglib.version.set(library)
            jpeg.write_dct(str(path), flags=["+OPTIMIZE_CODING"])
            return path.read_bytes()
    except (OSError, RuntimeError, ValueError) as error:
        raise BlocksNotKeptError("its coefficients cannot be written") from error
