"""Bad photos: every category of the corpus and every file that once had a fault, through every door of the program."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from benchmarks import fuzz_doors, fuzz_photos
from benchmarks.bad_kinds import kinds, sizes
from benchmarks.bad_metadata import iccs
from benchmarks.bad_photo_parts import BadPhoto, good_photos, jpeg, many_scans, segment
from benchmarks.bad_structures import bit_flipped
from benchmarks.common import in_processes
from benchmarks.fuzz_doors import DOORS, Told, through_the_doors
from benchmarks.fuzz_mutations import mutated, seeds
from benchmarks.fuzz_photos import SEED, Placed, figures, measure, members, placed, table
from data.errors import PhotodragError, PhotoError, UsageError
from data.jpeg_file import MOST_SCANS, MOST_SEGMENTS, too_many_of
from data.metadata import AI_EDITED, mark_ai_edited, set_upright, upright_xmp
from data.photo import Photo, encode_photo, read_mask, read_photo
from data.photo_decode import decode_photo
from data.quiet import quietly
from pipeline.edit_config import EditConfig
from pipeline.edits import read_edits
from pipeline.errors import sentence
from pipeline.painted import check_painted
from tests.photo_sources import camera_exif

REGRESSIONS = (
    *("30000_hidden.jpg", "60000_of_5000x5000.jpg", "baseline_again.jpg"),
    *("thumbnails_not_closed.jpg", "about_dotted.jpg"),
    *("orientation_twice.jpg", "orientation_twice.png", "orientation_twice.webp", "resolution_of_nothing.tif"),
    *("0.97_in_jpeg.tif", "last_byte_in_jpeg.tif", "0_deflated.tif", "3_lzw.tif", "compression_old_jpeg.tif"),
    *("compression_fax.tif", "compression_webp.tif", "predictor_9.tif", "bits_many.tif", "samples_65535.tif"),
    *("16_bits_colour_4.png", "1x1.grey.jpg", "says_16383.webp", "huge.jpg", "not_unicode_\udcff\udcfe.jpg"),
)
"""Files of the corpus that once ended in a traceback, a hang, noise, too much memory, or what cannot be read again."""
PIPE = "pipe.jpg"
"""Waits for a writer for ever when it is opened as other files are."""


@pytest.fixture(scope="module")
def corpus() -> list[BadPhoto]:
    return list(members())


def quick(corpus: list[BadPhoto]) -> list[BadPhoto]:
    """The good photos, the smallest file of each category and suffix that has bytes, and all that once had a fault."""
    found: dict[Any, BadPhoto] = {}
    for member in sorted(corpus, key=lambda one: len(one.content) if isinstance(one.content, bytes) else 0):
        key: Any = (member.category, Path(member.name).suffix if "structure" in member.category else "")
        if member.name in (*REGRESSIONS, PIPE) or member.category.startswith("good"):
            key = (member.category, member.name)
        found.setdefault(key, member)
    return list(found.values())


def test_the_corpus_is_large_deterministic_and_leaves_no_format_out(corpus: list[BadPhoto]) -> None:
    assert len(corpus) >= 300
    made = {(one.category, one.name): one.content for one in corpus}
    for again in (*bit_flipped(SEED), *iccs(SEED), *kinds(), *sizes()):
        assert made[again.category, again.name] == again.content, again.name
    assert {Path(name).suffix for name in good_photos()} == {".jpg", ".png", ".tif", ".webp", ".avif", ".heic"}
    assert features.check("avif"), "an AVIF must be read, or the corpus says nothing of it"
    names = {one.name for one in corpus}
    assert set(REGRESSIONS) | {PIPE} <= names
    for category in ("truncated", "bits flipped"):
        own = [one.name for one in corpus if one.category == category]
        assert all(any(name.endswith(good) for name in own) for good in good_photos())


def test_every_category_ends_in_results_or_sentences(corpus: list[BadPhoto], tmp_path: Path) -> None:
    chosen = quick(corpus)
    assert {one.category for one in chosen} == {one.category for one in corpus}
    files = [placed(member, tmp_path) for member in chosen]
    counted, told = measure(files)
    faults = {os.path.basename(file.path): one.faults for file, one in zip(files, told, strict=True) if one.faults}
    assert faults == {}
    assert counted["fuzz_files"] == len(files) == counted["fuzz_results"] + counted["fuzz_errors"]
    for file, one in zip(files, told, strict=True):
        if file.category.startswith("good"):
            assert one.outcomes == dict.fromkeys(DOORS, "result")
    assert f"| good, to compare with | {len(good_photos())} | {len(good_photos())} | 0 | 0 |" in table(files, told)


def sabotaged(kind: str, path: str) -> Told:
    """What is told of a good photo when the reader of photos does what it must not."""
    wholes: list[bytes] = []

    def read(name: str) -> Any:
        if kind == "traceback":
            raise KeyError("a tag")
        if kind == "no sentence":
            raise PhotoError("two\nlines")
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            time.sleep(100)
        if kind == "noise":
            os.write(2, b"libjpeg says")
        if kind == "memory":
            wholes.append(b"x" * 300_000_000)
        return read_photo(name)

    fuzz_doors.read_photo = read
    return through_the_doors(path, limit_s=5 if kind == "hang" else 60, doors=("read",))


def sabotages(item: tuple[str, str]) -> Told:
    return sabotaged(*item)


def test_each_kind_of_fault_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "good.png"
    path.write_bytes(good_photos()["rgb.png"])
    kinds = ("nothing", "traceback", "no sentence", "crash", "hang", "noise", "memory")
    found = in_processes(sabotages, [(kind, str(path)) for kind in kinds], 1, "faults", threads=1)
    told = dict(zip(kinds, found, strict=True))
    assert told["nothing"].faults == []
    assert told["nothing"].opened
    assert "KeyError: 'a tag'" in told["traceback"].tracebacks[0]
    assert "no sentence" in told["no sentence"].tracebacks[0]
    assert told["crash"].tracebacks == [f"read: signal {int(signal.SIGSEGV)}"]
    assert told["hang"].hangs == ["read: nothing came of it in 5 s"]
    assert "libjpeg says" in told["noise"].noises[0]
    assert "MB where" in told["memory"].over_memory[0]
    counted = figures(list(told.values()))
    assert [counted[f"fuzz_{name}"] for name in ("tracebacks", "hangs", "noises", "memory_over")] == [3, 1, 1, 1]


def test_a_photo_that_must_be_refused_and_is_not_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, refused = ({"read": said, "command line": said} for said in ("result", "It is empty."))
    told = [Told(outcomes=dict(one)) for one in (opened, opened, refused, refused, opened, refused)]
    monkeypatch.setattr(fuzz_photos, "in_processes", lambda *args, **options: told)
    files = [Placed("any", "me.jpg", must) for must in (True, False, True, False, None, None)]
    counted, _ = measure(files)
    assert counted["fuzz_wrong"] == 2
    assert [bool(one.wrong) for one in told] == [True, False, False, True, False, False]


def test_mutations_differ_from_what_they_are_made_of() -> None:
    assert mutated(3, 9) == mutated(3, 9)
    made = {data for _, data in (mutated(number, 9) for number in range(40))}
    assert len(made - {data for _, data in seeds()}) > 35


def test_masks_of_bad_photos_end_in_sentences(corpus: list[BadPhoto], tmp_path: Path) -> None:
    small = [one for one in corpus if isinstance(one.content, bytes) and len(one.content) < 50_000]
    told = []
    for number, member in enumerate(small[::9]):
        path = tmp_path / f"{number}.png"
        assert isinstance(member.content, bytes)
        path.write_bytes(member.content)
        try:
            assert read_mask(path, (96, 104)).shape == (96, 104)
        except PhotodragError as error:
            told.append(sentence(error))
    assert len(told) > 20
    assert all(text.isprintable() for text in told)


def test_scans_and_segments_have_a_limit() -> None:
    assert too_many_of(many_scans(16, 16, MOST_SCANS - 1)) is None
    assert too_many_of(many_scans(16, 16, MOST_SCANS)) == "500 scans"
    good = jpeg()
    assert too_many_of(good + b"\xff\xda" * 1000) is None, "what lies behind the photo is not decoded"
    comments = good[:2] + segment(0xFE, b"") * MOST_SEGMENTS + good[2:]
    assert too_many_of(comments) == "10000 segments"
    with pytest.raises(
        PhotoError, match=r"The JPEG 'me' has more than 10000 segments, which no camera .* save it anew\."
    ):
        decode_photo(comments, "me", 10**6)


def test_turns_that_are_said_twice_become_one() -> None:
    block = camera_exif(orientation=6)
    at = block.index(b"\x12\x01\x03\x00")
    twice = bytearray(block)
    twice[at + 12 : at + 24] = block[at : at + 8] + b"\x08\x00\x00\x00"
    upright, orientation = set_upright(bytes(twice))
    assert orientation == 6
    assert set_upright(upright) == (upright, 1)
    assert (upright[at + 8], upright[at + 20]) == (1, 1)


def test_packets_are_searched_in_one_pass() -> None:
    many = "<!--" + "<a:Thumbnails>" * 100_000 + "b." * 100_000 + "-->"
    packet = f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{many}</rdf:RDF>'.encode()
    for xmp in (packet, b'<?xml version="1.0" encoding="klingon"?>' + packet, upright_xmp(packet)):
        assert AI_EDITED.encode() in mark_ai_edited(xmp)
    inside = "<a:Thumbnails><rdf:Alt>first</rdf:Alt></a:Thumbnails><a:Thumbnails/>kept"
    nested = f'<rdf:Description xmlns:a="u">{inside}</rdf:Description>'
    marked = mark_ai_edited(packet.replace(many.encode(), nested.encode()))
    assert b"kept" in marked
    assert b"Thumbnails" not in marked


def test_a_tiff_that_pillow_would_call_a_bomb_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_photo(good_photos()["plain.tif"], "me", 10_000).shape_hw == (96, 104)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_libraries_are_heard_again_after_a_damaged_photo(capfd: pytest.CaptureFixture[str]) -> None:
    inside, after = threading.Event(), threading.Event()

    def second() -> None:
        with quietly():
            inside.set()
            after.wait(10)

    with quietly():
        thread = threading.Thread(target=second)
        thread.start()
        inside.wait(10)
        os.write(2, b"lost\n")
    os.write(2, b"lost, too\n")
    after.set()
    thread.join()
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_coarse_tables_are_written_without_a_remark(capfd: pytest.CaptureFixture[str]) -> None:
    photo = Photo(np.full((9, 9, 3), 90, np.uint8), format="JPEG", jpeg_tables=((1000,) * 64,) * 2)
    assert decode_photo(encode_photo(photo, edited=True), "me", 100).jpeg_tables == photo.jpeg_tables
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"photodrag_edits": 1, "edits": [{"like": 5.0}]}', "edit.like is 5.0: allowed is text"),
        (b'{"photodrag_edits": 1, "edits": [{"preset": "smile", "strength": 1e999}]}', "no number that can be stored"),
        (b'{"photodrag_edits": 1, "edits": [{"preset": "\\ud800\\u001b[31m"}]}', "\\xd800\\x1b[31m"),
        (b'{"photodrag_edits": 1, "edits": [{"preset": "' + b"x" * 5000 + b'"}]}', "xxx..."),
        (b'{"photodrag_edits": 1, "edits": [{"a\\nb": 1}]}', "'a\\x0ab' is unknown"),
        (b"\xff\xfe", "cannot be read as JSON"),
    ],
)
def test_edits_that_cannot_be_made_are_told_in_a_sentence(text: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_bytes(text)
    with pytest.raises(UsageError) as caught:
        read_edits(EditConfig(replay=str(path)))
    told = sentence(caught.value)
    assert expected in told
    assert told.isprintable()
    assert len(told) < 700


def test_changed_edits_and_masks_end_in_sentences(tmp_path: Path) -> None:
    good = {"photodrag_edits": 1, "edits": [{"preset": "smile"}, {"points": [[0.1, 0.2, 0.3, 0.4]]}]}
    text, path, rng = json.dumps(good).encode(), tmp_path / "edits.json", np.random.default_rng(1)
    png = good_photos()["palette.png"]
    made, told = 0, []
    for _ in range(300):
        changed, picture = bytearray(text), bytearray(png)
        for data, most in ((changed, len(changed)), (picture, 200)):
            at = int(rng.integers(0, most - 1))
            data[at : at + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
        path.write_bytes(changed)
        for work in (
            lambda: read_edits(EditConfig(replay=str(path))),
            lambda: check_painted({"png": base64.b64encode(picture).decode(), "photo_sha256": "a"}),  # noqa: B023
        ):
            try:
                work()
                made += 1
            except PhotodragError as error:
                told.append(sentence(error))
    assert made > 50
    assert len(told) > 50
    assert all(text.isprintable() for text in told)
