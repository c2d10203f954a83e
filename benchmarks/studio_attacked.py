"""`python -m benchmarks.studio_attacked [--real]`: attacks on the studio's server, with a desk that computes nothing.

`--real`: with the studio's own desk, on a face that is prepared in a few steps.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.studio_attacks import Result, run_attacks
from benchmarks.studio_target import MARKER, Target, serving
from pipeline.quoting import quote_path
from pipeline.studio.desk_type import DeskType
from pipeline.studio.messages import Watch
from pipeline.studio.security import App, Door
from pipeline.studio.server import build_app
from pipeline.studio.uploads import Limits
from tests.fake_desk import SAMPLE, FakeDesk, Recorder

LONGEST_CELL = 110
LIMIT = 40_000_000
"""Bytes that a photo may have in this trial: enough to see that the limit ends an upload, and soon."""


MakeDesk = Callable[[Path, Limits], DeskType]


def fake_desk(folder: Path, limits: Limits) -> DeskType:
    """The one that computes nothing."""
    return FakeDesk(folder / "desk", 0.0, limits)


def real_desk(folder: Path, limits: Limits) -> DeskType:
    """The studio's own, with a short preparation."""
    from pipeline.schema import compose
    from pipeline.studio.desk import Desk

    settings = [f"out={quote_path(str(folder))}", "invert.steps=20", "tune.steps=20", "threads=1"]
    return Desk(compose(settings), limits)


@contextlib.contextmanager
def attacked(
    scratch: Path, make_desk: MakeDesk = fake_desk, wrap: Callable[[App], App] = lambda app: app
) -> Iterator[Target]:
    """A server with a desk, and a session on the sample photo; `wrap` may take its guard away."""
    folder = scratch / "above" / "studio"
    inbox = folder / "arriving"
    inbox.mkdir(parents=True)
    secret = scratch / "above" / "secret.json"
    secret.write_text(MARKER, encoding="utf-8")
    limits = Limits(bytes=LIMIT)
    desk = make_desk(folder, limits)
    session = desk.open_file(SAMPLE)
    watcher = Recorder()
    desk.do(Watch(session), watcher)
    watcher.wait_for(lambda state: state["phase"] == "ready", seconds=300)
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
            session=session,
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


def table(results: Sequence[Result]) -> str:
    """The answers in Markdown, a table for each group."""
    lines: list[str] = []
    for group in dict.fromkeys(result.group for result in results):
        lines += ["", f"### {group.capitalize()}", "", "| What is tried | Succeeds | Answer |", "|---|---|---|"]
        rows = [result for result in results if result.group == group]
        lines += [f"| {_cell(r.name)} | {'**yes**' if r.succeeded else 'no'} | {_cell(r.answer)} |" for r in rows]
    return "\n".join(lines).lstrip()


def _cell(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text).replace("|", "\\|")
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


def main() -> None:
    """Print the table and the figures."""
    begun = time.monotonic()
    make_desk = real_desk if "--real" in sys.argv[1:] else fake_desk
    with tempfile.TemporaryDirectory() as scratch, attacked(Path(scratch), make_desk) as target:
        results = list(run_attacks(target))
    print(table(results))
    succeeded = sum(result.succeeded for result in results)
    print(f"\nattacks_tried {len(results)}, attacks_succeeded {succeeded}, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
