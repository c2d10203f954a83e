"""Edits carried back into photographs, against photographs that were moved for real, and what that costs.

    python benchmarks/blend.py [--faces FOLDER] [--photos 40] [--kept FOLDER] [--quick] [--json FILE]
        [--pictures FOLDER]

Scenes: a validation face (without --faces: the sample photo's) pasted into a made-up scene at a random scale and turn,
three times as fine as the crop that a generator of 128 px sees of it. Mouth, brows, eyes or the whole head of the scene
are moved smoothly by a known motion; that is the exact truth. The ways to blend get what a generator would give: the
crop before and after, softer than the photo and, after, tinted; the flow gets no landmarks. Errors are mean absolute
differences from the truth where it differs from the scene; sharpness is the gradient there over the truth's; a seam is
the gradient across the mask's border over the scene's own. Sizes: the sample photo enlarged until its face fills 12 and
48 megapixels, as a JPEG file, one process each; blend and encoding apart, as JPEG (which keeps untouched blocks) and as
PNG; memory is the process's peak above what it held before, over the photo's own pixels. With --kept: how much of the
motion that the generator's pictures show arrives in photos of tuned validation faces, seen by dlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import cv2
import numpy as np
import torch

from benchmarks.common import in_processes, tell
from benchmarks.drag_photos import tuned_face
from benchmarks.inversion import picked
from data.alignment import Alignment, align_ffhq, align_quad, crop_photo
from data.errors import NoFaceError
from data.faces import load_face
from data.landmarks import find_faces, steady_landmarks
from data.photo import Photo, encode_photo, read_photo, write_photo
from editing.blend import METHODS, BlendSettings, Change, Guides, blend
from pipeline.locating import faces_in_crop
from pipeline.pictures import image_u8

KEYS = (
    "outside_changed_pixels",
    "null_drag_changed_pixels",
    "sharpness_ratio",
    "sharpness_crop_paste",
    "error_ratio_to_crop_paste",
    "seam_ratio",
    "seconds_12mp",
    "seconds_48mp",
    "peak_memory_over_photo",
)
CROP_PX = 128
SOFTNESS_PX = 0.7  # of a reconstruction, in crop pixels
TINT = 0.06  # of an edited one, in [-1, 1]
MOVED = 0.01  # of full brightness: less is no difference
MEGAPIXELS = (12, 48)
LEAST_MOVED_PX = 1.0  # of the crop: dlib's landmarks err by up to half a pixel
MOST_KEPT = 50
MOVES = {
    "mouth": ((0.38, 0.72, 0.07, -0.030, -0.025), (0.62, 0.72, 0.07, 0.030, -0.025)),
    "brows": ((0.36, 0.40, 0.09, 0.0, -0.030), (0.64, 0.40, 0.09, 0.0, -0.030)),
    "eyes": ((0.38, 0.47, 0.05, 0.012, 0.012), (0.62, 0.47, 0.05, -0.012, 0.012)),
    "head": ((0.50, 0.58, 0.20, 0.055, 0.010),),
}
"""Smooth hills of motion: centre x, y, width, and how far right and down it goes, in sides of the crop."""


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """A photograph, the same moved for real, and where the face's crop lies in it."""

    photo: Photo
    truth: Photo
    alignment: Alignment


def motion(name: str, alignment: Alignment) -> np.ndarray:
    """[H, W, 2] in photo pixels: the truth shows at p what the photo shows at p + motion(p)."""
    height, width = alignment.photo_shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    places = (alignment.to_crop(grid.reshape(-1, 2)).reshape(height, width, 2) + 0.5) / alignment.size
    moved = np.zeros((height, width, 2))
    for x, y, spread, right, down in MOVES[name]:
        near = np.exp(-((places[..., 0] - x) ** 2 + (places[..., 1] - y) ** 2) / (2 * spread**2))
        moved -= near[..., None] * np.array([right, down])
    return (moved * alignment.size @ alignment.photo_from_crop[:2, :2].T).astype(np.float32)


def carried(pixels: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Pixels [H, W, 3] float32 moved by a motion, cubic."""
    height, width = by.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(pixels, x + by[..., 0], y + by[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def made_scene(face: np.ndarray, number: int) -> Scene:
    """A face [S, S, 3] uint8 in a made-up scene, in a random place, size and turn; every fourth has 16 bits."""
    rng = np.random.default_rng(number)
    side = round(CROP_PX * rng.uniform(2.0, 4.0))
    height, width = (round(side * rng.uniform(1.1, 1.6)) for _ in range(2))
    angle = np.deg2rad(rng.uniform(-25, 25))
    across = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    along = np.array([-across[1], across[0]])
    centre = np.array([width, height]) / 2 + rng.uniform(-0.08, 0.08, 2) * side
    quad = centre + np.array([-across - along, -across + along, across + along, across - along])
    alignment = align_quad(quad, (height, width), CROP_PX)
    noise = [s * cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), s) for s in (1.0, 4.0, 25.0)]
    pixels = np.clip(128 + 25 * sum(noise) / np.std(sum(noise)), 0, 255).astype(np.float32)
    corners = np.array([[-0.5, -0.5], [-0.5, face.shape[0] - 0.5], [face.shape[1] - 0.5, face.shape[0] - 0.5]])
    matrix = cv2.getAffineTransform(corners.astype(np.float32), quad[:3].astype(np.float32))
    pasted = cv2.warpAffine(face.astype(np.float32), matrix, (width, height), flags=cv2.INTER_LANCZOS4)
    inside = cv2.warpAffine(np.ones(face.shape[:2], np.float32), matrix, (width, height))
    soft = cv2.GaussianBlur(inside, (0, 0), 3.0)[..., None] * (inside > 0.99)[..., None]
    pixels = pixels + soft * (pasted - pixels)
    # Enlarged faces are soft: grain gives every pixel something to lose.
    pixels += cv2.GaussianBlur(rng.normal(0, 8, (height, width, 1)), (0, 0), 0.6)[..., None]
    by = motion(list(MOVES)[number % len(MOVES)], alignment)
    truth, deep = carried(pixels.astype(np.float32), by), number % 4 == 3
    factor, dtype = (257, np.uint16) if deep else (1, np.uint8)
    photo, moved = (
        Photo(np.rint(np.clip(x, 0, 255) * factor).astype(dtype), format="TIFF" if deep else "PNG")
        for x in (pixels, truth)
    )
    return Scene(photo, moved, alignment)


def reconstructed(pixels: np.ndarray, alignment: Alignment, tint: np.ndarray | float = 0.0) -> np.ndarray:
    """[R, R, 3] as a generator gives it back: softer, and tinted."""
    crop = np.ascontiguousarray(crop_photo(pixels, alignment).image[0].transpose(1, 2, 0))
    return np.clip(cv2.GaussianBlur(crop, (0, 0), SOFTNESS_PX) + tint, -1, 1).astype(np.float32)


def sharpness(pixels: np.ndarray, where: np.ndarray) -> float:
    """Root mean squared gradient of the brightness."""
    grey = pixels.astype(np.float32).mean(axis=2)
    slope = cv2.Sobel(grey, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1) ** 2
    return float(np.sqrt(slope[where].mean()))


def scene_figures(number: int, faces: Sequence[Path]) -> dict[str, float]:
    """All ways on one scene."""
    face = load_face(faces[number % len(faces)], 256) if faces else sample_face()
    scene = made_scene(face, number)
    photo, truth, alignment = scene.photo, scene.truth, scene.alignment
    rng = np.random.default_rng(1000 + number)
    y, x = (np.mgrid[:CROP_PX, :CROP_PX] / CROP_PX - rng.uniform(0.3, 0.7, (2, 1, 1))) / 0.25
    tint = np.exp(-(x**2 + y**2) / 2)[..., None] * rng.normal(0, TINT, 3)
    before = reconstructed(photo.pixels, alignment)
    change = Change(alignment, before, reconstructed(truth.pixels, alignment, tint))
    full = float(photo.max_value)
    differs = np.abs(truth.pixels.astype(np.float32) - photo.pixels).max(axis=2) / full > MOVED
    own = sharpness(truth.pixels, differs)
    found: dict[str, float] = {"scenes": 1.0}
    for method in METHODS:
        if method == "poisson" and full > 255:
            continue
        outcome = blend(photo, change, BlendSettings(method))
        pixels, still = outcome.photo.pixels, outcome.mask == 0
        found[f"error_{method}"] = float(np.abs(pixels.astype(np.float32) - truth.pixels)[differs].mean() / full)
        found[f"sharpness_{method}"] = sharpness(pixels, differs) / own
        border = (cv2.dilate(still.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~still
        found[f"seam_{method}"] = sharpness(pixels, border) / sharpness(photo.pixels, border)
        found[f"outside_{method}"] = float(np.count_nonzero((pixels != photo.pixels).any(axis=2) & still))
        nothing = blend(photo, replace(change, after=before), BlendSettings(method))
        found[f"null_{method}"] = float(np.count_nonzero(nothing.photo.pixels != photo.pixels))
    found["error_nothing"] = float(np.abs(photo.pixels.astype(np.float32) - truth.pixels)[differs].mean() / full)
    return found


def sample_face() -> np.ndarray:
    """The sample photo's face, aligned, [256, 256, 3]."""
    photo = sample_photo()
    landmarks = find_faces(photo.to_u8())[0].landmarks
    image = crop_photo(photo.pixels, align_ffhq(landmarks, photo.shape_hw, 256)).image[0].transpose(1, 2, 0)
    return np.rint((image + 1) * 127.5).astype(np.uint8)


def sample_photo() -> Photo:
    """The photo that comes with the project."""
    (path,) = [entry for entry in resources.files("data.samples").iterdir() if entry.name.startswith("astronaut")]
    with resources.as_file(path) as file:
        return read_photo(file)


def scene_means(faces: Path | None, count: int, workers: int) -> dict[str, float]:
    """Means over scenes, and sums of pixels that should not have changed."""
    paths = [] if faces is None else picked(faces, count)
    rows = in_processes(partial(scene_figures, faces=paths), range(count), workers, "scenes")
    figures: dict[str, float] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row[key] for row in rows if key in row]
        total = key.startswith(("outside", "null", "scenes"))
        figures[key] = sum(values) if total else statistics.fmean(values)
    ratios = [row["error_flow"] / row["error_crop"] for row in rows]
    return figures | {
        "outside_changed_pixels": figures["outside_flow"],
        "null_drag_changed_pixels": figures["null_flow"],
        "sharpness_ratio": figures["sharpness_flow"],
        "sharpness_crop_paste": figures["sharpness_crop"],
        "error_ratio_to_crop_paste": statistics.median(ratios),
        "seam_ratio": figures["seam_flow"],
    }


def measure_size(megapixels: int) -> dict[str, float]:
    """Blend and encode a photo whose face fills it, in this process."""
    photo = sample_photo()
    landmarks = find_faces(photo.to_u8())[0].landmarks
    quad = align_ffhq(landmarks, photo.shape_hw, CROP_PX).quad
    x0, y0 = np.clip(np.floor(quad.min(axis=0)).astype(int), 0, None)
    x1, y1 = np.ceil(quad.max(axis=0)).astype(int)
    part = photo.pixels[y0:y1, x0:x1]
    scale = float(np.sqrt(megapixels * 1e6 / (part.shape[0] * part.shape[1])))
    pixels = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    with tempfile.TemporaryDirectory() as folder:
        return _measured(pixels, (quad - (x0, y0) + 0.5) * scale - 0.5, Path(folder) / "photo.jpg")


def _measured(pixels: np.ndarray, quad: np.ndarray, file: Path) -> dict[str, float]:
    """Blend and encoding of a photo that is a JPEG file, as most are."""
    write_photo(Photo(pixels, format="JPEG"), file, edited=False)
    del pixels
    enlarged = read_photo(file)
    pixels = enlarged.pixels
    alignment = align_quad(quad, enlarged.shape_hw, CROP_PX)
    before = reconstructed(pixels, alignment)
    small = align_quad(
        [[-0.5, -0.5], [-0.5, CROP_PX - 0.5], [CROP_PX - 0.5] * 2, [CROP_PX - 0.5, -0.5]], (CROP_PX,) * 2, CROP_PX
    )
    after = carried(before, motion("head", small))
    held = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    started = time.monotonic()
    outcome = blend(enlarged, Change(alignment, before, after))
    blended = time.monotonic()
    found = {"blend": blended - started, "changed": outcome.changed_fraction}
    found["peak"] = (memory_bytes("VmHWM") - held) / pixels.nbytes
    for format in ("JPEG", "PNG"):
        started = time.monotonic()
        encode_photo(outcome.photo, edited=True, format=format)
        found[format.lower()] = time.monotonic() - started
    found["peak_encoded"] = (memory_bytes("VmHWM") - held) / pixels.nbytes
    return found


def carried_shares(path: Path, kept: Path) -> dict[str, float]:
    """Of one face's kept drags: the share of what dlib sees the generator's picture move that it sees the photo move.

    Landmarks that the generator moved by more than LEAST_MOVED_PX, moves projected on the generator's, mean over drags.
    """
    face, shares = tuned_face(path, kept), dict[str, list[float]]()
    picture, alignment = image_u8(face.image), face.crop.alignment
    photo = Photo(image_u8(torch.from_numpy(face.crop.image)))
    before = np.ascontiguousarray(face.image[0].permute(1, 2, 0).numpy())
    for file in sorted(kept.glob(f"{path.stem}_*_ours.png")):
        edited = read_photo(file).to_u8()
        try:
            boxes = [faces_in_crop(x)[0].box for x in (picture, edited)]
            own_box = faces_in_crop(photo.pixels)[0].box
        except NoFaceError:
            continue
        first, second = (steady_landmarks(x, boxes) for x in (picture, edited))
        asked, still = second - first, steady_landmarks(photo.pixels, [own_box])
        moving = np.linalg.norm(asked, axis=1) > LEAST_MOVED_PX
        if moving.sum() < 2:
            continue
        after = edited.astype(np.float32) / 127.5 - 1
        change = Change(alignment, before, after, None, Guides(first, second))
        for method in ("flow", "difference", "crop"):
            result = blend(photo, change, BlendSettings(method)).photo.pixels
            seen = (steady_landmarks(result, [own_box]) - still)[moving]
            shares.setdefault(method, []).append(float((seen * asked[moving]).sum() / (asked[moving] ** 2).sum()))
    return {f"carried_share_{method}": statistics.fmean(rows) for method, rows in shares.items()} | {
        "carried_drags": float(len(next(iter(shares.values()), [])))
    }


def carried_means(faces: Path, kept: Path, photos: int, workers: int) -> dict[str, float]:
    """Means over the faces whose drags are kept by `benchmarks/drag.py --keep`."""
    paths = [path for path in picked(faces, photos) if (kept / f"{path.stem}_tuned.npz").is_file()]
    rows = in_processes(partial(carried_shares, kept=kept), paths, workers, "kept drags")
    rows = [row for row in rows if row["carried_drags"]]
    total = sum(row["carried_drags"] for row in rows)
    found = {
        key: sum(row[key] * row["carried_drags"] for row in rows) / total for key in rows[0] if key != "carried_drags"
    }
    return found | {"carried_drags": total}


def memory_bytes(name: str) -> int:
    """VmRSS, what this process holds, or VmHWM, the most it has held (Linux)."""
    (line,) = (x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def size_figures(rounds: int) -> dict[str, float]:
    """Medians of blending at each size, the sizes in turns, a process each."""
    rows: dict[int, list[dict[str, float]]] = {size: [] for size in MEGAPIXELS}
    for _ in range(rounds):
        for size in MEGAPIXELS:
            command = [sys.executable, __file__, "--size", str(size)]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rows[size].append(json.loads(printed.splitlines()[-1]))
    figures = {}
    for size, found in rows.items():
        median = {key: statistics.median(row[key] for row in found) for key in found[0]}
        figures[f"seconds_{size}mp"] = median["blend"]
        figures |= {f"encode_{kind}_seconds_{size}mp": median[kind] for kind in ("jpeg", "png")}
        figures[f"peak_memory_over_photo_{size}mp"] = median["peak"]
        figures[f"peak_memory_with_encoding_{size}mp"] = median["peak_encoded"]
        figures[f"changed_share_{size}mp"] = median["changed"]
    figures["peak_memory_over_photo"] = max(figures[f"peak_memory_over_photo_{size}mp"] for size in MEGAPIXELS)
    return figures


def save_pictures(folder: Path, faces: Path | None) -> None:
    """One scene of each motion: photo, truth and every way."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [] if faces is None else picked(faces, len(MOVES))
    for number, name in enumerate(MOVES):
        scene = made_scene(load_face(paths[number], 256) if paths else sample_face(), number)
        change = Change(
            scene.alignment,
            reconstructed(scene.photo.pixels, scene.alignment),
            reconstructed(scene.truth.pixels, scene.alignment),
        )
        ways = [blend(scene.photo, change, BlendSettings(way)).photo for way in ("flow", "difference", "crop")]
        row = np.concatenate([photo.to_u8() for photo in (scene.photo, scene.truth, *ways)], axis=1)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(row, cv2.COLOR_RGB2BGR))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, help="folder of aligned faces with a MANIFEST.csv")
    parser.add_argument("--photos", type=int, default=40, help="scenes")
    parser.add_argument("--quick", action="store_true", help="four scenes, one round of sizes")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--workers", type=int, default=1, help="processes for the scenes")
    parser.add_argument("--kept", type=Path, help="folder that benchmarks/drag.py --keep left: its drags carried back")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of one scene of each motion")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size is not None:
        print(json.dumps(measure_size(options.size)))
        return
    if options.pictures is not None:
        save_pictures(options.pictures, options.faces)
    figures = scene_means(options.faces, 4 if options.quick else options.photos, options.workers)
    if options.faces is not None and options.kept is not None:
        figures |= carried_means(options.faces, options.kept, MOST_KEPT, options.workers)
    figures |= size_figures(1 if options.quick else 3)
    tell(figures, options.json, KEYS)


if __name__ == "__main__":
    main()
