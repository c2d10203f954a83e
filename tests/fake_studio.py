"""`python -m tests.fake_studio --port N`: the studio's real server with the fake desk, to work on the page."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import uvicorn

from pipeline.studio.messages import Open
from pipeline.studio.security import Door
from pipeline.studio.server import build_app, reporter
from tests.fake_desk import SAMPLE, FakeDesk, Recorder

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
        opened = None if given.empty else open_sample(desk, folder)
        door = Door(TOKEN, given.port)
        app = build_app(desk, door, folder / "inbox", opened=opened, report=reporter(debug=True))
        print(door.url, flush=True)
        uvicorn.run(
            app,
            host="127.0.0.1",
            port=given.port,
            log_level="warning",
            timeout_graceful_shutdown=1,
            server_header=False,
        )


def open_sample(desk: FakeDesk, folder: Path) -> str:
    """A session with the sample photo."""
    copy = folder / "sample"
    shutil.copyfile(SAMPLE, copy)
    recorder = Recorder()
    desk.do(Open(desk.add_photo(copy, SAMPLE.name)), recorder)
    desk.leave(recorder)
    return str(recorder.states[0]["session"])


if __name__ == "__main__":
    main()
