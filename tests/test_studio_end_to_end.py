"""The whole way in a real browser with the real desk: a file in, a drag by mouse, a saved photo out."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from data.photo import read_photo
from pipeline.schema import EditConfig
from pipeline.studio.desk import Desk
from pipeline.studio.uploads import Limits
from tests.runs import PHOTO, short_config
from tests.studio_browser import Studio, Tab, serve, sync_api, tabs, wait_for

LIMITS = Limits(bytes=20_000_000, pixels=30_000_000)
HANDLE, TARGET = (220.0, 130.0), (240.0, 130.0)


@pytest.fixture(scope="module")
def real(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("end_to_end")
    edit = EditConfig(steps=40, lr=0.05, stop_px=0.001, r1_px=3.0)
    config = replace(short_config(generator, folder / "runs"), photo=None, edit=edit)
    yield from serve(folder, Desk(config, LIMITS), LIMITS)


@pytest.fixture
def open_tab(real: Studio) -> Iterator[Callable[..., Tab]]:
    yield from tabs(real)


def uploaded(tab: Tab, photo: Path = PHOTO) -> Tab:
    """With a photo that was chosen as a file and is ready."""
    tab.page.set_input_files("input[type=file]", photo)
    tab.wait("phase", "ready")
    tab.wait("view", ".+")
    return tab


def another(tmp_path: Path, level: int) -> Path:
    """The sample photo with one pixel of its corner changed: another photo, another session."""
    pixels = np.array(read_photo(PHOTO).pixels)
    pixels[511, 511] = level
    Image.fromarray(pixels).save(tmp_path / f"photo {level}.png")
    return tmp_path / f"photo {level}.png"


def saved_photo(tab: Tab) -> Path:
    """The file that the page offers after saving."""
    before = tab.body.get_attribute("data-saved")
    tab.page.keyboard.press("Control+s")
    tab.page.locator("#save-now").click()
    wait_for(lambda: tab.body.get_attribute("data-saved") not in (before, "0"))
    with tab.page.expect_download() as download:
        tab.page.locator("#saved a[download$='_edited.png']").click()
    return Path(download.value.path())


def test_a_file_a_drag_by_mouse_undo_and_a_saved_photo(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    tab = uploaded(open_tab(accept_downloads=True))
    tab.wait("faces", "1")
    tab.drag(HANDLE, TARGET)
    tab.page.keyboard.press("Enter")
    tab.wait("at", "1")
    tab.wait("phase", "ready")
    assert int(tab.body.get_attribute("data-frames")) >= 1
    tab.page.keyboard.press("Control+z")
    tab.wait("at", "0")
    tab.page.keyboard.press("Control+Shift+Z")
    tab.wait("at", "1")
    saved, photo = read_photo(saved_photo(tab)).pixels, read_photo(PHOTO).pixels
    changed = (saved != photo).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed.any()
    far = np.hypot(columns - HANDLE[0], rows - HANDLE[1]) > 120
    assert not far.any(), "points change their surroundings only"
    assert tab.errors == []


def test_outside_the_brush_the_saved_photo_is_the_photo_to_the_bit(
    open_tab: Callable[..., Tab], tmp_path: Path
) -> None:
    photo = another(tmp_path, 10)
    tab = uploaded(open_tab(accept_downloads=True), photo)
    tab.page.keyboard.press("b")
    tab.drag((200, 120), (235, 122), (235, 140), (200, 138), (218, 130))
    tab.wait("mask", "1")
    tab.page.keyboard.press("p")
    tab.drag(HANDLE, (222, 136))  # what a generator of random weights shows inside the brush
    tab.page.keyboard.press("Enter")
    tab.wait("at", "1")
    tab.wait("phase", "ready")
    saved, before = read_photo(saved_photo(tab)).pixels, read_photo(photo).pixels
    desk = tab.studio.desk
    session = tab.body.get_attribute("data-session")
    mask_file = next(desk._records.folder.glob(f"{session}/mask.png"))
    with Image.open(mask_file) as picture:
        painted = np.asarray(picture.convert("L").resize((512, 512), Image.Resampling.BILINEAR)) > 0
    grown = np.zeros_like(painted)
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            grown |= np.roll(painted, (dy, dx), (0, 1))
    changed = (saved != before).any(axis=2)
    assert changed.any() and not changed[~grown].any()


def test_two_tabs_with_two_photos_at_once(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    first, second = (uploaded(open_tab(), another(tmp_path, level)) for level in (20, 30))
    assert first.body.get_attribute("data-session") != second.body.get_attribute("data-session")
    for tab, target in ((first, (240.0, 130.0)), (second, (220.0, 150.0))):
        tab.drag(HANDLE, target)
        tab.page.keyboard.press("Enter")
    for tab in (first, second):
        tab.wait("at", "1")
        tab.wait("phase", "ready")
    records = {record.name: record for record in tab.studio.desk._records.all()}
    ends = [records[f"photo {level}.png"].edits[0].points[0][2:] for level in (20, 30)]
    assert ends[0] == pytest.approx([240, 130], abs=0.5) and ends[1] == pytest.approx([220, 150], abs=0.5)


def test_a_reload_in_mid_drag_takes_it_up(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    tab = uploaded(open_tab(), another(tmp_path, 40))
    tab.drag(HANDLE, TARGET)
    tab.page.keyboard.press(".")
    tab.wait("phase", "paused")
    tab.page.reload()
    tab.wait("connected", "1")
    tab.wait("phase", "paused")
    tab.wait("points", "1")
    tab.page.keyboard.press("Enter")
    tab.wait("at", "1")
    tab.wait("phase", "ready")


def test_opening_a_prepared_photo_again_needs_no_preparation(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    photo = another(tmp_path, 50)
    session = uploaded(open_tab(), photo).body.get_attribute("data-session")
    assert uploaded(open_tab(), photo).body.get_attribute("data-session") == session


def test_what_is_no_photo_is_told_and_the_studio_goes_on(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    tab = open_tab()
    text = tmp_path / "me.jpg"
    text.write_text("this is no photo")
    tab.page.set_input_files("input[type=file]", text)
    assert "me.jpg" in tab.wait("trouble", ".+")
    bomb = tmp_path / "bomb.png"
    Image.new("1", (8000, 8000)).save(bomb)
    tab.page.set_input_files("input[type=file]", bomb)
    tab.wait("trouble", ".*64 MP.*")
    uploaded(tab, another(tmp_path, 60))


def asked(real: Studio, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """An answer of the running studio to a request that no page makes."""
    parts = urlsplit(real.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    return connection.getresponse()


@pytest.mark.parametrize(
    "path", ["/", "/static/main.js", "/pictures/x", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"]
)
def test_without_the_cookie_nothing_is_given(real: Studio, path: str) -> None:
    assert asked(real, "GET", path).status == 403
    assert asked(real, "GET", "/?token=wrong").status == 403


def cookie_of(real: Studio) -> str:
    parts = urlsplit(real.url)
    answer = asked(real, "GET", f"/?{parts.query}")
    assert answer.status in (302, 303, 307)
    return str(answer.headers["Set-Cookie"]).partition(";")[0]


def test_a_foreign_origin_and_a_foreign_host_are_refused(real: Studio) -> None:
    cookie = cookie_of(real)
    assert asked(real, "GET", "/", Cookie=cookie).status == 200
    assert asked(real, "GET", "/", Cookie=cookie, Host="evil.example").status in (400, 403, 421)
    assert asked(real, "POST", "/photos", Cookie=cookie, Origin="https://evil.example").status == 403
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert asked(real, "GET", "/socket", Cookie=cookie, Origin="https://evil.example", **upgrade, **key).status == 403


def test_a_gigabyte_is_refused_before_it_is_sent(real: Studio) -> None:
    parts = urlsplit(real.url)
    origin = f"http://{parts.netloc}"
    headers = {"Cookie": cookie_of(real), "Origin": origin, "Content_Length": "1000000000", "X_Name": "huge.png"}
    answer = asked(real, "POST", "/photos", **headers)
    assert answer.status == 413 and "20 MB" in json.loads(answer.read())["error"]


def test_the_studio_listens_on_this_machine_only(real: Studio) -> None:
    parts = urlsplit(real.url)
    assert parts.hostname == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        with socket.socket() as tried:
            tried.settimeout(2)
            assert tried.connect_ex((address, parts.port)) != 0


def test_generated_faces_are_dragged_too(open_tab: Callable[..., Tab]) -> None:
    tab = open_tab().sampled()
    size = 64
    tab.drag((size / 2, size / 2), (size / 2 + 6, size / 2))
    tab.page.keyboard.press("Enter")
    tab.wait("at", "1")
    tab.wait("phase", "ready")
    sync_api.expect(tab.page.locator("#history img")).to_have_count(1)
