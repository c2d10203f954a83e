"""The pose of another photo's head: read from landmarks, asked of a face, and part of a run."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import NoFaceError, UsageError
from editing.pose import Pose, pose_between, pose_drag, pose_landmarks
from editing.presets import preset_drag
from pipeline.posing import landmarks_in
from pipeline.run import run
from pipeline.schema import EditConfig
from tests.runs import PHOTO, manifest_of, short_config, stage_entries
from tests.test_presets import drawn_face, moved


def posed(face: np.ndarray, pose: Pose) -> np.ndarray:
    """The face with the landmarks of a pose's drag at their targets, and the eyes rotated with their corners."""
    asked, after = pose_drag(face, pose), face.copy()
    for index, target in zip(pose_landmarks(face), asked.targets, strict=True):
        if index < len(face):
            after[index] = target
    for eye in (slice(36, 42), slice(42, 48)):
        corners = after[[eye.start, eye.start + 3]], face[[eye.start, eye.start + 3]]
        spin, start = (np.diff(pair, axis=0)[0] for pair in corners)
        turned = complex(*spin) / complex(*start)
        away = face[eye] - corners[1].mean(axis=0)
        away = (away[:, 0] + 1j * away[:, 1]) * turned
        after[eye] = corners[0].mean(axis=0) + np.stack([away.real, away.imag], axis=1)
    return after


@pytest.mark.parametrize("pose", [Pose(1.0), Pose(look=-1.5), Pose(tilt=2.0), Pose(-0.7, 1.2, -1.0), Pose()])
def test_a_pose_that_was_given_is_read_back_wherever_the_face_lies(pose: Pose) -> None:
    face = drawn_face()
    other = moved(posed(face, pose), 0.0, 2.5, (-30.0, 400.0))
    assert astuple(pose_between(face, other)) == pytest.approx(astuple(pose), abs=1e-9)
    assert astuple(pose_between(other, face)) == pytest.approx(astuple(pose.times(-1.0)), abs=1e-9)


def test_each_part_of_a_pose_is_its_preset() -> None:
    face = moved(drawn_face(), 20.0, 2.0, (5.0, 7.0))
    for name, pose in (("turn_right", Pose(turn=0.8)), ("look_down", Pose(look=0.8)), ("look_up", Pose(look=-0.8))):
        asked = pose_drag(face, pose)
        ways = {tuple(h): t for h, t in zip(asked.handles, asked.targets, strict=True)}
        preset = preset_drag(name, face, 0.8)
        assert all(ways[tuple(h)] == pytest.approx(t) for h, t in zip(preset.handles, preset.targets, strict=True))
    assert len(pose_landmarks(face)) == len(pose_drag(face, Pose()).handles)


def test_what_tells_people_apart_is_no_pose() -> None:
    """Another mouth, another jaw and another place in the photo, of a face as it stands."""
    other = drawn_face(open_mouth_px=9.0)
    other[:17, 0] = 100 + 1.2 * (other[:17, 0] - 100)
    pose = pose_between(drawn_face(), moved(other, 0.0, 3.0, (9.0, 9.0)))
    assert astuple(pose) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


def test_a_nose_counts_less_by_its_length_than_by_its_pose() -> None:
    other = drawn_face()
    other[27:36, 1] = 90 + 1.15 * (other[27:36, 1] - 90)  # one and a half standard deviations longer
    assert abs(pose_between(drawn_face(), other).look) < 1.0


def test_strengths_are_multiplied_and_limited() -> None:
    assert Pose(1.0, -2.0, 0.5).times(2.0) == Pose(2.0, -4.0, 1.0)
    assert Pose(2.0, -4.0, 3.5).limited() == Pose(2.0, -3.0, 3.0)
    with pytest.raises(UsageError, match=r"^The pose is .*look_down -4\.00.*between -3 and 3"):
        pose_drag(drawn_face(), Pose(look=-4.0))


def test_mask_of_a_pose_is_the_head_and_of_none_empty() -> None:
    mask, none = (pose_drag(drawn_face(), pose, (300, 300)).mask for pose in (Pose(turn=0.2), Pose()))
    assert mask is not None and none is not None
    assert mask[60, 100] == mask[158, 100] == 1.0
    assert not none.any()


def other_photo(path: Path, degrees: float) -> str:
    """The sample photo's face turned in the picture, clockwise."""
    photo = cv2.imread(str(PHOTO))
    turn = cv2.getRotationMatrix2D((224, 130), -degrees, 1.0)
    cv2.imwrite(str(path), cv2.warpAffine(photo, turn, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))
    return str(path)


def test_a_run_takes_the_pose_and_knows_the_other_photo_by_its_content(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "the other, b=1.png", tmp_path / "out"
    edit = EditConfig(like=other_photo(path, 2.5), steps=4, lr=0.05)
    folder = run(short_config(generator, out, edit=edit)).run_dir
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("edit.like: ")]
    assert len(told) == 1
    assert float(told[0].rpartition(" ")[2]) == pytest.approx(2.0, abs=0.8)  # 2.5 degrees
    assert stage_entries(folder)[-2:] == [("edit", False), ("blend", False)]
    first = manifest_of(folder)["faces"][0]["keys"]["edit"]
    moved_file = path.rename(tmp_path / "elsewhere.png")
    run(short_config(generator, out, edit=EditConfig(like=str(moved_file), steps=4, lr=0.05)))
    assert manifest_of(folder)["faces"][0]["keys"]["edit"] == first
    assert ("edit", True) in stage_entries(folder)
    other_photo(moved_file, 1.0)
    run(short_config(generator, out, edit=EditConfig(like=str(moved_file), steps=4, lr=0.05)))
    assert manifest_of(folder)["faces"][0]["keys"]["edit"] != first
    run(short_config(generator, out, edit=EditConfig(like=str(moved_file), strength=0.5, steps=4, lr=0.05)))
    assert ("edit", False) in stage_entries(folder)


def test_a_pose_beyond_the_presets_is_told_and_held(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = other_photo(tmp_path / "far.png", 8.0)
    run(short_config(generator, tmp_path / "out", edit=EditConfig(like=like, steps=1)))
    said = capsys.readouterr()
    assert "tilt +3.00" in said.out
    assert "more than 3 either way is left out" in said.err


def test_another_photo_without_a_face_or_that_is_missing_stops_the_run_at_its_start(
    generator: Path, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((64, 64, 3), 200, np.uint8))
    for like, kind, sentence in (
        (blank, NoFaceError, r"^edit\.like needs a face to take the pose from, and none was found in .*blank\.png"),
        (tmp_path / "none.png", UsageError, r"^edit\.like is .*none\.png, which does not exist: allowed is the path"),
    ):
        with pytest.raises(kind, match=sentence):
            run(short_config(generator, tmp_path / "out", edit=EditConfig(like=str(like))))
    assert not (tmp_path / "out").exists()


def test_the_largest_face_of_the_other_photo_counts(tmp_path: Path) -> None:
    photo = cv2.imread(str(PHOTO))
    small = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    both = np.full((512, 768, 3), 128, np.uint8)
    both[:, 256:], both[128:384, :256] = photo, small
    cv2.imwrite(str(tmp_path / "both.png"), both)
    assert landmarks_in(str(tmp_path / "both.png"))[:, 0].min() > 256
