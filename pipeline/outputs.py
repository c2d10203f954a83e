"""What each stage hands on, and how it is stored in and read from the stage's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.alignment import Alignment, Crop
from data.photo import Photo, PhotoFormat, encode_photo, suffix_for
from data.provenance import Signing, sign_photo
from editing.drag import Edited
from inversion.generators.protocol import Generator
from inversion.generators.weights import expand, named_factors, shapes_of
from inversion.losses import Counting
from inversion.pivotal import Tuned
from inversion.projector import Inversion
from pipeline.artifacts import StageWriter, read_json, read_tensors
from pipeline.engine import StageSpec
from pipeline.frames import FRAMES
from pipeline.pictures import enlarged, image_u8, mask_u8, png_bytes, preview, side_by_side
from pipeline.video import drag_frames, write_video

FACTS = "facts.json"
TENSORS = "tensors.safetensors"
METRICS = "metrics.json"
PAIR = "before_after.png"
VIDEO = "edit.mp4"
BETWEEN = "between.mp4"
RECONSTRUCTION = "reconstruction.png"
COUNTED = "counted.png"
EDITED = "edited.png"
MASK = "mask.png"
SAMPLE_PICTURE = "sample.png"
FACTOR, WHOLE_DELTA = "factor/", "delta/"  # a tuning is stored as factors; runs before 0.4 hold whole deltas
DRAG_MASK = "drag_mask.png"


@dataclass(frozen=True, eq=False, slots=True)
class Aligned:
    """The crops of a photo, one for each face that the run works on, largest face first."""

    crops: list[Crop]


@dataclass(frozen=True, eq=False, slots=True)
class Inverted:
    """An inversion of `target` [1, 3, R, R] and how near it came: `psnr_invert_db`, `face_distance_invert`.

    counting: where the target counted and how much; a mask of None, as of older files, means wherever it is drawn.
    rest_stays: whether what did not count is something before the face, which an edit must leave as it is in the photo.
    frames: those of `FrameKeeper.tensors`; read back from its folder it has none.
    """

    inversion: Inversion
    target: Tensor
    measured: Mapping[str, float]
    counting: Counting
    rest_stays: bool = False
    frames: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """A tuned generator's difference and how near it came: `psnr_tuned_db`, `face_distance_tuned`; frames as above.

    between: of a tuning that several faces share, the video of the way between them; read back it is in its folder.
    """

    tuned: Tuned
    target: Tensor
    measured: Mapping[str, float]
    frames: Mapping[str, Tensor] | None = None
    between: bytes | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """Figures of a face's reconstructions by name, None where a figure could not be had though it was asked for.

    shared_with_loss: the beginnings of the names of those whose network the loss used too.
    """

    measured: Mapping[str, float | None]
    shared_with_loss: list[str]


@dataclass(frozen=True, eq=False, slots=True)
class Sampled:
    """A generated picture as the start of a drag: w [1, L, D], image [1, 3, R, R] about [-1, 1]."""

    w: Tensor
    image: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Dragged:
    """A finished drag.

    start [1, 3, R, R] is the picture before it; targets [N, 2] float64 crop pixels, N = 0 for a direction; mask [H, W]
    float32 in [0, 1], 1 where the photo may change, or None; frame_every: steps between frames; fps: frames a second of
    its video. Of several edits in a row the last is `edited`; `told` tells of all, and `before` is the film of those
    before the last. Read back from its folder it has no frames.
    """

    edited: Edited
    start: Tensor
    targets: np.ndarray
    mask: np.ndarray | None
    frame_every: int
    fps: int
    told: tuple[dict[str, Any], ...] = ()
    before: Sequence[np.ndarray] = ()

    def film(self) -> list[np.ndarray]:
        """The frames of its video: pictures of at least 256 px with the points drawn in."""
        if not self.edited.frames:
            return []
        handles = self.edited.tracks.numpy()[frame_steps(self.edited, self.frame_every)]
        return [*self.before, *drag_frames(self.edited.frames, handles, self.targets)]

    @property
    def measured(self) -> dict[str, float]:
        """Mean distance of the handles to their targets before and after the drag, in crop pixels; nothing without."""
        metrics = self.edited.metrics
        if not len(self.targets):
            return {}
        return {
            "drag_distance_before_px": metrics["distance_before_px"],
            "drag_distance_after_px": metrics["distance_after_px"],
        }


@dataclass(frozen=True, eq=False, slots=True)
class Blended:
    """The edited photo and the mask [H, W] float32 in [0, 1] of where it may differ from the input.

    original: preview [h, w, 3] uint8 of the input. changed_fraction: part of the pixels that did change. format,
    quality: how the result is encoded (None: as the input). signing: what the finished file is signed with, if at all.
    """

    photo: Photo
    original: np.ndarray
    mask: np.ndarray
    changed_fraction: float
    format: PhotoFormat | None
    quality: int
    signing: Signing | None = None


@dataclass(frozen=True, slots=True)
class BlendFacts:
    """A stored blend: the name of the result's file in the stage's folder, and the part of the pixels that changed.

    reencoded: why a JPEG was compressed anew instead of keeping the blocks that did not change, half a sentence.
    """

    result: str
    changed_fraction: float
    reencoded: str | None


def crop_u8(crop: Crop) -> np.ndarray:
    """A crop's picture as [R, R, 3] uint8 RGB."""
    return image_u8(torch.from_numpy(crop.image))


def _save_aligned(writer: StageWriter, aligned: Aligned) -> None:
    tensors = {}
    for number, crop in enumerate(aligned.crops):
        tensors[f"image{number}"] = torch.from_numpy(crop.image)
        tensors[f"inside{number}"] = torch.from_numpy(crop.inside)
        writer.bytes(f"face{number}.png", png_bytes(crop_u8(crop)))
    writer.tensors(TENSORS, tensors)
    writer.json(FACTS, {"alignments": [_alignment_json(crop.alignment) for crop in aligned.crops]})


def _alignment_json(alignment: Alignment) -> dict[str, Any]:
    return {
        "matrix": alignment.matrix,
        "size": alignment.size,
        "landmarks": alignment.landmarks,
        "photo_shape": alignment.photo_shape,
        "face_index": alignment.face_index,
    }


def _load_aligned(folder: Path) -> Aligned:
    tensors = read_tensors(folder / TENSORS)
    alignments = read_json(folder / FACTS)["alignments"]
    crops = [
        Crop(tensors[f"image{i}"].numpy(), tensors[f"inside{i}"].numpy(), _read_alignment(facts))
        for i, facts in enumerate(alignments)
    ]
    return Aligned(crops)


def _read_alignment(facts: Mapping[str, Any]) -> Alignment:
    landmarks = facts["landmarks"]
    height, width = facts["photo_shape"]
    return Alignment(
        matrix=np.array(facts["matrix"], dtype=np.float64),
        size=int(facts["size"]),
        landmarks=None if landmarks is None else np.array(landmarks, dtype=np.float64),
        photo_shape=(int(height), int(width)),
        face_index=int(facts["face_index"]),
    )


def _align_facts(aligned: Aligned) -> dict[str, Any]:
    return {"faces": len(aligned.crops)}


def _save_inverted(writer: StageWriter, inverted: Inverted) -> None:
    inversion = inverted.inversion
    noise = {f"noise/{name}": value for name, value in inversion.noise.items()}
    mask, focus = inverted.counting.mask, inverted.counting.focus
    mask = None if mask is None or bool((mask == 1).all()) else mask
    parts = {name: part for name, part in (("mask", mask), ("focus", focus)) if part is not None}
    writer.tensors(TENSORS, {"w": inversion.w, "image": inversion.image, "target": inverted.target, **noise, **parts})
    _save_reconstruction(writer, inverted.target, inversion.image)
    if mask is not None:
        writer.bytes(COUNTED, png_bytes(np.rint(mask[0, 0].cpu().numpy() * 255).astype(np.uint8)))
    if inverted.frames is not None:
        writer.tensors(FRAMES, inverted.frames)
    facts = {**_course(inversion), "measured": inverted.measured}
    writer.json(FACTS, {**facts, "rest_stays": inverted.rest_stays})


def _save_reconstruction(writer: StageWriter, target: Tensor, image: Tensor) -> None:
    before, after = image_u8(target), image_u8(image)
    writer.bytes(RECONSTRUCTION, png_bytes(after))
    writer.bytes(PAIR, png_bytes(side_by_side(enlarged(before), enlarged(after))))


def _course(outcome: Inversion | Tuned | Edited) -> dict[str, Any]:
    """How an optimisation went, as JSON."""
    facts = {"stop_reason": outcome.stop_reason, "steps": outcome.steps, "metrics": outcome.metrics}
    return facts if isinstance(outcome, Edited) else {**facts, "history": outcome.history}


def _load_inverted(folder: Path) -> Inverted:
    tensors, facts = read_tensors(folder / TENSORS), read_json(folder / FACTS)
    inversion = Inversion(
        w=tensors["w"],
        noise=_below(tensors, "noise/"),
        image=tensors["image"],
        history=facts["history"],
        stop_reason=facts["stop_reason"],
        steps=facts["steps"],
        metrics=facts["metrics"],
    )
    counting = Counting(tensors.get("mask"), tensors.get("focus"))
    return Inverted(inversion, tensors["target"], facts["measured"], counting, facts.get("rest_stays", False))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _course_facts(stored: Inverted | Fitted | Dragged) -> dict[str, Any]:
    """What the manifest tells about an optimisation: why and when it stopped, what was measured."""
    match stored:
        case Inverted():
            outcome: Inversion | Tuned | Edited = stored.inversion
        case Fitted():
            outcome = stored.tuned
        case _:
            outcome = stored.edited
    return {
        "stop_reason": outcome.stop_reason,
        "steps": round(outcome.metrics.get("rounds", outcome.steps)),
        "metrics": outcome.metrics,
        "measured": stored.measured,
    }


def _save_fitted(writer: StageWriter, fitted: Fitted) -> None:
    tuned = fitted.tuned
    factors = {f"{FACTOR}{name}": value for name, value in tuned.factors.items()}
    writer.tensors(TENSORS, {"image": tuned.image, "target": fitted.target, **factors})
    _save_reconstruction(writer, fitted.target, tuned.image)
    if fitted.frames is not None:
        writer.tensors(FRAMES, fitted.frames)
    if fitted.between is not None:
        writer.bytes(BETWEEN, fitted.between)
    writer.json(FACTS, {**_course(tuned), "base_sha256": tuned.base_sha256, "measured": fitted.measured})


def stored_factors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change of the weights in a tuning's tensors, as factors."""
    return _below(tensors, FACTOR) or named_factors(_below(tensors, WHOLE_DELTA))


def _load_fitted(inversion: Inversion, shapes: Mapping[str, torch.Size], folder: Path) -> Fitted:
    tensors, facts = read_tensors(folder / TENSORS), read_json(folder / FACTS)
    factors = stored_factors(tensors)
    tuned = Tuned(
        inversion=inversion,
        factors=factors,
        delta=expand(factors, shapes),
        base_sha256=facts["base_sha256"],
        image=tensors["image"],
        history=facts["history"],
        stop_reason=facts["stop_reason"],
        steps=facts["steps"],
        metrics=facts["metrics"],
    )
    return Fitted(tuned, tensors["target"], facts["measured"])


def _save_measured(writer: StageWriter, measured: Measured) -> None:
    writer.json(METRICS, _measured_facts(measured))


def _load_measured(folder: Path) -> Measured:
    stored = read_json(folder / METRICS)
    return Measured(stored["measured"], stored["shared_with_loss"])


def _measured_facts(measured: Measured) -> dict[str, Any]:
    return {"measured": measured.measured, "shared_with_loss": measured.shared_with_loss}


def _save_sampled(writer: StageWriter, sampled: Sampled) -> None:
    writer.tensors(TENSORS, {"w": sampled.w, "image": sampled.image})
    writer.bytes(SAMPLE_PICTURE, png_bytes(image_u8(sampled.image)))


def _load_sampled(folder: Path) -> Sampled:
    tensors = read_tensors(folder / TENSORS)
    return Sampled(tensors["w"], tensors["image"])


def _no_facts(_: Sampled) -> dict[str, Any]:
    return {}


def _save_dragged(writer: StageWriter, dragged: Dragged) -> None:
    edited = dragged.edited
    tensors = {"w": edited.w, "image": edited.image, "tracks": edited.tracks, "start": dragged.start}
    writer.tensors(TENSORS, {**tensors, "targets": torch.from_numpy(dragged.targets)})
    before, after = image_u8(dragged.start), image_u8(edited.image)
    writer.bytes(EDITED, png_bytes(after))
    writer.bytes(PAIR, png_bytes(side_by_side(enlarged(before), enlarged(after))))
    if dragged.mask is not None:
        writer.bytes(DRAG_MASK, png_bytes(mask_u8(dragged.mask)))
    if edited.frames:
        codec = write_video(writer.path(VIDEO), dragged.film(), dragged.fps)
    facts = {**_course(edited), "frame_every": dragged.frame_every, "fps": dragged.fps, "told": list(dragged.told)}
    writer.json(FACTS, {**facts, "codec": codec if edited.frames else None})


def frame_steps(edited: Edited, frame_every: int) -> list[int]:
    """The step that each frame of a drag shows: every `frame_every`-th one, and at last the best."""
    steps = list(range(0, edited.steps + 1, frame_every))
    return [*steps, round(edited.metrics["best_step"])] if edited.steps else steps


def _load_dragged(folder: Path) -> Dragged:
    tensors, facts = read_tensors(folder / TENSORS), read_json(folder / FACTS)
    edited = Edited(
        w=tensors["w"],
        image=tensors["image"],
        tracks=tensors["tracks"],
        stop_reason=facts["stop_reason"],
        steps=facts["steps"],
        frames=[],
        metrics=facts["metrics"],
    )
    mask = _read_mask(folder / DRAG_MASK)
    start, targets, told = tensors["start"], tensors["targets"].numpy(), tuple(facts["told"])
    return Dragged(edited, start, targets, mask, facts["frame_every"], facts["fps"], told)


def _read_mask(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def _save_blended(writer: StageWriter, blended: Blended) -> None:
    photo = blended.photo
    result = f"result{suffix_for(blended.format or photo.format)}"
    reasons: list[str] = []
    data = encode_photo(photo, edited=True, format=blended.format, quality=blended.quality, on_reencoded=reasons.append)
    if blended.signing is not None and photo.path is not None:
        data = sign_photo(data, photo.path, blended.signing, title=result)
    writer.bytes(result, data)
    del data
    writer.bytes(MASK, png_bytes(mask_u8(blended.mask)))
    pair = side_by_side(preview(blended.original), preview(photo.to_u8()))
    writer.bytes(PAIR, png_bytes(pair, photo.icc))
    facts = {"result": result, "changed_fraction": blended.changed_fraction}
    writer.json(FACTS, {**facts, "reencoded": reasons[0] if reasons else None})


def _load_blend(folder: Path) -> BlendFacts:
    facts = read_json(folder / FACTS)
    return BlendFacts(facts["result"], facts["changed_fraction"], facts["reencoded"])


def _blend_facts(facts: BlendFacts) -> dict[str, Any]:
    return {"changed_fraction": facts.changed_fraction, "reencoded": facts.reencoded}


ALIGN = StageSpec("align", 1, _save_aligned, _load_aligned, _align_facts)
INVERT = StageSpec("invert", 2, _save_inverted, _load_inverted, _course_facts)
MEASURE = StageSpec("measure", 1, _save_measured, _load_measured, _measured_facts)
SAMPLE = StageSpec("sample", 1, _save_sampled, _load_sampled, _no_facts)
EDIT = StageSpec("edit", 16, _save_dragged, _load_dragged, _course_facts)
BLEND = StageSpec("blend", 2, _save_blended, _load_blend, _blend_facts)


def tune_spec(inversion: Inversion, generator: Generator) -> StageSpec[Fitted, Fitted]:
    """How the tuning around `inversion` is stored: only what it adds to the inversion and the generator."""
    load = partial(_load_fitted, inversion, shapes_of(generator))
    return StageSpec("tune", 2, _save_fitted, load, _course_facts)
