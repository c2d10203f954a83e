"""The config's inversion and tuning in the terms of the projector and the tuner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from inversion.losses import ReconstructionWeights
from inversion.optimisation import StopRule
from inversion.pivotal import TuneSettings
from inversion.projector import ProjectorSettings
from inversion.speed import Speed

if TYPE_CHECKING:
    from pipeline.schema import InvertConfig, TuneConfig


def projector_settings(config: InvertConfig, speed: str = "auto") -> ProjectorSettings:
    """The config's inversion in the projector's own terms."""
    weights = config.weights
    return ProjectorSettings(
        space="w" if config.space == "w" else "w_plus",
        steps=config.steps,
        lr=config.lr,
        lr_rampup=config.lr_rampup,
        lr_rampdown=config.lr_rampdown,
        latent_noise=config.latent_noise,
        latent_noise_until=config.latent_noise_until,
        start=cast(Literal["auto", "mean", "samples"], config.start),
        start_samples=config.start_samples,
        w_stats_samples=config.w_stats_samples,
        optimize_noise=config.optimize_noise,
        stop=StopRule(config.target_loss, config.patience),
        weights=ReconstructionWeights(weights.perceptual, weights.pixel, weights.color, weights.identity),
        noise_weight=weights.noise,
        p_norm_weight=weights.p_norm,
        delta_weight=weights.delta,
        compare_px=config.compare_px,
        coarse_until=config.coarse_until,
        speed=cast(Speed, speed),
    )


def tune_settings(config: TuneConfig, speed: str = "auto") -> TuneSettings:
    """The config's tuning in the tuner's own terms."""
    weights = config.weights
    return TuneSettings(
        steps=config.steps,
        rank=config.rank,
        lr=config.lr,
        lr_rampup=config.lr_rampup,
        lr_rampdown=config.lr_rampdown,
        stop=StopRule(config.target_loss),
        weights=ReconstructionWeights(weights.perceptual, weights.pixel, weights.color, weights.identity),
        locality_weight=config.locality_weight,
        locality_alpha=config.locality_alpha,
        locality_every=config.locality_every,
        compare_px=config.compare_px,
        speed=cast(Speed, speed),
    )
