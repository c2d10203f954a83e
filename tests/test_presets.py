"""Presets: moves in the face's own axes, whatever its place, size and tilt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from data.errors import UsageError
from editing.drag import DragSettings, drag
from editing.presets import EYE_CORNERS, PRESETS, TILT_DEG, WHOLE_HEAD, preset_drag, preset_landmarks, preset_progress
from tests.tiny import tiny_generator

UNIT_PX = 40.0  # between the eyes of the drawn face


def ring(centre: tuple[float, float], radii: tuple[float, float], degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


def drawn_face(open_mouth_px: float = 3.0) -> np.ndarray:
    """68 landmarks of an upright, symmetric face: eyes 40 px apart about (100, 90), mouth 40 px wide at y = 130."""
    brows = np.array([[66, 78], [72, 74], [79, 72], [86, 73], [92, 76]], dtype=float)
    nose = np.array(
        [[100, 88], [100, 95], [100, 102], [100, 108], [92, 112], [96, 113], [100, 114], [104, 113], [108, 112]]
    )
    eye = np.array([[-8, 0], [-3, -3.5], [3, -3.5], [8, 0], [3, 3], [-3, 3]], dtype=float)
    outer = ring((100, 130), (20, 7), [180, 210, 240, 270, 300, 330, 0, 45, 68, 90, 112, 135])
    half = open_mouth_px / 2
    inner = np.array([[-14, 0], [-6, -half], [0, -half], [6, -half], [14, 0], [6, half], [0, half], [-6, half]])
    left, right, mouth = np.array([[80, 90], [120, 90], [100, 130]])
    return np.concatenate(
        [
            ring((100, 95), (48, 65), list(np.linspace(180, 0, 17))),
            brows,
            np.stack([200 - brows[::-1, 0], brows[::-1, 1]], axis=1),
            nose,
            eye + left,
            eye + right,
            outer,
            inner + mouth,
        ]
    )


def moved(face: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    return face @ np.array([[c, s], [-s, c]]) + shift


def by_index(name: str, face: np.ndarray, strength: float = 1.0) -> dict[int, np.ndarray]:
    """Landmark index (68: the pad of the chin) -> its move in pixels."""
    asked = preset_drag(name, face, strength)
    face = np.concatenate([face, face[[8, 57]].mean(axis=0, keepdims=True)])
    index = [int(np.abs(face - handle).sum(axis=1).argmin()) for handle in asked.handles]
    return dict(zip(index, asked.targets - asked.handles, strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_turning_and_scaling_the_face_turns_and_scales_the_drag(name: str) -> None:
    face, change = drawn_face(), (33.0, 2.7, (-40.0, 512.0))
    plain, turned = preset_drag(name, face, 0.8), preset_drag(name, moved(face, *change), 0.8)
    assert np.allclose(moved(plain.handles, *change), turned.handles, atol=1e-9)
    assert np.allclose(moved(plain.targets, *change), turned.targets, atol=1e-9)


@pytest.mark.parametrize("name", PRESETS)
def test_strength_is_linear_and_negative_reverses(name: str) -> None:
    one, two, back, none = (preset_drag(name, drawn_face(), s) for s in (1.0, 2.0, -1.0, 0.0))
    bend = 0.1 if name == "tilt" else 1e-9  # px: its angle is linear in the strength, its ways are arcs
    assert np.allclose(two.targets - two.handles, 2 * (one.targets - one.handles), atol=bend)
    assert np.allclose(back.targets - back.handles, one.handles - one.targets, atol=bend)
    assert np.array_equal(none.targets, none.handles)
    assert 0.015 * UNIT_PX < np.abs(one.targets - one.handles).max() < 0.35 * UNIT_PX


@pytest.mark.parametrize("name", PRESETS)
def test_pairs_are_distinct_landmarks(name: str) -> None:
    asked = preset_drag(name, drawn_face())
    assert len({tuple(h) for h in asked.handles}) == len(asked.handles) == len(by_index(name, drawn_face()))
    assert asked.mask is None


def test_smile_pulls_the_corners_outward_and_up_and_holds_the_eyes() -> None:
    moves = by_index("smile", drawn_face())
    assert moves[48] == pytest.approx([-0.065 * UNIT_PX, -0.055 * UNIT_PX])
    assert moves[54] == pytest.approx([0.065 * UNIT_PX, -0.055 * UNIT_PX])
    assert all(not moves[corner].any() for corner in EYE_CORNERS)


def test_smile_goes_up_in_a_face_that_hangs_upside_down() -> None:
    moves = by_index("smile", moved(drawn_face(), 180.0, 1.0, (0.0, 0.0)))
    assert moves[48][1] > 0
    assert moves[54][1] > 0


def test_mouth_opens_downward_and_closes_by_what_is_open() -> None:
    opening = by_index("open_mouth", drawn_face())
    assert opening[57][1] > 3
    assert opening[68][1] > 0 > opening[51][1]
    closing = by_index("close_mouth", drawn_face(open_mouth_px=10.0))
    assert closing[51][1] - closing[57][1] == pytest.approx(10.0)
    shut = preset_drag("close_mouth", drawn_face(open_mouth_px=0.0))
    assert np.array_equal(shut.handles, shut.targets)


def test_eyes_open_and_close() -> None:
    opening, closing = by_index("open_eyes", drawn_face()), by_index("close_eyes", drawn_face())
    assert all(opening[lid][1] < -1 for lid in (37, 38, 43, 44))
    assert all(closing[lid][1] == pytest.approx(0.6 * 6.5) for lid in (37, 38, 43, 44))
    assert not opening[48].any()


def test_brows_rise_and_jaw_narrows() -> None:
    assert all(move[1] < 0 for index, move in by_index("raise_brows", drawn_face()).items() if 17 <= index <= 26)
    slim = by_index("slim", drawn_face())
    assert all(slim[left][0] > 0 for left in (3, 4, 5))
    assert all(slim[right][0] < 0 for right in (11, 12, 13))


def test_the_face_grows_narrower_and_wider_alike() -> None:
    slimmer, wider, old = (by_index(name, drawn_face()) for name in ("slimmer_face", "wider_face", "slim"))
    assert slimmer.keys() == wider.keys() == old.keys()
    for index, move in slimmer.items():
        assert np.array_equal(old[index], move)
        assert wider[index] == pytest.approx(-move)


def test_frown_pulls_mouth_corners_and_inner_brows_down_and_inward() -> None:
    moves = by_index("frown", drawn_face())
    for left, right in ((48, 54), (21, 22)):
        assert moves[left][0] == pytest.approx(-moves[right][0])
        assert moves[left][0] > 0
        assert moves[left][1] == pytest.approx(moves[right][1])
        assert moves[left][1] > 0
    assert all(not moves[corner].any() for corner in EYE_CORNERS)


def test_bigger_eyes_open_by_the_lids_and_leave_the_corners_free() -> None:
    moves = by_index("bigger_eyes", drawn_face())
    assert all(moves[lid][1] < 0 for lid in (37, 38, 43, 44))
    assert all(moves[lid][1] > 0 for lid in (40, 41, 46, 47))
    assert not {36, 39, 42, 45} & moves.keys()
    assert not moves[30].any()


def test_looks_move_nose_and_ears_opposite_ways_along_the_face() -> None:
    up, down = by_index("look_up", drawn_face()), by_index("look_down", drawn_face())
    assert up.keys() == down.keys()
    for index, move in down.items():
        assert up[index] == pytest.approx(-move)
        assert move[0] == pytest.approx(0.0)
    assert down[30][1] > down[33][1] > down[51][1] > 0 > down[0][1]
    assert down[0] == pytest.approx(down[16])
    assert all(not down[corner].any() for corner in EYE_CORNERS)


@pytest.mark.parametrize("strength", [-3.0, 0.5, 1.0, 3.0])
def test_tilt_rotates_clockwise_and_keeps_distances(strength: float) -> None:
    asked = preset_drag("tilt", drawn_face(), strength)
    apart = [np.linalg.norm(points[:, None] - points, axis=-1) for points in (asked.handles, asked.targets)]
    assert np.allclose(*apart)
    landmarks = preset_landmarks("tilt", drawn_face())
    corners = asked.targets[[landmarks.index(corner) for corner in EYE_CORNERS]]
    across = corners[3] - corners[0]  # the outer ones; y grows downward, so clockwise is positive
    assert math.degrees(math.atan2(across[1], across[0])) == pytest.approx(strength * TILT_DEG)
    assert corners.mean(axis=0)[1] == pytest.approx(90.0, abs=0.2)


def test_turns_go_to_the_side_they_name_round_the_eyes() -> None:
    left, right = by_index("turn_left", drawn_face()), by_index("turn_right", drawn_face())
    assert left.keys() == right.keys()
    for index, move in left.items():
        assert right[index] == pytest.approx(-move)
        assert not move.any() if index in EYE_CORNERS else move[0] < 0
    assert left[30][0] < left[33][0] < left[51][0] < left[68][0]


def test_progress_is_what_share_of_the_moves_was_made() -> None:
    before = drawn_face()
    asked = by_index("smile", before)
    for share in (-0.5, 0.0, 0.25, 1.0):
        after = before.copy()
        for index, move in asked.items():
            after[index] += share * move
        assert preset_progress("smile", before, after) == pytest.approx(share)
        assert preset_progress("smile", before, after, strength=0.5) == pytest.approx(2 * share)
    aside = before.copy()
    aside[48] += np.array([asked[48][1], -asked[48][0]])
    assert preset_progress("smile", before, aside) == pytest.approx(0.0, abs=1e-9)
    assert preset_progress("close_mouth", drawn_face(open_mouth_px=0.0), before) == 0.0


def test_mask_covers_what_moves_and_fades_to_nothing() -> None:
    face = drawn_face()
    asked = preset_drag("smile", face, 1.0, (240, 220))
    mask = asked.mask
    assert mask is not None
    assert (mask.shape, mask.dtype) == ((240, 220), np.float32)
    assert 0.0 <= mask.min() <= mask.max() <= 1.0
    for points in (asked.handles[:2], asked.targets[:2]):
        for x, y in points.round().astype(int):
            assert mask[y, x] == 1.0
    for x, y in face[[36, 45]].astype(int):
        assert mask[y, x] < 0.05
    assert mask[0].max() == mask[:, 0].max() == 0.0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.15


def test_mask_of_a_turn_is_the_head() -> None:
    for name in WHOLE_HEAD:
        mask = preset_drag(name, drawn_face(), 1.0, (300, 300)).mask
        assert mask is not None
        inside = [(100, 60), (100, 90), (70, 90), (130, 90), (100, 158)]  # hair, nose bridge, temples, chin
        assert all(mask[y, x] == 1.0 for x, y in inside)
        assert mask[:, 190:].max() == mask[210:].max() == 0.0
    still = preset_drag("turn_left", drawn_face(), 0.0, (50, 60)).mask
    assert still is not None
    assert not still.any()


def test_mask_grows_with_the_photo() -> None:
    small = preset_drag("smile", drawn_face(), 1.0, (200, 200)).mask
    large = preset_drag("smile", drawn_face() * 3 + 1, 1.0, (600, 600)).mask
    assert small is not None
    assert large is not None
    assert np.abs(large[1::3, 1::3] - small).max() < 0.02


def test_mask_of_a_null_preset_is_empty() -> None:
    mask = preset_drag("smile", drawn_face(), 0.0, (50, 60)).mask
    assert mask is not None
    assert mask.shape == (50, 60)
    assert not mask.any()


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"edit\.preset is 'grin'; the presets are smile, open_mouth, .*, slim\."):
        preset_drag("grin", drawn_face())


@pytest.mark.parametrize("strength", [3.01, -4.0, float("nan")])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(UsageError, match=r"edit\.strength is .*between -3 and 3"):
        preset_drag("smile", drawn_face(), strength)


def test_landmarks_that_are_no_face() -> None:
    with pytest.raises(UsageError, match="needs 68 face landmarks; 5 were given"):
        preset_drag("smile", drawn_face()[:5])
    with pytest.raises(UsageError, match=r"eyes are only 0\.40 px apart"):
        preset_drag("smile", drawn_face() * 0.01)
    broken = drawn_face()
    broken[12, 1] = np.inf
    with pytest.raises(UsageError, match="Landmarks 13 is"):
        preset_drag("smile", broken)


@pytest.mark.parametrize("name", PRESETS)
def test_the_engine_takes_every_preset(name: str) -> None:
    """Moving pairs and anchors together, on a crop of the drawn face, with the preset's own mask."""
    generator = tiny_generator(64)
    asked = preset_drag(name, (drawn_face() - (20, 14)) / 2.5, 1.0, (64, 64))
    assert asked.mask is not None
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(0))
    mask = torch.from_numpy(asked.mask)[None, None]
    settings = DragSettings(steps=3, frame_every=0)
    edited = drag(generator, generator.map(z), None, asked.handles, asked.targets, mask, settings)
    assert edited.tracks.shape[1:] == (len(asked.handles), 2)
    assert torch.isfinite(edited.w).all()
