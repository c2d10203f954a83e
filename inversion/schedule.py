"""Step sizes and noise levels of the projector as plain functions of progress in [0, 1] (Karras et al. 2020)."""

from __future__ import annotations

import math


def learning_rate(progress: float, peak: float, rampup: float, rampdown: float) -> float:
    """Linear ramp over the first `rampup` of the run, cosine fall over its last `rampdown`."""
    fall = 1.0 if rampdown <= 0 else min(1.0, (1.0 - progress) / rampdown)
    rise = 1.0 if rampup <= 0 else min(1.0, progress / rampup)
    return peak * (0.5 - 0.5 * math.cos(math.pi * fall)) * rise


def latent_noise_std(progress: float, w_std: float, strength: float, until: float) -> float:
    """Standard deviation of the exploration noise added to the latent: quadratic fall to zero at `until`."""
    if until <= 0:
        return 0.0
    return w_std * strength * max(0.0, 1.0 - progress / until) ** 2
