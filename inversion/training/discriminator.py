"""Discriminator heads on frozen face features, and a small pixel branch for what those features do not see."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

TAP_SHAPES = ((32, 35), (64, 17), (128, 8), (256, 4))
"""(channels, side) of each tap of the face network for a 150 px input."""
HEAD_CHANNELS = 64
DESCRIPTOR_GAIN = 16.0
PATCH_SIDE = 16
"""Side of the map of patch logits, each for about a quarter of the picture's side."""


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """Append one channel with the mean standard deviation over groups of the batch (Karras et al. 2018, sec. 3)."""
    n, _, h, w = x.shape
    group = group if n % group == 0 else n
    y = x.reshape(group, n // group, *x.shape[1:])
    deviation = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(n, 1, h, w)], dim=1)


class ProjectedHead(nn.Module):
    """Spectrally normalised convolutions on one tap, strided down to a map of logits of about 8 px."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(channels, HEAD_CHANNELS, 1)), nn.LeakyReLU(0.2)]
        while side > 8:
            layers += [spectral_norm(nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 4, 2, 1)), nn.LeakyReLU(0.2)]
            side //= 2
        layers.append(spectral_norm(nn.Conv2d(HEAD_CHANNELS, 1, 3, 1, 1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> logits [N, 1, h', w']."""
        return self.layers(x)


class DescriptorHead(nn.Module):
    """Spectrally normalised critic of the face network's descriptors: who is in the pictures, how varied they are."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.hidden = spectral_norm(nn.Linear(129, width))
        self.out = spectral_norm(nn.Linear(width, 1))

    def forward(self, descriptors: Tensor) -> Tensor:
        """[N, 128] -> logits [N, 1]; the descriptors' spread of about 0.03 a component is brought to about 1."""
        x = minibatch_stddev(descriptors[:, :, None, None] * DESCRIPTOR_GAIN)[:, :, 0, 0]
        return self.out(F.leaky_relu(self.hidden(x), 0.2))


class PixelBranch(nn.Module):
    """Spectrally normalised critic of the picture, whole and by patches: colour, hair, background, borders."""

    def __init__(self, resolution: int, base_channels: int = 32, max_channels: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside, channels, side = 3, base_channels, resolution
        self.near, patch_channels = 0, 3
        if resolution > 64:
            channels = base_channels // 2
        while side > 4:
            layers += [spectral_norm(nn.Conv2d(inside, channels, 4, 2, 1)), nn.LeakyReLU(0.2)]
            if side > PATCH_SIDE:
                self.near, patch_channels = len(layers), channels
            inside, channels, side = channels, min(2 * channels, max_channels), side // 2
        self.trunk = nn.Sequential(*layers)
        self.patch = spectral_norm(nn.Conv2d(patch_channels, 1, 3, 1, 1))
        self.mixer = spectral_norm(nn.Conv2d(inside + 1, max_channels, 3, 1, 1))
        self.out = spectral_norm(nn.Conv2d(max_channels, 1, 4))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, R, R] in [-1, 1] -> logits of patches [N, 1, s, s], s at most 16, and of the whole [N, 1, 1, 1]."""
        x = self.trunk[: self.near](images)
        whole = minibatch_stddev(self.trunk[self.near :](x))
        return self.patch(x), self.out(F.leaky_relu(self.mixer(whole), 0.2))


class ProjectedDiscriminator(nn.Module):
    """Heads on the taps of a frozen `FaceNetwork` plus the pixel branch; the network itself is passed in, not owned."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ProjectedHead(channels, side) for channels, side in TAP_SHAPES)
        self.tight_heads = nn.ModuleList(ProjectedHead(channels, side) for channels, side in TAP_SHAPES)
        self.identity = DescriptorHead()
        self.pixel = PixelBranch(resolution)

    def head_logits(self, taps: list[Tensor], descriptors: Tensor, tight: int) -> list[Tensor]:
        """Logits of every head: the first `tight` images of a batch have heads of their own, as a face that fills the
        picture and one with hair and background round it differ too much to be judged alike; descriptors [N, 128] are
        judged on the others."""
        logits = [head(tap[:tight]) for head, tap in zip(self.tight_heads, taps, strict=True)] if tight else []
        logits += [head(tap[tight:]) for head, tap in zip(self.heads, taps, strict=True)]
        return [*logits, self.identity(descriptors[tight:])]


def r1_penalty(branch: PixelBranch, images: Tensor) -> Tensor:
    """Mean squared gradient of the pixel logits at real images (Mescheder et al. 2018), a scalar with graph."""
    images = images.detach().requires_grad_(True)
    logits = torch.stack([logit.mean(dim=(1, 2, 3)) for logit in branch(images)]).sum()
    (gradient,) = torch.autograd.grad(logits, images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
