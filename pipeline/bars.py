"""Progress bars whose rate and time left survive a clock that is set while they run."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm


def steady_bar(**options: Any) -> tqdm:
    """A tqdm bar on standard error that counts by the monotonic clock; tqdm itself goes by the time of day."""
    bar = tqdm(file=sys.stderr, dynamic_ncols=True, **options)
    if not bar.disable:
        bar._time = time.monotonic
        bar.start_t = bar.last_print_t = time.monotonic()
    return bar
