"""The studio measured: seconds to prepare a photo, to the first live picture of an edit, pictures a second, attacks.

`python benchmarks/studio.py [--quick] [--json FILE] [--photo FILE]` starts `photodrag studio` as a person does, in a
process of its own with the embedded generator, and talks to it as its page does: a picture is acknowledged as soon as
it has come. Where a Chromium is found (PHOTODRAG_CHROMIUM, the PATH) the page itself is measured, too: from the press
of Go, or of a preset, to a picture on the screen. The attacks run on a studio of their own, with the real desk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, Request, build_opener

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from websockets.sync.client import ClientConnection, connect

from benchmarks.common import tell
from benchmarks.studio_attacked import attacked, real_desk, table
from benchmarks.studio_attacks import run_attacks
from benchmarks.studio_person import Person

ORDER = (
    *("first_frame_s", "frames_per_s", "prepare_s", "reopen_s", "attacks_tried", "attacks_succeeded"),
    *("frame_made_ms", "step_ms", "settled_s", "save_s", "preset_first_frame_s", "preset_frames_per_s"),
    *("page_first_frame_s", "page_frames_per_s", "page_preset_first_frame_s", "page_preset_frames_per_s"),
)
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "samples" / "astronaut.png"
PATIENCE_S = 600.0
MOVES_PX = ((-7.0, -5.0), (7.0, -5.0))
"""Of the mouth's corners, in hundredths of the face's width."""
MOUTH_CORNERS = (48, 54)


@dataclass(eq=False)
class Edit:
    """What was seen of one edit, in seconds since it was asked for: when each picture came, when it was ready again."""

    frames: list[float] = field(default_factory=list)
    made_ms: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    settled: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures a second behind the first one."""
        return (len(self.frames) - 1) / (self.frames[-1] - self.frames[0])


class Page:
    """A page without a screen: sends requests, keeps the last state, acknowledges pictures."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.state: dict[str, Any] = {}

    def ask(self, do: str, **details: Any) -> None:
        self._socket.send(json.dumps({"do": do, **details}))

    def next(self) -> dict[str, Any]:
        """The next message; a state is kept, a picture acknowledged."""
        message = self._socket.recv(PATIENCE_S)
        if isinstance(message, bytes):
            (length,) = struct.unpack_from(">L", message)
            header: dict[str, Any] = json.loads(message[4 : 4 + length])
            self.ask("seen", number=header["number"])
            return header
        told: dict[str, Any] = json.loads(message)
        if told["is"] == "trouble":
            raise SystemExit(f"the studio says: {told['sentence']}")
        if told["is"] == "state":
            self.state = told
        return told

    def until(self, phase: str, at: int | None = None) -> float:
        """Wait for a phase, and for so many edits whose picture is there; the seconds it took."""
        began = time.monotonic()
        while not (
            self.state.get("phase") == phase
            and self.state["photo"] is not None
            and at in (None, self.state["at"])
            and (not at or self.state["patch"] is not None)
        ):
            self.next()
            if self.state.get("failed"):
                raise SystemExit(f"the studio says: {self.state['sentence']}")
        return time.monotonic() - began

    def edit(self, do: str, **details: Any) -> Edit:
        """Make an edit, and undo it."""
        session, began, seen = self.state["session"], time.monotonic(), Edit()
        self.ask(do, session=session, **details)
        while not (self.state["phase"] == "ready" and self.state["at"] == 1 and self.state["patch"] is not None):
            told = self.next()
            if told["is"] == "frame":
                seen.frames.append(time.monotonic() - began)
                seen.made_ms.append(told["made_ms"])
                seen.steps = told["step"]
        seen.settled = time.monotonic() - began
        seen.seconds = self.state["edits"][-1]["seconds"]
        self.ask("undo", session=session)
        self.until("ready", 0)
        return seen


@contextlib.contextmanager
def studio(out: Path) -> Iterator[str]:
    """The address of a studio that runs in a process of its own."""
    source = "import sys; from pipeline.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", source, "studio", "--no-browser", "--port", "0", f"out={out}"]
    where = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": where}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield next(word for word in line.split() if word.startswith("http"))
        finally:
            process.terminate()
            process.communicate(timeout=30)


@contextlib.contextmanager
def page_of(url: str) -> Iterator[tuple[Page, Any]]:
    """A page of the studio, and what asks with its cookie."""
    parts = urlsplit(url)
    origin, cookies = f"http://{parts.netloc}", HTTPCookieProcessor()
    opener = build_opener(cookies)
    opener.open(url).read()
    cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in cookies.cookiejar)
    headers = {"Cookie": cookie}
    with connect(
        f"ws://{parts.netloc}/socket",
        origin=origin,  # type: ignore[arg-type]
        additional_headers=headers,
        compression=None,
        max_size=None,
    ) as socket:
        page = Page(socket)
        page.next()

        def upload(photo: Path) -> str:
            request = Request(f"{origin}/photos", photo.read_bytes(), {"X-Name": photo.name, "Origin": origin})
            return str(json.loads(opener.open(request).read())["photo"])

        yield page, upload


def drag_of(state: dict[str, Any]) -> list[list[float]]:
    """The mouth's corners pulled outwards and up."""
    face = state["faces"][0]
    width = face["box"][2] - face["box"][0]
    corners = [face["landmarks"][number] for number in MOUTH_CORNERS]
    moves = [(x * width / 100, y * width / 100) for x, y in MOVES_PX]
    return [[x, y, x + dx, y + dy] for (x, y), (dx, dy) in zip(corners, moves, strict=True)]


def measured(url: str, photo: Path, rounds: int) -> tuple[dict[str, float], list[list[float]]]:
    """Figures of a page without a screen, and the points that it dragged."""
    with page_of(url) as (page, upload):
        began = time.monotonic()
        page.ask("open", photo=upload(photo))
        page.until("ready")
        prepared, points = time.monotonic() - began, drag_of(page.state)
        drags = [page.edit("drag", points=_nudged(points, number)) for number in range(rounds)]
        presets = [page.edit("preset", preset="smile", strength=0.61 + number / 50) for number in range(rounds)]
        page.ask("drag", session=page.state["session"], points=points)
        page.until("ready", 1)
        began = time.monotonic()
        page.ask("save", session=page.state["session"])
        while not (page.state["saved"] and page.state["phase"] == "ready"):
            page.next()
        saved = time.monotonic() - began
    with page_of(url) as (again, upload):
        began = time.monotonic()
        again.ask("open", photo=upload(photo))
        reopened = again.until("ready", 1) and time.monotonic() - began
    figures = {
        "prepare_s": prepared,
        "reopen_s": reopened,
        "save_s": saved,
        "first_frame_s": statistics.median(edit.frames[0] for edit in drags),
        "frames_per_s": statistics.median(edit.rate for edit in drags),
        "frame_made_ms": statistics.median(ms for edit in drags for ms in edit.made_ms),
        "step_ms": statistics.median(1000 * edit.seconds / edit.steps for edit in drags),
        "settled_s": statistics.median(edit.settled for edit in drags),
        "preset_first_frame_s": statistics.median(edit.frames[0] for edit in presets),
        "preset_frames_per_s": statistics.median(edit.rate for edit in presets),
    }
    return figures, points


def _nudged(points: Sequence[Sequence[float]], number: int) -> list[list[float]]:
    """The same drag a hair farther: another edit, which is not taken from what was computed before."""
    return [[x, y, x2, y2 - 0.01 * number] for x, y, x2, y2 in points]


def on_the_screen(url: str, photo: Path, rounds: int, points: list[list[float]]) -> dict[str, float]:
    """Figures of the page in a browser; none where there is no browser."""
    path = os.environ.get("PHOTODRAG_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return {}
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        return {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.set_input_files("input[type=file]", photo)
        person, body = Person(page), page.locator("body")
        expect(body).to_have_attribute("data-phase", "ready", timeout=PATIENCE_S * 1000)
        expect(body).to_have_attribute("data-view", re.compile(r"\S+ \S+ \S+"))
        if person.data("at") != "0":
            page.locator("#history button[data-at='0']").click()
            expect(body).to_have_attribute("data-at", "0")
        medians = {}
        for name, button in (("page", "#go"), ("page_preset", "[data-preset=smile]")):
            seen = []
            for number in range(rounds):
                if button == "#go":
                    person.press("c")
                    for x, y, x2, y2 in _nudged(points, number + 50):  # not the edits of the page without a screen
                        person.drag((x, y), (x2, y2))
                seen.append(page.evaluate(WATCHED, [button, 0.6 + number / 10]))  # the slider counts in tenths
                page.keyboard.press("Control+z")
                expect(body).to_have_attribute("data-at", "0")
                expect(body).to_have_attribute("data-phase", "ready")
            medians[f"{name}_first_frame_s"] = statistics.median(one["first"] for one in seen)
            medians[f"{name}_frames_per_s"] = statistics.median(one["rate"] for one in seen)
        browser.close()
    return medians


WATCHED = """
([button, strength]) => new Promise((resolve) => {
  const data = document.body.dataset;
  const slider = document.getElementById("strength");
  slider.value = strength;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  const at = Number(data.at || 0);
  const shown = [];
  let running = false;
  const began = performance.now();
  const observer = new MutationObserver(() => {
    running ||= data.phase === "dragging";
    if (running && Number(data.frames) > shown.length) shown.push(performance.now());
    if (data.phase !== "ready" || Number(data.at) <= at) return;
    observer.disconnect();
    const rate = (1000 * (shown.length - 1)) / (shown[shown.length - 1] - shown[0]);
    resolve({ first: (shown[0] - began) / 1000, rate });
  });
  observer.observe(document.body, { attributes: true });
  document.querySelector(button).click();
})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photo", type=Path, default=SAMPLE)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="three edits of each kind instead of seven")
    parser.add_argument("--table", action="store_true", help="print every attack and its answer")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 7
    with tempfile.TemporaryDirectory(prefix="photodrag-studio-") as scratch:
        folder = Path(scratch)
        with studio(folder / "runs") as url:
            figures, points = measured(url, arguments.photo, rounds)
            figures |= on_the_screen(url, arguments.photo, rounds, points)
        (folder / "attacked").mkdir()
        with attacked(folder / "attacked", real_desk) as target:
            results = list(run_attacks(target))
    if arguments.table:
        print(table(results))
    figures |= {"attacks_tried": len(results), "attacks_succeeded": sum(result.succeeded for result in results)}
    tell(figures, arguments.json, ORDER)


if __name__ == "__main__":
    main()
