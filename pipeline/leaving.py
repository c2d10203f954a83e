"""The end of a run that has a blended photo: its recipe is put together, and both are written where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.files import file_sha256
from pipeline import __version__
from pipeline.artifacts import copy_file, plain, write_bytes
from pipeline.delivery import MOST_NUMBERS, Deliveries, Destination, deliver, edited_name, inputs_of, recipe_path
from pipeline.edits import config_of
from pipeline.engine import Stored
from pipeline.manifest import Manifest
from pipeline.outputs import BlendFacts
from pipeline.progress import Console
from pipeline.recipe import KIND, VERSION, embedded, recipe_json, without_paths
from pipeline.schema import EditConfig, RunConfig
from pipeline.settings_text import differing_settings, override
from pipeline.together import Company
from pipeline.work import FaceWork


def leave(
    manifest: Manifest,
    faces: Sequence[FaceWork],
    blended: Stored[BlendFacts],
    config: RunConfig,
    destination: Destination | None,
    deliveries: Deliveries,
    company: Company,
    console: Console,
) -> Path | None:
    """Write `<stem>_edited.<ext>` and its recipe into the run folder, or where `save` says; the path it was saved at.

    None without `save`, and when `on_exists=skip` finds the name taken, which is said. The manifest notes all of it.
    """
    result = blended.folder / blended.value.result
    content = recipe_of(manifest.data, faces, result, company)

    def recipe(name: str) -> bytes:
        return recipe_json({**content, "result": {**content["result"], "name": name}})

    if destination is None:
        path = _run_folder_name(manifest, result, config, deliveries)
        copy_file(result, path)
        write_bytes(recipe_path(path), recipe(path.name))
        source = "/".join(result.parts[-3:])
        manifest.data["products"] |= {path.name: source, recipe_path(path).name: None}
        return None
    saved = deliver(result.read_bytes(), result.suffix, recipe, destination)
    manifest.data["saved"] = None if saved is None else str(saved)
    if saved is None:
        taken = next(destination.candidates(result.suffix))
        console.warn(f"{taken} is there already, so nothing is saved (on_exists=skip); the run folder has the result")
    return saved


def _run_folder_name(manifest: Manifest, result: Path, config: RunConfig, deliveries: Deliveries) -> Path:
    """The name in the run folder, where an older one is replaced unless this run reads it."""
    stem = Path(str(manifest.data["photo"]["name"])).stem
    inputs = deliveries.inputs.with_more(inputs_of(config))
    names = (manifest.folder / edited_name(stem, result.suffix, n) for n in range(1, MOST_NUMBERS + 1))
    return next(path for path in names if not inputs.holds(path) and not inputs.holds(recipe_path(path)))


def recipe_of(manifest: dict[str, Any], faces: Sequence[FaceWork], result: Path, company: Company) -> dict[str, Any]:
    """The content of a recipe for the result in the file `result`, whose name is the caller's to set."""
    made = manifest["recipe"]
    config = without_paths(made["config"])
    config["edit"]["undo"] = 0  # the row below is what was left
    rows = [list(face.dragged.value.told) for face in faces if face.dragged is not None]
    photo = manifest["photo"]
    content = {
        KIND: VERSION,
        "photodrag": __version__,
        "photo": {key: photo[key] for key in ("name", "sha256", "width", "height")},
        "result": {"sha256": file_sha256(result)},
        "config": config,
        "overrides": [override(key, value) for key, value in sorted(differing_settings(config).items())],
        "seeds": {"seed": config["seed"]},
        "models": made["models"],
        "files": {key: embedded(facts, key.endswith("mask")) for key, facts in made["files"].items()},
        "edits": [_portable(told) for told in max(rows, key=len)],
        "faces": [_face(face) for face in faces],
        "versions": manifest["versions"],
        "device": manifest["device"],
        "threads": manifest["threads"],
        "tuned_with": max(0, len(company.keys) - len(faces)) if made["config"]["tune"]["shared"] else 0,
    }
    told: dict[str, Any] = plain(content)
    return told


def _portable(told: dict[str, Any]) -> dict[str, Any]:
    """An edit without the path of another photo: its name and hash instead."""
    if told.get("like") is None:
        return told
    path = Path(str(told["like"]))
    return {**told, "like": path.name, "like_sha256": file_sha256(path) if path.is_file() else "0" * 64}


def _face(face: FaceWork) -> dict[str, Any]:
    """Where a face lies and what was done to it, for a person to read: everything in photo pixels."""
    alignment = face.crop.alignment
    rows = () if face.dragged is None else face.dragged.value.told
    edits = []
    for told in rows:
        points = config_of(told, EditConfig(), alignment).points
        edits.append({**_portable(told), **({"points": points} if "points" in told else {})})
    return {
        "face_index": alignment.face_index,
        "quad": alignment.quad,
        "crop_from_photo": alignment.matrix,
        "crop_px": alignment.size,
        "landmarks": alignment.landmarks,
        "edits": edits,
    }
