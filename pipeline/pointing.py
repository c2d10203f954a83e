"""A part of a photo with what a person needs to point at it: landmarks with their numbers, drags, a ruler in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures import preview
from pipeline.video import draw_drag, enlarge_points

SIDE_PX = 720
"""The longer side of the picture, so that numbers can be read."""
LANDMARK_RGB = (255, 214, 10)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
NUMBER_SIZE, RULER_SIZE = 0.36, 0.5
TICK_PX = 8
MOST_TICKS = 12
STEPS = (1, 2, 5)


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A rectangle of a photo: pixels [h, w, 3] uint8, `scale` of them for one of the photo's; origin: the photo pixel
    (x, y) of its upper left corner."""

    pixels: NDArray[np.uint8]
    origin: tuple[int, int]
    scale: float

    def places(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points [N, 2] (x, y) in photo pixels, in the part's."""
        return np.asarray(enlarge_points(points - np.asarray(self.origin), self.scale), np.float64)


def sized(pixels: NDArray[np.uint8], origin: tuple[int, int], side_px: int = SIDE_PX) -> Part:
    """A rectangle of a photo enlarged or reduced until its longer side is `side_px`."""
    scale = side_px / max(pixels.shape[:2])
    if scale <= 1:
        return Part(np.array(preview(pixels, side_px)), origin, scale)
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    return Part(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), np.uint8), origin, scale)


def mark_landmarks(part: Part, landmarks: NDArray[np.float64]) -> None:
    """Draw landmarks [N, 2] in photo pixels, each with its number, into the part, in place."""
    for number, (x, y) in enumerate(part.places(landmarks).tolist()):
        cv2.circle(part.pixels, (round(x), round(y)), 2, LANDMARK_RGB, -1, cv2.LINE_AA)
        _text(part, str(number), (round(x) + 4, round(y) - 3), NUMBER_SIZE)


def mark_drags(part: Part, handles: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
    """Draw handles (red) and targets (blue) [N, 2] in photo pixels into the part, in place."""
    draw_drag(part.pixels, part.places(handles), part.places(targets))


def mark_ruler(part: Part) -> None:
    """Draw the photo's x along the upper edge and its y along the left one, at round numbers, in place."""
    height, width = part.pixels.shape[:2]
    step = _round_step(max(height, width) / part.scale / MOST_TICKS)
    for axis, length in ((0, width), (1, height)):
        first = -(-part.origin[axis] // step) * step
        for value in range(first, part.origin[axis] + int(length / part.scale), step):
            place = round((value - part.origin[axis] + 0.5) * part.scale - 0.5)
            ends = ((place, 0), (place, TICK_PX)) if axis == 0 else ((0, place), (TICK_PX, place))
            cv2.line(part.pixels, *ends, BLACK, 3)
            cv2.line(part.pixels, *ends, WHITE, 1)
            at = (place + 3, TICK_PX + 8) if axis == 0 else (TICK_PX + 4, place + 4)
            _text(part, str(value), at, RULER_SIZE)


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 ... that is not below `least`."""
    power = 1
    while True:
        for step in STEPS:
            if step * power >= least:
                return step * power
        power *= 10


def _text(part: Part, text: str, at: tuple[int, int], size: float) -> None:
    for colour, thickness in ((BLACK, 3), (WHITE, 1)):
        cv2.putText(part.pixels, text, at, FONT, size, colour, thickness, cv2.LINE_AA)
