"""Drags of generated pairs by several methods: made once, kept as latents, and measured from those."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.common import in_processes, load_tools
from data.errors import NoFaceError
from data.files import write_atomically
from editing.drag import DragSettings, Edited
from editing.masks import EYES_APART, automatic_mask
from editing.points import Points
from editing.published import PublishedSettings, drag_published
from inversion.generators.protocol import Generator, NoiseMaps
from inversion.losses import whole_face_descriptor
from inversion.metrics import perceptual_distance
from inversion.training.metrics import descriptors, frechet_distance
from pipeline.by_hand import drag_by_hand
from pipeline.locating import faces_in_crop
from pipeline.pictures import image_u8

PAPER_PX = 512
PSI = 0.7
SETS = {1: [30], 5: [30, 36, 45, 48, 54], 68: list(range(68))}
"""Landmarks that are dragged: the nose tip; with it the eyes' outer corners and the mouth's corners; all."""
THERE_AND_BACK = 5
"""The number of points that are dragged back, too."""
HULL_MARGIN = 0.15
"""Inter-ocular distances, about, by which the hull of the moved landmarks is widened where changes are counted."""
TIMED = 6
"""Pairs that every method drags in turns, for their seconds."""


class Method(Protocol):
    """A drag of points given by hand."""

    def __call__(
        self, generator: Generator, w: Tensor, handles: Points, targets: Points, noise: NoiseMaps | None = None
    ) -> Edited: ...


def drag_as_published(
    generator: Generator, w: Tensor, handles: Points, targets: Points, noise: NoiseMaps | None = None
) -> Edited:
    """DragGAN as published, which draws every step's picture anyway and keeps none here."""
    return drag_published(generator, w, noise, handles, targets, settings=PublishedSettings(frame_every=0))


def drag_by_default(
    generator: Generator, w: Tensor, handles: Points, targets: Points, noise: NoiseMaps | None = None
) -> Edited:
    """Our drag of points given by hand, with the mask that it has where none is given."""
    size = generator.resolution
    found = automatic_mask(handles, targets, EYES_APART * size, (size, size))
    mask = None if found is None else torch.from_numpy(found)[None, None]
    with torch.no_grad():
        start = generator.synthesize(w, "const", noise)
    return drag_by_hand(generator, w, noise, start, handles, targets, mask, DragSettings(frame_every=0))


METHODS: dict[str, Method] = {
    "published": drag_as_published,
    "ours": drag_by_default,
}


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """A drag: the latent [1, L, D] it led to, that after the way back (None without one), and what it took."""

    w: Tensor
    back: Tensor | None
    seconds: float
    steps: int
    reason: str


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """A generated picture [1, 3, R, R], its latent and its landmarks [68, 2], None when there is not one face."""

    w: Tensor
    image: Tensor
    landmarks: np.ndarray | None


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """One drag, measured: mean landmark distance before and after in pixels of 512, dlib's face distance from before to
    after, mean change outside the hull, and the descriptors [2, 128] of before and after; `back` is the face-feature
    distance to the start after the way back."""

    before_px: float
    after_px: float
    identity: float
    outside: float
    back: float | None
    described: Tensor
    made: Made


class KeptDrags:
    """Finished drags in a folder, one file each; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, number: int, points: int, method: str) -> Path | None:
        """Where a drag's file is."""
        return None if self.folder is None else self.folder / f"pair{number:04d}_{points}_{method}.safetensors"

    def read(self, number: int, points: int, method: str) -> Made | None:
        """A kept drag."""
        path = self.path(number, points, method)
        if path is None or not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            names, told = list(file.keys()), json.loads(file.metadata()["drag"])
            return Made(file.get_tensor("w"), file.get_tensor("back") if "back" in names else None, **told)

    def write(self, number: int, points: int, method: str, made: Made) -> None:
        """Keep a drag."""
        path = self.path(number, points, method)
        if path is None:
            return
        tensors = {"w": made.w} | ({} if made.back is None else {"back": made.back})
        told = {"seconds": made.seconds, "steps": made.steps, "reason": made.reason}
        write_atomically(path, save({k: v.contiguous() for k, v in tensors.items()}, {"drag": json.dumps(told)}))


@cache
def drawn(seed: int) -> Sample:
    """One sample of the generator, seen by dlib."""
    generator = load_tools().generator.module
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        w = generator.map(z, truncation_psi=PSI)
        image = generator.synthesize(w, "const")
    return Sample(w, image, landmarks_of(image))


def landmarks_of(image: Tensor) -> np.ndarray | None:
    """Landmarks [68, 2] of the one face in an image [1, 3, R, R]; None when there is not one."""
    try:
        faces = faces_in_crop(image_u8(image))
    except NoFaceError:
        return None
    return faces[0].landmarks if len(faces) == 1 else None


def asked(number: int, points: int) -> tuple[list[int], Points, Points] | None:
    """The landmarks of pair (2 n, 2 n + 1) that are dragged, their handles and targets; None without two faces."""
    first, second = drawn(2 * number), drawn(2 * number + 1)
    if first.landmarks is None or second.landmarks is None:
        return None
    edge, both = first.image.shape[-1] - 1, (first.landmarks, second.landmarks)
    inside = [i for i in SETS[points] if all(((p[i] >= 0) & (p[i] <= edge)).all() for p in both)]
    first_at = {tuple(first.landmarks[i].round(3)): i for i in reversed(inside)}  # dlib may put two on one place
    chosen = sorted(first_at.values())
    return chosen, first.landmarks[chosen], second.landmarks[chosen]


def make(number: int, points: int, method: str, there_and_back: bool) -> Made | None:
    """One drag of a pair."""
    pair = asked(number, points)
    if pair is None:
        return None
    _, handles, targets = pair
    generator, work = load_tools().generator.module, METHODS[method]
    started = time.process_time()
    edited = work(generator, drawn(2 * number).w, handles, targets)
    seconds = time.process_time() - started
    back = work(generator, edited.w, targets, handles).w if there_and_back else None
    return Made(edited.w, back, seconds, edited.steps, edited.stop_reason)


def make_pair(number: int, methods: Sequence[str], kept: KeptDrags) -> dict[int, dict[str, Outcome]]:
    """The drags of a pair, made where they are not kept, and measured: points -> method -> outcome."""
    torch.set_num_threads(1)
    found: dict[int, dict[str, Outcome]] = {}
    for points in SETS:
        for method in methods if number % 2 else list(reversed(methods)):
            made = kept.read(number, points, method)
            if made is None:
                made = make(number, points, method, points == THERE_AND_BACK)
                if made is None:
                    return {}
                kept.write(number, points, method, made)
            found.setdefault(points, {})[method] = measured(number, points, made)
    return found


def measured(number: int, points: int, made: Made) -> Outcome:
    """What dlib sees of a drag; a lost face counts as no edit."""
    tools, pair = load_tools(), asked(number, points)
    assert pair is not None
    chosen, handles, targets = pair
    start, image = drawn(2 * number).image, render(made.w)
    scale = PAPER_PX / image.shape[-1]
    before_px = float(np.linalg.norm(handles - targets, axis=1).mean()) * scale
    after = landmarks_of(image)
    after_px = before_px if after is None else float(np.linalg.norm(after[chosen] - targets, axis=1).mean()) * scale
    return Outcome(
        before_px,
        after_px,
        face_distance(start, image),
        outside_change(start, image, np.concatenate([handles, targets])),
        None if made.back is None else perceptual_distance(tools.perceptual, render(made.back), start),
        torch.cat([descriptors(tools.network, x.clamp(-1, 1)) for x in (start, image)]),
        made,
    )


def render(w: Tensor) -> Tensor:
    """The picture [1, 3, R, R] of a latent."""
    with torch.no_grad():
        return load_tools().generator.module.synthesize(w, "const")


def face_distance(first: Tensor, second: Tensor) -> float:
    """Distance of dlib's descriptors of two crops' faces."""
    one, two = (whole_face_descriptor(load_tools().network, x.clamp(-1, 1)) for x in (first, second))
    return float((one - two).norm())


def outside_change(before: Tensor, after: Tensor, points: Points) -> float:
    """Mean absolute change, in units of [-1, 1], outside the hull of points [N, 2] in crop pixels, a little widened."""
    size = before.shape[-1]
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.float32)).round().astype(np.int32), 1)
    margin = max(1, round(HULL_MARGIN * EYES_APART * size))
    mask = cv2.dilate(mask, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    change = (before - after).clamp(-2, 2).abs().mean(dim=1)[0].numpy()
    return float(change[mask == 0].mean())


def make_pairs(
    pairs: int, methods: Sequence[str], kept: KeptDrags, workers: int
) -> dict[int, dict[str, list[Outcome]]]:
    """The drags of the first pairs: points -> method -> outcomes in the pairs' order, those without two faces out."""
    work = partial(make_pair, methods=methods, kept=kept)
    rows = [row for row in in_processes(work, range(pairs), workers, "pairs") if row]
    return {points: {method: [row[points][method] for row in rows] for method in methods} for points in SETS}


def timed(item: tuple[int, int, str]) -> float | None:
    """Processor seconds of a drag that is made for its time."""
    torch.set_num_threads(1)
    made = make(*item, there_and_back=False)
    return None if made is None else made.seconds


def seconds_figures() -> dict[str, float]:
    """Median seconds of both methods on a few pairs, in turns in one process, and the median of their ratios."""
    found: dict[str, float] = {}
    ratios = []
    for points in SETS:
        items = [(number, points, method) for number in range(TIMED) for method in METHODS]
        seconds = in_processes(timed, items, 1, f"seconds, {points} points")
        rows = [row for row in zip(*(seconds[i :: len(METHODS)] for i in range(len(METHODS))), strict=True) if all(row)]
        for method, column in zip(METHODS, zip(*rows, strict=True), strict=True):
            found[f"timed_seconds_{points}_{method}"] = statistics.median(column)
        found[f"seconds_ratio_{points}"] = statistics.median(ours / published for published, ours in rows)
        ratios.append(found[f"seconds_ratio_{points}"])
    return found | {"seconds_ratio": statistics.fmean(ratios)}


def pair_figures(outcomes: Mapping[int, Mapping[str, Sequence[Outcome]]]) -> dict[str, float]:
    """Landmark distances, identity, change outside, steps, and Frechet distances for each number of points."""
    figures: dict[str, float] = {}
    ratios: dict[str, list[float]] = {"identity": [], "outside": []}
    for points, rows in outcomes.items():
        for method, found in rows.items():
            figures |= summary(found, f"{points}_{method}")
        if len(rows) < len(METHODS):
            continue
        for key, values in ratios.items():
            values.append(figures[f"{key}_{points}_ours"] / figures[f"{key}_{points}_published"])
            figures[f"{key}_ratio_{points}"] = values[-1]
        figures[f"landmark_px_{points}"] = figures[f"after_px_{points}_ours"]
        figures[f"landmark_ratio_{points}"] = figures[f"landmark_px_{points}"] / figures[f"after_px_{points}_published"]
    if ratios["identity"]:
        figures["ccsd_ratio"] = figures["back_5_ours"] / figures["back_5_published"]
        figures["identity_ratio"] = statistics.fmean(ratios["identity"])
        figures["outside_hull_change_ratio"] = statistics.fmean(ratios["outside"])
    return figures


def summary(outcomes: Sequence[Outcome], case: str) -> dict[str, float]:
    """Means over drags, the share of each stop reason, and the Frechet distance from before to after."""
    names = ("before_px", "after_px", "identity", "outside")
    found = {f"{name}_{case}": statistics.fmean(getattr(row, name) for row in outcomes) for name in names}
    found[f"steps_{case}"] = statistics.fmean(row.made.steps for row in outcomes)
    found[f"seconds_{case}"] = statistics.median(row.made.seconds for row in outcomes)
    back = [row.back for row in outcomes if row.back is not None]
    if back:
        found[f"back_{case}"] = statistics.fmean(back)
    for reason in sorted({row.made.reason for row in outcomes}):
        found[f"{reason}_{case}"] = statistics.fmean(row.made.reason == reason for row in outcomes)
    if len(outcomes) > 2:
        sides = torch.stack([row.described for row in outcomes], dim=1)
        found[f"frechet_{case}"] = frechet_distance(sides[0], sides[1])
    return found | {f"drags_{case}": float(len(outcomes))}
