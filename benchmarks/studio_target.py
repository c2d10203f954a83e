"""A running studio to attack: its address and secrets, requests to the byte, and what must not be had from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from pipeline.studio.command import make_server
from pipeline.studio.security import App

SECONDS = 10.0
"""The longest wait for an answer."""
QUIET = logging.getLogger("photodrag.attacks")
QUIET.setLevel(logging.CRITICAL + 1)  # connections that end in the middle are what is tried here
FENCE = "no-such-session-behind"
MARKER = "what-no-page-may-read"
"""The content of the file that attacks try to read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over a plain connection; status 0: the connection was closed without an answer."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """The values of a header, joined."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def told(self) -> str:
        """Status and sentence, for a table."""
        if not self.status:
            return "connection closed"
        sentence = self.text if len(self.text) < 300 and self.text.isprintable() else f"{len(self.body)} bytes"
        with contextlib.suppress(ValueError, TypeError, KeyError):
            sentence = str(json.loads(self.text)["error"])
        return f"{self.status} {sentence}".strip()


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """A studio: the rightful page's token, a session with a photo in it, where its files arrive, a secret file's place.

    `limit`: the bytes that a photo may have. `folder` holds everything that the studio may write; it and two folders
    above it belong to the trial. `outside`: a file that appears when a payload has been run.
    """

    port: int
    token: str
    folder: Path
    inbox: Path
    secret: Path
    session: str
    photo: bytes
    limit: int
    outside: Path = field(default=Path())

    @property
    def host(self) -> str:
        """As the browser names it."""
        return f"127.0.0.1:{self.port}"

    @property
    def origin(self) -> str:
        """The rightful page's origin."""
        return f"http://{self.host}"

    @property
    def cookie(self) -> str:
        """The rightful page's cookie."""
        return f"photodrag_{self.port}={self.token}"

    def own(self, *without: str, **more: str) -> dict[str, str]:
        """The headers of the rightful page, less those in `without`; `more` names have _ for -."""
        headers = {"Host": self.host, "Cookie": self.cookie, "Origin": self.origin, "Sec-Fetch-Site": "same-origin"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in headers.items() if name not in without}

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | Iterable[tuple[str, str]],
        body: bytes | None = None,
        version: str = "HTTP/1.1",
    ) -> Answer:
        """One request on its own connection; the path goes out as it is."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        if body is not None:
            pairs.append(("Content-Length", str(len(body))))
        pairs.append(("Connection", "close"))
        lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in pairs)]
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b""), method)

    def send(self, content: bytes, method: str = "GET") -> Answer:
        """Bytes on a connection, and the answer."""
        with self.connection() as stream:
            with contextlib.suppress(OSError):  # an answer may come before everything was sent
                stream.sendall(content)
            return read_answer(stream, method)

    def connection(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), SECONDS)

    def handshake(self, headers: dict[str, str]) -> Answer:
        """The answer to a request for the socket: 101 lets the page in."""
        more = {"Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        lines = ["GET /socket HTTP/1.1", "Connection: Upgrade", *(f"{k}: {v}" for k, v in {**headers, **more}.items())]
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def talk(self) -> ClientConnection:
        """The rightful page's socket, for messages that it should not send."""
        headers = {"Cookie": self.cookie}
        return connect(
            f"ws://{self.host}/socket",
            origin=self.origin,  # type: ignore[arg-type]
            additional_headers=headers,
            compression=None,
            max_size=None,
            close_timeout=1.0,
            logger=QUIET,
        )

    def is_well(self, seconds: float = 5.0) -> bool:
        """Whether the rightful page is answered in time, over HTTP and over a socket of its own."""
        begun = time.monotonic()
        try:
            answer = self.ask("GET", region(self), self.own())
            with self.talk() as page:
                hello = json.loads(page.recv(SECONDS))
        except (OSError, ConnectionClosed, TimeoutError, ValueError):
            return False
        return answer.status == 200 and hello["is"] == "hello" and time.monotonic() - begun < seconds

    def files(self) -> set[Path]:
        """What lies where files arrive."""
        return {path for path in self.inbox.rglob("*") if path.is_file()} if self.inbox.is_dir() else set()


Found = tuple[str, bool]
"""What the studio answered, and whether the attack succeeded."""
Try = Callable[[Target], Found]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt: `group` is whom it stands for."""

    group: str
    name: str
    run: Try


def refused(answer: Answer) -> Found:
    """Of requests that must get nothing: success is any answer that is no refusal."""
    return answer.told, 0 < answer.status < 400


def asking(group: str, name: str, ask: Callable[[Target], Answer]) -> Attack:
    """An attack that is one request, which must be refused."""
    return Attack(group, name, lambda target: refused(ask(target)))


def upload(target: Target, body: bytes, headers: dict[str, str] | None = None) -> Found:
    """Send a file that must not be taken; success: it was, or it lies on the disk."""
    before = target.files()
    answer = target.ask("POST", "/photos", headers or target.own(X_Name="me.jpg"), body)
    left = target.files() - before
    told = answer.told + (f"; {len(left)} files left" if left else "")
    return told, 0 < answer.status < 400 or bool(left) or answer.status == 500


def region(target: Target, more: str = "&x=0&y=0&w=8&h=8") -> str:
    """The address of a part of the photo: what an attacker would like to see."""
    return f"/region?session={target.session}&which=original{more}"


def read_answer(stream: socket.socket, method: str = "GET") -> Answer:
    """The answer on a connection, status 0 when there is none."""
    stream.settimeout(SECONDS)
    response = HTTPResponse(stream, method=method)
    try:
        response.begin()
        body = b"" if response.status == 101 else response.read()
    except (OSError, HTTPException):
        return Answer(0)
    return Answer(response.status, tuple(response.getheaders()), body)


def messages_of(page: ClientConnection, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """The JSON messages that come until the studio has answered what was asked so far.

    What is asked is done in order, so a request that can only be refused is put behind, and its refusal waited for.
    """
    found: list[dict[str, Any]] = []
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        page.send(json.dumps({"do": "undo", "session": FENCE}))
        while not found or found[-1].get("session") != FENCE:
            message = page.recv(seconds)
            if isinstance(message, str):
                found.append(json.loads(message))
    return [message for message in found if message.get("session") != FENCE]


@contextlib.contextmanager
def serving(app: App, listening: socket.socket) -> Iterator[None]:
    """The studio's server for an application, in a thread of this process."""
    server = make_server(app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    until = time.monotonic() + SECONDS
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(SECONDS)


def memory_mb() -> float:
    """Memory of this process that is in use, 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
