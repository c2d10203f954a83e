"""The way of a change back into the photo: what it leaves alone, where it ends, and that it arrives unharmed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.alignment import Alignment, align_center, align_precropped, align_quad, crop_photo
from data.errors import UsageError
from data.photo import Photo
from editing import blend_common
from editing.blend import METHODS, BlendOutcome, BlendSettings, Change, blend, edit_mask, rim_window

SIZE = 64
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


def random_photo(height: int, width: int, dtype: type = np.uint8, **fields: object) -> Photo:
    values = np.random.default_rng(height * 1000 + width).integers(0, np.iinfo(dtype).max + 1, (height, width, 3))
    return Photo(values.astype(dtype), **fields)


def turned_square(centre: tuple[float, float], side: float, degrees: float) -> NDArray[np.float64]:
    angle = math.radians(degrees)
    x = np.array([math.cos(angle), math.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array(centre) + np.array([-x - y, -x + y, x + y, x - y])


def spot(height: float, size: int = SIZE, radius: float = 0.12) -> NDArray[np.float32]:
    """[R,R,3] smooth hill of that height (in [-1,1] units) in the middle of the crop, exactly 0 away from it."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / (radius * size)
    hill = np.clip(1 - x**2 - y**2, 0, None) ** 2
    return np.repeat((height * hill)[..., None], 3, axis=2).astype(np.float32)


def blended(photo: Photo, alignment: Alignment, change: NDArray[np.float32], **options: object) -> BlendOutcome:
    start = np.zeros((alignment.size, alignment.size, 3), np.float32)
    mask = options.pop("mask_photo", None)
    settings = BlendSettings(**({"method": "difference"} | options))
    return blend(photo, Change(alignment, start, start + change, mask), settings)


@EVERY_METHOD
@given(
    height=st.integers(2, 90),
    width=st.integers(1, 90),
    wide=st.booleans(),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    scale=st.floats(0.2, 3.5),
    degrees=st.floats(-180, 180),
    size=st.sampled_from([8, 16, 33, 64]),
    seed=st.integers(0, 99),
    masked=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_nothing_outside_the_mask_changes(
    height: int,
    width: int,
    wide: bool,
    where: tuple[float, float],
    scale: float,
    degrees: float,
    size: int,
    seed: int,
    masked: bool,
    method: str,
) -> None:
    """Any size, depth and place, also faces partly outside of the photo."""
    rng = np.random.default_rng(seed)
    photo = random_photo(height, width, np.uint16 if wide and method != "poisson" else np.uint8)
    before = photo.pixels.copy()
    centre = (where[0] * (width - 1), where[1] * (height - 1))
    quad = turned_square(centre, max(4.5, scale * max(height, width)), degrees)
    alignment = align_quad(quad, (height, width), size)
    reconstruction = rng.uniform(-1.2, 1.2, (size, size, 3)).astype(np.float32)
    edited = (reconstruction + rng.normal(0, 0.3, (size, size, 3)) * (rng.random((size, size, 1)) < 0.1)).astype(
        np.float32
    )
    user = (rng.random((height, width)) < 0.5).astype(np.float32) if masked else None
    change = Change(alignment, reconstruction, edited, user)
    outcome = blend(photo, change, BlendSettings(method, feather=0.05))
    assert np.array_equal(photo.pixels, before)
    assert outcome.photo.pixels.dtype == photo.pixels.dtype
    assert outcome.mask.dtype == np.float32
    assert outcome.mask.min() >= 0
    assert outcome.mask.max() <= 1
    untouched = outcome.mask == 0
    assert np.array_equal(outcome.photo.pixels[untouched], before[untouched])
    in_crop = alignment.to_crop(np.argwhere(~untouched)[:, ::-1])
    # A photo pixel larger than the crop's may overlap the crop while its centre lies outside.
    reach = 0 if alignment.photo_px_per_crop_px >= 1 else math.sqrt(0.5) / alignment.photo_px_per_crop_px
    assert ((in_crop > -0.5 - reach) & (in_crop < size - 0.5 + reach)).all()
    changed = (outcome.photo.pixels != before).any(axis=2)
    assert outcome.changed_fraction == pytest.approx(changed.mean())
    if user is not None:
        assert not outcome.mask[user == 0].any()


@EVERY_METHOD
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_null_edit_returns_the_input(dtype: type, method: str) -> None:
    photo = random_photo(80, 100, dtype)
    image = np.random.default_rng(0).uniform(-1.5, 1.5, (SIZE, SIZE, 3)).astype(np.float32)
    outcome = blend(photo, Change(align_center((80, 100), SIZE), image, image), BlendSettings(method, threshold=0.0))
    assert np.array_equal(outcome.photo.pixels, photo.pixels)
    assert outcome.changed_fraction == 0
    assert not outcome.mask.any()


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("side", [30, 64, 200])
def test_the_change_arrives_at_the_photos_depth(dtype: type, full: int, side: int) -> None:
    """On a grey of one half a change of h in [-1,1] units is h/2 of full brightness, at whatever magnification."""
    photo = Photo(np.full((side, side, 3), full // 2, dtype))
    outcome = blended(photo, align_precropped((side, side), SIZE), spot(0.4, radius=0.3))
    middle = outcome.photo.pixels[side // 2, side // 2].astype(float) - full // 2
    assert middle == pytest.approx(np.full(3, 0.2 * full), rel=0.03)
    levels = len(np.unique(outcome.photo.pixels))
    assert levels > (300 if dtype == np.uint16 and side == 200 else 10)


@pytest.mark.parametrize("sign", [-1, 1])
def test_values_are_rounded_and_never_wrap(sign: int) -> None:
    photo = Photo(np.full((SIZE, SIZE, 3), 250 if sign > 0 else 5, np.uint8))
    outcome = blended(photo, align_precropped((SIZE, SIZE), SIZE), spot(sign * 0.9))
    assert outcome.photo.pixels[32, 32].tolist() == [255 if sign > 0 else 0] * 3
    # 0.0198 * 127.5 = 2.52 levels: truncation would give 2.
    flat = np.full((SIZE, SIZE, 3), sign * 0.0198, np.float32)
    outcome = blended(
        Photo(np.full((SIZE, SIZE, 3), 100, np.uint8)), align_center((SIZE, SIZE), SIZE), flat, threshold=0
    )
    assert outcome.photo.pixels[32, 32].tolist() == [100 + sign * 3] * 3


def test_the_inversion_error_cancels() -> None:
    """The photo differs from the reconstruction everywhere, but only the edit is carried over."""
    photo = random_photo(128, 128)
    alignment = align_precropped((128, 128), SIZE)
    wrong = np.random.default_rng(5).uniform(-0.5, 0.5, (SIZE, SIZE, 3)).astype(np.float32)
    outcome = blend(photo, Change(alignment, wrong, wrong + spot(0.3)), BlendSettings("difference"))
    plain = blended(photo, alignment, spot(0.3))
    difference = outcome.photo.pixels.astype(int) - plain.photo.pixels
    assert np.abs(difference).max() <= 1
    assert 0 < outcome.changed_fraction < 0.2


def test_a_turned_crop_puts_the_change_where_it_belongs() -> None:
    photo = Photo(np.full((300, 400, 3), 100, np.uint8))
    alignment = align_quad(turned_square((260, 120), 150, 33), (300, 400), SIZE)
    moved = np.roll(spot(0.8, radius=0.08), (10, -14), axis=(0, 1))
    outcome = blended(photo, alignment, moved)
    gain = outcome.photo.pixels[..., 0].astype(float) - 100
    y, x = np.mgrid[:300, :400]
    found = np.array([(gain * x).sum(), (gain * y).sum()]) / gain.sum()
    expected = alignment.to_photo([[31.5 - 14, 31.5 + 10]])[0]
    assert np.hypot(*(found - expected)) < 0.2
    back = crop_photo(outcome.photo.pixels, alignment).image[0].transpose(1, 2, 0) - (100 / 127.5 - 1)
    assert np.abs(back - moved).max() < 0.03


def test_the_mask_covers_the_edit_and_falls_off_smoothly() -> None:
    difference = spot(0.5, size=128) / 2
    mask = edit_mask(difference, feather=0.04, threshold=0.02)
    moved = np.abs(difference).max(axis=2) > 0.02
    assert mask[moved].min() > 0.95
    assert mask[64, 64] == 1
    assert mask[0].max() == mask[:, -1].max() == 0
    # A step of one pixel never exceeds the slope of the Gaussian's edge, 1 / (sigma * sqrt(2 pi)), sigma = 0.02 * R.
    assert np.abs(np.diff(mask, axis=0)).max() < 1.1 / (0.02 * 128 * math.sqrt(2 * math.pi))
    reach = np.argwhere(mask > 0)
    edge = np.argwhere(moved)
    assert np.abs(reach.min(axis=0) - edge.min(axis=0)).max() <= 0.04 * 128 + 3 * 0.02 * 128 + 1
    assert not edit_mask(difference, feather=0.04, threshold=0.3).any()


@pytest.mark.parametrize("side", [16, 33, 64, 256])
def test_an_edit_of_the_whole_crop_ends_before_its_rim(side: int) -> None:
    mask = edit_mask(np.full((side, side, 3), 0.5, np.float32), feather=0.04, threshold=0.02)
    for rim in (mask[:3], mask[-3:], mask[:, :3], mask[:, -3:]):
        assert not rim.any()
    assert mask[side // 2, side // 2] == 1
    window = rim_window(side, 0.04)
    assert np.array_equal(window, window.T)
    assert (np.diff(window[side // 2, : side // 2]) >= 0).all()


def test_no_seam_where_an_edit_of_the_whole_crop_ends() -> None:
    photo = Photo(np.full((400, 400, 3), 20_000, np.uint16))
    alignment = align_quad(turned_square((200, 200), 250, 20), (400, 400), SIZE)
    pixels = blended(photo, alignment, np.full((SIZE, SIZE, 3), 0.4, np.float32)).photo.pixels.astype(int)
    assert pixels.max() - 20_000 == pytest.approx(0.2 * 65535, rel=0.01)
    # The ramp of 5 crop pixels (20 photo pixels) rises by at most 1.5 / 20 of the change in one photo pixel.
    step = max(np.abs(np.diff(pixels, axis=axis)).max() for axis in (0, 1))
    assert step < 1.25 * 1.5 / 20 * 0.2 * 65535


def test_the_users_mask_limits_the_edit() -> None:
    photo = random_photo(100, 100)
    half = np.zeros((100, 100), np.float32)
    half[:, :50] = 1
    alignment = align_center((100, 100), SIZE)
    free, limited = blended(photo, alignment, spot(0.5)), blended(photo, alignment, spot(0.5), mask_photo=half)
    assert np.array_equal(limited.photo.pixels[:, :50], free.photo.pixels[:, :50])
    assert np.array_equal(limited.photo.pixels[:, 50:], photo.pixels[:, 50:])
    assert not limited.mask[:, 50:].any()
    assert 0 < limited.changed_fraction < free.changed_fraction


def test_grey_stays_grey_and_alpha_stays() -> None:
    grey = Photo(np.full((SIZE, SIZE, 3), 90, np.uint8), mode="L")
    change = spot(0.5) * np.array([1.0, 0.2, -0.4], np.float32)
    pixels = blended(grey, align_center((SIZE, SIZE), SIZE), change).photo.pixels
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    # The hill's top lies between pixels: 0.983 of it is seen.
    assert pixels.max() == round(90 + 0.983 * 0.5 * 127.5 * (0.2126 + 0.7152 * 0.2 - 0.0722 * 0.4))
    alpha = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    photo = random_photo(SIZE, SIZE, alpha=alpha, icc=b"icc")
    outcome = blended(photo, align_center((SIZE, SIZE), SIZE), change)
    assert np.array_equal(outcome.photo.alpha, alpha)
    assert outcome.photo.icc == b"icc"
    premultiplied = Photo(np.zeros((SIZE, SIZE, 3), np.uint8), alpha=np.zeros((SIZE, SIZE), np.uint8), mode="RGBa")
    assert blended(premultiplied, align_center((SIZE, SIZE), SIZE), spot(0.5)).changed_fraction == 0


@pytest.mark.parametrize("method", ["flow", "difference"])
def test_working_in_bands_makes_no_difference(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    photo = random_photo(120, 140, np.uint16)
    alignment = align_quad(turned_square((60, 70), 100, 15), (120, 140), SIZE)
    whole = blended(photo, alignment, spot(0.6), method=method)
    monkeypatch.setattr(blend_common, "BAND_PIXELS", 300)
    banded = blended(photo, alignment, spot(0.6), method=method)
    assert np.abs(banded.photo.pixels.astype(int) - whole.photo.pixels).max() <= 1
    assert banded.changed_fraction == pytest.approx(whole.changed_fraction, abs=1e-3)
    assert np.abs(banded.mask - whole.mask).max() < 1e-5


def test_misuse_is_explained() -> None:
    photo, alignment = random_photo(60, 50), align_center((60, 50), SIZE)
    image = np.zeros((SIZE, SIZE, 3), np.float32)

    def carried(photo: Photo, edited: NDArray[np.float32], mask: NDArray[np.float32] | None = None) -> None:
        blend(photo, Change(alignment, image, edited, mask))

    with pytest.raises(UsageError, match=r"The edited must be finite and \[64,64,3\], but it is \[32, 32, 3\]"):
        carried(photo, image[:32, :32])
    with pytest.raises(UsageError, match="must be finite"):
        carried(photo, image + np.float32(np.nan))
    with pytest.raises(UsageError, match=r"made for a photo of \[60, 50\] \(H, W\), but this one has \[50, 60\]"):
        carried(random_photo(50, 60), image)
    with pytest.raises(UsageError, match=r"mask must have the photo's size \[60, 50\]"):
        carried(photo, image, np.ones((50, 60), np.float32))
