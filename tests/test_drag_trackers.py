"""The trackers and supervisions that a config can choose, and the levels that they look at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.errors import UsageError
from editing import following
from editing.drag import FEW_FIRST_PACE, FIRST_PACE, DragSettings, advance, begin, drag, pace, prepare
from editing.drag_losses import hold_factor, motion_loss, original_share
from editing.drag_task import (
    CROWD,
    FEW_HOLD,
    FEW_LR,
    FEW_R1_PX,
    FEW_STOP,
    FEW_STOP_WAY,
    MIN_DISC_PX,
    PAPER_R1_PX,
    R1_PX,
    pick_r1,
)
from editing.following import adapted, learned_filters
from editing.trackers import Levels, Squares, disc_offsets, feature_from_crop, sample, search, square_offsets, track
from inversion.generators.squares import cut_squares
from tests.inversions import seeded
from tests.test_drag import CENTRES, QUICK, Parts, random_points, smooth_map
from tests.tiny import tiny_generator


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts()


@pytest.fixture(scope="module")
def start_w() -> Tensor:
    return torch.zeros(1, Parts.num_ws, Parts.w_dim)


@pytest.mark.parametrize("tracker", ["nearest", "line_search", "filter"])
@pytest.mark.parametrize("supervision", ["present", "original", "both", "gated"])
def test_every_way_moves_a_part_where_it_was_asked(
    parts: Parts, start_w: Tensor, tracker: str, supervision: str
) -> None:
    settings = replace(
        QUICK, tracker=tracker, supervision=supervision, lr=0.01 if tracker == "line_search" else QUICK.lr
    )
    target = torch.tensor([CENTRES[0]]) + torch.tensor([5.0, -3.0])
    edited = drag(parts, start_w, None, [CENTRES[0]], target, settings=settings)
    assert edited.stop_reason == "arrived"
    assert float((parts.centres(edited.w)[0] - target[0]).norm()) < 1.0


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(UsageError, match=r"edit\.tracker is magic; it must be one of nearest, line_search, filter"):
        DragSettings(tracker="magic")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"edit\.supervision is all; it must be one of auto, present, original"):
        DragSettings(supervision="all")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"edit\.pulls is 0"):
        DragSettings(pulls=0)


def test_several_pulls_come_between_two_searches(parts: Parts, start_w: Tensor) -> None:
    edited = drag(
        parts,
        start_w,
        None,
        [CENTRES[0]],
        [(40.0, 40.0)],
        settings=replace(QUICK, pulls=3, steps=7, lr=0.001, frame_every=2),
    )
    assert edited.steps == 7
    assert len(edited.tracks) == 8
    assert torch.equal(edited.tracks[1], edited.tracks[3])
    assert len(edited.frames) == 5  # steps 0, 2, 4, 6, and the best


def test_levels_are_the_maps_side_by_side() -> None:
    fine, coarse = smooth_map((0.3, 0.1), 32, 5), smooth_map((1.0, 2.0), 16, 3)
    points = random_points(9, 2.0, 29.0).reshape(3, 3, 2)
    seen = sample(Levels((fine, coarse), (0.5, 3.0)), points)
    assert torch.equal(seen[..., :5], 0.5 * sample(fine, points))
    assert torch.equal(seen[..., 5:], 3.0 * sample(coarse, feature_from_crop(points, 32, 16)))


def test_levels_of_squares_are_those_of_whole_maps() -> None:
    generator = tiny_generator(64, channels=12).double()
    w = generator.map(torch.randn(1, generator.z_dim, generator=seeded(3)).double()).detach()
    maps = generator.feature_maps(w, (64, 32))
    assert torch.equal(maps[1], generator.features(w, 32))
    points = torch.tensor([[10.2, 11.7], [55.0, 30.1]]).double()
    starts = points.floor().long() - 6
    cut = Levels((Squares(cut_squares(maps[0], starts, 14), starts.double(), (64, 64)), maps[1]), (1.0, 2.0))
    whole, offsets = Levels(tuple(maps), (1.0, 2.0)), disc_offsets(1.0, points)
    template = sample(whole, points[:, None] + offsets + 0.6)
    first, second = (track(seen, template, points, offsets, 3) for seen in (cut, whole))
    assert torch.allclose(first.points, second.points, atol=1e-9)


def test_the_search_is_the_least_squares_of_every_move() -> None:
    features, points, offsets = smooth_map((0.0, 0.0)), random_points(5, 8.0, 24.0), disc_offsets(2.0, torch.zeros(1))
    template = sample(smooth_map((1.0, -2.0)), points[:, None] + offsets)
    found = search(features, template, points, offsets, 3)
    moves = square_offsets(3, points)
    costs = [(sample(features, points[:, None] + m + offsets) - template).square().mean(dim=(1, 2)) for m in moves]
    least, best = torch.stack(costs).min(dim=0)
    assert torch.allclose(found.residual, least, atol=1e-4)
    assert torch.allclose(found.points, points + moves[best])


def test_wanted_is_what_stood_there_at_first_by_its_share() -> None:
    features, patch = torch.randn(1, 4, 16, 16, generator=seeded(0)), disc_offsets(1.0, torch.zeros(1))
    points, alive = torch.tensor([[5.0, 5.0], [9.0, 9.0]]), torch.tensor([True, True])
    original = torch.randn(2, len(patch), 4, generator=seeded(1))
    moved = sample(features, points[:, None] + patch + torch.tensor([1.0, 0.0]))
    present = sample(features, points[:, None] + patch)
    both = [(moved - wanted).abs().mean(dim=(1, 2)) for wanted in (present, original)]
    share = torch.tensor([0.0, 0.75])
    found = motion_loss(features, points, points + torch.tensor([9.0, 0.0]), patch, alive, original, share)
    expected = (both[0][0] + 0.25 * both[0][1] + 0.75 * both[1][1]) / 2
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_gated_supervision_turns_to_the_original_where_in_doubt(parts: Parts, start_w: Tensor) -> None:
    settings = replace(QUICK, supervision="gated")
    task = prepare(parts, start_w, None, [CENTRES[0], CENTRES[1]], [(30.0, 30.0), (50.0, 30.0)], None, settings)
    state = begin(task)
    assert original_share(task, state.trail).tolist() == [0.0, 0.0]
    doubtful = replace(state.trail, doubt=torch.tensor([0.1, 0.6]))
    assert original_share(task, doubtful).tolist() == [0.0, 1.0]


def test_a_filter_answers_at_its_handle_only() -> None:
    features = Levels((torch.randn(1, 40, 48, 48, generator=seeded(2)),), (1.0,))
    points = torch.tensor([[20.0, 21.0], [30.0, 17.0]])
    filters = learned_filters(features, points)
    moves = square_offsets(6, points)
    answers = torch.einsum("nmc,nc->nm", sample(features, points[:, None] + moves), filters)
    assert moves[answers.argmax(dim=1)].abs().max() == 0
    assert float(answers[:, moves.abs().amax(dim=1) > 3].abs().mean()) < 0.2 * float(answers.max())


def test_a_template_learns_less_from_a_pull_that_went_badly() -> None:
    shares = adapted(torch.tensor([0.0, 0.2 * following.TEMPLATE_STEP, 0.8 * following.TEMPLATE_STEP, 3.0]))
    assert shares[1] == pytest.approx(0.5)
    assert shares[2] == pytest.approx(0.1)
    assert shares[0] > 0.6
    assert shares[3] < 1e-3


def test_line_search_goes_back_where_the_features_do_not_follow(parts: Parts, start_w: Tensor) -> None:
    """A pull that nothing answers ends after its steps, and the next one is not farther."""
    settings = replace(QUICK, tracker="line_search", lr=1e-6)
    task = prepare(parts, start_w, None, [CENTRES[0]], [(40.0, 40.0)], None, settings)
    state = begin(task)
    first = float((state.trail.aims - task.handles).norm())
    assert 0 < first <= 3.0 * task.resolution / 512 + 1e-5
    for _ in range(3 * following.LINE_PULLS):
        state = advance(task, state)
        assert float((state.trail.aims - task.handles).norm()) <= first + 1e-5
    assert torch.equal(state.points, task.handles)


def test_the_person_is_held_by_what_is_asked_of_it(parts: Parts, start_w: Tensor) -> None:
    """A person who minds every change: the drag moves less, and one who is not asked changes nothing."""
    start = parts.synthesize(start_w)

    def minds(image: Tensor) -> Tensor:
        return (image - start).square().mean()

    def moved(weight: float) -> float:
        settings = replace(QUICK, steps=6, identity_weight=weight)
        edited = drag(parts, start_w, None, [CENTRES[0]], [(30.0, 24.0)], settings=settings, person=minds)
        return float((edited.image - start).square().mean())

    free = drag(parts, start_w, None, [CENTRES[0]], [(30.0, 24.0)], settings=replace(QUICK, steps=6))
    assert moved(0.0) == float((free.image - start).square().mean())
    assert moved(1e4) < 0.5 * moved(0.0)


def test_one_or_two_points_pull_more_of_the_face_and_hold_the_rest_more_firmly(parts: Parts, start_w: Tensor) -> None:
    few, several, line = (
        prepare(parts, start_w, None, CENTRES[:1] * count, [(40.0, 40.0)] * count, None, DragSettings(tracker=tracker))
        for count, tracker in ((2, "nearest"), (3, "nearest"), (2, "line_search"))
    )
    feature_px = few.resolution / 512
    radii = [max(r1_px * feature_px, MIN_DISC_PX) for r1_px in (FEW_R1_PX, R1_PX, PAPER_R1_PX)]
    assert [len(task.patch) for task in (few, several, line)] == [len(disc_offsets(r, start_w)) for r in radii]
    assert [pick_r1(DragSettings(), count) for count in (2, 3, CROWD - 1, CROWD)] == [
        FEW_R1_PX,
        R1_PX,
        R1_PX,
        PAPER_R1_PX,
    ]
    assert pick_r1(DragSettings(r1_px=7.0), 1) == 7.0
    assert [hold_factor(task) for task in (few, several, line)] == [FEW_HOLD, 1.0, 1.0]
    assert (few.stop_px, several.stop_px, line.stop_px) == (pytest.approx(FEW_STOP * 0.35), 0.35, 0.35)
    evenly = [replace(task, settings=replace(task.settings, pace="even")) for task in (few, several)]
    assert [pace(task, 0) for task in (few, several, line, *evenly)] == [FEW_FIRST_PACE, FIRST_PACE, 1.0, FEW_LR, 1.0]


def test_a_short_way_of_one_point_is_not_taken_for_arrived(parts: Parts, start_w: Tensor) -> None:
    x, y = CENTRES[0]
    task = prepare(parts, start_w, None, [CENTRES[0]], [(x + 1.6, y)], None, DragSettings())
    assert task.stop_px == pytest.approx(FEW_STOP_WAY * 1.6)
    assert prepare(parts, start_w, None, [CENTRES[0]], [(x + 0.8, y)], None, DragSettings()).stop_px == 0.35
    assert prepare(parts, start_w, None, [CENTRES[0]], [(x + 9.0, y)], None, DragSettings(stop_px=0.5)).stop_px == 0.5
