"""Frames of an edit to a small GIF that plays where no video does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from pipeline.pictures import preview
from pipeline.video import HANDLE_RGB, TARGET_RGB, VideoError

MAX_FRAMES = 60
MAX_SIDE_PX = 256
HOLD_CS = 80
"""How long the last frame stays before the film begins again, in hundredths of a second."""
LEAST_CS = 2
"""The shortest time of a frame that viewers keep; most take a shorter one for a tenth of a second."""
KEPT_RGB = (HANDLE_RGB, TARGET_RGB, (255, 255, 255), (0, 0, 0))
"""The colours of drawn points, which are too few for a palette of the picture's own colours."""
COLOURS = 256
_PALETTE_SIDE_PX = 128


def gif_bytes(frames: Sequence[np.ndarray], fps: int) -> bytes:
    """An endless GIF of [H, W, 3] uint8 RGB frames of one size that lasts about as long as they do at `fps`.

    At most `MAX_FRAMES` of them, evenly chosen, at most `MAX_SIDE_PX` wide and high, in one palette of the whole film:
    with one for each frame, colours would flicker. Raises VideoError without frames.
    """
    if not frames:
        raise VideoError("The video of the edit cannot be read back for edit.gif: run again with resume=false.")
    shown = chosen(len(frames))
    pictures = [preview(frames[index], MAX_SIDE_PX) for index in shown]
    palette = _palette(pictures)
    drawn = [Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations_ms = [10 * value for value in durations_cs(shown, fps)]
    stream = io.BytesIO()
    drawn[0].save(stream, "GIF", save_all=True, append_images=drawn[1:], duration=durations_ms, loop=0, optimize=False)
    return stream.getvalue()


def chosen(count: int) -> list[int]:
    """At most `MAX_FRAMES` of `count` frames, the first and the last among them."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, MAX_FRAMES)).round()]


def durations_cs(shown: Sequence[int], fps: int) -> list[int]:
    """How long each shown frame stays, in hundredths of a second, a GIF's unit: until the next one is due, rounded."""
    return [*(max(LEAST_CS, round(100 * (after - before) / fps)) for before, after in pairwise(shown)), HOLD_CS]


def _palette(pictures: Sequence[np.ndarray]) -> Image.Image:
    """A palette of all the pictures' colours and those of drawn points."""
    small = np.concatenate([preview(picture, _PALETTE_SIDE_PX) for picture in pictures])
    own = Image.fromarray(small).quantize(COLOURS - len(KEPT_RGB), Image.Quantize.MEDIANCUT).getpalette() or []
    values = own[: 3 * (COLOURS - len(KEPT_RGB))] + [value for colour in KEPT_RGB for value in colour]
    palette = Image.new("P", (1, 1))
    palette.putpalette(values)
    return palette
