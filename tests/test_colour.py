"""Photos of other colour spaces: what the generator sees is sRGB, what the photo gets is its own."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import ImageCms

from data.alignment import align_precropped, crop_photo
from data.colour import colour_space
from data.photo import Photo
from editing.blend import METHODS, BlendSettings, Change, blend
from pipeline.schema import AlignConfig
from pipeline.stages import align

SIDE = 64


def wide_profile() -> bytes:
    """An ICC profile with Adobe RGB's primaries (D50-adapted) and a gamma of 2.2."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.19921875 * 256)) + bytes(2)
    primaries = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
    tags: dict[bytes, bytes] = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide\x00" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\x00",
        b"wtpt": _xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": _xyz(*primaries[0]),
        b"gXYZ": _xyz(*primaries[1]),
        b"bXYZ": _xyz(*primaries[2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    return header.ljust(128, b"\x00") + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_a_wide_space_is_told_apart_and_goes_there_and_back() -> None:
    space = colour_space(wide_profile())
    assert space is not None
    # The green of Adobe RGB lies beyond sRGB; a muted one is more colourful in sRGB's numbers.
    muted = np.array([[-0.2, 0.3, -0.2]], np.float32)
    seen = space.to_srgb(muted)
    assert seen[0, 1] - seen[0, 0] > 1.2 * (muted[0, 1] - muted[0, 0])
    grey = np.repeat(np.linspace(-1, 1, 41, dtype=np.float32)[:, None], 3, axis=1)
    assert np.ptp(space.to_srgb(grey), axis=1).max() < 2.5 / 127.5
    values = np.random.default_rng(0).uniform(-0.4, 0.6, (500, 3)).astype(np.float32)
    assert np.abs(space.to_srgb(space.from_srgb(values)) - values).mean() < 1 / 127.5


@pytest.mark.parametrize(
    "icc",
    [None, b"", b"broken", srgb_profile(), wide_profile()[:300]],
    ids=["none", "empty", "broken", "sRGB", "cut off"],  # a profile holds its date, and ids must be the same each time
)
def test_what_is_srgb_or_unreadable_is_left_alone(icc: bytes | None) -> None:
    assert colour_space(icc) is None


def test_profiles_of_other_models_are_left_alone() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert colour_space(lab) is None


def test_crops_are_srgb() -> None:
    pixels = np.full((SIDE, SIDE, 3), (102, 166, 102), np.uint8)
    config = AlignConfig(method="precropped")
    (plain,), (turned,) = (align(Photo(pixels, icc=icc), config, SIDE).crops for icc in (None, wide_profile()))
    assert np.array_equal(plain.image, crop_photo(pixels, align_precropped((SIDE, SIDE), SIDE)).image)
    space = colour_space(wide_profile())
    assert space is not None
    expected = space.to_srgb(pixels[:1, 0].astype(np.float32) / 127.5 - 1)
    assert turned.image[0, :, 9, 9] == pytest.approx(expected[0], abs=1e-5)
    assert turned.image[0, 1, 9, 9] - plain.image[0, 1, 9, 9] != pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("method", ["difference", "crop"])
def test_changes_arrive_in_the_photos_space(method: str) -> None:
    """The generator's green, which sRGB shows so, is a smaller number in a wide space."""
    photo = Photo(np.full((SIDE, SIDE, 3), 128, np.uint8), icc=wide_profile())
    before = np.zeros((SIDE, SIDE, 3), np.float32)
    after = before.copy()
    after[20:44, 20:44] = (-0.3, 0.3, -0.3)
    alignment = align_precropped((SIDE, SIDE), SIDE)
    settings = BlendSettings(method)  # type: ignore[arg-type]
    wide, plain = (
        blend(one, Change(alignment, before, after), settings).photo.pixels[32, 32].astype(int)
        for one in (photo, Photo(photo.pixels))
    )
    assert wide[1] - wide[0] < 0.85 * (plain[1] - plain[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_null_edit_changes_nothing_in_any_space(method: str) -> None:
    rng = np.random.default_rng(1)
    photo = Photo(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8), icc=wide_profile())
    picture = rng.uniform(-1, 1, (SIDE, SIDE, 3)).astype(np.float32)
    change = Change(align_precropped((SIDE, SIDE), SIDE), picture, picture.copy())
    outcome = blend(photo, change, BlendSettings(method, threshold=0))  # type: ignore[arg-type]
    assert np.array_equal(outcome.photo.pixels, photo.pixels)
