"""What a drag by features minimises: pulled handles, held anchors, the kept surroundings, the person (DragGAN, eq. 1).

Feature differences count in standard deviations of the start's maps, so that the weights mean the same on every
generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editing.drag_task import CROWD, CROWD_HOLD, FEW_HOLD, MAX_STEP_PX, DragTask, are_few, latent
from editing.following import Trail
from editing.squares import SPOT_SHARE, Seen, mask_loss, near, size_of
from editing.trackers import FeatureMap, Levels, sample

HOLD_WEIGHT = 1.0  # of anchors against motion: more slows every drag and hardly holds them better (measured)
PULL_WEIGHT = 0.1  # of the squared distance to the start, in standard deviations
GATE = 0.25  # of the feature difference to a random place: beyond, `gated` pulls towards what stood there at first
ORIGINAL_SHARE = {"present": 0.0, "original": 1.0, "both": 0.5}
CROWD_SHARE = 0.4  # of the original for a crowd: what it pulls towards is seldom all to be had


def total_loss(
    task: DragTask, code: Tensor, features: Levels | Seen, points: Tensor, lost: Tensor, trail: Trail
) -> Tensor:
    """All terms, a scalar.

    The moving handles' mean counts times the root of their number: as their sum it would overrule the rest, as their
    mean many points would not be dragged at all.
    """
    settings = task.settings
    seen, alive = near(features), ~lost & task.moving
    if settings.tracker == "line_search":
        shown = sample(seen, trail.aims[:, None] + task.patch)
        loss = _mean_of((shown - trail.template).abs().mean(dim=(1, 2)), task.moving)
    else:
        share = original_share(task, trail)
        loss = motion_loss(seen, points, task.targets, task.patch, alive, task.template, share)
    loss = loss * float(task.moving.sum()) ** 0.5 + HOLD_WEIGHT * hold_loss(seen, task)
    loss = (
        loss
        + PULL_WEIGHT * settings.pull_weight * code.square().mean()
        + settings.mask_weight * hold_factor(task) * kept_loss(task, features)
    )
    if task.person is not None:
        image = task.generator.synthesize(latent(task, code), "const", task.noise)
        loss = loss + settings.identity_weight * task.person(image)
    return loss


def original_share(task: DragTask, trail: Trail) -> Tensor:
    """How much of what is wanted is what stood at the handles at first, [N] in [0, 1]."""
    chosen = task.settings.supervision
    if chosen == "gated":
        return (trail.doubt > GATE).to(trail.doubt)
    if chosen == "auto":
        return torch.full_like(trail.doubt, CROWD_SHARE if crowded(task) else ORIGINAL_SHARE["original"])
    return torch.full_like(trail.doubt, ORIGINAL_SHARE[chosen])


def hold_factor(task: DragTask) -> float:
    """How much more firmly than by its weight the mask is held: many points would overrule it, and few bind little."""
    if crowded(task):
        return CROWD_HOLD
    return FEW_HOLD if are_few(task.settings, len(task.handles)) else 1.0


def crowded(task: DragTask) -> bool:
    """Whether the points, anchors among them, are so many that they pin the face down by themselves.

    Eight pairs with 68 points: pulled towards the original features and held as a few are, 4.7 px of 512 were left; by
    half and half, held three times as firmly, 3.9, with a quarter less change outside (published: 5.2).
    """
    return len(task.handles) >= CROWD


def motion_loss(
    features: FeatureMap,
    points: Tensor,
    targets: Tensor,
    patch: Tensor,
    alive: Tensor,
    original: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Mean |F(q + d) - wanted(q)| over discs q round the living points, a scalar.

    points, targets [N, 2]; patch [K, 2] offsets of the disc; alive [N] bool. d points to the target and is MAX_STEP_PX
    long, or shorter where less remains, so that a handle can land between two pixels. Wanted is what the discs show now
    (DragGAN eq. 1) and, by `share` [N], `original` [N, K, C] (GoodDrag, Zhang et al. 2024): it does not drift with the
    handle.
    """
    remaining = targets - points
    move = remaining * (MAX_STEP_PX / remaining.norm(dim=1, keepdim=True).clamp_min(MAX_STEP_PX))
    around = points[:, None] + patch
    moved = sample(features, around + move[:, None])
    present = 0.0 if share is None else share
    per_point = moved.new_zeros(len(points))
    if share is None or bool((share < 1).any()):
        source = sample(features, around).detach()
        per_point = per_point + (1.0 - present) * (moved - source).abs().mean(dim=(1, 2))
    if original is not None and share is not None and bool((share > 0).any()):
        per_point = per_point + share * (moved - original).abs().mean(dim=(1, 2))
    return _mean_of(per_point, alive)


def hold_loss(features: FeatureMap, task: DragTask) -> Tensor | float:
    """Mean |F(q) - F0(q)| over discs round the anchors: what stands there at the start shall stay there."""
    anchors = ~task.moving
    if not bool(anchors.any()):
        return 0.0
    change = sample(features, task.handles[:, None] + task.patch) - task.template
    return size_of(change[anchors], 1.0).mean()


def kept_loss(task: DragTask, features: Levels | Seen) -> Tensor | float:
    """Mean change of the coarsest and the finest map where the mask holds."""
    if task.keep is None:
        return 0.0
    if isinstance(features, Seen):
        assert task.squares is not None
        assert task.squares.kept is not None
        return mask_loss(task.squares.kept, features, task.stds[0])
    shares = (SPOT_SHARE, 1.0 - SPOT_SHARE) if len(task.levels) > 1 else (1.0,)
    loss: Tensor | float = 0.0
    for share, number in zip(shares, (0, -1), strict=False):
        now, start = features.maps[number], task.start.maps[number]
        assert isinstance(now, Tensor)
        assert isinstance(start, Tensor)
        keep = torch.nn.functional.interpolate(task.keep, size=now.shape[2:], mode="area")
        loss = loss + share * (size_of(now - start, task.stds[number]) * keep).mean()
    return loss


def _mean_of(per_point: Tensor, chosen: Tensor) -> Tensor:
    return (per_point * chosen).sum() / chosen.sum().clamp_min(1)
