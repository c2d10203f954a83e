"""The zoo's files in the cache: brought, checked against their sha256, recorded in `hashes.json`, checked again later.

A published hash is in the registry. Where there is none, the first download records what came, and later ones must
match. Of a trunk of LPIPS only the convolutions are kept, so what is recorded is the hash of the smaller file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import ModelError
from data.files import file_sha256, sync_folder, write_atomically
from pipeline.downloads import DownloadError, Policy, fetch, forget_part, part_path
from pipeline.known_hashes import HASHES_FILE, known_sha256, read_hashes
from pipeline.locks import LockedError, file_lock
from pipeline.zoo import CACHE_VARIABLE, OFFLINE_VARIABLE, ZooEntry, cache_folder, entry_path

LOCK_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file in the cache is what it should be; `expected` is None when nobody has ever known its hash."""

    found: str
    expected: str | None

    @property
    def holds(self) -> bool:
        """Whether the file is known and unchanged."""
        return self.found == self.expected


def bring(entry: ZooEntry, offline: bool, say: Callable[[str], None]) -> Path:
    """The entry's file, fetched unless it is here and unchanged; `say` gets one line for whatever is worth knowing.

    Raises DownloadError when it cannot be fetched or is another file than the one that is known.
    """
    target = entry_path(entry)
    _make_folder(target.parent)
    with _locked(entry, target):
        if target.is_file() and _settle(entry, target, offline, say):
            return target
        url = _address(entry, target, offline)
        size_text = "" if entry.size_mb is None else f", about {entry.size_mb:.0f} MB"
        say(f"{entry.name}: {url}{size_text}; licence: {entry.licence}")
        limit = Policy().max_bytes if entry.size_mb is None else int(entry.size_mb * 2e6)
        part = fetch(url, target, entry.name, Policy(max_bytes=limit))
        _accept(entry, part, target, say)
        _publish(entry, part, target)
    say(f"{entry.name}: {target}")
    return target


def verify(entry: ZooEntry) -> Verdict:
    """Hash the entry's file, which must be here, and compare; ModelError when it cannot be read."""
    path = entry_path(entry)
    try:
        return Verdict(file_sha256(path), known_sha256(entry))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): see that you may read it.") from error


def record_sha256(entry: ZooEntry, sha256: str) -> None:
    """Write the hash of an entry into the record; another process that does so at the same time is waited for."""
    path = cache_folder() / HASHES_FILE
    try:
        with _writable(path), file_lock(path.with_name(f".{HASHES_FILE}.lock"), LOCK_WAIT_S):
            hashes = read_hashes() | {entry.name: sha256}
            write_atomically(path, (json.dumps(hashes, indent=2, sort_keys=True) + "\n").encode())
    except LockedError as error:
        raise DownloadError(f"{path} is held by {error}: give the command again when that has ended.") from error


def begun_bytes(entry: ZooEntry) -> int:
    """How much of an unfinished download is here."""
    part = part_path(entry_path(entry))
    return part.stat().st_size if part.is_file() else 0


def _settle(entry: ZooEntry, target: Path, offline: bool, say: Callable[[str], None]) -> bool:
    """Whether the file that is here can stay; a changed one is put aside, unless it could not be fetched again."""
    verdict = verify(entry)
    if verdict.expected is None:
        _record_first(entry, verdict.found, say)
        return True
    if verdict.holds:
        say(f"{entry.name}: {target} is here and unchanged")
        return True
    if offline or entry.url is None:
        raise DownloadError(_changed_text(entry, target, verdict))
    say(f"{_changed_text(entry, target, verdict)}; it is now {_put_aside(target, target)}")
    return False


def _address(entry: ZooEntry, target: Path, offline: bool) -> str:
    """The address to fetch from; DownloadError when there is none, or when nothing may be fetched."""
    if entry.url is None:
        raise DownloadError(
            f"{entry.name} cannot be fetched by a program: get the file at {entry.page}, put it at {target}, and give "
            "the same command again."
        )
    if offline:
        raise DownloadError(
            f"{entry.name} is not here and is not fetched, as --offline or {OFFLINE_VARIABLE} is given: leave it away, "
            f"or fetch {entry.url} elsewhere and put it at {target}."
        )
    return entry.url


def _accept(entry: ZooEntry, part: Path, target: Path, say: Callable[[str], None]) -> None:
    """Compare what came with what is known; a file that does not match is put aside and never gets its name."""
    digest = file_sha256(part)
    expected = entry.sha256 or (read_hashes().get(entry.name) if entry.is_generator else None)
    if expected is None:
        _record_first(entry, digest, say)
    elif digest != expected:
        aside = _put_aside(part, target)
        forget_part(target)
        source = "published" if entry.sha256 else f"recorded in {cache_folder() / HASHES_FILE}"
        raise DownloadError(
            f"{entry.name}: what {entry.url} sent has the sha256 {digest}, {source} is {expected}: it was put aside as "
            f"{aside}; give the command again, and if it stays so, the file at that address is another one now."
        )


def _record_first(entry: ZooEntry, sha256: str, say: Callable[[str], None]) -> None:
    record_sha256(entry, sha256)
    say(
        f"{entry.name}: its sha256 was not known; {sha256} is recorded in {cache_folder() / HASHES_FILE}, and later "
        "downloads must match it"
    )


def _publish(entry: ZooEntry, part: Path, target: Path) -> None:
    """Give the checked file its name, whole or not at all; of a trunk, only what LPIPS needs."""
    with _writable(target):
        if entry.is_generator:
            os.replace(part, target)
            sync_folder(target.parent)
        else:
            from pipeline.trunks import convolutions_only

            write_atomically(target, convolutions_only(part))
            record_sha256(entry, file_sha256(target))
        forget_part(target)


def _put_aside(path: Path, target: Path) -> Path:
    """Rename a file that is not what it should be, so that nobody takes it for the real one."""
    number = 1
    while (aside := target.with_name(f"{target.name}.rejected-{number}")).exists():
        number += 1
    with _writable(aside):
        os.replace(path, aside)
    return aside


def _changed_text(entry: ZooEntry, target: Path, verdict: Verdict) -> str:
    return f"{entry.name}: {target} has the sha256 {verdict.found}, and {verdict.expected} is known"


def _make_folder(folder: Path) -> None:
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _locked(entry: ZooEntry, target: Path) -> Iterator[None]:
    """One process at a time at a target; DownloadError names the one that is at it."""
    with contextlib.ExitStack() as held:
        with _writable(target):
            try:
                held.enter_context(file_lock(target.with_name(f".{target.name}.lock")))
            except LockedError as error:
                raise DownloadError(
                    f"{entry.name} is being fetched by {error}: wait until it has ended, and give the command again."
                ) from error
        yield


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence about the cache."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written ({error.strerror or error}): choose a folder that you may write to with "
            f"{CACHE_VARIABLE}=FOLDER."
        ) from error
