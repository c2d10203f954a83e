"""A row of edits on a prepared face, finished: made by the pipeline's own stages, as a command line would make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.errors import UsageError
from pipeline.artifacts import ensure_folder, write_bytes
from pipeline.edits import EDITS, Told, edits_json, plain_edit
from pipeline.folders import RECIPE_SUFFIX
from pipeline.models import Models
from pipeline.progress import Console
from pipeline.run import RunOutcome, run
from pipeline.schema import JobInfo, RunConfig


def finish(
    told: Sequence[Told],
    config: RunConfig,
    prepared: Path,
    folder: Path,
    job: JobInfo | None,
    models: Models,
    console: Console,
) -> RunOutcome:
    """Make the edits and blend them, on the face of the run in `prepared`.

    config: its stages, `edit` or `edit` and `blend`, and how edits are made; what it asks of a face is left out.
    folder: where the edits are written for the run to read. Raises what `pipeline.run.run` raises, and UsageError where
    the face fails.
    """
    path = ensure_folder(folder) / EDITS
    write_bytes(path, edits_json(told))
    edit = replace(plain_edit(config.edit), replay=str(path))
    outcome = run(replace(config, photo=None, from_run=str(prepared), edit=edit), job, models, console)
    if outcome.failures:
        raise UsageError(outcome.failures[0])
    return outcome


def finished_photo(outcome: RunOutcome) -> tuple[Path, Path] | None:
    """The finished photo of a run, where it was saved or else in the run folder, and its recipe; None without one."""
    if outcome.saved is not None:
        return outcome.saved, outcome.saved.with_name(outcome.saved.name + RECIPE_SUFFIX)
    recipes = [outcome.run_dir / name for name in outcome.manifest["products"] if name.endswith(RECIPE_SUFFIX)]
    if not recipes:
        return None
    return recipes[0].with_name(recipes[0].name.removesuffix(RECIPE_SUFFIX)), recipes[0]
