"""Statistics of a generator's latent space, and penalties that keep an inversion editable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.generators.protocol import Generator, LatentStats

UNDO_SLOPE = 5.0
"""Inverse of the mapping network's last leaky ReLU of slope 0.2 (Zhu et al. 2020)."""


@torch.no_grad()
def latent_stats(generator: Generator, samples: int, rng: torch.Generator) -> LatentStats:
    """Estimate the statistics from `samples` mapped z drawn from `rng` (unconditional, or uniform random labels)."""
    device = generator.w_avg.device
    parts = []
    for start in range(0, samples, 1000):
        n = min(1000, samples - start)
        z = torch.randn(n, generator.z_dim, generator=rng).to(device)
        parts.append(generator.map(z, random_labels(generator, n, rng))[:, 0])
    w = torch.cat(parts)
    w_avg = w.mean(dim=0)
    w_std = float((w - w_avg).square().sum(dim=1).mean().sqrt())
    x = F.leaky_relu(w, UNDO_SLOPE).double()
    mean = x.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(x.t()) if samples > 1 else torch.eye(x.shape[1], dtype=x.dtype))
    floor = values.max().clamp(min=1e-12) * 1e-4
    whiten = vectors / values.clamp(min=float(floor)).sqrt()
    return LatentStats(w_avg, w_std, mean.to(w.dtype), whiten.to(w.dtype))


def random_labels(generator: Generator, count: int, rng: torch.Generator) -> Tensor | None:
    """One-hot labels [count, c_dim] for a conditional generator, else None."""
    if not generator.c_dim:
        return None
    picks = torch.randint(generator.c_dim, (count,), generator=rng)
    return F.one_hot(picks, generator.c_dim).float().to(generator.w_avg.device)


def pn_penalty(ws: Tensor, stats: LatentStats) -> Tensor:
    """Mean square in the whitened P_N space (Zhu et al. 2020), 1 for a typical latent: ws [N, L, D] -> [N]."""
    return ((F.leaky_relu(ws, UNDO_SLOPE) - stats.pn_mean) @ stats.pn_whiten).square().mean(dim=(1, 2))


def delta_penalty(ws: Tensor, stats: LatentStats) -> Tensor:
    """Spread of the W+ layers around their mean over w_std^2 (Tov et al. 2021, delta loss). ws [N, L, D] -> [N]."""
    spread = (ws - ws.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1)
    return spread / max(stats.w_std, 1e-8) ** 2
