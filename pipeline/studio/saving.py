"""Saving a session: its edits go through the pipeline's own blend stage, as a command line would make them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.errors import UsageError
from pipeline.artifacts import ensure_folder, write_bytes
from pipeline.edits import EDITS, edits_json
from pipeline.folders import RECIPE_SUFFIX
from pipeline.models import Models
from pipeline.run import RunOutcome, run
from pipeline.schema import JobInfo, RunConfig
from pipeline.studio.console import StudioConsole
from pipeline.studio.record import Record

KINDS = {"edit.mp4": "video", "edit.gif": "video", EDITS: "edits"}


def save_session(
    record: Record, config: RunConfig, folder: Path, models: Models, console: StudioConsole
) -> list[dict[str, str]]:
    """The files that leave: the photo (of a generated picture the picture) first, each with kind, name and path.

    folder: the session's own, where the edits are written for the run to read.
    """
    path = ensure_folder(folder) / EDITS
    write_bytes(path, edits_json(record.told))
    edit = replace(
        config.edit,
        points=[],
        preset=None,
        like=None,
        direction=None,
        mask=None,
        undo=0,
        stop_after=0,
        replay=str(path),
    )
    generated = record.photo is None
    stages = ["edit"] if generated else ["edit", "blend"]
    config = replace(config, from_run=record.run, stages=stages, edit=edit, save=None if generated else config.save)
    outcome = run(config, JobInfo(f"studio-{record.id}", 1), models, console)
    if outcome.failures:
        raise UsageError(outcome.failures[0])
    return _files(outcome)


def _files(outcome: RunOutcome) -> list[dict[str, str]]:
    names = list(outcome.manifest["products"])
    recipes = [name for name in names if name.endswith(RECIPE_SUFFIX)]
    pictures = [name.removesuffix(RECIPE_SUFFIX) for name in recipes] or ["edited.png"]
    found = [("photo", outcome.run_dir / name) for name in pictures]
    found += [("recipe", outcome.run_dir / name) for name in recipes]
    if outcome.saved is not None:
        found = [("photo", outcome.saved), ("recipe", outcome.saved.with_name(outcome.saved.name + RECIPE_SUFFIX))]
    found += [(kind, outcome.run_dir / name) for name, kind in KINDS.items() if name in names]
    return [{"kind": kind, "name": path.name, "path": str(path)} for kind, path in found if path.is_file()]
