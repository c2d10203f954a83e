"""Directions found in the generator itself, without training, and the way along one of them.

SeFa (Shen and Zhou 2021) looks at the weights by which latents become styles, GANSpace (Härkönen et al. 2020) at where
mapped latents lie. Both give rows in standard deviations of W: a row is as long as the samples' standard deviation
along it, so that an amount of 2 means two of them, whichever direction it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import UsageError
from editing.axes import latent_axes
from editing.drag import Edited, to_frame
from editing.drag_task import check_start
from inversion.generators.protocol import Generator, NoiseMaps, Styled
from inversion.speed import pictures_at_once

Kind = Literal["sefa", "pca"]
KINDS: tuple[Kind, ...] = ("pca", "sefa")
NAMED_LAYERS = ("all", "coarse", "middle", "fine")
NAMED_UP_TO_PX = {"coarse": 8, "middle": 32}  # of the feature maps (Karras et al. 2019); `fine` are those above
FILM_STEPS = 40


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction by its kind and its number, from 0, the strongest: `sefa:3`, `pca:0`."""

    kind: Kind
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


def parse_direction(text: str) -> Direction:
    """The direction that `sefa:3` or `pca:0` names; UsageError for any other text."""
    match = re.fullmatch(r"(sefa|pca):(\d{1,6})", text, re.ASCII)
    if match is None:
        raise UsageError(f"edit.direction is {text}: allowed are sefa:N and pca:N, N a number from 0, as in pca:0")
    return Direction(cast(Kind, match[1]), int(match[2]))


def parse_layers(generator: Generator, text: str) -> range:
    """The W+ layers that all, coarse, middle, fine, a range such as 0-5 or one number means for this generator.

    Coarse layers draw feature maps of up to 8 px, middle ones of up to 32 px, fine ones larger maps (Karras et al.
    2019). Where even the first map is larger, as in StyleGAN3, whose maps are sampled more densely than they are
    detailed, the names are thirds of the layers. UsageError for another text, and for layers that are not there.
    """
    count = generator.num_ws
    found = range(count) if text == "all" else _named(generator, text) if text in NAMED_LAYERS else _between(text)
    if not found or found.stop > count:
        raise UsageError(
            f"edit.direction_layers is {text}: allowed on this generator are {', '.join(_present(generator))}, or a "
            f"range within 0-{count - 1}"
        )
    return found


def _present(generator: Generator) -> list[str]:
    """The names of layers that this generator has."""
    return [name for name in NAMED_LAYERS if name == "all" or _named(generator, name)]


def _between(text: str) -> range:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    return range(0) if match is None else range(int(match[1]), int(match[2] or match[1]) + 1)


def _named(generator: Generator, name: str) -> range:
    maps, count = generator.feature_layers, generator.num_ws
    sides = [min([x.height for x in maps if x.num_ws > k], default=generator.resolution) for k in range(count)]
    if sides[0] > NAMED_UP_TO_PX["coarse"]:
        ends = [0, count // 3, 2 * count // 3, count]
    else:
        ends = [0, *(sum(side <= limit for side in sides) for limit in NAMED_UP_TO_PX.values()), count]
    index = NAMED_LAYERS.index(name) - 1
    return range(ends[index], ends[index + 1])


def sefa_directions(generator: Generator, layers: Sequence[int]) -> Tensor:
    """Directions [K, D] that change the styles of `layers` most, strongest first (SeFa, Shen and Zhou 2021).

    They are the eigenvectors of A^T A in the order of its eigenvalues, A [C, D] the stacked weights of the affine maps
    from those W+ layers to styles; K is at most the number of rows of A, since others change no style. UsageError when
    the generator does not tell its style weights.
    """
    if not isinstance(generator, Styled):
        raise UsageError("edit.direction is sefa:N, but this family of generators tells no style weights: use pca:N")
    stacked = torch.cat([generator.style_weights(layer) for layer in layers]).detach()
    wide = stacked.double()
    vectors = torch.linalg.eigh(wide.t() @ wide).eigenvectors.t().flip(0)[: len(wide)]
    spreads = (latent_axes(generator, stacked).basis.double() @ vectors.t()).norm(dim=0)
    return signed(vectors * spreads[:, None]).to(stacked)


def pca_directions(generator: Generator, like: Tensor) -> Tensor:
    """Principal directions [D, D] of mapped latents, widest first (GANSpace, Härkönen et al. 2020, Section 2), in the
    dtype and on the device of `like`."""
    basis = latent_axes(generator, like).basis
    return signed(basis[basis.norm(dim=1).argsort(descending=True)])


def signed(directions: Tensor) -> Tensor:
    """Rows [K, D] turned so that the largest component of each is positive: eigenvectors have no sign of their own."""
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -directions, directions)


def directions_of(generator: Generator, kind: Kind, layers: Sequence[int], like: Tensor) -> Tensor:
    """All directions [K, D] of one kind; those of SeFa are of the layers that move."""
    return sefa_directions(generator, layers) if kind == "sefa" else pca_directions(generator, like)


def pick_direction(generator: Generator, direction: Direction, layers: Sequence[int], like: Tensor) -> Tensor:
    """The direction [D] that is meant; UsageError for a number that this generator does not have."""
    found = directions_of(generator, direction.kind, layers, like)
    if direction.number >= len(found):
        raise UsageError(
            f"edit.direction is {direction}: allowed on these layers are {direction.kind}:0 to "
            f"{direction.kind}:{len(found) - 1}"
        )
    return found[direction.number]


def moved(w: Tensor, direction: Tensor, amounts: Sequence[float], layers: range) -> Tensor:
    """w [1, L, D] plus each amount of direction [D] in those layers, [A, L, D]; w itself, bit by bit, for 0."""
    found = w.detach().repeat(len(amounts), 1, 1)
    steps = torch.tensor(amounts, dtype=w.dtype, device=w.device)[:, None] * direction.to(w)
    found[:, layers.start : layers.stop] += steps[:, None]
    return found


def drawn(generator: Generator, ws: Tensor, noise: NoiseMaps | None) -> list[NDArray[np.uint8]]:
    """The pictures [R, R, 3] uint8 RGB of latents ws [A, L, D]."""
    found = []
    for part in ws.split(pictures_at_once(ws.device, generator.resolution)):
        with torch.no_grad():
            found += [to_frame(image[None]) for image in generator.synthesize(part, "const", noise)]
    return found


def move_along(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    direction: Direction,
    amount: float,
    layers_text: str = "all",
    frame_every: int = 2,
) -> Edited:
    """w [1, L, D] moved by `amount` standard deviations along a direction of the generator, and the film of the way.

    The way has FILM_STEPS equal steps, one when no frames are wanted between start and end, and none for an amount of
    0; a frame shows every `frame_every`-th of them, and the end. No points are dragged: tracks are [steps + 1, 0, 2].
    UsageError for a latent, a direction or layers that do not fit the generator.
    """
    check_start(generator, w)
    layers = parse_layers(generator, layers_text)
    row = pick_direction(generator, direction, layers, w)
    steps = (FILM_STEPS if 0 < frame_every < FILM_STEPS else 1) if amount else 0
    shown = [*range(0, steps + 1, frame_every), *([steps] if steps else [])] if frame_every else []
    end = moved(w, row, [amount], layers)
    with torch.no_grad():
        image = generator.synthesize(end, "const", noise)
    film = moved(w, row, [amount * step / steps if steps else 0.0 for step in shown], layers)
    return Edited(
        w=end,
        image=image,
        tracks=torch.zeros(steps + 1, 0, 2),
        stop_reason="arrived",
        steps=steps,
        frames=drawn(generator, film, noise) if shown else [],
        metrics={
            "best_step": float(steps),
            "amount_std": float(amount),
            "w_layers": float(len(layers)),
            "latent_move": abs(amount) / w.shape[2] ** 0.5,
        },
    )
