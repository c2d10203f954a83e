"""The table in docs/formats.md, measured: a file of each format with everything in it is read, edited and written."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from data.image_resources import iptc_of
from data.photo import Photo, encode_photo
from data.photo_decode import decode_photo
from tests.photo_sources import (
    ICC,
    IPTC,
    MAKER_SECRET,
    XMP,
    RawExif,
    camera_exif,
    embedded_thumbnail,
    encoded,
    jpeg,
    maker_secret,
    parsed_exif,
    resource,
    segment,
    striped,
    tiff_tags,
    with_segments,
    xmp_in_png,
)

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
COLUMNS = (
    "Format",
    "leaves as",
    "orientation",
    "ICC",
    "EXIF",
    "XMP",
    "IPTC (IIM)",
    "DPI",
    "16 bit",
    "alpha",
    "thumbnail",
)
FORMATS = ("JPEG", "PNG", "TIFF", "WebP", "HEIC", "AVIF")
NO_PLACE = "not supported"
OLD = jpeg(np.full((60, 80, 3), (250, 10, 10), np.uint8))
STORED = striped(48, 64)
UPRIGHT = np.rot90(STORED, -1)


def read(data: bytes) -> Photo:
    return decode_photo(data, "x", 1_000_000)


def full_file(format: str) -> bytes:
    """A photo of that format with all the metadata that it has a place for, lying on its side."""
    image, exif = Image.fromarray(STORED), camera_exif(orientation=6, thumbnail=OLD)
    common: dict[str, Any] = {"icc_profile": ICC, "exif": exif}
    if format == "JPEG":
        resources = segment(0xED, b"Photoshop 3.0\x00" + resource(0x0404, IPTC))
        options = {"quality": 100, "subsampling": 0, "dpi": (300, 200), "xmp": XMP}
        return with_segments(encoded(image, "JPEG", **common, **options), resources)
    if format == "PNG":
        return encoded(image, "PNG", **common, pnginfo=xmp_in_png(XMP), dpi=(300, 200))
    if format == "TIFF":
        tags = tiff_tags(t33723=(7, IPTC), t700=(1, XMP), t274=(3, 6), t271=(2, "Camera"))
        tags[0x8769] = dict(parsed_exif(exif).get_ifd(0x8769))
        return encoded(image, "TIFF", tiffinfo=tags, icc_profile=ICC, dpi=(300, 200))
    if format == "WebP":
        return encoded(image, "WEBP", **common, xmp=XMP, lossless=True)
    if format == "AVIF":
        common["exif"] = RawExif(exif, 6)
        return encoded(image, "AVIF", **common, xmp=XMP, quality=100, subsampling="4:4:4")
    return heic(STORED, "RGB", exif=b"Exif\x00\x00" + exif, xmp=XMP, icc_profile=ICC)


def heic(values: np.ndarray, mode: str, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    picture = pillow_heif.from_bytes(mode, values.shape[1::-1], values.tobytes())
    picture.save(out, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return out.getvalue()


def measured_row(format: str) -> dict[str, str]:
    """What becomes of each thing in a full file of that format, as Pillow finds it in the file that is written."""
    photo = read(full_file(format))
    written = encode_photo(photo.with_pixels(photo.pixels.copy()), edited=True)
    with Image.open(io.BytesIO(written)) as image:
        image.load()
        info, container = image.info, image.format
        exif = image.getexif()
        upright = np.abs(np.asarray(image.convert("RGB")).astype(int) - UPRIGHT).max() <= 6
        xmp = info.get("xmp") or b""
    back = read(written)
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return {
        "Format": format,
        "leaves as": str(container),
        "orientation": "kept" if upright and exif.get(274, 1) == 1 and back.shape_hw == (64, 48) else "lost",
        "ICC": "kept" if info.get("icc_profile") == ICC else "lost",
        "EXIF": exif_outcome(exif, info.get("exif", b"")),
        "XMP": "kept" if b'xmp:CreatorTool="Camera 1.2"' in xmp else "lost",
        "IPTC (IIM)": iptc_outcome(format, back),
        "DPI": dpi_outcome(exif, info),
        "16 bit": depth_outcome(format),
        "alpha": alpha_outcome(format),
        "thumbnail": thumbnail_outcome(container, info.get("exif", b""), written),
    }


def exif_outcome(exif: Image.Exif, block: bytes) -> str:
    """Kept: the very block, so that the maker note's offsets hold; converted: its values in another place."""
    if exif.get(271) != "Camera" or float(exif.get_ifd(0x8769).get(0x829A, 0)) != 1 / 250:
        return "lost"
    return "kept" if block and maker_secret(block.removeprefix(b"Exif\x00\x00")) == MAKER_SECRET else "converted"


def iptc_outcome(format: str, back: Photo) -> str:
    if format not in ("JPEG", "TIFF"):
        return NO_PLACE
    return "kept" if iptc_of(back.image_resources) == IPTC else "lost"


def dpi_outcome(exif: Image.Exif, info: dict[Any, Any]) -> str:
    """The photo was turned, so that 300 across became 300 down."""
    said = info.get("dpi") or (exif.get(282, 0), exif.get(283, 0))
    return "kept" if [round(float(dots)) for dots in said] == [200, 300] else "lost"


def depth_outcome(format: str) -> str:
    """Kept: 16 bits in, the same out; converted: 10 bits stretched over 16, one value each."""
    deep = np.random.default_rng(0).integers(0, 1 << 16, (48, 64, 3)).astype(np.uint16)
    if format in ("PNG", "TIFF"):
        source = encode_photo(Photo(deep, format=format), edited=False)
        return "kept" if np.array_equal(read(encode_photo(read(source), edited=True)).pixels, deep) else "lost"
    if format in ("JPEG", "WebP"):
        return NO_PLACE
    ten = np.stack([np.arange(48 * 64).reshape(48, 64) % 1024] * 3, axis=2).astype(np.uint16)
    if format == "HEIC":
        source = heic(ten, "RGB;10")
    else:
        cv2 = pytest.importorskip("cv2")
        source = cv2.imencode(".avif", ten, [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100])[1].tobytes()
    back = read(encode_photo(read(source), edited=True))
    return "converted" if len(np.unique(back.pixels)) > 1000 and back.pixels.max() == 65535 else "lost"


def alpha_outcome(format: str) -> str:
    if format == "JPEG":
        return NO_PLACE
    values = np.dstack([STORED, np.arange(48 * 64).reshape(48, 64) // 16]).astype(np.uint8)
    if format == "HEIC":
        source = heic(values, "RGBA")
    else:
        options = {"AVIF": {"quality": 100}, "WebP": {"lossless": True}}.get(format, {})
        source = encoded(Image.fromarray(values), format.upper(), **options)
    back = read(encode_photo(read(source), edited=True))
    return "kept" if back.alpha is not None and np.array_equal(back.alpha, values[..., 3]) else "lost"


def thumbnail_outcome(container: str | None, block: bytes, written: bytes) -> str:
    """Renewed: upright, of the photo as it is now, and nothing of the old one is left in the file."""
    assert OLD[-100:] not in written
    if container == "TIFF":
        return NO_PLACE
    thumbnail = embedded_thumbnail(block.removeprefix(b"Exif\x00\x00"))
    if thumbnail is None:
        return "lost"
    with Image.open(io.BytesIO(thumbnail)) as small:
        near = np.abs(np.asarray(small).astype(int) - UPRIGHT).mean() < 8
    return "renewed" if near else "lost"


def documented() -> list[list[str]]:
    """The cells of the first table of the document."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: len(FORMATS) + 2]]


def test_the_table_names_every_format_and_column() -> None:
    table = documented()
    assert tuple(table[0]) == COLUMNS
    assert [row[0] for row in table[2:]] == list(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_the_table_tells_what_is_measured(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    row = measured_row(format)
    print("| " + " | ".join(row[column] for column in COLUMNS) + " |")
    told = dict(zip(COLUMNS, documented()[2 + FORMATS.index(format)], strict=True))
    assert row == told
