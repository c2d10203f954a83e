"""Figures of a generator under training: Frechet distance of face descriptors."""

from __future__ import annotations

import torch
from torch import Tensor

from inversion.identity import FaceNetwork, resize_to_chip


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance (Heusel et al. 2017) of Gaussians fitted to descriptor sets [N, D] and [M, D]."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.t()), torch.cov(b.t())
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.t()
    middle = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * middle)


@torch.no_grad()
def descriptors(network: FaceNetwork, images: Tensor, batch: int = 32) -> Tensor:
    """Face descriptors [N, 128] of images [N, 3, R, R] in [-1, 1], in batches."""
    return torch.cat([network.descriptor(resize_to_chip(images[i : i + batch])) for i in range(0, len(images), batch)])
