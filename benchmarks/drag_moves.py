"""Landmarks dragged by several methods from where a picture has them to where another has: made once, kept as latents,
and measured from those."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.common import load_tools
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
SETS = {1: [30], 5: [30, 36, 45, 48, 54], 68: list(range(68))}
"""Landmarks that are dragged: the nose tip; with it the eyes' outer corners and the mouth's corners; all."""
THERE_AND_BACK = 5
"""The number of points that are dragged back, too."""
HULL_MARGIN = 0.15
"""Inter-ocular distances, about, by which the hull of the moved landmarks is widened where changes are counted."""


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
class Start:
    """What is dragged: a generator, a latent [1, L, D] and noise of it, the picture [1, 3, R, R] they give, and its
    landmarks [68, 2], None when there is not one face."""

    generator: Generator
    w: Tensor
    noise: NoiseMaps | None
    image: Tensor
    landmarks: np.ndarray | None

    def render(self, w: Tensor) -> Tensor:
        """The picture [1, 3, R, R] of another latent."""
        with torch.no_grad():
            return self.generator.synthesize(w, "const", self.noise)


class Move(NamedTuple):
    """Which landmarks are dragged, from where and to where, in pixels of the picture."""

    chosen: list[int]
    handles: Points
    targets: Points


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """One drag, measured: mean landmark distance before and after in pixels of 512, dlib's face distance from before to
    after, mean change outside the hull, and the descriptors [2, 128] of before and after; `back` is the face-feature
    distance to the start after the way back. `as_near`, of our drags beside published ones: the face distance where
    they are as near as those end."""

    before_px: float
    after_px: float
    identity: float
    outside: float
    back: float | None
    described: Tensor
    made: Made
    as_near: float | None = None


class KeptDrags:
    """Finished drags in a folder, one file each; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str, points: int, method: str) -> Path | None:
        """Where a drag's file is."""
        return None if self.folder is None else self.folder / f"{name}_{points}_{method}.safetensors"

    def read(self, name: str, points: int, method: str) -> Made | None:
        """A kept drag."""
        path = self.path(name, points, method)
        if path is None or not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            names, told = list(file.keys()), json.loads(file.metadata()["drag"])
            return Made(file.get_tensor("w"), file.get_tensor("back") if "back" in names else None, **told)

    def write(self, name: str, points: int, method: str, made: Made) -> None:
        """Keep a drag."""
        path = self.path(name, points, method)
        if path is None:
            return
        tensors = {"w": made.w} | ({} if made.back is None else {"back": made.back})
        told = {"seconds": made.seconds, "steps": made.steps, "reason": made.reason}
        write_atomically(path, save({k: v.contiguous() for k, v in tensors.items()}, {"drag": json.dumps(told)}))


def landmarks_of(image: Tensor) -> np.ndarray | None:
    """Landmarks [68, 2] of the one face in an image [1, 3, R, R]; None when there is not one."""
    try:
        faces = faces_in_crop(image_u8(image))
    except NoFaceError:
        return None
    return faces[0].landmarks if len(faces) == 1 else None


def move_of(start: Start, goal: np.ndarray | None, points: int) -> Move | None:
    """The move of so many landmarks to where `goal` [68, 2] has them, those that lie in the picture both times; None
    without two faces."""
    if start.landmarks is None or goal is None:
        return None
    edge, both = start.image.shape[-1] - 1, (start.landmarks, goal)
    inside = [i for i in SETS[points] if all(((p[i] >= 0) & (p[i] <= edge)).all() for p in both)]
    first_at = {tuple(start.landmarks[i].round(3)): i for i in reversed(inside)}  # dlib may put two on one place
    chosen = sorted(first_at.values())
    return Move(chosen, start.landmarks[chosen], goal[chosen]) if chosen else None


def make(start: Start, move: Move, method: str, there_and_back: bool) -> Made:
    """One drag, and the one back."""
    work, started = METHODS[method], time.process_time()
    edited = work(start.generator, start.w, move.handles, move.targets, start.noise)
    seconds = time.process_time() - started
    back = work(start.generator, edited.w, move.targets, move.handles, start.noise).w if there_and_back else None
    return Made(edited.w, back, seconds, edited.steps, edited.stop_reason)


Outcomes = dict[int, dict[str, Outcome]]
"""Points -> method -> what its drag did."""


def all_moves(name: str, start: Start, goal: np.ndarray | None, methods: Sequence[str], kept: KeptDrags) -> Outcomes:
    """The drags of a picture with every number of points, made where they are not kept under its name, and measured;
    nothing without two faces."""
    found: Outcomes = {}
    for points in SETS:
        move = move_of(start, goal, points)
        if move is None:
            return {}
        for method in methods:
            made = kept.read(name, points, method)
            if made is None:
                made = make(start, move, method, points == THERE_AND_BACK)
                kept.write(name, points, method, made)
            found.setdefault(points, {})[method] = measured(start, move, made)
        row = found[points]
        if {"ours", "published"} <= row.keys():
            near = as_near(start, move, row["ours"].made, row["published"].after_px)
            row["ours"] = replace(row["ours"], as_near=near)
    return found


def apart_px(start: Start, move: Move, landmarks: np.ndarray | None) -> float:
    """The mean distance of landmarks [68, 2] from their targets, in pixels of 512; of a lost face that of the start."""
    seen = move.handles if landmarks is None else landmarks[move.chosen]
    return float(np.linalg.norm(seen - move.targets, axis=1).mean()) * PAPER_PX / start.image.shape[-1]


def as_near(start: Start, move: Move, made: Made, px: float) -> float:
    """The face distance at the first place on the straight way to a drag's latent, told to a sixteenth, that shows the
    landmarks no farther than `px` from their targets; at its end where there is none."""
    for sixteenths in range(1, 16):
        image = start.render(start.w + (made.w - start.w) * (sixteenths / 16))
        if apart_px(start, move, landmarks_of(image)) <= px:
            return face_distance(start.image, image)
    return face_distance(start.image, start.render(made.w))


def measured(start: Start, move: Move, made: Made) -> Outcome:
    """What dlib sees of a drag; a lost face counts as no edit."""
    tools, image = load_tools(), start.render(made.w)
    return Outcome(
        apart_px(start, move, start.landmarks),
        apart_px(start, move, landmarks_of(image)),
        face_distance(start.image, image),
        outside_change(start.image, image, np.concatenate([move.handles, move.targets])),
        None if made.back is None else perceptual_distance(tools.perceptual, start.render(made.back), start.image),
        torch.cat([descriptors(tools.network, x.clamp(-1, 1)) for x in (start.image, image)]),
        made,
    )


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


def by_points(rows: Sequence[Outcomes]) -> dict[int, dict[str, list[Outcome]]]:
    """Points -> method -> outcomes in the pictures' order, those without two faces left out."""
    found = [row for row in rows if row]
    methods = list(next(iter(found[0].values()))) if found else []
    return {points: {method: [row[points][method] for row in found] for method in methods} for points in SETS}


def move_figures(outcomes: Mapping[int, Mapping[str, Sequence[Outcome]]]) -> dict[str, float]:
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
        near = [row.as_near for row in rows["ours"] if row.as_near is not None]
        if near:
            figures[f"identity_as_near_ratio_{points}"] = (
                statistics.fmean(near) / figures[f"identity_{points}_published"]
            )
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
