"""Edits carried back as motion of the photo's own pixels, against photos that were moved for real."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data.alignment import Alignment, align_quad, crop_photo
from data.errors import UsageError
from data.light import from_linear, to_linear
from data.photo import Photo
from editing.blend import BlendOutcome, BlendSettings, Change, Guides, blend
from editing.flow import Field, blurred

SIDE_PX, CROP = 600, 128
QUAD = np.array([[80.0, 95.0], [55.0, 505.0], [465.0, 530.0], [490.0, 120.0]])
"""A square of 411 px, a little turned: one crop pixel is 3.2 photo pixels."""


def textured(height: int = SIDE_PX, width: int = SIDE_PX) -> NDArray[np.float64]:
    """[H, W, 3] in [0, 1] with detail down to single pixels."""
    rng = np.random.default_rng(3)
    layers = [s * blurred(rng.normal(0, 1, (height, width, 3)).astype(np.float32), s) for s in (0.7, 3, 10, 30)]
    picture = np.asarray(sum(layers), np.float64)
    return np.clip(0.5 + 0.17 * picture / picture.std(), 0, 1)


def moved(pixels: NDArray, reach_px: float = 11.0) -> NDArray:
    """The same photo with its middle moved to the left and up, smoothly."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    hill = np.exp(-((x - 270) ** 2 + (y - 310) ** 2) / (2 * 60.0**2))
    return cv2.remap(
        pixels, x + reach_px * hill, y + 0.6 * reach_px * hill, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def alignment() -> Alignment:
    return align_quad(QUAD, (SIDE_PX, SIDE_PX), CROP)


def crop_of(pixels: NDArray, softness: float = 0.0) -> Field:
    """[R, R, 3] as a generator might reconstruct it: softer."""
    crop = crop_photo(pixels, alignment()).image[0].transpose(1, 2, 0)
    return blurred(np.ascontiguousarray(crop), softness) if softness else np.ascontiguousarray(crop)


def error_in(outcome: BlendOutcome, wanted: NDArray, photo: Photo) -> float:
    """Mean error against the moved photo where it differs from the photo, in fractions of full brightness."""
    differs = (np.abs(wanted.astype(float) - photo.pixels).max(axis=2) / photo.max_value) > 0.02
    return float(np.abs(outcome.photo.pixels.astype(float) - wanted)[differs].mean() / photo.max_value)


def slopes(pixels: NDArray, where: NDArray) -> float:
    grey = pixels.astype(np.float32).mean(axis=2)
    energy = cv2.Sobel(grey, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1) ** 2
    return float(np.sqrt(energy[where].mean()))


@pytest.fixture(scope="module", params=[np.uint8, np.uint16])
def photo(request: pytest.FixtureRequest) -> Photo:
    full = np.iinfo(request.param).max
    return Photo(np.rint(textured() * full).astype(request.param))


@pytest.fixture(scope="module")
def change(photo: Photo) -> Change:
    return Change(alignment(), crop_of(photo.pixels, 0.6), crop_of(moved(photo.pixels), 0.6))


def test_the_photos_own_pixels_arrive_where_the_edit_moves_them(photo: Photo, change: Change) -> None:
    """Nearer to the photo that was really moved, and as sharp as the photo, where a pasted crop is soft."""
    wanted = moved(photo.pixels)
    ours, pasted = (blend(photo, change, BlendSettings(method)) for method in ("flow", "crop"))
    assert error_in(ours, wanted, photo) < 0.5 * error_in(pasted, wanted, photo)
    inside = ours.mask > 0.99
    before = slopes(photo.pixels, inside)
    assert 0.9 < slopes(ours.photo.pixels, inside) / before < 1.1
    assert slopes(pasted.photo.pixels, inside) / before < 0.6
    assert np.array_equal(ours.photo.pixels[ours.mask == 0], photo.pixels[ours.mask == 0])


def test_what_was_not_there_comes_from_the_generator(photo: Photo) -> None:
    """A bright bar with dark edges, such as teeth, appears in the picture of the edit only."""
    before = crop_of(photo.pixels)
    after = before.copy()
    after[60:68, 50:78] = 0.9
    after[[59, 68], 50:78] = -0.9
    found = blend(photo, Change(alignment(), before, after), BlendSettings()).photo.pixels
    at = np.rint(alignment().to_photo([[64.0, 63.5]])[0]).astype(int)
    assert found[at[1], at[0]].mean() / photo.max_value == pytest.approx(0.95, abs=0.12)


def test_smudges_beside_what_may_open_are_no_news(photo: Photo) -> None:
    before = crop_of(photo.pixels)
    after = before.copy()
    y, x = (np.mgrid[:CROP, :CROP] - 64) / 4
    after -= (0.7 * np.exp(-(x**2 + y**2) / 2))[..., None].astype(np.float32)
    openings = np.zeros((CROP, CROP), np.float32)
    at = np.rint(alignment().to_photo([[64.0, 64.0]])[0]).astype(int)
    here = np.s_[at[1] - 6 : at[1] + 7, at[0] - 6 : at[0] + 7]

    def darker(openings: Field | None) -> float:
        change = Change(alignment(), before, np.clip(after, -1, 1), openings=openings)
        pixels = blend(photo, change, BlendSettings()).photo.pixels
        return float((photo.pixels[here].astype(float) - pixels[here]).mean() / photo.max_value)

    assert darker(openings) < 0.3 * darker(None)
    assert darker(openings + 1) == pytest.approx(darker(None), abs=0.01)


def test_tints_of_whole_areas_are_left_out_unless_they_are_asked_for(photo: Photo) -> None:
    before = crop_of(photo.pixels)
    y, x = (np.mgrid[:CROP, :CROP] - 64) / 26
    tint = (0.3 * np.exp(-(x**2 + y**2) / 2))[..., None] * np.array([1.0, 0.2, -1.0])
    after = np.clip(before + tint, -1, 1).astype(np.float32)
    at = np.rint(alignment().to_photo([[64.0, 64.0]])[0]).astype(int)
    here = np.s_[at[1] - 8 : at[1] + 9, at[0] - 8 : at[0] + 9]

    def redder(**options: float | str) -> float:
        pixels = blend(photo, Change(alignment(), before, after), BlendSettings(**options)).photo.pixels
        gain = (pixels[here].astype(float) - photo.pixels[here]).mean(axis=(0, 1)) / photo.max_value
        return float(gain[0] - gain[2])

    assert abs(redder()) < 0.05
    assert redder(tint=1.0) == pytest.approx(0.3, abs=0.08)
    assert redder(tint=0.5) == pytest.approx(0.15, abs=0.05)
    assert redder(rest="all") == pytest.approx(0.3, abs=0.08)


def test_colours_of_the_whole_crop_show_no_border(photo: Photo) -> None:
    before = crop_of(photo.pixels)
    after = (before * np.float32(0.8) + np.float32(0.2)).astype(np.float32)
    pixels = blend(photo, Change(alignment(), before, after), BlendSettings(rest="all")).photo.pixels
    gain = (pixels.astype(float) - photo.pixels).mean(axis=2) / photo.max_value
    assert gain[310, 270] > 0.05
    smooth = cv2.GaussianBlur(gain, (0, 0), 4.0)
    # The ramp of 10 crop pixels is 32 photo pixels long.
    assert max(np.abs(np.diff(smooth, axis=axis)).max() for axis in (0, 1)) < 2.0 * 0.1 / 32


def test_motion_ends_softly_inside_a_hard_mask(photo: Photo, change: Change) -> None:
    half = np.zeros(photo.shape_hw, np.float32)
    half[:, 260:] = 1
    limited = blend(photo, Change(change.alignment, change.before, change.after, half), BlendSettings())
    assert np.array_equal(limited.photo.pixels[:, :260], photo.pixels[:, :260])
    gap = np.abs(limited.photo.pixels[:, 260].astype(float) - limited.photo.pixels[:, 259]).mean()
    usual = np.abs(photo.pixels[:, 260].astype(float) - photo.pixels[:, 259]).mean()
    assert gap < 1.15 * usual
    free = blend(photo, change, BlendSettings())
    assert 0.2 < limited.changed_fraction / free.changed_fraction < 0.8


def test_points_that_match_move_what_colours_cannot_tell() -> None:
    flat = Photo(np.full((SIDE_PX, SIDE_PX, 3), 120, np.uint8))
    flat.pixels[300:304] = 200  # one line: its motion along itself is not seen
    before = crop_of(flat.pixels)
    y, x = np.mgrid[50:80:5, 50:80:5]
    after_points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    guides = Guides(after_points + np.array([0.0, 3.0]), after_points)
    lifted = np.roll(before, -3, axis=0)
    outcome = blend(flat, Change(alignment(), before, lifted, None, guides), BlendSettings())
    column = outcome.photo.pixels[270:330, 270, 0].astype(float) - 120
    centre = float((column * np.arange(270, 330)).sum() / column.sum())
    assert centre == pytest.approx(301.5 - 3 * 3.2, abs=2.5)


def test_transparency_moves_with_its_pixels() -> None:
    pixels = np.rint(textured() * 255).astype(np.uint8)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    alpha = np.where((x - 270) ** 2 + (y - 310) ** 2 < 50**2, 255, 0).astype(np.uint8)
    photo = Photo(pixels, alpha=alpha, format="PNG", mode="RGBA")
    change = Change(alignment(), crop_of(pixels), crop_of(moved(pixels)))
    outcome = blend(photo, change, BlendSettings())
    assert outcome.photo.alpha is not None
    wanted = moved(alpha)
    apart = np.abs(outcome.photo.alpha.astype(int) - wanted) > 128
    assert apart.sum() < 0.25 * (np.abs(alpha.astype(int) - wanted) > 128).sum()
    still = outcome.mask == 0
    assert np.array_equal(outcome.photo.alpha[still], alpha[still])
    assert np.array_equal(photo.alpha, alpha)


def test_grey_stays_grey(change: Change) -> None:
    grey = np.repeat(np.rint(textured()[..., :1] * 255).astype(np.uint8), 3, axis=2)
    pixels = blend(Photo(grey, mode="L"), change, BlendSettings(rest="all")).photo.pixels
    assert (pixels == pixels[..., :1]).all()
    assert not np.array_equal(pixels, grey)


def test_premultiplied_pixels_never_exceed_their_alpha() -> None:
    pixels = np.rint(textured() * 255).astype(np.uint8)
    alpha = np.rint(np.linspace(0, 255, SIDE_PX)[None].repeat(SIDE_PX, axis=0)).astype(np.uint8)
    stored = np.rint(pixels * (alpha[..., None] / 255)).astype(np.uint8)
    photo = Photo(stored, alpha=alpha, format="TIFF", mode="RGBa")
    outcome = blend(photo, Change(alignment(), crop_of(pixels), crop_of(moved(pixels))), BlendSettings())
    assert outcome.photo.alpha is not None
    excess = outcome.photo.pixels.astype(int) - outcome.photo.alpha[..., None]
    assert np.percentile(excess, 99.9) <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_light_goes_there_and_back_bit_for_bit(dtype: type) -> None:
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(-1, 16)
    linear = to_linear(values)
    assert linear.dtype == np.float32
    assert (linear.min(), linear.max()) == (0, 1)
    assert (np.diff(linear.ravel()) > 0).all()
    assert np.array_equal(np.rint(from_linear(linear, int(values.max()))).astype(dtype), values)
    assert from_linear(to_linear(np.array([[128]], np.uint8)) * np.float32(0.5), 255) == pytest.approx(92.4, abs=0.5)


def test_unknown_settings_are_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"^blend\.method is glue; it must be one of flow, difference, poisson"):
        BlendSettings("glue")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^blend\.tint is 2; it must lie between 0 and 1\.$"):
        BlendSettings(tint=2)
    photo = Photo(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint16))
    change = Change(alignment(), np.zeros((CROP, CROP, 3), np.float32), np.ones((CROP, CROP, 3), np.float32))
    with pytest.raises(UsageError, match=r"^blend=poisson takes photos of 8 bits, and this one has 16"):
        blend(photo, change, BlendSettings("poisson"))


def test_faces_too_large_for_the_ways_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editing.blend_paste.MOST_PIXELS", 1000)
    photo = Photo(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8))
    change = Change(alignment(), np.zeros((CROP, CROP, 3), np.float32), np.ones((CROP, CROP, 3), np.float32))
    with pytest.raises(UsageError, match=r"^blend=laplacian takes faces of up to 0 MP"):
        blend(photo, change, BlendSettings("laplacian"))
