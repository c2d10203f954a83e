"""Parts of a picture from the 68 landmarks, as soft masks: the face, its hull, eyes and mouth (numpy and OpenCV)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.float32]

BROWS = slice(17, 27)
EYES = (slice(36, 42), slice(42, 48))
MOUTH = slice(48, 60)
FOREHEAD = 0.55  # of the distance from chin to brows: how far the face goes on above the brows
FEATHER = 0.05  # of the distance between the eyes: blur of every border
EYE_GROWTH, MOUTH_GROWTH = 1.6, 1.35  # lids, lashes and lips' surroundings belong to what is looked at
CLOSED = 0.2  # height of an eye over its width: below, it counts as closed
_FRACTION_BITS = 4


def hull_mask(landmarks: ArrayLike, size: int) -> Mask:
    """[size, size] in [0, 1]: the convex hull of landmarks [68, 2] (x, y) in crop pixels, brows to chin."""
    points = np.asarray(landmarks, np.float64)
    return _filled([points], size, _feather_px(points))


def face_mask(landmarks: ArrayLike, size: int) -> Mask:
    """[size, size] in [0, 1]: the hull with the forehead, which has no landmarks: the brows carried on upwards."""
    points = np.asarray(landmarks, np.float64)
    brows = points[BROWS]
    up = brows.mean(axis=0) - points[8]
    forehead = brows.mean(axis=0) + (brows - brows.mean(axis=0)) * 0.85 + FOREHEAD * up
    return _filled([np.concatenate([points, forehead])], size, _feather_px(points))


def eyes_and_mouth_mask(landmarks: ArrayLike, size: int) -> Mask:
    """[size, size] in [0, 1]: both eyes and the mouth, a little larger than their landmarks."""
    points = np.asarray(landmarks, np.float64)
    parts = [_grown(points[eye], EYE_GROWTH) for eye in EYES]
    return _filled([*parts, _grown(points[MOUTH], MOUTH_GROWTH)], size, _feather_px(points))


def openings_mask(before: ArrayLike, after: ArrayLike, size: int) -> Mask:
    """[size, size] in [0, 1]: where an edit may uncover something, by landmarks [68, 2] before and after it: within the
    outer lips, and between lids that were closed."""
    first, second = (np.asarray(points, np.float64) for points in (before, after))
    parts = [MOUTH, *(eye for eye in EYES if _opening(first[eye]) < CLOSED)]
    masks = [_filled([points[part] for part in parts], size, _feather_px(points)) for points in (first, second)]
    return np.maximum(*masks)


def _opening(eye: NDArray[np.float64]) -> float:
    """Height over width of an eye's six landmarks (eye aspect ratio, Soukupova and Cech 2016)."""
    height = np.linalg.norm(eye[[1, 2]] - eye[[5, 4]], axis=1).mean()
    return float(height / max(np.linalg.norm(eye[0] - eye[3]), 1e-9))


def _grown(points: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Points moved away from their centre; flat ones, as of a closed eye, get a height of a third of their width."""
    center = points.mean(axis=0)
    offsets = (points - center) * factor
    width = float(np.linalg.norm(offsets, axis=1).max())
    disc = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, 12, endpoint=False)]) * (width / 3)
    return np.concatenate([offsets, disc]) + center


def _feather_px(points: NDArray[np.float64]) -> float:
    return FEATHER * float(np.linalg.norm(points[EYES[0]].mean(axis=0) - points[EYES[1]].mean(axis=0)))


def _filled(parts: list[NDArray[np.float64]], size: int, feather_px: float) -> Mask:
    mask = np.zeros((size, size), np.uint8)
    for points in parts:
        hull = cv2.convexHull(np.rint(points * (1 << _FRACTION_BITS)).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, _FRACTION_BITS)
    soft = mask.astype(np.float32) / np.float32(255)
    return np.asarray(cv2.GaussianBlur(soft, (0, 0), feather_px) if feather_px >= 0.3 else soft, np.float32)
