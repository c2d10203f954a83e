"""What the files of models must hash to: published in the zoo, recorded when they came, or in the embedded one's card.

A run hashes the generator that it reads anyway, since the hash is part of what its results are known by; a trunk of
LPIPS is hashed once for each start of the program, which takes less than a second.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from data.errors import ModelError
from data.files import file_sha256
from pipeline.zoo import ZooEntry, cache_folder, entry_path, zoo

HASHES_FILE = "hashes.json"
CARD = "MODEL_CARD.md"
_CARD_HASH = re.compile(r"^\|\s*sha256\s*\|\s*([0-9a-f]{64})\s*\|", re.MULTILINE)


def known_sha256(entry: ZooEntry) -> str | None:
    """What the entry's file in the cache must hash to: published for a generator, else recorded when it came."""
    return (entry.sha256 if entry.is_generator else None) or read_hashes().get(entry.name)


def read_hashes() -> dict[str, str]:
    """The recorded hashes by entry; ModelError when the record is damaged, as it must not silently start anew."""
    path = cache_folder() / HASHES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no names")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}, the record of hashes, cannot be read ({error}): mend it, or remove it.") from error
    return {str(name): str(value) for name, value in found.items()}


def check_cached(path: Path, sha256: str | None = None) -> None:
    """Raise ModelError when a file of the cache, or the embedded generator, is not the one that it was.

    sha256: the file's, when it has been computed already. Files that nobody knows a hash of are taken as they are.
    """
    expected, mend = _expected(path)
    if expected is None:
        return
    found = file_sha256(path) if sha256 is None else sha256
    if found != expected:
        raise ModelError(f"{path} is damaged or replaced: it has the sha256 {found}, and {expected} is known; {mend}.")


def _expected(path: Path) -> tuple[str | None, str]:
    """The hash that a file must have, None when nobody knows, and the command that brings it anew."""
    card = path.parent / CARD
    if path.suffix == ".safetensors" and card.is_file():
        found = _CARD_HASH.search(card.read_text(encoding="utf-8"))
        return found and found.group(1), "run `pip install --force-reinstall --no-deps photodrag`"
    for entry in zoo():
        if path.absolute() == entry_path(entry):
            return known_sha256(entry), f"run `photodrag models download {entry.name}`, which fetches it again"
    return None, ""
