"""Pivotal tuning: synthesis weights moved until the pivots render the photographs (Roich et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from data.errors import ModelError, UsageError
from inversion.generators.protocol import Generator
from inversion.generators.weights import (
    Factors,
    changed,
    expand,
    rates_of,
    shapes_of,
    start_factors,
    stored,
    with_weights,
)
from inversion.latents import random_labels
from inversion.losses import ReconstructionLoss, ReconstructionWeights, Targets, psnr_db
from inversion.optimisation import (
    Checkpoint,
    DivergedError,
    Evaluation,
    OnStep,
    OptimisationLoop,
    StopRule,
    check_numbers,
)
from inversion.perceptual import Perceptual
from inversion.projector import Inversion, check_target
from inversion.rendering import Renderer, compared_px
from inversion.schedule import learning_rate
from inversion.speed import Speed, fast_math

GeneratorT = TypeVar("GeneratorT", bound=Generator)


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """Knobs of the tuning.

    `rank` is that of each weight's change, 0 changes weights as a whole; `lr` is the step size of a whole weight,
    `lr_rampup`, `lr_rampdown` the fractions of the steps in which it rises and falls. `locality_alpha` is the distance
    from the pivot over all L * D values; a locality weight of 0 turns the regulariser off, `locality_every` spreads its
    cost over the steps. `compare_px` is as in the projector.
    """

    steps: int = 150
    rank: int = 16
    lr: float = 5e-4
    lr_rampup: float = 0.1
    lr_rampdown: float = 0.25
    stop: StopRule = field(default_factory=StopRule)
    weights: ReconstructionWeights = field(default_factory=lambda: ReconstructionWeights(pixel=20.0))
    locality_weight: float = 0.0
    locality_alpha: float = 30.0
    locality_every: int = 4
    compare_px: int = 0
    speed: Speed = "auto"

    def __post_init__(self) -> None:
        least = {"steps": 0, "rank": 0, "locality_every": 1, "compare_px": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"tune.{name}={getattr(self, name)} is out of range: give at least {bound}.")


@dataclass(frozen=True, eq=False, slots=True)
class Tuned:
    """An inversion, what must be added to the base generator's synthesis weights (`delta`, by state-dict name), and the
    picture [1, 3, R, R] that pivot and tuned weights give.

    `factors` are the delta as it is stored (`generators.weights`); `base_sha256` names the generator file it fits.
    `metrics` has `rollbacks` where the loss became NaN on the way. DivergedError when the picture holds NaN.
    """

    inversion: Inversion
    factors: Factors
    delta: dict[str, Tensor]
    base_sha256: str
    image: Tensor
    history: dict[str, list[float]]
    stop_reason: str
    steps: int
    metrics: dict[str, float]

    def __post_init__(self) -> None:
        check_numbers("The tuned generator's picture", "lower tune.lr or check the generator", self.image)


def tune(
    generator: Generator,
    target: Targets,
    inversion: Inversion,
    settings: TuneSettings,
    rng: torch.Generator,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    base_sha256: str = "",
) -> Tuned:
    """Tune the generator's weights until the pivot renders a single target; see `tune_together`."""
    (found,) = tune_together(generator, target, [inversion], settings, rng, resume, on_step, base_sha256)
    return found


def tune_together(
    generator: Generator,
    targets: Targets,
    inversions: Sequence[Inversion],
    settings: TuneSettings,
    rng: torch.Generator,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    base_sha256: str = "",
) -> list[Tuned]:
    """One change of the weights with which every pivot renders its target; a Tuned for each.

    Pivots and noise stay fixed, and so does the generator; the best change seen is returned. `rng`, `resume` and the
    stop reasons are as in `projector.project_batch`.
    """
    check_target(generator, targets.pictures)
    pivots = torch.cat([inversion.w for inversion in inversions])
    noise = {
        name: torch.stack([inversion.noise[name] for inversion in inversions])[:, None] for name in inversions[0].noise
    }
    renderer = Renderer(generator.resolution, compared_px(generator, settings.compare_px, targets.detail_px))
    loss_of = ReconstructionLoss(targets, settings.weights, renderer.at)
    factors = start_factors(generator, settings.rank, rng)
    for value in factors.values():
        value.requires_grad_(True)
    base = generator.state_dict()
    loop = OptimisationLoop(factors, settings.lr, loss_of.num_views, rng, rates=rates_of(factors), kept=renderer.kept)
    if resume is not None:
        loop.restore(resume)
    else:
        renderer.begin(generator, pivots, noise)

    def evaluate(step: int) -> Evaluation:
        weights = changed(base, factors)
        with fast_math(pivots.device, settings.speed):
            drawn = with_weights(generator, weights, lambda tuned: renderer.draw(tuned, pivots, noise, step))
            reconstruction = loss_of(drawn, step).mean()[None]
        loss = reconstruction
        if settings.locality_weight and step % settings.locality_every == 0:
            pivot = pivots[step % len(pivots)][None]
            extra = locality_loss(generator, weights, pivot, targets.perceptual, settings, rng, step)
            loss = loss + settings.locality_weight * settings.locality_every * extra
        return Evaluation(loss, reconstruction)

    reason = loop.run(
        settings.steps,
        evaluate,
        settings.stop,
        lr_at=lambda t: learning_rate(t, settings.lr, settings.lr_rampup, settings.lr_rampdown),
        on_step=on_step,
    )
    if reason == "diverged" and not loop.best.tensors:
        raise DivergedError(
            "The tuning's loss is not a number, at its start or again after each way back: lower tune.lr or check the "
            "generator."
        )
    kept = stored(loop.result())
    delta = expand(kept, shapes_of(generator))
    tuned = apply_delta(generator, delta)
    found = []
    for index, inversion in enumerate(inversions):
        with torch.no_grad():
            image = tuned.synthesize(inversion.w, "const", inversion.noise)
        target = targets.of(index)
        psnr = psnr_db(image, target.pictures, target.counting.mask)
        metrics = {"psnr_db": psnr, "reconstruction_loss": loop.best.score[0]} | loop.told()
        found.append(Tuned(inversion, kept, delta, base_sha256, image, loop.history_of(0), reason, loop.step, metrics))
    return found


def locality_loss(
    generator: Generator,
    weights: Mapping[str, Tensor],
    pivot: Tensor,
    perceptual: Perceptual,
    settings: TuneSettings,
    rng: torch.Generator,
    step: int,
) -> Tensor:
    """MSE plus perceptual distance between tuned and base generator near the pivot (Roich et al. 2021, eq. 4-5).

    The probe is w_r = w_p + alpha * (w_z - w_p) / ||w_z - w_p|| for a mapped random z; pivot [1, L, D] -> scalar.
    """
    z = torch.randn(1, generator.z_dim, generator=rng).to(pivot.device)
    with torch.no_grad():
        direction = generator.map(z, random_labels(generator, 1, rng)) - pivot
        probe = pivot + settings.locality_alpha * direction / direction.norm().clamp(min=1e-8)
        wanted = generator.synthesize(probe)
        prepared = perceptual.prepare(wanted, step)
    found = with_weights(generator, weights, lambda tuned: tuned.synthesize(probe))
    return (found - wanted).square().mean() + perceptual.distance(prepared, found, step).mean()


def apply_delta(generator: GeneratorT, delta: Mapping[str, Tensor]) -> GeneratorT:
    """A frozen copy of the generator with `delta` added to its weights. Raises ModelError when it does not fit."""
    copied = copy.deepcopy(generator)
    copied.requires_grad_(False)
    state = copied.state_dict()
    for name, change in delta.items():
        if name not in state or state[name].shape != change.shape:
            raise ModelError(
                f"The weight delta does not fit this generator: '{name}' {list(change.shape)} has no place."
            )
        state[name] = state[name] + change.to(state[name])
    copied.load_state_dict(state)
    return copied
