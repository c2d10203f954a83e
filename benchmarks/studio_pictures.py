"""The pictures of docs/studio.md: `python benchmarks/studio_pictures.py FOLDER` drives the page in Chromium.

Screenshots of each main state, and about a minute's recording of a real drag on the sample photo as an animation.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from benchmarks.studio import SAMPLE, studio
from benchmarks.studio_person import Person

SIZE = {"width": 1200, "height": 750}
FILM_WIDTH = 640
FRAME_S = 0.25
COLOURS = 96
JPEG_QUALITY = 85
PREPARING_MS = 180_000
MARKS = ("#ff4b4b", "#3d9bff", "#7db7ff", "#ffffff")
"""Colours of small things, which a palette of the whole page would leave out."""
WITHOUT_PLACES = """() => {
  for (const place of document.querySelectorAll("#saved .path")) place.textContent = "photodrag_runs/...";
  document.getElementById("sentence").textContent = "Saved.";
}"""


class Recorder:
    """Takes pictures of a page, and a film of it while something happens."""

    def __init__(self, page: Any, folder: Path) -> None:
        self._page, self._folder = page, folder
        self._film: list[Image.Image] = []

    def shot(self, name: str) -> None:
        """A screenshot as docs/ shows it."""
        self._picture().save(self._folder / f"studio_{name}.jpg", quality=JPEG_QUALITY)

    def _picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")

    def film(self, until: Callable[[], bool], at_least_s: float = 0.0) -> None:
        """Frames until something holds."""
        began = time.monotonic()
        while True:
            due = time.monotonic() + FRAME_S
            picture = self._picture()
            height = round(picture.height * FILM_WIDTH / picture.width)
            self._film.append(picture.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS))
            if time.monotonic() - began >= at_least_s and until():
                return
            self._page.wait_for_timeout(max(0.0, 1000 * (due - time.monotonic())))

    def write_film(self) -> float:
        """The film as a GIF with one palette; its seconds."""
        marks = [Image.new("RGB", (FILM_WIDTH, 40), colour) for colour in MARKS]
        palette = _sheet([*self._film[:: max(1, len(self._film) // 12)], *marks]).quantize(COLOURS)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self._film]
        path = self._folder / "studio.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 * FRAME_S), loop=0)
        return FRAME_S * len(frames)


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    sheet = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)))
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def record(page: Any, folder: Path) -> None:
    """Go through the states."""
    camera, person = Recorder(page, folder), Person(page)
    body = page.locator("body")
    expect(page.locator("#presets button").first).to_be_attached()
    camera.shot("start")
    page.set_input_files("input[type=file]", SAMPLE)
    expect(body).to_have_attribute("data-stage", "invert", timeout=PREPARING_MS)
    expect(body).to_have_attribute("data-step", re.compile(r"1\d\d"), timeout=PREPARING_MS)
    camera.shot("preparing")
    expect(body).to_have_attribute("data-phase", "ready", timeout=PREPARING_MS)
    camera.film(lambda: True, 2)
    person.zoom_to(222, 120, 6)
    camera.film(lambda: True, 1)

    def watch() -> None:
        camera.film(lambda: True)

    for handle, target in (((200.7, 139.3), (194, 134)), ((245.3, 140.8), (252, 135.5))):
        person.drag(handle, _between(handle, target), target, watch=watch)
    camera.film(lambda: True, 1)
    camera.shot("points")
    person.press("Enter")
    camera.film(lambda: int(person.data("frames") or 0) >= 6)
    camera.shot("dragging")
    camera.film(lambda: person.ready(1))
    camera.film(lambda: True, 2)
    page.locator("[data-preset=raise_brows]").click()
    camera.film(lambda: person.ready(2), 1)
    camera.film(lambda: True, 1.5)
    _wipe(page, person, camera)
    camera.shot("wipe")
    person.press("w")
    camera.film(lambda: True, 1)
    person.press("Control+z")
    camera.film(lambda: person.ready(1), 1)
    person.press("Control+Shift+Z")
    camera.film(lambda: person.ready(2), 1)
    seconds = camera.write_film()
    person.press("d")
    expect(body).to_have_attribute("data-mode", "side")
    page.wait_for_timeout(1500)
    camera.shot("side")
    person.press("d")
    person.press("Control+s")
    page.locator("#save-now").click()
    expect(body).not_to_have_attribute("data-saved", "0", timeout=30_000)
    expect(body).to_have_attribute("data-phase", "ready", timeout=30_000)
    page.evaluate(WITHOUT_PLACES)
    camera.shot("save")
    page.keyboard.press("Escape")
    person.press("c")
    person.press("b")
    person.drag((205, 148), (222, 152), (242, 148), (222, 146), (205, 148))
    camera.shot("mask")
    print(f"film: {seconds:.0f} s, {(folder / 'studio.gif').stat().st_size / 1e6:.1f} MB")


def _wipe(page: Any, person: Person, camera: Recorder) -> None:
    person.press("w")
    box = page.locator("#wipe").bounding_box()
    for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.45):
        stage = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(stage["x"] + share * stage["width"], box["y"] + box["height"] / 2, steps=2)
        page.mouse.up()
        box = page.locator("#wipe").bounding_box()
        camera.film(lambda: True, 0.4)


def _between(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return (first[0] + second[0]) / 2, (first[1] + second[1]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    chromium = os.environ.get("PHOTODRAG_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory(prefix="photodrag-studio-") as scratch,
        studio(Path(scratch)) as url,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="dark")
        page.goto(url)
        record(page, folder)
        browser.close()


if __name__ == "__main__":
    main()
