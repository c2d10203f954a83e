"""Dragging points that a detector finds in any picture, such as face landmarks: damped Gauss-Newton steps in W.

A drag by features must trust its tracker and may satisfy it by smearing what it pulls. Where the points are found
again in the picture itself, the latent's effect on them can be measured instead: a few pictures beside the present one
give the derivative of the points and of the coarse picture along the main directions of W, and a least-squares step
moves the points while the rest of the picture stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.errors import UsageError
from editing.axes import latent_axes
from editing.drag import DragStep, Edited, StopReason, to_frame
from editing.drag_task import check_start, keep_mask, pick_layers, pick_resolution
from editing.points import Points, PointsLike, points_array
from inversion.generators.protocol import Generator, NoiseMaps
from inversion.speed import pictures_at_once

Vector = NDArray[np.float64]
Picture = NDArray[np.uint8]

PROBES = 40  # main directions of W that are tried: the first ones move what people name (Härkönen et al. 2020)
PROBE_STD = 1.5  # length of a probe: detectors answer in steps, so a short one measures their noise
FAR_PROBE_STD = 3.0  # of probes where the nearer ones lead nowhere: a wider view is a smoother one
HOLD_SIDE_PX = 32  # the picture is held at this size
HOLD_INSIDE = 0.8  # of the hold outside the mask
HOLD_WEIGHT = 4.0  # of the mean squared change of the picture
TINT_SIDE_PX = 8  # the colours of whole cheeks and shadows are held at this size, where motion hardly shows
TINT_INSIDE = 3.0  # of the hold outside the mask
TINT_WEIGHT = 4.0  # of their mean squared change
PULL_WEIGHT = 0.005  # of the squared move in standard deviations
POINT_ERROR = 0.0075  # of the crop's side: a point this far off costs 1
ANCHOR_SHARE = 0.2  # an anchor's error counts this much of a moving point's: detectors shift it with its neighbours
FIRST_RELAX, RELAX = 8.0, 0.75  # factor of hold and pull in the first round, and from round to round
RELAX_IDLE = 0.4  # from a round without a gain: hold and pull may be what holds the points back
RELAX_LEAST = 0.05  # what is won with less is paid for with tints
CHANGE_PRICE = 2.0  # of the picture's change, beside the points' squared error, when states are compared
PRICE_STALLED, PRICE_LEAST = 0.5, 0.2  # factor of the price where no state is a gain, and the lowest price
PRICE_UNTIL = 0.7  # of the asked moves: beyond, a clean picture is worth more than the rest
PROBE_GAIN = 0.02  # of a state's cost: a picture beside it that costs so much less is a way on where no step is
DAMPING = 0.03  # of a squared step in standard deviations: measured slopes hold the scatter of the points found
ARRIVED = 0.85  # of the asked moves: the rest is what detectors err by, and chasing it smears the picture
MAX_STEP_STD = 3.0  # the picture is far from linear beyond
MAX_MOVE_STD = 6.5  # from the start: about as far as a sample is from the average in that many directions
STEP_LENGTHS = (1.5, 1.0, 0.5, 0.25, 0.125)  # tried in every round; slopes cost PROBES pictures, these one each
WORTH_GOING_ON = 0.1  # of the error: a step that gains less has the derivative measured again
FILM_STEPS = 40


class Locator(Protocol):
    """Finds the dragged points again in a picture of the same scene."""

    def locate(self, picture: Picture) -> Points:
        """The points [N, 2] (x, y) in pixels of a picture [R, R, 3] uint8 RGB, always the same ones in this order."""
        ...

    def recognises(self, picture: Picture) -> bool:
        """Whether the picture still shows what the points belong to."""
        ...


@dataclass(frozen=True, slots=True)
class LandmarkSettings:
    """How a landmark drag is run; `hold_weight` and `pull_weight` multiply the built-in ones; 0 layers is automatic."""

    rounds: int = 60
    hold_weight: float = 1.0
    pull_weight: float = 1.0
    w_layers: int = 0
    frame_every: int = 2

    def __post_init__(self) -> None:
        if min(self.rounds, self.hold_weight, self.pull_weight, self.w_layers, self.frame_every) < 0:
            raise UsageError(f"A landmark drag takes no negative settings: {self}.")


@dataclass(frozen=True, eq=False, slots=True)
class _Seen:
    """A rendered code [K]: its picture, the points [N, 2] found in it, its coarse picture as one vector."""

    code: Vector
    picture: Picture
    points: Points
    coarse: Vector


@dataclass(frozen=True, eq=False, slots=True)
class _Scene:
    """What draws a code and finds the points in it; directions [K, D] of W, which move the leading `layers`."""

    generator: Generator
    noise: NoiseMaps | None
    w_start: Tensor
    directions: Tensor
    layers: int
    locator: Locator


@dataclass(frozen=True, eq=False, slots=True)
class _Task:
    """What is asked: the start, the moves [N, 2] from it in crop pixels, and the weights of the residuals."""

    scene: _Scene
    start: _Seen
    moves: Points
    point_weights: Vector
    hold_weights: Vector
    pull: float


@dataclass(frozen=True, eq=False, slots=True)
class _Course:
    """How far a drag has come: its best state and the `slopes` there (None where they must be measured).

    `measured` tells how well: 0 those of the state before, corrected; 1 by probes on one side; 2 on both; 3 on both, by
    the wider view. `probes` are the pictures beside the best state that this took. `relax` is the present factor of
    hold and pull, `found_at` that with which the best state was found, `price` that of the picture's change. `end` is a
    reason to end here.
    """

    best: _Seen
    slopes: Vector | None
    measured: int
    relax: float
    found_at: float
    rounds: int
    price: float = CHANGE_PRICE
    probes: tuple[_Seen, ...] = ()
    end: StopReason | None = None


def drag_landmarks(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    locator: Locator,
    moves_crop: PointsLike,
    mask_crop: Tensor | None = None,
    settings: LandmarkSettings | None = None,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Edited:
    """Move the points that `locator` finds by moves [N, 2] in crop pixels (Levenberg-Marquardt steps in W).

    w [1, L, D] moves as a whole in its leading layers; mask_crop [1, 1, R, R] in [0, 1], 1 where the picture may
    change. Every round is a step from the best state so far. Hold and pull fade from round to round until the points
    have arrived, so that the picture changes no more than the moves need. Where no step gains, the slopes are measured
    on both sides, then by a wider view, one of the pictures that they were measured by may be a gain, and at last, far
    from the targets, the picture's change counts less. A picture that the locator does not recognise is never taken.
    Tracks and frames of the result show the straight path from the start to the best state. UsageError for arguments
    that do not fit the generator.
    """
    settings = settings or LandmarkSettings()
    task = _prepare(generator, w, noise, locator, moves_crop, mask_crop, settings)
    course = _Course(task.start, None, 0, FIRST_RELAX, FIRST_RELAX, rounds=0)
    while (reason := _verdict(task, course, settings)) is None:
        if should_stop is not None and should_stop():
            reason = "stopped"
            break
        course = _advance(task, course)
        if on_step is not None:
            on_step(_report(task, course, settings))
    return _result(task, course, reason, settings.frame_every)


def _advance(task: _Task, course: _Course) -> _Course:
    """One round: a step from the best state. Without a gain the next one has better slopes, less hold and pull, or a
    lower price of the picture's change."""
    best, relax, slopes = course.best, course.relax, course.slopes
    if slopes is None:
        probes = _beside(task, best, PROBE_STD)
        slopes = _slopes(best, probes, PROBE_STD)
        course = replace(course, slopes=slopes, measured=1, probes=probes)
    course = replace(course, rounds=course.rounds + 1)
    moved = _step(task, best, slopes, relax)
    if moved is not None and _merit(task, moved, course.price) < _merit(task, best, course.price):
        worth = _error(task, moved) < (1.0 - WORTH_GOING_ON) * _error(task, best)
        corrected = _corrected(slopes, best, moved) if worth else None
        return _Course(moved, corrected, 0, max(RELAX_LEAST, relax * RELAX), relax, course.rounds, course.price)
    if course.measured == 0:
        return replace(course, slopes=None)
    if relax > RELAX_LEAST:
        return replace(course, relax=max(RELAX_LEAST, relax * RELAX_IDLE))
    if course.measured == 1:
        return _on_both_sides(task, course, course.probes, PROBE_STD)
    chosen = _cheapest(task, course)
    if chosen is not None:
        corrected = _corrected(slopes, best, chosen)
        return _Course(chosen, corrected, 0, course.found_at, course.found_at, course.rounds, course.price)
    if course.measured == 2:
        return _on_both_sides(task, course, _beside(task, best, FAR_PROBE_STD), FAR_PROBE_STD)
    if course.price > PRICE_LEAST and _progress(task, best) < PRICE_UNTIL:
        return replace(course, price=course.price * PRICE_STALLED, relax=course.found_at)
    return replace(course, end="lost" if moved is None else "stalled")


def _on_both_sides(task: _Task, course: _Course, ahead: tuple[_Seen, ...], length: float) -> _Course:
    """The course with slopes by pictures `length` standard deviations ahead of and behind the best state."""
    behind = _beside(task, course.best, -length)
    slopes = (_slopes(course.best, ahead, length) + _slopes(course.best, behind, -length)) / 2
    probes = tuple(dict.fromkeys((*course.probes, *ahead, *behind)))
    return replace(course, slopes=slopes, measured=course.measured + 1, probes=probes, relax=course.found_at)


def _cheapest(task: _Task, course: _Course) -> _Seen | None:
    """Of the pictures beside the best state the one that costs least; None when none is a gain and recognised.

    Points that a detector finds move in jumps: where slopes lead nowhere, a picture that is there already may.
    """
    enough = (1.0 - PROBE_GAIN) * _merit(task, course.best, course.price)
    costs = sorted((_merit(task, seen, course.price), number) for number, seen in enumerate(course.probes))
    gains = [course.probes[number] for cost, number in costs if cost < enough]
    return next((seen for seen in gains if task.scene.locator.recognises(seen.picture)), None)


def _verdict(task: _Task, course: _Course, settings: LandmarkSettings) -> StopReason | None:
    """Why the drag ends here, or None when it goes on."""
    if not task.moves.any() or _progress(task, course.best) >= ARRIVED:
        return "arrived"
    return course.end or ("cap" if course.rounds >= settings.rounds else None)


def _report(task: _Task, course: _Course, settings: LandmarkSettings) -> DragStep:
    """What a watcher is told after a round."""
    points, error = torch.from_numpy(course.best.points).float(), _error(task, course.best)
    best = course.best
    return DragStep(course.rounds, settings.rounds, error, points, _distance_px(task, best), lambda: _drawn(task, best))


def _drawn(task: _Task, seen: _Seen) -> Tensor:
    """The picture [1, 3, R, R] of a state; only its code and its 8-bit frame are kept."""
    scene = task.scene
    with torch.no_grad():
        return scene.generator.synthesize(_latents(scene, seen.code[None]), "const", scene.noise)


def _prepare(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    locator: Locator,
    moves_crop: PointsLike,
    mask_crop: Tensor | None,
    settings: LandmarkSettings,
) -> _Task:
    check_start(generator, w)
    size, side = generator.resolution, min(HOLD_SIDE_PX, generator.resolution)
    moves = points_array(moves_crop, "moves")
    basis = latent_axes(generator, w).basis
    directions = basis[basis.norm(dim=1).argsort(descending=True)[:PROBES]]
    layers = pick_layers(generator, settings.w_layers, pick_resolution(generator, 0))
    scene = _Scene(generator, noise, w.detach(), directions, layers, locator)
    (start,) = _look(scene, np.zeros((1, len(directions))))
    if start.points.shape != moves.shape:
        raise UsageError(f"{len(moves)} moves were given for {len(start.points)} points that are found.")
    share = np.where(moves.any(axis=1), 1.0, ANCHOR_SHARE) / (POINT_ERROR * size * np.sqrt(len(moves)))
    keep = keep_mask(mask_crop, size, side, settings.hold_weight, w)
    inside = torch.ones(1, 1, side, side) if keep is None else 1.0 - keep.cpu()
    holds = (HOLD_WEIGHT, HOLD_INSIDE, HOLD_SIDE_PX), (TINT_WEIGHT, TINT_INSIDE, TINT_SIDE_PX)
    hold = [weight**0.5 * (1.0 + (factor - 1.0) * _pooled(inside, px)).repeat(1, 3) for weight, factor, px in holds]
    weights = [part[0].double().numpy() * (settings.hold_weight / part.numel()) ** 0.5 for part in hold]
    return _Task(
        scene=scene,
        start=start,
        moves=moves,
        point_weights=np.repeat(share, 2),
        hold_weights=np.concatenate(weights),
        pull=PULL_WEIGHT * settings.pull_weight,
    )


def _latents(scene: _Scene, codes: Vector) -> Tensor:
    """w [B, L, D] of codes [B, K]; the start itself, bit by bit, for zeros."""
    w = scene.w_start.repeat(len(codes), 1, 1)
    w[:, : scene.layers] += (torch.from_numpy(codes).to(scene.directions) @ scene.directions)[:, None]
    return w


def _look(scene: _Scene, codes: Vector) -> list[_Seen]:
    """The pictures of codes [B, K], and what is found in them."""
    seen = []
    at_once = pictures_at_once(scene.w_start.device, scene.generator.resolution)
    for first in range(0, len(codes), at_once):
        part = codes[first : first + at_once]
        with torch.no_grad():
            images = scene.generator.synthesize(_latents(scene, part), "const", scene.noise).float().cpu()
        coarse = torch.cat([_pooled(images, side) for side in (HOLD_SIDE_PX, TINT_SIDE_PX)], dim=1).double().numpy()
        for code, image, vector in zip(part, images, coarse, strict=True):
            picture = to_frame(image[None])
            seen.append(_Seen(code, picture, scene.locator.locate(picture), vector))
    return seen


def _pooled(images: Tensor, side_px: int) -> Tensor:
    """Area means of images [B, 3, R, R] at that side or their own, as vectors [B, M]."""
    return F.adaptive_avg_pool2d(images, min(side_px, images.shape[-1])).flatten(1)


def _beside(task: _Task, here: _Seen, length: float) -> tuple[_Seen, ...]:
    """What is seen `length` standard deviations away along each direction."""
    return tuple(_look(task.scene, here.code + length * np.eye(len(here.code))))


def _slopes(here: _Seen, probes: Sequence[_Seen], length: float) -> Vector:
    """How points and coarse picture change along each direction, [2 N + M, K], by the probes `length` away."""
    return np.stack([_values(probe) - _values(here) for probe in probes], axis=1) / length


def _corrected(slopes: Vector, here: _Seen, moved: _Seen) -> Vector:
    """The slopes that also explain the step just made (Broyden 1965)."""
    step = moved.code - here.code
    missed = _values(moved) - _values(here) - slopes @ step
    return slopes + np.outer(missed, step) / float(step @ step)


def _values(seen: _Seen) -> Vector:
    return np.concatenate([seen.points.ravel(), seen.coarse])


def _step(task: _Task, here: _Seen, slopes: Vector, relax: float) -> _Seen | None:
    """The best state along one least-squares step that is recognised; None when none is."""
    weights = np.concatenate([task.point_weights, task.hold_weights * relax**0.5])
    error = weights * _residuals(task, here)
    jacobian = slopes * weights[:, None]
    pull = task.pull * relax
    normal = jacobian.T @ jacobian + (pull + DAMPING) * np.eye(len(here.code))
    step = np.linalg.solve(normal, -(jacobian.T @ error + pull * here.code))
    step *= min(1.0, MAX_STEP_STD / max(float(np.linalg.norm(step)), 1e-12))
    codes = here.code + np.array(STEP_LENGTHS)[:, None] * step
    codes *= np.minimum(1.0, MAX_MOVE_STD / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12))

    def cost(seen: _Seen) -> float:
        return float(np.square(weights * _residuals(task, seen)).sum() + pull * np.square(seen.code).sum())

    tried = sorted(_look(task.scene, codes), key=cost)
    return next((seen for seen in tried if task.scene.locator.recognises(seen.picture)), None)


def _residuals(task: _Task, seen: _Seen) -> Vector:
    """What the points still lack, and what the coarse picture has changed, [2 N + M]."""
    residuals = _values(seen) - _values(task.start)
    residuals[: len(task.point_weights)] -= task.moves.ravel()
    return residuals


def _error(task: _Task, seen: _Seen) -> float:
    """The weighted error of the points: 1 when all are a fraction POINT_ERROR of the crop away from their targets."""
    return float(np.linalg.norm((seen.points - task.start.points - task.moves).ravel() * task.point_weights))


def _merit(task: _Task, seen: _Seen, price: float) -> float:
    """What a state costs, the less the better: the points' squared error, and the picture's change at that price."""
    change = (seen.coarse - task.start.coarse) * task.hold_weights
    return _error(task, seen) ** 2 + price * float(change @ change)


def _progress(task: _Task, seen: _Seen) -> float:
    """The moves made, projected on those asked for: 0 none, 1 all."""
    return float(((seen.points - task.start.points) * task.moves).sum() / (task.moves**2).sum())


def _distance_px(task: _Task, seen: _Seen) -> float:
    """Mean distance of the points to their targets."""
    return float(np.linalg.norm(seen.points - task.start.points - task.moves, axis=1).mean())


def _result(task: _Task, course: _Course, reason: StopReason, frame_every: int) -> Edited:
    """The best state, and the way there in FILM_STEPS equal steps, in one when no frames are wanted between start and
    end; none when nothing moved."""
    best = course.best
    count = (FILM_STEPS if 0 < frame_every < FILM_STEPS else 1) if best.code.any() else 0
    path = _look(task.scene, np.linspace(0.0, 1.0, count + 1)[:, None] * best.code) if count else [task.start]
    frames = [seen.picture for seen in path[:: frame_every or None]] if frame_every else []
    metrics = {
        "distance_before_px": _distance_px(task, task.start),
        "distance_after_px": _distance_px(task, best),
        "best_step": float(count),
        "rounds": float(course.rounds),
        "w_layers": float(task.scene.layers),
        "latent_move": float(np.sqrt((best.code**2).sum() / task.scene.w_start.shape[2])),
    }
    w = _latents(task.scene, best.code[None])
    with torch.no_grad():
        image = task.scene.generator.synthesize(w, "const", task.scene.noise)
    return Edited(
        w=w,
        image=image,
        tracks=torch.from_numpy(np.stack([seen.points for seen in path])).float(),
        stop_reason=reason,
        steps=count,
        frames=[*frames, path[-1].picture] if frames and count else frames,
        metrics=metrics,
    )
