"""What stays fixed during a drag: settings, the checked task, and the rules that pick block, layers and distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import UsageError
from editing.axes import LatentAxes, latent_axes
from editing.following import learned_filters
from editing.points import PointsLike, check_pairs
from editing.squares import Plan, plan
from editing.step_maps import Maps, can_record, step_maps
from editing.trackers import REFINE_REACH_PX, Levels, disc_offsets, feature_from_crop, sample
from inversion.generators.packed import packed_convolutions
from inversion.generators.protocol import Generator, Layered, NoiseMaps
from inversion.speed import Speed

TrackerName = Literal["nearest", "line_search", "filter"]
Supervision = Literal["auto", "present", "original", "both", "gated"]
Pace = Literal["auto", "even"]
Person = Callable[[Tensor], Tensor]
"""How far a picture [1, 3, R, R] is from showing the person of the start: a differentiable scalar."""

PAPER_SIZE_PX = 512  # the size in which the paper's radii and stop distance are given
PAPER_BLOCK_PX = 128  # the paper's feature block
AUTO_BLOCK_PX = 64  # the one that is chosen when none is asked for
CROWD = 20  # points that pin the face down by themselves
CROWD_HOLD = 3.5  # times the weight of the mask for a crowd, whose terms would overrule it
FEW = 3  # points, anchors among them, below which they are so few that all the rest may change
FEW_R1_PX, R1_PX, PAPER_R1_PX = 30.0, 25.0, 3.0  # radius that is pulled at a handle, in pixels of a 512 px image
FEW_HOLD, FEW_LR = 4.0, 1.25  # times the weight of the mask and the step size for a few
FEW_STOP, FEW_STOP_WAY = 4.0, 0.4  # for a few: times the stop distance, but no more than this share of the way
LAYOUT_BLOCK_PX = 64  # blocks above it draw texture and colour, not layout
LEAST_LEVEL_PX = 32  # coarser maps hardly tell where a point is
MIN_DISC_PX = 1.0  # feature pixels
MIN_SEARCH_PX = 2  # feature pixels
MAX_STEP_PX = 1.0  # feature pixels a patch is asked to move in one step
MIN_STOP_PX = 0.35  # crop pixels: finer than the tracker can tell on a small crop
MANY_POINTS = 5  # above this the paper doubles the stop distance


@dataclass(frozen=True, slots=True)
class DragSettings:
    """How a drag is run; 0 means automatic for r1_px, feature_resolution, w_layers and
    stop_px.

    `lr` is the step in standard deviations of the generator's latents; `r1_px`, `r2_px` are the supervision and search
    radii of a 512 px image and scale with the crop; `stop_px` is in crop pixels; `frame_every` 0 renders no frames;
    `pull_weight` holds the latent near its start (times the built-in weight of its mean squared distance in standard
    deviations); `identity_weight` is of a `Person`, which asks for a picture every step.

    `tracker` finds the handles again: nearest features (DragGAN), line_search (FreeDrag) or filter (StableDrag).
    `supervision` is what shall come to stand a step nearer to the target: what stands at the handle at present
    (DragGAN), what stood there originally (GoodDrag), both, or gated: the original where the present is in doubt
    (StableDrag); auto is the original for a few points and a mixture for a crowd, whose original features are seldom
    all to be had on another face's places; a line search pulls its templates instead. `pulls` are the steps from one
    tracking to the next. `pace` auto takes long steps at first and shorter ones where nothing is gained, even the same
    all the way. `speed` fast draws feature maps in bfloat16, and on a CUDA device exact draws them without TF32;
    pictures are never drawn in bfloat16.
    """

    steps: int = 120
    lr: float = 0.04
    tracker: TrackerName = "nearest"
    supervision: Supervision = "auto"
    pulls: int = 1
    pace: Pace = "auto"
    r1_px: float = 0.0
    r2_px: float = 12.0
    mask_weight: float = 1.0
    feature_resolution: int = 0
    w_layers: int = 0
    stop_px: float = 0.0
    frame_every: int = 2
    pull_weight: float = 1.0
    identity_weight: float = 0.0
    speed: Speed = "auto"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("tracker", self.tracker, get_args(TrackerName)),
            ("supervision", self.supervision, get_args(Supervision)),
            ("pace", self.pace, get_args(Pace)),
        ):
            if value not in allowed:
                raise UsageError(f"edit.{name} is {value}; it must be one of {', '.join(allowed)}.")
        if self.speed not in get_args(Speed):
            raise UsageError(f"A drag's speed is {self.speed}; it must be one of {', '.join(get_args(Speed))}.")
        _check_range("pulls", self.pulls, 1, 100)
        _check_range("steps", self.steps, 0, 100_000)
        _check_range("lr", self.lr, 1e-8, 10.0)
        _check_range("r1_px", self.r1_px, 0.0, PAPER_SIZE_PX)
        _check_range("r2_px", self.r2_px, 0.0, PAPER_SIZE_PX)
        for name in ("mask_weight", "pull_weight", "identity_weight", "stop_px"):
            _check_range(name, getattr(self, name), 0.0, 1e9)
        for name in ("feature_resolution", "w_layers", "frame_every"):
            _check_range(name, getattr(self, name), 0, 100_000)


@dataclass(frozen=True, eq=False, slots=True)
class DragTask:
    """What stays fixed during a drag; points and lengths in feature pixels unless the name says otherwise.

    handles, targets [N, 2]; moving [N] bool is False for anchors, pairs that start within the stop distance; `start`
    the maps of the start at `levels`, finest first, each scaled to its standard deviation and so that all levels weigh
    the same; `maps` draws those of other latents; template [N, K, C] what they show at the offsets patch [K, 2] round
    the handles; typical [N] its mean squared difference to a random place; keep [1, 1, r, r] is 1 where nothing may
    change, or None; filters [N, C] of the tracker `filter`; squares is the plan of a drag that does not compute whole
    maps.
    """

    generator: Generator
    noise: NoiseMaps | None
    w_start: Tensor
    axes: LatentAxes
    settings: DragSettings
    resolution: int
    layers: int
    handles: Tensor
    targets: Tensor
    moving: Tensor
    template: Tensor
    typical: Tensor
    levels: tuple[int, ...]
    maps: Maps
    start: Levels
    stds: tuple[float, ...]
    keep: Tensor | None
    patch: Tensor
    search_px: int
    stop_px: float
    squares: Plan | None
    filters: Tensor | None
    person: Person | None


@packed_convolutions()
def prepare(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    handles_crop: PointsLike,
    targets_crop: PointsLike,
    mask_crop: Tensor | None,
    settings: DragSettings,
    axes: LatentAxes | None = None,
    person: Person | None = None,
    maps: Maps | None = None,
) -> DragTask:
    """Check the arguments of `drag` and compute what stays fixed.

    axes, maps: those of another task of this generator, noise and settings, instead of measuring and recording anew.
    """
    check_start(generator, w)
    size = generator.resolution
    start, goal = check_pairs(handles_crop, targets_crop, size)
    largest_px = PAPER_BLOCK_PX if settings.tracker == "line_search" else AUTO_BLOCK_PX
    resolution = pick_resolution(generator, settings.feature_resolution, largest_px)
    levels = pick_levels(generator, resolution)
    handles, targets = (feature_from_crop(torch.as_tensor(p).to(w), size, resolution) for p in (start, goal))
    w = w.detach()
    draw = maps or step_maps(generator, w, levels, noise, settings.speed)
    with torch.no_grad():
        drawn = [x.clone() for x in draw(w)]  # recorded maps are drawn over
    stds = tuple(max(float(x.std()), 1e-8) for x in drawn)
    shown = Levels(tuple(drawn), scales_of(drawn, stds))
    patch = disc_offsets(max(pick_r1(settings, len(start)) * resolution / PAPER_SIZE_PX, MIN_DISC_PX), w)
    stop_px = pick_stop(settings.stop_px, size, len(start))
    if are_few(settings, len(start)) and not settings.stop_px:
        longest_px = float(np.linalg.norm(goal - start, axis=1).max(initial=0.0))
        stop_px = max(stop_px, min(FEW_STOP * stop_px, FEW_STOP_WAY * longest_px))
    search_px = max(round(settings.r2_px * resolution / PAPER_SIZE_PX), MIN_SEARCH_PX)
    keep = keep_mask(mask_crop, size, resolution, settings.mask_weight, w)
    whole = can_record(w.device) or settings.speed == "fast"  # squares save products, and lie elsewhere soon
    reach = search_px + REFINE_REACH_PX + float(patch.abs().max()) + MAX_STEP_PX
    return DragTask(
        generator=generator,
        noise=noise,
        w_start=w,
        axes=axes or latent_axes(generator, w),
        settings=settings,
        resolution=resolution,
        layers=pick_layers(generator, settings.w_layers, resolution),
        handles=handles,
        targets=targets,
        moving=(targets - handles).norm(dim=1) * (size / resolution) > stop_px,
        template=sample(shown, handles[:, None] + patch),
        typical=typical_difference(shown, handles),
        levels=levels,
        maps=draw,
        start=shown,
        stds=stds,
        keep=keep,
        patch=patch,
        search_px=search_px,
        stop_px=stop_px,
        squares=None if whole else plan(generator, w, noise, drawn[0], len(start), reach, keep, shown.scales),
        filters=learned_filters(shown, handles) if settings.tracker == "filter" else None,
        person=person if settings.identity_weight else None,
    )


def scales_of(maps: Sequence[Tensor], stds: Sequence[float]) -> tuple[float, ...]:
    """Factors with which mean squares over the values of all maps are the mean of those of each, in standard
    deviations."""
    channels = sum(x.shape[1] for x in maps) / len(maps)
    return tuple((channels / x.shape[1]) ** 0.5 / std for x, std in zip(maps, stds, strict=True))


def check_start(generator: Generator, w: Tensor) -> None:
    """UsageError when w is not one latent [1, L, D] of this generator."""
    if w.shape != (1, generator.num_ws, generator.w_dim):
        raise UsageError(f"A drag takes w of [1, {generator.num_ws}, {generator.w_dim}], not {list(w.shape)}.")


def typical_difference(features: Levels, points: Tensor) -> Tensor:
    """Mean squared difference [N] of the values at points [N, 2] to those of all places: variance plus bias."""
    values, parts = sample(features, points), []
    for part, scale in zip(features.maps, features.scales, strict=True):
        assert isinstance(part, Tensor), "typical differences are those of whole maps"
        flat, own = part[0].flatten(1) * scale, values[:, : part.shape[1]]
        values = values[:, part.shape[1] :]
        parts.append(flat.var(dim=1, correction=0) + (own - flat.mean(dim=1)).square())
    return torch.cat(parts, dim=1).mean(dim=1)


def latent(task: DragTask, code: Tensor) -> Tensor:
    """w [1, L, D] of a code: the start plus the move in the leading layers; the start itself, bit by bit, for zeros."""
    head = task.w_start[:, : task.layers] + task.axes.move(code)
    return torch.cat([head, task.w_start[:, task.layers :]], dim=1)


def distance_px(task: DragTask, points: Tensor) -> Tensor:
    """Distance [N] of points in feature pixels to their targets, in crop pixels."""
    return (task.targets - points).norm(dim=1) * (task.generator.resolution / task.resolution)


def pick_resolution(generator: Generator, wanted: int, largest_px: int = PAPER_BLOCK_PX) -> int:
    """The feature block: `wanted`, or for 0 that of `largest_px`, or the last of a smaller generator."""
    blocks = generator.block_resolutions
    if not wanted:
        return max((r for r in blocks if r <= largest_px), default=blocks[0])
    if wanted not in blocks:
        raise UsageError(f"edit.feature_resolution is {wanted}; this generator has {blocks}, and 0 means automatic.")
    return wanted


def pick_r1(settings: DragSettings, points: int) -> float:
    """The radius that is pulled, in pixels of a 512 px image: `settings.r1_px`, or for 0 by the number of points.

    On the 64 px block, 40 pairs with five points had a face distance of 1.00 times the published way's by discs of the
    paper's size, of 0.95 by discs of 18 px and of 0.93 by 25 px, landing as near; on the 128 px block 0.96 by the
    paper's. A crowd pins the face down by itself.
    """
    if settings.r1_px:
        return settings.r1_px
    if settings.tracker == "line_search" or points >= CROWD:
        return PAPER_R1_PX
    return FEW_R1_PX if are_few(settings, points) else R1_PX


def pick_levels(generator: Generator, resolution: int) -> tuple[int, ...]:
    """The blocks that points look at, finest first: the feature block and those down to 32 px, where the generator can
    give several at once.

    The nose tip, dragged to where another sample has it, landed 3.7 px of 512 from there by all levels and 5.7 by the
    128 px block alone (dlib; eight pairs).
    """
    if not isinstance(generator, Layered):
        return (resolution,)
    coarser = [r for r in generator.block_resolutions if LEAST_LEVEL_PX <= r < resolution]
    return (resolution, *reversed(coarser))


def pick_layers(generator: Generator, wanted: int, resolution: int) -> int:
    """How many leading W+ layers move: `wanted`, or for 0 those of the blocks up to 64 px, which lay the face out.

    Never more than reach the feature block: later ones get no gradient. The paper moves six of sixteen; on a face
    generator of 128 px nine layers needed a third fewer steps and a quarter less latent move than seven.
    """
    used = generator.ws_used_by(resolution)
    if wanted > generator.num_ws:
        raise UsageError(f"edit.w_layers is {wanted}; this generator has {generator.num_ws}, and 0 means automatic.")
    layout = max(r for r in generator.block_resolutions if r <= LAYOUT_BLOCK_PX)
    return min(used, wanted or generator.ws_used_by(layout))


def pick_stop(wanted_px: float, size: int, points: int) -> float:
    """The distance in crop pixels that counts as arrived: `wanted_px`, or for 0 the paper's, scaled to the crop."""
    if wanted_px:
        return wanted_px
    return max(size / PAPER_SIZE_PX, MIN_STOP_PX) * (2.0 if points > MANY_POINTS else 1.0)


def are_few(settings: DragSettings, points: int) -> bool:
    """Whether the points, anchors among them, are so few that a disc of the paper's size at each says little of the
    face: a larger one is pulled, the rest held more firmly, and the last of the way is not fought for.

    The nose tip of 200 pairs landed at 0.63 of the published way's distance with 1.20 times its face distance as
    several points are dragged, and so at 0.59 with 1.07. A line search pulls templates of its own and was not measured
    so.
    """
    return points < FEW and settings.tracker != "line_search"


def keep_mask(mask: Tensor | None, size: int, resolution: int, weight: float, like: Tensor) -> Tensor | None:
    """1 - mask averaged to [1, 1, r, r], or None when nothing has to be kept; UsageError for another shape or range."""
    if mask is None or not weight:
        return None
    if mask.shape != (1, 1, size, size):
        raise UsageError(f"The drag's mask has the shape {list(mask.shape)}; [1, 1, {size}, {size}] is needed.")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise UsageError("The drag's mask holds values outside [0, 1]; 1 is where the picture may change.")
    keep = 1.0 - F.interpolate(mask.to(like), size=(resolution, resolution), mode="area")
    return keep if bool((keep > 0).any()) else None


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"edit.{name} is {value}; it must lie between {low:g} and {high:g}.")
