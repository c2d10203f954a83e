"""The video of a drag: codec, size, number of frames, and where the points are drawn."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from pipeline.gif import HOLD_CS, MAX_FRAMES, chosen, durations_cs, gif_bytes
from pipeline.run import run
from pipeline.schema import EditConfig
from pipeline.video import VideoError, drag_frames, enlarge_points, read_video, write_video
from tests.runs import POINTS, manifest_of, run_dir, short_config, stage_entries


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


def read_gif(content: bytes) -> tuple[list[np.ndarray], list[int], int]:
    """Frames [H, W, 3] of a GIF, how long each stays in hundredths of a second, and how often it plays (0: always)."""
    with Image.open(io.BytesIO(content)) as film:
        assert film.format == "GIF"
        loop = film.info["loop"]
        read = [
            (np.asarray(frame.convert("RGB")), frame.info["duration"] // 10) for frame in ImageSequence.Iterator(film)
        ]
    return [frame for frame, _ in read], [duration for _, duration in read], loop


def test_a_gif_has_the_frames_in_order_their_time_and_no_end() -> None:
    frames = _frames(9, 64, 96)
    seen, durations, loop = read_gif(gif_bytes(frames, fps=12))
    assert (len(seen), loop) == (9, 0)
    assert durations == [8] * 8 + [HOLD_CS]
    assert {frame.shape for frame in seen} == {(64, 96, 3)}
    for written, read in zip(frames, seen, strict=True):
        assert cv2.PSNR(written, read) > 30


def test_a_gif_is_small_and_lasts_as_long_as_the_film() -> None:
    seen, durations, _ = read_gif(gif_bytes(_frames(200, 300, 600), fps=24))
    assert len(seen) <= MAX_FRAMES
    assert {frame.shape for frame in seen} == {(128, 256, 3)}
    assert sum(durations) - HOLD_CS == pytest.approx(100 * 199 / 24, abs=30)
    shown = chosen(200)
    assert (shown[0], shown[-1], len(shown)) == (0, 199, MAX_FRAMES)
    assert chosen(1) == [0]


@pytest.mark.parametrize(("fps", "expected"), [(1, 100), (24, 4), (50, 2), (60, 2), (120, 2)])
def test_a_gifs_frames_stay_a_whole_number_of_hundredths_that_viewers_keep(fps: int, expected: int) -> None:
    assert durations_cs([0, 1, 2], fps) == [expected, expected, HOLD_CS]


def test_points_keep_their_colours_in_a_gif() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 200, (64, 64, 3), np.uint8)
    handles = np.array([[[10.0, 30.0]], [[20.0, 30.0]]])
    seen, _, _ = read_gif(gif_bytes(drag_frames([noise, noise], handles, np.array([[50.0, 30.0]])), 12))
    for picture, handle_x in zip(seen, (10, 20), strict=True):
        assert picture[4 * 30 + 1, 4 * handle_x + 1].tolist() == [230, 57, 70]
        assert picture[4 * 30 + 1, 4 * 50 + 1].tolist() == [29, 112, 236]


def test_pictures_without_points_are_drawn_as_they_are() -> None:
    frames = _frames(3, 300, 300)
    drawn = drag_frames(frames, np.zeros((3, 0, 2)), np.zeros((0, 2)))
    assert all(np.array_equal(*pair) for pair in zip(frames, drawn, strict=True))


def test_a_gif_without_frames_is_one_sentence() -> None:
    with pytest.raises(VideoError, match=r"cannot be read back for edit\.gif: run again with resume=false"):
        gif_bytes([], 24)


def test_a_gif_is_made_of_a_finished_edit_and_goes_with_the_run_that_wants_none(generator: Path, out: Path) -> None:
    folder = run_dir(out)
    assert not (folder / "edit.gif").exists()
    edit = EditConfig(points=POINTS, steps=8, lr=0.05)
    run(short_config(generator, out, edit=replace(edit, gif=True)))
    assert all(reused for _, reused in stage_entries(folder))
    assert manifest_of(folder)["products"]["edit.gif"].startswith("edit/")
    seen, durations, _ = read_gif((folder / "edit.gif").read_bytes())
    assert len(seen) == len(read_video(folder / "edit.mp4"))
    assert durations[0] == 4
    run(short_config(generator, out, edit=edit))
    assert not (folder / "edit.gif").exists()
    assert "edit.gif" not in manifest_of(folder)["products"]
    assert (folder / "edit.mp4").is_file()


def test_a_generated_picture_has_a_gif_too(generator: Path, tmp_path: Path) -> None:
    edit = EditConfig(direction="pca:0", gif=True, frame_every=10)
    outcome = run(short_config(generator, tmp_path, photo=None, stages=["sample", "edit"], edit=edit))
    assert len(read_gif((outcome.run_dir / "edit.gif").read_bytes())[0]) == 40 // 10 + 2
