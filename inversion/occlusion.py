"""What covers a face (a hand, a microphone, glare, a hat), found in the errors of a coarse fit.

A latent of W without noise maps draws faces and nothing else, so what covers one stays behind as a blob of error:

1. fit a few dozen steps in W; the error is the blurred absolute difference, relative to the contrast around it, and
   what the target lacks of the fit's contrast, as a disc of skin colour lacks a mouth;
2. measure it in robust deviations (median and MAD, Hampel 1974) over the searched region;
3. take what exceeds `high` and what hangs together with it above `low` (Canny 1986), opened and closed;
4. keep blobs that are large enough, the strongest first, as long as `max_area` of the region is not exceeded.

The projection that follows starts anew: the coarse fit has made a compromise with the cover.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.generators.protocol import Generator, LatentStats
from inversion.latents import latent_stats
from inversion.losses import Counting, ReconstructionWeights, Targets
from inversion.perceptual import Perceptual
from inversion.projector import ProjectorSettings, project

GRID_PX = 64
"""Errors are judged on a grid of this side: covers are larger than its pixels."""
MAD_TO_STD = 1.4826


@dataclass(frozen=True, slots=True)
class OcclusionSettings:
    """What counts as a cover; lengths are fractions of the picture's side, areas of the searched region.

    steps: of the coarse fit. blur: of the error. contrast: how much the contrast around a pixel excuses
    its error; lack: how much contrast counts that the fit has and the target lacks. low, high: the thresholds in robust
    deviations; least_spread: the least deviation, so that a fit that is good everywhere is not searched for its worst.
    open, close: radii that thin lines and gaps have. min_area: the least blob. max_area: the most that is ever masked.
    grow: by which the found blobs are widened and softened. around: how far beyond the face it is searched.
    """

    steps: int = 48
    blur: float = 0.016
    contrast: float = 5.0
    lack: float = 3.0
    low: float = 3.0
    high: float = 6.0
    least_spread: float = 0.01
    open: float = 0.016
    close: float = 0.03
    min_area: float = 0.015
    max_area: float = 0.5
    grow: float = 0.02
    around: float = 0.06


def find_covers(
    generator: Generator,
    target: Tensor,
    perceptual: Perceptual,
    rng: torch.Generator,
    counted: Tensor,
    face: Tensor | None = None,
    stats: LatentStats | None = None,
    settings: OcclusionSettings | None = None,
) -> Tensor:
    """[1, 1, R, R] in [0, 1], 0 where something covers what the generator draws of target [1, 3, R, R] in [-1, 1].

    counted [1, 1, R, R]: where the target counts at all. face, of that shape: where the face is; covers are looked for
    there and a little around it, without it everywhere.
    """
    settings = settings or OcclusionSettings()
    where = counted if face is None else counted * _dilated(face > 0.5, settings.around).to(counted)
    coarse = ProjectorSettings(
        space="w",
        steps=settings.steps,
        lr=0.05,
        start="samples",
        optimize_noise=False,
        weights=ReconstructionWeights(pixel=10.0),
        p_norm_weight=0.005,
        coarse_until=0.0,
    )
    stats = stats or latent_stats(generator, coarse.w_stats_samples, rng)
    fit = project(generator, Targets(target, perceptual, Counting(counted)), coarse, rng, stats=stats)
    return occlusion_mask(fit.image, target, where, settings)


def occlusion_mask(image: Tensor, target: Tensor, where: Tensor, settings: OcclusionSettings | None = None) -> Tensor:
    """[1, 1, R, R] in [0, 1], 0 where the target shows what the coarse fit `image` cannot draw.

    image, target [1, 3, R, R] in [-1, 1]; where [1, 1, R, R] in [0, 1]: the region that is searched, as the face.
    """
    settings = settings or OcclusionSettings()
    side = target.shape[-1]
    grid = [F.interpolate(x, size=(GRID_PX, GRID_PX), mode="area") if side != GRID_PX else x for x in (image, target)]
    searched = F.interpolate(where, size=(GRID_PX, GRID_PX), mode="area") > 0.5
    if not searched.any():
        return torch.ones_like(where)
    scores = robust_scores(relative_error(grid[0], grid[1], settings), searched, settings.least_spread)
    found = hysteresis(scores, settings.low, settings.high) & searched
    found = _closed(_opened(found, settings.open), settings.close) & searched
    kept = convincing(found, scores, searched, settings.min_area, settings.max_area)
    covered = _blurred(_dilated(kept, settings.grow).to(target), settings.grow)
    return 1 - F.interpolate(covered, size=(side, side), mode="bilinear", align_corners=False).clamp(0, 1)


def relative_error(image: Tensor, target: Tensor, settings: OcclusionSettings) -> Tensor:
    """[1, 1, g, g] of at least 0: |image - target| / (1 + contrast of both), and the contrast that the target lacks.

    A coarse fit misses edges everywhere, which their contrast excuses; and it is smoother than a photo, so a place that
    is smoother than the fit shows something else than a face.
    """
    image = image.clamp(-1, 1)
    error = _blurred((image - target).abs().mean(dim=1, keepdim=True), settings.blur)
    near = [_blurred(_gradient(x), settings.blur) for x in (image, target)]
    wide = [_blurred(_gradient(x), 1.5 * settings.blur) for x in (image, target)]
    return error / (1 + settings.contrast * (near[0] + near[1])) + settings.lack * (wide[0] - wide[1]).clamp(min=0)


def robust_scores(error: Tensor, where: Tensor, least_spread: float = 0.0) -> Tensor:
    """How many robust deviations the error lies above its median over `where` (bool), of its shape."""
    values = error[where]
    median = values.median()
    spread = MAD_TO_STD * (values - median).abs().median()
    return (error - median) / spread.clamp(min=least_spread)


def hysteresis(scores: Tensor, low: float, high: float) -> Tensor:
    """bool: what exceeds `low` and hangs together, over corners too, with something that exceeds `high`."""
    weak, found = scores > low, scores > high
    while True:
        wider = _dilated_px(found, 1) & weak
        if torch.equal(wider, found):
            return found
        found = wider


def convincing(found: Tensor, scores: Tensor, searched: Tensor, min_area: float, max_area: float) -> Tensor:
    """bool: the blobs of `found` that have `min_area` of the searched region, by their summed scores, up to
    `max_area` in all."""
    kept, total = torch.zeros_like(found), int(searched.sum())
    blobs = [blob for blob in blobs_of(found) if int(blob.sum()) >= min_area * total]
    for blob in sorted(blobs, key=lambda blob: -float(scores[blob].sum())):
        if int((kept | blob).sum()) <= max_area * total:
            kept = kept | blob
    return kept


def blobs_of(found: Tensor) -> list[Tensor]:
    """The parts of a bool mask [1, 1, g, g] that hang together, over corners too, each a mask of its own."""
    names = torch.arange(1, found.numel() + 1, dtype=torch.float32, device=found.device).reshape(found.shape) * found
    while True:
        wider = F.max_pool2d(names, 3, 1, 1) * found
        if torch.equal(wider, names):
            break
        names = wider
    return [names == name for name in names.unique().tolist() if name > 0]


def _gradient(x: Tensor) -> Tensor:
    """[N, 1, g, g]: mean absolute difference to the right and lower neighbours."""
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    right, below = (padded[..., :-1, 1:] - x).abs(), (padded[..., 1:, :-1] - x).abs()
    return (right + below).mean(dim=1, keepdim=True) / 2


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [N, 1, g, g], sigma as a fraction of the side, the border repeated."""
    std = sigma * x.shape[-1]
    radius = max(1, round(3 * std))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / std) ** 2).to(x)
    taps = taps / taps.sum()
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), taps[None, None, None, :])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), taps[None, None, :, None])


def _dilated_px(mask: Tensor, radius_px: int) -> Tensor:
    return F.max_pool2d(mask.float(), 2 * radius_px + 1, 1, radius_px) > 0.5


def _eroded_px(mask: Tensor, radius_px: int) -> Tensor:
    return ~_dilated_px(~mask, radius_px)


def _dilated(mask: Tensor, radius: float) -> Tensor:
    return _dilated_px(mask, round(radius * mask.shape[-1]))


def _opened(mask: Tensor, radius: float) -> Tensor:
    pixels = round(radius * mask.shape[-1])
    return _dilated_px(_eroded_px(mask, pixels), pixels)


def _closed(mask: Tensor, radius: float) -> Tensor:
    pixels = round(radius * mask.shape[-1])
    return _eroded_px(_dilated_px(mask, pixels), pixels)
