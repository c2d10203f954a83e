"""Progress bars whose rate and time left survive a clock that is set while they run; and that of a batch of photos."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

TICK_S = 1.0
"""How often the bar of a batch is drawn on a terminal while no photo ends."""


def steady_bar(**options: Any) -> tqdm:
    """A tqdm bar on standard error that counts by the monotonic clock; tqdm itself goes by the time of day."""
    bar = tqdm(file=sys.stderr, dynamic_ncols=True, **options)
    if not bar.disable:
        bar._time = time.monotonic
        bar.start_t = bar.last_print_t = time.monotonic()
    return bar


class PhotoBar:
    """Progress of a batch, whose rate and time left count only the photos that this call computes."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self._failed = 0

    def step(self, computed: bool, failed: bool) -> None:
        """One more photo has ended; computed: by a worker, in this call."""
        if self._bar.disable:
            return
        if not computed:
            self._bar.initial += 1
        if failed:
            self._failed += 1
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(1)


@contextlib.contextmanager
def photo_bar(count: int, shown: bool) -> Iterator[PhotoBar]:
    """The bar of a batch of `count` photos, for the length of a `with` block."""
    with (
        steady_bar(total=count, desc="photos", unit="photo", disable=not shown, smoothing=0) as bar,
        _ticking(bar),
    ):
        yield PhotoBar(bar)


@contextlib.contextmanager
def _ticking(bar: tqdm) -> Iterator[None]:
    """Draw a bar on a terminal again and again: a photo may take minutes, and what stands still looks dead."""
    if bar.disable or not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()

    def tick() -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is the main thread's
        while not ended.wait(TICK_S):
            bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
