"""One WebSocket for each tab: requests in, states and live pictures out, at the pace of the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, CapacityLimiter, to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from data.errors import PhotodragError
from pipeline.errors import sentence
from pipeline.studio.desk_type import DeskType
from pipeline.studio.messages import Request, Shown, parse_request
from pipeline.studio.watching import Frame

if TYPE_CHECKING:
    from starlette.types import Message

MOST_SOCKETS = 32
MOST_WAITING = 32
"""Requests of one page that wait for the one before them; further ones are not read yet."""
MOST_TROUBLES = 20
RATE = 150.0
"""Messages a second that one page may send in the long run."""
BURST = 300
STILL_PHASES = ("opening", "choosing", "ready", "failed")
"""In these no edit runs: a live picture that still waits would cover the result."""
TOO_MANY_SOCKETS = f"The studio is open in {MOST_SOCKETS} tabs already: close one of them."
UNFORESEEN = "The studio could not do this because of a mistake in its own program; what is finished is kept."

Report = Callable[[BaseException], None]
"""Where unforeseen errors are told."""


class Mailbox:
    """What one page is still to be sent: a `Watcher` whose methods never wait, and that holds little for a slow page.

    Only the newest state and the newest live picture wait; the picture until the page has shown the one before it.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._texts: dict[str, Mapping[str, Any]] = {}
        self._troubles: list[Mapping[str, Any]] = []
        self._frame: Frame | None = None
        self._in_flight: int | None = None
        self.dropped = 0
        """Pictures that a newer one replaced before they were sent."""

    @property
    def ready(self) -> bool:
        """Whether a picture drawn now would be sent at once."""
        with self._lock:
            return self._frame is None and self._in_flight is None

    def state(self, state: Mapping[str, Any]) -> None:
        """Send this state, unless a newer one comes first."""
        kind = str(state.get("is", "state"))
        with self._lock:
            self._texts.pop(kind, None)
            self._texts[kind] = {"is": kind, **state}
            if self._frame is not None and state.get("phase") in STILL_PHASES:
                self._frame = None
                self.dropped += 1
        self._wake()

    def frame(self, frame: Frame) -> None:
        """Send this picture as soon as the page has shown the last one, unless a newer one comes first."""
        with self._lock:
            self.dropped += self._frame is not None
            self._frame = frame
        self._wake()

    def trouble(self, sentence: str, session: str | None) -> None:
        """Send a sentence; of very many the last ones."""
        message = {"is": "trouble", "sentence": sentence} | ({"session": session} if session else {})
        with self._lock:
            self._troubles = [*self._troubles, message][-MOST_TROUBLES:]
        self._wake()

    def shown(self, number: int) -> None:
        """The page has shown a picture; numbers that it was not sent change nothing."""
        with self._lock:
            if number == self._in_flight:
                self._in_flight = None
        self._wake()

    def take(self) -> str | bytes | None:
        """The next message, None when nothing can be sent now."""
        with self._lock:
            if self._troubles:
                return _json(self._troubles.pop(0))
            if self._texts:
                return _json(self._texts.pop(next(iter(self._texts))))
            if self._frame is None or self._in_flight is not None:
                return None
            frame, self._frame = self._frame, None
            number = frame.header.get("number")
            self._in_flight = number if isinstance(number, int) else None
        return packed(frame)


def packed(frame: Frame) -> bytes:
    """A picture as one binary message: the length of the JSON header, the header, the encoded picture."""
    header = _json({"is": "frame", **frame.header}).encode()
    return struct.pack(">L", len(header)) + header + frame.content


def _json(message: Mapping[str, Any]) -> str:
    return json.dumps(message, allow_nan=False, separators=(",", ":"))


class Pace:
    """How many messages a page may send: `burst` at once, `rate` a second in the long run."""

    def __init__(self, rate: float = RATE, burst: int = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def delay(self) -> float:
        """Count one message; the seconds to wait before the next is read, 0 as long as there are few."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, math.ceil(-self._left) / self._rate)


class Sockets:
    """The endpoint `/socket`: counts the open ones, and gives each a conversation with the desk."""

    def __init__(self, desk: DeskType, report: Report, opened: str | None = None) -> None:
        self._desk = desk
        self._report = report
        self._opened = opened
        self._open = 0
        self._threads = CapacityLimiter(2 * MOST_SOCKETS)

    async def talk(self, websocket: WebSocket) -> None:
        """Talk to one page until it goes."""
        await websocket.accept()
        if self._open >= MOST_SOCKETS:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await websocket.send_text(_json({"is": "trouble", "sentence": TOO_MANY_SOCKETS}))
                await websocket.close(1013, "too many tabs")
            return
        self._open += 1
        try:
            await _Conversation(websocket, self._desk, self._report, self._threads, self._opened).run()
        finally:
            self._open -= 1


class _Conversation:
    """Three tasks: one reads, one lets the desk do what was asked in order, one sends what waits in the mailbox."""

    def __init__(
        self,
        websocket: WebSocket,
        desk: DeskType,
        report: Report,
        threads: CapacityLimiter,
        opened: str | None,
    ) -> None:
        self._websocket = websocket
        self._desk = desk
        self._report = report
        self._threads = threads
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._mailbox = Mailbox(self._wake)
        self._asked: asyncio.Queue[Request] = asyncio.Queue(MOST_WAITING)
        self._gone = asyncio.Event()
        self._pace = Pace()

    def _wake(self) -> None:
        """From any thread; after the loop has ended there is nobody to wake."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._awake.set)

    async def run(self) -> None:
        """Until the page or the server goes; the desk hears of the end in any case, and of nothing after it."""
        working = asyncio.create_task(self._work())
        others: list[asyncio.Task[None]] = []
        try:
            hello = await self._in_thread(self._desk.hello)
            opened = {"open": self._opened} if self._opened else {}
            await self._websocket.send_text(_json({"is": "hello", **hello, **opened}))
            others = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]
            done, _ = await asyncio.wait([working, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (WebSocketDisconnect, OSError):
            pass
        except Exception as error:  # noqa: BLE001  one tab's failure ends that tab
            self._report(error)
            with contextlib.suppress(Exception):
                await self._websocket.close(1011)
        finally:
            with CancelScope(shield=True):
                await asyncio.shield(self._end(working, others))

    async def _end(self, working: asyncio.Task[None], others: list[asyncio.Task[None]]) -> None:
        """What the desk does now is awaited, for a page that has left must not be remembered by it."""
        self._gone.set()
        for task in others:
            task.cancel()
        await asyncio.gather(working, *others, return_exceptions=True)
        try:
            await self._in_thread(self._desk.leave, self._mailbox)
        except Exception as error:  # noqa: BLE001  the tab has gone anyway
            self._report(error)

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        return await to_thread.run_sync(call, *args, limiter=self._threads)

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._hear(message)
            if delay := self._pace.delay():
                # Not reading is felt by the page that floods, and by nobody else.
                await asyncio.sleep(delay)

    async def _hear(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            self._mailbox.trouble("The page sent bytes: allowed is JSON text.", None)
            return
        try:
            # Long ones are read in a thread, lest other tabs wait for a mask.
            request = parse_request(text) if len(text) < 10_000 else await self._in_thread(parse_request, text)
        except PhotodragError as error:
            self._mailbox.trouble(sentence(error), None)
            return
        if isinstance(request, Shown):
            self._mailbox.shown(request.number)
        else:
            await self._asked.put(request)

    async def _work(self) -> None:
        gone = asyncio.create_task(self._gone.wait())
        try:
            while True:
                asked = asyncio.create_task(self._asked.get())
                await asyncio.wait([asked, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    asked.cancel()
                    return
                await self._do(asked.result())
        finally:
            gone.cancel()

    async def _do(self, request: Request) -> None:
        session = getattr(request, "session", None)
        try:
            await self._in_thread(self._desk.do, request, self._mailbox)
        except PhotodragError as error:
            self._mailbox.trouble(sentence(error), session)
        except Exception as error:  # noqa: BLE001  the next request may go well
            self._report(error)
            self._mailbox.trouble(UNFORESEEN, session)

    async def _send(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            while (message := self._next()) is not None:
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    await self._websocket.send_text(message)

    def _next(self) -> str | bytes | None:
        """The next message that can be written as JSON; the desk's mistake in one is told, and loses only that one."""
        while True:
            try:
                return self._mailbox.take()
            except (TypeError, ValueError) as error:
                self._report(error)
