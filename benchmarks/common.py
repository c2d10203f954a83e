"""What the benchmarks share: reconstructing aligned faces with the project's settings, and telling figures."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

from data.alignment import Crop, align_precropped
from data.faces import list_faces, load_face
from inversion.identity import FaceNetwork
from inversion.losses import Counting, Targets
from inversion.metrics import perceptual_distance
from inversion.perceptual import Perceptual
from inversion.pivotal import tune
from inversion.projector import project
from pipeline.models import LoadedGenerator, choose_perceptual, read_face_network, read_generator, read_perceptual
from pipeline.optimiser_settings import projector_settings, tune_settings
from pipeline.quoting import quote_path
from pipeline.schema import RunConfig, compose
from pipeline.stages import likeness

PR_SET_PDEATHSIG = 1  # of Linux's prctl

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False, slots=True)
class Tools:
    """What every reconstruction needs, loaded once."""

    config: RunConfig
    generator: LoadedGenerator
    network: FaceNetwork
    perceptual: Perceptual


@cache
def load_tools(generator: Path | None = None) -> Tools:
    """The default settings on the CPU, with the embedded generator or the file that is given; once for a process."""
    config = compose(["edit=smile", *([] if generator is None else [f"generator.path={quote_path(str(generator))}"])])
    device = torch.device("cpu")
    network = read_face_network(device)
    perceptual = read_perceptual(choose_perceptual(config.perceptual), network, device)
    return Tools(config, read_generator(config.generator, device), network, perceptual)


def in_processes(
    work: Callable[[Item], Found], items: Sequence[Item], workers: int, title: str, threads: int | None = None
) -> list[Found]:
    """What `work` gives for each item, in their order, computed by processes that share the cores out.

    threads: as many a process instead, of the libraries that start theirs as they are loaded, too.
    """
    start = partial(_begin, threads or max(1, (os.cpu_count() or 1) // workers))
    asked = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with mock.patch.dict(os.environ, asked), ProcessPoolExecutor(workers, get_context("spawn"), start) as pool:
        return list(tqdm(pool.map(work, items), total=len(items), desc=title))


def _begin(threads: int) -> None:
    """What a worker does first: take its share of the cores, and end when the benchmark is killed."""
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def validation_means(faces: Path, count: int, generator: Path | None = None, workers: int = 1) -> dict[str, float]:
    """Mean likeness of `count` validation faces, evenly spread over the split, after invert and after tune."""
    paths = list_faces(faces, "val")
    picks = [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]
    found = in_processes(partial(reconstruct, generator_path=generator), picks, workers, "validation faces")
    return {key: statistics.fmean(row[key] for row in found) for key in found[0]} | {"validation_faces": len(picks)}


def reconstruct(path: Path, generator_path: Path | None = None) -> dict[str, float]:
    """Likeness of one aligned face after invert and after tune, and the seconds both took."""
    tools = load_tools(generator_path)
    generator, config = tools.generator, tools.config
    crop = aligned_crop(load_face(path, generator.module.resolution))
    target, inside = torch.from_numpy(crop.image), torch.from_numpy(crop.inside)
    targets = Targets(target, tools.perceptual, Counting(inside))
    started, rng = time.monotonic(), torch.Generator().manual_seed(config.seed)
    inversion = project(generator.module, targets, projector_settings(config.invert), rng, stats=generator.stats)
    between = time.monotonic()
    rng = torch.Generator().manual_seed(config.seed)
    tuned = tune(generator.module, targets, inversion, tune_settings(config.tune), rng)
    ended = time.monotonic()
    found = {"invert_seconds": between - started, "tune_seconds": ended - between}
    for stage, image in (("invert", inversion.image), ("tuned", tuned.image)):
        found |= likeness(stage, image, target, inside, tools.network)
        found[f"feature_distance_{stage}"] = perceptual_distance(tools.perceptual, image, target)
    return found


def aligned_crop(pixels: np.ndarray) -> Crop:
    """A picture [R, R, 3] uint8 that is a crop already."""
    resolution = pixels.shape[0]
    image = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
    inside = np.ones((1, 1, resolution, resolution), np.float32)
    return Crop(image, inside, align_precropped(pixels.shape[:2], resolution))


def tell(figures: Mapping[str, float], json_path: Path | None, order: Sequence[str] = ()) -> None:
    """Print figures, those of `order` first, and write them as JSON."""
    ordered = {key: _rounded(figures[key]) for key in (*order, *(k for k in figures if k not in order))}
    for key, value in ordered.items():
        print(f"{key:32s} {value:10.4f}" if value == round(value, 4) else f"{key:32s} {value:10.2e}")
    if json_path is not None:
        json_path.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def _rounded(value: float) -> float:
    """To four decimals, or to three digits where that would leave none."""
    return round(value, 4) if abs(value) >= 0.001 else float(f"{value:.3g}")
