"""One method on one face: quality over processor time, and how well the result can be dragged."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Tools, aligned_crop, load_tools
from data.faces import load_face
from inversion.generators.weights import Factors, expand, shapes_of, with_weights
from inversion.losses import Targets, psnr_db
from inversion.metrics import perceptual_distance
from inversion.optimisation import StepInfo
from inversion.pivotal import apply_delta, tune
from inversion.projector import project
from pipeline.counting import counting_of
from pipeline.editability import PresetOutcome, try_presets
from pipeline.optimiser_settings import projector_settings, tune_settings
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.schema import compose
from pipeline.stages import likeness

MEASURED = 20  # times in the pivot's steps, and as often in the tuning's
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
    """One method on one face: its course, and dlib's face distance at its end."""

    points: list[Point]
    pivot_seconds: float
    pivot_psnr_db: float
    face_distance: float


Drags = dict[str, PresetOutcome]


@dataclass(frozen=True, eq=False, slots=True)
class Result:
    """What a course ends with: the pivot `w` [1, L, D], its noise, the tuned weights' change, and their picture
    [R, R, 3] uint8."""

    outcome: Outcome
    w: Tensor
    noise: dict[str, Tensor]
    factors: Factors
    picture: np.ndarray


def run_course(path: Path, words: Sequence[str]) -> Result:
    """Invert and tune one face with the settings `words`."""
    torch.set_num_threads(1)  # the clock counts the processor's seconds of this thread's work
    tools, config = load_tools(), compose(["edit=smile", *words])
    generator = tools.generator.module
    crop = aligned_crop(load_face(path, generator.resolution))
    course = Course(torch.from_numpy(crop.image), tools)
    stats, device = tools.generator.stats, course.target.device
    counting = counting_of(config.invert, crop, generator, stats, tools.perceptual, config.seed, device)
    targets = Targets(course.target, tools.perceptual, counting)

    def watch_pivot(info: StepInfo) -> None:
        if info.step % max(1, info.total // MEASURED):
            return
        course.stop()
        state = info.state()
        w = state.get("best/tensor/w", state["variable/w"]).expand(1, generator.num_ws, -1)
        with torch.no_grad():
            course.measure(generator.synthesize(w, "const"))
        course.start()

    def watch_tuning(info: StepInfo) -> None:
        if info.step % max(1, info.total // MEASURED):
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
    settings = projector_settings(config.invert)
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
    outcome = Outcome(course.points, pivot.seconds, pivot.psnr_db, alike["face_distance_tuned"])
    return Result(outcome, inversion.w, inversion.noise, tuned.factors, image_u8(tuned.image))


def drag_result(path: Path, result: Result) -> Drags:
    """Drag what a course ended with by each of PRESETS (`try_presets`)."""
    torch.set_num_threads(1)
    generator = load_tools().generator.module
    crop = aligned_crop(load_face(path, generator.resolution))
    tuned = apply_delta(generator, expand(result.factors, shapes_of(generator)))
    with torch.no_grad():
        image = tuned.synthesize(result.w, "const", result.noise)
    return try_presets(tuned, result.w, result.noise, image, crop, PRESETS, Console(False))


@dataclass(frozen=True, slots=True)
class Keeper:
    """A folder (or none) in which finished work waits for a run that was broken off to go on."""

    folder: Path | None

    def holds(self, path: Path, names: Iterable[str], ending: str) -> bool:
        """Whether that file of a face is there for every name."""
        return self.folder is not None and all((self.folder / f"{path.stem}_{n}{ending}").is_file() for n in names)

    def course(self, path: Path, words: Sequence[str], name: str) -> Result:
        """The course of one face: read where it was kept with the same settings, else run and kept."""
        file = None if self.folder is None else self.folder / f"{path.stem}_{name}.npz"
        if file is not None and file.is_file():
            with np.load(file) as kept:
                if str(kept["settings"]) == json.dumps(list(words)):
                    return _read_result(kept)
        result = run_course(path, words)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {"w": result.w}
            for prefix, group in (("noise/", result.noise), ("factor/", result.factors)):
                tensors |= {prefix + key: value for key, value in group.items()}
            arrays = {key: value.detach().numpy() for key, value in tensors.items()}
            outcome = json.dumps(asdict(result.outcome))
            with whole_file(file) as partial:
                np.savez(partial, settings=json.dumps(list(words)), outcome=outcome, picture=result.picture, **arrays)
        return result

    def drags(self, path: Path, result: Result, name: str) -> Drags:
        """The drags of a course's end, kept in the same way."""
        file = None if self.folder is None else self.folder / f"{path.stem}_{name}_drags.json"
        if file is not None and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            return {preset: PresetOutcome(**values) for preset, values in found.items()}
        drags = drag_result(path, result)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            written = json.dumps({preset: asdict(outcome) for preset, outcome in drags.items()})
            with whole_file(file) as partial:
                partial.write(written.encode())
        return drags


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under another name, and give it its own when it is complete."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as handle:
        yield handle
    partial.replace(path)


def _read_result(kept: Mapping[str, np.ndarray]) -> Result:
    values = json.loads(str(kept["outcome"]))
    outcome = Outcome(**{**values, "points": [Point(**point) for point in values["points"]]})

    def group(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: torch.from_numpy(kept[key]) for key in kept if key.startswith(prefix)}

    return Result(outcome, torch.from_numpy(kept["w"]), group("noise/"), group("factor/"), kept["picture"])


def time_to(points: Sequence[Point], psnr: float, distance: float) -> float:
    """Seconds after which a course was at least as good in both; infinite when it never was."""
    reached = [p.seconds for p in points if p.psnr_db >= psnr and p.feature_distance <= distance]
    return min(reached, default=float("inf"))


def at_time(points: Sequence[Point], seconds: float) -> Point:
    """The last point that was there by then (the first when none was)."""
    return max((p for p in points if p.seconds <= seconds), key=lambda p: p.seconds, default=points[0])
