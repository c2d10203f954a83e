"""Where the landmarks that a preset drags are in a rendered picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.errors import ModelError, NoFaceError
from data.landmarks import Face, find_faces, steady_landmarks
from editing.drag_task import CROWD
from editing.presets import face_frame

LOOK_SIDE_PX = 256
"""Pictures are brought to this: the predictor sees no finer detail of a face that fills the crop, and as it compares
single pixels, its points move in jumps of a smaller picture's pixels."""
UPSAMPLE_MAX = 1
AGREEMENT = 0.1
"""Inter-ocular distances by which landmarks in the first picture's box may differ from those in a box found anew."""
ON_A_LANDMARK = 0.25
"""Inter-ocular distances from a landmark within which a point of a crowd is taken for it."""
SEARCH_SIDE_PX = 1024
"""Crops are enlarged up to this to find a face in them; beyond it only what fills no crop would be found, slowly."""


def faces_in_crop(picture: np.ndarray) -> list[Face]:
    """The faces of a crop's picture [R, R, 3] uint8 RGB, largest first; NoFaceError when there is none."""
    return find_faces(picture, max(1, SEARCH_SIDE_PX // picture.shape[0]).bit_length() - 1)


def shows_face(picture: np.ndarray) -> bool:
    """Whether a face is found in a crop's picture [R, R, 3] uint8 RGB; True, too, where nothing is there to find it."""
    try:
        return bool(faces_in_crop(picture))
    except NoFaceError:
        return False
    except ModelError:
        return True


class LandmarkLocator:
    """Finds chosen landmarks of one face again and again (`editing.landmark_drag.Locator`).

    The face's box is taken from the first picture, so that the predictor answers smoothly to small changes. Raises
    NoFaceError when that picture shows no face.
    """

    def __init__(self, picture: np.ndarray, landmarks: Sequence[int]) -> None:
        self._landmarks = list(landmarks)
        self._box = find_faces(_looked_at(picture), UPSAMPLE_MAX)[0].box

    def locate(self, picture: np.ndarray) -> np.ndarray:
        """The landmarks [N, 2] in pixels of a picture [R, R, 3] uint8 RGB."""
        seen = _looked_at(picture)
        found = face_frame(steady_landmarks(seen, [self._box])).points[self._landmarks]
        return np.asarray((found + 0.5) * (picture.shape[0] / seen.shape[0]) - 0.5)

    def recognises(self, picture: np.ndarray) -> bool:
        """Whether one face, and only one, is found, with the landmarks where `locate` sees them."""
        seen = _looked_at(picture)
        try:
            faces = find_faces(seen, UPSAMPLE_MAX)
        except NoFaceError:
            return False
        found, expected = (face_frame(steady_landmarks(seen, [box])) for box in (faces[0].box, self._box))
        apart = np.linalg.norm(found.points - expected.points, axis=1)[self._landmarks].mean()
        return len(faces) == 1 and bool(apart <= AGREEMENT * found.unit_px)


@dataclass(frozen=True, eq=False, slots=True)
class CrowdFinder:
    """Finds those landmarks of the one face of a picture [R, R, 3] uint8 RGB: [N, 2] in its pixels, None without one
    face (`editing.watched_drag.Finder`). The face is looked for anew each time, as by whoever measures the result."""

    landmarks: tuple[int, ...]

    def __call__(self, picture: np.ndarray) -> np.ndarray | None:
        found = _one_face(picture)
        return None if found is None else found[list(self.landmarks)]


def crowd_finder(picture: np.ndarray, points: np.ndarray) -> CrowdFinder | None:
    """What finds a crowd of points [N, 2] again that are landmarks of the one face of a picture [R, R, 3] uint8 RGB;
    None for fewer points, for points elsewhere, and without one face."""
    if len(points) < CROWD:
        return None
    found = _one_face(picture)
    if found is None:
        return None
    apart = np.linalg.norm(found[None] - np.asarray(points)[:, None], axis=2) / face_frame(found).unit_px
    chosen = np.full(len(points), -1)
    for flat in apart.argsort(axis=None, kind="stable"):
        point, landmark = divmod(int(flat), len(found))
        if chosen[point] < 0 and landmark not in chosen:
            chosen[point] = landmark
    away = apart[np.arange(len(points)), chosen]
    if (chosen < 0).any() or away.max() > ON_A_LANDMARK or away.mean() > AGREEMENT:
        return None
    return CrowdFinder(tuple(chosen.tolist()))


def _one_face(picture: np.ndarray) -> np.ndarray | None:
    """Landmarks [68, 2] of the one face of a picture; None when there is none, or more than one."""
    try:
        faces = find_faces(picture, max(1, LOOK_SIDE_PX // picture.shape[0]).bit_length() - 1)
    except NoFaceError:
        return None
    return faces[0].landmarks if len(faces) == 1 else None


def _looked_at(picture: np.ndarray) -> np.ndarray:
    side = picture.shape[0]
    if side == LOOK_SIDE_PX:
        return picture
    how = cv2.INTER_AREA if side > LOOK_SIDE_PX else cv2.INTER_CUBIC
    return cv2.resize(picture, (LOOK_SIDE_PX, LOOK_SIDE_PX), interpolation=how)
