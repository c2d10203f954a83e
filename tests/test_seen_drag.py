"""Drags whose targets are set farther until a detector sees the asked moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import UsageError
from editing import seen_drag
from editing.drag import DragSettings, DragStep, Edited, StopReason
from editing.drag_task import PAPER_R1_PX
from editing.landmark_drag import ARRIVED, LandmarkSettings, Picture
from editing.points import Points
from editing.seen_drag import ENDING_HOLDS, ENDING_ROUNDS, HOLDS, REACH_MOST, drag_until_seen, joined
from inversion.generators.stylegan2 import StyleGAN2
from pipeline.outputs import frame_steps
from tests.tiny import tiny_generator

FIRST = np.array([[8.0, 8.0], [16.0, 8.0]])
MOVES = np.array([[2.0, 0.0], [0.0, 0.0]])
DOWN = np.array([[0.0, 2.0], [0.0, 0.0]])
SHOWN_MOST = 4.0
TOTAL = 10 * (len(HOLDS) + 1) + len(ENDING_HOLDS) * ENDING_ROUNDS


class Levels:
    """Reads from a grey picture how much of MOVES it shows; beyond `known` it recognises nothing."""

    def __init__(self, start: Picture, known: float = SHOWN_MOST) -> None:
        self.start, self.known = start, known

    def share(self, picture: Picture) -> float:
        return 0.0 if np.array_equal(picture, self.start) else float(picture.mean()) / 255 * SHOWN_MOST

    def locate(self, picture: Picture) -> Points:
        return FIRST + self.share(picture) * MOVES

    def recognises(self, picture: Picture) -> bool:
        return self.share(picture) <= self.known


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(resolution=32)


@pytest.fixture(scope="module")
def w(generator: StyleGAN2) -> Tensor:
    return generator.map(torch.zeros(1, generator.z_dim))


@pytest.fixture
def locator(generator: StyleGAN2, w: Tensor) -> Levels:
    return Levels(seen_drag.to_frame(generator.synthesize(w, "const").detach()))


def drags_that_show(monkeypatch: pytest.MonkeyPatch, share: Callable[[float], float]) -> list[float]:
    """Replace the drag by one whose picture shows share(reach) of the moves; returns the reaches asked for."""
    asked: list[float] = []

    def drag(generator: StyleGAN2, w: Tensor, _noise: None, handles: Points, targets: Points, *rest: object) -> Edited:
        reach = float((targets - handles)[0, 0] / MOVES[0, 0])
        image = generator.synthesize(w, "const").detach()
        if reach:
            asked.append(reach)
            image = torch.full_like(image, share(reach) / SHOWN_MOST * 2 - 1)
        on_step, should_stop = rest[2], rest[3]
        if callable(on_step) and reach:
            on_step(DragStep(1, 10, 0.0, torch.zeros(2, 2), 1.0))
        reason: StopReason = "stopped" if callable(should_stop) and reach and should_stop() else "oscillating"
        return Edited(w, image, torch.zeros(2, 2, 2), reason, 1, [], {"latent_move": reach, "best_step": 1.0})

    monkeypatch.setattr(seen_drag, "drag", drag)
    monkeypatch.setattr(seen_drag, "drag_landmarks", endings(SHOWN_MOST, []))
    return asked


def endings(adds: float, heard: list[tuple[Points, LandmarkSettings]]) -> Callable[..., Edited]:
    """A stand-in for the least-squares steps, whose picture shows `adds` more of the moves."""

    def steps(generator: StyleGAN2, w: Tensor, _noise: None, found: Levels, rest: Points, *others: object) -> Edited:
        settings = others[1]
        assert isinstance(settings, LandmarkSettings)
        heard.append((rest, settings))
        shown = 1.0 - float(rest[0].sum() / MOVES[0].sum()) + adds
        image = torch.full((1, 3, 32, 32), min(shown, SHOWN_MOST) / SHOWN_MOST * 2 - 1)
        return Edited(w + 1.0, image, torch.zeros(2, 2, 2), "arrived", 1, [], {"best_step": 1.0})

    return steps


def film(steps: int, best: int, every: int, start: int) -> Edited:
    """A drag whose points and frames tell their step, counted from `start`."""
    shown = [*range(0, steps + 1, every), best]
    return Edited(
        w=torch.zeros(1, 1, 1),
        image=torch.zeros(1, 3, 4, 4),
        tracks=(start + torch.arange(steps + 1.0))[:, None, None].expand(-1, 1, 2),
        stop_reason="stalled",
        steps=steps,
        frames=[np.full((4, 4, 3), start + step, np.uint8) for step in shown],
        metrics={"best_step": float(best)},
    )


def test_targets_are_set_farther_until_the_moves_are_seen(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, heard = drags_that_show(monkeypatch, lambda reach: 0.5 * reach), list[DragStep]()
    edited = drag_until_seen(generator, w, None, locator, MOVES, None, DragSettings(steps=10), heard.append)
    assert asked == pytest.approx([1.0, 1.94], abs=0.02)
    assert edited.stop_reason == "arrived"
    assert edited.metrics["seen"] == pytest.approx(0.97, abs=0.02)
    assert edited.metrics["distance_after_px"] == pytest.approx(0.03, abs=0.02)
    assert [(step.step, step.total) for step in heard] == [(1, TOTAL), (11, TOTAL)]


def test_a_move_that_went_too_far_is_taken_back(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = drags_that_show(monkeypatch, lambda reach: 2.0 * reach)
    edited = drag_until_seen(generator, w, None, locator, MOVES)
    assert asked == pytest.approx([1.0, 0.485], abs=0.01)
    assert edited.stop_reason == "arrived"


def test_targets_beyond_the_crop_are_set_at_its_rim(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chin near the lower rim, dragged for real: targets farther down than the crop reaches are no mistake."""
    low = np.array([[8.0, 31.4], [16.0, 8.0]])
    monkeypatch.setattr(Levels, "locate", lambda self, picture: low + 0.01 * self.share(picture) * DOWN)
    monkeypatch.setattr(seen_drag, "drag_landmarks", endings(SHOWN_MOST, []))
    edited = drag_until_seen(generator, w, None, locator, DOWN, None, DragSettings(steps=2, frame_every=0))
    assert edited.stop_reason == "stalled"
    assert edited.metrics["attempts"] > 1


def test_what_drags_leave_is_left_to_firmly_held_steps(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    drags_that_show(monkeypatch, lambda reach: 0.2 * reach)
    heard = list[tuple[Points, LandmarkSettings]]()
    monkeypatch.setattr(seen_drag, "drag_landmarks", endings(0.35, heard))
    edited = drag_until_seen(generator, w, None, locator, MOVES, None, DragSettings(mask_weight=0.5))
    assert edited.stop_reason == "arrived"
    assert edited.metrics["seen"] == pytest.approx(0.95, abs=0.02)
    assert (len(edited.tracks), edited.steps, edited.metrics["best_step"]) == (3, 2, 2.0)
    assert torch.equal(edited.w, w + 1.0)
    ((rest, settings),) = heard
    assert rest == pytest.approx(0.4 * MOVES, abs=0.05)
    assert (settings.hold_weight, settings.rounds) == (0.5 * ENDING_HOLDS[0], ENDING_ROUNDS)


def test_a_second_ending_holds_less_firmly(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    drags_that_show(monkeypatch, lambda reach: 0.1 * reach)
    heard = list[tuple[Points, LandmarkSettings]]()
    monkeypatch.setattr(seen_drag, "drag_landmarks", endings(0.3, heard))
    edited = drag_until_seen(generator, w, None, locator, MOVES)
    assert edited.stop_reason == "arrived"
    assert [settings.hold_weight for _, settings in heard] == list(ENDING_HOLDS)
    assert [float(rest[0, 0] / MOVES[0, 0]) for rest, _ in heard] == pytest.approx([0.7, 0.4], abs=0.05)


def test_between_a_near_and_a_far_attempt_that_showed_less_another_is_made(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = drags_that_show(monkeypatch, lambda reach: 0.3 * reach if reach < 2.0 else 0.1)
    monkeypatch.setattr(seen_drag, "drag_landmarks", endings(0.0, []))
    edited = drag_until_seen(generator, w, None, locator, MOVES)
    assert asked[:2] == [1.0, REACH_MOST]
    assert asked[-1] == pytest.approx(REACH_MOST**0.5)
    assert edited.metrics["reach"] == pytest.approx(asked[-1])
    assert edited.metrics["attempts"] == len(asked)


class Grey:
    """Draws the mean of a latent as grey, which `Levels` reads as the share of the moves."""

    resolution, block_resolutions = 32, (4, 8, 16, 32)

    def synthesize(self, ws: Tensor, *_: object) -> Tensor:
        return torch.full((1, 3, 32, 32), min(float(ws.mean()), SHOWN_MOST) / SHOWN_MOST * 2 - 1)


@pytest.mark.parametrize(
    ("shown", "known", "every", "ends_at"), [(0.7, 4.0, 2, 0.91), (1.6, 4.0, 0, 0.96), (1.9, 1.5, 1, 1.14)]
)
def test_a_picture_before_or_beyond_an_attempt_may_show_the_moves(
    monkeypatch: pytest.MonkeyPatch, shown: float, known: float, every: int, ends_at: float
) -> None:
    """Of all on the straight ways that show the moves the nearest to the start, even of a drag that lost the face."""
    grey, start, heard = Grey(), torch.zeros(1, 1, 4), list[tuple[Points, LandmarkSettings]]()

    def drag(
        _grey: Grey, w: Tensor, _noise: None, at: Points, to: Points, _mask: None, held: DragSettings, *_: object
    ) -> Edited:
        assert (held.r1_px, held.feature_resolution, held.pace) == (PAPER_R1_PX, 32, "even")
        there = w + shown * float((to != at).any())
        picture = seen_drag.to_frame(grey.synthesize(there))
        frames = [picture] * (1 + 1 // every) + [picture] if every else []
        return Edited(there, grey.synthesize(there), torch.zeros(2, 2, 2), "stalled", 1, frames, {"best_step": 1.0})

    monkeypatch.setattr(seen_drag, "drag", drag)
    monkeypatch.setattr(seen_drag, "drag_landmarks", endings(0.0, heard))
    finder = Levels(seen_drag.to_frame(grey.synthesize(start)), known)
    settings = DragSettings(frame_every=every)
    edited = drag_until_seen(grey, start, None, finder, MOVES, None, settings)  # type: ignore[arg-type]
    assert (edited.stop_reason, heard) == ("arrived", [])
    assert edited.w == pytest.approx(torch.full((1, 1, 4), ends_at), abs=0.001)
    assert edited.metrics["seen"] == pytest.approx(ends_at, abs=0.02)
    assert torch.equal(edited.image, grey.synthesize(edited.w))
    assert len(edited.tracks) == edited.steps + 1 == edited.metrics["best_step"] + 1
    assert len(edited.frames) == (len(range(0, edited.steps + 1, every)) + 1 if every else 0)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_the_film_of_drag_and_steps_shows_each_step_once(every: int) -> None:
    whole = joined(film(9, 5, every, 0), film(6, 6, 1, 5), every)
    assert (whole.steps, whole.metrics["best_step"]) == (11, 11.0)
    assert whole.tracks[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert [int(frame[0, 0, 0]) for frame in whole.frames] == [*range(0, 12, every), 11]
    assert [int(whole.tracks[step, 0, 0]) for step in frame_steps(whole, every)] == [*range(0, 12, every), 11]


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_what_is_never_seen_has_not_arrived(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    asked = drags_that_show(monkeypatch, lambda reach: share * reach)
    edited = drag_until_seen(generator, w, None, locator, MOVES)
    assert edited.stop_reason == "stalled"
    assert edited.metrics["seen"] == pytest.approx(share * max(asked), abs=0.02)
    assert edited.metrics["seen"] < ARRIVED
    assert max(asked) == REACH_MOST


def test_a_picture_that_is_not_recognised_is_never_the_result(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    drags_that_show(monkeypatch, lambda reach: 0.9 * reach)
    locator.known = 0.5
    edited = drag_until_seen(generator, w, None, locator, MOVES)
    assert 0.0 < edited.metrics["seen"] <= 0.5
    locator.known = 0.05
    lost = drag_until_seen(generator, w, None, locator, MOVES)
    assert (lost.stop_reason, lost.metrics["seen"]) == ("lost", 0.0)


def test_it_can_be_stopped_and_may_have_nothing_to_do(
    generator: StyleGAN2, w: Tensor, locator: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = drags_that_show(monkeypatch, lambda reach: 0.4 * reach)
    stopped = drag_until_seen(generator, w, None, locator, MOVES, should_stop=lambda: True)
    assert (stopped.stop_reason, asked) == ("stopped", [1.0])
    still = drag_until_seen(generator, w, None, locator, 0 * MOVES)
    assert (still.stop_reason, still.metrics["attempts"], asked) == ("arrived", 0.0, [1.0])


def test_wrong_arguments_are_a_sentence(generator: StyleGAN2, w: Tensor, locator: Levels) -> None:
    with pytest.raises(UsageError, match=r"^3 moves were given for 2 points that are found\.$"):
        drag_until_seen(generator, w, None, locator, np.ones((3, 2)))
