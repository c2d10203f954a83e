"""StyleGAN2 (Karras et al. 2020) in plain PyTorch: any resolution, no compiled operators.

State-dict names follow the published checkpoints (`mapping.fc0.weight`, `synthesis.b8.conv0.affine.bias`, ...), so
weights copied from them give their image. Modulation scales activations instead of building one kernel per sample: the
same arithmetic, but frozen weights need no gradient and a batch shares one convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ModelError
from inversion.generators.protocol import NoiseMaps, NoiseMode

LRELU_SLOPE = 0.2
SQRT2 = math.sqrt(2.0)
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
Architecture = Literal["skip", "resnet", "orig"]


@dataclass(frozen=True, slots=True)
class StyleGAN2Config:
    """Shape of a StyleGAN2 generator; the names are those of the published constructors.

    `channel_base / r` channels at resolution r, at most `channel_max`; `conv_clamp` None or a bound on activations.
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

    def __post_init__(self) -> None:
        r = self.resolution
        if r < 8 or r > 1024 or r & (r - 1):
            raise ModelError(f"A StyleGAN2 generator of resolution {r} cannot be built: use a power of two, 8 to 1024.")
        if self.architecture not in ("skip", "resnet", "orig"):
            raise ModelError(f"StyleGAN2 architecture '{self.architecture}' is unknown: use skip, resnet or orig.")

    @property
    def block_resolutions(self) -> list[int]:
        """[4, 8, ..., resolution]."""
        return [2**i for i in range(2, int(math.log2(self.resolution)) + 1)]

    def channels(self, resolution: int) -> int:
        """Feature channels at one resolution."""
        return min(self.channel_base // resolution, self.channel_max)


class EqualizedLinear(nn.Module):
    """Linear layer with the weight scale applied at run time (equalised learning rate, Karras et al. 2018)."""

    def __init__(self, in_features: int, out_features: int, bias_init: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


def lrelu_gain(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps unit variance."""
    return F.leaky_relu(x, LRELU_SLOPE) * SQRT2


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of [N, D] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """z [N, z_dim] (and labels [N, c_dim]) -> w [N, w_dim] (Karras et al. 2019)."""

    w_avg: Tensor

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.layers = cfg.z_dim, cfg.c_dim, cfg.mapping_layers
        width = cfg.z_dim
        if cfg.c_dim:
            self.embed = EqualizedLinear(cfg.c_dim, cfg.w_dim)
            width += cfg.w_dim
        if not cfg.z_dim:
            width = cfg.w_dim
        for i in range(cfg.mapping_layers):
            self.add_module(f"fc{i}", EqualizedLinear(width, cfg.w_dim, lr_multiplier=cfg.mapping_lr_multiplier))
            width = cfg.w_dim
        self.register_buffer("w_avg", torch.zeros(cfg.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Mapped latents [N, w_dim]; a conditional network needs c [N, c_dim]."""
        if z.shape[1:] != (self.z_dim,):
            raise ModelError(f"The mapping network takes z of [N, {self.z_dim}]; it was given {list(z.shape)}.")
        x = normalize_2nd_moment(z)
        if self.c_dim:
            if c is None or c.shape != (z.shape[0], self.c_dim):
                given = "none" if c is None else str(list(c.shape))
                raise ModelError(
                    f"A conditional generator takes labels of [{z.shape[0]}, {self.c_dim}]; given: {given}."
                )
            x = torch.cat([x, normalize_2nd_moment(self.embed(c))], dim=1)
        for i in range(self.layers):
            x = lrelu_gain(self.get_submodule(f"fc{i}")(x))
        return x


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool) -> Tensor:
    """Modulated convolution (Karras et al. 2020, eq. 1-3) by scaling activations.

    x [N, I, H, W], weight [O, I, k, k], styles [N, I] -> [N, O, H, W], or [N, O, 2H+1, 2W+1] before the blur if `up`.
    Demodulation is rsqrt(sum_i s_i^2 sum_k w_oik^2 + 1e-8).
    """
    y = x * styles.to(x.dtype)[:, :, None, None]
    if up:
        y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
    else:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    if demodulate:
        power = styles.square() @ weight.square().sum(dim=(2, 3)).t()
        y = y * (power + 1e-8).rsqrt().to(y.dtype)[:, :, None, None]
    return y


def blur(x: Tensor, kernel: Tensor, gain: float) -> Tensor:
    """Depthwise FIR of [N, C, H, W] with a separable kernel [4, 4] of sum 1, one padding pixel a side, times `gain`.

    Two passes of four taps take a third of the time of one pass of sixteen on a CPU.
    """
    channels = x.shape[1]
    row = (kernel.sum(dim=0) * gain).expand(channels, 1, 1, -1)
    column = kernel.sum(dim=1)[:, None].expand(channels, 1, -1, 1)
    return F.conv2d(F.conv2d(x, row, padding=(0, 1), groups=channels), column, padding=(1, 0), groups=channels)


def upsample_fir(x: Tensor, kernel: Tensor) -> Tensor:
    """Upsample [N, C, H, W] by two with a FIR kernel [4, 4] that already holds the gain of 4."""
    channels = x.shape[1]
    return F.conv_transpose2d(x, kernel.expand(channels, 1, *kernel.shape), stride=2, padding=1, groups=channels)


def fir_kernel() -> Tensor:
    """The normalised separable filter [4, 4] of the published networks."""
    taps = torch.tensor(FIR_TAPS)
    return torch.outer(taps, taps) / taps.sum() ** 2


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; doubles the resolution if `up`."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, in_ch: int, out_ch: int, w_dim: int, resolution: int, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.resolution, self.up, self.clamp = resolution, up, clamp
        self.affine = EqualizedLinear(w_dim, in_ch, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_ch, in_ch, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_ch))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", fir_kernel())

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, gain: float = 1.0) -> Tensor:
        """x [N, I, r, r] (r/2 if up), w [N, w_dim], noise broadcastable to [N, 1, r, r] or None -> [N, O, r, r]."""
        x = modulated_conv(x, self.weight, self.affine(w), demodulate=True, up=self.up)
        if self.up:
            x = blur(x, self.resample_filter, gain=4.0)
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
        return torch.randn(x.shape[0], 1, self.resolution, self.resolution, generator=rng, device=x.device)


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
        out_ch = cfg.channels(resolution)
        self.register_buffer("resample_filter", fir_kernel())
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_ch, resolution, resolution))
        else:
            in_ch = cfg.channels(resolution // 2)
            self.conv0 = SynthesisLayer(in_ch, out_ch, cfg.w_dim, resolution, True, cfg.conv_clamp)
        self.conv1 = SynthesisLayer(out_ch, out_ch, cfg.w_dim, resolution, False, cfg.conv_clamp)
        self.num_conv = 1 if self.is_first else 2
        self.has_rgb = resolution == cfg.resolution or cfg.architecture == "skip"
        if self.has_rgb:
            self.torgb = ToRGB(out_ch, cfg.img_channels, cfg.w_dim, cfg.conv_clamp)
        if not self.is_first and cfg.architecture == "resnet":
            self.skip = ResidualSkip(in_ch, out_ch)

    def layers(self) -> list[tuple[str, SynthesisLayer]]:
        """The block's modulated layers by name, in order."""
        return [("conv1", self.conv1)] if self.is_first else [("conv0", self.conv0), ("conv1", self.conv1)]

    def run_layers(self, x: Tensor | None, ws: Tensor, noises: list[Tensor | None]) -> Tensor:
        """Features of this block from those of the one before; ws [N, num_conv, w_dim], one noise a layer."""
        if self.is_first:
            start = self.const[None].expand(ws.shape[0], -1, -1, -1)
            return self.conv1(start, ws[:, 0], noises[0])
        assert x is not None
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x, ws[:, 0], noises[0]), ws[:, 1], noises[1])
        shortcut = self.skip(x)
        x = self.conv0(x, ws[:, 0], noises[0])
        return shortcut + self.conv1(x, ws[:, 1], noises[1], gain=math.sqrt(0.5))

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


class StyleGAN2(nn.Module):
    """A whole generator: mapping and synthesis, behind the `Generator` protocol."""

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__()
        self.config = cfg
        self.resolution, self.z_dim, self.w_dim, self.c_dim = cfg.resolution, cfg.z_dim, cfg.w_dim, cfg.c_dim
        self.block_resolutions = cfg.block_resolutions
        self.mapping = MappingNetwork(cfg)
        self.synthesis = SynthesisNetwork(cfg)
        self.num_ws = 2 * len(self.block_resolutions)

    @property
    def w_avg(self) -> Tensor:
        """Mean latent [w_dim], kept as a buffer while training."""
        return self.mapping.w_avg

    def map(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """z [N, z_dim] -> ws [N, num_ws, w_dim], pulled towards w_avg in the first `truncation_cutoff` layers."""
        ws = self.mapping(z, c)[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1.0:
            return ws
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        pulled = self.w_avg + truncation_psi * (ws[:, :cutoff] - self.w_avg)
        return torch.cat([pulled, ws[:, cutoff:]], dim=1)

    def synthesize(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "const",
        noise: NoiseMaps | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """ws [N, num_ws, w_dim] -> images [N, 3, R, R], about [-1, 1].

        `noise` maps layer names (see `noise_maps`) to [r, r] or [N, 1, r, r]; `rng` seeds noise_mode 'random'.
        """
        image, _ = self._run(ws, self.resolution, noise_mode, noise, rng, None)
        assert image is not None
        return image

    def running_image(self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const") -> Tensor:
        """The skip architecture's image [N, 3, r, r] after block r, before the finer blocks add to it."""
        self._check_block(resolution)
        image, _ = self._run(ws, resolution, noise_mode, None, None, None)
        if image is None:
            raise ModelError(f"A generator of the {self.config.architecture} architecture has no image before its end.")
        return image

    def features(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, r, r] after block r; blocks above r and all colour layers are skipped."""
        self._check_block(resolution)
        x = None
        for r in self.block_resolutions:
            x = self._block_features(x, ws, r, noise_mode, noise, None)
            if r == resolution:
                break
        assert x is not None
        return x

    def synthesize_with_features(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, R, R] and the activations [N, C, r, r] after block r, in one pass."""
        self._check_block(resolution)
        image, kept = self._run(ws, self.resolution, noise_mode, noise, None, resolution)
        assert image is not None
        assert kept is not None
        return image, kept

    def noise_maps(self) -> dict[str, Tensor]:
        """Registered constant noise, {'b4.conv1': [4, 4], 'b8.conv0': [8, 8], ...}; without the layers whose noise has
        the strength 0, where it changes nothing."""
        blocks = [self.synthesis.block(r) for r in self.block_resolutions]
        named = {f"b{b.resolution}.{name}": layer for b in blocks for name, layer in b.layers()}
        return {name: layer.noise_const for name, layer in named.items() if float(layer.noise_strength.detach()) != 0}

    def ws_used_by(self, resolution: int) -> int:
        """Leading W+ layers that influence `features(ws, resolution)`."""
        self._check_block(resolution)
        return 2 * self.block_resolutions.index(resolution) + 1

    def _check_block(self, resolution: int) -> None:
        if resolution not in self.block_resolutions:
            raise ModelError(f"This generator has no {resolution} px block: choose one of {self.block_resolutions}.")

    def _block_features(
        self,
        x: Tensor | None,
        ws: Tensor,
        resolution: int,
        mode: NoiseMode,
        noise: NoiseMaps | None,
        rng: torch.Generator | None,
    ) -> Tensor:
        block = self.synthesis.block(resolution)
        first = max(2 * self.block_resolutions.index(resolution) - 1, 0)
        given = noise or {}
        noises = [layer.pick_noise(ws, mode, given.get(f"b{resolution}.{name}"), rng) for name, layer in block.layers()]
        return block.run_layers(x, ws[:, first : first + block.num_conv], noises)

    def _run(
        self,
        ws: Tensor,
        until: int,
        mode: NoiseMode,
        noise: NoiseMaps | None,
        rng: torch.Generator | None,
        keep: int | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ModelError(f"This generator takes ws of [N, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}.")
        x, image, kept = None, None, None
        for index, r in enumerate(self.block_resolutions):
            x = self._block_features(x, ws, r, mode, noise, rng)
            image = self.synthesis.block(r).add_rgb(x, image, ws[:, 2 * index + 1])
            kept = x if r == keep else kept
            if r == until:
                break
        return image, kept
