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
import statistics
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
from tqdm import tqdm

from data.alignment import Crop, align_precropped
from data.faces import list_faces, load_face
from data.landmarks import find_faces
from data.photo import read_photo
from editing.presets import MOUTH_LEFT, MOUTH_RIGHT, preset_drag
from inversion.identity import FaceNetwork
from inversion.perceptual import Perceptual
from inversion.pivotal import tune
from inversion.projector import project
from pipeline.models import LoadedGenerator, choose_perceptual, read_face_network, read_generator, read_perceptual
from pipeline.schema import RunConfig, compose
from pipeline.stages import likeness, projector_settings, tune_settings

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
    first, second = (find_faces(read_photo(path).to_u8())[0].landmarks for path in (before, after))
    asked = preset_drag("smile", first, 1.0, read_photo(before).shape_hw)
    picks = [int(np.argmin(np.linalg.norm(asked.handles - first[corner], axis=1))) for corner in corners]
    targets = asked.targets[picks]
    return {
        "drag_distance_before_px": round(float(np.linalg.norm(first[corners] - targets, axis=1).mean()), 2),
        "drag_distance_after_px": round(float(np.linalg.norm(second[corners] - targets, axis=1).mean()), 2),
    }


def reconstruct(
    path: Path, config: RunConfig, generator: LoadedGenerator, perceptual: Perceptual, network: FaceNetwork
) -> dict[str, float]:
    """Likeness of one aligned face after invert and after tune, and the seconds both took."""
    module = generator.module
    pixels = load_face(path, module.resolution)
    crop = aligned_crop(pixels, module.resolution)
    target, inside = torch.from_numpy(crop.image), torch.from_numpy(crop.inside)
    rng = torch.Generator().manual_seed(config.seed)
    started = time.monotonic()
    inversion = project(module, target, perceptual, projector_settings(config.invert), rng, inside)
    between = time.monotonic()
    rng = torch.Generator().manual_seed(config.seed)
    tuned = tune(module, target, inversion, perceptual, tune_settings(config.tune), rng, inside)
    found = likeness("invert", inversion.image, target, inside, network)
    found |= likeness("tuned", tuned.image, target, inside, network)
    return found | {"invert_seconds": between - started, "tune_seconds": time.monotonic() - between}


def aligned_crop(pixels: np.ndarray, resolution: int) -> Crop:
    """A picture [R, R, 3] uint8 that is a crop already."""
    image = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
    return Crop(
        image, np.ones((1, 1, resolution, resolution), np.float32), align_precropped(pixels.shape[:2], resolution)
    )


def validation(faces: Path, count: int) -> dict[str, float]:
    """Means over `count` validation faces, evenly spread over the split."""
    config = compose(["edit=smile"])
    device = torch.device("cpu")
    generator = read_generator(config.generator, device)
    network = read_face_network(device)
    perceptual = read_perceptual(choose_perceptual(config.perceptual), network, device)
    paths = list_faces(faces, "val")
    picks = [paths[i * len(paths) // count] for i in range(count)]
    found = [reconstruct(p, config, generator, perceptual, network) for p in tqdm(picks, desc="validation faces")]
    means = {key: round(statistics.fmean(row[key] for row in found), 3) for key in found[0]}
    return means | {"validation_faces": count}


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
        likenesses = validation(options.faces, QUICK_FACES if options.quick else VALIDATION_FACES)
    figures |= likenesses
    figures["threads"] = options.threads
    for key, value in figures.items():
        print(f"{key:32s} {value:10.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
