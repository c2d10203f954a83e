"""Photographs on disk: bit depth, orientation, metadata, damage, and what may be written where."""

import struct
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from data.errors import PhotoError
from data.metadata import AI_EDITED, IPTC_EXT, mark_ai_edited, upright_exif
from data.photo import Photo, encode_photo, read_photo, suffix_for, to_u8, write_photo
from data.photo_decode import decode_photo
from tests.photo_sources import IPTC, camera_exif, resource

LOSSLESS = ("PNG", "TIFF", "WEBP")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" dc:format="image/jpeg">'
    b'<dc:title>Ren\xc3\xa9e &amp; I</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> NDArray:
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels))
    return values.astype(dtype)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 % 256, y * 2 % 256, (x + y) % 256], axis=2).astype(np.uint8)


def exif_block(orientation: int) -> bytes:
    """A TIFF block by hand: Make, Orientation, an Exif directory with the pixel size, and a thumbnail directory."""
    first_at, exif_at, thumbnail_at, make_at = 8, 60, 100, 120
    block = bytearray(140)
    struct.pack_into("<2sHL", block, 0, b"II", 42, first_at)
    struct.pack_into("<H", block, first_at, 3)
    struct.pack_into("<HHLL", block, first_at + 2, 271, 2, 7, make_at)
    struct.pack_into("<HHLHH", block, first_at + 14, 274, 3, 1, orientation, 0)
    struct.pack_into("<HHLL", block, first_at + 26, 0x8769, 4, 1, exif_at)
    struct.pack_into("<L", block, first_at + 38, thumbnail_at)
    struct.pack_into("<H", block, exif_at, 2)
    struct.pack_into("<HHLHH", block, exif_at + 2, 0xA002, 3, 1, 30, 0)
    struct.pack_into("<HHLHH", block, exif_at + 14, 0xA003, 3, 1, 20, 0)
    struct.pack_into("<H", block, thumbnail_at, 0)
    block[make_at : make_at + 7] = b"Camera\x00"
    return bytes(block)


def saved(tmp_path: Path, image: Image.Image, format: str, **options: object) -> Path:
    path = tmp_path / f"photo.{format.lower()}"
    image.save(path, format, **options)
    return path


def source_types(xmp: bytes) -> list[str]:
    """Every IPTC digital source type that a parser finds in the packet."""
    name = f"{{{IPTC_EXT}}}DigitalSourceType"
    found = []
    for element in ElementTree.fromstring(xmp.decode()).iter():
        found += [element.attrib[name]] if name in element.attrib else []
        found += [element.text or ""] if element.tag == name else []
    return found


@pytest.mark.parametrize(
    ("format", "channels", "dtype"),
    [
        (format, channels, dtype)
        for format in ("PNG", "TIFF")
        for channels in (1, 2, 3, 4)
        for dtype in (np.uint8, np.uint16)
        # Nothing among the dependencies reads 16-bit grey TIFF with alpha.
        if (format, channels, dtype) != ("TIFF", 2, np.uint16)
    ],
)
def test_lossless_formats_keep_every_bit(tmp_path: Path, format: str, channels: int, dtype: type) -> None:
    values = noise(37, 53, channels, dtype)
    colours = values[..., [0, 0, 0]] if channels < 3 else values[..., :3]
    photo = Photo(
        np.ascontiguousarray(colours),
        alpha=np.ascontiguousarray(values[..., -1]) if channels in (2, 4) else None,
        format=format,
        mode={1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels],
    )
    path = tmp_path / f"out{suffix_for(format)}"
    write_photo(photo, path, edited=True)
    back = read_photo(path)
    assert back.pixels.dtype == dtype
    assert np.array_equal(back.pixels, photo.pixels)
    assert back.is_grey == (channels < 3)
    assert back.format == format
    assert (back.alpha is None) == (channels in (1, 3))
    if back.alpha is not None:
        assert np.array_equal(back.alpha, photo.alpha)
    assert source_types(back.xmp) == [AI_EDITED]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_other_programs_read_our_16_bits_and_we_theirs(tmp_path: Path, suffix: str, channels: int) -> None:
    values = noise(70, 41, channels, np.uint16)
    theirs = tmp_path / f"theirs{suffix}"
    order = [2, 1, 0, 3][:channels]
    assert cv2.imwrite(str(theirs), values[..., order])
    photo = read_photo(theirs)
    assert np.array_equal(photo.pixels, values[..., :3])
    ours = tmp_path / f"ours{suffix}"
    write_photo(photo, ours, edited=False)
    assert np.array_equal(cv2.imread(str(ours), cv2.IMREAD_UNCHANGED), values[..., order])
    with Image.open(ours) as image:
        image.load()
        assert image.size == (41, 70)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    wide=st.booleans(),
    alpha=st.booleans(),
    format=st.sampled_from(LOSSLESS),
    flat=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_photo_survives_encoding(height: int, width: int, wide: bool, alpha: bool, format: str, flat: bool) -> None:
    dtype = np.uint16 if wide and format != "WEBP" else np.uint8
    values = noise(height, width, 4, dtype) if not flat else np.zeros((height, width, 4), dtype)
    photo = Photo(values[..., :3].copy(), alpha=values[..., 3].copy() if alpha else None, format=format)
    back = decode_photo(encode_photo(photo, edited=False), "x", 10_000)
    assert np.array_equal(back.pixels, photo.pixels)
    # WebP does not store an alpha that is opaque everywhere.
    assert not alpha or (format == "WEBP" and values[..., 3].min() == 255) or np.array_equal(back.alpha, photo.alpha)
    assert back.xmp is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "PNG16", "TIFF16"])
def test_orientation_is_obeyed_and_written_as_1_but_for_jpeg(tmp_path: Path, format: str, orientation: int) -> None:
    container = format.removesuffix("16")
    stored, exif = smooth(20, 30), Image.Exif()
    exif[274], exif[271] = orientation, "Camera"
    if format.endswith("16"):
        photo = Photo(stored.astype(np.uint16) * 257, exif=exif.tobytes()[6:], format=container)
        path = tmp_path / f"photo{suffix_for(container)}"
        data = encode_photo(photo, edited=False)
        path.write_bytes(data if container == "PNG" else with_tiff_orientation(data, orientation))
    else:
        options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
        path = saved(tmp_path, Image.fromarray(stored), format, exif=exif, **options)
    turns = {2: [0], 3: [1], 4: [6], 5: [5], 6: [4], 7: [3], 8: [2]}
    names = [
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.FLIP_TOP_BOTTOM,
    ]
    expected = Image.fromarray(stored)
    for turn in turns.get(orientation, []):
        expected = expected.transpose(names[turn])
    photo = read_photo(path)
    assert photo.shape_hw == expected.size[::-1]
    assert photo.format == container
    assert np.abs(photo.to_u8().astype(int) - np.asarray(expected)).mean() < (6 if format == "JPEG" else 1e-9)
    out = tmp_path / f"out{suffix_for(container)}"
    write_photo(photo, out, edited=True)
    with Image.open(out) as image:
        written = image.getexif()
        # A JPEG whose blocks are kept stays turned as it was.
        assert written.get(274, 1) == (orientation if format == "JPEG" else 1)
        assert written[271] == "Camera"
    assert read_photo(out).shape_hw == photo.shape_hw


def with_tiff_orientation(data: bytes, orientation: int) -> bytes:
    """A TIFF file of ours with one more entry, made by Pillow's directory writer being given the tag up front."""
    (ifd_at,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, ifd_at)
    entries = [data[ifd_at + 2 + 12 * i : ifd_at + 14 + 12 * i] for i in range(count)]
    entries.append(struct.pack("<HHLHH", 274, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", count + 1) + b"".join(entries) + struct.pack("<L", 0)
    padded = data + b"\x00" * (len(data) % 2)
    return padded[:4] + struct.pack("<L", len(padded)) + padded[8:] + directory


def test_exif_is_patched_in_place() -> None:
    block = exif_block(orientation=6)
    upright, orientation = upright_exif(b"Exif\x00\x00" + block)
    assert orientation == 6
    assert len(upright) == len(block)
    exif = Image.Exif()
    exif.load(upright)
    assert exif[271] == "Camera"
    assert exif[274] == 1
    assert dict(exif.get_ifd(0x8769)) == {0xA002: 20, 0xA003: 30}
    assert struct.unpack_from("<L", upright, 46) == (0,), "the thumbnail of the unturned photo is unlinked"
    changed = {i for i in range(len(block)) if block[i] != upright[i]}
    assert changed == {30, 46, 70, 82}
    for broken in (b"", b"II*\x00", b"Exif\x00\x00junk", block[:20], b"MM\x00*\xff\xff\xff\xff"):
        assert upright_exif(broken)[1] == 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("edited", [True, False])
def test_metadata_is_kept(tmp_path: Path, format: str, edited: bool) -> None:
    exif = Image.Exif()
    exif[274], exif[271], exif[33432] = 6, "Camera", "(c) NASA"
    exif[0x8769] = {0x829A: 0.004, 0x9003: "2024:01:02 03:04:05"}
    exif[0x8825] = {1: "N"}
    options: dict = {"icc_profile": ICC, "exif": exif}
    if format == "TIFF":
        # Pillow writes the directories of a parsed block to a TIFF, not those of a new one.
        parsed = Image.Exif()
        parsed.load(exif.tobytes())
        parsed[700] = XMP
        options["exif"] = parsed
    elif format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Author", "A. Person")
        options["pnginfo"] = info
    else:
        options["xmp"] = XMP
    source = saved(tmp_path, Image.fromarray(smooth(20, 30)), format, **options)
    before = source.read_bytes()
    photo = read_photo(source)
    assert photo.icc == ICC
    assert b'tiff:Orientation="1"' in photo.xmp
    out = tmp_path / f"out{suffix_for(format)}"
    write_photo(photo, out, edited=edited)
    assert source.read_bytes() == before
    back = read_photo(out)
    assert back.icc == ICC
    loaded = Image.Exif()
    loaded.load(b"Exif\x00\x00" + back.exif)
    assert (loaded[271], loaded[33432], loaded.get(274, 1)) == ("Camera", "(c) NASA", 1)
    assert float(loaded.get_ifd(0x8769)[0x829A]) == pytest.approx(0.004)
    assert loaded.get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"
    assert loaded.get_ifd(0x8825)[1] == "N"
    assert "Renée &amp; I".encode() in back.xmp
    assert b'dc:format="image/jpeg"' in back.xmp
    assert source_types(back.xmp) == ([AI_EDITED] if edited else [])
    if format == "PNG":
        with Image.open(out) as image:
            assert image.text["Author"] == "A. Person"


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_encoded_like_the_input(tmp_path: Path, mode: str, subsampling: int) -> None:
    image = Image.fromarray(smooth(64, 48)).convert(mode)
    options = {"subsampling": subsampling, "quality": 71, "progressive": subsampling == 1, "dpi": (300, 200)}
    source = saved(tmp_path, image, "JPEG", **options)
    photo = read_photo(source)
    assert photo.is_grey == (mode == "L")
    write_photo(photo, tmp_path / "out.jpg", edited=True)
    with Image.open(source) as first, Image.open(tmp_path / "out.jpg") as second:
        assert second.quantization == first.quantization
        assert second.mode == mode
        assert JpegImagePlugin.get_sampling(second) == JpegImagePlugin.get_sampling(first)
        assert second.info.get("progressive") == first.info.get("progressive")
        assert second.info["dpi"] == (300, 200)
        # Decoding and encoding once more with the same tables changes next to nothing.
        assert np.abs(np.asarray(first, int) - np.asarray(second, int)).mean() < 1


def test_webp_output_is_lossless_even_for_lossy_input(tmp_path: Path) -> None:
    rgba = np.dstack([smooth(40, 30), noise(40, 30, 1)[..., 0] // 2])
    for name, options in (("lossy", {"quality": 60}), ("lossless", {"lossless": True, "exact": True})):
        path = tmp_path / f"{name}.webp"
        Image.fromarray(rgba).save(path, "WEBP", **options)
        photo = read_photo(path)
        write_photo(photo, tmp_path / f"{name}_out.webp", edited=True)
        back = read_photo(tmp_path / f"{name}_out.webp")
        assert np.array_equal(back.pixels, photo.pixels)
        assert np.array_equal(back.alpha, photo.alpha)
        if name == "lossless":
            assert np.array_equal(photo.pixels, rgba[..., :3]), "colours under transparent pixels stay"


def test_palettes_bits_and_transparent_colours_are_expanded(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]], np.uint8)
    palette = Image.fromarray(colours).quantize(3)
    photo = read_photo(saved(tmp_path, palette, "PNG"))
    assert photo.mode == "P"
    assert not photo.is_grey
    assert np.array_equal(photo.pixels, colours)
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    photo = read_photo(saved(tmp_path, bits, "PNG"))
    assert photo.is_grey
    assert np.array_equal(photo.pixels[..., 0], [[0, 255], [255, 0]])
    photo = read_photo(saved(tmp_path, Image.fromarray(colours), "PNG", transparency=(255, 0, 0)))
    assert np.array_equal(photo.alpha, [[0, 255], [255, 0]])
    assert np.array_equal(photo.pixels, colours)


def test_premultiplied_tiff_keeps_its_pixels(tmp_path: Path) -> None:
    photo = Photo(noise(9, 9), alpha=noise(9, 9, 1)[..., 0], format="TIFF", mode="RGBa")
    write_photo(photo, tmp_path / "a.tif", edited=False)
    back = read_photo(tmp_path / "a.tif")
    assert back.premultiplied
    assert np.array_equal(back.pixels, photo.pixels)
    assert np.array_equal(back.alpha, photo.alpha)
    with pytest.raises(PhotoError, match="PNG cannot hold this photo's premultiplied transparency"):
        encode_photo(photo, edited=False, format="PNG")


def test_conversion(tmp_path: Path) -> None:
    photo = Photo(noise(16, 16, dtype=np.uint16), icc=ICC, exif=exif_block(1))
    for format in ("JPEG", "WEBP", "TIFF"):
        path = tmp_path / f"out{suffix_for(format)}"
        write_photo(photo, path, edited=True, format=format, quality=90)
        back = read_photo(path)
        assert back.format == format
        assert back.icc == ICC
        assert source_types(back.xmp) == [AI_EDITED]
        assert back.pixels.dtype == (np.uint16 if format == "TIFF" else np.uint8)
    transparent = replace(photo, alpha=photo.pixels[..., 0])
    with pytest.raises(PhotoError, match=r"JPEG cannot hold the transparency of this photo; set blend.format="):
        encode_photo(transparent, edited=True, format="JPEG")
    with pytest.raises(PhotoError, match="A WEBP photo has at most 16383 pixels a side, but this one has 1 x 16384"):
        encode_photo(Photo(np.zeros((16384, 1, 3), np.uint8)), edited=True, format="WEBP")


def test_metadata_too_long_for_jpeg_leaves_the_mark() -> None:
    long = XMP.replace(b"Ren", b"R" * 70_000)
    data = encode_photo(Photo(smooth(8, 8), xmp=long, exif=exif_block(1) + bytes(70_000)), edited=True, format="JPEG")
    back = decode_photo(data, "x", 100)
    assert source_types(back.xmp) == [AI_EDITED]
    loaded = Image.Exif()
    loaded.load(b"Exif\x00\x00" + back.exif)
    assert loaded[271] == "Camera", "a block that is too long is rebuilt without its maker note"


@pytest.mark.parametrize(
    "former",
    [
        b"",
        b'<rdf:Description rdf:about="uuid:1" xmlns:e="' + IPTC_EXT.encode() + b'" e:DigitalSourceType="old"/>',
        b'<rdf:Description rdf:about="" xmlns:e="'
        + IPTC_EXT.encode()
        + b'"><e:DigitalSourceType>old</e:DigitalSourceType></rdf:Description>',
    ],
)
def test_a_former_source_type_is_replaced_and_the_rest_stays(former: bytes) -> None:
    marked = mark_ai_edited(XMP.replace(b"</rdf:RDF>", former + b"</rdf:RDF>"))
    assert source_types(marked) == [AI_EDITED]
    assert mark_ai_edited(marked).count(b"DigitalSourceType") == 1
    assert "Renée &amp; I".encode() in marked
    assert marked.count(b"<?xpacket") == 2


@pytest.mark.parametrize("xmp", [None, b"", b"not xml", b"\xff\xfe", b"<a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"])
def test_xmp_that_says_nothing_gets_a_new_packet(xmp: bytes | None) -> None:
    assert source_types(mark_ai_edited(xmp)) == [AI_EDITED]


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_damage_never_escapes_as_another_error(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]))
    photo = Photo(
        smooth(12, 9),
        icc=ICC[:200],
        exif=camera_exif(),
        xmp=XMP,
        image_resources=resource(0x0404, IPTC),
        has_thumbnail=True,
        format=format,
    )
    encoded = bytearray(encode_photo(photo, edited=False))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = decode_photo(bytes(encoded), "x", 1_000_000)
    except PhotoError:
        return
    assert back.pixels.ndim == 3
    encode_photo(back, edited=True)


def test_photo_properties() -> None:
    deep = Photo(np.array([[[0, 128, 129], [257, 65535, 65406]]], np.uint16))
    assert np.array_equal(deep.to_u8(), [[[0, 0, 1], [1, 255, 254]]])
    assert deep.max_value == 65535
    shallow = Photo(noise(3, 4))
    assert shallow.to_u8() is shallow.pixels
    assert shallow.max_value == 255
    assert shallow.shape_hw == (3, 4)
    assert np.array_equal(to_u8(deep.pixels[..., 0]), [[0, 1]])
    with pytest.raises(PhotoError, match=r"\[H,W,3\] uint8 or uint16, but these are \[3, 4\] float64"):
        Photo(np.zeros((3, 4)))
    with pytest.raises(PhotoError, match="alpha of a photo has the size and type of its pixels"):
        Photo(noise(3, 4), alpha=np.zeros((3, 4), np.uint16))
    with pytest.raises(PhotoError, match="New pixels must be"):
        shallow.with_pixels(noise(3, 5))
