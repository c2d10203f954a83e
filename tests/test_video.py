"""The video of a drag: codec, size, number of frames, and where the points are drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.video import VideoError, drag_frames, enlarge_points, read_video, write_video


def _frames(count: int, height: int = 64, width: int = 64) -> list[np.ndarray]:
    ramp = np.linspace(40, 200, width, dtype=np.float64)[None, :, None] * np.ones((height, 1, 3))
    return [np.clip(ramp + 5 * i, 0, 255).astype(np.uint8) for i in range(count)]


def test_every_frame_comes_back_in_its_size_and_order(tmp_path: Path) -> None:
    frames = _frames(9, 64, 96)
    codec = write_video(tmp_path / "edit.mp4", frames, fps=12)
    seen = read_video(tmp_path / "edit.mp4")
    assert codec == "vp09"
    assert len(seen) == 9
    assert {frame.shape for frame in seen} == {(64, 96, 3)}
    for written, read in zip(frames, seen, strict=True):
        assert cv2.PSNR(written, read) > 30


def test_file_is_an_mp4_with_the_frame_rate_and_a_vp9_track(tmp_path: Path) -> None:
    path = tmp_path / "edit.mp4"
    write_video(path, _frames(5), fps=12)
    content = path.read_bytes()
    assert content[4:8] == b"ftyp" and b"vp09" in content and b"vpcC" in content
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12)


def test_odd_sides_become_even(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", _frames(3, 65, 67), fps=24)
    assert [frame.shape for frame in read_video(tmp_path / "odd.mp4")] == [(66, 68, 3)] * 3


def test_no_frames_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"No frames for the video .*none\.mp4: lower edit\.frame_every"):
        write_video(tmp_path / "none.mp4", [], fps=24)


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="choose a folder that you may write to with out=DIR"):
        write_video(tmp_path / "absent" / "edit.mp4", _frames(1), fps=24)


def test_small_frames_are_enlarged_and_large_ones_are_kept() -> None:
    points = np.array([[20.0, 20.0]])
    small = drag_frames(_frames(2, 64, 64), np.stack([points, points]), points)
    large = drag_frames(_frames(2, 300, 300), np.stack([points, points]), points)
    assert [frame.shape for frame in small] == [(256, 256, 3)] * 2
    assert [frame.shape for frame in large] == [(300, 300, 3)] * 2


def test_points_are_drawn_where_the_picture_has_them_and_frames_are_not_changed() -> None:
    grey = np.full((64, 64, 3), 90, np.uint8)
    frames = [grey.copy(), grey.copy()]
    handles = np.array([[[10.0, 30.0]], [[20.0, 30.0]]])
    drawn = drag_frames(frames, handles, np.array([[50.0, 30.0]]))
    assert all(np.array_equal(frame, grey) for frame in frames)
    for picture, handle_x in zip(drawn, (10, 20), strict=True):
        red = picture[4 * 30 + 1, 4 * handle_x + 1].astype(int)
        blue = picture[4 * 30 + 1, 4 * 50 + 1].astype(int)
        between = picture[4 * 30 + 1, 4 * 35 + 1].astype(int)
        assert red[0] > red[2] + 80 and blue[2] > blue[0] + 80
        assert between.min() > 150
        assert np.array_equal(picture[4 * 50, 4 * 35], [90, 90, 90])


def test_enlarged_points_keep_pixel_centres() -> None:
    assert enlarge_points(np.array([[0.0, 63.0]]), 4).tolist() == [[1.5, 253.5]]


def test_handles_for_every_frame_are_asked_for() -> None:
    with pytest.raises(AssertionError, match="1 handle positions for 2 frames"):
        drag_frames(_frames(2), np.zeros((1, 1, 2)), np.zeros((1, 2)))


def test_a_video_that_was_cut_short_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edit.mp4"
    real = cv2.VideoWriter

    class FullDisk:
        """A writer whose file loses its end, as on a full disk."""

        fourcc = staticmethod(real.fourcc)

        def __init__(self, *arguments: object) -> None:
            self.writer = real(*arguments)  # type: ignore[call-overload]
            self.isOpened, self.write = self.writer.isOpened, self.writer.write

        def release(self) -> None:
            self.writer.release()
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    monkeypatch.setattr("pipeline.video.cv2.VideoWriter", FullDisk)
    with pytest.raises(VideoError, match=r"edit\.mp4 could not be written whole: free some space"):
        write_video(path, _frames(5), fps=24)
