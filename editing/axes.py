"""The natural axes of a generator's latents: directions and spreads measured on mapped samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inversion.generators.frozen import is_frozen, once, states_of
from inversion.generators.protocol import Generator

SAMPLES = 2048
SEED = 0  # the statistics belong to the generator, so every drag on it must see the same ones


@dataclass(frozen=True, eq=False, slots=True)
class LatentAxes:
    """Rows of basis [D, D] are principal directions of W, each as long as the samples' standard deviation along it."""

    basis: Tensor

    def move(self, code: Tensor) -> Tensor:
        """The move in W [..., D] of a code [..., D] in standard deviations along the axes."""
        return code @ self.basis


def latent_axes(generator: Generator, like: Tensor, samples: int = SAMPLES) -> LatentAxes:
    """Principal axes of mapped latents (w of normal z; labels all zero), in the dtype and on the device of `like`.

    Of a frozen mapping network they are measured once and kept while it lives unchanged: at 512 dimensions they take as
    long as some steps of a drag.
    """
    mapping = getattr(generator, "mapping", None)
    weights = list(mapping.parameters()) if isinstance(mapping, nn.Module) else []
    if not weights or not all(is_frozen(weight) for weight in weights):
        return _measured(generator, like, samples)
    name = f"axes of {samples}, {like.dtype}, {like.device}, {states_of(mapping)}"
    return once(weights[0], name, lambda: _measured(generator, like, samples))


def _measured(generator: Generator, like: Tensor, samples: int) -> LatentAxes:
    """The axes of so many samples, whatever was kept."""
    rng = torch.Generator().manual_seed(SEED)
    z = torch.randn(samples, generator.z_dim, generator=rng).to(like)
    labels = like.new_zeros(samples, generator.c_dim) if generator.c_dim else None
    with torch.no_grad():
        w = generator.map(z, labels)[:, 0].double()
    centred = w - w.mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.t() @ centred / max(samples - 1, 1))
    basis = directions * variances.clamp_min(0).sqrt()
    return LatentAxes(basis.t().to(like))
