"""Hard days in figures: kills, bad photos, the rate of batches, and what a cluster costs.

    python benchmarks/resilience.py --json resilience.json [--quick] [--only kill,fuzz,batch,ray]

Each part is a benchmark of its own (kills.py, fuzz_photos.py, batch_rate.py, ray_overhead.py), and this one only puts
their figures together: kill_moments, kill_equal, fuzz_files, fuzz_tracebacks, fuzz_hangs, one_worker_photos_per_s,
two_worker_speedup, ray_overhead_ratio and what belongs to them. A part that cannot run here, as Ray's without its
extra, is said and leaves its figures out. It ends with 1 when a kill was not made good or a photo brought a traceback
or a hang.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from benchmarks import kills
from benchmarks.common import tell

KEYS = (
    *("kill_moments", "kill_equal", "fuzz_files", "fuzz_tracebacks", "fuzz_hangs"),
    *("one_worker_photos_per_s", "two_worker_speedup", "ray_overhead_ratio"),
)
Figures = dict[str, float]


def kill_part(quick: bool, _photos: Path | None) -> Figures:
    """Runs and batches killed at random moments."""
    if quick:
        return kills.measure(kills.QUICK_MOMENTS, kills.QUICK_BATCH_MOMENTS)
    return kills.measure()


def fuzz_part(quick: bool, _photos: Path | None) -> Figures:
    """Bad photos at every door of the program; quick: every tenth of them."""
    from benchmarks.fuzz_photos import corpus, measure

    with tempfile.TemporaryDirectory(prefix="photodrag-fuzz-") as folder:
        files = corpus(Path(folder))
        return measure(files[::10] if quick else files)[0]


def batch_part(quick: bool, photos: Path | None) -> Figures:
    """The rate of `photodrag batch` with one and two workers against a plain loop."""
    from benchmarks.batch_rate import measure

    return measure(photos, count=4, repeats=1) if quick else measure(photos, count=8, repeats=3)


def ray_part(quick: bool, photos: Path | None) -> Figures:
    """What Ray costs over plain processes."""
    import ray  # noqa: F401  its absence is told before anything is measured

    from benchmarks.ray_overhead import QUICK, measure

    return measure(photos, 4, 1, overrides=("edit=smile", *QUICK)) if quick else measure(photos)


PARTS: dict[str, Callable[[bool, Path | None], Figures]] = {
    "kill": kill_part,
    "fuzz": fuzz_part,
    "batch": batch_part,
    "ray": ray_part,
}


def measure_parts(names: Sequence[str], quick: bool, photos: Path | None) -> tuple[Figures, list[str]]:
    """The figures of those parts, and a sentence for each that could not run."""
    figures: Figures = {}
    missing = []
    for name in names:
        try:
            figures |= PARTS[name](quick, photos)
        except ImportError as error:
            missing.append(f"{name} is left out: {error}")
    return figures, missing


def is_right(figures: Mapping[str, float]) -> bool:
    """Whether everything that was measured is as it must be; rates are only told."""
    return kills.is_right(figures) and not figures.get("fuzz_tracebacks") and not figures.get("fuzz_hangs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts with commas between them: " + ", ".join(PARTS))
    parser.add_argument("--photos", type=Path, help="a folder of photos for batch and ray; without it the sample's")
    parser.add_argument("--quick", action="store_true", help="fewer moments, photos and repeats")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        parser.error(f"--only names {', '.join(unknown)}: allowed are {', '.join(PARTS)}")
    figures, missing = measure_parts(names, options.quick, options.photos)
    tell(figures, options.json, [key for key in KEYS if key in figures])
    for sentence in missing:
        print(sentence, file=sys.stderr)
    return 0 if is_right(figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
