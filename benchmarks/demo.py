"""The main job end to end: time, memory, likeness and what the drag reached.

    python benchmarks/demo.py --json demo.json [--quick] [--faces FOLDER] [--threads 2]

Runs `photodrag demo` in a process of its own, in an empty folder, and reads its manifest. The landmark distances are
measured on the result's pixels by dlib, not by the drag's own tracker. With --faces (aligned faces with a MANIFEST.csv)
the psnr_* and face_distance_* figures are means over 20 of its validation faces (5 with --quick), reconstructed with
the same settings as the demo; without it they are those of the demo's photo, which demo_psnr_* always are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import numpy as np
import torch

from benchmarks.common import tell, validation_means
from data.landmarks import find_faces, steady_landmarks
from data.photo import read_photo
from editing.presets import MOUTH_LEFT, MOUTH_RIGHT, preset_drag

VALIDATION_FACES, QUICK_FACES = 20, 5
KEYS = ("psnr_invert_db", "psnr_tuned_db", "face_distance_invert", "face_distance_tuned")


def run_demo(out: Path, threads: int) -> tuple[dict[str, float], dict[str, Any], Path]:
    """Wall seconds and peak memory of one `photodrag demo`, its manifest, and its run folder."""
    command = [sys.executable, "-m", "pipeline", "demo", f"out={out}", f"threads={threads}"]
    root = Path(__file__).resolve().parents[1]
    started = time.monotonic()
    subprocess.run(command, check=True, cwd=root, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    seconds = time.monotonic() - started
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    (manifest_path,) = out.glob("*/manifest.json")
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    figures = {"demo_seconds": round(seconds, 1), "demo_peak_gb": round(peak_kib * 1024 / 1e9, 2)}
    figures |= {f"demo_{stage}_seconds": value for stage, value in manifest["timings"].items()}
    return figures, manifest, manifest_path.parent


def mouth_distances(before: Path, after: Path) -> dict[str, float]:
    """Mean distance of dlib's mouth corners from the preset's targets, in photo pixels, before and after the drag."""
    corners = [MOUTH_LEFT, MOUTH_RIGHT]
    pictures = [read_photo(path).to_u8() for path in (before, after)]
    boxes = [find_faces(picture)[0].box for picture in pictures]
    first, second = (steady_landmarks(picture, boxes) for picture in pictures)
    asked = preset_drag("smile", first, 1.0, read_photo(before).shape_hw)
    picks = [int(np.argmin(np.linalg.norm(asked.handles - first[corner], axis=1))) for corner in corners]
    targets = asked.targets[picks]
    return {
        "drag_distance_before_px": round(float(np.linalg.norm(first[corners] - targets, axis=1).mean()), 2),
        "drag_distance_after_px": round(float(np.linalg.norm(second[corners] - targets, axis=1).mean()), 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_FACES} validation faces instead of the full count"
    )
    parser.add_argument("--faces", type=Path, help="folder of aligned faces with a MANIFEST.csv")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures, manifest, run = run_demo(Path(folder), options.threads)
        likenesses = {key: round(manifest["metrics"][key], 3) for key in KEYS}
        photo = Path(str(resources.files("data"))) / "samples" / "astronaut.png"
        figures |= mouth_distances(photo, run / manifest["result"])
    figures |= {f"demo_{key}": value for key, value in likenesses.items()}
    if options.faces is not None:
        count = QUICK_FACES if options.quick else VALIDATION_FACES
        likenesses = validation_means(options.faces, count)
    figures |= likenesses
    figures["threads"] = options.threads
    tell(figures, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
