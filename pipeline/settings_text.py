"""Settings as the words of a command line: what differs from the defaults, in Hydra's grammar."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.quoting import quote_path
from pipeline.schema import RunConfig

_WORD = re.compile(r"[A-Za-z_]+", re.ASCII)
_NO_WORDS = ("null", "true", "false", "nan", "inf")
"""What Hydra's grammar reads as something else than text."""


def differing_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a nested config, by dotted key, that are not the defaults; unknown ones are among them."""
    plain = dict(_leaves(dataclasses.asdict(RunConfig())))
    return {key: value for key, value in _leaves(config) if key not in plain or plain[key] != value}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar, so that exactly `value` arrives: text, a number, a truth value, null or lists."""
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NO_WORDS:
        return value
    # Text is quoted whole and its `${` escaped, so that none of it is read as grammar or as an interpolation.
    return quote_path(value) if isinstance(value, str) else repr(value)
