"""What a person does on the studio's page, in a real browser, against the fake desk."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from pipeline.studio import messages as ask
from tests.fake_desk import LANDMARKS, SAMPLE, Session
from tests.studio_browser import SIZE, Studio, Tab, sync_api, wait_for


def test_drag_by_mouse(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = threading.Event()
    monkeypatch.setattr(tab.studio.desk, "before_end", lambda: shown.wait(60))
    tab.sampled()
    tab.drag((203, 141), (185, 130))
    tab.drag((242, 142), (262.5, 132))
    tab.wait("points", "2")
    tab.page.keyboard.press("Enter")
    tab.wait("frames", r"[1-9]\d*")
    assert int(tab.wait("frame-latency", r"\d+")) < 15000
    shown.set()
    tab.wait("stop", "arrived")
    (request,) = tab.studio.asked(ask.Drag)
    assert [value for row in request.points for value in row] == pytest.approx(
        [203, 141, 185, 130, 242, 142, 262.5, 132], abs=0.05
    )
    tab.wait("points", "0")
    tab.wait("at", "1")
    assert tab.page.locator("#sentence").text_content() == "Every point is where it should be."
    assert tab.errors == []


def test_the_result_is_drawn_at_its_place(tab: Tab) -> None:
    tab.sampled()
    sample = Image.open(SAMPLE).convert("RGB")
    assert tab.colour(300, 420) == pytest.approx(sample.getpixel((300, 420)), abs=60)
    before = tab.colour(185, 260)
    tab.drag((225, 120), (185, 260))
    tab.page.keyboard.press("Enter")
    tab.wait("stop", "arrived")
    wait_for(lambda: tab.colour(190, 268) == pytest.approx(sample.getpixel((230, 128)), abs=30))
    tab.page.keyboard.press("w")
    tab.wait("mode", "wipe")
    wipe = tab.page.locator("#wipe")
    wipe.focus()
    tab.page.keyboard.press("End")
    sync_api.expect(wipe).to_have_attribute("aria-valuenow", "100")
    wait_for(lambda: tab.colour(185, 260) == before)
    tab.page.keyboard.press("Home")
    sync_api.expect(wipe).to_have_attribute("aria-valuenow", "0")
    wait_for(lambda: tab.colour(190, 268) == pytest.approx(sample.getpixel((230, 128)), abs=30))
    box = wipe.bounding_box()
    tab.page.mouse.move(box["x"] + 17, box["y"] + 300)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 400, box["y"] + 300)
    tab.page.mouse.up()
    assert 20 < int(wipe.get_attribute("aria-valuenow")) < 80


def test_the_original_shows_while_tab_is_held(tab: Tab) -> None:
    tab.sampled()
    tab.page.locator("#canvas").focus()
    tab.page.keyboard.down("Tab")
    tab.wait("mode", "original")
    sync_api.expect(tab.page.locator("#peeking")).to_be_visible()
    tab.page.keyboard.up("Tab")
    tab.wait("mode", "result")
    assert tab.page.evaluate("() => document.activeElement.id") == "canvas"
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("() => document.activeElement.textContent") == "Snap"
    button = tab.page.locator("#peek")
    button.hover()
    tab.page.mouse.down()
    tab.wait("mode", "original")
    tab.page.mouse.up()
    tab.wait("mode", "result")


def test_points_are_moved_removed_and_snapped(tab: Tab) -> None:
    tab.sampled()
    mouse, keyboard = tab.page.mouse, tab.page.keyboard
    mouse.click(*tab.place(100, 100))
    tab.wait("points", "0")
    mouse.click(*tab.place(140, 100))
    tab.wait("points", "1")
    tab.drag((140, 100), (150, 120))
    nose = LANDMARKS[30]
    keyboard.down("Alt")
    tab.drag((nose[0] - 2, nose[1] - 1), (300, 200))
    keyboard.up("Alt")
    tab.wait("points", "2")
    tab.drag((400, 300), (420, 300))
    tab.wait("points", "3")
    keyboard.press("Delete")
    tab.wait("points", "2")
    keyboard.press("Space")
    tab.wait("stop", "arrived")
    (request,) = tab.studio.asked(ask.Drag)
    assert [value for row in request.points for value in row] == pytest.approx(
        [100, 100, 150, 120, *nose, 300, 200], abs=0.1
    )


def test_step_retarget_and_stop(tab: Tab) -> None:
    tab.sampled()
    tab.drag((200, 150), (260, 150))
    tab.page.keyboard.press(".")
    tab.wait("phase", "paused")
    assert tab.studio.asked(ask.Drag)[0].paused
    wait_for(lambda: len(tab.studio.asked(ask.Step)) == 1)
    tab.wait("frames", "[12]")
    tab.page.keyboard.press(".")
    tab.wait("step", "[12]")
    wait_for(lambda: len(tab.studio.asked(ask.Step)) == 2)
    tab.drag((260, 150), (200, 190))
    released = pytest.approx((200, 190), abs=0.1)
    (request,) = wait_for(lambda: tab.studio.asked(ask.Retarget))
    x, y, *target = request.points[0]
    assert tuple(target) == released, "new targets are told once, when they are let go"
    assert 200.5 < x < 205 and y == pytest.approx(150, abs=2)
    tab.page.keyboard.press("Escape")
    tab.wait("stop", "stopped")
    tab.wait("points", "1")
    assert tab.page.locator("#go").is_enabled(), "a stopped drag can go on"


def test_go_while_preparing_starts_when_the_face_is_ready(tab: Tab) -> None:
    gate = threading.Event()
    prepare = tab.studio.desk._prepare

    def slowly(session: Session) -> None:
        session.tell(phase="preparing", progress={"stage": "invert", "step": 3, "total": 10, "seconds_left": 4.2})
        gate.wait(15)
        prepare(session)

    tab.studio.desk._prepare = slowly  # type: ignore[method-assign]
    try:
        tab.page.locator("#sample button").click()
        tab.wait("stage", "invert")
        tab.wait("view", ".+")
        sync_api.expect(tab.page.locator("#numbers")).to_have_text("step 3 of 10 · about 4.2 s left")
        sync_api.expect(tab.page.locator("#stages .now")).to_have_text("Inversion")
        tab.drag((200, 150), (230, 150))
        tab.page.locator("#go").click()
        sync_api.expect(tab.page.locator("#go")).to_have_attribute("aria-pressed", "true")
        assert tab.studio.asked(ask.Drag) == []
    finally:
        gate.set()
        del tab.studio.desk._prepare
    tab.wait("stop", "arrived")
    assert len(tab.studio.asked(ask.Drag)) == 1


def test_undo_redo_and_history(tab: Tab) -> None:
    tab.sampled()
    for count in (1, 2):
        tab.page.locator("[data-preset=smile]").click()
        tab.wait("at", str(count))
        tab.wait("phase", "ready")
    for keys, at in (("Control+z", 1), ("Control+z", 0), ("Control+Shift+Z", 1), ("Control+y", 2)):
        tab.page.keyboard.press(keys)
        tab.wait("at", str(at))
        tab.wait("phase", "ready")
    tab.page.locator("#history button[data-at='0']").click()
    tab.wait("at", "0")
    assert tab.studio.asked(ask.Jump)[0].at == 0
    assert tab.page.locator("#history button").count() == 3
    assert tab.page.locator("#history .undone").count() == 2
    assert tab.page.locator("#history [aria-current]").get_attribute("aria-label") == "Original"


def test_presets_and_directions_take_the_strength(tab: Tab) -> None:
    tab.sampled()
    tab.page.locator("#strength").fill("-1.5")
    tab.page.locator("[data-preset=open_mouth]").click()
    tab.wait("at", "1")
    tab.wait("phase", "ready")
    tab.page.locator("#direction").select_option("pca:6")
    tab.page.locator("#apply-direction").click()
    tab.wait("at", "2")
    (preset,), (direction,) = tab.studio.asked(ask.Preset), tab.studio.asked(ask.Direction)
    assert (preset.preset, preset.strength) == ("open_mouth", -1.5)
    assert (direction.direction, direction.strength) == ("pca:6", -1.5)


def test_reload_in_mid_drag(tab: Tab) -> None:
    tab.sampled()
    tab.drag((200, 150), (260, 170))
    tab.page.keyboard.press(".")
    tab.wait("phase", "paused")
    session = tab.wait("session", ".+")
    tab.page.evaluate("() => sessionStorage.clear()")
    tab.page.reload()
    assert tab.wait("session", session) == session
    tab.wait("phase", "paused")
    tab.wait("points", "1")
    assert tab.page.locator("#go span").text_content() == "Go on"
    tab.page.keyboard.press("Enter")
    tab.wait("stop", "arrived")


def test_reload_in_mid_drag_shows_the_edits_before(tab: Tab) -> None:
    tab.sampled()
    sample = Image.open(SAMPLE).convert("RGB")
    tab.drag((225, 120), (185, 260))
    tab.page.keyboard.press("Enter")
    tab.wait("stop", "arrived")
    tab.drag((400, 450), (420, 460))
    tab.page.keyboard.press(".")
    tab.wait("phase", "paused")
    tab.page.reload()
    tab.wait("phase", "paused")
    tab.wait("points", "1")
    wait_for(lambda: tab.colour(190, 268) == pytest.approx(sample.getpixel((230, 128)), abs=30))


def test_placed_points_outlive_a_reload(tab: Tab) -> None:
    tab.sampled()
    tab.drag((200, 150), (260, 170))
    tab.wait("points", "1")
    tab.page.reload()
    tab.wait("phase", "ready")
    tab.wait("points", "1")


def test_a_lost_connection_comes_back(studio: Studio) -> None:
    context = studio.browser.new_context(viewport=SIZE)
    page = context.new_page()
    lines: list[Any] = []
    refuse = threading.Event()

    def route(line: Any) -> None:
        if refuse.is_set():
            line.close()
        else:
            line.connect_to_server()
            lines.append(line)

    page.route_web_socket(re.compile("/socket"), route)
    page.goto(studio.url)
    tab = Tab(studio, page)
    tab.wait("connected", "1")
    tab.sampled()
    tab.drag((200, 150), (260, 170))
    session = tab.wait("session", ".+")
    refuse.set()
    lines[-1].close()
    tab.wait("connected", "0")
    sync_api.expect(page.locator("#lost")).to_contain_text("The connection to the studio is lost")
    page.keyboard.press("Enter")
    tab.wait("trouble", "There is no connection.*")
    refuse.clear()
    tab.wait("connected", "1")
    sync_api.expect(page.locator("#lost")).to_be_hidden()
    assert tab.wait("session", session) and tab.wait("points", "1")
    page.keyboard.press("Enter")
    tab.wait("stop", "arrived")
    context.close()


def test_brush_eraser_invert_and_clear(tab: Tab) -> None:
    tab.sampled()
    tab.page.keyboard.press("b")
    tab.wait("tool", "brush")
    tab.drag((150, 120), (250, 120))
    tab.wait("mask", "1")

    def newest(count: int) -> Image.Image:
        wait_for(lambda: len(tab.studio.asked(ask.Mask)) == count)
        return Image.open(io.BytesIO(tab.studio.asked(ask.Mask)[-1].png)).convert("L")

    painted = newest(1)
    assert painted.size == (512, 512)
    assert [painted.getpixel(at) for at in ((150, 120), (200, 120), (200, 180), (340, 60))] == [255, 255, 0, 0]
    dimmed = sum(tab.colour(340, 60))
    tab.page.keyboard.press("i")
    assert newest(2).getpixel((340, 60)) == 255
    wait_for(lambda: sum(tab.colour(340, 60)) > 1.5 * dimmed)
    tab.page.reload()
    tab.wait("mask", "1")
    assert len(tab.studio.asked(ask.Mask)) == 2
    tab.page.keyboard.press("e")
    wait_for(lambda: sum(tab.colour(200, 121)) < sum(Image.open(SAMPLE).convert("RGB").getpixel((200, 121))) * 0.6)
    tab.page.keyboard.press("c")
    tab.wait("mask", "0")
    wait_for(lambda: tab.studio.asked(ask.Mask)[-1].png is None)


def test_a_hostile_file_name_is_text(tab: Tab) -> None:
    name = "<img src=x onerror=alert(1)>&amp;.png"
    content = io.BytesIO()
    Image.open(SAMPLE).convert("RGB").crop((0, 0, 400, 400)).save(content, "PNG")
    dialogs: list[str] = []

    def note(dialog: Any) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    tab.page.on("dialog", note)
    tab.page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content.getvalue()})
    tab.wait("phase", "ready")
    assert tab.page.locator("#name").text_content() == name
    tab.page.locator("#home").click()
    tab.wait("screen", "start")
    assert tab.page.locator("#recent .name").first.text_content() == name
    assert tab.page.locator("img[src='x']").count() == 0 and dialogs == []


DROP = """async ([name, type, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
}"""


def test_a_recipe_that_is_dropped_is_replayed(tab: Tab) -> None:
    recipe = ["me.photodrag.json", "application/json", '{"edits": []}']
    tab.page.evaluate(DROP, recipe)
    tab.wait("trouble", "Open a photo first, then drop the recipe on it.")
    tab.sampled()
    tab.page.evaluate(DROP, recipe)
    tab.wait("at", "1")
    assert tab.studio.asked(ask.Replay)[0].recipe == '{"edits": []}'
    assert tab.page.locator("#dropping").is_hidden()


def test_what_is_no_photo_is_refused_in_a_sentence(tab: Tab) -> None:
    tab.page.evaluate(DROP, ["notes.png", "image/png", "no picture at all"])
    sentence = tab.wait("trouble", ".*notes.png.*")
    sync_api.expect(tab.page.locator("#toasts")).to_contain_text(sentence)
    assert tab.body.get_attribute("data-screen") == "start"


def test_a_pasted_photo_is_opened(tab: Tab) -> None:
    content = io.BytesIO()
    Image.open(SAMPLE).convert("RGB").crop((0, 0, 420, 400)).save(content, "PNG")
    paste = """async (text) => {
        const data = new DataTransfer();
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        data.items.add(new File([bytes], "image.png", { type: "image/png" }));
        document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    }"""
    tab.page.evaluate(paste, base64.b64encode(content.getvalue()).decode())
    tab.wait("phase", "ready")
    assert tab.page.locator("#name").text_content() == "image.png"


def test_what_cannot_be_done_is_told(tab: Tab) -> None:
    tab.sampled()

    def refuse(request: ask.Request) -> None:
        if isinstance(request, ask.Preset):
            raise ask.UsageError("This preset needs a face that looks ahead.")

    tab.studio.desk.before_do = refuse
    try:
        tab.page.locator("[data-preset=tilt]").click()
        tab.wait("trouble", "This preset needs a face that looks ahead.")
    finally:
        tab.studio.desk.before_do = lambda request: None
    toast = tab.page.locator(".toast")
    sync_api.expect(toast).to_contain_text("This preset needs")
    toast.get_by_role("button", name="Dismiss").click()
    assert toast.count() == 0


def test_saving_offers_the_files(tab: Tab) -> None:
    tab.sampled()
    assert tab.page.locator("#save").is_disabled()
    tab.page.locator("[data-preset=smile]").click()
    tab.wait("at", "1")
    tab.wait("phase", "ready")
    tab.page.keyboard.press("Control+s")
    tab.page.locator("#format").select_option("webp")
    tab.page.locator("#quality").fill("80")
    tab.page.locator("#save-now").click()
    tab.wait("saved", "1")
    (request,) = tab.studio.asked(ask.Save)
    assert (request.format, request.quality) == ("webp", 80)
    with tab.page.expect_download() as download:
        tab.page.locator("#saved a").click()
    assert download.value.suggested_filename.endswith("_edited.png")
    assert tab.page.locator("#saved .path").text_content().endswith(".png")


def test_zooming_by_wheel_and_keys(tab: Tab) -> None:
    tab.sampled()
    fitted = tab.wait("zoom", ".+")
    place = tab.place(300, 200)
    tab.page.mouse.move(*place)
    tab.page.mouse.wheel(0, -240)
    assert float(tab.wait("zoom", f"(?!{re.escape(fitted)}).+")) > float(fitted)
    assert tab.place(300, 200) == pytest.approx(place, abs=1), "wheels count in whole pixels"
    tab.page.keyboard.press("1")
    tab.wait("zoom", "1")
    tab.page.keyboard.press("+")
    tab.wait("zoom", "1.25")
    before = tab.place(300, 200)
    tab.page.keyboard.down("Space")
    tab.drag((300, 200), (320, 230))
    tab.page.keyboard.up("Space")
    after = tab.place(300, 200)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((25, 37.5), abs=0.5)
    tab.page.keyboard.press("0")
    tab.wait("zoom", re.escape(fitted))
    tab.wait("points", "0")
    assert tab.studio.asked(ask.Drag) == [], "panning by Space is no tap"


def test_side_by_side_fetches_both_at_full_resolution(
    new_tab: Callable[..., Tab], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Session.state

    def coarse(session: Session) -> dict[str, Any]:
        state = whole(session)
        if state["photo"]:
            state["photo"]["view"].update(width=256, height=256)
        return state

    monkeypatch.setattr(Session, "state", coarse)
    tab = new_tab().sampled()
    tab.page.locator("[data-preset=smile]").click()
    tab.wait("at", "1")
    tab.wait("phase", "ready")
    with (
        tab.page.expect_response(re.compile("/region.*which=original")) as original,
        tab.page.expect_response(re.compile("/region.*which=result")) as result,
    ):
        tab.page.keyboard.press("d")
        tab.wait("mode", "side")
        tab.wait("zoom", "1")
    assert original.value.ok and result.value.ok
    assert "scale=1&" in original.value.url + "&"
    left = tab.place(203, 141)
    width = tab.page.locator("#canvas").bounding_box()["width"]
    tab.page.mouse.move(left[0] + width / 2, left[1])
    tab.page.mouse.down()
    tab.page.mouse.move(left[0] + width / 2 - 20, left[1], steps=3)
    tab.page.mouse.up()
    tab.wait("points", "1")
    tab.page.keyboard.press("Enter")
    request = wait_for(lambda: tab.studio.asked(ask.Drag))[0]
    assert request.points[0] == pytest.approx((203, 141, 183, 141), abs=0.1), "both panes show the same places"


def test_points_by_keyboard_alone(tab: Tab) -> None:
    tab.sampled()
    press = tab.page.keyboard.press
    tab.page.locator("#canvas").focus()
    press("ArrowRight")
    press("Enter")
    for _ in range(4):
        press("ArrowRight")
    press("Enter")
    tab.wait("points", "1")
    press("Enter")
    press("ArrowDown")
    press("Enter")
    press("Escape")
    assert tab.page.locator("#spoken").text_content() != ""
    press("Enter")
    tab.wait("stop", "arrived")
    x, y, x2, y2 = tab.studio.asked(ask.Drag)[0].points[0]
    scale = float(tab.body.get_attribute("data-view").split()[0])
    assert ((x2 - x) * scale, (y2 - y) * scale) == pytest.approx((40, 10), abs=0.1)


def test_generators_that_are_not_here_say_how_to_get_them(tab: Tab) -> None:
    select = tab.page.locator("#start-generator")
    assert select.input_value() == "embedded"
    assert select.locator("option[value='ffhq-256']").is_disabled()
    assert select.locator("optgroup").last.get_attribute("label") == "To get: photodrag models download NAME"
    assert tab.page.locator("#generator-hint").text_content() == "More generators: photodrag models download ffhq-256"


def test_recent_sessions_are_taken_up_and_forgotten(tab: Tab) -> None:
    tab.sampled()
    session = tab.wait("session", ".+")
    tab.page.locator("#home").click()
    tab.wait("screen", "start")
    tab.page.locator(f"#recent [data-session={session}] .recent").click()
    tab.wait("session", session)
    tab.page.locator("#home").click()
    tab.page.locator(f"#recent [data-session={session}] .forget").click()
    wait_for(lambda: tab.studio.asked(ask.Forget))
    assert tab.page.locator(f"#recent [data-session={session}]").count() == 0


def test_several_faces_are_chosen_by_a_click(new_tab: Callable[..., Tab], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Session.state

    def two(session: Session) -> dict[str, Any]:
        state = whole(session)
        if state["faces"]:
            box = [340, 300, 440, 400]
            corners = [[340, 300], [340, 400], [440, 400], [440, 300]]
            state["faces"].append({"box": box, "landmarks": [[390, 350]] * 68, "quad": corners, "prepared": False})
        return state

    monkeypatch.setattr(Session, "state", two)
    tab = new_tab().sampled()
    tab.wait("faces", "2")
    assert tab.page.locator("#faces button[aria-pressed=true]").text_content() == "1"
    tab.page.mouse.click(*tab.place(390, 350))
    assert wait_for(lambda: tab.studio.asked(ask.Face))[0].face == 1
    tab.wait("points", "0")


def test_an_address_of_a_session_that_is_gone(new_tab: Callable[..., Tab]) -> None:
    tab = new_tab(hash="nothing-here")
    tab.wait("trouble", "There is no such session.*")
    assert tab.body.get_attribute("data-screen") == "start" and "#" not in tab.page.url
