"""`photodrag models ...`: what each of its verbs does and prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from pipeline.errors import EXIT_DONE, EXIT_FAILED, PhotodragError, UsageError, sentence
from pipeline.validation import did_you_mean
from pipeline.zoo import ZooEntry, cache_folder, cached_path, entry_path, is_offline, zoo, zoo_entry
from pipeline.zoo_files import Verdict, begun_bytes, bring, verify

Verb = Callable[[Sequence[str], bool], int]
"""Takes the words behind it and whether nothing may be fetched, prints, and returns the exit code."""


def models(words: Sequence[str], offline: bool) -> int:
    """Run `photodrag models` followed by `words`; UsageError when they name no verb."""
    verb, *rest = words or [""]
    if verb not in VERBS:
        given = verb or "nothing"
        raise UsageError(
            f"photodrag models is followed by {given}: allowed are {', '.join(VERBS)}{did_you_mean(verb, VERBS)}"
        )
    return VERBS[verb](rest, is_offline(offline))


def list_models(words: Sequence[str], offline: bool) -> int:
    """Print every entry of the zoo as a table, and where the files lie."""
    if words:
        raise UsageError(f"photodrag models list is followed by {words[0]}: allowed is nothing")
    rows = [("name", "pixels", "subject", "size", "licence", "")]
    rows += [_row(entry) for entry in zoo()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    here = sum(entry_path(entry).is_file() for entry in zoo())
    print(f"\n{here} of {len(zoo())} are here, in {cache_folder()}.")
    if offline:
        print("Nothing is fetched: --offline or PHOTODRAG_OFFLINE is given.")
    else:
        print("photodrag models download NAME fetches one; generator=NAME uses a generator.")
    return EXIT_DONE


def download_models(words: Sequence[str], offline: bool) -> int:
    """Bring the named entries one after the other; one that fails leaves the others alone."""
    failed = 0
    for entry in _named(words, "download"):
        try:
            bring(entry, offline, partial(print, flush=True))
        except UsageError:
            raise
        except PhotodragError as error:
            failed += 1
            print(f"photodrag: {sentence(error)}", file=sys.stderr)
        except KeyboardInterrupt:
            if begun_bytes(entry):
                kept = f"{begun_bytes(entry) / 1e6:.0f} MB are kept"
                print(f"\n{entry.name}: {kept}; photodrag models download {entry.name} goes on", file=sys.stderr)
            raise
    return EXIT_FAILED if failed else EXIT_DONE


def verify_models(words: Sequence[str], _offline: bool) -> int:
    """Hash the named entries, or all that are here, and compare; 1 when one is missing, changed or unknown."""
    entries = _named(words, "verify") if words else [entry for entry in zoo() if entry_path(entry).is_file()]
    if not entries:
        print(f"no model is in {cache_folder()}")
    failed = 0
    for entry in entries:
        if not entry_path(entry).is_file():
            failed += 1
            print(f"not here  {entry.name}: photodrag models download {entry.name} fetches it")
            continue
        verdict = verify(entry)
        failed += not verdict.holds
        print(_verdict_text(entry, verdict))
    return EXIT_FAILED if failed else EXIT_DONE


def print_path(words: Sequence[str], _offline: bool) -> int:
    """Print where one entry's file lies; ModelError when it is not here."""
    if len(words) != 1:
        raise UsageError(f"photodrag models path is followed by {len(words)} names: allowed is one")
    print(cached_path(words[0]))
    return EXIT_DONE


def inspect_model(words: Sequence[str], offline: bool) -> int:
    """Print what a generator file holds."""
    from pipeline import generator_files  # with torch, which the other verbs do not need

    return generator_files.inspect_model(words, offline)


def convert_model(words: Sequence[str], offline: bool) -> int:
    """Write a generator file or a tuned run in another format."""
    from pipeline import generator_files

    return generator_files.convert_model(words, offline)


VERBS: dict[str, Verb] = {
    "list": list_models,
    "download": download_models,
    "verify": verify_models,
    "path": print_path,
    "inspect": inspect_model,
    "convert": convert_model,
}
"""The verbs of `photodrag models` by name."""


def _named(words: Sequence[str], verb: str) -> list[ZooEntry]:
    """The entries that are named, each once; all names are checked before anything is done."""
    if not words:
        raise UsageError(
            f"photodrag models {verb} is followed by nothing: allowed are names that photodrag models list shows"
        )
    return [zoo_entry(name) for name in dict.fromkeys(words)]


def _row(entry: ZooEntry) -> tuple[str, str, str, str, str, str]:
    pixels = "" if entry.resolution is None else f"{entry.width or entry.resolution}x{entry.resolution}"
    size = "" if entry.size_mb is None else f"{entry.size_mb:.0f} MB"
    return entry.name, pixels, entry.subject, size, entry.licence, _presence(entry)


def _presence(entry: ZooEntry) -> str:
    if entry_path(entry).is_file():
        return "here"
    begun = begun_bytes(entry)
    return f"not here, {begun / 1e6:.0f} MB begun" if begun else "not here"


def _verdict_text(entry: ZooEntry, verdict: Verdict) -> str:
    if verdict.holds:
        return f"ok        {entry.name}: sha256 {verdict.found}"
    if verdict.expected is None:
        return (
            f"unknown   {entry.name}: sha256 {verdict.found}; no other is known, photodrag models download "
            f"{entry.name} records it"
        )
    return (
        f"changed   {entry.name}: sha256 {verdict.found} instead of {verdict.expected}; photodrag models download "
        f"{entry.name} fetches it again"
    )
