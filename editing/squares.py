"""Drags that compute a feature map in squares round their points, where that is less work than the whole map.

What the points look at is the same as in the whole map. The mask's term, which asks for the whole map, is taken from
the last map that is computed whole anyway, and in turns from a few squares spread over the map, which see what finer
blocks add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from editing.trackers import Levels, Squares, map_size
from inversion.generators.protocol import Generator, NoiseMaps, Patches, Squared
from inversion.generators.squares import cut_squares

WORTHWHILE = 0.7  # of the whole map's work
SPOTS = 2  # squares a step that the mask's term looks at
SPOT_SHARE = 0.25  # of the mask's term: few squares a step are a noisy sight
SEED = 0
ROUNDED = 1e-3  # of the features' standard deviation: smaller changes are those of rounding


def size_of(change: Tensor, std: float) -> Tensor:
    """|change| in standard deviations (Huber 1964): unlike that of |x|, the derivative at no change is 0 whatever its
    rounding, which differs between a map and its squares."""
    return F.huber_loss(change / std, torch.zeros_like(change), reduction="none", delta=ROUNDED) / ROUNDED


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """What the mask's term compares: the start of the last whole map [1, B, b, b] with `coarse_keep` [1, 1, b, b], and
    that of `spots` [K, C, s, s] which begin at `starts` [K, 2]; their weights [K, 1, s, s] add up to the map's keep.
    """

    coarse: Tensor
    coarse_keep: Tensor
    coarse_std: float
    starts: Tensor
    spots: Tensor
    weights: Tensor
    order: tuple[int, ...]

    def numbers(self, step: int) -> list[int]:
        """The spots that a step looks at; in turn all of them."""
        count = min(SPOTS, len(self.order))
        return [self.order[(step * count + i) % len(self.order)] for i in range(count)]


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """How squares are laid: `reach` pixels and a fraction on each side of a point; `kept` is None without a mask;
    `scales` of the levels, finest first."""

    reach: int
    side: int
    kept: Kept | None
    scales: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """What one step sees: the levels of squares round the points, the last whole map and, with a mask, this step's
    spots."""

    near: Levels
    coarse: Tensor
    spots: Tensor
    numbers: list[int]


def plan(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    features: Tensor,
    points: int,
    reach: float,
    keep: Tensor | None,
    scales: tuple[float, ...],
) -> Plan | None:
    """The plan for so many points on this map of features [1, C, r, r], or None where the whole map is less work.

    `reach`: how far from a point anything is looked at before the squares are laid anew, in feature pixels; `keep`
    [1, 1, r, r] is 1 where the mask holds; `scales` of the levels that the points look at.
    """
    at, whole_px = features.shape[2], math.ceil(reach)
    side = 2 * whole_px + 2
    if not isinstance(generator, Squared) or features.shape[2] != features.shape[3]:
        return None
    if generator.squares_work(at, points + (SPOTS if keep is not None else 0), side) > WORTHWHILE:
        return None
    kept = None if keep is None else _kept(generator, w, noise, features, keep, side)
    return Plan(whole_px, side, kept, scales)


def _kept(generator: Squared, w: Tensor, noise: NoiseMaps | None, features: Tensor, keep: Tensor, side: int) -> Kept:
    at = features.shape[2]
    count = math.ceil(at / side)
    along = torch.linspace(0, at - side, count).round().long()
    starts = torch.cartesian_prod(along, along).flip(1)
    covered = torch.zeros_like(keep)
    for x, y in starts.tolist():
        covered[..., y : y + side, x : x + side] += 1
    weights = cut_squares(keep / covered, starts, side)
    needed = weights.flatten(1).amax(dim=1).cpu() > 0
    starts, weights = starts[needed], weights[needed.to(weights.device)]
    with torch.no_grad():
        _, coarse = generator.feature_squares(w, at, starts[:1], side, "const", noise)
    order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(SEED)).tolist()
    return Kept(
        coarse=coarse,
        coarse_keep=F.interpolate(keep, size=coarse.shape[2:], mode="area"),
        coarse_std=max(float(coarse.std()), 1e-8),
        starts=starts,
        spots=cut_squares(features, starts, side),
        weights=weights,
        order=tuple(order),
    )


def look(
    generator: Squared, ws: Tensor, noise: NoiseMaps | None, at: int, planned: Plan, points: Tensor, step: int
) -> Seen:
    """The squares round points [N, 2] and the spots of this step, in one pass that keeps the graph from ws."""
    starts = points.floor().long().cpu() - planned.reach
    numbers = planned.kept.numbers(step) if planned.kept is not None else []
    everything = torch.cat([starts, planned.kept.starts[numbers]]) if planned.kept is not None else starts
    found, coarse = generator.feature_squares(ws, at, everything, planned.side, "const", noise)
    maps: list[Tensor | Squares] = [_of_points(patches, points) for patches in found[:-1]]
    near = Levels(tuple([*maps, coarse][: len(planned.scales)]), planned.scales)
    return Seen(near, coarse, found[0].values[len(starts) :], numbers)


def near(features: Levels | Seen) -> Levels:
    """What the points look at."""
    return features.near if isinstance(features, Seen) else features


def _of_points(patches: Patches, points: Tensor) -> Squares:
    """The first squares, one for each point."""
    count = len(points)
    return Squares(patches.values[:count], patches.starts[:count].to(points), patches.size)


def mask_loss(kept: Kept, seen: Seen, feature_std: float) -> Tensor:
    """Mean change where the mask holds, in standard deviations: a scalar that estimates that of the whole map."""
    coarse = (size_of(seen.coarse - kept.coarse, kept.coarse_std) * kept.coarse_keep).mean()
    change = (size_of(seen.spots - kept.spots[seen.numbers], feature_std) * kept.weights[seen.numbers]).sum()
    height, width = map_size(seen.near)
    pixels = seen.spots.shape[1] * height * width
    spots = change / pixels * (len(kept.order) / len(seen.numbers))
    return (1 - SPOT_SHARE) * coarse + SPOT_SHARE * spots
