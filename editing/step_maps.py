"""How the steps of a drag draw their feature maps: in bfloat16 and from recorded CUDA graphs where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from inversion.generators.packed import packed_convolutions
from inversion.generators.protocol import Generator, Layered, NoiseMaps
from inversion.speed import Speed, fast_math

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
    """What draws the maps of the levels for latents like w [1, L, D]: in bfloat16 by `speed` (`inversion.speed`), given
    in the dtype of w, and on CUDA devices recorded once and played afterwards."""

    def drawn(ws: Tensor) -> tuple[Tensor, ...]:
        with packed_convolutions(), fast_math(ws.device, speed):
            maps = maps_of(generator, ws, levels, noise)
        return tuple(x.to(ws.dtype) for x in maps)

    return recorded(drawn, w) if can_record(w.device) else drawn


def can_record(device: torch.device) -> bool:
    """Whether kernels can be recorded there and launched as one."""
    return device.type == "cuda"


def recorded(drawn: Maps, w: Tensor) -> Maps:
    """The same maps, forward and back, from two CUDA graphs; `drawn` itself where it cannot be recorded.

    Up to the 64 px block that is some hundreds of small kernels, which take longer to launch than to run.
    """
    sample = w.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            played = torch.cuda.make_graphed_callables(drawn, (sample,))
    except RuntimeError:  # a generator that asks the host for something, or no memory for the graph's own
        return drawn
    return cast(Maps, played)
