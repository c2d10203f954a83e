"""What a frozen weight needs computed only once: its power for demodulation, its transposed copy, and copies laid out
as the CPU's convolutions read them.

PyTorch's convolutions bring a plain weight into their own layout at every call, which on maps of a few pixels and 512
channels takes as long as the convolution. Inside `packed_convolutions` a frozen weight is laid out once for each
direction. Sums are then taken in another order, so values differ by rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PACKING_OPS = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_convolution_transpose_weight",
    "_convolution_transpose_pointwise",
)
NO_POINTWISE: tuple[Any, ...] = (1, "none", [], "")  # one group, and nothing fused behind the convolution

T = TypeVar("T")
State = tuple[int, int, torch.dtype, torch.device]

_packing: ContextVar[bool] = ContextVar("packing", default=False)
_kept: dict[int, tuple[weakref.ref[Tensor], State, dict[str, Any]]] = {}


@contextmanager
def packed_convolutions() -> Iterator[None]:
    """Convolutions with frozen weights use packed ones in here, where the CPU and PyTorch offer them."""
    token = _packing.set(True)
    try:
        yield
    finally:
        _packing.reset(token)


def is_frozen(weight: Tensor) -> bool:
    """Whether a weight is a parameter that no gradient is asked of, so that what is made of it can be kept."""
    return isinstance(weight, nn.Parameter) and not weight.requires_grad and not weight.is_inference()


def once(weight: Tensor, name: str, make: Callable[[], T]) -> T:
    """What `make` makes of a weight: kept under that name while a frozen one lives unchanged, else made anew."""
    if not is_frozen(weight):
        return make()
    number, state = id(weight), (weight._version, weight.data_ptr(), weight.dtype, weight.device)
    found = _kept.get(number)
    if found is None or found[0]() is not weight or found[1] != state:
        found = (weakref.ref(weight, lambda _: _kept.pop(number, None)), state, {})
        _kept[number] = found
    if name not in found[2]:
        with torch.inference_mode(False), torch.no_grad():
            found[2][name] = make()
    kept: T = found[2][name]
    return kept


def power(weight: Tensor) -> Tensor:
    """Sums [I, O] of the squares of a weight [O, I, k, k] over its taps."""
    return once(weight, "power", lambda: weight.square().sum(dim=(2, 3)).t())


def swapped(weight: Tensor) -> Tensor:
    """A weight [O, I, k, k] as [I, O, k, k], a transposed convolution's; a frozen one in that order in memory, too."""
    if not is_frozen(weight):
        return weight.transpose(0, 1)
    return once(weight, "swapped", lambda: weight.transpose(0, 1).contiguous())


def can_pack(x: Tensor, weight: Tensor) -> bool:
    """Whether this convolution is one for packed weights: asked for, frozen, float32 and on the CPU."""
    plain = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return _packing.get() and plain and x.numel() > 0 and is_frozen(weight) and _offered() and not _autocast()


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
        return _up(x, weight, padding) if up else _convolution(x, weight, "packed", lambda: weight, padding, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        if ctx.up:
            dx = _convolution(dy, weight, "packed, of the gradient", lambda: weight.transpose(0, 1), ctx.padding, 2)
        else:
            rest = weight.shape[2] - 1 - ctx.padding
            turned = "packed, turned round"
            dx = _convolution(dy, weight, turned, lambda: weight.flip(2, 3).transpose(0, 1), rest, 1)
        return dx, None, None, None


def _convolution(x: Tensor, weight: Tensor, name: str, laid: Callable[[], Tensor], padding: int, stride: int) -> Tensor:
    """The convolution of x with what `laid` makes of a weight, packed for the size of the first x."""
    shape = [padding] * 2, [stride] * 2, [1, 1]
    packing, pad_stride_dilate = torch.ops.mkldnn._reorder_convolution_weight, shape
    packed = once(weight, name, lambda: packing(laid().contiguous(), *pad_stride_dilate, 1, list(x.shape)))
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
    """Whether this PyTorch has the operators that take packed weights; they are not part of its documented ones."""
    return bool(torch.backends.mkldnn.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in PACKING_OPS)


def _autocast() -> bool:
    return bool(torch.is_autocast_enabled("cpu"))
