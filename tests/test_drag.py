"""The drag engine against known truths: finite differences, exact shifts, a generator whose motion is written down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import UsageError
from editing.axes import latent_axes
from editing.drag import (
    FEW_FIRST_PACE,
    PACE_STEPS,
    SLOWER,
    SLOWINGS,
    DragSettings,
    DragStep,
    Edited,
    advance,
    begin,
    drag,
    verdict,
)
from editing.drag_losses import motion_loss
from editing.drag_task import (
    FEW_STOP,
    FEW_STOP_WAY,
    Pace,
    keep_mask,
    pick_layers,
    pick_resolution,
    pick_stop,
    prepare,
    typical_difference,
)
from editing.session import DragSession
from editing.trackers import (
    Levels,
    Match,
    crop_from_feature,
    disc_offsets,
    feature_from_crop,
    sample,
    search,
    square_offsets,
    track,
)
from inversion.generators.protocol import Generator
from tests.tiny import tiny_generator

SIZE = 64
CENTRES = ((20.0, 30.0), (44.0, 34.0))
REACH_PX = 5.0
PACES: tuple[Pace, ...] = ("auto", "even")
QUICK = DragSettings(steps=60, lr=0.03, frame_every=0, feature_resolution=32)


class Parts(nn.Module):
    """Two textured parts over a still background; w[0, 0, 2i : 2i + 2] * REACH_PX is the exact shift of part i.

    w[0, 0, 4:6] shifts both. The truth of every drag can be read from the latent, without any tracker.
    """

    z_dim, w_dim, c_dim, num_ws, channels = 8, 8, 0, 10, 12

    def __init__(self) -> None:
        super().__init__()
        self.resolution = SIZE
        self.block_resolutions = [4, 8, 16, 32, 64]
        rng = torch.Generator().manual_seed(3)
        self.register_buffer("waves", torch.randn(3, self.channels, 2, generator=rng) * 0.22)
        self.register_buffer("phases", torch.rand(3, self.channels, generator=rng) * 2 * math.pi)
        self.register_buffer("w_avg", torch.zeros(self.w_dim))

    def map(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, _cutoff: int | None = None
    ) -> Tensor:
        return (z * truncation_psi)[:, None].repeat(1, self.num_ws, 1)

    def centres(self, ws: Tensor) -> Tensor:
        """Where the parts are, [2, 2] in crop pixels."""
        shift = ws[0, 0, :4].reshape(2, 2) + ws[0, 0, 4:6]
        return torch.tensor(CENTRES).to(ws) + REACH_PX * shift

    def features(self, ws: Tensor, resolution: int, noise_mode: str = "const", noise: object = None) -> Tensor:
        axis = (torch.arange(resolution, dtype=ws.dtype) + 0.5) * (SIZE / resolution) - 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        grid = torch.stack([x, y], dim=-1)
        total = 0.1 * self._texture(2, grid)
        for i, centre in enumerate(self.centres(ws)):
            away = grid - centre
            total = total + torch.exp(-away.square().sum(dim=-1) / (2 * 6.0**2)) * self._texture(i, away)
        return total[None]

    def _texture(self, part: int, place: Tensor) -> Tensor:
        angle = (
            torch.einsum("hwd,cd->chw", place, self.waves[part].to(place)) + self.phases[part].to(place)[:, None, None]
        )
        return torch.cos(angle)

    def synthesize(self, ws: Tensor, noise_mode: str = "const", noise: object = None) -> Tensor:
        return self.features(ws, SIZE)[:, :3].tanh()

    def synthesize_with_features(self, ws: Tensor, resolution: int, *_: object) -> tuple[Tensor, Tensor]:
        return self.synthesize(ws), self.features(ws, resolution)

    def noise_maps(self) -> dict[str, Tensor]:
        return {}

    def ws_used_by(self, resolution: int) -> int:
        return 2 * self.block_resolutions.index(resolution) + 1


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts()


@pytest.fixture(scope="module")
def start_w() -> Tensor:
    return torch.zeros(1, Parts.num_ws, Parts.w_dim)


def smooth_map(shift: tuple[float, float], size: int = 32, channels: int = 16) -> Tensor:
    """A map [1, C, size, size] of slow waves, moved by exactly `shift` pixels."""
    rng = torch.Generator().manual_seed(1)
    waves = torch.randint(-3, 4, (channels, 5, 2, 1, 1), generator=rng).float() * (2 * math.pi / size)
    phases = torch.rand(channels, 5, 1, 1, generator=rng) * 2 * math.pi
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    return torch.cos(waves[:, :, 0] * (x - shift[0]) + waves[:, :, 1] * (y - shift[1]) + phases).sum(dim=1)[None]


def random_points(count: int, low: float, high: float, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


# --- sampling and tracking ------------------------------------------------------------------------------------------


def test_sample_is_the_bilinear_formula() -> None:
    features = torch.randn(1, 5, 9, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.tensor([[0.0, 0.0], [12.0, 8.0], [3.25, 4.5], [11.9, 0.1]], dtype=torch.float64)
    values = sample(features, points)
    for (x, y), got in zip(points.tolist(), values, strict=True):
        x0, y0 = min(int(x), 11), min(int(y), 7)
        fx, fy = x - x0, y - y0
        cell = features[0, :, y0 : y0 + 2, x0 : x0 + 2]
        top, bottom = cell[:, 0, 0] * (1 - fx) + cell[:, 0, 1] * fx, cell[:, 1, 0] * (1 - fx) + cell[:, 1, 1] * fx
        assert torch.allclose(got, top * (1 - fy) + bottom * fy, atol=1e-12)


def test_crop_pixels_meet_feature_pixels_as_in_a_resized_map() -> None:
    features = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    enlarged = F.interpolate(features, size=(64, 64), mode="bilinear", align_corners=False)
    points = torch.tensor([[10.0, 20.0], [31.0, 47.0], [33.0, 8.0]])
    values = sample(features, feature_from_crop(points, 64, 16))
    expected = torch.stack([enlarged[0, :, int(y), int(x)] for x, y in points.tolist()])
    assert torch.allclose(values, expected, atol=1e-5)


def test_crop_and_feature_pixels_are_inverse() -> None:
    points = random_points(20, -0.5, 63.5)
    assert torch.allclose(crop_from_feature(feature_from_crop(points, 64, 32), 64, 32), points, atol=1e-5)
    assert feature_from_crop(torch.tensor([0.5, 0.5]), 64, 32).tolist() == [0.0, 0.0]


def test_disc_and_square_offsets() -> None:
    like = torch.zeros(1)
    assert len(square_offsets(2, like)) == 25
    assert sorted(map(tuple, disc_offsets(1.0, like).tolist())) == [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
    assert len(disc_offsets(0.4, like)) == 1


@pytest.mark.parametrize("shift", [(0.3, -0.4), (1.5, 0.7), (-2.2, 1.9), (3.0, -3.0)])
def test_track_finds_a_known_shift_to_a_tenth_of_a_pixel(shift: tuple[float, float]) -> None:
    points, offsets = random_points(40, 6.0, 26.0), torch.zeros(1, 2)
    template = sample(smooth_map((0.0, 0.0)), points)[:, None]
    found = track(smooth_map(shift), template, points, offsets, radius=3)
    error = (found.points - points - torch.tensor(shift)).norm(dim=1)
    assert error.max() < 0.1
    whole = search(smooth_map(shift), template, points, offsets, radius=3)
    assert (found.residual <= whole.residual).all()


def test_track_leaves_an_unchanged_map_exactly_alone() -> None:
    points = random_points(40, -0.5, 31.5)
    features = smooth_map((0.0, 0.0))
    template = sample(features, points)[:, None]
    found = track(features, template, points, torch.zeros(1, 2), radius=3)
    assert torch.equal(found.points, points)
    assert found.residual.abs().max() == 0


def test_track_of_many_points_in_chunks_equals_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points, offsets = random_points(300, 3.0, 28.0), disc_offsets(1.0, torch.zeros(1))
    template = sample(smooth_map((0.0, 0.0)), points[:, None] + offsets)
    moved = smooth_map((1.2, -0.6))
    together = track(moved, template, points, offsets, radius=2)
    monkeypatch.setattr("editing.trackers.CHUNK_ELEMENTS", 10_000)
    assert torch.allclose(track(moved, template, points, offsets, radius=2).points, together.points, atol=1e-6)


def test_track_never_leaves_the_map() -> None:
    points = torch.tensor([[0.0, 0.0], [31.0, 31.0]])
    template = sample(smooth_map((0.0, 0.0)), points)[:, None]
    found = track(smooth_map((-3.0, -3.0)), template, points, torch.zeros(1, 2), radius=3)
    assert ((found.points >= -1.5) & (found.points <= 32.5)).all()


# --- losses ---------------------------------------------------------------------------------------------------------


def test_motion_loss_gradient_is_that_of_finite_differences() -> None:
    generator = tiny_generator().double()
    w = generator.map(torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(1)).double()).detach()
    points = torch.tensor([[8.3, 9.1], [20.0, 15.5]], dtype=torch.float64)
    targets = torch.tensor([[12.0, 7.0], [20.4, 15.2]], dtype=torch.float64)
    patch, alive = disc_offsets(1.5, points), torch.ones(2, dtype=torch.bool)
    leaf = w.clone().requires_grad_(True)
    motion_loss(generator.features(leaf, 32), points, targets, patch, alive).backward()
    assert leaf.grad is not None
    source = sample(generator.features(w, 32), points[:, None] + patch)
    move = (targets - points) / (targets - points).norm(dim=1, keepdim=True).clamp_min(1.0)

    def value(ws: Tensor) -> Tensor:
        """The loss with the source patch frozen at the start: what stop-gradient means."""
        moved = sample(generator.features(ws, 32), points[:, None] + patch + move[:, None])
        return (moved - source).abs().mean()

    rng = torch.Generator().manual_seed(2)
    for _ in range(5):
        direction = torch.randn(w.shape, generator=rng, dtype=torch.float64)
        slope = float(value(w + 1e-6 * direction) - value(w - 1e-6 * direction)) / 2e-6
        assert slope == pytest.approx(float((leaf.grad * direction).sum()), rel=1e-4, abs=1e-8)


def test_motion_loss_ignores_anchors_in_place_and_lost_handles() -> None:
    features = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[5.0, 5.0], [9.0, 9.0]])
    patch = disc_offsets(1.0, points)
    assert motion_loss(features, points, points, patch, torch.tensor([True, True])) == 0
    both = motion_loss(features, points, points + 2, patch, torch.tensor([True, False]))
    first = motion_loss(features, points[:1], points[:1] + 2, patch, torch.tensor([True]))
    assert both == pytest.approx(float(first))
    assert motion_loss(features, points, points + 2, patch, torch.tensor([False, False])) == 0


def test_typical_difference_is_the_mean_over_all_places() -> None:
    fine = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    coarse = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    points = torch.tensor([[1.0, 2.0], [6.3, 4.9], [7.0, 0.0]])
    both = Levels((fine, coarse), (0.5, 2.0))
    values, total = sample(both, points), torch.zeros(3)
    for part, scale, own in ((fine, 0.5, values[:, :6]), (coarse, 2.0, values[:, 6:])):
        everywhere = scale * part[0].flatten(1).t()
        total = total + torch.stack([(everywhere - v).square().mean(dim=0).sum() for v in own])
    assert torch.allclose(typical_difference(both, points), total / 8, atol=1e-5)


def test_keep_mask_averages_to_the_feature_map() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :3] = 1.0
    keep = keep_mask(mask, 8, 4, 20.0, torch.zeros(1))
    assert keep is not None
    assert keep[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert keep_mask(torch.ones(1, 1, 8, 8), 8, 4, 20.0, torch.zeros(1)) is None
    assert keep_mask(mask, 8, 4, 0.0, torch.zeros(1)) is None


# --- drags whose truth is known -------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [(6.0, -4.0), (-3.3, 0.7), (0.0, 7.5)])
def test_drag_moves_a_part_where_it_was_asked(parts: Parts, start_w: Tensor, move: tuple[float, float]) -> None:
    target = torch.tensor([CENTRES[0]]) + torch.tensor(move)
    edited = drag(parts, start_w, None, [CENTRES[0]], target, settings=replace(QUICK, stop_px=0.7, pull_weight=0.0))
    assert edited.stop_reason == "arrived"
    assert (parts.centres(edited.w)[0] - target[0]).norm() < 0.8
    assert edited.metrics["distance_before_px"] == pytest.approx(math.hypot(*move), abs=1e-4)


def test_drag_off_centre_point_at_a_sub_pixel_place(parts: Parts, start_w: Tensor) -> None:
    handle = [[22.37, 27.81]]
    edited = drag(parts, start_w, None, handle, [[24.72, 26.44]], settings=QUICK)
    moved = parts.centres(edited.w)[0] - torch.tensor(CENTRES[0])
    assert edited.stop_reason == "arrived"
    assert (moved - torch.tensor([2.35, -1.37])).norm() < 0.6


def test_anchor_holds_the_other_part(parts: Parts, start_w: Tensor) -> None:
    handles, targets = [CENTRES[0], CENTRES[1]], [(24.0, 27.0), CENTRES[1]]
    settings = replace(QUICK, stop_px=0.4)
    edited = drag(parts, start_w, None, handles, targets, settings=settings)
    alone = drag(parts, start_w, None, handles[:1], targets[:1], settings=settings)
    drift = (parts.centres(edited.w)[1] - torch.tensor(CENTRES[1])).norm()
    assert edited.stop_reason == "arrived"
    assert (parts.centres(edited.w)[0] - torch.tensor([24.0, 27.0])).norm() < 0.6
    assert drift < 0.5 * (parts.centres(alone.w)[1] - torch.tensor(CENTRES[1])).norm()


def test_mask_keeps_the_rest_closer(parts: Parts, start_w: Tensor) -> None:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., :34] = 1.0
    before = parts.features(start_w, 32)[..., 20:]

    def outside(mask_crop: Tensor | None) -> tuple[float, Edited]:
        edited = drag(parts, start_w, None, [CENTRES[0]], [(24.0, 27.0)], mask_crop, replace(QUICK, mask_weight=20.0))
        return float((parts.features(edited.w, 32)[..., 20:] - before).abs().mean()), edited

    free, kept = outside(None), outside(mask)
    assert kept[0] < 0.6 * free[0]
    assert kept[1].stop_reason == "arrived"


def test_mask_keeps_pixels_of_a_stylegan() -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    before = generator.synthesize(w)[..., 40:]

    def change(mask_crop: Tensor | None) -> float:
        edited = drag(
            generator,
            w,
            None,
            [[16.0, 30.0]],
            [[20.0, 27.0]],
            mask_crop,
            DragSettings(steps=20, lr=0.01, frame_every=0, mask_weight=1, r1_px=3.0),
        )
        return float((edited.image[..., 40:] - before).abs().mean())

    assert change(mask) < 0.9 * change(None)


def test_a_step_on_a_real_network_brings_the_features_along() -> None:
    """After one small step the features one pixel onward are more like the handle's than before, measured afresh."""
    generator = tiny_generator(64)
    w = random_w(generator)
    edited = drag(
        generator,
        w,
        None,
        [[30.5, 30.5]],
        [[36.5, 30.5]],
        settings=DragSettings(steps=1, lr=0.005, feature_resolution=32),
    )
    session = DragSession(generator, w, settings=DragSettings(lr=0.005, feature_resolution=32))
    session.start([[30.5, 30.5]], [[36.5, 30.5]])
    session.step()
    before, after = generator.features(w, 32)[0], generator.features(session.w, 32)[0]
    wanted = before[:, 14:17, 15]
    assert (after[:, 14:17, 16] - wanted).abs().mean() < (before[:, 14:17, 16] - wanted).abs().mean()
    assert edited.steps == 1


def random_w(generator: Generator, seed: int = 1) -> Tensor:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return generator.map(z).detach()


# --- the run as a whole ---------------------------------------------------------------------------------------------


def test_null_drag_is_bit_identical() -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    noise = {name: torch.randn_like(value) for name, value in generator.noise_maps().items()}
    points = [[20.0, 30.0], [33.3, 41.7]]
    edited = drag(generator, w, noise, points, points)
    assert (edited.stop_reason, edited.steps) == ("arrived", 0)
    assert torch.equal(edited.w, w)
    assert torch.equal(edited.image, generator.synthesize(w, noise=noise))
    assert edited.tracks.shape == (1, 2, 2)
    assert len(edited.frames) == 1


def test_drag_is_deterministic_and_leaves_its_arguments_alone() -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    kept, weights = w.clone(), {k: v.clone() for k, v in generator.state_dict().items()}
    settings = DragSettings(steps=6, lr=0.02, frame_every=2)
    first, second = (drag(generator, w, None, [[20.0, 30.0]], [[29.0, 33.0]], settings=settings) for _ in range(2))
    assert torch.equal(first.w, second.w)
    assert torch.equal(first.tracks, second.tracks)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, second.frames, strict=True))
    assert torch.equal(w, kept)
    assert all(torch.equal(v, weights[k]) for k, v in generator.state_dict().items())


def test_noise_given_by_the_caller_is_used_everywhere() -> None:
    generator = tiny_generator(64)
    with torch.no_grad():
        for resolution in generator.block_resolutions:
            for _, layer in generator.synthesis.block(resolution).layers():
                layer.noise_strength.fill_(0.3)
    w = random_w(generator)
    rng = torch.Generator().manual_seed(9)
    noise = {k: torch.randn(v.shape, generator=rng) for k, v in generator.noise_maps().items()}
    settings = DragSettings(steps=3, frame_every=1, r1_px=3.0)
    own = drag(generator, w, noise, [[20.0, 30.0]], [[29.0, 33.0]], settings=settings)
    registered = drag(generator, w, None, [[20.0, 30.0]], [[29.0, 33.0]], settings=settings)
    assert not torch.equal(own.w, registered.w)
    assert torch.equal(own.image, generator.synthesize(own.w, noise=noise))


@pytest.mark.parametrize(("size", "dtype"), [(8, torch.float32), (16, torch.float32), (32, torch.float64)])
def test_any_size_and_dtype(size: int, dtype: torch.dtype) -> None:
    generator = tiny_generator(size, channels=8, w_dim=16, c_dim=2 if size == 16 else 0).to(dtype)
    w = torch.randn(1, generator.num_ws, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    edited = drag(generator, w, None, [[2.0, 3.0]], [[5.0, 5.0]], torch.ones(1, 1, size, size), DragSettings(steps=3))
    assert edited.w.dtype == edited.image.dtype == dtype
    assert edited.image.shape == (1, 3, size, size)
    assert torch.isfinite(edited.w).all()


def test_only_the_selected_layers_move() -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    edited = drag(
        generator, w, None, [[20.0, 30.0]], [[29.0, 33.0]], settings=DragSettings(steps=3, lr=0.02, w_layers=2)
    )
    assert torch.equal(edited.w[:, 2:], w[:, 2:])
    assert ((edited.w - w)[:, :2].abs().amax(dim=2) > 0).all()


def test_pull_keeps_the_latent_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editing.drag.STALL_STEPS", 99)
    generator = tiny_generator(64)
    w = random_w(generator)

    def moved(pull: float) -> float:
        settings = DragSettings(steps=15, pull_weight=pull, stop_px=0.01, frame_every=0, r1_px=3.0, pace="even")
        session = DragSession(generator, w, settings=settings)
        session.start([[20.0, 30.0]], [[29.0, 33.0]])
        for _ in range(15):
            if session.stop_reason is None:
                session.step()
        return float((session.w - w).norm())

    assert moved(50.0) < 0.7 * moved(0.0)


def test_hundreds_of_points(parts: Parts, start_w: Tensor) -> None:
    handles = torch.tensor([CENTRES[0]]) + random_points(300, -5.0, 5.0)
    edited = drag(parts, start_w, None, handles, handles + torch.tensor([3.0, -2.0]), settings=QUICK)
    assert edited.tracks.shape == (edited.steps + 1, 300, 2)
    assert (parts.centres(edited.w)[0] - torch.tensor(CENTRES[0]) - torch.tensor([3.0, -2.0])).norm() < 0.8


def test_watcher_hears_every_step_and_frames_follow_the_setting(parts: Parts, start_w: Tensor) -> None:
    heard: list[DragStep] = []
    settings = DragSettings(steps=5, lr=0.005, frame_every=2)
    edited = drag(parts, start_w, None, [CENTRES[0]], [(30.0, 30.0)], None, settings, heard.append)
    assert [h.step for h in heard] == [1, 2, 3, 4, 5]
    assert {h.total for h in heard} == {5}
    assert all(torch.equal(h.points, edited.tracks[h.step]) for h in heard)
    assert heard[-1].distance_px == pytest.approx(
        float((heard[-1].points - torch.tensor([30.0, 30.0])).norm()), abs=1e-4
    )
    assert len(edited.frames) == 4  # steps 0, 2 and 4, then the best state
    assert all(f.shape == (SIZE, SIZE, 3) and f.dtype == np.uint8 for f in edited.frames)


def test_best_state_is_returned_not_the_last(parts: Parts, start_w: Tensor) -> None:
    distances = [5.0]
    settings = DragSettings(steps=40, lr=0.6, stop_px=0.001, frame_every=0)
    edited = drag(
        parts, start_w, None, [CENTRES[0]], [(25.0, 30.0)], None, settings, lambda s: distances.append(s.distance_px)
    )
    assert edited.metrics["distance_after_px"] == pytest.approx(min(distances))
    assert edited.metrics["best_step"] == distances.index(min(distances))


# --- why it ends ----------------------------------------------------------------------------------------------------


def test_cap(parts: Parts, start_w: Tensor) -> None:
    edited = drag(parts, start_w, None, [CENTRES[0]], [(40.0, 40.0)], settings=DragSettings(steps=4, lr=0.001))
    assert (edited.stop_reason, edited.steps) == ("cap", 4)


def test_zero_steps_is_a_cap_unless_already_there(parts: Parts, start_w: Tensor) -> None:
    edited = drag(parts, start_w, None, [CENTRES[0]], [(40.0, 40.0)], settings=DragSettings(steps=0))
    assert (edited.stop_reason, edited.steps) == ("cap", 0)
    assert torch.equal(edited.w, start_w)


def test_stalled_when_nothing_can_move(parts: Parts, start_w: Tensor) -> None:
    edited = drag(parts, start_w, None, [(2.0, 60.0)], [(12.0, 52.0)], settings=DragSettings(steps=200, frame_every=0))
    assert edited.stop_reason == "stalled"
    assert edited.steps < 200


def test_oscillating_when_steps_overshoot_again_and_again(parts: Parts, start_w: Tensor) -> None:
    settings = DragSettings(steps=200, lr=0.5, stop_px=0.001, pull_weight=0.0, frame_every=0, pace="even")
    edited = drag(parts, start_w, None, [CENTRES[0]], [(22.0, 30.0)], settings=settings)
    assert edited.stop_reason == "oscillating"
    assert edited.steps < 200
    assert edited.metrics["distance_after_px"] < edited.metrics["distance_before_px"]


def test_steps_grow_shorter_where_nothing_is_gained(parts: Parts, start_w: Tensor) -> None:
    settings = DragSettings(steps=200, lr=0.03, stop_px=0.001, pull_weight=0.0, frame_every=0)
    task = prepare(parts, start_w, None, [CENTRES[0]], [(26.0, 30.0)], None, settings)
    state, moves = begin(task), dict[int, list[float]]()
    while verdict(task, state) is None:
        before, state = state, advance(task, state)
        moves.setdefault(before.slowings, []).append(float((state.code - before.code).detach().abs().max()))
    assert sorted(moves) == list(range(SLOWINGS + 1))
    assert moves[0][0] == pytest.approx(FEW_FIRST_PACE * 0.03, rel=1e-3)
    assert all(max(moves[i]) <= 4 * FEW_FIRST_PACE * 0.03 * SLOWER**i for i in moves)
    assert verdict(task, state) in ("stalled", "oscillating")
    assert state.step - state.mark[0] == PACE_STEPS


def test_long_steps_first_arrive_sooner(parts: Parts, start_w: Tensor) -> None:
    handles, targets = [(20.0, 30.0), (23.0, 30.0), (20.0, 33.0)], [(30.0, 30.0), (33.0, 30.0), (30.0, 33.0)]
    slow = replace(QUICK, lr=0.01, steps=200)
    auto, even = (drag(parts, start_w, None, handles, targets, settings=replace(slow, pace=p)) for p in PACES)
    assert auto.steps < 0.75 * even.steps
    assert auto.metrics["distance_after_px"] < even.metrics["distance_after_px"] + 0.2


def test_stopped_keeps_the_best(parts: Parts, start_w: Tensor) -> None:
    calls = count()
    edited = drag(
        parts, start_w, None, [CENTRES[0]], [(30.0, 30.0)], settings=QUICK, should_stop=lambda: next(calls) >= 3
    )
    assert (edited.stop_reason, edited.steps) == ("stopped", 3)
    assert edited.metrics["distance_after_px"] < edited.metrics["distance_before_px"]


class Vanishing(Parts):
    """A generator that draws something else as soon as the latent moves."""

    def features(self, ws: Tensor, resolution: int, noise_mode: str = "const", noise: object = None) -> Tensor:
        shown = super().features(ws, resolution)
        return shown if float(ws.detach().abs().max()) == 0 else 0 * shown + 40.0


def test_lost_when_the_features_are_gone(start_w: Tensor) -> None:
    edited = drag(Vanishing(), start_w, None, [CENTRES[0]], [(30.0, 30.0)], settings=QUICK)
    assert edited.stop_reason == "lost"
    assert torch.equal(edited.w, start_w)


def test_one_lost_handle_does_not_end_the_others(
    parts: Parts, start_w: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that is never found again keeps its place and has no say; the other still arrives and is kept."""

    def half_blind(*args: Tensor) -> Match:
        found = track(*args)  # type: ignore[arg-type]
        return Match(found.points, found.residual + torch.tensor([0.0, 1e9]))

    monkeypatch.setattr("editing.following.track", half_blind)
    handles, targets = [CENTRES[0], CENTRES[1]], [(24.0, 27.0), (49.0, 30.0)]
    edited = drag(parts, start_w, None, handles, targets, settings=replace(QUICK, steps=300))
    assert edited.stop_reason in ("stalled", "oscillating")
    assert (parts.centres(edited.w)[0] - torch.tensor([24.0, 27.0])).norm() < 0.6
    assert torch.equal(edited.tracks[:, 1], torch.tensor([CENTRES[1]]).expand(edited.steps + 1, 2))


# --- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handles", "targets", "message"),
    [
        ([], [], "No handles were given.*edit.points"),
        ([[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], "1 handles and 2 targets"),
        ([[float("nan"), 2.0]], [[3.0, 4.0]], "Handles 1 is \\(nan, 2.00\\); coordinates must be finite"),
        ([[5.0, 5.0], [64.0, 2.0]], [[5.0, 5.0], [3.0, 4.0]], "handle of pair 2 falls on \\(64.00, 2.00\\), outside"),
        ([[5.0, 5.0]], [[-3.0, 4.0]], "target of pair 1 .*outside the aligned crop of 64 x 64 px"),
        ([[5.0, 5.0], [9.0, 9.0], [5.0, 5.0]], [[6.0, 6.0]] * 3, None),
        ([[5.0, 5.0], [5.0, 5.0]], [[6.0, 6.0], [9.0, 9.0]], "Pairs 1 and 2 have the same handle .* different targets"),
        ([[5.0, 5.0, 1.0]], [[6.0, 6.0, 1.0]], "shape \\[1, 3\\]; \\[N, 2\\]"),
        ([["a", "b"]], [[1.0, 1.0]], "handles are not numbers"),
    ],
)
def test_points_that_cannot_be_dragged(
    parts: Parts, start_w: Tensor, handles: list, targets: list, message: str | None
) -> None:
    def attempt() -> Edited:
        return drag(parts, start_w, None, handles, targets, settings=DragSettings(steps=1))

    if message is None:
        assert attempt().steps == 1
        return
    with pytest.raises(UsageError, match=message):
        attempt()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 1, 32, 32), "shape \\[1, 1, 32, 32\\]; \\[1, 1, 64, 64\\] is needed"),
        (torch.full((1, 1, 64, 64), 255.0), "outside \\[0, 1\\]"),
        (torch.full((1, 1, 64, 64), float("nan")), "outside \\[0, 1\\]"),
    ],
)
def test_masks_that_do_not_fit(parts: Parts, start_w: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        drag(parts, start_w, None, [CENTRES[0]], [(30.0, 30.0)], mask)


def test_latent_that_does_not_fit(parts: Parts) -> None:
    with pytest.raises(UsageError, match="takes w of \\[1, 10, 8\\], not \\[2, 10, 8\\]"):
        drag(parts, torch.zeros(2, 10, 8), None, [CENTRES[0]], [(30.0, 30.0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "edit.steps is -1; it must lie between 0 and"),
        ({"lr": 0.0}, "edit.lr is 0.0"),
        ({"lr": float("nan")}, "edit.lr is nan"),
        ({"mask_weight": -2.0}, "edit.mask_weight is -2.0"),
        ({"frame_every": -1}, "edit.frame_every is -1"),
    ],
)
def test_settings_out_of_range(change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DragSettings(**change)  # type: ignore[arg-type]


class Shape(Parts):
    """Only the sizes of a larger generator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.resolution, self.block_resolutions = size, [4 << i for i in range(size.bit_length() - 2)]


def test_block_and_layers_come_from_the_generator() -> None:
    generator = tiny_generator(64)
    assert pick_resolution(generator, 0) == 64
    assert pick_resolution(tiny_generator(16), 0) == 16
    assert [pick_resolution(Shape(size), 0) for size in (64, 128, 256, 1024)] == [64, 128, 128, 128]
    assert [pick_resolution(Shape(512), wanted, 64) for wanted in (0, 128)] == [64, 128]
    large = tiny_generator(128, channels=8)
    points, w = ([[60.0, 60.0]], [[70.0, 60.0]]), random_w(large)
    lines, asked = DragSettings(tracker="line_search"), DragSettings(feature_resolution=32)
    picked = [
        prepare(large, w, None, *points, None, settings).resolution for settings in (DragSettings(), lines, asked)
    ]
    assert picked == [64, 128, 32]
    assert pick_layers(generator, 0, 32) == generator.ws_used_by(32) == 7
    assert pick_layers(Shape(512), 0, 128) == 9
    assert pick_layers(generator, 0, 8) == generator.ws_used_by(8) == 3
    assert (pick_layers(generator, 4, 32), pick_layers(generator, 9, 32)) == (4, 7)
    with pytest.raises(UsageError, match=r"edit\.feature_resolution is 48; this generator has \[4, 8, 16, 32, 64\]"):
        pick_resolution(generator, 48)
    with pytest.raises(UsageError, match=r"edit\.w_layers is 11; this generator has 10"):
        pick_layers(generator, 11, 32)


def test_stop_distance_scales_with_the_crop() -> None:
    assert pick_stop(0.0, 512, 1) == 1.0
    assert pick_stop(0.0, 1024, 1) == 2.0
    assert pick_stop(0.0, 64, 1) == 0.35
    assert pick_stop(0.0, 512, 6) == 2.0
    assert pick_stop(0.7, 512, 6) == 0.7


def test_latent_axes_have_the_spread_of_mapped_latents() -> None:
    generator = tiny_generator()
    axes = latent_axes(generator, torch.zeros(1))
    w = generator.map(torch.randn(4000, generator.z_dim, generator=torch.Generator().manual_seed(5)))[:, 0]
    covariance = torch.cov(w.t())
    assert (axes.basis.t() @ axes.basis - covariance).norm() < 0.2 * covariance.norm()
    assert torch.equal(axes.move(torch.zeros(1, 3, generator.w_dim)), torch.zeros(1, 3, generator.w_dim))


def test_latent_axes_are_kept_while_the_mapping_network_is_the_same() -> None:
    generator, like = tiny_generator(), torch.zeros(1)
    first = latent_axes(generator, like)
    assert latent_axes(generator, like) is first
    assert latent_axes(generator, like, samples=64) is not first
    with torch.no_grad():
        next(reversed(list(generator.mapping.parameters()))).add_(1.0)
    moved = latent_axes(generator, like)
    assert not torch.equal(moved.basis, first.basis)
    generator.mapping.requires_grad_(True)
    assert latent_axes(generator, like) is not latent_axes(generator, like)
    assert torch.equal(latent_axes(generator, like).basis, moved.basis)


# --- the session ----------------------------------------------------------------------------------------------------


def run_to_end(session: DragSession) -> None:
    while session.stop_reason is None:
        session.step()


def test_session_equals_drag_and_goes_back_and_forth(parts: Parts, start_w: Tensor) -> None:
    session = DragSession(parts, start_w, settings=QUICK)
    session.start([CENTRES[0]], [(24.0, 27.0)])
    run_to_end(session)
    first = session.w
    assert torch.equal(first, drag(parts, start_w, None, [CENTRES[0]], [(24.0, 27.0)], settings=QUICK).w)
    other = parts.centres(first)[1:]
    session.start(other, other + torch.tensor([-3.0, 2.0]))
    run_to_end(session)
    assert (parts.centres(session.w)[1:] - other - torch.tensor([-3.0, 2.0])).norm() < FEW_STOP_WAY * 13**0.5 + 0.1
    assert torch.equal(session.undo(), first)
    assert torch.equal(session.undo(), start_w)
    assert torch.equal(session.redo(), first)
    assert session.can_redo
    session.start([CENTRES[1]], [CENTRES[1]])
    assert session.stop_reason == "arrived"
    assert not session.can_redo
    assert torch.equal(session.render(), parts.synthesize(first))


def test_session_template_is_fresh_for_every_drag(parts: Parts, start_w: Tensor) -> None:
    session = DragSession(parts, start_w, settings=QUICK)
    for handle, target in (((20.0, 30.0), (24.0, 27.0)), ((24.0, 27.0), (18.0, 31.0))):
        session.start([handle], [target])
        run_to_end(session)
    assert (parts.centres(session.w)[0] - torch.tensor([18.0, 31.0])).norm() < FEW_STOP * 0.35 + 0.4


def test_session_stop_and_undo_while_running(parts: Parts, start_w: Tensor) -> None:
    session = DragSession(parts, start_w, settings=QUICK)
    session.start([CENTRES[0]], [(30.0, 30.0)])
    session.step()
    session.step()
    stopped = session.stop()
    assert session.stop_reason == "stopped"
    assert not torch.equal(stopped, start_w)
    assert torch.equal(session.undo(), start_w)
    assert torch.equal(session.redo(), stopped)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.step(), "No drag is running: call start"),
        (lambda s: s.undo(), "no drag to undo"),
        (lambda s: s.redo(), "no undone drag to redo"),
    ],
)
def test_session_misuse(parts: Parts, start_w: Tensor, call: Callable[[DragSession], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(DragSession(parts, start_w))
