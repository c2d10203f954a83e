"""JSON files that come from elsewhere: read without trust in their size, their numbers or how deep they are nested."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MOST_BYTES = 10_000_000
MOST_LETTERS = 300
"""A sentence quotes no more than this of what a file holds."""


def read_json(path: Path) -> Any:
    """What the JSON of a file says; ValueError, with half a sentence, when it says nothing that can be used."""
    try:
        if path.stat().st_size <= MOST_BYTES:
            return json.loads(path.read_text("utf-8"), parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be read as JSON ({error})") from error
    raise ValueError(f"it is larger than {MOST_BYTES // 1_000_000} MB")


def printable(text: str) -> str:
    """Text from elsewhere for a terminal: what cannot be printed becomes an escape."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def quoted(text: str) -> str:
    """Text from elsewhere for a sentence: printable, and cut off where it is long."""
    text = printable(text)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number that can be stored")
    return value


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"{text[:20]}... is too long for a number")
    return int(text)
