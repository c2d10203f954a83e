"""Drags of a crowd that a detector watches: the tracker's error is taken off, and landmarks are found again."""

from __future__ import annotations

import math
from itertools import count

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from data.landmarks import find_faces
from editing.drag import DragSettings, drag
from editing.landmark_drag import Picture
from editing.points import Points
from editing.watched_drag import IDLE_LOOKS, LOOK_STEPS, drag_watched
from pipeline.locating import AGREEMENT, ON_A_LANDMARK, crowd_finder
from tests.runs import PHOTO
from tests.test_drag import CENTRES, SIZE, Parts

SHORT = 0.75
"""The part of a feature's move that pictures show."""
BESIDE = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
HANDLES = np.concatenate([np.array(centre) + BESIDE for centre in CENTRES])
TARGETS = HANDLES + np.repeat([[6.0, -3.0], [-4.0, 2.0]], len(BESIDE), axis=0)
SETTINGS = DragSettings(steps=120, lr=0.02, frame_every=0, feature_resolution=32)


class Deceiving(Parts):
    """Its pictures show both parts, as a red and a green spot, a part of the way behind its features."""

    def synthesize(self, ws: Tensor, noise_mode: str = "const", noise: object = None) -> Tensor:
        axis = torch.arange(SIZE, dtype=ws.dtype)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        start = torch.tensor(CENTRES)
        shown = start + SHORT * (self.centres(ws) - start)
        spots = [torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 18.0) for cx, cy in shown]
        return 2 * torch.stack([*spots, torch.zeros_like(x)])[None] - 1


def find(picture: Picture) -> Points:
    """Where the points are in a picture of `Deceiving`."""
    weights = picture[..., :2].astype(float)
    places = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="xy"), axis=-1)
    centres = np.einsum("hwi,hwc->ic", weights, places) / weights.sum(axis=(0, 1))[:, None]
    return np.concatenate([centre + BESIDE for centre in centres])


def seen_away(parts: Deceiving, w: Tensor) -> float:
    """Mean distance to the targets in the picture of a latent."""
    start = torch.tensor(CENTRES)
    shown = (start + SHORT * (parts.centres(w) - start)).double().numpy()
    points = np.concatenate([centre + BESIDE for centre in shown])
    return float(np.linalg.norm(points - TARGETS, axis=1).mean())


@pytest.fixture(scope="module")
def parts() -> Deceiving:
    return Deceiving()


@pytest.fixture(scope="module")
def start_w() -> Tensor:
    return torch.zeros(1, Parts.num_ws, Parts.w_dim)


def test_what_the_tracker_errs_by_is_taken_off(parts: Deceiving, start_w: Tensor) -> None:
    plain = drag(parts, start_w, None, HANDLES, TARGETS, settings=SETTINGS)
    watched = drag_watched(parts, start_w, None, find, HANDLES, TARGETS, settings=SETTINGS)
    assert seen_away(parts, plain.w) > 1.0
    assert seen_away(parts, watched.w) < 0.5
    assert watched.stop_reason == "arrived"
    assert watched.metrics["distance_after_px"] == pytest.approx(seen_away(parts, watched.w), abs=0.1)
    assert watched.tracks.shape == (watched.steps + 1, len(HANDLES), 2)


def test_it_stalls_where_looks_gain_nothing_and_the_start_stays(parts: Deceiving, start_w: Tensor) -> None:
    looks = count(1)

    def blind(_picture: Picture) -> None:
        next(looks)

    edited = drag_watched(parts, start_w, None, blind, HANDLES, TARGETS, settings=SETTINGS)
    assert (edited.stop_reason, edited.steps) == ("stalled", IDLE_LOOKS * LOOK_STEPS)
    assert next(looks) == IDLE_LOOKS + 1
    assert torch.equal(edited.w, start_w)
    assert edited.metrics["distance_after_px"] == edited.metrics["distance_before_px"]


def test_it_ends_at_the_cap_when_it_is_stopped_and_when_there_is_nothing_to_do(
    parts: Deceiving, start_w: Tensor
) -> None:
    short = DragSettings(steps=8, lr=0.02, frame_every=3, feature_resolution=32)
    capped = drag_watched(parts, start_w, None, find, HANDLES, TARGETS, settings=short)
    assert (capped.stop_reason, capped.steps) == ("cap", 8)
    assert capped.metrics["best_step"] in (5.0, 8.0)  # the look at the end is one, too
    assert len(capped.frames) == 1 + 8 // 3 + 1
    steps = count()
    stopped = drag_watched(
        parts, start_w, None, find, HANDLES, TARGETS, settings=SETTINGS, should_stop=lambda: next(steps) == 7
    )
    assert (stopped.stop_reason, stopped.steps) == ("stopped", 7)
    still = drag_watched(parts, start_w, None, find, HANDLES, HANDLES, settings=SETTINGS)
    assert (still.stop_reason, still.steps, still.metrics["distance_after_px"]) == ("arrived", 0, 0.0)
    assert torch.equal(still.w, start_w)


@pytest.fixture(scope="module")
def face() -> tuple[np.ndarray, np.ndarray]:
    """The sample photo's face, as large as in a crop, and its landmarks."""
    photo = cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB)
    picture = cv2.resize(photo[20:200, 135:315], (128, 128), interpolation=cv2.INTER_AREA)
    return picture, find_faces(picture)[0].landmarks


def test_a_crowd_on_landmarks_is_found_again(face: tuple[np.ndarray, np.ndarray]) -> None:
    picture, landmarks = face
    unit = float(np.linalg.norm(landmarks[36:42].mean(axis=0) - landmarks[42:48].mean(axis=0)))
    near = landmarks[::-1][:40] + 0.5 * AGREEMENT * unit * np.array([math.cos(1.0), math.sin(1.0)])
    finder = crowd_finder(picture, near)
    assert finder is not None
    found = finder(picture)
    assert found is not None
    assert np.linalg.norm(found - near, axis=1).mean() < AGREEMENT * unit
    assert len(set(finder.landmarks)) == 40
    assert finder(np.zeros((128, 128, 3), np.uint8)) is None


def test_other_points_are_not_watched(face: tuple[np.ndarray, np.ndarray]) -> None:
    picture, landmarks = face
    unit = float(np.linalg.norm(landmarks[36:42].mean(axis=0) - landmarks[42:48].mean(axis=0)))
    stray = landmarks.copy()
    stray[30] += 3 * ON_A_LANDMARK * unit
    assert crowd_finder(picture, landmarks[:19]) is None
    assert crowd_finder(picture, stray) is None
    assert crowd_finder(picture, landmarks + 0.2 * unit) is None
    assert crowd_finder(np.zeros((128, 128, 3), np.uint8), landmarks) is None
