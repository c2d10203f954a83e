"""Photographs as cameras and other programs write them, with all that has to come back from a file."""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Camera 1.2"/>'
    b'</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x00\x00\x02\x00\x04\x1c\x02\x78\x00\x07Caption"
MAKER_SECRET = b"serial 4711"
EXPOSURE = (1, 250)


def striped(height: int, width: int) -> NDArray[np.uint8]:
    """[H,W,3] uint8 without any symmetry, so that every turn shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 % 256, y * 5 % 256, np.full_like(x, 90)], axis=2).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], **options: object) -> bytes:
    return encoded(Image.fromarray(pixels), "JPEG", **options)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    if isinstance(options.get("exif"), bytes):
        options["exif"] = b"Exif\x00\x00" + options["exif"]
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def camera_exif(
    order: str = "<", orientation: int = 6, thumbnail: bytes | None = None, behind: bytes = b"", dpi: tuple = (300, 200)
) -> bytes:
    """An EXIF block as cameras write it: a maker note that points into the block by an absolute offset, and (with
    `thumbnail`) a second directory whose JPEG lies at the end, before the bytes `behind`."""
    first_at, exif_at, second_at, data_at = 8, 90, 150, 200
    block = bytearray(300)
    block[:8] = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(order + "L", first_at)
    places = {"make": data_at, "x": data_at + 8, "y": data_at + 16, "exposure": data_at + 24, "note": data_at + 32}
    secret_at = data_at + 44

    def short(tag: int, value: int) -> bytes:
        return struct.pack(order + "HHLHH", tag, 3, 1, value, 0)

    def long(tag: int, value: int, type_: int = 4, count: int = 1) -> bytes:
        return struct.pack(order + "HHLL", tag, type_, count, value)

    def directory(at: int, entries: list[bytes], following: int = 0) -> None:
        whole = struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "L", following)
        block[at : at + len(whole)] = whole

    resolution = [long(282, places["x"], 5), long(283, places["y"], 5), short(296, 2)]
    first = [long(271, places["make"], 2, 7), short(274, orientation), *resolution, long(0x8769, exif_at)]
    directory(first_at, first, second_at if thumbnail else 0)
    note = long(0x927C, places["note"], 7, 8)
    directory(exif_at, [long(0x829A, places["exposure"], 5), note, short(0xA002, 30), short(0xA003, 20)])
    if thumbnail:
        sizes = [long(0x201, len(block)), long(0x202, len(thumbnail))]
        directory(second_at, [short(0x103, 6), *sizes])
    for place, value in (
        ("make", b"Camera\x00"),
        ("x", struct.pack(order + "LL", dpi[0], 1)),
        ("y", struct.pack(order + "LL", dpi[1], 1)),
        ("exposure", struct.pack(order + "LL", *EXPOSURE)),
        ("note", b"NOTE" + struct.pack(order + "L", secret_at)),
    ):
        block[places[place] : places[place] + len(value)] = value
    block[secret_at : secret_at + len(MAKER_SECRET)] = MAKER_SECRET
    return bytes(block) + (thumbnail or b"") + behind


class RawExif(Image.Exif):
    """A block that Pillow's AVIF writer stores as it is, as cameras do, with the turn in the container as well."""

    def __init__(self, block: bytes, orientation: int) -> None:
        super().__init__()
        self.block = block
        self[274], self[271] = orientation, "any other tag"

    def tobytes(self, offset: int = 8) -> bytes:
        return self.block


def parsed_exif(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(b"Exif\x00\x00" + block.removeprefix(b"Exif\x00\x00"))
    return exif


def maker_secret(block: bytes) -> bytes:
    """What the maker note of the block points to, b"" where the note is gone."""
    note = parsed_exif(block).get_ifd(0x8769).get(0x927C, b"")
    if len(note) != 8:
        return b""
    (at,) = struct.unpack(("<" if block[:2] == b"II" else ">") + "L", note[4:])
    return block[at : at + len(MAKER_SECRET)]


def embedded_thumbnail(block: bytes) -> bytes | None:
    """The JPEG that the block's second directory names, None without one."""
    second = parsed_exif(block).get_ifd(ExifTags.IFD.IFD1)
    return block[second[0x201] : second[0x201] + second[0x202]] if 0x201 in second else None


def resource(number: int, data: bytes, name: bytes = b"") -> bytes:
    """One of Photoshop's image resources."""
    pascal = bytes([len(name)]) + name
    pascal += b"\x00" * (len(pascal) % 2)
    header = b"8BIM" + struct.pack(">H", number) + pascal
    return header + struct.pack(">L", len(data)) + data + b"\x00" * (len(data) % 2)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


def with_segments(jpeg_file: bytes, segments: bytes) -> bytes:
    """A JPEG with more segments behind its first marker."""
    return jpeg_file[:2] + segments + jpeg_file[2:]


def tiff_tags(**extra: object) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Tags for Pillow's TIFF writer: {number: (type, value)} written as t<number>."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, (type_, value) in extra.items():
        tag = int(name[1:])
        directory.tagtype[tag] = type_
        directory[tag] = value
    return directory


def xmp_in_png(xmp: bytes) -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return info
