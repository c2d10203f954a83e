"""Photo -> W+ (or W) by optimisation through a perceptual loss (Karras et al. 2020, app. D; Abdal et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from data.errors import UsageError
from inversion.generators.protocol import Generator, LatentStats
from inversion.identity import FaceNetwork
from inversion.latents import delta_penalty, latent_stats, pn_penalty, random_labels
from inversion.losses import Counting, ReconstructionLoss, ReconstructionWeights, noise_regularizer, psnr_db
from inversion.optimisation import Checkpoint, DivergedError, Evaluation, OnStep, OptimisationLoop, StopRule
from inversion.perceptual import Perceptual
from inversion.schedule import latent_noise_std, learning_rate

START_BATCH = 16
START_BLEND = 8
NOISE_PREFIX = "noise/"


@dataclass(frozen=True, slots=True)
class ProjectorSettings:
    """Knobs of the projector; `lr_rampup`, `lr_rampdown`, `latent_noise_until` are fractions of the run."""

    space: Literal["w_plus", "w"] = "w_plus"
    steps: int = 250
    lr: float = 0.05
    lr_rampup: float = 0.05
    lr_rampdown: float = 0.25
    latent_noise: float = 0.0
    latent_noise_until: float = 0.75
    start_samples: int = 100
    w_stats_samples: int = 10000
    optimize_noise: bool = True
    stop: StopRule = field(default_factory=StopRule)
    weights: ReconstructionWeights = field(default_factory=lambda: ReconstructionWeights(pixel=10.0))
    noise_weight: float = 1e5
    p_norm_weight: float = 0.005
    delta_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.space not in ("w_plus", "w"):
            raise UsageError(f"invert.space={self.space} is unknown: use w_plus or w.")
        for name, least in (("steps", 1), ("start_samples", 0), ("w_stats_samples", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"invert.{name}={getattr(self, name)} is out of range: give at least {least}.")


@dataclass(frozen=True, eq=False, slots=True)
class Inversion:
    """A photograph in latent space: `w` [1, L, D], the noise maps [r, r] it was fitted with, and `image` [1, 3, R, R],
    the picture both give. `history` holds one number a step; `metrics` psnr_db and the penalties."""

    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    history: dict[str, list[float]]
    stop_reason: str
    steps: int
    metrics: dict[str, float]


def project(
    generator: Generator,
    target: Tensor,
    perceptual: Perceptual,
    settings: ProjectorSettings,
    rng: torch.Generator,
    counting: Counting | None = None,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    stats: LatentStats | None = None,
    identity: FaceNetwork | None = None,
) -> Inversion:
    """Find the latent and noise that render nearest to target [1, 3, R, R] in [-1, 1].

    `counting` says where the target counts. `rng` is a CPU generator. `resume` is a dict given
    by an earlier `StepInfo.state()`: the run continues from it to the same result. `stats` saves sampling the latent
    space again when the generator's file carries them. Stop reasons: cap, target, plateau,
    diverged (the best state before it is returned). Raises UsageError when the target does not fit the generator.
    """
    check_target(generator, target)
    stats = stats or latent_stats(generator, settings.w_stats_samples, rng)
    loss_of = ReconstructionLoss(target, perceptual, settings.weights, counting, identity)
    if resume is None:
        w = nearest_sample(generator, loss_of, settings.start_samples, stats, rng)
    else:
        w = stats.w_avg[None, None].clone()
    w = (w.expand(1, generator.num_ws, -1) if settings.space == "w_plus" else w[:, :1]).clone().requires_grad_(True)
    noise = {name: value.clone() for name, value in generator.noise_maps().items()}
    variables = {"w": w}
    if settings.optimize_noise:
        variables |= {NOISE_PREFIX + name: value.requires_grad_(True) for name, value in noise.items()}
    loop = OptimisationLoop(variables, settings.lr, loss_of.num_views, rng)
    if resume is not None:
        loop.restore(resume)

    def evaluate(step: int) -> Evaluation:
        progress = step / settings.steps
        sigma = latent_noise_std(progress, stats.w_std, settings.latent_noise, settings.latent_noise_until)
        shake = torch.randn(w.shape, generator=rng).to(w.device) * sigma
        ws = (w + shake).expand(1, generator.num_ws, -1)
        reconstruction = loss_of(generator.synthesize(ws, "const", noise), step).sum()
        return Evaluation(reconstruction + _penalties(w, noise, stats, settings), float(reconstruction.detach()))

    reason = loop.run(
        settings.steps,
        evaluate,
        settings.stop,
        lr_at=lambda t: learning_rate(t, settings.lr, settings.lr_rampup, settings.lr_rampdown),
        after_step=(lambda: _renormalize(noise)) if settings.optimize_noise else None,
        on_step=on_step,
    )
    return _finish(generator, loop, noise, target, counting.mask if counting else None, stats, reason)


def check_target(generator: Generator, target: Tensor) -> None:
    """Raise UsageError unless target is [1, 3, R, R] for this generator's R."""
    r = generator.resolution
    if tuple(target.shape) != (1, 3, r, r):
        raise UsageError(f"The target is {list(target.shape)}, but this generator works on [1, 3, {r}, {r}].")


@torch.no_grad()
def nearest_sample(
    generator: Generator, loss_of: ReconstructionLoss, samples: int, stats: LatentStats, rng: torch.Generator
) -> Tensor:
    """The start [1, 1, D]: the nearest mapped sample, a mean of the nearest few, or w_avg, whichever is closest.

    No samples means w_avg, the published start.
    """
    if not samples:
        return stats.w_avg[None, None].clone()
    device = stats.w_avg.device
    z = torch.randn(samples, generator.z_dim, generator=rng).to(device)
    found = generator.map(z, random_labels(generator, samples, rng))[:, 0]
    ranks = _losses(generator, loss_of, found)
    order = ranks.argsort()[:START_BLEND]
    candidates = torch.stack([found[order[0]], found[order].mean(dim=0), stats.w_avg])
    return candidates[_losses(generator, loss_of, candidates).argmin()][None, None]


def _losses(generator: Generator, loss_of: ReconstructionLoss, w: Tensor) -> Tensor:
    parts = []
    for piece in w.split(START_BATCH):
        ws = piece[:, None].expand(-1, generator.num_ws, -1)
        parts.append(loss_of(generator.synthesize(ws), 0))
    return torch.cat(parts)


def _penalties(w: Tensor, noise: dict[str, Tensor], stats: LatentStats, settings: ProjectorSettings) -> Tensor:
    total = w.new_zeros(())
    if noise and settings.optimize_noise and settings.noise_weight:
        total = total + settings.noise_weight * noise_regularizer(noise.values())
    if settings.p_norm_weight:
        total = total + settings.p_norm_weight * pn_penalty(w, stats)
    if settings.delta_weight:
        total = total + settings.delta_weight * delta_penalty(w, stats)
    return total


@torch.no_grad()
def _renormalize(noise: dict[str, Tensor]) -> None:
    """Zero mean and unit variance for each map, as the noise that the generator was trained with."""
    for value in noise.values():
        value.sub_(value.mean()).mul_((value.square().mean() + 1e-12).rsqrt())


@torch.no_grad()
def _finish(
    generator: Generator,
    loop: OptimisationLoop,
    noise: dict[str, Tensor],
    target: Tensor,
    weight_mask: Tensor | None,
    stats: LatentStats,
    reason: str,
) -> Inversion:
    if reason == "diverged" and not loop.best.tensors:
        raise DivergedError(
            "The inversion's loss is not a number from the start: lower invert.lr or check the generator."
        )
    found = loop.result()
    w = found["w"].expand(1, generator.num_ws, -1).contiguous()
    kept = {name: found.get(NOISE_PREFIX + name, value.detach()) for name, value in noise.items()}
    image = generator.synthesize(w, "const", kept)
    metrics = {
        "psnr_db": psnr_db(image, target, weight_mask),
        "reconstruction_loss": loop.best.score,
        "p_norm": float(pn_penalty(w, stats)),
        "delta": float(delta_penalty(w, stats)),
    }
    return Inversion(w, kept, image, loop.history, reason, loop.step, metrics)
