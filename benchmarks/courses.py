"""One method on one face: quality over processor time, and how well the result can be dragged."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Tools, aligned_crop, load_tools
from data.faces import load_face
from inversion.generators.weights import expand, shapes_of, with_weights
from inversion.losses import Targets, psnr_db
from inversion.metrics import perceptual_distance
from inversion.optimisation import StepInfo
from inversion.pivotal import apply_delta, tune
from inversion.projector import project
from pipeline.editability import try_presets
from pipeline.optimiser_settings import projector_settings, tune_settings
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.schema import compose
from pipeline.stages import likeness

EVERY = 10
PRESETS = ("smile", "open_mouth", "turn_left", "raise_brows")


@dataclass(frozen=True, slots=True)
class Point:
    """Quality after some seconds of optimising."""

    seconds: float
    psnr_db: float
    feature_distance: float


@dataclass(slots=True)
class Course:
    """A clock of processor seconds that stands still while quality is measured, and what was measured."""

    target: Tensor
    tools: Tools
    points: list[Point] = field(default_factory=list)
    spent: float = 0.0
    running_since: float = 0.0

    def start(self) -> None:
        """Let the clock run."""
        self.running_since = time.process_time()

    def stop(self) -> None:
        """Let the clock stand."""
        self.spent += time.process_time() - self.running_since

    def measure(self, image: Tensor) -> None:
        """Add a point of a picture; the clock stands."""
        distance = perceptual_distance(self.tools.perceptual, image, self.target)
        self.points.append(Point(self.spent, psnr_db(image, self.target), distance))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method on one face: its course, dlib's face distance, and what presets moved and changed (`try_presets`)."""

    points: list[Point]
    pivot_seconds: float
    pivot_psnr_db: float
    face_distance: float
    moved: dict[str, float | None]
    edit_face_distance: dict[str, float | None]


def run_course(path: Path, words: Sequence[str], presets: Sequence[str] = PRESETS) -> tuple[Outcome, np.ndarray]:
    """Invert, tune and drag one face with the settings `words`: the outcome, and the tuned picture [R, R, 3] uint8."""
    torch.set_num_threads(1)  # the clock counts the processor's seconds of this thread's work
    tools, config = load_tools(), compose(["edit=smile", *words])
    generator = tools.generator.module
    crop = aligned_crop(load_face(path, generator.resolution))
    course = Course(torch.from_numpy(crop.image), tools)
    targets = Targets(course.target, tools.perceptual)

    def watch_pivot(info: StepInfo) -> None:
        if info.step % EVERY:
            return
        course.stop()
        state = info.state()
        w = state.get("best/tensor/w", state["variable/w"]).expand(1, generator.num_ws, -1)
        with torch.no_grad():
            course.measure(generator.synthesize(w, "const"))
        course.start()

    def watch_tuning(info: StepInfo) -> None:
        if info.step % EVERY:
            return
        course.stop()
        prefix, state = "best/tensor/", info.state()
        best = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        base = generator.state_dict()
        weights = {name: base[name] + change for name, change in expand(best, shapes_of(generator)).items()}
        with torch.no_grad():
            course.measure(with_weights(generator, weights, lambda tuned: tuned.synthesize(inversion.w, "const")))
        course.start()

    rng = torch.Generator().manual_seed(config.seed)
    settings, stats = projector_settings(config.invert), tools.generator.stats
    course.start()
    inversion = project(generator, targets, settings, rng, on_step=watch_pivot, stats=stats)
    course.stop()
    course.measure(inversion.image)
    pivot = course.points[-1]
    rng = torch.Generator().manual_seed(config.seed)
    course.start()
    tuned = tune(generator, targets, inversion, tune_settings(config.tune), rng, on_step=watch_tuning)
    course.stop()
    course.measure(tuned.image)
    alike = likeness("tuned", tuned.image, course.target, torch.from_numpy(crop.inside), tools.network)
    dragged = try_presets(
        apply_delta(generator, tuned.delta), inversion.w, inversion.noise, tuned.image, crop, presets, Console(False)
    )
    outcome = Outcome(
        course.points,
        pivot.seconds,
        pivot.psnr_db,
        alike["face_distance_tuned"],
        {name: result.moved for name, result in dragged.items()},
        {name: result.face_distance for name, result in dragged.items()},
    )
    return outcome, image_u8(tuned.image)


def kept_course(
    path: Path, words: Sequence[str], folder: Path | None, name: str, presets: Sequence[str] = PRESETS
) -> tuple[Outcome, np.ndarray]:
    """The course, taken from `folder` when an earlier run with the same settings kept it there, and kept there."""
    file = None if folder is None else folder / f"{path.stem}_{name}.npz"
    wanted = json.dumps({"words": list(words), "presets": list(presets)})
    if file is not None and file.is_file():
        with np.load(file) as kept:
            if str(kept["settings"]) == wanted:
                return read_outcome(json.loads(str(kept["outcome"]))), kept["picture"]
    outcome, picture = run_course(path, words, presets)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, settings=wanted, outcome=json.dumps(asdict(outcome)), picture=picture)
    return outcome, picture


def read_outcome(values: Mapping[str, object]) -> Outcome:
    """An outcome from its JSON."""
    points = [Point(**point) for point in values["points"]]  # type: ignore[attr-defined]
    return Outcome(**{**values, "points": points})  # type: ignore[arg-type]


def time_to(points: Sequence[Point], psnr: float, distance: float) -> float:
    """Seconds after which a course was at least as good in both; infinite when it never was."""
    reached = [p.seconds for p in points if p.psnr_db >= psnr and p.feature_distance <= distance]
    return min(reached, default=float("inf"))


def at_time(points: Sequence[Point], seconds: float) -> Point:
    """The last point that was there by then (the first when none was)."""
    return max((p for p in points if p.seconds <= seconds), key=lambda p: p.seconds, default=points[0])
