"""Many photos, one after the other, with the networks read once: what each gave, and its table."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pipeline.run
from data.errors import OutputError
from data.files import file_sha256
from pipeline.company import fits_together, gather
from pipeline.delivery import Deliveries
from pipeline.errors import sentence
from pipeline.folders import check_photos, shown
from pipeline.models import Models, pick_device
from pipeline.progress import Console
from pipeline.run import RunOutcome, perceptual_line, perceptual_of
from pipeline.schema import JobInfo, RunConfig
from pipeline.table import FaceResult, JobValues, failed_result, results_of
from pipeline.together import Company

MAIN_MEASURES = ("psnr_tuned_db", "psnr_invert_db")
"""What the line of a finished photo shows: the first of these that it has."""


@dataclass(eq=False, slots=True)
class Batch:
    """Runs of several photos and jobs in one process; `results` grows by one entry for each photo's face.

    debug: print the traceback of what fails.
    """

    debug: bool = False
    models: Models = field(default_factory=Models)
    results: list[FaceResult] = field(default_factory=list)
    deliveries: Deliveries = field(default_factory=Deliveries)

    def run_photos(
        self, config: RunConfig, photos: Sequence[Path], job: JobInfo | None, values: JobValues
    ) -> list[FaceResult]:
        """Every photo with the same settings, a line for each; one that fails becomes a row and stops no other.

        Raises what would stop every photo: settings that cannot be used, a missing model (before the first photo), a
        full disk; KeyboardInterrupt passes through.
        """
        check_photos(config, photos)
        self.deliveries.inputs = self.deliveries.inputs.with_more(photos)
        console = Console(config.progress)
        console.say(perceptual_line(perceptual_of(config)))
        self.models.generator(config.generator, pick_device(config.device))
        company = gather(config, photos, self.models, console) if fits_together(config) else None
        found: list[FaceResult] = []
        for number, photo in enumerate(photos, start=1):
            started = time.monotonic()
            results = self._photo(replace(config, photo=str(photo)), photo, job, values, company)
            self.results += results
            found += results
            line = f"[{number}/{len(photos)}] {shown(photo.name)}: {_ending(results, time.monotonic() - started)}"
            (console.warn if any(result.failed for result in results) else console.say)(line)
        return found

    def _photo(
        self, config: RunConfig, photo: Path, job: JobInfo | None, values: JobValues, company: Company | None
    ) -> list[FaceResult]:
        try:
            console = Console(config.progress, quiet=True)
            outcome = pipeline.run.run(config, job, self.models, console, company, self.deliveries)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001  whatever went wrong with one photo, the others run
            if self.debug:
                traceback.print_exc()
            return [failed_result(photo.name, _sha256(photo), sentence(error), values)]
        return results_of(photo.name, outcome.manifest, outcome.run_dir, values)

    def run_one(self, config: RunConfig, job: JobInfo | None, values: JobValues) -> RunOutcome:
        """One run by itself, with all its lines; its error becomes a row, and is raised."""
        try:
            outcome = pipeline.run.run(config, job, self.models, None, None, self.deliveries)
        except Exception as error:
            sha256 = None if config.photo is None else _sha256(Path(config.photo))
            self.results.append(failed_result(_title(config, None), sha256, sentence(error), values))
            raise
        self.results += results_of(_title(config, outcome), outcome.manifest, outcome.run_dir, values)
        return outcome


def _title(config: RunConfig, outcome: RunOutcome | None) -> str:
    """What a row calls its picture: the photo's name, or for another run its own title."""
    if config.photo is not None:
        return Path(config.photo).name
    title = None if outcome is None else outcome.manifest.get("title")
    return str(title or config.from_run or f"Generated picture, seed {config.sample.seed}")


def _ending(results: Sequence[FaceResult], seconds: float) -> str:
    """What the line of one photo says: how it ended, how long it took, and how near it came."""
    errors = [str(result.row["error"]) for result in results if result.failed]
    if errors:
        return f"failed: {' '.join(errors)}"
    stages = results[0].manifest.get("stages", [])
    parts = ["reused" if stages and all(entry["reused"] for entry in stages) else "done", f"{seconds:.1f} s"]
    metrics = results[0].manifest.get("metrics", {})
    parts += [f"{name} {metrics[name]:.2f}" for name in MAIN_MEASURES if metrics.get(name) is not None][:1]
    saved = results[0].manifest.get("saved")
    return ", ".join([*parts, *([f"saved as {shown(saved)}"] if saved else [])])


def _sha256(photo: Path) -> str | None:
    with contextlib.suppress(OSError):
        return file_sha256(photo)
    return None
