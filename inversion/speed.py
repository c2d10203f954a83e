"""Faster arithmetic where the hardware has it: bfloat16 and TF32 on a CUDA device, float32 on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Speed = Literal["auto", "exact", "fast"]
FAST_TOLERANCE = 0.03
"""Largest relative difference of a fast path's loss to the exact one's."""

AT_ONCE_CPU, AT_ONCE = 4, 16
AT_ONCE_PIXELS = 16 * 256 * 256


def pictures_at_once(device: torch.device, resolution: int) -> int:
    """How many pictures of that side to draw at once: few stay in a processor's caches and take a quarter less time
    each than eight or one (measured at 128 px), other devices want many; large ones would fill the memory."""
    most = AT_ONCE_CPU if device.type == "cpu" else AT_ONCE
    return max(1, min(most, AT_ONCE_PIXELS // resolution**2))


def runs_fast(device: torch.device, speed: Speed) -> bool:
    """Whether forward passes are drawn in bfloat16: `auto` does so on CUDA devices that have it in hardware."""
    if speed == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return speed == "fast"


@contextlib.contextmanager
def fast_math(device: torch.device, speed: Speed) -> Iterator[None]:
    """Forward passes in bfloat16 under autocast, and TF32 for what stays float32; nothing when that is not faster.

    Colours, modulation and losses stay float32 (the generators see to the first two): only convolutions and matrix
    products are rounded.
    """
    if not runs_fast(device, speed):
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
