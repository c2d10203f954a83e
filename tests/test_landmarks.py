"""Faces of the sample photo, and what is said where there are none."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import data.landmarks as landmarks_module
from data.alignment import align_ffhq
from data.errors import ModelError, NoFaceError, UsageError
from data.landmarks import (
    DESCRIPTOR_MODEL,
    LANDMARK_MODEL,
    Face,
    choose_faces,
    face_chip,
    face_descriptor,
    find_faces,
    model_path,
    predict_landmarks,
    steady_landmarks,
)
from data.photo import read_photo

SAMPLE = Path(landmarks_module.__file__).parent / "samples" / "astronaut.png"


@pytest.fixture(scope="module")
def astronaut() -> NDArray[np.uint8]:
    return read_photo(SAMPLE).to_u8()


@pytest.fixture(scope="module")
def face(astronaut: NDArray[np.uint8]) -> Face:
    (only,) = find_faces(astronaut)
    return only


def eye_distance_px(face: Face) -> float:
    return float(np.hypot(*(face.landmarks[42:48].mean(axis=0) - face.landmarks[36:42].mean(axis=0))))


def test_the_sample_has_one_face(face: Face, astronaut: NDArray[np.uint8]) -> None:
    assert face.landmarks.shape == (68, 2)
    assert face.landmarks.dtype == np.float64
    left, top, right, bottom = face.box
    assert 150 < left < right < 300
    assert 50 < top < bottom < 220
    assert face.score > 0.5
    # The face is near (222, 120), its eyes above its mouth and a quarter to a half of the box apart.
    assert np.hypot(*(face.landmarks.mean(axis=0) - (222, 125))) < 25
    assert face.landmarks[36:48, 1].max() < face.landmarks[48:, 1].min()
    assert 0.25 < eye_distance_px(face) / (right - left) < 0.6
    quad = align_ffhq(face.landmarks, astronaut.shape[:2], 64).quad
    assert quad.min() > 0
    assert quad.max() < 512


@pytest.mark.parametrize("factor", [0.5, 5.0])
def test_landmarks_scale_with_the_photo(astronaut: NDArray[np.uint8], face: Face, factor: float) -> None:
    size = round(512 * factor)
    scaled = cv2.resize(astronaut, (size, size), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    found = find_faces(np.asarray(scaled, np.uint8))[0]
    back = (found.landmarks + 0.5) / factor - 0.5
    assert np.hypot(*(back - face.landmarks).T).mean() < 0.06 * eye_distance_px(face)


def test_steady_landmarks_follow_a_moving_picture_more_smoothly(astronaut: NDArray[np.uint8], face: Face) -> None:
    draw = np.random.default_rng(0)
    single, steady = [], []
    for moved in draw.uniform(-3.0, 3.0, (12, 2)):
        matrix = np.array([[1.0, 0.0, moved[0]], [0.0, 1.0, moved[1]]])
        picture = np.asarray(cv2.warpAffine(astronaut, matrix, (512, 512), flags=cv2.INTER_CUBIC), np.uint8)
        single.append(predict_landmarks(picture, face.box) - moved)
        steady.append(steady_landmarks(picture, [face.box]) - moved)
    assert np.std(steady, axis=0).mean() < 0.8 * np.std(single, axis=0).mean()
    assert np.hypot(*(np.mean(steady, axis=0) - face.landmarks).T).mean() < 0.05 * eye_distance_px(face)


def test_a_small_face_is_found_by_enlarging(astronaut: NDArray[np.uint8], face: Face) -> None:
    small = np.asarray(cv2.resize(astronaut, (200, 200), interpolation=cv2.INTER_AREA), np.uint8)
    with pytest.raises(NoFaceError, match=r"searched at 200 x 200; align.upsample_max=0"):
        find_faces(small, upsample_max=0)
    found = find_faces(small, upsample_max=2)[0]
    assert np.hypot(*(found.landmarks * 2.56 - face.landmarks).T).mean() < 0.12 * eye_distance_px(face)


def test_several_faces_come_largest_first(astronaut: NDArray[np.uint8]) -> None:
    half = cv2.resize(astronaut, (384, 384), interpolation=cv2.INTER_AREA)
    both = np.zeros((512, 896, 3), np.uint8)
    both[:200, :384], both[:256, 384:] = half[:200], astronaut[:256]
    faces = find_faces(both)
    assert len(faces) == 2
    assert faces[0].area_px > faces[1].area_px
    assert faces[0].box[0] > 384 > faces[1].box[2]
    assert choose_faces(faces, "largest") == [(0, faces[0])]
    assert choose_faces(faces, "1") == [(1, faces[1])]
    assert [index for index, _ in choose_faces(faces, "all")] == [0, 1]
    with pytest.raises(NoFaceError, match=r"align.face=2 was asked for, but 2 face\(s\) were found; use 0 to 1"):
        choose_faces(faces, "2")
    with pytest.raises(UsageError, match=r"align.face=biggest is not allowed; use largest, all or an index"):
        choose_faces(faces, "biggest")


def test_no_face_says_what_was_tried_and_what_to_do() -> None:
    empty = np.zeros((120, 90, 3), np.uint8)
    with pytest.raises(NoFaceError) as caught:
        find_faces(empty, upsample_max=1)
    message = str(caught.value)
    assert "photo of 90 x 120 pixels (searched at 90 x 120, 180 x 240; align.upsample_max=1)" in message
    assert "align=quad 'align.quad=[[x,y],[x,y],[x,y],[x,y]]'" in message
    assert "align=precropped" in message
    assert "align=center" in message


def test_large_photos_are_searched_at_a_smaller_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmarks_module, "DETECT_SIDE_PX", 100)
    monkeypatch.setattr(landmarks_module, "DETECT_MAX_PIXELS", 20_000)
    with pytest.raises(NoFaceError, match=r"photo of 300 x 150 pixels \(searched at 100 x 50, 200 x 100; "):
        find_faces(np.zeros((150, 300, 3), np.uint8), upsample_max=2)


def test_the_descriptor_knows_a_person(astronaut: NDArray[np.uint8], face: Face) -> None:
    assert face_chip(astronaut, face.landmarks).shape == (150, 150, 3)
    descriptor = face_descriptor(astronaut, face)
    assert descriptor.shape == (128,)
    assert 1 < np.linalg.norm(descriptor) < 2
    bright = np.clip(astronaut * 1.15, 0, 255).astype(np.uint8)
    assert 0 < np.linalg.norm(face_descriptor(bright, face.landmarks) - descriptor) < 0.25


def test_models_are_found_without_importing_their_package() -> None:
    sys.modules.pop("face_recognition_models", None)
    for name in (LANDMARK_MODEL, DESCRIPTOR_MODEL):
        assert model_path(name).stat().st_size > 1_000_000
    assert "face_recognition_models" not in sys.modules
    with pytest.raises(ModelError, match=r"absent.dat is not installed; run `pip install face_recognition_models`"):
        model_path("absent.dat")
