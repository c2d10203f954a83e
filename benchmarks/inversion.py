"""Our inversion against published pivotal tuning: quality over time on validation faces, in one process, in turns.

    python benchmarks/inversion.py --faces FOLDER [--count 100] [--quick] [--json FILE] [--curves FILE.csv]

For each face, PTI as published (`+experiment=pti_published`) and our defaults run one after the other, the order
changing from face to face. Every EVERY steps the clock stops and the best state so far is rendered: PSNR, and the
distance of the perceptual network's features. Times are seconds of optimising alone.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import Tools, aligned_crop, load_tools, tell
from data.faces import list_faces, load_face
from inversion.losses import psnr_db
from inversion.metrics import perceptual_distance
from inversion.optimisation import StepInfo
from inversion.pivotal import tune
from inversion.projector import project
from pipeline.schema import RunConfig, compose
from pipeline.stages import projector_settings, tune_settings

ORDER = ("time_ratio_to_pti_quality", "psnr_gain_equal_time_db", "face_distance_ratio_equal_time")
EVERY = 10
METHODS = {"pti": ["edit=smile", "+experiment=pti_published"], "ours": ["edit=smile"]}


@dataclass(frozen=True, slots=True)
class Point:
    """Quality after some seconds of optimising."""

    seconds: float
    psnr_db: float
    feature_distance: float


@dataclass(slots=True)
class Course:
    """One method on one face: its clock, which stands still while quality is measured, and what was measured."""

    target: Tensor
    tools: Tools
    points: list[Point] = field(default_factory=list)
    spent: float = 0.0
    running_since: float = 0.0

    def start(self) -> None:
        """Let the clock run."""
        self.running_since = time.perf_counter()

    def stop(self) -> None:
        """Let the clock stand."""
        self.spent += time.perf_counter() - self.running_since

    def measure(self, image: Tensor) -> None:
        """Add a point of a picture; the clock stands."""
        distance = perceptual_distance(self.tools.perceptual, image, self.target)
        self.points.append(Point(self.spent, psnr_db(image, self.target), distance))


def run_course(path: Path, config: RunConfig, tools: Tools) -> list[Point]:
    """Invert and tune one face, with the quality on the way."""
    generator = tools.generator.module
    target = torch.from_numpy(aligned_crop(load_face(path, generator.resolution)).image)
    course = Course(target, tools)

    def watch_pivot(info: StepInfo) -> None:
        if info.step % EVERY:
            return
        course.stop()
        state = info.state()
        w = state.get("best/tensor/w", state["variable/w"]).expand(1, generator.num_ws, -1)
        with torch.no_grad():
            course.measure(generator.synthesize(w, "const"))
        course.start()

    course.start()
    inversion = project(
        generator,
        target,
        tools.perceptual,
        projector_settings(config.invert),
        torch.Generator().manual_seed(config.seed),
        on_step=watch_pivot,
        stats=tools.generator.stats,
    )
    course.stop()
    course.measure(inversion.image)

    def watch_tuning(info: StepInfo) -> None:
        if info.step % EVERY:
            return
        course.stop()
        state, base = info.state(), generator.state_dict()
        best = {n.removeprefix("best/tensor/"): v for n, v in state.items() if n.startswith("best/tensor/")}
        with torch.no_grad():
            image = torch.func.functional_call(
                _Render(generator), {f"inner.{n}": v for n, v in (base | best).items()}, (inversion.w,)
            )
            course.measure(image)
        course.start()

    rng = torch.Generator().manual_seed(config.seed)
    course.start()
    tuned = tune(generator, target, inversion, tools.perceptual, tune_settings(config.tune), rng, on_step=watch_tuning)
    course.stop()
    course.measure(tuned.image)
    return course.points


class _Render(torch.nn.Module):
    """`synthesize` as `forward`, so that it can be called with other weights."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, w: Tensor) -> Tensor:
        """The image of w."""
        image: Tensor = self.inner.synthesize(w, "const")  # type: ignore[operator]
        return image


def time_to(points: Sequence[Point], psnr: float, distance: float) -> float:
    """Seconds after which a course was at least as good in both; infinite when it never was."""
    reached = [p.seconds for p in points if p.psnr_db >= psnr and p.feature_distance <= distance]
    return min(reached, default=float("inf"))


def at_time(points: Sequence[Point], seconds: float) -> Point:
    """The last point that was there by then (the first when none was)."""
    return max((p for p in points if p.seconds <= seconds), key=lambda p: p.seconds, default=points[0])


def figures_of(courses: Sequence[dict[str, list[Point]]]) -> dict[str, float]:
    """Medians over the faces of what the two methods reached, and when."""
    ratios, gains, distances = [], [], []
    for face in courses:
        end = face["pti"][-1]
        ratios.append(time_to(face["ours"], end.psnr_db, end.feature_distance) / end.seconds)
        ours = at_time(face["ours"], end.seconds)
        gains.append(ours.psnr_db - end.psnr_db)
        distances.append(ours.feature_distance / end.feature_distance)
    found = {
        "time_ratio_to_pti_quality": statistics.median(ratios),
        "psnr_gain_equal_time_db": statistics.median(gains),
        "face_distance_ratio_equal_time": statistics.median(distances),
        "faces": float(len(courses)),
    }
    for method in METHODS:
        ends = [face[method][-1] for face in courses]
        found[f"{method}_seconds"] = statistics.median(p.seconds for p in ends)
        found[f"{method}_psnr_db"] = statistics.median(p.psnr_db for p in ends)
        found[f"{method}_feature_distance"] = statistics.median(p.feature_distance for p in ends)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="two faces")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--curves", type=Path, default=None)
    options = parser.parse_args()
    tools = load_tools()
    configs = {method: compose(words) for method, words in METHODS.items()}
    paths = list_faces(options.faces, "val")
    count = min(2 if options.quick else options.count, len(paths))
    courses: list[dict[str, list[Point]]] = []
    for index in tqdm(range(count), desc="faces"):
        methods = list(METHODS) if index % 2 else list(reversed(METHODS))
        courses.append({m: run_course(paths[index * len(paths) // count], configs[m], tools) for m in methods})
    if options.curves is not None:
        with options.curves.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["face", "method", "seconds", "psnr_db", "feature_distance"])
            for number, face in enumerate(courses):
                for method, points in face.items():
                    writer.writerows(
                        [number, method, round(p.seconds, 3), round(p.psnr_db, 3), round(p.feature_distance, 5)]
                        for p in points
                    )
    tell(figures_of(courses), options.json, ORDER)


if __name__ == "__main__":
    main()
