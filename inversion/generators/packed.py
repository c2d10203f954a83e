"""Convolutions whose frozen weights are laid out once as the CPU's convolutions read them.

PyTorch's convolutions bring a plain weight into their own layout at every call, which on maps of a few pixels and 512
channels takes as long as the convolution. Inside `packed_convolutions` a frozen weight is laid out once for each
direction, and 3x3 convolutions take fewer products where that is faster. Sums are taken in another order, so values
differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from inversion.generators.frozen import is_frozen, once
from inversion.generators.winograd import LINEAR_OPS, convolve_by_tiles, derivative_by_tiles, few_products

PACKING_OPS = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_convolution_transpose_weight",
    "_convolution_transpose_pointwise",
    *LINEAR_OPS,
)
NO_POINTWISE: tuple[Any, ...] = (1, "none", [], "")  # one group, and nothing fused behind the convolution

_packing: ContextVar[bool] = ContextVar("packing", default=False)


@contextmanager
def packed_convolutions() -> Iterator[None]:
    """Convolutions with frozen weights use packed ones in here, where the CPU and PyTorch offer them."""
    token = _packing.set(True)
    try:
        yield
    finally:
        _packing.reset(token)


def can_pack(x: Tensor, weight: Tensor) -> bool:
    """Whether this convolution is one for packed weights: asked for, frozen, float32 and on the CPU."""
    plain = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return _packing.get() and plain and x.numel() > 0 and is_frozen(weight) and not _autocast() and _offered()


def convolve_packed(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`F.conv2d` of x [N, I, H, W] with a frozen weight [O, I, k, k]."""
    found: Tensor = _PackedConv.apply(x, weight, padding, False)
    return found


def convolve_up_packed(x: Tensor, weight: Tensor, crop: int) -> Tensor:
    """`F.conv_transpose2d` of stride 2 with a frozen weight [O, I, k, k], x [N, I, H, W] -> [N, O, h, w] with h = 2H +
    k - 2 - 2 crop."""
    found: Tensor = _PackedConv.apply(x, weight, crop, True)
    return found


class _PackedConv(torch.autograd.Function):
    """A convolution, up by two or not, whose gradient is that of x only: a convolution with the weight turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, up: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding, ctx.up = padding, up
        if up:
            return _up(x, weight, padding)
        ctx.by_tiles = few_products(x, weight, padding)
        if ctx.by_tiles:
            return convolve_by_tiles(x, weight, padding)
        return _convolution(x, weight, "packed", lambda: weight, padding, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        if ctx.up:
            dx = _convolution(dy, weight, "packed, of the gradient", lambda: weight.transpose(0, 1), ctx.padding, 2)
        elif ctx.by_tiles:
            dx = derivative_by_tiles(dy, weight, ctx.padding)
        else:
            rest = weight.shape[2] - 1 - ctx.padding
            turned = "packed, turned round"
            dx = _convolution(dy, weight, turned, lambda: weight.flip(2, 3).transpose(0, 1), rest, 1)
        return dx, None, None, None


def _convolution(x: Tensor, weight: Tensor, name: str, laid: Callable[[], Tensor], padding: int, stride: int) -> Tensor:
    """The convolution of x with what `laid` makes of a weight, packed for the size of the first x."""
    shape = [padding] * 2, [stride] * 2, [1, 1]
    packing = torch.ops.mkldnn._reorder_convolution_weight
    packed = once(weight, name, lambda: packing(laid().contiguous(), *shape, 1, list(x.shape)))
    found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed, None, *shape, *NO_POINTWISE)
    return found


def _up(x: Tensor, weight: Tensor, crop: int) -> Tensor:
    """The transposed convolution of stride 2."""
    shape = [crop, crop], [0, 0], [2, 2], [1, 1]
    packing = torch.ops.mkldnn._reorder_convolution_transpose_weight
    packed = once(weight, "packed", lambda: packing(weight.transpose(0, 1).contiguous(), *shape, 1, list(x.shape)))
    found: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(x, packed, None, *shape, *NO_POINTWISE)
    return found


@cache
def _offered() -> bool:
    """Whether this PyTorch has the operators that take packed weights, and they do what is expected of them: they are
    not among the documented ones."""
    here = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in PACKING_OPS)
    try:
        return here and _as_expected()
    except (RuntimeError, TypeError):
        return False


@torch.no_grad()
def _as_expected() -> bool:
    """Whether small packed convolutions give what plain ones give, forward and back."""
    x = torch.linspace(-1, 1, 96, dtype=torch.float32).sin().view(1, 4, 4, 6)
    weight = nn.Parameter(torch.linspace(-9, 9, 180, dtype=torch.float32).cos().view(5, 4, 3, 3), requires_grad=False)
    turned, other = weight.transpose(0, 1), torch.linspace(-2, 2, 120, dtype=torch.float32).cos().view(1, 5, 4, 6)
    pairs = [
        (_convolution(x, weight, "packed", lambda: weight, 1, 1), F.conv2d(x, weight, padding=1)),
        (_up(x, weight, 1), F.conv_transpose2d(x, turned, stride=2, padding=1)),
        (
            _convolution(other, weight, "packed, of the gradient", lambda: turned, 1, 2),
            F.conv2d(other, turned, None, 2, 1),
        ),
        (convolve_by_tiles(x, weight, 1), F.conv2d(x, weight, padding=1)),
        (derivative_by_tiles(other, weight, 1), F.conv_transpose2d(other, weight, padding=1)),
    ]
    return all(torch.allclose(found, wanted, atol=1e-4) for found, wanted in pairs)


def _autocast() -> bool:
    return bool(torch.is_autocast_enabled("cpu"))
