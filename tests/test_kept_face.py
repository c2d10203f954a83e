"""Drags that end no farther than a face is seen: nothing else changes, and what comes back is on the way."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import ModelError, NoFaceError
from editing.drag import DragSettings, drag
from editing.kept_face import HALVINGS, drag_keeping_face
from editing.landmark_drag import Picture
from pipeline import by_hand, locating
from pipeline.by_hand import drag_by_hand
from pipeline.outputs import frame_steps
from tests.runs import PHOTO
from tests.test_drag import CENTRES, SIZE
from tests.test_watched_drag import Deceiving

HANDLES, TARGETS = np.array(CENTRES[:1]), np.array([[26.0, 27.0]])
SETTINGS = DragSettings(steps=60, lr=0.02, frame_every=0, feature_resolution=32)


class Eyes:
    """Sees a face in pictures that differ from the start's by no more than `bound` levels; counts its looks."""

    def __init__(self, start: Picture, bound: float) -> None:
        self.start, self.bound, self.looks = start.astype(float), bound, 0

    def __call__(self, picture: Picture) -> bool:
        self.looks += 1
        return self.away(picture) <= self.bound

    def away(self, picture: Picture) -> float:
        return float(np.abs(picture.astype(float) - self.start).mean())


@pytest.fixture(scope="module")
def parts() -> Deceiving:
    return Deceiving()


@pytest.fixture(scope="module")
def w() -> Tensor:
    return torch.zeros(1, 10, 8)


def picture_of(parts: Deceiving, w: Tensor) -> Picture:
    shown = ((parts.synthesize(w)[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    return shown.to(torch.uint8).numpy()


def kept(parts: Deceiving, w: Tensor, shows: Eyes, settings: DragSettings = SETTINGS):
    return drag_keeping_face(parts, w, None, shows, HANDLES, TARGETS, settings=settings)


def test_a_face_that_is_still_seen_is_left_alone(parts: Deceiving, w: Tensor) -> None:
    plain, eyes = drag(parts, w, None, HANDLES, TARGETS, settings=SETTINGS), Eyes(picture_of(parts, w), 255.0)
    edited = kept(parts, w, eyes)
    assert eyes.looks == 1
    assert torch.equal(edited.w, plain.w)
    assert torch.equal(edited.tracks, plain.tracks)
    assert (edited.stop_reason, edited.metrics) == (plain.stop_reason, plain.metrics)


def test_where_no_face_was_none_is_missed(parts: Deceiving, w: Tensor) -> None:
    plain, eyes = drag(parts, w, None, HANDLES, TARGETS, settings=SETTINGS), Eyes(picture_of(parts, w), -1.0)
    edited = kept(parts, w, eyes)
    assert eyes.looks == 2
    assert torch.equal(edited.w, plain.w)
    assert "face_kept" not in edited.metrics


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_drag_goes_back_to_where_the_face_is_seen_last(parts: Deceiving, w: Tensor, share: float) -> None:
    plain = drag(parts, w, None, HANDLES, TARGETS, settings=SETTINGS)
    assert plain.stop_reason == "arrived"
    eyes = Eyes(picture_of(parts, w), 0.0)
    eyes.bound = eyes.away(picture_of(parts, torch.lerp(w, plain.w, share)))
    edited = kept(parts, w, eyes)
    found = edited.metrics["face_kept"]
    assert eyes.looks == 2 + HALVINGS
    assert (found * 2**HALVINGS).is_integer()
    assert share - 0.5**HALVINGS < found <= share + 0.02  # a picture's levels are whole numbers
    assert torch.allclose(edited.w, torch.lerp(w, plain.w, found), atol=1e-6)
    assert eyes.away(picture_of(parts, edited.w)) <= eyes.bound
    assert edited.stop_reason == "stalled"
    assert (edited.steps, edited.metrics["best_step"]) == (plain.steps + 1, plain.steps + 1)
    assert len(edited.tracks) == edited.steps + 1
    assert torch.equal(edited.tracks[:-1], plain.tracks)
    true = parts.centres(edited.w)[0]
    assert float((edited.tracks[-1][0] - true).norm()) < 0.5
    left = float((true - torch.tensor(TARGETS[0])).norm())
    assert edited.metrics["distance_after_px"] == pytest.approx(left, abs=0.5)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_frames_go_with_the_steps_back_too(parts: Deceiving, w: Tensor, every: int) -> None:
    eyes = Eyes(picture_of(parts, w), 0.4)
    edited = kept(parts, w, eyes, replace(SETTINGS, frame_every=every))
    assert 0 < edited.metrics["face_kept"] < 1
    assert len(edited.frames) == len(frame_steps(edited, every))
    assert np.array_equal(edited.frames[-1], picture_of(parts, edited.w))


def test_a_face_that_only_the_start_shows_stays_at_the_start(parts: Deceiving, w: Tensor) -> None:
    edited = kept(parts, w, Eyes(picture_of(parts, w), 0.0))
    assert edited.metrics["face_kept"] <= 0.5**HALVINGS
    assert float((edited.w - w).norm()) < 0.1 * float((drag(parts, w, None, HANDLES, TARGETS).w - w).norm())


def test_points_by_hand_keep_the_face_and_method_points_does_not(
    parts: Deceiving, w: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = Eyes(picture_of(parts, w), 0.4)
    monkeypatch.setattr(by_hand, "shows_face", eyes)
    start = parts.synthesize(w)
    asked = (parts, w, None, start, HANDLES, TARGETS, None, SETTINGS)
    assert "face_kept" in drag_by_hand(*asked).metrics
    eyes.looks = 0
    assert "face_kept" not in drag_by_hand(*asked, watch=False).metrics
    assert eyes.looks == 0
    searched = replace(SETTINGS, tracker="line_search")
    drag_by_hand(*asked[:-1], searched)
    assert eyes.looks > 0


def test_faces_are_seen_and_a_detector_that_is_not_there_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB)
    assert locating.shows_face(cv2.resize(photo, (256, 256 * photo.shape[0] // photo.shape[1])))
    assert not locating.shows_face(np.full((SIZE, SIZE, 3), 90, np.uint8))

    def missing(*_: object) -> None:
        raise ModelError("dlib's landmark predictor is not on this machine")

    def nobody(*_: object) -> None:
        raise NoFaceError("no face")

    monkeypatch.setattr(locating, "find_faces", missing)
    assert locating.shows_face(photo)
    monkeypatch.setattr(locating, "find_faces", nobody)
    assert not locating.shows_face(photo)
