"""Projector and tuner on tiny real generators: convergence, resumption to the same bits, penalties, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data.errors import ModelError, UsageError
from inversion.generators.stylegan2 import StyleGAN2
from inversion.latents import delta_penalty, latent_stats, pn_penalty
from inversion.losses import ReconstructionWeights, Targets, psnr_db
from inversion.optimisation import DivergedError, StepInfo, StopRule
from inversion.perceptual import FacePerceptual
from inversion.pivotal import TuneSettings, apply_delta, tune
from inversion.projector import Inversion, ProjectorSettings, project
from inversion.schedule import latent_noise_std, learning_rate
from tests.inversions import PIXELS, QUICK, samples, seeded
from tests.tiny import tiny_generator


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(32)


@pytest.mark.parametrize("space", ["w_plus", "w"])
def test_generated_image_is_inverted(generator: StyleGAN2, face: FacePerceptual, space: str) -> None:
    settings = ProjectorSettings(
        space=space,  # type: ignore[arg-type]
        steps=250,
        start_samples=64,
        w_stats_samples=1000,
        latent_noise=0.0,
        weights=ReconstructionWeights(perceptual=0.1),
        noise_weight=10.0,
    )
    target = samples(generator, 1, 11)
    found = project(generator, Targets(target, face), settings, seeded())
    assert found.metrics["psnr_db"] > 30
    assert psnr_db(found.image, target) == pytest.approx(found.metrics["psnr_db"])
    assert torch.equal(found.image, generator.synthesize(found.w, "const", found.noise))
    if space == "w":
        assert torch.equal(found.w, found.w[:, :1].expand_as(found.w))


def test_best_state_is_returned_not_the_last(generator: StyleGAN2, face: FacePerceptual) -> None:
    wild = ProjectorSettings(
        steps=20, lr=1.0, lr_rampdown=0.0, start_samples=64, w_stats_samples=200, latent_noise=0.0, weights=PIXELS
    )
    target = samples(generator, 1, 12)
    found = project(generator, Targets(target, face), wild, seeded())
    losses = found.history["reconstruction"]
    assert found.metrics["reconstruction_loss"] == min(losses) < losses[-1]
    error = (found.image - target).square().mean()
    assert float(error) <= min(losses) * (1 + 1e-4)


def test_noise_maps_stay_white(generator: StyleGAN2, face: FacePerceptual) -> None:
    found = project(generator, Targets(samples(generator, 1, 13), face), QUICK, seeded())
    for name, value in found.noise.items():
        assert abs(float(value.mean())) < 0.2, name
        assert float(value.square().mean()) == pytest.approx(1.0, abs=0.2), name
    assert not torch.equal(found.noise["b8.conv0"], generator.noise_maps()["b8.conv0"])
    fixed = ProjectorSettings(steps=3, start_samples=4, w_stats_samples=200, optimize_noise=False, weights=PIXELS)
    kept = project(generator, Targets(samples(generator, 1, 13), face), fixed, seeded())
    assert torch.equal(kept.noise["b8.conv0"], generator.noise_maps()["b8.conv0"])


def test_given_statistics_are_used(generator: StyleGAN2, face: FacePerceptual) -> None:
    stats = latent_stats(generator, 400, seeded(5))
    target, settings = samples(generator, 1, 13), ProjectorSettings(steps=2, start_samples=4, w_stats_samples=10**6)
    found = project(generator, Targets(target, face), settings, seeded(), stats=stats)
    assert found.metrics["p_norm"] == pytest.approx(float(pn_penalty(found.w, stats)))


def test_no_samples_mean_the_published_start(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(generator, 1, 13)
    mean = latent_stats(generator, 200, seeded()).w_avg
    for how in ({"start_samples": 0}, {"start": "mean"}):
        settings = ProjectorSettings(steps=1, lr=1e-9, w_stats_samples=200, weights=PIXELS, **how)  # type: ignore[arg-type]
        found = project(generator, Targets(target, face), settings, seeded())
        assert torch.allclose(found.w, mean.expand_as(found.w), atol=1e-6)


def test_noise_that_shows_nowhere_is_not_optimised(face: FacePerceptual) -> None:
    silent = tiny_generator(64, channels=8, w_dim=16)
    for name, parameter in silent.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.zero_()
    assert silent.noise_maps() == {}
    found = project(silent, Targets(samples(silent, 1, 13), face), QUICK, seeded())
    assert found.noise == {}
    assert torch.equal(found.image, silent.synthesize(found.w))


class KilledError(Exception):
    """Stands for a process that ends at a checkpoint."""


def state_at(step: int) -> tuple[dict[str, Any], Any]:
    """A place for the checkpoint of one step, and the callback that fills it and stops the run."""
    kept: dict[str, Any] = {}

    def on_step(info: StepInfo) -> None:
        if info.step == step:
            kept.update(info.state())
            raise KilledError

    return kept, on_step


def test_projection_resumes_to_the_same_bits(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(generator, 1, 14)
    settings = ProjectorSettings(steps=12, start_samples=8, w_stats_samples=200)
    whole = project(generator, Targets(target, face), settings, seeded())
    kept, on_step = state_at(7)
    with pytest.raises(KilledError):
        project(generator, Targets(target, face), settings, seeded(), on_step=on_step)
    resumed = project(generator, Targets(target, face), settings, seeded(), resume=kept)
    assert torch.equal(resumed.w, whole.w)
    assert torch.equal(resumed.image, whole.image)
    assert resumed.history == whole.history


@pytest.mark.parametrize("rank", [0, 4])
def test_tuning_resumes_to_the_same_bits(generator: StyleGAN2, face: FacePerceptual, rank: int) -> None:
    target = samples(generator, 1, 15)
    pivot = project(generator, Targets(target, face), QUICK, seeded())
    settings = TuneSettings(steps=9, rank=rank, locality_weight=0.1, locality_every=2)
    whole = tune(generator, Targets(target, face), pivot, settings, seeded(1))
    kept, on_step = state_at(5)
    with pytest.raises(KilledError):
        tune(generator, Targets(target, face), pivot, settings, seeded(1), on_step=on_step)
    resumed = tune(generator, Targets(target, face), pivot, settings, seeded(1), resume=kept)
    assert all(torch.equal(resumed.delta[name], value) for name, value in whole.delta.items())


def test_tuning_closes_the_gap_and_leaves_the_base_alone(generator: StyleGAN2, face: FacePerceptual) -> None:
    other = tiny_generator(32, seed=9)
    target = samples(other, 1, 16)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    pivot = project(generator, Targets(target, face), QUICK, seeded())
    settings = TuneSettings(steps=120, rank=0, lr=3e-3, weights=ReconstructionWeights(perceptual=0.05))
    tuned = tune(generator, Targets(target, face), pivot, settings, seeded(), base_sha256="abc")
    assert tuned.metrics["psnr_db"] > pivot.metrics["psnr_db"] + 6
    assert tuned.base_sha256 == "abc"
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    again = apply_delta(generator, tuned.delta).synthesize(pivot.w, "const", pivot.noise)
    assert torch.equal(again, tuned.image)
    assert all(name.startswith("synthesis.") for name in tuned.delta)


def test_locality_keeps_other_latents(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(tiny_generator(32, seed=9), 1, 17)
    pivot = project(generator, Targets(target, face), QUICK, seeded())

    def drift(weight: float) -> float:
        settings = TuneSettings(
            steps=60, rank=0, lr=3e-3, weights=PIXELS, locality_weight=weight, locality_every=1, locality_alpha=4
        )
        moved = apply_delta(generator, tune(generator, Targets(target, face), pivot, settings, seeded()).delta)
        z = torch.randn(8, generator.z_dim, generator=seeded(5))
        near = pivot.w + 0.3 * (generator.map(z) - pivot.w)
        return float((moved.synthesize(near) - generator.synthesize(near)).square().mean())

    assert drift(1.0) < 0.8 * drift(0.0)


def test_early_stops(generator: StyleGAN2, face: FacePerceptual) -> None:
    target = samples(generator, 1, 18)
    reached = ProjectorSettings(
        steps=200,
        start_samples=64,
        w_stats_samples=200,
        latent_noise=0,
        weights=PIXELS,
        stop=StopRule(target_loss=0.05),
    )
    found = project(generator, Targets(target, face), reached, seeded())
    assert found.stop_reason == "target"
    assert found.metrics["reconstruction_loss"] <= 0.05
    assert found.steps < 200
    still = ProjectorSettings(steps=200, lr=1e-9, start_samples=8, w_stats_samples=200, optimize_noise=False,
                              latent_noise=0, weights=PIXELS, stop=StopRule(patience=5))  # fmt: skip
    assert project(generator, Targets(target, face), still, seeded()).stop_reason == "plateau"


def test_not_a_number_is_survived(generator: StyleGAN2, face: FacePerceptual) -> None:
    broken = torch.full((1, 3, 32, 32), float("nan"))
    with pytest.raises(DivergedError, match=r"lower invert\.lr"):
        project(generator, Targets(broken, face), QUICK, seeded())


def test_penalties_measure_what_they_say(generator: StyleGAN2) -> None:
    stats = latent_stats(generator, 4000, seeded())
    typical = generator.map(torch.randn(500, generator.z_dim, generator=seeded(1)))
    assert float(pn_penalty(typical, stats).mean()) == pytest.approx(1.0, abs=0.15)
    assert float(pn_penalty(stats.w_avg[None, None] + 5 * (typical - stats.w_avg), stats).min()) > 3
    assert delta_penalty(typical, stats).tolist() == pytest.approx([0.0] * 500, abs=1e-9)
    mixed = torch.stack([typical[0, 0], typical[1, 0]])[None]
    assert float(delta_penalty(mixed, stats)) > 0.1


def test_schedules() -> None:
    assert learning_rate(0.0, 0.1, 0.05, 0.25) == 0.0
    assert learning_rate(0.5, 0.1, 0.05, 0.25) == pytest.approx(0.1)
    assert learning_rate(0.875, 0.1, 0.05, 0.25) == pytest.approx(0.05)
    assert learning_rate(1.0, 0.1, 0.05, 0.25) == pytest.approx(0.0)
    assert latent_noise_std(0.0, 2.0, 0.05, 0.75) == pytest.approx(0.1)
    assert latent_noise_std(0.375, 2.0, 0.05, 0.75) == pytest.approx(0.025)
    assert latent_noise_std(0.8, 2.0, 0.05, 0.75) == 0.0


def test_wrong_input_is_named(generator: StyleGAN2, face: FacePerceptual) -> None:
    with pytest.raises(UsageError, match=r"takes pictures \[N, 3, 32, 32\]; it was given \[1, 3, 64, 64\]"):
        project(generator, Targets(torch.zeros(1, 3, 64, 64), face), QUICK, seeded())
    with pytest.raises(UsageError, match=r"invert\.steps=0"):
        ProjectorSettings(steps=0)
    with pytest.raises(UsageError, match=r"invert\.space=z"):
        ProjectorSettings(space="z")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"does not fit this generator: .synthesis\.b4\.const."):
        apply_delta(generator, {"synthesis.b4.const": torch.zeros(1)})


def test_conditional_and_other_architectures(face: FacePerceptual) -> None:
    for architecture in ("skip", "resnet", "orig"):
        conditional = tiny_generator(16, c_dim=3, architecture=architecture)
        ws = conditional.map(torch.randn(1, 32, generator=seeded()), torch.eye(3)[:1])
        found: Inversion = project(conditional, Targets(conditional.synthesize(ws), face), QUICK, seeded())
        assert found.history["reconstruction"][-1] < found.history["reconstruction"][0]
