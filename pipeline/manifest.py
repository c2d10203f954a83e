"""The manifest of a run: what was asked, what was used, what came out and how long it took."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data.errors import UsageError
from pipeline import __version__
from pipeline.artifacts import DamagedFilesError, copy_file, ensure_folder, plain, read_json, write_json
from pipeline.engine import StageRecord

MANIFEST = "manifest.json"
HISTORY = "manifests"
FORMAT = 1


class Manifest:
    """The growing manifest of one run, written to disk whenever something is added.

    folder: where `manifest.json` lies, the run folder or a sweep job's folder in it; store: the run folder. Manifests
    of earlier runs move to `manifests/` beside it.
    """

    def __init__(self, folder: Path, store: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.path = folder / MANIFEST
        self.earlier_products: list[str] = []
        self._started = time.monotonic()
        now = datetime.datetime.now().astimezone()
        self.data: dict[str, Any] = {
            "format": FORMAT,
            "run_id": f"{now:%Y-%m-%dT%H-%M-%S.%f}",
            "status": "running",
            "error": None,
            "started": now.isoformat(timespec="seconds"),
            "seconds": None,
            "store": Path(*[".."] * len(folder.relative_to(store).parts)).as_posix(),
            **facts,
            "keys": {},
            "stages": [],
            "faces": [],
            "timings": {},
            "metrics": {},
            "stop_reasons": {},
            "products": {},
            "result": None,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        ensure_folder(folder)
        self._keep_earlier()
        self.write()

    def _keep_earlier(self) -> None:
        try:
            earlier = read_json(self.path)
            name, self.earlier_products = str(earlier["run_id"]), list(earlier["products"])
        except (DamagedFilesError, KeyError, TypeError):
            return
        kept = free_name(ensure_folder(self.folder / HISTORY), name)
        copy_file(self.path, kept)
        if (self.folder / "report.html").is_file():
            copy_file(self.folder / "report.html", kept.with_suffix(".html"))

    def elapsed_seconds(self) -> float:
        """Time since the run began."""
        return round(time.monotonic() - self._started, 3)

    def write(self) -> None:
        """Replace manifest.json by the present state."""
        self.data["seconds"] = self.elapsed_seconds()
        self.data["peak_memory_bytes"] = peak_memory_bytes()
        write_json(self.path, self.data)

    def add_stage(self, record: StageRecord) -> None:
        """Note one stage that was computed or reused."""
        entry = {
            "stage": record.stage,
            "face": record.face,
            "key": record.key,
            "version": record.version,
            "reused": record.reused,
            "resumed": record.resumed,
            "seconds": round(record.seconds, 3),
            "computed_seconds": round(record.computed_seconds, 3),
            **plain(record.facts),
        }
        self.data["stages"].append(entry)
        timings = self.data["timings"]
        timings[record.stage] = round(timings.get(record.stage, 0.0) + record.seconds, 3)
        if record.face is None:
            self.data["keys"][record.stage] = record.key
        else:
            self._add_to_face(record.face, entry)
        self.data["metrics"] = self._mean_metrics()
        self.write()

    def _add_to_face(self, number: int, entry: Mapping[str, Any]) -> None:
        face, stage = self.face(number), entry["stage"]
        face["keys"][stage] = entry["key"]
        face["metrics"].update(entry.get("measured", {}))
        if entry.get("stop_reason"):
            face["stop_reasons"][stage] = entry["stop_reason"]
            self.data["stop_reasons"].setdefault(stage, []).append(entry["stop_reason"])

    def face(self, number: int) -> dict[str, Any]:
        """The entry of one face of the run, made when it is first asked for."""
        faces = self.data["faces"]
        while len(faces) <= number:
            faces.append({"number": len(faces), "keys": {}, "metrics": {}, "stop_reasons": {}, "failure": None})
        entry: dict[str, Any] = faces[number]
        return entry

    def _mean_metrics(self) -> dict[str, float]:
        """Each measure's mean over the faces that have it; of a single face, its own."""
        gathered: dict[str, list[float]] = {}
        for face in self.data["faces"]:
            for name, value in face["metrics"].items():
                if value is not None:
                    gathered.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in gathered.items()}

    def inherit(self, earlier: Mapping[str, Any], computed: Collection[str]) -> None:
        """Take over the keys of the continued run's stages, less those that this run computes itself."""
        pairs = [(self.data["keys"], earlier["keys"])]
        pairs += [(self.face(face["number"])["keys"], face["keys"]) for face in earlier["faces"]]
        for own, known in pairs:
            own.update({stage: key for stage, key in known.items() if stage not in computed})
        self.write()

    def finish(self, status: str, error: str | None = None) -> None:
        """Write the last state: `done`, `failed` or `interrupted`."""
        self.data["status"] = status
        self.data["error"] = error
        self.write()


def free_name(folder: Path, name: str) -> Path:
    """`<name>.json` in a folder, or `<name>-2.json` and so on: a clock that is set back gives the same name again."""
    path, number = folder / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    return path


def versions() -> dict[str, str | None]:
    """Versions of this package and of everything whose version can change a result."""
    return {
        "photodrag": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "dlib": _installed("dlib-bin") or _installed("dlib"),
        "torchmetrics": _installed("torchmetrics"),
        "pillow": _installed("pillow"),
        "jpeglib": _installed("jpeglib"),
        "platform": platform.platform(),
    }


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def peak_memory_bytes() -> int | None:
    """Most memory that this process has held so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_manifest(run: Path) -> dict[str, Any]:
    """Manifest of an earlier run folder; UsageError when there is none."""
    try:
        data = read_json(run / MANIFEST)
    except DamagedFilesError as error:
        raise UsageError(
            f"from={run} is not a run folder (no readable {MANIFEST} in it): give a folder that an earlier run "
            "printed, as in from=photodrag_runs/NAME_1234abcd."
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{run / MANIFEST} is of another version of photodrag: run the photo again without from=.")
    return data


def store_of(run: Path, manifest: Mapping[str, Any]) -> Path:
    """The run folder that holds the stages of the manifest read from `run`."""
    return (run / str(manifest["store"])).resolve()
