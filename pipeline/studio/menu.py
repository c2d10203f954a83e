"""What a studio has to choose from: generators that are here, presets, directions."""

from __future__ import annotations

from typing import Any

from data.errors import ModelError, UsageError
from pipeline.models import generator_path
from pipeline.schema import GENERATORS, PRESETS, GeneratorConfig

DIRECTIONS = 10
"""Of each kind, the strongest."""
OWN_FILE = "file"
"""What a generator that was given by its path is called."""


def presets() -> list[dict[str, str]]:
    """Name and label of each preset; `slim` is the older name of one of them."""
    return [{"name": name, "label": name.replace("_", " ")} for name in PRESETS if name != "slim"]


def directions() -> list[dict[str, str]]:
    """Name and label of the directions that any generator has."""
    names = [(kind, number) for kind in ("pca", "sefa") for number in range(DIRECTIONS)]
    return [{"name": f"{kind}:{number}", "label": f"{kind} {number}"} for kind, number in names]


def own_name(config: GeneratorConfig) -> str:
    """The name of the generator that the studio was started with."""
    return OWN_FILE if config.path is not None else config.name


def generators(config: GeneratorConfig) -> list[dict[str, Any]]:
    """Every generator by name, and whether it is on this machine."""
    found = [{"name": name, "here": _is_here(name)} for name in GENERATORS if name != OWN_FILE]
    return [{"name": OWN_FILE, "here": True}, *found] if own_name(config) == OWN_FILE else found


def checked_generator(name: str | None, config: GeneratorConfig) -> str:
    """The name of a generator that is here, the studio's own when none is asked for. UsageError for any other."""
    name = name or own_name(config)
    here = {entry["name"]: entry["here"] for entry in generators(config)}
    if name not in here:
        raise UsageError(f"There is no generator {name}: allowed are {', '.join(here)}.")
    if not here[name]:
        raise UsageError(f"The generator {name} is not here: photodrag models download {name} fetches it.")
    return name


def _is_here(name: str) -> bool:
    try:
        return generator_path(GeneratorConfig(name=name)).is_file()
    except ModelError:
        return False
