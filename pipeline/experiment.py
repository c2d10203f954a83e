"""The folder of an experiment: table, summary, sheets of pictures, curves, latents and a report of many runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import (
    DamagedFilesError,
    StageStore,
    copy_file,
    ensure_folder,
    read_json,
    remove_file,
    write_bytes,
    write_json,
)
from pipeline.curves import Group, experiment_curves
from pipeline.experiment_report import SheetPicture, render_experiment
from pipeline.latents import SUFFIXES, latent_files, latent_metadata
from pipeline.manifest import versions
from pipeline.montage import MontageRow, montage_sheets
from pipeline.outputs import BETWEEN, FACTS, INVERT, RECONSTRUCTION, Inverted
from pipeline.pictures import jpeg_bytes, png_bytes, read_picture
from pipeline.table import STATISTICS, FaceResult, columns_of, csv_text, grouped, summary_of, summary_rows

FORMAT = 1
RESULTS_CSV, RESULTS_JSON = "results.csv", "results.json"
SUMMARY_CSV, SUMMARY_JSON = "summary.csv", "summary.json"
CURVES, MONTAGE, REPORT, LATENTS = "curves.png", "montage.png", "report.html", "latents"


@dataclass(frozen=True, eq=False, slots=True)
class Experiment:
    """What an experiment is: its folder, what was given, and what was varied.

    given: photos or folders as on the command line; overrides: the other settings; swept: names of the settings with
    several values; skipped: names in the folders that are no photos.
    """

    folder: Path
    given: Sequence[str]
    overrides: Sequence[str]
    swept: Sequence[str]
    skipped: Sequence[str] = ()


def write_tables(experiment: Experiment, results: Sequence[FaceResult], complete: bool) -> None:
    """Write results and summary as CSV and JSON; complete is False of an experiment that was interrupted."""
    folder, swept = ensure_folder(experiment.folder), list(experiment.swept)
    rows = [_row(result, folder) for result in results]
    columns, summary = columns_of(rows, swept), summary_of(results, swept)
    document = {
        "format": FORMAT,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "complete": complete,
        "given": list(experiment.given),
        "overrides": list(experiment.overrides),
        "swept": swept,
        "skipped": list(experiment.skipped),
        "versions": versions(),
        "columns": columns,
        "rows": rows,
        "summary": summary,
    }
    write_json(folder / RESULTS_JSON, document)
    write_json(folder / SUMMARY_JSON, summary)
    write_bytes(folder / RESULTS_CSV, _encoded(csv_text(rows, columns)))
    flat = summary_rows(summary)
    write_bytes(folder / SUMMARY_CSV, _encoded(csv_text(flat, [*swept, "measure", *STATISTICS])))


def write_partial_tables(experiment: Experiment, results: Sequence[FaceResult]) -> None:
    """Write the tables of an experiment that was stopped, unless those of an earlier call know more."""
    with contextlib.suppress(DamagedFilesError, KeyError, TypeError):
        if len(read_json(experiment.folder / RESULTS_JSON)["rows"]) > len(results):
            return
    write_tables(experiment, results, complete=False)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _row(result: FaceResult, folder: Path) -> dict[str, Any]:
    run = None if result.run_dir is None else Path(os.path.relpath(result.run_dir, folder)).as_posix()
    return {**result.row, "run": run}


def write_experiment(experiment: Experiment, results: Sequence[FaceResult]) -> Path:
    """Write everything that the folder holds, and return the report; what a changed experiment lacks is removed."""
    write_tables(experiment, results, complete=True)
    folder = experiment.folder
    names = latent_names(results)
    kept = _write_latents(ensure_folder(folder / LATENTS), results, names)
    _remove_others(folder / LATENTS, kept, [f"*{suffix}" for suffix in SUFFIXES])
    sheets = _write_sheets(folder, results)
    _remove_others(folder, {sheet.name for sheet in sheets}, ["montage*.png"])
    curves = _curves(results, experiment.swept)
    if curves is None:
        remove_file(folder / CURVES)
    else:
        write_bytes(folder / CURVES, curves)
    videos = _write_between(folder, results)
    document = read_json(folder / RESULTS_JSON)
    page = render_experiment(folder.name, document, sheets, curves, videos)
    write_bytes(folder / REPORT, page.encode("utf-8", "backslashreplace"))
    return folder / REPORT


def _write_between(folder: Path, results: Sequence[FaceResult]) -> dict[str, bytes]:
    """Copy the video between the faces that share a tuning, one for each job of a sweep; returns them by name."""
    videos: dict[str, bytes] = {}
    for result in results:
        tuned, job = _stage_folder(result, "tune"), result.row.get("job")
        name = BETWEEN if job is None else f"{Path(BETWEEN).stem}_job{job}{Path(BETWEEN).suffix}"
        if tuned is not None and name not in videos and (tuned / BETWEEN).is_file():
            copy_file(tuned / BETWEEN, folder / name)
            videos[name] = (folder / name).read_bytes()
    _remove_others(folder, set(videos), [f"{Path(BETWEEN).stem}*{Path(BETWEEN).suffix}"])
    return videos


def _remove_others(folder: Path, kept: set[str], patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.name not in kept:
                remove_file(path)


def _stage_folder(result: FaceResult, stage: str) -> Path | None:
    """The folder of a result's finished stage, None when it has none."""
    if result.store is None or stage not in result.keys:
        return None
    folder = StageStore(result.store).folder(stage, result.keys[stage])
    return folder if folder.is_dir() else None


def latent_names(results: Sequence[FaceResult]) -> list[str]:
    """For each result the name of its latent's files: that of its run folder, its face from the second on, its job."""
    names = []
    for result in results:
        name = "" if result.store is None else result.store.name
        name += f"_face{result.face + 1}" if result.face else ""
        job = result.row.get("job")
        names.append(name if job is None else f"{name}_job{job}")
    return names


def _write_latents(folder: Path, results: Sequence[FaceResult], names: Sequence[str]) -> set[str]:
    """Write each inverted face's latent in three formats; returns the files' names."""
    written: set[str] = set()
    for result, name, inverted in _with_inversion(results, names):
        files = latent_files(inverted.inversion, latent_metadata(result.manifest, result.face))
        for suffix, content in files.items():
            write_bytes(folder / f"{name}{suffix}", content)
            written.add(f"{name}{suffix}")
    return written


def _with_inversion(results: Sequence[FaceResult], names: Sequence[str]) -> Iterator[tuple[FaceResult, str, Inverted]]:
    for result, name in zip(results, names, strict=True):
        folder = _stage_folder(result, INVERT.name)
        if folder is not None:
            with contextlib.suppress(DamagedFilesError):
                yield result, name, INVERT.load(folder)


def _write_sheets(folder: Path, results: Sequence[FaceResult]) -> list[SheetPicture]:
    """Write the sheets of pictures as montage.png, montage_2.png ...; returns them for the report."""
    rows = [row for number, result in enumerate(results, start=1) if (row := _montage_row(number, result))]
    pictures = []
    for number, sheet in enumerate(montage_sheets(rows), start=1):
        name = MONTAGE if number == 1 else f"montage_{number}.png"
        write_bytes(folder / name, png_bytes(sheet))
        pictures.append(SheetPicture(name, jpeg_bytes(sheet, quality=85)))
    return pictures


def _montage_row(number: int, result: FaceResult) -> MontageRow | None:
    """The pictures of a result, None when it was not inverted."""
    align, invert, tune = (_stage_folder(result, stage) for stage in ("align", "invert", "tune"))
    if align is None or invert is None:
        return None
    photo, pivot = _picture(align / f"face{result.face}.png"), _picture(invert / RECONSTRUCTION)
    return MontageRow(_label(number, result), photo, pivot, None if tune is None else _picture(tune / RECONSTRUCTION))


def _picture(path: Path) -> Any:
    return read_picture(path.read_bytes())[0]


def _label(number: int, result: FaceResult) -> str:
    """A row's words: its number in the table, the photo, face and swept values, and the picture's PSNR."""
    row = result.row
    parts = [f"{number}. {row['photo']}"]
    parts += [f"face {result.face + 1}"] if len(result.manifest.get("faces", [])) > 1 else []
    parts += [f"{name}={value}" for name, value in result.swept.items()]
    psnr = [row[name] for name in ("psnr_invert_db", "psnr_tuned_db") if isinstance(row.get(name), float)]
    parts += [f"PSNR {' → '.join(f'{value:.2f}' for value in psnr)} dB"] if psnr else []
    return "   ".join(parts)


def _curves(results: Sequence[FaceResult], swept: Sequence[str]) -> bytes | None:
    """The chart of all losses, None when nothing was inverted."""
    groups = [
        Group(
            ", ".join(f"{name}={value}" for name, value in zip(swept, values, strict=True)),
            [history for result in group if (history := _histories(result))],
        )
        for values, group in grouped(results, swept).items()
    ]
    found = [history for group in groups for history in group.histories]
    stages = [stage for stage in ("invert", "tune") if any(stage in history for history in found)]
    return experiment_curves(groups, stages) if stages else None


def _histories(result: FaceResult) -> Mapping[str, Sequence[float]]:
    """The losses of a face's optimisations by stage: the part that compares pictures, which no setting adds to."""
    found: dict[str, Sequence[float]] = {}
    for stage in ("invert", "tune"):
        folder = _stage_folder(result, stage)
        if folder is not None:
            history = read_json(folder / FACTS)["history"]
            found[stage] = history.get("reconstruction") or history["loss"]
    return found
