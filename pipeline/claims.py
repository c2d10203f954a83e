"""Locks for file systems that have none, such as some network shares: a file that is there while its owner works.

Such a claim outlives an owner that is killed, so it names its owner: host, process and when that process began. On the
same host a claim of a process that is gone is taken over; one of another host cannot be judged, and whoever meets it
is told which file to remove.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

CLAIM_SUFFIX = ".claim"
SETTLE_S = 0.2


class ClaimedError(Exception):
    """Somebody else holds the claim; the message names them, and the file to remove if they are gone."""


@contextlib.contextmanager
def claim(lock_file: Path) -> Iterator[None]:
    """Exclusive use of what `lock_file` stands for, where the system cannot lock it, for the length of a `with` block.

    Raises ClaimedError when a process holds it that is alive or cannot be asked, OSError when no file can be made.
    """
    path = lock_file.with_name(lock_file.name + CLAIM_SUFFIX)
    own = {"pid": os.getpid(), "host": socket.gethostname(), "began": _began(os.getpid()), "id": uuid.uuid4().hex}
    while not _make(path, own):
        owner = _owner(path)
        if owner is not None and not _is_gone(owner):
            raise ClaimedError(
                f"process {owner.get('pid')} on {owner.get('host')} (this disk cannot lock files: if that process has "
                f"ended, remove {path})"
            )
        if owner is None:
            time.sleep(SETTLE_S)  # it may be being written at this moment
            owner = _owner(path)
            if owner is not None:
                continue
        _take_away(path, owner)
    try:
        yield
    finally:
        if (_owner(path) or {}).get("id") == own["id"]:
            path.unlink(missing_ok=True)


def _make(path: Path, own: dict[str, object]) -> bool:
    """Put the claim there, whole, unless one is there: a file under another name is linked, or else created anew."""
    content = json.dumps(own).encode()
    temporary = path.with_name(f".tmp-{own['id']}-{path.name.lstrip('.')}")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # no hard links either
        try:
            with path.open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _owner(path: Path) -> dict[str, object] | None:
    """Who holds the claim; None when it is gone, or holds nothing that can be read (its owner was killed over it)."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _is_gone(owner: dict[str, object]) -> bool:
    """Whether the owner is a process of this host that has ended; its number may belong to a younger one by now."""
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is alive and somebody else's
    return owner.get("began") != _began(pid)


def _began(pid: int) -> str | None:
    """When a process began, in the system's own count; None where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _take_away(path: Path, owner: dict[str, object] | None) -> None:
    """Remove a claim whose owner is gone, unless another process has put its own there meanwhile."""
    aside = path.with_name(f".tmp-{uuid.uuid4().hex}-gone")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _owner(aside) != owner:  # a newer one was taken by mistake: it is put back
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)
