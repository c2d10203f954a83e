"""Photos -> W+ (or W) by optimisation through a perceptual loss (Karras et al. 2020, app. D; Abdal et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from data.errors import UsageError
from inversion.encoder import linear_start
from inversion.generators.protocol import Generator, LatentStats
from inversion.latents import delta_penalty, latent_stats, pn_penalty, random_labels
from inversion.losses import (
    ReconstructionLoss,
    ReconstructionWeights,
    Targets,
    noise_regularizer,
    psnr_db,
)
from inversion.optimisation import (
    Checkpoint,
    DivergedError,
    Evaluation,
    OnStep,
    OptimisationLoop,
    StopRule,
    check_numbers,
)
from inversion.rendering import Renderer, coarse_px, compared_px
from inversion.schedule import latent_noise_std, learning_rate
from inversion.speed import Speed, fast_math, pictures_at_once

START_BLEND = 8
NOISE_PREFIX = "noise/"


@dataclass(frozen=True, slots=True)
class ProjectorSettings:
    """Knobs of the projector; `lr_rampup`, `lr_rampdown`, `latent_noise_until` are fractions of the run.

    `start` auto takes the linear start of the generator's file, or else the best of `start_samples`; mean is w_avg.
    `compare_px` 0 chooses the side at which whole pictures are compared (`rendering.compared_px`); before
    `coarse_until` of the run it is half of that (`rendering.coarse_px`).
    """

    space: Literal["w_plus", "w"] = "w_plus"
    steps: int = 250
    lr: float = 0.05
    lr_rampup: float = 0.05
    lr_rampdown: float = 0.25
    latent_noise: float = 0.0
    latent_noise_until: float = 0.75
    start: Literal["auto", "mean", "samples"] = "samples"
    start_samples: int = 100
    w_stats_samples: int = 10000
    optimize_noise: bool = True
    stop: StopRule = field(default_factory=StopRule)
    weights: ReconstructionWeights = field(default_factory=lambda: ReconstructionWeights(pixel=10.0))
    noise_weight: float = 1e5
    p_norm_weight: float = 0.02
    delta_weight: float = 0.0
    compare_px: int = 0
    coarse_until: float = 0.3
    speed: Speed = "auto"

    def __post_init__(self) -> None:
        if self.space not in ("w_plus", "w"):
            raise UsageError(f"invert.space={self.space} is unknown: use w_plus or w.")
        if self.start not in ("auto", "mean", "samples"):
            raise UsageError(f"invert.start={self.start} is unknown: use auto, mean or samples.")
        for name, least in (("steps", 1), ("start_samples", 0), ("w_stats_samples", 2), ("compare_px", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"invert.{name}={getattr(self, name)} is out of range: give at least {least}.")


@dataclass(frozen=True, eq=False, slots=True)
class Inversion:
    """A photograph in latent space: `w` [1, L, D], the noise maps [r, r] it was fitted with, and `image` [1, 3, R, R],
    the picture both give. `history` holds one number a step; `metrics` psnr_db, the penalties, and `rollbacks` where
    the loss became NaN on the way. DivergedError when latent or picture hold NaN."""

    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    history: dict[str, list[float]]
    stop_reason: str
    steps: int
    metrics: dict[str, float]

    def __post_init__(self) -> None:
        check_numbers("The inversion's latent or picture", "lower invert.lr or check the generator", self.w, self.image)


def project(
    generator: Generator,
    target: Targets,
    settings: ProjectorSettings,
    rng: torch.Generator,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    stats: LatentStats | None = None,
) -> Inversion:
    """Find the latent and noise that render nearest to a single target; see `project_batch`."""
    (found,) = project_batch(generator, target, settings, rng, resume, on_step, stats)
    return found


def project_batch(
    generator: Generator,
    targets: Targets,
    settings: ProjectorSettings,
    rng: torch.Generator,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    stats: LatentStats | None = None,
) -> list[Inversion]:
    """Invert targets side by side, each by itself: one Inversion for each.

    `rng` is a CPU generator. `resume` is a dict given by an earlier `StepInfo.state()`: the run continues from it to
    the same result. `stats` saves sampling the latent space again when the generator's file carries them. Stop reasons:
    cap, target, plateau, diverged (the best state before it is returned). Raises UsageError when the targets do not fit
    the generator, DivergedError when no state has a loss that is a number.
    """
    check_target(generator, targets.pictures)
    count = len(targets)
    stats = stats or latent_stats(generator, settings.w_stats_samples, rng)
    renderer = _renderer(generator, settings, targets.detail_px)
    losses = {side: ReconstructionLoss(targets, settings.weights, side) for side in {renderer.side(0), renderer.at}}
    if resume is None:
        w = _starts(generator, targets, settings, stats, rng)
    else:
        w = stats.w_avg[None, None].repeat(count, 1, 1)
    w = (w.expand(-1, generator.num_ws, -1) if settings.space == "w_plus" else w).clone().requires_grad_(True)
    noise = {name: value.repeat(count, 1, 1, 1) for name, value in generator.noise_maps().items()}
    variables = {"w": w}
    if settings.optimize_noise:
        variables |= {NOISE_PREFIX + name: value.requires_grad_(True) for name, value in noise.items()}
    loop = OptimisationLoop(variables, settings.lr, losses[renderer.at].num_views, rng, count, kept=renderer.kept)
    if resume is not None:
        loop.restore(resume)
    else:
        renderer.begin(generator, w.expand(-1, generator.num_ws, -1), noise)

    def evaluate(step: int) -> Evaluation:
        progress = step / settings.steps
        sigma = latent_noise_std(progress, stats.w_std, settings.latent_noise, settings.latent_noise_until)
        shake = torch.randn(w.shape, generator=rng).to(w.device) * sigma if settings.latent_noise else 0.0
        ws = (w + shake).expand(-1, generator.num_ws, -1)
        with fast_math(w.device, settings.speed):
            reconstruction = losses[renderer.side(step)](renderer.draw(generator, ws, noise, step), step)
        penalties = _penalties(w, noise, stats, settings)
        return Evaluation(reconstruction + penalties, reconstruction, counts=step >= renderer.fine_from)

    reason = loop.run(
        settings.steps,
        evaluate,
        settings.stop,
        lr_at=lambda t: learning_rate(t, settings.lr, settings.lr_rampup, settings.lr_rampdown),
        after_step=(lambda: _renormalize(noise)) if settings.optimize_noise else None,
        on_step=on_step,
    )
    if reason == "diverged" and not loop.best.tensors:
        raise DivergedError(
            "The inversion's loss is not a number, at its start or again after each way back: lower invert.lr or check "
            "the generator."
        )
    return [_finish(generator, loop, i, noise, targets.of(i), stats, reason) for i in range(count)]


def _renderer(generator: Generator, settings: ProjectorSettings, detail_px: float) -> Renderer:
    at = compared_px(generator, settings.compare_px, detail_px)
    coarse = coarse_px(generator, at)
    fine_from = round(settings.coarse_until * settings.steps) if coarse < at else 0
    return Renderer(generator.resolution, at, coarse, min(fine_from, settings.steps - 1))


def check_target(generator: Generator, targets: Tensor) -> None:
    """Raise UsageError unless targets are [N, 3, R, R] for this generator's R."""
    shape, size = list(targets.shape), generator.resolution
    if len(shape) != 4 or not shape[0] or shape[1:] != [3, size, size]:
        raise UsageError(f"This generator takes pictures [N, 3, {size}, {size}]; it was given {shape}.")


def _starts(
    generator: Generator,
    targets: Targets,
    settings: ProjectorSettings,
    stats: LatentStats,
    rng: torch.Generator,
) -> Tensor:
    """The start [N, 1, D] of each target: the linear start, the best of the samples, or w_avg."""
    if settings.start == "auto" and stats.start is not None:
        return linear_start(stats.start, targets.pictures)[:, None]
    if settings.start == "mean" or not settings.start_samples:
        return stats.w_avg[None, None].repeat(len(targets), 1, 1)
    weights = replace(settings.weights, identity=0.0)
    losses = [ReconstructionLoss(targets.of(i), weights) for i in range(len(targets))]
    return nearest_samples(generator, losses, settings.start_samples, stats, rng)


@torch.no_grad()
def nearest_samples(
    generator: Generator, losses: list[ReconstructionLoss], samples: int, stats: LatentStats, rng: torch.Generator
) -> Tensor:
    """For each of N losses the start [N, 1, D]: the nearest mapped sample, a mean of the nearest few, or w_avg,
    whichever is closest."""
    device = stats.w_avg.device
    z = torch.randn(samples, generator.z_dim, generator=rng).to(device)
    found = generator.map(z, random_labels(generator, samples, rng))[:, 0]
    starts = []
    for loss_of, ranks in zip(losses, _ranks(generator, losses, found), strict=True):
        order = ranks.argsort()[:START_BLEND]
        candidates = torch.stack([found[order[0]], found[order].mean(dim=0), stats.w_avg])
        starts.append(candidates[_ranks(generator, [loss_of], candidates)[0].argmin()])
    return torch.stack(starts)[:, None]


def _ranks(generator: Generator, losses: list[ReconstructionLoss], w: Tensor) -> list[Tensor]:
    """The loss [S] of each of w [S, D] for each of the targets; every picture is drawn once."""
    parts: list[list[Tensor]] = [[] for _ in losses]
    for piece in w.split(pictures_at_once(w.device, generator.resolution)):
        images = generator.synthesize(piece[:, None].expand(-1, generator.num_ws, -1))
        for part, loss_of in zip(parts, losses, strict=True):
            part.append(loss_of(images, 0))
    return [torch.cat(part) for part in parts]


def _penalties(w: Tensor, noise: dict[str, Tensor], stats: LatentStats, settings: ProjectorSettings) -> Tensor:
    total = w.new_zeros(len(w))
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
        value.sub_(value.mean(dim=(1, 2, 3), keepdim=True))
        value.mul_((value.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-12).rsqrt())


@torch.no_grad()
def _finish(
    generator: Generator,
    loop: OptimisationLoop,
    index: int,
    noise: dict[str, Tensor],
    target: Targets,
    stats: LatentStats,
    reason: str,
) -> Inversion:
    """The inversion of one picture of the batch."""
    found, one = loop.result(), slice(index, index + 1)
    w = found["w"][one].expand(1, generator.num_ws, -1).contiguous()
    kept = {name: found.get(NOISE_PREFIX + name, value.detach())[index, 0].clone() for name, value in noise.items()}
    image = generator.synthesize(w, "const", kept)
    metrics = {
        "psnr_db": psnr_db(image, target.pictures, target.counting.mask),
        "reconstruction_loss": loop.best.score[index],
        "p_norm": float(pn_penalty(w, stats)),
        "delta": float(delta_penalty(w, stats)),
    } | loop.told()
    return Inversion(w, kept, image, loop.history_of(index), reason, loop.step, metrics)
