"""Features of a StyleGAN2 in a few small squares: equal to the whole map there, at a fraction of its work.

Up to `BASE_PX` every place of a map depends on most of the map before, so those blocks are computed whole. Blocks above
act locally. A square of conv1's output needs one more pixel a side of conv0's; conv0's output pixels [a, b), a and b
even, need the pixels [a/2 - 1, b/2 + 1) of the block before, through a transposed convolution of three taps and a FIR
filter of four. Beyond the map everything is 0, as the whole map's zero padding has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.generators.protocol import NoiseMaps, NoiseMode, Patches

if TYPE_CHECKING:
    from inversion.generators.stylegan2 import StyleGAN2
    from inversion.generators.stylegan2_blocks import SynthesisLayer

BASE_PX = 32


def squares_of_features(
    generator: StyleGAN2, ws: Tensor, at: int, starts: Tensor, side: int, mode: NoiseMode, noise: NoiseMaps | None
) -> tuple[list[Patches], Tensor]:
    """Activations after block `at` of one latent ws [1, L, D] in squares [T, C, side, side] whose first pixels are
    `starts` [T, 2] (x, y), whole numbers that may lie outside the map; then those of the coarser blocks on the way; and
    the last map computed whole, [1, B, b, b].
    """
    if at <= min(BASE_PX, generator.resolution):
        base = generator.features(ws, at, mode, noise)
        return [Patches(cut_squares(base, starts, side), starts, _size(base))], base
    index, block = generator.block_resolutions.index(at), generator.synthesis.block(at)
    given = noise or {}
    inner, reach = starts - 1, side + 2
    even = inner - inner.remainder(2)
    grown = _grown(reach, bool((inner != even).any()))
    coarser, base = squares_of_features(generator, ws, at // 2, even // 2 - 1, grown // 2 + 2, mode, noise)
    first = _layer(block.conv0, coarser[0].values, ws[:, 2 * index - 1], even, grown, mode, given.get(f"b{at}.conv0"))
    places = zip(first, (inner - even).tolist(), strict=True)
    first = torch.stack([x[:, top : top + reach, left : left + reach] for x, (left, top) in places])
    found = _layer(block.conv1, first, ws[:, 2 * index], starts, side, mode, given.get(f"b{at}.conv1"))
    height, width = block.conv1.noise_const.shape
    return [Patches(found, starts, (height, width)), *coarser], base


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[2], features.shape[3]


def share_of_work(generator: StyleGAN2, at: int, count: int, side: int) -> float:
    """Multiplications that `count` squares take, in units of those of the whole map."""
    whole = {r: _multiplications(generator, r, r * r, r * r // 4) for r in generator.block_resolutions if r <= at}
    taken = sum(work for r, work in whole.items() if r <= BASE_PX)
    for r in sorted((r for r in whole if r > BASE_PX), reverse=True):
        before = _grown(side + 2, True) // 2 + 2
        taken += count * _multiplications(generator, r, side * side, before * before)
        side = before
    return taken / sum(whole.values())


def _grown(reach: int, odd: bool) -> int:
    """Side of conv0's square, which begins and ends on even pixels and holds `reach` that may begin on an odd one."""
    return (reach + odd + 1) // 2 * 2


def _multiplications(generator: StyleGAN2, resolution: int, pixels: int, pixels_before: int) -> int:
    config = generator.config
    channels = config.channels(resolution)
    before = config.channels(resolution // 2) if resolution > generator.block_resolutions[0] else 0
    return 9 * channels * (channels * pixels + before * pixels_before)


def cut_squares(features: Tensor, starts: Tensor, side: int) -> Tensor:
    """Squares [T, C, side, side] of a map [1, C, h, w], 0 outside it."""
    height, width = features.shape[2:]
    (low_x, low_y), (high_x, high_y) = starts.min(dim=0).values.tolist(), starts.max(dim=0).values.tolist()
    before_x, before_y = max(0, -low_x), max(0, -low_y)
    padded = F.pad(features, (before_x, max(0, high_x + side - width), before_y, max(0, high_y + side - height)))[0]
    return torch.stack(
        [padded[:, y + before_y : y + before_y + side, x + before_x : x + before_x + side] for x, y in starts.tolist()]
    )


def _layer(
    layer: SynthesisLayer, x: Tensor, w: Tensor, starts: Tensor, side: int, mode: NoiseMode, given: Tensor | None
) -> Tensor:
    """One layer's squares from its input's, 0 outside the map."""
    height, width = layer.noise_const.shape
    noise = layer.pick_noise(x, mode, given, None)
    if noise is not None:
        noise = cut_squares(noise.expand(1, 1, height, width), starts, side)
    y = layer(x, w, noise, padded=False)
    if bool((starts < 0).any()) or bool((starts + side > torch.tensor([width, height])).any()):
        y = y * cut_squares(y.new_ones(1, 1, height, width), starts, side)
    return y
