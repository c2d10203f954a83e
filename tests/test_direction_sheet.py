"""The sheet of `photodrag directions`: its rows, its labels, what it begins at and what the command says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from editing.directions import KINDS, Direction
from pipeline import cli
from pipeline.direction_sheet import (
    AMOUNTS,
    LABEL_WIDTH_PX,
    TILE_PX,
    DirectionRow,
    Start,
    direction_rows,
    direction_sheet,
    sheet_shape,
)
from pipeline.montage import GAP_PX, HEAD_PX, MARGIN_PX
from pipeline.pictures import read_picture
from tests.runs import run_dir
from tests.third_family import Wave, WaveConfig
from tests.tiny import tiny_generator


def tile_of(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top = HEAD_PX + row * (TILE_PX + GAP_PX)
    left = MARGIN_PX + LABEL_WIDTH_PX + column * (TILE_PX + GAP_PX)
    return sheet[top : top + TILE_PX, left : left + TILE_PX]


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["directions", *words]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text.removeprefix("photodrag: ").strip()


def test_a_sheet_has_a_labelled_row_for_each_direction_and_a_column_for_each_amount() -> None:
    pictures = [np.full((32, 32, 3), 40 * number, np.uint8) for number in range(len(AMOUNTS))]
    rows = [DirectionRow(Direction("pca", 0), pictures), DirectionRow(Direction("sefa", 12), pictures)]
    sheet = direction_sheet(rows)
    assert sheet.shape == sheet_shape(2) == (34 + 2 * 168, 12 + 76 + 5 * 168 - 8 + 12, 3)
    for row in range(2):
        assert [int(tile_of(sheet, row, column).mean()) for column in range(5)] == [0, 40, 80, 120, 160]
        top = HEAD_PX + row * (TILE_PX + GAP_PX)
        assert sheet[top : top + TILE_PX, : MARGIN_PX + LABEL_WIDTH_PX].min() < 100
    heads = [sheet[:HEAD_PX, tile * 168 + 88 : tile * 168 + 248].min() for tile in range(5)]
    assert max(heads) < 100
    other = direction_sheet([DirectionRow(Direction("pca", 1), pictures), rows[1]])
    assert not np.array_equal(other, sheet)


def test_the_middle_column_is_the_start_and_the_others_differ() -> None:
    generator = tiny_generator()
    w = generator.w_avg.repeat(1, generator.num_ws, 1)
    rows = direction_rows(Start(generator, w, None), "coarse", KINDS, 3)
    assert [str(row.direction) for row in rows] == ["pca:0", "pca:1", "pca:2", "sefa:0", "sefa:1", "sefa:2"]
    for row in rows:
        assert np.abs(row.pictures[2].astype(int) - rows[0].pictures[2]).max() <= 1
        assert (row.pictures[0] != row.pictures[4]).any()


def test_a_family_without_style_weights_has_rows_of_pca_alone() -> None:
    wave = Wave(WaveConfig()).requires_grad_(False)
    rows = direction_rows(Start(wave, wave.w_avg.repeat(1, wave.num_ws, 1), None), "all", KINDS, 2)
    assert [str(row.direction) for row in rows] == ["pca:0", "pca:1"]


def test_of_a_generated_face_the_command_writes_a_picture_and_says_how_to_use_it(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"generator.path={generator}", f"out={tmp_path}", "count=2", "kind=sefa", "sample.seed=4"]
    assert cli.main(["directions", *words, "edit.direction_layers=0-3"]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("directions_4_")
    assert read_picture(path.read_bytes())[0].shape == sheet_shape(2)
    assert capsys.readouterr().out.splitlines() == [
        f"sheet: {path}",
        f"use:   photodrag me.jpg generator.path={generator} edit=direction edit.direction=sefa:1 edit.strength=1.5 "
        "edit.direction_layers=0-3",
    ]


def test_of_a_run_the_sheet_begins_at_its_tuned_face(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_dir(out)
    assert cli.main(["directions", f"from={folder}", "count=1", "generator=embedded"]) == 0
    sheet, _ = read_picture((folder / "directions.png").read_bytes())
    assert sheet.shape == sheet_shape(2)
    tuned, _ = read_picture((folder / "reconstruction.png").read_bytes())
    shown = tile_of(sheet, 0, 2).astype(float)
    assert np.abs(shown[::5, ::5].mean(axis=(0, 1)) - tuned.mean(axis=(0, 1))).max() < 4
    assert np.corrcoef(shown[::5, ::5].ravel(), tuned[::2, ::2].ravel())[0, 1] > 0.9
    used = capsys.readouterr().out.splitlines()[1]
    assert used.endswith(
        f"photodrag from={folder} 'stages=[edit,blend]' edit=direction edit.direction=pca:0 edit.strength=1.5"
    )


def test_what_cannot_be_meant_is_one_sentence(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_dir(out)
    assert refusal(["me.jpg"], capsys).startswith("photodrag directions is followed by me.jpg: allowed is photodrag")
    assert refusal(["count=0"], capsys) == "count is 0: allowed is a whole number from 1 to 64."
    assert refusal(["kind=ica"], capsys) == "kind is ica: allowed are both, pca, sefa."
    assert refusal(["stages=[edit]"], capsys).startswith("photodrag directions takes no stages: allowed is")
    assert refusal(["edit.stregth=2"], capsys).startswith("edit.stregth is not a setting: did you mean edit.strength?")
    assert "is not a run folder" in refusal([f"from={tmp_path}"], capsys)
    assert "no finished invert stage of face 2" in refusal([f"from={folder}", "face=2"], capsys)
    layers = refusal([f"from={folder}", "edit.direction_layers=4-99"], capsys)
    assert layers.startswith(
        "edit.direction_layers is 4-99: allowed on this generator are all, coarse, middle, fine, or"
    )
