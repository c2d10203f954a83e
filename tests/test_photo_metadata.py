"""Metadata that comes back from a file: thumbnails, IPTC, resolution, comments, and what is said about the edit."""

import io
import struct
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data import metadata
from data.exif_fitting import THUMBNAIL_BYTES
from data.metadata import AI_EDITED, IPTC_EXT, mark_ai_edited, software, upright_exif
from data.photo import Photo, encode_photo
from data.photo_decode import decode_photo
from tests.photo_sources import (
    ICC,
    IPTC,
    MAKER_SECRET,
    XMP,
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
)

OLD_THUMBNAIL = jpeg(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))


def read(data: bytes) -> Photo:
    return decode_photo(data, "x", 20_000_000)


def exif_of(data: bytes) -> bytes:
    """The EXIF block in a written file, as Pillow finds it."""
    with Image.open(io.BytesIO(data)) as image:
        return image.info["exif"].removeprefix(b"Exif\x00\x00")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_thumbnail_is_a_new_one_of_the_edited_photo(format: str, order: str) -> None:
    source = encoded(Image.fromarray(striped(200, 300)), format, exif=camera_exif(order, 6, OLD_THUMBNAIL))
    photo = read(source)
    assert photo.has_thumbnail
    edited = np.zeros_like(photo.pixels)
    edited[:, photo.pixels.shape[1] // 2 :] = (0, 250, 0)
    written = encode_photo(photo.with_pixels(edited), edited=True)
    block = exif_of(written)
    thumbnail = embedded_thumbnail(block)
    assert thumbnail is not None
    assert len(thumbnail) < THUMBNAIL_BYTES
    assert OLD_THUMBNAIL[-200:] not in written
    with Image.open(io.BytesIO(thumbnail)) as small:
        assert small.format == "JPEG"
        assert small.size == (107, 160), "upright"
        left, right = (np.asarray(small)[:, columns].mean(axis=(0, 1)) for columns in (slice(5, 40), slice(70, 100)))
    assert np.allclose(left, 0, atol=4) and np.allclose(right, (0, 250, 0), atol=4)
    assert maker_secret(block) == MAKER_SECRET, "absolute offsets still lead to what they led to"
    assert parsed_exif(block)[271] == "Camera"
    again = read(encode_photo(read(written), edited=True))
    assert again.has_thumbnail
    assert len(again.exif) == len(read(written).exif), "blocks do not grow from edit to edit"


def test_photos_without_a_thumbnail_get_none() -> None:
    photo = read(jpeg(striped(20, 30), exif=camera_exif()))
    assert not photo.has_thumbnail
    assert embedded_thumbnail(exif_of(encode_photo(photo, edited=True))) is None


def test_a_thumbnail_amid_the_block_is_erased_where_it_lies() -> None:
    block = camera_exif(thumbnail=OLD_THUMBNAIL, behind=b"more of the maker")
    upright, orientation = upright_exif(block)
    assert orientation == 6
    assert len(upright) == len(block)
    assert upright.endswith(bytes(len(OLD_THUMBNAIL)) + b"more of the maker")
    assert maker_secret(upright) == MAKER_SECRET
    wrong = camera_exif(thumbnail=b"not a picture, who knows what", behind=b"")
    assert upright_exif(wrong)[0].endswith(b"not a picture, who knows what"), "only pictures are erased"


def test_resolutions_and_sizes_turn_with_the_photo() -> None:
    exif = parsed_exif(upright_exif(camera_exif(orientation=6, dpi=(300, 200)))[0])
    assert (exif[282], exif[283]) == (200, 300)
    assert dict(exif.get_ifd(0x8769))[0xA002] == 20
    exif = parsed_exif(upright_exif(camera_exif(orientation=3, dpi=(300, 200)))[0])
    assert (exif[282], exif[283]) == (300, 200)


def test_a_block_without_room_for_a_thumbnail_stays_within_a_jpeg_segment() -> None:
    full = camera_exif(thumbnail=OLD_THUMBNAIL, behind=b"\x01" * (65_500 - 300 - len(OLD_THUMBNAIL)))
    photo = read(jpeg(striped(20, 30), exif=full))
    assert photo.has_thumbnail
    block = exif_of(encode_photo(photo, edited=True))
    assert embedded_thumbnail(block) is None
    assert maker_secret(block) == MAKER_SECRET
    tight = camera_exif(behind=b"\x01" * 60_000, thumbnail=OLD_THUMBNAIL)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    block = exif_of(encode_photo(read(jpeg(noise, exif=tight)), edited=True))
    assert len(block) <= 65_533 - 6


def test_a_huge_block_of_another_format_loses_its_maker_note_in_jpeg() -> None:
    photo = read(encoded(Image.fromarray(striped(20, 30)), "PNG", exif=camera_exif(behind=b"\x01" * 200_000)))
    assert len(photo.exif) > 200_000
    assert maker_secret(exif_of(encode_photo(photo, edited=True))) == MAKER_SECRET
    block = exif_of(encode_photo(photo, edited=True, format="JPEG"))
    assert (parsed_exif(block)[271], maker_secret(block)) == ("Camera", b"")


def test_iptc_of_a_jpeg_is_kept_and_photoshops_previews_are_not() -> None:
    kept = resource(0x03ED, bytes(16), b"name") + resource(0x0404, IPTC) + resource(0x0425, b"digest of it 16b")
    stale = resource(0x0409, b"old preview") + resource(0x040C, b"\x00" * 28 + OLD_THUMBNAIL)
    source = with_segments(jpeg(striped(20, 30)), segment(0xED, b"Photoshop 3.0\x00" + stale + kept))
    photo = read(source)
    assert photo.image_resources == kept
    written = encode_photo(photo, edited=True)
    assert segment(0xED, b"Photoshop 3.0\x00" + kept) in written
    assert OLD_THUMBNAIL[-200:] not in written
    tiff = encode_photo(photo, edited=True, format="TIFF")
    with Image.open(io.BytesIO(tiff)) as image:
        assert image.tag_v2[33723] == IPTC
        assert image.tag_v2[34377] == kept
    back = read(encode_photo(read(tiff), edited=True, format="JPEG")).image_resources
    assert resource(0x0404, IPTC) in back and resource(0x03ED, bytes(16), b"name") in back


def test_resources_longer_than_a_segment_are_split_and_joined() -> None:
    long = resource(0x0404, IPTC) + resource(0x0FA0, bytes(range(256)) * 600)
    photo = Photo(striped(20, 30), format="JPEG", image_resources=long)
    assert read(encode_photo(photo, edited=True)).image_resources == long
    damaged = with_segments(jpeg(striped(20, 30)), segment(0xED, b"Photoshop 3.0\x00" + long[:40] + b"\xff" * 9))
    assert read(damaged).image_resources == resource(0x0404, IPTC)


@pytest.mark.parametrize("type_", [1, 4, 7])
def test_iptc_of_a_tiff_is_kept_whatever_type_it_was_written_as(type_: int) -> None:
    padded = IPTC + bytes(-len(IPTC) % 4)
    source = encoded(Image.fromarray(striped(20, 30)), "TIFF", tiffinfo=tiff_tags(t33723=(7, padded)))
    count = len(padded) // 4 if type_ == 4 else len(padded)
    as_bytes, as_type = struct.pack("<HHL", 33723, 7, len(padded)), struct.pack("<HHL", 33723, type_, count)
    assert source.count(as_bytes) == 1
    photo = read(source.replace(as_bytes, as_type))
    for written in (encode_photo(photo, edited=True), encode_photo(photo, edited=True, format="TIFF")):
        with Image.open(io.BytesIO(written)) as image:
            assert image.tag_v2[33723] == padded
            assert 34377 not in image.tag_v2
    assert read(encode_photo(photo, edited=True, format="JPEG")).image_resources == resource(0x0404, padded)


def test_comments_and_long_xmp_of_a_jpeg_are_kept() -> None:
    extended = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\x00" + b"A" * 32 + struct.pack(">LL", 3, 0) + b"xmp")
    comment = segment(0xFE, b"by hand")
    gone = segment(0xEB, b"JP\x00\x01 a manifest that the edit makes invalid")
    written = encode_photo(read(with_segments(jpeg(striped(20, 30)), extended + comment + gone)), edited=True)
    assert extended in written and comment in written
    assert b"manifest" not in written
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["comment"] == b"by hand"


def test_copies_of_the_photo_inside_xmp_do_not_outlive_the_edit() -> None:
    prefix = b"http://ns.adobe.com/xmp/extension/\x00" + b"A" * 32 + struct.pack(">LL", 40, 0)
    halves = b"<rdf:Description GIma", b'ge:Data="the face before"/>'
    extended = b"".join(segment(0xE1, prefix + half) for half in halves)
    assert b"before" not in encode_photo(read(with_segments(jpeg(striped(9, 9)), extended)), edited=True)
    preview = b"<xmp:Thumbnails><rdf:Alt><rdf:li>the face before</rdf:li></rdf:Alt></xmp:Thumbnails>"
    inside = (
        b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/">' + preview + b"</rdf:Description>"
    )
    marked = mark_ai_edited(XMP.replace(b"</rdf:RDF>", inside + b"</rdf:RDF>"))
    assert b"before" not in marked
    assert said(marked, "DigitalSourceType") == [AI_EDITED]


@pytest.mark.parametrize("target", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_resolution_is_kept_and_converted(format: str, target: str) -> None:
    photo = read(encoded(Image.fromarray(striped(20, 30)), format, dpi=(300, 150)))
    with Image.open(io.BytesIO(encode_photo(photo, edited=True, format=target))) as image:
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_resolution_turns_with_the_photo(format: str) -> None:
    exif = Image.Exif()
    exif[274] = 8
    photo = read(encoded(Image.fromarray(striped(20, 30)), format, dpi=(300, 150), exif=exif))
    assert photo.shape_hw == (30, 20)
    with Image.open(io.BytesIO(encode_photo(photo, edited=True))) as image:
        assert image.info["dpi"] == pytest.approx((150, 300), abs=0.02)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_broken_profile_is_kept_as_it_is(format: str) -> None:
    for broken in (b"no profile at all", ICC[:100], b"\x00" * 70_000):
        photo = read(encoded(Image.fromarray(striped(20, 30)), format, icc_profile=broken))
        assert photo.icc == broken
        assert read(encode_photo(photo, edited=True)).icc == broken


def said(xmp: bytes, name: str) -> list[str]:
    """Every value of one of IPTC's extension properties that a parser finds in the packet."""
    full = f"{{{IPTC_EXT}}}{name}"
    elements = list(ElementTree.fromstring(xmp.decode()).iter())
    return [e.attrib[full] for e in elements if full in e.attrib] + [e.text or "" for e in elements if e.tag == full]


def test_the_mark_names_the_software_and_leaves_the_creator_tool() -> None:
    marked = mark_ai_edited(XMP)
    assert said(marked, "DigitalSourceType") == [AI_EDITED]
    assert said(marked, "AISystemUsed") == [software()]
    assert software().startswith("photodrag")
    assert b'xmp:CreatorTool="Camera 1.2"' in marked
    assert mark_ai_edited(marked) == marked, "a second edit says the same"


@pytest.mark.parametrize(
    "former",
    [
        '<rdf:Description rdf:about="" xmlns:e="{ns}" e:AISystemUsed="Other &amp; Sons 2"/>',
        "<rdf:Description rdf:about='' xmlns:e='{ns}' e:AISystemUsed='Other &amp; Sons 2'/>",
        '<rdf:Description rdf:about="" xmlns:e="{ns}"><e:AISystemUsed>Other &amp; Sons 2</e:AISystemUsed>'
        "</rdf:Description>",
    ],
)
def test_systems_that_were_named_before_stay_named(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xmp = XMP.replace(b"</rdf:RDF>", former.format(ns=IPTC_EXT).encode() + b"</rdf:RDF>")
    marked = mark_ai_edited(xmp)
    assert said(marked, "AISystemUsed") == [f"Other & Sons 2; {software()}"]
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    assert said(mark_ai_edited(marked), "AISystemUsed") == ["Other & Sons 2; photodrag 99.0"]


def test_a_packet_that_the_mark_makes_too_long_gives_up_its_padding_first() -> None:
    padded = XMP.replace(b"\n<?xpacket end", b" " * (65_400 - len(XMP)) + b"\n<?xpacket end")
    photo = read(jpeg(striped(20, 30), xmp=padded))
    written = read(encode_photo(photo, edited=True)).xmp
    assert said(written, "DigitalSourceType") == [AI_EDITED]
    assert b'xmp:CreatorTool="Camera 1.2"' in written
    long = XMP.replace(b"Camera", b"C" * 70_000)
    assert read(encode_photo(Photo(striped(9, 9), xmp=long), edited=False, format="JPEG")).xmp is None, "no false mark"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_cut_metadata_never_crashes(format: str) -> None:
    for cut in range(0, 320, 7):
        block = camera_exif(orientation=1, thumbnail=OLD_THUMBNAIL)[:cut]
        photo = Photo(
            striped(8, 8),
            exif=block or None,
            xmp=XMP[:cut] or None,
            image_resources=resource(0x0404, IPTC)[:cut] or None,
            format=format,
            has_thumbnail=True,
        )
        back = read(encode_photo(photo, edited=True, format=format))
        assert np.array_equal(back.pixels, photo.pixels) or format == "JPEG"
        encode_photo(back, edited=True)
