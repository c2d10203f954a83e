"""A studio's application with the fake desk, and a client that behaves like its page, for the tests of the web side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.testclient import TestClient, WebSocketTestSession

from pipeline.studio.security import Door
from pipeline.studio.server import build_app
from pipeline.studio.uploads import Limits
from tests.fake_desk import SAMPLE, FakeDesk

PORT = 8642
TOKEN = "a-token-for-tests-only"
ORIGIN = f"http://127.0.0.1:{PORT}"
PAGE = {"index.html": "<!doctype html><title>photodrag</title>", "studio.css": "body{}", "main.js": "export {}"}
SECRET = "what-no-page-may-read"


class Studio:
    """The application in `folder`, its desk, and what was reported."""

    def __init__(self, folder: Path, limits: Limits | None = None, opened: str | None = None) -> None:
        self.folder = folder
        self.inbox = folder / "studio" / "arriving"
        self.limits = limits or Limits()
        self.desk = FakeDesk(folder / "studio" / "desk", 0.0, self.limits)
        self.reported: list[BaseException] = []
        page = folder / "page"
        page.mkdir()
        for name, text in {**PAGE, "notes.txt": SECRET, "secret.py": SECRET}.items():
            (page / name).write_text(text, encoding="utf-8")
        self.door = Door(TOKEN, PORT, ticket="a-ticket-for-tests-only")
        self.app = build_app(
            self.desk, self.door, self.inbox, self.limits, page=page, opened=opened, report=self.reported.append
        )

    def client(self, *, cookie: bool = True, **headers: str) -> TestClient:
        """A page of the studio; `headers` replace its own, and the empty text takes one away."""
        given = {"Host": f"127.0.0.1:{PORT}", "Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        cookies = {self.door.cookie: TOKEN} if cookie else {}
        given = {name: value for name, value in given.items() if value}
        return TestClient(self.app, base_url=ORIGIN, headers=given, cookies=cookies, follow_redirects=False)

    def upload(self, content: bytes | None = None, name: str = "me.png") -> str:
        """A photo's id."""
        body = SAMPLE.read_bytes() if content is None else content
        answer = self.client().post("/photos", content=body, headers={"X-Name": name})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["photo"])

    def ask(
        self, method: str, path: str, body: AsyncIterator[bytes] | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """The page's request straight to the application, where no client tidies the path or reads the body ahead."""
        answer: list[Any] = []

        async def receive() -> dict[str, Any]:
            block = None if body is None else await anext(body, None)
            return {"type": "http.request", "body": block or b"", "more_body": block is not None}

        async def send(message: Any) -> None:
            answer.append(message)

        given = {"host": f"127.0.0.1:{PORT}", "origin": ORIGIN, "cookie": f"{self.door.cookie}={TOKEN}", **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": b"",
        }
        scope |= {"root_path": "", "scheme": "http", "http_version": "1.1", "client": None, "server": None}
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
        asyncio.run(self.app({**scope, "headers": pairs}, receive, send))  # type: ignore[arg-type]
        return answer[0]["status"], b"".join(message.get("body", b"") for message in answer[1:])

    def arrived(self) -> list[Path]:
        """What lies where files arrive."""
        return sorted(self.inbox.iterdir()) if self.inbox.is_dir() else []


@contextlib.contextmanager
def tab(studio: Studio) -> Iterator[Tab]:
    """A page with its socket, `hello` read."""
    with studio.client().websocket_connect("/socket") as socket:
        yield Tab(socket)


class Tab:
    """A page: says requests, and reads until something is true."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.hello = self.read()
        assert self.hello["is"] == "hello"

    def say(self, do: str, **details: Any) -> None:
        """Ask for something."""
        self.socket.send_text(json.dumps({"do": do, **details}))

    def read(self) -> dict[str, Any]:
        """The next message; of a frame its header, with the length of the picture."""
        message = self.socket.receive()
        assert message["type"] == "websocket.send", message
        if message.get("bytes") is not None:
            (length,) = struct.unpack_from(">L", message["bytes"])
            header = json.loads(message["bytes"][4 : 4 + length])
            self.frames.append({**header, "length": len(message["bytes"]) - 4 - length})
            return self.frames[-1]
        found: dict[str, Any] = json.loads(message["text"])
        if found["is"] == "state":
            self.states.append(found)
        return found

    def until(self, kind: str, **values: Any) -> dict[str, Any]:
        """The next message of a kind with these values."""
        for _ in range(2000):
            message = self.read()
            if message["is"] == kind and all(message.get(key) == value for key, value in values.items()):
                return message
        raise AssertionError(f"no {kind} with {values} in 2000 messages")

    def open(self, photo: str) -> str:
        """The session of a photo, ready to be edited."""
        self.say("open", photo=photo)
        return str(self.until("state", phase="ready")["session"])
