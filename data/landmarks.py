"""Faces in a photo: dlib's frontal detector, its 68-point predictor and its 128-D face descriptor.

The model files are those of the package face_recognition_models, which is located but never imported: importing it
needs a module that new Pythons no longer ship.
"""

import importlib.util
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError, NoFaceError, UsageError

LANDMARK_MODEL = "shape_predictor_68_face_landmarks.dat"
DESCRIPTOR_MODEL = "dlib_face_recognition_resnet_model_v1.dat"
MODELS_PACKAGE = "face_recognition_models"

DETECT_SIDE_PX = 1600
"""Longer side of the picture that the first detection runs on; photos that are smaller are not enlarged for it."""
DETECT_MAX_PIXELS = 30_000_000
"""Enlargements beyond this are skipped: they take about 5 s and 1 GB each."""
PREDICT_BOX_PX = 400
"""Width that a face box is brought to for the predictor, which answers in whole pixels."""
PREDICT_MARGIN = 0.5
"""Context around the face box for the predictor, in box sides."""
STEADY_SHIFTS = ((0.028, 0.028, 0.02), (-0.028, 0.028, -0.02), (0.028, -0.028, -0.02), (-0.028, -0.028, 0.02))
"""How boxes are moved (right, down) and grown for `steady_landmarks`, in box sides."""

_dlib_lock = threading.Lock()


@dataclass(frozen=True, eq=False, slots=True)
class Face:
    """One face: box (left, top, right, bottom), landmarks [68,2] float64 (x, y), both in photo pixels; the score."""

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float64]
    score: float

    @property
    def area_px(self) -> float:
        """Area of the box in square photo pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def model_path(name: str) -> Path:
    """The file of a dlib model, e.g. LANDMARK_MODEL, in the installed package; ModelError when it is not there."""
    spec = importlib.util.find_spec(MODELS_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise ModelError(f"The model {name} is not installed; run `pip install {MODELS_PACKAGE}`.")


def find_faces(rgb_u8: NDArray[np.uint8], upsample_max: int = 2) -> list[Face]:
    """The faces of an upright [H,W,3] uint8 RGB photo, largest first, landmarks in its pixels.

    Detection runs on the photo shrunk to DETECT_SIDE_PX, then, while nothing is found, at 2, 4, ... times that size,
    `upsample_max` times. Raises NoFaceError with the sizes tried.
    """
    height, width = rgb_u8.shape[:2]
    scale = min(1.0, DETECT_SIDE_PX / max(height, width))
    tried: list[str] = []
    for doubling in range(upsample_max + 1):
        size_wh = _scaled_size(width, height, scale * 2**doubling)
        if doubling and size_wh[0] * size_wh[1] > DETECT_MAX_PIXELS:
            break
        tried.append(f"{size_wh[0]} x {size_wh[1]}")
        boxes = _detect(_resized(rgb_u8, size_wh), (width / size_wh[0], height / size_wh[1]))
        if boxes:
            faces = [Face(box, predict_landmarks(rgb_u8, box), score) for box, score in boxes]
            return sorted(faces, key=lambda face: -face.area_px)
    raise NoFaceError(
        f"No face was found in the photo of {width} x {height} pixels (searched at {', '.join(tried)}; "
        f"align.upsample_max={upsample_max}): give its square by hand with "
        "align=quad 'align.quad=[[x,y],[x,y],[x,y],[x,y]]', or use align=precropped for a photo that is already the "
        "crop, or align=center for its middle."
    )


def choose_faces(faces: Sequence[Face], choice: str) -> list[tuple[int, Face]]:
    """(index, face) of the faces meant by `align.face`: 'largest', 'all' or an index into the list, largest first."""
    if choice == "all":
        return list(enumerate(faces))
    if choice == "largest":
        return [(0, faces[0])]
    if not choice.isdecimal():
        raise UsageError(f"align.face={choice} is not allowed; use largest, all or an index from 0.")
    index = int(choice)
    if index >= len(faces):
        raise NoFaceError(
            f"align.face={index} was asked for, but {len(faces)} face(s) were found; use 0 to {len(faces) - 1} "
            "(0 is the largest), or raise align.upsample_max to look for smaller ones."
        )
    return [(index, faces[index])]


def face_chip(rgb_u8: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The aligned [150,150,3] uint8 RGB picture that dlib's descriptor network looks at."""
    dlib = _dlib()
    with _dlib_lock:
        chip = dlib.get_face_chip(np.ascontiguousarray(rgb_u8), _detection(landmarks), size=150, padding=0.25)
    return np.asarray(chip, np.uint8)


def face_descriptor(rgb_u8: NDArray[np.uint8], face: Face | NDArray[np.float64]) -> NDArray[np.float64]:
    """dlib's 128-D descriptor of a face given by its landmarks [68,2]; distances below 0.6 mean the same person."""
    landmarks = face.landmarks if isinstance(face, Face) else face
    chip = face_chip(rgb_u8, landmarks)
    with _dlib_lock:
        return np.array(_descriptor_network().compute_face_descriptor(chip), np.float64)


def _detect(
    rgb_u8: NDArray[np.uint8], photo_per_pixel: tuple[float, float]
) -> list[tuple[tuple[float, float, float, float], float]]:
    """(box in photo pixels, score) of the faces in a picture whose pixels are that many photo pixels wide and high."""
    detector = _detector()
    with _dlib_lock:
        rectangles, scores, _ = detector.run(rgb_u8, 0, 0.0)
    horizontal, vertical = photo_per_pixel
    return [
        (
            (
                (box.left() + 0.5) * horizontal - 0.5,
                (box.top() + 0.5) * vertical - 0.5,
                (box.right() + 0.5) * horizontal - 0.5,
                (box.bottom() + 0.5) * vertical - 0.5,
            ),
            float(score),
        )
        for box, score in zip(rectangles, scores, strict=True)
    ]


def predict_landmarks(rgb_u8: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Landmarks [68,2] in photo pixels of the face in a box (left, top, right, bottom) of a [H,W,3] uint8 RGB photo.

    Predicted on a patch in which the face has a fixed size; whether there is a face in the box is not checked.
    """
    dlib = _dlib()
    height, width = rgb_u8.shape[:2]
    left, top, right, bottom = box
    margin_px = PREDICT_MARGIN * (right - left)
    x0, y0 = max(0, int(left - margin_px)), max(0, int(top - margin_px))
    x1, y1 = min(width, int(right + margin_px) + 1), min(height, int(bottom + margin_px) + 1)
    patch = rgb_u8[y0:y1, x0:x1]
    size_wh = _scaled_size(patch.shape[1], patch.shape[0], PREDICT_BOX_PX / max(right - left, 1.0))
    scale = np.array([size_wh[0] / patch.shape[1], size_wh[1] / patch.shape[0]])
    corners = (np.array([[left, top], [right, bottom]]) - (x0, y0) + 0.5) * scale - 0.5
    rectangle = dlib.rectangle(*(round(value) for value in corners.ravel().tolist()))
    predictor = _predictor()
    with _dlib_lock:
        shape = predictor(_resized(patch, size_wh), rectangle)
    points = np.array([(part.x, part.y) for part in shape.parts()], np.float64)
    landmarks: NDArray[np.float64] = (points + 0.5) / scale - 0.5 + (x0, y0)
    return landmarks


def steady_landmarks(
    rgb_u8: NDArray[np.uint8], boxes: Sequence[tuple[float, float, float, float]]
) -> NDArray[np.float64]:
    """The mean of the landmarks [68,2] that `predict_landmarks` finds in slightly moved copies of each box.

    One prediction jumps with the pixels below the box's corners, as much as a small smile moves the mouth; their mean
    has about 0.6 of that scatter. Each box takes four predictions.
    """
    found = []
    for left, top, right, bottom in boxes:
        side = right - left
        for across, down, grown in STEADY_SHIFTS:
            x0, y0 = left + (across - grown) * side, top + (down - grown) * side
            x1, y1 = right + (across + grown) * side, bottom + (down + grown) * side
            found.append(predict_landmarks(rgb_u8, (x0, y0, x1, y1)))
    return np.asarray(np.mean(found, axis=0))


def _detection(landmarks: NDArray[np.float64]) -> Any:
    """dlib's own type for a face, from landmarks [68,2]; it holds whole pixels."""
    dlib = _dlib()
    points = np.rint(landmarks).astype(int)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return dlib.full_object_detection(dlib.rectangle(left, top, right, bottom), [dlib.point(x, y) for x, y in points])


def _scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(rgb_u8: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture at another size, antialiased when it shrinks, contiguous as dlib needs it."""
    import cv2

    if size_wh == (rgb_u8.shape[1], rgb_u8.shape[0]):
        return _for_dlib(rgb_u8)
    shrinks = size_wh[0] < rgb_u8.shape[1]
    resized = cv2.resize(rgb_u8, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return _for_dlib(np.asarray(resized, np.uint8))


def _for_dlib(rgb_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture in contiguous memory; a side of one pixel may have any stride for NumPy, but not for dlib."""
    return rgb_u8.copy() if 1 in rgb_u8.shape else np.ascontiguousarray(rgb_u8)


@cache
def _dlib() -> Any:
    try:
        import dlib
    except ImportError as error:
        raise ModelError("dlib, which finds the faces, is not installed; run `pip install dlib-bin`.") from error
    return dlib


@cache
def _detector() -> Any:
    return _dlib().get_frontal_face_detector()


@cache
def _predictor() -> Any:
    return _read_model(_dlib().shape_predictor, LANDMARK_MODEL)


@cache
def _descriptor_network() -> Any:
    return _read_model(_dlib().face_recognition_model_v1, DESCRIPTOR_MODEL)


def _read_model(read: Callable[[str], Any], name: str) -> Any:
    """What dlib reads from a model's file; ModelError when that is damaged."""
    path = model_path(name)
    try:
        return read(str(path))
    except RuntimeError as error:
        raise ModelError(
            f"dlib's model {path} is damaged ({' '.join(str(error).split())}): run `pip install --force-reinstall "
            f"{MODELS_PACKAGE}`."
        ) from error
