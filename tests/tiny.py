"""Tiny real generators for the tests."""

from __future__ import annotations

import torch

from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config


def tiny_generator(
    resolution: int = 32,
    channels: int = 16,
    w_dim: int = 32,
    seed: int = 0,
    c_dim: int = 0,
    architecture: str = "skip",
) -> StyleGAN2:
    """A frozen random-weight StyleGAN2 whose noise is switched on and whose pictures span about [-1, 1]."""
    torch.manual_seed(seed)
    config = StyleGAN2Config(
        resolution=resolution,
        z_dim=w_dim,
        w_dim=w_dim,
        c_dim=c_dim,
        channel_base=channels * resolution,
        channel_max=channels,
        mapping_layers=2,
        architecture=architecture,  # type: ignore[arg-type]
    )
    generator = StyleGAN2(config).eval().requires_grad_(False)
    with torch.no_grad():
        for resolution_px in generator.block_resolutions:
            for _, layer in generator.synthesis.block(resolution_px).layers():
                layer.noise_strength.fill_(0.02)
        z = torch.randn(256, generator.z_dim)
        c = torch.eye(c_dim)[torch.randint(c_dim, (256,))] if c_dim else None
        ws = generator.map(z, c)
        generator.mapping.w_avg.copy_(ws[:, 0].mean(dim=0))
        scale = float(generator.synthesize(ws[:8]).std()) * 3
        for resolution_px in generator.block_resolutions:
            block = generator.synthesis.block(resolution_px)
            if block.has_rgb:
                block.torgb.weight.div_(scale)
    return generator
