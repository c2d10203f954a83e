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
def tf32(speed: Speed) -> Iterator[None]:
    """Whether CUDA devices round what is float32 to TF32: all of it by `fast`, nothing by `exact`; by `auto` what
    PyTorch lets them by itself, which are convolutions."""
    if speed == "auto":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = speed == "fast"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def set_tf32(speed: Speed) -> None:
    """Let no convolution of this process be rounded by `exact`, and any by the others: derivatives are computed outside
    of every block. A processor knows no TF32."""
    torch.backends.cudnn.allow_tf32 = speed != "exact"


@contextlib.contextmanager
def fast_math(device: torch.device, speed: Speed) -> Iterator[None]:
    """Forward passes in bfloat16 under autocast, and TF32 for what stays float32; where that is not faster, float32,
    and by `exact` without TF32.

    Colours, modulation and losses stay float32 (the generators see to the first two): only convolutions and matrix
    products are rounded.
    """
    fast = runs_fast(device, speed)
    with tf32("fast" if fast else speed), torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast):
        yield
