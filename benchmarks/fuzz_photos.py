"""Bad photos: a corpus of hundreds of them, and what comes of each at the doors of the program.

    python benchmarks/fuzz_photos.py --json fuzz.json

makes the corpus from a seed (its files are the same each time), sends every file through reading, aligning, writing
and the command line, each in a process of its own, and prints what came of them by category. Nothing but a result or
one sentence is right: no traceback, no crash, no hang, no noise of a library, no more than four times the photo's
memory (benchmarks/fuzz_doors.py says how that is judged).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bad_boxes import bombs, boxes
from benchmarks.bad_kinds import animations, kinds, names, others, sizes
from benchmarks.bad_metadata import exifs, iccs, iptcs, texts, xmps
from benchmarks.bad_photo_parts import BadPhoto, good_photos
from benchmarks.bad_structures import bit_flipped, jpegs, pngs, tiffs, truncated
from benchmarks.common import in_processes, tell
from benchmarks.fuzz_doors import LIMIT_S, Told, through_the_doors

FIGURES = (
    "fuzz_files",
    "fuzz_tracebacks",
    "fuzz_hangs",
    "fuzz_results",
    "fuzz_errors",
    "fuzz_memory_over",
    "fuzz_noises",
    "fuzz_wrong",
)
SEED = 9


@dataclass(frozen=True, slots=True)
class Placed:
    """A file of the corpus on the disk."""

    category: str
    path: str
    refused: bool | None


def members(seed: int = SEED) -> Iterator[BadPhoto]:
    """The corpus: the same for the same seed."""
    for name, data in good_photos().items():
        yield BadPhoto("good, to compare with", name, data, False)
    yield from truncated()
    yield from bit_flipped(seed)
    yield from jpegs()
    yield from pngs()
    yield from tiffs()
    yield from boxes()
    yield from bombs()
    yield from kinds()
    yield from sizes()
    yield from animations()
    yield from exifs()
    yield from iccs(seed)
    yield from xmps()
    yield from iptcs()
    yield from texts()
    yield from others()
    yield from names()


def corpus(folder: Path, seed: int = SEED) -> list[Placed]:
    """Write the corpus into a folder, one folder a category, and say what is where."""
    return [placed(member, folder) for member in members(seed)]


def placed(member: BadPhoto, folder: Path) -> Placed:
    """Write one member of the corpus."""
    path = folder / re.sub(r"\W+", "_", member.category) / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert not os.path.lexists(path), path
    if isinstance(member.content, bytes):
        path.write_bytes(member.content)
    else:
        member.content(path)
    return Placed(member.category, str(path), member.refused)


def measure(files: Sequence[Placed], workers: int = 1, limit_s: float = LIMIT_S) -> tuple[dict[str, float], list[Told]]:
    """The figures of a corpus, and what came of each file."""
    door = partial(_attempt, limit_s=limit_s)
    told = in_processes(door, [file.path for file in files], workers, "bad photos", threads=1)
    for file, one in zip(files, told, strict=True):
        if file.refused is not None and file.refused == (one.outcomes.get("command line") == "result" or one.opened):
            one.wrong.append(f"it {'came through' if file.refused else 'was refused'}: {one.outcomes}")
    return figures(told), told


def _attempt(path: str, limit_s: float) -> Told:
    """What comes of a photo; faults are printed at once, since the whole corpus takes a while."""
    told = through_the_doors(path, limit_s)
    for fault in told.faults:
        print(f"{os.path.basename(path)!a}: {fault}", flush=True)
    return told


def figures(told: Sequence[Told]) -> dict[str, float]:
    """What is counted of a corpus: files that opened are results, files that were refused in a sentence are errors."""
    return {
        "fuzz_files": len(told),
        "fuzz_tracebacks": sum(bool(one.tracebacks) for one in told),
        "fuzz_hangs": sum(bool(one.hangs) for one in told),
        "fuzz_results": sum(one.opened for one in told),
        "fuzz_errors": sum(not one.opened and not one.tracebacks and not one.hangs for one in told),
        "fuzz_memory_over": sum(bool(one.over_memory) for one in told),
        "fuzz_noises": sum(bool(one.noises) for one in told),
        "fuzz_wrong": sum(bool(one.wrong) for one in told),
    }


def table(files: Sequence[Placed], told: Sequence[Told]) -> str:
    """The outcomes by category, as Markdown."""
    lines = ["| Category | files | results | one sentence | faults | slowest, s |", "|---|---|---|---|---|---|"]
    for category in dict.fromkeys(file.category for file in files):
        own = [one for file, one in zip(files, told, strict=True) if file.category == category]
        counted, slowest = figures(own), max(one.seconds for one in own)
        faults = sum(bool(one.faults) for one in own)
        cells = (category, len(own), counted["fuzz_results"], counted["fuzz_errors"], faults, f"{slowest:.1f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """The command line of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="categories whose names hold one of these words, with commas")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="photodrag-bad-") as folder:
        files = [
            file
            for file in corpus(Path(folder), options.seed)
            if any(word in file.category for word in options.only.split(","))
        ]
        counted, told = measure(files, options.workers)
    for file, one in zip(files, told, strict=True):
        for wrong in one.wrong:
            print(f"{os.path.basename(file.path)!a}: {wrong}")
    print(table(files, told))
    tell(counted, options.json, FIGURES)


if __name__ == "__main__":
    main()
