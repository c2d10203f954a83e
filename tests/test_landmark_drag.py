"""Dragging points that are found again in each picture: arrives, holds the rest, and never takes an unknown picture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import NoFaceError, UsageError
from editing import landmark_drag
from editing.drag import DragStep, Edited
from editing.landmark_drag import FILM_STEPS, LandmarkSettings, Picture, drag_landmarks
from editing.points import Points
from inversion.generators.stylegan2 import StyleGAN2
from pipeline import stages
from pipeline.locating import LandmarkLocator
from pipeline.models import read_generator
from pipeline.outputs import frame_steps
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.schema import SampleConfig, compose
from tests.tiny import tiny_generator

RESOLUTION = 32


class Brightness:
    """Two points: the centres of gravity of the picture's brightness and of its redness."""

    def __init__(self, knows: Callable[[Points], bool] = lambda _: True) -> None:
        self.knows = knows

    def locate(self, picture: Picture) -> Points:
        y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
        planes = [picture.mean(axis=2) ** 2 + 1.0, picture[..., 0] ** 2.0 + 1.0]
        return np.array([[(p * x).sum() / p.sum(), (p * y).sum() / p.sum()] for p in planes])

    def recognises(self, picture: Picture) -> bool:
        return self.knows(self.locate(picture))


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(resolution=RESOLUTION)


@pytest.fixture(scope="module")
def w(generator: StyleGAN2) -> Tensor:
    return generator.map(torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(3)))


MOVES = [[0.6, 0.0], [0.6, 0.0]]
FREE = LandmarkSettings(hold_weight=0.01)


def test_points_arrive_and_only_the_leading_layers_move(generator: StyleGAN2, w: Tensor) -> None:
    heard: list[DragStep] = []
    edited = drag_landmarks(generator, w, None, Brightness(), MOVES, None, FREE, heard.append)
    assert edited.stop_reason == "arrived"
    assert edited.metrics["distance_after_px"] < 0.25 * edited.metrics["distance_before_px"]
    shown = Brightness().locate(image_u8(edited.image)) - Brightness().locate(image_u8(generator.synthesize(w)))
    assert np.allclose(shown, MOVES, atol=0.2)
    layers = int(edited.metrics["w_layers"])
    move = edited.w - w
    assert torch.equal(edited.w[:, layers:], w[:, layers:])
    assert torch.allclose(move[:, :layers], move[:, :1].expand(-1, layers, -1), atol=1e-5)
    assert [step.step for step in heard] == list(range(1, int(edited.metrics["rounds"]) + 1))


def test_the_film_shows_the_way_from_the_start_to_the_result(generator: StyleGAN2, w: Tensor) -> None:
    edited = drag_landmarks(generator, w, None, Brightness(), MOVES, None, FREE)
    assert edited.steps == FILM_STEPS
    assert edited.tracks.shape == (FILM_STEPS + 1, 2, 2)
    assert len(edited.frames) == len(frame_steps(edited, 2))
    assert np.array_equal(edited.frames[0], image_u8(generator.synthesize(w)))
    assert np.array_equal(edited.frames[-1], image_u8(edited.image))
    without = drag_landmarks(generator, w, None, Brightness(), MOVES, None, LandmarkSettings(frame_every=0))
    assert without.frames == []


def test_the_same_call_gives_the_same_bits(generator: StyleGAN2, w: Tensor) -> None:
    first, second = (drag_landmarks(generator, w, None, Brightness(), MOVES) for _ in range(2))
    assert torch.equal(first.w, second.w)
    assert torch.equal(first.tracks, second.tracks)


def left_change(edited: Edited, start: Tensor) -> float:
    return float((edited.image - start)[..., :16].square().sum())


def test_what_is_held_changes_less(generator: StyleGAN2, w: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.zeros(1, 1, RESOLUTION, RESOLUTION)
    right[..., 16:] = 1
    start, moves = generator.synthesize(w), [[0.3, 0], [0.3, 0]]
    free, held = (
        drag_landmarks(generator, w, None, Brightness(), moves, right, LandmarkSettings(hold_weight=hold))
        for hold in (0.01, 3.0)
    )
    assert left_change(held, start) < 0.8 * left_change(free, start)

    monkeypatch.setattr(landmark_drag, "TINT_WEIGHT", 0.0)
    monkeypatch.setattr(landmark_drag, "HOLD_INSIDE", 0.0)
    kept, allowed = (
        drag_landmarks(generator, w, None, Brightness(), moves, mask, LandmarkSettings(hold_weight=3.0))
        for mask in (right, 1 - right)
    )
    assert left_change(kept, start) < 0.8 * left_change(allowed, start)


def test_whole_areas_keep_their_colour(generator: StyleGAN2, w: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = torch.ones(1, 1, RESOLUTION, RESOLUTION)
    start, moves, tints = generator.synthesize(w), [[0.3, 0], [0.3, 0]], []
    for factor in (4.0, 0.0):
        monkeypatch.setattr(landmark_drag, "TINT_INSIDE", factor)
        edited = drag_landmarks(generator, w, None, Brightness(), moves, inside)
        tints.append(float(torch.nn.functional.adaptive_avg_pool2d(edited.image - start, 8).square().sum()))
    assert 0.0 < tints[0] < 0.8 * tints[1]


class Unmoved(Brightness):
    """Whatever is rendered, the points stay where they were."""

    def locate(self, picture: Picture) -> Points:
        return np.array([[8.0, 8.0], [16.0, 8.0]])


def test_the_hold_fades_anew_for_each_view_and_price_before_a_drag_without_a_gain_ends(
    generator: StyleGAN2, w: Tensor
) -> None:
    """Slopes measured on one side, on both, and by a wider view; then the price of the picture's change falls."""
    looked: list[Points] = []

    def knows(points: Points) -> bool:
        looked.append(points)
        return True

    stalled = drag_landmarks(generator, w, None, Unmoved(knows), MOVES, None, LandmarkSettings(rounds=200))
    assert (stalled.stop_reason, stalled.steps) == ("stalled", 0)
    faded = [landmark_drag.FIRST_RELAX * landmark_drag.RELAX_IDLE**n for n in range(20)]
    levels = 1 + sum(relax > landmark_drag.RELAX_LEAST for relax in faded)
    prices = [landmark_drag.CHANGE_PRICE * landmark_drag.PRICE_STALLED**n for n in range(20)]
    lowered = sum(price > landmark_drag.PRICE_LEAST for price in prices)
    assert min(levels, lowered) > 3
    assert stalled.metrics["rounds"] == len(looked) == (3 + lowered) * levels


def test_a_lower_price_lets_a_drag_change_more_of_the_picture(
    generator: StyleGAN2, w: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, reasons = LandmarkSettings(hold_weight=5.0), []
    for until in (0.0, 1.0):
        monkeypatch.setattr(landmark_drag, "PRICE_UNTIL", until)
        reasons.append(drag_landmarks(generator, w, None, Brightness(), MOVES, None, held).stop_reason)
    assert reasons == ["stalled", "arrived"]


def test_where_no_step_gains_a_picture_beside_may(
    generator: StyleGAN2, w: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landmark_drag, "_step", lambda *_: None)
    found = drag_landmarks(generator, w, None, Brightness(), MOVES, None, FREE)
    assert found.metrics["distance_after_px"] < 0.7 * found.metrics["distance_before_px"]
    refused = drag_landmarks(generator, w, None, Brightness(lambda _: False), MOVES, None, FREE)
    assert (refused.stop_reason, refused.steps) == ("lost", 0)
    monkeypatch.setattr(landmark_drag, "PROBE_GAIN", 1.0)
    assert drag_landmarks(generator, w, None, Brightness(), MOVES, None, FREE).steps == 0


def test_rounds_never_lose_what_was_won(generator: StyleGAN2, w: Tensor) -> None:
    errors: list[float] = []
    settings = LandmarkSettings(hold_weight=0.0)
    far = [[4.0, 0.0], [-4.0, 0.0]]
    drag_landmarks(generator, w, None, Brightness(), far, None, settings, lambda step: errors.append(step.loss))
    assert len(errors) > 3
    assert all(later <= earlier for earlier, later in pairwise(errors))
    assert errors[-1] < errors[0]


def test_no_moves_change_nothing(generator: StyleGAN2, w: Tensor) -> None:
    edited = drag_landmarks(generator, w, None, Brightness(), np.zeros((2, 2)))
    assert (edited.stop_reason, edited.steps) == ("arrived", 0)
    assert torch.equal(edited.w, w)
    assert edited.tracks.shape == (1, 2, 2)


def test_a_picture_that_is_not_recognised_is_never_the_result(generator: StyleGAN2, w: Tensor) -> None:
    start = Brightness().locate(image_u8(generator.synthesize(w)))
    never = drag_landmarks(generator, w, None, Brightness(lambda _: False), MOVES)
    assert (never.stop_reason, never.steps) == ("lost", 0)
    assert torch.equal(never.w, w)

    near = Brightness(lambda points: bool((points - start)[:, 0].max() < 0.3))
    edited = drag_landmarks(generator, w, None, near, MOVES)
    assert near.recognises(image_u8(edited.image))
    assert (near.locate(image_u8(edited.image)) - start)[:, 0].min() > 0.05


def test_a_drag_can_be_stopped(generator: StyleGAN2, w: Tensor) -> None:
    edited = drag_landmarks(generator, w, None, Brightness(), MOVES, should_stop=lambda: True)
    assert (edited.stop_reason, edited.metrics["rounds"]) == ("stopped", 0)


def test_no_rounds_are_the_cap(generator: StyleGAN2, w: Tensor) -> None:
    assert (
        drag_landmarks(generator, w, None, Brightness(), MOVES, None, LandmarkSettings(rounds=0)).stop_reason == "cap"
    )


def test_wrong_arguments_are_a_sentence(generator: StyleGAN2, w: Tensor) -> None:
    with pytest.raises(UsageError, match=r"^3 moves were given for 2 points that are found\.$"):
        drag_landmarks(generator, w, None, Brightness(), np.ones((3, 2)))
    with pytest.raises(UsageError, match=r"A drag takes w of \[1, \d+, 32\]"):
        drag_landmarks(generator, w[:, :2], None, Brightness(), MOVES)
    with pytest.raises(UsageError, match="takes no negative settings"):
        LandmarkSettings(rounds=-1)
    with pytest.raises(UsageError, match=r"^edit\.method is landmarks, and edit\.preset is null"):
        compose(["edit.method=landmarks"])


@pytest.fixture(scope="module")
def face() -> Picture:
    embedded = read_generator(compose(["edit=smile"]).generator, torch.device("cpu")).module
    return image_u8(stages.sample(embedded, SampleConfig(seed=1, psi=0.5), torch.device("cpu")).image)


def test_landmarks_are_found_at_every_size(face: Picture) -> None:
    small = LandmarkLocator(face, [30, 48, 68]).locate(face)
    large_face = cv2.resize(face, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    large = LandmarkLocator(large_face, [30, 48, 68]).locate(large_face)
    assert small.shape == (3, 2)
    assert np.abs((large + 0.5) / 4 - 0.5 - small).max() < 2.5


def test_a_picture_without_a_face_is_not_recognised(face: Picture) -> None:
    locator = LandmarkLocator(face, [30])
    assert locator.recognises(face)
    assert not locator.recognises(np.full_like(face, 128))
    with pytest.raises(NoFaceError):
        LandmarkLocator(np.full_like(face, 128), [30])


@pytest.mark.parametrize(
    ("words", "figure"),
    [([], "attempts"), (["edit.method=landmarks"], "rounds"), (["edit.method=points"], "feature_resolution")],
)
def test_a_preset_is_dragged_until_it_is_seen_unless_another_way_is_asked_for(words: list[str], figure: str) -> None:
    loaded = read_generator(compose(["edit=smile"]).generator, torch.device("cpu")).module
    config = compose(["edit=smile", "edit.steps=2", *words]).edit
    sampled = stages.sample(loaded, SampleConfig(seed=1, psi=0.5), torch.device("cpu"))
    crop = stages.sampled_crop(sampled)
    asked = stages.make_drag(config, crop, [])
    dragged = stages.edit(loaded, sampled.w, None, sampled.image, crop, asked, config, Console(False), "smile")
    assert figure in dragged.edited.metrics
    assert len(dragged.targets) == dragged.edited.tracks.shape[1]


def test_without_a_face_the_features_are_dragged_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = read_generator(compose(["edit=smile"]).generator, torch.device("cpu")).module
    sampled = stages.sample(loaded, SampleConfig(seed=1, psi=0.5), torch.device("cpu"))
    crop = stages.sampled_crop(sampled)
    config = compose(["edit=smile", "edit.steps=1"]).edit
    asked, grey = stages.make_drag(config, crop, []), torch.zeros_like(sampled.image)
    dragged = stages.edit(loaded, sampled.w, None, grey, crop, asked, config, Console(False), "smile")
    assert "feature_resolution" in dragged.edited.metrics
    assert "no face was found in the inverted picture" in capsys.readouterr().err
