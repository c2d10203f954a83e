"""What a run must remember of its making so that it can be made again: settings, files and models behind each stage.

The manifest keeps it under `recipe`. A run that continues another takes over what it does not compute itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.errors import ModelError
from data.files import file_sha256
from data.landmarks import DESCRIPTOR_MODEL, LANDMARK_MODEL, model_path
from inversion.perceptual import backbone_path
from pipeline.models import LoadedGenerator, PerceptualChoice
from pipeline.schema import CHAIN, RunConfig
from pipeline.work import Setup
from pipeline.zoo import cache_folder

DECIDED_BY = {
    "align": ("align",),
    "invert": ("invert", "generator", "perceptual", "seed", "speed"),
    "tune": ("tune",),
    "edit": ("edit",),
    "blend": ("blend",),
}
"""The settings that belong to each stage; a tuning shares those of its inversion."""


def made_with(setup: Setup) -> dict[str, Any] | None:
    """`config`: the settings behind every stage up to the last; `files`: the pictures that they name; `models`.

    None of a generated picture, which has no photo to be made again from. Raises OSError for no file: one that cannot
    be read is left out, and the run itself tells of it.
    """
    if setup.sampled:
        return None
    config = dataclasses.asdict(setup.config)
    files = picture_files(setup.config)
    models = model_facts(setup.config, setup.generator, setup.perceptual)
    if setup.earlier is not None:
        before = setup.earlier.get("recipe") or {"config": setup.earlier["config"], "files": {}, "models": {}}
        for stage in CHAIN:
            if stage in setup.config.stages:
                continue
            config |= {key: before["config"][key] for key in DECIDED_BY[stage] if key in before["config"]}
            files = {key: facts for key, facts in files.items() if key.partition(".")[0] != stage}
            files |= {key: facts for key, facts in before["files"].items() if key.partition(".")[0] == stage}
        if "invert" not in setup.config.stages:
            models |= {kind: before["models"][kind] for kind in ("perceptual",) if kind in before["models"]}
    config |= {"stages": list(CHAIN), "from_run": None}
    return {"config": config, "files": files, "models": models}


def picture_files(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path, name and SHA-256 of each picture that a setting names."""
    given = {
        "invert.mask": config.invert.mask_path,
        "edit.mask": config.edit.mask,
        "edit.like": config.edit.like,
        "blend.mask": config.blend.mask,
    }
    found = {}
    for key, text in given.items():
        if text is not None:
            with contextlib.suppress(OSError):
                path = Path(text).absolute()
                found[key] = {"path": str(path), "name": path.name, "sha256": file_sha256(path)}
    return found


def model_facts(
    config: RunConfig, generator: LoadedGenerator, perceptual: PerceptualChoice | None
) -> dict[str, dict[str, str]]:
    """File name and SHA-256 of every model that can change a result: generator, perceptual distance, dlib's two."""
    name = config.generator.name if config.generator.path is None else "file"
    found = {"generator": {"name": name, "file": generator.path.name, "sha256": generator.sha256}}
    if perceptual is not None:
        lpips = perceptual.name.removeprefix("lpips_")
        path = backbone_path(lpips, perceptual.folder, cache_folder()) if lpips != perceptual.name else None
        with contextlib.suppress(OSError, ModelError):
            path = model_path(DESCRIPTOR_MODEL) if path is None else path
            found["perceptual"] = {"name": perceptual.name, "file": path.name, "sha256": _known_sha256(path)}
    for kind, file in (("landmarks", LANDMARK_MODEL), ("face_network", DESCRIPTOR_MODEL)):
        with contextlib.suppress(OSError, ModelError):
            path = model_path(file)
            found[kind] = {"name": "dlib", "file": path.name, "sha256": _known_sha256(path)}
    return found


def differing_models(recorded: Mapping[str, Mapping[str, str]], here: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One phrase for each recorded model that is another one here, or is missing."""
    found = []
    for kind, facts in recorded.items():
        other = here.get(kind)
        if other is None:
            found.append(f"{kind} {facts['file']} is missing")
        elif other["sha256"] != facts["sha256"]:
            hashes = f"sha256 {facts['sha256'][:16]} recorded, {other['sha256'][:16]} here"
            found.append(f"{kind} is {other['file']} instead of {facts['file']} ({hashes})")
    return found


def _known_sha256(path: Path) -> str:
    found = path.stat()
    return _sha256_once(str(path), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256_once(path: str, _size: int, _mtime_ns: int) -> str:
    """Kept, because a batch asks for models of 100 MB and more once for each photo."""
    return file_sha256(Path(path))
