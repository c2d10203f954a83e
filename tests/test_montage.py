"""The pictures of an experiment: sheets with an error map of a fixed scale, and charts of losses."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.curves import DPI, SIZE_INCHES, Group, experiment_curves, median_curve, run_curves
from pipeline.montage import (
    ERROR_MAX_LEVELS,
    GAP_PX,
    HEAD_PX,
    LABEL_PX,
    ROWS_A_SHEET,
    TILE_PX,
    MontageRow,
    error_colours,
    error_levels,
    montage_sheets,
    sheet_shape,
)
from pipeline.pictures import read_picture

MARGIN_PX = 12


def picture(seed: int, side_px: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)


def tile_of(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top = HEAD_PX + LABEL_PX + row * (LABEL_PX + TILE_PX + GAP_PX)
    left = MARGIN_PX + column * (TILE_PX + GAP_PX)
    return sheet[top : top + TILE_PX, left : left + TILE_PX]


def test_error_is_zero_where_equal_and_the_mean_over_the_channels_elsewhere() -> None:
    photo = picture(0)
    other = photo.copy()
    other[3, 5] = photo[3, 5] ^ 128
    levels = error_levels(photo, other)
    assert levels[3, 5] == 128
    levels[3, 5] = 0
    assert not levels.any()
    black = np.zeros((1, 1, 3), np.uint8)
    assert error_levels(black, np.array([[[30, 0, 0]]], np.uint8)) == 10


def test_error_colours_have_a_fixed_scale_that_rises_in_brightness() -> None:
    colours = error_colours(np.array([0.0, 16, 32, 48, ERROR_MAX_LEVELS, 255]))
    brightness = colours.astype(float).sum(axis=1)
    assert brightness[0] < 10
    assert (np.diff(brightness[:5]) > 0).all()
    assert np.array_equal(colours[4], colours[5])


def test_a_sheet_shows_each_row_and_black_where_nothing_differs() -> None:
    photo, pivot = picture(0, TILE_PX), picture(1, TILE_PX)
    rows = [MontageRow("1. same", photo, pivot, photo), MontageRow("2. no tuning", photo, pivot, None)]
    (sheet,) = montage_sheets(rows)
    assert sheet.shape == sheet_shape(2)
    assert sheet.dtype == np.uint8
    for column, expected in enumerate((photo, pivot, photo)):
        assert np.array_equal(tile_of(sheet, 0, column), expected)
    assert (tile_of(sheet, 0, 3) == error_colours(np.zeros(1))[0]).all()
    assert len(np.unique(tile_of(sheet, 1, 2))) == 1
    assert np.array_equal(tile_of(sheet, 1, 3), error_colours(error_levels(photo, pivot)))


def test_many_rows_are_spread_over_sheets_in_order() -> None:
    rows = [MontageRow(str(number), picture(number), picture(number), None) for number in range(ROWS_A_SHEET + 2)]
    sheets = montage_sheets(rows)
    assert [sheet.shape for sheet in sheets] == [sheet_shape(ROWS_A_SHEET), sheet_shape(2)]
    alone = montage_sheets(rows[-1:])[0]
    assert np.array_equal(tile_of(sheets[1], 1, 0), tile_of(alone, 0, 0))
    assert montage_sheets([]) == []


@pytest.mark.parametrize("label", ["日本.jpg", "x" * 400, "tab\t.jpg", "", "caf\udce9"])
def test_any_name_can_be_a_label_and_is_drawn_inside_its_row(label: str) -> None:
    same = picture(0)
    empty, sheet = (montage_sheets([MontageRow(text, same, same, same)])[0] for text in ("", label))
    differing = np.argwhere((empty != sheet).any(axis=2))
    if label:
        assert differing[:, 0].min() >= HEAD_PX
        assert differing[:, 0].max() < HEAD_PX + LABEL_PX
        assert differing[:, 1].max() < sheet.shape[1] - MARGIN_PX
    else:
        assert len(differing) == 0


def test_median_goes_as_far_as_half_of_the_lines() -> None:
    lines = [[1.0, 1.0, 1.0, 1.0], [3.0, 5.0], [2.0, 9.0, 7.0]]
    assert median_curve(lines) == [2.0, 5.0, 4.0]
    assert median_curve([]) == []


def test_charts_are_of_one_size_and_stand_losses_that_a_log_scale_cannot_show() -> None:
    size = (round(SIZE_INCHES[1] * DPI), round(SIZE_INCHES[0] * DPI), 3)
    losses = {"loss": [2.0, 1.0, 0.0], "reconstruction": [1.0, float("nan"), 0.5]}
    groups = [Group("seed=0", [{"invert": [2.0, 1.0]}, {"invert": [1.0]}]), Group("seed=1", [])]
    drawn = [
        run_curves({"invert": losses, "tune": {"loss": [], "reconstruction": []}}),
        run_curves({"invert": losses}),
        experiment_curves([Group("", [{"invert": [1.0, 0.5]}])], ["invert", "tune"]),
        experiment_curves(groups, ["invert"]),
    ]
    assert [read_picture(content)[0].shape for content in drawn] == [size] * 4
    assert len(set(drawn)) == 4
