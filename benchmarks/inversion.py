"""Our inversion against published pivotal tuning: quality over time on validation faces, editability, cost of a step.

    python benchmarks/inversion.py --faces FOLDER [--count 100] [--quick] [--json FILE] [--pictures FOLDER]
        [--drags N] [--keep FOLDER [--finished]] [--workers N] [--ablation] [--no-costs]

For each face, PTI as published (`+experiment=pti_published`) and ours (`invert.steps=150`) run in one process, their
order changing from face to face. Every few steps the clock stops and the best state so far is rendered: PSNR, and the
distance of the perceptual network's features. Times are processor seconds of one thread. Then the results of the first
--drags faces are dragged by presets. --keep makes a long run continue where it ended, and --finished takes only what it
already holds; --ablation measures each of our ideas taken away. Faces are taken in a fixed random order, so that any
first part of them is a fair sample. The cost of a step is measured on random-weight StyleGAN2 at 256 and 1024 px
(`step_costs.py`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch

from benchmarks import step_costs
from benchmarks.common import in_processes, tell
from benchmarks.courses import Drags, Keeper, Outcome, Result, at_time, time_to
from benchmarks.inversion_pictures import draw_curves, draw_faces
from data.faces import list_faces
from pipeline.editability import PresetOutcome

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
SHOWN = 10  # faces in the picture
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

SHUFFLE_SEED = 0
Numbered = tuple[int, Path]


def run_face(numbered: Numbered, keeper: Keeper) -> dict[str, Result]:
    """Both methods on one face, one after the other."""
    number, path = numbered
    names = list(METHODS) if number % 2 else list(reversed(METHODS))
    found = {name: keeper.course(path, METHODS[name], name) for name in names}
    return {name: found[name] for name in METHODS}


def drag_face(numbered: Numbered, keeper: Keeper) -> dict[str, Drags]:
    """The drags of both results of one face."""
    results = run_face(numbered, keeper)
    return {name: keeper.drags(numbered[1], results[name], name) for name in METHODS}


def run_variant(path: Path, name: str, keeper: Keeper, drags: bool) -> tuple[Outcome, Drags]:
    """One of the ablations on one face."""
    kept_as = "ablation " + "".join(c if c.isalnum() else "_" for c in name)
    result = keeper.course(path, ABLATIONS[name], kept_as)
    return result.outcome, keeper.drags(path, result, kept_as) if drags else {}


def figures_of(faces: Sequence[Mapping[str, Outcome]], drags: Sequence[Mapping[str, Drags]]) -> dict[str, float]:
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
        "faces_dragged": float(len(drags)),
    }
    for method in METHODS:
        of_method = summary([face[method] for face in faces]) | drag_summary([row[method] for row in drags])
        found |= {f"{key}_{method}": value for key, value in of_method.items()}
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Medians of one method's ends."""
    ends = [outcome.points[-1] for outcome in outcomes]
    return {
        "seconds": statistics.median(point.seconds for point in ends),
        "pivot_seconds": statistics.median(outcome.pivot_seconds for outcome in outcomes),
        "pivot_psnr_db": statistics.median(outcome.pivot_psnr_db for outcome in outcomes),
        "psnr_db": statistics.median(point.psnr_db for point in ends),
        "feature_distance": statistics.median(point.feature_distance for point in ends),
        "face_distance": statistics.median(outcome.face_distance for outcome in outcomes),
    }


def drag_summary(faces: Sequence[Drags]) -> dict[str, float]:
    """The share of drags that got far enough, the mean share of the way, and dlib's face distance before to after."""
    rows: list[PresetOutcome] = [row for drags in faces for row in drags.values()]
    if not rows:
        return {}
    changed = [row.face_distance for row in rows if row.face_distance is not None]
    return {
        "drags": float(len(rows)),
        "editability": statistics.fmean(row.succeeded for row in rows),
        "editability_moved": statistics.fmean(min(1.0, max(0.0, row.moved or 0.0)) for row in rows),
        "edit_face_distance": statistics.fmean(changed) if changed else float("nan"),
    }


def print_ablation(rows: Mapping[str, Sequence[tuple[Outcome, Drags]]]) -> None:
    """A table, one line for each variant."""
    columns: list[str] = []
    for name, found in rows.items():
        values = summary([outcome for outcome, _ in found]) | drag_summary([drags for _, drags in found])
        if not columns:
            columns = list(values)
            print(f"| variant | {' | '.join(columns)} |")
            print("|---|" + "---|" * len(columns))
        print(f"| {name} | {' | '.join(f'{values[column]:.4g}' for column in columns)} |")


def picked(faces: Path, count: int) -> list[Path]:
    """The first `count` validation faces in a fixed random order."""
    paths = list_faces(faces, "val")
    random.Random(SHUFFLE_SEED).shuffle(paths)
    return paths[:count]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder of aligned faces with a MANIFEST.csv")
    parser.add_argument("--count", type=int, default=100, help="validation faces")
    parser.add_argument("--drags", type=int, help="faces whose results are dragged (all; none with --ablation)")
    parser.add_argument("--quick", action="store_true", help="two faces, one round of step costs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--pictures", type=Path, help="folder for curves.png and faces.png")
    parser.add_argument("--keep", type=Path, help="folder of finished faces, from which a broken run continues")
    parser.add_argument("--finished", action="store_true", help="only what --keep already holds")
    parser.add_argument("--workers", type=int, default=1, help="faces at once, each on one thread")
    parser.add_argument("--ablation", action="store_true", help="measure variants of ours instead of PTI")
    parser.add_argument("--no-costs", action="store_true", help="leave out the cost of a step")
    options = parser.parse_args()
    if options.finished and options.keep is None:
        parser.error("--finished needs --keep FOLDER")
    picks, keeper = picked(options.faces, 2 if options.quick else options.count), Keeper(options.keep)
    if options.ablation:
        ablate(picks, keeper, options.workers, options.drags or 0)
        return
    numbered = list(enumerate(picks))
    dragged = numbered if options.drags is None else numbered[: options.drags]
    if options.finished:
        numbered = [pick for pick in numbered if keeper.holds(pick[1], METHODS, ".npz")]
        dragged = [pick for pick in numbered if keeper.holds(pick[1], METHODS, "_drags.json")]
    found = in_processes(partial(run_face, keeper=keeper), numbered, options.workers, "faces")
    drags = in_processes(partial(drag_face, keeper=keeper), dragged, options.workers, "drags")
    faces = [{name: result.outcome for name, result in results.items()} for results in found]
    figures = figures_of(faces, drags) | ({} if options.no_costs else step_costs.figures(options.quick))
    if options.pictures is not None:
        draw_curves(options.pictures / "inversion_curves.png", faces)
        pictures = [{name: result.picture for name, result in results.items()} for results in found[:SHOWN]]
        draw_faces(options.pictures / "inversion_faces.png", [path for _, path in numbered[:SHOWN]], pictures)
    tell(figures, options.json, [key for key in ORDER if key in figures])


def ablate(picks: Sequence[Path], keeper: Keeper, workers: int, drags: int) -> None:
    """Measure every variant on the faces, and print their table."""
    rows = {}
    for name in ABLATIONS:
        dragged = [partial(run_variant, path, name, keeper, index < drags) for index, path in enumerate(picks)]
        rows[name] = in_processes(_called, dragged, workers, name)
    print_ablation(rows)


def _called(work: partial[tuple[Outcome, Drags]]) -> tuple[Outcome, Drags]:
    return work()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
