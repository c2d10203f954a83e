"""Photos per second of `photodrag batch` with one and with two workers, against a plain loop over the same photos.

    python benchmarks/batch_rate.py --json batch_rate.json
    python benchmarks/batch_rate.py --photos FOLDER --count 12 --repeats 3 edit=frown

Each measurement is a whole command in a process of its own, start and reading of the networks included, with an empty
output folder and the same settings (`+experiment=quick edit=smile` unless others are given) and one thread for each
process, so that one worker does what the plain loop does and two have a core each. The plain loop calls `pipeline.run`
for one photo after the other, with the networks read once. The three are interleaved; the figures are medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # works in a checkout that is not installed

from benchmarks.common import tell

SETTINGS = ("+experiment=quick", "edit=smile")
_LOOP = """
import sys
from dataclasses import replace
from pathlib import Path
from pipeline.models import Models
from pipeline.progress import Console
from pipeline.run import run
from pipeline.schema import compose
photos, models, config = sorted(Path(sys.argv[1]).iterdir()), Models(), compose(sys.argv[2:])
for photo in photos:
    run(replace(config, photo=str(photo)), None, models, Console(False, quiet=True))
"""


def sample_photos(folder: Path, count: int) -> None:
    """Different photos of the sample's face: mirrored or not, with some of its margins cut off."""
    picture = cv2.imread(str(REPOSITORY / "data" / "samples" / "astronaut.png"))
    for number in range(count):
        cut = picture[number // 2 : picture.shape[0] - number // 4, number // 3 :]
        cut = cut[:, ::-1] if number % 2 else cut
        cv2.imwrite(str(folder / f"photo{number:03d}.png"), np.ascontiguousarray(cut))


def measure(
    photos: Path | None = None,
    count: int = 4,
    repeats: int = 1,
    settings: Sequence[str] = SETTINGS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Rates in photos per second, whole commands, medians of `repeats`.

    photos: a folder of which the first `count` are taken; the sample photo's variants when left out. Returns
    plain_loop_photos_per_s, one_worker_photos_per_s, two_workers_photos_per_s and two_worker_speedup, the ratio of the
    last two rates. Raises CalledProcessError when a command fails.
    """
    with tempfile.TemporaryDirectory(prefix="photodrag-batch-rate-") as scratch:
        given = Path(scratch) / "given"
        given.mkdir()
        if photos is None:
            sample_photos(given, count)
        else:
            for path in sorted(path for path in photos.iterdir() if path.is_file())[:count]:
                shutil.copy(path, given)
        found = len(list(given.iterdir()))
        common = ["threads=1", "progress=false", *settings]
        loop = [sys.executable, "-c", _LOOP, str(given), *common]
        batch = [sys.executable, "-m", "pipeline", "batch", str(given), *common]
        commands = {
            "plain_loop": loop,
            "one_worker": [*batch, "executor.workers=1"],
            "two_workers": [*batch, "executor.workers=2"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for repeat in range(repeats):
            for name, command in commands.items():
                out = Path(scratch) / "out"
                seconds[name].append(_seconds([*command, f"out={out}"]))
                shutil.rmtree(out)
                say(f"{name}, {repeat + 1} of {repeats}: {seconds[name][-1]:.1f} s for {found} photos")
    rates = {name: found / statistics.median(taken) for name, taken in seconds.items()}
    return {
        **{f"{name}_photos_per_s": round(rate, 6) for name, rate in rates.items()},
        "two_worker_speedup": round(rates["two_workers"] / rates["one_worker"], 4),
    }


def _seconds(command: Sequence[str]) -> float:
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(REPOSITORY)}
    started = time.monotonic()
    subprocess.run(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos; the sample photo's variants when left out")
    parser.add_argument("--count", type=int, default=8, help="how many photos")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="four photos, once")
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides in place of +experiment=quick edit=smile")
    given = parser.parse_args()
    count, repeats = (4, 1) if given.quick else (given.count, given.repeats)
    figures = measure(given.photos, count, repeats, given.settings or SETTINGS, partial(print, flush=True))
    tell(figures, given.json)


if __name__ == "__main__":
    main()
