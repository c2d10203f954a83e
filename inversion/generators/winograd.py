"""3x3 convolutions with frozen weights by minimal filtering, F(2x2, 3x3) (Winograd 1980; Lavin and Gray 2016).

Four pixels of the output come from a patch d of 4x4 pixels by 16 products instead of 36: A^T [(G g G^T) * (B^T d B)] A.
What is done to weights is done once, and around the products there are sums of two or three values only. With 512
channels in float32 the rounding is 7e-7 of the values' spread (root mean square), between the 2e-7 and 1.2e-6 of
PyTorch's own convolutions of a plain and a `channels_last` map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.generators.frozen import once

LINEAR_OPS = ("_reorder_linear_weight", "_linear_pointwise")
LEAST_TILES = 32  # patches: with fewer, reading 16 weights instead of 9 takes longer than their products (measured)
LEAST_WORK = 1 << 23  # patches times channels in and out: with less, the sums take longer than the products (measured)

Grid = list[list[Tensor]]
"""Tensors [T, C] by their place in a patch, row by row; T counts patches."""


def few_products(x: Tensor, weight: Tensor, padding: int) -> bool:
    """Whether the convolution of x [N, I, H, W] with a weight [O, I, k, k] is done sooner here."""
    down, across = (_tiles(pixels + 2 * padding - 2) for pixels in x.shape[2:])
    tiles = x.shape[0] * down * across
    return weight.shape[2:] == (3, 3) and tiles >= LEAST_TILES and tiles * weight[:, :, 0, 0].numel() >= LEAST_WORK


def convolve_by_tiles(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`F.conv2d` of x [N, I, H, W] with a frozen weight [O, I, 3, 3], `padding` pixels a side."""
    count, _, height, width = x.shape
    height, width = height + 2 * padding - 2, width + 2 * padding - 2
    down, across = _tiles(height), _tiles(width)
    padded = _fitted(x, padding, 2 * down + 2, 2 * across + 2)
    patches = [[_every_other(padded, row, column, down, across) for column in range(4)] for row in range(4)]
    products = _multiplied(_both_ways(patches, _before), weight, "products", lambda w: w)
    found = x.new_empty(count, 2 * down, 2 * across, weight.shape[0])
    for row, line in enumerate(_both_ways(products, _after)):
        for column, values in enumerate(line):
            found[:, row::2, column::2] = values.view(count, down, across, -1)
    return found[:, :height, :width].permute(0, 3, 1, 2)


def derivative_by_tiles(dy: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The derivative of x [N, I, H, W] from that of its convolution, dy [N, O, H + 2 padding - 2, W + 2 padding - 2]:
    every step of `convolve_by_tiles` transposed, the last one first."""
    count, _, height, width = dy.shape
    down, across = _tiles(height), _tiles(width)
    padded = _fitted(dy, 0, 2 * down, 2 * across)
    outputs = [[_every_other(padded, row, column, down, across) for column in range(2)] for row in range(2)]
    products = _multiplied(_both_ways(outputs, _of_after), weight, "products, of the derivative", lambda w: w.t())
    found = dy.new_zeros(count, 2 * down + 2, 2 * across + 2, weight.shape[1])
    for row, line in enumerate(_both_ways(products, _of_before)):
        for column, values in enumerate(line):
            _every_other(found, row, column, down, across).add_(values.view(count, down, across, -1))
    inner = found[:, padding : height + 2 - padding, padding : width + 2 - padding]
    return inner.permute(0, 3, 1, 2)


def _tiles(pixels: int) -> int:
    """Patches along so many pixels of output."""
    return (pixels + 1) // 2


def _fitted(x: Tensor, before: int, height: int, width: int) -> Tensor:
    """x [N, C, h, w] as [N, height, width, C], with zeros before and behind."""
    last = x.permute(0, 2, 3, 1).contiguous()
    behind = width - before - last.shape[2], height - before - last.shape[1]
    return F.pad(last, (0, 0, before, behind[0], before, behind[1]))


def _every_other(padded: Tensor, row: int, column: int, down: int, across: int) -> Tensor:
    """That pixel of every patch, [N, down, across, C]."""
    return padded[:, row : row + 2 * down - 1 : 2, column : column + 2 * across - 1 : 2]


def _both_ways(grid: Grid, mix: Callable[[Sequence[Tensor]], list[Tensor]]) -> Grid:
    """A grid whose columns, then rows, are mixed."""
    columns = [mix([line[column] for line in grid]) for column in range(len(grid[0]))]
    return [mix([column[row] for column in columns]) for row in range(len(columns[0]))]


def _before(d: Sequence[Tensor]) -> list[Tensor]:
    """B^T d."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _after(m: Sequence[Tensor]) -> list[Tensor]:
    """A^T m."""
    return [(m[1] + m[2]).add_(m[0]), (m[1] - m[2]).sub_(m[3])]


def _of_after(y: Sequence[Tensor]) -> list[Tensor]:
    """A y."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _of_before(v: Sequence[Tensor]) -> list[Tensor]:
    """B v."""
    return [v[0], (v[1] - v[2]).add_(v[3]), (v[1] + v[2]).sub_(v[0]), -v[3]]


def _of_weight(g: Tensor, axis: int) -> Tensor:
    """G g along an axis of three."""
    first, middle, last = g.unbind(axis)
    outer = first + last
    return torch.stack([first, (outer + middle) / 2, (outer - middle) / 2, last], dim=axis)


def _multiplied(grid: Grid, weight: Tensor, name: str, laid: Callable[[Tensor], Tensor]) -> Grid:
    """Each of the 16 values with its weight [O, I], or what `laid` makes of that: patches in rows [T, C]."""
    rows = grid[0][0][..., 0].numel()

    def packed() -> list[list[Tensor]]:
        squares = _of_weight(_of_weight(weight.double(), 2), 3).to(weight.dtype).permute(2, 3, 0, 1)
        packing = torch.ops.mkldnn._reorder_linear_weight
        return [[packing(laid(one).contiguous(), rows) for one in line] for line in squares]

    def product(values: Tensor, one: Tensor) -> Tensor:
        flat = values.reshape(rows, -1)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(flat, one, None, "none", [], "")
        return found

    weights = once(weight, name, packed)
    return [[product(*pair) for pair in zip(*lines, strict=True)] for lines in zip(grid, weights, strict=True)]
