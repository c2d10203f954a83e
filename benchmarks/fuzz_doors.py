"""One bad photo through the program's doors, in a process of its own: what came of it, and what it took.

The doors are reading, aligning, writing (an edit of a few pixels, then the same in every other format) and the command
line. The process has a limit of memory, and each door a limit of time; a native crash ends nothing but the process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.bad_photo_parts import good_photos
from data.colour import srgb_picture
from data.errors import NoFaceError, PhotodragError
from data.metadata import AI_EDITED
from data.photo import MAX_PIXELS, Photo, PhotoFormat, encode_photo, read_photo
from data.photo_decode import decode_photo
from pipeline.cli import main
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from pipeline.schema import AlignConfig
from pipeline.stages import align

DOORS = ("read", "align", "write", "convert", "command line")
LIMIT_S = 60.0
"""For each door, of the processor's time, or of time in which nothing is computed: a busy machine makes no hang."""
IDLE_SHARE = 0.01
"""Of the limit: a process that had less of the processor's time meanwhile waits for something."""
PROCESS_BYTES = 8_000_000_000
"""Of address space beyond what the process has when it begins."""
PIXELS_PER_PHOTO = 4
"""How many times its own memory a photo may take; its memory is its decoded pixels and its file."""
ALLOWED_BYTES = 100_000_000
"""Beside that: code of decoders and of the interpreter that is read in on the way, and their tables. A good photo of
104 x 96 pixels takes more than half of it."""
SEARCH_BYTES = 1_500_000_000
"""Beside that where faces are searched: dlib looks at the photo enlarged to up to 30 MP, however small its file is."""
CONVERTED_PIXELS = 4_000_000
"""Larger photos are written in their own format only."""
LETTERS = 700
"""No sentence is longer."""


@dataclass
class Told:
    """What came of one photo. `outcomes` by door: `result`, or the sentence. `faults` are what must not be."""

    outcomes: dict[str, str] = field(default_factory=dict)
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    over_memory: list[str] = field(default_factory=list)
    noises: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    photo_bytes: int = 0
    peak_bytes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False

    @property
    def faults(self) -> list[str]:
        return [*self.tracebacks, *self.hangs, *self.over_memory, *self.noises, *self.wrong]

    @property
    def opened(self) -> bool:
        """Whether the photo could be read."""
        return self.outcomes.get("read") == "result"


def through_the_doors(path: str, limit_s: float = LIMIT_S, doors: Sequence[str] = DOORS) -> Told:
    """What comes of a photo in a process of its own; must be called where no other thread runs."""
    _warm_up()
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            _in_child(path, writing, doors)
        os._exit(0)
    os.close(writing)
    told = _listened(reading, child, limit_s)
    told.seconds = time.monotonic() - started
    return told


@cache
def _warm_up() -> None:
    """Once for a process that forks: load what every door needs, without a thread that a fork would not have."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(prefix="photodrag-fuzz-") as folder:
        path = Path(folder, "good.png")
        path.write_bytes(good_photos()["rgb.png"])
        with contextlib.redirect_stdout(io.StringIO()):
            code = main(["stages=[align]", f"out={folder}/out", "progress=false", str(path)])
    threads = len(os.listdir("/proc/self/task"))
    assert (code, threads) == (EXIT_DONE, 1), (code, threads)


def _listened(reading: int, child: int, limit_s: float) -> Told:
    """What the child says; it is killed when it is silent for too long."""
    told, door, rest, used_s = Told(), DOORS[0], b"", [0.0]
    while True:
        ready, _, _ = select.select([reading], [], [], limit_s)
        if ready:
            used_s = [_computed_s(child)]
        else:
            used_s.append(_computed_s(child))
            if used_s[-1] - used_s[0] < limit_s and used_s[-1] - used_s[-2] > IDLE_SHARE * limit_s:
                continue
            os.kill(child, signal.SIGKILL)
            told.hangs.append(f"{door}: nothing came of it in {limit_s:g} s")
            break
        piece = os.read(reading, 1 << 16)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            said = json.loads(line)
            door = said.pop("door", door)
            for name, value in said.items():
                _add(told, name, value)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if not told.hangs and not told.finished:
        signalled = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "its process ended"
        told.tracebacks.append(f"{door}: {signalled}")
    return told


def _computed_s(process: int) -> float:
    """The processor's time that a process has had, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _add(told: Told, name: str, value: object) -> None:
    here = getattr(told, name)
    if isinstance(here, dict):
        here.update(value)
    elif isinstance(here, list):
        here.append(value)
    else:
        setattr(told, name, value)


class _Child:
    """The doors, and what is told of them through the pipe."""

    def __init__(self, name: str, pipe: int, noise: Path) -> None:
        self.name, self.pipe, self.noise = name, pipe, noise
        self.photo_bytes = self.before = self.taken = 0

    def done(self) -> None:
        """The program's part of a door is done; what checks it afterwards takes memory of its own."""
        self.taken = _peak() - self.before

    def say(self, **said: object) -> None:
        os.write(self.pipe, json.dumps(said).encode() + b"\n")

    def door(self, door: str, action: Callable[[], str]) -> bool:
        """Whether the photo came through: `action` gives what was wrong, or nothing."""
        self.say(door=door)
        self.taken, before = 0, _begin_peak()
        self.before = before
        outcome, passed = "result", True
        try:
            wrong = action()
            if wrong:
                self.say(wrong=f"{door}: {wrong}")
        except PhotodragError as error:
            outcome, passed = str(error), isinstance(error, NoFaceError)
            self.check_sentence(door, outcome)
        except BaseException as error:  # noqa: BLE001  what must never be
            outcome, passed = "traceback", False
            self.say(tracebacks=f"{door}: {type(error).__name__}: {error}"[:LETTERS])
        self.peak(door, self.taken or _peak() - before)
        self.say(outcomes={door: outcome})
        self.silence(door)
        return passed

    def check_sentence(self, door: str, text: str) -> None:
        bad = len(text) > LETTERS or not text.endswith((".", "!", "?")) or not text.isprintable()
        if bad or "unforeseen" in text:
            self.say(tracebacks=f"{door}: no sentence: {text[:LETTERS]!r}")

    def peak(self, door: str, taken: int) -> None:
        searching = door in ("align", "command line")
        allowed = PIXELS_PER_PHOTO * self.photo_bytes + ALLOWED_BYTES + searching * SEARCH_BYTES
        self.say(peak_bytes={door: taken})
        if taken > allowed:
            self.say(over_memory=f"{door}: {taken / 1e6:.0f} MB where {allowed / 1e6:.0f} are allowed")

    def silence(self, door: str) -> None:
        """A library that prints is heard by the person."""
        printed = self.noise.read_bytes()
        os.truncate(self.noise, 0)
        if printed:
            self.say(noises=f"{door} printed {printed[:300]!r}")


def _in_child(path: str, pipe: int, doors: Sequence[str]) -> None:
    os.setpgid(0, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + PROCESS_BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = tempfile.mkdtemp(prefix="photodrag-fuzz-")
    tempfile.tempdir = folder
    noise = Path(folder, "noise")
    handle = os.open(noise, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    where, name = os.path.split(path)
    os.chdir(where)
    try:
        _all_doors(_Child(name, pipe, noise), folder, doors)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _all_doors(child: _Child, folder: str, doors: Sequence[str]) -> None:
    held: list[Photo] = []

    def read() -> str:
        held.append(read_photo(child.name))
        return ""

    file_bytes = os.path.getsize(child.name) if os.path.isfile(child.name) else 0
    child.photo_bytes = min(file_bytes, 2_000_000_000) * (file_bytes <= 2_000_000_000) + _said_bytes(child.name)
    child.say(photo_bytes=child.photo_bytes)
    if child.door("read", read):
        photo = held[0]
        child.photo_bytes = photo.pixels.nbytes + (0 if photo.alpha is None else photo.alpha.nbytes) + file_bytes
        child.say(photo_bytes=child.photo_bytes)
        work = {"align": _aligned, "write": partial(_written, child.done), "convert": _converted}
        for door in (door for door in doors if door in work):
            if door != "convert" or photo.pixels.size < 3 * CONVERTED_PIXELS:
                child.door(door, partial(work[door], photo))
        del photo
    held.clear()
    if "command line" in doors:
        _command_line(child, folder)
    child.say(finished=True)


def _said_bytes(name: str) -> int:
    """The bytes of the pixels that a file says to have; 0 where it says nothing, or too much to be decoded at all."""
    if not os.path.isfile(name) or os.path.getsize(name) > 100_000_000:
        return 0
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with _unwarned(), Image.open(name) as image:
            width, height = image.size
            deep = image.mode.startswith("I;16") or _is_deep(name)
            return 0 if width * height > MAX_PIXELS else width * height * 3 * (2 if deep else 1)
    except Exception:  # noqa: BLE001  a damaged file says nothing
        return 0
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_deep(name: str) -> bool:
    head = Path(name).read_bytes()[:25]
    return head[:4] == b"\x89PNG" and head[24:25] == b"\x10"


def _aligned(photo: Photo) -> str:
    srgb_picture(photo.to_u8()[:16, :16], photo.icc)
    crop = align(photo, AlignConfig(), 128).crops[0]
    return "" if np.isfinite(crop.image).all() else "the crop has values that are no numbers"


def _edited(photo: Photo) -> Photo:
    """The photo with a few of its pixels turned over; grey stays grey."""
    pixels = photo.pixels.copy()
    height, width = photo.shape_hw
    patch = np.s_[height // 2 : height // 2 + 5, width // 2 : width // 2 + 5]
    pixels[patch] = photo.max_value - pixels[patch]
    return photo.with_pixels(pixels)


def _written(done: Callable[[], None], photo: Photo) -> str:
    """Write an edit in the photo's own format and read it again: pixels, and the mark of the edit."""
    edited = _edited(photo)
    anew: list[str] = []
    made = encode_photo(edited, edited=True, on_reencoded=anew.append)
    done()
    again = _reread(made)
    if anew and (len(anew) > 1 or not anew[0].isprintable() or len(anew[0]) > LETTERS):
        return f"it is no half sentence why it is compressed anew: {anew}"
    if photo.format != "JPEG":
        return _compared(edited, again, edited.pixels == again.pixels)
    height, width = photo.shape_hw
    same = photo.pixels == again.pixels
    top, left = max(0, height // 2 - 20), max(0, width // 2 - 20)
    same[top : height // 2 + 28, left : width // 2 + 28] = True
    return _compared(edited, again, same | bool(anew))


def _converted(photo: Photo) -> str:
    """Write an edit in every format that can hold the photo."""
    wrong = []
    for format in get_args(PhotoFormat):
        edited = _edited(photo)
        try:
            again = _reread(encode_photo(edited, edited=True, format=format))
        except PhotodragError as error:
            if not str(error).endswith(".") or "damaged" in str(error):
                raise ValueError(f"{format}: {error}") from error
            continue
        exact = format in ("PNG", "TIFF")
        wrong.append(_compared(edited, again, edited.pixels == again.pixels if exact else np.True_))
    return next((text for text in wrong if text), "")


def _reread(data: bytes) -> Photo:
    try:
        return decode_photo(data, "what was written", MAX_PIXELS)
    except PhotodragError as error:
        raise ValueError(f"what was written cannot be read: {error}") from error


def _compared(edited: Photo, again: Photo, same: np.ndarray | np.bool_) -> str:
    if again.shape_hw != edited.shape_hw:
        return f"{edited.shape_hw} became {again.shape_hw} in {again.format}"
    if AI_EDITED.encode() not in (again.xmp or b""):
        return f"the mark of the edit is not in the {again.format}"
    return "" if np.all(same) else f"{np.size(same) - np.count_nonzero(same)} values differ in the {again.format}"


def _command_line(child: _Child, folder: str) -> None:
    child.say(door="command line")
    out, before = Path(folder, "out"), _begin_peak()
    # As Python opens them in a UTF-8 terminal.
    outputs = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")]
    try:
        with contextlib.redirect_stdout(outputs[0]), contextlib.redirect_stderr(outputs[1]):
            code = main(["stages=[align]", f"out={out}", "progress=false", "--", child.name])
            for output in outputs:
                output.flush()
    except BaseException as error:  # noqa: BLE001  what must never be
        child.say(tracebacks=f"command line: {type(error).__name__}: {error}"[:LETTERS])
        code = EXIT_FAILED
    printed = outputs[1].buffer.getvalue().decode("utf-8", "surrogateescape")
    child.peak("command line", _peak() - before)
    child.say(outcomes={"command line": "result" if code == EXIT_DONE else printed.strip()})
    lines = printed.split("\n")[:-1]
    if code == EXIT_DONE and printed:
        child.say(noises=f"command line printed {printed[:300]!r}")
    elif code != EXIT_DONE:
        if code not in (EXIT_FAILED, EXIT_USAGE) or len(lines) != 1 or not lines[0].startswith("photodrag: "):
            child.say(tracebacks=f"command line: exit {code} and {printed[:LETTERS]!r}")
        else:
            child.check_sentence("command line", lines[0])
    child.silence("command line")


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


def _begin_peak() -> int:
    """Begin a new peak where the system can, and the memory that is held now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")
