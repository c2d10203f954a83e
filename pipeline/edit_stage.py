"""The edit stage of one face: what its edits ask, what decides their output, and how it is had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from editing.points import check_pairs
from inversion.generators.protocol import Generator, NoiseMaps
from inversion.pivotal import apply_delta
from pipeline import stages
from pipeline.edit_config import EditConfig
from pipeline.edits import EditStep, Told, config_of
from pipeline.engine import Engine, Stored, key_of
from pipeline.outputs import EDIT, Dragged
from pipeline.painted import painted_hash, painted_mask
from pipeline.work import FaceWork, Setup, needed, plain_config

OF_DIRECTIONS = ("direction", "direction_layers", "frame_every", "fps")
"""The settings of an edit along a direction, beside its strength and its mask: those of drags do not concern it."""

Drawn = tuple[Generator, Tensor, NoiseMaps | None, Tensor]
"""What draws a face as it is before its edits: generator, latent, noise, and the picture that they give."""


@dataclass(frozen=True, eq=False, slots=True)
class EditStage:
    """The edits of one face in a row. draw: gives what draws the face, when something must be computed."""

    setup: Setup
    engine: Engine
    face: FaceWork
    draw: Callable[[], Drawn]

    def again(self, told: Told) -> EditStep:
        """An edit that is told (`pipeline.edits`) on this face; UsageError for points or directions it cannot have."""
        config = config_of(told, self.setup.config.edit, self.face.crop.alignment)
        return self.step(config, range(len(config.points)), told)

    def step(self, config: EditConfig, pairs: Sequence[int], told: Told) -> EditStep:
        """What one edit asks of the face; UsageError for points or directions that cannot be had.

        A mask painted on another photo is left out, which the console says.
        """
        alignment, console, painted = self.face.crop.alignment, self.engine.console, None
        mask = told.get("mask")
        if mask is not None and mask["photo_sha256"] == self.setup.photo_sha256:
            painted = painted_mask(mask, alignment.photo_shape)
        elif mask is not None:
            console.warn("the mask of an edit was painted on another photo and is left out")
            told = {name: value for name, value in told.items() if name != "mask"}
        asked = stages.make_drag(config, self.face.crop, pairs, console, painted)
        if config.direction is not None:
            stages.check_direction(self.setup.generator.module, config)
        else:
            check_pairs(alignment.to_crop(asked.handles), alignment.to_crop(asked.targets), alignment.size)
        return EditStep(config, asked, told)

    def key(self, steps: Sequence[EditStep]) -> str:
        """Under which the output of a row is stored."""
        return key_of(EDIT, self.inputs(steps))

    def inputs(self, steps: Sequence[EditStep]) -> dict[str, Any]:
        """What decides a row of edits; a row of one, whether asked for or replayed, is known by the same."""
        face, asked = self.face, self.setup.config.edit
        config = steps[-1].config if steps else asked
        told = steps[-1].told if steps else {}
        source_key = needed(face.fitted).key if face.sampled is None else face.sampled.key
        without = {"points", "mask", "strength", "like", "replay", "undo"}
        settings = plain_config(config, without | ({"stop_after"} if config.stop_after == 0 else set()))
        if config.direction is not None:
            settings = {name: settings[name] for name in OF_DIRECTIONS}
        else:
            settings = {name: value for name, value in settings.items() if not name.startswith("direction")}
        return {
            "source": source_key,
            "pairs": [config.points[number] for number in face.pairs] if config is asked else config.points,
            "strength": config.strength if config.by_face or config.direction is not None else None,
            "mask": painted_hash(told["mask"]) if "mask" in told else stages.mask_hash(config.mask),
            "config": settings,
            "before": [step.told for step in steps[:-1]],
            **(self.setup.rounding_of_drags if config.direction is None else {}),
        } | {f"like{i}": stages.mask_hash(step.config.like) for i, step in enumerate(steps) if step.config.like}

    def obtain(self, steps: Sequence[EditStep], title: str, known_key: str | None = None) -> Stored[Dragged]:
        """The stored output of a row, or the one under `known_key`, computed when it is not there."""
        return self.engine.obtain(
            EDIT, self.inputs(steps), lambda _: self.drag(steps, title), face=self.face.number, known_key=known_key
        )

    def drag(self, steps: Sequence[EditStep], title: str) -> Dragged:
        """The row's edits, one after another, on from what is finished of them."""
        setup, config = self.setup, self.setup.config.edit
        network = setup.models.face_network(setup.device) if config.identity_weight else None
        done, count = self._done_before(steps)
        dragged = stages.edit_in_a_row(
            *self.draw(), self.face.crop, steps, self.engine.console, title, network, done, count, setup.config.speed
        )
        if self.face.inverted is None:
            return dragged
        return stages.without_rest(dragged, self.face.inverted.value, self.face.crop.alignment)

    def _done_before(self, steps: Sequence[EditStep]) -> tuple[Stored[Dragged] | None, int]:
        """The longest beginning of the row that is finished already, and how many edits it has."""
        for count in range(len(steps) - 1, 0, -1):
            if self.engine.resume and (found := self.engine.find(EDIT, self.key(steps[:count]), self.face.number)):
                return found, count
        return None, 0


def drawn(setup: Setup, face: FaceWork) -> Drawn:
    """What draws a sampled, inverted or tuned face before its edits."""
    device, base = setup.device, setup.generator.module
    if face.sampled is not None:
        start = face.sampled.value
        return base, start.w.to(device), None, start.image
    inversion = stages.inversion_on(needed(face.inverted).value.inversion, device)
    if face.fitted is None:
        return base, inversion.w, inversion.noise, inversion.image
    tuned = face.fitted.value.tuned
    return apply_delta(base, tuned.delta), inversion.w, inversion.noise, tuned.image
