"""Memory that a training step frees and takes again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
OPTIONS = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28))
"""Parameters of glibc's mallopt: no block of its own mapping, nothing given back, growth by 256 MB at a time."""


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees; True when that is set.

    glibc gives big freed blocks back to the kernel, and the page faults of taking them again took a third of a training
    step on a CPU. Without mallopt (macOS, Windows, musl) nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = [mallopt(option, value) == 1 for option, value in OPTIONS]
    return all(taken)
