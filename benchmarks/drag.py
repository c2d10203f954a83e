"""Our drags against DragGAN as published: landmarks of generated pairs, there and back, presets on tuned photos, steps.

    python benchmarks/drag.py [--faces FOLDER] [--pairs 200] [--photos 50] [--between 50] [--quick] [--json FILE]
        [--workers N] [--keep FOLDER] [--no-costs]

Pairs: two samples of the embedded generator; 1, 5 or 68 landmarks of the first are dragged to where the second has
them, found again by dlib, and compared in pixels of a 512 px picture; a lost face counts as no edit. No mask is given;
ours makes its own where none is. There and back (CCSD): the five are dragged back, and the picture is compared with the
start by the face features. Photos: validation faces inverted and tuned, dragged by every preset, and as the pairs are
to where the next photo has its landmarks (figures that end in _photos). Seconds are the processor's, of one thread, on
a few pairs that both methods drag in turns in one process. --keep makes a long run go on where it ended; a change of
the drag's own code is not seen there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch

from benchmarks import drag_costs
from benchmarks.common import tell
from benchmarks.drag_between_photos import between_photos_figures
from benchmarks.drag_moves import METHODS, KeptDrags, move_figures
from benchmarks.drag_pairs import make_pairs, seconds_figures
from benchmarks.drag_photos import photo_figures

KEYS = (
    "step_speedup_1024_mask",
    "step_memory_ratio_1024_mask",
    "step_speedup_256",
    *(f"landmark_px_{count}" for count in (1, 5, 68)),
    *(f"landmark_ratio_{count}" for count in (1, 5, 68)),
    "ccsd_ratio",
    *(f"landmark_ratio_{count}_photos" for count in (1, 5, 68)),
    "ccsd_ratio_photos",
    "seconds_ratio",
    "identity_ratio",
    "identity_ratio_photos",
    "tuned_presets_arrived",
    "outside_hull_change_ratio",
)
CASES = (
    ("published", 1024, 2),
    ("ours", 1024, 8),
    ("published", 256, 3),
    ("ours", 256, 8),
    ("published", 128, 10),
    ("ours", 128, 10),
)
"""Variant, resolution and measured steps of each process of the cost of a step."""


def cost_figures(quick: bool) -> dict[str, float]:
    """Seconds and memory of a step with five points and a mask, the variants in turns."""
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(1 if quick else 3):
        for variant, resolution, steps in CASES:
            command = [sys.executable, drag_costs.__file__, variant, str(resolution), "5", "mask", str(steps)]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rows.setdefault(f"{variant}_{resolution}", []).append(json.loads(printed.splitlines()[-1]))
    median = {
        f"{key}_{case}": statistics.median(row[key] for row in found)
        for case, found in rows.items()
        for key in ("seconds", "peak_gb")
    }
    return {
        "step_speedup_1024_mask": median["seconds_published_1024"] / median["seconds_ours_1024"],
        "step_memory_ratio_1024_mask": median["peak_gb_ours_1024"] / median["peak_gb_published_1024"],
        "step_speedup_256": median["seconds_published_256"] / median["seconds_ours_256"],
        "step_speedup_128": median["seconds_published_128"] / median["seconds_ours_128"],
    } | {f"step_{name}": value for name, value in median.items()}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, help="folder of aligned faces with a MANIFEST.csv; without: no photos")
    parser.add_argument("--pairs", type=int, default=200, help="seed pairs")
    parser.add_argument("--photos", type=int, default=50, help="validation faces that are inverted, tuned and dragged")
    parser.add_argument("--between", type=int, default=50, help="validation faces that are dragged to the next one's")
    parser.add_argument("--quick", action="store_true", help="five pairs, one photo each, one round of step costs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--keep", type=Path, help="folder of finished drags, from which a broken run continues")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on one thread")
    parser.add_argument("--no-costs", action="store_true", help="leave out the cost of a step")
    options = parser.parse_args()
    pairs, photos, between = (5, 1, 1) if options.quick else (options.pairs, options.photos, options.between)
    figures = {} if options.no_costs else cost_figures(options.quick)
    if pairs:
        outcomes = make_pairs(pairs, list(METHODS), KeptDrags(options.keep), options.workers)
        figures |= move_figures(outcomes) | seconds_figures()
    if options.faces is not None and photos:
        figures |= photo_figures(options.faces, photos, options.workers, options.keep)
    if options.faces is not None and between:
        figures |= between_photos_figures(options.faces, between, options.workers, options.keep)
    tell(figures, options.json, [key for key in KEYS if key in figures])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
