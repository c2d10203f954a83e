"""Runs on several faces, on generated pictures, and with other ways to align."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.errors import NoFaceError, PhotodragError, UsageError
from data.files import file_sha256
from data.landmarks import find_faces
from data.photo import read_photo
from editing.presets import preset_drag
from inversion.generators.checkpoint import save_generator
from pipeline.artifacts import read_tensors
from pipeline.run import run
from pipeline.schema import (
    AlignConfig,
    EditConfig,
    RunConfig,
    SampleConfig,
)
from tests.runs import PHOTO, POINTS, manifest_of, short_config, stage_entries
from tests.tiny import tiny_generator


@pytest.fixture
def two_faces(tmp_path: Path) -> Path:
    """The upper part of the sample photo, and beside it the same at three quarters of its size."""
    photo = cv2.imread(str(PHOTO))
    small = cv2.resize(photo, (384, 384), interpolation=cv2.INTER_AREA)
    path = tmp_path / "two.png"
    cv2.imwrite(str(path), np.hstack([photo[:300], small[:300]]))
    return path


def test_every_face_is_inverted_and_only_the_one_with_points_changes(
    generator: Path, two_faces: Path, tmp_path: Path
) -> None:
    points = [[512 + 0.75 * 220, 0.75 * 130, 512 + 0.75 * 235, 0.75 * 130]]
    edit = EditConfig(points=points, steps=8, lr=0.05)
    config = short_config(generator, tmp_path / "out", photo=str(two_faces), align=AlignConfig(face="all"), edit=edit)
    outcome = run(config)
    manifest = manifest_of(outcome.run_dir)
    assert [sorted(face["keys"]) for face in manifest["faces"]] == [["invert", "tune"], ["edit", "invert", "tune"]]
    before, after = read_photo(two_faces).pixels, read_photo(outcome.results[0]).pixels
    assert np.array_equal(before[:, :512], after[:, :512])
    assert not np.array_equal(before[:, 512:], after[:, 512:])
    assert (outcome.run_dir / "edit_face2.mp4").is_file()
    assert (outcome.run_dir / "reconstruction_face2.png").is_file()
    first, second = (np.load(outcome.run_dir / f"latent{whose}.npy") for whose in ("", "_face2"))
    assert first.shape == second.shape and not np.array_equal(first, second)
    assert (outcome.run_dir / "curves_face2.png").is_file()


def test_preset_moves_every_face(generator: Path, two_faces: Path, tmp_path: Path) -> None:
    edit = EditConfig(preset="open_mouth", steps=6, lr=0.05)
    config = short_config(generator, tmp_path / "out", photo=str(two_faces), align=AlignConfig(face="all"), edit=edit)
    outcome = run(config)
    manifest = manifest_of(outcome.run_dir)
    assert ["edit" in face["keys"] for face in manifest["faces"]] == [True, True]
    (stage,) = (outcome.run_dir / "edit" / manifest["faces"][1]["keys"]["edit"][:16]).glob("drag_mask.png")
    mask = cv2.imread(str(stage), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == (300, 896)
    assert mask[:, :512].max() == 0
    assert mask[:, 512:].max() == 255


def test_a_face_that_fails_does_not_stop_the_others(
    generator: Path, two_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import stages

    real = stages.tune_around

    def fails_on_the_first(*arguments: Any) -> Any:
        if arguments[-1] == "tune face 1/2":
            raise PhotodragError("This face cannot be tuned.")
        return real(*arguments)

    monkeypatch.setattr(stages, "tune_around", fails_on_the_first)
    points = [POINTS[0], [512 + 0.75 * 220, 0.75 * 130, 512 + 0.75 * 235, 0.75 * 130]]
    config = short_config(
        generator,
        tmp_path / "out",
        photo=str(two_faces),
        align=AlignConfig(face="all"),
        edit=EditConfig(points=points, steps=8, lr=0.05),
    )
    outcome = run(config)
    assert outcome.failures == ["face 1: This face cannot be tuned."]
    assert "face 1: This face cannot be tuned." in (outcome.run_dir / "report.html").read_text()
    manifest = manifest_of(outcome.run_dir)
    assert manifest["status"] == "failed"
    assert manifest["faces"][0]["failure"] == "This face cannot be tuned."
    assert "edit" in manifest["faces"][1]["keys"]
    assert outcome.results == [outcome.run_dir / "result.png"]


def test_generated_picture_is_dragged_without_a_photo(generator: Path, tmp_path: Path) -> None:
    edit = EditConfig(points=[[20, 30, 30, 30]], steps=8, lr=0.05)
    config = short_config(
        generator, tmp_path, photo=None, stages=["sample", "edit"], sample=SampleConfig(seed=7), edit=edit
    )
    outcome = run(config)
    assert outcome.run_dir.name == f"sample_7_{file_sha256(generator)[:8]}"
    assert outcome.results == [outcome.run_dir / "edited.png"]
    assert (outcome.run_dir / "edit.mp4").is_file()
    manifest = manifest_of(outcome.run_dir)
    assert manifest["metrics"]["drag_distance_before_px"] == pytest.approx(10)
    assert manifest["photo"] is None
    assert manifest["title"] == "Generated picture, seed 7"
    another = EditConfig(points=[[40, 30, 30, 30]], steps=2)
    more = RunConfig(stages=["edit"], from_run=str(outcome.run_dir), edit=another, progress=False)
    run(more)
    assert stage_entries(outcome.run_dir) == [("sample", True), ("edit", False)]
    with pytest.raises(UsageError, match=r"is a run of a generated picture, which has no photo: only stages=\[edit\]"):
        run(replace(more, stages=["edit", "blend"]))


def test_samples_differ_by_seed_and_a_preset_needs_a_face(generator: Path, tmp_path: Path) -> None:
    config = short_config(generator, tmp_path, photo=None, stages=["sample"])
    pictures = [run(replace(config, sample=SampleConfig(seed=seed))).results[0].read_bytes() for seed in (1, 2)]
    assert pictures[0] != pictures[1]
    with pytest.raises(NoFaceError, match=r"edit.preset=smile needs a face, and none was found in this picture"):
        run(replace(config, stages=["sample", "edit"], edit=EditConfig(preset="smile")))


def test_other_ways_to_align(generator: Path, tmp_path: Path) -> None:
    quad = [[150, 20], [150, 270], [400, 270], [400, 20]]
    for align in (AlignConfig(method="precropped"), AlignConfig(method="center"), AlignConfig("quad", quad=quad)):
        outcome = run(short_config(generator, tmp_path / align.method, align=align, stages=["align"]))
        assert outcome.results == [outcome.run_dir / "crop.png"]
        face = manifest_of(outcome.run_dir)["faces"][0]
        corners = quad if align.method == "quad" else [[-0.5, -0.5], [-0.5, 511.5], [511.5, 511.5], [511.5, -0.5]]
        assert np.allclose(face["quad"], corners)


def test_preset_finds_its_landmarks_where_the_alignment_had_none(generator: Path, tmp_path: Path) -> None:
    generator_128 = tmp_path / "larger.safetensors"
    save_generator(tiny_generator(resolution=128, channels=8, w_dim=16), generator_128)
    quad = [[150, 20], [150, 220], [350, 220], [350, 20]]
    edit = EditConfig(preset="open_mouth", strength=2.0, steps=2)
    align = AlignConfig("quad", quad=quad)
    outcome = run(short_config(generator_128, tmp_path / "out", align=align, edit=edit))
    (folder,) = (outcome.run_dir / "edit").iterdir()
    targets = read_tensors(folder / "tensors.safetensors")["targets"]
    in_photo = (targets.numpy() + 0.5) * (200 / 128) - 0.5 + (150, 20)
    landmarks = find_faces(read_photo(PHOTO).pixels)[0].landmarks
    assert np.abs(in_photo - preset_drag("open_mouth", landmarks, 2.0).targets).max() < 5
