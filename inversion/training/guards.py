"""Statistics of a batch that generated pictures must share with photographs: guards against collapse and meshes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def spread_statistics(images: Tensor, taps: list[Tensor]) -> Tensor:
    """Standard deviations over the batch of pooled features and of the 8 px picture, one vector."""
    parts = [F.adaptive_avg_pool2d(tap, 2).flatten(1).float() for tap in taps[1:]]
    parts.append(F.adaptive_avg_pool2d(images, 8).flatten(1))
    return torch.cat([(p.var(dim=0) + 1e-6).sqrt() for p in parts])


def spread_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """How far the spread of a generated batch falls short of the photographs' (a guard against collapse)."""
    return (F.relu(wanted - found) / (wanted + 1e-3)).mean()


def log_spectrum(images: Tensor) -> Tensor:
    """Logarithm of the mean power spectrum of [N, 3, R, R], windowed: brightness and two colour differences,
    [3, R, R // 2 + 1]."""
    red, green, blue = images.float().unbind(dim=1)
    planes = torch.stack([(red + green + blue) / 3, red - green, blue - (red + green) / 2], dim=1)
    window = torch.hann_window(images.shape[-1], device=images.device)
    return (torch.fft.rfft2(planes * window * window[:, None]).abs().square().mean(dim=0) + 1e-3).log()


def spectrum_loss(images: Tensor, wanted: Tensor) -> Tensor:
    """How far generated pictures have more power than photographs at any frequency: meshes and colour fringes, which
    discriminators that stride over the picture do not see."""
    return F.relu(log_spectrum(images) - wanted).square().mean()
