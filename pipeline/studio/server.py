"""The studio's addresses: its page, uploads, pictures, downloads, and the socket, all behind `security.Guard`."""

from __future__ import annotations

import asyncio
import math
import re
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from data.errors import PhotodragError, UsageError
from data.photo import check_photo
from pipeline.errors import one_line, sentence
from pipeline.studio.desk_type import Box, DeskType
from pipeline.studio.security import IMMUTABLE, App, Door, Guard, Message, Receive, Scope, Send
from pipeline.studio.socket import UNFORESEEN, Report, Sockets
from pipeline.studio.uploads import BusyError, Inbox, Limits, StorageError, TooLargeError, display_name

if TYPE_CHECKING:
    from importlib.abc import Traversable

FRONT = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
}
"""What the page may consist of."""
DOWNLOAD_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".zip": "application/zip",
}
PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
MOST_REGION_PIXELS = 4_000_000
MOST_SIDE = 1_000_000
IDLE_SECONDS = 30.0
"""An upload that stands still for so long is given up, for it holds one of few places."""
STATUS: Mapping[type[PhotodragError], int] = {UsageError: 400, TooLargeError: 413, BusyError: 503, StorageError: 507}
"""Other errors are of the photo: 422."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[a-z0-9]{1,5})?", re.ASCII)


def build_app(
    desk: DeskType,
    door: Door,
    inbox_folder: Path,
    limits: Limits | None = None,
    *,
    page: Traversable | None = None,
    opened: str | None = None,
    report: Report | None = None,
) -> App:
    """The whole application; files arrive in `inbox_folder`, `opened` is the session that a new page shows.

    `page`: the folder of the page's files, by default the package's own. `report`: where unforeseen errors are told.
    """
    report = report or reporter(debug=False)
    rooms = _Rooms(desk, Inbox(inbox_folder, limits or Limits()), limits or Limits(), page_files(page))
    routes = [
        Route("/", rooms.front, methods=["GET"]),
        Route("/static/{name}", rooms.static, methods=["GET"]),
        Route("/photos", rooms.photos, methods=["POST"]),
        Route("/pictures/{id}", rooms.picture, methods=["GET"]),
        Route("/region", rooms.region, methods=["GET"]),
        Route("/downloads/{id}", rooms.download, methods=["GET"]),
        WebSocketRoute("/socket", Sockets(desk, report, opened).talk),
    ]
    handlers: dict[Any, Callable[..., Any]] = {
        HTTPException: _not_found,
        PhotodragError: _refused,
        Exception: _unforeseen,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(Told(app, report), door)


def page_files(folder: Traversable | None = None) -> dict[str, Traversable]:
    """Name -> file of everything that the page consists of; what is not among it is never served."""
    folder = folder or resources.files("pipeline.studio").joinpath("page")
    if not folder.is_dir():
        return {}
    return {entry.name: entry for entry in folder.iterdir() if entry.is_file() and _suffix(entry.name) in TYPES}


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def reporter(debug: bool) -> Report:
    """Tells of an unforeseen error in one line on stderr, with its traceback only when `debug`."""

    def report(error: BaseException) -> None:
        if debug:
            traceback.print_exception(error)
        line = f"photodrag: studio: {type(error).__name__}: {one_line(error) or 'no message'}"
        print("".join(letter if letter.isprintable() else "?" for letter in line), file=sys.stderr, flush=True)

    return report


class Told:
    """Middleware that tells of errors which nobody foresaw; the answer has been sent, and the server goes on."""

    def __init__(self, app: App, report: Report) -> None:
        self._app = app
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            self._report(error)
            if not begun:  # or the browser would wait for ever
                raise


class _Rooms:
    """The HTTP endpoints."""

    def __init__(self, desk: DeskType, inbox: Inbox, limits: Limits, files: Mapping[str, Traversable]) -> None:
        self._desk = desk
        self._inbox = inbox
        self._limits = limits
        self._files = files
        # Each kind of work has its own threads, lest many of one keep the others waiting.
        self._adding = CapacityLimiter(3)
        self._cutting = CapacityLimiter(4)
        self._reading = CapacityLimiter(8)

    async def front(self, _: Request) -> Response:
        return self._file(FRONT)

    async def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        return Response(file.read_bytes(), headers={"content-type": TYPES[_suffix(name)]})

    async def photos(self, request: Request) -> Response:
        name = display_name(request.headers.get("x-name"))
        async with self._inbox.receive(request.headers.get("content-length"), _unhurried(request.stream())) as path:

            def add() -> str:
                check_photo(path, name, self._limits.pixels)
                return self._desk.add_photo(path, name)

            photo = await to_thread.run_sync(add, limiter=self._adding)
        return JSONResponse({"photo": photo}, 201)

    async def picture(self, request: Request) -> Response:
        found = await to_thread.run_sync(self._desk.picture, _id(request), limiter=self._reading)
        if found is None:
            raise HTTPException(404)
        return _picture(*found, cache=IMMUTABLE.decode())

    async def region(self, request: Request) -> Response:
        session, which, box, scale = region_asked(request.query_params)
        found = await to_thread.run_sync(self._desk.region, session, which, box, scale, limiter=self._cutting)
        return _picture(*found, cache="no-store")

    async def download(self, request: Request) -> Response:
        found = await to_thread.run_sync(self._desk.download, _id(request), limiter=self._reading)
        if found is None or not found[0].is_file():
            raise HTTPException(404)
        path, name = found
        media = DOWNLOAD_TYPES.get(_suffix(name), "application/octet-stream")
        return FileResponse(path, filename=display_name(name), media_type=media)


def _id(request: Request) -> str:
    value: str = request.path_params["id"]
    if not _ID.fullmatch(value):
        raise HTTPException(404)
    return value


def _picture(content: bytes, media_type: str, cache: str) -> Response:
    if media_type not in PICTURE_TYPES:
        raise ValueError(f"a picture of the type {media_type}")
    return Response(content, headers={"content-type": media_type, "cache-control": cache})


async def _unhurried(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The blocks of a body, as long as they come; StopAsyncIteration ends a stream, silence raises UsageError."""
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), IDLE_SECONDS)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError as error:
            raise UsageError(
                f"Nothing came for {IDLE_SECONDS:g} s, so the upload was given up: send it again."
            ) from error


def region_asked(query: Mapping[str, str]) -> tuple[str, str, Box, float]:
    """(session, which, box, scale) of the address of a part; UsageError for what is none or is too large."""
    session, which = query.get("session", ""), query.get("which", "result")
    if not _ID.fullmatch(session):
        raise UsageError("session is not the name of a session.")
    if which not in ("original", "result"):
        raise UsageError("which is neither original nor result.")
    x, y = (_whole(query, key, -MOST_SIDE, MOST_SIDE) for key in "xy")
    w, h = (_whole(query, key, 1, MOST_SIDE) for key in "wh")
    scale = _scale(query.get("scale", "1"))
    if math.ceil(w * scale) * math.ceil(h * scale) > MOST_REGION_PIXELS:
        raise UsageError(
            f"A part of {w} x {h} pixels at scale {scale:g} has more than {MOST_REGION_PIXELS / 1e6:g} MP: ask for a "
            "smaller part or a smaller scale."
        )
    return session, which, (x, y, x + w, y + h), scale


def _whole(query: Mapping[str, str], key: str, least: int, most: int) -> int:
    text = query.get(key, "")
    if not re.fullmatch(r"-?[0-9]{1,7}", text, re.ASCII) or not least <= int(text) <= most:
        raise UsageError(f"{key} is no whole number from {least} to {most}.")
    return int(text)


def _scale(text: str) -> float:
    try:
        scale = float(text) if len(text) < 30 else math.nan
    except ValueError:
        scale = math.nan
    if not 1e-4 <= scale <= 1:
        raise UsageError("scale is no number from 0.0001 to 1.")
    return scale


def _error(words: str, status: int) -> Response:
    # What is left of a refused body is not read: the connection ends with the answer.
    headers = {"connection": "close"} if status in (413, 503, 507) else {}
    return JSONResponse({"error": words}, status, headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _error(f"{request.method} is not what this address is for.", 405)
    return _error("The studio has nothing at this address: open its page at / again.", error.status_code)


async def _refused(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 422)
    return _error(sentence(error), status)


async def _unforeseen(_request: Request, _: Exception) -> Response:
    return _error(UNFORESEEN, 500)
