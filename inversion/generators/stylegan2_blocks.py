"""StyleGAN2's configuration and synthesis network (Karras et al. 2020), block by block.

Modulation scales activations instead of building one kernel per sample: the same arithmetic, but frozen weights need no
gradient and a batch shares one convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ModelError
from inversion.generators.layers import (
    LRELU_SLOPE,
    MAX_WIDTH,
    SQRT2,
    EqualizedLinear,
    blur,
    check_counts,
    fir_kernel,
    modulated_conv,
    upsample_fir,
)
from inversion.generators.protocol import NoiseMode

MAX_RESOLUTION = 4096
Architecture = Literal["skip", "resnet", "orig"]


@dataclass(frozen=True, slots=True)
class StyleGAN2Config:
    """Shape of a StyleGAN2 generator; the names are those of the published constructors.

    `channel_base / r` channels at resolution r, at most `channel_max`, unless `block_channels` lists those of each
    block; `conv_clamp` None or a bound on activations. Pictures are `resolution` high and `start_width / 4` times as
    wide (StyleGAN-Human: 2).
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    conv_clamp: float | None = 256.0
    architecture: Architecture = "skip"
    img_channels: int = 3
    block_channels: tuple[int, ...] = ()
    start_width: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_channels", tuple(self.block_channels))
        r = self.resolution
        if type(r) is not int or r < 8 or r > MAX_RESOLUTION or r & (r - 1):
            raise ModelError(
                f"A StyleGAN2 generator of resolution {r} cannot be built: use a power of two, 8 to {MAX_RESOLUTION}."
            )
        if self.architecture not in ("skip", "resnet", "orig"):
            raise ModelError(f"StyleGAN2 architecture '{self.architecture}' is unknown: use skip, resnet or orig.")
        check_counts(
            {
                "z_dim": (self.z_dim, 1, MAX_WIDTH),
                "w_dim": (self.w_dim, 1, MAX_WIDTH),
                "c_dim": (self.c_dim, 0, MAX_WIDTH),
                "mapping_layers": (self.mapping_layers, 1, 64),
                "img_channels": (self.img_channels, 1, 16),
                "start_width": (self.start_width, 1, 16),
            }
            | {f"channels at {r} px": (self.channels(r), 1, MAX_WIDTH) for r in self.block_resolutions}
        )

    @property
    def block_resolutions(self) -> list[int]:
        """[4, 8, ..., resolution]."""
        return [2**i for i in range(2, int(math.log2(self.resolution)) + 1)]

    def channels(self, resolution: int) -> int:
        """Feature channels at one resolution."""
        if self.block_channels:
            return dict(zip(self.block_resolutions, self.block_channels, strict=False)).get(resolution, 0)
        return min(self.channel_base // resolution, self.channel_max)

    def width(self, resolution: int) -> int:
        """Width in pixels of a block that is `resolution` high."""
        return resolution * self.start_width // 4


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; doubles the resolution if `up`."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, in_ch: int, out_ch: int, w_dim: int, size: tuple[int, int], up: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = EqualizedLinear(w_dim, in_ch, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_ch, in_ch, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_ch))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(*size))
        self.register_buffer("resample_filter", fir_kernel())

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, gain: float = 1.0, padded: bool = True) -> Tensor:
        """x [N, I, h, w] (halved if up), w [N, w_dim], noise broadcastable to [N, 1, h, w] or None -> [N, O, h, w].

        Not `padded`, x has a margin: one pixel a side of [h, w], or of its half if up.
        """
        x = modulated_conv(x, self.weight, self.affine(w), demodulate=True, up=self.up, padded=padded)
        if self.up:
            x = blur(x, self.resample_filter, gain=4.0, padding=int(padded))
        if noise is not None:
            x = x + (noise * self.noise_strength).to(x.dtype)
        x = F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], LRELU_SLOPE) * (SQRT2 * gain)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)

    def pick_noise(
        self, x: Tensor, mode: NoiseMode, given: Tensor | None, rng: torch.Generator | None
    ) -> Tensor | None:
        """The noise for this pass: the given map, the registered one, a fresh draw, or none."""
        if mode == "none":
            return None
        if given is not None:
            return given
        if mode == "const":
            return self.noise_const
        return torch.randn(x.shape[0], 1, *self.noise_const.shape, generator=rng, device=x.device)


class ToRGB(nn.Module):
    """1x1 modulated convolution to colour, without demodulation."""

    def __init__(self, in_ch: int, img_channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = EqualizedLinear(w_dim, in_ch, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_ch, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1.0 / math.sqrt(in_ch)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, I, r, r], w [N, w_dim] -> [N, img_channels, r, r]."""
        y = modulated_conv(x, self.weight, self.affine(w) * self.weight_gain, demodulate=False, up=False)
        y = y + self.bias[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class ResidualSkip(nn.Module):
    """1x1 convolution and FIR upsampling of the resnet architecture's shortcut."""

    resample_filter: Tensor

    def __init__(self, in_ch: int, out_ch: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_ch, in_ch, 1, 1))
        self.weight_gain = 1.0 / math.sqrt(in_ch)
        self.register_buffer("resample_filter", fir_kernel())

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, r, r] -> [N, O, 2r, 2r], scaled by sqrt(1/2) as the sum of two branches asks."""
        y = F.conv2d(x, self.weight * self.weight_gain)
        return upsample_fir(y, self.resample_filter * 4.0) * math.sqrt(0.5)


class SynthesisBlock(nn.Module):
    """One resolution of the synthesis network."""

    resample_filter: Tensor

    def __init__(self, cfg: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        self.resolution, self.architecture, self.is_first = resolution, cfg.architecture, resolution == 4
        out_ch, size = cfg.channels(resolution), (resolution, cfg.width(resolution))
        self.register_buffer("resample_filter", fir_kernel())
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_ch, *size))
        else:
            in_ch = cfg.channels(resolution // 2)
            self.conv0 = SynthesisLayer(in_ch, out_ch, cfg.w_dim, size, True, cfg.conv_clamp)
        self.conv1 = SynthesisLayer(out_ch, out_ch, cfg.w_dim, size, False, cfg.conv_clamp)
        self.num_conv = 1 if self.is_first else 2
        self.has_rgb = resolution == cfg.resolution or cfg.architecture == "skip"
        if self.has_rgb:
            self.torgb = ToRGB(out_ch, cfg.img_channels, cfg.w_dim, cfg.conv_clamp)
        if not self.is_first and cfg.architecture == "resnet":
            self.skip = ResidualSkip(in_ch, out_ch)

    def layers(self) -> list[tuple[str, SynthesisLayer]]:
        """The block's modulated layers by name, in order."""
        return [("conv1", self.conv1)] if self.is_first else [("conv0", self.conv0), ("conv1", self.conv1)]

    def run_layers(self, x: Tensor | None, ws: Tensor, noises: list[Tensor | None], first_only: bool = False) -> Tensor:
        """Features of this block from those of the one before; ws [N, num_conv, w_dim], one noise a layer.

        `first_only` ends behind conv0, the layer that doubles the resolution.
        """
        if self.is_first:
            start = self.const[None].expand(ws.shape[0], -1, -1, -1)
            return self.conv1(start, ws[:, 0], noises[0])
        assert x is not None
        middle = self.conv0(x, ws[:, 0], noises[0])
        if first_only:
            return middle
        if self.architecture != "resnet":
            return self.conv1(middle, ws[:, 1], noises[1])
        return self.skip(x) + self.conv1(middle, ws[:, 1], noises[1], gain=math.sqrt(0.5))

    def add_rgb(self, x: Tensor, image: Tensor | None, w: Tensor) -> Tensor | None:
        """The running image of the skip architecture (or the last block's colour), [N, 3, r, r].

        Colours stay float32 under autocast: 8 bits of mantissa would band them.
        """
        with torch.autocast(x.device.type, enabled=False):
            if image is not None:
                image = upsample_fir(image, self.resample_filter * 4.0)
            if not self.has_rgb:
                return image
            rgb = self.torgb(x.to(w.dtype), w)
            return rgb if image is None else image + rgb


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> image, block by block."""

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__()
        self.block_resolutions = cfg.block_resolutions
        for resolution in self.block_resolutions:
            self.add_module(f"b{resolution}", SynthesisBlock(cfg, resolution))

    def block(self, resolution: int) -> SynthesisBlock:
        """The block of one resolution."""
        module = self.get_submodule(f"b{resolution}")
        assert isinstance(module, SynthesisBlock)
        return module
