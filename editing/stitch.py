"""Stitching tuning: the edited crop made to meet the photograph round the edit (Tzaban et al. 2022, section 4.4).

Where an edited crop is put into a photo, its border shows how far the generator is from the photo there. A few steps on
the generator's weights let it draw what the photo shows on a ring round the edit, while inside the edit stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from data.errors import ModelError, UsageError
from editing.flow import Field
from inversion.generators.protocol import Generator, NoiseMaps
from inversion.generators.weights import SYNTHESIS, with_weights

REACH = 0.5
"""Of the feather: how far the ring goes beyond the mask, so that filters that look over its border find the same."""


@dataclass(frozen=True, slots=True)
class StitchSettings:
    """Adam steps (0 to 10000; the paper's are 100), their size, and what the picture inside weighs beside the ring.

    The paper's weight is 0.01; on the sample photo it left 44 % of an open mouth, whose chin lies at the ring, and this
    one 86 %.
    """

    steps: int = 100
    lr: float = 3e-4
    inside_weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= 10000:
            raise UsageError(f"blend.stitch is {self.steps}; it must lie between 0 and 10000.")
        if not (0 < self.lr <= 1 and 0 <= self.inside_weight < float("inf")):
            raise UsageError(
                f"Stitching takes a step size above 0 and at most 1 and a weight of at least 0; it was given {self.lr} "
                f"and {self.inside_weight}."
            )


@dataclass(frozen=True, slots=True)
class StitchStep:
    """One step of stitching: `step` of `total` is done, and the loss before it."""

    step: int
    total: int
    loss: float


def stitch_parts(mask: Field, feather: float) -> tuple[Field, Field]:
    """Inside and ring, [R,R] float32 in [0,1] each, of a blend's mask [R,R] on the crop.

    Inside is the mask itself: how much of the edited crop the photo gets. The ring is what is left of the photo where
    the mask mixes both, 1 - mask, and goes on at 1 for REACH * feather * R pixels (at least one) beyond the mask.
    """
    radius_px = max(1, round(REACH * feather * mask.shape[0]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    reached = np.asarray(cv2.dilate((mask > 0).astype(np.uint8), disc), np.float32)
    return np.asarray(mask, np.float32), np.asarray(reached * (1 - mask), np.float32)


def stitch(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    target: Tensor,
    edited: Tensor,
    inside: Tensor,
    ring: Tensor,
    settings: StitchSettings | None = None,
    on_step: Callable[[StitchStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """The edited picture [1, 3, R, R] with the target's pixels on the ring, as near as the generator comes.

    Adam on copies of the synthesis weights for MSE(ring, target) + inside_weight * MSE(inside, edited). w [1, L, D] is
    the edit's latent, `noise` its maps; target and edited [1, 3, R, R] about [-1, 1]; inside and ring [1, 1, R, R] in
    [0, 1] weigh the means. The result is the picture of the lowest loss, `edited` itself where there are no steps, no
    ring, no inside or no lower loss; a loss that is no number ends it, and the generator stays as it is. Equal
    arguments give equal bits on a processor. UsageError for pictures and masks of other sizes or with values that are
    no numbers.
    """
    settings = settings or StitchSettings()
    _check(generator, {"target": target, "edited": edited, "inside": inside, "ring": ring})
    target, inside, ring = (x.detach().to(edited) for x in (target, inside, ring))
    if not settings.steps or not inside.any() or not ring.any():
        return edited
    weights = _weights_of(generator)
    optimizer = torch.optim.Adam(weights.values(), lr=settings.lr)
    best, least = edited, float("inf")
    for step in range(settings.steps + 1):
        drawn = with_weights(generator, weights, lambda copy: copy.synthesize(w.detach(), "const", noise))
        loss = _mean_square(drawn - target, ring) + settings.inside_weight * _mean_square(drawn - edited, inside)
        value = float(loss.detach())
        if not value < float("inf"):
            break
        if value < least:
            # Before the first step the picture is the edited one, whatever the last bits of drawing it anew are.
            best, least = (drawn.detach() if step else edited), value
        if step == settings.steps or (should_stop is not None and should_stop()):
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(StitchStep(step + 1, settings.steps, value))
    return best


def _weights_of(generator: Generator) -> dict[str, Tensor]:
    """Copies of the synthesis weights, to be optimised; the rest of the generator needs none."""
    named = generator.named_parameters()
    found = {name: value.detach().clone().requires_grad_() for name, value in named if name.startswith(SYNTHESIS)}
    if not found:
        raise ModelError("This generator has no synthesis weights that could be tuned.")
    return found


def _mean_square(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean of the squares of [1, 3, R, R] by the weights [1, 1, R, R]."""
    return (weight * difference.square()).sum() / (difference.shape[1] * weight.sum())


def _check(generator: Generator, given: dict[str, Tensor]) -> None:
    side = generator.resolution
    for name, value in given.items():
        shape = [1, 3 if name in ("target", "edited") else 1, side, side]
        if list(value.shape) != shape or not bool(torch.isfinite(value).all()):
            raise UsageError(f"Stitching takes a finite {name} of {shape}; it was given {list(value.shape)}.")
