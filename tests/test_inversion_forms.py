"""Low-rank tuning, batches, shared tunings, windows, the linear start and fast arithmetic, on tiny real generators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import ModelError
from data.landmarks import model_path
from inversion.encoder import fit_linear_start, linear_start
from inversion.generators.checkpoint import open_checkpoint, save_generator
from inversion.generators.protocol import Window
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.weights import expand, named_factors, shapes_of, start_factors, stored
from inversion.identity import load_face_network
from inversion.latents import latent_stats
from inversion.losses import ReconstructionWeights, area_shrunk
from inversion.optimisation import StepInfo
from inversion.perceptual import FacePerceptual
from inversion.pivotal import Tuned, TuneSettings, apply_delta, tune, tune_together
from inversion.projector import Inversion, ProjectorSettings, project, project_batch
from inversion.rendering import Renderer, compared_px
from inversion.speed import FAST_TOLERANCE, fast_math
from tests.tiny import tiny_generator

PIXELS = ReconstructionWeights(perceptual=0.0, pixel=1.0, color=1.0)
QUICK = ProjectorSettings(steps=12, start_samples=8, w_stats_samples=200, weights=PIXELS)


@pytest.fixture(scope="module")
def face() -> FacePerceptual:
    return FacePerceptual(load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat")))


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(64, channels=24)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(generator: StyleGAN2, count: int, seed: int) -> torch.Tensor:
    return generator.synthesize(generator.map(torch.randn(count, generator.z_dim, generator=seeded(seed))))


def pivot_of(generator: StyleGAN2, target: torch.Tensor, face: FacePerceptual) -> Inversion:
    return project(generator, target, face, QUICK, seeded())


def low_rank(generator: StyleGAN2, target: torch.Tensor, face: FacePerceptual, **changed: Any) -> Tuned:
    settings = TuneSettings(steps=40, rank=8, lr=3e-3, weights=PIXELS, **changed)
    return tune(generator, target, pivot_of(generator, target, face), face, settings, seeded())


def test_low_rank_tuning_closes_the_gap(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(tiny_generator(64, channels=24, seed=9), 1, 16)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    tuned = low_rank(generator, target, face)
    assert tuned.metrics["psnr_db"] > tuned.inversion.metrics["psnr_db"] + 4
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    for name in ("synthesis.b16.conv1.weight", "synthesis.b64.conv0.affine.weight"):
        change = tuned.delta[name].flatten(1)
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 8
        assert float(change.abs().max()) > 0
    assert "synthesis.b64.torgb.weight" not in tuned.delta


def test_stored_factors_give_the_same_picture(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(tiny_generator(64, channels=24, seed=9), 1, 16)
    tuned = low_rank(generator, target, face)
    kept = {name: value.clone() for name, value in tuned.factors.items()}
    assert all(value.dtype == torch.float16 for value in kept.values())
    again = apply_delta(generator, expand(kept, shapes_of(generator)))
    picture = again.synthesize(tuned.inversion.w, "const", tuned.inversion.noise)
    assert torch.equal(picture, tuned.image)
    whole = sum(value.numel() for value in generator.synthesis.parameters())
    assert sum(value.numel() for value in kept.values()) < 0.8 * whole


def test_delta_of_a_1024_px_generator_is_small() -> None:
    with torch.device("meta"):
        published = StyleGAN2(StyleGAN2Config(1024))
    bytes_kept = 0
    for name, weight in published.named_parameters():
        rows, columns = (weight.shape[0], weight[0].numel()) if weight.ndim > 1 else (1, weight.numel())
        if name.startswith("synthesis.") and name.endswith(".weight") and min(rows, columns) > TuneSettings().rank:
            bytes_kept += 2 * TuneSettings().rank * (rows + columns)
        elif name.startswith("synthesis.") and weight.ndim < 2:
            bytes_kept += 2 * weight.numel()
    assert bytes_kept < 5e6
    tiny = tiny_generator(16, channels=24)
    factors = stored(start_factors(tiny, 4, seeded()))
    counted = 0
    for name, weight in tiny.named_parameters():
        rows, columns = (weight.shape[0], weight[0].numel()) if weight.ndim > 1 else (1, weight.numel())
        if name.startswith("synthesis.") and name.endswith(".weight") and min(rows, columns) > 4:
            counted += 2 * 4 * (rows + columns)
        elif name.startswith("synthesis.") and weight.ndim < 2:
            counted += 2 * weight.numel()
    assert counted == sum(value.numel() * value.element_size() for value in factors.values())


def test_older_files_hold_whole_changes(generator: StyleGAN2) -> None:
    name = "synthesis.b8.conv0.weight"
    change = torch.randn(generator.state_dict()[name].shape, generator=seeded())
    assert torch.equal(expand(named_factors({name: change}), shapes_of(generator))[name], change)


def test_a_delta_of_another_generator_is_refused(generator: StyleGAN2) -> None:
    other = start_factors(tiny_generator(128, channels=24), 8, seeded())
    with pytest.raises(ModelError, match=r"does not fit this generator: 'synthesis\.b128"):
        expand(other, shapes_of(generator))
    narrow = start_factors(tiny_generator(64, channels=12), 8, seeded())
    with pytest.raises(ModelError, match="does not fit this generator"):
        expand(narrow, shapes_of(generator))


def test_a_batch_inverts_each_picture_as_alone(generator: StyleGAN2, face: FacePerceptual) -> None:
    targets = samples(generator, 3, 21)
    settings = replace(QUICK, weights=ReconstructionWeights(), steps=18, delta_weight=0.1, optimize_noise=False)
    together = project_batch(generator, targets, face, settings, seeded())
    for index, found in enumerate(together):
        alone = project(generator, targets[index : index + 1], face, settings, seeded())
        assert found.history["loss"][:3] == pytest.approx(alone.history["loss"][:3], rel=5e-3)
        assert found.history["loss"] == pytest.approx(alone.history["loss"], rel=0.1)  # rounding grows step by step
        assert found.metrics["psnr_db"] == pytest.approx(alone.metrics["psnr_db"], abs=0.5)
        assert found.noise["b8.conv0"].shape == generator.noise_maps()["b8.conv0"].shape
        picture = generator.synthesize(found.w, "const", found.noise)
        assert torch.equal(picture, found.image)


def test_a_batch_resumes_to_the_same_bits(generator: StyleGAN2, face: FacePerceptual) -> None:
    targets, kept = samples(generator, 2, 22), {}

    def keep(info: StepInfo) -> None:
        if info.step == 7:
            kept.update(info.state())

    whole = project_batch(generator, targets, face, QUICK, seeded(), on_step=keep)
    again = project_batch(generator, targets, face, QUICK, seeded(), resume=kept)
    assert all(torch.equal(a.w, b.w) and a.history == b.history for a, b in zip(whole, again, strict=True))


def test_one_tuning_serves_several_photos(generator: StyleGAN2, face: FacePerceptual) -> None:
    targets = samples(tiny_generator(64, channels=24, seed=9), 2, 23)
    pivots = project_batch(generator, targets, face, QUICK, seeded())
    settings = TuneSettings(steps=60, rank=8, lr=3e-3, weights=PIXELS)
    tuned = tune_together(generator, targets, pivots, face, settings, seeded())
    assert all(torch.equal(tuned[0].delta[name], value) for name, value in tuned[1].delta.items())
    for one, pivot in zip(tuned, pivots, strict=True):
        assert one.inversion is pivot
        assert one.metrics["psnr_db"] > pivot.metrics["psnr_db"] + 2


@pytest.mark.parametrize("at", [8, 32])
def test_windows_are_parts_of_the_picture(generator: StyleGAN2, at: int) -> None:
    ws = generator.map(torch.randn(2, generator.z_dim, generator=seeded(3)))
    noise = {name: torch.randn(2, 1, *value.shape) for name, value in generator.noise_maps().items()}
    picture = generator.synthesize(ws, "const", noise)
    for window in (Window(0, 0, 16), Window(48, 16, 16), Window(16, 32, 32), Window(0, 0, 64)):
        coarse, part = generator.running_image_and_window(ws, at, window, "const", noise)
        rows, columns = (slice(x, x + window.side) for x in (window.top, window.left))
        assert torch.allclose(part, picture[..., rows, columns], atol=1e-5)
        assert torch.allclose(coarse, generator.running_image(ws, at), atol=0.2)
    with pytest.raises(ModelError, match="whole pixels of block"):
        generator.running_image_and_window(ws, 8, Window(3, 0, 16))
    with pytest.raises(ModelError, match="no running image"):
        tiny_generator(64, architecture="orig").running_image_and_window(ws, 8, Window(0, 0, 16))


def test_coarse_pictures_with_their_residual_are_area_means(generator: StyleGAN2) -> None:
    ws = generator.map(torch.randn(1, generator.z_dim, generator=seeded(3)))
    wanted = area_shrunk(generator.synthesize(ws), 16)
    renderer = Renderer(64, 16)
    renderer.begin(generator, ws, None)
    assert torch.allclose(renderer.draw(generator, ws, None, 0).pictures, wanted, atol=1e-5)
    moved = generator.map(torch.randn(1, generator.z_dim, generator=seeded(4)))
    wanted = area_shrunk(generator.synthesize(moved), 16)
    places = set()
    for step in range(renderer.num_windows):
        drawn = renderer.draw(generator, moved, None, step)
        places.add((drawn.top, drawn.left))
    assert len(places) == renderer.num_windows == 16
    assert torch.allclose(renderer.draw(generator, moved, None, 0).pictures, wanted, atol=1e-5)


def test_windows_tune_as_well_as_whole_pictures(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(tiny_generator(64, channels=24, seed=9), 1, 16)
    whole, windows = (low_rank(generator, target, face, compare_px=side) for side in (64, 32))
    assert windows.metrics["psnr_db"] > whole.metrics["psnr_db"] - 3.0
    assert windows.metrics["psnr_db"] > windows.inversion.metrics["psnr_db"] + 4
    pivot = project(generator, target, face, replace(QUICK, compare_px=32, steps=40), seeded())
    plain = project(generator, target, face, replace(QUICK, compare_px=64, steps=40), seeded())
    assert pivot.metrics["psnr_db"] > plain.metrics["psnr_db"] - 1.0


def test_windowed_runs_resume_to_the_same_bits(generator: StyleGAN2, face: FacePerceptual) -> None:
    target, kept = samples(generator, 1, 24), {}

    def keep(info: StepInfo) -> None:
        if info.step == 5:
            kept.update(info.state())

    settings = replace(QUICK, compare_px=16)
    whole = project(generator, target, face, settings, seeded(), on_step=keep)
    assert "kept/residual" in kept
    assert torch.equal(project(generator, target, face, settings, seeded(), resume=kept).w, whole.w)
    kept.clear()
    tuning = TuneSettings(steps=9, rank=4, compare_px=16)
    tuned = tune(generator, target, whole, face, tuning, seeded(), on_step=keep)
    again = tune(generator, target, whole, face, tuning, seeded(), resume=kept)
    assert torch.equal(again.image, tuned.image)


def test_the_photo_decides_how_large_pictures_are_compared() -> None:
    generator = tiny_generator(512, channels=4)
    assert compared_px(generator, 0, float("inf")) == 256
    assert compared_px(generator, 0, 100.0) == 128
    assert compared_px(generator, 0, 5.0) == 64
    assert compared_px(generator, 512, 100.0) == 512
    assert compared_px(generator, 2048, 100.0) == 512
    assert compared_px(tiny_generator(128, channels=4, architecture="orig"), 0, 64.0) == 128


def test_linear_start_is_nearer_than_the_mean(tmp_path: Path, generator: StyleGAN2, face: FacePerceptual) -> None:
    start = fit_linear_start(generator, 600, seeded())
    z = torch.randn(40, generator.z_dim, generator=seeded(77))
    ws = generator.map(z)[:, 0]
    found = linear_start(start, generator.synthesize(generator.map(z)))
    mean = generator.w_avg
    assert float((found - ws).square().sum()) < 0.7 * float((mean - ws).square().sum())
    stats = replace(latent_stats(generator, 400, seeded()), start=start)
    save_generator(generator, tmp_path / "g.safetensors", stats=stats)
    with open_checkpoint(tmp_path / "g.safetensors") as checkpoint:
        read = checkpoint.stats
    assert read is not None and read.start is not None
    assert read.start.side_px == 16
    assert torch.allclose(read.start.weight, start.weight, rtol=1e-3, atol=1e-6)
    target = samples(generator, 1, 31)
    still = replace(QUICK, steps=1, lr=1e-9, start="auto")
    used = project(generator, target, face, still, seeded(), stats=read)
    assert torch.allclose(used.w[:, 0], linear_start(read.start, target), atol=1e-6)
    asked = project(generator, target, face, replace(still, start="samples"), seeded(), stats=read)
    assert not torch.allclose(asked.w, used.w, atol=1e-3)


def test_fast_arithmetic_keeps_the_loss(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(tiny_generator(64, channels=24, seed=9), 1, 16)
    settings = replace(QUICK, steps=6, weights=ReconstructionWeights())
    exact = project(generator, target, face, replace(settings, speed="exact"), seeded())
    fast = project(generator, target, face, replace(settings, speed="fast"), seeded())
    assert fast.history["loss"][0] != exact.history["loss"][0]
    assert fast.history["loss"][0] == pytest.approx(exact.history["loss"][0], rel=FAST_TOLERANCE)
    assert fast.history["loss"][-1] == pytest.approx(exact.history["loss"][-1], rel=2 * FAST_TOLERANCE)
    automatic = project(generator, target, face, settings, seeded())
    assert automatic.history == exact.history
    with fast_math(torch.device("cpu"), "auto"):
        assert not torch.is_autocast_enabled("cpu")
