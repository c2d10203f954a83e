"""How a drag knows where its handles are, and what it pulls where: one pair of functions for all trackers.

`nearest` (DragGAN, Pan et al. 2023) looks for the place that shows what the handle showed at the start. `filter`
(StableDrag, Cui et al. 2024) adds a filter for each handle, learned to answer there and nowhere near. `line_search`
(FreeDrag, Ling et al. 2024) looks for nothing: it pulls a slowly changing template along the line to the target, by as
much as the features bear, and back where they do not follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.trackers import Extra, FeatureMap, sample, square_offsets, track

if TYPE_CHECKING:
    from editing.drag_task import DragTask

LOST_RATIO = 0.9  # of the feature difference to a random place: such a match is no match

FILTER_SHARE = 0.5  # of a random place's difference: what a place costs that the filter does not answer to
FILTER_REACH_PX = 12  # feature pixels round a handle that its filter learns from
FILTER_SIGMA_PX = 1.0  # of the answer it shall give round the handle
FILTER_DAMPING = 1e-2  # of its matrix's mean diagonal

TEMPLATE_STEP = 0.3  # FreeDrag's l: the feature difference, in standard deviations, that one pull may span
LINE_STEP_PX = 3.0  # its d: the longest pull, in pixels of a 512 px picture
LINE_SAMPLES = 10  # places on the line that are compared
LINE_PULLS = 5  # steps that a pull may take
LEARNED = 0.5  # of l: below this a pull has come through
NEARER = 0.9  # of the difference that it began with, too: where a map is smooth, aims look like the template at once


@dataclass(frozen=True, eq=False, slots=True)
class Trail:
    """What a tracker remembers: the `template` [N, K, C] it looks for, `doubt` [N] of the present places (the feature
    difference there over that to a random place), and of `line_search` the `aims` [N, 2] of the present pull, the
    feature difference [N] that they `began` with, and the steps that it has taken."""

    template: Tensor
    doubt: Tensor
    aims: Tensor
    began: Tensor
    pulls: int = 0


def set_out(task: DragTask) -> Trail:
    """The trail at the start of a drag."""
    still = task.handles.new_zeros(len(task.handles))
    if task.settings.tracker != "line_search":
        return Trail(task.template, still, task.targets, still)
    aims = next_aims(task, task.start, task.handles, task.template, TEMPLATE_STEP)
    return Trail(task.template, still, aims, _difference(task, task.start, aims, task.template))


def follow(task: DragTask, trail: Trail, points: Tensor, features: FeatureMap) -> tuple[Tensor, Tensor, Trail]:
    """The places [N, 2] of the handles now, which of them are lost [N] bool, and the trail there."""
    if task.settings.tracker == "line_search":
        return pull_along(task, trail, points, features)
    found = track(features, trail.template, points, task.patch, task.search_px, _answers(task))
    doubt = found.residual / task.typical
    lost = ~(doubt <= LOST_RATIO)
    return torch.where(lost[:, None], points, found.points), lost, replace(trail, doubt=doubt)


def pull_along(task: DragTask, trail: Trail, points: Tensor, features: FeatureMap) -> tuple[Tensor, Tensor, Trail]:
    """One step of FreeDrag: a pull that has come through moves its handle, one that has not goes on or back.

    A pull must also bring the template nearer, or handles would arrive that nothing has moved.
    """
    shown = sample(features, trail.aims[:, None] + task.patch)
    away = _difference(task, features, trail.aims, trail.template)
    lost = ~((shown - trail.template).square().mean(dim=(1, 2)) <= LOST_RATIO * task.typical)
    doubt = away / TEMPLATE_STEP
    through = (away <= LEARNED * TEMPLATE_STEP) & (away <= NEARER * trail.began)
    if trail.pulls + 1 < LINE_PULLS and not bool(through.all()):
        return points, lost, replace(trail, pulls=trail.pulls + 1, doubt=doubt)
    share = adapted(away)[:, None, None] * through[:, None, None]
    template = share * shown + (1 - share) * trail.template
    points = torch.where(through[:, None], trail.aims, points)
    onward = next_aims(task, features, points, template, TEMPLATE_STEP)
    back = next_aims(task, features, trail.aims - 2.0 * _toward(task, trail.aims), template, 0.0)
    aims = torch.where(through[:, None], onward, torch.where((doubt > 1.0)[:, None], back, trail.aims))
    anew = through | (doubt > 1.0)
    began = torch.where(anew, _difference(task, features, aims, template), trail.began)
    return points, lost, Trail(template, doubt, aims, began)


def _difference(task: DragTask, features: FeatureMap, points: Tensor, template: Tensor) -> Tensor:
    """Mean |F - template| [N] over the discs round points [N, 2], in standard deviations."""
    return (sample(features, points[:, None] + task.patch) - template).abs().mean(dim=(1, 2))


def adapted(away: Tensor) -> Tensor:
    """The share of what is shown in the next template (FreeDrag's lambda): the worse a pull went, the less."""
    alpha, beta = math.log(9.0) / (0.6 * TEMPLATE_STEP), 0.2 * TEMPLATE_STEP
    return torch.sigmoid(-alpha * (away - beta))


def next_aims(task: DragTask, features: FeatureMap, points: Tensor, template: Tensor, difference: float) -> Tensor:
    """The places [N, 2] on the lines to the targets, at most one pull away, that show the template with about this
    difference."""
    shares = torch.arange(1, LINE_SAMPLES + 1, device=points.device, dtype=points.dtype) / LINE_SAMPLES
    places = points[:, None] + shares[:, None] * _toward(task, points)[:, None]
    shown = sample(features, places[:, :, None] + task.patch)
    away = (shown - template[:, None]).abs().mean(dim=(2, 3))
    best = (away - difference).abs().argmin(dim=1)
    return places[torch.arange(len(points), device=points.device), best]


def _toward(task: DragTask, points: Tensor) -> Tensor:
    """The longest pull [N, 2] from points towards their targets, shorter where less remains."""
    longest = LINE_STEP_PX * task.resolution / 512
    remaining = task.targets - points
    return remaining * (longest / remaining.norm(dim=1, keepdim=True).clamp_min(longest))


def learned_filters(features: FeatureMap, points: Tensor) -> Tensor:
    """Filters [N, C] that answer 1 at points [N, 2] of a start and fall to 0 around them (ridge regression)."""
    moves = square_offsets(FILTER_REACH_PX, points)
    shown = sample(features, points[:, None] + moves).double()
    wanted = torch.exp(-moves.double().square().sum(dim=1) / (2 * FILTER_SIGMA_PX**2))
    matrix = shown.transpose(1, 2) @ shown
    damping = FILTER_DAMPING * matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    answers = (shown.transpose(1, 2) @ wanted)[:, :, None]
    return torch.linalg.solve(matrix + damping[:, None, None] * eye, answers)[:, :, 0].to(points)


def _answers(task: DragTask) -> Extra | None:
    """What a place costs where a handle's filter does not answer."""
    filters = task.filters
    if filters is None:
        return None

    def cost(values: Tensor, part: slice) -> Tensor:
        answer = (values @ filters[part, :, None])[:, :, 0]
        return FILTER_SHARE * task.typical[part, None] * (1.0 - answer).clamp(0.0, 1.0)

    return cost
