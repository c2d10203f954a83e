"""What travels beside the pixels: the orientation in EXIF blocks, and the mark of an AI edit in XMP packets.

EXIF blocks are patched in place, byte by byte, so that maker notes (which hold absolute offsets) stay readable.
XMP packets are extended as text, so that everything another program wrote stays as it was.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from xml.parsers import expat

EXIF_PREFIX = b"Exif\x00\x00"
TAG_ORIENTATION, TAG_EXIF_IFD, TAG_WIDTH_PX, TAG_HEIGHT_PX = 0x0112, 0x8769, 0xA002, 0xA003
TAG_X_RESOLUTION, TAG_Y_RESOLUTION = 0x011A, 0x011B
TAG_THUMBNAIL_AT, TAG_THUMBNAIL_BYTES = 0x0201, 0x0202
TYPE_SHORT, TYPE_LONG = 3, 4
TYPE_BYTES = {1: 1, 2: 1, TYPE_SHORT: 2, TYPE_LONG: 4, 6: 1, 7: 1}
TURNED_BY_90 = (5, 6, 7, 8)
"""Orientations whose upright picture has the stored width as its height."""

AI_EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type: a photograph with parts made by a trained model."""
SOFTWARE = "photodrag"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

_EMPTY_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF xmlns:rdf="{RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n'
    '<?xpacket end="w"?>'
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One 12-byte directory entry: its tag, type, count and the position of its 4-byte value field."""

    tag: int
    type: int
    count: int
    value_at: int


def byte_order(block: bytes | bytearray) -> str | None:
    """The struct prefix of a classic TIFF block, or None where it is not one."""
    return {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(block[:4]))


def directory_entries(block: bytes | bytearray, order: str, ifd_at: int) -> Iterator[Entry]:
    """The entries of the directory at a byte offset; stops quietly where the block ends."""
    if not 8 <= ifd_at <= len(block) - 2:
        return
    (count,) = struct.unpack_from(order + "H", block, ifd_at)
    for at in range(ifd_at + 2, min(ifd_at + 2 + 12 * count, len(block) - 11), 12):
        tag, type_, values = struct.unpack_from(order + "HHL", block, at)
        yield Entry(tag, type_, values, at + 8)


def read_number(block: bytes | bytearray, order: str, entry: Entry) -> int | None:
    """The value of an entry that holds one SHORT or LONG, else None."""
    kind = {TYPE_SHORT: "H", TYPE_LONG: "L"}.get(entry.type)
    if kind is None or entry.count != 1:
        return None
    value: int = struct.unpack_from(order + kind, block, entry.value_at)[0]
    return value


def _write_number(block: bytearray, order: str, entry: Entry, value: int) -> None:
    kind = "H" if entry.type == TYPE_SHORT else "L"
    struct.pack_into(order + kind, block, entry.value_at, value)


def replace_tag(tiff_block: bytes, tag: int, values: dict[int, int]) -> tuple[bytes, int | None]:
    """A TIFF block (or a whole TIFF file) with one number of its first directory replaced, and the former number.

    `values` maps each number to replace to its successor; where the tag is missing or holds another number, the block
    comes back as it was, with None. Of a tag that is there several times the first one counts, and all become the same.
    """
    order = byte_order(tiff_block)
    if order is None or len(tiff_block) < 8:
        return tiff_block, None
    (ifd_at,) = struct.unpack_from(order + "L", tiff_block, 4)
    entries = [entry for entry in directory_entries(tiff_block, order, ifd_at) if entry.tag == tag]
    formers = [(entry, read_number(tiff_block, order, entry)) for entry in entries]
    former = next((number for _, number in formers if number in values), None)
    if former is None:
        return tiff_block, None
    patched = bytearray(tiff_block)
    for entry, number in formers:
        if number is not None:
            _write_number(patched, order, entry, values[former])
    return bytes(patched), former


def tag_bytes(tiff: bytes, tag: int) -> bytes | None:
    """The bytes of a tag of the first directory of a TIFF block or file, whatever their type; None without them."""
    order = byte_order(tiff)
    if order is None or len(tiff) < 8:
        return None
    (ifd_at,) = struct.unpack_from(order + "L", tiff, 4)
    for entry in directory_entries(tiff, order, ifd_at):
        if entry.tag == tag and entry.type in TYPE_BYTES:
            length = TYPE_BYTES[entry.type] * entry.count
            at = entry.value_at if length <= 4 else int(struct.unpack_from(order + "L", tiff, entry.value_at)[0])
            return tiff[at : at + length] or None
    return None


def set_upright(tiff_block: bytes) -> tuple[bytes, int]:
    """A TIFF block (or a whole TIFF file) with Orientation set to 1, and the orientation (1..8) that it had.

    Pixels are not touched. A block without a valid orientation comes back as it was, with 1.
    """
    patched, former = replace_tag(tiff_block, TAG_ORIENTATION, dict.fromkeys(range(2, 9), 1))
    return patched, former or 1


def upright_exif(exif: bytes) -> tuple[bytes, int]:
    """An EXIF block fit for the upright photo, and the orientation (1..8) that it asked for.

    Orientation becomes 1, width and height and both resolutions are exchanged when the photo was turned by 90 degrees,
    and the embedded thumbnail is unlinked and erased: it would show the photo as it was before the turn and the edit.
    The `Exif\\0\\0` prefix of JPEG is removed; a block that cannot be parsed comes back otherwise as it was.
    """
    block, orientation = set_upright(exif.removeprefix(EXIF_PREFIX))
    if orientation in TURNED_BY_90:
        block = exchange_sides(block)
    return _without_thumbnail(block), orientation


def exchange_sides(block: bytes) -> bytes:
    """An EXIF block with the pixel width and height, and the resolutions along both, exchanged in place."""
    order = byte_order(block)
    if order is None or len(block) < 8:
        return block
    patched = bytearray(block)
    (ifd_at,) = struct.unpack_from(order + "L", patched, 4)
    entries = {entry.tag: entry for entry in directory_entries(patched, order, ifd_at)}
    _exchange(patched, entries, TAG_X_RESOLUTION, TAG_Y_RESOLUTION)
    exif_ifd_at = read_number(patched, order, entries[TAG_EXIF_IFD]) if TAG_EXIF_IFD in entries else None
    sizes = {entry.tag: entry for entry in directory_entries(patched, order, exif_ifd_at or 0)}
    _exchange(patched, sizes, TAG_WIDTH_PX, TAG_HEIGHT_PX)
    return bytes(patched)


def _exchange(block: bytearray, entries: dict[int, Entry], first: int, second: int) -> None:
    """Exchange the value fields (numbers, or the places of numbers) of two entries of one type."""
    if first not in entries or second not in entries:
        return
    a, b = entries[first], entries[second]
    if (a.type, a.count) == (b.type, b.count):
        field = slice(a.value_at, a.value_at + 4), slice(b.value_at, b.value_at + 4)
        block[field[0]], block[field[1]] = block[field[1]], block[field[0]]


def thumbnail_link_at(block: bytes) -> int | None:
    """Where an EXIF block holds the place of its second directory, the one of the thumbnail; None without one."""
    order = byte_order(block)
    if order is None or len(block) < 8:
        return None
    (ifd_at,) = struct.unpack_from(order + "L", block, 4)
    entries = sum(1 for _ in directory_entries(block, order, ifd_at))
    link_at = ifd_at + 2 + 12 * entries
    return link_at if entries and link_at + 4 <= len(block) else None


def has_thumbnail(exif: bytes) -> bool:
    """Whether an EXIF block (with or without JPEG's prefix) holds an embedded JPEG thumbnail."""
    block = exif.removeprefix(EXIF_PREFIX)
    return {TAG_THUMBNAIL_AT, TAG_THUMBNAIL_BYTES} <= _thumbnail_entries(block).keys()


def _thumbnail_entries(block: bytes) -> dict[int, Entry]:
    """The entries of the thumbnail's directory by tag; {} where there is none."""
    order, link_at = byte_order(block), thumbnail_link_at(block)
    if order is None or link_at is None:
        return {}
    (ifd_at,) = struct.unpack_from(order + "L", block, link_at)
    return {entry.tag: entry for entry in directory_entries(block, order, ifd_at)}


def _without_thumbnail(block: bytes) -> bytes:
    """The block with the thumbnail's directory unlinked and its JPEG erased: cut off at the end, else overwritten.

    A thumbnail that was merely unlinked would still show the face before the edit to whoever looks for it. What does
    not begin as a JPEG stays: it may be something else at a wrong address.
    """
    order, link_at, entries = byte_order(block), thumbnail_link_at(block), _thumbnail_entries(block)
    if order is None or link_at is None:
        return block
    patched = bytearray(block)
    struct.pack_into(order + "L", patched, link_at, 0)
    if {TAG_THUMBNAIL_AT, TAG_THUMBNAIL_BYTES} <= entries.keys():
        start = read_number(block, order, entries[TAG_THUMBNAIL_AT]) or 0
        end = start + (read_number(block, order, entries[TAG_THUMBNAIL_BYTES]) or 0)
        if link_at + 4 <= start and block[start : start + 2] == b"\xff\xd8":
            end = min(end, len(block))
            if any(block[end:]):
                patched[start:end] = bytes(end - start)
            else:
                (directory_at,) = struct.unpack_from(order + "L", block, link_at)
                adjoins = directory_at + 2 + 12 * len(entries) + 4 == start
                del patched[directory_at if adjoins else start :]
    return bytes(patched)


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
    if former is None:
        return exif if orientation == 1 else None
    return exchange_sides(block) if orientation in TURNED_BY_90 else block


def stored_xmp(xmp: bytes, orientation: int) -> bytes:
    """The packet with the `tiff:Orientation` it has, if any, set to `orientation` (1..8)."""
    return _with_xmp_orientation(xmp, b"1", orientation)


def _is_well_formed(text: str) -> bool:
    """Whether the packet parses as XML that holds an rdf:RDF; document types (entity bombs) are refused.

    No tree is built, and the encoding that the packet may name does not count: it has been decoded.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return False
    names: set[str] = set()

    def on_element(name: str, _: dict[str, str]) -> None:
        if name == f"{RDF} RDF":
            names.add(name)

    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.StartElementHandler = on_element
    try:
        parser.Parse(text.encode("utf-8"), True)
    except expat.ExpatError:
        return False
    return bool(names)


def _without_property(text: str, name: str) -> tuple[str, str]:
    """The packet without the simple property of that local name, and its value there (attribute or element) or "".

    Only one space before the name is matched: packets end in long padding, which `\\s+` would search from every space.
    """
    attribute = rf"""\s[\w.-]+:{name}\s*=\s*(?:"([^"]*)"|'([^']*)')"""
    values = [one or other for one, other in re.findall(attribute, text)]
    text, contents = _without_elements(re.sub(attribute, "", text), name)
    values += [value for value in contents if "<" not in value]
    return text, next((value.strip() for value in values if value.strip()), "")


def _without_elements(text: str, name: str) -> tuple[str, list[str]]:
    """The packet without the elements of that local name, and what each held; in one pass, however they are nested.

    One that is never closed stays: it is text inside a comment.
    """
    ends: dict[str, list[re.Match[str]]] = {}
    for end in re.finditer(rf"</([\w.-]+):{name}\s*>", text):
        ends.setdefault(end.group(1), []).append(end)
    kept, contents, at, passed = [], [], 0, dict.fromkeys(ends, 0)
    for start in re.finditer(rf"<([\w.-]+):{name}\b[^<>]*>", text):
        if start.start() < at:
            continue
        after, prefix = start.end(), start.group(1)
        if not start.group().endswith("/>"):
            own = ends.get(prefix, [])
            while passed.get(prefix, 0) < len(own) and own[passed[prefix]].start() < after:
                passed[prefix] += 1
            if passed.get(prefix, 0) == len(own):
                continue
            end = own[passed[prefix]]
            contents.append(text[after : end.start()])
            after = end.end()
        kept.append(text[at : start.start()])
        at = after
    return "".join([*kept, text[at:]]), contents


def _subject(text: str) -> str:
    """The `rdf:about` value, with its quotes, that every description of one packet shares."""
    found = re.search(r"""(?<![\w.-])[\w.-]+:about\s*=\s*("[^"]*"|'[^']*')""", text)
    return found.group(1) if found else '""'


def software() -> str:
    """`photodrag` and the version that is installed, as it is named in metadata."""
    try:
        return f"{SOFTWARE} {version(SOFTWARE)}"
    except PackageNotFoundError:
        return SOFTWARE


def mark_ai_edited(xmp: bytes | None) -> bytes:
    """The XMP packet (UTF-8) that says that a model changed the photo, in the terms of IPTC.

    `DigitalSourceType` becomes composite with trained algorithmic media; `AISystemUsed` (IPTC 2025.1) names this
    software behind the systems that it named before. Everything else stays, `xmp:CreatorTool` above all: that is the
    camera or the raw converter. A packet that is not well-formed UTF-8 XML can carry no statement, so a new one takes
    its place.
    """
    text = (xmp or b"").strip(b"\x00").decode("utf-8-sig", errors="replace").strip()
    merged = _insert_statement(*_without_statement(text)) if _is_well_formed(text) else None
    if merged is None or not _is_well_formed(merged):
        merged = _insert_statement(_EMPTY_PACKET, "")
        assert merged is not None, "the empty packet has an rdf:RDF element"
    return merged.encode("utf-8")


def _without_statement(text: str) -> tuple[str, str]:
    """The packet without source type, AI system and previews, and the AI system (as XML text) that it named.

    Previews (`xmp:Thumbnails`) show the photo before the edit.
    """
    text, _ = _without_elements(text, "Thumbnails")
    text, _ = _without_property(text, "DigitalSourceType")
    return _without_property(text, "AISystemUsed")


def _insert_statement(text: str, former_system: str) -> str | None:
    """The packet with one more description at the end of its RDF, or None where that has no end tag."""
    # Former descriptions that the removal has left empty were our own.
    text = re.sub(
        rf"""<[\w.-]+:Description [\w.-]+:about=("[^"]*"|'[^']*') xmlns:Iptc4xmpExt="{IPTC_EXT}"\s*/>\n""", "", text
    )
    ends = list(re.finditer(r"</([\w.-]+):RDF\s*>", text))
    if not ends:
        return None
    prefix, at = ends[-1].group(1), ends[-1].start()
    others = [system for system in former_system.split("; ") if system and system.split(" ")[0] != SOFTWARE]
    systems = "; ".join([*others, software()]).replace('"', "&quot;")
    description = (
        f'<{prefix}:Description {prefix}:about={_subject(text)} xmlns:Iptc4xmpExt="{IPTC_EXT}" '
        f'Iptc4xmpExt:DigitalSourceType="{AI_EDITED}" Iptc4xmpExt:AISystemUsed="{systems}"/>\n'
    )
    return text[:at] + description + text[at:]
