"""Our inversion against published pivotal tuning: quality over time on validation faces, editability, cost of a step.

    python benchmarks/inversion.py --faces FOLDER [--count 100] [--quick] [--json FILE] [--pictures FOLDER]
        [--keep FOLDER [--finished]] [--workers N] [--ablation [--drags]] [--no-costs]

For each face, PTI as published (`+experiment=pti_published`) and ours (`invert.steps=150`) run in one process, their
order changing from face to face. Every few steps the clock stops and the best state so far is rendered: PSNR, and the
distance of the perceptual network's features. Times are processor seconds of one thread. --keep makes a long run
continue where it ended; --ablation measures each of our ideas taken away, on --count faces (--drags: editability too).
The cost of a step is measured on random-weight StyleGAN2 at 256 and 1024 px (`step_costs.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import numpy as np
import torch

from benchmarks import step_costs
from benchmarks.common import in_processes, tell
from benchmarks.courses import PRESETS, Outcome, at_time, kept_course, time_to
from benchmarks.inversion_pictures import draw_curves, draw_faces
from data.faces import list_faces
from pipeline.editability import MOVED_ENOUGH

ORDER = (
    "time_ratio_to_pti_quality",
    "psnr_gain_equal_time_db",
    "face_distance_ratio_equal_time",
    "editability_ours",
    "editability_pti",
    "step_time_ratio_1024",
    "step_memory_ratio_1024",
    "delta_mb_1024",
    "projector_overhead_ratio",
)
SHOWN = 10  # faces in the picture, spread over those that were measured
METHODS: dict[str, tuple[str, ...]] = {"pti": ("+experiment=pti_published",), "ours": ("invert.steps=150",)}
ABLATIONS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "full weights, lr 1e-3": ("tune.rank=0",),
    "full weights, lr 3e-3": ("tune.rank=0", "tune.lr=0.003"),
    "rank 8": ("tune.rank=8",),
    "rank 32": ("tune.rank=32",),
    "constant step size": ("tune.lr_rampup=0", "tune.lr_rampdown=0"),
    "start: linear": ("invert.start=auto",),
    "start: mean latent": ("invert.start=mean",),
    "pivot of 150 steps": ("invert.steps=150",),
    "pivot: no coarse part": ("invert.coarse_until=0",),
    "pivot in W": ("invert.space=w",),
    "P_N weight 0": ("invert.weights.p_norm=0",),
    "P_N weight 0.005": ("invert.weights.p_norm=0.005",),
    "P_N weight 0.05": ("invert.weights.p_norm=0.05",),
    "locality 0.1": ("tune.locality_weight=0.1",),
    "eyes and mouth count three times": ("invert.focus=3",),
    "delta 0.02": ("invert.weights.delta=0.02",),
    "no squared error": ("invert.weights.pixel=0", "tune.weights.pixel=0"),
    "no colours of areas": ("invert.weights.color=0", "tune.weights.color=0"),
    "windows (compare_px 64)": ("invert.compare_px=64", "tune.compare_px=64"),
}

Face = dict[str, Outcome]


def run_face(numbered: tuple[int, Path], keep: Path | None) -> tuple[Face, dict[str, np.ndarray]]:
    """Both methods on one face, one after the other: outcomes and pictures."""
    number, path = numbered
    names = list(METHODS) if number % 2 else list(reversed(METHODS))
    found = {name: kept_course(path, METHODS[name], keep, name) for name in names}
    return {name: found[name][0] for name in METHODS}, {name: found[name][1] for name in METHODS}


def run_variant(path: Path, name: str, keep: Path | None, drags: bool) -> Outcome:
    """One of the ablations on one face."""
    return kept_course(path, ABLATIONS[name], keep, f"ablation {name}", PRESETS if drags else ())[0]


def figures_of(faces: Sequence[Face]) -> dict[str, float]:
    """Medians over the faces of what the methods reached, and when; editability is the share of all drags."""
    ratios, gains, distances = [], [], []
    for face in faces:
        end, ours = face["pti"].points[-1], face["ours"].points
        ratios.append(time_to(ours, end.psnr_db, end.feature_distance) / end.seconds)
        then = at_time(ours, end.seconds)
        gains.append(then.psnr_db - end.psnr_db)
        distances.append(then.feature_distance / end.feature_distance)
    found = {
        "time_ratio_to_pti_quality": statistics.median(ratios),
        "time_ratio_to_pti_quality_worst": max(ratios),
        "psnr_gain_equal_time_db": statistics.median(gains),
        "psnr_gain_equal_time_least_db": min(gains),
        "face_distance_ratio_equal_time": statistics.median(distances),
        "faces": float(len(faces)),
    }
    for method in METHODS:
        found |= {f"{key}_{method}": value for key, value in summary([face[method] for face in faces]).items()}
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Medians of one method's ends; means of its drags."""
    ends = [outcome.points[-1] for outcome in outcomes]
    moved = [value for outcome in outcomes for value in outcome.moved.values()]
    changed = [value for outcome in outcomes for value in outcome.edit_face_distance.values() if value is not None]
    return {
        "seconds": statistics.median(point.seconds for point in ends),
        "pivot_seconds": statistics.median(outcome.pivot_seconds for outcome in outcomes),
        "pivot_psnr_db": statistics.median(outcome.pivot_psnr_db for outcome in outcomes),
        "psnr_db": statistics.median(point.psnr_db for point in ends),
        "feature_distance": statistics.median(point.feature_distance for point in ends),
        "face_distance": statistics.median(outcome.face_distance for outcome in outcomes),
    } | ({} if not moved else drag_summary(moved, changed))


def drag_summary(moved: Sequence[float | None], changed: Sequence[float]) -> dict[str, float]:
    """The share of drags that got far enough, the mean share of the way, and dlib's face distance before to after."""
    return {
        "editability": statistics.fmean(value is not None and value >= MOVED_ENOUGH for value in moved),
        "editability_moved": statistics.fmean(min(1.0, max(0.0, value or 0.0)) for value in moved),
        "edit_face_distance": statistics.fmean(changed) if changed else float("nan"),
    }


def print_ablation(rows: Mapping[str, Sequence[Outcome]]) -> None:
    """A table, one line for each variant."""
    names = list(summary(next(iter(rows.values()))))
    print(f"| variant | {' | '.join(names)} |")
    print("|---|" + "---|" * len(names))
    for name, outcomes in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.3g}' for value in summary(outcomes).values())} |")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder of aligned faces with a MANIFEST.csv")
    parser.add_argument("--count", type=int, default=100, help="validation faces, spread over the split")
    parser.add_argument("--quick", action="store_true", help="two faces, one round of step costs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--pictures", type=Path, help="folder for curves.png and faces.png")
    parser.add_argument("--keep", type=Path, help="folder of finished faces, from which a broken run continues")
    parser.add_argument("--finished", action="store_true", help="only faces that --keep already holds")
    parser.add_argument("--workers", type=int, default=1, help="faces at once, each on one thread")
    parser.add_argument("--ablation", action="store_true", help="measure variants of ours instead of PTI")
    parser.add_argument("--drags", action="store_true", help="with --ablation: drag every result by presets too")
    parser.add_argument("--no-costs", action="store_true", help="leave out the cost of a step")
    options = parser.parse_args()
    paths = list_faces(options.faces, "val")
    count = min(2 if options.quick else options.count, len(paths))
    picks = [paths[index * len(paths) // count] for index in range(count)]
    if options.finished and options.keep is None:
        parser.error("--finished needs --keep FOLDER")
    if options.ablation:
        rows = {
            name: in_processes(
                partial(run_variant, name=name, keep=options.keep, drags=options.drags), picks, options.workers, name
            )
            for name in ABLATIONS
        }
        print_ablation(rows)
        return
    if options.finished:
        picks = [
            path for path in picks if all((options.keep / f"{path.stem}_{name}.npz").is_file() for name in METHODS)
        ]
    work = partial(run_face, keep=options.keep)
    found = in_processes(work, list(enumerate(picks)), options.workers, "faces")
    faces = [outcomes for outcomes, _ in found]
    figures = figures_of(faces) | ({} if options.no_costs else step_costs.figures(options.quick))
    if options.pictures is not None:
        draw_curves(options.pictures / "inversion_curves.png", faces)
        shown = sorted({index * len(picks) // SHOWN for index in range(SHOWN)})
        draw_faces(options.pictures / "inversion_faces.png", [picks[i] for i in shown], [found[i][1] for i in shown])
    tell(figures, options.json, [key for key in ORDER if key in figures])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
