"""Out of memory: which errors mean it, and what to ask less of.

Imports neither torch nor OpenCV: the command line knows their errors by name and words.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from data.errors import MemoryShortError, PhotodragError

_WORDS = (
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # torch on Windows
    "out of memory",  # CUDA, and torch on other devices
    "insufficient memory",  # OpenCV
    "bad allocation",
    "bad_alloc",  # C++
    "cannot allocate memory",  # the C library
    "unable to allocate",  # NumPy
    "can't start new thread",  # a thread's stack did not fit
)
_LESS = {
    "align": "a smaller photo, or align.upsample_max=0",
    "invert": "invert.batch=1, invert.compare_px=128 or invert.frame_every=0",
    "tune": "tune.rank=8, tune.compare_px=128 or invert.frame_every=0, and tune.shared=false for several faces",
    "measure": "measure.metrics=false",
    "edit": "a larger edit.frame_every, or edit.method=points",
    "blend": "a smaller photo, or blend.stitch=0",
}
"""What takes less memory in each stage, as half a sentence behind "give"."""
_ANYWHERE = "a smaller photo, a smaller generator, or executor.workers=1 where several photos run at once"


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that memory was used up, in this program's or the device's."""
    if isinstance(error, PhotodragError):
        return isinstance(error, MemoryShortError)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return any(words in text for words in _WORDS)


def shortage(error: BaseException, stage: str | None = None) -> MemoryShortError:
    """The sentence for an error that `is_shortage`: where it happened, and what takes less."""
    if isinstance(error, MemoryShortError):
        return error
    where = "" if stage is None else f" in the stage {stage}"
    device = "The GPU's memory" if "cuda" in f"{type(error).__module__} {error}".lower() else "The memory"
    less = _LESS.get(stage or "", _ANYWHERE)
    slower = ", or device=cpu" if device != "The memory" else ""
    return MemoryShortError(
        f"{device} is used up{where}: give {less}{slower}, or close other programs; finished stages and the last "
        "checkpoint are kept, and the same command goes on from there."
    )


@contextlib.contextmanager
def naming_shortage(stage: str | None = None) -> Iterator[None]:
    """Turn an error of the block that means too little memory into MemoryShortError; all others pass."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise shortage(error, stage) from error
