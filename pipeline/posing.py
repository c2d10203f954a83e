"""The pose of the head in another photo (`edit.like`): its face is found, and what it asks of a face is told."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import NoFaceError, UsageError
from data.files import file_sha256
from data.landmarks import find_faces
from data.photo import read_photo
from editing.pose import Pose, pose_between
from pipeline.progress import Console

if TYPE_CHECKING:
    from pipeline.schema import EditConfig


def landmarks_in(path: str) -> np.ndarray:
    """Landmarks [68, 2] of the largest face in the photo of `edit.like`, in that photo's own upright pixels.

    Raises UsageError when there is no such file, PhotoError when it cannot be read, NoFaceError when it shows no face.
    """
    if not Path(path).is_file():
        raise UsageError(f"edit.like is {path}, which does not exist: allowed is the path of a file.")
    return _landmarks_in(path, file_sha256(Path(path)))


@lru_cache(maxsize=4)
def _landmarks_in(path: str, _sha256: str) -> np.ndarray:
    """Kept, because the start of a run and each of its faces ask for it; the hash makes a changed file a new one."""
    try:
        return find_faces(read_photo(path).to_u8())[0].landmarks
    except NoFaceError as error:
        raise NoFaceError(
            f"edit.like needs a face to take the pose from, and none was found in {path}: give a photo in which both "
            "eyes are seen, or edit.preset=turn_left, look_up or tilt instead."
        ) from error


def pose_towards(config: EditConfig, landmarks: np.ndarray, console: Console | None = None) -> Pose:
    """The pose that `edit.like` and `edit.strength` ask of a face with landmarks [68, 2], said aloud."""
    assert config.like is not None, "there is no other photo to take a pose from"
    asked = pose_between(landmarks, landmarks_in(config.like)).times(config.strength)
    pose = asked.limited()
    if console is not None:
        console.say(f"edit.like: {pose}")
    if console is not None and pose != asked:
        console.warn(f"edit.like asks for {asked}: more than 3 either way is left out; a lower edit.strength asks less")
    return pose
