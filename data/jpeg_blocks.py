"""Retouching a JPEG (ITU-T T.81) so that the blocks an edit leaves alone keep their DCT coefficients.

A JPEG is a grid of MCUs: 8 x 8 pixels, or 16 pixels along a direction in which the chroma has half the samples. An MCU
is touched when one of its pixels shall differ from the source's. What is exact:

- The quantisation tables, the subsampling and every coefficient of every untouched MCU are those of the source.
- Grey and 4:4:4 files decode bit by bit as before outside the touched MCUs.
- Files with subsampled chroma do so from two pixels away from them: decoders interpolate chroma between neighbouring
  samples, so changed ones reach one pixel (RIM_PX) into the MCU beside, along the directions that are subsampled.

Inside a touched MCU the quantised DCT of the difference is added to the source's coefficients, so that what the edit
moved little is not compressed a second time, unless compressing the new pixels anew comes nearer to them.

Memory: libjpeg holds the coefficients of a whole photo (2 bytes each), and ours stand beside them while it reads and
writes. Together that is twice the photo's pixels with chroma halved both ways (4:2:0), four times without (4:4:4).
Everything else is smaller and held at other times.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

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

__all__ = ["BlocksNotKeptError", "retouched_jpeg"]

RIM_PX = 1
BAND_VALUES = 150_000
"""Values of pixels worked on at once: in floating point these fit into the caches, and a large photo never is as a
whole."""

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
_LOWEST, _HIGHEST = np.full(64, -AC_LIMIT, np.float32), np.full(64, AC_LIMIT, np.float32)
_LOWEST[0], _HIGHEST[0] = DC_LIMITS


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
    # Decoded pictures and coefficients are each larger than the photo, and libjpeg holds the coefficients once more
    # while it reads and writes them: none of them stays while another comes.
    try:
        with tempfile.TemporaryFile(prefix="photodrag-") as aside:
            touched, kept = _put_aside(decoded(source, frame), after, frame, aside)
            jpeg = read_coefficients(source)
            aside.seek(0)
            _retouch(_planes(jpeg, frame), aside, after, touched, frame)
    except OSError as error:
        raise BlocksNotKeptError(f"its pixels cannot be put aside ({error.strerror or error})") from error
    written = write_coefficients(jpeg, frame)
    del jpeg
    result = written[:2] + leading_segments(header) + written[2 + len(leading_segments(written)) :]
    del written
    if _digest_outside(decoded(result, frame), touched, frame) != kept:
        raise BlocksNotKeptError("the retouched file decodes otherwise where nothing was changed")
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


def _put_aside(
    before: Image.Image, after: NDArray[np.uint8], frame: Frame, aside: IO[bytes]
) -> tuple[NDArray[np.bool_], bytes]:
    """[rows, columns] of the MCUs in which a pixel differs, and the digest of the rest.

    The old pixels of these MCUs go to `aside`, uint8 [MCU height, MCU width, C] each, row by row.
    """
    mcu_y, mcu_x = frame.mcu_yx
    touched = np.zeros((-(-frame.height // mcu_y), -(-frame.width // mcu_x)), bool)
    for row, band in _bands(frame):
        old = _pixels(before, band, frame)
        if np.array_equal(old, after[band]):
            continue
        old_mcus, new_mcus = _mcus(old, frame), _mcus(after[band], frame)
        differs = (old_mcus != new_mcus).any(axis=(2, 3, 4))
        touched[row : row + len(differs)] = differs
        aside.write(old_mcus[differs].tobytes())
    return touched, _digest_outside(before, touched, frame)


def _retouch(
    planes: list[_Plane], aside: IO[bytes], after: NDArray[np.uint8], touched: NDArray[np.bool_], frame: Frame
) -> None:
    """Carry the difference from the pixels put `aside` to those `after` into the coefficients of the touched MCUs."""
    mcu_y, mcu_x = frame.mcu_yx
    most = max(1, BAND_VALUES // (mcu_y * mcu_x * frame.channels))
    for row, band in _bands(frame):
        rows, columns = np.nonzero(touched[row : row + -(-(band.stop - band.start) // mcu_y)])
        if not rows.size:
            continue
        mcus = _mcus(after[band], frame)
        for start in range(0, rows.size, most):
            at = rows[start : start + most], columns[start : start + most]
            new = mcus[at]
            old = np.frombuffer(aside.read(new.size), np.uint8).reshape(new.shape)
            _update(planes, at[0] + row, at[1], old, new, _seen(at[0] + row, at[1], frame))


def _bands(frame: Frame) -> Iterator[tuple[int, slice]]:
    """Bands of whole MCUs: number of the first row of MCUs, and pixel rows."""
    mcu_y = frame.mcu_yx[0]
    rows = max(1, BAND_VALUES // (mcu_y * frame.width * frame.channels))
    for top in range(0, frame.height, rows * mcu_y):
        yield top // mcu_y, slice(top, min(top + rows * mcu_y, frame.height))


def _pixels(picture: Image.Image, band: slice, frame: Frame) -> NDArray[np.uint8]:
    """[h,W,C] of one band."""
    pixels = np.asarray(picture.crop((0, band.start, frame.width, band.stop)))
    return pixels.reshape(band.stop - band.start, frame.width, frame.channels)


def _mcus(pixels: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """[h,W,C] -> [rows, columns, MCU height, MCU width, C]; the last row and column of pixels fill what is missing."""
    mcu_y, mcu_x = frame.mcu_yx
    height, width, channels = pixels.shape
    if height % mcu_y or width % mcu_x:
        pixels = np.pad(pixels, ((0, -height % mcu_y), (0, -width % mcu_x), (0, 0)), "edge")
    return pixels.reshape(-1, mcu_y, pixels.shape[1] // mcu_x, mcu_x, channels).swapaxes(1, 2)


def _seen(rows: NDArray[Any], columns: NDArray[Any], frame: Frame) -> NDArray[np.bool_] | None:
    """[N, MCU height, MCU width]: which pixels of N MCUs lie in the picture and not beyond its edge; None for all."""
    mcu_y, mcu_x = frame.mcu_yx
    in_height = rows[:, None] * mcu_y + np.arange(mcu_y) < frame.height
    in_width = columns[:, None] * mcu_x + np.arange(mcu_x) < frame.width
    if in_height.all() and in_width.all():
        return None
    return in_height[:, :, None] & in_width[:, None, :]


def _update(
    planes: list[_Plane],
    rows: NDArray[Any],
    columns: NDArray[Any],
    old: NDArray[np.uint8],
    new: NDArray[np.uint8],
    seen: NDArray[np.bool_] | None,
) -> None:
    """Move the blocks of N touched MCUs, at `rows` and `columns`, from the pixels `old` to `new` [N, height, width, C].

    Luma and chroma each take the former coefficients plus those of the difference, or those of the new pixels alone,
    whichever together show the new pixels best where these are `seen`. The first keep what subsampling and clipping
    took from the decoded pixels; the second come nearer where the steps are finer than the rounding of pixels.
    """
    wanted = new.transpose(3, 0, 1, 2).astype(np.float32)
    change = wanted - old.transpose(3, 0, 1, 2)
    colours_to = np.stack([plane.weights for plane in planes])
    places = [_places(plane, rows, columns) for plane in planes]
    ways = [
        _candidates(plane, (at_y, at_x), plane_wanted, plane_change)
        for plane, (at_y, at_x, _), plane_wanted, plane_change in zip(
            planes, places, _mixed(colours_to, wanted), _mixed(colours_to, change), strict=True
        )
    ]
    luma, chroma = _picked(planes, ways, wanted, seen)
    picks = [luma, chroma, chroma][: len(planes)]
    for plane, (kept, anew), pick, (at_y, at_x, stored) in zip(planes, ways, picks, places, strict=True):
        np.copyto(kept, anew, where=pick[:, None, None, None])
        values = kept.astype(np.int16).reshape(*at_y.shape, BLOCK_PX, BLOCK_PX)
        plane.coefficients[at_y[stored], at_x[stored]] = values[stored]


def _picked(
    planes: list[_Plane],
    ways: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    wanted: NDArray[np.float32],
    seen: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether luma and chroma of N MCUs [N] take the second of their two candidates, by the pixels [C, N, h, w]."""
    shown = [
        [_shown(plane, way) for plane, way in zip(planes, number, strict=True)] for number in zip(*ways, strict=True)
    ]
    colours_of = np.linalg.inv(np.stack([plane.weights for plane in planes])).astype(np.float32)
    # The luma of a pixel is the same share of all its colours, and the chroma's part is needed twice.
    tints = [_mixed(colours_of[:, 1:], np.stack(number[1:])) for number in shown] if len(planes) > 1 else [None, None]
    least = np.full(wanted.shape[1], np.inf, np.float32)
    luma, chroma = np.zeros(len(least), bool), np.zeros(len(least), bool)
    error = np.empty_like(wanted)
    for of_luma, of_chroma in ((0, 0), (1, 1), (1, 0), (0, 1))[: 4 if len(planes) > 1 else 2]:
        tint = tints[of_chroma]
        np.copyto(error, shown[of_luma][0]) if tint is None else np.add(tint, shown[of_luma][0], out=error)
        np.rint(error, out=error)
        np.clip(error, np.float32(0), np.float32(255), out=error)
        np.subtract(error, wanted, out=error)
        if seen is not None:
            error *= seen
        flat = error.reshape(len(error), len(least), -1)
        sums = np.einsum("cnp,cnp->n", flat, flat)
        better = sums < least
        least = np.minimum(sums, least)
        luma, chroma = (np.where(better, number == 1, pick) for number, pick in ((of_luma, luma), (of_chroma, chroma)))
    return luma, chroma


def _mixed(weights: NDArray[np.float32], channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[J,C] of [C, N, height, width] -> [J, N, height, width]: weighted sums of channels."""
    return (weights @ channels.reshape(len(channels), -1)).reshape(len(weights), *channels.shape[1:])


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
    plane: _Plane,
    at: tuple[NDArray[Any], NDArray[Any]],
    wanted: NDArray[np.float32],
    change: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Quantised coefficients [N, blocks down, blocks across, 64]: the former, at the blocks `at`, plus the change, and
    those wanted; both are given as pixels [N, MCU height, MCU width] of the plane's kind."""
    kept, anew = _transformed(plane, change), _transformed(plane, wanted)
    anew[..., 0] -= plane.level * BLOCK_PX
    for coefficients in (kept, anew):
        np.divide(coefficients, plane.steps, out=coefficients)
        np.rint(coefficients, out=coefficients)
    kept += plane.coefficients[at].reshape(kept.shape)
    for coefficients in (kept, anew):
        np.clip(coefficients, _LOWEST, _HIGHEST, out=coefficients)
    return kept, anew


def _shown(plane: _Plane, quantised: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, blocks down, blocks across, 64] -> samples [N, MCU height, MCU width]; chroma interpolated as decoders do.

    Chroma of the MCUs around is not looked at, which is good enough for a choice.
    """
    count, down, across, _ = quantised.shape
    samples = (quantised @ (plane.steps[:, None] * _BASIS)).reshape(count, down, across, BLOCK_PX, BLOCK_PX)
    samples = samples.swapaxes(2, 3).reshape(count, down * BLOCK_PX, across * BLOCK_PX) + np.float32(plane.level)
    for axis, step in enumerate(plane.reduced_yx, start=1):
        samples = _interpolated(samples, axis) if step == 2 else samples
    return samples


def _halved(samples: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Half as many samples along `axis`: the means of pairs."""
    samples = samples.swapaxes(axis, 0)
    return ((samples[::2] + samples[1::2]) * np.float32(0.5)).swapaxes(axis, 0)


def _interpolated(samples: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Twice as many samples along `axis`: three quarters of the nearest and a quarter of the next one."""
    shape = list(samples.shape)
    shape[axis] *= 2
    found = np.empty(shape, np.float32)
    # Slices of the first axis reach any axis of the array.
    near, pairs = samples.swapaxes(axis, 0), found.swapaxes(axis, 0)
    quarter, most = near * np.float32(0.25), near * np.float32(0.75)
    np.add(most[1:], quarter[:-1], out=pairs[2::2])
    np.add(most[:-1], quarter[1:], out=pairs[1:-1:2])
    np.add(most[0], quarter[0], out=pairs[0])
    np.add(most[-1], quarter[-1], out=pairs[-1])
    return found


def _transformed(plane: _Plane, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, MCU height, MCU width] -> DCT of the plane's samples, [N, blocks down, blocks across, 64]."""
    count, (down, across) = len(samples), plane.blocks_yx
    for axis, step in enumerate(plane.reduced_yx, start=1):
        samples = _halved(samples, axis) if step == 2 else samples
    blocks = samples.reshape(count, down, BLOCK_PX, across, BLOCK_PX).swapaxes(2, 3)
    return blocks.reshape(count, down, across, 64) @ _BASIS.T


def _digest_outside(picture: Image.Image, touched: NDArray[np.bool_], frame: Frame) -> bytes:
    """SHA-256 of the pixels outside the touched MCUs and their rim: two pictures with the same are equal there."""
    digest = hashlib.sha256()
    for row, band in _bands(frame):
        pixels = _pixels(picture, band, frame)
        near = _near(touched, row, len(pixels), frame)
        digest.update((pixels * ~near[..., None] if near.any() else pixels).tobytes())
    return digest.digest()


def _near(touched: NDArray[np.bool_], row: int, height: int, frame: Frame) -> NDArray[np.bool_]:
    """[height, W]: which pixels of the band that begins at the `row` of MCUs lie in touched MCUs or on their rim."""
    mcu_y, mcu_x = frame.mcu_yx
    first = max(row - 1, 0)
    # The rows of MCUs above and below reach into the band.
    around = touched[first : row + -(-height // mcu_y) + 1]
    near = around.repeat(mcu_y, axis=0).repeat(mcu_x, axis=1)[:, : frame.width]
    for axis, step in enumerate(frame.step_yx):
        if step > 1:
            forth = near.swapaxes(0, axis)
            forth[RIM_PX:] |= forth[:-RIM_PX]
            forth[:-RIM_PX] |= forth[RIM_PX:]
    top = (row - first) * mcu_y
    return near[top : top + height]
