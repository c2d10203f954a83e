"""The table of an experiment: one row for each photo, face and job, read from the manifests of its runs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.folders import shown

OPTIMISED = ("invert", "tune", "edit")
_FIRST = ("photo", "sha256", "face", "job")
_AFTER_SWEPT = ("status", "error")
_LAST = ("perceptual", "generator_sha256", "run", "overrides")
_COURSES = frozenset(f"{stage}_{fact}" for stage in OPTIMISED for fact in ("stop_reason", "steps", "seconds"))
STATISTICS = ("mean", "median", "sd", "min", "max", "count")


@dataclass(frozen=True, eq=False, slots=True)
class JobValues:
    """Which job of a sweep a row belongs to: its number, all its overrides, and the values of the swept settings."""

    number: int | None = None
    overrides: tuple[str, ...] = ()
    swept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class FaceResult:
    """One row of the table, and where the stages behind it lie.

    store: the run folder, None when the run ended before it had one; keys: the stages' keys by name; run_dir: the
    folder of the run's products, which of a sweep's job lies inside the store; face: its number from 0.
    """

    row: Mapping[str, Any]
    swept: Mapping[str, str]
    store: Path | None = None
    run_dir: Path | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    face: int = 0
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether this face or its photo failed."""
        return self.row["status"] != "done"


def results_of(photo: str, manifest: Mapping[str, Any], run_dir: Path, job: JobValues) -> list[FaceResult]:
    """One result for each face of a run that ended, from its manifest; one without a face when it found none."""
    store = (run_dir / str(manifest.get("store", "."))).resolve()
    faces = manifest.get("faces") or [{"number": None, "metrics": {}, "keys": {}, "failure": None}]
    results = []
    for face in faces:
        number, failure = face["number"], face.get("failure")
        row = {
            "photo": shown(photo),
            "sha256": (manifest.get("hashes") or {}).get("photo"),
            "face": None if number is None else number + 1,
            **_job_columns(job),
            "status": "failed" if failure else "done",
            "error": failure,
            **flat(face["metrics"]),
            **_courses(manifest, number),
            "perceptual": (manifest.get("perceptual") or {}).get("name"),
            "generator_sha256": (manifest.get("hashes") or {}).get("generator"),
            "overrides": " ".join(job.overrides),
        }
        keys = {**manifest.get("keys", {}), **face["keys"]}
        results.append(FaceResult(row, job.swept, store, run_dir, keys, number or 0, manifest))
    return results


def failed_result(photo: str, sha256: str | None, error: str, job: JobValues) -> FaceResult:
    """The row of a photo whose run ended in an error."""
    row = {"photo": shown(photo), "sha256": sha256, "face": None, **_job_columns(job), "status": "failed"}
    return FaceResult({**row, "error": error, "overrides": " ".join(job.overrides)}, job.swept)


def _job_columns(job: JobValues) -> dict[str, Any]:
    return {} if job.number is None else {"job": job.number, **job.swept}


def _courses(manifest: Mapping[str, Any], face: int | None) -> dict[str, Any]:
    """Why and when each optimisation of a face stopped, and the seconds that it took when it was computed."""
    found: dict[str, Any] = {}
    for entry in manifest.get("stages", []):
        name = entry["stage"]
        if name in OPTIMISED and entry["face"] == face:
            found[f"{name}_stop_reason"] = entry.get("stop_reason")
            found[f"{name}_steps"] = entry.get("steps")
            found[f"{name}_seconds"] = entry.get("computed_seconds")
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested measures as one level, their names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def columns_of(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> list[str]:
    """Every column that any row has: what it is of, how it ended, measures, courses, origin."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    courses = [name for name in names if name in _COURSES]
    fixed = [*_FIRST, *swept, *_AFTER_SWEPT]
    measures = [name for name in names if name not in {*fixed, *courses, *_LAST}]
    order = [*fixed, *measures, *courses, *_LAST]
    return [name for name in order if name in names]


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as comma-separated values with a head; numbers at full precision, nothing for what a row lacks."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def summary_of(results: Sequence[FaceResult], swept: Sequence[str]) -> list[dict[str, Any]]:
    """Statistics of every number over the faces that are done, for each combination of swept values.

    Each entry: `swept`, `faces` and `failed` (counts), and `measures`: by name mean, median, sd (of the sample, divided
    by n - 1; None of a single face), min, max, count.
    """
    return [
        {
            "swept": dict(zip(swept, values, strict=True)),
            "faces": sum(not result.failed for result in group),
            "failed": sum(result.failed for result in group),
            "measures": _statistics([result.row for result in group if not result.failed], swept),
        }
        for values, group in grouped(results, swept).items()
    ]


def grouped(results: Sequence[FaceResult], swept: Sequence[str]) -> dict[tuple[str, ...], list[FaceResult]]:
    """Results by their swept values, in the order in which those first came; one group without a sweep."""
    groups: dict[tuple[str, ...], list[FaceResult]] = {}
    for result in results:
        groups.setdefault(tuple(result.swept.get(name, "") for name in swept), []).append(result)
    return groups


def _statistics(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    found = {}
    for name in columns_of(rows, swept):
        values = [row[name] for row in rows if _is_number(row.get(name))]
        if values and name not in {"face", "job", *swept}:
            found[name] = {
                "mean": statistics.fmean(values),
                "median": float(statistics.median(values)),
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "min": float(min(values)),
                "max": float(max(values)),
                "count": len(values),
            }
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def summary_rows(summary: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The summary as rows of a table: swept values, measure, statistics."""
    return [
        {**entry["swept"], "measure": name, **values} for entry in summary for name, values in entry["measures"].items()
    ]
