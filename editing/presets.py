"""Ready-made drags from the 68 face landmarks: smile, open_mouth, turn_left ... (numpy only).

Every move is written in the face's own axes and in units of its inter-ocular distance, so a preset turns, grows and
shrinks with the face. At strength 1 it asks for about one standard deviation of what portraits show. Left and right are
those of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import UsageError
from editing.masks import faded, soft_mask
from editing.points import Drag, Points, PointsLike, points_array

LANDMARKS = 68
CHIN = 8
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
EYE_CORNERS = (36, 39, 42, 45)
NOSE_BRIDGE, NOSE_LINE, NOSE_TIP, NOSE_BASE = 27, 28, 30, 33
EARS = (0, 16)  # the ends of the jaw's line, beside the ears: they lie behind the eyes
MOUTH_LEFT, MOUTH_RIGHT = 48, 54
UPPER_LIP, LOWER_LIP = 51, 57
CHIN_PAD = LANDMARKS  # made here, half way from the lower lip to the chin: the chin itself may leave a tight crop
UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)
INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # (upper, lower)
LEFT_BROW, RIGHT_BROW = (18, 19, 20), (23, 24, 25)
INNER_BROW_LEFT, INNER_BROW_RIGHT = 21, 22
LEFT_JAW, RIGHT_JAW = (3, 4, 5), (13, 12, 11)
MAX_STRENGTH = 3.0
WHOLE_HEAD = ("turn_left", "turn_right", "look_up", "look_down", "tilt")  # their mask is the head, not what is dragged
HEAD_RADII, HEAD_BELOW = (1.15, 1.55), 0.35  # across and along the face; the centre's place below the eyes
TURN = 0.12  # inter-ocular distances that the nose tip moves: 1.2 standard deviations among portraits
LOOK = 0.07  # the same of a head that nods: one standard deviation, 0.067 by 240 portraits' common factor (look_down)
TILT_DEG = 1.25  # 1.25 standard deviations of the eye line in 240 aligned portraits: generators have seen little more
TILTED = (*range(17, LANDMARKS), CHIN_PAD)  # all but the jaw: the mean of many points tells so small an angle
TILT_CENTRE = 0.5  # inter-ocular distances below the eyes: eyes and mouth then move about equally far


@dataclass(frozen=True, eq=False, slots=True)
class FaceFrame:
    """A face's own axes: unit vectors right and down [2] in photo pixels, unit_px the inter-ocular distance.

    points [69, 2] are the 68 landmarks and CHIN_PAD.
    """

    points: Points
    right: Points
    down: Points
    unit_px: float

    def places(self) -> Points:
        """The points [69, 2] as (right, down) from the middle between the eyes, in inter-ocular distances."""
        middle = (self.points[LEFT_EYE].mean(axis=0) + self.points[RIGHT_EYE].mean(axis=0)) / 2
        return np.asarray((self.points - middle) @ np.stack([self.right, self.down]).T / self.unit_px)

    def gap(self, pairs: Sequence[tuple[int, int]]) -> float:
        """Mean opening between (upper, lower) landmarks along `down`, in inter-ocular distances, at least 0."""
        upper, lower = (self.points[[pair[i] for pair in pairs]] for i in (0, 1))
        return max(0.0, float(((lower - upper) @ self.down).mean() / self.unit_px))


Moves = dict[int, tuple[float, float]]
"""Landmark index -> (right, down) in inter-ocular distances; (0, 0) is an anchor."""


def face_frame(landmarks: PointsLike) -> FaceFrame:
    """The axes of landmarks [68, 2] in photo pixels; UsageError when they are not a face's."""
    points = points_array(landmarks, "landmarks")
    if len(points) != LANDMARKS:
        raise UsageError(f"A preset needs {LANDMARKS} face landmarks; {len(points)} were given: drag points by hand.")
    across = points[RIGHT_EYE].mean(axis=0) - points[LEFT_EYE].mean(axis=0)
    unit_px = float(np.hypot(*across))
    if unit_px < 1.0:
        raise UsageError(f"The eyes are only {unit_px:.2f} px apart, too near for a preset: use a larger photo.")
    right = across / unit_px
    chin_pad = points[[LOWER_LIP, CHIN]].mean(axis=0, keepdims=True)
    return FaceFrame(np.concatenate([points, chin_pad]), right, np.array([-right[1], right[0]]), unit_px)


def smile(_face: FaceFrame) -> Moves:
    """Mouth corners outward and up."""
    return {MOUTH_LEFT: (-0.065, -0.055), MOUTH_RIGHT: (0.065, -0.055), **_anchors(*EYE_CORNERS, NOSE_TIP)}


def open_mouth(_face: FaceFrame) -> Moves:
    """Lower lip and what is below it down, upper lip a little up."""
    return {LOWER_LIP: (0.0, 0.12), CHIN_PAD: (0.0, 0.10), UPPER_LIP: (0.0, -0.02), **_anchors(*EYE_CORNERS, NOSE_TIP)}


def close_mouth(face: FaceFrame) -> Moves:
    """Lips together: the lower one travels four fifths of the present opening, what is below it less."""
    gap = face.gap(INNER_LIPS)
    return {
        LOWER_LIP: (0.0, -0.8 * gap),
        UPPER_LIP: (0.0, 0.2 * gap),
        CHIN_PAD: (0.0, -0.6 * gap),
        **_anchors(*EYE_CORNERS, NOSE_TIP),
    }


def raise_brows(_face: FaceFrame) -> Moves:
    """Both brows up, eyes held."""
    return {**dict.fromkeys((*LEFT_BROW, *RIGHT_BROW), (0.0, -0.07)), **_anchors(*EYE_CORNERS, NOSE_TIP)}


def open_eyes(_face: FaceFrame) -> Moves:
    """Upper lids up. Lower lids and eye corners are left free: they share feature pixels with the upper lids."""
    return {**dict.fromkeys(UPPER_LIDS, (0.0, -0.035)), **_anchors(NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT)}


def close_eyes(face: FaceFrame) -> Moves:
    """Upper lids down by three fifths of the present opening, brows held: dlib sees closed lids apart, and the whole of
    it pulled eyes and brows down the face."""
    gap = face.gap(tuple(zip(UPPER_LIDS, LOWER_LIDS, strict=True)))
    held = _anchors(*LEFT_BROW, *RIGHT_BROW, NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT)
    return {**dict.fromkeys(UPPER_LIDS, (0.0, 0.6 * gap)), **held}


def frown(_face: FaceFrame) -> Moves:
    """Mouth corners down and a little inward, the brows' inner ends down and together."""
    return {
        MOUTH_LEFT: (0.02, 0.06),
        MOUTH_RIGHT: (-0.02, 0.06),
        INNER_BROW_LEFT: (0.025, 0.045),
        INNER_BROW_RIGHT: (-0.025, 0.045),
        **_anchors(*EYE_CORNERS, NOSE_TIP),
    }


def bigger_eyes(_face: FaceFrame) -> Moves:
    """Upper lids up, lower lids a little down: one standard deviation of the opening (0.028 among 277 portraits).

    Corners are left free: they hardly differ between portraits (0.006), and asking for it smudged the eyes.
    """
    return {
        **dict.fromkeys(UPPER_LIDS, (0.0, -0.025)),
        **dict.fromkeys(LOWER_LIDS, (0.0, 0.005)),
        **_anchors(NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT),
    }


def turn_left(_face: FaceFrame) -> Moves:
    """The head turns towards the picture's left round the eyes: what is nearer to the camera moves farther.

    The proportions are those of photographs (least squares on the nose tip's place between the eyes).
    """
    nearness = {NOSE_TIP: 1.0, NOSE_BASE: 0.70, UPPER_LIP: 0.56, LOWER_LIP: 0.52, NOSE_BRIDGE: 0.51, CHIN_PAD: 0.41}
    return {index: (-TURN * near, 0.0) for index, near in nearness.items()} | _anchors(*EYE_CORNERS)


def turn_right(face: FaceFrame) -> Moves:
    """The head turns towards the picture's right: `turn_left` the other way."""
    return _reversed(turn_left(face))


def look_down(_face: FaceFrame) -> Moves:
    """The head nods round the eyes: what lies before them goes down, the ears, which lie behind them, up.

    The proportions are those of 240 portraits: the slopes on the one common factor of the heights of nose tip and ears
    and of the nose tip's distance to its base (correlations -0.56, -0.68, 0.72). Slopes on the nose tip alone would
    measure long noses and long chins, and a drag by them changes the person.
    """
    nearness = {NOSE_TIP: 1.0, NOSE_LINE: 0.55, NOSE_BASE: 0.5, UPPER_LIP: 0.1, LOWER_LIP: 0.0, CHIN_PAD: -0.2}
    nearness |= dict.fromkeys(EARS, -1.0)
    return {index: (0.0, LOOK * near) for index, near in nearness.items()} | _anchors(*EYE_CORNERS)


def look_up(face: FaceFrame) -> Moves:
    """The head is raised: `look_down` the other way."""
    return _reversed(look_down(face))


def tilt(face: FaceFrame, strength: float = 1.0) -> Moves:
    """The head leans clockwise in the picture: everything rotates about the middle of the face."""
    places = face.places()
    moved = rotated(places, strength * TILT_DEG) - places
    return {index: (float(moved[index, 0]), float(moved[index, 1])) for index in TILTED}


def slimmer_face(_face: FaceFrame) -> Moves:
    """The jaw's sides inward, eyes, nose and mouth held."""
    moves = {**dict.fromkeys(LEFT_JAW, (0.06, 0.0)), **dict.fromkeys(RIGHT_JAW, (-0.06, 0.0))}
    return moves | _anchors(*EYE_CORNERS, NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT, CHIN_PAD)


def wider_face(face: FaceFrame) -> Moves:
    """The jaw's sides outward: `slimmer_face` the other way."""
    return _reversed(slimmer_face(face))


PRESETS: dict[str, Callable[[FaceFrame], Moves]] = {
    "smile": smile,
    "open_mouth": open_mouth,
    "close_mouth": close_mouth,
    "raise_brows": raise_brows,
    "open_eyes": open_eyes,
    "close_eyes": close_eyes,
    "bigger_eyes": bigger_eyes,
    "frown": frown,
    "turn_left": turn_left,
    "turn_right": turn_right,
    "look_up": look_up,
    "look_down": look_down,
    "tilt": tilt,
    "slimmer_face": slimmer_face,
    "wider_face": wider_face,
    "slim": slimmer_face,  # its name before there was wider_face
}


def moves_of(name: str, face: FaceFrame, strength: float = 1.0) -> Moves:
    """A preset's moves at a strength: multiplied by it, of `tilt` the angle is."""
    if name == "tilt":
        return tilt(face, strength)
    return {index: (strength * right, strength * down) for index, (right, down) in PRESETS[name](face).items()}


def preset_drag(
    name: str, landmarks: PointsLike, strength: float = 1.0, shape_hw: tuple[int, int] | None = None
) -> Drag:
    """The drag of a preset: handles and targets [N, 2] in photo pixels from landmarks [68, 2] in photo pixels.

    Moves are multiplied by `strength` (-3 to 3; negative reverses). With the photo's `shape_hw` the drag also gets a
    soft mask [H, W], 1 round everything that moves. UsageError for an unknown name, a strength out of range, or
    landmarks that are no face.
    """
    if name not in PRESETS:
        raise UsageError(f"edit.preset is '{name}'; the presets are {', '.join(PRESETS)}.")
    if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:
        raise UsageError(f"edit.strength is {strength}; it must lie between {-MAX_STRENGTH:g} and {MAX_STRENGTH:g}.")
    face = face_frame(landmarks)
    return drag_of(face, moves_of(name, face, strength), shape_hw, whole_head=name in WHOLE_HEAD and strength != 0)


def drag_of(face: FaceFrame, moves: Moves, shape_hw: tuple[int, int] | None, whole_head: bool) -> Drag:
    """The moves of a face in photo pixels; with the photo's `shape_hw` also a mask round the head or what moves."""
    handles = face.points[list(moves)]
    targets = handles + np.array(list(moves.values())) @ np.stack([face.right, face.down]) * face.unit_px
    if shape_hw is None:
        return Drag(handles, targets)
    if whole_head:
        return Drag(handles, targets, faded(lambda grid: _outside_head(grid, face), shape_hw))
    return Drag(handles, targets, soft_mask(handles, targets, face.unit_px, shape_hw))


def preset_landmarks(name: str, landmarks: PointsLike) -> list[int]:
    """The landmarks that a preset drags, in the order of its handles; CHIN_PAD is the point between lip and chin."""
    return list(PRESETS[name](face_frame(landmarks)))


def preset_progress(name: str, before: PointsLike, after: PointsLike, strength: float = 1.0) -> float:
    """How much of a preset's moves landmarks [68, 2] show: 0 none, 1 all of it, negative the other way.

    The moves that were made, projected on those that the preset asked for and weighted by their length. `before` and
    `after` are found in the pictures themselves, so this measures a drag without trusting its tracker.
    """
    first, second = face_frame(before), face_frame(after)
    moves = moves_of(name, first, strength)
    asked = np.array(list(moves.values())) @ np.stack([first.right, first.down]) * first.unit_px
    made = (second.points - first.points)[list(moves)]
    total = float((asked**2).sum())
    return float((made * asked).sum()) / total if total else 0.0


def rotated(places: Points, degrees: float) -> Points:
    """Places [..., 2] of a face (`FaceFrame.places`) rotated clockwise about its middle."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    centre = np.array([0.0, TILT_CENTRE])
    return np.asarray((places - centre) @ np.array([[c, s], [-s, c]]) + centre)


def _reversed(moves: Moves) -> Moves:
    return {index: (-right, -down) for index, (right, down) in moves.items()}


def _anchors(*indices: int) -> Moves:
    return dict.fromkeys(indices, (0.0, 0.0))


def _outside_head(grid: Points, face: FaceFrame) -> Points:
    """About how far [h, w] grid points [h, w, 2] lie outside the ellipse round hair, ears and chin, in inter-ocular
    distances; negative inside."""
    centre = face.points[NOSE_BRIDGE] + HEAD_BELOW * face.unit_px * face.down
    places = (grid - centre) @ np.stack([face.right, face.down]).T / face.unit_px
    return (np.hypot(*np.moveaxis(places / HEAD_RADII, -1, 0)) - 1.0) * min(HEAD_RADII)
