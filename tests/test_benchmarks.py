"""The measuring instruments: what the benchmarks call a face, a success and a sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import drag_between_photos
from benchmarks.common import load_tools, tell
from benchmarks.drag_moves import KeptDrags, Made, Outcome, Outcomes, Start, all_moves, apart_px, as_near, move_of
from benchmarks.drag_photos import PhotoDrag, by_preset, figures_of
from benchmarks.drag_single import single_figures
from benchmarks.generator import is_sane, median_ms, share_of
from benchmarks.preset_sheet import COLUMNS, NAMES, TILE_PX, preset_sheet
from pipeline.pictures import sheet
from tests.inversions import seeded
from tests.test_presets import drawn_face, moved


def crop_face() -> np.ndarray:
    """The landmarks of an upright face as they lie in an aligned crop of 128 px."""
    return moved(drawn_face(), 0.0, 0.75, (-11.0, -8.0))


def test_a_face_is_sane_and_a_broken_one_is_not() -> None:
    face = crop_face()
    assert is_sane(face, 128)
    tilted = moved(face - 64, 40.0, 1.0, (64.0, 64.0))
    mirrored = np.stack([127 - face[:, 0], face[:, 1]], axis=1)
    upside_down = moved(face - 64, 180.0, 1.0, (64.0, 64.0))
    mouth_on_brow = face.copy()
    mouth_on_brow[48:, 1] -= 50
    for broken in (tilted, mirrored, upside_down, mouth_on_brow, moved(face, 0.0, 2.0, (0.0, 0.0)), face - (60, 0)):
        assert not is_sane(broken, 128)


def test_success_is_six_tenths_of_the_way() -> None:
    assert share_of([0.59, 0.6, 1.4, float("-inf")]) == 0.5


def test_sheet_lays_tiles_out_in_reading_order() -> None:
    tiles = np.arange(6)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    laid = sheet(tiles, columns=3)
    assert laid.shape == (4, 9, 3)
    assert laid[0, ::3, 0].tolist() == [0, 1, 2]
    assert laid[2, ::3, 0].tolist() == [3, 4, 5]


def test_figures_are_told_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell({"b": 2.0, "a": 1.23456}, tmp_path / "f.json", ["a"])
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": 1.2346, "b": 2.0}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


def test_timing_warms_up_three_times() -> None:
    calls: list[int] = []
    median_ms(lambda: calls.append(1), repeats=5)
    assert len(calls) == 8


def photo_drag(reason: str, moved: float | None, identity: float | None) -> PhotoDrag:
    return PhotoDrag(1.0, 0.2, moved, identity, outside=0.05, seconds=2.0, steps=30, attempts=2, reason=reason)


def test_presets_on_photos_are_counted_by_how_they_ended() -> None:
    smile = {"ours": photo_drag("arrived", 1.0, 0.2), "published": photo_drag("cap", 0.25, 0.1)}
    found = [
        {"smile": smile, "tilt": {"ours": photo_drag("stalled", 0.6, 0.1)}},
        {"smile": {"ours": photo_drag("lost", None, None)}},
    ]
    figures = figures_of(found)
    assert figures["tuned_presets_arrived"] == pytest.approx(1 / 3)
    assert (figures["arrived_smile_ours"], figures["arrived_tilt_ours"], figures["tuned_oscillating_ours"]) == (
        0.5,
        0,
        0,
    )
    assert figures["moved_smile_ours"] == 0.5
    assert figures["tuned_drags_by_both"] == 1
    assert figures["tuned_identity_a_move_published"] == pytest.approx(0.4)
    assert figures["tuned_identity_a_move_ours"] == pytest.approx(0.2)
    assert "| smile | 2 | 0.50 | 0.50 | 0.20 | 2.0 | lost |" in by_preset(found)


def outcome(after_px: float, identity: float, reason: str = "arrived", back: float | None = None) -> Outcome:
    made = Made(torch.zeros(1), None, 0.1, 10, reason)
    return Outcome(8.0, after_px, identity, 0.02, back, torch.randn(2, 128, generator=seeded(1)), made)


def test_drags_between_photos_are_compared_by_their_means() -> None:
    def face(back: float, after_px: float) -> Outcomes:
        published = outcome(4.0, 0.2, "cap", 0.1)
        ours = replace(outcome(after_px, 0.1, "stalled", back), as_near=0.05)
        without = {"published": outcome(8.0, 0.2), "ours": outcome(after_px, 0.3)}
        return {5: {"published": published, "ours": ours}, 1: without, 68: without}

    figures = drag_between_photos.figures_of([face(0.02, 1.0), {}, face(0.12, 3.0)])
    assert figures["ccsd_ratio_photos"] == pytest.approx(0.7)
    assert figures["ccsd_nearer_photos"] == 0.5
    assert figures["faces_photos"] == figures["drags_5_ours_photos"] == 2
    assert [figures[f"landmark_ratio_{points}_photos"] for points in (1, 5, 68)] == [0.25, 0.5, 0.25]
    assert figures["identity_ratio_photos"] == pytest.approx((1.5 + 0.5 + 1.5) / 3)
    assert figures["identity_as_near_ratio_5_photos"] == pytest.approx(0.25)
    assert figures["stalled_5_ours_photos"] == figures["cap_5_published_photos"] == 1
    assert all(name.endswith("_photos") for name in figures)
    assert drag_between_photos.figures_of([{}]) == {"faces_photos": 0.0}


def drawn_at(landmarks: np.ndarray | None) -> Start:
    tools = load_tools()
    w = tools.generator.module.map(torch.randn(1, tools.generator.module.z_dim, generator=seeded(4))).detach()
    start = Start(tools.generator.module, w, None, torch.zeros(1, 3, 128, 128), landmarks)
    return replace(start, image=start.render(w))


def test_a_move_leaves_out_landmarks_outside_either_picture_and_those_of_one_place() -> None:
    first = np.linspace(10, 100, 136).reshape(68, 2)
    first[3], first[5], goal = (-2, 50), first[4], first + 5
    goal[7] = (60, 127.5)
    move = move_of(drawn_at(first), goal, 68)
    assert move is not None
    assert move.chosen == [i for i in range(68) if i not in (3, 5, 7)]
    assert np.array_equal(move.handles, first[move.chosen])
    assert np.array_equal(move.targets, goal[move.chosen])
    assert move_of(drawn_at(None), goal, 68) is None
    assert move_of(drawn_at(first), None, 5) is None
    assert move_of(drawn_at(first), goal + 500, 5) is None


def test_moves_are_made_once_and_read_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []

    def drag(generator: object, w: torch.Tensor, handles: np.ndarray, targets: np.ndarray, noise: object) -> Any:
        asked.append((len(handles), bool((targets > handles).all())))
        return SimpleNamespace(w=w + 0.01, steps=7, stop_reason="cap")

    monkeypatch.setattr("benchmarks.drag_moves.METHODS", {"mine": drag})
    first = np.linspace(10, 100, 136).reshape(68, 2)
    start, kept = drawn_at(first), KeptDrags(tmp_path / "kept")
    made = all_moves("face", start, first + 5, ["mine"], kept)
    assert asked == [(1, True), (5, True), (5, False), (68, True)]
    again = all_moves("face", start, first + 5, ["mine"], kept)
    assert len(asked) == 4
    for points, row in made.items():
        assert torch.equal(row["mine"].made.w, again[points]["mine"].made.w)
        assert row["mine"].back == again[points]["mine"].back
        assert (row["mine"].back is not None) == (points == 5)
        assert row["mine"].made.reason == "cap"
        assert row["mine"].before_px == pytest.approx(np.hypot(5, 5) * 4)
    assert all_moves("face", start, None, ["mine"], kept) == {}
    all_moves("another", start, first + 5, ["mine"], kept)
    assert len(asked) == 8


def test_a_face_is_compared_where_it_is_as_near_as_the_other_way_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.linspace(10, 100, 136).reshape(68, 2)
    start = drawn_at(first)
    goal, end = first + 4, start.w + 16.0
    move = move_of(start, goal, 5)
    assert move is not None
    made = Made(end, None, 0.1, 10, "cap")
    monkeypatch.setattr(Start, "render", lambda self, w: torch.full((1, 3, 128, 128), float((w - self.w).mean())))
    monkeypatch.setattr("benchmarks.drag_moves.face_distance", lambda one, other: round(float(other.mean())))
    # Every sixteenth of the way brings landmarks a quarter of a pixel nearer, but for one that shows no face.
    seen = {step: first + step / 4 for step in range(17)} | {9: None}
    monkeypatch.setattr("benchmarks.drag_moves.landmarks_of", lambda image: seen[round(float(image.mean()))])
    whole = apart_px(start, move, first)
    assert whole == pytest.approx(np.hypot(4, 4) * 4)
    assert apart_px(start, move, None) == whole
    assert as_near(start, move, made, whole) == 1
    assert as_near(start, move, made, whole * 0.751) == 4
    assert as_near(start, move, made, whole * 0.438) == 10
    assert as_near(start, move, made, whole * 0.01) == 16
    assert as_near(start, move, made, -1.0) == 16


def test_single_points_are_compared_by_their_means() -> None:
    rows = [
        {"published": outcome(6.0, 0.1, "arrived"), "ours": outcome(2.0, 0.2, "stalled")},
        {"published": outcome(2.0, 0.3, "arrived"), "ours": outcome(2.0, 0.1, "arrived")},
    ]
    found = single_figures(rows)
    assert (found["pairs"], found["before_px"]) == (2, 8.0)
    assert (found["after_px_published"], found["after_px_ours"], found["after_px_ratio"]) == (4.0, 2.0, 0.5)
    assert found["identity_ratio"] == pytest.approx(0.75)
    assert (found["outside_ratio"], found["steps_ours"]) == (1.0, 10)
    assert (found["arrived_published"], found["arrived_ours"]) == (1.0, 0.5)


def test_a_sheet_of_presets_has_a_tile_for_each() -> None:
    assert "slim" not in NAMES  # slimmer_face's other name
    grey = np.full((64, 64, 3), 90, np.uint8)
    drawn = preset_sheet([(name, grey) for name in ("photo", *NAMES)])
    assert (drawn == 90).all(axis=2).sum() >= TILE_PX**2 * (len(NAMES) + 1)
    assert drawn.shape[1] > COLUMNS * TILE_PX
