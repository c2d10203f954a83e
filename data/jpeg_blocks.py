"""Retouching a JPEG (ITU-T T.81) so that the blocks an edit leaves alone keep their DCT coefficients.

A JPEG is a grid of MCUs: 8 x 8 pixels, or 16 pixels along a direction in which the chroma has half the samples. An MCU
is touched when one of its pixels shall differ from the source's. What is exact:

- The quantisation tables, the subsampling and every coefficient of every untouched MCU are those of the source.
- Grey and 4:4:4 files decode bit by bit as before outside the touched MCUs.
- Files with subsampled chroma do so from two pixels away from them: decoders interpolate chroma between neighbouring
  samples, so changed ones reach one pixel (RIM_PX) into the MCU beside, along the directions that are subsampled.

Inside a touched MCU the quantised DCT of the difference is added to the source's coefficients, so that what the edit
moved little is not compressed a second time, unless compressing the new pixels anew comes nearer to them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.jpeg_file import (
    BLOCK_PX,
    BlocksNotKeptError,
    Frame,
    decoded,
    leading_segments,
    read_coefficients,
    read_frame,
    write_coefficients,
)
from data.photo_type import STRIP_VALUES

__all__ = ["BlocksNotKeptError", "retouched_jpeg"]

RIM_PX = 1

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
CHROMA_WEIGHTS = ((-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""Y, Cb and Cr of RGB (JFIF 1.02), Cb and Cr centred on 0."""

LEVEL = 128.0
AC_LIMIT, DC_LIMITS = 1023, (-1024, 1023)
"""What Huffman codes of 8-bit files can hold (T.81, tables F.1 and F.2)."""


@dataclass(frozen=True, eq=False, slots=True)
class _Plane:
    """One component: coefficients [rows, columns, 8, 8] int16 (changed in place) and their steps [64].

    blocks_yx: its blocks in an MCU. reduced_yx: pixels for each of its samples. weights: [C] of the pixel's channels.
    level: the sample that a DC coefficient of 0 stands for.
    """

    coefficients: NDArray[np.int16]
    steps: NDArray[np.float32]
    blocks_yx: tuple[int, int]
    reduced_yx: tuple[int, int]
    weights: NDArray[np.float32]
    level: float


def _dct_basis() -> NDArray[np.float32]:
    """[64,64]: an orthonormal 8 x 8 DCT-II (T.81, A.3.3) as a product with the 64 samples of a block."""
    frequency, position = np.mgrid[:BLOCK_PX, :BLOCK_PX]
    rows = np.cos((2 * position + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(0.125), 0.5)
    return np.kron(rows, rows).astype(np.float32)


_BASIS = _dct_basis()


def retouched_jpeg(source: bytes, after: NDArray[np.uint8], header: bytes) -> bytes:
    """The JPEG `source` with the pixels `after`, its untouched MCUs kept as the module says.

    after: [H,W,C] uint8 in the orientation of the stored pixels, C = 1 for grey and 3 for RGB. header: any JPEG, whose
    application and comment segments the result carries instead of the source's.
    The result is decoded once, and compared with the source where it must be equal. Raises BlocksNotKeptError for
    arithmetic coding, 12 bits, CMYK, RGB components, subsampling beyond 4:2:0, damage, and other sizes or channels.
    """
    frame = read_frame(source)
    if after.shape != (frame.height, frame.width, frame.channels) or after.dtype != np.uint8:
        raise BlocksNotKeptError(
            f"its pixels are {[frame.height, frame.width, frame.channels]} uint8, "
            f"but the new ones {list(after.shape)} {after.dtype}"
        )
    jpeg = read_coefficients(source)
    touched = _retouch(_planes(jpeg, frame), decoded(source, frame), after, frame)
    written = write_coefficients(jpeg, frame)
    # Neither the coefficients nor the decoded source stay while the other needs room.
    del jpeg
    result = written[:2] + leading_segments(header) + written[2 + len(leading_segments(written)) :]
    _check_kept(decoded(source, frame), decoded(result, frame), touched, frame)
    return result


def _planes(jpeg: Any, frame: Frame) -> list[_Plane]:
    """The components with what leads from pixels to them."""
    steps = [jpeg.qt[table].reshape(64).astype(np.float32) for table in jpeg.quant_tbl_no]
    if any((step == 0).any() for step in steps):
        raise BlocksNotKeptError("a quantisation table of it holds 0")
    if frame.channels == 1:
        return [_Plane(jpeg.Y, steps[0], (1, 1), (1, 1), np.ones(1, np.float32), LEVEL)]
    luma = _Plane(jpeg.Y, steps[0], frame.step_yx, (1, 1), np.array(LUMA_WEIGHTS, np.float32), LEVEL)
    return [luma] + [
        _Plane(coefficients, step, (1, 1), frame.step_yx, np.array(weights, np.float32), 0.0)
        for coefficients, step, weights in zip((jpeg.Cb, jpeg.Cr), steps[1:], CHROMA_WEIGHTS, strict=True)
    ]


def _retouch(planes: list[_Plane], before: Image.Image, after: NDArray[np.uint8], frame: Frame) -> NDArray[np.bool_]:
    """Carry the difference of the pixels into the coefficients; [rows, columns] of the MCUs that it touches."""
    mcu_y, mcu_x = frame.mcu_yx
    touched = np.zeros((-(-frame.height // mcu_y), -(-frame.width // mcu_x)), bool)
    for row, band, old in _bands(before, frame):
        if np.array_equal(old, after[band]):
            continue
        old_mcus, new_mcus = _mcus(old, frame), _mcus(after[band], frame)
        differs = (old_mcus != new_mcus).any(axis=(2, 3, 4))
        touched[row : row + len(differs)] = differs
        rows, columns = np.nonzero(differs)
        if rows.size:
            seen = _seen(rows + row, columns, frame)
            _update(planes, rows + row, columns, old_mcus[differs], new_mcus[differs], seen)
    return touched


def _bands(picture: Image.Image, frame: Frame) -> Iterator[tuple[int, slice, NDArray[np.uint8]]]:
    """The picture in bands of whole MCUs: number of the first row of MCUs, pixel rows, pixels [h,W,C]."""
    mcu_y = frame.mcu_yx[0]
    rows = max(1, STRIP_VALUES // (mcu_y * frame.width * frame.channels))
    for top in range(0, frame.height, rows * mcu_y):
        bottom = min(top + rows * mcu_y, frame.height)
        pixels = np.asarray(picture.crop((0, top, frame.width, bottom)))
        yield top // mcu_y, slice(top, bottom), pixels.reshape(bottom - top, frame.width, frame.channels)


def _mcus(pixels: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """[h,W,C] -> [rows, columns, MCU height, MCU width, C]; the last row and column of pixels fill what is missing."""
    mcu_y, mcu_x = frame.mcu_yx
    height, width, channels = pixels.shape
    if height % mcu_y or width % mcu_x:
        pixels = np.pad(pixels, ((0, -height % mcu_y), (0, -width % mcu_x), (0, 0)), "edge")
    return pixels.reshape(-1, mcu_y, pixels.shape[1] // mcu_x, mcu_x, channels).swapaxes(1, 2)


def _seen(rows: NDArray[Any], columns: NDArray[Any], frame: Frame) -> NDArray[np.bool_]:
    """[N, MCU height, MCU width, 1]: which pixels of N MCUs lie in the picture and not beyond its edge."""
    mcu_y, mcu_x = frame.mcu_yx
    in_height = rows[:, None] * mcu_y + np.arange(mcu_y) < frame.height
    in_width = columns[:, None] * mcu_x + np.arange(mcu_x) < frame.width
    return (in_height[:, :, None] & in_width[:, None, :])[..., None]


def _update(
    planes: list[_Plane],
    rows: NDArray[Any],
    columns: NDArray[Any],
    old: NDArray[np.uint8],
    new: NDArray[np.uint8],
    seen: NDArray[np.bool_],
) -> None:
    """Move the blocks of N touched MCUs, at `rows` and `columns`, from the pixels `old` to `new` [N, height, width, C].

    Luma and chroma each take the former coefficients plus those of the difference, or those of the new pixels alone,
    whichever together show the new pixels best where these are `seen`. The first keep what subsampling and clipping
    took from the decoded pixels; the second come nearer where the steps are finer than the rounding of pixels.
    """
    ways = [_candidates(plane, rows, columns, old, new) for plane in planes]
    shown = [[_shown(plane, way) for way in pair] for plane, pair in zip(planes, ways, strict=True)]
    colours_of = np.linalg.inv(np.stack([plane.weights for plane in planes])).T
    least = np.full(len(new), np.inf)
    picks = [np.zeros(len(new), bool) for _ in planes]
    for luma, chroma in ((0, 0), (1, 1), (1, 0), (0, 1))[: 4 if len(planes) > 1 else 2]:
        numbers = [luma, chroma, chroma][: len(planes)]
        colours = np.stack([pair[number] for pair, number in zip(shown, numbers, strict=True)], axis=-1) @ colours_of
        error = np.square(np.rint(colours).clip(0, 255) - new).sum(axis=(1, 2, 3), where=seen)
        better, least = error < least, np.minimum(error, least)
        picks = [np.where(better, number == 1, pick) for pick, number in zip(picks, numbers, strict=True)]
    for plane, (kept, anew), pick in zip(planes, ways, picks, strict=True):
        at_y, at_x, stored = _places(plane, rows, columns)
        values = np.where(pick[:, None, None, None], anew, kept).astype(np.int16)
        plane.coefficients[at_y[stored], at_x[stored]] = values[stored].reshape(-1, BLOCK_PX, BLOCK_PX)


def _places(plane: _Plane, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Row, column and presence, [N, blocks down, blocks across], of the plane's blocks in MCUs.

    MCUs at the right and lower edge reach beyond the blocks that are stored; these get the place of the nearest.
    """
    down, across = plane.blocks_yx
    at_y, at_x = np.broadcast_arrays(
        rows[:, None, None] * down + np.arange(down)[:, None], columns[:, None, None] * across + np.arange(across)
    )
    height, width = plane.coefficients.shape[:2]
    return at_y.clip(max=height - 1), at_x.clip(max=width - 1), (at_y < height) & (at_x < width)


def _candidates(
    plane: _Plane, rows: NDArray[Any], columns: NDArray[Any], old: NDArray[np.uint8], new: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Quantised coefficients [N, blocks down, blocks across, 64]: the former plus the change, and the new pixels'."""
    at_y, at_x, _ = _places(plane, rows, columns)
    former = plane.coefficients[at_y, at_x].reshape(*at_y.shape, 64)
    change = _transformed(plane, new.astype(np.float32) - old)
    wanted = _transformed(plane, new.astype(np.float32))
    wanted[..., 0] -= plane.level * BLOCK_PX
    lowest, highest = np.full(64, -AC_LIMIT), np.full(64, AC_LIMIT)
    lowest[0], highest[0] = DC_LIMITS
    kept = former + np.rint(change / plane.steps)
    return kept.clip(lowest, highest), np.rint(wanted / plane.steps).clip(lowest, highest)


def _shown(plane: _Plane, quantised: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, blocks down, blocks across, 64] -> samples [N, MCU height, MCU width]; chroma interpolated as decoders do.

    Chroma of the MCUs around is not looked at, which is good enough for a choice.
    """
    count, down, across, _ = quantised.shape
    samples = ((quantised * plane.steps).astype(np.float32) @ _BASIS).reshape(count, down, across, BLOCK_PX, BLOCK_PX)
    samples = samples.swapaxes(2, 3).reshape(count, down * BLOCK_PX, across * BLOCK_PX) + np.float32(plane.level)
    for axis, step in enumerate(plane.reduced_yx, start=1):
        samples = _interpolated(samples, axis) if step == 2 else samples
    return samples


def _interpolated(samples: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Twice as many samples along `axis`: three quarters of the nearest and a quarter of the next one."""
    samples = samples.swapaxes(axis, -1)
    before = np.concatenate([samples[..., :1], samples[..., :-1]], axis=-1)
    behind = np.concatenate([samples[..., 1:], samples[..., -1:]], axis=-1)
    pairs = np.stack([0.75 * samples + 0.25 * before, 0.75 * samples + 0.25 * behind], axis=-1)
    return pairs.reshape(*samples.shape[:-1], -1).swapaxes(axis, -1)


def _transformed(plane: _Plane, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, MCU height, MCU width, C] -> DCT of the plane's samples, [N, blocks down, blocks across, 64]."""
    samples = values @ plane.weights
    count, (down, across), (step_y, step_x) = len(samples), plane.blocks_yx, plane.reduced_yx
    samples = samples.reshape(count, down * BLOCK_PX, step_y, across * BLOCK_PX, step_x).mean(axis=(2, 4))
    blocks = samples.reshape(count, down, BLOCK_PX, across, BLOCK_PX).swapaxes(2, 3)
    return blocks.reshape(count, down, across, 64) @ _BASIS.T


def _check_kept(before: Image.Image, result: Image.Image, touched: NDArray[np.bool_], frame: Frame) -> None:
    """Raise BlocksNotKeptError unless both pictures are equal outside the touched MCUs and their rim."""
    mcu_y, mcu_x = frame.mcu_yx
    near = touched.repeat(mcu_y, axis=0).repeat(mcu_x, axis=1)[: frame.height, : frame.width]
    for axis, step in enumerate(frame.step_yx):
        if step > 1:
            forth = near.swapaxes(0, axis)
            forth[RIM_PX:] |= forth[:-RIM_PX]
            forth[:-RIM_PX] |= forth[RIM_PX:]
    for (_, band, old), (_, _, new) in zip(_bands(before, frame), _bands(result, frame), strict=True):
        if not np.array_equal(old, new) and ((old != new).any(axis=2) & ~near[band]).any():
            raise BlocksNotKeptError("the retouched file decodes otherwise where nothing was changed")
