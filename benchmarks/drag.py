"""Our drags against DragGAN as published: landmarks of generated pairs, there and back, presets on tuned photos, steps.

    python benchmarks/drag.py [--faces FOLDER] [--pairs 200] [--photos 50] [--quick] [--json FILE] [--workers N]
        [--no-costs]

Pairs: two samples of the embedded generator; 1, 5 or 68 landmarks of the first are dragged to where the second has
them, found again by dlib, and compared in pixels of a 512 px picture; a lost face counts as no edit. No mask is given;
ours makes its own where none is. There and back (CCSD): the five are dragged back, and the picture is compared with the
start by the face features. Photos: validation faces inverted and tuned with the defaults, dragged by every preset.
Published and ours drag the same pictures in one process, one after the other; seconds are the processor's, of one
thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import drag_costs
from benchmarks.common import aligned_crop, in_processes, load_tools, tell
from data.errors import NoFaceError
from data.faces import list_faces, load_face
from editing.drag import Edited, drag
from editing.masks import EYES_APART, automatic_mask
from editing.published import drag_published
from inversion.generators.protocol import Generator
from inversion.generators.weights import expand, shapes_of
from inversion.losses import Targets, whole_face_descriptor
from inversion.metrics import perceptual_distance
from inversion.pivotal import apply_delta, tune
from inversion.projector import project
from inversion.training.metrics import descriptors, frechet_distance
from pipeline import stages
from pipeline.editability import NO_FRAMES
from pipeline.locating import faces_in_crop
from pipeline.optimiser_settings import projector_settings, tune_settings
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.schema import PRESETS, EditConfig, compose

KEYS = (
    "step_speedup_1024_mask",
    "step_memory_ratio_1024_mask",
    "step_speedup_256",
    *(f"landmark_px_{count}" for count in (1, 5, 68)),
    *(f"landmark_ratio_{count}" for count in (1, 5, 68)),
    "ccsd_ratio",
    "seconds_ratio",
    "identity_ratio",
    "tuned_presets_arrived",
    "outside_hull_change_ratio",
)
PAPER_PX = 512
PSI = 0.7
SETS = {1: [30], 5: [30, 36, 45, 48, 54], 68: list(range(68))}
"""Landmarks that are dragged: the nose tip; with it the eyes' outer corners and the mouth's corners; all."""
HULL_MARGIN = 0.15
"""Inter-ocular distances, about, by which the hull of the moved landmarks is widened where changes are counted."""


def drag_by_default(generator: Generator, w: Tensor, noise: None, handles: np.ndarray, targets: np.ndarray) -> Edited:
    """Our drag of points given by hand, with the mask that it has where none is given."""
    size = generator.resolution
    mask = automatic_mask(handles, targets, EYES_APART * size, (size, size))
    return drag(generator, w, noise, handles, targets, None if mask is None else torch.from_numpy(mask)[None, None])


METHODS: dict[str, Callable[..., Edited]] = {"published": drag_published, "ours": drag_by_default}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One drag: mean landmark distance before and after in pixels of 512, dlib's face distance from before to after,
    mean change outside the hull, processor seconds, steps and stop reason; `back` is the face-feature distance to the
    start after the way back."""

    before_px: float
    after_px: float
    identity: float
    outside: float
    seconds: float
    steps: int
    reason: str
    back: float | None = None


def landmarks_of(image: Tensor) -> np.ndarray | None:
    """Landmarks [68, 2] of the one face in an image [1, 3, R, R]; None when there is not one."""
    try:
        faces = faces_in_crop(image_u8(image))
    except NoFaceError:
        return None
    return faces[0].landmarks if len(faces) == 1 else None


def drawn(seed: int) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Latent, picture and landmarks of one sample."""
    generator = load_tools().generator.module
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        w = generator.map(z, truncation_psi=PSI)
        image = generator.synthesize(w, "const")
    return w, image, landmarks_of(image)


def drag_pair(item: tuple[int, int]) -> dict[str, tuple[Outcome, np.ndarray, np.ndarray]] | None:
    """Both methods on the seed pair (2 n, 2 n + 1) with so many points: outcomes, descriptors before and after; None
    for a pair in which a face is missing."""
    number, points = item
    torch.set_num_threads(1)
    (w, image, first), (_, _, second) = drawn(2 * number), drawn(2 * number + 1)
    if first is None or second is None:
        return None
    size = image.shape[-1]
    chosen = [i for i in SETS[points] if all(((p[i] >= 0) & (p[i] <= size - 1)).all() for p in (first, second))]
    handles, targets = first[chosen], second[chosen]
    names = list(METHODS) if number % 2 else list(reversed(METHODS))
    return {name: one_drag(METHODS[name], w, image, handles, targets, chosen, points == 5) for name in names}


def one_drag(
    method: Callable[..., Edited],
    w: Tensor,
    image: Tensor,
    handles: np.ndarray,
    targets: np.ndarray,
    chosen: list[int],
    there_and_back: bool,
) -> tuple[Outcome, np.ndarray, np.ndarray]:
    """One method's drag, seen by dlib."""
    tools, started = load_tools(), time.process_time()
    generator = tools.generator.module
    edited = method(generator, w, None, handles, targets)
    seconds, scale = time.process_time() - started, PAPER_PX / image.shape[-1]
    before_px = float(np.linalg.norm(handles - targets, axis=1).mean()) * scale
    after = landmarks_of(edited.image)
    after_px = before_px if after is None else float(np.linalg.norm(after[chosen] - targets, axis=1).mean()) * scale
    back = None
    if there_and_back:
        returned = method(generator, edited.w, None, targets, handles)
        back = perceptual_distance(tools.perceptual, returned.image, image)
    seen = [descriptors(tools.network, x.clamp(-1, 1))[0].numpy() for x in (image, edited.image)]
    identity = face_distance(image, edited.image)
    outside = outside_change(image, edited.image, np.concatenate([handles, targets]))
    outcome = Outcome(before_px, after_px, identity, outside, seconds, edited.steps, edited.stop_reason, back)
    return outcome, seen[0], seen[1]


def face_distance(first: Tensor, second: Tensor) -> float:
    """Distance of dlib's descriptors of two crops' faces."""
    one, two = (whole_face_descriptor(load_tools().network, x.clamp(-1, 1)) for x in (first, second))
    return float((one - two).norm())


def outside_change(before: Tensor, after: Tensor, points: np.ndarray) -> float:
    """Mean absolute change, in units of [-1, 1], outside the hull of points [N, 2] in crop pixels, a little widened."""
    size = before.shape[-1]
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.float32)).round().astype(np.int32), 1)
    margin = max(1, round(HULL_MARGIN * 0.26 * size))
    mask = cv2.dilate(mask, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    change = (before - after).clamp(-2, 2).abs().mean(dim=1)[0].numpy()
    return float(change[mask == 0].mean())


def pair_figures(pairs: int, workers: int) -> dict[str, float]:
    """Landmark distances, identity, change outside, seconds, and Frechet distances for each number of points."""
    figures: dict[str, float] = {}
    ratios: dict[str, list[float]] = {"seconds": [], "identity": [], "outside": []}
    for points in SETS:
        found = in_processes(drag_pair, [(n, points) for n in range(pairs)], workers, f"pairs, {points} points")
        rows = [row for row in found if row is not None]
        for name in METHODS:
            outcomes = [row[name][0] for row in rows]
            figures |= summary(outcomes, f"{points}_{name}")
            sides = [torch.from_numpy(np.stack([row[name][i] for row in rows])) for i in (1, 2)]
            if len(rows) > 2:
                figures[f"frechet_{points}_{name}"] = frechet_distance(*sides)
        for key, values in ratios.items():
            values += [figures[f"{key}_{points}_ours"] / figures[f"{key}_{points}_published"]]
        figures[f"landmark_px_{points}"] = figures[f"after_px_{points}_ours"]
        figures[f"landmark_ratio_{points}"] = figures[f"landmark_px_{points}"] / figures[f"after_px_{points}_published"]
    figures["ccsd_ratio"] = figures["back_5_ours"] / figures["back_5_published"]
    figures["seconds_ratio"] = statistics.fmean(ratios["seconds"])
    figures["identity_ratio"] = statistics.fmean(ratios["identity"])
    figures["outside_hull_change_ratio"] = statistics.fmean(ratios["outside"])
    return figures


def summary(outcomes: Sequence[Outcome], case: str) -> dict[str, float]:
    """Means over drags, and the share of each stop reason."""
    names = ("before_px", "after_px", "identity", "outside", "seconds", "steps")
    found = {f"{name}_{case}": statistics.fmean(getattr(row, name) for row in outcomes) for name in names}
    back = [row.back for row in outcomes if row.back is not None]
    if back:
        found[f"back_{case}"] = statistics.fmean(back)
    for reason in sorted({row.reason for row in outcomes}):
        found[f"{reason}_{case}"] = statistics.fmean(row.reason == reason for row in outcomes)
    return found | {f"drags_{case}": float(len(outcomes))}


def drag_photo(path: Path) -> dict[str, dict[str, Outcome]]:
    """Every preset on one inverted and tuned face, by both methods: preset -> method -> outcome."""
    torch.set_num_threads(1)
    tools = load_tools()
    generator, config = tools.generator.module, tools.config
    crop = aligned_crop(load_face(path, generator.resolution))
    targets, rng = Targets(torch.from_numpy(crop.image), tools.perceptual), torch.Generator().manual_seed(config.seed)
    stats = tools.generator.stats
    inversion = project(generator, targets, projector_settings(config.invert), rng, stats=stats)
    rng = torch.Generator().manual_seed(config.seed)
    fitted = tune(generator, targets, inversion, tune_settings(config.tune), rng)
    tuned = apply_delta(generator, expand(fitted.factors, shapes_of(generator)))
    found: dict[str, dict[str, Outcome]] = {}
    for preset in PRESETS:
        words = {"published": ["edit=draggan_published", f"edit.preset={preset}"], "ours": [f"edit={preset}"]}
        for method, asked in words.items():
            edit: EditConfig = compose([*asked, f"edit.frame_every={NO_FRAMES}"]).edit
            points, started = stages.make_drag(edit, crop, []), time.process_time()
            made = stages.edit(
                tuned, inversion.w, inversion.noise, fitted.image, crop, points, edit, Console(False), preset
            ).edited
            seconds, metrics = time.process_time() - started, made.metrics
            hull = crop.alignment.to_crop(np.concatenate([points.handles, points.targets]))
            found.setdefault(preset, {})[method] = Outcome(
                metrics["distance_before_px"],
                metrics["distance_after_px"],
                face_distance(fitted.image, made.image),
                outside_change(fitted.image, made.image, hull),
                seconds,
                made.steps,
                made.stop_reason,
            )
    return found


def photo_figures(faces: Path, count: int, workers: int) -> dict[str, float]:
    """Stop reasons, identity and change of presets on tuned photos."""
    paths = list_faces(faces, "val")
    picks = [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]
    found = in_processes(drag_photo, picks, workers, "tuned photos")
    figures: dict[str, float] = {}
    for method in METHODS:
        figures |= summary([row[preset][method] for row in found for preset in PRESETS], f"tuned_{method}")
        for preset in PRESETS:
            arrived = [row[preset][method].reason == "arrived" for row in found]
            figures[f"arrived_{preset}_{method}"] = statistics.fmean(arrived)
    return figures | {"tuned_presets_arrived": figures.get("arrived_tuned_ours", 0.0)}


def cost_figures(quick: bool) -> dict[str, float]:
    """Seconds and memory of a step with five points and a mask, the variants in turns."""
    rounds = 1 if quick else 3
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for variant, resolution, steps in (
            ("published", 1024, 2),
            ("ours", 1024, 8),
            ("published", 256, 3),
            ("ours", 256, 8),
            ("published", 128, 10),
            ("ours", 128, 10),
        ):
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
    parser.add_argument("--quick", action="store_true", help="five pairs, one photo, one round of step costs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on one thread")
    parser.add_argument("--no-costs", action="store_true", help="leave out the cost of a step")
    options = parser.parse_args()
    pairs, photos = (5, 1) if options.quick else (options.pairs, options.photos)
    figures = {} if options.no_costs else cost_figures(options.quick)
    figures |= pair_figures(pairs, options.workers)
    if options.faces is not None:
        figures |= photo_figures(options.faces, photos, options.workers)
    tell(figures, options.json, [key for key in KEYS if key in figures])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
