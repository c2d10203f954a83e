"""What a page may ask: every request is read as it was meant, and nothing else comes through or breaks the reader."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from pipeline.studio import messages as ask
from pipeline.studio.messages import KINDS, MOST_POINTS, MOST_TEXT, READERS, parse_request

SESSION = "abcd1234"
GOOD: list[tuple[dict[str, Any], ask.Request]] = [
    ({"do": "watch", "session": SESSION}, ask.Watch(SESSION)),
    ({"do": "open", "photo": SESSION}, ask.Open(SESSION)),
    (
        {"do": "open", "photo": SESSION, "generator": "ffhq-256", "anew": True},
        ask.Open(SESSION, "ffhq-256", True),
    ),
    ({"do": "open", "photo": SESSION, "generator": None}, ask.Open(SESSION)),
    ({"do": "sample", "seed": 7}, ask.Sample(7)),
    ({"do": "sample", "seed": 7, "psi": 1}, ask.Sample(7, 1.0)),
    ({"do": "face", "session": SESSION, "face": 1}, ask.Face(SESSION, 1)),
    ({"do": "generator", "session": SESSION, "generator": "embedded"}, ask.Generator(SESSION, "embedded")),
    ({"do": "drag", "session": SESSION, "points": [[1, 2.5, 3, -4]]}, ask.Drag(SESSION, ((1.0, 2.5, 3.0, -4.0),))),
    (
        {"do": "drag", "session": SESSION, "points": [[1, 2, 3, 4]], "paused": True},
        ask.Drag(SESSION, ((1.0, 2.0, 3.0, 4.0),), True),
    ),
    ({"do": "retarget", "session": SESSION, "points": [[1, 2, 3, 4]]}, ask.Retarget(SESSION, ((1.0, 2.0, 3.0, 4.0),))),
    ({"do": "preset", "session": SESSION, "preset": "smile", "strength": -0.5}, ask.Preset(SESSION, "smile", -0.5)),
    (
        {"do": "direction", "session": SESSION, "direction": "pca:6", "strength": 3},
        ask.Direction(SESSION, "pca:6", 3.0),
    ),
    ({"do": "pause", "session": SESSION}, ask.Pause(SESSION)),
    ({"do": "go", "session": SESSION}, ask.Go(SESSION)),
    ({"do": "step", "session": SESSION}, ask.Step(SESSION)),
    ({"do": "stop", "session": SESSION}, ask.Stop(SESSION)),
    ({"do": "undo", "session": SESSION}, ask.Undo(SESSION)),
    ({"do": "redo", "session": SESSION}, ask.Redo(SESSION)),
    ({"do": "jump", "session": SESSION, "at": 0}, ask.Jump(SESSION, 0)),
    ({"do": "mask", "session": SESSION, "png": None}, ask.Mask(SESSION, None)),
    ({"do": "mask", "session": SESSION, "png": base64.b64encode(b"png").decode()}, ask.Mask(SESSION, b"png")),
    ({"do": "save", "session": SESSION}, ask.Save(SESSION)),
    ({"do": "save", "session": SESSION, "format": "jpeg", "quality": 90}, ask.Save(SESSION, "jpeg", 90)),
    ({"do": "replay", "session": SESSION, "recipe": "{}"}, ask.Replay(SESSION, "{}")),
    ({"do": "forget", "session": SESSION}, ask.Forget(SESSION)),
    ({"do": "seen", "number": 12}, ask.Shown(12)),
]


@pytest.mark.parametrize(("message", "request_"), GOOD, ids=[row[0]["do"] + str(n) for n, row in enumerate(GOOD)])
def test_a_request_is_read_as_it_was_meant(message: dict[str, Any], request_: ask.Request) -> None:
    assert parse_request(json.dumps(message)) == request_


def test_the_examples_hold_every_request_and_every_detail_has_a_reader() -> None:
    assert {message["do"] for message, _ in GOOD} == set(KINDS)
    assert {field.name for kind in KINDS.values() for field in dataclasses.fields(kind)} == set(READERS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The message is no JSON."),
        ("[" * 200_000 + "]" * 200_000, "The message is no JSON."),
        ("9" * 100_000, "The message is no JSON."),
        ("[]", "The message asks for nothing that is known"),
        ('{"do":["undo"]}', "The message asks for nothing that is known"),
        ('{"do":"undo"}', "undo was asked without session."),
        ('{"do":"undo","session":"abcd","path":"/etc"}', "undo was asked with 'path': allowed are session."),
        ('{"do":"undo","session":"../../etc"}', "undo.session is not the name of a session."),
        ('{"do":"undo","session":"abcd\\n"}', "undo.session is not the name of a session."),
        ('{"do":"undo","session":"\\uff41bcd"}', "undo.session is not the name of a session."),
        ('{"do":"open","photo":"/etc/passwd"}', "open.photo is not the name of an uploaded photo."),
        ('{"do":"sample","seed":-1}', "sample.seed is no whole number from 0 to 4294967295."),
        ('{"do":"sample","seed":true}', "sample.seed is no whole number from 0 to 4294967295."),
        ('{"do":"sample","seed":1.0}', "sample.seed is no whole number from 0 to 4294967295."),
        ('{"do":"sample","seed":1,"psi":1e999}', "sample.psi is a number that is not allowed: allowed is 0 to 2."),
        ('{"do":"sample","seed":1,"psi":NaN}', "sample.psi is no number."),
        ('{"do":"sample","seed":1,"psi":%s}' % ("9" * 400), "sample.psi is a number that is not allowed"),
        ('{"do":"drag","session":"abcd","points":[]}', f"drag.points must be a list of 1 to {MOST_POINTS} drags"),
        ('{"do":"drag","session":"abcd","points":[[1,2,3]]}', "drag.points must hold x, y, x2, y2 for each drag."),
        ('{"do":"drag","session":"abcd","points":[["1",2,3,4]]}', "drag.points is no number."),
        ('{"do":"preset","session":"abcd","preset":"beard"}', "preset.preset is not one of smile"),
        ('{"do":"direction","session":"abcd","direction":"pca:6;","strength":1}', "direction.direction is not"),
        ('{"do":"mask","session":"abcd","png":"!"}', "mask.png is no base64 text of a PNG."),
        ('{"do":"mask","session":"abcd","png":5}', "mask.png is no base64 text of a PNG."),
        ('{"do":"save","session":"abcd","format":"../x"}', "save.format is not one of keep, jpeg, png, tiff, webp."),
        ('{"do":"replay","session":"abcd","recipe":{}}', "replay.recipe is not the text of a recipe."),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_request(text)
    assert str(raised.value).startswith(sentence)
    assert len(str(raised.value)) < 400


def test_a_message_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(UsageError, match=f"The message has {MOST_TEXT + 1} letters: allowed are {MOST_TEXT}"):
        parse_request("x" * (MOST_TEXT + 1))


def read_or_refused(text: str) -> None:
    """A request comes back, or a short sentence; anything else that is raised fails the test."""
    sentence = "Read."
    try:
        request = parse_request(text)
    except UsageError as error:
        sentence = str(error)
    else:
        assert isinstance(request, tuple(KINDS.values()))
    assert sentence.endswith(".") and len(sentence) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DETAILS = st.dictionaries(st.sampled_from([*READERS, "do", "strange"]), JSON, max_size=6)


@settings(max_examples=600, deadline=None)
@given(kind=st.sampled_from([*KINDS]), details=DETAILS, good=st.sampled_from([row[0] for row in GOOD]))
@example(kind="drag", details={"points": [[10**400, 0, 0, 0]]}, good=GOOD[0][0])
@example(kind="sample", details={"psi": 10**400}, good=GOOD[4][0])
@example(kind="replay", details={"session": SESSION, "recipe": "\ud800"}, good=GOOD[0][0])
def test_no_json_breaks_the_reader(kind: str, details: dict[str, Any], good: dict[str, Any]) -> None:
    for message in ({**details, "do": kind}, {**good, **{k: v for k, v in details.items() if k in good}}):
        read_or_refused(json.dumps(message))


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(UsageError):
        parse_request(text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([json.dumps(row[0]) for row in GOOD]), st.integers(0, 200), st.text(max_size=3))
def test_no_damaged_request_breaks_the_reader(text: str, at: int, put: str) -> None:
    read_or_refused(text[:at] + put + text[at + 1 :])
