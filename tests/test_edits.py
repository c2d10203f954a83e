"""Edits in a row: made one after another, kept in a file, undone, and made again on another photo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.alignment import align_precropped
from data.errors import UsageError
from pipeline import stages
from pipeline.edit_config import EditConfig
from pipeline.edits import EDITS, config_of, edits_json, read_edits, told_of
from pipeline.outputs import EDITED, VIDEO, Dragged
from pipeline.run import run
from pipeline.video import read_video
from tests.runs import PHOTO, POINTS, manifest_of, run_dir, short_config, stage_entries


def test_points_are_told_by_their_place_in_the_crop() -> None:
    small, large = align_precropped((64, 64), 32), align_precropped((256, 256), 32)
    config = EditConfig(points=[[16.0, 20.0, 24.0, 20.0], [1.0, 1.0, 2.0, 2.0]])
    told = told_of(config, [0], small)
    assert told == {"points": [pytest.approx([16.5 / 64, 20.5 / 64, 24.5 / 64, 20.5 / 64], abs=1e-5)]}
    again = config_of(told, EditConfig(lr=0.02, undo=1), large)
    assert again.points == [pytest.approx([4 * 16.5 - 0.5, 4 * 20.5 - 0.5, 4 * 24.5 - 0.5, 4 * 20.5 - 0.5], abs=1e-3)]
    assert (again.lr, again.undo, again.replay) == (0.02, 0, None)


def test_presets_and_directions_are_told_by_name() -> None:
    crop = align_precropped((64, 64), 32)
    for config in (
        EditConfig(preset="smile", strength=0.5),
        EditConfig(direction="pca:3", direction_layers="0-5", strength=-1.0),
    ):
        told = told_of(config, [], crop)
        assert "points" not in told
        assert config_of(told, EditConfig(preset="frown"), crop) == config


def write(path: Path, *edits: dict) -> str:
    path.write_bytes(edits_json(edits))
    return str(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no list of edits: it must hold 'photodrag_edits': 1"),
        ('{"photodrag_edits": 2, "edits": []}', "is no list of edits"),
        ('{"photodrag_edits": 1, "edits": [3]}', "edit 1 of .* is no edit; allowed are points, preset"),
        ('{"photodrag_edits": 1, "edits": [{"steps": 3}]}', "edit 1 of .* is no edit: 'steps' is unknown"),
        ('{"photodrag_edits": 1, "edits": [{"preset": "grin"}]}', "edit 1 of .* cannot be made: edit.preset is grin"),
        ('{"photodrag_edits": 1, "edits": [{"points": [[1, 2]]}]}', "edit 1 of .* cannot be made: edit.points is"),
        ('{"photodrag_edits": 1, "edits": [{"points": 7}]}', "edit 1 of .* cannot be made: "),
        ('{"photodrag_edits": 1, "edits": [{"strength": 1.0}]}', "edit 1 of .* asks for nothing"),
    ],
)
def test_files_that_are_no_edits(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        read_edits(EditConfig(replay=str(path)))


def test_missing_files_and_too_much_undone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"edit\.replay is .*nowhere, where no edits\.json is"):
        read_edits(EditConfig(replay=str(tmp_path / "nowhere")))
    path = write(tmp_path / EDITS, {"preset": "smile"}, {"direction": "pca:0"})
    assert read_edits(EditConfig(replay=path, undo=1)) == [{"preset": "smile"}]
    assert read_edits(EditConfig(replay=str(tmp_path), undo=2)) == []
    with pytest.raises(UsageError, match=r"edit\.undo is 3, and .* holds 2 edits: undo fewer"):
        read_edits(EditConfig(replay=path, undo=3))


def test_a_row_of_edits_is_the_edits_one_after_another(generator: Path, tmp_path: Path) -> None:
    """The second edit starts where the first ended; the film shows both; the file tells both, and undo takes one."""
    out = tmp_path / "out"
    run(short_config(generator, out))
    folder = run_dir(out)
    stored = json.loads((folder / EDITS).read_text(encoding="utf-8"))
    (first,) = stored["edits"]
    assert len(first["points"][0]) == 4
    alone, film = np.asarray(Image.open(folder / EDITED)), len(read_video(folder / VIDEO))
    second = EditConfig(direction="pca:0", strength=1.0, steps=8, lr=0.05, replay=str(folder))
    run(short_config(generator, out, edit=second))
    both = np.asarray(Image.open(folder / EDITED))
    assert not np.array_equal(both, alone)
    assert len(read_video(folder / VIDEO)) > film
    told = json.loads((folder / EDITS).read_text(encoding="utf-8"))["edits"]
    assert told == [first, {"direction": "pca:0"}]
    undone = EditConfig(replay=str(folder), undo=1, steps=8, lr=0.05)
    run(short_config(generator, out, edit=undone))
    assert dict(stage_entries(folder))["edit"] is True  # the first edit as it was made
    assert np.array_equal(np.asarray(Image.open(folder / EDITED)), alone)
    assert json.loads((folder / EDITS).read_text(encoding="utf-8"))["edits"] == [first]
    assert manifest_of(folder)["products"][EDITS].startswith("edit/")


def test_edits_are_made_again_on_another_photo(generator: Path, tmp_path: Path) -> None:
    """A mirrored and enlarged photo: the points lie at the same places of its crop, not at the same pixels."""
    path = write(tmp_path / "some.json", {"points": [[0.5, 0.6, 0.56, 0.6]]}, {"direction": "pca:1", "strength": 0.5})
    other = tmp_path / "other.png"
    picture = Image.open(PHOTO).convert("RGB").crop((0, 0, 400, 400))
    picture.resize((600, 600)).save(other)
    out = tmp_path / "out"
    run(short_config(generator, out, photo=str(other), edit=EditConfig(replay=path, steps=4, lr=0.05)))
    told = json.loads((run_dir(out) / EDITS).read_text(encoding="utf-8"))["edits"]
    assert told == [{"points": [[0.5, 0.6, 0.56, 0.6]]}, {"direction": "pca:1", "strength": 0.5}]
    assert stage_entries(run_dir(out))[-1][0] == "blend"


def test_a_row_goes_on_from_what_is_finished(generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second edit alone is made anew, and the result is that of a row that was made as a whole."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    path = write(tmp_path / "some.json", {"direction": "pca:1", "strength": 0.5})
    row = EditConfig(replay=path, direction="pca:2", strength=-1.0)
    run(short_config(generator, whole, edit=row))
    run(short_config(generator, parts, edit=EditConfig(replay=path)))
    made: list[str] = []
    real = stages.edit

    def counted(*args: Any) -> Dragged:
        made.append(args[8])
        return real(*args)

    monkeypatch.setattr(stages, "edit", counted)
    run(short_config(generator, parts, edit=row))
    assert made == ["edit 2/2"]
    first, second = (np.asarray(Image.open(run_dir(out) / EDITED)) for out in (whole, parts))
    assert np.array_equal(first, second)
    films = [len(read_video(run_dir(out) / VIDEO)) for out in (whole, parts)]
    assert films[0] == films[1]


def test_another_row_is_another_edit(generator: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "some.json"
    for strength, reused in ((0.5, False), (0.5, True), (0.9, False)):
        write(path, {"direction": "pca:1", "strength": strength})
        run(short_config(generator, out, edit=EditConfig(replay=str(path), points=POINTS, steps=4, lr=0.05)))
        assert dict(stage_entries(run_dir(out)))["edit"] is reused
