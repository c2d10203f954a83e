"""`python -m tests.fake_studio --port N`: the studio's real server with the fake desk, to work on the page."""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
from pathlib import Path

from pipeline.studio.command import make_server
from pipeline.studio.security import Door
from pipeline.studio.server import build_app, reporter
from tests.fake_desk import SAMPLE, FakeDesk

TOKEN = "fake-studio-token"


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8643)
    parser.add_argument("--slowness", type=float, default=1.0, help="0: everything at once")
    parser.add_argument("--empty", action="store_true", help="open no photo")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        desk = FakeDesk(folder / "desk", given.slowness)
        opened = None if given.empty else desk.open_file(SAMPLE)
        door = Door(TOKEN, given.port)
        app = build_app(desk, door, folder / "inbox", opened=opened, report=reporter(debug=True))
        print(door.url, flush=True)
        listening = socket.create_server(("127.0.0.1", given.port))
        asyncio.run(make_server(app, debug=True).serve([listening]))
        desk.close()


if __name__ == "__main__":
    main()
