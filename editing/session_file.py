"""A drag session in one safetensors file: numbers as tensors, the rest as JSON in its header. Nothing in it is run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.errors import ModelError, OutputError
from data.files import write_atomically
from editing.drag import StopReason
from editing.drag_task import DragSettings

KEY, VERSION = "photodrag_session", 1


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """What a session's file holds: tensors `w/N`, `mask/N`, `noise/NAME`; for each drag its handles, targets, steps and
    stop reason, or the direction that it went along; how many of them are done (`at`); the settings."""

    tensors: dict[str, Tensor]
    drags: list[dict[str, Any]]
    at: int
    settings: DragSettings


def write_record(path: Path, record: Record) -> None:
    """Write atomically; OutputError when the disk refuses."""
    told = {
        "version": VERSION,
        "at": record.at,
        "drags": record.drags,
        "settings": dataclasses.asdict(record.settings),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in record.tensors.items()}
    content = save(tensors, {KEY: json.dumps(told)})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise OutputError(f"The session cannot be written to {path} ({error.strerror}).") from error


def read_record(path: Path) -> Record:
    """Read and check a session's file; ModelError in one sentence for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a drag session ({error}).") from error
    if KEY not in texts:
        raise ModelError(f"{path} is no drag session: its header has no '{KEY}'.")
    try:
        return _record(json.loads(texts[KEY]), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is a damaged drag session ({type(error).__name__}: {str(error)[:80]}).") from error


def _record(told: Any, tensors: dict[str, Tensor]) -> Record:
    if told["version"] != VERSION:
        raise ValueError(f"version {told['version']!r:.20}, and this program reads {VERSION}")
    drags, at = list(told["drags"]), told["at"]
    if type(at) is not int or not 0 <= at <= len(drags):
        raise ValueError(f"'at' is {at!r:.20}")
    for number, drag in enumerate(drags):
        if drag["stop"] not in get_args(StopReason) or type(drag["steps"]) is not int:
            raise ValueError(f"drag {number + 1} has no proper end")
        if not {"direction", "amount", "layers"} >= set(drag.get("along", {})):
            raise ValueError(f"drag {number + 1} goes along something unknown")
    missing = [f"w/{number}" for number in range(len(drags) + 1) if f"w/{number}" not in tensors]
    missing += [key for drag in drags for key in ("handles", "targets") if key not in drag]
    if missing:
        raise KeyError(missing[0])
    return Record(tensors, drags, at, DragSettings(**told["settings"]))
