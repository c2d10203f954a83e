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
from inversion.generators.layers import (
    LRELU_SLOPE,
    MAX_WIDTH,
    SQRT2,
    EqualizedLinear,
    MappingNetwork,
    blur,
    check_counts,
    fir_kernel,
    modulated_conv,
    truncated,
    upsample_fir,
)
from inversion.generators.protocol import FeatureLayer, NoiseMaps, NoiseMode, Window
from inversion.generators.squares import share_of_work, squares_of_features

MAX_RESOLUTION = 4096
WINDOW_HALO_PX = 8  # of the block where a window's own blocks begin: each reaches three of its pixels at most
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
            x = blur(x if padded else x[..., 1:-1, 1:-1], self.resample_filter, gain=4.0, padding=int(padded))
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


class StyleGAN2(nn.Module):
    """A whole generator: mapping and synthesis, behind the `Generator` protocol."""

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__()
        self.config = cfg
        self.resolution, self.z_dim, self.w_dim, self.c_dim = cfg.resolution, cfg.z_dim, cfg.w_dim, cfg.c_dim
        self.image_size = (cfg.resolution, cfg.width(cfg.resolution))
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
        return truncated(ws, self.w_avg, truncation_psi, truncation_cutoff)

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

    def running_image(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """The skip architecture's image [N, 3, r, r] after block r, before the finer blocks add to it."""
        self._layer(resolution)
        image, _ = self._run(ws, resolution, noise_mode, noise, None, None)
        if image is None:
            raise ModelError(f"A generator of the {self.config.architecture} architecture has no image before its end.")
        return image

    def draws_windows(self) -> bool:
        """Whether there is a running image: in the skip architecture, for square pictures."""
        return self.config.architecture == "skip" and self.config.start_width == 4

    def running_image_and_window(
        self, ws: Tensor, at: int, window: Window, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """The running image [N, 3, at, at], and a window [N, 3, t, t] of the full picture: equal to cutting it out.

        Blocks above `at` act locally, so only the window's surroundings are computed. Raises ModelError for a window
        that does not lie on whole pixels of block `at`, and for architectures without a running image.
        """
        self._layer(at)
        scale = self.resolution // at
        top, left, side = window.top // scale, window.left // scale, window.side // scale
        if (top * scale, left * scale, side * scale) != (window.top, window.left, window.side):
            raise ModelError(f"A window must lie on whole pixels of block {at}; given: {window}.")
        image, x = self._run(ws, at, noise_mode, noise, None, at)
        if image is None or x is None or self.config.architecture != "skip":
            raise ModelError(f"A generator of the {self.config.architecture} architecture has no running image.")
        (y0, y1), (x0, x1) = (
            (max(0, first - WINDOW_HALO_PX), min(bound, first + side + WINDOW_HALO_PX))
            for first, bound in ((top, x.shape[2]), (left, x.shape[3]))
        )
        features, fine = x[:, :, y0:y1, x0:x1], image[:, :, y0:y1, x0:x1]
        for index, r in enumerate(self.block_resolutions):
            if r <= at:
                continue
            grown, block = r // at, self.synthesis.block(r)
            area = (..., slice(y0 * grown, y1 * grown), slice(x0 * grown, x1 * grown))
            noises = [None if n is None else n[area] for n in self._noises(ws, r, noise_mode, noise, None)]
            features = block.run_layers(features, ws[:, 2 * index - 1 : 2 * index + 1], noises)
            drawn = block.add_rgb(features, fine, ws[:, 2 * index + 1])
            assert drawn is not None, "every block of the skip architecture adds colour"
            fine = drawn
        rows, columns = (top - y0) * scale, (left - x0) * scale
        return image, fine[:, :, rows : rows + window.side, columns : columns + window.side]

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """b4.conv1, b8.conv0, b8.conv1 ...; conv1 gives what the next block takes."""
        found = []
        for index, r in enumerate(self.block_resolutions):
            for name, layer in self.synthesis.block(r).layers():
                num_ws = 2 * index + (name == "conv1")
                found.append(FeatureLayer(f"b{r}.{name}", layer.weight.shape[0], r, self.config.width(r), num_ws))
        return tuple(found)

    def features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, h, w] after block or layer `at`; later blocks and all colour layers are skipped."""
        layer, x = self._layer(at), None
        for r in self.block_resolutions:
            inside = r == layer.height
            x = self._block_features(x, ws, r, noise_mode, noise, None, inside and layer.name.endswith("conv0"))
            if inside:
                break
        assert x is not None
        return x

    def squares_work(self, at: int, count: int, side: int) -> float:
        """What `feature_squares` multiplies, in units of `features`; infinite where it cannot be asked for: the resnet
        architecture's shortcut is not cut."""
        return math.inf if self.config.architecture == "resnet" else share_of_work(self, at, count, side)

    def feature_squares(
        self,
        ws: Tensor,
        at: int,
        starts: Tensor,
        side: int,
        noise_mode: NoiseMode = "const",
        noise: NoiseMaps | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`features(ws, at)` in squares [T, C, side, side] whose first pixels are starts [T, 2], 0 outside the map, and
        the last map that was computed whole."""
        self._layer(at)
        return squares_of_features(self, ws, at, starts, side, noise_mode, noise)

    def synthesize_with_features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] and the activations [N, C, h, w] after block or layer `at`."""
        layer = self._layer(at)
        if layer.name.endswith("conv0"):
            return self.synthesize(ws, noise_mode, noise), self.features(ws, at, noise_mode, noise)
        image, kept = self._run(ws, self.resolution, noise_mode, noise, None, layer.height)
        assert image is not None
        assert kept is not None
        return image, kept

    def noise_maps(self) -> dict[str, Tensor]:
        """Registered constant noise, {'b4.conv1': [4, 4], 'b8.conv0': [8, 8], ...}; without the layers whose noise has
        the strength 0, where it changes nothing."""
        blocks = [self.synthesis.block(r) for r in self.block_resolutions]
        named = {f"b{b.resolution}.{name}": layer for b in blocks for name, layer in b.layers()}
        return {name: layer.noise_const for name, layer in named.items() if float(layer.noise_strength.detach()) != 0}

    def ws_used_by(self, at: int | str) -> int:
        """Leading W+ layers that influence `features(ws, at)`."""
        return self._layer(at).num_ws

    def _layer(self, at: int | str) -> FeatureLayer:
        name = at if isinstance(at, str) else f"b{at}.conv1"
        for layer in self.feature_layers:
            if layer.name == name:
                return layer
        if isinstance(at, str):
            known = ", ".join(layer.name for layer in self.feature_layers)
            raise ModelError(f"This generator has no layer {at[:40]}: choose one of {known}.")
        raise ModelError(f"This generator has no {at} px block: choose one of {self.block_resolutions}.")

    def _block_features(
        self,
        x: Tensor | None,
        ws: Tensor,
        resolution: int,
        mode: NoiseMode,
        noise: NoiseMaps | None,
        rng: torch.Generator | None,
        first_only: bool = False,
    ) -> Tensor:
        block = self.synthesis.block(resolution)
        first = max(2 * self.block_resolutions.index(resolution) - 1, 0)
        noises = self._noises(ws, resolution, mode, noise, rng)
        return block.run_layers(x, ws[:, first : first + block.num_conv], noises, first_only)

    def _noises(
        self, ws: Tensor, resolution: int, mode: NoiseMode, noise: NoiseMaps | None, rng: torch.Generator | None
    ) -> list[Tensor | None]:
        layers, given = self.synthesis.block(resolution).layers(), noise or {}
        return [layer.pick_noise(ws, mode, given.get(f"b{resolution}.{name}"), rng) for name, layer in layers]

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
