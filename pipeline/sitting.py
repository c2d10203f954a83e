"""A prepared face at hand: its tuned generator and latent, the edits that are made on it, and how they look."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from data.alignment import Crop
from data.errors import ModelError, NoFaceError, UsageError
from data.landmarks import steady_landmarks
from data.photo import Photo
from editing.axes import latent_axes
from editing.blend import Change
from pipeline.artifacts import StageStore
from pipeline.blending import blend_settings, matches_of, quick_matches
from pipeline.edit_config import EditConfig
from pipeline.edit_console import EditConsole
from pipeline.edit_stage import Drawn, EditStage, drawn
from pipeline.edits import EditStep, Told, greatest_mask, plain_edit, told_of
from pipeline.engine import Engine, Stored
from pipeline.fitting import align_photo, invert_face, sampled_face, tune_face
from pipeline.locating import faces_in_crop
from pipeline.locks import run_lock
from pipeline.manifest import read_manifest
from pipeline.models import Models
from pipeline.outputs import EDIT, Dragged
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.run import open_setup, run_folder
from pipeline.schema import RunConfig
from pipeline.stages import Tools, pixels_of
from pipeline.view import LIVE_SIDE_PX, THUMB_PX, Part, Patch, mask_on_part, part_of, patch_of, region_view
from pipeline.work import FaceWork


def _no_tools() -> Tools:
    raise UsageError("The face is not prepared any more: open the photo again.")


class Sitting:
    """What a session computes with. Only one thread at a time may use it."""

    def __init__(self, config: RunConfig, run: Path, photo: Photo | None, models: Models) -> None:
        """config: the settings of edits and blending; run: the folder whose manifest tells the prepared face."""
        manifest = read_manifest(run)
        edit = plain_edit(config.edit)
        config = replace(config, photo=None, from_run=str(run), stages=["edit"], edit=edit, save=None)
        self.config, self.photo = config, photo
        self._setup = open_setup(config, manifest, None, models)
        self._engine = Engine(StageStore(run_folder(self._setup)), Console(False, True), ["edit"], True, lambda _: None)
        self._face = self._prepared()
        self._stage = EditStage(self._setup, self._engine, self._face, lambda: self.drawn)

    def _prepared(self) -> FaceWork:
        setup, engine = self._setup, self._engine
        if setup.sampled:
            return sampled_face(setup, engine)
        aligned = align_photo(setup, engine)
        face = FaceWork(0, aligned.value.crops[0], aligned=aligned)
        face.inverted = invert_face(setup, engine, face, _no_tools, "invert")
        face.fitted = tune_face(setup, engine, face, _no_tools, "tune")
        return face

    @cached_property
    def drawn(self) -> Drawn:
        """Generator, latent, noise and picture before the edits."""
        return drawn(self._setup, self._face)

    def warm(self) -> None:
        """Have at hand what the first step and the first live picture would wait for."""
        generator, w, _, start = self.drawn
        latent_axes(generator, w)
        if not self.generated:
            self.live_patch(start, [])

    @property
    def photo_sha256(self) -> str:
        """Of the photo, "" for a generated picture: what painted masks belong to."""
        return self._setup.photo_sha256

    @property
    def generated(self) -> bool:
        """Whether there is no photo."""
        return self._setup.sampled

    @property
    def crop(self) -> Crop:
        """The aligned face, with where it lies in the photo."""
        return self._face.crop

    def picture(self) -> np.ndarray:
        """The face before its edits as the generator draws it, [R, R, 3] uint8."""
        return image_u8(self.drawn[3])

    def to_photo(self, points_crop: np.ndarray) -> np.ndarray:
        """Points [..., 2] of the crop in photo pixels."""
        return self.crop.alignment.to_photo(points_crop.reshape(-1, 2)).reshape(points_crop.shape)

    @property
    def photo_px_per_crop_px(self) -> float:
        """Length of a crop pixel in photo pixels."""
        return self.crop.alignment.photo_px_per_crop_px

    def row(self, told: Sequence[Told]) -> list[EditStep]:
        """What edits ask of this face; UsageError for those that it cannot have."""
        return [self._stage.again(one) for one in told]

    def told_points(self, pairs: Sequence[Sequence[float]]) -> Told:
        """An edit by points x, y, x2, y2 in photo pixels, as it is told."""
        return self.told(replace(EditConfig(), points=[list(pair) for pair in pairs]))

    def told(self, config: EditConfig) -> Told:
        """The edit that settings ask for, as it is told; its points are in photo pixels."""
        return told_of(config, range(len(config.points)), self.crop.alignment)

    def edit(
        self,
        before: Sequence[EditStep],
        told: Told,
        console: EditConsole,
        on_made: Callable[[], None] = lambda: None,
    ) -> tuple[Told, Stored[Dragged]] | None:
        """One more edit behind those of before: what is told of it in the end, and its output, which is stored.

        on_made is called when the edit is made and only its storing, with the video, is left. One that is ended by hand
        is told with the steps that it had; None when it had none.
        """
        step, began = self._stage.again(told), time.monotonic()
        key, store = self._stage.key([*before, step]), self._engine.store
        found = self._engine.find(EDIT, key, 0)
        if found is not None:
            return told, found
        self._engine.console = console
        dragged = self._stage.drag([*before, step], "edit")
        # An edit that was ended by hand may call itself arrived: it was stopped where that was seen.
        if console.ended_by_hand or dragged.edited.stop_reason == "stopped":
            if console.edit_steps == 0:
                return None
            told = {**told, "stop_after": console.edit_steps}
            step = self._stage.again(told)
            dragged = replace(dragged, told=(*dragged.told[:-1], told))
            key = self._stage.key([*before, step])
        on_made()
        with run_lock(store.root):
            inputs, seconds = self._stage.inputs([*before, step]), time.monotonic() - began
            self._engine.put(EDIT, key, inputs, dragged, seconds, False)
        stored = self._engine.find(EDIT, key, 0)
        assert stored is not None, "it was written a moment ago"
        return told, stored

    def stored(self, key: str) -> Stored[Dragged] | None:
        """The output of an edit that was made before."""
        return self._engine.find(EDIT, key, 0)

    def edited_picture(self, key: str) -> Path:
        """The file of the generator's picture after an edit."""
        return self._engine.store.folder(EDIT.name, key) / "edited.png"

    def patch(self, dragged: Dragged) -> Patch | None:
        """What the edits change of the photo, at its own size where that is not too large."""
        if self.generated:
            return self._whole(dragged.edited.image)
        return self._patch(self._sharp, dragged)

    def small_picture(self, patch: Patch | None) -> np.ndarray | None:
        """The face in the photo with a patch over it, [h, w, 3] uint8; None for a generated picture."""
        if self.photo is None:
            return None
        corners = self._face.crop.alignment.quad
        (x0, y0), (x1, y1) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
        height, width = self.photo.shape_hw
        box = max(0, int(x0)), max(0, int(y0)), min(width, int(x1)), min(height, int(y1))
        return region_view(self.photo, box, THUMB_PX / max(box[2] - box[0], box[3] - box[1]), patch)

    def live_patch(self, image: Tensor, row: Sequence[EditStep]) -> Patch | None:
        """The same of a picture [1, 3, R, R] on the way, quickly and smaller."""
        if self.generated:
            return self._whole(image)
        box, landmarks = self._first_look
        guides, openings = quick_matches(box, landmarks, image_u8(image))
        mask = mask_on_part(greatest_mask(row), self._small)
        before = pixels_of(self.drawn[3])
        change = Change(self._small.alignment, before, pixels_of(image), mask, guides, openings, hasty=True)
        return patch_of(self._small, change, blend_settings(self.config.blend, [step.told for step in row]))

    def _patch(self, part: Part, dragged: Dragged) -> Patch | None:
        guides, openings = matches_of(dragged)
        before, after = pixels_of(dragged.start), pixels_of(dragged.edited.image)
        change = Change(part.alignment, before, after, mask_on_part(dragged.mask, part), guides, openings)
        return patch_of(part, change, blend_settings(self.config.blend, dragged.told))

    @cached_property
    def _first_look(self) -> tuple[tuple[float, float, float, float] | None, np.ndarray]:
        """Box and landmarks [68, 2] of the face before its edits, in crop pixels; no box where none is found."""
        picture = image_u8(self.drawn[3])
        try:
            box = faces_in_crop(picture)[0].box
            return box, steady_landmarks(picture, [box])
        except (NoFaceError, ModelError):
            return None, np.zeros((68, 2))

    def _whole(self, image: Tensor) -> Patch:
        rgb = image_u8(image)
        side = float(len(rgb))
        return Patch(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]), (-0.5, -0.5, side, side), True)

    @cached_property
    def _sharp(self) -> Part:
        assert self.photo is not None
        return part_of(self.photo, self.crop.alignment)

    @cached_property
    def _small(self) -> Part:
        assert self.photo is not None
        return part_of(self.photo, self.crop.alignment, crop_px=LIVE_SIDE_PX)
