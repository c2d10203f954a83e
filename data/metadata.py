"""What travels beside the pixels: the orientation in EXIF blocks, and the mark of an AI edit in XMP packets.

EXIF blocks are patched in place, byte by byte, so that maker notes (which hold absolute offsets) stay readable.
XMP packets are extended as text, so that everything another program wrote stays as it was.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

EXIF_PREFIX = b"Exif\x00\x00"
TAG_ORIENTATION, TAG_EXIF_IFD, TAG_WIDTH_PX, TAG_HEIGHT_PX = 0x0112, 0x8769, 0xA002, 0xA003
TYPE_SHORT, TYPE_LONG = 3, 4
TURNED_BY_90 = (5, 6, 7, 8)
"""Orientations whose upright picture has the stored width as its height."""

AI_EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type: a photograph with parts made by a trained model."""
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

_EMPTY_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF xmlns:rdf="{RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n'
    '<?xpacket end="w"?>'
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One 12-byte directory entry: its tag, type, count and the position of its 4-byte value field."""

    tag: int
    type: int
    count: int
    value_at: int


def _byte_order(block: bytes | bytearray) -> str | None:
    """The struct prefix of a classic TIFF block, or None where it is not one."""
    return {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(block[:4]))


def _entries(block: bytes | bytearray, order: str, ifd_at: int) -> Iterator[_Entry]:
    """The entries of the directory at a byte offset; stops quietly where the block ends."""
    if not 8 <= ifd_at <= len(block) - 2:
        return
    (count,) = struct.unpack_from(order + "H", block, ifd_at)
    for at in range(ifd_at + 2, min(ifd_at + 2 + 12 * count, len(block) - 11), 12):
        tag, type_, values = struct.unpack_from(order + "HHL", block, at)
        yield _Entry(tag, type_, values, at + 8)


def _read_number(block: bytes | bytearray, order: str, entry: _Entry) -> int | None:
    """The value of an entry that holds one SHORT or LONG, else None."""
    kind = {TYPE_SHORT: "H", TYPE_LONG: "L"}.get(entry.type)
    if kind is None or entry.count != 1:
        return None
    value: int = struct.unpack_from(order + kind, block, entry.value_at)[0]
    return value


def _write_number(block: bytearray, order: str, entry: _Entry, value: int) -> None:
    kind = "H" if entry.type == TYPE_SHORT else "L"
    struct.pack_into(order + kind, block, entry.value_at, value)


def replace_tag(tiff_block: bytes, tag: int, values: dict[int, int]) -> tuple[bytes, int | None]:
    """A TIFF block (or a whole TIFF file) with one number of its first directory replaced, and the former number.

    `values` maps each number to replace to its successor; where the tag is missing or holds another number, the block
    comes back as it was, with None.
    """
    order = _byte_order(tiff_block)
    if order is None or len(tiff_block) < 8:
        return tiff_block, None
    (ifd_at,) = struct.unpack_from(order + "L", tiff_block, 4)
    for entry in _entries(tiff_block, order, ifd_at):
        former = _read_number(tiff_block, order, entry) if entry.tag == tag else None
        if former is not None and former in values:
            patched = bytearray(tiff_block)
            _write_number(patched, order, entry, values[former])
            return bytes(patched), former
    return tiff_block, None


def set_upright(tiff_block: bytes) -> tuple[bytes, int]:
    """A TIFF block (or a whole TIFF file) with Orientation set to 1, and the orientation (1..8) that it had.

    Pixels are not touched. A block without a valid orientation comes back as it was, with 1.
    """
    patched, former = replace_tag(tiff_block, TAG_ORIENTATION, dict.fromkeys(range(2, 9), 1))
    return patched, former or 1


def upright_exif(exif: bytes) -> tuple[bytes, int]:
    """An EXIF block fit for the upright photo, and the orientation (1..8) that it asked for.

    Orientation becomes 1, the pixel width and height are exchanged when the photo was turned by 90 degrees, and the
    embedded thumbnail is unlinked: it would show the photo as it was before the turn and before the edit.
    The `Exif\\0\\0` prefix of JPEG is removed; a block that cannot be parsed comes back otherwise as it was.
    """
    block, orientation = set_upright(exif.removeprefix(EXIF_PREFIX))
    order = _byte_order(block)
    if order is None or len(block) < 8:
        return block, orientation
    patched = bytearray(block)
    (ifd_at,) = struct.unpack_from(order + "L", patched, 4)
    entries = list(_entries(patched, order, ifd_at))
    thumbnail_link_at = ifd_at + 2 + 12 * len(entries)
    if entries and thumbnail_link_at + 4 <= len(patched):
        struct.pack_into(order + "L", patched, thumbnail_link_at, 0)
    if orientation in TURNED_BY_90:
        _exchange_turned_size(patched, order)
    return bytes(patched), orientation


def _exchange_turned_size(block: bytearray, order: str) -> None:
    """Exchange the pixel width and height that the Exif directory of a block gives, in place."""
    (ifd_at,) = struct.unpack_from(order + "L", block, 4)
    for entry in list(_entries(block, order, ifd_at)):
        if entry.tag == TAG_EXIF_IFD:
            _exchange_size(block, order, _read_number(block, order, entry) or 0)


def _exchange_size(block: bytearray, order: str, exif_ifd_at: int) -> None:
    """Exchange PixelXDimension and PixelYDimension of the Exif directory in place."""
    size = {e.tag: e for e in _entries(block, order, exif_ifd_at) if e.tag in (TAG_WIDTH_PX, TAG_HEIGHT_PX)}
    if len(size) < 2 or size[TAG_WIDTH_PX].type != size[TAG_HEIGHT_PX].type:
        return
    width, height = (_read_number(block, order, size[tag]) for tag in (TAG_WIDTH_PX, TAG_HEIGHT_PX))
    if width is not None and height is not None:
        _write_number(block, order, size[TAG_WIDTH_PX], height)
        _write_number(block, order, size[TAG_HEIGHT_PX], width)


def upright_xmp(xmp: bytes) -> bytes:
    """The packet with `tiff:Orientation` set to 1, as attribute or element; everything else byte for byte."""
    return _with_xmp_orientation(xmp, b"2-8", 1)


def _with_xmp_orientation(xmp: bytes, former: bytes, orientation: int) -> bytes:
    number = b"\\g<1>%d\\g<2>" % orientation
    xmp = re.sub(rb"(\btiff:Orientation\s*=\s*[\"'])[" + former + rb"]([\"'])", number, xmp)
    return re.sub(rb"(<tiff:Orientation\s*>\s*)[" + former + rb"](\s*<)", number, xmp)


def stored_exif(exif: bytes, orientation: int) -> bytes | None:
    """The EXIF block of an upright photo, fit again for pixels that are stored by `orientation` (1..8).

    The reverse of `upright_exif`, but for the thumbnail. None where the block cannot say it: it has no Orientation.
    """
    block, former = replace_tag(exif, TAG_ORIENTATION, {1: orientation})
    order = _byte_order(block)
    if former is None or order is None:
        return exif if orientation == 1 else None
    patched = bytearray(block)
    if orientation in TURNED_BY_90:
        _exchange_turned_size(patched, order)
    return bytes(patched)


def stored_xmp(xmp: bytes, orientation: int) -> bytes:
    """The packet with the `tiff:Orientation` it has, if any, set to `orientation` (1..8)."""
    return _with_xmp_orientation(xmp, b"1", orientation)


def _is_well_formed(text: str) -> bool:
    """Whether the packet parses as XML that holds an rdf:RDF; document types (entity bombs) are refused."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return False
    try:
        root = ElementTree.fromstring(text.encode("utf-8"))
    except ElementTree.ParseError:
        return False
    return next(root.iter(f"{{{RDF}}}RDF"), None) is not None


def _without_source_type(text: str) -> str:
    """The packet without any DigitalSourceType, as attribute or element."""
    text = re.sub(r"""\s+[\w.-]+:DigitalSourceType\s*=\s*("[^"]*"|'[^']*')""", "", text)
    return re.sub(
        r"<([\w.-]+):DigitalSourceType\b(?:[^<>]*/>|[^<>]*>.*?</\1:DigitalSourceType\s*>)", "", text, flags=re.DOTALL
    )


def _subject(text: str) -> str:
    """The `rdf:about` value, with its quotes, that every description of one packet shares."""
    found = re.search(r"""\b[\w.-]+:about\s*=\s*("[^"]*"|'[^']*')""", text)
    return found.group(1) if found else '""'


def mark_ai_edited(xmp: bytes | None) -> bytes:
    """The XMP packet (UTF-8) with IPTC `DigitalSourceType` = composite with trained algorithmic media.

    An existing packet keeps everything else it says; a former source type is replaced. A packet that is not
    well-formed UTF-8 XML can carry no statement, so a new one takes its place.
    """
    text = (xmp or b"").strip(b"\x00").decode("utf-8-sig", errors="replace").strip()
    merged = _insert_source_type(_without_source_type(text)) if _is_well_formed(text) else None
    if merged is None or not _is_well_formed(merged):
        merged = _insert_source_type(_EMPTY_PACKET)
        assert merged is not None, "the empty packet has an rdf:RDF element"
    return merged.encode("utf-8")


def _insert_source_type(text: str) -> str | None:
    """The packet with one more description at the end of its RDF, or None where that has no end tag."""
    ends = list(re.finditer(r"</([\w.-]+):RDF\s*>", text))
    if not ends:
        return None
    prefix, at = ends[-1].group(1), ends[-1].start()
    description = (
        f'<{prefix}:Description {prefix}:about={_subject(text)} xmlns:Iptc4xmpExt="{IPTC_EXT}" '
        f'Iptc4xmpExt:DigitalSourceType="{AI_EDITED}"/>\n'
    )
    return text[:at] + description + text[at:]
