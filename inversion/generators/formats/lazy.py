"""Tensors that are read, and rearranged, only when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from inversion.generators.formats.source import TensorRef


@dataclass(frozen=True, eq=False, slots=True)
class LazyTensor:
    """A tensor of a generator: its shape, and how to read it from its file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


LazyState = Mapping[str, LazyTensor]


def lazy(
    ref: TensorRef, shape: tuple[int, ...] | None = None, change: Callable[[Tensor], Tensor] | None = None
) -> LazyTensor:
    """A tensor as it lies in the file, or what `change` makes of it, of that shape."""
    wanted = ref.shape if shape is None else shape
    if change is None:
        return LazyTensor(wanted, lambda: ref.read().reshape(wanted))
    return LazyTensor(wanted, lambda: change(ref.read()).reshape(wanted))


def given(value: Tensor) -> LazyTensor:
    """A tensor that is in memory."""
    return LazyTensor(tuple(value.shape), lambda: value)
