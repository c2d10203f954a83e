"""Bad photos whose pixels are good: hostile EXIF, ICC, XMP, IPTC and text, in every container that holds them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Literal

from PIL import ImageCms

from benchmarks.bad_photo_parts import (
    BOMB_BYTES,
    BadPhoto,
    Entry,
    chunk,
    chunks_of,
    deflated_zeros,
    directory,
    encoded,
    face,
    flipped,
    good_photos,
    heic,
    jpeg,
    long,
    png_of,
    segment,
    short,
    tiff,
    with_chunks,
    with_segments,
)
from benchmarks.bad_photo_parts import PNG_SIGNATURE as SIGNATURE

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
MANY = 300_000
MEGABYTES = 1 << 20


def rational(tag: int, *pairs: tuple[int, int]) -> Entry:
    """An EXIF entry of fractions."""
    return tag, 5, len(pairs), b"".join(struct.pack("<LL", *(part & 0xFFFFFFFF for part in pair)) for pair in pairs)


def block(*entries: Entry, following: int = 0, behind: bytes = b"") -> bytes:
    """An EXIF block of one directory."""
    return b"II*\x00\x08\x00\x00\x00" + directory(entries, 8, following) + behind


def _thumbnail(at: int, length: int) -> bytes:
    first = directory([short(274, 6)], 8, 26)
    return b"II*\x00\x08\x00\x00\x00" + first + directory([short(0x103, 6), long(0x201, at), long(0x202, length)], 26)


@cache
def exif_blocks() -> dict[str, bytes]:
    """EXIF blocks, all of them wrong or absurd."""
    note = (0x927C, 7, 60_000, bytes(60_000))
    return {
        "empty": b"",
        "header_only": b"II*\x00",
        "no_directory": b"II*\x00\x08\x00\x00\x00",
        "other_order": b"IM*\x00\x08\x00\x00\x00\x00\x00",
        "directory_in_itself": block(long(0x8769, 8)),
        "next_is_itself": block(short(274, 6), following=8),
        "next_is_header": block(short(274, 6), following=0),
        "exif_in_gps_in_exif": block(long(0x8769, 8), long(0x8825, 8), long(0xA005, 8)),
        "offset_beyond": b"II*\x00" + struct.pack("<L", 0xFFFFFFF0),
        "values_beyond": block((271, 2, 0x7FFFFFFF, b"\xf0\xff\xff\xff\x00")),
        "count_overflows": block((282, 5, 0xFFFFFFFF, b"12345678")),
        "unknown_types": block((271, 99, 1, b"abcd"), (274, 0, 0, b""), (0x8769, 2, 4, b"abc\x00")),
        "orientation_0": block(short(274, 0)),
        "orientation_65535": block(short(274, 65535)),
        "orientation_twice": block(short(274, 6), short(274, 8)),
        "orientation_as_text": block((274, 2, 2, b"6\x00")),
        "orientation_of_many": block(short(274, 6, 6, 6, 6)),
        "resolution_of_nothing": block(rational(282, (72, 0)), rational(283, (0, 0)), short(296, 2)),
        "resolution_huge": block(rational(282, (-1, 1)), rational(283, (1, -1)), short(296, 3)),
        "thousand_entries": block(*(short(tag, 1) for tag in range(0x9000, 0x9000 + 1000))),
        "count_of_entries_lies": b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(40),
        "big_note": block(long(0x8769, 8 + 2 + 12 + 4), behind=directory([note], 26)),
        "text_not_text": block((270, 2, 6, b"\xff\xfe\xfd\x00\x01\x02"), (315, 2, 5, b"\xc3\x28\xa0\xa1\x00")),
        "thumbnail_in_header": _thumbnail(0, 26),
        "thumbnail_beyond": _thumbnail(0xFFFFFF00, 0xFFFFFF00),
        "thumbnail_no_jpeg": _thumbnail(70, 20) + bytes(40),
        "thumbnail_overlaps": _thumbnail(30, 60) + b"\xff\xd8" * 20,
        "windows_words": block((0x9C9B, 1, 5, b"\x00\xd8\x00\xd8\x00"), (0x9C9C, 7, 3, b"abc")),
    }


def in_containers(kind: str, name: str, exif: bytes) -> Iterator[BadPhoto]:
    """An EXIF block in each container."""
    for form, content in (
        ("jpg", with_segments(jpeg(), segment(0xE1, (b"Exif\x00\x00" + exif)[:65533]))),
        ("png", with_chunks((b"eXIf", exif))),
        ("webp", encoded(face(), "WEBP", exif=exif or b"II*\x00")),
    ):
        yield BadPhoto(kind, f"{name}.{form}", content)


def exifs() -> Iterator[BadPhoto]:
    """EXIF that is broken, absurd or circular."""
    for name, exif in exif_blocks().items():
        yield from in_containers("EXIF", name, exif)
    for name in ("next_is_itself", "directory_in_itself", "thumbnail_beyond", "big_note", "resolution_of_nothing"):
        yield BadPhoto("EXIF", f"{name}.heic", heic(exif=b"Exif\x00\x00" + exif_blocks()[name]))
    huge = block((0x9C9B, 7, 12 * MEGABYTES, bytes(12 * MEGABYTES)), (315, 2, 3, b"me\x00"))
    yield BadPhoto("EXIF", "huge.png", with_chunks((b"eXIf", huge)))
    yield BadPhoto("EXIF", "huge.webp", encoded(face(), "WEBP", exif=huge))
    yield BadPhoto("EXIF", "huge.tif", tiff([(0x9C9B, 7, 12 * MEGABYTES, bytes(12 * MEGABYTES))]))
    yield BadPhoto(
        "EXIF", "many.jpg", with_segments(jpeg(), *[segment(0xE1, b"Exif\x00\x00" + block(short(274, 3)))] * 200)
    )
    hexed = b"\nexif\n      20\n" + b"zz" * 20
    yield BadPhoto(
        "EXIF", "hexadecimal.png", with_chunks((b"zTXt", b"Raw profile type exif\x00\x00" + zlib.compress(hexed)))
    )
    for tag, name in ((0x8769, "exif"), (0x8825, "gps"), (0x14A, "sub"), (0xA005, "interop")):
        yield BadPhoto("EXIF", f"{name}_is_the_first.tif", tiff([long(tag, 8 + 104 * 96 * 3)]))
        yield BadPhoto("EXIF", f"{name}_beyond.tif", tiff([long(tag, 0xFFFFFFF0)]))
        yield BadPhoto("EXIF", f"{name}_not_a_place.tif", tiff([(tag, 2, 4, b"abc\x00")]))
    yield BadPhoto(
        "EXIF", "odd_words.tif", tiff([(270, 2, 4, b"\xff\xfe\xfd\x00"), (33432, 7, 5, b"\x00\x01\x02\x03\x04")])
    )
    yield BadPhoto("EXIF", "numbers_as_words.tif", tiff([short(270, 1, 2, 3), short(315, 7), long(306, 99)]))
    odd = [rational(282, (72, 0)), rational(283, (0, 0)), short(296, 77), short(274, 9)]
    yield BadPhoto("EXIF", "resolution_of_nothing.tif", tiff(odd))
    yield BadPhoto("EXIF", "resolution_as_text.tif", tiff([(282, 2, 3, b"72\x00"), (283, 2, 3, b"72\x00")]))
    yield BadPhoto("EXIF", "orientation_as_text.tif", tiff([(274, 2, 2, b"6\x00")]))


def _timeless(space: Literal["LAB", "sRGB"]) -> bytes:
    """A profile without the time at which it was made."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
    return made[:24] + bytes(12) + made[36:]


def _profile(kind: bytes, space: bytes, size: int | None = None) -> bytes:
    """sRGB's profile with another class and colour space in its header."""
    own = bytearray(_timeless("sRGB"))
    own[12:16], own[16:20] = kind, space
    if size is not None:
        own[:4] = struct.pack(">L", size & 0xFFFFFFFF)
    return bytes(own)


@cache
def profiles(seed: int) -> dict[str, bytes]:
    """ICC profiles, all of them wrong."""
    own, rng = _profile(b"mntr", b"RGB "), random.Random(seed)
    return {
        "one_byte": b"\x00",
        "noise": rng.randbytes(5000),
        "cut": own[: len(own) // 2],
        "header_only": own[:128],
        "of_cmyk": _profile(b"prtr", b"CMYK"),
        "of_grey": _profile(b"mntr", b"GRAY"),
        "of_lab": _profile(b"spac", b"Lab "),
        "device_link": _profile(b"link", b"RGB "),
        "named_colours": _profile(b"nmcl", b"RGB "),
        "unknown_class": _profile(b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"),
        "size_lies": _profile(b"mntr", b"RGB ", 0xFFFFFFFF),
        "size_0": _profile(b"mntr", b"RGB ", 0),
        "tags_lie": own[:128] + b"\xff\xff\xff\xff" + own[132:],
        "tags_beyond": own[:136] + b"\xff" * (len(own) - 136),
        "lab_profile": _timeless("LAB"),
        **{f"bits_{number}": flipped(own, rng, 40, 128) for number in range(6)},
        "huge": own + bytes(3 * MEGABYTES),
    }


def iccs(seed: int) -> Iterator[BadPhoto]:
    """ICC profiles that are broken, huge or of another class."""
    for name, profile in profiles(seed).items():
        yield BadPhoto("ICC", f"{name}.jpg", encoded(face(), "JPEG", quality=90, icc_profile=profile))
        yield BadPhoto("ICC", f"{name}.png", encoded(face(), "PNG", icc_profile=profile))
        yield BadPhoto("ICC", f"{name}.tif", tiff([(34675, 7, len(profile), profile)]))
        if name in ("noise", "of_cmyk", "size_lies", "bits_0"):
            yield BadPhoto("ICC", f"{name}.webp", encoded(face(), "WEBP", icc_profile=profile))
            yield BadPhoto("ICC", f"{name}.avif", encoded(face(), "AVIF", icc_profile=profile))
            yield BadPhoto("ICC", f"{name}.heic", heic(icc_profile=profile))
    grey = encoded(face().convert("L"), "JPEG", icc_profile=_profile(b"mntr", b"RGB "))
    yield BadPhoto("ICC", "of_colours_in_grey.jpg", grey)
    part = b"ICC_PROFILE\x00"
    for name, parts in {
        "numbers_0": [b"\x00\x00abc"],
        "third_of_two": [b"\x03\x02abc"],
        "one_is_missing": [b"\x01\x03abc", b"\x03\x03def"],
        "first_twice": [b"\x01\x02abc", b"\x01\x02abc"],
        "no_number": [b""],
        "of_255": [bytes([number, 255]) + bytes(1000) for number in range(1, 256)],
    }.items():
        segments = [segment(0xE2, part + body) for body in parts]
        yield BadPhoto("ICC", f"parts_{name}.jpg", with_segments(jpeg(), *segments))
    yield BadPhoto("ICC", "bomb.png", with_chunks((b"iCCP", b"x\x00\x00" + deflated_zeros(BOMB_BYTES))))
    yield BadPhoto("ICC", "not_deflated.png", with_chunks((b"iCCP", b"x\x00\x00abcdef")))
    yield BadPhoto("ICC", "method_9.png", with_chunks((b"iCCP", b"x\x00\x09" + zlib.compress(b"abc"))))
    yield BadPhoto("ICC", "no_name_end.png", with_chunks((b"iCCP", b"x" * 200)))
    yield BadPhoto("ICC", "twice.png", with_chunks(*[(b"iCCP", b"x\x00\x00" + zlib.compress(b"abc" * 99))] * 2))


def packet(inside: str, before: str = "") -> bytes:
    """An XMP packet."""
    return f'{before}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}>{inside}</rdf:RDF></x:xmpmeta>'.encode()


@cache
def packets() -> dict[str, bytes]:
    """XMP packets that are broken, hostile, or made so that searching them takes for ever."""
    laughs = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 12))
    doctype = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>'
    outside = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
    about = "a." * MANY
    return {
        "laughs": packet("<rdf:Description>&l11;</rdf:Description>", doctype),
        "outside": packet("<rdf:Description>&e;</rdf:Description>", outside),
        "doctype_in_utf16": packet("<rdf:Description>&l11;</rdf:Description>", doctype).decode().encode("utf-16"),
        "no_utf8": b"<x:xmpmeta>\xff\xfe\xc3\x28</x:xmpmeta>",
        "not_closed": b"<x:xmpmeta><rdf:RDF",
        "zeros": bytes(1000),
        "controls": packet("\x01\x02\x08<rdf:Description/>"),
        "no_rdf_prefix": f'<RDF xmlns="{RDF[11:-1]}"><Description/></RDF>'.encode(),
        "deep": packet("<a>" * 20_000 + "</a>" * 20_000),
        "thumbnails_not_closed": packet("<!--" + "<a:Thumbnails>" * MANY + "-->"),
        "thumbnails_of_many": packet("<!--" + "".join(f"<a{n}:Thumbnails>" for n in range(MANY)) + "-->"),
        "source_type_not_closed": packet("<!--" + "<a:DigitalSourceType>" * MANY + "-->"),
        "system_quotes": packet("<!--" + " a:AISystemUsed='" * MANY + "-->"),
        "about_dotted": packet(f"<!--{about}-->"),
        "prefix_long": packet(f"<!--<{about}-->"),
        "spaces": packet(" " * 2_000_000),
        "spaces_in_orientation": packet("<!--" + ("tiff:Orientation" + " " * 2000) * 500 + "-->"),
        "padding_at_end": packet("") + b" " * 1_000_000 + b'<?xpacket end="w"?>',
        "attributes_of_many": packet("<rdf:Description " + " ".join(f'b{n}="1"' for n in range(20_000)) + "/>"),
        "replacement_escapes": packet(r'<rdf:Description rdf:about="\g<1>\1\\" a:AISystemUsed="\1" xmlns:a="u"/>'),
    }


def xmps() -> Iterator[BadPhoto]:
    """XMP packets that are broken, hostile, or made so that searching them takes for ever."""
    for name, xmp in packets().items():
        text = b"XML:com.adobe.xmp" + b"\x00" * 5
        yield BadPhoto("XMP", f"{name}.png", with_chunks((b"iTXt", text + xmp)))
        yield BadPhoto("XMP", f"{name}.tif", tiff([(700, 1, len(xmp), xmp)]))
        yield BadPhoto("XMP", f"{name}.webp", encoded(face(), "WEBP", xmp=xmp))
        prefix = b"http://ns.adobe.com/xap/1.0/\x00"
        yield BadPhoto("XMP", f"{name}.jpg", with_segments(jpeg(), segment(0xE1, prefix + xmp[:65000])))
    extended = b"http://ns.adobe.com/xmp/extension/\x00" + b"0" * 32 + b"\xff" * 8
    yield BadPhoto("XMP", "extended_lies.jpg", with_segments(jpeg(), segment(0xE1, extended + b"abc")))
    yield BadPhoto("XMP", "extended_many.jpg", with_segments(jpeg(), *[segment(0xE1, extended + bytes(65000))] * 100))


def iptcs() -> Iterator[BadPhoto]:
    """Photoshop's resources and IPTC's fields, broken."""

    def one(number: int, size: int, body: bytes) -> bytes:
        return b"8BIM" + struct.pack(">HHL", number, 0, size & 0xFFFFFFFF) + body

    iim = b"\x1c\x02\x78\x00\x03abc"
    for name, resources in {
        "size_lies": one(0x404, 0xFFFFFFFF, iim),
        "name_lies": b"8BIM\x04\x04\xff" + iim,
        "cut": one(0x404, len(iim), iim)[:-3],
        "empty": b"",
        "field_lies": one(0x404, 6, b"\x1c\x02\x78\x80\x04\xff"),
        "field_cut": one(0x404, 3, b"\x1c\x02\x78\x00"),
        "no_marker": one(0x404, 4, b"abcd"),
        "unknown": one(0xFFFF, 4, b"abcd") * 500,
        "thumbnail": one(0x40C, 4, b"abcd"),
        "twice": one(0x404, len(iim), iim + b"\x00") * 2,
        "resolution_cut": one(0x3ED, 2, b"\x00\x48"),
    }.items():
        body = b"Photoshop 3.0\x00" + resources
        yield BadPhoto("IPTC", f"{name}.jpg", with_segments(jpeg(), segment(0xED, body)))
        yield BadPhoto("IPTC", f"{name}.tif", tiff([(34377, 1, len(resources), resources)]))
        yield BadPhoto(
            "IPTC", f"{name}_iim.tif", tiff([(33723, 4, max(1, len(resources) // 4), resources + b"\x00" * 4)])
        )


def texts() -> Iterator[BadPhoto]:
    """Text and other small chunks of a PNG, comments and application segments of a JPEG."""
    zeros = deflated_zeros(BOMB_BYTES)
    yield BadPhoto("text", "zTXt_bomb.png", with_chunks((b"zTXt", b"x\x00\x00" + zeros)))
    yield BadPhoto("text", "iTXt_bomb.png", with_chunks((b"iTXt", b"x\x00\x01\x00\x00\x00" + zeros)))
    xmp_bomb = b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + zeros
    yield BadPhoto("text", "xmp_bomb.png", with_chunks((b"iTXt", xmp_bomb)))
    many_bombs = [(b"zTXt", b"x\x00\x00" + deflated_zeros(MEGABYTES))] * 300
    yield BadPhoto("text", "zTXt_many.png", with_chunks(*many_bombs))
    yield BadPhoto("text", "tEXt_many.png", with_chunks(*[(b"tEXt", b"a\x00b")] * 100_000))
    yield BadPhoto("text", "tEXt_large.png", with_chunks((b"tEXt", b"a\x00" + bytes(8 * MEGABYTES))))
    yield BadPhoto("text", "iTXt_no_utf8.png", with_chunks((b"iTXt", b"a\x00\x00\x00\xff\x00\xfe\x00\xff\xc3\x28")))
    for kind, bodies in {
        b"tEXt": [b"", b"\x00", b"no end"],
        b"zTXt": [b"", b"x\x00", b"x\x00\x00", b"x\x00\x07abc", b"x\x00\x00abc"],
        b"iTXt": [b"", b"x\x00", b"x\x00\x01", b"x\x00\x01\x07\x00\x00abc", b"XML:com.adobe.xmp\x00"],
        b"pHYs": [b"", b"123", b"\xff" * 9, bytes(9)],
        b"gAMA": [b"", bytes(4), b"\xff" * 4],
        b"cHRM": [b"", bytes(32), b"\xff" * 32],
        b"sRGB": [b"", b"\xff"],
        b"cICP": [b"", b"\xff" * 4],
        b"tRNS": [b"", b"\x00", b"\xff" * 600],
        b"eXIf": [b"", b"I"],
        b"acTL": [b"", bytes(8), b"\xff" * 8],
        b"fcTL": [b"", bytes(26)],
        b"fdAT": [b"", bytes(9)],
    }.items():
        for number, body in enumerate(bodies):
            yield BadPhoto("text", f"{kind.decode()}_{number}.png", with_chunks((kind, body)))
    yield BadPhoto("text", "comments.jpg", with_segments(jpeg(), *[segment(0xFE, b"a\xff\x00")] * 20_000))
    yield BadPhoto("text", "comment_not_text.jpg", with_segments(jpeg(), segment(0xFE, bytes(range(256)))))
    yield BadPhoto(
        "text", "segments.jpg", with_segments(jpeg(), *[segment(0xE0 + n % 16, bytes(60_000)) for n in range(200)])
    )
    for name, body in {"empty": b"", "cut": b"JFIF\x00\x01", "no_density": b"JFIF\x00\x01\x01\x01" + bytes(6)}.items():
        yield BadPhoto("text", f"jfif_{name}.jpg", with_segments(jpeg(), segment(0xE0, body)))
    for name, body in {"empty": b"", "cut": b"Adobe\x00", "transform_9": b"Adobe\x00\x64" + bytes(4) + b"\x09"}.items():
        yield BadPhoto("text", f"adobe_{name}.jpg", with_segments(jpeg(), segment(0xEE, body)))
    for name, body in {
        "beyond": b"MPF\x00II*\x00\xf0\xff\xff\xff",
        "loop": b"MPF\x00" + block(long(0xB001, 2), following=8),
        "lies": b"MPF\x00" + block((0xB000, 7, 4, b"0100"), long(0xB001, 0xFFFFFFFF), (0xB002, 7, 16, b"\xff" * 16)),
        "two_of_none": b"MPF\x00" + block((0xB000, 7, 4, b"0100"), long(0xB001, 2), (0xB002, 7, 32, bytes(32))),
        "empty": b"MPF\x00",
    }.items():
        yield BadPhoto("text", f"mpf_{name}.jpg", with_segments(jpeg(), segment(0xE2, body)))
    own = chunks_of(good_photos()["rgb.png"])
    late = png_of([*own[:-1], (b"tEXt", b"a\x00b"), (b"eXIf", exif_blocks()["next_is_itself"]), own[-1]])
    yield BadPhoto("text", "behind_the_pixels.png", late)
    wrong = SIGNATURE + chunk(*own[0]) + chunk(b"tEXt", b"a\x00b", crc=1) + b"".join(chunk(*one) for one in own[1:])
    yield BadPhoto("text", "tEXt_crc.png", wrong)
