"""Edits between a page and the pipeline: rows from recipes, and what is kept and told of an edit that was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UsageError
from pipeline import edits, recipe
from pipeline.edits import Told, check_edit
from pipeline.engine import Stored
from pipeline.outputs import Dragged
from pipeline.studio.live import thinned
from pipeline.studio.record import EditEntry
from pipeline.studio.session import Running
from pipeline.studio.sitting import Sitting

MOST_EDITS = 200


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """An edit that was made: what was asked, what is told of it, its output, the seconds it took."""

    running: Running
    told: Told
    stored: Stored[Dragged]
    seconds: float


def edit_entry(made: Made, sitting: Sitting) -> EditEntry:
    """What is kept of an edit."""
    dragged, told = made.stored.value, made.told
    edited = dragged.edited
    tracks = thinned(edited.tracks.double().numpy()) if len(dragged.targets) else np.zeros((0, 0, 2))
    ways = sitting.to_photo(tracks).round(2) if tracks.size else tracks
    points: list[list[float]] = []
    if "points" in told and tracks.size:
        ends = sitting.to_photo(dragged.targets)
        points = np.hstack([ways[0], ends]).round(2).tolist()
    kind, label = (made.running.kind, made.running.label)
    if kind == "recipe":
        kind, label = _named(told)
    return EditEntry(
        told=told,
        key=made.stored.key,
        kind=kind,
        label=label,
        stop=edited.stop_reason,
        steps=edited.steps,
        seconds=round(made.seconds, 2),
        points=points,
        tracks=ways.tolist(),
    )


def _named(told: Told) -> tuple[str, str]:
    """Kind and name of an edit that came with a recipe."""
    strength = told.get("strength", 1.0)
    for kind in ("preset", "direction"):
        if told.get(kind):
            return kind, f"{str(told[kind]).replace('_', ' ').replace(':', ' ')} {strength:g}"
    return "points", f"drag of {len(told.get('points', []))} points"


def told_edits(text: str) -> list[Told]:
    """The edits in the text of a recipe or an edits.json; UsageError, one sentence, for anything else."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("The file is no recipe: it cannot be read as JSON.") from error
    known = isinstance(stored, dict) and (edits.KIND in stored or recipe.KIND in stored)
    row = stored.get("edits") if known else None
    if not isinstance(row, list):
        raise UsageError(f"The file is no recipe: it holds neither '{recipe.KIND}' nor '{edits.KIND}' with edits.")
    return _checked(row)


def _checked(row: Sequence[Any]) -> list[Told]:
    if not 1 <= len(row) <= MOST_EDITS:
        raise UsageError(f"The recipe has {len(row)} edits: allowed are 1 to {MOST_EDITS}.")
    for number, told in enumerate(row, 1):
        if isinstance(told, dict) and told.get("like") is not None:
            raise UsageError(
                f"Edit {number} of the recipe takes the pose of another photo, which the page does not have: "
                "use photodrag replay."
            )
        check_edit(told, f"edit {number} of the recipe")
    return [dict(told) for told in row]
