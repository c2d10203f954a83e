"""Formats and kinds of pixels: what is read, what is refused and how, and that nothing outside an edit changes."""

import builtins
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features

from data.errors import PhotoError
from data.photo import Photo, encode_photo, format_note, read_photo, suffix_for, write_photo
from data.photo_decode import decode_photo
from data.photo_heif import to_16_bits
from data.photo_type import read_suffixes
from tests.photo_sources import (
    ICC,
    IPTC,
    MAKER_SECRET,
    XMP,
    RawExif,
    camera_exif,
    encoded,
    jpeg,
    maker_secret,
    parsed_exif,
    resource,
    striped,
)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow has no AVIF")


def read(data: bytes) -> Photo:
    return decode_photo(data, "x", 20_000_000)


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> NDArray:
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels))
    return values.astype(dtype)


def heif(mode: str, values: NDArray, **options: object) -> bytes:
    """A lossless HEIC of values in that mode of pillow-heif."""
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    picture = pillow_heif.from_bytes(mode, values.shape[1::-1], values.tobytes())
    picture.save(out, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return out.getvalue()


def deep_avif(values: NDArray[np.uint16], bits: int) -> bytes:
    """A lossless AVIF of that many bits a channel."""
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    done, data = cv2.imencode(".avif", np.ascontiguousarray(values[..., [2, 1, 0, 3][: values.shape[2]]]), options)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("alpha", [False, True])
def test_heic_is_read_at_its_depth_and_leaves_as_png(tmp_path: Path, bits: int, alpha: bool) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    values = (noise(48, 64, 4 if alpha else 3, np.uint16) >> (16 - bits)).astype(dtype)
    values[0, 0], values[0, 1] = 0, (1 << bits) - 1
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(heif(("RGBA" if alpha else "RGB") + (f";{bits}" if bits > 8 else ""), values, icc_profile=ICC))
    photo = read_photo(path)
    assert (photo.format, photo.source_format, photo.pixels.dtype) == ("PNG", "HEIF", dtype)
    expected = values if bits == 8 else np.rint(values * (65535 / ((1 << bits) - 1))).astype(np.uint16)
    assert np.array_equal(photo.pixels, expected[..., :3])
    assert (photo.alpha is None) if not alpha else np.array_equal(photo.alpha, expected[..., 3])
    write_photo(photo, tmp_path / f"out{suffix_for(photo.format)}", edited=True)
    back = read_photo(tmp_path / "out.png")
    assert np.array_equal(back.pixels, photo.pixels)
    assert back.icc == ICC
    assert format_note(photo) == (
        f"HEIF is read but not written: the result is a PNG of {8 if bits == 8 else 16} bits without loss; "
        "blend.format=jpeg makes a smaller file."
    )
    assert format_note(photo, "JPEG") is None
    assert format_note(back) is None


def test_stretching_to_16_bits_merges_no_two_values() -> None:
    for bits in (10, 12):
        every = to_16_bits(np.arange(1 << bits, dtype=np.uint16), bits)
        assert every[0] == 0 and every[-1] == 65535
        assert (np.diff(every.astype(int)) > 0).all()


@pytest.mark.parametrize("bits", [8, 10])
def test_grey_heic_stays_grey(bits: int) -> None:
    values = noise(48, 64, 1, np.uint16)[..., 0] >> (16 - bits)
    photo = read(heif("L" if bits == 8 else f"L;{bits}", values.astype(np.uint8) if bits == 8 else values))
    assert photo.is_grey
    assert read(encode_photo(photo, edited=True)).is_grey


def turned(pixels: NDArray, orientation: int) -> NDArray:
    """Stored pixels -> upright ones, by the table of the EXIF standard."""
    across = pixels.swapaxes(0, 1)
    ways = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: across,
        6: across[:, ::-1],
        7: across[::-1, ::-1],
        8: across[::-1],
    }
    return ways.get(orientation, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once_by_its_container(orientation: int) -> None:
    pixels = striped(48, 64)
    data = heif("RGB", pixels, exif=b"Exif\x00\x00" + camera_exif(">", orientation), xmp=XMP)
    photo = read(data)
    assert np.array_equal(photo.pixels, turned(pixels, orientation))
    assert parsed_exif(photo.exif).get(274, 1) == 1
    assert photo.xmp == XMP
    block = read(encode_photo(photo, edited=True)).exif
    assert (parsed_exif(block)[271], maker_secret(block)) == ("Camera", MAKER_SECRET)


def test_what_exif_alone_says_of_heics_orientation_is_not_obeyed() -> None:
    upright, said = (camera_exif(">", orientation) for orientation in (1, 6))
    data = heif("RGB", striped(48, 64), exif=b"Exif\x00\x00" + upright)
    at = data.find(upright[10:20])
    if at < 0 or data[at - 10 :][: len(upright)] != upright:
        pytest.skip("this version of pillow-heif does not store the block as it was given")
    photo = read(data.replace(upright, said))
    assert photo.shape_hw == (48, 64)
    assert parsed_exif(photo.exif)[274] == 1


@needs_avif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_once_and_keeps_its_metadata(orientation: int) -> None:
    pixels = striped(48, 64)
    exif = RawExif(camera_exif(">", orientation), orientation)
    options: dict[str, Any] = {"quality": 100, "subsampling": "4:4:4", "exif": exif, "xmp": XMP, "icc_profile": ICC}
    photo = read(encoded(Image.fromarray(pixels), "AVIF", **options))
    assert np.abs(photo.pixels.astype(int) - turned(pixels, orientation)).max() <= 3
    assert (photo.format, photo.source_format, photo.icc, photo.xmp) == ("PNG", "AVIF", ICC, XMP)
    assert parsed_exif(photo.exif).get(274, 1) == 1
    assert (parsed_exif(photo.exif)[271], maker_secret(photo.exif)) == ("Camera", MAKER_SECRET)


@needs_avif
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_avif_keeps_all_its_bits(bits: int, channels: int) -> None:
    values = noise(48, 64, channels, np.uint16) >> (16 - bits)
    photo = read(deep_avif(values, bits))
    expected = np.rint(values * (65535 / ((1 << bits) - 1))).astype(np.uint16)
    off = np.abs(photo.pixels.astype(int) - expected[..., :3]).max()
    assert off <= 2 * 65535 / ((1 << bits) - 1), "the encoder's own loss, if any"
    assert len(np.unique(photo.pixels)) > 300, "more than 8 bits hold"
    assert photo.format == "PNG" and photo.source_format == "AVIF"
    assert (photo.alpha is None) == (channels == 3)


def test_colours_beyond_srgb_are_told_by_a_chunk_of_the_png() -> None:
    values = noise(48, 64, 3, np.uint16) >> 6
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    picture = pillow_heif.from_bytes("RGB;10", (64, 48), values.tobytes())
    picture.save(out, quality=-1, color_primaries=9, transfer_characteristics=16)
    photo = read(out.getvalue())
    assert photo.png_chunks == ((b"cICP", bytes([9, 16, 0, 1])),)
    assert read(encode_photo(photo, edited=True)).png_chunks == photo.png_chunks
    assert read(heif("RGB;10", values)).png_chunks == ()


def test_without_the_extra_one_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pillow_heif":
            raise ModuleNotFoundError("No module named 'pillow_heif'")
        return ordinary(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    path = tmp_path / "a.heic"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(99))
    with pytest.raises(PhotoError) as caught:
        read_photo(path)
    assert str(caught.value) == (
        "The photo 'a.heic' is a HEIC or HEIF file, whose reader is not installed: "
        'pip install "photodrag[heif]", or save it as a JPEG, PNG or TIFF.'
    )


def test_damaged_heic_and_large_heic_are_refused() -> None:
    whole = heif("RGB", noise(48, 64))
    for cut in (30, 200, len(whole) // 2):
        with pytest.raises(PhotoError, match=r"'x' is damaged or incomplete and cannot be decoded \(.*give an intact"):
            read(whole[:cut])
    with pytest.raises(PhotoError, match=r"has 64 x 48 pixels \(0 MP\), more than the limit"):
        decode_photo(whole, "x", 3000)


@pytest.mark.parametrize("format", ["HEIC", pytest.param("AVIF", marks=needs_avif)])
def test_damage_of_heic_and_avif_never_escapes_as_another_error(format: str) -> None:
    exif = camera_exif(">", 6)
    if format == "HEIC":
        whole = heif("RGB", striped(48, 64), exif=b"Exif\x00\x00" + exif, xmp=XMP, icc_profile=ICC)
    else:
        whole = encoded(Image.fromarray(striped(48, 64)), "AVIF", exif=RawExif(exif, 6), xmp=XMP, icc_profile=ICC)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            damaged[at] = random.integers(0, 256)
        try:
            back = read(bytes(damaged))
        except PhotoError:
            continue
        encode_photo(back, edited=True)


def test_folders_take_photos_of_every_format_that_is_read() -> None:
    assert {".jpg", ".png", ".tif", ".webp", ".heic", ".heif", ".avif"} <= set(read_suffixes())


def png(bits: int, colour_type: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, unfiltered rows."""
    header = struct.pack(">LLBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\x00" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body)) for kind, body in parts
    )


def ycck() -> bytes:
    """A JPEG that says it is YCCK (Adobe's transform 2)."""
    data = encoded(Image.fromarray(noise(9, 9)).convert("CMYK"), "JPEG")
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda rgb: encoded(rgb.convert("CMYK"), "JPEG"), "has the colour mode CMYK; photodrag edits RGB and grey"),
        (lambda rgb: encoded(rgb.convert("CMYK"), "TIFF"), "has the colour mode CMYK"),
        (lambda rgb: ycck(), "has the colour mode CMYK"),
        (lambda rgb: encoded(rgb.convert("LAB"), "TIFF"), "has the colour mode LAB"),
        (lambda rgb: encoded(rgb.convert("YCbCr"), "TIFF"), "has the colour mode YCbCr"),
        (lambda rgb: encoded(rgb.convert("F"), "TIFF"), "has the colour mode F"),
        (lambda rgb: encoded(rgb.convert("I"), "TIFF"), "has the colour mode I;"),
        (
            lambda rgb: cv2.imencode(".tif", np.ones((9, 9, 3), np.float32))[1].tobytes(),
            "The TIFF 'x' is damaged or stores its pixels in a way that cannot be read; save it as RGB or grey",
        ),
        (lambda rgb: encoded(rgb, "GIF"), "cannot be read as a JPEG, PNG, TIFF, WebP, HEIC or AVIF photo"),
        (lambda rgb: encoded(rgb, "JPEG2000"), "cannot be read as a JPEG, PNG, TIFF, WebP, HEIC or AVIF photo"),
        pytest.param(
            lambda rgb: encoded(rgb, "AVIF", save_all=True, append_images=[rgb.rotate(90)]),
            "is an animation",
            marks=needs_avif,
        ),
    ],
)
def test_kinds_that_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(PhotoError) as caught:
        read(make(Image.fromarray(noise(9, 9))))
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_kinds_that_are_read() -> None:
    """Other kinds of pixels become the nearest of grey, RGB and alpha; what becomes of each is in docs/formats.md."""
    rgb = Image.fromarray(noise(20, 30))
    palette = rgb.quantize(16)
    cases: list[tuple[bytes, str, NDArray, NDArray | None]] = [
        (encoded(palette, "PNG"), "P", np.asarray(palette.convert("RGB")), None),
        (encoded(palette, "TIFF"), "P", np.asarray(palette.convert("RGB")), None),
        (
            encoded(rgb.convert("1"), "TIFF", compression="group4"),
            "1",
            np.asarray(rgb.convert("1").convert("RGB")),
            None,
        ),
        (encoded(rgb.convert("RGBX"), "TIFF"), "RGB", np.asarray(rgb), None),
        (encoded(rgb, "TIFF", big_tiff=True), "RGB", np.asarray(rgb), None),
        (encoded(rgb, "TIFF", save_all=True, append_images=[rgb.convert("L")]), "RGB", np.asarray(rgb), None),
    ]
    grey_alpha = Image.fromarray(noise(20, 30, 2))
    for format in ("PNG", "TIFF"):
        values = np.asarray(grey_alpha)
        cases.append((encoded(grey_alpha, format), "LA", values[..., [0, 0, 0]], values[..., 1]))
    for bits, values in ((2, (255, 85, 0, 170)), (4, (221, 0))):
        row = bytes([0b11_01_00_10 if bits == 2 else 0b1101_0000])
        expected = np.repeat(np.array([values], np.uint8)[..., None], 3, axis=2)
        cases.append((png(bits, 0, [row], len(values)), "L", expected, None))
    deep = np.array([[1, 60000, 7]], np.uint16)
    row = deep.astype(">u2").tobytes()
    transparent = (b"tRNS", struct.pack(">H", 60000))
    cases.append((png(16, 0, [row], 3), "I;16", np.repeat(deep[..., None], 3, axis=2), None))
    alpha = np.array([[65535, 0, 65535]], np.uint16)
    cases.append((png(16, 0, [row], 3, transparent), "LA", np.repeat(deep[..., None], 3, axis=2), alpha))
    colour = (b"tRNS", struct.pack(">HHH", 1, 60000, 7))
    cases.append((png(16, 2, [row], 1, colour), "RGBA", deep.reshape(1, 1, 3), np.zeros((1, 1), np.uint16)))
    for data, mode, pixels, expected_alpha in cases:
        photo = read(data)
        assert (photo.mode, photo.pixels.dtype) == (mode, pixels.dtype)
        assert np.array_equal(photo.pixels, pixels), mode
        if expected_alpha is None:
            assert photo.alpha is None
        else:
            assert np.array_equal(photo.alpha, expected_alpha)
        back = read(encode_photo(photo, edited=True))
        assert np.array_equal(back.pixels, photo.pixels)
        assert back.is_grey == photo.is_grey
        assert back.mode == {"P": "RGB", "1": "L"}.get(mode, mode), "palettes leave as RGB, single bits as grey"


def test_a_turned_big_tiff_is_turned_once_at_either_depth() -> None:
    exif = Image.Exif()
    exif[274] = 6
    grey = noise(20, 30, 1, np.uint16)[..., 0]
    for stored in (striped(20, 30), grey):
        data = encoded(Image.fromarray(stored), "TIFF", big_tiff=True, exif=exif)
        photo = read(data)
        upright = np.rot90(stored, -1)
        assert np.array_equal(photo.pixels, upright if stored.ndim == 3 else np.repeat(upright[..., None], 3, axis=2))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (500, 16_000)])
def test_odd_shapes(format: str, shape: tuple[int, int]) -> None:
    pixels = striped(*shape)
    exif = camera_exif(orientation=1, thumbnail=jpeg(striped(9, 9)))
    photo = replace(Photo(pixels, format=format, exif=exif[:300]), has_thumbnail=True)
    back = read(encode_photo(photo, edited=True))
    assert back.shape_hw == shape
    if format in ("PNG", "TIFF"):
        assert np.array_equal(back.pixels, pixels)
    assert back.has_thumbnail == (format != "TIFF")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_panorama_and_its_metadata(format: str) -> None:
    photo = Photo(striped(500, 20_000), format=format, icc=ICC, xmp=XMP)
    if format == "WEBP":
        with pytest.raises(
            PhotoError, match="A WEBP photo has at most 16383 pixels a side, but this one has 20000 x 500"
        ):
            encode_photo(photo, edited=True)
        return
    back = read(encode_photo(photo, edited=True))
    assert back.shape_hw == (500, 20_000)
    assert back.icc == ICC


KINDS = {
    ("PNG", 8): ("L", "LA", "RGB", "RGBA", "P"),
    ("PNG", 16): ("I;16", "LA", "RGB", "RGBA"),
    ("TIFF", 8): ("L", "LA", "RGB", "RGBA", "RGBa", "P"),
    ("TIFF", 16): ("I;16", "RGB", "RGBA", "RGBa"),
    ("WEBP", 8): ("RGB", "RGBA"),
}


@given(
    kind=st.sampled_from([(format, bits, mode) for (format, bits), modes in KINDS.items() for mode in modes]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    icc=st.sampled_from([None, ICC, b"broken"]),
    tags=st.booleans(),
    data=st.data(),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_nothing_but_the_change_changes(
    kind: tuple[str, int, str],
    height: int,
    width: int,
    seed: int,
    icc: bytes | None,
    tags: bool,
    data: st.DataObject,
) -> None:
    """A file is read, a part of it set, and written: read again, that part is what was set, the rest is bit for bit."""
    format, bits, mode = kind
    dtype = np.uint8 if bits == 8 else np.uint16
    values = noise(height, width, 4, dtype, seed)
    grey, alpha = mode in ("L", "LA", "I;16"), mode in ("LA", "RGBA", "RGBa")
    if mode == "P":
        palette = Image.fromarray(values[..., :3]).quantize(7)
        source = encoded(palette, format)
    else:
        made = Photo(
            np.ascontiguousarray(values[..., [0, 0, 0]] if grey else values[..., :3]),
            alpha=values[..., 3].copy() if alpha else None,
            icc=icc,
            exif=camera_exif() if tags else None,
            xmp=XMP if tags else None,
            image_resources=resource(0x0404, IPTC) if tags else None,
            format=format,
            mode=mode,
        )
        source = encode_photo(made, edited=False)
    photo = read(source)
    assert photo.mode == mode or not (alpha or grey), "WebP leaves out an alpha that is opaque everywhere"
    height, width = photo.shape_hw  # the block of the camera turns the photo
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    part = (slice(top, data.draw(st.integers(top, height))), slice(left, data.draw(st.integers(left, width))))
    pixels = photo.pixels.copy()
    wanted = np.broadcast_to(noise(height, width, 1 if photo.is_grey else 3, dtype, seed + 1), pixels.shape)
    pixels[part] = wanted[part]
    back = read(encode_photo(photo.with_pixels(pixels), edited=True))
    outside = np.ones(photo.shape_hw, bool)
    outside[part] = False
    assert back.pixels.dtype == dtype
    assert np.array_equal(back.pixels[outside], photo.pixels[outside])
    assert np.array_equal(back.pixels[part], wanted[part])
    assert (back.alpha is None) == (photo.alpha is None)
    assert photo.alpha is None or np.array_equal(back.alpha, photo.alpha)
    assert (back.icc, back.exif, back.dpi) == (photo.icc, photo.exif, photo.dpi)
    assert (back.image_resources, back.premultiplied) == (photo.image_resources, photo.premultiplied)
    if tags and mode != "P":
        assert b'xmp:CreatorTool="Camera 1.2"' in back.xmp
