"""The measuring instruments: what the benchmarks call a face, a success and a sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import drag_returns
from benchmarks.common import tell
from benchmarks.drag_pairs import Made, Outcome
from benchmarks.drag_photos import PhotoDrag, by_preset, figures_of
from benchmarks.drag_single import single_figures
from benchmarks.generator import is_sane, median_ms, share_of
from benchmarks.preset_sheet import COLUMNS, NAMES, TILE_PX, preset_sheet
from pipeline.pictures import sheet
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


def test_ways_there_and_back_are_compared_by_their_means() -> None:
    def way(back: float, reason: str) -> drag_returns.Return:
        return drag_returns.Return(8.0, 2.0, 0.2, 0.05, back, steps=30, seconds=1.0, reason=reason)

    figures = drag_returns.figures_of(
        [
            {"published": way(0.1, "cap"), "ours": way(0.02, "arrived")},
            {"published": way(0.1, "arrived"), "ours": way(0.12, "stalled")},
        ]
    )
    assert figures["ccsd_ratio_photos"] == pytest.approx(0.7)
    assert figures["returns_nearer_ours"] == figures["returns_cap_published"] == 0.5
    assert figures["returns"] == 2
    assert drag_returns.figures_of([]) == {"returns": 0.0}


def test_single_points_are_compared_by_their_means() -> None:
    def outcome(after_px: float, identity: float, reason: str) -> Outcome:
        made = Made(torch.zeros(1), None, 0.1, 10, reason)
        return Outcome(8.0, after_px, identity, 0.02, None, torch.zeros(2, 128), made)

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
