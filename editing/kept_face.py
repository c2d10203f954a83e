"""Drags that go no farther than a face is seen: past that there is nothing left of the person who was to be moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from editing.drag import (
    DragSettings,
    DragState,
    DragStep,
    Edited,
    crop_points,
    film,
    finish,
    picture,
    render_features,
    to_frame,
    walk,
)
from editing.drag_task import DragTask, Person, distance_px, prepare
from editing.following import follow
from editing.landmark_drag import Picture
from editing.points import PointsLike
from editing.squares import near
from inversion.generators.protocol import Generator, NoiseMaps

HALVINGS = 4
"""Of the straight way back to the start: its sixteenth is as near as a face's end can be told."""

Shows = Callable[[Picture], bool]
"""Whether a picture [R, R, 3] uint8 RGB shows a face."""


def drag_keeping_face(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    shows: Shows,
    handles_crop: PointsLike,
    targets_crop: PointsLike,
    mask_crop: Tensor | None = None,
    settings: DragSettings | None = None,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    person: Person | None = None,
) -> Edited:
    """`editing.drag.drag`, and one step back where its result shows no face and its start does: to the farthest place
    on the straight way, told to a sixteenth, that shows one.

    `face_kept` in the metrics is then the share of the way that is left, and a drag that had arrived has stalled; the
    points are where the tracker finds them there.
    """
    task = prepare(
        generator, w, noise, handles_crop, targets_crop, mask_crop, settings or DragSettings(), person=person
    )
    state, reason, tracks, frames = walk(task, on_step, should_stop)
    share = kept_share(task, state.best_code, shows)
    if share == 1.0:
        return finish(task, state, reason, tracks, frames)
    back = part_of_the_way(task, state, share)
    tracks, frames = [*tracks, crop_points(task, back)], frames + film(task, back, state.step)
    edited = finish(task, back, "stalled" if reason == "arrived" else reason, tracks, frames)
    return replace(edited, metrics=edited.metrics | {"face_kept": share})


def kept_share(task: DragTask, code: Tensor, shows: Shows) -> float:
    """How much of a code's way from the start shows a face: 1 for all of it, and where the start shows none."""

    def shown(share: float) -> bool:
        return shows(to_frame(picture(task, share * code)))

    if shown(1.0) or not shown(0.0):
        return 1.0
    kept = 0.0
    for number in range(1, HALVINGS + 1):
        farther = kept + 0.5**number
        kept = farther if shown(farther) else kept
    return kept


def part_of_the_way(task: DragTask, state: DragState, share: float) -> DragState:
    """The state at a share of the straight way to the best one, its points found from where they should be by that."""
    code = share * state.best_code
    guess = torch.lerp(task.handles, state.points, share)
    features, code = render_features(task, code, guess, state.step)
    with torch.no_grad():
        points, lost, trail = follow(task, state.trail, guess, near(features))
    distance = distance_px(task, points)
    return replace(
        state,
        step=state.step + 1,
        code=code,
        features=features,
        points=points,
        lost=lost,
        trail=trail,
        distance_px=distance,
        best_step=state.step + 1,
        best_code=code.detach(),
        best_px=float(distance.mean()),
    )
