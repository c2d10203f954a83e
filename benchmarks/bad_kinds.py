"""Bad photos of rare kinds, and what is no photo: colour models, sizes, films, other files, special files, names."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.bad_photo_parts import (
    BadPhoto,
    box,
    deep_face,
    encoded,
    face,
    good_photos,
    header,
    jpeg,
    png_of,
    short,
    tiff,
)
from benchmarks.bad_photo_parts import deflated_zeros as zeros

SPARSE_BYTES = 10_000_000_000


def kinds() -> Iterator[BadPhoto]:
    """Colour models and depths."""
    cmyk, grey = face().convert("CMYK"), face().convert("L")
    inverted = Image.merge("CMYK", [channel.point(lambda value: 255 - value) for channel in cmyk.split()])
    see_through = face().quantize(64)
    float_face = Image.fromarray(np.asarray(grey, np.float32) / 255)
    adobe = encoded(cmyk, "JPEG")
    transform = adobe.index(b"Adobe") + 11
    tinted = Image.merge("RGBA", [*face().split(), grey])
    cases: dict[str, tuple[bytes, bool | None]] = {
        "cmyk.jpg": (adobe, True),
        "cmyk_inverted.jpg": (encoded(inverted, "JPEG"), True),
        "ycck.jpg": (adobe[:transform] + b"\x02" + adobe[transform + 1 :], True),
        "cmyk.tif": (encoded(cmyk, "TIFF"), True),
        "cmyk_deflated.tif": (encoded(cmyk, "TIFF", compression="tiff_adobe_deflate"), True),
        "lab.tif": (encoded(face().convert("LAB"), "TIFF", icc_profile=None), True),
        "ycbcr.tif": (encoded(face().convert("YCbCr"), "TIFF"), True),
        "float.tif": (encoded(float_face, "TIFF"), True),
        "integers.tif": (encoded(grey.convert("I"), "TIFF"), True),
        "float_of_64.tif": (tiff([short(258, 64), short(277, 1), short(262, 1), short(339, 3)]), True),
        "float_rgb.tif": (_cv2(".tif", np.asarray(face(), np.float32) / 255), True),
        "signed.tif": (tiff([short(339, 2, 2, 2)]), None),
        "sixteen_grey.tif": (_cv2(".tif", deep_face()[..., 0]), False),
        "sixteen_alpha.tif": (_cv2(".tif", np.dstack([deep_face(), deep_face()[..., 0]])), False),
        "sixteen_planar.tif": (tiff([short(258, 16, 16, 16), short(284, 2)]), True),
        "sixteen_inverted.tif": (encoded(Image.fromarray(deep_face()[..., 0]), "TIFF"), False),
        "bits.tif": (encoded(face().convert("1"), "TIFF"), None),
        "bits_fax.tif": (encoded(face().convert("1"), "TIFF", compression="group4"), None),
        "palette.tif": (encoded(face().quantize(200), "TIFF"), False),
        "alpha.tif": (encoded(tinted, "TIFF"), False),
        "premultiplied.tif": (tiff_premultiplied(tinted), False),
        "grey_alpha.tif": (encoded(Image.merge("LA", [grey, grey]), "TIFF"), False),
        "four_without_meaning.tif": (encoded(Image.merge("RGBX", tinted.split()), "TIFF"), False),
        "bits.png": (encoded(face().convert("1"), "PNG"), None),
        "bits_see_through.png": (encoded(face().convert("1"), "PNG", transparency=0), None),
        "grey_alpha.png": (encoded(Image.merge("LA", [grey, grey]), "PNG"), False),
        "grey_see_through.png": (encoded(grey, "PNG", transparency=90), False),
        "palette_see_through.png": (encoded(see_through, "PNG", transparency=bytes(range(64))), False),
        "palette_one_through.png": (encoded(see_through, "PNG", transparency=3), False),
        "palette_of_2.png": (encoded(face().quantize(2), "PNG", bits=1), None),
        "palette_of_4.png": (encoded(face().quantize(4), "PNG", bits=2), None),
        "palette_of_16.png": (encoded(face().quantize(16), "PNG", bits=4), False),
        "colour_see_through.png": (encoded(face(), "PNG", transparency=(1, 2, 3)), False),
        "sixteen_grey.png": (_cv2(".png", deep_face()[..., 0]), False),
        "sixteen_alpha.png": (_cv2(".png", np.dstack([deep_face(), deep_face()[..., 0]])), False),
        "interlaced.png": (_interlaced(), None),
        "grey.jpg": (encoded(grey, "JPEG"), False),
        "rgb_without_ycc.jpg": (encoded(face(), "JPEG", keep_rgb=True), False),
        "quality_1.jpg": (jpeg(quality=1), None),
        "quality_100.jpg": (jpeg(quality=100, subsampling=0), False),
        "restarts.jpg": (jpeg(restart_marker_blocks=1), False),
        "grey.webp": (encoded(grey, "WEBP", lossless=True), False),
        "alpha.webp": (encoded(tinted, "WEBP", quality=80), False),
        "alpha.avif": (encoded(tinted, "AVIF"), False),
        "grey.avif": (encoded(grey, "AVIF"), False),
    }
    for name, (content, refused) in cases.items():
        yield BadPhoto("kinds of pixels", name, content, refused)


def _cv2(suffix: str, channels: np.ndarray) -> bytes:
    """RGB(A) or grey values of any type in a file that OpenCV writes."""
    order = {2: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[2 if channels.ndim == 2 else channels.shape[2]]
    return cv2.imencode(suffix, channels if channels.ndim == 2 else channels[..., order])[1].tobytes()


def tiff_premultiplied(image: Image.Image) -> bytes:
    """A picture with alpha as a TIFF whose colours are said to be multiplied by it."""
    plain = encoded(image, "TIFF")
    return plain.replace(struct.pack("<HHLHH", 338, 3, 1, 2, 0), struct.pack("<HHLHH", 338, 3, 1, 1, 0))


def _interlaced() -> bytes:
    """A grey PNG of seven passes, all of them zero."""
    passes = ((104, 96, 8, 8, 0, 0), (104, 96, 8, 8, 4, 0), (104, 96, 4, 8, 0, 4), (104, 96, 4, 4, 2, 0))
    passes += ((104, 96, 2, 4, 0, 2), (104, 96, 2, 2, 1, 0), (104, 96, 1, 2, 0, 1))
    size = sum((1 - (left - w) // across) * -((top - h) // down) for w, h, across, down, left, top in passes)
    return png_of([header(104, 96, colour=0, interlaced=1), (b"IDAT", zeros(size)), (b"IEND", b"")])


def sizes() -> Iterator[BadPhoto]:
    """One pixel, one row, one column, and very long ones, in every format."""
    for width, height in ((1, 1), (1, 2), (7, 3), (30_000, 1), (1, 30_000)):
        picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
        longest = max(width, height)
        cases = {
            "jpg": encoded(picture, "JPEG"),
            "progressive.jpg": encoded(picture, "JPEG", progressive=True),
            "grey.jpg": encoded(picture.convert("L"), "JPEG"),
            "png": encoded(picture, "PNG"),
            "sixteen.png": _cv2(".png", np.asarray(picture).astype(np.uint16) * 257),
            "tif": encoded(picture, "TIFF"),
            "sixteen.tif": _cv2(".tif", np.asarray(picture).astype(np.uint16) * 257),
            **({"webp": encoded(picture, "WEBP", lossless=True)} if longest <= 16_383 else {}),
            **({"avif": encoded(picture, "AVIF")} if longest <= 30_000 else {}),
        }
        for suffix, content in cases.items():
            yield BadPhoto("sizes", f"{width}x{height}.{suffix}", content, False)


def animations() -> Iterator[BadPhoto]:
    """Several pictures in one file."""
    frames = [face(), face().rotate(90, expand=False), face().rotate(180)]
    more = {"save_all": True, "append_images": frames[1:]}
    for format, suffix in (("GIF", "gif"), ("GIF", "gif.jpg"), ("PNG", "png"), ("WEBP", "webp"), ("AVIF", "avif")):
        yield BadPhoto("several pictures", f"film.{suffix}", encoded(frames[0], format, **more, duration=50), True)
    yield BadPhoto("several pictures", "pages.tif", encoded(frames[0], "TIFF", **more), False)
    other = Image.new("L", (5000, 3000))
    pages = encoded(frames[0], "TIFF", save_all=True, append_images=[other, Image.new("CMYK", (3, 3))])
    yield BadPhoto("several pictures", "pages_of_all_kinds.tif", pages, False)
    yield BadPhoto("several pictures", "two.mpo", encoded(frames[0], "MPO", **more), False)
    yield BadPhoto("several pictures", "two.jpg", encoded(frames[0], "MPO", **more), False)
    cut = encoded(frames[0], "MPO", **more)
    yield BadPhoto("several pictures", "two_cut.jpg", cut[: len(cut) * 2 // 3])
    film = encoded(frames[0], "PNG", **more, duration=50)
    yield BadPhoto("several pictures", "film_cut.png", film[: len(film) // 2])
    bad = film.replace(b"acTL\x00\x00\x00\x03", b"acTL\xff\xff\xff\xff")
    yield BadPhoto("several pictures", "film_of_billions.png", bad)
    yield BadPhoto("several pictures", "film_of_one.gif", encoded(face(), "GIF"), True)


def others() -> Iterator[BadPhoto]:
    """Files of other kinds under a photo's name, and photos under other suffixes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("me.jpg", jpeg())
    noise = random.Random(3).randbytes(20_000)
    cases = {
        "svg.jpg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
        "pdf.jpg": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/hostname) (r) file\nshowpage\n",
        "text.jpg": b"a photograph of a face\n" * 100,
        "text_of_jpg.jpg": b"\xef\xbb\xbfJFIF",
        "html.jpg": b"<!DOCTYPE html><title>404</title><p>The photo is not here any more.</p>",
        "json.png": b'{"photodrag_recipe": 1}',
        "program.jpg": b"\x7fELF\x02\x01\x01" + bytes(9) + noise,
        "program.png": b"MZ\x90\x00" + noise,
        "zip.jpg": archive.getvalue(),
        "gzip.tif": b"\x1f\x8b\x08\x00" + noise,
        "pickle.jpg": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        "noise.jpg": noise,
        "zeros.jpg": bytes(100_000),
        "ones.png": b"\xff" * 100_000,
        "bmp.jpg": encoded(face(), "BMP"),
        "ico.png": encoded(face(), "ICO"),
        "jp2.jpg": encoded(face(), "JPEG2000"),
        "ppm.jpg": encoded(face(), "PPM"),
        "tga.jpg": encoded(face(), "TGA"),
        "psd.tif": b"8BPS\x00\x01"
        + bytes(6)
        + b"\x00\x03"
        + struct.pack(">LL", 96, 104)
        + b"\x00\x08\x00\x03"
        + bytes(12),
        "dng.dng": tiff([(50706, 1, 4, b"\x01\x04\x00\x00"), short(262, 32803)]),
        "raf.jpg": b"FUJIFILMCCD-RAW 0201" + noise,
        "cr3.heic": box(b"ftyp", b"crx \x00\x00\x00\x01crx isom") + noise,
        "film.jpg": box(b"ftyp", b"isom\x00\x00\x02\x00isomiso2") + box(b"moov", noise),
        "sound.jpg": b"RIFF" + struct.pack("<L", 36) + b"WAVEfmt " + noise,
        "jpeg_xl.jpg": b"\xff\x0a" + noise,
        "one_byte.jpg": b"\xff",
        "two_bytes.jpg": b"\xff\xd8",
        "three_bytes.tif": b"II*",
        "twelve_bytes.heic": b"\x00\x00\x00\x0cftypheic",
    }
    for name, content in cases.items():
        yield BadPhoto("other files", name, content, True)
    photos = good_photos()
    for kind, suffix in (
        ("baseline.jpg", "png"),
        ("rgb.png", "jpg"),
        ("plain.tif", "jpg"),
        ("lossy.webp", "jpg"),
        ("eight.avif", "jpg"),
        ("face.heic", "jpg"),
        ("baseline.jpg", "txt"),
        ("rgb.png", "heic"),
        ("face.heic", "avif"),
        ("baseline.jpg", ""),
    ):
        yield BadPhoto("other suffixes", f"{kind.replace('.', '_')}.{suffix}".rstrip("."), photos[kind], False)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(jpeg())
        file.truncate(SPARSE_BYTES)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _unreadable(path: Path) -> None:
    path.write_bytes(jpeg())
    path.chmod(0)


def _as_folder(path: Path) -> None:
    path.mkdir()


def names() -> Iterator[BadPhoto]:
    """What is no regular file, and good photos whose names are hard."""
    special: dict[str, bytes | Callable[[Path], None]] = {
        "empty.jpg": b"",
        "folder.jpg": _as_folder,
        "pipe.jpg": _fifo,
        "socket.jpg": _socket,
        "endless.jpg": _link("/dev/zero"),
        "random.jpg": _link("/dev/urandom"),
        "nothing.jpg": _link("/dev/null"),
        "terminal.jpg": _link("/dev/tty"),
        "memory.jpg": _link("/proc/self/mem"),
        "settings.jpg": _link("/proc/self/environ"),
        "itself.jpg": _link("itself.jpg"),
        "there.jpg": _link("and_back.jpg"),
        "and_back.jpg": _link("there.jpg"),
        "dangling.jpg": _link("nowhere.jpg"),
        "sparse.jpg": _sparse,
    }
    for name, content in special.items():
        yield BadPhoto("special files", name, content, True)
    yield BadPhoto("special files", "closed.jpg", _unreadable)
    yield BadPhoto("special files", "linked.jpg", _link("dots..jpg"))
    for name in (
        "two\nlines.jpg",
        "return\r.jpg",
        "tab\t.jpg",
        "escape\x1b[31mred\x07.jpg",
        "not_unicode_\udcff\udcfe.jpg",
        "half_\udced\udca0\udc80.jpg",
        "\u202egpj.exe.jpg",
        "zero\u200bwidth.jpg",
        "ça va 写真 🙂.jpg",
        "combining_e\u0301.jpg",
        " leading and trailing .jpg ",
        "-dash.jpg",
        "--help.jpg",
        "equals=sign.jpg",
        "photo=me.jpg",
        "+plus=1.jpg",
        "~home.jpg",
        "quote'\".jpg",
        "${oc.env:HOME}.jpg",
        "$(true);&|<>.jpg",
        "[1,2]{a:b}.jpg",
        "back\\slash.jpg",
        "percent%s%n{}.jpg",
        "comma,comma.jpg",
        "dots..jpg",
        "no_suffix",
        "me.jpg.photodrag.json",
        "x" * 240 + ".jpg",
        "写" * 80 + ".jpg",
    ):
        yield BadPhoto("names", name, jpeg(), False)
