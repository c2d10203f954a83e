"""What is made of frozen weights once and kept: their power for demodulation, their transposed copies, and what others
name."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
State = tuple[int, int, torch.dtype, torch.device]

_kept: dict[int, tuple[weakref.ref[Tensor], State, dict[str, Any]]] = {}


def is_frozen(weight: Tensor) -> bool:
    """Whether a weight is a parameter that no gradient is asked of, so that what is made of it can be kept."""
    return isinstance(weight, nn.Parameter) and not weight.requires_grad and not weight.is_inference()


def states_of(module: object) -> tuple[tuple[int, int], ...]:
    """What differs when a module's weights were moved or changed: the memory and the version of each."""
    weights = module.parameters() if isinstance(module, nn.Module) else ()
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


def once(weight: Tensor, name: str, make: Callable[[], T]) -> T:
    """What `make` makes of a weight: kept under that name while a frozen one lives unchanged, else made anew."""
    if not is_frozen(weight):
        return make()
    number, state = id(weight), (weight._version, weight.data_ptr(), weight.dtype, weight.device)
    found = _kept.get(number)
    if found is None or found[0]() is not weight or found[1] != state:
        found = (weakref.ref(weight, lambda _: _kept.pop(number, None)), state, {})
        _kept[number] = found
    if name not in found[2]:
        with torch.inference_mode(False), torch.no_grad():
            found[2][name] = make()
    kept: T = found[2][name]
    return kept


def power(weight: Tensor) -> Tensor:
    """Sums [I, O] of the squares of a weight [O, I, k, k] over its taps."""
    return once(weight, "power", lambda: weight.square().sum(dim=(2, 3)).t())


def swapped(weight: Tensor) -> Tensor:
    """A weight [O, I, k, k] as [I, O, k, k], a transposed convolution's; a frozen one in that order in memory, too."""
    if not is_frozen(weight):
        return weight.transpose(0, 1)
    return once(weight, "swapped", lambda: weight.transpose(0, 1).contiguous())
