"""Saving a session: its edits go through the pipeline's own blend stage, as a command line would make them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.edits import EDITS
from pipeline.finishing import finish, finished_photo
from pipeline.models import Models
from pipeline.run import RunOutcome
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
    assert record.run is not None, "a session that has edits has a prepared face"
    generated = record.photo is None
    stages = ["edit"] if generated else ["edit", "blend"]
    config = replace(config, stages=stages, save=None if generated else config.save)
    job = JobInfo(f"studio-{record.id}", 1)
    return _files(finish(record.told, config, Path(record.run), folder, job, models, console))


def _files(outcome: RunOutcome) -> list[dict[str, str]]:
    names = list(outcome.manifest["products"])
    photo = finished_photo(outcome)
    found = [("photo", outcome.run_dir / "edited.png")]
    if photo is not None:
        found = [("photo", photo[0]), ("recipe", photo[1])]
    found += [(kind, outcome.run_dir / name) for name, kind in KINDS.items() if name in names]
    return [{"kind": kind, "name": path.name, "path": str(path)} for kind, path in found if path.is_file()]
