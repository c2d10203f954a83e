"""The socket of a tab: order, the newest state and picture only, slow and mad pages, and tabs that do not mix."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UsageError
from pipeline.studio import messages as ask
from pipeline.studio import socket as sockets
from pipeline.studio.messages import MOST_TEXT
from pipeline.studio.socket import MOST_SOCKETS, MOST_TROUBLES, TOO_MANY_SOCKETS, UNFORESEEN, Mailbox, Pace, packed
from pipeline.studio.watching import Frame
from tests.fake_desk import SAMPLE, STEPS
from tests.studio_pages import Studio, tab

DRAG = [[200, 139, 190, 130], [245, 141, 255, 132]]


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def frame(number: int, **more: Any) -> Frame:
    return Frame({"number": number, "session": "abcd", **more}, b"picture")


def mailbox() -> tuple[Mailbox, list[None]]:
    """A mailbox, and a list that grows each time it wakes its sender."""
    woken: list[None] = []
    return Mailbox(lambda: woken.append(None)), woken


def taken(box: Mailbox) -> list[dict[str, Any]]:
    """Everything that can be sent now; frames as their headers."""
    found = []
    while (message := box.take()) is not None:
        if isinstance(message, bytes):
            (length,) = struct.unpack_from(">L", message)
            found.append(json.loads(message[4 : 4 + length]))
        else:
            found.append(json.loads(message))
    return found


# The mailbox --------------------------------------------------------------------------------------------------------


def test_only_the_newest_state_waits() -> None:
    box, woken = mailbox()
    for revision in range(1000):
        box.state({"is": "state", "revision": revision})
    assert taken(box) == [{"is": "state", "revision": 999}]
    assert len(woken) == 1000


def test_only_the_newest_picture_waits_and_only_until_the_last_was_shown() -> None:
    box, _ = mailbox()
    assert box.ready
    box.frame(frame(1))
    assert not box.ready
    assert [message["number"] for message in taken(box)] == [1]
    for number in range(2, 50):
        box.frame(frame(number))
    assert taken(box) == [] and not box.ready and box.dropped == 47
    box.shown(1)
    assert not box.ready
    assert [message["number"] for message in taken(box)] == [49]
    box.shown(49)
    assert box.ready and taken(box) == []


def test_a_number_that_was_not_sent_frees_nothing() -> None:
    box, _ = mailbox()
    box.frame(frame(7))
    taken(box)
    for number in (0, 6, 8, 2**53):
        box.shown(number)
        assert not box.ready
    box.shown(7)
    assert box.ready


def test_a_state_overtakes_a_picture_that_waits() -> None:
    box, _ = mailbox()
    box.frame(frame(1))
    box.state({"phase": "dragging"})
    assert [message["is"] for message in taken(box)] == ["state", "frame"]


@pytest.mark.parametrize("phase", ["ready", "choosing", "failed", "opening"])
def test_a_picture_of_an_edit_that_has_ended_is_not_sent_over_its_result(phase: str) -> None:
    box, _ = mailbox()
    box.frame(frame(1))
    taken(box)
    box.frame(frame(2))
    box.state({"phase": phase})
    box.shown(1)
    assert [message["is"] for message in taken(box)] == ["state"]
    assert box.ready


def test_of_many_troubles_the_last_ones_wait() -> None:
    box, _ = mailbox()
    for number in range(100):
        box.trouble(f"Trouble {number}.", None if number % 2 else "abcd")
    told = taken(box)
    assert [row["sentence"] for row in told] == [f"Trouble {number}." for number in range(100 - MOST_TROUBLES, 100)]
    assert told[0]["session"] == "abcd" and "session" not in told[1]


def test_a_frame_is_packed_as_the_page_reads_it() -> None:
    content = packed(Frame({"number": 3, "points": [[1.5, 2.0]]}, b"\x00\xff"))
    assert content[:4] == struct.pack(">L", len(content) - 4 - 2)
    assert json.loads(content[4:-2]) == {"is": "frame", "number": 3, "points": [[1.5, 2.0]]}
    assert content[-2:] == b"\x00\xff"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["frame", "state", "still", "take", "shown"]), max_size=60))
def test_whatever_happens_one_picture_is_under_way_at_most(events: list[str]) -> None:
    box, _ = mailbox()
    number, under_way, newest = 0, None, 0
    for event in events:
        if event == "frame":
            number += 1
            box.frame(frame(number))
        elif event in ("state", "still"):
            box.state({"phase": "dragging" if event == "state" else "ready", "revision": number})
        elif event == "shown" and under_way is not None:
            box.shown(under_way)
            under_way = None
        for message in taken(box) if event == "take" else ():
            if message["is"] == "frame":
                assert under_way is None and message["number"] > newest
                under_way = newest = message["number"]


def test_threads_fill_a_mailbox_while_it_is_emptied() -> None:
    box, _ = mailbox()
    count = 400

    def fill(start: int) -> None:
        for number in range(start, start + count):
            box.state({"revision": number})
            box.frame(frame(number))

    threads = [threading.Thread(target=fill, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    last: dict[str, Any] = {}
    while any(thread.is_alive() for thread in threads) or not box.ready:
        for message in taken(box):
            last[message["is"]] = message
            if message["is"] == "frame":
                box.shown(message["number"])
    assert last["frame"]["number"] % 1000 == count - 1 and last["state"]["revision"] % 1000 == count - 1


def test_messages_in_a_hurry_wait_and_slow_ones_do_not() -> None:
    now = [0.0]
    pace = Pace(rate=10, burst=5, clock=lambda: now[0])
    assert [pace.delay() for _ in range(5)] == [0, 0, 0, 0, 0]
    assert [pace.delay() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    now[0] = 100.0
    assert [pace.delay() for _ in range(6)] == pytest.approx([0, 0, 0, 0, 0, 0.1])


# A tab --------------------------------------------------------------------------------------------------------------


def test_hello_comes_first_and_names_the_photo_of_the_command_line(tmp_path: Path) -> None:
    with tab(Studio(tmp_path, opened="abcd1234")) as page:
        assert page.hello["open"] == "abcd1234"
        assert {"version", "presets", "directions", "generators", "recent", "limits", "formats"} <= set(page.hello)


def test_a_photo_is_opened_dragged_undone_and_saved(studio: Studio) -> None:
    photo = studio.upload()
    with tab(studio) as page:
        assert "open" not in page.hello
        session = page.open(photo)
        page.say("drag", session=session, points=DRAG, paused=True)
        shown = page.until("frame")
        page.say("seen", number=shown["number"])
        page.say("go", session=session)
        state = page.until("state", phase="ready", at=1)
        assert state["edits"][0]["points"] == [pytest.approx(row) for row in DRAG]
        assert studio.client().get(state["patch"]["url"]).headers["content-type"] == "image/png"
        page.say("undo", session=session)
        assert page.until("state", at=0)["can_redo"]
        page.say("redo", session=session)
        page.until("state", at=1)
        page.say("save", session=session)
        saved = page.until("state", phase="ready")["saved"][0]
        answer = studio.client().get(saved["url"])
        assert 'filename="me_edited.png"' in answer.headers["content-disposition"]


def test_a_page_that_shows_nothing_gets_one_picture_and_the_latest_state(studio: Studio) -> None:
    """The slow page: the edit goes on without it, and ends."""
    photo = studio.upload()
    with tab(studio) as page:
        session = page.open(photo)
        # Held before the first step until its picture is there: an edit that ends at once may send none.
        page.say("drag", session=session, points=DRAG, paused=True)
        assert page.until("frame")["step"] == 0
        page.say("go", session=session)
        state = page.until("state", at=1)
        assert state["edits"][0]["steps"] == STEPS
        page.say("drag", session=session, points=DRAG)
        page.until("state", at=2)
        assert len(page.frames) == 1
        page.say("seen", number=page.frames[0]["number"])
        page.say("drag", session=session, points=DRAG, paused=True)
        page.until("frame")
        page.say("go", session=session)
        page.until("state", at=3)
        assert len(page.frames) == 2


def test_requests_are_done_in_the_order_in_which_they_came(studio: Studio) -> None:
    photo = studio.upload()
    with tab(studio) as page:
        session = page.open(photo)
        for at in range(100):
            page.say("jump", session=session, at=at)
        page.say("jump", session=session, at=0)
        page.until("state", at=0, phase="ready")
        page.say("mask", session=session, png=None)
        page.until("state", mask=None)
        jumps = [request.at for request in studio.desk.log if isinstance(request, ask.Jump)]
    assert jumps == [*range(100), 0]


BAD: dict[str, tuple[str, str]] = {
    "no_json": ("}{", "The message is no JSON."),
    "deep": ("[" * 100_000, "The message is no JSON."),
    "list": ("[1]", "The message asks for nothing that is known"),
    "unknown": ('{"do":"shell"}', "The message asks for nothing that is known"),
    "wrong_types": ('{"do":"drag","session":5,"points":"x"}', "drag.session is not the name of a session."),
    "no_session": ('{"do":"undo","session":"abcd1234"}', "There is no such session: open the photo again."),
    "no_photo": ('{"do":"open","photo":"abcd1234"}', "There is no such photo: upload it again."),
    "huge_number": ('{"do":"seen","number":%s}' % ("9" * 3000), "seen.number is no whole number"),
    "too_long": ("x" * (MOST_TEXT + 1), f"The message has {MOST_TEXT + 1} letters: allowed are {MOST_TEXT}."),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_message_gives_a_sentence_and_the_socket_stays_open(studio: Studio, kind: str) -> None:
    text, sentence = BAD[kind]
    with tab(studio) as page:
        page.socket.send_text(text)
        trouble = page.until("trouble")
        assert trouble["sentence"].startswith(sentence)
        page.say("sample", seed=3)
        assert page.until("state", phase="ready")["generated"]
    assert studio.reported == []


def test_bytes_are_no_message(studio: Studio) -> None:
    with tab(studio) as page:
        page.socket.send_bytes(b'{"do":"undo"}')
        assert page.until("trouble")["sentence"] == "The page sent bytes: allowed is JSON text."


def test_the_trouble_names_the_session_it_is_about(studio: Studio) -> None:
    with tab(studio) as page:
        page.say("undo", session="abcd1234")
        assert page.until("trouble")["session"] == "abcd1234"


def test_an_unforeseen_error_of_the_desk_ends_no_socket(studio: Studio) -> None:
    def broken(request: ask.Request) -> None:
        if isinstance(request, ask.Undo):
            raise ZeroDivisionError("of the desk")

    studio.desk.before_do = broken
    with tab(studio) as page:
        page.say("undo", session="abcd1234")
        assert page.until("trouble")["sentence"] == UNFORESEEN
        page.say("sample", seed=3)
        page.until("state", phase="ready")
    assert [type(error) for error in studio.reported] == [ZeroDivisionError]


def test_a_state_that_is_no_json_is_told_and_loses_only_itself(studio: Studio) -> None:
    watchers: list[Any] = []

    def note(session: Any, request: ask.Undo, watcher: Any) -> None:
        watchers.append(watcher)
        watcher.state({"is": "state", "distance": float("nan")})
        watcher.trouble("After it.", None)

    studio.desk._undo = note  # type: ignore[method-assign]
    with tab(studio) as page:
        session = page.open(studio.upload())
        page.say("undo", session=session)
        page.until("trouble", sentence="After it.")
        page.say("redo", session=session)
        page.until("trouble")
    assert [type(error) for error in studio.reported] == [ValueError]


def other_photo() -> bytes:
    """A photo of another size than the sample."""
    import io

    stream = io.BytesIO()
    Image.fromarray(np.full((300, 260, 3), 120, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_two_tabs_with_two_sessions_do_not_mix(studio: Studio) -> None:
    first, second = studio.upload(), studio.upload(other_photo(), "other.png")
    with tab(studio) as left, tab(studio) as right:
        sessions = [left.open(first), right.open(second)]
        for page, session in zip((left, right), sessions, strict=True):
            page.say("drag", session=session, points=[[100, 100, 110, 100]], paused=True)
            page.until("frame")
            page.say("go", session=session)
        for page, session, width in zip((left, right), sessions, (512, 260), strict=True):
            state = page.until("state", at=1)
            assert state["photo"]["width"] == width
            assert {one["session"] for one in page.states} == {session}
            assert {one["session"] for one in page.frames} == {session}


def test_two_tabs_may_watch_one_session_each_at_its_own_pace(studio: Studio) -> None:
    photo = studio.upload()
    with tab(studio) as quick, tab(studio) as slow:
        session = quick.open(photo)
        slow.say("watch", session=session)
        slow.until("state", phase="ready")
        quick.say("drag", session=session, points=DRAG, paused=True)
        slow.until("frame")
        for step in range(5):
            shown = quick.until("frame")
            assert shown["step"] == step
            quick.say("seen", number=shown["number"])
            quick.say("step", session=session)
        quick.say("go", session=session)
        quick.until("state", at=1)
        slow.until("state", at=1)
        assert len(slow.frames) == 1


def test_a_slow_desk_does_not_keep_other_tabs_waiting(studio: Studio) -> None:
    go, held = threading.Event(), threading.Event()

    def slow(request: ask.Request) -> None:
        if isinstance(request, ask.Undo):
            held.set()
            assert go.wait(20)

    studio.desk.before_do = slow
    photo = studio.upload()
    with tab(studio) as waiting, tab(studio) as other:
        session = other.open(photo)
        waiting.say("undo", session=session)
        assert held.wait(20)
        other.say("drag", session=session, points=DRAG)
        other.until("state", at=1)
        assert studio.client().get(studio.desk.sessions[session].view_url).status_code == 200
        go.set()


def test_what_the_page_has_shown_is_heard_while_the_desk_is_slow(studio: Studio) -> None:
    go, held, watchers = threading.Event(), threading.Event(), []
    photo = studio.upload()

    def slow(session: Any, request: ask.Mask, watcher: Any) -> None:
        watchers.append(watcher)
        watcher.frame(frame(1))
        held.set()
        assert go.wait(20)

    studio.desk._mask = slow  # type: ignore[method-assign]
    with tab(studio) as page:
        session = page.open(photo)
        page.say("mask", session=session, png=None)
        page.say("seen", number=page.until("frame")["number"])
        watchers[0].frame(frame(2))
        assert page.until("frame")["number"] == 2
        go.set()


def test_a_flood_of_messages_waits_for_its_desk_and_not_in_memory(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the desk holds one request, few of the others are read."""
    monkeypatch.setattr(sockets, "MOST_WAITING", 8)
    parsed: list[str] = []
    read = sockets.parse_request

    def counted(text: str) -> ask.Request:
        parsed.append(text)
        return read(text)

    monkeypatch.setattr(sockets, "parse_request", counted)
    go, held = threading.Event(), threading.Event()

    def slow(request: ask.Request) -> None:
        held.set()
        assert go.wait(20)

    studio.desk.before_do = slow
    with tab(studio) as page:
        for _ in range(250):
            page.say("undo", session="abcd1234")
        assert held.wait(20)
        with tab(studio):  # by now the first tab's reader has had its turns
            assert len(parsed) <= 1 + 8 + 1
        go.set()
        page.until("trouble")


def test_there_are_so_many_tabs_and_no_more(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MOST_SOCKETS", 2)
    with tab(studio), tab(studio), studio.client().websocket_connect("/socket") as third:
        assert json.loads(third.receive()["text"]) == {"is": "trouble", "sentence": TOO_MANY_SOCKETS}
        assert third.receive() == {"type": "websocket.close", "code": 1013, "reason": "too many tabs"}
    with tab(studio):
        pass
    assert f"in {MOST_SOCKETS} tabs" in TOO_MANY_SOCKETS


def test_the_desk_hears_that_a_tab_has_gone_after_all_that_it_asked(studio: Studio) -> None:
    """A request that is under way as the page goes must not bring its watcher back."""
    go, held = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(request: ask.Request) -> None:
        held.set()
        assert go.wait(20)
        order.append("done")

    leave: Callable[[Any], None] = studio.desk.leave

    def left(watcher: Any) -> None:
        order.append("left")
        leave(watcher)

    studio.desk.before_do = slow
    studio.desk.leave = left  # type: ignore[method-assign]
    with tab(studio) as page:
        page.say("sample", seed=1)
        page.say("sample", seed=2)
        assert held.wait(20)
        page.socket.close()
        go.set()
    assert order == ["done", "left"]
    assert all(session.watchers == [] for session in studio.desk.sessions.values())


def test_a_watcher_without_a_page_does_no_harm(studio: Studio) -> None:
    """Threads of the desk may still speak to a tab that has gone, even after the server has."""
    watchers: list[Any] = []

    def note(session: Any, request: ask.Undo, watcher: Any) -> None:
        watchers.append(watcher)
        raise UsageError("Noted.")

    studio.desk._undo = note  # type: ignore[method-assign]
    with tab(studio) as page:
        session = page.open(studio.upload())
        page.say("undo", session=session)
        page.until("trouble", sentence="Noted.")
    watchers[0].state({"phase": "ready"})
    watchers[0].frame(frame(1))
    watchers[0].trouble("Nobody hears this.", None)
    assert SAMPLE.is_file() and studio.reported == []


def test_a_hello_that_fails_ends_the_socket_and_is_told(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(studio.desk, "hello", broken)
    with studio.client().websocket_connect("/socket") as socket:
        assert socket.receive()["code"] == 1011
    assert [type(error) for error in studio.reported] == [ZeroDivisionError]
    assert len(studio.desk.left) == 1
