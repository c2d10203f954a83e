"""Pivotal tuning: synthesis weights moved until the pivot renders the photograph (Roich et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from data.errors import ModelError, UsageError
from inversion.generators.protocol import Generator
from inversion.identity import FaceNetwork
from inversion.latents import random_labels
from inversion.losses import Counting, ReconstructionLoss, ReconstructionWeights, psnr_db
from inversion.optimisation import Checkpoint, DivergedError, Evaluation, OnStep, OptimisationLoop, StopRule
from inversion.perceptual import Perceptual
from inversion.projector import Inversion, check_target

SYNTHESIS = "synthesis."
GeneratorT = TypeVar("GeneratorT", bound=Generator)


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """Knobs of the tuning.

    `locality_alpha` is the distance from the pivot over all L * D values; a locality weight of 0 turns the regulariser
    off, `locality_every` spreads its cost over the steps.
    """

    steps: int = 200
    lr: float = 1e-3
    stop: StopRule = field(default_factory=StopRule)
    weights: ReconstructionWeights = field(default_factory=lambda: ReconstructionWeights(pixel=20.0))
    locality_weight: float = 0.0
    locality_alpha: float = 30.0
    locality_every: int = 4

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UsageError(f"tune.steps={self.steps} is out of range: give at least 0.")
        if self.locality_every < 1:
            raise UsageError(f"tune.locality_every={self.locality_every} is out of range: give at least 1.")


@dataclass(frozen=True, eq=False, slots=True)
class Tuned:
    """An inversion, what must be added to the base generator's synthesis weights (`delta`, by state-dict name), and the
    picture [1, 3, R, R] that pivot and tuned weights give. `base_sha256` names the generator file the delta fits."""

    inversion: Inversion
    delta: dict[str, Tensor]
    base_sha256: str
    image: Tensor
    history: dict[str, list[float]]
    stop_reason: str
    steps: int
    metrics: dict[str, float]


def tune(
    generator: Generator,
    target: Tensor,
    inversion: Inversion,
    perceptual: Perceptual,
    settings: TuneSettings,
    rng: torch.Generator,
    counting: Counting | None = None,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
    base_sha256: str = "",
    identity: FaceNetwork | None = None,
) -> Tuned:
    """Tune a copy of the generator until the pivot renders target [1, 3, R, R]; the generator itself is not changed.

    The pivot's latent and noise stay fixed; the best weights seen are returned, as a delta. `rng`, `counting`,
    `resume` and the stop reasons are as in `projector.project`.
    """
    check_target(generator, target)
    tuned = copy.deepcopy(generator)
    tuned.requires_grad_(False)
    variables = {name: p.requires_grad_(True) for name, p in tuned.named_parameters() if name.startswith(SYNTHESIS)}
    if not variables:
        raise ModelError("This generator has no synthesis weights that could be tuned.")
    loss_of = ReconstructionLoss(target, perceptual, settings.weights, counting, identity)
    loop = OptimisationLoop(variables, settings.lr, loss_of.num_views, rng)
    if resume is not None:
        loop.restore(resume)

    def evaluate(step: int) -> Evaluation:
        image = tuned.synthesize(inversion.w, "const", inversion.noise)
        reconstruction = loss_of(image, step).sum()
        loss = reconstruction
        if settings.locality_weight and step % settings.locality_every == 0:
            extra = locality_loss(tuned, generator, inversion.w, perceptual, settings, rng, step)
            loss = loss + settings.locality_weight * settings.locality_every * extra
        return Evaluation(loss, float(reconstruction.detach()))

    reason = loop.run(settings.steps, evaluate, settings.stop, on_step=on_step)
    if reason == "diverged" and not loop.best.tensors:
        raise DivergedError("The tuning's loss is not a number from the start: lower tune.lr or check the generator.")
    base_state = generator.state_dict()
    delta = {name: value - base_state[name] for name, value in loop.result().items()}
    with torch.no_grad():
        image = apply_delta(generator, delta).synthesize(inversion.w, "const", inversion.noise)
    metrics = {
        "psnr_db": psnr_db(image, target, counting.mask if counting else None),
        "reconstruction_loss": loop.best.score,
    }
    return Tuned(inversion, delta, base_sha256, image, loop.history, reason, loop.step, metrics)


def locality_loss(
    tuned: Generator,
    base: Generator,
    pivot: Tensor,
    perceptual: Perceptual,
    settings: TuneSettings,
    rng: torch.Generator,
    step: int,
) -> Tensor:
    """MSE plus perceptual distance between tuned and base generator near the pivot (Roich et al. 2021, eq. 4-5).

    The probe is w_r = w_p + alpha * (w_z - w_p) / ||w_z - w_p|| for a mapped random z; pivot [1, L, D] -> scalar.
    """
    z = torch.randn(1, base.z_dim, generator=rng).to(pivot.device)
    with torch.no_grad():
        direction = base.map(z, random_labels(base, 1, rng)) - pivot
        probe = pivot + settings.locality_alpha * direction / direction.norm().clamp(min=1e-8)
        wanted = base.synthesize(probe)
        prepared = perceptual.prepare(wanted)
    found = tuned.synthesize(probe)
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
