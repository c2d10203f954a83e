"""Finding a point again on a feature map: sampling, window search and sub-pixel refinement (pure functions).

Points are (x, y) in pixels of the feature map, pixel centres at integer coordinates; maps are [1, C, h, w], or squares
of one, one for each point, or several of these looked at together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

REFINE_ITERATIONS = 3
REFINE_REACH_PX = 1.0  # the window search is already within one pixel
DAMPING = 1e-3  # of the Gauss-Newton matrix's trace: flat texture gives no step instead of a wild one
CHUNK_ELEMENTS = 1 << 22  # most values gathered at once in the window search


@dataclass(frozen=True, eq=False, slots=True)
class Match:
    """Where templates were found: points [N, 2] and the mean squared feature difference there, residual [N]."""

    points: Tensor
    residual: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Squares:
    """Parts of a feature map, one for each of N points: values [N, C, s, s], the places [N, 2] (x, y) of their first
    pixels, and the `size` (h, w) of the map."""

    values: Tensor
    starts: Tensor
    size: tuple[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Levels:
    """Maps of one picture at several sizes, looked at together: a value is those of all maps, each times its scale.

    Points are in pixels of the first map, which is the finest. Coarse maps tell parts of a face apart, fine ones tell
    where they are.
    """

    maps: tuple[Tensor | Squares, ...]
    scales: tuple[float, ...]


FeatureMap = Tensor | Squares | Levels
Extra = Callable[[Tensor, slice], Tensor]
"""What a place costs beside its difference to the template: values [n, M, C] of the places of some points -> [n, M]."""


def map_size(features: FeatureMap) -> tuple[int, int]:
    """(h, w) of the map, of which `features` may be parts."""
    if isinstance(features, Levels):
        return map_size(features.maps[0])
    if isinstance(features, Squares):
        return features.size
    return features.shape[2], features.shape[3]


def map_rows(features: FeatureMap, rows: slice) -> FeatureMap:
    """What some of the points look at."""
    if isinstance(features, Levels):
        return Levels(tuple(_rows(part, rows) for part in features.maps), features.scales)
    return _rows(features, rows)


def _rows(features: Tensor | Squares, rows: slice) -> Tensor | Squares:
    if isinstance(features, Squares):
        return Squares(features.values[rows], features.starts[rows], features.size)
    return features


def feature_from_crop(points: Tensor, crop_size: int, feature_size: int) -> Tensor:
    """Crop pixels [..., 2] to feature pixels: f = (p + 0.5) * r / R - 0.5."""
    return (points + 0.5) * (feature_size / crop_size) - 0.5


def crop_from_feature(points: Tensor, crop_size: int, feature_size: int) -> Tensor:
    """Feature pixels [..., 2] to crop pixels, the inverse of `feature_from_crop`."""
    return (points + 0.5) * (crop_size / feature_size) - 0.5


def sample(features: FeatureMap, points: Tensor) -> Tensor:
    """Bilinear values [..., C] of features [1, C, h, w] at points [..., 2]; outside, the border's value.

    Of squares, points are [N, ..., 2], and each row is looked up in its own; of levels, C is that of all maps together.
    Differentiable in both arguments.
    """
    if isinstance(features, Levels):
        finest = map_size(features)[0]
        parts = [
            scale * sample(part, feature_from_crop(points, finest, map_size(part)[0]))
            for part, scale in zip(features.maps, features.scales, strict=True)
        ]
        return torch.cat(parts, dim=-1)
    if isinstance(features, Squares):
        return _sample_squares(features, points)
    height, width = features.shape[2:]
    values = F.grid_sample(
        features, _grid(points, (height, width)).reshape(1, -1, 1, 2), "bilinear", "border", align_corners=True
    )
    return values[0, :, :, 0].t().reshape(*points.shape[:-1], features.shape[1])


def _sample_squares(features: Squares, points: Tensor) -> Tensor:
    count, channels, side = features.values.shape[:3]
    limit = points.new_tensor([features.size[1] - 1, features.size[0] - 1])
    inside = torch.minimum(points.clamp_min(0), limit).reshape(count, -1, 2)
    grid = _grid(inside - features.starts[:, None], (side, side))[:, :, None]
    values = F.grid_sample(features.values, grid, "bilinear", "border", align_corners=True)
    return values[:, :, :, 0].transpose(1, 2).reshape(*points.shape[:-1], channels)


def _grid(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points in pixels of a map (h, w) as `grid_sample` takes them."""
    height, width = size
    return points * points.new_tensor([2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)]) - 1.0


def square_offsets(radius: int, like: Tensor) -> Tensor:
    """Integer offsets [(2 radius + 1)^2, 2] of a square, in the dtype and on the device of `like`."""
    axis = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def disc_offsets(radius: float, like: Tensor) -> Tensor:
    """Integer offsets [K, 2] of length <= radius, in the dtype and on the device of `like`."""
    square = square_offsets(int(radius), like)
    return square[square.square().sum(dim=1) <= radius * radius + 1e-6]


def track(
    features: FeatureMap, template: Tensor, points: Tensor, offsets: Tensor, radius: int, extra: Extra | None = None
) -> Match:
    """Find templates near points (DragGAN, Pan et al. 2023, eq. 3), then refine below one pixel.

    features [1, C, h, w]; template [N, K, C] holds the values wanted at `offsets` [K, 2] round each point [N, 2]. The
    search square reaches `radius` pixels from the point and never leaves the map. `extra` has a say in the search, not
    in the refinement.
    """
    return refine(features, template, search(features, template, points, offsets, radius, extra), offsets)


def search(
    features: FeatureMap, template: Tensor, points: Tensor, offsets: Tensor, radius: int, extra: Extra | None = None
) -> Match:
    """The best of the whole-pixel moves within `radius`; arguments as for `track`; `offsets` are whole pixels."""
    reach = radius + int(offsets.abs().max())
    per_point = (2 * reach + 1) ** 2 * template.shape[2]
    rows = max(1, CHUNK_ELEMENTS // per_point)
    pieces = [slice(first, first + rows) for first in range(0, len(points), rows)]
    parts = [_search_rows(features, template, points, offsets, radius, extra, part) for part in pieces]
    return Match(torch.cat([p.points for p in parts]), torch.cat([p.residual for p in parts]))


def _search_rows(
    features: FeatureMap,
    template: Tensor,
    points: Tensor,
    offsets: Tensor,
    radius: int,
    extra: Extra | None,
    part: slice,
) -> Match:
    """Every place of the square is looked up once, although the templates at neighbouring moves overlap."""
    points, template = points[part], template[part]
    shifts, moves = offsets.round().long(), square_offsets(radius, points)
    reach = radius + int(shifts.abs().max())
    across = torch.tensor([1, 2 * reach + 1], device=points.device)
    lattice = sample(map_rows(features, part), points[:, None] + square_offsets(reach, points))
    # Sums and not products of matrices, of which CUDA has none for whole numbers.
    places = ((moves.long() + reach) * across).sum(dim=1)
    looked_at = places[:, None] + (shifts * across).sum(dim=1)
    cost = points.new_zeros(len(points), len(moves))
    for some in torch.arange(template.shape[1], device=points.device).split(max(1, CHUNK_ELEMENTS // lattice.shape[1])):
        each = torch.arange(len(some), device=points.device)
        cost += _squared_differences(lattice, template[:, some])[:, looked_at[:, some], each].sum(dim=2)
    cost = cost / (template.shape[1] * template.shape[2])
    if extra is not None:
        cost = cost + extra(lattice[:, places], part)
    centres = points[:, None] + moves
    height, width = map_size(features)
    limit = points.new_tensor([width - 0.5, height - 0.5])
    outside = ((centres < -0.5) | (centres > limit)).any(dim=2) & (moves != 0).any(dim=1)
    cost = cost.masked_fill(outside, float("inf"))
    best = cost.argmin(dim=1)
    rows = torch.arange(len(points), device=points.device)
    there = lattice[rows[:, None], looked_at[best]]  # looked at again: differences of large squares are rounded
    return Match(centres[rows, best], (there - template).square().mean(dim=(1, 2)))


def _squared_differences(first: Tensor, second: Tensor) -> Tensor:
    """|a - b|^2 [N, A, B] of the rows of first [N, A, C] and second [N, B, C], by one product."""
    squares = first.square().sum(dim=2)[:, :, None] + second.square().sum(dim=2)[:, None]
    return torch.baddbmm(squares, first, second.transpose(1, 2), alpha=-2)


def refine(features: FeatureMap, template: Tensor, match: Match, offsets: Tensor) -> Match:
    """Damped Gauss-Newton steps on the squared feature difference, kept only where they lower it.

    A template that is matched exactly stays exactly where it is: a fit of a parabola to the costs would not promise so.
    """
    points, residual = match.points, match.residual
    tried, better = points, torch.ones(len(points), dtype=torch.bool, device=points.device)
    for number in range(REFINE_ITERATIONS + 1):
        values = sample(features, tried[:, None, None] + _stencil(points) + offsets)
        error = values[:, 0] - template
        if number:
            cost = error.square().mean(dim=(1, 2))
            better = cost < residual
            points = torch.where(better[:, None], tried, points)
            residual = torch.where(better, cost, residual)
        step = _gauss_newton_step(values, error)
        reach = (tried + step - match.points).clamp(-REFINE_REACH_PX, REFINE_REACH_PX)
        tried = torch.where(better[:, None], match.points + reach, points)
    return Match(points, residual)


def _stencil(like: Tensor) -> Tensor:
    """[5, 1, 2]: a place, and half a pixel right and left of it, below and above."""
    return like.new_tensor([[0.0, 0.0], [0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])[:, None]


def _gauss_newton_step(values: Tensor, error: Tensor) -> Tensor:
    """The move [N, 2] that the linearised features ask for; values [N, 5, K, C] on the stencil, error [N, K, C]."""
    slopes = torch.stack([values[:, 1] - values[:, 2], values[:, 3] - values[:, 4]], dim=1).flatten(2)
    matrix = slopes @ slopes.transpose(1, 2)
    trace = matrix.diagonal(dim1=1, dim2=2).sum(dim=1)
    eye = torch.eye(2, dtype=values.dtype, device=values.device)
    damped = matrix + (DAMPING * trace + 1e-12)[:, None, None] * eye
    return -torch.linalg.solve_ex(damped, slopes @ error.flatten(1)[:, :, None]).result[:, :, 0]
