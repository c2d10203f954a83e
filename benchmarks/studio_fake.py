"""`python -m benchmarks.studio_fake`: the attacks on the real server with a desk that computes nothing."""

from __future__ import annotations

import contextlib
import secrets
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.studio_attacks import Result, run_attacks
from benchmarks.studio_target import MARKER, Target, serving
from pipeline.studio.messages import Watch
from pipeline.studio.security import App, Door
from pipeline.studio.server import build_app
from pipeline.studio.uploads import Limits
from tests.fake_desk import SAMPLE, FakeDesk, Recorder

LIMIT = 40_000_000
"""Bytes that a photo may have in this trial: enough to see that the limit ends an upload, and soon."""


@contextlib.contextmanager
def fake_target(scratch: Path, wrap: Callable[[App], App] = lambda app: app) -> Iterator[Target]:
    """A server with the fake desk, and a prepared session on the sample photo; `wrap` may take its guard away."""
    folder = scratch / "above" / "studio"
    inbox = folder / "arriving"
    inbox.mkdir(parents=True)
    secret = scratch / "above" / "secret.json"
    secret.write_text(MARKER, encoding="utf-8")
    limits = Limits(bytes=LIMIT)
    desk = FakeDesk(folder / "desk", 0.0, limits)
    watcher = Recorder()
    desk.do(Watch(desk.open_file(SAMPLE)), watcher)
    state = watcher.wait_for(lambda state: state["phase"] == "ready")
    desk.leave(watcher)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    door = Door(secrets.token_urlsafe(32), port)
    app = wrap(build_app(desk, door, inbox, limits, page=page_folder(scratch), report=lambda error: None))
    with listening, serving(app, listening):
        yield Target(
            port=port,
            token=door.token,
            folder=folder,
            inbox=inbox,
            secret=secret,
            session=state["session"],
            photo=SAMPLE.read_bytes(),
            limit=LIMIT,
            outside=scratch / "touched",
        )
    desk.close()


def page_folder(scratch: Path) -> Path:
    """A page of one file, for a checkout without the real one."""
    folder = scratch / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>photodrag</title>", encoding="utf-8")
    return folder


def table(results: list[Result]) -> str:
    """The answers as a table in Markdown."""
    rows = [f"| {r.group} | {r.name} | {'**yes**' if r.succeeded else 'no'} | {_cell(r.answer)} |" for r in results]
    return "\n".join(["| Who | What is tried | Succeeds | Answer |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text).replace("|", "\\|")
    return text if len(text) < 180 else f"{text[:177]}..."


def main() -> None:
    """Print the table and the figures."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, fake_target(Path(scratch)) as target:
        results = list(run_attacks(target))
    print(table(results))
    print(f"\n{Counter(result.group for result in results)}")
    succeeded = sum(result.succeeded for result in results)
    print(f"attacks_tried {len(results)}, attacks_succeeded {succeeded}, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
