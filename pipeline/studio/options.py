"""The options of `photodrag studio`, read from its words; nothing heavy is imported here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.errors import UsageError
from pipeline.validation import did_you_mean

DEFAULT_PORT = 8642
LEAST_TOKEN = 16
"""Letters of a token that somebody chose."""
GENERAL = ("--help", "--version", "--debug", "--cfg", "--multirun", "--offline")
"""Options that are read elsewhere."""
MEGAPIXELS = (1, 200)
"""The range of --max-megapixels; data.photo reads no larger photos."""


@dataclass(frozen=True, slots=True)
class StudioOptions:
    """Where a studio listens and what it takes; `port` None: the default, or the next free one."""

    port: int | None = None
    host: str = "127.0.0.1"
    token: str | None = None
    browser: bool = True
    max_megapixels: int = 100


def split_studio_options(words: Sequence[str]) -> tuple[StudioOptions, list[str]]:
    """(the studio's options, the other words in their order); raises UsageError for a value that is not allowed."""
    options = StudioOptions()
    others: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.partition("=")
        if word == "--no-browser":
            options = replace(options, browser=False)
        elif name in READERS:
            field, read = READERS[name]
            if not equals:
                value = pending.pop(0) if pending else ""
            options = replace(options, **{field: read(value)})
        elif name.startswith("--") and name not in GENERAL:
            near = did_you_mean(name, [*READERS, "--no-browser"])
            allowed = ", ".join([*READERS, "--no-browser", "--debug", "--cfg"])
            raise UsageError(f"{word} is not an option of photodrag studio: allowed are {allowed}{near}")
        else:
            others.append(word)
    if not is_loopback(options.host) and options.token is None:
        raise UsageError(
            f"--host is {options.host}, which other machines can reach: allowed without --token are 127.0.0.1, ::1 and "
            f"localhost; give --token TOKEN too, a secret of at least {LEAST_TOKEN} characters"
        )
    return options, others


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _whole(option: str, least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not least <= int(text) <= most:
            raise UsageError(f"{option} is {text or 'followed by nothing'}: allowed is {least} to {most}")
        return int(text)

    return read


def _host(text: str) -> str:
    """An address or a name, without the brackets of IPv6."""
    host = text.removeprefix("[").removesuffix("]").lower()
    if not re.fullmatch(r"[0-9a-z.:_-]{1,253}", host, re.ASCII):
        raise UsageError(f"--host is {text or 'followed by nothing'}: allowed is an address such as 127.0.0.1")
    return host


def _token(text: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9._~-]{{{LEAST_TOKEN},200}}", text, re.ASCII):
        # The text itself is not repeated: it may be a secret that is almost right.
        raise UsageError(
            f"--token has {len(text)} characters, or some that cannot be in an address: allowed are {LEAST_TOKEN} to "
            "200 of A-Z, a-z, 0-9, ., _, ~ and -"
        )
    return text


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "--port": ("port", _whole("--port", 0, 65535)),
    "--host": ("host", _host),
    "--token": ("token", _token),
    "--max-megapixels": ("max_megapixels", _whole("--max-megapixels", *MEGAPIXELS)),
}
"""Options with a value: the field each fills, and how its value is read."""
