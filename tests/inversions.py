"""Short inversions of small generators' own pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inversion.generators.stylegan2 import StyleGAN2
from inversion.losses import ReconstructionWeights, Targets
from inversion.perceptual import FacePerceptual
from inversion.pivotal import Tuned, TuneSettings, tune
from inversion.projector import Inversion, ProjectorSettings, project

PIXELS = ReconstructionWeights(perceptual=0.0, pixel=1.0, color=1.0)
QUICK = ProjectorSettings(steps=12, start_samples=8, w_stats_samples=200, weights=PIXELS)


def seeded(seed: int = 0) -> torch.Generator:
    """A random generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def samples(generator: StyleGAN2, count: int, seed: int) -> Tensor:
    """Pictures [count, 3, R, R] of a generator."""
    return generator.synthesize(generator.map(torch.randn(count, generator.z_dim, generator=seeded(seed))))


def pivot_of(generator: StyleGAN2, target: Tensor, face: FacePerceptual) -> Inversion:
    """A short inversion."""
    return project(generator, Targets(target, face), QUICK, seeded())


def low_rank(generator: StyleGAN2, target: Tensor, face: FacePerceptual, **changed: Any) -> Tuned:
    """A short low-rank tuning of a short inversion."""
    settings = TuneSettings(steps=40, rank=8, lr=3e-3, weights=PIXELS, **changed)
    return tune(generator, Targets(target, face), pivot_of(generator, target, face), settings, seeded())
