"""Loss terms of inversion and tuning, all pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import UsageError
from inversion.perceptual import Perceptual, PreparedTarget

COLOR_GRID_PX = 16


@dataclass(frozen=True, slots=True)
class ReconstructionWeights:
    """Weights of the picture's terms: perceptual distance, pixel MSE, low-frequency colour MSE; 0 leaves one out."""

    perceptual: float = 1.0
    pixel: float = 1.0
    color: float = 1.0

    def __post_init__(self) -> None:
        for name in ("perceptual", "pixel", "color"):
            value = getattr(self, name)
            if not value >= 0:
                raise UsageError(f"weights.{name}={value} is out of range: give a number of at least 0.")
        if self.perceptual + self.pixel + self.color == 0:
            raise UsageError("All of weights.perceptual, weights.pixel and weights.color are 0: raise one of them.")


class ReconstructionLoss:
    """How far images are from one target; the target's features and colours are computed once."""

    def __init__(
        self, target: Tensor, perceptual: Perceptual, weights: ReconstructionWeights, weight_mask: Tensor | None = None
    ) -> None:
        """target [1, 3, R, R] in [-1, 1]; weight_mask [1, 1, R, R] in [0, 1], 0 where the picture does not count."""
        self.target, self.weights, self.perceptual = target, weights, perceptual
        self.mask = None if weight_mask is None or bool((weight_mask == 1).all()) else weight_mask
        self.prepared: PreparedTarget | None = perceptual.prepare(target) if weights.perceptual else None

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Weighted sum of the terms, [N], of images [N, 3, R, R]."""
        if self.mask is not None:
            images = images * self.mask + self.target * (1 - self.mask)
        difference = images - self.target
        total = images.new_zeros(images.shape[0])
        if self.weights.pixel:
            total = total + self.weights.pixel * difference.square().mean(dim=(1, 2, 3))
        if self.weights.color:
            total = total + self.weights.color * low_frequency_mse(difference)
        if self.prepared is not None:
            total = total + self.weights.perceptual * self.perceptual.distance(self.prepared, images, step)
        return total

    @property
    def num_views(self) -> int:
        """Steps after which the perceptual term has seen every view once."""
        return self.perceptual.num_views if self.weights.perceptual else 1


def low_frequency_mse(difference: Tensor) -> Tensor:
    """Mean square of the difference [N, 3, R, R] averaged over a 16 x 16 grid: colour and light, not detail. [N]."""
    side = min(COLOR_GRID_PX, difference.shape[-1])
    return F.adaptive_avg_pool2d(difference, side).square().mean(dim=(1, 2, 3))


def noise_regularizer(maps: Iterable[Tensor]) -> Tensor:
    """Autocorrelation of the noise maps [r, r] at every scale down to 8 px (Karras et al. 2020, app. D)."""
    total = torch.zeros(())
    for noise in maps:
        x = noise[None, None]
        total = total.to(x.device)
        while True:
            total = total + (x * x.roll(1, dims=3)).mean().square() + (x * x.roll(1, dims=2)).mean().square()
            if x.shape[-1] <= 8:
                break
            x = F.avg_pool2d(x, 2)
    return total


def psnr_db(images: Tensor, target: Tensor, weight_mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images, both clamped to [-1, 1], over the masked pixels."""
    error = (images.clamp(-1, 1) - target.clamp(-1, 1)).square().mean(dim=1, keepdim=True)
    mse = float(error.mean() if weight_mask is None else (error * weight_mask).sum() / weight_mask.sum().clamp(min=1))
    return 10.0 * math.log10(4.0 / max(mse, 1e-12))
