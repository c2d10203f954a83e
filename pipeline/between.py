"""The way between the faces that share a tuning, drawn by their generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from inversion.generators.protocol import Generator
from inversion.projector import Inversion
from pipeline.frames import MAX_FRAME_SIDE_PX
from pipeline.pictures import enlarged, image_u8, preview

LEG_FRAMES = 24
"""Frames from one pivot to the next; at `BETWEEN_FPS` that is one second."""
BETWEEN_FPS = 24


def between_frames(tuned: Generator, pivots: Sequence[Inversion], leg_frames: int = LEG_FRAMES) -> Iterator[np.ndarray]:
    """Pictures [R, R, 3] uint8 RGB from pivot to pivot and back to the first: len(pivots) * leg_frames + 1.

    Latents are mixed linearly in W+, with a smooth start and end of each leg. Pictures above 512 px are shrunk.
    """
    for start, end in zip(pivots, [*pivots[1:], pivots[0]], strict=True):
        for number in range(leg_frames):
            yield _drawn(tuned, start, end, smooth_step(number / leg_frames))
    yield _drawn(tuned, pivots[0], pivots[0], 0.0)


def smooth_step(part: float) -> float:
    """3 t^2 - 2 t^3: from 0 to 1 with no speed at both ends."""
    return part * part * (3 - 2 * part)


@torch.no_grad()
def _drawn(tuned: Generator, start: Inversion, end: Inversion, part: float) -> np.ndarray:
    w = start.w + (end.w - start.w) * part
    image = tuned.synthesize(w, "const", mixed_noise(start.noise, end.noise, part))
    return enlarged(preview(image_u8(image), MAX_FRAME_SIDE_PX))


def mixed_noise(start: Mapping[str, Tensor], end: Mapping[str, Tensor], part: float) -> dict[str, Tensor]:
    """Noise maps [r, r] on the way; a mixture of two is weaker than both, so mean and deviation are mixed instead."""
    return {name: _mixed(value, end[name], part) for name, value in start.items()} if part else dict(start)


def _mixed(start: Tensor, end: Tensor, part: float) -> Tensor:
    mixed = start + (end - start) * part
    mean, deviation = (a + (b - a) * part for a, b in ((start.mean(), end.mean()), (start.std(), end.std())))
    return (mixed - mixed.mean()) * (deviation / mixed.std().clamp(min=1e-8)) + mean
