"""How well a face can be edited after its inversion: the share of a preset's move that dlib sees after the drag."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from data.alignment import Crop
from data.errors import ModelError, NoFaceError, PhotodragError
from data.landmarks import Face, face_descriptor, steady_landmarks
from editing.points import Drag
from editing.presets import face_frame, preset_progress
from inversion.generators.protocol import Generator, NoiseMaps
from pipeline import stages
from pipeline.locating import faces_in_crop
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.schema import EditConfig

MOVED_ENOUGH = 0.6
"""Share of the asked move from which a drag by preset counts as a success."""
LEAST_MOVE = 0.015
"""Inter-ocular distances: presets that ask for less here, as close_mouth of a closed mouth, are left out."""
NO_FRAMES = 10000


@dataclass(frozen=True, slots=True)
class PresetOutcome:
    """What one drag by preset did, seen by dlib: `moved` is the share of the asked move (0 none, 1 all of it, below 0
    the other way), `face_distance` that of dlib's descriptors before and after. None: not exactly one face afterwards.
    """

    moved: float | None
    face_distance: float | None

    @property
    def succeeded(self) -> bool:
        """Whether one face is found and moved far enough."""
        return self.moved is not None and self.moved >= MOVED_ENOUGH


def try_presets(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    image: Tensor,
    crop: Crop,
    presets: Sequence[str],
    console: Console,
    speed: str = "auto",
) -> dict[str, PresetOutcome]:
    """Drag one picture by each preset at strength 1 with the default settings, every time from its start.

    image [1, 3, R, R] in about [-1, 1] is what the (tuned) generator draws of w [1, L, D] and the noise; crop tells
    where its landmarks are. Nothing when no face is found in the picture; presets that ask for no move are left out.
    """
    picture = image_u8(image)
    try:
        before = faces_in_crop(picture)[0]
    except (NoFaceError, ModelError):
        return {}
    found = {}
    for preset in presets:
        config = EditConfig(preset=preset, frame_every=NO_FRAMES)
        try:
            asked = stages.make_drag(config, crop, [])
            if largest_move(asked, crop, before) < LEAST_MOVE:
                continue
            title = f"measure {preset}"
            dragged = stages.edit(generator, w, noise, image, crop, asked, config, console, title, speed=speed)
            found[preset] = preset_outcome(preset, picture, before, image_u8(dragged.edited.image))
        except PhotodragError as error:
            console.warn(f"the editability by {preset} is not measured: {error}")
    return found


def largest_move(asked: Drag, crop: Crop, face: Face) -> float:
    """The longest of the asked moves in inter-ocular distances of the face in the crop's picture."""
    moves = crop.alignment.to_crop(asked.targets) - crop.alignment.to_crop(asked.handles)
    return float(np.linalg.norm(moves, axis=1).max(initial=0.0)) / face_frame(face.landmarks).unit_px


def preset_outcome(preset: str, picture: np.ndarray, before: Face, edited: np.ndarray) -> PresetOutcome:
    """What dlib sees of a drag by preset: pictures [R, R, 3] uint8 before, with its face, and after."""
    try:
        faces = faces_in_crop(edited)
    except NoFaceError:
        return PresetOutcome(None, None)
    if len(faces) != 1:
        return PresetOutcome(None, None)
    boxes = before.box, faces[0].box  # in both for both pictures: another box alone looks like a small smile
    moved = preset_progress(preset, steady_landmarks(picture, boxes), steady_landmarks(edited, boxes))
    try:
        first, second = face_descriptor(picture, before), face_descriptor(edited, faces[0])
    except ModelError:
        return PresetOutcome(moved, None)
    return PresetOutcome(moved, float(np.linalg.norm(first - second)))


def editability_figures(stage: str, outcomes: Mapping[str, PresetOutcome]) -> dict[str, float | None]:
    """Figures of the outcomes, each name with the stage behind it; nothing when there are none.

    `editability_success_<stage>`: the share of presets that succeeded. `editability_moved_<stage>`: the mean share of
    the move, where a drag that left not exactly one face counts as 0. `editability_face_distance_<stage>`: the mean of
    those that there are. The same for each preset with its name before the stage, None where it could not be seen.
    """
    if not outcomes:
        return {}
    rows = list(outcomes.values())
    distances = [row.face_distance for row in rows if row.face_distance is not None]
    found: dict[str, float | None] = {
        f"editability_success_{stage}": statistics.fmean(row.succeeded for row in rows),
        f"editability_moved_{stage}": statistics.fmean(row.moved or 0.0 for row in rows),
        f"editability_face_distance_{stage}": statistics.fmean(distances) if distances else None,
    }
    for preset, row in outcomes.items():
        found[f"editability_moved_{preset}_{stage}"] = row.moved
        found[f"editability_face_distance_{preset}_{stage}"] = row.face_distance
    return found
