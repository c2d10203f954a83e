"""The catalogue of errors: for every sentence that photodrag can end with, its cause and its mend, and the page of all.

The entries lie in `error_catalogue/*.yaml`, by area. An entry covers the sentences that its `says` give, with `{}` for
each value in them. `python -m pipeline.error_pages > docs/errors.md` writes the page anew. Imports neither torch nor
numpy.
"""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pipeline.errors import EXIT_DONE, UsageError
from pipeline.validation import did_you_mean

AREAS = (
    "general",
    "settings",
    "photos",
    "faces",
    "edits",
    "blending",
    "saving",
    "runs",
    "recipes",
    "models",
    "generators",
    "optimising",
    "batch",
    "studio",
    "training",
)
"""The files of the catalogue, in the order of the page."""

PAGE = "docs/errors.md"
PLACE = "{}"
PROGRAM = "photodrag: "
LINE_WIDTH = 110
MOST_LETTERS = 5_000
MOST_STARTS = 4

HEAD = """\
# Errors

Whatever goes wrong, photodrag says it in one sentence: what was given, what is allowed, and what mends it. This page
says more about each. Offline and in the terminal the same is shown by

    photodrag explain 'THE SENTENCE'
    photodrag explain ANCHOR

From Python `pipeline.error_pages.explain(sentence)` gives an entry. In the sentences below, … stands for a value.

Exit codes: 0 done, 1 failed, 2 the command cannot be used as given, 130 interrupted.

<!-- Written by `python -m pipeline.error_pages > docs/errors.md` from pipeline/error_catalogue/. -->
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of error. `anchor` is its name on the page; `says`: the sentences that it covers, `{}` for a value."""

    anchor: str
    title: str
    cause: str
    mend: str
    says: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """The entries of one file of the catalogue."""

    title: str
    entries: tuple[Entry, ...]


@cache
def areas() -> tuple[Area, ...]:
    """The whole catalogue in the order of the page."""
    return tuple(_area(read_catalogue(name)) for name in AREAS)


def entries() -> Iterator[Entry]:
    """Every entry of the catalogue."""
    for area in areas():
        yield from area.entries


def read_catalogue(name: str) -> Any:
    """One file of the catalogue as plain values; `internal` is the one that tells apart what nobody reads."""
    import yaml

    folder = resources.files("pipeline").joinpath("error_catalogue")
    return yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def explain(sentence: str) -> Entry | None:
    """The entry of a sentence that photodrag has said, of an anchor or of what `page_of` gives; else None.

    The sentence may have `photodrag: ` or, as in a list of several photos, a name and a colon before it. Where entries
    of different kinds would fit, the one that shares the most letters with the sentence counts.
    """
    text = plain(sentence[:MOST_LETTERS])
    anchor = text.removeprefix(f"{PAGE}#")
    named = next((entry for entry in entries() if entry.anchor == anchor), None)
    if named is not None:
        return named
    for start in _starts(text):
        found = matching(text[start:])
        if found:
            return found[0]
    return None


def anchor_of(sentence: str) -> str | None:
    """The anchor of a sentence's entry in docs/errors.md; None for a sentence that the catalogue does not have."""
    found = explain(sentence)
    return found.anchor if found else None


def page_of(sentence: str) -> str | None:
    """Where the page of errors tells of a sentence, as in `docs/errors.md#face-none`; None where it does not."""
    anchor = anchor_of(sentence)
    return None if anchor is None else f"{PAGE}#{anchor}"


def matching(text: str) -> list[Entry]:
    """The entries whose sentences fit the whole of `text` best: one, or none, in a catalogue that is right."""
    text = plain(text)
    best, found = 0, []
    for entry in entries():
        letters = max((known for known, parts in _patterns(entry) if fits(parts, text)), default=0)
        if letters > best:
            best, found = letters, [entry]
        elif letters == best and letters:
            found.append(entry)
    return found


def plain(text: str) -> str:
    """A sentence on one line, without the program's name before it and the full stop behind it."""
    return " ".join(text.split()).removeprefix(PROGRAM).removesuffix(".")


def fits(parts: Sequence[str], text: str) -> bool:
    """Whether `text` is the parts in their order with anything (or nothing) between them; takes linear time."""
    if len(parts) == 1:
        return parts[0] == text
    first, last = parts[0], parts[-1]
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@cache
def _patterns(entry: Entry) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Of each sentence how many letters are its own, and its parts between the values."""
    split = [tuple(plain(says).split(PLACE)) for says in entry.says]
    return tuple((sum(len(part.replace(" ", "")) for part in parts), parts) for parts in split)


def _starts(text: str) -> Iterator[int]:
    """Where the sentence may begin: at once, or behind a name and a colon or a few of them."""
    yield 0
    yield from itertools.islice((colon.end() for colon in re.finditer(": ", text)), MOST_STARTS)


def _area(given: Any) -> Area:
    found = [Entry(**{**fields, "says": tuple(fields["says"])}) for fields in given["entries"]]
    return Area(given["title"], tuple(found))


def page() -> str:
    """docs/errors.md: every entry under a heading that is its anchor."""
    lines = [HEAD]
    for area in areas():
        lines.append(f"- {area.title}: " + ", ".join(f"[{entry.anchor}](#{entry.anchor})" for entry in area.entries))
    for area in areas():
        lines.append(f"\n## {area.title}")
        for entry in area.entries:
            lines += [f"\n### {entry.anchor}\n", f"**{entry.title}.** {entry.cause}\n", f"*Mend:* {entry.mend}\n"]
            lines += [f"- {_shown(says)}" for says in entry.says]
    return "\n".join(lines) + "\n"


def _shown(says: str) -> str:
    """A sentence as code: Markdown then reads nothing into its letters."""
    text = says.replace(PLACE, "…")
    ticks = "``" if "`" in text else "`"
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def explained(entry: Entry) -> str:
    """An entry for the terminal: its title, cause and mend, each on lines of their own."""
    lines = [f"{entry.title} ({entry.anchor})"]
    for word, text in (("cause", entry.cause), ("mend", entry.mend)):
        text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"docs: \1", text)
        text = f"{word + ':':<7}{text}"
        lines += textwrap.wrap(text, LINE_WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False)
    return "\n".join(lines)


def explain_command(words: Sequence[str]) -> int:
    """`photodrag explain SENTENCE|ANCHOR`: print cause and mend; UsageError where nothing fits."""
    if not words:
        raise UsageError(
            "photodrag explain is followed by nothing: allowed is a sentence that photodrag has said, or an anchor of "
            "docs/errors.md"
        )
    text = " ".join(words)
    entry = explain(text)
    if entry is None:
        near = did_you_mean(text, [one.anchor for one in entries()])
        raise UsageError(
            f"photodrag explain knows nothing about {text[:200]!r}: allowed is a whole sentence that photodrag said, "
            f"or an anchor of docs/errors.md{near}"
        )
    print(explained(entry))
    return EXIT_DONE


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(page(), end="")
