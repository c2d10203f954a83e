"""A generator of another family: coordinates in, colours out, styles by channel-wise gates; nothing of StyleGAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inversion.generators.families import Family
from inversion.generators.protocol import FeatureLayer, NoiseMode


@dataclass(frozen=True, slots=True)
class WaveConfig:
    """`levels` grids from 8 px up, each twice as fine as the one before."""

    levels: int = 3
    width: int = 12
    w_dim: int = 8

    @property
    def resolution(self) -> int:
        return 8 << (self.levels - 1)


class WaveSynthesis(nn.Module):
    def __init__(self, cfg: WaveConfig) -> None:
        super().__init__()
        self.waves = nn.Parameter(torch.randn(cfg.width, 2) * 3.0)
        self.gates = nn.ModuleList(nn.Linear(cfg.w_dim, cfg.width) for _ in range(cfg.levels))
        self.mixes = nn.ModuleList(nn.Conv2d(cfg.width, cfg.width, 3, padding=1) for _ in range(cfg.levels))
        self.colour = nn.Conv2d(cfg.width, 3, 1)


class Wave(nn.Module):
    """Sine waves over the picture, gated and mixed at ever finer grids; one latent a level."""

    def __init__(self, cfg: WaveConfig) -> None:
        super().__init__()
        self.config = cfg
        self.resolution, self.image_size = cfg.resolution, (cfg.resolution, cfg.resolution)
        self.num_ws, self.z_dim, self.w_dim, self.c_dim = cfg.levels, cfg.w_dim, cfg.w_dim, 0
        self.block_resolutions = [8 << i for i in range(cfg.levels)]
        self.mapping = nn.Sequential(nn.Linear(cfg.w_dim, cfg.w_dim), nn.Tanh())
        self.mapping.register_buffer("w_avg", torch.zeros(cfg.w_dim))
        self.synthesis = WaveSynthesis(cfg)

    @property
    def w_avg(self) -> Tensor:
        return self.mapping.get_buffer("w_avg")

    def map(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        w = self.w_avg + truncation_psi * (self.mapping(z) - self.w_avg)
        return w[:, None].repeat(1, self.num_ws, 1)

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        width = self.config.width
        return tuple(FeatureLayer(f"grid{r}", width, r, r, i + 1) for i, r in enumerate(self.block_resolutions))

    def ws_used_by(self, at: int | str) -> int:
        return next(layer.num_ws for layer in self.feature_layers if at in (layer.name, layer.height))

    def features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        axis = (torch.arange(8, dtype=ws.dtype) + 0.5) / 4 - 1
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
        x = torch.sin(torch.einsum("cd,dhw->chw", self.synthesis.waves.to(ws), grid))[None].expand(len(ws), -1, -1, -1)
        for level in range(self.ws_used_by(at)):
            if level:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            gate = torch.sigmoid(self.synthesis.gates[level](ws[:, level])) * 2
            x = x + torch.sin(self.synthesis.mixes[level](x * gate[:, :, None, None]) * 2)
        return x

    def synthesize_with_features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.synthesize(ws), self.features(ws, at)

    def synthesize(
        self, ws: Tensor, noise_mode: NoiseMode = "const", noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        return torch.tanh(self.synthesis.colour(self.features(ws, self.resolution)))

    def noise_maps(self) -> dict[str, Tensor]:
        return {}


WAVE = Family("wave", WaveConfig, Wave)
