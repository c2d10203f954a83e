"""The studio's page for fingers, small screens, weak eyes and screen readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.studio import messages as ask
from tests.studio_browser import Tab, sync_api


class Fingers:
    """Touches by the browser's own protocol."""

    def __init__(self, tab: Tab) -> None:
        self._line = tab.page.context.new_cdp_session(tab.page)

    def send(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
        self._line.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_touch_one_finger_draws_two_zoom(new_tab: Callable[..., Tab]) -> None:
    tab = new_tab(viewport={"width": 390, "height": 844}, has_touch=True, device_scale_factor=2).sampled()
    fingers = Fingers(tab)
    fingers.send("touchStart", tab.place(200, 150))
    fingers.send("touchMove", tab.place(220, 150))
    fingers.send("touchMove", tab.place(260, 170))
    fingers.send("touchEnd")
    tab.wait("points", "1")
    before = float(tab.wait("zoom", ".+"))
    a, b = tab.place(150, 200), tab.place(250, 200)
    fingers.send("touchStart", a)
    fingers.send("touchStart", a, b)
    fingers.send("touchMove", (a[0] - 20, a[1] + 30), (b[0] + 20, b[1] + 30))
    fingers.send("touchEnd")
    assert float(tab.wait("zoom", f"(?!{before}$).+")) > before
    assert tab.place(150, 200) == pytest.approx((a[0] - 20, a[1] + 30), abs=1)
    tab.wait("points", "1")
    tab.page.locator("[data-tool=brush]").tap()
    fingers.send("touchStart", tab.place(200, 150))
    fingers.send("touchMove", tab.place(230, 150))
    fingers.send("touchEnd")
    tab.wait("mask", "1")
    tab.page.locator("#go").click()
    tab.wait("stop", "arrived")
    assert tab.studio.asked(ask.Drag)[0].points[0] == pytest.approx((200, 150, 260, 170), abs=0.3)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (720, 450), (1280, 800)])
def test_everything_is_reachable_on_small_screens(new_tab: Callable[..., Tab], width: int, height: int) -> None:
    tab = new_tab(viewport={"width": width, "height": height}).sampled()
    assert tab.page.evaluate("() => document.documentElement.scrollWidth") <= width
    for one in ("#tools button", "#go", "#stop", "#save", "#undo", "#history button", "#options button:visible"):
        for element in tab.page.locator(one).all():
            box = element.bounding_box()
            assert box["x"] >= 0 and box["y"] >= 0, one
            assert box["x"] + box["width"] <= width and box["y"] + box["height"] <= height, one
    if width <= 1000:
        tab.page.locator("#adjust").click()
    smile = tab.page.locator("[data-preset=smile]")
    sync_api.expect(smile).to_be_in_viewport()
    box = tab.page.locator("#canvas").bounding_box()
    assert box["width"] * box["height"] > 0.3 * width * height, "the photo is what counts"


def test_keys_go_on_to_work_after_a_slider(tab: Tab) -> None:
    tab.sampled()
    tab.drag((200, 150), (230, 160))
    strength = tab.page.locator("#strength")
    strength.click()
    assert strength.evaluate("(one) => one === document.activeElement")
    before = strength.input_value()
    tab.page.keyboard.press("ArrowRight")
    assert float(strength.input_value()) == pytest.approx(float(before) + 0.1)
    tab.page.keyboard.press("Enter")
    tab.wait("stop", "arrived")


def test_tab_begins_at_the_top_and_goes_all_the_way_round(tab: Tab) -> None:
    tab.sampled()
    focused = "() => { const one = document.activeElement; return one.id || one.textContent || one.ariaLabel; }"
    tab.page.evaluate("() => document.activeElement.blur()")
    names = []
    for _ in range(80):
        tab.page.keyboard.press("Tab")
        names.append(tab.page.evaluate(focused))
        if names.count(names[0]) == 2:
            break
    assert names[0] == "To the photo"
    missing = {"home", "generator", "peek", "canvas", "strength", "Smile", "direction", "help"} - set(names)
    assert not missing, names
    tab.page.keyboard.press("Shift+Tab")


def test_the_canvas_is_as_fine_as_the_screen(new_tab: Callable[..., Tab]) -> None:
    tab = new_tab(device_scale_factor=2).sampled()
    sizes = tab.page.locator("#canvas").evaluate("(one) => [one.width, one.height, one.clientWidth, one.clientHeight]")
    assert sizes[0] == pytest.approx(2 * sizes[2], abs=1) and sizes[1] == pytest.approx(2 * sizes[3], abs=1)


CHECKS = """() => {
    const problems = [];
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`id ${id} twice`);
    const usable = "button, a[href], input, select, canvas[tabindex], [role=slider], dialog";
    for (const one of document.querySelectorAll(usable)) {
        const others = (one.getAttribute("aria-labelledby") ?? "").split(" ");
        const referred = others.map((id) => document.getElementById(id)?.textContent);
        const labels = [...(one.labels ?? [])].map((label) => label.textContent);
        const own = one.matches("button, a") ? one.textContent : "";
        const name = [one.getAttribute("aria-label"), ...referred, ...labels, own].join(" ").trim();
        if (!name) problems.push(`no name: ${one.outerHTML.slice(0, 90)}`);
    }
    for (const one of document.querySelectorAll("img:not([alt])")) problems.push(`no alt: ${one.src}`);
    for (const one of document.querySelectorAll("[aria-controls], [aria-describedby]")) {
        const id = one.getAttribute("aria-controls") ?? one.getAttribute("aria-describedby");
        if (!document.getElementById(id)) problems.push(`${id} is nowhere`);
    }
    if (document.querySelector("[style]:not(#wipe):not(#progress span), [onclick]")) problems.push("inline style");
    if (document.querySelectorAll("main:not([hidden] *):not([hidden])").length !== 1) problems.push("not one main");
    if (!document.documentElement.lang) problems.push("no language");
    return problems;
}"""


def test_everything_has_a_name_and_the_policy_is_kept(tab: Tab) -> None:
    assert tab.page.evaluate(CHECKS) == []
    tab.sampled()
    tab.page.locator("[data-preset=smile]").click()
    tab.wait("at", "1")
    tab.page.keyboard.press("?")
    sync_api.expect(tab.page.locator("#help-dialog")).to_be_visible()
    assert tab.page.evaluate(CHECKS) == []
    assert tab.errors == [], "the browser has nothing to complain about"


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_words_stand_out_from_their_ground(new_tab: Callable[..., Tab], scheme: str) -> None:
    tab = new_tab(color_scheme=scheme)
    grounds, words = ("--ground", "--surface", "--raised", "--stage"), ("--text", "--soft", "--bad")
    found = tab.page.evaluate(
        """(names) => {
            const style = getComputedStyle(document.documentElement);
            return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name).trim()]));
        }""",
        [*grounds, *words, "--strong", "--on-strong"],
    )

    def light(name: str) -> float:
        letters = found[name].lstrip("#")
        letters = letters if len(letters) == 6 else "".join(letter * 2 for letter in letters)
        parts = [int(letters[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)

    for ground in grounds:
        for word in words:
            assert contrast(word, ground) >= 4.5, (word, ground)
    assert contrast("--strong", "--on-strong") >= 4.5
