"""Retouching a photo in a notebook: it is opened, its edits are made one after another, looked at, undone and saved.

What is made here is what the command line makes of the same photo with the same settings and edits, to the bit.
Pictures show themselves in Jupyter, VS Code and Colab; nothing of theirs needs to be installed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from data.errors import NoFaceError, UsageError
from data.photo import Photo, read_photo
from editing.drag import DragSettings, DragStep
from editing.session import DragSession
from pipeline.artifacts import stage_key
from pipeline.counting import landmarks_of, mask_on_crop
from pipeline.displaying import LivePicture, Picture, picture
from pipeline.edit_config import EditConfig
from pipeline.edit_console import EditConsole
from pipeline.edits import EditStep, Told, plain_edit
from pipeline.faces import assign_pairs
from pipeline.finishing import finish, finished_photo
from pipeline.folders import sample_photo
from pipeline.models import Models
from pipeline.outputs import Dragged
from pipeline.painted import travelling_mask
from pipeline.photo_input import MaskLike, mask_of, number_of, pairs_of
from pipeline.pictures import side_by_side
from pipeline.pointing import Part, mark_drags, mark_landmarks, mark_ruler, sized
from pipeline.run import run
from pipeline.schema import JobInfo, RunConfig, compose
from pipeline.sitting import Sitting
from pipeline.stages import settings_of
from pipeline.view import Patch, region_view

__all__ = ["LivePicture", "MadeEdit", "Picture", "Retouch", "open_photo", "picture", "sample_photo"]

SHOWN_PX = 1024
MOST_PATCHES = 4
"""Of a photo's edits, in memory; the others are blended again when they are looked at."""
MOST_SHARE = 0.6
"""Of the time of a live drag, for drawing what it looks like."""
MADE_HERE = ("points", "preset", "like", "direction", "strength", "mask", "stop_after", "replay", "undo")
"""Settings of an edit that are arguments here."""
PREPARING = ("seed", "device", "speed", "generator", "align", "invert", "tune", "perceptual")
"""Settings that decide how a face is prepared."""


@dataclass(frozen=True, eq=False, slots=True)
class MadeEdit:
    """One edit that was made: what is told of it (as in a run's edits.json), the key of the output of the row up to it,
    how it ended, and its steps."""

    told: Told
    key: str
    stop_reason: str
    steps: int

    def __repr__(self) -> str:
        kind = self.told.get("preset") or self.told.get("direction")
        name = f"drag of {len(self.told.get('points', []))} points"
        if kind is not None:
            name = f"{kind} {self.told.get('strength', 1.0):g}"
        return f"<{name}: {self.stop_reason} after {self.steps} steps>"


def open_photo(path: Path | str, *overrides: str) -> Retouch:
    """Align, invert and tune the face of a photo, or take what an earlier call or the command line has of it.

    overrides: settings as on the command line ("invert.steps=100", "+experiment=quick", "align.face=1",
    "generator.path=FILE"); those of edits and of the blend hold for all edits made here. The face is the largest unless
    `align.face` says otherwise. Raises PhotodragError, one sentence, for photos that cannot be read or show no face,
    for settings that are none, and for models that are not there.
    """
    config = _settings(path, overrides)
    photo, models, console = read_photo(path), Models(), EditConsole(config.progress)
    job = JobInfo(f"notebook-{_digits(config)}", 0, tuple(overrides))
    fitted = replace(
        config,
        stages=["align", "invert", "tune"],
        save=None,
        measure=replace(config.measure, metrics=False, editability=[]),
    )
    outcome = run(fitted, job, models, console)
    return Retouch(Sitting(replace(config, resume=True), outcome.run_dir, photo, models), config, photo, models)


def _settings(path: Path | str, overrides: Sequence[str]) -> RunConfig:
    config = compose(list(overrides))
    plain = EditConfig()
    asked = [f"edit.{name}" for name in MADE_HERE if getattr(config.edit, name) != getattr(plain, name)]
    taken = [name for name in ("photo", "from_run") if getattr(config, name) is not None]
    if taken or asked:
        raise UsageError(
            f"{[*taken, *asked][0]} is set: open_photo takes the photo as its path, and edits are made behind it by "
            "drag(points), preset(name) and direction(name)."
        )
    if config.align.face == "all":
        raise UsageError("align.face is all: one face is retouched at a time, so give its index (0 is the largest).")
    return replace(config, photo=str(path))


def _digits(config: RunConfig) -> str:
    """A short name for settings that decide what is prepared, so that each has a manifest of its own."""
    settings = asdict(config)
    return stage_key({name: settings[name] for name in PREPARING})[:8]


class Retouch:
    """A photo whose face is prepared, and the edits made on it, one behind another, with undo and redo.

    Coordinates are (x, y) in pixels of the upright photo. Every edit is stored in the run folder, so that the same one
    is there at once another time. At the end of a cell it shows the photo as it is now.
    """

    def __init__(self, sitting: Sitting, config: RunConfig, photo: Photo, models: Models) -> None:
        """sitting: the prepared face; config: the settings of edits and of the blend."""
        self._sitting, self._config, self._photo, self._models = sitting, config, photo, models
        self._made: list[MadeEdit] = []
        self._at = 0
        self._patches: dict[str, Patch | None] = {}
        self._session: tuple[str, DragSession] | None = None

    # Edits

    @property
    def edits(self) -> tuple[MadeEdit, ...]:
        """The edits that count, in their order."""
        return tuple(self._made[: self._at])

    def drag(self, points: ArrayLike, mask: MaskLike | None = None) -> Picture:
        """Drag points, [x, y, x2, y2] each, to where they shall be: the face before and after.

        mask: where the photo may change; without one, round the points (`edit.auto_mask`). Points count to a thousandth
        of a pixel. UsageError for points outside the face's crop, and for masks of another size or black everywhere.
        """
        return self._make(self._told_points(points, mask))

    def preset(self, name: str, strength: float = 1.0, mask: MaskLike | None = None) -> Picture:
        """A change that the landmarks describe ("smile", "open_mouth", "turn_left" ...): the face before and after.

        strength of -3 to 3, negative the other way. UsageError for a name that is none, NoFaceError without landmarks.
        """
        return self._make(self._told(mask, preset=name, strength=number_of(strength, "strength")))

    def direction(self, name: str, strength: float, mask: MaskLike | None = None) -> Picture:
        """Along a direction of the generator ("pca:6", "sefa:0") by so many standard deviations, -3 to 3: the face
        before and after. UsageError for a direction that the generator has not."""
        return self._make(self._told(mask, direction=name, strength=number_of(strength, "strength")))

    def live(
        self,
        points: ArrayLike | None = None,
        mask: MaskLike | None = None,
        *,
        preset: str | None = None,
        strength: float = 1.0,
        every_s: float = 0.2,
    ) -> MadeEdit:
        """A drag of points, or a preset, with one picture in the notebook that changes while it runs; what was made.

        The picture is drawn at most every `every_s` seconds, and never takes more time than the drag itself. Outside a
        notebook one line is printed at the end. UsageError unless either points or a preset are given.
        """
        if (points is None) == (preset is None):
            raise UsageError("live needs either points, as in live([[310, 220, 330, 215]]), or preset='smile'.")
        if points is not None:
            told = self._told_points(points, mask)
        else:
            told = self._told(mask, preset=preset, strength=number_of(strength, "strength"))
        shown = LivePicture()
        row = [*self._row(), *self._sitting.row([told])]
        draw = _Watch(shown, lambda step: self._live_picture(step, row), every_s).see if shown.visible else None
        self._add(told, EditConsole(self._config.progress and not shown.visible, on_drag=draw))
        shown.update(self.before_after(), f"{self.edits[-1]!r}")
        return self.edits[-1]

    def undo(self) -> Picture:
        """Take back the last edit: the face before and after. UsageError when there is none."""
        if not self._at:
            raise UsageError("There is no edit to undo.")
        self._at -= 1
        return self.before_after()

    def redo(self) -> Picture:
        """Make the edit again that was undone last: the face before and after. UsageError when there is none."""
        if self._at == len(self._made):
            raise UsageError("There is no undone edit to redo.")
        self._at += 1
        return self.before_after()

    # Steps of one's own

    @property
    def session(self) -> DragSession:
        """For single steps: a session of the prepared generator, the present latent and the noise, with the settings of
        edits here; the same one until an edit is made or undone. What it makes is no edit of the photo, but `drag` with
        the same points and mask makes the same."""
        key = self._key or ""
        if self._session is None or self._session[0] != key:
            generator, w, noise, _ = self._sitting.drawn
            here, config = self._dragged(), self._sitting.config
            settings = settings_of(DragSettings, config.edit, speed=config.speed)
            start = w if here is None else here.edited.w.to(w)
            self._session = key, DragSession(generator, start, noise, settings)
        return self._session[1]

    def in_crop(
        self, points: ArrayLike, mask: MaskLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Tensor | None]:
        """What `session.start` takes: handles and targets [N, 2] in crop pixels of points x, y, x2, y2 in photo pixels,
        and the mask [1, 1, R, R]. UsageError as of `drag`."""
        asked = self._sitting.row([self._told_points(points, mask)])[0].drag
        alignment = self._sitting.crop.alignment
        crop_mask = None if asked.mask is None else mask_on_crop(asked.mask, alignment).to(self._sitting.drawn[1])
        return alignment.to_crop(asked.handles), alignment.to_crop(asked.targets), crop_mask

    # Pictures

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """The face's 68 landmarks [68, 2] in photo pixels; NoFaceError where none is found."""
        mend = "give points by hand with drag([[x, y, x2, y2]])"
        return np.array(landmarks_of(self._sitting.crop, "landmarks", mend))

    def show(self, max_px: int = SHOWN_PX) -> Picture:
        """The whole photo as it is now, its longer side at most `max_px`."""
        height, width = self._photo.shape_hw
        return Picture(self._region((0, 0, width, height), self._patch(), max_px))

    def before_after(self, max_px: int = SHOWN_PX // 2) -> Picture:
        """The face's surroundings in the photo as it was and as it is now, each at most `max_px` a side."""
        box = self._box()
        return Picture(side_by_side(*(self._region(box, patch, max_px) for patch in (None, self._patch()))))

    def points(self, points: ArrayLike | None = None) -> Picture:
        """The face as it is now, with the numbers of the landmarks that it had at first, the photo's pixels along its
        edges, and the drags that are asked about or else those of the last edit: handles red, targets blue."""
        part = self._drawing_part(self._patch())
        with contextlib.suppress(NoFaceError):
            mark_landmarks(part, self.landmarks)
        if points is not None:
            pairs = pairs_of(points)
            mark_drags(part, pairs[:, :2], pairs[:, 2:])
        elif (dragged := self._dragged()) is not None and len(dragged.targets):
            tracks = self._sitting.to_photo(dragged.edited.tracks.double().numpy())
            mark_drags(part, tracks[0], self._sitting.to_photo(dragged.targets))
        mark_ruler(part)
        return Picture(part.pixels)

    def preview(self, image: Tensor) -> Picture:
        """What the generator drew [1, 3, R, R], such as `session.render()`, in the photo: quickly, and not as sharp as
        the result will be."""
        return Picture(self._region(self._box(), self._sitting.live_patch(image, self._row()), SHOWN_PX // 2))

    def save(self, path: Path | str | None = None) -> Path:
        """Blend the edits into the photo at its own size and save it, with its recipe beside it: where it lies.

        path: a file, a folder (with a slash behind it where it is to be made), "beside" for the photo's own folder, or
        None for what the settings have as `save`, without it the run folder. What another call has saved there stays,
        and this one gets a number, or as `on_exists` says; in the run folder it is replaced. UsageError when
        no edit was made, OutputError when it cannot be written.
        """
        if not self._at:
            raise UsageError("There is no edit to save: make one with drag(points), preset(name) or direction(name).")
        save = self._config.save if path is None else str(path)
        config = replace(self._config, stages=["edit", "blend"], save=save, resume=True)
        told, prepared = [edit.told for edit in self.edits], Path(str(self._sitting.config.from_run))
        outcome = finish(told, config, prepared, prepared, None, self._models, EditConsole(config.progress))
        finished = finished_photo(outcome)
        if finished is None:
            return outcome.results[0]
        return finished[0]

    def _repr_png_(self) -> bytes | None:
        return self.show()._repr_png_()

    def _repr_jpeg_(self) -> bytes | None:
        return self.show()._repr_jpeg_()

    def __repr__(self) -> str:
        name = "photo" if self._photo.path is None else self._photo.path.name
        return f"<{name} with {self._at} edits>"

    # Within

    @property
    def _key(self) -> str | None:
        return self._made[self._at - 1].key if self._at else None

    def _row(self) -> list[EditStep]:
        return self._sitting.row([edit.told for edit in self.edits])

    def _told(self, mask: MaskLike | None, **asked: Any) -> Told:
        """An edit as it is told; UsageError for settings that are none."""
        config = replace(plain_edit(self._config.edit), **_kept(self._config.edit), **asked)
        told = self._sitting.told(config)
        return told if mask is None else {**told, "mask": self._painted(mask)}

    def _told_points(self, points: ArrayLike, mask: MaskLike | None) -> Told:
        pairs = pairs_of(points).tolist()
        assign_pairs(pairs, [self._sitting.crop.alignment])
        return self._told(mask, points=pairs)

    def _painted(self, mask: MaskLike) -> dict[str, str]:
        return travelling_mask(mask_of(mask, self._photo.shape_hw), self._photo.sha256)

    def _make(self, told: Told) -> Picture:
        self._add(told, EditConsole(self._config.progress))
        return self.before_after()

    def _add(self, told: Told, console: EditConsole) -> None:
        """Make an edit behind those that count; undone ones are forgotten."""
        made = self._sitting.edit(self._row(), told, console)
        assert made is not None, "nobody ends an edit here"
        edited = made[1].value.edited
        self._made = [*self.edits, MadeEdit(made[0], made[1].key, edited.stop_reason, edited.steps)]
        self._at += 1

    def _dragged(self) -> Dragged | None:
        """The output of the edits that count; UsageError when its files have gone."""
        if self._key is None:
            return None
        stored = self._sitting.stored(self._key)
        if stored is None:
            raise UsageError("The edits are not there any more: undo them, or open the photo again.")
        return stored.value

    def _patch(self) -> Patch | None:
        """What the edits change of the photo; None where nothing."""
        dragged = None if (self._key or "") in self._patches else self._dragged()
        if dragged is not None and self._key is not None:
            if len(self._patches) == MOST_PATCHES:
                del self._patches[next(iter(self._patches))]
            self._patches[self._key] = self._sitting.patch(dragged)
        return self._patches.get(self._key or "")

    def _box(self) -> tuple[int, int, int, int]:
        return self._sitting.crop.alignment.photo_roi()

    def _region(self, box: tuple[int, int, int, int], patch: Patch | None, max_px: int) -> NDArray[np.uint8]:
        scale = min(1.0, max_px / max(box[2] - box[0], box[3] - box[1]))
        return region_view(self._photo, box, scale, patch)

    def _drawing_part(self, patch: Patch | None) -> Part:
        box = self._box()
        return sized(region_view(self._photo, box, 1.0, patch), box[:2])

    def _live_picture(self, step: DragStep, row: Sequence[EditStep]) -> Picture:
        assert step.draw is not None, "a drag's steps can be drawn"
        part = self._drawing_part(self._sitting.live_patch(step.draw(), row))
        handles = self._sitting.to_photo(step.points.double().numpy())
        targets = row[-1].drag.targets
        mark_drags(part, handles, targets if len(targets) == len(handles) else handles)
        return Picture(part.pixels)


class _Watch:
    """Draws steps of a drag on one picture, as often as there is time for."""

    def __init__(self, shown: LivePicture, draw: Callable[[DragStep], Picture], every_s: float) -> None:
        self._shown, self._draw, self._every_s = shown, draw, every_s
        self._free_at = 0.0

    def see(self, step: DragStep) -> None:
        """A step was made."""
        now = time.monotonic()
        if now < self._free_at:
            return
        self._shown.update(self._draw(step), f"step {step.step}")
        cost = time.monotonic() - now
        self._free_at = now + max(self._every_s, cost / MOST_SHARE)


def _kept(edit: EditConfig) -> dict[str, Any]:
    """What the settings say of how every edit is made, and `plain_edit` leaves out."""
    return {"method": edit.method, "direction_layers": edit.direction_layers}
