"""Attacks by what a page sends that has the cookie: files, messages, and too much of anything."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from benchmarks.studio_target import (
    MARKER,
    SECONDS,
    Answer,
    Attack,
    Found,
    Target,
    memory_mb,
    messages_of,
    read_answer,
    refused,
    region,
    upload,
)

NAMES = (
    "../../evil.png",
    "..%2f..%2fevil.png",
    "/etc/evil.png",
    "C:\\evil.png",
    "evil%00.png",
    "%0d%0aX: y",
    "a" * 9000,
)
MEMORY_MB = 150.0
"""Growth of the process that counts as holding a body in memory."""


# Uploads ------------------------------------------------------------------------------------------------------------


def uploads() -> Iterator[Attack]:
    group = "uploads, with the cookie"
    yield Attack(group, "1 GB that is declared", _declared)
    yield Attack(group, "1 GB in pieces of undeclared number", _endless)
    yield Attack(group, "a length that is no number", lambda t: refused(_with_length(t, "1e9")))
    yield Attack(group, "a negative length", lambda t: refused(_with_length(t, "-5")))
    yield Attack(group, "a length and pieces at once", _smuggled)
    bodies: dict[str, Callable[[Target], bytes]] = {
        "nothing": lambda t: b"",
        "a PNG of 50000 x 50000 pixels": lambda t: png_header(50_000, 50_000),
        "a PNG of 2^31 x 2^31 pixels": lambda t: png_header(2**31 - 1, 2**31 - 1),
        "a TIFF of 60000 x 60000 pixels": lambda t: tiff_header(60_000, 60_000),
        "a text": lambda t: b"this is no photo\n" * 100,
        "a pickle": lambda t: pickle.dumps({"a": [1, 2, 3]}),
        "a pickle that calls a program": lambda t: b"cos\nsystem\n(S'touch " + str(t.outside).encode() + b"'\ntR.",
        "a ZIP with a photo behind it": lambda t: b"PK\x03\x04" + bytes(200) + t.photo,
        "an SVG with a script": lambda t: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "a page of HTML": lambda t: b"<!doctype html><script>alert(1)</script>",
        "PostScript": lambda t: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) run\n",
        "a PDF": lambda t: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "a GIF of two frames": lambda t: GIF,
        "a photo's first 24 bytes": lambda t: t.photo[:24],
        "a TIFF whose directory follows itself": lambda t: (
            b"II*\x00\x08\x00\x00\x00\x01\x00" + bytes(10) + b"\x08\x00\x00\x00"
        ),
    }
    for name, body in bodies.items():
        yield Attack(group, name, lambda t, body=body: _harmless(t, body(t)))  # type: ignore[misc]
    yield Attack(group, "a photo that is a page, too", _polyglot)
    for name in NAMES:
        yield Attack(group, f"the name {name[:30]}", lambda t, name=name: _named(t, name))  # type: ignore[misc]
    yield Attack(group, "an upload that stands still", _stalled)


def _harmless(target: Target, body: bytes) -> Found:
    answer, succeeded = upload(target, body)
    return answer, succeeded or target.outside.exists()


def _declared(target: Target) -> Found:
    answer = _with_length(target, "1000000000")
    return answer.told, answer.status != 413


def _with_length(target: Target, length: str) -> Answer:
    return target.ask("POST", "/photos", target.own(X_Name="me.jpg", Content_Length=length))


def _endless(target: Target) -> Found:
    """Pieces until the connection is refused; success: more than the limit was taken, or held in memory."""
    before, files, sent = memory_mb(), target.files(), 0
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with target.connection() as stream:
        lines = [f"{name}: {value}" for name, value in target.own(X_Name="me.jpg", Transfer_Encoding="chunked").items()]
        stream.sendall(("\r\n".join(["POST /photos HTTP/1.1", *lines]) + "\r\n\r\n").encode())
        with contextlib.suppress(OSError):
            while sent < 1_000_000_000:
                stream.sendall(piece)
                sent += 0x10000
        answer = read_answer(stream, "POST")
    grown, left = memory_mb() - before, target.files() - files
    slack = 20_000_000  # what lies in the buffers of the connection
    told = f"{answer.told}; ended after {sent / 1e6:.0f} MB, memory grew by {max(0, grown):.0f} MB"
    return told, sent > target.limit + slack or grown > MEMORY_MB or bool(left) or 0 < answer.status < 400


def _smuggled(target: Target) -> Found:
    """A body whose end two headers tell differently, with a request behind one of the ends; success: it is answered."""
    headers = target.own(X_Name="me.jpg", Transfer_Encoding="chunked", Content_Length="4")
    lines = "\r\n".join(["POST /photos HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())])
    hidden = f"0\r\n\r\nGET {region(target)} HTTP/1.1\r\nHost: {target.host}\r\n\r\n"
    came = b""
    with target.connection() as stream:
        stream.sendall(f"{lines}\r\n\r\n{hidden}".encode())
        stream.settimeout(2.0)
        with contextlib.suppress(OSError):
            while block := stream.recv(65536):
                came += block
    codes = [part[:3].decode("latin-1") for part in came.split(b"HTTP/1.1 ")[1:]]
    return f"answers: {', '.join(codes) or 'none'}", any(code < "400" for code in codes)


def _polyglot(target: Target) -> Found:
    """A photo may have anything behind it; success: any address gives it back as it came, or as a page."""
    page = b"<script>alert('" + MARKER.encode() + b"')</script>"
    answer = target.ask("POST", "/photos", target.own(X_Name="me.html"), target.photo + page)
    with contextlib.suppress(ValueError, KeyError):
        photo = json.loads(answer.text)["photo"]
        back = [target.ask("GET", f"/{place}/{photo}", target.own()) for place in ("pictures", "downloads", "static")]
        shown = [one for one in back if MARKER in one.text or "html" in one.header("Content-Type")]
        return f"taken as a photo; its page is served nowhere ({', '.join(str(one.status) for one in back)})", bool(
            shown
        )
    return answer.told, False


def _named(target: Target, name: str) -> Found:
    """Success: a file outside the studio's folder, or a header from the name."""
    headers = target.own(X_Name=name)
    before = _names_around(target)
    answer = target.ask("POST", "/photos", headers, target.photo)
    new = [path for path in _names_around(target) - before if target.folder not in path.parents]
    return answer.told, bool(new) or answer.status >= 500 or bool(answer.header("X"))


def _names_around(target: Target) -> set[Path]:
    """Files within the folder and two folders above it, and where absolute names would be."""
    above = target.folder.parents[1]
    return {path for path in above.rglob("*") if path.is_file()} | {
        path for path in (Path("/etc/evil.png"),) if path.exists()
    }


def _stalled(target: Target) -> Found:
    """All places for uploads held by connections that send nothing more; success is judged by the rightful page."""
    with contextlib.ExitStack() as held:
        for _ in range(8):
            stream = held.enter_context(target.connection())
            lines = [f"{name}: {value}" for name, value in target.own(X_Name="a", Content_Length="100000").items()]
            stream.sendall(("\r\n".join(["POST /photos HTTP/1.1", *lines]) + "\r\n\r\nabc").encode())
        well = target.is_well()
    return "the page was answered meanwhile" if well else "the page was not answered", not well


def png_header(width: int, height: int) -> bytes:
    """A small PNG that says it is of any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))

    head = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def tiff_header(width: int, height: int) -> bytes:
    """A small TIFF that says it is of any size."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height % 2**32}
    rows = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\x00" + struct.pack("<LH", 8, len(tags)) + rows + bytes(4)


LOOP = b"II*\x00\x08\x00\x00\x00\x01\x00" + bytes(10) + b"\x08\x00\x00\x00"
"""A TIFF whose directory says that it follows itself."""
GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    + 2 * (b"!\xf9\x04\x00\x0a\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00")
    + b";"
)


# The socket ---------------------------------------------------------------------------------------------------------


def messages() -> Iterator[Attack]:
    group = "messages, with the cookie"
    texts: dict[str, Callable[[Target], str]] = {
        "no JSON": lambda t: "}{",
        "JSON 100000 levels deep": lambda t: "[" * 100_000 + "]" * 100_000,
        "a list": lambda t: "[]",
        "an unknown request": lambda t: '{"do":"run"}',
        "a request that is an object": lambda t: '{"do":{"a":1}}',
        "details that there are none of": lambda t: _said("undo", session=t.session, extra=1),
        "a session that there is none of": lambda t: _said("undo", session="0000000000000000"),
        "a session that is a path": lambda t: _said("watch", session=f"../../{t.secret.name}"),
        "a photo that is a path": lambda t: _said("open", photo=str(t.secret)),
        "a generator that is a path": lambda t: _said("sample", seed=1, generator=str(t.secret)),
        "a seed of 4000 digits": lambda t: '{"do":"sample","seed":' + "9" * 4000 + "}",
        "NaN as a coordinate": lambda t: _said("drag", session=t.session, points=[[float("nan"), 0, 0, 0]]),
        "a coordinate of 1e300": lambda t: _said("drag", session=t.session, points=[[1e300, 0, 0, 0]]),
        "a coordinate of 400 digits": lambda t: '{"do":"drag","session":"abcd","points":[[' + "9" * 400 + ",0,0,0]]}",
        "100000 points": lambda t: _said("drag", session=t.session, points=[[1, 1, 2, 2]] * 100_000),
        "a mask of 50000 x 50000 pixels": lambda t: _masked(t, png_header(50_000, 50_000)),
        "a mask that is a text": lambda t: _masked(t, b"hello"),
        "a mask that is a pickle": lambda t: _masked(t, pickle.dumps([1])),
        "a mask that is no base64": lambda t: _said("mask", session=t.session, png="!!!"),
        "a format that is a path": lambda t: _said("save", session=t.session, format="../../evil"),
        "a quality of 10^9": lambda t: _said("save", session=t.session, format="jpeg", quality=10**9),
        "a recipe that is no recipe": lambda t: _said("replay", session=t.session, recipe="{}"),
        "a recipe that names a file": lambda t: _replay(
            t, {"photodrag_recipe": 1, "files": {"edit.mask": str(t.secret)}}
        ),
        "a recipe that takes a file's pose": lambda t: _edits(t, {"like": str(t.secret)}),
        "a recipe whose mask is a file": lambda t: _edits(t, {"preset": "smile", "mask": str(t.secret)}),
        "a recipe whose mask has 50000 x 50000 pixels": lambda t: _edits(t, {"preset": "smile", "mask": _bomb()}),
        "a recipe with a setting of Python's": lambda t: _edits(t, {"__class__": "os.system"}),
        "a recipe with infinite strength": lambda t: _edits(t, {"preset": "smile", "strength": float("inf")}),
        "a recipe of 100000 edits": lambda t: _edits(t, *[{"preset": "smile"}] * 100_000),
        "a recipe 100000 levels deep": lambda t: _said("replay", session=t.session, recipe="[" * 100_000),
        "halves of letters": lambda t: '{"do":"open","photo":"\\ud800\\udfff\\ud800"}',
        "a jump to -1": lambda t: _said("jump", session=t.session, at=-1),
        "true as a number": lambda t: _said("face", session=t.session, face=True),
    }
    for name, text in texts.items():
        yield Attack(group, name, lambda t, text=text: _answered(t, text(t)))  # type: ignore[misc]
    yield Attack(group, "a message of 13 MB", _giant)
    yield Attack(group, "bytes instead of text", lambda t: _answered(t, b"\x00\x01"))
    yield Attack(group, "text that is no UTF-8", _no_utf8)
    yield Attack(group, "5000 messages at once", _flood)


def _said(do: str, **details: object) -> str:
    return json.dumps({"do": do, **details})


def _masked(target: Target, png: bytes) -> str:
    return _said("mask", session=target.session, png=base64.b64encode(png).decode())


def _replay(target: Target, recipe: object) -> str:
    return _said("replay", session=target.session, recipe=json.dumps(recipe))


def _edits(target: Target, *row: dict[str, object]) -> str:
    return _replay(target, {"photodrag_edits": 1, "edits": row})


def _bomb() -> dict[str, str]:
    return {"png": base64.b64encode(png_header(50_000, 50_000)).decode(), "photo_sha256": "0" * 64}


def _answered(target: Target, message: str | bytes) -> Found:
    """Success: anything but a sentence of trouble, or the secret in any message, or a socket that closed."""
    with target.talk() as page:
        page.recv(SECONDS)
        page.send(message)
        got = messages_of(page)
        troubles = [one["sentence"] for one in got if one["is"] == "trouble"]
        changed = [one for one in got if one["is"] == "state"]
    answer = troubles[0] if troubles else f"{len(got)} messages, no trouble"
    return answer[:200], not troubles or bool(changed) or MARKER in json.dumps(got) or target.outside.exists()


def _giant(target: Target) -> Found:
    before = memory_mb()
    with target.talk() as page:
        page.recv(SECONDS)
        try:
            page.send(_said("replay", session=target.session, recipe="x" * 13_000_000))
            got = messages_of(page)
            answer = next((one["sentence"] for one in got if one["is"] == "trouble"), "no trouble")
        except ConnectionClosed as error:
            answer = f"closed: {error}"
        code = page.close_code
    answer = f"closed with {code}" if code is not None else answer
    return answer, answer == "no trouble" or memory_mb() - before > MEMORY_MB


def _no_utf8(target: Target) -> Found:
    with target.talk() as page:
        page.recv(SECONDS)
        page.send(b'{"do":"undo","session":"\xff\xfe"}', text=True)
        got = messages_of(page)
        code = page.close_code
    return f"closed with {code}", code is None and not any(one["is"] == "trouble" for one in got)


def _flood(target: Target) -> Found:
    """Success is judged by another tab: it must be answered while the flood lasts."""
    with target.talk() as page:
        page.recv(SECONDS)
        for _ in range(5000):
            page.send('{"do":"undo","session":"0000000000000000"}')
        well = target.is_well()
    return "another tab was answered meanwhile" if well else "no other tab was answered", not well


# Wearing it down ----------------------------------------------------------------------------------------------------


def floods() -> Iterator[Attack]:
    group = "wearing it down"
    yield Attack(group, "100 sockets, with the cookie", _many_sockets)
    yield Attack(group, "60 connections that send half a request", _half_requests)
    yield Attack(group, "300 connections that say nothing", _silent)
    yield Attack(group, "headers of 200 kB", lambda t: refused(t.ask("GET", "/", {**t.own(), "X-Long": "a" * 200_000})))
    yield Attack(group, "no HTTP at all", lambda t: refused(t.send(b"\x16\x03\x01\x02\x00\x01\x00" * 50)))
    yield Attack(group, "a page that reads nothing", _never_reads)
    yield Attack(group, "a page that vanishes", _vanishes)


def _many_sockets(target: Target) -> Found:
    """Success: more than 64 at once."""
    told: list[str] = []
    with contextlib.ExitStack() as held:
        for _ in range(100):
            with contextlib.suppress(OSError, ConnectionClosed, TimeoutError):
                page = held.enter_context(target.talk())
                message = page.recv(SECONDS)
                assert isinstance(message, str)
                told.append(json.loads(message)["is"])
    let_in = told.count("hello")
    return f"{let_in} let in, {len(told) - let_in} sent away with a sentence", let_in > 64


def _half_requests(target: Target) -> Found:
    with contextlib.ExitStack() as held:
        for _ in range(60):
            stream = held.enter_context(target.connection())
            stream.sendall(b"GET / HTTP/1.1\r\nHost: ")
        well = target.is_well()
    return "the page was answered meanwhile" if well else "the page was not answered", not well


def _silent(target: Target) -> Found:
    """More connections than there may be, which ask nothing; success: the page is kept out for longer than a while."""
    with contextlib.ExitStack() as held:
        streams = [held.enter_context(target.connection()) for _ in range(300)]
        kept_out = not target.is_well()
        for stream in streams:  # until the studio ends them
            stream.settimeout(2 * SECONDS)
            try:
                ended = stream.recv(1000) == b""
            except ConnectionError:
                ended = True
            if not ended:
                return "a connection was answered that asked nothing", True
        well = target.is_well()
    told = "kept out until they were ended" if kept_out else "answered meanwhile, and they were ended"
    return f"the page was {told}", not well


def _never_reads(target: Target) -> Found:
    """A tab that asks for the session again and again and takes nothing in; judged by the rightful page."""
    before = memory_mb()
    with target.talk() as page:
        stream = page.socket
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(200):
            page.send(_said("watch", session=target.session))
        well = target.is_well()
    grown = memory_mb() - before
    told = "the page was answered meanwhile" if well else "the page was not answered"
    return f"{told}, memory grew by {max(0, grown):.0f} MB", not well or grown > MEMORY_MB


def _vanishes(target: Target) -> Found:
    for _ in range(20):
        with contextlib.suppress(OSError, ConnectionClosed), target.talk() as page:
            page.recv(SECONDS)
            page.send(_said("watch", session=target.session))
            page.socket.close()
    return "the page was answered afterwards", False
