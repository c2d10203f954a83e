"""Geometry between a photo and a square crop of it: one float64 similarity, used in both directions.

Points are (x, y) in pixels with pixel centres at integers, so a picture of W pixels spans [-0.5, W - 0.5]. The crop's
outer corner (-0.5, -0.5) lies on the first corner of the quad; the centre of its pixel (0, 0) half a crop pixel inside.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import UsageError
from data.photo_type import Pixels

QUAD_TOLERANCE = 0.1
"""How far a hand-made quad's corners may be from a square, in sides."""
QUAD_MIN_SIDE_PX = 4.0
QUAD_MAX_SIDES = 4.0
"""Largest side of a hand-made quad, in longer sides of the photo."""
BAND_PIXELS = 2_000_000
"""Pixels worked on at once, so that the temporaries of a large photo stay small."""
TILE_MAX_PX = 16384
DENSE_SIDE_PX = 2048
"""About the size that a source is refined to for cubic interpolation."""
BORDER_PX = 3
"""Source pixels read round a region: more than the reach of cubic interpolation."""

Roi = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in photo pixels, the last two exclusive."""


@dataclass(frozen=True, eq=False, slots=True)
class Alignment:
    """Where a square crop of `size` pixels lies in a photo.

    matrix: [3,3] float64 similarity, crop pixels from photo pixels, acting on (x, y, 1).
    landmarks: [68,2] float64 photo pixels, or None when no face was looked for. photo_shape: (H, W).
    face_index: which of the photo's faces this is, 0 = largest.
    """

    matrix: NDArray[np.float64]
    size: int
    landmarks: NDArray[np.float64] | None
    photo_shape: tuple[int, int]
    face_index: int = 0

    @property
    def photo_from_crop(self) -> NDArray[np.float64]:
        """[3,3] float64, the exact inverse of `matrix`."""
        a, b, x = self.matrix[0].tolist()
        y = float(self.matrix[1, 2])
        square = a * a + b * b
        # Of the similarity [[a, b, x], [-b, a, y]].
        inverse = [[a, -b, b * y - a * x], [b, a, -(b * x + a * y)], [0.0, 0.0, square]]
        return np.asarray(np.array(inverse) / square, np.float64)

    @property
    def photo_px_per_crop_px(self) -> float:
        """Side of one crop pixel in photo pixels; above 1 the crop is a reduction."""
        return 1.0 / math.hypot(self.matrix[0, 0], self.matrix[0, 1])

    @property
    def quad(self) -> NDArray[np.float64]:
        """[4,2] float64 outer corners of the crop in photo pixels: top left, bottom left, bottom right, top right."""
        last = self.size - 0.5
        return self.to_photo([[-0.5, -0.5], [-0.5, last], [last, last], [last, -0.5]])

    def to_crop(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points [N,2] (x, y) of the photo -> float64 [N,2] of the crop."""
        return _apply(self.matrix, points)

    def to_photo(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points [N,2] (x, y) of the crop -> float64 [N,2] of the photo."""
        return _apply(self.photo_from_crop, points)

    def photo_roi(self) -> Roi:
        """The photo's pixels whose centres can lie in the crop; empty (x0 == x1 or y0 == y1) where there are none."""
        height, width = self.photo_shape
        low, high = np.ceil(self.quad.min(axis=0)), np.floor(self.quad.max(axis=0)) + 1
        x0, x1 = np.clip([low[0], high[0]], 0, width).astype(int).tolist()
        y0, y1 = np.clip([low[1], high[1]], 0, height).astype(int).tolist()
        return x0, y0, max(x0, x1), max(y0, y1)


@dataclass(frozen=True, eq=False, slots=True)
class Crop:
    """A square cut out of a photo.

    image: [1,3,R,R] float32 RGB in [-1,1]. inside: [1,1,R,R] float32, 1 where the pixel's centre lies in the photo,
    0 in the reflected padding. alignment: where it came from.
    """

    image: NDArray[np.float32]
    inside: NDArray[np.float32]
    alignment: Alignment


def _apply(matrix: NDArray[np.float64], points: ArrayLike) -> NDArray[np.float64]:
    xy = np.asarray(points, np.float64).reshape(-1, 2)
    moved: NDArray[np.float64] = xy @ matrix[:2, :2].T + matrix[:2, 2]
    return moved


def _alignment(
    centre: NDArray[np.float64],
    half_side: NDArray[np.float64],
    size: int,
    shape_hw: tuple[int, int],
    landmarks: NDArray[np.float64] | None = None,
    face_index: int = 0,
) -> Alignment:
    """The crop round a centre; `half_side` is the vector from there to the middle of its right side, photo pixels."""
    a, b = (half_side / (half_side @ half_side) * (size / 2)).tolist()
    linear = np.array([[a, b], [-b, a]])
    offset = np.full(2, (size - 1) / 2) - linear @ centre
    matrix = np.vstack([np.column_stack([linear, offset]), [0.0, 0.0, 1.0]])
    return Alignment(matrix, size, landmarks, (int(shape_hw[0]), int(shape_hw[1])), face_index)


def align_ffhq(landmarks: ArrayLike, shape_hw: tuple[int, int], size: int, face_index: int = 0) -> Alignment:
    """FFHQ's crop (Karras et al. 2019) of a face by its 68 landmarks [68,2] (x, y) in photo pixels.

    The right-hand half side is e - rot90(m) brought to max(2|e|, 1.8|m|), with e from eye to eye and m from the eyes'
    middle to the mouth's; the centre lies 0.1 m below the eyes' middle.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise UsageError(f"FFHQ alignment takes 68 finite landmarks [68,2], but got {list(points.shape)}.")
    eye_left, eye_right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes, mouth = (eye_left + eye_right) / 2, (points[48] + points[54]) / 2
    eye_to_eye, eye_to_mouth = eye_right - eye_left, mouth - eyes
    half_side = eye_to_eye - np.array([-eye_to_mouth[1], eye_to_mouth[0]])
    length = max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth))
    direction_length = np.hypot(*half_side)
    if direction_length < 1e-6 or length < QUAD_MIN_SIDE_PX / 2:
        raise UsageError("The landmarks of this face lie on one spot; give its square with align=quad.")
    return _alignment(
        eyes + 0.1 * eye_to_mouth, half_side / direction_length * length, size, shape_hw, points, face_index
    )


def align_quad(
    quad: ArrayLike, shape_hw: tuple[int, int], size: int, landmarks: NDArray[np.float64] | None = None
) -> Alignment:
    """The crop nearest (least squares) to four corners [4,2] (x, y) in photo pixels, the face's top left one first.

    Both ways round are understood. Raises UsageError when they are no square within QUAD_TOLERANCE, miss the photo, or
    are out of proportion to it.
    """
    corners = np.asarray(quad, np.float64)
    if corners.shape != (4, 2) or not np.isfinite(corners).all():
        raise UsageError(f"align.quad takes four corners [[x,y],[x,y],[x,y],[x,y]], but got {corners.tolist()}.")
    centre = corners.mean(axis=0)
    top_left, second, bottom_right, fourth = corners - centre
    # Positive when the corners run clockwise on the screen: then the second one is top right.
    clockwise = top_left[0] * second[1] - top_left[1] * second[0] > 0
    top_right, bottom_left = (second, fourth) if clockwise else (fourth, second)
    # Complex least squares: corners = half_side * (-1-i, 1-i, 1+i, -1+i), x + iy.
    given = np.stack([top_left, top_right, bottom_right, bottom_left]) @ np.array([1, 1j])
    ideal = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j])
    half = complex((given * ideal.conj()).sum() / 8)
    side = 2 * abs(half)
    height, width = shape_hw
    if not QUAD_MIN_SIDE_PX <= side <= QUAD_MAX_SIDES * max(height, width):
        raise UsageError(
            f"align.quad has a side of {side:.1f} px; {QUAD_MIN_SIDE_PX:g} to {QUAD_MAX_SIDES * max(height, width):g} "
            f"px are allowed for this photo of {width} x {height}."
        )
    if np.abs(given - half * ideal).max() > QUAD_TOLERANCE * side:
        raise UsageError(
            f"align.quad must be a square within {QUAD_TOLERANCE:.0%} of its side, corners in turn from the face's top "
            f"left, but got {corners.tolist()}."
        )
    alignment = _alignment(centre, np.array([half.real, half.imag]), size, shape_hw, landmarks)
    x0, y0, x1, y1 = alignment.photo_roi()
    if x0 == x1 or y0 == y1:
        raise UsageError(
            f"align.quad {corners.tolist()} lies outside the photo of {width} x {height}; its corners are (x, y) in "
            "photo pixels."
        )
    return alignment


def align_center(shape_hw: tuple[int, int], size: int) -> Alignment:
    """The largest square in the middle of the photo."""
    height, width = shape_hw
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    return _alignment(centre, np.array([min(height, width) / 2, 0.0]), size, shape_hw)


def align_precropped(shape_hw: tuple[int, int], size: int) -> Alignment:
    """The whole photo, which must be square, as the crop."""
    height, width = shape_hw
    if height != width:
        raise UsageError(
            f"align=precropped takes a square photo, but this one has {width} x {height} pixels; use align=center or "
            "align=ffhq."
        )
    return align_center(shape_hw, size)


def crop_photo(photo_pixels: Pixels, alignment: Alignment) -> Crop:
    """The crop of upright [H,W,3] uint8 or uint16 pixels: one antialiased resampling with the exact matrix.

    A reduction averages whole blocks of photo pixels and samples these up to 2 x 2 times a crop pixel; an enlargement
    is cubic. Outside the photo its mirror image is seen, edge pixels not repeated.
    """
    if photo_pixels.shape[:2] != alignment.photo_shape:
        raise UsageError(
            f"The alignment was made for a photo of {list(alignment.photo_shape)} (H, W), but this one has "
            f"{list(photo_pixels.shape[:2])}."
        )
    full = 255.0 if photo_pixels.dtype == np.uint8 else 65535.0
    values = _reduced(photo_pixels, alignment) * np.float32(2 / full) - np.float32(1)
    image = np.clip(values, -1, 1).transpose(2, 0, 1)[None]
    return Crop(np.ascontiguousarray(image, np.float32), _inside(alignment), alignment)


def crop_mask(mask: NDArray[np.float32], alignment: Alignment) -> NDArray[np.float32]:
    """A mask [H,W] in [0,1] in photo pixels on the crop's pixels, [R,R] float32, resampled as `crop_photo` does."""
    return np.clip(_reduced(mask[..., None], alignment)[..., 0], 0, 1)


def _reduced(values: NDArray[Any], alignment: Alignment) -> NDArray[np.float32]:
    """[R,R,C] float32: values [H,W,C] of the photo on the crop's pixels."""
    size, scale = alignment.size, alignment.photo_px_per_crop_px
    block = max(1, math.floor(scale))
    top_left, bottom_right = alignment.quad.min(axis=0), alignment.quad.max(axis=0)
    # The first pixel inside begins a block, so that an upright reduction by a whole number is exactly the mean.
    x0, y0 = (np.ceil(top_left - 1e-9).astype(int) - BORDER_PX * block).tolist()
    columns, rows = (np.ceil((bottom_right - (x0, y0)) / block).astype(int) + BORDER_PX).tolist()
    source = _block_means(values, (x0, y0), (columns, rows), block)
    # Block centre u lies at photo pixel x0 + block * (u + 0.5) - 0.5.
    photo_from_source = np.array(
        [[block, 0.0, x0 + (block - 1) / 2], [0.0, block, y0 + (block - 1) / 2], [0.0, 0.0, 1.0]]
    )
    source_from_crop = np.linalg.inv(photo_from_source) @ alignment.photo_from_crop
    return _sample(source, source_from_crop, (0, 0, size, size))


def _inside(alignment: Alignment) -> NDArray[np.float32]:
    """[1,1,R,R] float32: 1 where the crop pixel's centre lies in the photo."""
    size, (height, width) = alignment.size, alignment.photo_shape
    y, x = np.mgrid[:size, :size]
    points = alignment.to_photo(np.stack([x.ravel(), y.ravel()], axis=1))
    # Rounding must not put the rim of a crop that covers the photo exactly outside of it.
    slack = 1e-9 * max(height, width)
    inside = ((points > -0.5 - slack) & (points < np.array([width, height]) - 0.5 + slack)).all(axis=1)
    return inside.reshape(1, 1, size, size).astype(np.float32)


def _mirrored(start: int, count: int, length: int) -> NDArray[np.intp]:
    """Indices from `start` on folded into 0 .. length - 1, edge pixels not repeated, however far outside."""
    if length == 1:
        return np.zeros(count, np.intp)
    folded = np.arange(start, start + count) % (2 * length - 2)
    return np.minimum(folded, 2 * length - 2 - folded)


def _block_means(
    pixels: NDArray[Any], origin_xy: tuple[int, int], blocks_wh: tuple[int, int], block: int
) -> NDArray[np.float32]:
    """[rows,columns,C] float32 means of block x block photo pixels, from `origin_xy` on, mirrored outside the photo."""
    columns, rows = blocks_wh
    x = _mirrored(origin_xy[0], columns * block, pixels.shape[1])
    y = _mirrored(origin_xy[1], rows * block, pixels.shape[0])
    channels = pixels.shape[2]
    means = np.empty((rows, columns, channels), np.float32)
    step = max(1, BAND_PIXELS // (columns * block * block))
    for top in range(0, rows, step):
        count = min(step, rows - top)
        band = pixels[np.ix_(y[top * block : (top + count) * block], x)].astype(np.float32)
        means[top : top + count] = band.reshape(count, block, columns, block, channels).mean(axis=(1, 3))
    return means


def _sample(source: NDArray[np.float32], source_from_target: NDArray[np.float64], roi: Roi) -> NDArray[np.float32]:
    """[h,w,C] float32 of `source` [H,W,C] at the target pixels of a region, edges repeated.

    Cubic (Catmull-Rom) interpolation where the source is not reduced; where it is, the mean of n x n linear samples in
    each target pixel, n the reduction rounded up.
    """
    x0, y0, x1, y1 = roi
    reduction = math.hypot(source_from_target[0, 0], source_from_target[1, 0])
    count = max(1, math.ceil(reduction - 1e-9))
    offsets = (np.arange(count) + 0.5) / count - 0.5
    if count == 1:
        factor = min(max(DENSE_SIDE_PX // max(source.shape[:2]), 2), 8)
        source, source_from_target = _needed_part(source, source_from_target, roi)
        source = densified(densified(source, factor, axis=0), factor, axis=1)
        source_from_target = np.diag([factor, factor, 1.0]) @ source_from_target
    out = np.zeros((y1 - y0, x1 - x0, source.shape[2]), np.float32)
    for left, top, right, bottom in _tiles(roi):
        part = out[top - y0 : bottom - y0, left - x0 : right - x0]
        for dy in offsets:
            for dx in offsets:
                part += _sample_once(source, source_from_target, (left, top, right, bottom), dx, dy)
    return out / np.float32(count**2) if count > 1 else out


def _needed_part(
    source: NDArray[np.float32], source_from_target: NDArray[np.float64], roi: Roi
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The part of `source` that cubic samples in a region depend on, and the matrix to its pixels."""
    x0, y0, x1, y1 = roi
    corners = _apply(source_from_target, [[x0, y0], [x1, y0], [x0, y1], [x1, y1]])
    last = np.array([source.shape[1], source.shape[0]]) - 1
    left, top = np.clip(np.floor(corners.min(axis=0)) - BORDER_PX, 0, last).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + BORDER_PX, 0, last).astype(int).tolist()
    shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
    return source[top : bottom + 1, left : right + 1], shift @ source_from_target


def densified(source: NDArray[np.float32], factor: int, axis: int) -> NDArray[np.float32]:
    """Catmull-Rom interpolation at every 1/factor pixel of an axis: n pixels give factor * (n - 1) + 1, edges repeated.

    Unlike OpenCV's cubic (a = -0.75) this reproduces straight ramps, so nothing is displaced. Linear sampling of the
    result is smooth enough to stand for cubic interpolation at any position.
    """
    rows = np.moveaxis(source, axis, 0)
    count = rows.shape[0]
    taps = [rows[np.clip(np.arange(count) + shift, 0, count - 1)] for shift in (-1, 0, 1, 2)]
    dense = np.empty((factor * count, *rows.shape[1:]), np.float32)
    for phase in range(factor):
        t = phase / factor
        weights = (t * (-1 + t * (2 - t)), 2 + t * t * (3 * t - 5), t * (1 + t * (4 - 3 * t)), t * t * (t - 1))
        dense[phase::factor] = sum(np.float32(weight / 2) * tap for weight, tap in zip(weights, taps, strict=True))
    return np.ascontiguousarray(np.moveaxis(dense[: factor * (count - 1) + 1], 0, axis))


def _tiles(roi: Roi) -> Iterator[Roi]:
    """The parts of a region, none larger than OpenCV can address or than BAND_PIXELS."""
    x0, y0, x1, y1 = roi
    for left in range(x0, x1, TILE_MAX_PX):
        right = min(x1, left + TILE_MAX_PX)
        rows = min(TILE_MAX_PX, max(1, BAND_PIXELS // (right - left)))
        for top in range(y0, y1, rows):
            yield left, top, right, min(y1, top + rows)


def _sample_once(
    source: NDArray[np.float32], source_from_target: NDArray[np.float64], roi: Roi, dx: float, dy: float
) -> NDArray[np.float32]:
    """Linear samples of `source` at the region's target pixels moved by (dx, dy)."""
    x0, y0, x1, y1 = roi
    matrix = source_from_target
    x, y = np.arange(x0, x1) + dx, np.arange(y0, y1)[:, None] + dy
    map_x = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(np.float32)
    map_y = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(np.float32)
    sampled = cv2.remap(source, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32).reshape(y1 - y0, x1 - x0, source.shape[2])


def warp_to_photo(crop_space: NDArray[np.float32], alignment: Alignment, roi: Roi) -> NDArray[np.float32]:
    """Values [R,R,C], C <= 4, on the crop's pixels -> [y1-y0,x1-x0,C] float32 on the photo's, by the exact inverse.

    Cubic (overshoots a little at steps) where the photo is finer than the crop, antialiased where it is coarser.
    Beyond the crop its edge values go on. `roi` is (x0, y0, x1, y1) in photo pixels, the last two exclusive.
    """
    size = alignment.size
    if crop_space.ndim != 3 or crop_space.shape[:2] != (size, size) or not 1 <= crop_space.shape[2] <= 4:
        raise UsageError(f"Values on this crop are [{size},{size},1..4], but these are {list(crop_space.shape)}.")
    return _sample(np.ascontiguousarray(crop_space, np.float32), alignment.matrix, roi)
