"""Photos changed at random: thousands of mutations of good and bad photos of every format, to find what a corpus lacks.

    python benchmarks/fuzz_mutations.py --count 5000 --keep faulty/

sends each through reading, aligning, writing and converting as benchmarks/fuzz_photos.py does, and keeps those with a
fault. What is found becomes a member of the corpus.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import zlib
from collections import Counter
from functools import cache, partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bad_photo_parts import PNG_SIGNATURE, chunk, encoded, face, good_photos, heic, segment, with_segments
from benchmarks.common import in_processes
from benchmarks.fuzz_doors import Told, through_the_doors
from benchmarks.fuzz_photos import members
from tests.photo_sources import ICC, IPTC, XMP, camera_exif, resource, tiff_tags, xmp_in_png

LARGEST = 60_000
"""Bytes of a file that is changed: in larger ones a change hits nothing that matters."""
NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def seeds() -> list[tuple[str, bytes]]:
    """What is changed: the good photos, such with metadata of all kinds, and the smaller files of the corpus."""
    thumbnail = encoded(face().resize((40, 36)), "JPEG")
    exif, packed = (
        camera_exif(thumbnail=thumbnail),
        b"Photoshop 3.0\x00" + resource(0x0404, IPTC) + resource(0x03ED, bytes(16)),
    )
    jpeg = encoded(face(), "JPEG", exif=exif, icc_profile=ICC, xmp=XMP, dpi=(300, 300), comment=b"hello")
    tags = tiff_tags(
        t700=(1, XMP), t33723=(7, IPTC), t34377=(1, resource(0x0404, IPTC)), t271=(2, "Camera"), t274=(3, 6)
    )
    rich = {
        "rich.jpg": with_segments(jpeg, segment(0xED, packed)),
        "rich.png": encoded(face(), "PNG", exif=exif, icc_profile=ICC, pnginfo=xmp_in_png(XMP), dpi=(300, 300)),
        "rich.webp": encoded(face(), "WEBP", exif=exif, icc_profile=ICC, xmp=XMP),
        "rich.tif": encoded(face(), "TIFF", tiffinfo=tags, icc_profile=ICC, dpi=(300, 200)),
        "rich.avif": encoded(face(), "AVIF", icc_profile=ICC, xmp=XMP),
        "rich.heic": heic(exif=b"Exif\x00\x00" + exif, xmp=XMP),
    }
    bad = [(one.name, one.content) for one in members() if isinstance(one.content, bytes) and one.name.isascii()]
    small = [
        (Path(name).name, data)
        for name, data in bad
        if 30 < len(data) < LARGEST and "/" not in name and "\n" not in name
    ]
    return [*(list(good_photos().items()) + list(rich.items())) * 12, *small]


def mutated(number: int, seed: int) -> tuple[str, bytes]:
    """One changed file: a name, and its bytes."""
    rng = random.Random(f"{seed} {number}")
    name, data = rng.choice(seeds())
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        _change(changed, rng)
    whole = bytes(changed)
    if whole.startswith(PNG_SIGNATURE) and rng.random() < 0.8:
        whole = _with_checksums(whole, rng)
    return f"{number}_{name[-40:]}", whole


def _change(data: bytearray, rng: random.Random) -> None:
    """Change some bytes of a file in place; more often near its beginning, where it says what it is."""
    if not data:
        data += b"\x00"
    reach = len(data) if rng.random() < 0.5 else min(len(data), 700)
    at, way = rng.randrange(reach), rng.randrange(7)
    length = min(rng.choice((1, 2, 4, 12, 64, 500)), len(data) - at)
    if way <= 1:
        data[at] ^= 1 << rng.randrange(8)
    elif way == 2:
        data[at : at + length] = rng.randbytes(length)
    elif way == 3:
        form, mask = rng.choice((("<L", 0xFFFFFFFF), (">L", 0xFFFFFFFF), ("<H", 0xFFFF), (">H", 0xFFFF)))
        value = struct.pack(form, (rng.choice(NUMBERS) + rng.randrange(-1, 2)) & mask)
        data[at : at + len(value)] = value
    elif way == 4:
        del data[at : at + length]
    elif way == 5:
        data[at:at] = data[at : at + length] * rng.choice((1, 2, 30))
    else:
        other = rng.choice(seeds())[1]
        start = rng.randrange(max(1, len(other) - length))
        data[at : at + length] = other[start : start + length]


def _with_checksums(png: bytes, rng: random.Random) -> bytes:
    """A PNG whose checksums are right again, so that more of it is read; at times with other pixels in it, too."""
    whole, at = [PNG_SIGNATURE], 8
    while at + 12 <= len(png):
        length, kind = struct.unpack_from(">L4s", png, at)
        body = png[at + 8 : at + 8 + length]
        if kind == b"IDAT" and rng.random() < 0.2:
            body = zlib.compress(rng.randbytes(rng.choice((10, 10_000, 40_000))))
        whole.append(chunk(kind, body))
        at += 12 + length
    return b"".join([*whole, png[at:]])


def attempt(number: int, seed: int, keep: str) -> Told:
    """What comes of one changed file, which stays in the folder `keep` when it has a fault."""
    name, data = mutated(number, seed)
    with tempfile.TemporaryDirectory(prefix="photodrag-bad-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        told = through_the_doors(str(path), doors=("read", "align", "write", "convert"))
    if told.faults:
        Path(keep, name).write_bytes(data)
        Path(keep, f"{name}.txt").write_text("\n".join(told.faults) + "\n", encoding="utf-8")
    return told


def main() -> None:
    """The command line of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("faulty"))
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    work = partial(attempt, seed=options.seed, keep=str(options.keep))
    numbers = range(options.first, options.first + options.count)
    told = in_processes(work, numbers, options.workers, "mutations", threads=1)
    faults = Counter(fault[:150] for one in told for fault in one.faults)
    for fault, count in faults.most_common():
        print(count, fault)
    opened, faulty = sum(one.opened for one in told), sum(bool(one.faults) for one in told)
    print(f"{len(told)} mutations, {opened} opened, {faulty} with a fault")


if __name__ == "__main__":
    main()
