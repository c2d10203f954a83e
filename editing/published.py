"""DragGAN as published (Pan et al. 2023), the yardstick of our own drags: full-size features and a picture every step.

Written from the paper. Where `editing.drag` measures in standard deviations of latents and features, this one takes the
paper's plain numbers, and it returns its last state, not its best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from editing.drag import DragStep, Edited, StopReason, to_frame
from editing.drag_task import PAPER_R1_PX, PAPER_SIZE_PX, check_start, keep_mask, pick_resolution, pick_stop
from editing.points import PointsLike, check_pairs
from editing.trackers import disc_offsets, sample, search
from inversion.generators.packed import packed_convolutions
from inversion.generators.protocol import Generator, NoiseMaps

LAYERS = 6
WHOLE_PX = 0.71  # half a pixel's diagonal: as near as a search in whole pixels is sure to get


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """The paper's numbers: `lr` of Adam in W, radii in pixels of a 512 px picture (r1_px 0: 3), the block's height
    (0: the sixth), moved W+ layers (0: six), and `stop_px` in crop pixels (0: 1 px of 512, twice that for more than
    five points, but no less than whole pixels can promise)."""

    steps: int = 300
    lr: float = 2e-3
    r1_px: float = PAPER_R1_PX
    r2_px: float = 12.0
    mask_weight: float = 20.0
    feature_resolution: int = 0
    w_layers: int = 0
    stop_px: float = 0.0
    frame_every: int = 2


@dataclass(frozen=True, eq=False, slots=True)
class _Scene:
    """What stays; `at` is the block, targets [N, 2] and the disc `patch` are in crop pixels."""

    generator: Generator
    noise: NoiseMaps | None
    w: Tensor
    layers: int
    at: int
    targets: Tensor
    patch: Tensor
    keep: Tensor | None
    mask_weight: float

    def draw(self, leaf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ws, picture, and full-size features [1, C, R, R] of the moved layers."""
        ws = torch.cat([leaf, self.w[:, self.layers :]], dim=1)
        image, found = self.generator.synthesize_with_features(ws, self.at, "const", self.noise)
        return ws, image, F.interpolate(found, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def loss(self, features: Tensor, first: Tensor, points: Tensor) -> Tensor:
        """Motion supervision and the mask's term (eq. 1)."""
        loss = _motion_loss(features, points, self.targets, self.patch)
        if self.keep is None:
            return loss
        return loss + self.mask_weight * ((features - first).abs() * self.keep).mean()


@torch.enable_grad()
@packed_convolutions()
def drag_published(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    handles_crop: PointsLike,
    targets_crop: PointsLike,
    mask_crop: Tensor | None = None,
    settings: PublishedSettings | None = None,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Edited:
    """Move handles to targets [N, 2] in crop pixels by motion supervision and point tracking (eq. 1 to 3).

    w [1, L, D]; mask_crop [1, 1, R, R] in [0, 1], 1 where the picture may change. UsageError for arguments that do not
    fit the generator.
    """
    settings = settings or PublishedSettings()
    scene, points = _prepare(generator, w, noise, handles_crop, targets_crop, mask_crop, settings)
    size, tracks, frames, step = generator.resolution, [points], [], 0
    radius = round(settings.r2_px * size / PAPER_SIZE_PX)
    least_px = WHOLE_PX * pick_stop(0.0, PAPER_SIZE_PX, len(points))
    stop_px = settings.stop_px or max(pick_stop(0.0, size, len(points)), least_px)
    leaf = scene.w[:, : scene.layers].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([leaf], lr=settings.lr)
    ws, image, features = scene.draw(leaf)
    first, template = features.detach(), sample(features.detach(), points)[:, None]
    while (reason := _verdict((scene.targets - points).norm(dim=1), stop_px, step, settings.steps)) is None:
        if should_stop is not None and should_stop():
            reason = "stopped"
            break
        if settings.frame_every and step % settings.frame_every == 0:
            frames.append(to_frame(image.detach()))
        loss = scene.loss(features, first, points)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        ws, image, features = scene.draw(leaf)
        with torch.no_grad():
            points = search(features, template, points, points.new_zeros(1, 2), radius).points
        tracks.append(points)
        if on_step is not None:
            distance_px = float((scene.targets - points).norm(dim=1).mean())
            drawn = partial(Tensor.detach, image)
            on_step(DragStep(step, settings.steps, float(loss.detach()), points.cpu(), distance_px, drawn))
    if settings.frame_every:
        frames.append(to_frame(image.detach()))
    metrics = {
        "distance_before_px": float((scene.targets - tracks[0]).norm(dim=1).mean()),
        "distance_after_px": float((scene.targets - points).norm(dim=1).mean()),
        "best_step": float(step),
        "feature_resolution": float(scene.at),
        "w_layers": float(scene.layers),
        "stop_px": stop_px,
        "latent_move": float((leaf.detach() - scene.w[:, : scene.layers]).square().mean().sqrt()),
    }
    return Edited(ws.detach(), image.detach(), torch.stack(tracks).cpu(), reason, step, frames, metrics)


def _prepare(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    handles_crop: PointsLike,
    targets_crop: PointsLike,
    mask_crop: Tensor | None,
    settings: PublishedSettings,
) -> tuple[_Scene, Tensor]:
    """The checked scene and the handles [N, 2]."""
    check_start(generator, w)
    size = generator.resolution
    start, goal = check_pairs(handles_crop, targets_crop, size)
    scene = _Scene(
        generator=generator,
        noise=noise,
        w=w.detach(),
        layers=min(settings.w_layers or LAYERS, generator.num_ws),
        at=pick_resolution(generator, settings.feature_resolution),
        targets=torch.as_tensor(goal).to(w),
        patch=disc_offsets((settings.r1_px or PAPER_R1_PX) * size / PAPER_SIZE_PX, w),
        keep=keep_mask(mask_crop, size, size, settings.mask_weight, w),
        mask_weight=settings.mask_weight,
    )
    return scene, torch.as_tensor(start).to(w)


def _motion_loss(features: Tensor, points: Tensor, targets: Tensor, patch: Tensor) -> Tensor:
    """The sum over points of the mean |sg F(q) - F(q + d)|, d the unit vector to the target (eq. 1)."""
    remaining = targets - points
    move = remaining / remaining.norm(dim=1, keepdim=True).clamp_min(1e-6)
    around = points[:, None] + patch
    source = sample(features, around).detach()
    return (sample(features, around + move[:, None]) - source).abs().mean(dim=(1, 2)).sum()


def _verdict(distance: Tensor, stop_px: float, step: int, steps: int) -> StopReason | None:
    if bool((distance <= stop_px).all()):
        return "arrived"
    return "cap" if step >= steps else None
