"""The page's modules that need no page: where things are, what a state changes, what the mask holds."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image


def test_view_maps_pixel_centres_and_back(modules: Callable[..., Any]) -> None:
    view = {"scale": 2.5, "x": 30, "y": -7}
    found = modules("geometry", "return [[-0.5, -0.5], [0, 0], [99.5, 10]].map((p) => m.toScreen(a[0], p))", view)
    assert found == [[30, -7], [31.25, -5.75], [280, 19.25]]
    places = [[x * 17.3 - 40, x * 3.1] for x in range(50)]
    back = modules("geometry", "return a[1].map((p) => m.toPhoto(a[0], m.toScreen(a[0], p)))", view, places)
    assert [value for row in back for value in row] == pytest.approx([value for row in places for value in row])


def test_zoom_keeps_the_place_under_the_pointer(modules: Callable[..., Any]) -> None:
    body = """
        const at = [200, 90];
        return [0.001, 0.5, 1.7, 1e6].map((factor) => {
            const zoomed = m.zoomAt(a[0], at, factor, 0.1);
            return [zoomed.scale, ...m.toPhoto(zoomed, at)];
        });"""
    found = modules("geometry", body, {"scale": 2, "x": 10, "y": 20})
    assert [row[0] for row in found] == pytest.approx([0.1, 1, 3.4, 40])
    for row in found:
        assert row[1:] == pytest.approx([94.5, 34.5])


def test_two_fingers_keep_what_lies_under_them(modules: Callable[..., Any]) -> None:
    body = """
        const view = {scale: 1, x: 5, y: 5};
        const from = [[100, 100], [200, 100]], to = [[90, 140], [290, 140]];
        const moved = m.pinched(view, from, to, 0.1);
        return [from.map((p) => m.toPhoto(view, p)), to.map((p) => m.toPhoto(moved, p)), moved.scale];"""
    before, after, scale = modules("geometry", body)
    assert before == after and scale == 2


def test_fit_is_centred_and_a_photo_cannot_be_lost(modules: Callable[..., Any]) -> None:
    photo, pane, insets = {"width": 400, "height": 200}, {"width": 500, "height": 500}, dict.fromkeys("0", 0)
    insets = {"top": 50, "bottom": 0, "left": 0, "right": 0}
    assert modules("geometry", "return m.fitView(...a, 4)", photo, pane, insets) == {"scale": 1.25, "x": 0, "y": 150}
    lost = modules("geometry", "return m.keptInSight({scale: 1, x: 9000, y: -9000}, ...a)", photo, pane)
    assert lost == {"scale": 1, "x": 440, "y": -140}


def test_hits_lie_within_screen_pixels_and_targets_come_first(modules: Callable[..., Any]) -> None:
    pairs = [{"handle": [10, 10], "target": [30, 10]}, {"handle": [30, 10], "target": None}]
    body = "return a[1].map((at) => m.hitPair(a[0], m0.toScreen(a[2], at), a[2]))"
    body = 'const m0 = await import("/static/geometry.js");' + body
    at = [[10, 10], [30, 10], [13, 10], [15, 10]]
    assert modules("points", body, pairs, at, {"scale": 4, "x": 0, "y": 0}) == [
        {"index": 0, "end": "handle"},
        {"index": 0, "end": "target"},
        {"index": 0, "end": "handle"},
        None,
    ]


def test_snapping_reaches_twenty_screen_pixels(modules: Callable[..., Any]) -> None:
    body = "return a[1].map((place) => m.snapped(a[0], place, {scale: a[2], x: 3, y: 4}))"
    marks = [[50, 50], [60, 50]]
    assert modules("geometry", body, marks, [[54, 50], [57, 50], [50, 59.9], [50, 60.1]], 2) == [
        [50, 50],
        [60, 50],
        [50, 50],
        [50, 60.1],
    ]


def test_mask_has_the_photos_shape_and_at_most_1600_pixels(modules: Callable[..., Any]) -> None:
    sizes = [{"width": 6000, "height": 4000}, {"width": 300, "height": 500}, {"width": 9000, "height": 3}]
    assert modules("geometry", "return a[0].map((photo) => m.maskSize(photo))", sizes) == [
        {"width": 1600, "height": 1067},
        {"width": 300, "height": 500},
        {"width": 1600, "height": 1},
    ]
    body = "return [[-0.5, -0.5], [5999.5, 3999.5], [0, 0]].map((p) => m.toMask(a[0], a[1], p))"
    corners = modules("geometry", body, sizes[0], {"width": 1500, "height": 1000})
    assert corners == [[0, 0], [1500, 1000], [0.125, 0.125]]


def test_mask_as_painted_erased_and_inverted(modules: Callable[..., Any]) -> None:
    body = """
        const mask = m.createMask({width: 3200, height: 1600}, () => {});
        const taken = [];
        mask.stroke([800, 800], [1600, 800], 200, false); taken.push(await mask.png());
        mask.stroke([1600, 800], [1600, 800], 100, true); taken.push(await mask.png());
        mask.invert(); taken.push(await mask.png());
        const other = m.createMask({width: 3200, height: 1600}, () => {});
        other.stroke([100, 100], [100, 100], 80, true);
        taken.push(await other.png());
        mask.clear();
        return [taken, mask.used, other.share()];"""
    taken, used, share = modules("mask", body)
    pictures = [Image.open(io.BytesIO(base64.b64decode(one))).convert("L") for one in taken]
    assert {one.size for one in pictures} == {(1600, 800)}
    inside, end, outside = (500, 400), (800, 400), (100, 100)
    values = [[one.getpixel(at) for at in (inside, end, outside)] for one in pictures]
    assert values[:3] == [[255, 255, 0], [255, 0, 0], [0, 255, 255]]
    assert pictures[3].getpixel((50, 50)) == 0 and pictures[3].getpixel((500, 500)) == 255
    assert not used and share == pytest.approx(1 - 3.14159 * 40**2 / (1600 * 800), abs=2e-4)


def test_regions_are_asked_for_where_the_view_is_too_coarse(modules: Callable[..., Any]) -> None:
    photo = {"width": 8000, "height": 6000}
    body = "return m.regionFor(a[1], a[0], {width: 1000, height: 800}, a[2])"
    assert modules("geometry", body, photo, {"scale": 1, "x": -100, "y": -50}, 1) == {
        "x": 100,
        "y": 50,
        "w": 1000,
        "h": 800,
        "scale": 1,
    }
    wide = modules("geometry", body, photo, {"scale": 0.5, "x": 0, "y": 0}, 4)
    assert wide["scale"] ** 2 * wide["w"] * wide["h"] < 4e6 and wide["w"] == 2000
    assert modules("geometry", body, photo, {"scale": 1, "x": 2000, "y": 0}, 1) is None
    server = {
        "session": "s123",
        "photo": {**photo, "view": {"url": "/v", "width": 1600, "height": 1200}},
        "patch": {"url": "/p", "sharp": True},
        "running": None,
    }
    values = {"server": server, "size": {"width": 1000, "height": 800, "ratio": 1}, "live": None, "peek": False}
    wanted = "return a[1].map(([scale, mode]) => m.wantedRegions({...a[0], mode, view: {scale, x: 0, y: 0}}))"
    found = modules("regions", wanted, values, [[0.19, "wipe"], [0.5, "wipe"], [0.5, "result"], [1, "original"]])
    assert [[one["which"] for one in row] for row in found] == [[], ["original", "result"], ["result"], ["original"]]
    assert "session=s123" in found[1][0]["url"] and "scale=0.5" in found[1][0]["url"]


def test_what_a_state_changes(modules: Callable[..., Any]) -> None:
    pairs = [{"handle": [1, 2], "target": [3, 4]}]
    running = {"kind": "points", "label": "", "points": [[1, 2, 3, 4]], "paused": False}
    before = {"session": "s", "revision": 5, "at": 0, "edits": [], "running": running}
    values = {"server": before, "pairs": pairs, "live": {"points": [[2, 3]]}, "run": None}
    take = "return a[1].map((state) => m.takeState(a[0], state))"

    def ended(stop: str) -> dict[str, Any]:
        edit = {"stop": stop, "tracks": [[[1, 2], [2.5, 3.5]]]}
        return {"session": "s", "revision": 6, "at": 1, "edits": [edit], "running": None}

    old, arrived, lost, nothing = modules(
        "session",
        take,
        values,
        [{**before, "revision": 4}, ended("arrived"), ended("lost"), {**before, "revision": 7, "running": None}],
    )
    assert old == {} and arrived["pairs"] == [] and "pairs" not in nothing
    assert lost["pairs"] == [{"handle": [2.5, 3.5], "target": [3, 4]}]
    done = {**ended("arrived"), "revision": 8}
    undone = modules(
        "session", "return m.takeState(...a)", {**values, "server": done}, {**done, "revision": 9, "at": 0}
    )
    assert undone["trails"] == [] and undone["run"] is None, "trails and plot are of the edit that has gone"
    fresh = modules("session", "return m.takeState({...a[0], server: null, pairs: []}, a[1])", values, before)
    assert fresh["pairs"] == pairs and fresh["mode"] == "result"


def test_a_binary_message_is_a_header_and_a_picture(modules: Callable[..., Any]) -> None:
    header = json.dumps({"is": "frame", "type": "image/webp", "words": "ä"}).encode()
    content = [*len(header).to_bytes(4, "big"), *header, 1, 2, 3]
    body = """
        const {header, picture} = m.splitFrame(new Uint8Array(a[0]).buffer);
        return [header.words, picture.type, [...new Uint8Array(await picture.arrayBuffer())]];"""
    assert modules("session", body, content) == ["ä", "image/webp", [1, 2, 3]]


def test_wheels_zoom_and_trackpads_pan(modules: Callable[..., Any]) -> None:
    events = [
        {"deltaX": 0, "deltaY": 100, "deltaMode": 0, "wheelDeltaY": -120},
        {"deltaX": 0, "deltaY": 3, "deltaMode": 1, "wheelDeltaY": -120},
        {"deltaX": 0, "deltaY": 4, "deltaMode": 0, "wheelDeltaY": -12},
        {"deltaX": 2, "deltaY": 0, "deltaMode": 0, "wheelDeltaY": 0},
    ]
    assert modules("geometry", "return a[0].map(m.isTrackpad)", events) == [False, False, True, True]


def test_waiting_grows_and_is_bounded(modules: Callable[..., Any]) -> None:
    assert modules("connection", "return [0, 1, 2, 9].map(m.waitBefore)") == [300, 600, 1200, 8000]
