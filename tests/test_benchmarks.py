"""The measuring instruments: what the benchmarks call a face, a success and a sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import tell
from benchmarks.generator import is_sane, median_ms, share_of
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
