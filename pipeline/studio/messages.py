"""What a page may ask of a studio: typed requests, read from JSON that is not trusted."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from data.errors import UsageError
from pipeline.edit_config import PRESETS

MOST_TEXT = 12_000_000
"""Letters of a message: a mask or a recipe fits, and little more."""
MOST_POINTS = 400
MOST_STRENGTH = 3.0
MOST_COORDINATE = 1e6
FORMATS = ("keep", "jpeg", "png", "tiff", "webp")
_ID = re.compile(r"[A-Za-z0-9_-]{4,80}", re.ASCII)
_DIRECTION = re.compile(r"(sefa|pca):\d{1,3}", re.ASCII)
_GENERATOR = re.compile(r"[a-z0-9][a-z0-9-]{0,60}", re.ASCII)

Pairs = tuple[tuple[float, float, float, float], ...]
"""Handles and targets x, y, x2, y2 in photo pixels."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Tell this page about a session from now on."""

    session: str


@dataclass(frozen=True, slots=True)
class Open:
    """A session for an uploaded photo: one that exists already unless `anew`."""

    photo: str
    generator: str | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A session for a generated picture."""

    seed: int
    psi: float = 0.7
    generator: str | None = None


@dataclass(frozen=True, slots=True)
class Face:
    """Choose a face by its number, and prepare it."""

    session: str
    face: int


@dataclass(frozen=True, slots=True)
class Generator:
    """The session's picture with another generator."""

    session: str
    generator: str


@dataclass(frozen=True, slots=True)
class Drag:
    """Drag handles to targets; `paused`: wait before the first step."""

    session: str
    points: Pairs
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Retarget:
    """Let the running drag go on towards other targets."""

    session: str
    points: Pairs


@dataclass(frozen=True, slots=True)
class Preset:
    """An edit by the face's landmarks."""

    session: str
    preset: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Direction:
    """A move along a direction of the generator, in standard deviations."""

    session: str
    direction: str
    strength: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Hold the running edit between two steps."""

    session: str


@dataclass(frozen=True, slots=True)
class Go:
    """Let a paused edit go on."""

    session: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a paused edit."""

    session: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End what the session computes; an edit keeps its best state."""

    session: str


@dataclass(frozen=True, slots=True)
class Undo:
    """Without the last edit."""

    session: str


@dataclass(frozen=True, slots=True)
class Redo:
    """With the edit that was undone last."""

    session: str


@dataclass(frozen=True, slots=True)
class Jump:
    """With the first `at` edits."""

    session: str
    at: int


@dataclass(frozen=True, slots=True)
class Mask:
    """Where the picture may change, as the bytes of a PNG; None: everywhere."""

    session: str
    png: bytes | None


@dataclass(frozen=True, slots=True)
class Save:
    """Blend into the full photo, and offer it with its recipe and video."""

    session: str
    format: str = "keep"
    quality: int = 95


@dataclass(frozen=True, slots=True)
class Replay:
    """Make the edits of a recipe or an edits.json here."""

    session: str
    recipe: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Take a session out of the recent ones."""

    session: str


@dataclass(frozen=True, slots=True)
class Shown:
    """Frame `number` is on the screen."""

    number: int


Request = (
    Watch
    | Open
    | Sample
    | Face
    | Generator
    | Drag
    | Retarget
    | Preset
    | Direction
    | Pause
    | Go
    | Step
    | Stop
    | Undo
    | Redo
    | Jump
    | Mask
    | Save
    | Replay
    | Forget
    | Shown
)

KINDS: Mapping[str, type] = {
    "watch": Watch,
    "open": Open,
    "sample": Sample,
    "face": Face,
    "generator": Generator,
    "drag": Drag,
    "retarget": Retarget,
    "preset": Preset,
    "direction": Direction,
    "pause": Pause,
    "go": Go,
    "step": Step,
    "stop": Stop,
    "undo": Undo,
    "redo": Redo,
    "jump": Jump,
    "mask": Mask,
    "save": Save,
    "replay": Replay,
    "forget": Forget,
    "seen": Shown,
}
"""The words behind `do`."""


def parse_request(text: str) -> Request:
    """The request in a message of a page; UsageError, in one sentence, for anything that is none."""
    if len(text) > MOST_TEXT:
        raise UsageError(f"The message has {len(text)} letters: allowed are {MOST_TEXT}.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("The message is no JSON.") from error
    kind = message.get("do") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError("The message asks for nothing that is known: 'do' must be one of " + ", ".join(KINDS) + ".")
    return _built(kind, message)


def _built(kind: str, message: Mapping[str, Any]) -> Request:
    known = {field.name: field for field in fields(KINDS[kind])}
    if strange := sorted(set(message) - {"do", *known}):
        raise UsageError(f"{kind} was asked with {strange[0][:40]!r}: allowed are {', '.join(known) or 'no details'}.")
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in message:
            values[name] = READERS[name](message[name], f"{kind}.{name}")
        elif field.default is MISSING:
            raise UsageError(f"{kind} was asked without {name}.")
    return cast(Request, KINDS[kind](**values))


def _text(pattern: re.Pattern[str] | None, allowed: str, most: int = 100) -> Callable[[Any, str], str]:
    def read(value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) > most or (pattern is not None and not pattern.fullmatch(value)):
            raise UsageError(f"{name} is not {allowed}.")
        return value

    return read


def _one_of(names: tuple[str, ...]) -> Callable[[Any, str], str]:
    def read(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise UsageError(f"{name} is not one of {', '.join(names)}.")
        return value

    return read


def _number(least: float, most: float) -> Callable[[Any, str], float]:
    def read(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise UsageError(f"{name} is no number.")
        if not least <= value <= most:  # a whole number may be too long to be written out or turned into a float
            raise UsageError(f"{name} is a number that is not allowed: allowed is {least:g} to {most:g}.")
        return float(value)

    return read


def _whole(least: int, most: int) -> Callable[[Any, str], int]:
    def read(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(f"{name} is no whole number from {least} to {most}.")
        return value

    return read


def _truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} is neither true nor false.")
    return value


def _optional(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, name: None if value is None else read(value, name)


def _points(value: Any, name: str) -> Pairs:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_POINTS:
        raise UsageError(f"{name} must be a list of 1 to {MOST_POINTS} drags x, y, x2, y2.")
    read = _number(-MOST_COORDINATE, MOST_COORDINATE)
    pairs = []
    for row in value:
        if not isinstance(row, list) or len(row) != 4:
            raise UsageError(f"{name} must hold x, y, x2, y2 for each drag.")
        x, y, x2, y2 = (read(number, name) for number in row)
        pairs.append((x, y, x2, y2))
    return tuple(pairs)


def _png(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise UsageError(f"{name} is no base64 text of a PNG.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{name} is no base64 text of a PNG.") from error


READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "session": _text(_ID, "the name of a session"),
    "photo": _text(_ID, "the name of an uploaded photo"),
    "generator": _optional(_text(_GENERATOR, "the name of a generator")),
    "anew": _truth,
    "seed": _whole(0, 2**32 - 1),
    "psi": _number(0, 2),
    "face": _whole(0, 10_000),
    "points": _points,
    "paused": _truth,
    "preset": _one_of(PRESETS),
    "strength": _number(-MOST_STRENGTH, MOST_STRENGTH),
    "direction": _text(_DIRECTION, "a direction such as pca:6 or sefa:3"),
    "at": _whole(0, 10_000),
    "png": _optional(_png),
    "format": _one_of(FORMATS),
    "quality": _whole(1, 100),
    "recipe": _text(None, "the text of a recipe", MOST_TEXT),
    "number": _whole(0, 2**53),
}
"""How each detail of a request is read and checked."""
