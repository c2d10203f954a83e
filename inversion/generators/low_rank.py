"""Convolutions whose weight is a fixed one plus a low-rank change: gradients of the factors, never of the weight.

With W = W0 + a b / sqrt(r) and y = W * x (a correlation), the factors' gradients need the correlation of x with the r
rows of b and the r mixtures of dy that a makes, each r / O of the work that the gradient of W takes:
da = dy (b * x)^T / sqrt(r), db = (gradient of a weight of r rows whose output has the gradient a^T dy) / sqrt(r).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.generators.frozen import swapped
from inversion.generators.packed import can_pack, convolve_packed, convolve_up_packed

WORTHWHILE = 4
"""A weight of no more rows than this many ranks has its own gradient sooner than that of the factors (measured)."""


class LowRankWeight(Tensor):
    """A convolution's weight [O, I, k, k] that remembers the factors `a` [O, r], `b` [r, I * k * k] of its change.

    As an operand it is any other tensor: autograd's way from it to the factors stays open, as demodulation needs it.
    """

    a: Tensor
    b: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """base + a b / sqrt(r); without the memory of its factors where that saves nothing."""
        weight = base + (a @ b).view(base.shape) / math.sqrt(a.shape[1])
        if weight.ndim != 4 or weight.shape[0] <= WORTHWHILE * a.shape[1]:
            return weight
        kept = weight.as_subclass(LowRankWeight)
        kept.a, kept.b = a, b
        return kept


def convolve(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`F.conv2d` of x [N, I, H, W] with a weight [O, I, k, k] of any kind."""
    if isinstance(weight, LowRankWeight):
        return _convolved(x, weight, padding, transposed=False)
    if can_pack(x, weight):
        return convolve_packed(x, weight, padding)
    return F.conv2d(x, weight, padding=padding)


def convolve_up(x: Tensor, weight: Tensor, crop: int = 0) -> Tensor:
    """`F.conv_transpose2d` of stride 2, x [N, I, H, W] -> [N, O, 2H + k - 2, 2W + k - 2], weight [O, I, k, k]; `crop`
    pixels a side are left out."""
    if isinstance(weight, LowRankWeight):
        return _convolved(x, weight, crop, transposed=True)
    if can_pack(x, weight):
        return convolve_up_packed(x, weight, crop)
    return F.conv_transpose2d(x, swapped(weight), stride=2, padding=crop)


def _convolved(x: Tensor, weight: LowRankWeight, padding: int, transposed: bool) -> Tensor:
    found: Tensor = _LowRankConv.apply(x, weight.detach(), weight.a, weight.b, padding, transposed)
    return found


class _LowRankConv(torch.autograd.Function):
    """The convolution with the whole weight, and the gradients of x and of the factors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, padding: int, transposed: bool) -> Tensor:
        y = (
            F.conv_transpose2d(x, weight.transpose(0, 1), None, 2, padding)
            if transposed
            else F.conv2d(x, weight, None, 1, padding)
        )
        ctx.save_for_backward(x.to(y.dtype), weight.to(y.dtype), a, b)
        ctx.shape = (2 if transposed else 1, padding, transposed)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, weight, a, b = ctx.saved_tensors
        stride, padding, transposed = ctx.shape
        rank, scale = a.shape[1], 1 / math.sqrt(a.shape[1])

        def laid(w: Tensor) -> Tensor:
            return w.transpose(0, 1) if transposed else w

        def gradients(grad: Tensor, w: Tensor, of_x: bool) -> Tensor:
            pair = torch.ops.aten.convolution_backward(
                grad, x, w, None, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1, [of_x, not of_x, False]
            )
            found: Tensor = pair[0 if of_x else 1]
            return found

        dx = gradients(dy, laid(weight), True) if ctx.needs_input_grad[0] else None
        rows = laid(b.to(x.dtype).view(rank, *weight.shape[1:]))
        seen = (F.conv_transpose2d if transposed else F.conv2d)(x, rows, None, stride, padding)
        da = torch.einsum("nohw,nrhw->or", dy, seen).to(a.dtype) * scale
        mixed = F.conv2d(dy, a.to(dy.dtype).t()[:, :, None, None])
        db = laid(gradients(mixed, rows, False)).reshape(b.shape).to(b.dtype) * scale
        return dx, None, da, db, None, None
