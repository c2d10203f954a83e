"""What computes one photo of a batch after the other, in a process or an actor of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

import pipeline.run
from data.errors import OutputError
from data.photo import read_photo
from pipeline.artifacts import prune_run
from pipeline.errors import sentence, stage_of
from pipeline.executors.protocol import AGAIN, DONE, FAILED, STOP, BatchJob, ItemOutcome, WorkItem, changed
from pipeline.folders import RECIPE_SUFFIX
from pipeline.locks import RunInUseError, run_lock
from pipeline.memory import keep_freed_memory
from pipeline.models import Models, pick_device
from pipeline.pictures import jpeg_bytes, preview, read_picture, split_pair
from pipeline.progress import Console
from pipeline.run import RunOutcome, perceptual_of
from pipeline.schema import RunConfig
from pipeline.table import JobValues, failed_result, results_of
from pipeline.validation import build

THUMBNAIL_PX = 360
PAIR = "before_after.png"
KEPT_FILES = ("manifest.json", "report.html", PAIR, "edits.json", "edit.mp4", "latent.safetensors")
"""What of a run folder travels back, beside the result and its recipe, where the batch cannot read a worker's disk."""
REPORT, LATENT = "report.html", ".safetensors"
KEPT_RESULTS = ("manifest.json", "edits.json", f"latent{LATENT}")
"""What stays of it with `batch.keep=results`, in either case."""


def config_of(job: BatchJob) -> RunConfig:
    """The settings of a job as checked dataclasses."""
    return build(RunConfig, job.config)


class _Listening(Console):
    """A quiet console that keeps its warnings for the outcome."""

    def __init__(self) -> None:
        super().__init__(progress=False, quiet=True)
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        """Keep one warning line."""
        self.warnings.append(line)


class Worker:
    """Computes the items of one job, with the networks read once.

    Making one reads the generator and raises PhotodragError when that cannot be done, which concerns every photo.
    scratch: where run folders of photos that come as bytes lie; a temporary folder when left out.
    """

    def __init__(self, job: BatchJob, name: str = "", scratch: Path | None = None) -> None:
        keep_freed_memory()
        self.job = job
        self.name = name
        self.config = replace(config_of(job), threads=job.threads, progress=False)
        cv2.setNumThreads(job.threads)
        self.models = Models()
        perceptual_of(self.config)
        self.models.generator(self.config.generator, pick_device(self.config.device))
        self._scratch = scratch

    def run(self, item: WorkItem) -> ItemOutcome:
        """The outcome of one photo; nothing that is wrong with it is raised, and KeyboardInterrupt passes through."""
        started = time.monotonic()
        console = _Listening()
        try:
            outcome = self._run(item, console)
        except Exception as error:  # noqa: BLE001  whatever went wrong with one photo, the others run
            outcome = self._failure(item, error)
        return replace(
            outcome,
            seconds=time.monotonic() - started,
            warnings=tuple(console.warnings),
            worker=self.name,
        )

    def _run(self, item: WorkItem, console: Console) -> ItemOutcome:
        if item.content is not None:
            return self._run_content(item, item.content, console)
        if not _is_as_hashed(item):
            return changed(item)
        outcome = self._compute(Path(item.photo), self.config, console)
        if (outcome.manifest.get("hashes") or {}).get("photo") != item.sha256:
            return changed(item)
        told = self._outcome(item, outcome)
        if told.status == DONE and not self.job.keep_all:
            with contextlib.suppress(RunInUseError), run_lock(outcome.run_dir):
                _prune(outcome)
        return told

    def _run_content(self, item: WorkItem, content: bytes, console: Console) -> ItemOutcome:
        """As `_run`, of a photo that came as bytes: in a folder of this worker's machine, whose files are sent back."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="photodrag-worker-"))
        folder = self._scratch / item.sha256[:16]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            photo = folder / Path(item.photo).name
            photo.write_bytes(content)
            run = self._compute(photo, replace(self.config, out=str(folder / "runs")), console)
            told = self._outcome(item.without_content(), run)
            names = [*(KEPT_FILES if self.job.keep_all else KEPT_RESULTS)]
            if told.result is not None:
                names += [Path(told.result).name, Path(told.result).name + RECIPE_SUFFIX]
            files = {name: (run.run_dir / name).read_bytes() for name in names if (run.run_dir / name).is_file()}
            result = None if told.result is None else Path(told.result).name
            return replace(told, run=None, result=result, files=files)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove what this worker alone could read."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _compute(self, photo: Path, config: RunConfig, console: Console) -> RunOutcome:
        return pipeline.run.run(replace(config, photo=str(photo)), None, self.models, console)

    def _outcome(self, item: WorkItem, run: RunOutcome) -> ItemOutcome:
        rows = [result.row for result in results_of(item.name, run.manifest, run.run_dir, JobValues())]
        failures = [str(row["error"]) for row in rows if row["status"] != "done"]
        result = _finished_photo(run)
        return ItemOutcome(
            item.without_content(),
            FAILED if failures else DONE,
            rows=tuple(rows),
            run=str(run.run_dir),
            result=None if result is None else str(result),
            error=" ".join(failures) or None,
            pictures=_pictures(run.run_dir / PAIR),
        )

    def _failure(self, item: WorkItem, error: Exception) -> ItemOutcome:
        plain = item.without_content()
        text = traceback.format_exc() if self.job.debug else None
        facts: dict[str, Any] = {"error": sentence(error), "kind": type(error).__name__, "traceback": text}
        facts["stage"] = stage_of(error) or "read"
        if isinstance(error, RunInUseError):
            return ItemOutcome(plain, AGAIN, **facts)
        if isinstance(error, OutputError):
            return ItemOutcome(plain, STOP, **facts)
        if item.content is None and not _is_as_hashed(item):
            return changed(item)
        row = failed_result(item.name, item.sha256, str(facts["error"]), JobValues()).row
        return ItemOutcome(plain, FAILED, rows=(row,), pictures=_photo_picture(item), **facts)


def _is_as_hashed(item: WorkItem) -> bool:
    """Whether the photo still has the size and time that it had when it was hashed."""
    try:
        found = os.stat(item.photo)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (item.size, item.mtime_ns)


def _prune(run: RunOutcome) -> None:
    """Leave of a finished run its results, and what other recipes have in its folder."""
    manifest, result = run.manifest, _finished_photo(run)
    products = {*manifest.get("products", {}), REPORT}
    kept = {*KEPT_RESULTS, *(name for name in products if name.startswith("latent") and name.endswith(LATENT))}
    kept |= set(manifest.get("results", [])) if result is None else {result.name, f"{result.name}{RECIPE_SUFFIX}"}
    outputs = [manifest.get("keys", {}), *(face["keys"] for face in manifest.get("faces", []))]
    prune_run(run.run_dir, [(stage, key) for keys in outputs for stage, key in keys.items()], sorted(products - kept))


def _finished_photo(run: RunOutcome) -> Path | None:
    """The finished photo in a run folder that has its recipe beside it; None of a run that ends before blend."""
    names = [name for name in run.manifest.get("products", {}) if f"{name}{RECIPE_SUFFIX}" in run.manifest["products"]]
    return run.run_dir / names[0] if names else None


def _pictures(pair: Path) -> Mapping[str, bytes]:
    """Small JPEGs of a run's picture before and after; none where it has no such pair."""
    try:
        pixels, icc = read_picture(pair.read_bytes())
    except OSError:
        return {}
    halves = zip(("before", "after"), split_pair(pixels), strict=True)
    return {name: jpeg_bytes(preview(half, THUMBNAIL_PX), icc, quality=80) for name, half in halves}


def _photo_picture(item: WorkItem) -> Mapping[str, bytes]:
    """A small JPEG of a photo that failed, where it can be read at all."""
    with contextlib.suppress(Exception):
        photo = read_photo(item.photo)
        return {"before": jpeg_bytes(preview(photo.to_u8(), THUMBNAIL_PX), photo.icc, quality=80)}
    return {}
