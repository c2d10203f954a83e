"""A browser before the studio's page, with the fake desk behind it: what the fixtures of conftest.py give."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipeline.studio.security import Door
from pipeline.studio.server import build_app, reporter
from pipeline.studio.uploads import Limits
from tests.fake_desk import FakeDesk

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install '.[test]'")
TOKEN = "token-of-the-tests"
SIZE = {"width": 1280, "height": 800}


def browser_path(installed: str) -> str | None:
    """The first Chromium that is found: PHOTODRAG_CHROMIUM, on the PATH, playwright's own."""
    named = os.environ.get("PHOTODRAG_CHROMIUM")
    on_path = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    return next((path for path in (named, *on_path, installed) if path and Path(path).exists()), None)


class Studio:
    """A served desk, a fake one or the real one, and a browser."""

    def __init__(self, desk: Any, url: str, browser: Any) -> None:
        self.desk, self.url, self.browser = desk, url, browser

    def asked(self, kind: type) -> list[Any]:
        """The requests of a kind that have come so far."""
        return [request for request in list(self.desk.log) if isinstance(request, kind)]


def serve(folder: Path, desk: Any = None, limits: Limits | None = None) -> Iterator[Studio]:
    """A studio with its browser, closed behind the yield; with the fake desk unless another is given. Skips where there
    is no browser."""
    desk = desk or FakeDesk(folder / "desk", slowness=0)
    listener = socket.create_server(("127.0.0.1", 0))
    door = Door(TOKEN, listener.getsockname()[1])
    app = build_app(desk, door, folder / "inbox", limits, report=reporter(debug=True))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    with sync_api.sync_playwright() as driver:
        path = browser_path(driver.chromium.executable_path)
        if path is None:
            pytest.skip("There is no Chromium: set PHOTODRAG_CHROMIUM to one, or run `playwright install chromium`.")
        thread.start()
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield Studio(desk, door.url, browser)
        browser.close()
    server.should_exit = True
    desk.close()
    thread.join(5)


class Tab:
    """A page of the studio, and what a person does in it."""

    def __init__(self, studio: Studio, page: Any) -> None:
        self.studio, self.page = studio, page
        self.body = page.locator("body")
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)

    def wait(self, name: str, pattern: str) -> str:
        """Waits until the attribute data-NAME matches the whole pattern; its value."""
        sync_api.expect(self.body).to_have_attribute(f"data-{name}", re.compile(f"^(?:{pattern})$"), timeout=15000)
        return self.body.get_attribute(f"data-{name}")

    def sampled(self) -> Tab:
        """With a new session that is ready."""
        self.page.locator("#sample button").click()
        self.wait("phase", "ready")
        self.wait("view", ".+")
        return self

    def place(self, x: float, y: float, pane: float = 0) -> tuple[float, float]:
        """Where a place of the photo is in the window."""
        scale, left, top = map(float, self.body.get_attribute("data-view").split())
        box = self.page.locator("#canvas").bounding_box()
        return box["x"] + pane + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale

    def drag(self, *places: tuple[float, float]) -> None:
        """Presses at the first place of the photo, goes to the others, releases."""
        mouse = self.page.mouse
        mouse.move(*self.place(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.place(*place), steps=3)
        mouse.up()

    def colour(self, x: float, y: float) -> list[int]:
        """What the canvas shows at a place of the photo, once it is drawn."""
        scale, left, top = map(float, self.body.get_attribute("data-view").split())
        at = [left + (x + 0.5) * scale, top + (y + 0.5) * scale]
        return self.page.evaluate(
            """async ([x, y]) => {
                for (let turn = 0; turn < 2; turn++) await new Promise(requestAnimationFrame);
                const context = document.getElementById("canvas").getContext("2d");
                const at = [x, y].map((value) => Math.floor(value * devicePixelRatio));
                return [...context.getImageData(...at, 1, 1).data].slice(0, 3);
            }""",
            at,
        )


def tabs(studio: Studio) -> Iterator[Callable[..., Tab]]:
    """A function that opens a tab (hash: the session in the address; more options are the browser context's)."""
    contexts = []

    def new(hash: str = "", **options: Any) -> Tab:
        context = studio.browser.new_context(**{"viewport": SIZE, "color_scheme": "dark", **options})
        contexts.append(context)
        tab = Tab(studio, context.new_page())
        tab.page.goto(studio.url)
        if hash:
            tab.page.goto(f"{studio.url.split('?')[0]}#{hash}")
        tab.wait("connected", "1")
        sync_api.expect(tab.page.locator("#presets button").first).to_be_attached()
        return tab

    if isinstance(studio.desk, FakeDesk):
        studio.desk.log.clear()
    yield new
    for context in contexts:
        context.close()


def wait_for(what: Callable[[], Any], seconds: float = 15) -> Any:
    """The first true answer."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, "it did not happen"
        threading.Event().wait(0.01)
    return answer


def module_calls(studio: Studio) -> Iterator[Callable[..., Any]]:
    """call(module, body, *arguments): runs the body of a function (m, a) with a module of the page."""
    context = studio.browser.new_context()
    page = context.new_page()
    page.goto(studio.url)

    def call(module: str, body: str, *arguments: Any) -> Any:
        source = f'async (a) => {{ const m = await import("/static/{module}.js"); {body} }}'
        return page.evaluate(source, list(arguments))

    yield call
    context.close()
