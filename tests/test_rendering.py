"""What an inversion draws and compares: windows of the picture, coarse pictures first, the same bits when resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.errors import ModelError
from inversion import projector, rendering
from inversion.generators.protocol import Window
from inversion.generators.stylegan2 import StyleGAN2
from inversion.losses import ReconstructionLoss, Rendered, Targets, area_shrunk
from inversion.optimisation import Evaluation, OptimisationLoop, StepInfo, StopRule
from inversion.perceptual import FacePerceptual
from inversion.pivotal import TuneSettings, tune
from inversion.projector import ProjectorSettings, project
from inversion.rendering import Renderer, coarse_px, compared_px
from tests.inversions import QUICK, low_rank, samples, seeded
from tests.tiny import tiny_generator


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(64, channels=24)


@pytest.mark.parametrize("at", [8, 32])
def test_windows_are_parts_of_the_picture(generator: StyleGAN2, at: int) -> None:
    ws = generator.map(torch.randn(2, generator.z_dim, generator=seeded(3)))
    noise = {name: torch.randn(2, 1, *value.shape) for name, value in generator.noise_maps().items()}
    picture = generator.synthesize(ws, "const", noise)
    for window in (Window(0, 0, 16), Window(48, 16, 16), Window(16, 32, 32), Window(0, 0, 64)):
        coarse, part = generator.running_image_and_window(ws, at, window, "const", noise)
        rows, columns = (slice(x, x + window.side) for x in (window.top, window.left))
        assert torch.allclose(part, picture[..., rows, columns], atol=1e-5)
        assert torch.equal(coarse, generator.running_image(ws, at, "const", noise))
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
    pivot = project(generator, Targets(target, face), replace(QUICK, compare_px=32, steps=40), seeded())
    plain = project(generator, Targets(target, face), replace(QUICK, compare_px=64, steps=40), seeded())
    assert pivot.metrics["psnr_db"] > plain.metrics["psnr_db"] - 1.0


def test_windowed_runs_resume_to_the_same_bits(generator: StyleGAN2, face: FacePerceptual) -> None:
    target, kept = samples(generator, 1, 24), {}

    def keep(info: StepInfo) -> None:
        if info.step == 5:
            kept.update(info.state())

    settings = replace(QUICK, compare_px=16)
    whole = project(generator, Targets(target, face), settings, seeded(), on_step=keep)
    assert "kept/residual" in kept
    assert torch.equal(project(generator, Targets(target, face), settings, seeded(), resume=kept).w, whole.w)
    kept.clear()
    tuning = TuneSettings(steps=9, rank=4, compare_px=16)
    tuned = tune(generator, Targets(target, face), whole, tuning, seeded(), on_step=keep)
    again = tune(generator, Targets(target, face), whole, tuning, seeded(), resume=kept)
    assert torch.equal(again.image, tuned.image)


@pytest.fixture
def coarse_to_fine(monkeypatch: pytest.MonkeyPatch) -> ProjectorSettings:
    """Settings whose first ten of twenty steps look at half of the picture's side."""
    monkeypatch.setattr(rendering, "MIN_COMPARE_PX", 16)
    return replace(QUICK, steps=20, coarse_until=0.5, optimize_noise=False)


@pytest.mark.parametrize("at", [64, 32])
def test_an_inversion_looks_coarsely_first(
    generator: StyleGAN2, face: FacePerceptual, coarse_to_fine: ProjectorSettings, at: int
) -> None:
    drawn: list[int] = []

    class Watched(ReconstructionLoss):
        def __call__(self, images: Tensor | Rendered, step: int) -> Tensor:
            assert isinstance(images, Rendered)
            drawn.append(images.pictures.shape[-1])
            assert (images.window is not None) == (images.pictures.shape[-1] == 32 == at)
            return super().__call__(images, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projector, "ReconstructionLoss", Watched)
        settings = replace(coarse_to_fine, compare_px=at, start="mean")
        found = project(generator, Targets(samples(generator, 1, 25), face), settings, seeded())
    assert drawn == [at // 2] * 10 + [at] * 10
    assert found.metrics["reconstruction_loss"] == min(found.history["reconstruction"][10:])


def test_coarse_steps_are_never_the_best(generator: StyleGAN2, face: FacePerceptual) -> None:
    w = torch.zeros(1, requires_grad=True)
    loop = OptimisationLoop({"w": w}, 0.1, 1, seeded())

    def evaluate(step: int) -> Evaluation:
        return Evaluation((w - 5).square(), torch.full((1,), 0.0 if step < 3 else 1.0), counts=step >= 3)

    assert loop.run(6, evaluate, StopRule(target_loss=0.5, patience=4)) == "cap"
    assert (loop.best.score, loop.best.step) == ([1.0], [3])


@pytest.mark.parametrize("at", [64, 32])
@pytest.mark.parametrize("broken_after", [4, 10, 15])
def test_coarse_to_fine_runs_resume_to_the_same_bits(
    generator: StyleGAN2, face: FacePerceptual, coarse_to_fine: ProjectorSettings, at: int, broken_after: int
) -> None:
    target, kept = samples(generator, 1, 24), {}

    def keep(info: StepInfo) -> None:
        if info.step == broken_after:
            kept.update(info.state())

    settings = replace(coarse_to_fine, compare_px=at, optimize_noise=True)
    whole = project(generator, Targets(target, face), settings, seeded(), on_step=keep)
    again = project(generator, Targets(target, face), settings, seeded(), resume=kept)
    assert torch.equal(again.w, whole.w)
    assert again.history == whole.history


def test_the_first_look_is_half_as_large_where_that_shows_a_face() -> None:
    generator = tiny_generator(512, channels=4)
    assert [coarse_px(generator, at) for at in (512, 256, 128, 64)] == [256, 128, 64, 64]
    assert coarse_px(tiny_generator(512, channels=4, architecture="orig"), 512) == 512


def test_the_photo_decides_how_large_pictures_are_compared() -> None:
    generator = tiny_generator(512, channels=4)
    assert compared_px(generator, 0, float("inf")) == 256
    assert compared_px(generator, 0, 100.0) == 128
    assert compared_px(generator, 0, 5.0) == 64
    assert compared_px(generator, 512, 100.0) == 512
    assert compared_px(generator, 2048, 100.0) == 512
    assert compared_px(tiny_generator(128, channels=4, architecture="orig"), 0, 64.0) == 128
