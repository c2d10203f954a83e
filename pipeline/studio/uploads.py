"""Receiving a photo that a page sends: into a temporary file, within limits, and looked at before it is decoded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from data.errors import PhotodragError, PhotoError, UsageError

MOST_AT_ONCE = 3
MOST_NAME = 120
"""Letters of a display name."""
BLOCK_BYTES = 1 << 20
"""Bytes that are written at once."""


PREFIX = "arriving-"
LEFT_OVER_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest photo: bytes of its file, pixels of its picture."""

    bytes: int = 200_000_000
    pixels: int = 100_000_000


def remove_left_over(folder: Path) -> None:
    """Remove what a studio that was killed left half received; files of today may be another studio's."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{PREFIX}*"):
            if time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS:
                path.unlink(missing_ok=True)


class TooLargeError(PhotodragError):
    """A file with more bytes than are allowed."""


class BusyError(PhotodragError):
    """Too many files are being received."""


class StorageError(PhotodragError):
    """The disk does not take the file."""


class Inbox:
    """Where files arrive: at most a few at once, each removed unless somebody took it over."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._arriving = 0

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """One of the few places; only the event loop's thread counts them."""
        if self._arriving >= MOST_AT_ONCE:
            raise BusyError(f"{MOST_AT_ONCE} photos are being received already: wait until one of them is there.")
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    @contextlib.asynccontextmanager
    async def receive(self, declared: str | None, body: AsyncIterator[bytes]) -> AsyncIterator[Path]:
        """The file with the bytes of `body`, there as long as the block lasts; `declared` is its Content-Length.

        Raises TooLargeError before any byte is read or as soon as there are too many, BusyError, StorageError, and
        PhotoError for nothing at all.
        """
        self._check_declared(declared)
        with self._place(), self._file() as (path, handle):
            await self._fill(handle, body)
            yield path

    def _check_declared(self, declared: str | None) -> None:
        if declared is None:
            return
        if not (declared.isascii() and declared.isdigit()):
            raise UsageError("The length of the photo is no number: send the file as it is.")
        if int(declared[:20]) > self._limits.bytes:
            raise self._too_large()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"The file has more than {self._limits.bytes / 1e6:g} MB, which is the limit: make the photo smaller first."
        )

    @contextlib.contextmanager
    def _file(self) -> Iterator[tuple[Path, int]]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=PREFIX)
        except OSError as error:
            raise _not_stored(error) from error
        try:
            yield Path(name), handle
        finally:
            with contextlib.suppress(OSError):
                os.close(handle)
            with contextlib.suppress(OSError):
                Path(name).unlink(missing_ok=True)

    async def _fill(self, handle: int, body: AsyncIterator[bytes]) -> None:
        count, waiting = 0, bytearray()
        async for block in body:
            count += len(block)
            if count > self._limits.bytes:
                raise self._too_large()
            waiting += block
            if len(waiting) >= BLOCK_BYTES:
                await asyncio.to_thread(_write, handle, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(_write, handle, bytes(waiting))
        if not count:
            raise PhotoError("The file is empty (0 bytes): give a photo.")


def _write(handle: int, block: bytes) -> None:
    view = memoryview(block)
    try:
        while view:
            view = view[os.write(handle, view) :]
    except OSError as error:
        raise _not_stored(error) from error


def _not_stored(error: OSError) -> StorageError:
    return StorageError(
        f"The photo cannot be stored ({error.strerror or error}): make room on the disk, or start the studio with "
        "out=FOLDER on another one."
    )


def display_name(given: str | None) -> str:
    """The name that the page gave, percent-encoded, as it may be shown: no folders, no control characters, not long.

    It never becomes a path.
    """
    text = unicodedata.normalize("NFC", unquote((given or "")[: 12 * MOST_NAME], errors="replace"))
    text = text.replace("\\", "/").rsplit("/", 1)[-1]
    # Control characters, the invisible ones that turn the direction of writing, halves of characters.
    text = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    text = " ".join(text.split()).lstrip(".")
    if len(text) > MOST_NAME:
        stem, dot, suffix = text.rpartition(".")
        text = f"{stem[: MOST_NAME - 9]}.{suffix[:8]}" if dot and stem else text[:MOST_NAME]
    return text or "photo"
