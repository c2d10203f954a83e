"""Bad photos whose containers are wrong: JPEG, PNG, TIFF, WebP, HEIF and AVIF, cut, flipped, lying and circular."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from benchmarks.bad_photo_parts import (
    BOMB_BYTES,
    PNG_SIGNATURE,
    BadPhoto,
    chunk,
    chunks_of,
    deflated_zeros,
    directory,
    flipped,
    good_photos,
    header,
    jpeg,
    jpeg_place,
    long,
    many_scans,
    png_of,
    segment,
    short,
    tiff,
)

CUTS = (0.02, 0.1, 0.4, 0.8, 0.97)
FLIPS = (1, 1, 3, 10, 100)
FRAME, SCAN, HUFFMAN, QUANTISATION = (0xC0, 0xC1, 0xC2), 0xDA, 0xC4, 0xDB
MEGABYTES = 1 << 20


def truncated() -> Iterator[BadPhoto]:
    """Every format, cut at several places."""
    for name, data in good_photos().items():
        for share in CUTS:
            yield BadPhoto("truncated", f"{share:g}_{name}", data[: max(1, int(len(data) * share))])
        yield BadPhoto("truncated", f"last_byte_{name}", data[:-1])


def bit_flipped(seed: int) -> Iterator[BadPhoto]:
    """Every format with bits turned over, anywhere and in its first 400 bytes."""
    for name, data in good_photos().items():
        rng = random.Random(f"{seed} {name}")
        for number, count in enumerate(FLIPS):
            yield BadPhoto("bits flipped", f"{number}_{name}", flipped(data, rng, count))
        head = flipped(data[:400], rng, 4) + data[400:]
        yield BadPhoto("bits flipped", f"head_{name}", head)


def jpegs() -> Iterator[BadPhoto]:
    """JPEG files whose markers, tables, frames and scans are wrong."""
    good, grey = jpeg(), good_photos()["grey.jpg"]
    start, end = jpeg_place(good, *FRAME)
    scan, data_at = jpeg_place(good, SCAN)
    frame, body = good[start:end], good[data_at:-2]

    def framed(new: bytes) -> bytes:
        return good[:start] + new + good[end:]

    def sized(height: int, width: int) -> bytes:
        return framed(frame[:5] + struct.pack(">HH", height, width) + frame[9:])

    tables = jpeg_place(good, HUFFMAN)
    quantisation = jpeg_place(good, QUANTISATION)
    cases = {
        "no_end": good[:-2],
        "garbage_behind": good + random.Random(0).randbytes(50_000),
        "jpeg_behind": good + jpeg(quality=10),
        "zip_behind": good + b"PK\x03\x04" + bytes(100),
        "start_twice": good[:2] + good,
        "end_first": good[:2] + b"\xff\xd9" + good[2:],
        "end_in_the_middle": good[: data_at + 500] + b"\xff\xd9" + good[data_at + 500 :],
        "restarts_in_the_scan": good[:data_at] + b"\xff\xd0\xff\xd5".join([body[:300], body[300:]]) + good[-2:],
        "interval_lies": good[:scan] + segment(0xDD, b"\x00\x02") + good[scan:],
        "fill_bytes": good[:2] + b"\xff" * 5000 + good[2:],
        "length_0": good[:2] + b"\xff\xe5\x00\x00" + good[2:],
        "length_1": good[:2] + b"\xff\xe5\x00\x01" + good[2:],
        "length_beyond": good[:2] + b"\xff\xe5\xff\xff" + good[2:],
        "height_0": sized(0, 104),
        "width_0": sized(96, 0),
        "lower": sized(50, 104),
        "higher": sized(400, 104),
        "wider": sized(96, 1000),
        "no_components": framed(frame[:9] + b"\x00" + frame[10:]),
        "two_components": framed(segment(0xC0, b"\x08\x00\x60\x00\x68\x02\x01\x22\x00\x02\x11\x01")),
        "255_components": framed(frame[:9] + b"\xff" + frame[10:]),
        "sampling_0": framed(frame[:11] + b"\x00" + frame[12:]),
        "sampling_4x4": framed(frame[:11] + b"\x44" + frame[12:]),
        "sampling_3x1": framed(frame[:11] + b"\x31" + frame[12:]),
        "sampling_15": framed(frame[:11] + b"\xff" + frame[12:]),
        "chroma_larger": framed(frame[:11] + b"\x11" + frame[12:14] + b"\x22" + frame[15:]),
        "same_component_thrice": framed(frame[:10] + b"\x01\x22\x00\x01\x11\x01\x01\x11\x01"),
        "twelve_bits": framed(frame[:4] + b"\x0c" + frame[5:]),
        "no_frame": framed(b""),
        "two_frames": framed(frame + frame),
        "no_huffman": good[: tables[0]] + good[tables[1] :],
        "huffman_overfull": good[: tables[0]]
        + segment(HUFFMAN, b"\x00" + b"\xff" * 16 + bytes(4080))
        + good[tables[1] :],
        "huffman_table_9": good[: tables[0]]
        + segment(HUFFMAN, b"\x99" + good[tables[0] + 5 : tables[1]])
        + good[tables[1] :],
        "no_quantisation": good[: quantisation[0]] + good[quantisation[1] :],
        "steps_of_0": good[: quantisation[0] + 5] + bytes(64) + good[quantisation[0] + 69 :],
        "steps_of_16_bits": good[: quantisation[0]]
        + segment(QUANTISATION, b"\x10" + b"\xff" * 128)
        + good[quantisation[0] :],
        "scan_of_nothing": good[:scan] + segment(SCAN, b"\x00\x00\x3f\x00") + good[data_at:],
        "scan_of_strangers": good[:scan] + segment(SCAN, b"\x03\x09\x00\x08\x11\x07\x11\x00\x3f\x00") + good[data_at:],
        "scan_zeros": good[:data_at] + bytes(len(body)) + good[-2:],
        "scan_ones": good[:data_at] + b"\xff\x00" * (len(body) // 2) + good[-2:],
        "scan_empty": good[:data_at] + good[-2:],
        "thumbnail_as_photo": good[:20],
        "marker_of_nothing": good[:2] + b"\xff\x01\xff\x02" + good[2:],
        "height_told_late": sized(0, 104)[:-2] + segment(0xDC, b"\x00\x60") + good[-2:],
    }
    for name, content in cases.items():
        yield BadPhoto("JPEG structure", f"{name}.jpg", content)
    for number in (3, 5, 6, 7, 9, 10, 11, 13, 15):
        other = framed(bytes([0xFF, 0xC0 + number]) + frame[2:])
        kind = "arithmetic JPEG" if number in (9, 10) else "JPEG structure"
        yield BadPhoto(kind, f"frame_{number}.jpg", other)
    start, _ = jpeg_place(grey, *FRAME)
    yield BadPhoto("arithmetic JPEG", "grey.jpg", grey[: start + 1] + b"\xc9" + grey[start + 2 :])
    conditioned = good[:scan] + segment(0xCC, b"\x00\xff\x10\xff") + good[scan:]
    yield BadPhoto("arithmetic JPEG", "conditioned.jpg", conditioned)
    for width, height, count in ((600, 400, 450), (1000, 1000, 3000), (5000, 5000, 60_000), (13_000, 15_000, 20_000)):
        yield BadPhoto("scans", f"{count}_of_{width}x{height}.jpg", many_scans(width, height, count), count > 1000)
    hidden = many_scans(3000, 3000, 30_000).replace(b"\xff\xda", segment(0xFE, b"\xff\xd9") + b"\xff\xda")
    yield BadPhoto("scans", "30000_hidden.jpg", hidden, True)
    again = good[scan:-2] * 2000
    yield BadPhoto("scans", "baseline_again.jpg", good[:-2] + again + good[-2:], True)


def pngs() -> Iterator[BadPhoto]:
    """PNG files whose chunks are wrong."""
    own = chunks_of(good_photos()["rgb.png"])
    data = b"".join(body for kind, body in own if kind == b"IDAT")
    end = (b"IEND", b"")

    def whole(head: tuple[bytes, bytes], pixels: bytes) -> bytes:
        return png_of([head, (b"IDAT", zlib.compress(pixels)), end])

    cases = {
        "header_crc": PNG_SIGNATURE + chunk(*own[0], crc=0) + b"".join(chunk(*one) for one in own[1:]),
        "pixels_crc": PNG_SIGNATURE + chunk(*own[0]) + chunk(b"IDAT", data, crc=0) + chunk(*end),
        "end_crc": PNG_SIGNATURE + chunk(*own[0]) + chunk(b"IDAT", data) + chunk(*end, crc=0),
        "no_end": png_of(own[:-1]),
        "no_pixels": png_of([own[0], end]),
        "empty_pixels": png_of([own[0], (b"IDAT", b""), end]),
        "no_header": png_of(own[1:]),
        "header_twice": png_of([own[0], *own]),
        "header_late": png_of([(b"tEXt", b"a\x00b"), *own]),
        "header_short": png_of([(b"IHDR", own[0][1][:9]), *own[1:]]),
        "signature_only": PNG_SIGNATURE,
        "signature_of_text": good_photos()["rgb.png"].replace(b"\r\n", b"\n"),
        "length_beyond": PNG_SIGNATURE + chunk(*own[0]) + chunk(b"IDAT", data, length=0x7FFFFFFF),
        "length_negative": PNG_SIGNATURE + chunk(*own[0]) + chunk(b"IDAT", data, length=0xFFFFFFFF),
        "pixels_in_pieces": png_of([own[0], *[(b"IDAT", data[at : at + 1]) for at in range(len(data))], end]),
        "pixels_parted": png_of([own[0], (b"IDAT", data[:900]), (b"tEXt", b"a\x00b"), (b"IDAT", data[900:]), end]),
        "pixels_too_few": whole(header(104, 96), bytes(1000)),
        "pixels_too_many": whole(header(104, 96), bytes(3 * 105 * 96 * 4)),
        "filter_99": whole(header(104, 96), b"\x63" * ((3 * 104 + 1) * 96)),
        "unknown_critical": png_of([own[0], (b"ABCD", b"abc"), *own[1:]]),
        "kind_no_letters": png_of([own[0], (b"\x00\x01\x02\x03", b"abc"), *own[1:]]),
        "no_palette": whole(header(104, 96, colour=3), bytes(105 * 96)),
        "palette_empty": png_of(
            [header(104, 96, colour=3), (b"PLTE", b""), (b"IDAT", zlib.compress(bytes(105 * 96))), end]
        ),
        "palette_odd": png_of(
            [header(104, 96, colour=3), (b"PLTE", b"12345"), (b"IDAT", zlib.compress(bytes(105 * 96))), end]
        ),
        "palette_long": png_of(
            [header(104, 96, colour=3), (b"PLTE", bytes(3000)), (b"IDAT", zlib.compress(bytes(105 * 96))), end]
        ),
        "palette_exceeded": png_of(
            [
                header(104, 96, colour=3),
                (b"PLTE", b"abc"),
                (b"IDAT", zlib.compress(b"\x00" + b"\x09" * 104 + bytes(105 * 95))),
                end,
            ]
        ),
        "two_chunks_of_end": png_of([*own, end, (b"tEXt", b"a\x00b")]),
        "interlaced_lie": whole(header(104, 96, interlaced=1), bytes(313 * 96)),
        "interlace_9": whole(header(104, 96, interlaced=9), bytes(313 * 96)),
    }
    for bits, colour in (
        (3, 0),
        (0, 2),
        (16, 3),
        (1, 2),
        (8, 1),
        (8, 5),
        (255, 255),
        (1, 0),
        (2, 0),
        (4, 0),
        (16, 4),
        (16, 6),
        (16, 2),
    ):
        cases[f"{bits}_bits_colour_{colour}"] = whole(header(104, 96, bits, colour), bytes((8 * 104 + 1) * 96))
    for width, height in ((0, 96), (104, 0), (0, 0), (-1, 96), (0x7FFFFFFF, 0x7FFFFFFF)):
        cases[f"size_{width}x{height}"] = whole(header(width, height), bytes(1000))
    for name, content in cases.items():
        yield BadPhoto("PNG structure", f"{name}.png", content)


def tiffs() -> Iterator[BadPhoto]:
    """TIFF files whose directories, strips and tiles are wrong."""
    at, rows = 8 + 104 * 96 * 3, range(100_000)
    many = [long(273, *(8 for _ in rows)), long(279, *(1 for _ in rows))]
    tiles = [long(322, 16), long(323, 16), long(324, *[8] * 42), long(325, *[768] * 42)]
    zeros = deflated_zeros(BOMB_BYTES)
    squeezed = [short(259, 8), (273, 4, 1, struct.pack("<L", at + 400)), long(279, len(zeros))]
    bomb = tiff(squeezed)
    cases = {
        "next_is_itself": tiff(following=at),
        "next_is_beyond": tiff(following=0xFFFFFFF0),
        "many_pages": _many_pages(20_000),
        "first_beyond": b"II*\x00\xf0\xff\xff\xff",
        "first_is_header": b"II*\x00\x00\x00\x00\x00",
        "no_entries": b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        "too_many_entries": b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(5000),
        "big": b"II+\x00\x08\x00\x00\x00" + struct.pack("<Q", 16) + struct.pack("<Q", 0),
        "big_lies": b"II+\x00\x08\x00\x00\x00" + struct.pack("<QQ", 16, 0xFFFFFFFFFFFFFFFF),
        "strips_many": tiff([*many, long(278, 1)]),
        "strips_of_nothing": tiff(without=(273, 279)),
        "strips_empty": tiff([long(279, 0)]),
        "strip_beyond": tiff([long(273, 0xFFFFFFF0)]),
        "strip_in_directory": tiff([long(273, at)]),
        "strip_too_long": tiff([long(279, 0xFFFFFFFF)]),
        "strip_too_short": tiff([long(279, 100)]),
        "rows_0": tiff([long(278, 0)]),
        "rows_huge": tiff([long(278, 0xFFFFFFFF)]),
        "width_0": tiff([long(256, 0)]),
        "width_huge": tiff([long(256, 0xFFFFFFFF), long(257, 0xFFFFFFFF)]),
        "width_missing": tiff(without=(256,)),
        "width_as_text": tiff([(256, 2, 4, b"104\x00")]),
        "width_thrice": tiff([long(256, 104, 104, 104)]),
        "higher": tiff([long(257, 5000), long(278, 5000)]),
        "bits_0": tiff([short(258, 0, 0, 0)]),
        "bits_255": tiff([short(258, 255, 255, 255)]),
        "bits_mixed": tiff([short(258, 8, 16, 8)]),
        "bits_one_of_three": tiff([short(258, 8)]),
        "bits_16_of_8": tiff([short(258, 16, 16, 16)]),
        "bits_many": tiff([short(258, *[8] * 20_000), short(277, 20_000)]),
        "samples_0": tiff([short(277, 0)]),
        "samples_65535": tiff([short(277, 65535)]),
        "photometric_99": tiff([short(262, 99)]),
        "photometric_missing": tiff(without=(262,)),
        "palette_missing": tiff([short(262, 3), short(258, 8), short(277, 1)]),
        "palette_short": tiff([short(262, 3), short(258, 8), short(277, 1), short(320, 1, 2, 3)]),
        "compression_99": tiff([short(259, 99)]),
        "compression_lzw": tiff([short(259, 5)]),
        "compression_jpeg": tiff([short(259, 7), short(262, 6)]),
        "compression_old_jpeg": tiff([short(259, 6), long(513, 8), long(514, 500)]),
        "compression_fax": tiff([short(259, 4), short(258, 1), short(277, 1), short(262, 0)]),
        "compression_packbits": tiff([short(259, 32773)]),
        "compression_lzma": tiff([short(259, 34925)]),
        "compression_zstd": tiff([short(259, 50000)]),
        "compression_webp": tiff([short(259, 50001)]),
        "compression_lerc": tiff([short(259, 34887)]),
        "predictor_9": tiff([short(317, 9), short(259, 8)]),
        "predictor_float": tiff([short(317, 3), short(259, 8)]),
        "planar_2": tiff([short(284, 2)]),
        "planar_9": tiff([short(284, 9)]),
        "fill_order_2": tiff([short(266, 2)]),
        "sample_format_3": tiff([short(339, 3, 3, 3)]),
        "extra_samples_many": tiff([short(338, *[0] * 60_000)]),
        "tiles": tiff(tiles, without=(273, 278, 279)),
        "tiles_of_0": tiff([long(322, 0), long(323, 0), *tiles[2:]], without=(273, 278, 279)),
        "tiles_huge": tiff([long(322, 0x7FFFFFF0), long(323, 0x7FFFFFF0), *tiles[2:]], without=(273, 278, 279)),
        "tiles_of_odd_sides": tiff([long(322, 7), long(323, 3), *tiles[2:]], without=(273, 278, 279)),
        "tiles_too_few": tiff([*tiles[:2], long(324, 8), long(325, 768)], without=(273, 278, 279)),
        "tiles_and_strips": tiff(tiles),
        "ycbcr_odd": tiff([short(262, 6), short(530, 4, 4)]),
        "jpeg_cut": good_photos()["in_jpeg.tif"][:3000] + bytes(50) + good_photos()["in_jpeg.tif"][3050:],
        "deflate_bomb": bomb.ljust(at + 400, b"\x00") + zeros,
        "big_endian_lies": b"MM\x00*" + tiff()[4:],
        "tag_twice": tiff([long(256, 104)]) + b"",
    }
    for name, content in cases.items():
        yield BadPhoto("TIFF structure", f"{name}.tif", content)


def _many_pages(count: int) -> bytes:
    """A TIFF of the face with thousands of empty directories behind its own."""
    first = 8 + 104 * 96 * 3
    own = tiff()
    after, pages = len(own), b""
    for number in range(count):
        following = after + (number + 1) * 18 if number < count - 1 else 0
        pages += directory([short(254, 2)], after + number * 18, following)
    return tiff(following=after)[:first] + tiff(following=after)[first:] + pages
