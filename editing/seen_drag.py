"""Dragging by features what a detector then finds again: targets are set farther until the points are seen to arrive.

A drag by features changes little beside what it pulls, but its tracker calls a move done of which the picture shows a
part. A detector, such as one of face landmarks, tells the share that the picture shows; the next drag begins at the
same start and asks for as much more. What drags of features cannot get is left to a few firmly held steps in W
(`editing.landmark_drag`), which begin where the best of them ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from data.errors import UsageError
from editing.drag import DragSettings, DragStep, Edited, StopReason, drag, to_frame
from editing.drag_task import AUTO_BLOCK_PX, CROWD, PAPER_BLOCK_PX, PAPER_R1_PX, Person, pick_resolution
from editing.landmark_drag import ARRIVED, FILM_STEPS, LandmarkSettings, Locator, Picture, drag_landmarks
from editing.points import Points, PointsLike, points_array
from inversion.generators.protocol import Generator, NoiseMaps

HOLDS = (2.0, 2.0, 1.0, 1.0, 0.5)
"""Of each attempt, times the mask's weight of other drags: targets that are set farther smudge what lies round them
where it is not held, and where it is held too firmly some moves are not to be had."""
BETWEEN_HOLD = 1.0
"""Of one more attempt, between two of which the farther showed less: what is pulled too far is lost on the way."""
STOP = 0.0012  # of the crop's side, from its target: the detector judges, so the features go as near as they can
AIM = 0.97  # of the asked moves: what the next drag is set to show
LEAST_SEEN = 0.3  # of them: a share that is smaller tells little about what would show all
REACH_MOST = 3.0  # times the asked moves: farther targets tear the picture
REACH_LOST = 0.7  # factor of the reach after a picture that is not recognised
TOO_FAR = 1.35  # of the asked moves: beyond, a nearer target is tried
STRETCHES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
"""Of the latent's straight way from the start to where an attempt ended, looked at where none arrived: a picture before
or beyond may show what other targets did not, at the price of one picture. Detectors answer in jumps, so a picture must
show the moves and those beside it, in the mean, too."""
STRETCH_STEPS = 8  # of the film from an attempt's end to there
ENDING_ROUNDS = 16  # of least-squares steps after the last drag
ENDING_HOLDS = (4.0, 2.0)
"""Times their usual hold, the second where the first did not arrive: at once at twice it, a mouth that closed took the
colour out of its photo."""


@dataclass(frozen=True, eq=False, slots=True)
class Attempt:
    """A drag to `reach` times the asked moves, where the detector found the points [N, 2], the share of the moves that
    this shows, and whether it recognises the picture."""

    edited: Edited
    reach: float
    points: Points
    seen: float
    known: bool

    @property
    def arrived(self) -> bool:
        """Whether the asked moves are seen, and not much more."""
        return ARRIVED <= self.seen <= TOO_FAR


@dataclass(eq=False, slots=True)
class _Search:
    """The attempts of one drag: what they share, where the detector found the points [N, 2] at first, those that can be
    looked along, the best and the last of them, and how many drags were made."""

    generator: Generator
    w: Tensor
    noise: NoiseMaps | None
    locator: Locator
    moves: Points
    mask: Tensor | None
    settings: DragSettings
    on_step: Callable[[DragStep], None] | None
    should_stop: Callable[[], bool] | None
    person: Person | None
    first: Points
    tried: list[Attempt] = field(default_factory=list)
    best: Attempt = field(init=False)
    last: Attempt = field(init=False)
    made: int = 0

    def run(self) -> Edited:
        """All that is tried, one after another, until the moves are seen or it is stopped."""
        self.best = self.last = self.attempt(0.0, 0, HOLDS[0])
        if self.moves.any():
            self.drag_farther()
            self.drag_between()
            self.end_by_steps()
        return _result(self.best, self.last, self.first, self.moves, self.made)

    @property
    def over(self) -> bool:
        """Whether the moves are seen, or nothing more is wanted."""
        return self.best.arrived or self.last.edited.stop_reason == "stopped"

    def drag_farther(self) -> None:
        """Drags to targets that are set by what the last one showed."""
        reach = 1.0
        for number, hold in enumerate(HOLDS):
            if self.over:
                return
            if number and reach == self.last.reach and hold == HOLDS[number - 1]:
                continue  # the same drag again
            self.keep(self.attempt(reach, number, hold))
            reach = next_reach(self.last)

    def drag_between(self) -> None:
        """One more drag, where a farther one showed less than the best."""
        best = self.best.reach
        farther = min((other.reach for other in self.tried if other.reach > best > 0.0), default=None)
        if farther is not None and not self.over:
            self.keep(self.attempt((best * farther) ** 0.5, len(HOLDS), BETWEEN_HOLD))

    def end_by_steps(self) -> None:
        """Looks along the ways of what was tried, and firmly held steps in W from the best of it."""
        for number, hold in enumerate(ENDING_HOLDS):
            if self.over:
                return
            found = self.along()
            if found is not None:
                self.best = found
                return
            self.step_on(number, hold)
        if not self.over:
            self.best = self.along() or self.best

    def keep(self, attempt: Attempt) -> None:
        """Count a drag that was made."""
        self.last, self.made = attempt, self.made + 1
        self.tried.append(attempt)
        self.best = _nearer(self.best, attempt)

    def attempt(self, reach: float, number: int, hold: float) -> Attempt:
        """A drag from the start to `reach` times the moves, its rest held `hold` times as firmly."""
        # Chins and ears may lie at the crop's rim, and targets that are set farther beyond it.
        ends = self.first, self.first + reach * self.moves
        start, to = (np.clip(points, 0, self.generator.resolution - 1) for points in ends)
        told = _counted(self.on_step, number * self.settings.steps, self.total)
        held = replace(self.settings, mask_weight=hold * self.settings.mask_weight)
        dragged = drag(
            self.generator, self.w, self.noise, start, to, self.mask, held, told, self.should_stop, self.person
        )
        return self.judged(dragged, reach)

    def step_on(self, number: int, hold: float) -> None:
        """Least-squares steps from the best on, for the rest of the moves; only their way is looked along then."""
        rest = self.first + self.moves - self.best.points
        told = _counted(self.on_step, (len(HOLDS) + 1) * self.settings.steps + number * ENDING_ROUNDS, self.total)
        moved = drag_landmarks(
            self.generator, self.best.edited.w, self.noise, self.locator, rest, self.mask,
            _ending(self.settings, hold), told, self.should_stop,
        )  # fmt: skip
        ended = self.judged(joined(self.best.edited, moved, self.settings.frame_every), self.best.reach)
        self.best, self.tried = _nearer(self.best, ended), [ended]
        if moved.stop_reason == "stopped":
            self.last = ended

    @property
    def total(self) -> int:
        """The steps of all attempts at most."""
        return (len(HOLDS) + 1) * self.settings.steps + len(ENDING_HOLDS) * ENDING_ROUNDS

    def judged(self, edited: Edited, reach: float) -> Attempt:
        """What the detector says of a drag's picture."""
        picture = to_frame(edited.image)
        points = self.locator.locate(picture)
        return Attempt(edited, reach, points, self.seen_of(points), self.locator.recognises(picture))

    def seen_of(self, points: Points) -> float:
        """The share of the moves that points [N, 2] show."""
        return float(((points - self.first) * self.moves).sum() / max(float((self.moves**2).sum()), 1e-12))

    def along(self) -> Attempt | None:
        """The nearest arrived and recognised state on the straight ways to where what was tried ended; None without
        one."""
        found: list[tuple[float, int, Tensor]] = []
        for number, made in enumerate(self.tried):
            places = [self.w + share * (made.edited.w - self.w) for share in STRETCHES]
            shown = [self.seen_of(self.locator.locate(self.picture(there))) for there in places]
            for i in range(1, len(places) - 1):
                if all(ARRIVED <= share <= TOO_FAR for share in (shown[i], float(np.mean(shown[i - 1 : i + 2])))):
                    found.append((float((places[i] - self.w).norm()), number, places[i]))
        for _, number, there in sorted(found, key=lambda item: item[:2]):
            if self.locator.recognises(self.picture(there)):
                end = self.tried[number]
                way = self.straight(end.edited, there)
                return self.judged(joined(end.edited, way, self.settings.frame_every), end.reach)
        return None

    def picture(self, w: Tensor) -> Picture:
        """The picture [R, R, 3] of a latent [1, L, D]."""
        with torch.no_grad():
            return to_frame(self.generator.synthesize(w, "const", self.noise))

    def straight(self, first: Edited, to: Tensor) -> Edited:
        """The straight way from where a drag ended to a latent [1, L, D], with a picture of every step if it has
        some."""
        steps = STRETCH_STEPS if first.frames else 1
        pictures = [self.picture(torch.lerp(first.w, to, number / steps)) for number in range(steps + 1)]
        with torch.no_grad():
            image = self.generator.synthesize(to, "const", self.noise)
        tracks = torch.from_numpy(np.stack([self.locator.locate(picture) for picture in pictures])).float()
        frames = pictures if first.frames else []
        return Edited(to, image, tracks, "arrived", steps, frames, {"best_step": float(steps)})


def drag_until_seen(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    locator: Locator,
    moves_crop: PointsLike,
    mask_crop: Tensor | None = None,
    settings: DragSettings | None = None,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    person: Person | None = None,
) -> Edited:
    """Move the points that `locator` finds by moves [N, 2] in crop pixels, by drags of features (`editing.drag.drag`).

    w [1, L, D]; mask_crop [1, 1, R, R] in [0, 1], 1 where the picture may change. Every drag begins at w, with targets
    at `reach` times the moves; where none arrives, least-squares steps go on from the best. The result is the
    recognised picture that shows the asked moves best; it has `arrived` when `locator` sees ARRIVED to TOO_FAR of them,
    whatever the features' tracker says. Distances in the metrics are the locator's; tracks and frames those of the drag
    that is the result, and of the steps in W after it. UsageError for arguments that do not fit.
    """
    moves = points_array(moves_crop, "moves")
    with torch.no_grad():
        first = locator.locate(to_frame(generator.synthesize(w, "const", noise)))
    if first.shape != moves.shape:
        raise UsageError(f"{len(moves)} moves were given for {len(first)} points that are found.")
    asked = _as_measured(settings or DragSettings(), generator, len(moves))
    return _Search(generator, w, noise, locator, moves, mask_crop, asked, on_step, should_stop, person, first).run()


def _as_measured(settings: DragSettings, generator: Generator, points: int) -> DragSettings:
    """What is left open in the settings: presets were measured with the paper's discs and block, and even steps."""
    largest_px = PAPER_BLOCK_PX if points < CROWD else AUTO_BLOCK_PX
    return replace(
        settings,
        stop_px=settings.stop_px or STOP * generator.resolution,
        pace="even",
        feature_resolution=pick_resolution(generator, settings.feature_resolution, largest_px),
        r1_px=settings.r1_px or PAPER_R1_PX,
    )


def _nearer(best: Attempt, other: Attempt) -> Attempt:
    """Of two attempts the one that shows the asked moves better, if it is recognised."""
    return other if other.known and abs(1.0 - other.seen) < abs(1.0 - best.seen) else best


def _ending(settings: DragSettings, hold: float) -> LandmarkSettings:
    """How the steps in W after the drags are made; with every picture of their way when some are wanted."""
    every = settings.frame_every
    return LandmarkSettings(
        rounds=ENDING_ROUNDS,
        hold_weight=hold * settings.mask_weight,
        pull_weight=settings.pull_weight,
        w_layers=settings.w_layers,
        frame_every=1 if 0 < every < FILM_STEPS else every,
    )


def joined(first: Edited, then: Edited, frame_every: int) -> Edited:
    """A drag up to its best state, and what went on from there with a frame for every step, as one."""
    turn = round(first.metrics["best_step"])
    steps = turn + then.steps
    frames = []
    if first.frames and then.frames:
        due = range(0, steps + 1, frame_every)
        frames = [first.frames[step // frame_every] if step <= turn else then.frames[step - turn] for step in due]
        frames.append(then.frames[-1])
    return replace(
        then,
        tracks=torch.cat([first.tracks[: turn + 1], then.tracks[1:].to(first.tracks)]),
        steps=steps,
        frames=frames,
        metrics=first.metrics | then.metrics | {"best_step": float(steps)},
    )


def next_reach(last: Attempt) -> float:
    """How far the next targets are set, by what the last ones showed."""
    if not last.known:
        return last.reach * REACH_LOST
    return min(REACH_MOST, last.reach * AIM / max(LEAST_SEEN, last.seen))


def _counted(on_step: Callable[[DragStep], None] | None, before: int, total: int) -> Callable[[DragStep], None] | None:
    """A watcher that is told the steps of all attempts."""
    if on_step is None:
        return None
    return lambda step: on_step(replace(step, step=before + step.step, total=total))


def _result(best: Attempt, last: Attempt, first: Points, moves: Points, attempts: int) -> Edited:
    """The best attempt, judged by the detector: it has arrived, or was stopped, or other targets showed no more."""
    reason: StopReason = "stalled" if last.known else "lost"
    if best.arrived or not moves.any():
        reason = "arrived"
    elif last.edited.stop_reason == "stopped":
        reason = "stopped"
    measured = {
        "distance_before_px": float(np.linalg.norm(moves, axis=1).mean()),
        "distance_after_px": float(np.linalg.norm(best.points - first - moves, axis=1).mean()),
        "seen": best.seen,
        "reach": best.reach,
        "attempts": float(attempts),
    }
    return replace(best.edited, stop_reason=reason, metrics=best.edited.metrics | measured)
