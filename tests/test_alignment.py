"""Geometry between photo and crop: conventions, round trips, antialiasing, padding, hand-made quads."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.alignment import (
    Alignment,
    align_center,
    align_ffhq,
    align_precropped,
    align_quad,
    crop_photo,
    densified,
    warp_to_photo,
)
from data.errors import UsageError


def square(centre: tuple[float, float], side: float, degrees: float = 0.0) -> NDArray[np.float64]:
    """[4,2] corners: top left, bottom left, bottom right, top right of the turned square."""
    angle = math.radians(degrees)
    x = np.array([math.cos(angle), math.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array(centre) + np.array([-x - y, -x + y, x + y, x - y])


def wave(points: NDArray[np.float64], period_px: float) -> NDArray[np.float64]:
    """A smooth picture, values [N,3] in [0,1] at the points (x, y)."""
    x, y = 2 * np.pi * points.T / period_px
    return 0.5 + 0.4 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=1)


def wave_photo(height: int, width: int, period_px: float, dtype: type = np.uint16) -> NDArray[np.uint16]:
    y, x = np.mgrid[:height, :width]
    values = wave(np.stack([x.ravel(), y.ravel()], axis=1).astype(float), period_px).reshape(height, width, 3)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def landmarks_at(eye_left: tuple[float, float], eye_right: tuple[float, float], mouth: tuple[float, float]) -> NDArray:
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = eye_left, eye_right
    points[48], points[54] = np.subtract(mouth, (10, 0)), np.add(mouth, (10, 0))
    return points


def test_ffhq_quad_of_an_upright_face() -> None:
    # Eyes 60 apart, mouth 70 below: side 2 * max(2 * 60, 1.8 * 70), centre 0.1 * 70 below the eyes.
    alignment = align_ffhq(landmarks_at((170, 200), (230, 200), (200, 270)), (500, 400), 64, face_index=3)
    assert np.allclose(alignment.quad, square((200, 207), 252), atol=1e-9)
    assert alignment.face_index == 3
    assert alignment.photo_shape == (500, 400)
    assert alignment.photo_px_per_crop_px == pytest.approx(252 / 64)


def test_ffhq_equals_the_published_recipe_for_a_turned_face() -> None:
    points = landmarks_at((150.5, 210), (222, 251), (160, 290))
    eyes, mouth = points[[36, 42]].mean(axis=0), points[[48, 54]].mean(axis=0)
    eye_to_eye, eye_to_mouth = points[42] - points[36], mouth - eyes
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eyes + eye_to_mouth * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    assert np.allclose(align_ffhq(points, (400, 400), 128).quad, quad, atol=1e-9)


def test_crop_pixel_centres_lie_half_a_crop_pixel_inside_the_quad() -> None:
    alignment = align_quad(square((100, 80), 64), (200, 200), 16)
    assert np.allclose(alignment.to_photo([[0, 0]]), [[100 - 32 + 2, 80 - 32 + 2]])
    assert np.allclose(alignment.to_photo([[-0.5, -0.5], [15.5, 15.5]]), [[68, 48], [132, 112]])


@given(
    centre=st.tuples(st.floats(0, 9000), st.floats(0, 9000)),
    side=st.floats(20, 9000),
    degrees=st.floats(-180, 180),
    size=st.sampled_from([32, 100, 256, 1024]),
)
@settings(deadline=None, derandomize=True)
def test_points_there_and_back(centre: tuple[float, float], side: float, degrees: float, size: int) -> None:
    alignment = align_quad(square(centre, side, degrees), (9001, 9001), size)
    points = np.random.default_rng(0).uniform(0, 9000, (50, 2))
    assert np.abs(alignment.to_photo(alignment.to_crop(points)) - points).max() < 1e-6
    assert np.abs(alignment.quad - square(centre, side, degrees)).max() < 1e-6
    assert np.allclose(alignment.matrix @ alignment.photo_from_crop, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_precropped_photo_of_the_crops_size_is_not_resampled(dtype: type) -> None:
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (48, 48, 3)).astype(dtype)
    crop = crop_photo(pixels, align_precropped((48, 48), 48))
    assert crop.image.shape == (1, 3, 48, 48)
    assert crop.image.dtype == np.float32
    assert np.array_equal(np.rint((crop.image[0].transpose(1, 2, 0) + 1) / 2 * np.iinfo(dtype).max), pixels)
    assert crop.inside.shape == (1, 1, 48, 48)
    assert crop.inside.min() == 1


def test_a_reduction_by_a_whole_number_is_the_mean_of_blocks() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    crop = crop_photo(pixels, align_precropped((64, 64), 16))
    means = pixels.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)) / 127.5 - 1
    assert np.abs(crop.image[0].transpose(1, 2, 0) - means).max() < 1e-5


@pytest.mark.parametrize("side", [50.0, 100.0, 137.5, 300.0, 740.0])
def test_the_crop_shows_the_photo_where_the_matrix_says(side: float) -> None:
    """A smooth photo sampled by its formula: enlarged, unchanged and reduced, turned by 17 degrees."""
    pixels = wave_photo(1000, 1000, period_px=side)
    alignment = align_quad(square((480.3, 510.7), side, 17), pixels.shape[:2], 100)
    y, x = np.mgrid[:100, :100]
    points = alignment.to_photo(np.stack([x.ravel(), y.ravel()], axis=1))
    expected = wave(points, side).reshape(100, 100, 3) * 2 - 1
    assert np.abs(crop_photo(pixels, alignment).image[0].transpose(1, 2, 0) - expected).max() < 3e-3


@pytest.mark.parametrize(("size", "degrees"), [(32, 0), (32, 30), (50, 11), (64, 45)])
def test_reducing_removes_what_the_crop_cannot_show(size: int, degrees: float) -> None:
    """One-pixel stripes become grey, never moire."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[:, ::2] = 255
    image = crop_photo(pixels, align_quad(square((256, 256), 340, degrees), (512, 512), size)).image
    assert np.abs(image).max() < 0.2


@pytest.mark.parametrize("side", [70.0, 200.0, 431.0])
def test_crop_and_paste_back(side: float) -> None:
    """What the crop can hold comes back where it was: photo -> crop -> photo within interpolation error."""
    pixels = wave_photo(600, 600, period_px=side / 2)
    alignment = align_quad(square((300.4, 290.2), side, -23), (600, 600), 128)
    crop = crop_photo(pixels, alignment)
    x0, y0, x1, y1 = alignment.photo_roi()
    pasted = warp_to_photo(crop.image[0].transpose(1, 2, 0), alignment, (x0, y0, x1, y1))
    y, x = np.mgrid[y0:y1, x0:x1]
    in_crop = alignment.to_crop(np.stack([x.ravel(), y.ravel()], axis=1))
    well_inside = ((in_crop > 3) & (in_crop < 124)).all(axis=1)
    error = np.abs((pasted + 1) / 2 - pixels[y0:y1, x0:x1] / 65535).reshape(-1, 3)[well_inside]
    assert len(error) > 0.4 * side**2
    assert error.max() < 4e-3


def test_refining_keeps_pixels_ramps_and_parabolas() -> None:
    x = np.arange(9, dtype=np.float32)
    source = np.stack([x, x**2], axis=1)[:, None]
    dense = densified(source, 4, axis=0)
    assert dense.shape == (33, 1, 2)
    assert np.array_equal(dense[::4], source)
    fine = np.arange(33) / 4
    # The outermost interval on each side feels the repeated edge.
    assert np.allclose(dense[4:-4, 0], np.stack([fine, fine**2], axis=1)[4:-4], atol=1e-5)
    assert np.array_equal(densified(source.swapaxes(0, 1), 4, axis=1), dense.swapaxes(0, 1))


def test_warping_in_parts_equals_warping_at_once() -> None:
    values = np.random.default_rng(3).random((40, 40, 4), np.float32)
    alignment = align_quad(square((60, 50), 90, 9), (120, 130), 40)
    whole = warp_to_photo(values, alignment, (5, 10, 125, 110))
    assert whole.shape == (100, 120, 4)
    assert np.abs(warp_to_photo(values, alignment, (25, 30, 70, 47)) - whole[20:37, 20:65]).max() < 1e-5


def test_outside_the_photo_lies_its_mirror_image() -> None:
    pixels = wave_photo(100, 100, period_px=60)
    alignment = align_quad(square((10, 50), 60), (100, 100), 60)
    crop = crop_photo(pixels, alignment)
    # Crop column u shows photo x = u - 19.5 with 60 columns to 60 photo pixels.
    assert np.array_equal(crop.inside[0, 0].sum(axis=0) > 0, np.arange(60) - 19.5 >= -0.5)
    image = crop.image[0]
    for u in (2, 10, 17):
        assert np.abs(image[:, :, u] - image[:, :, 39 - u]).max() < 2e-3


def test_a_crop_much_larger_than_a_tiny_photo() -> None:
    pixels = np.full((1, 3, 3), 200, np.uint8)
    crop = crop_photo(pixels, align_quad(square((1, 0), 11), (1, 3), 22))
    assert np.allclose(crop.image, 200 / 127.5 - 1, atol=1e-5)
    assert crop.inside.sum() == 6 * 2


@given(
    height=st.integers(2, 70),
    width=st.integers(1, 70),
    size=st.integers(4, 40),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    scale=st.floats(0.2, 3.9),
    degrees=st.floats(-180, 180),
    wide=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_crop_stays_in_range(
    height: int, width: int, size: int, where: tuple[float, float], scale: float, degrees: float, wide: bool
) -> None:
    dtype = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(height).integers(0, np.iinfo(dtype).max + 1, (height, width, 3)).astype(dtype)
    side = max(4.5, scale * max(height, width))
    centre = (where[0] * (width - 1), where[1] * (height - 1))
    alignment = align_quad(square(centre, side, degrees), (height, width), size)
    crop = crop_photo(pixels, alignment)
    assert np.isfinite(crop.image).all()
    assert np.abs(crop.image).max() <= 1
    assert set(np.unique(crop.inside)) <= {0.0, 1.0}
    x0, y0, x1, y1 = alignment.photo_roi()
    assert 0 <= x0 <= x1 <= width
    assert 0 <= y0 <= y1 <= height


def test_both_ways_round_a_quad_are_understood() -> None:
    corners = square((50, 60), 40, 20)
    way, other_way = align_quad(corners, (100, 100), 32), align_quad(corners[[0, 3, 2, 1]], (100, 100), 32)
    assert np.allclose(way.matrix, other_way.matrix)
    assert np.allclose(way.quad, corners)


def test_a_nearly_square_quad_is_fitted() -> None:
    corners = square((50, 60), 40) + np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]])
    assert np.allclose(align_quad(corners, (100, 100), 32).quad, square((50, 60), 40), atol=1e-9)


@pytest.mark.parametrize(
    ("quad", "message"),
    [
        ([[0, 0], [0, 40], [80, 40], [80, 0]], "must be a square within 10% of its side"),
        ([[0, 0], [40, 40], [0, 40], [40, 0]], "must be a square|has a side of"),
        ([[5, 5], [5, 5], [5, 5], [5, 5]], "has a side of 0.0 px; 4 to 400 px"),
        ([[-900, 0], [-900, 40], [-860, 40], [-860, 0]], "lies outside the photo of 90 x 100"),
        ([[0, 0], [0, 900], [900, 900], [900, 0]], "has a side of 900.0 px"),
        ([[0, 0], [0, 40], [40, 40]], "takes four corners"),
        ([[0, 0], [0, float("nan")], [40, 40], [40, 0]], "takes four corners"),
    ],
)
def test_impossible_quads_are_explained(quad: list[list[float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        align_quad(quad, (100, 90), 32)


def test_center_and_precropped() -> None:
    alignment = align_center((60, 100), 30)
    assert np.allclose(alignment.quad[[0, 2]], [[19.5, -0.5], [79.5, 59.5]])
    assert alignment.photo_roi() == (20, 0, 80, 60)
    with pytest.raises(UsageError, match="precropped takes a square photo, but this one has 100 x 60"):
        align_precropped((60, 100), 30)


def test_misuse_is_explained() -> None:
    alignment: Alignment = align_center((60, 100), 30)
    with pytest.raises(UsageError, match="takes 68 finite landmarks"):
        align_ffhq(np.zeros((5, 2)), (60, 100), 30)
    with pytest.raises(UsageError, match="lie on one spot"):
        align_ffhq(np.full((68, 2), 7.0), (60, 100), 30)
    with pytest.raises(UsageError, match=r"made for a photo of \[60, 100\]"):
        crop_photo(np.zeros((100, 60, 3), np.uint8), alignment)
    with pytest.raises(UsageError, match=r"\[30,30,1..4\]"):
        warp_to_photo(np.zeros((31, 30, 3), np.float32), alignment, (0, 0, 5, 5))
