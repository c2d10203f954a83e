"""What the doctor asks of the place where it is called: the current folder, its disk, and the limits of the process."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from pipeline.claims import CLAIM_SUFFIX
from pipeline.doctor_check import Check, Status
from pipeline.errors import one_line
from pipeline.locks import LockedError, file_lock

NEEDED_DISK_GB = 1.0
NEEDED_ADDRESS_SPACE_GB = 16.0
NEEDED_FILES = 256
MOST_CLOCK_DIFFERENCE_S = 60.0
FIRST_YEAR = 2025

CLAIMED = "this disk has none; files that say who works stand for them (docs/resilience.md)"
GIVES_LOCK = "run folders that two processes at once cannot damage"


def check_disk() -> Iterator[Check]:
    """The free space of the current folder's disk."""
    free_gb = shutil.disk_usage(".").free / 1e9
    enough: Status = "ok" if free_gb >= NEEDED_DISK_GB else "missing"
    yield Check("disk", enough, f"{free_gb:.1f} GB free here", "room for run folders", "out=FOLDER on another disk")


def check_folder() -> Iterator[Check]:
    """Whether a run folder can be made here, whether locks count on this disk, and whether its clock is ours.

    A folder is made, used and removed again; nothing else is touched.
    """
    try:
        made = Path(tempfile.mkdtemp(prefix=".photodrag_doctor_", dir="."))
    except OSError as error:
        found = f"{Path.cwd()} cannot be written ({error.strerror or one_line(error)})"
        yield Check("run folder", "missing", found, "run folders here", "cd to another folder, or out=FOLDER")
        return
    try:
        yield Check("run folder", "ok", f"can be made in {Path.cwd()}")
        yield check_lock(made / "lock")
        yield check_clock(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_lock(path: Path) -> Check:
    """Whether a lock that is held is refused to another; some network disks grant it to everyone, some have none."""
    mend = "out=FOLDER on a local disk, or never two processes at one photo"
    try:
        with file_lock(path):
            try:
                with file_lock(path):
                    return Check("locks", "optional", "a lock here is granted twice", GIVES_LOCK, mend)
            except LockedError:
                claimed = path.with_name(path.name + CLAIM_SUFFIX).exists()
                return Check("locks", "ok", CLAIMED if claimed else "hold on this disk")
    except (OSError, LockedError) as error:
        return Check("locks", "optional", f"cannot be had on this disk ({one_line(error)})", GIVES_LOCK, mend)


def check_clock(folder: Path) -> Check:
    """Whether the machine's clock is set, and goes as the disk's, whose times tell left-overs from fresh files."""
    path = folder / "clock"
    path.write_bytes(b"")
    now = time.time()
    difference_s = path.stat().st_mtime - now
    shown = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    gives, mend = "downloads, whose certificates have dates", "set the clock, as with timedatectl set-ntp true"
    if datetime.fromtimestamp(now, timezone.utc).year < FIRST_YEAR:
        return Check("clock", "optional", f"{shown} is past", gives, mend)
    if abs(difference_s) > MOST_CLOCK_DIFFERENCE_S:
        found = f"{shown}; the disk's clock differs by {difference_s:.0f} s"
        return Check("clock", "optional", found, "times in lists and reports that are right", mend)
    return Check("clock", "ok", shown)


def check_limits() -> Iterator[Check]:
    """What this process may use at most: open files, addresses, length of a file; and if a crash leaves a core file."""
    if sys.platform == "win32":
        yield Check("limits", "ok", "not known on this system")
        return
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= files < NEEDED_FILES
    found = f"{shown_limit(files)} at once"
    yield Check(
        "open files", "optional" if few else "ok", found, "a batch and the studio", f"ulimit -n {NEEDED_FILES * 4}"
    )
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    small = 0 <= space < NEEDED_ADDRESS_SPACE_GB * 1e9
    found = shown_limit(space, 1e9, " GB")
    gives = "torch, which reserves far more addresses than it fills with memory"
    yield Check("address space", "optional" if small else "ok", found, gives, "ulimit -v unlimited")
    length = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    short = 0 <= length < NEEDED_DISK_GB * 1e9
    found = shown_limit(length, 1e6, " MB")
    yield Check("file size", "optional" if short else "ok", found, "large photos and generators", "ulimit -f unlimited")
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    found = "none is written" if core == 0 else "written after a crash, with the photo in it; ulimit -c 0 forbids it"
    yield Check("core files", "ok", found)


def shown_limit(value: int, unit: float = 1, name: str = "") -> str:
    """A limit of the operating system in a unit; a negative one is none."""
    return "unlimited" if value < 0 else f"{value / unit:.0f}{name}"


def processor_threads() -> str:
    """How many threads this process may use, of those that the machine has."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{affinity} of {os.cpu_count()}"
