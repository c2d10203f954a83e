"""Differentiable augmentation of real and generated images alike (Zhao et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

TIGHT_WINDOW = (0.66, 0.22)
"""Side of the brows-to-chin window as a share of an FFHQ-aligned crop, and its centre's height below the crop's, in
half crop sides."""


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """Largest change of each kind; each image draws uniformly below it. Fractions of the side, degrees, factors.

    `tight_share` of a batch, its first images, is seen through `TIGHT_WINDOW` by the face network, which so gets eyes
    and mouth at a higher resolution; the pixel branch always sees the whole crop.
    """

    shift: float = 0.10
    zoom: float = 0.04
    rotate_deg: float = 2.0
    tight_share: float = 0.5
    brightness: float = 0.1
    contrast: float = 0.15
    saturation: float = 0.15


@dataclass(frozen=True, eq=False, slots=True)
class AugmentDraw:
    """One draw for a batch: inverse affine maps [N, 2, 3] of normalised coordinates and colour factors [N]."""

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


def draw_augment(batch: int, settings: AugmentSettings, rng: torch.Generator, device: torch.device) -> AugmentDraw:
    """Draw the augmentation of a batch from `rng` (a CPU generator)."""

    def uniform(limit: float) -> Tensor:
        return ((torch.rand(batch, generator=rng) * 2 - 1) * limit).to(device)

    angle = torch.deg2rad(uniform(settings.rotate_deg))
    scale = 1.0 + uniform(settings.zoom)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cos, -sin, 2 * uniform(settings.shift)], 1),
        torch.stack([sin, cos, 2 * uniform(settings.shift)], 1),
    ]
    return AugmentDraw(
        torch.stack(rows, 1),
        uniform(settings.brightness),
        1.0 + uniform(settings.contrast),
        1.0 + uniform(settings.saturation),
    )


def tightened(draw: AugmentDraw, share: float) -> AugmentDraw:
    """The same draw with the first `share` of the batch zoomed to `TIGHT_WINDOW`."""
    side, below = TIGHT_WINDOW
    theta = draw.theta.clone()
    count = round(share * len(theta))
    theta[:count] *= side
    theta[:count, 1, 2] += below
    return replace(draw, theta=theta)


def augment(images: Tensor, draw: AugmentDraw, size_px: int) -> Tensor:
    """Warp [N, 3, R, R] into [N, 3, size, size] (reflected at the border) and shift its colours."""
    n = images.shape[0]
    grid = F.affine_grid(draw.theta, [n, 3, size_px, size_px], align_corners=False)
    x = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    column = (slice(None), None, None, None)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * draw.saturation[column]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * draw.contrast[column] + draw.brightness[column]
