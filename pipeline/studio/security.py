"""Who may talk to a studio: a middleware around the whole application that lets only its own page through.

A studio reads and writes photos of the person who started it, and every page of the web and every program of the
machine can reach its port. So each request needs the cookie that the printed address sets, a Host that is this server's
(a foreign name that was rebound to 127.0.0.1 is none), and no sign of another page.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
IMMUTABLE = b"private, max-age=31536000, immutable"
READING = ("GET", "HEAD")

NO_COOKIE = (
    "This studio answers only the page that was opened with the address that photodrag printed when it started: open "
    "that address, with its token, in this browser."
)
WRONG_TOKEN = (
    "The token in this address is not this studio's: open the address that photodrag printed when it started last."
)
WRONG_HOST = (
    "This studio does not answer under the name that the browser asked for: open the address that photodrag printed "
    "when it started."
)
WRONG_PAGE = (
    "This request comes from another page, and the studio answers only its own: type or paste the address that "
    "photodrag printed when it started."
)


@dataclass(frozen=True, slots=True)
class Door:
    """What a request must show: `token` is this launch's secret, `host` the address that is listened on.

    `ticket` opens the page once, for the browser that is started: other users of the machine can read its command line.
    """

    token: str
    port: int
    host: str = "127.0.0.1"
    ticket: str | None = None

    @property
    def cookie(self) -> str:
        """The cookie's name; browsers share cookies between the ports of a host, so the port is in it."""
        return f"photodrag_{self.port}"

    @property
    def url(self) -> str:
        """The address to print: the only place that shows the token."""
        return self._address(self.token)

    @property
    def ticket_url(self) -> str:
        """The address that works once."""
        return self._address(self.ticket or self.token)

    def _address(self, token: str) -> str:
        shown = "127.0.0.1" if self.host in EVERY_ADDRESS else self.host
        return f"http://{_bracketed(shown)}:{self.port}/?token={token}"

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server.

        One that listens on every address is also known by its own name and by any number: a rebound name is no number.
        """
        name, port = _split_host(host.lower())
        if port != self.port:
            return False
        if name in LOOPBACK or name == self.host.lower():
            return True
        return self.host in EVERY_ADDRESS and (_is_number(name) or name == socket.gethostname().lower())

    def knows_token(self, token: str) -> bool:
        """Whether this is the launch's secret."""
        return _same(token, self.token)


def _same(given: str, secret: str) -> bool:
    """Compared in a time that does not depend on how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def new_token() -> str:
    """256 bits from the system, in letters that need no quoting in an address."""
    return secrets.token_urlsafe(32)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _split_host(host: str) -> tuple[str, int | None]:
    """('::1', 8642) of '[::1]:8642'; no port means HTTP's own, None one that cannot be read."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "80"
    if ":" in name and not (name.startswith("[") and name.endswith("]")):
        return host, None
    usable = port.isascii() and port.isdigit() and len(port) <= 5
    return name.removeprefix("[").removesuffix("]"), int(port) if usable else None


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """The middleware: refuses what is not from the studio's page, and puts the security headers on every answer."""

    def __init__(self, app: App, door: Door) -> None:
        self._app = app
        self._door = door
        self._ticket = door.ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: 403 with one sentence, or the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope)
        refusal = self._refusal(scope, headers)
        answer = _Answer(send, self._door, headers.one(b"host") if refusal is not WRONG_HOST else None)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            elif "websocket.http.response" in scope.get("extensions", {}):
                await answer.refuse(refusal, "websocket.http.response")
            else:
                # Before it was accepted: a failed handshake, 403 without words.
                await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        elif refusal is not None:
            await answer.refuse(refusal)
        elif _tokens(scope):
            await answer.welcome()
        else:
            await self._app(scope, receive, answer.send)

    def _refusal(self, scope: Scope, headers: Headers) -> str | None:
        """The sentence for a request that is turned away."""
        host = headers.one(b"host")
        if host is None or not self._door.knows_host(host):
            return WRONG_HOST
        if not self._is_own_page(scope, headers, host):
            return WRONG_PAGE
        if tokens := _tokens(scope):
            return None if len(tokens) == 1 and self._opens(tokens[0]) else WRONG_TOKEN
        return None if self._has_cookie(headers) else NO_COOKIE

    def _opens(self, token: str) -> bool:
        """Whether this is the token, or the ticket, which is then used up."""
        if self._ticket is not None and _same(token, self._ticket):
            self._ticket = None
            return True
        return self._door.knows_token(token)

    def _is_own_page(self, scope: Scope, headers: Headers, host: str) -> bool:
        """Whether nothing says that another page asks; what can change anything must say that the own page does."""
        if any(site not in ("same-origin", "none") for site in headers.all(b"sec-fetch-site")):
            return False
        origins = headers.all(b"origin")
        reading = scope["type"] == "http" and scope["method"] in READING
        if not origins:
            return reading
        return len(origins) == 1 and origins[0].lower() == f"http://{host.lower()}"

    def _has_cookie(self, headers: Headers) -> bool:
        return any(self._door.knows_token(value) for value in _cookies(headers, self._door.cookie))


class Headers:
    """A request's headers, a repeated one more than once."""

    def __init__(self, scope: Scope) -> None:
        self._pairs = [(name.lower(), value) for name, value in scope["headers"]]

    def all(self, name: bytes) -> list[str]:
        """Every value of a header."""
        return [value.decode("latin-1") for key, value in self._pairs if key == name]

    def one(self, name: bytes) -> str | None:
        """The value of a header that is given once."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None


def _tokens(scope: Scope) -> list[str]:
    """The tokens in the address of the front page; nowhere else is one looked for."""
    if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
        return []
    try:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return []
    return [value for name, value in pairs if name == "token"]


def _cookies(headers: Headers, name: str) -> Iterator[str]:
    for header in headers.all(b"cookie"):
        for part in header.split(";"):
            try:
                read = SimpleCookie(part.strip())
            except CookieError:  # another program's cookie on this host
                continue
            if name in read:
                yield read[name].value


class _Answer:
    """Sends the answer to one request, with the headers that every answer has."""

    def __init__(self, send: Send, door: Door, host: str | None) -> None:
        self._send = send
        self._door = door
        self._host = host

    async def send(self, message: Message) -> None:
        """The application's own messages; its headers stay where they say more."""
        if message["type"].endswith("http.response.start"):
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            added = [(name, value) for name, value in self._headers() if name not in names]
            message = {**message, "headers": [*given, *added]}
        await self._send(message)

    async def refuse(self, sentence: str, kind: str = "http.response") -> None:
        """403, and why, in words; `kind` is ASGI's name for an answer to this request."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(sentence.encode()))]
        # What the request still sends is not read: the connection ends.
        headers.append((b"connection", b"close"))
        await self.send({"type": f"{kind}.start", "status": 403, "headers": headers})
        await self.send({"type": f"{kind}.body", "body": sentence.encode()})

    async def welcome(self) -> None:
        """Set the cookie, and go on to the address without the token."""
        cookie = f"{self._door.cookie}={self._door.token}; Path=/; HttpOnly; SameSite=Strict"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await self.send({"type": "http.response.start", "status": 303, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in HEADERS] + [
            (b"content-security-policy", content_policy(self._host).encode())
        ]


HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=(), hid=()"),
    (b"cache-control", b"no-store"),
)
"""On every answer, unless the answer has one of its own (pictures may be kept)."""


def content_policy(host: str | None) -> str:
    """What the page may load: its own files, pictures it made itself, its own socket.

    `host` is named for browsers to which 'self' means http alone; it has been checked, None where it has not.
    """
    connect = f"'self' ws://{host}" if host else "'self'"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        f"connect-src {connect}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
