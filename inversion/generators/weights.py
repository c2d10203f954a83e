"""What tuning changes in a generator: every weight, or a low-rank part of it with few numbers (Hu et al. 2021, LoRA).

A change is a flat dict of factors, by kind and state-dict name: `a/NAME` [O, r] and `b/NAME` [r, I * k * k] of a
low-rank change `a @ b / sqrt(r)`, or `full/NAME` of a whole one. `expand` gives the weights' own shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import ModelError
from inversion.generators.low_rank import LowRankWeight
from inversion.generators.protocol import Generator

SYNTHESIS = "synthesis."
A, B, FULL = "a/", "b/", "full/"
A_RATE, B_RATE = 10.0, 100.0
"""Step sizes of the factors in units of that of a whole weight: `a` starts at 0 and `b` at unit variance."""

T = TypeVar("T")
Factors = dict[str, Tensor]


def start_factors(generator: Generator, rank: int, rng: torch.Generator) -> Factors:
    """Factors of no change: for rank 0 of every synthesis weight, else low-rank ones and those of vectors.

    Matrices with no more than `rank` rows (the colour layers) and the constant input stay as they are. Raises
    ModelError when there is nothing to change.
    """
    found: Factors = {}
    for name, weight in generator.named_parameters():
        if not name.startswith(SYNTHESIS):
            continue
        rows, columns = weight.shape[0] if weight.ndim else 1, weight[0].numel() if weight.ndim > 1 else 1
        if not rank or weight.ndim < 2:
            found[FULL + name] = torch.zeros_like(weight)
        elif name.endswith(".weight") and min(rows, columns) > rank:
            found[A + name] = weight.new_zeros(rows, rank)
            found[B + name] = torch.randn(rank, columns, generator=rng).to(weight)
    if not found:
        raise ModelError("This generator has no synthesis weights that could be tuned.")
    return found


def rates_of(factors: Mapping[str, Tensor]) -> dict[str, float]:
    """Step size of each factor in units of that of a whole weight."""
    return {name: {A: A_RATE, B: B_RATE}.get(name[:2], 1.0) for name in factors}


def stored(factors: Mapping[str, Tensor]) -> Factors:
    """Factors as they are kept: those of a low-rank change rounded to float16, whole ones as they are."""
    if not any(name.startswith(A) for name in factors):
        return dict(factors)
    return {name: value.to(torch.float16) for name, value in factors.items()}


def named_factors(tensors: Mapping[str, Tensor]) -> Factors:
    """Factors from tensors whose names may lack their kind: those are whole changes, as older files hold them."""
    return {name if name.startswith((A, B, FULL)) else FULL + name: value for name, value in tensors.items()}


def expand(factors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The change of each weight, float32, by state-dict name; `shapes` are those of the generator's weights.

    Raises ModelError when a factor has no place in the generator.
    """
    change: dict[str, Tensor] = {}
    for name, value in factors.items():
        kind, _, weight = name.partition("/")
        if kind == "b":
            continue
        try:
            if kind == "a":
                value = (value.float() @ factors[B + weight].float()) / math.sqrt(value.shape[1])
            change[weight] = value.float().view(shapes[weight])
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"The weight delta does not fit this generator: '{weight}' {list(value.shape)} has no place."
            ) from error
    return change


def changed(base: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights `base` (a state dict) with their change, for tuning: gradients reach the factors, and those of a
    low-rank change without that of its whole weight where this is the shorter way (`low_rank`)."""
    found = dict(base)
    for name, value in factors.items():
        kind, _, weight = name.partition("/")
        if kind == "full":
            found[weight] = base[weight] + value
        elif kind == "a":
            found[weight] = LowRankWeight.of(base[weight], value, factors[B + weight])
    return found


def shapes_of(generator: Generator) -> dict[str, torch.Size]:
    """Shape of each weight by state-dict name."""
    return {name: value.shape for name, value in generator.state_dict().items()}


class _Given(nn.Module):
    """A generator that is called through its `forward`, so that other weights can be given to the call."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, action: Callable[[Any], T]) -> T:
        """What `action` makes of the generator."""
        return action(self.inner)


def with_weights(generator: Generator, weights: Mapping[str, Tensor], action: Callable[[Generator], T]) -> T:
    """What `action` makes of the generator while it has these weights; the generator itself is not changed."""
    given = {f"inner.{name}": value for name, value in weights.items()}
    found: T = functional_call(_Given(generator), given, (action,))
    return found
