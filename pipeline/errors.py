"""From errors to what a person sees: one sentence and an exit code."""

from __future__ import annotations

from data.errors import ModelError, NoFaceError, PhotodragError, PhotoError, UsageError
from pipeline.foreign_json import printable

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
    "one_line",
    "sentence",
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
    text = one_line(error)
    if not isinstance(error, PhotodragError):
        text = f"{type(error).__name__}: {text or 'no message'} (unforeseen; --debug shows where it happened)"
    text = printable(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."
