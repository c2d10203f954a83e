"""Low-rank tuning, batches, shared tunings, windows, the linear start and fast arithmetic, on tiny real generators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.errors import ModelError
from inversion.encoder import fit_linear_start, linear_start
from inversion.generators.checkpoint import open_checkpoint, save_generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.weights import expand, named_factors, shapes_of, start_factors, stored
from inversion.latents import latent_stats
from inversion.losses import ReconstructionWeights, Targets
from inversion.optimisation import StepInfo
from inversion.perceptual import FacePerceptual
from inversion.pivotal import TuneSettings, apply_delta, tune_together
from inversion.projector import project, project_batch
from inversion.speed import FAST_TOLERANCE, fast_math, pictures_at_once, tf32
from pipeline.models import set_up_arithmetic
from pipeline.schema import RunConfig
from tests.inversions import PIXELS, QUICK, low_rank, samples, seeded
from tests.tiny import tiny_generator


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(64, channels=24)


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
    together = project_batch(generator, Targets(targets, face), settings, seeded())
    for index, found in enumerate(together):
        alone = project(generator, Targets(targets[index : index + 1], face), settings, seeded())
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

    whole = project_batch(generator, Targets(targets, face), QUICK, seeded(), on_step=keep)
    again = project_batch(generator, Targets(targets, face), QUICK, seeded(), resume=kept)
    assert all(torch.equal(a.w, b.w) and a.history == b.history for a, b in zip(whole, again, strict=True))


def test_one_tuning_serves_several_photos(generator: StyleGAN2, face: FacePerceptual) -> None:
    targets = samples(tiny_generator(64, channels=24, seed=9), 2, 23)
    pivots = project_batch(generator, Targets(targets, face), QUICK, seeded())
    settings = TuneSettings(steps=60, rank=8, lr=3e-3, weights=PIXELS)
    tuned = tune_together(generator, Targets(targets, face), pivots, settings, seeded())
    assert all(torch.equal(tuned[0].delta[name], value) for name, value in tuned[1].delta.items())
    for one, pivot in zip(tuned, pivots, strict=True):
        assert one.inversion is pivot
        assert one.metrics["psnr_db"] > pivot.metrics["psnr_db"] + 2


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
    used = project(generator, Targets(target, face), still, seeded(), stats=read)
    assert torch.allclose(used.w[:, 0], linear_start(read.start, target), atol=1e-6)
    asked = project(generator, Targets(target, face), replace(still, start="samples"), seeded(), stats=read)
    assert not torch.allclose(asked.w, used.w, atol=1e-3)


def test_fast_arithmetic_keeps_the_loss(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(tiny_generator(64, channels=24, seed=9), 1, 16)
    settings = replace(QUICK, steps=6, weights=ReconstructionWeights())
    exact = project(generator, Targets(target, face), replace(settings, speed="exact"), seeded())
    fast = project(generator, Targets(target, face), replace(settings, speed="fast"), seeded())
    assert fast.history["loss"][0] != exact.history["loss"][0]
    assert fast.history["loss"][0] == pytest.approx(exact.history["loss"][0], rel=FAST_TOLERANCE)
    assert fast.history["loss"][-1] == pytest.approx(exact.history["loss"][-1], rel=2 * FAST_TOLERANCE)
    automatic = project(generator, Targets(target, face), settings, seeded())
    assert automatic.history == exact.history
    with fast_math(torch.device("cpu"), "auto"):
        assert not torch.is_autocast_enabled("cpu")


def rounds() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_exact_lets_nothing_be_rounded_and_auto_leaves_what_pytorch_does() -> None:
    before, cpu = rounds(), torch.device("cpu")
    with tf32("exact"):
        assert rounds() == (False, False)
        with fast_math(cpu, "fast"):
            assert rounds() == (True, True)
            assert torch.is_autocast_enabled("cpu")
        with fast_math(cpu, "auto"):
            assert rounds() == (False, False)
    with tf32("fast"), fast_math(cpu, "exact"):
        assert rounds() == (False, False)
    with tf32("auto"):
        assert rounds() == before
    assert rounds() == before


def test_a_run_says_what_convolutions_may_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    for speed, allowed in {"exact": False, "auto": True, "fast": True}.items():
        set_up_arithmetic(RunConfig(speed=speed))
        assert torch.backends.cudnn.allow_tf32 is allowed


def test_few_pictures_at_once_on_a_processor_and_fewer_large_ones() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [pictures_at_once(cpu, side) for side in (8, 128, 256, 512, 1024)] == [4, 4, 4, 4, 1]
    assert [pictures_at_once(gpu, side) for side in (8, 128, 256, 512, 1024, 2048)] == [16, 16, 16, 4, 1, 1]
