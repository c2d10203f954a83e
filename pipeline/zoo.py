"""The model zoo: which public models there are (`conf/zoo.yaml`), and where their files lie on this machine.

Imports neither torch nor numpy, because the command line starts without them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from data.errors import ModelError, UsageError
from pipeline.validation import did_you_mean

CACHE_VARIABLE = "PHOTODRAG_CACHE"
OFFLINE_VARIABLE = "PHOTODRAG_OFFLINE"
OFF_WORDS = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One public model; `conf/zoo.yaml` says what each field means. Either `url` or `page` is given."""

    name: str
    title: str
    family: str
    subject: str
    licence: str
    sha256: str | None
    url: str | None = None
    page: str | None = None
    size_mb: float | None = None
    resolution: int | None = None
    width: int | None = None

    @property
    def is_generator(self) -> bool:
        """Whether a run can take it with generator=NAME; the others are trunks of LPIPS."""
        return self.family != "lpips"

    @property
    def file(self) -> str:
        """Name of its file in the cache; a trunk keeps the published one, by which the perceptual loss looks for it."""
        if self.is_generator:
            return f"{self.name}.pkl"
        return PurePosixPath(urlsplit(str(self.url)).path).name


@cache
def zoo() -> tuple[ZooEntry, ...]:
    """Every entry of the registry, in its order."""
    import yaml

    text = resources.files("conf").joinpath("zoo.yaml").read_text(encoding="utf-8")
    return tuple(ZooEntry(**fields) for fields in yaml.safe_load(text))


def zoo_entry(name: str) -> ZooEntry:
    """The entry of that name; UsageError, with the nearest name, when there is none."""
    entries = {entry.name: entry for entry in zoo()}
    if name not in entries:
        raise UsageError(
            f"{name} is not in the model zoo: allowed is what photodrag models list shows{did_you_mean(name, entries)}"
        )
    return entries[name]


def cache_folder() -> Path:
    """The folder of downloaded models: PHOTODRAG_CACHE, else the user's cache; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("photodrag") / "models"


def entry_path(entry: ZooEntry) -> Path:
    """Where the entry's file lies once it is here."""
    return cache_folder() / entry.file


def is_offline(asked: bool = False) -> bool:
    """Whether nothing may be fetched: asked for, or PHOTODRAG_OFFLINE is set to anything but 0, false, no or off."""
    return asked or os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in OFF_WORDS


def cached_path(name: str) -> Path:
    """The file of an entry that must be here; ModelError names the command that brings it."""
    path = entry_path(zoo_entry(name))
    if not path.is_file():
        raise ModelError(f"{name} needs {path}, which is not there: run `photodrag models download {name}`.")
    return path
