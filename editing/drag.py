"""Point dragging on a generator's features (DragGAN, Pan et al. 2023): pure steps and the short loop that runs them.

A step computes one feature map, or only squares of it round the points, not a picture: motion supervision and tracking
read patches of one mid-network block at that block's own resolution. Points are (x, y); outside this file in crop
pixels, inside it in feature pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editing.drag_losses import total_loss
from editing.drag_task import (
    FEW_LR,
    DragSettings,
    DragTask,
    Person,
    are_few,
    distance_px,
    latent,
    prepare,
)
from editing.following import Trail, follow, set_out
from editing.points import Drag, PointsLike
from editing.squares import Seen, look, near
from editing.trackers import Levels, crop_from_feature
from inversion.generators.packed import packed_convolutions
from inversion.generators.protocol import Generator, NoiseMaps, Squared
from inversion.optimisation import MOST_ROLLBACKS, check_numbers

__all__ = [
    "Drag",
    "DragSettings",
    "DragState",
    "DragStep",
    "DragTask",
    "Edited",
    "StopReason",
    "advance",
    "begin",
    "drag",
    "prepare",
    "verdict",
    "walk",
]

StopReason = Literal["arrived", "cap", "stalled", "oscillating", "lost", "stopped", "diverged"]

LOST_STEPS = 8
STALL_STEPS = 12  # at even steps
PACE_STEPS = 5  # at steps that grow shorter, until they do
STALL_GAIN = 0.015  # of the first distance: less progress than this in so many steps is none
FIRST_PACE, FEW_FIRST_PACE, SLOWER, SLOWINGS = 2.0, 1.5, 0.5, 2
"""Times the usual step size at first (of a few points: long steps change the face more, and these are near soon), and
its factor where nothing is gained, so often before the drag has stalled."""
TO_AND_FRO = 4.0  # times as long a way as it leads: such handles swing, and others stand
ADAM_BETAS = (0.9, 0.999)
SHORT_MEMORY = 0.9  # the second of them where steps grow shorter: slopes of long steps say little of later ones
ADAM_EPS = 1e-8


@dataclass(frozen=True, eq=False, slots=True)
class DragStep:
    """What a watcher is told after a step: points [N, 2] and their mean distance to the targets, in crop pixels.

    draw: gives the picture [1, 3, R, R] of this step; it is drawn only then, and is there only until the next step.
    rollbacks: how many steps of this drag led to NaN and were taken back.
    """

    step: int
    total: int
    loss: float
    points: Tensor
    distance_px: float
    draw: Callable[[], Tensor] | None = None
    rollbacks: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Edited:
    """A finished drag: w [1, L, D], image [1, 3, R, R], tracks [T, N, 2] in crop pixels (T = steps + 1), frames RGB.

    DivergedError when latent or picture hold NaN.
    """

    w: Tensor
    image: Tensor
    tracks: Tensor
    stop_reason: StopReason
    steps: int
    frames: list[NDArray[np.uint8]]
    metrics: dict[str, float]

    def __post_init__(self) -> None:
        mend = "ask for a shorter way, lower edit.lr or check the generator"
        check_numbers("The edit's latent or picture", mend, self.w, self.image)


@dataclass(frozen=True, eq=False, slots=True)
class DragState:
    """One moment of a drag; never changed, so keeping a state is keeping a snapshot.

    code [1, layers, D] is the latent's move along `DragTask.axes`; features (whole maps or squares) carry the graph
    from it; points [N, 2] in feature pixels; lost [N] bool; `trail` is the tracker's; distance_px [N] to the targets,
    in crop pixels.
    `best_*` belong to the state of least mean distance so far; `mark` is (step, mean distance) of the last real
    progress, `mark_points` the points there and `way_px` the mean way of the moving ones since, in crop pixels.
    `rollbacks` counts the steps that led to NaN and were taken back, the last of them at step `taken_back`.
    """

    step: int
    code: Tensor
    features: Levels | Seen
    points: Tensor
    lost: Tensor
    trail: Trail
    moments: tuple[Tensor, Tensor]
    loss: float
    distance_px: Tensor
    lost_steps: int
    best_step: int
    best_code: Tensor
    best_px: float
    mark: tuple[int, float]
    mark_points: Tensor
    way_px: float
    slowings: int = 0
    rollbacks: int = 0
    taken_back: int = 0


def drag(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    handles_crop: PointsLike,
    targets_crop: PointsLike,
    mask_crop: Tensor | None = None,
    settings: DragSettings | None = None,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    person: Person | None = None,
) -> Edited:
    """Move the handles to their targets by changing the latent (DragGAN, Pan et al. 2023).

    w [1, L, D]; handles and targets [N, 2] in crop pixels; mask_crop [1, 1, R, R] in [0, 1], 1 where the picture may
    change; `person` is asked where `settings.identity_weight` is not 0. The result is the best state seen: the one with
    the least mean distance between tracked handles and targets.
    UsageError for points, masks, latents or settings that do not fit the generator.
    """
    task = prepare(
        generator, w, noise, handles_crop, targets_crop, mask_crop, settings or DragSettings(), person=person
    )
    return finish(task, *walk(task, on_step, should_stop))


def walk(
    task: DragTask,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[DragState, StopReason, list[Tensor], list[NDArray[np.uint8]]]:
    """Steps from the start to the end of a task: the last state, why it was the last, and points and frames so far."""
    state = begin(task)
    tracks, frames = [crop_points(task, state)], film(task, state, -1)
    while (reason := verdict(task, state)) is None:
        if should_stop is not None and should_stop():
            reason = "stopped"
            break
        before, state = state.step, advance(task, state)
        tracks += [crop_points(task, state)] * (state.step - before)
        frames += film(task, state, before)
        if on_step is not None:
            on_step(report(task, state))
    return state, reason, tracks, frames


def begin(task: DragTask) -> DragState:
    """The state before the first step: the start latent, the handles where they were put."""
    code = task.w_start.new_zeros(1, task.layers, task.w_start.shape[2])
    features, code = render_features(task, code, task.handles, 0)
    distance = distance_px(task, task.handles)
    mean = float(distance.mean())
    return DragState(
        step=0,
        code=code,
        features=features,
        points=task.handles,
        lost=torch.zeros(len(task.handles), dtype=torch.bool, device=code.device),
        trail=set_out(task),
        moments=(torch.zeros_like(code), torch.zeros_like(code)),
        loss=0.0,
        distance_px=distance,
        lost_steps=0,
        best_step=0,
        best_code=code.detach(),
        best_px=mean,
        mark=(0, mean),
        mark_points=task.handles,
        way_px=0.0,
    )


def advance(task: DragTask, state: DragState) -> DragState:
    """`pulls` steps of supervision, then the handles are found again; the tracking pass serves the next gradient.

    Where that leads to NaN the state before is given back, without its momentum and for steps of half the size.
    """
    found = _advanced(task, state)
    if math.isfinite(found.loss) and all(bool(x.isfinite().all()) for x in (found.code, found.points)):
        return found
    features, code = render_features(task, state.code, state.points, state.step)  # the graph of the old ones is spent
    still = torch.zeros_like(code)
    return replace(
        state,
        code=code,
        features=features,
        moments=(still, still),
        rollbacks=state.rollbacks + 1,
        taken_back=state.step,
    )


def _advanced(task: DragTask, state: DragState) -> DragState:
    code, features, moments, loss, step = state.code, state.features, state.moments, state.loss, state.step
    for _ in range(min(task.settings.pulls, task.settings.steps - state.step)):
        total = total_loss(task, code, features, state.points, state.lost, state.trail)
        (gradient,) = torch.autograd.grad(total, code)
        share = 0.5**state.rollbacks * pace(task, state.slowings)
        code, moments = adam(task, code, moments, gradient, step - state.taken_back + 1, share)
        features, code = render_features(task, code, state.points, step + 1)
        loss, step = float(total.detach()), step + 1
    with torch.no_grad():
        points, lost, trail = follow(task, state.trail, state.points, near(features))
    distance = distance_px(task, points)
    mean = float(distance.mean())
    all_lost = bool(lost[task.moving].all())
    better = mean < state.best_px and not all_lost
    gained = mean < state.mark[1] - STALL_GAIN * float(distance_px(task, task.handles).mean())
    slower = not gained and paced(task) and state.slowings < SLOWINGS and step - state.mark[0] >= PACE_STEPS
    return DragState(
        step=step,
        code=code,
        features=features,
        points=points,
        lost=lost,
        trail=trail,
        moments=moments,
        loss=loss,
        distance_px=distance,
        lost_steps=state.lost_steps + 1 if all_lost else 0,
        best_step=step if better else state.best_step,
        best_code=code.detach() if better else state.best_code,
        best_px=mean if better else state.best_px,
        mark=(step, mean if gained else state.mark[1]) if gained or slower else state.mark,
        mark_points=points if gained or slower else state.mark_points,
        way_px=0.0 if gained or slower else state.way_px + mean_way_px(task, state.points, points),
        slowings=state.slowings + slower,
        rollbacks=state.rollbacks,
        taken_back=state.taken_back,
    )


def verdict(task: DragTask, state: DragState) -> StopReason | None:
    """Why the drag ends here, or None when it goes on."""
    there = (state.distance_px <= task.stop_px) & ~state.lost
    if bool(there[task.moving].all()):
        return "arrived"
    if (end := forced_end(task, state)) is not None:
        return end
    if state.step - state.mark[0] < (PACE_STEPS if paced(task) else STALL_STEPS):
        return None
    led_px = mean_way_px(task, state.mark_points, state.points)
    swings = state.way_px > task.stop_px and state.way_px > TO_AND_FRO * led_px
    return "oscillating" if swings else "stalled"


def forced_end(task: DragTask, state: DragState) -> StopReason | None:
    """Why the drag cannot go on, wherever its points are; None when it can."""
    if state.lost_steps >= LOST_STEPS:
        return "lost"
    if state.rollbacks > MOST_ROLLBACKS:
        return "diverged"
    return "cap" if state.step >= task.settings.steps else None


def paced(task: DragTask) -> bool:
    """Whether steps are long at first and grow shorter; a line search has a pace of its own."""
    return task.settings.pace == "auto" and task.settings.tracker != "line_search"


def pace(task: DragTask, slowings: int) -> float:
    """Times `DragSettings.lr`: the step size after so many slowings."""
    few = are_few(task.settings, len(task.handles))
    if paced(task):
        return (FEW_FIRST_PACE if few else FIRST_PACE) * SLOWER**slowings
    return FEW_LR if few else 1.0


def mean_way_px(task: DragTask, first: Tensor, second: Tensor) -> float:
    """Mean way, from first to second, of the moving points that have not arrived at the second, in crop pixels."""
    way = (second - first).norm(dim=1)[task.moving & (distance_px(task, second) > task.stop_px)]
    return float(way.mean()) * task.generator.resolution / task.resolution if len(way) else 0.0


def adam(
    task: DragTask, code: Tensor, moments: tuple[Tensor, Tensor], gradient: Tensor, t: int, share: float = 1.0
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The next code and moments after one Adam step, the t-th (Kingma and Ba 2015), of a share of the step size."""
    beta1, beta2 = ADAM_BETAS[0], SHORT_MEMORY if paced(task) else ADAM_BETAS[1]
    first = beta1 * moments[0] + (1 - beta1) * gradient
    second = beta2 * moments[1] + (1 - beta2) * gradient.square()
    move = (first / (1 - beta1**t)) / ((second / (1 - beta2**t)).sqrt() + ADAM_EPS)
    lr = share * task.settings.lr
    return code.detach() - lr * move, (first, second)


def render_features(task: DragTask, code: Tensor, points: Tensor, step: int) -> tuple[Levels | Seen, Tensor]:
    """Whole maps with their graph, or squares round the points, and the code as the leaf that the graph ends in."""
    leaf, generator, plan = code.detach().requires_grad_(True), task.generator, task.squares
    with torch.enable_grad(), packed_convolutions():
        ws = latent(task, leaf)
        if plan is not None and isinstance(generator, Squared) and anchors_in_reach(task, plan.reach, points):
            return look(generator, ws, task.noise, task.resolution, plan, points, step), leaf
        return Levels(task.maps(ws), task.start.scales), leaf


def anchors_in_reach(task: DragTask, reach_px: float, points: Tensor) -> bool:
    """Whether the anchors' first places, which are held, lie in the squares round where they are found now."""
    drift = (points - task.handles).abs()[~task.moving]
    return not len(drift) or bool(drift.max() + task.patch.abs().max() <= reach_px)


def crop_points(task: DragTask, state: DragState) -> Tensor:
    """The state's points [N, 2] in crop pixels, on the CPU."""
    return crop_from_feature(state.points, task.generator.resolution, task.resolution).cpu()


def report(task: DragTask, state: DragState) -> DragStep:
    """What a watcher is told of a state."""
    mean = float(state.distance_px.mean())
    points = crop_points(task, state)
    total, draw = task.settings.steps, lambda: picture(task, state.code)
    return DragStep(state.step, total, state.loss, points, mean, draw, state.rollbacks)


def picture(task: DragTask, code: Tensor) -> Tensor:
    """The image [1, 3, R, R] of a code, without a graph."""
    with torch.no_grad():
        return task.generator.synthesize(latent(task, code.detach()), "const", task.noise)


def film(task: DragTask, state: DragState, before: int) -> list[NDArray[np.uint8]]:
    """The frames [R, R, 3] RGB that are due at this state since the step `before`; without a due one, none."""
    every = task.settings.frame_every
    due = state.step // every - before // every if every else 0
    return [to_frame(picture(task, state.code))] * due if due else []


def to_frame(image: Tensor) -> NDArray[np.uint8]:
    """An image [1, 3, R, R] of [-1, 1] as uint8 [R, R, 3]."""
    pixels = ((image[0].permute(1, 2, 0).float() + 1.0) * 127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).cpu().numpy()


def finish(
    task: DragTask, state: DragState, reason: StopReason, tracks: list[Tensor], frames: list[NDArray[np.uint8]]
) -> Edited:
    """The best state of a drag as its result; the film ends with that state's picture."""
    image = picture(task, state.best_code)
    if frames and state.step:
        frames = [*frames, to_frame(image)]
    metrics = {
        "distance_before_px": float(distance_px(task, task.handles).mean()),
        "distance_after_px": state.best_px,
        "best_step": float(state.best_step),
        "feature_resolution": float(task.resolution),
        "w_layers": float(task.layers),
        "stop_px": task.stop_px,
        "latent_move": float(state.best_code.square().mean().sqrt()),
        **({"rollbacks": float(state.rollbacks)} if state.rollbacks else {}),
    }
    w = latent(task, state.best_code)
    return Edited(w, image, torch.stack(tracks), reason, state.step, frames, metrics)
