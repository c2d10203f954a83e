"""StyleGAN3 (Karras et al. 2021, "Alias-Free Generative Adversarial Networks") in plain PyTorch, T and R.

Every layer works on samples of a continuous signal. Sample k of n at rate s, in samples per canvas width, lies at
(k + 1/2 - n/2) / s, so all layers are centred on the canvas [-1/2, 1/2]; most also compute a margin round it.
State-dict names follow the published checkpoints (`synthesis.L3_52_512.affine.bias`, ...). Modulation scales
activations, as in `stylegan2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    check_counts,
    normalize_2nd_moment,
    truncated,
)
from inversion.generators.low_rank import convolve
from inversion.generators.protocol import FeatureLayer, NoiseMaps, NoiseMode

CHOICES: dict[str, tuple[int, ...]] = {
    "resolution": tuple(2**i for i in range(4, 13)),
    "conv_kernel": (1, 3, 5),
    "lrelu_upsampling": (1, 2, 4),
    "use_radial_filters": (False, True),
}
MAX_TAPS_IN_ONE_PASS = 16


@dataclass(frozen=True, slots=True)
class Band:
    """A sampled signal: `size` samples a side at `rate` samples per canvas width, of which the middle `rate` lie on the
    canvas; low-pass `cutoff` and transition `half_width` in cycles per canvas width."""

    size: int
    rate: int
    cutoff: float
    half_width: float
    channels: int


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Geometry of one layer: what it reads and gives, and its filters.

    The non-linearity works at `up` times the rate of the source, `down` times that of the target. `crop` samples are
    cut from each side of the upsampled signal, so that downsampling leaves `target.size` of them.
    """

    name: str
    source: Band
    target: Band
    kernel: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    crop: int
    radial: bool
    is_rgb: bool


@dataclass(frozen=True, slots=True)
class StyleGAN3Config:
    """Shape of a StyleGAN3 generator; the names and defaults are those of the published constructors, configuration T.

    Configuration R: `conv_kernel=1, use_radial_filters=True` and twice the channels. Cutoffs are in cycles per canvas
    width.
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    mapping_layers: int = 2
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_rel: float = 2.0**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float | None = 256.0
    img_channels: int = 3

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if type(value) is not type(allowed[0]) or value not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ModelError(f"A StyleGAN3 generator with {name}={value!r:.40} cannot be built: use {choices}.")
        check_counts({name: (getattr(self, name), 1, MAX_WIDTH) for name in ("z_dim", "w_dim", "channel_max")})
        check_counts(
            {
                "c_dim": (self.c_dim, 0, MAX_WIDTH),
                "mapping_layers": (self.mapping_layers, 1, 64),
                "channel_base": (self.channel_base, 1, MAX_WIDTH * self.resolution),
                "num_layers": (self.num_layers, 2, 64),
                "margin_size": (self.margin_size, 0, 256),
                "filter_size": (self.filter_size, 1, 64),
                "img_channels": (self.img_channels, 1, 16),
            }
        )
        check_counts({"num_critical": (self.num_critical, 1, self.num_layers - 1)})
        self._check_reals()
        check_counts({f"channels of {x.name}": (x.target.channels, 1, MAX_WIDTH) for x in self.layers()})

    def _check_reals(self) -> None:
        bounds = {
            "first_stopband": (self.first_stopband, 1.0, self.resolution / 2),
            "first_cutoff": (self.first_cutoff, 0.0, self.first_stopband),
            "last_stopband_rel": (self.last_stopband_rel, 1.0, 16.0),
            "mapping_lr_multiplier": (self.mapping_lr_multiplier, 0.0, 1e3),
            "output_scale": (self.output_scale, 0.0, 1e3),
            "conv_clamp": (1.0 if self.conv_clamp is None else self.conv_clamp, 0.0, math.inf),
        }
        for name, (value, above, below) in bounds.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not above < value < below:
                allowed = f"more than {above:g} and less than {below:g}"
                raise ModelError(f"A StyleGAN3 generator with {name}={value!r:.40} cannot be built: use {allowed}.")

    def bands(self) -> tuple[Band, ...]:
        """What layers 0 to num_layers give, the colours last (Section 3.2).

        Cutoff f_c and stopband f_t grow geometrically until the last `num_critical` layers; the rate is the power of
        two from 2 f_t on, at most the resolution.
        """
        found = []
        last_cutoff = self.resolution / 2
        stopband_growth = last_cutoff * self.last_stopband_rel / self.first_stopband
        for i in range(self.num_layers + 1):
            part = min(i / (self.num_layers - self.num_critical), 1.0)
            cutoff = self.first_cutoff * (last_cutoff / self.first_cutoff) ** part
            stopband = self.first_stopband * stopband_growth**part
            # At 256 px a stopband is a power of two: rounding must not double its rate.
            rate = min(2 ** math.ceil(math.log2(2 * stopband) - 1e-9), self.resolution)
            size = self.resolution if i >= self.num_layers - 1 else rate + 2 * self.margin_size
            channels = round(min(self.channel_base / 2 / cutoff, self.channel_max))
            channels = self.img_channels if i == self.num_layers else channels
            found.append(Band(size, rate, cutoff, max(rate / 2, stopband) - cutoff, channels))
        return tuple(found)

    def layers(self) -> tuple[LayerShape, ...]:
        """The geometry of L0 to L{num_layers}; the first reads the Fourier features, which are sampled as it gives."""
        bands = self.bands()
        return tuple(self._layer(i, *pair) for i, pair in enumerate(pairwise((bands[0], *bands))))

    def _layer(self, index: int, source: Band, target: Band) -> LayerShape:
        is_rgb = index == self.num_layers
        inner_rate = max(source.rate, target.rate) * (1 if is_rgb else self.lrelu_upsampling)
        up, down, kernel = inner_rate // source.rate, inner_rate // target.rate, 1 if is_rgb else self.conv_kernel
        up_taps, down_taps = (self.filter_size * factor if factor > 1 else 1 for factor in (up, down))
        upsampled = (source.size + kernel - 2) * up + up_taps
        crop = (upsampled - (target.size - 1) * down - down_taps) // 2
        radial = self.use_radial_filters and 2 * target.cutoff < target.rate
        name = f"L{index}_{target.size}_{target.channels}"
        return LayerShape(name, source, target, kernel, up, down, up_taps, down_taps, crop, radial, is_rgb)


def design_lowpass(taps: int, cutoff: float, half_width: float, rate: float, radial: bool = False) -> Tensor:
    """Low-pass filter of unit sum by Kaiser's window method (1974): [taps], or [taps, taps] if `radial`.

    The radial one windows the jinc J1(2 pi f_c r) / r, the impulse response of a disc in the frequency plane.
    """
    offset = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / rate
    attenuation_db = 2.285 * (taps - 1) * math.pi * 4 * half_width / rate + 7.95
    over = max(attenuation_db - 21, 0.0)
    beta = 0.1102 * (attenuation_db - 8.7) if attenuation_db > 50 else 0.5842 * over**0.4 + 0.07886 * over
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
    if radial:
        radius = torch.hypot(offset[:, None], offset).clamp(min=1e-9 / rate)
        response = torch.special.bessel_j1(2 * math.pi * cutoff * radius) / radius * torch.outer(window, window)
    else:
        response = torch.sinc(2 * cutoff * offset) * window
    return (response / response.sum()).float()


def filter_kernels(taps: Tensor) -> list[Tensor]:
    """The kernels [kh, kw] to apply one after the other for a filter [t] or [t, t].

    On a CPU, where memory costs more than arithmetic, one pass of a few t x t taps is quicker than two of t.
    """
    if taps.ndim == 2:
        return [taps]
    if taps.device.type == "cpu" and taps.numel() <= MAX_TAPS_IN_ONE_PASS:
        return [torch.outer(taps, taps)]
    return [taps[None, :], taps[:, None]]


def upsample(x: Tensor, taps: Tensor, factor: int, crop: int) -> Tensor:
    """[N, C, H, W] -> [N, C, (H - 1) factor + t - 2 crop, ...]: insert zeros, filter with taps [t], keep the mean."""
    for kernel in filter_kernels(taps * factor):
        x = depthwise(F.conv_transpose2d, x, kernel, factor, crop)
    return x


def downsample(x: Tensor, taps: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] -> [N, C, (H - t) / factor + 1, ...]: filter with taps [t] or [t, t] and keep every factor-th."""
    for kernel in filter_kernels(taps):
        x = depthwise(F.conv2d, x, kernel, factor, 0)
    return x


def depthwise(convolve: Callable[..., Tensor], x: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    """Convolve each channel of [N, C, H, W] with a kernel [kh, kw], striding and padding along the axes it extends."""
    channels, extends = x.shape[1], [n > 1 for n in kernel.shape]
    strides, paddings = [stride if n else 1 for n in extends], [padding if n else 0 for n in extends]
    return convolve(x, kernel.expand(channels, 1, -1, -1), stride=strides, padding=paddings, groups=channels)


class FourierInput(nn.Module):
    """Fourier features of the canvas, moved by the first latent and by the buffer `transform` [3, 3] (Section 3).

    A picture's point p shows what lies at `transform` p without it, p = (x, y) in canvas widths from the centre.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, band: Band, w_dim: int) -> None:
        super().__init__()
        self.band = band
        self.weight = nn.Parameter(torch.randn(band.channels, band.channels))
        self.affine = EqualizedLinear(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1.0
        radius = band.cutoff * torch.rand(band.channels).sqrt()
        angle = 2 * math.pi * torch.rand(band.channels)
        self.register_buffer("freqs", torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))
        self.register_buffer("phases", torch.rand(band.channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def waves(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Frequencies [N, C, 2] and phases [N, C] in turns: w turns the canvas and then shifts it."""
        pose = self.affine(w)
        cos, sin, *shift = (pose / pose[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
        freqs = self.freqs @ rotation
        offset = self.transform[:2, 2] - torch.stack(shift, dim=1)
        return freqs @ self.transform[:2, :2], self.phases + (freqs @ offset[:, :, None]).squeeze(2)

    def forward(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> [N, C, size, size]; waves that a transform takes above the cutoff fade out."""
        with torch.autocast(w.device.type, enabled=False):
            freqs, phases = self.waves(w)
            band, nyquist = self.band, self.band.rate / 2
            strength = (nyquist - freqs.norm(dim=2)) / (nyquist - band.cutoff)
            axis = (torch.arange(band.size, dtype=w.dtype, device=w.device) + (1 - band.size) / 2) / band.rate
            along_x, along_y = freqs[..., None].unbind(dim=2)
            turns = (along_x * axis)[:, :, None, :] + (along_y * axis + phases[..., None])[..., None]
            x = torch.sin(2 * math.pi * turns) * strength.clamp(0, 1)[:, :, None, None]
            return torch.einsum("oc,nchw->nohw", self.weight / math.sqrt(band.channels), x)


class SynthesisLayer(nn.Module):
    """Modulated convolution, bias and a leaky ReLU between two low-pass filters; the last gives colours."""

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(self, shape: LayerShape, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.shape, self.clamp = shape, clamp
        source, target = shape.source, shape.target
        self.affine = EqualizedLinear(w_dim, source.channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(target.channels, source.channels, shape.kernel, shape.kernel))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        inner_rate = shape.up * source.rate
        if shape.up > 1:
            taps = design_lowpass(shape.up_taps, source.cutoff, source.half_width, inner_rate)
            self.register_buffer("up_filter", taps)
        if shape.down > 1:
            taps = design_lowpass(shape.down_taps, target.cutoff, target.half_width, inner_rate, shape.radial)
            self.register_buffer("down_filter", taps)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, I, s, s], w [N, w_dim] -> [N, O, t, t]. Colours stay float32 under autocast, as in `stylegan2`."""
        if self.shape.is_rgb:
            with torch.autocast(x.device.type, enabled=False):
                y = self.convolve(x.to(w.dtype), w)
                return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)
        return self.filtered_lrelu(self.convolve(x, w))

    def convolve(self, x: Tensor, w: Tensor) -> Tensor:
        """[N, I, s, s] -> [N, O, s + k - 1, s + k - 1]: the convolution's whole extent, bias added.

        Demodulation undoes any scale of styles and weights; unit styles over the root of the fan-in keep half precision
        in range. The non-linearity's gain of sqrt(2) is applied here, where it costs nothing.
        """
        with torch.autocast(x.device.type, enabled=False):
            gain = 1.0 if self.shape.is_rgb else SQRT2
            scale, bias = self.magnitude_ema.rsqrt() * gain, self.bias * gain
            styles = self.affine(w) if self.shape.is_rgb else normalize_2nd_moment(self.affine(w))
            styles = styles / math.sqrt(self.weight[0].numel())
            if not self.shape.is_rgb:
                power = styles.square() @ self.weight.square().sum(dim=(2, 3)).t()
                scale = scale * (power + 1e-8).rsqrt()[:, :, None, None]
        y = convolve(x * styles.to(x.dtype)[:, :, None, None], self.weight, self.shape.kernel - 1)
        return torch.addcmul(bias.to(y.dtype)[:, None, None], y, scale.to(y.dtype))

    def filtered_lrelu(self, x: Tensor) -> Tensor:
        """Leaky ReLU and clamp at the inner rate, [N, O, s + k - 1, ...] -> [N, O, t, t] (Section 2.1)."""
        shape = self.shape
        if shape.up > 1:
            x = upsample(x, self.up_filter, shape.up, shape.crop)
        elif shape.crop:
            x = x[..., shape.crop : -shape.crop, shape.crop : -shape.crop]
        x = F.leaky_relu(x, LRELU_SLOPE)
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp) if x.requires_grad else x.clamp_(-self.clamp, self.clamp)
        return downsample(x, self.down_filter, shape.down) if shape.down > 1 else x


class SynthesisNetwork(nn.Module):
    """ws [N, num_layers + 2, w_dim] -> colours, layer by layer."""

    def __init__(self, cfg: StyleGAN3Config) -> None:
        super().__init__()
        self.shapes = cfg.layers()
        self.input = FourierInput(self.shapes[0].source, cfg.w_dim)
        for shape in self.shapes:
            self.add_module(shape.name, SynthesisLayer(shape, cfg.w_dim, cfg.conv_clamp))

    def layer(self, name: str) -> SynthesisLayer:
        """The layer of one name."""
        module = self.get_submodule(name)
        assert isinstance(module, SynthesisLayer)
        return module

    def activations(self, ws: Tensor) -> Iterator[tuple[LayerShape, Tensor]]:
        """Each layer with its activations [N, C, size, size], margin included, computed as they are asked for."""
        x = self.input(ws[:, 0])
        for index, shape in enumerate(self.shapes, start=1):
            x = self.layer(shape.name)(x, ws[:, index])
            yield shape, x


class StyleGAN3(nn.Module):
    """A whole generator: mapping and synthesis, behind the `Generator` protocol. It has no noise."""

    def __init__(self, cfg: StyleGAN3Config) -> None:
        super().__init__()
        self.config = cfg
        self.resolution, self.z_dim, self.w_dim, self.c_dim = cfg.resolution, cfg.z_dim, cfg.w_dim, cfg.c_dim
        self.image_size = (cfg.resolution, cfg.resolution)
        self.num_ws = cfg.num_layers + 2
        self.mapping = MappingNetwork(cfg)
        self.synthesis = SynthesisNetwork(cfg)
        self.block_resolutions = sorted({layer.height for layer in self.feature_layers})

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

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """L0_36_512, L1_36_512, ...: all but the colours, each `rate` samples high, which is the canvas."""
        return tuple(
            FeatureLayer(x.name, x.target.channels, x.target.rate, x.target.rate, num_ws)
            for num_ws, x in enumerate(self.synthesis.shapes[:-1], start=2)
        )

    def synthesize(self, ws: Tensor, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None) -> Tensor:
        """ws [N, num_ws, w_dim] -> images [N, 3, R, R], about [-1, 1]."""
        del noise_mode, noise
        for _, x in self._activations(ws):
            colours = x
        return colours * self.config.output_scale

    def features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, rate, rate] of layer `at` on the canvas; later layers are not computed."""
        del noise_mode, noise
        name = self._layer(at).name
        return next(on_canvas(x, shape.target) for shape, x in self._activations(ws) if shape.name == name)

    def feature_maps(
        self, ws: Tensor, ats: Sequence[int], noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> list[Tensor]:
        """`features(ws, at)` for each of `ats`, in their order, in one pass."""
        del noise_mode, noise
        names, found = [self._layer(at).name for at in ats], {}
        for shape, x in self._activations(ws):
            if shape.name in names:
                found[shape.name] = on_canvas(x, shape.target)
            if len(found) == len(set(names)):
                break
        return [found[name] for name in names]

    def synthesize_with_features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, R, R] and the activations [N, C, rate, rate] of layer `at` on the canvas, in one pass."""
        del noise_mode, noise
        name = self._layer(at).name
        for shape, x in self._activations(ws):
            colours = x
            if shape.name == name:
                kept = on_canvas(x, shape.target)
        return colours * self.config.output_scale, kept

    def noise_maps(self) -> dict[str, Tensor]:
        """Nothing: the generator has no noise, and noise arguments change nothing."""
        return {}

    def ws_used_by(self, at: int | str) -> int:
        """Leading W+ layers that influence `features(ws, at)`: the input's and one a layer."""
        return self._layer(at).num_ws

    def style_weights(self, layer: int) -> Tensor:
        """Affine weight [C, w_dim] behind W+ layer `layer`: first the canvas's pose (four rows), then one layer each.
        Colours count with their gain, as in `stylegan2`."""
        if layer == 0:
            return self.synthesis.input.affine.scaled_weight()
        drawn = self.synthesis.layer(self.synthesis.shapes[layer - 1].name)
        weight = drawn.affine.scaled_weight()
        return weight / math.sqrt(drawn.weight[0].numel()) if drawn.shape.is_rgb else weight

    def _activations(self, ws: Tensor) -> Iterator[tuple[LayerShape, Tensor]]:
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ModelError(f"This generator takes ws of [N, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}.")
        return self.synthesis.activations(ws)

    def _layer(self, at: int | str) -> FeatureLayer:
        known = {layer.height: layer for layer in self.feature_layers} | {x.name: x for x in self.feature_layers}
        if at in known:
            return known[at]
        if isinstance(at, str):
            names = ", ".join(layer.name for layer in self.feature_layers)
            raise ModelError(f"This generator has no layer {at[:40]}: choose one of {names}.")
        raise ModelError(f"This generator has no {at} px block: choose one of {self.block_resolutions}.")


def on_canvas(x: Tensor, band: Band) -> Tensor:
    """[N, C, size, size] -> [N, C, rate, rate]: activations without the margin."""
    margin = (band.size - band.rate) // 2
    return x[..., margin : margin + band.rate, margin : margin + band.rate]
