"""Retouched JPEGs: what an edit does not touch keeps its coefficients, and decodes bit by bit as before."""

import contextlib
import io
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jpeglib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from data import jpeg_blocks
from data.jpeg_blocks import BlocksNotKeptError, retouched_jpeg
from data.metadata import stored_exif, stored_xmp, upright_exif, upright_xmp
from data.photo import Photo, encode_photo, read_photo, write_photo
from data.photo_decode import decode_photo, turn_upright
from pipeline.artifacts import StageWriter
from pipeline.outputs import BLEND, Blended
from tests.test_photo import ICC, XMP, exif_block, smooth, source_types

STEPS_YX = {0: (1, 1), 1: (1, 2), 2: (2, 2)}
"""Luma samples for each chroma sample, by Pillow's number of the subsampling."""


def detailed(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """A picture with areas, edges and texture, [H,W] for one channel."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = pixels + random.integers(-12, 13, (height, width, 1))
    return pixels.clip(0, 255).astype(np.uint8)[..., 0 if channels == 1 else slice(None)]


def jpeg(pixels: NDArray[np.uint8], **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    """[H,W,C] as stored, without regard to the orientation."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def coefficients(data: bytes, folder: Path) -> tuple[list[NDArray[np.int16]], list[list[list[int]]], list[list[int]]]:
    """Coefficients [rows, columns, 8, 8] and quantisation tables of each component, and the sampling factors."""
    path = folder / "coefficients.jpg"
    path.write_bytes(data)
    read = jpeglib.read_dct(str(path))
    planes = [plane for plane in (read.Y, read.Cb, read.Cr) if plane is not None]
    return planes, [read.qt[number].tolist() for number in read.quant_tbl_no], read.samp_factor.tolist()


def touched_mcus(before: NDArray, wanted: NDArray, step_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """[rows, columns] of the MCUs in which a pixel differs, one by one."""
    height, width = before.shape[:2]
    side_y, side_x = 8 * step_yx[0], 8 * step_yx[1]
    touched = np.zeros((-(-height // side_y), -(-width // side_x)), bool)
    for row, column in np.ndindex(touched.shape):
        area = np.s_[row * side_y : (row + 1) * side_y, column * side_x : (column + 1) * side_x]
        touched[row, column] = (before[area] != wanted[area]).any()
    return touched


def pixels_of(touched: NDArray[np.bool_], shape_hw: tuple[int, int], step_yx: tuple[int, int], rim: int) -> NDArray:
    """[H,W] of the pixels in touched MCUs, or up to `rim` away along the directions of subsampled chroma."""
    side_y, side_x = 8 * step_yx[0], 8 * step_yx[1]
    rim_y, rim_x = (rim if step > 1 else 0 for step in step_yx)
    mask = np.zeros(shape_hw, bool)
    for row, column in np.argwhere(touched):
        top, left = max(row * side_y - rim_y, 0), max(column * side_x - rim_x, 0)
        mask[top : (row + 1) * side_y + rim_y, left : (column + 1) * side_x + rim_x] = True
    return mask


def assert_kept(source: bytes, result: bytes, touched: NDArray, step_yx: tuple[int, int], folder: Path) -> None:
    """Tables, sampling and untouched coefficients are equal, and so are the pixels outside the rim of one pixel."""
    before, tables, factors = coefficients(source, folder)
    after, tables_after, factors_after = coefficients(result, folder)
    assert (tables_after, factors_after) == (tables, factors)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        per_mcu = step_yx if number == 0 else (1, 1)
        blocks = touched.repeat(per_mcu[0], axis=0).repeat(per_mcu[1], axis=1)[: old.shape[0], : old.shape[1]]
        assert np.array_equal(old[~blocks], new[~blocks])
    old_pixels, new_pixels = decoded(source), decoded(result)
    outside = ~pixels_of(touched, old_pixels.shape[:2], step_yx, rim=1)
    assert np.array_equal(old_pixels[outside], new_pixels[outside])


def squared_error(first: NDArray, second: NDArray, where: NDArray[np.bool_]) -> float:
    return float(((first.astype(float) - second) ** 2)[where].mean())


def compressed_anew(source: bytes, wanted: NDArray[np.uint8], subsampling: int) -> NDArray[np.uint8]:
    """What today's encoders make of the new pixels with the tables and the subsampling of the source."""
    tables = Image.open(io.BytesIO(source)).quantization
    pixels = wanted[..., 0] if wanted.shape[2] == 1 else wanted
    options = {"subsampling": subsampling} if wanted.shape[2] == 3 else {}
    return decoded(jpeg(pixels, qtables=tables, quality=-1, **options))


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.sampled_from([1, 3, 3, 3]),
    subsampling=st.sampled_from([0, 1, 2]),
    quality=st.integers(25, 100),
    progressive=st.booleans(),
    restart=st.sampled_from([0, 1, 3]),
    orientation=st.integers(1, 8),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    change=st.sampled_from(["shift", "noise", "flat"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_what_an_edit_does_not_touch_is_kept(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    channels: int,
    subsampling: int,
    quality: int,
    progressive: bool,
    restart: int,
    orientation: int,
    corner: tuple[float, float],
    extent: tuple[int, int],
    change: str,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("photo")
    options: dict = {"quality": quality, "progressive": progressive, "restart_marker_blocks": restart}
    options |= {"exif": b"Exif\x00\x00" + exif_block(orientation), "icc_profile": ICC, "xmp": XMP, "dpi": (300, 200)}
    if channels == 3:
        options["subsampling"] = subsampling
    source = jpeg(detailed(*size, channels, seed), **options)
    (folder / "photo.jpg").write_bytes(source)
    before = decoded(source)
    step_yx = STEPS_YX[subsampling] if channels == 3 else (1, 1)

    top, left = (int(place * (side - 1)) for place, side in zip(corner, size, strict=True))
    area = np.s_[top : top + extent[0], left : left + extent[1]]
    wanted = before.copy()
    random = np.random.default_rng(seed)
    wanted[area] = {
        "shift": np.clip(before[area].astype(int) + random.integers(-40, 41, channels), 0, 255),
        "noise": random.integers(0, 256, before[area].shape),
        "flat": random.integers(0, 256, channels),
    }[change]

    photo = read_photo(folder / "photo.jpg")
    upright = np.ascontiguousarray(turn_upright(wanted, orientation)).repeat(3 // channels, axis=2)
    reasons: list[str] = []
    result = encode_photo(photo.with_pixels(upright), edited=True, on_reencoded=reasons.append)
    assert reasons == []

    touched = touched_mcus(before, wanted, step_yx)
    assert_kept(source, result, touched, step_yx, folder)
    with Image.open(io.BytesIO(result)) as image:
        assert image.getexif()[274] == orientation
        assert image.getexif()[271] == "Camera"
        assert dict(image.getexif().get_ifd(0x8769)) == {0xA002: 30, 0xA003: 20}
        assert bool(image.info.get("progressive")) == progressive
        assert image.info["dpi"] == (300, 200)
        assert image.info["icc_profile"] == ICC
        assert b'tiff:Orientation="%d"' % (6 if orientation == 1 else orientation) in image.info["xmp"]
        assert source_types(image.info["xmp"])
    back = decode_photo(result, "result", 10_000)
    assert (back.exif, back.dpi, back.shape_hw) == (photo.exif, photo.dpi, photo.shape_hw)

    inside = pixels_of(touched, before.shape[:2], step_yx, rim=0)
    if inside.any():
        kept = squared_error(decoded(result), wanted, inside)
        anew = squared_error(compressed_anew(source, wanted, subsampling), wanted, inside)
        # In one or two blocks the rounding of the encoder and the neighbours' chroma decide; the next test sums many.
        assert kept <= 1.3 * anew + 0.5 + 64 / inside.sum()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [40, 75, 90])
def test_the_changed_pixels_come_as_near_as_by_compressing_anew(subsampling: int, quality: int) -> None:
    kept, anew = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        source = jpeg(detailed(90, 101, seed=seed), quality=quality, subsampling=subsampling)
        wanted = decoded(source).copy()
        top, left = random.integers(0, 60, 2)
        wanted[top : top + 27, left : left + 35] = random.integers(0, 256, (27, 1, 3))
        step_yx = STEPS_YX[subsampling]
        inside = pixels_of(touched_mcus(decoded(source), wanted, step_yx), (90, 101), step_yx, rim=0)
        kept.append(squared_error(decoded(retouched_jpeg(source, wanted, source)), wanted, inside))
        anew.append(squared_error(compressed_anew(source, wanted, subsampling), wanted, inside))
    assert sum(kept) < sum(anew)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2, None])
def test_an_unedited_jpeg_keeps_every_coefficient(tmp_path: Path, subsampling: int | None, progressive: bool) -> None:
    options = {} if subsampling is None else {"subsampling": subsampling}
    pixels = detailed(83, 131, 1 if subsampling is None else 3)
    source = jpeg(pixels, quality=88, progressive=progressive, optimize=True, **options)
    (tmp_path / "photo.jpg").write_bytes(source)
    write_photo(read_photo(tmp_path / "photo.jpg"), tmp_path / "out.jpg", edited=False, on_reencoded=pytest.fail)
    result = (tmp_path / "out.jpg").read_bytes()
    for old, new in zip(coefficients(source, tmp_path)[0], coefficients(result, tmp_path)[0], strict=True):
        assert np.array_equal(old, new)
    assert np.array_equal(decoded(source), decoded(result))
    assert len(result) < 1.02 * len(source)


@pytest.mark.parametrize("subsampling", [1, 2])
def test_chroma_reaches_one_pixel_beyond_the_touched_blocks_and_no_farther(tmp_path: Path, subsampling: int) -> None:
    step_yx = STEPS_YX[subsampling]
    source = jpeg(detailed(96, 96), quality=95, subsampling=subsampling)
    before = decoded(source)
    wanted = before.copy()
    wanted[32:64, 32:64] = (255, 0, 0)
    result = retouched_jpeg(source, wanted, source)
    touched = touched_mcus(before, wanted, step_yx)
    changed = (decoded(result) != before).any(axis=2)
    assert (changed & ~pixels_of(touched, (96, 96), step_yx, rim=0)).any(), "the rim is there"
    assert not (changed & ~pixels_of(touched, (96, 96), step_yx, rim=1)).any()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [75, 95, 100])
def test_a_soft_edit_loses_less_than_compressing_anew(subsampling: int, quality: int) -> None:
    source = jpeg(detailed(160, 160), quality=quality, subsampling=subsampling)
    before = decoded(source)
    y, x = np.mgrid[:160, :160]
    weight = np.clip(1.2 - np.hypot(y - 80, x - 80) / 40, 0, 1)[..., None]
    wanted = np.rint(before + weight * (np.roll(before, 2, 1).astype(float) - before)).astype(np.uint8)
    inside = pixels_of(touched_mcus(before, wanted, STEPS_YX[subsampling]), (160, 160), STEPS_YX[subsampling], rim=0)
    kept = squared_error(decoded(retouched_jpeg(source, wanted, source)), wanted, inside)
    anew = squared_error(compressed_anew(source, wanted, subsampling), wanted, inside)
    assert kept < (0.97 if subsampling else 1.0) * anew


def test_ten_edits_in_a_row_leave_the_rest_as_it_was(tmp_path: Path) -> None:
    first = current = jpeg(detailed(64, 96), quality=85, subsampling=2)
    for number in range(10):
        wanted = decoded(current).copy()
        wanted[17:30, 18:40] = (20 * number, 100, 200)
        current = retouched_jpeg(current, wanted, current)
    touched = np.zeros((4, 6), bool)
    touched[1, 1:3] = True
    assert_kept(first, current, touched, (2, 2), tmp_path)


def test_the_thumbnail_is_unlinked_and_segments_are_those_of_the_header() -> None:
    source = jpeg(smooth(40, 40), exif=b"Exif\x00\x00" + exif_block(6), comment=b"of the source")
    header = jpeg(smooth(8, 8), comment=b"of the header", icc_profile=ICC * 300)
    result = Image.open(io.BytesIO(retouched_jpeg(source, decoded(source), header)))
    assert result.info["comment"] == b"of the header"
    assert result.info["icc_profile"] == ICC * 300, "several segments"
    assert "exif" not in result.info


@pytest.mark.parametrize("orientation", range(1, 9))
def test_metadata_is_turned_back(orientation: int) -> None:
    upright, found = upright_exif(exif_block(orientation))
    assert found == orientation
    stored = stored_exif(upright, orientation)
    assert stored is not None
    unlinked = bytearray(exif_block(orientation))
    unlinked[46:50] = bytes(4)
    assert stored == bytes(unlinked)
    assert (stored_exif(b"II*\x00junk", orientation) is None) == (orientation != 1)
    packet = XMP.replace(b'"6"', b'"%d"' % orientation)
    assert stored_xmp(upright_xmp(packet), orientation) == packet


def patched_frame(data: bytes, offset: int, value: int, size: int = 1) -> bytes:
    """A baseline JPEG with bytes of its frame header, counted from the marker, replaced."""
    at = data.index(b"\xff\xc0") + offset
    return data[:at] + value.to_bytes(size, "big") + data[at + size :]


BASE = jpeg(smooth(40, 48), subsampling=2, quality=80)
UNUSABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "arithmetic": (lambda: patched_frame(BASE, 1, 0xC9), r"coding \(SOF9\)"),
    "lossless": (lambda: patched_frame(BASE, 1, 0xC3), r"coding \(SOF3\)"),
    "twelve bits": (lambda: patched_frame(BASE, 4, 12), "3 components of 12 bits"),
    "three to one": (lambda: patched_frame(BASE, 11, 0x31), "sampled unusually"),
    "more chroma than luma": (lambda: patched_frame(BASE, 11, 0x11).replace(b"\x02\x11", b"\x02\x22"), "unusually"),
    "another size": (lambda: patched_frame(BASE, 5, 41, 2), r"\[41, 48, 3\] uint8, but the new ones \[40, 48, 3\]"),
    "cmyk": (lambda: jpeg(np.dstack([smooth(40, 48), smooth(40, 48)[..., :1]])), "4 components of 8 bits"),
    "grey": (lambda: jpeg(smooth(40, 48)[..., 0]), r"\[40, 48, 1\] uint8, but"),
    "rgb": (lambda: jpeg(smooth(40, 48), keep_rgb=True), "are RGB, not YCbCr"),
    "nothing": (lambda: b"", "no frame header"),
    "no steps": (
        lambda: BASE[: BASE.index(b"\xff\xdb") + 9] + b"\x00" + BASE[BASE.index(b"\xff\xdb") + 10 :],
        "holds 0",
    ),
    "no jpeg": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(50), "no frame header"),
    "header only": (lambda: BASE[: BASE.index(b"\xff\xc0") + 8], "incomplete|no frame header"),
    "half": (lambda: BASE[:-60], "cannot be decoded"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_kept_is_refused_with_a_reason(name: str) -> None:
    make, reason = UNUSABLE[name]
    if name == "cmyk":
        out = io.BytesIO()
        Image.new("CMYK", (48, 40)).save(out, "JPEG")
        source = out.getvalue()
    else:
        source = make()
    with pytest.raises(BlocksNotKeptError, match=reason):
        retouched_jpeg(source, smooth(40, 48), BASE)


@given(
    places=st.lists(st.integers(2, len(BASE) - 1), min_size=1, max_size=12), values=st.binary(min_size=12, max_size=12)
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_damage_is_refused_or_kept_but_nothing_else(places: list[int], values: bytes) -> None:
    damaged = bytearray(BASE)
    for place, value in zip(places, values, strict=False):
        damaged[place] = value
    with contextlib.suppress(BlocksNotKeptError):
        assert decoded(retouched_jpeg(bytes(damaged), smooth(40, 48), BASE)).shape == (40, 48, 3)


def test_a_file_that_decodes_otherwise_is_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    other = jpeg(255 - smooth(40, 48), subsampling=2, quality=80)
    monkeypatch.setattr(jpeg_blocks, "write_coefficients", lambda *_: other)
    with pytest.raises(BlocksNotKeptError, match="decodes otherwise where nothing was changed"):
        retouched_jpeg(BASE, decoded(BASE), BASE)


def test_photos_without_their_file_are_compressed_anew_and_told(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(smooth(40, 48), exif=b"Exif\x00\x00" + exif_block(6)))
    photo = read_photo(path)
    no_exif = replace(photo, exif=None)
    grey_path = tmp_path / "grey.jpg"
    grey_path.write_bytes(jpeg(smooth(40, 48)[..., 0]))
    coloured = read_photo(grey_path).with_pixels(smooth(40, 48))
    cases: list[tuple[Photo, str]] = [
        (replace(photo, path=None), "was not read from a file"),
        (no_exif, "cannot say how its pixels are turned"),
        (coloured, r"but the new ones [40, 48, 3]"),
        (photo, "cannot be read any more"),
        (photo, "has changed since it was read"),
    ]
    for number, (case, expected) in enumerate(cases):
        if number == 3:
            path.unlink()
        if number == 4:
            path.write_bytes(BASE)
        reasons: list[str] = []
        back = decode_photo(encode_photo(case, edited=True, on_reencoded=reasons.append), "x", 10_000)
        assert len(reasons) == 1 and expected in reasons[0]
        assert back.orientation == 1
        assert back.shape_hw == case.shape_hw
        assert np.abs(back.pixels.astype(int) - case.pixels).mean() < 6
        assert encode_photo(case, edited=True), "nobody has to listen"
    reasons = []
    encode_photo(photo, edited=True, format="PNG", on_reencoded=reasons.append)
    assert reasons == []


def test_threads_do_not_disturb_each_other() -> None:
    sources = [jpeg(detailed(64, 64 + 8 * number, seed=number), progressive=number % 2 == 0) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda source: retouched_jpeg(source, decoded(source), source), sources))
    for source, result in zip(sources, results, strict=True):
        assert np.array_equal(decoded(source), decoded(result))


@pytest.mark.parametrize("file_is_there", [True, False])
def test_the_result_of_a_run_keeps_blocks_or_says_why_not(tmp_path: Path, file_is_there: bool) -> None:
    source = jpeg(detailed(64, 64), quality=80, subsampling=2)
    (tmp_path / "photo.jpg").write_bytes(source)
    photo = read_photo(tmp_path / "photo.jpg")
    wanted = photo.pixels.copy()
    wanted[20:30, 20:30] //= 2
    if not file_is_there:
        (tmp_path / "photo.jpg").unlink()
    blended = Blended(photo.with_pixels(wanted), photo.to_u8(), np.zeros((64, 64), np.float32), 0.02, None, 95)
    folder = tmp_path / "blend"
    folder.mkdir()
    BLEND.save(StageWriter(folder), blended)
    facts = BLEND.facts(BLEND.load(folder))
    if file_is_there:
        assert_kept(
            source, (folder / "result.jpg").read_bytes(), touched_mcus(photo.pixels, wanted, (2, 2)), (2, 2), tmp_path
        )
        assert facts["reencoded"] is None
    else:
        assert "cannot be read any more" in facts["reencoded"]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2, None])
@pytest.mark.parametrize("values", [1, 16 * 5 * 3, 16 * 203 * 3 * 2])
def test_bands_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int, subsampling: int | None, progressive: bool
) -> None:
    """Bands of one row of MCUs, worked on MCU by MCU, and bands of two: touched MCUs lie at both sides of borders."""
    step_yx, channels = (1, 1) if subsampling is None else STEPS_YX[subsampling], 1 if subsampling is None else 3
    options = {} if subsampling is None else {"subsampling": subsampling}
    source = jpeg(detailed(101, 203, channels), quality=90, progressive=progressive, **options)
    before = decoded(source)
    wanted = before.copy()
    random = np.random.default_rng(5)
    # Two whole MCUs at a border, one pixel at each side of another, the last corner, and a single grey step.
    wanted[16:48, 32:64] = random.integers(0, 256, (32, 32, channels))
    wanted[79:81, 150] = 255 - wanted[79:81, 150]
    wanted[95:, 190:] = 17
    wanted[64, 0] ^= 1
    whole = retouched_jpeg(source, wanted, source)
    monkeypatch.setattr(jpeg_blocks, "BAND_VALUES", values)
    result = retouched_jpeg(source, wanted, source)
    assert np.abs(decoded(result).astype(int) - decoded(whole)).mean() < 0.01, "sums of floats may round otherwise"
    assert_kept(source, result, touched_mcus(before, wanted, step_yx), step_yx, tmp_path)


@pytest.mark.parametrize("place", [(31, 40), (32, 40), (39, 70), (100, 202), (0, 0)])
def test_a_pixel_that_decodes_otherwise_is_found_beside_every_border(
    monkeypatch: pytest.MonkeyPatch, place: tuple[int, int]
) -> None:
    """What must stay is compared in bands of one row of MCUs; only the touched MCUs and their rim may differ."""
    monkeypatch.setattr(jpeg_blocks, "BAND_VALUES", 1)
    source = jpeg(detailed(101, 203), quality=90, subsampling=2)
    frame = jpeg_blocks.read_frame(source)
    touched = np.zeros((7, 13), bool)
    touched[2, 3:5] = True
    digests = []
    for change in (0, 1):
        pixels = decoded(source).copy()
        pixels[place] ^= change
        digests.append(jpeg_blocks._digest_outside(Image.fromarray(pixels), touched, frame))
    inside = pixels_of(touched, (101, 203), (2, 2), rim=1)[place]
    assert (digests[0] == digests[1]) == inside


def test_no_room_to_put_pixels_aside_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jpeg_blocks.tempfile, "TemporaryFile", full)
    with pytest.raises(BlocksNotKeptError, match=r"cannot be put aside \(No space left"):
        retouched_jpeg(BASE, decoded(BASE), BASE)


def test_decoded_pictures_and_coefficients_are_never_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is larger than the photo, and libjpeg holds the coefficients once more while it reads and writes them."""
    held: dict[str, list[weakref.ref]] = {"decoded": [], "read_coefficients": []}

    def watch(name: str) -> None:
        make = getattr(jpeg_blocks, name)

        def made(*args: object) -> object:
            others = [ref() for other, refs in held.items() if other != name for ref in refs]
            assert all(other is None for other in others), f"something is still held where {name} begins"
            found = make(*args)
            held[name].append(weakref.ref(found))
            return found

        monkeypatch.setattr(jpeg_blocks, name, made)

    watch("decoded")
    watch("read_coefficients")
    write = jpeg_blocks.write_coefficients

    def written(*args: object) -> bytes:
        assert all(ref() is None for ref in held["decoded"])
        return write(*args)

    monkeypatch.setattr(jpeg_blocks, "write_coefficients", written)
    wanted = decoded(BASE).copy()
    wanted[10:20, 10:20] = 0
    retouched_jpeg(BASE, wanted, BASE)
    assert (len(held["decoded"]), len(held["read_coefficients"])) == (2, 1), "source and result, and the source's"
