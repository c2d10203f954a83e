"""From errors to what a person sees: one sentence and an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from data.errors import ModelError, NoFaceError, PhotodragError, PhotoError, UsageError
from pipeline.foreign_json import printable
from pipeline.shortage import is_shortage, shortage

__all__ = [
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "INTERRUPTED",
    "ModelError",
    "NoFaceError",
    "PhotoError",
    "PhotodragError",
    "UsageError",
    "exit_code",
    "naming_stage",
    "one_line",
    "sentence",
    "stage_of",
]

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

INTERRUPTED = "interrupted: what is finished is kept, and the same command continues where it stopped."


def exit_code(error: BaseException) -> int:
    """2 for a usage error, 130 for an interruption, 1 for everything else."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FAILED


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def sentence(error: BaseException) -> str:
    """What is printed for an error: one printable line, ending in a full stop; an unforeseen one names its type."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_shortage(error):
        error = shortage(error)
    text = one_line(error)
    if not isinstance(error, PhotodragError):
        text = f"{type(error).__name__}: {text or 'no message'} (unforeseen; --debug shows where it happened)"
    text = printable(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."


@contextlib.contextmanager
def naming_stage(stage: str) -> Iterator[None]:
    """Let an error of the block tell which stage it ended."""
    try:
        yield
    except Exception as error:
        if stage_of(error) is None:
            error.__dict__["photodrag_stage"] = stage
        raise


def stage_of(error: BaseException) -> str | None:
    """The stage that an error ended, None when it came before any."""
    stage = error.__dict__.get("photodrag_stage")
    return None if stage is None else str(stage)
