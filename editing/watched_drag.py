"""Dragging a crowd of points that a detector finds again, such as all landmarks of a face.

Trackers of features err: sixty-eight handles that they call arrived are seen two or three pixels of 512 from their
targets by whoever looks at the picture. A detector that finds the same points in any picture tells that error while the
drag runs. Every few steps it is taken off the targets, so that what the tracker follows leads where the detector shall
see the points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from editing.drag import (
    DragSettings,
    DragState,
    DragStep,
    Edited,
    advance,
    begin,
    crop_points,
    film,
    finish,
    forced_end,
    picture,
    report,
    to_frame,
    verdict,
)
from editing.drag_task import DragTask, Person, distance_px, prepare
from editing.landmark_drag import Picture
from editing.points import Points, PointsLike
from editing.trackers import feature_from_crop
from inversion.generators.protocol import Generator, NoiseMaps

LOOK_STEPS = 5
"""Steps from one look at the picture to the next."""
FIRST_PACE, SLOWER = 2.0, 0.6
"""Times the usual step size at first, and from a look on that shows no gain: a crowd's way is clear, its end is not."""
IDLE_LOOKS = 3  # that show no gain, in a row, and the drag has stalled
GAIN = 0.02  # of the first mean distance: less is none

Finder = Callable[[Picture], Points | None]
"""Where the dragged points are in a picture [R, R, 3] uint8 RGB: [N, 2] in its pixels, or None."""


def drag_watched(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    find: Finder,
    handles_crop: PointsLike,
    targets_crop: PointsLike,
    mask_crop: Tensor | None = None,
    settings: DragSettings | None = None,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    person: Person | None = None,
) -> Edited:
    """`editing.drag.drag`, with a detector that looks at the picture every LOOK_STEPS steps.

    The result is the state, of those looked at, in which `find` sees the points nearest to their targets on average; of
    states in which it finds none, and where all are farther than the start, the start. It has `arrived` when that
    distance is within the stop distance and no look gains any more. `distance_after_px` in the metrics is the
    detector's; tracks are the tracker's.
    """
    settings = replace(settings or DragSettings(), pace="even")
    task = prepare(generator, w, noise, handles_crop, targets_crop, mask_crop, settings, person=person)
    state = begin(task)
    first_px = nearest_px = mark_px = float(distance_px(task, task.handles).mean())
    nearest, idle, pace = state, 0, FIRST_PACE
    aimed, reason = _paced(task, pace * settings.lr), verdict(task, state)
    tracks, frames = [crop_points(task, state)], film(task, state, -1)
    while reason is None:
        if should_stop is not None and should_stop():
            reason = "stopped"
            break
        before, state = state.step, advance(aimed, state)
        tracks += [crop_points(task, state)] * (state.step - before)
        frames += film(task, state, before)
        if on_step is not None:
            on_step(report(task, state))
        reason = forced_end(task, state)
        if reason is None and state.step // LOOK_STEPS == before // LOOK_STEPS:
            continue
        seen = _seen(task, state, find)
        away_px = math.inf if seen is None else float(distance_px(task, seen).mean())
        if away_px < nearest_px:
            nearest, nearest_px = state, away_px
        if away_px < mark_px - GAIN * first_px:
            mark_px, idle = away_px, 0
        else:
            idle, pace = idle + 1, pace * SLOWER
        if reason is None and idle >= IDLE_LOOKS:
            reason = "arrived" if nearest_px <= task.stop_px else "stalled"
        if seen is not None:
            aimed = replace(aimed, targets=task.targets - (seen - state.points))
        aimed = _paced(aimed, pace * settings.lr)
    result = replace(state, best_step=nearest.step, best_code=nearest.code.detach(), best_px=nearest_px)
    return finish(task, result, reason, tracks, frames)


def _seen(task: DragTask, state: DragState, find: Finder) -> Tensor | None:
    """Where the detector finds the points [N, 2] in a state's picture, in feature pixels."""
    found = find(to_frame(picture(task, state.code)))
    if found is None:
        return None
    return feature_from_crop(torch.from_numpy(found).to(task.targets), task.generator.resolution, task.resolution)


def _paced(task: DragTask, lr: float) -> DragTask:
    """The task with another step size."""
    return replace(task, settings=replace(task.settings, lr=lr))
