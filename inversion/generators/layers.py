"""The layers that style-based generators share: equalised weights, the mapping network, modulation, FIR filters."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ModelError
from inversion.generators.frozen import power
from inversion.generators.low_rank import convolve, convolve_up

LRELU_SLOPE = 0.2
SQRT2 = math.sqrt(2.0)
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
MAX_WIDTH = 16384


class MappingShape(Protocol):
    """What a mapping network asks of a generator's config."""

    @property
    def z_dim(self) -> int: ...
    @property
    def w_dim(self) -> int: ...
    @property
    def c_dim(self) -> int: ...
    @property
    def mapping_layers(self) -> int: ...
    @property
    def mapping_lr_multiplier(self) -> float: ...


def check_counts(counts: dict[str, tuple[int, int, int]]) -> None:
    """Raise ModelError for a whole number outside its bounds; `counts` maps a name to (value, least, most)."""
    for name, (value, least, most) in counts.items():
        if type(value) is not int or not least <= value <= most:
            raise ModelError(f"A generator with {name}={value!r:.40} cannot be built: allowed are {least} to {most}.")


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
        return F.linear(x, self.scaled_weight(), self.bias * self.bias_gain)

    def scaled_weight(self) -> Tensor:
        """The weight [out, in] that inputs are multiplied with."""
        return self.weight * self.weight_gain


def lrelu_gain(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps unit variance."""
    return F.leaky_relu(x, LRELU_SLOPE) * SQRT2


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of [N, D] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """z [N, z_dim] (and labels [N, c_dim]) -> w [N, w_dim] (Karras et al. 2019)."""

    w_avg: Tensor

    def __init__(self, cfg: MappingShape) -> None:
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


def modulated_conv(
    x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool, padded: bool = True
) -> Tensor:
    """Modulated convolution (Karras et al. 2020, eq. 1-3) by scaling activations.

    x [N, I, H, W], weight [O, I, k, k], styles [N, I] -> [N, O, H, W], or [N, O, 2H+1, 2W+1] before the blur if `up`;
    not `padded`, [N, O, H-k+1, W-k+1], or [N, O, 2H-1, 2W-1] of the latter. Demodulation is
    rsqrt(sum_i s_i^2 sum_k w_oik^2 + 1e-8).
    """
    y = x * styles.to(x.dtype)[:, :, None, None]
    if up:
        y = convolve_up(y, weight, crop=int(not padded))
    else:
        y = convolve(y, weight, padding=weight.shape[2] // 2 if padded else 0)
    if demodulate:
        energy = styles.square() @ power(weight)
        y = y * (energy + 1e-8).rsqrt().to(y.dtype)[:, :, None, None]
    return y


def blur(x: Tensor, kernel: Tensor, gain: float, padding: int = 1) -> Tensor:
    """Depthwise FIR of [N, C, H, W] with a separable kernel [4, 4] of sum 1, `padding` pixels a side, times `gain`.

    Two passes of four taps take a third of the time of one pass of sixteen on a CPU.
    """
    channels = x.shape[1]
    row = (kernel.sum(dim=0) * gain).expand(channels, 1, 1, -1)
    column = kernel.sum(dim=1)[:, None].expand(channels, 1, -1, 1)
    return F.conv2d(
        F.conv2d(x, row, padding=(0, padding), groups=channels), column, padding=(padding, 0), groups=channels
    )


def upsample_fir(x: Tensor, kernel: Tensor) -> Tensor:
    """Upsample [N, C, H, W] by two with a FIR kernel [4, 4] that already holds the gain of 4."""
    channels = x.shape[1]
    return F.conv_transpose2d(x, kernel.expand(channels, 1, *kernel.shape), stride=2, padding=1, groups=channels)


def fir_kernel() -> Tensor:
    """The normalised separable filter [4, 4] of the published networks."""
    taps = torch.tensor(FIR_TAPS)
    return torch.outer(taps, taps) / taps.sum() ** 2


def truncated(ws: Tensor, w_avg: Tensor, psi: float, cutoff: int | None) -> Tensor:
    """ws [N, num_ws, w_dim] pulled towards w_avg [w_dim] by `psi` in the first `cutoff` layers; None means all."""
    if psi == 1.0:
        return ws
    cutoff = ws.shape[1] if cutoff is None else cutoff
    return torch.cat([w_avg + psi * (ws[:, :cutoff] - w_avg), ws[:, cutoff:]], dim=1)
