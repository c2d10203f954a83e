"""How a drag's steps draw their feature maps: from recorded CUDA graphs where there are some, in bfloat16 if asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from inversion.generators.packed import packed_convolutions
from inversion.generators.protocol import Generator, Layered, NoiseMaps
from inversion.speed import Speed, fast_math, tf32

Maps = Callable[[Tensor], tuple[Tensor, ...]]
"""The feature maps [1, C, r, r], finest first, of a latent [1, L, D], with their graph from it.

Recorded maps lie in the same memory each time: they are good until the next are drawn, and so is their graph.
"""


def maps_of(generator: Generator, ws: Tensor, levels: tuple[int, ...], noise: NoiseMaps | None) -> list[Tensor]:
    """The feature maps [1, C, r, r] of the levels."""
    if len(levels) > 1 and isinstance(generator, Layered):
        return generator.feature_maps(ws, levels, "const", noise)
    return [generator.features(ws, level, "const", noise) for level in levels]


def step_maps(
    generator: Generator, w: Tensor, levels: tuple[int, ...], noise: NoiseMaps | None, speed: Speed = "auto"
) -> Maps:
    """What draws the maps of the levels for latents like w [1, L, D], given in the dtype of w, and on CUDA devices
    recorded once and played afterwards. In bfloat16 by `fast`; not by `auto`, unlike elsewhere: a drag's convolutions
    are of one picture and take as long in TF32, which rounds less."""
    bf16 = speed == "fast"

    def drawn(ws: Tensor) -> tuple[Tensor, ...]:
        with packed_convolutions(), fast_math(ws.device, speed) if bf16 else tf32(speed):
            maps = maps_of(generator, ws, levels, noise)
        return tuple(x.to(ws.dtype) for x in maps)

    if not can_record(w.device):
        return drawn
    with tf32(speed):  # for the derivative, too, which is computed outside of what is drawn
        return recorded(drawn, w)


def can_record(device: torch.device) -> bool:
    """Whether kernels can be recorded there and launched as one."""
    return device.type == "cuda"


def recorded(drawn: Maps, w: Tensor) -> Maps:
    """The same maps, forward and back, from two CUDA graphs; `drawn` itself where it cannot be recorded.

    Up to the 64 px block that is some hundreds of small kernels, which take longer to launch than to run.
    """
    sample = w.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # Recording warms up on one stream and records on another, which PyTorch itself remarks upon.
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
            played = torch.cuda.make_graphed_callables(drawn, (sample,))
    except RuntimeError:  # a generator that asks the host for something, or no memory for the graph's own
        return drawn
    return cast(Maps, played)
