"""Keeping what libraries say about damaged files from the person, who is told it in a sentence of ours."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2

# Without any handler, Python prints what Pillow logs of damaged files.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_lock = threading.Lock()
_inside = 0
_kept = -1
"""How many are inside of `quietly`, and the descriptor that standard error had before the first of them."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Python's warnings (Pillow's, of tags that lie) are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """What C libraries (libjpeg, libpng, libtiff) print themselves does not reach standard error.

    That belongs to the whole process: what another thread prints meanwhile is lost, so keep it as short as a decoding.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _kept  # noqa: PLW0603  standard error is one for the process
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        try:
            _kept = os.dup(STDERR)
        except OSError:  # it is closed, so that nobody hears anything
            _kept = -1
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STDERR)
        os.close(nowhere)


def _leave() -> None:
    global _inside, _kept  # noqa: PLW0603
    with _lock:
        _inside -= 1
        if not _inside and _kept >= 0:
            os.dup2(_kept, STDERR)
            os.close(_kept)
            _kept = -1
