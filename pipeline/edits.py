"""Edits in a row, kept in a small JSON file that says nothing of the photo, so that they can be made on another one.

A file holds `{"photodrag_edits": 1, "edits": [...]}`. An edit is a preset, the pose of another photo, a direction, or
points [x, y, x2, y2] as fractions of the aligned crop, in which faces lie about the same in every photo.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.alignment import Alignment
from data.errors import UsageError
from editing.points import Drag
from pipeline.edit_config import EditConfig
from pipeline.foreign_json import quoted, read_json
from pipeline.painted import check_painted
from pipeline.validation import build, check_mapping

EDITS = "edits.json"
KIND, VERSION = "photodrag_edits", 1
PARTS = ("preset", "like", "direction", "direction_layers", "strength", "method", "stop_after")
"""What is told of an edit beside its points and its painted mask; the rest is as in the run that makes it."""

Told = dict[str, Any]
"""One edit as JSON."""


@dataclass(frozen=True, eq=False, slots=True)
class EditStep:
    """One of a face's edits: its settings, and what they ask of this face, in photo pixels."""

    config: EditConfig
    drag: Drag
    told: Told


def greatest_mask(steps: Sequence[EditStep]) -> NDArray[np.float32] | None:
    """Where the photo [H, W] may change by any of the edits; None where one may change it everywhere. Of one mask the
    very array."""
    masks = [step.drag.mask for step in steps if step.drag.mask is not None]
    if not masks or len(masks) < len(steps):
        return None
    greatest = masks[0] if len(masks) == 1 else np.maximum(masks[0], masks[1])
    for mask in masks[2:]:
        np.maximum(greatest, mask, out=greatest)
    return greatest


def read_edits(config: EditConfig) -> list[Told]:
    """The edits of `edit.replay` (a file, or a run folder that has one) less the last `edit.undo`; none without.

    UsageError, in one sentence, for a file that is missing, is no such list, or holds what no edit is.
    """
    if config.replay is None:
        return []
    path = Path(config.replay)
    path = path / EDITS if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"edit.replay is {config.replay}, where no {EDITS} is: give the file or the folder of a run.")
    try:
        stored = read_json(path)
    except ValueError as error:
        raise UsageError(f"edit.replay is {path}, which is no list of edits: {quoted(str(error))}.") from error
    if not isinstance(stored, dict) or stored.get(KIND) != VERSION or not isinstance(stored.get("edits"), list):
        raise UsageError(f"edit.replay is {path}, which is no list of edits: it must hold '{KIND}': {VERSION}.")
    edits = stored["edits"]
    for number, told in enumerate(edits, 1):
        check_edit(told, f"edit {number} of {path}")
    if config.undo > len(edits):
        raise UsageError(f"edit.undo is {config.undo}, and {path} holds {len(edits)} edits: undo fewer.")
    return edits[: len(edits) - config.undo]


def check_edit(told: Any, what: str) -> None:
    """UsageError unless the settings of an edit are those of one."""
    if not isinstance(told, dict) or (strange := sorted(set(told) - {*PARTS, "points", "mask"})):
        detail = f": '{quoted(strange[0])}' is unknown" if isinstance(told, dict) else ""
        raise UsageError(f"{what} is no edit{detail}; allowed are points, {', '.join(PARTS)}.")
    try:
        if "mask" in told:
            check_painted(told["mask"])
        plain = {name: value for name, value in told.items() if name != "mask"}
        check_mapping(EditConfig, plain, "edit.")
        config = build(EditConfig, plain)
    except (UsageError, TypeError) as error:
        raise UsageError(f"{what} cannot be made: {quoted(str(error))}") from error
    numbers = [name for name, value in plain.items() if isinstance(getattr(config, name), str) and value != str(value)]
    if numbers:
        raise UsageError(f"{what} cannot be made: edit.{numbers[0]} is {plain[numbers[0]]}: allowed is text")
    if not config.asks:
        raise UsageError(f"{what} asks for nothing: it needs points, preset, like or direction.")


def plain_edit(config: EditConfig) -> EditConfig:
    """Settings that ask for no edit: how they are made stays."""
    asks_nothing = {name: getattr(EditConfig(), name) for name in (*PARTS, "points", "mask", "replay", "undo")}
    return replace(config, **asks_nothing)


def config_of(told: Told, run: EditConfig, alignment: Alignment) -> EditConfig:
    """An edit's settings on a crop, the rest as the run has them; points in photo pixels."""
    points = np.asarray(told.get("points", []), dtype=np.float64).reshape(-1, 2) * alignment.size - 0.5
    pairs = alignment.to_photo(points).round(3).reshape(-1, 4).tolist() if len(points) else []
    plain = EditConfig()
    parts = {name: told.get(name, getattr(plain, name)) for name in PARTS}
    return replace(run, points=pairs, replay=None, undo=0, mask=None, **parts)


def told_of(config: EditConfig, pairs: Sequence[int], alignment: Alignment) -> Told:
    """An edit as JSON: what differs from the defaults, and the points of one face as fractions of its crop."""
    plain = EditConfig()
    told = {name: getattr(config, name) for name in PARTS if getattr(config, name) != getattr(plain, name)}
    if not config.by_face and config.direction is None:
        points = np.asarray([config.points[number] for number in pairs], dtype=np.float64).reshape(-1, 2)
        crop = (alignment.to_crop(points) + 0.5) / alignment.size
        told["points"] = crop.reshape(-1, 4).round(9).tolist()
    return told


def edits_json(edits: Sequence[Mapping[str, Any]]) -> bytes:
    """The file of edits."""
    return (json.dumps({KIND: VERSION, "edits": list(edits)}, indent=2) + "\n").encode()
