"""The pose of a head between two faces, as strengths of the presets that turn, nod and tilt it (numpy only).

Pose is what places the landmarks differently in the face's own axes, less what tells people apart: a nose is not
measured by its length but by where its tip stands between the eyes, over its base, and against the ears.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from data.errors import UsageError
from editing.points import Drag, Points, PointsLike
from editing.presets import (
    EARS,
    MAX_STRENGTH,
    NOSE_BASE,
    NOSE_TIP,
    TILT_DEG,
    TURN,
    FaceFrame,
    Moves,
    drag_of,
    face_frame,
    look_down,
    rotated,
    turn_right,
)

NOD_STD = np.array([0.063, 0.058, 0.0135])
"""What is not pose in the measures of a nod, in inter-ocular distances: the residuals of one common factor in 240
portraits (it explains 0.53, 0.59 and 0.87 of their variances)."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Strengths of the presets turn_right, look_down and tilt; negative ones go the other way."""

    turn: float = 0.0
    look: float = 0.0
    tilt: float = 0.0

    def __str__(self) -> str:
        turn, look, tilt = (round(value, 2) + 0.0 for value in astuple(self))  # no negative zeros
        return f"turn_right {turn:+.2f}, look_down {look:+.2f}, tilt {tilt:+.2f}"

    def times(self, strength: float) -> Pose:
        """A part of the way there, or the way beyond."""
        return Pose(*(strength * value for value in astuple(self)))

    def limited(self) -> Pose:
        """Each strength brought between -3 and 3, beyond which no preset goes."""
        return Pose(*(min(MAX_STRENGTH, max(-MAX_STRENGTH, value)) for value in astuple(self)))


def pose_between(landmarks: PointsLike, other: PointsLike) -> Pose:
    """The pose that brings a face with landmarks [68, 2] to that of another one, each in its own photo's pixels.

    The turn is the nose tip's way between the eyes, the tilt the angle between the eye lines, both photos upright. The
    nod is the weighted least-squares fit of `look_down` to the heights of nose tip and ears and to the distance from
    nose tip to nose base; NOD_STD lets it err by about 0.4 strengths between two people. UsageError for landmarks
    that are no face.
    """
    mine, its = face_frame(landmarks), face_frame(other)
    turn = (its.places()[NOSE_TIP, 0] - mine.places()[NOSE_TIP, 0]) / TURN
    asked = _nod_measures(_nodded(mine)) - _nod_measures(mine.places())
    differs = _nod_measures(its.places()) - _nod_measures(mine.places())
    weighed = asked / NOD_STD**2
    look = float(differs @ weighed / (asked @ weighed))
    return Pose(float(turn), look, _turned_deg(its.right, mine.right) / TILT_DEG)


def pose_moves(face: FaceFrame, pose: Pose) -> Moves:
    """The moves of turn_right and look_down summed, the head then rotated as `tilt` does."""
    turn, look, places = turn_right(face), look_down(face), face.places()
    moves: Moves = {}
    for index in dict.fromkeys((*turn, *look)):
        shifts = pose.turn * np.array(turn.get(index, (0.0, 0.0))) + pose.look * np.array(look.get(index, (0.0, 0.0)))
        right, down = rotated(places[index] + shifts, pose.tilt * TILT_DEG) - places[index]
        moves[index] = (float(right), float(down))
    return moves


def pose_drag(landmarks: PointsLike, pose: Pose, shape_hw: tuple[int, int] | None = None) -> Drag:
    """The drag of a pose: handles and targets [N, 2] in photo pixels from landmarks [68, 2] in photo pixels.

    With the photo's `shape_hw` also a soft mask [H, W] of the head. UsageError for a strength beyond -3 to 3.
    """
    if pose != pose.limited():
        raise UsageError(f"The pose is {pose}; each must lie between {-MAX_STRENGTH:g} and {MAX_STRENGTH:g}.")
    return drag_of(face := face_frame(landmarks), pose_moves(face, pose), shape_hw, whole_head=pose != Pose())


def pose_landmarks(landmarks: PointsLike) -> list[int]:
    """The landmarks that a pose drags, in the order of its handles."""
    return list(pose_moves(face_frame(landmarks), Pose()))


def _nodded(face: FaceFrame) -> Points:
    """The places of a face [69, 2] after look_down."""
    places = face.places()
    for index, move in look_down(face).items():
        places[index] += move
    return places


def _nod_measures(places: Points) -> Points:
    """How low nose tip and ears lie, and how far the nose tip stands above its base [3]."""
    tip, base, ears = places[NOSE_TIP, 1], places[NOSE_BASE, 1], places[list(EARS), 1].mean()
    return np.array([tip, ears, base - tip])


def _turned_deg(right: Points, start: Points) -> float:
    """Clockwise angle from a face's `start` axis to another one's, -180 to 180."""
    return float(np.degrees(np.arctan2(start[0] * right[1] - start[1] * right[0], start @ right)))
