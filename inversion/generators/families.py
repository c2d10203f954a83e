"""The families of generators that files can hold, by the name in their header: a config dataclass and how to build it.

Another family joins by `register`, or as an installed package's entry point of the group `photodrag.generators` whose
object is a `Family`; nothing in a checkpoint can add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from data.errors import ModelError
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.stylegan3 import StyleGAN3, StyleGAN3Config

ENTRY_POINTS = "photodrag.generators"


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of generator: `config` is a dataclass of JSON values, `build` makes the module (random weights) of one.

    The module is a `protocol.Generator` and keeps its config as `.config`; its synthesis weights' names begin with
    `synthesis.`.
    """

    name: str
    config: type[Any]
    build: Callable[[Any], nn.Module]


_FAMILIES = {
    "stylegan2": Family("stylegan2", StyleGAN2Config, StyleGAN2),
    "stylegan3": Family("stylegan3", StyleGAN3Config, StyleGAN3),
}


def register(family: Family) -> None:
    """Make a family known under its name; one of that name is replaced."""
    _FAMILIES[family.name] = family


@cache
def _installed() -> Mapping[str, Family]:
    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}


def family_named(name: str) -> Family:
    """The family of that name; ModelError when there is none."""
    found = _FAMILIES.get(name) or _installed().get(name)
    if found is None:
        known = ", ".join(sorted({*_FAMILIES, *_installed()}))
        raise ModelError(f"The generator family {name[:40]!r} is unknown; known here are {known}.")
    return found


def family_of(config: object) -> Family:
    """The family that a config belongs to."""
    for family in (*_FAMILIES.values(), *_installed().values()):
        if type(config) is family.config:
            return family
    raise ModelError(f"No generator family has the config {type(config).__name__}.")
