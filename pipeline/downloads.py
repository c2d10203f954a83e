"""Fetching one large file: over https, resumed where an earlier try stopped, never half-written under its own name.

A file in progress is `<target>.part`; `<target>.part.json` says which file at which server it is the beginning of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

from data.errors import PhotodragError
from data.files import write_atomically
from pipeline import __version__
from pipeline.bars import steady_bar

BLOCK_BYTES = 1 << 18
SPARE_BYTES = 100_000_000
"""What must stay free on the disk."""
PROGRESS_BYTES = 1 << 20
"""A try that brought this much does not count as a failure: slow lines drop often and still get there."""
PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class DownloadError(PhotodragError):
    """A file that could not be fetched, or that is not the one that was meant."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to try, and how much to take; `tries` counts those in a row that brought next to nothing."""

    max_bytes: int = 4_000_000_000
    tries: int = 4
    backoff_s: float = 1.0
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PartState:
    """Which file a part is the beginning of: where it came from, the server's marks of its version, its whole size."""

    url: str
    etag: str | None
    modified: str | None
    total: int

    @property
    def version(self) -> str | None:
        """What If-Range takes: a strong ETag or a date; None when a change could not be noticed."""
        return self.etag if self.etag is not None and not self.etag.startswith("W/") else self.modified


class _DroppedError(Exception):
    """A try that another one may follow; the message says what happened."""


class _StaleError(_DroppedError):
    """The part is not the beginning of what the server has now: the next try begins anew."""


def part_path(target: Path) -> Path:
    """Where the beginning of a file in progress lies."""
    return target.with_name(f"{target.name}.part")


def fetch(url: str, target: Path, label: str, policy: Policy | None = None) -> Path:
    """Bring the whole file at `url` to `part_path(target)` and return that; goes on from what is there.

    The caller holds the lock of the target, checks what came and gives it its name. An interruption keeps the part.
    Raises DownloadError when the server refuses, the disk is too small, or `policy.tries` tries brought nothing.
    """
    policy = policy or Policy()
    check_url(url)
    part = part_path(target)
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch_once(url, target, label, policy)
            return part
        except _DroppedError as error:
            if isinstance(error, _StaleError):
                forget_part(target)
            failures = 1 if _size(part) - before >= PROGRESS_BYTES else failures + 1
            if failures >= policy.tries:
                raise DownloadError(
                    f"{label} could not be fetched from {url} ({error}): {_size(part) / 1e6:.0f} MB are kept, and the "
                    "same command goes on from there; without a connection, fetch it elsewhere and put it at "
                    f"{target}."
                ) from error
            wait_s = policy.backoff_s * 2 ** (failures - 1)
            tqdm.write(f"{label}: {error}; next try in {wait_s:.0f} s", file=sys.stderr)
            time.sleep(wait_s)


def forget_part(target: Path) -> None:
    """Remove a part and what is known of it."""
    part = part_path(target)
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def check_url(url: str) -> None:
    """Raise DownloadError unless the address is https, or http on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
        raise DownloadError(f"{url} is not fetched: allowed are https addresses, as nobody on the way can change them.")


def _fetch_once(url: str, target: Path, label: str, policy: Policy) -> None:
    """One connection: everything that is missing, or _DroppedError with the part kept as far as it came."""
    part = part_path(target)
    state = _read_state(part, url)
    offset = 0 if state is None else _size(part)
    if state is not None and offset == state.total:
        return
    by_hand = f"fetch it by hand, and put it at {target}."
    with _open(url, state, offset, policy, by_hand) as response:
        found = _state_of(response, url, offset, by_hand)
        if response.status != 206:  # the whole file: there was no part, it has changed, or the server knows no ranges
            offset = 0
        elif state is not None and _differs(found, state):
            raise _StaleError("the file at the server has changed and is fetched anew")
        _check_size(found.total, offset, part, label, policy)
        with _writing(part, label):
            if not offset:
                part.unlink(missing_ok=True)
                write_atomically(_state_path(part), json.dumps(dataclasses.asdict(found)).encode())
            _copy(response, part, offset, found.total, label)


@contextlib.contextmanager
def _writing(part: Path, label: str) -> Iterator[None]:
    """Turn an OSError of the disk into one sentence; what came is kept."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DownloadError(_room_text(label, "more room than is left", part.parent)) from error
        reason = error.strerror or str(error)
        raise DownloadError(
            f"{part} cannot be written ({reason}): choose a folder that you may write to with PHOTODRAG_CACHE=FOLDER."
        ) from error


@contextlib.contextmanager
def _open(url: str, state: PartState | None, offset: int, policy: Policy, by_hand: str) -> Iterator[Any]:
    """The server's answer to a request for what is missing; `by_hand` ends the sentence when it refuses for good."""
    headers = {"User-Agent": f"photodrag/{__version__}", "Accept-Encoding": "identity"}
    if state is not None and offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": str(state.version)}
    opener = urllib.request.build_opener(_CheckedRedirects())
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=policy.timeout_s)
    except HTTPError as error:
        raise _refusal(error, url, offset, by_hand) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{url} is not fetched, as its certificate is not trusted here ({reason.verify_message}): check this "
                "machine's clock and certificates."
            ) from error
        raise _DroppedError(f"no connection: {reason or type(reason).__name__}") from error
    with response:
        yield response


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows the server elsewhere only over addresses that would be allowed themselves."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refusal(error: HTTPError, url: str, offset: int, by_hand: str) -> Exception:
    """What an answer that is no file means: worth another try, or the end."""
    error.close()
    if error.code in PASSING_CODES:
        return _DroppedError(f"the server answers {error.code} {error.reason}")
    if error.code == 416 and offset:
        return _StaleError("the file at the server is shorter than before and is fetched anew")
    return DownloadError(
        f"{url} answers {error.code} {error.reason}, as if the file were not there any more or not for everyone: "
        f"{by_hand}"
    )


def _state_of(response: Any, url: str, offset: int, by_hand: str) -> PartState:
    """What the server says of the file; DownloadError when it sends something else, or does not say how long it is."""
    headers = response.headers
    if response.status not in (200, 206) or headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{url} answers with a page (status {response.status}, {headers.get_content_type()}) instead of the file: "
            f"{by_hand}"
        )
    total = headers.get("Content-Length")
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None or int(match[1]) != offset:
            raise _StaleError("the server sends another part than was asked for; the file is fetched anew")
        total = match[2]
    if total is None or not total.isdigit():
        raise DownloadError(f"{url} does not say how long its file is, so that a cut would not be noticed: {by_hand}")
    return PartState(url, headers.get("ETag"), headers.get("Last-Modified"), int(total))


def _differs(found: PartState, state: PartState) -> bool:
    """Whether the server's marks show another version than the part's; a mark that is missing shows nothing."""
    pairs = ((found.etag, state.etag), (found.modified, state.modified))
    return found.total != state.total or any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _check_size(total: int, offset: int, part: Path, label: str, policy: Policy) -> None:
    if total > policy.max_bytes:
        raise DownloadError(
            f"{label} would have {total / 1e6:.0f} MB, allowed are {policy.max_bytes / 1e6:.0f} MB: the address holds "
            "another file than was meant."
        )
    needed = total - offset + SPARE_BYTES
    if shutil.disk_usage(part.parent).free < needed:
        raise DownloadError(_room_text(label, f"{needed / 1e6:.0f} MB", part.parent))


def _room_text(label: str, needed: str, folder: Path) -> str:
    free_mb = shutil.disk_usage(folder).free / 1e6
    return (
        f"{label} needs {needed}, and the disk of {folder} has {free_mb:.0f} MB: free some, or choose another folder "
        "with PHOTODRAG_CACHE=FOLDER; what has come is kept, and the same command goes on from there."
    )


def _copy(response: Any, part: Path, offset: int, total: int, label: str) -> None:
    """Append what the server sends until the part is whole and on the disk."""
    bar = steady_bar(
        desc=label,
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        disable=None,  # shown on a terminal, not in a log
    )
    with bar, part.open("ab") as file:
        while offset < total:
            block = _read(response, min(BLOCK_BYTES, total - offset))
            file.write(block)
            offset += len(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())


def _read(response: Any, count: int) -> bytes:
    """At most `count` bytes, as soon as some are there; _DroppedError when the connection ends."""
    try:
        block: bytes = response.read1(count)
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(f"the connection was lost: {error or type(error).__name__}") from error
    if not block:
        raise _DroppedError("the connection was lost")
    return block


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> PartState | None:
    """What a part is the beginning of; None when it cannot be continued, so that the file is fetched from its start."""
    try:
        state = PartState(**json.loads(_state_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    usable = state.url == url and state.version is not None and 0 < _size(part) <= state.total
    return state if usable else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
