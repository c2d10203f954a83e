"""Drags that compute squares of a map go where drags that compute the whole map go."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from editing import squares as drag_squares
from editing.drag import DragSettings, Edited, begin, drag, prepare
from editing.drag_losses import kept_loss
from editing.squares import Seen
from editing.step_maps import maps_of
from editing.trackers import Levels, Squares, disc_offsets, sample, track
from inversion.generators import squares as generator_squares
from inversion.generators.squares import cut_squares
from inversion.generators.stylegan2 import StyleGAN2
from tests.inversions import seeded
from tests.tiny import tiny_generator

HANDLES, TARGETS = [[40.3, 50.8], [90.0, 60.0], [3.0, 125.0]], [[52.0, 44.0], [90.0, 60.0], [9.0, 118.0]]
SETTINGS = DragSettings(steps=12, lr=0.02, frame_every=0, feature_resolution=64)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(128, channels=12).double()


@pytest.fixture(autouse=True)
def _small_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_squares, "BASE_PX", 16)


def start_w(generator: StyleGAN2) -> torch.Tensor:
    return generator.map(torch.randn(1, generator.z_dim, generator=seeded(3)).double()).detach()


def outside_mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, 128, 128).double()
    mask[..., :70] = 1.0
    return mask


def dragged(generator: StyleGAN2, worthwhile: float, monkeypatch: pytest.MonkeyPatch) -> Edited:
    monkeypatch.setattr(drag_squares, "WORTHWHILE", worthwhile)
    return drag(generator, start_w(generator), None, HANDLES, TARGETS, settings=SETTINGS)


def test_squares_and_the_whole_map_make_the_same_drag(generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Seen] = []
    keep, real = taken.append, drag_squares.look

    def looked(*args: object) -> Seen:
        found = real(*args)  # type: ignore[arg-type]
        keep(found)
        return found

    monkeypatch.setattr("editing.drag.look", looked)
    whole = dragged(generator, 0.0, monkeypatch)
    assert not taken
    local = dragged(generator, 1e9, monkeypatch)
    assert len(taken) == SETTINGS.steps + 1
    assert torch.allclose(local.tracks, whole.tracks, atol=1e-6)
    assert torch.allclose(local.w, whole.w, atol=1e-8)
    assert float((local.tracks[-1] - local.tracks[0]).norm()) > 0.5


def test_few_points_are_dragged_by_squares_and_many_by_the_whole_map(generator: StyleGAN2) -> None:
    few = prepare(generator, start_w(generator), None, HANDLES[:1], TARGETS[:1], None, SETTINGS)
    assert few.squares is not None
    many = torch.rand(60, 2, generator=seeded(1)) * 100 + 10
    assert prepare(generator, start_w(generator), None, many, many + 5, None, SETTINGS).squares is None


def test_spots_and_the_coarse_map_estimate_the_mask_term(generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over one turn the spots see what the whole map's term sees, each pixel once."""
    monkeypatch.setattr(drag_squares, "WORTHWHILE", 1e9)
    for where in ("editing.squares.SPOT_SHARE", "editing.drag_losses.SPOT_SHARE"):
        monkeypatch.setattr(where, 1.0)
    w = start_w(generator)
    task = prepare(generator, w, None, HANDLES[:1], TARGETS[:1], outside_mask(), SETTINGS)
    assert task.squares is not None
    assert task.squares.kept is not None
    moved = w + 0.1 * torch.randn(w.shape, generator=seeded(5)).double()
    wanted = float(kept_loss(task, Levels(tuple(maps_of(generator, moved, task.levels, None)), task.start.scales)))
    turn = len(task.squares.kept.order)
    found = [
        float(kept_loss(task, drag_squares.look(generator, moved, None, 64, task.squares, task.handles, step)))
        for step in range(turn)
    ]
    assert wanted > 0.01
    assert sum(found) / turn == pytest.approx(wanted, rel=1e-6)
    assert float(kept_loss(task, begin(task).features).detach()) == pytest.approx(0.0, abs=1e-9)


def test_a_mask_holds_what_lies_outside_it(generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drag_squares, "WORTHWHILE", 1e9)
    w = start_w(generator)
    before, held = generator.synthesize(w)[..., 80:], replace(SETTINGS, r1_px=3.0, mask_weight=0.3)

    def change(mask: torch.Tensor | None) -> float:
        edited = drag(generator, w, None, HANDLES[:1], TARGETS[:1], mask, held)
        return float((edited.image[..., 80:] - before).abs().mean())

    assert change(outside_mask()) < 0.8 * change(None)


def test_sampling_and_tracking_in_squares_is_that_of_the_map() -> None:
    features = torch.randn(1, 5, 24, 24, generator=seeded(0)).double()
    points = torch.tensor([[3.2, 4.7], [23.0, 0.0], [12.5, 20.1]]).double()
    starts = points.floor().long() - 6
    squares = Squares(cut_squares(features, starts, 14), starts.double(), (24, 24))
    around = points[:, None] + disc_offsets(2.0, points)
    assert torch.allclose(sample(squares, around), sample(features, around), atol=1e-12)
    template = sample(features, around + 0.7)
    offsets = disc_offsets(2.0, points)
    first, second = (track(seen, template, points, offsets, 3) for seen in (squares, features))
    assert torch.allclose(first.points, second.points, atol=1e-9)
    assert torch.allclose(first.residual, second.residual, atol=1e-9)
