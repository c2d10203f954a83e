"""A linear picture model that ties every z to a coarse picture of its own: a guard against collapse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.generators.protocol import Generator

SIDE_PX = 16


@dataclass(frozen=True, eq=False, slots=True)
class PictureModel:
    """Principal components of coarse photographs: `mean` [3 * 16 * 16], `basis` [K, 3 * 16 * 16] scaled by their
    standard deviations, so that a normal z gives pictures distributed as the photographs (to second order)."""

    mean: Tensor
    basis: Tensor

    def pictures(self, z: Tensor) -> Tensor:
        """The coarse pictures [N, 3, 16, 16] that z [N, z_dim] stand for; components beyond K are free."""
        return (self.mean + z[:, : len(self.basis)] @ self.basis).reshape(-1, 3, SIDE_PX, SIDE_PX)


def coarse(images: Tensor) -> Tensor:
    """Images [N, 3, R, R] averaged to [N, 3, 16, 16]."""
    return F.adaptive_avg_pool2d(images, SIDE_PX)


def fit_picture_model(images: Tensor, z_dim: int) -> PictureModel:
    """Fit to photographs [N, 3, R, R] in [-1, 1] and their mirror images."""
    rows = torch.cat([coarse(images), coarse(images.flip(3))]).flatten(1)
    mean = rows.mean(dim=0)
    _, deviations, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    count = min(z_dim, len(deviations))
    return PictureModel(mean, directions[:count] * (deviations[:count] / (len(rows) - 1) ** 0.5)[:, None])


def anchor_loss(images: Tensor, z: Tensor, model: PictureModel) -> Tensor:
    """Mean square between the coarse version of generated images [N, 3, R, R] and the pictures of their z."""
    return (coarse(images) - model.pictures(z)).square().mean()


@torch.no_grad()
def turned_to(generator: Generator, model: PictureModel, z: Tensor) -> PictureModel:
    """The model with each component's sign as the generator knows it: a sign is arbitrary in every new fit.

    z [N, z_dim] are samples, N some hundreds.
    """
    shown = coarse(generator.synthesize(generator.map(z), "none")).flatten(1) - model.mean
    places = (shown - shown.mean(dim=0)) @ model.basis.t()
    agreement = (places * z[:, : len(model.basis)]).sum(dim=0)
    return PictureModel(model.mean, model.basis * torch.where(agreement < 0, -1.0, 1.0)[:, None])
