"""The one tree of errors whose message is meant for the user.

Each message is one sentence that says what was given, what is allowed and the command or setting that mends it.
The command line prints the message alone, without a traceback.
"""


class PhotodragError(Exception):
    """Any failure that the user can understand and mend."""


class UsageError(PhotodragError):
    """An option, path or value that cannot be used as it was given (exit code 2)."""


class PhotoError(PhotodragError):
    """A photo that is missing, damaged, too large, of an unsupported kind, or that may not be written there."""


class NoFaceError(PhotodragError):
    """No face was found, or not the one that was asked for; the message says what was tried."""


class ModelError(PhotodragError):
    """A model file that is missing, damaged or of the wrong kind."""


class OutputError(PhotodragError):
    """What was made cannot be written: the disk is full, read-only or closed to this user."""


class ClusterError(PhotodragError):
    """A cluster that does not answer, or that cannot take the work."""


class MemoryShortError(PhotodragError):
    """More memory is needed than there is; the message says what takes less."""
