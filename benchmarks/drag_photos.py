"""Presets on inverted and tuned photos: every one by our drag, some by DragGAN as published, kept and measured."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import aligned_crop, in_processes, load_tools
from benchmarks.courses import Keeper
from benchmarks.drag_moves import outside_change
from benchmarks.inversion import picked
from benchmarks.preset_sheet import NAMES
from data.alignment import Crop
from data.errors import NoFaceError
from data.faces import load_face
from data.files import write_atomically
from editing.points import Drag
from inversion.generators.protocol import Generator
from inversion.generators.weights import expand, shapes_of
from inversion.pivotal import apply_delta
from pipeline import stages
from pipeline.editability import LEAST_MOVE, NO_FRAMES, largest_move, preset_outcome
from pipeline.locating import faces_in_crop
from pipeline.pictures import image_u8, png_bytes
from pipeline.progress import Console
from pipeline.schema import EditConfig, compose

TUNING = ("invert.steps=150",)
"""Settings of the inversion: half the pivot's default steps, which the tuning makes up for."""
METHODS = {"published": "edit=draggan_published", "ours": "edit=drag"}
PUBLISHED_A_FACE = 2
"""Presets of a face that are also dragged as published, others with every face."""


@dataclass(frozen=True, slots=True)
class PhotoDrag:
    """One drag, measured. The mean distance to the targets before and after, in pixels of the crop, as its own tracker
    sees it; `moved`, the share of the asked moves that dlib sees, and dlib's face distance from before to after, None
    where not exactly one face is left; the mean change outside the hull of handles and targets; processor seconds."""

    before_px: float
    after_px: float
    moved: float | None
    identity: float | None
    outside: float
    seconds: float
    steps: int
    attempts: int
    reason: str


Found = dict[str, dict[str, PhotoDrag]]
"""Preset -> method -> what its drag did."""


@dataclass(frozen=True, eq=False, slots=True)
class TunedFace:
    """What is dragged: a tuned generator, its latent [1, L, D], noise and picture [1, 3, R, R], the photo's crop."""

    generator: Generator
    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    crop: Crop


def tuned_face(path: Path, keep: Path | None) -> TunedFace:
    """A validation face, inverted and tuned, or read from the folder `keep`."""
    generator = load_tools().generator.module
    result = Keeper(keep).course(path, TUNING, "tuned")
    tuned = apply_delta(generator, expand(result.factors, shapes_of(generator)))
    with torch.no_grad():
        image = tuned.synthesize(result.w, "const", result.noise)
    return TunedFace(tuned, result.w, result.noise, image, aligned_crop(load_face(path, generator.resolution)))


def drag_face(numbered: tuple[int, Path], keep: Path | None) -> Found:
    """The drags of one face. Nothing where dlib finds no face in the tuned picture; presets that ask for no move, as
    close_mouth of a closed mouth, are left out."""
    torch.set_num_threads(1)
    number, path = numbered
    face, found = tuned_face(path, keep), Found()
    try:
        first = faces_in_crop(image_u8(face.image))[0]
    except NoFaceError:
        return found
    also = {NAMES[(PUBLISHED_A_FACE * number + i) % len(NAMES)] for i in range(PUBLISHED_A_FACE)}
    for preset in NAMES:
        for method in METHODS if preset in also else ("ours",):
            words = (METHODS[method], f"edit.preset={preset}", f"edit.frame_every={NO_FRAMES}")
            edit = compose(words).edit
            asked = stages.make_drag(edit, face.crop, [])
            if largest_move(asked, face.crop, first) < LEAST_MOVE:
                continue
            found.setdefault(preset, {})[method] = kept_drag(path, face, edit, asked, method, keep)
    return found


def kept_drag(path: Path, face: TunedFace, edit: EditConfig, asked: Drag, method: str, keep: Path | None) -> PhotoDrag:
    """A drag, read where it was kept for the same handles, targets and settings, else made and kept with its picture;
    a change of the drag's own code is not seen."""
    key = hashlib.sha256(repr(edit).encode() + asked.handles.tobytes() + asked.targets.tobytes()).hexdigest()
    file = None if keep is None else keep / f"{path.stem}_{edit.preset}_{method}.json"
    if file is not None and file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        if told.pop("key") == key:
            return PhotoDrag(**told)
    done, image = one_drag(face, edit, asked)
    if file is not None:
        write_atomically(file.with_suffix(".png"), png_bytes(image_u8(image)))
        write_atomically(file, json.dumps(asdict(done) | {"key": key}).encode())
    return done


def one_drag(face: TunedFace, edit: EditConfig, asked: Drag) -> tuple[PhotoDrag, Tensor]:
    """One drag from the tuned picture: its measures and the edited picture [1, 3, R, R]."""
    started, preset = time.process_time(), str(edit.preset)
    edited = stages.edit(
        face.generator, face.w, face.noise, face.image, face.crop, asked, edit, Console(False), preset
    ).edited
    seconds, picture = time.process_time() - started, image_u8(face.image)
    seen = preset_outcome(preset, picture, faces_in_crop(picture)[0], image_u8(edited.image))
    hull = face.crop.alignment.to_crop(np.concatenate([asked.handles, asked.targets]))
    measures = edited.metrics
    done = PhotoDrag(
        before_px=measures["distance_before_px"],
        after_px=measures["distance_after_px"],
        moved=seen.moved,
        identity=seen.face_distance,
        outside=outside_change(face.image, edited.image, hull),
        seconds=seconds,
        steps=edited.steps,
        attempts=int(measures.get("attempts", 1)),
        reason=edited.stop_reason,
    )
    return done, edited.image


def photo_figures(faces: Path, count: int, workers: int, keep: Path | None) -> dict[str, float]:
    """How presets end on tuned photos, the first `count` validation faces in a fixed random order."""
    picks = list(enumerate(picked(faces, count)))
    return figures_of(
        [row for row in in_processes(partial(drag_face, keep=keep), picks, workers, "tuned photos") if row]
    )


def figures_of(found: Sequence[Found]) -> dict[str, float]:
    """Shares of stop reasons and means over all our drags, our shares that arrived preset by preset, and means of both
    methods over the drags that both made.

    `identity_a_move` is the mean face distance over the mean share of the moves: who moves nothing changes no face.
    """
    ours = [row["ours"] for drags in found for row in drags.values()]
    figures = {
        "tuned_presets_arrived": statistics.fmean(row.reason == "arrived" for row in ours),
        "tuned_oscillating_ours": statistics.fmean(row.reason == "oscillating" for row in ours),
        "tuned_drags_ours": float(len(ours)),
        "tuned_faces": float(len(found)),
    }
    for reason in sorted({row.reason for row in ours} - {"arrived", "oscillating"}):
        figures[f"tuned_{reason}_ours"] = statistics.fmean(row.reason == reason for row in ours)
    for preset in NAMES:
        rows = [drags[preset]["ours"] for drags in found if preset in drags]
        if rows:
            figures[f"arrived_{preset}_ours"] = statistics.fmean(row.reason == "arrived" for row in rows)
            figures |= {f"{name}_{preset}_ours": value for name, value in means(rows).items()}
    both = [row for drags in found for row in drags.values() if len(row) == len(METHODS)]
    for method in METHODS if both else ():
        figures |= {f"tuned_{name}_{method}": value for name, value in means([row[method] for row in both]).items()}
        shown = figures[f"tuned_moved_{method}"]
        figures[f"tuned_identity_a_move_{method}"] = figures[f"tuned_identity_{method}"] / max(shown, 1e-3)
        figures[f"tuned_faces_lost_{method}"] = statistics.fmean(row[method].moved is None for row in both)
    return figures | {"tuned_drags_by_both": float(len(both))}


def means(rows: Sequence[PhotoDrag]) -> dict[str, float]:
    """Means of measures over drags; a lost face moved nothing and has no identity, which are left out."""
    identities = [row.identity for row in rows if row.identity is not None]
    return {
        "moved": statistics.fmean(row.moved or 0.0 for row in rows),
        "identity": statistics.fmean(identities) if identities else float("nan"),
        "outside": statistics.fmean(row.outside for row in rows),
        "seconds": statistics.fmean(row.seconds for row in rows),
    }


def by_preset(found: Sequence[Mapping[str, Mapping[str, PhotoDrag]]]) -> str:
    """A table of our drags, one line for each preset."""
    lines = [
        "| preset | faces | arrived | moved | face distance | seconds | reasons |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset in NAMES:
        rows = [drags[preset]["ours"] for drags in found if preset in drags]
        if not rows:
            continue
        values = means(rows)
        arrived = statistics.fmean(row.reason == "arrived" for row in rows)
        others = ", ".join(sorted(row.reason for row in rows if row.reason != "arrived"))
        cells = (
            f"{arrived:.2f}",
            *(f"{values[name]:.2f}" for name in ("moved", "identity")),
            f"{values['seconds']:.1f}",
        )
        lines.append(f"| {preset} | {len(rows)} | {' | '.join(cells)} | {others} |")
    return "\n".join(lines)
