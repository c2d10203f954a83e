"""Frames of a drag to an MP4 file that browsers play."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from data.errors import PhotodragError

MIN_SIDE_PX = 256
MOST_BEFORE = 120
"""Frames of what was before the last edit of a row: with all of them, each further edit would take longer to store."""
# VP9 first: every Chromium, Firefox and recent Safari plays it inside MP4, and the FFmpeg inside OpenCV's wheels can
# write it; H.264 needs a system encoder; MPEG-4 part 2 is the last resort, for desktop players only.
CODECS = ("vp09", "avc1", "mp4v")
HANDLE_RGB = (230, 57, 70)
TARGET_RGB = (29, 112, 236)
_SUBPIXEL_BITS = 4


class VideoError(PhotodragError):
    """No codec of this OpenCV can write the video, or its file cannot be written."""


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> str:
    """Write [H, W, 3] uint8 RGB frames of one size as MP4 and return the codec that was used.

    Odd sides get one more row or column (a copy of the last), because the codecs store colour at half resolution.
    Raises VideoError when there is no frame, no codec works or the file cannot be written whole.
    """
    if not _opencv_takes(path):
        with tempfile.TemporaryDirectory(prefix="photodrag-video-") as folder:
            plain = Path(folder) / "video.mp4"
            codec = write_video(plain, frames, fps)
            try:
                shutil.copyfile(plain, path)
            except OSError as error:
                raise VideoError(
                    f"The video {path} cannot be written ({error.strerror}): give another out=DIR."
                ) from error
            return codec
    count = 1
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise VideoError(f"No frames for the video {path}: lower edit.frame_every or raise edit.steps.")
    height, width = _even_sides(first).shape[:2]
    writer, codec = _open_writer(path, fps, (width, height))
    try:
        writer.write(_bgr(first))
        for frame in pictures:
            assert frame.shape == first.shape, f"frame {frame.shape} in a video of {first.shape}"
            writer.write(_bgr(frame))
            count += 1
    finally:
        writer.release()
    if _frame_count(path) != count:  # OpenCV says nothing when a write fails
        raise VideoError(f"The video {path} could not be written whole: free some space on its disk and try again.")
    return codec


def video_bytes(frames: Iterable[np.ndarray], fps: int) -> bytes:
    """An MP4 file of [H, W, 3] uint8 RGB frames of one size; raises VideoError as `write_video` does."""
    with tempfile.TemporaryDirectory(prefix="photodrag-video-") as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames, fps)
        return path.read_bytes()


def _frame_count(path: Path) -> int:
    """Frames that a video file says it holds; 0 when it is no video."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()


def _opencv_takes(path: Path) -> bool:
    """Whether OpenCV can be given a path: one with a name that is no Unicode ends the whole process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_video(path: Path) -> list[np.ndarray]:
    """All frames of a video file as [H, W, 3] uint8 RGB; empty when it cannot be decoded."""
    if not _opencv_takes(path):
        with tempfile.TemporaryDirectory(prefix="photodrag-video-") as folder:
            return read_video(Path(shutil.copyfile(path, Path(folder) / "video.mp4")))
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    try:
        while (answer := capture.read())[0]:
            frames.append(np.ascontiguousarray(answer[1][:, :, ::-1]))
    finally:
        capture.release()
    return frames


def thinned(frames: list[np.ndarray], most: int = MOST_BEFORE) -> list[np.ndarray]:
    """At most so many frames of a film, evenly spread, its first and last among them."""
    if len(frames) <= most:
        return frames
    return [frames[number] for number in np.linspace(0, len(frames) - 1, most).round().astype(int)]


def drag_frames(
    frames: Sequence[np.ndarray], handles: np.ndarray, targets: np.ndarray, min_side_px: int = MIN_SIDE_PX
) -> list[np.ndarray]:
    """Frames of a drag enlarged for watching, with its points drawn in.

    frames: T pictures [R, R, 3] uint8 RGB. handles: [T, N, 2] float (x, y), the handles in crop pixels at each frame;
    targets: [N, 2]. Returns T pictures of at least `min_side_px`: a red dot at each handle, a blue dot at its target, a
    white line between the two.
    """
    assert len(handles) == len(frames), f"{len(handles)} handle positions for {len(frames)} frames"
    return [_drag_frame(frame, points, targets, min_side_px) for frame, points in zip(frames, handles, strict=True)]


def _drag_frame(frame: np.ndarray, handles: np.ndarray, targets: np.ndarray, min_side_px: int) -> np.ndarray:
    scale = max(1, -(-min_side_px // min(frame.shape[:2])))
    picture = np.ascontiguousarray(frame)
    if scale > 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    draw_drag(picture, enlarge_points(handles, scale), enlarge_points(targets, scale))
    return picture


def draw_drag(picture: np.ndarray, handles: np.ndarray, targets: np.ndarray) -> None:
    """Draw handles and targets [N, 2] (x, y), in the picture's pixels, into it [H, W, 3] uint8 RGB, in place."""
    radius = max(3, min(picture.shape[:2]) // 90)
    for handle, target in zip(handles, targets, strict=True):
        _line(picture, handle, target, radius)
        _dot(picture, target, radius, TARGET_RGB)
        _dot(picture, handle, radius, HANDLE_RGB)


def enlarge_points(points: np.ndarray, scale: float) -> np.ndarray:
    """Points [N, 2] (x, y) of a picture in the picture enlarged by `scale`; pixel centres are at integers in both."""
    return (np.asarray(points, dtype=np.float64) + 0.5) * scale - 0.5


def _fixed_point(point: np.ndarray) -> tuple[int, int]:
    x, y = (round(float(value) * (1 << _SUBPIXEL_BITS)) for value in point)
    return x, y


def _line(picture: np.ndarray, start: np.ndarray, end: np.ndarray, radius: int) -> None:
    ends = _fixed_point(start), _fixed_point(end)
    for colour, thickness in (((0, 0, 0), max(3, radius)), ((255, 255, 255), max(1, radius // 2))):
        cv2.line(picture, *ends, colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _dot(picture: np.ndarray, centre: np.ndarray, radius: int, colour: tuple[int, int, int]) -> None:
    for ring, fill in ((radius + 1, (255, 255, 255)), (radius, colour)):
        cv2.circle(picture, _fixed_point(centre), ring << _SUBPIXEL_BITS, fill, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _even_sides(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _bgr(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(_even_sides(frame)[:, :, ::-1])


def _open_writer(path: Path, fps: int, size: tuple[int, int]) -> tuple[cv2.VideoWriter, str]:
    folder = path.parent
    if not os.access(folder, os.W_OK):
        raise VideoError(f"Cannot write the video {path}: choose a folder that you may write to with out=DIR.")
    for codec in CODECS:
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), float(fps), size)
        if writer.isOpened():
            return writer, codec
        writer.release()
    raise VideoError(
        f"OpenCV on this machine writes none of the video codecs {', '.join(CODECS)}: install the wheel that carries "
        "its own FFmpeg with `pip install --force-reinstall opencv-python`."
    )
