"""A local server of one file that behaves as badly as it is told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served and how; `asked` collects (Range, If-Range) of every request."""

    url: str = ""
    content: bytes = b""
    etag: str | None = '"one"'
    modified: str | None = None
    knows_ranges: bool = True
    minds_if_range: bool = True
    says_length: bool = True
    content_type: str = "application/octet-stream"
    answers: list[int] = field(default_factory=list)
    """Status codes of the next answers; 302 leads to `redirect`."""
    redirect: str = ""
    cuts: list[int] = field(default_factory=list)
    """After how many bytes the next connections end."""
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: FileServer

    def do_GET(self) -> None:
        served = self.served
        self.close_connection = True
        served.asked.append((self.headers["Range"], self.headers["If-Range"]))
        code = served.answers.pop(0) if served.answers else 0
        if code:
            self.send_response(code)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start()
        if start >= len(served.content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send_head(start)
        body = served.content[start:]
        with contextlib.suppress(ConnectionError):  # a reader that stops early
            self.wfile.write(body[: served.cuts.pop(0)] if served.cuts else body)

    def _start(self) -> int:
        asked, version = self.headers["Range"], self.headers["If-Range"]
        current = version in (self.served.etag, self.served.modified) or not self.served.minds_if_range
        if asked is None or not self.served.knows_ranges or not current:
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _send_head(self, start: int) -> None:
        served, total = self.served, len(self.served.content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if served.says_length:
            self.send_header("Content-Length", str(total - start))
        self.send_header("Content-Type", served.content_type)
        for name, value in (("ETag", served.etag), ("Last-Modified", served.modified)):
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests read standard error."""


@contextlib.contextmanager
def file_server(content: bytes) -> Iterator[FileServer]:
    """A server of `content` on this machine for the length of a `with` block."""
    served = FileServer(content=content)
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    served.url = f"http://127.0.0.1:{http.server_address[1]}/file.pkl"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
