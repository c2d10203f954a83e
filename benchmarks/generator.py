"""The generator's own figures: how near its faces are to photographs, what it can reconstruct, how well it drags.

    python benchmarks/generator.py --faces FOLDER [--generator FILE] [--json FILE] [--pictures FOLDER] [--quick]
        [--samples N] [--detected N] [--dragged N] [--inverted N] [--workers N]

Frechet distances are those of dlib's face descriptors of the whole crop to all train faces, with 100 images on the
tested side and a mean over 20 draws, so that generated, validation and held-out train faces carry the same small-sample
bias; `frechet_halves`, the floor, takes 100 train faces out and measures them against the rest. --faces is a folder of
aligned faces with a MANIFEST.csv. --pictures writes the sample sheet and the samples nearest to a train face beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Tools, in_processes, load_tools, tell, validation_means
from data.errors import NoFaceError
from data.faces import load_faces
from data.landmarks import find_faces
from editing.presets import face_frame
from inversion.generators.protocol import Generator
from inversion.training.metrics import descriptors, frechet_distance
from pipeline import stages
from pipeline.editability import MOVED_ENOUGH, try_presets
from pipeline.pictures import images_u8, sheet
from pipeline.progress import Console
from pipeline.schema import SampleConfig

KEYS = (
    "resolution",
    "size_mb",
    "frechet_ratio",
    "frechet_generated",
    "frechet_train_val",
    "frechet_halves",
    "one_face_psi07",
    "one_face_psi1",
    "nearest_sample_median",
    "nearest_val_median",
    "psnr_wplus_db",
    "psnr_tuned_db",
    "preset_success",
    "synthesis_ms",
    "forward_backward_ms",
)
DRAWN_IMAGES, DRAWS = 100, 20
PRESETS = ("smile", "open_mouth", "turn_left", "turn_right", "raise_brows")
SEED = 1


def generated(generator: Generator, count: int, psi: float, seed: int = SEED) -> Tensor:
    """`count` images [N, 3, R, R] in [-1, 1]."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        parts = [generator.synthesize(generator.map(part, truncation_psi=psi)) for part in z.split(25)]
    return torch.cat(parts).clamp(-1, 1)


def photographs(folder: Path, resolution: int, split: str) -> Tensor:
    """All pictures of one split, [N, 3, R, R] in [-1, 1]."""
    return torch.from_numpy(load_faces(folder, resolution, split)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def likeness_figures(images: Tensor, faces: Path, tools: Tools, pictures: Path | None) -> dict[str, float]:
    """Frechet distances, and how near samples and validation faces come to a train face."""
    resolution = images.shape[-1]
    photos = {split: photographs(faces, resolution, split) for split in ("train", "val")}
    train, val = (descriptors(tools.network, photos[split]) for split in ("train", "val"))
    samples = descriptors(tools.network, images)
    rng = torch.Generator().manual_seed(0)

    def mean_frechet(side: Tensor) -> float:
        draws = [side[torch.randperm(len(side), generator=rng)[:DRAWN_IMAGES]] for _ in range(DRAWS)]
        return statistics.fmean(frechet_distance(draw, train) for draw in draws)

    def held_out() -> float:
        order = torch.randperm(len(train), generator=rng)
        return frechet_distance(train[order[:DRAWN_IMAGES]], train[order[DRAWN_IMAGES:]])

    figures = {"frechet_generated": mean_frechet(samples), "frechet_train_val": mean_frechet(val)}
    figures["frechet_halves"] = statistics.fmean(held_out() for _ in range(DRAWS))
    figures["frechet_ratio"] = figures["frechet_generated"] / figures["frechet_train_val"]
    for name, side in (("sample", samples), ("val", val)):
        nearest = torch.cdist(side, train).min(dim=1)
        for label, quantile in (("median", 0.5), ("p1", 0.01), ("least", 0.0)):
            figures[f"nearest_{name}_{label}"] = float(nearest.values.quantile(quantile))
        if pictures is not None and name == "sample":
            closest = nearest.values.argsort()[: max(1, len(images) // 100)]
            pairs = torch.stack([images[closest], photos["train"][nearest.indices[closest]]], dim=1).flatten(0, 1)
            write_picture(pictures / "nearest.png", sheet(images_u8(pairs), columns=2 * max(1, len(closest) // 2)))
    return figures


def one_face_share(images: Tensor) -> float:
    """The share of images in which dlib finds exactly one face, with landmarks that are a face's."""
    return statistics.fmean(has_one_face(image) for image in images_u8(images))


def has_one_face(image: np.ndarray) -> bool:
    """Whether dlib finds one face [R, R, 3] whose landmarks are in order."""
    try:
        faces = find_faces(image, upsample_max=3)
    except NoFaceError:
        return False
    return len(faces) == 1 and is_sane(faces[0].landmarks, image.shape[0])


def is_sane(landmarks: np.ndarray, side: int) -> bool:
    """Whether landmarks [68, 2] of an aligned crop lie as a face's do: level eyes of the right distance, brows over
    eyes over nose over mouth over chin, the jaw round them, all (but the chin) inside the crop."""
    face = face_frame(landmarks)
    right, down = ((landmarks - landmarks[30]) @ axis / face.unit_px for axis in (face.right, face.down))
    heights = [down[part].mean() for part in (slice(17, 27), slice(36, 48), slice(30, 36), slice(48, 68), slice(7, 10))]
    return (
        0.15 < face.unit_px / side < 0.4
        and face.right[0] > 0.95
        and all(a < b for a, b in pairwise(heights))
        and right[36] < right[39] < right[42] < right[45]
        and right[0] < right[36] < right[48] < right[54] < right[45] + 0.3
        and right[45] < right[16]
        and bool((landmarks[17:] > 0).all() and (landmarks[17:] < side).all())
    )


def preset_figures(samples: int, generator: Path | None = None, workers: int = 1) -> dict[str, float]:
    """The share of drags by preset after which dlib sees one face whose landmarks moved far enough, per preset."""
    rows = in_processes(partial(presets_moved, generator_path=generator), range(samples), workers, "drags by preset")
    figures = {"preset_success": share_of([value for row in rows for value in row.values()])}
    for preset in PRESETS:
        moved = [row[preset] for row in rows]
        figures[f"preset_success_{preset}"] = share_of(moved)
        figures[f"preset_moved_{preset}"] = statistics.median(moved)
    return figures


def presets_moved(seed: int, generator_path: Path | None = None) -> dict[str, float]:
    """How far each preset moved the landmarks of one generated face, as a share of what was asked; -inf where not
    exactly one face is found afterwards."""
    generator, console = load_tools(generator_path).generator.module, Console(False)
    sampled = stages.sample(generator, SampleConfig(seed=seed), torch.device("cpu"))
    crop = stages.sampled_crop(sampled)
    found = try_presets(generator, sampled.w, None, sampled.image, crop, PRESETS, console)
    seen = {name: outcome.moved for name, outcome in found.items() if outcome.moved is not None}
    return dict.fromkeys(PRESETS, float("-inf")) | seen


def share_of(moved: Sequence[float]) -> float:
    """The share that moved far enough."""
    return statistics.fmean(value >= MOVED_ENOUGH for value in moved)


def speed_figures(generator: Generator) -> dict[str, float]:
    """Median milliseconds of one synthesis, and of one with the gradient of its latent."""
    ws = generator.map(torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(SEED)))
    leaf = ws.clone().requires_grad_(True)

    def forward() -> None:
        with torch.no_grad():
            generator.synthesize(ws)

    def both() -> None:
        generator.synthesize(leaf).square().mean().backward()

    return {"synthesis_ms": median_ms(forward), "forward_backward_ms": median_ms(both)}


def median_ms(action: Callable[[], None], repeats: int = 30) -> float:
    """Median milliseconds of an action after a warm-up."""
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[3:])


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an RGB picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rgb[..., ::-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder of aligned faces with a MANIFEST.csv")
    parser.add_argument("--generator", type=Path, help="a generator file instead of the embedded one")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--pictures", type=Path, help="folder for the sample sheet and the nearest pairs")
    parser.add_argument("--samples", type=int, default=1000, help="generated images for the distances")
    parser.add_argument("--detected", type=int, default=500, help="generated images in which a face is looked for")
    parser.add_argument("--dragged", type=int, default=50, help="generated images that every preset is tried on")
    parser.add_argument("--inverted", type=int, default=100, help="validation faces that are reconstructed, 0 for none")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes for drags and inversions")
    parser.add_argument("--quick", action="store_true", help="a tenth of all of these")
    options = parser.parse_args(arguments)
    shrink = 10 if options.quick else 1
    tools = load_tools(options.generator)
    generator, path = tools.generator.module, tools.generator.path
    figures = {"resolution": float(generator.resolution), "size_mb": path.stat().st_size / 1e6}
    figures |= speed_figures(generator)
    images = generated(generator, max(DRAWN_IMAGES, options.samples // shrink), psi=1.0)
    figures |= likeness_figures(images, options.faces, tools, options.pictures)
    detected = options.detected // shrink
    figures["one_face_psi1"] = one_face_share(images[:detected])
    truncated = generated(generator, max(detected, 100), psi=0.7)
    figures["one_face_psi07"] = one_face_share(truncated[:detected])
    if options.pictures is not None:
        write_picture(options.pictures / "samples.png", sheet(images_u8(truncated[:100]), columns=10))
    if options.dragged:
        figures |= preset_figures(max(1, options.dragged // shrink), options.generator, options.workers)
    if options.inverted:
        count = max(1, options.inverted // shrink)
        found = validation_means(options.faces, count, options.generator, options.workers)
        figures |= {"psnr_wplus_db": found.pop("psnr_invert_db"), "psnr_tuned_db": found.pop("psnr_tuned_db")} | found
    tell(figures, options.json, [key for key in KEYS if key in figures])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
