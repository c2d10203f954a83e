"""`photodrag studio`: the desk, a port, and a server that runs until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import PhotodragError, UsageError
from pipeline.errors import EXIT_DONE, exit_code
from pipeline.studio.options import DEFAULT_PORT, StudioOptions

if TYPE_CHECKING:
    from pipeline.schema import RunConfig
    from pipeline.studio.desk_type import DeskType
    from pipeline.studio.security import App
    from pipeline.studio.uploads import Limits

PACKAGES = ("starlette", "uvicorn", "websockets")
FOLDER = "studio"
"""Below `out`: what a studio keeps."""
MOST_PORTS = 50
"""Ports after the default that are tried."""
LONGEST_END_SECONDS = 1.5
MOST_CONNECTIONS = 256
SILENT_SECONDS = 10.0
"""How long a connection may be open without having sent a request."""


def check_installed() -> None:
    """Raise PhotodragError when the extra is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PhotodragError(
            f"photodrag studio needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'photodrag[studio]'"
        )


def studio(options: StudioOptions, config: RunConfig, debug: bool) -> int:
    """Serve the editor until Ctrl-C; `config.photo` is opened at once."""
    check_installed()
    with contextlib.closing(listen(options)) as listening:
        from pipeline.memory import keep_freed_memory
        from pipeline.studio.desk import Desk
        from pipeline.studio.uploads import Limits

        keep_freed_memory()
        limits = Limits(pixels=options.max_megapixels * 1_000_000)
        desk: DeskType = Desk(config, limits)
        code = EXIT_DONE
        try:
            serve(desk, listening, options, config, limits, debug)
            print(f"The studio ends; its sessions are kept in {studio_folder(config)}.", flush=True)
        except BaseException as error:
            code = exit_code(error)
            raise
        finally:
            with _ended_in_any_case(code):
                desk.close()
    return code


@contextlib.contextmanager
def _ended_in_any_case(code: int) -> Iterator[None]:
    """Leave the process soon, whatever a thread still computes; what is on the disk is whole at any time."""

    def leave() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    timer = threading.Timer(LONGEST_END_SECONDS, leave)
    timer.daemon = True
    timer.start()
    yield
    others = set(threading.enumerate()) - {threading.main_thread(), threading.current_thread(), timer}
    if all(thread.daemon for thread in others):  # or Python would wait for them as it ends
        timer.cancel()


def studio_folder(config: RunConfig) -> Path:
    """Where a studio keeps its things."""
    return Path(config.out).absolute() / FOLDER


def listen(options: StudioOptions) -> socket.socket:
    """A socket that listens where the options say, before anything heavy is loaded."""
    if options.port is not None:
        return _listen_at(options.host, options.port)
    for port in range(DEFAULT_PORT, DEFAULT_PORT + MOST_PORTS):
        with contextlib.suppress(_TakenError):
            return _listen_at(options.host, port)
    raise UsageError(
        f"The ports {DEFAULT_PORT} to {DEFAULT_PORT + MOST_PORTS - 1} are taken: give --port 0 for any other"
    )


class _TakenError(UsageError):
    """Another program listens there."""


def _listen_at(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except PermissionError as error:
        raise UsageError(f"--port is {port}, which this user may not open: allowed is 1024 and above") from error
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in _TAKEN:
            raise _TakenError(f"--port is {port}, which another program has: give another one, or 0 for any") from error
        raise UsageError(
            f"--host is {host}, which is no address of this machine: leave it out for 127.0.0.1"
        ) from error


_TAKEN = (48, 98, 10048)
"""EADDRINUSE of macOS, Linux and Windows."""


def serve(
    desk: DeskType, listening: socket.socket, options: StudioOptions, config: RunConfig, limits: Limits, debug: bool
) -> None:
    """Print the address, open the browser, and answer until a signal comes."""
    from pipeline.studio.security import Door, new_token
    from pipeline.studio.server import build_app, reporter
    from pipeline.studio.uploads import remove_left_over

    inbox = studio_folder(config) / "arriving"
    remove_left_over(inbox)
    opened = None if config.photo is None else desk.open_file(Path(config.photo))
    port = listening.getsockname()[1]
    door = Door(options.token or new_token(), port, options.host, ticket=new_token())
    app = build_app(desk, door, inbox, limits, opened=opened, report=reporter(debug))

    def started() -> None:
        print(f"photodrag studio: {door.url}  (Ctrl-C ends it)", flush=True)
        if options.browser:
            threading.Thread(target=show, args=(door.ticket_url,), daemon=True).start()

    asyncio.run(make_server(app, debug, started).serve([listening]))


def make_server(app: App, debug: bool = False, started: Callable[[], None] = lambda: None) -> Any:
    """uvicorn's server with the limits of a studio; `started` is called when it answers.

    It logs no address, for one of them holds the token.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from pipeline.studio.messages import MOST_TEXT

    class Connection(H11Protocol):
        """Ends when no request has come for a while: connections are few."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Begin to wait."""
            super().connection_made(transport)
            self.loop.call_later(SILENT_SECONDS, self._end_if_silent)

        def _end_if_silent(self) -> None:
            asked: object = self.scope  # None until there is a request, whatever its type says
            if asked is None:
                self.transport.close()

    class Server(uvicorn.Server):
        """Ends at a signal without raising it again: Ctrl-C is how a studio ends."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """A signal ends the server in peace, a second one at once."""
            with contextlib.ExitStack() as after:
                if threading.current_thread() is threading.main_thread():
                    after.enter_context(_signals(self.handle_exit))
                yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Begin to answer, and say so."""
            await super().startup(sockets)
            started()

    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            log_level="info" if debug else "critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=1,
            ws_max_size=MOST_TEXT + 1000,
            ws_ping_interval=20,
            ws_ping_timeout=60,
            # Pictures are compressed already, and a small message that unpacks to a large one is not wanted.
            ws_per_message_deflate=False,
        )
    )


@contextlib.contextmanager
def _signals(handler: Any) -> Iterator[None]:
    import signal

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def show(url: str) -> None:
    """Open a browser, if there is a screen: a text browser would take the terminal over."""
    has_screen = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if has_screen:
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(url)
