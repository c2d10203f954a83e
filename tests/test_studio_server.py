"""The studio's addresses: the page's files, uploads within limits, pictures, parts, downloads, and what goes wrong."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import pickle
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.studio_contents import GIF, LOOP, png_header, tiff_header
from data.errors import PhotoError, UsageError
from data.photo import check_photo
from pipeline.studio.messages import Watch
from pipeline.studio.server import page_files, region_asked, reporter
from pipeline.studio.socket import UNFORESEEN
from pipeline.studio.uploads import (
    LEFT_OVER_SECONDS,
    MOST_AT_ONCE,
    MOST_NAME,
    BusyError,
    Inbox,
    Limits,
    StorageError,
    display_name,
    remove_left_over,
)
from tests.fake_desk import SAMPLE, Recorder
from tests.studio_pages import ORIGIN, PAGE, PORT, SECRET, TOKEN, Studio

NOTHING_HERE = "The studio has nothing at this address: open its page at / again."


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


@pytest.fixture
def session(studio: Studio) -> str:
    """A session with the sample photo, ready to be edited."""
    name = studio.desk.open_file(SAMPLE)
    watcher = Recorder()
    studio.desk.do(Watch(name), watcher)
    watcher.wait_for(lambda state: state["phase"] == "ready")
    return name


# The page -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("studio.css", "text/css; charset=utf-8"),
        ("main.js", "text/javascript; charset=utf-8"),
    ],
)
def test_the_pages_files_have_the_right_kind(studio: Studio, name: str, kind: str) -> None:
    answer = studio.client().get(f"/static/{name}")
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, kind, PAGE[name])


@pytest.mark.parametrize(
    "path",
    [
        *("/static/notes.txt", "/static/secret.py", "/static/../notes.txt", "/static/%2e%2e/notes.txt", "/static/"),
        *("/static", "/static/%2e%2e%2fnotes.txt", "/static/..%5cnotes.txt", "/static/index.html%00.png"),
        *(
            "/static/.",
            "/static//index.html",
            "/static/INDEX.HTML",
            "/static/index.html/",
            "/static/%2Fetc%2Fpasswd",
            "/index.html",
        ),
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "", "/static/page/index.html", "/photos/"),
        *("/pictures/", "/pictures/..", "/pictures/a%2fb", "/pictures/%00", "/pictures/%20"),
        *("/pictures/" + "a" * 5000, "/downloads/" + "a" * 5000),
        *("/downloads/", "/downloads/..%2f..%2fnotes.txt", "/downloads/notes.txt", "/socket", "*"),
        *("/docs", "/openapi.json", "/.git/config", "/robots.txt", "/favicon.ico"),
    ],
)
def test_there_is_nothing_anywhere_else(studio: Studio, path: str) -> None:
    status, body = studio.ask("GET", path)
    assert (status, json.loads(body)) == (404, {"error": NOTHING_HERE})
    assert studio.reported == []


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_no_name_leads_out_of_the_list(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    studio = Studio(tmp_path_factory.mktemp("studio"))
    for place in ("static", "pictures", "downloads"):
        status, body = studio.ask("GET", f"/{place}/{quote(name.encode('utf-8', 'replace'), safe='')}")
        assert status == 404 or name in PAGE, (place, name)
        assert SECRET.encode() not in body
    assert studio.reported == []


def test_a_checkout_without_a_page_says_so(tmp_path: Path) -> None:
    assert page_files(tmp_path / "none") == {}


def test_a_method_that_an_address_has_not_is_named(studio: Studio) -> None:
    for method, path in (("DELETE", "/photos"), ("PUT", "/static/index.html"), ("GET", "/photos"), ("POST", "/")):
        answer = studio.client().request(method, path)
        assert (answer.status_code, answer.json()) == (405, {"error": f"{method} is not what this address is for."})


# Uploads ------------------------------------------------------------------------------------------------------------


def test_a_photo_is_received_and_handed_to_the_desk(studio: Studio) -> None:
    name = quote("C:\\photos/../mé\u202egnp.jpg\x00")
    answer = studio.client().post("/photos", content=SAMPLE.read_bytes(), headers={"X-Name": name})
    assert answer.status_code == 201
    path, shown = studio.desk.photos[answer.json()["photo"]]
    assert path.read_bytes() == SAMPLE.read_bytes()
    assert shown == "mé gnp.jpg"
    assert studio.arrived() == []


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("me.png", SAMPLE.read_bytes())
    return stream.getvalue()


NO_PHOTO = "cannot be read as a JPEG, PNG, TIFF, WebP, HEIC or AVIF photo"
NO_PHOTOS: dict[str, tuple[bytes, str]] = {
    "text": (b"this is no photo\n" * 50, NO_PHOTO),
    "pickle": (pickle.dumps({"a": 1}), NO_PHOTO),
    "zip": (zipped(), NO_PHOTO),
    "zip_then_photo": (b"PK\x03\x04" + bytes(100) + SAMPLE.read_bytes(), NO_PHOTO),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", NO_PHOTO),
    "html": (b"<!doctype html><script>alert(1)</script>", NO_PHOTO),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_PHOTO),
    "pdf": (b"%PDF-1.7\n", NO_PHOTO),
    "gif": (GIF, NO_PHOTO),
    "bmp": (b"BM" + bytes(60), NO_PHOTO),
    "one_byte": (b"\x89", NO_PHOTO),
    "signature_only": (b"\x89PNG\r\n\x1a\n", NO_PHOTO),
    "half_a_header": (SAMPLE.read_bytes()[:24], NO_PHOTO),
    "jpeg_start_only": (b"\xff\xd8\xff\xe0", NO_PHOTO),
    "tiff_loop": (LOOP, "is damaged or stores its pixels in a way that cannot be read"),
    "heif_start_only": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1", "is damaged or incomplete"),
    "truncated": (SAMPLE.read_bytes()[: SAMPLE.stat().st_size // 2], "is damaged and cannot be decoded"),
    "png_bomb": (png_header(50_000, 50_000), "has 50000 x 50000 pixels (2500 MP), more than the limit of 100 MP"),
    "png_of_no_pixels": (png_header(0, 0), "give one of these, or an intact copy"),
    "tiff_bomb": (tiff_header(60_000, 60_000), "has 60000 x 60000 pixels (3600 MP), more than the limit of 100 MP"),
    "nothing": (b"", "The file is empty (0 bytes): give a photo."),
}


@pytest.mark.parametrize("kind", NO_PHOTOS)
def test_what_is_no_photo_is_refused_whatever_its_name(studio: Studio, kind: str) -> None:
    content, sentence = NO_PHOTOS[kind]
    headers = {"X-Name": "me.jpg", "Content-Type": "image/jpeg"}
    answer = studio.client().post("/photos", content=content, headers=headers)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]
    assert studio.arrived() == [] and studio.desk.photos == {} and studio.reported == []


def test_a_header_is_looked_at_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        path = tmp_path / f"photo{suffix}"
        monkeypatch.undo()
        Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(path)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
        check_photo(path, "photo", 1200)
        with pytest.raises(PhotoError, match=r"has 30 x 40 pixels \(0 MP\), more than the limit"):
            check_photo(path, "photo", 1199)


def test_the_limit_of_pixels_can_be_set(tmp_path: Path) -> None:
    studio = Studio(tmp_path, Limits(pixels=512 * 512 - 1))
    answer = studio.client().post("/photos", content=SAMPLE.read_bytes())
    assert "has 512 x 512 pixels (0 MP), more than the limit of" in answer.json()["error"]
    assert studio.client().post("/photos", content=b"x").json()["error"].startswith("The file 'photo' cannot be read")


class Body:
    """A request's body in blocks, of which it counts those that were asked for."""

    def __init__(self, blocks: int, size: int = 1 << 16) -> None:
        self.blocks, self.size = blocks, size
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.blocks):
            self.given += 1
            yield bytes(self.size)


def post(studio: Studio, body: Body, **headers: str) -> tuple[int, bytes]:
    """A POST /photos, block by block: status and body of the answer."""
    return studio.ask("POST", "/photos", aiter(body), **headers)


def test_a_gigabyte_is_ended_at_the_limit(tmp_path: Path) -> None:
    studio = Studio(tmp_path, Limits(bytes=10_000_000))
    body = Body(16_000)
    status, answer = post(studio, body)
    assert status == 413
    assert b"The file has more than 10 MB, which is the limit: make the photo smaller first." in answer
    assert body.given == 10_000_000 // (1 << 16) + 1
    assert studio.arrived() == []


def test_a_gigabyte_that_is_declared_is_not_read_at_all(studio: Studio) -> None:
    body = Body(16_000)
    status, _ = post(studio, body, content_length="1000000000")
    assert (status, body.given) == (413, 0)
    assert not studio.inbox.exists()


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "", "١٢"])
def test_a_length_that_is_no_number_is_refused(studio: Studio, length: str) -> None:
    status, answer = post(studio, Body(1), content_length=length)
    assert status == 400
    assert b"The length of the photo is no number" in answer


def test_a_length_of_many_digits_is_too_large(studio: Studio) -> None:
    assert post(studio, Body(1), content_length="9" * 5000)[0] == 413


def test_few_files_arrive_at_once(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, Limits())

    async def scenario() -> None:
        go, begun = asyncio.Event(), asyncio.Queue[None]()

        async def slow() -> AsyncIterator[bytes]:
            begun.put_nowait(None)
            await go.wait()
            yield b"x"

        async def one() -> None:
            async with inbox.receive(None, slow()) as path:
                assert path.read_bytes() == b"x"

        tasks = [asyncio.create_task(one()) for _ in range(MOST_AT_ONCE)]
        for _ in tasks:
            await begun.get()
        with pytest.raises(BusyError, match=f"{MOST_AT_ONCE} photos are being received already"):
            async with inbox.receive(None, slow()):
                pass
        go.set()
        await asyncio.gather(*tasks)
        async with inbox.receive(None, slow()):
            pass

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, content: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.studio.uploads.os.write", full)
    answer = studio.client().post("/photos", content=b"x" * 100)
    assert answer.status_code == 507
    assert answer.json()["error"].startswith("The photo cannot be stored (No space left on device): make room")
    assert studio.arrived() == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    inbox = Inbox(tmp_path / "file" / "below", Limits())

    async def scenario() -> None:
        async with inbox.receive(None, aiter(Body(1))):
            pass

    with pytest.raises(StorageError, match="cannot be stored"):
        asyncio.run(scenario())


def test_an_upload_that_stops_half_way_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        raise ConnectionResetError

    async def scenario() -> None:
        async with Inbox(tmp_path, Limits()).receive(None, broken()):
            pass

    with pytest.raises(ConnectionResetError):
        asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_stands_still_is_given_up(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.studio.server.IDLE_SECONDS", 0.01)

    class Still(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

    status, answer = post(studio, Still(1))
    assert status == 400
    assert b"Nothing came for 0.01 s, so the upload was given up: send it again." in answer
    assert studio.arrived() == []


def test_what_arrives_is_nobody_elses_to_read(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, int]:
        async with Inbox(tmp_path / "new", Limits()).receive(None, aiter(Body(1))) as path:
            return path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777

    assert asyncio.run(scenario()) == (0o600, 0o700)


def test_files_of_a_killed_studio_are_removed_when_they_are_old(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("arriving-old", "arriving-new", "other"))
    for path in (old, new, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - LEFT_OVER_SECONDS - 10))
    remove_left_over(tmp_path)
    remove_left_over(tmp_path / "none")
    assert sorted(tmp_path.iterdir()) == [new, other]


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        (None, "photo"),
        ("", "photo"),
        ("me.jpg", "me.jpg"),
        ("m%C3%A9%20too.jpg", "mé too.jpg"),
        ("me%CC%81.jpg", "mé.jpg"),
        ("..", "photo"),
        ("../../etc/passwd", "passwd"),
        ("..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("C:\\Users\\me.jpg", "me.jpg"),
        ("a%00b%0D%0AX: y.jpg", "a b X: y.jpg"),
        ("%E2%80%AEgpj.exe", "gpj.exe"),
        (".htaccess", "htaccess"),
        ("%FF%FE", "\ufffd\ufffd"),
        ("dir/", "photo"),
    ],
)
def test_a_name_is_only_shown(given_name: str | None, shown: str) -> None:
    assert display_name(given_name) == shown


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.text(max_size=300).map(lambda text: quote(text.encode("utf-8", "replace"))))
def test_every_name_becomes_a_short_plain_one(text: str) -> None:
    name = display_name(text)
    assert 0 < len(name) <= MOST_NAME
    assert name.isprintable() and not set(name) & set("/\\") and not name.startswith(".")


def test_a_long_name_keeps_its_suffix() -> None:
    assert display_name("a" * 500 + ".jpeg") == "a" * (MOST_NAME - 9) + ".jpeg"


# Pictures, parts, downloads -----------------------------------------------------------------------------------------


def test_pictures_may_be_kept_by_the_browser(studio: Studio, session: str) -> None:
    url = studio.desk.sessions[session].view_url
    answer = studio.client().get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_picture_of_a_kind_that_a_browser_would_run_is_never_served(studio: Studio) -> None:
    studio.desk.pictures["abcdabcd"] = (b"<script>", "text/html")
    answer = studio.client().get("/pictures/abcdabcd")
    assert (answer.status_code, answer.json()) == (500, {"error": UNFORESEEN})


def test_a_part_has_the_pixels_that_were_asked_for(studio: Studio, session: str) -> None:
    query = f"/region?session={session}&which=original&x=100&y=50&w=40&h=20&scale="
    with Image.open(SAMPLE) as sample:
        original = np.asarray(sample.convert("RGB"))
    whole = studio.client().get(query + "1")
    assert (whole.headers["content-type"], whole.headers["cache-control"]) == ("image/png", "no-store")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(whole.content))), original[50:70, 100:140])
    assert Image.open(io.BytesIO(studio.client().get(query + "0.5").content)).size == (20, 10)


GOOD_QUERY = {"session": "abcd", "which": "result", "x": "1", "y": "-2", "w": "30", "h": "40", "scale": "0.5"}


def test_a_part_is_read_from_its_address() -> None:
    assert region_asked(GOOD_QUERY) == ("abcd", "result", (1, -2, 31, 38), 0.5)
    assert region_asked({**GOOD_QUERY, "w": "20000", "h": "20000", "scale": "0.1"})[2:] == ((1, -2, 20001, 19998), 0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"session": "../x"}, "session is not the name of a session."),
        ({"session": ""}, "session is not the name of a session."),
        ({"which": "mask"}, "which is neither original nor result."),
        ({"x": "1.5"}, "x is no whole number from -1000000 to 1000000."),
        ({"y": "9" * 5000}, "y is no whole number from -1000000 to 1000000."),
        ({"w": "0"}, "w is no whole number from 1 to 1000000."),
        ({"h": "-3"}, "h is no whole number from 1 to 1000000."),
        ({"h": "\uff11\uff12"}, "h is no whole number from 1 to 1000000."),
        ({"scale": "2"}, "scale is no number from 0.0001 to 1."),
        ({"scale": "nan"}, "scale is no number from 0.0001 to 1."),
        ({"scale": "-inf"}, "scale is no number from 0.0001 to 1."),
        ({"scale": "0"}, "scale is no number from 0.0001 to 1."),
        ({"w": "2001", "h": "2001", "scale": "1"}, "A part of 2001 x 2001 pixels at scale 1 has more than 4 MP"),
    ],
)
def test_a_part_that_is_none_is_refused(studio: Studio, changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        region_asked({**GOOD_QUERY, **changes})
    assert str(raised.value).startswith(sentence)
    assert studio.client().get("/region", params={**GOOD_QUERY, **changes}).status_code == 400


def test_a_part_of_a_session_that_there_is_none_of(studio: Studio) -> None:
    answer = studio.client().get("/region", params=GOOD_QUERY)
    assert (answer.status_code, answer.json()["error"]) == (400, "There is no such session: open the photo again.")


def test_a_download_is_an_attachment_and_its_name_is_no_header(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.write_bytes(b"content")
    for name, said in (
        ("me_edited.png", 'attachment; filename="me_edited.png"'),
        ("mé \u4e2d.png", "attachment; filename*=utf-8''m%C3%A9%20%E4%B8%AD.png"),
        ('a"\r\nX-Injected: yes.png', "attachment; filename*=utf-8''a%22%20X-Injected%3A%20yes.png"),
    ):
        studio.desk.downloads["abcdabcd"] = (path, name)
        answer = studio.client().get("/downloads/abcdabcd")
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"content", "image/png")
        assert answer.headers["content-disposition"] == said
        assert "x-injected" not in answer.headers


def test_a_part_of_a_download_may_be_asked_for_and_a_thousand_parts_do_no_harm(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "made.mp4"
    path.write_bytes(bytes(range(256)) * 40)
    studio.desk.downloads["abcdabcd"] = (path, "made.mp4")
    part = studio.client().get("/downloads/abcdabcd", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    ranges = ",".join(f"{2 * n}-{2 * n}" for n in range(1000))
    many = studio.client().get("/downloads/abcdabcd", headers={"Range": f"bytes={ranges}"})
    assert many.status_code in (200, 206, 400, 416) and len(many.content) < 500_000
    assert studio.reported == []


def test_a_download_of_an_unknown_kind_is_bytes(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.write_bytes(b"<script>")
    studio.desk.downloads["abcdabcd"] = (path, "me.html")
    assert studio.client().get("/downloads/abcdabcd").headers["content-type"] == "application/octet-stream"


def test_a_download_whose_file_has_gone_is_not_there(studio: Studio, tmp_path: Path) -> None:
    studio.desk.downloads["abcdabcd"] = (tmp_path / "gone", "me.png")
    assert studio.client().get("/downloads/abcdabcd").status_code == 404


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_an_unforeseen_error_is_told_and_the_studio_goes_on(
    studio: Studio, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of the desk")

    with monkeypatch.context() as patch:
        patch.setattr(studio.desk, "picture", broken)
        answer = studio.client().get("/pictures/abcdabcd")
    assert (answer.status_code, answer.json()) == (500, {"error": UNFORESEEN})
    assert [type(error) for error in studio.reported] == [ZeroDivisionError]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert studio.client().get(studio.desk.sessions[session].view_url).status_code == 200


def test_an_error_is_one_printable_line_and_a_traceback_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    reporter(debug=False)(ValueError("two\nlines \x1b[31m"))
    assert capsys.readouterr().err == "photodrag: studio: ValueError: two lines ?[31m\n"
    try:
        raise ValueError("x")
    except ValueError as error:
        reporter(debug=True)(error)
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


def test_slow_parts_do_not_keep_the_page_waiting(studio: Studio, session: str) -> None:
    """Twenty parts that take for ever, and still a picture is answered."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(*_: object) -> tuple[bytes, str]:
        begun.release()
        assert go.wait(20)
        return b"", "image/png"

    studio.desk.region = slow  # type: ignore[assignment]
    url = studio.desk.sessions[session].view_url

    async def scenario() -> int:
        import httpx

        headers = {"Origin": ORIGIN, "Cookie": f"photodrag_{PORT}={TOKEN}"}
        transport = httpx.ASGITransport(app=studio.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers, timeout=20) as client:
            parts = [asyncio.create_task(client.get("/region", params=GOOD_QUERY)) for _ in range(20)]
            await asyncio.to_thread(begun.acquire)
            status = (await client.get(url)).status_code
            go.set()
            await asyncio.gather(*parts)
        return status

    assert asyncio.run(scenario()) == 200
